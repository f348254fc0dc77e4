"""What is to be done next for a ticket and its desk. Pure.

Each step is one thing, stored when it is done: what the desk refuses of a ticket keeps nothing else of it waiting, and
is not done again for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from services.ticketing.domain.ticket import ACTIVE
from services.ticketing.store.desks import Mirror
from shared.wire.events import TicketState, TicketV1

Step = Literal[
    "read", "create", "follow up", "close duplicate", "redact", "move", "describe", "tell", "remark", "read remarks"
]
"""`read` also asks, before the first thing is written, whether the ticket is still the one that it was."""


@dataclass(frozen=True, slots=True)
class DesiredTicket:
    """What the desk is to have of a ticket; title with severity, and the story, as digests."""

    ticket: TicketV1
    fields: str
    story: str
    answers: frozenset[UUID]
    """Shown by the ticket."""
    reopen_within: int | None
    """Seconds for which the desk's ticket is opened again; None: as long as the desk lets anybody."""


@dataclass(frozen=True, slots=True)
class Left:
    """What else waits for a desk, as rows."""

    duplicates: bool
    remarks: bool


def next_step(
    mirror: Mirror, wanted: DesiredTicket, left: Left, now: datetime, *, seen: bool, rewrites: bool
) -> Step | None:
    """Return what comes next; None: nothing for now. `seen`: the ticket was read in this turn."""
    held = mirror.held_until is not None and mirror.held_until > now

    def may(step: Step) -> bool:
        return not held or (bool(mirror.refused) and step not in mirror.refused)

    if mirror.reference is None:
        return "create" if may("create") else None
    if mirror.heard:
        return "read"
    if mirror.gone:
        return None
    for step in _writes(mirror, wanted, left, now, rewrites=rewrites):
        if may(step):
            return step if seen else "read"
    return "read remarks" if mirror.unread and may("read remarks") else None


def _writes(mirror: Mirror, wanted: DesiredTicket, left: Left, now: datetime, *, rewrites: bool) -> list[Step]:
    state = wanted.ticket.state
    moves = not is_alike(mirror.told_state, state) and not is_alike(mirror.state, state)
    active = state in ACTIVE
    if moves and active and mirror.followed_at is None and ended_for_good(mirror, wanted.reopen_within, now):
        return ["follow up"]
    steps: list[Step] = ["close duplicate"] if left.duplicates else []
    if mirror.erased:
        steps.append("redact")
    if moves and (active or mirror.attempts):
        # What is over may take no changes: it is written before it ends, and after it comes back. But what is
        # essential does not wait for what has failed before.
        steps.append("move")
    if mirror.followed_at is None:
        if mirror.fields != wanted.fields:
            steps.append("describe")
        if mirror.story is None or (mirror.story != wanted.story if rewrites else bool(_untold(mirror, wanted))):
            steps.append("tell")
    if left.remarks:
        steps.append("remark")
    if moves and "move" not in steps:
        steps.append("move")
    return steps


def _untold(mirror: Mirror, wanted: DesiredTicket) -> frozenset[UUID]:
    return wanted.answers - set(mirror.answers)


def ended_for_good(mirror: Mirror, reopen_within: int | None, now: datetime) -> bool:
    """Tell whether the desk's ticket is not to be opened again: the desk never would, or the directory says so."""
    if mirror.sealed:
        return True
    if mirror.state is None or mirror.state in ACTIVE or mirror.ended_at is None or reopen_within is None:
        return False
    return (now - mirror.ended_at).total_seconds() >= reopen_within


_SAME = {"acknowledged": "in_progress", "closed": "resolved"}
"""States that many desks cannot tell apart."""


def is_alike(one: TicketState | None, other: TicketState | None) -> bool:
    """Tell whether two states are the same to a desk."""
    return one is not None and other is not None and _SAME.get(one, one) == _SAME.get(other, other)
