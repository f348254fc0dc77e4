"""Desks: small drivers, each for one kind of service desk, that say in a classified way what came of a call.

What they share (due rows, the intent before the call, the steps, the budget, the circuit) is `desk_sync`'s. A further
kind of desk is one file here, one line in `registry.py`, one word in the directory's `Desk.type`, and one fake in
tests/support/desks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol
from uuid import UUID

from services.ticketing.domain.story import Story
from shared.wire.events import Severity, TicketState

MOST = 100
"""Changed tickets that one call returns."""

FailureKind = Literal["temporary", "limited", "unknown", "permanent", "blind"]

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)
"""What a desk writes for a time may be none of ours: at the ends of the calendar neither a zone nor a minute fits."""
_NAME = 200
_WHO = 320
_RESOLUTION = 4_000
"""Characters, as of one that is written here: it goes into every message about the ticket, which Kafka bounds."""


def line(text: str, most: int) -> str:
    """Return the beginning of what a desk said, on one line of characters that can be stored and shown."""
    return "".join(one if one.isprintable() else " " for one in text[:most])


def _prose(text: str) -> str:
    """Return what a desk said as it can be stored."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def _believed(at: datetime) -> datetime:
    """Return a time of a desk, in UTC."""
    return min(max(at, _EARLIEST), _LATEST).astimezone(UTC)


class Failed(Exception):
    """A call that did not do what was asked.

    `temporary` and `limited`: nothing was done, later it may work. `unknown`: it may have been done. `permanent`: it
    will not work until somebody changes something. `blind`: the desk shows nothing that would prove that it shows all.
    """

    def __init__(
        self, kind: FailureKind, detail: str, retry_after: float | None = None, *, refusal: bool = False
    ) -> None:
        self.detail = line(detail, 1_000)
        """What the other side said is in it: on one line, as it can be stored."""
        super().__init__(self.detail)
        self.kind = kind
        self.retry_after = retry_after
        """Seconds that the other side asked to wait."""
        self.refusal = refusal
        """The desk is well and says no to this ticket: the failure is the ticket's, else it is the desk's."""


class Gone(Exception):
    """The desk shows no such ticket: it was deleted, or the account sees nothing."""

    def __init__(self, detail: str) -> None:
        super().__init__(line(detail, 1_000))


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
    """The whole context, in the customer's language, as far as the desk has room for it."""
    opening: Story
    """What a desk may say that mails its first text to whom the ticket is on behalf of."""
    severity: Severity
    state: TicketState
    customer: str
    """Id."""
    root_cause: str | None = None
    resolution: str | None = None
    follows: str | None = None
    """The desk's reference of the ticket that this one follows up, which is closed for good."""
    turn: int = 0
    """How many tickets of the desk were ours before this one."""


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
    sealed: bool = False
    """The desk will never open it again, nor take a word for it."""
    merged_into: str | None = None
    """The reference of the ticket that it became a part of; empty: the desk does not say of which."""

    def __post_init__(self) -> None:
        """Bound what the desk says; what it calls its ticket is left as it is: see `can_be_named`."""
        if self.assignee is not None:
            object.__setattr__(self, "assignee", line(self.assignee, _WHO))
        if self.resolution is not None:
            object.__setattr__(self, "resolution", _prose(self.resolution)[:_RESOLUTION])
        if self.changed_at is not None:
            object.__setattr__(self, "changed_at", _believed(self.changed_at))

    @property
    def can_be_named(self) -> bool:
        """Tell whether its reference and label can be stored; an address it need not have."""
        all_storable = all(len(t) <= 1_000 and t.isprintable() for t in (self.reference, self.label, self.url))
        return all_storable and bool(self.reference and self.label)


NOBODYS = Remote("", "", "", None)
"""In a list, in place of a ticket that nobody can read: the others are read, and it counts."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A comment in the desk."""

    id: str
    author: str
    text: str
    at: datetime
    own: bool | None = None
    """Our account wrote it; None: the desk does not say who did."""

    def __post_init__(self) -> None:
        """Bound what the desk says. The text is not cut: its end may tell that it is ours."""
        object.__setattr__(self, "id", line(self.id, _NAME))
        object.__setattr__(self, "author", line(self.author, _WHO))
        object.__setattr__(self, "text", _prose(self.text))
        object.__setattr__(self, "at", _believed(self.at))


@dataclass(frozen=True, slots=True)
class Remarks:
    """Some of a ticket's comments, the oldest first."""

    items: Sequence[Remark]
    upto: str | None
    """To be given the next time; None: nothing was read yet."""
    more: bool = False
    """There are more, at once."""
    skipped: bool = False
    """There were more than anybody reads: the oldest are left to the desk."""


@dataclass(frozen=True, slots=True)
class News:
    """What a request of the desk tells of one of its tickets."""

    reference: str
    told: DeskReport | None = None
    """How the ticket is now, of a desk that cannot be asked; None: the desk is asked."""


@dataclass(frozen=True, slots=True)
class DeskReport:
    """How a desk says that its ticket is; what it does not say is as it was."""

    at: datetime | None
    """When it was so, by the sender's own clock; None: it does not say."""
    state: TicketState | None = None
    assignee: str | None = None
    resolution: str | None = None
    remarks: Sequence[Remark] = ()

    def __post_init__(self) -> None:
        """Bound what the desk says, as of one that is asked."""
        if self.at is not None:
            object.__setattr__(self, "at", _believed(self.at))
        if self.assignee is not None:
            object.__setattr__(self, "assignee", line(self.assignee, _WHO))
        if self.resolution is not None:
            object.__setattr__(self, "resolution", _prose(self.resolution)[:_RESOLUTION])


class Desk(Protocol):
    """A driver for one desk. Every method raises Failed; those that take a reference also raise Gone."""

    settles: float
    """Seconds until the desk's search shows what was just created."""
    readable: bool
    """Else `read` knows no state: the desk has what it was told last, and tells itself what changes."""
    rewrites: bool
    """The story is one text, which `tell` replaces; else each `tell` is one more internal note."""
    opens_with_story: bool
    """`create` tells the story; else it says only what anybody may read, and `tell` follows."""
    room: int
    """Bytes of HTML that a story may have."""

    async def who_am_i(self) -> str | None:
        """Ask who our account is, as authors are told; None: the desk does not say. Raises Failed if it is nobody.

        It is asked each time: that what is not shown is not there is believed of an account that is well.
        """
        ...

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return the desk's tickets that carry our id, the oldest first; more than one is a duplicate."""
        ...

    async def create(self, draft: Draft) -> Remote:
        """Create a ticket that carries our id."""
        ...

    async def describe(self, reference: str, draft: Draft) -> None:
        """Bring title and severity to the draft's; repeatable."""
        ...

    async def tell(self, reference: str, draft: Draft, story: Story) -> None:
        """Replace the story, or append one internally, with our id at its end; it is sent at least once."""
        ...

    async def move(self, reference: str, draft: Draft, state: TicketState) -> bool:
        """Move a ticket to a state, unless it is there; repeatable. False: the desk has no nearer state."""
        ...

    async def remark(self, reference: str, draft: Draft, text: str) -> None:
        """Append a comment that is internal; it is sent at least once."""
        ...

    async def read(self, reference: str) -> Remote:
        """Return a ticket as it stands; its own reference tells whether it is the one that was asked for."""
        ...

    async def remarks(self, reference: str, after: str | None) -> Remarks:
        """Return comments since an earlier reading ended (`Remarks.upto`); None: from the beginning."""
        ...

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return the tickets with our mark that changed at a moment or since, the longest unchanged first.

        At most MOST of them, after leaving out the first `skip`: a multiple of MOST, those of earlier calls.
        """
        ...

    async def redact(self, reference: str, draft: Draft) -> str:
        """Replace what the desk's ticket says by the draft, from which a person was erased; return what is left."""
        ...

    async def remove(self, reference: str) -> bool:
        """Delete a ticket, of a trial; False: the desk lets nobody, or not our account."""
        ...

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return what a request of the desk tells. Raises BadSignature, ValueError."""
        ...
