"""One desk's loop, in the process that works for it: its driver, its budget of calls, and its place in what changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from services.ticketing.desk_sync.circuit import Circuit
from services.ticketing.desks import Desk
from services.ticketing.desks.guarded import Guarded
from services.ticketing.desks.registry import build
from services.ticketing.domain.change_cursor import ChangeCursor
from services.ticketing.token_bucket import TokenBucket
from shared.database.pool import Database
from shared.directory.model import Desk as DeskSettings
from shared.errors import Transient
from shared.http.client import LONGEST_WAIT, Outbound
from shared.runtime.due import DueLoop
from shared.runtime.progress import STALE_SECONDS
from shared.runtime.quarantine import Quarantine

_CALL = 20.0
"""Seconds that a call to a desk can take: one that is made has ended before somebody else works for the desk."""
_AT_ONCE = 4
_PATIENCE = LONGEST_WAIT + STALE_SECONDS
"""Seconds that a turn can take between two calls: a desk may ask us to wait."""


class DeskLoop:
    """One desk's loop, in the process that works for it."""

    def __init__(
        self,
        name: str,
        settings: DeskSettings,
        database: Database,
        turn: Callable[[DeskLoop, int], Awaitable[int]],
        quarantine: Quarantine,
    ) -> None:
        self.name = name
        self.settings = settings
        self.poll = timedelta(seconds=settings.poll)
        self.poll_at = datetime.min.replace(tzinfo=UTC)
        self.budget = TokenBucket(settings.calls_per_minute)
        self.circuit = Circuit(database, name, self.budget)
        self.lost_at = 0.0
        """When somebody else may work for the desk unless we say before that we do, by the loop's own clock."""
        self.recheck_at = self.poll_at
        self.revision: int | None = None
        """Of the directory, for which what failed was tried again."""
        self.cursor: ChangeCursor | None = None
        self.due = DueLoop(
            "ticketing", f"desk {name}", partial(turn, self), quarantine, at_once=_AT_ONCE, within=_PATIENCE
        )
        self.task: asyncio.Task[None] | None = None
        self._desk: Desk | None = None

    def driver(self, outbound: Outbound) -> Desk:
        """Return the desk's driver. Raises Failed while a secret is missing."""
        if self._desk is None:
            driver = build(self.name, self.settings, outbound, self._may_call, os.environ)
            self._desk = Guarded(self.name, driver)
        return self._desk

    async def _may_call(self) -> None:
        """Wait until one more call may be made. Raises Transient if it could end after we work for the desk.

        A process that was stopped for a while must not go on and create what the next one has created meanwhile.
        """
        await self.budget()
        self.due.progress.made()
        if asyncio.get_running_loop().time() + _CALL > self.lost_at:
            raise Transient("the desk is not ours for long enough to call it")
