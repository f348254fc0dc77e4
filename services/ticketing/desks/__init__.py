"""Desks: small drivers, each for one kind of service desk, that say in a classified way what came of a call.

What they share (due rows, the intent before the call, the budget, the circuit) is `synchronizer.py`'s. A further kind
of desk is one file here, one line in `registry.py`, one word in the directory's `Desk.type`, and one fake in
tests/support/desks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

from services.ticketing.domain.story import Story
from shared.events import Severity, TicketState

MOST = 100
"""Changed tickets that one call returns."""

FailureKind = Literal["temporary", "limited", "unknown", "permanent"]


class Failed(Exception):
    """A call that did not do what was asked.

    `temporary` and `limited`: nothing was done, later it may work. `unknown`: it may have been done. `permanent`: it
    will not work until somebody changes something.
    """

    def __init__(self, kind: FailureKind, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after
        """Seconds that the other side asked to wait."""


class Gone(Exception):
    """The desk has no such ticket (any more)."""


class BadSignature(Exception):
    """A request that the desk did not sign, or signed too long ago."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What the desk's ticket is to say."""

    ticket: UUID
    """Our id; the desk's search must find its ticket by this."""
    number: int
    title: str
    story: Story
    """The whole context, in the customer's language."""
    severity: Severity
    state: TicketState
    customer: str
    """Id."""
    root_cause: str | None = None
    resolution: str | None = None


@dataclass(frozen=True, slots=True)
class Remote:
    """A ticket as the desk has it."""

    reference: str
    """What the desk's API calls it."""
    label: str
    """What its users call it."""
    url: str
    """Where a person opens it."""
    state: TicketState | None
    """As ours, None where the desk's own state says nothing to us."""
    assignee: str | None = None
    """E-mail or login of who works on it."""
    resolution: str | None = None
    """What was written when it was resolved, where the desk asks for that."""
    changed_at: datetime | None = None
    """When it changed last, by the desk's clock; None: it does not say."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A comment in the desk."""

    id: str
    author: str
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class News:
    """What a request of the desk tells of one of its tickets."""

    reference: str
    told: Told | None = None
    """How the ticket is now, of a desk that cannot be asked; None: the desk is asked."""


@dataclass(frozen=True, slots=True)
class Told:
    """How a desk says that its ticket is; what it does not say is as it was."""

    at: datetime
    """When it was so."""
    state: TicketState | None = None
    assignee: str | None = None
    resolution: str | None = None
    remarks: Sequence[Remark] = ()


class Desk(Protocol):
    """A driver for one desk. Every method raises Failed; those that take a reference also raise Gone."""

    settles: float
    """Seconds until the desk's search shows what was just created."""
    readable: bool
    """Else `read` knows no state: the desk has what it was told last, and tells itself what changes."""

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return the desk's tickets that carry our id, the oldest first; more than one is a duplicate."""
        ...

    async def create(self, draft: Draft) -> Remote:
        """Create a ticket that carries our id."""
        ...

    async def update(self, reference: str, draft: Draft, state: TicketState | None, remark: str | None) -> None:
        """Bring severity, title and story to the draft's; move to `state` unless None; append a remark unless None.

        Setting is repeatable; a remark is sent at least once.
        """
        ...

    async def read(self, reference: str) -> Remote:
        """Return a ticket as it stands."""
        ...

    async def remarks(self, reference: str) -> Sequence[Remark]:
        """Return its comments, the oldest first, as far as one call returns them."""
        ...

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return the tickets with our mark that changed at a moment or since, the longest unchanged first.

        At most MOST of them, after leaving out the first `skip`: a multiple of MOST, those of earlier calls.
        """
        ...

    async def redact(self, reference: str, draft: Draft) -> str:
        """Replace what the desk's ticket says by the draft, from which a person was erased; return what is left."""
        ...

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return what a request of the desk tells. Raises BadSignature, ValueError."""
        ...
