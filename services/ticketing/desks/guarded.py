"""A driver of which nothing comes out but what drivers raise.

As in channels (decision 0008): what one desk's answer brings out in a driver fails that call, and after several the
desk is left alone for a while. It ends neither the process nor the work for other desks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from services.ticketing.desks import Desk, Draft, Failed, FailureKind, Gone, News, Remarks, Remote
from services.ticketing.domain.story import Story
from shared.errors import Transient
from shared.runtime.logs import Log
from shared.wire.events import TicketState

log = Log("ticketing")

T = TypeVar("T")


class Guarded:
    """A desk, by its driver."""

    def __init__(self, name: str, driver: Desk) -> None:
        self._name = name
        self._driver = driver
        self.settles = driver.settles
        self.readable = driver.readable
        self.rewrites = driver.rewrites
        self.opens_with_story = driver.opens_with_story
        self.room = driver.room

    async def who_am_i(self) -> str | None:
        """Ask the driver."""
        return await self._answer(self._driver.who_am_i())

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Ask the driver."""
        return await self._answer(self._driver.find(ticket))

    async def create(self, draft: Draft) -> Remote:
        """Ask the driver; the desk may have created it when the driver fails at the answer."""
        return await self._answer(self._driver.create(draft), "unknown")

    async def describe(self, reference: str, draft: Draft) -> None:
        """Ask the driver."""
        await self._answer(self._driver.describe(reference, draft))

    async def tell(self, reference: str, draft: Draft, story: Story) -> None:
        """Ask the driver."""
        await self._answer(self._driver.tell(reference, draft, story))

    async def move(self, reference: str, draft: Draft, state: TicketState) -> bool:
        """Ask the driver."""
        return await self._answer(self._driver.move(reference, draft, state))

    async def remark(self, reference: str, draft: Draft, text: str) -> None:
        """Ask the driver."""
        await self._answer(self._driver.remark(reference, draft, text))

    async def read(self, reference: str) -> Remote:
        """Ask the driver."""
        return await self._answer(self._driver.read(reference))

    async def remarks(self, reference: str, after: str | None) -> Remarks:
        """Ask the driver."""
        return await self._answer(self._driver.remarks(reference, after))

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Ask the driver."""
        return await self._answer(self._driver.changed(since, skip))

    async def redact(self, reference: str, draft: Draft) -> str:
        """Ask the driver."""
        return await self._answer(self._driver.redact(reference, draft))

    async def remove(self, reference: str) -> bool:
        """Ask the driver."""
        return await self._answer(self._driver.remove(reference))

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Ask the driver; what a request brings out is that request's."""
        return self._driver.heard(headers, body, secret, now)

    async def _answer(self, call: Awaitable[T], kind: FailureKind = "permanent") -> T:
        try:
            return await call
        except (Failed, Gone, Transient):
            raise
        except Exception as error:  # noqa: BLE001 (told as loudly as a crash, and the desk's own)
            log.error("desk failed", failure=error, desk=self._name)
            raise Failed(kind, f"our fault: {type(error).__name__}") from None
