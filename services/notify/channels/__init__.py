"""Channels: small drivers that call one sort of contact and say in a classified result what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from services.notify.domain import Page
from shared.directory.model import Contact, Directory, Person

ResultKind = Literal["delivered", "temporary", "permanent", "unknown"]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one call. `unknown`: it may have arrived; it is sent again with the same key."""

    kind: ResultKind
    detail: str
    receipt: str | None = None
    """The other side's own name for the message."""
    retry_after: float | None = None
    """Seconds that the other side asked to wait."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a person is told."""

    key: str
    """The idempotency key: the same on every attempt at one contact in one turn."""
    page: Page
    person: Person
    contact: Contact
    directory: Directory
    level: int
    acknowledge_url: str
    at: datetime


class Channel(Protocol):
    """A driver."""

    async def send(self, notice: Notice) -> Result:
        """Call the contact. Never raises for what the other side does."""
        ...
