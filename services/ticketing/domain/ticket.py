"""What becomes of a ticket: by an alert, by an acknowledged page, by a person. Pure: prior ticket in, next ticket out.

A function that returns None leaves the ticket as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec

from shared.directory.model import severity_rank
from shared.wire.events import (
    AlertV1,
    EvidenceV1,
    PageV1,
    PreviousTicketV1,
    Severity,
    TicketContextV1,
    TicketState,
    TicketV1,
)
from shared.wire.ids import uuid7_at

EVIDENCE = 20
"""Answers that a ticket shows at most, newest first."""

PREVIOUS = 5
"""Earlier tickets of the problem that a ticket tells of at most."""

_TAKEN: frozenset[TicketState] = frozenset({"acknowledged", "in_progress"})
_HANDLED: frozenset[TicketState] = frozenset({"acknowledged", "in_progress", "waiting"})
"""Somebody took it, and it is not over."""
ACTIVE: frozenset[TicketState] = frozenset({"open", "acknowledged", "in_progress", "waiting"})

MOVES: Mapping[TicketState, tuple[TicketState, ...]] = {
    "open": ("acknowledged", "in_progress", "waiting", "resolved", "cancelled"),
    "acknowledged": ("in_progress", "waiting", "resolved", "cancelled"),
    "in_progress": ("acknowledged", "waiting", "resolved", "cancelled"),
    "waiting": ("acknowledged", "in_progress", "resolved", "cancelled"),
    "resolved": ("closed", "open"),
    "closed": (),
    "cancelled": (),
}
"""What a person may do; from closed only an alert reopens."""

EventType = Literal["ticket.opened", "ticket.updated", "ticket.resolved", "ticket.closed"]
SYSTEM = "fiilis"
LineKind = Literal[
    "opened",
    "reopened",
    "evidence added",
    "alert cleared",
    "clock",
    "sla breached",
    "comment",
    "state",
    "assignee",
    "severity",
    "root cause",
    "resolution",
    "page sent",
    "page acknowledged",
    "page unacknowledged",
    "page escalated",
    "page exhausted",
    "page resolved",
    "desk ticket",
    "desk comment",
    "duplicate",
    "merged in the desk",
    "moved in the desk",
    "deleted in the desk",
    "seen in the desk again",
    "followed up in the desk",
    "erased in the desk",
    "respondent erased",
    "answer erased",
]
"""What a line of the timeline tells of. Clients and figures go by it: one that is worded anew is another."""
_ADDED: LineKind = "evidence added"
_PAGE_LINES: dict[str, LineKind] = {
    "page.sent": "page sent",
    "page.acknowledged": "page acknowledged",
    "page.unacknowledged": "page unacknowledged",
    "page.escalated": "page escalated",
    "page.exhausted": "page exhausted",
    "page.resolved": "page resolved",
}
_FIELDS: dict[str, LineKind] = {
    "state": "state",
    "assignee": "assignee",
    "severity": "severity",
    "root_cause": "root cause",
    "resolution": "resolution",
}
"""Fields whose change is a line."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the timeline; never changed."""

    ticket: UUID
    at: datetime
    actor: str
    """A person, a key, or `fiilis`."""
    what: LineKind
    detail: dict[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The next ticket, the event that tells it (None: nothing that others see changed) and the lines it left."""

    ticket: TicketV1
    event: EventType | None
    entries: tuple[Entry, ...]
    answers: tuple[EvidenceV1, ...] = ()
    """That led here and that the ticket has no place for."""

    @property
    def only_adds_evidence(self) -> bool:
        """Whether others need not hear of it at once."""
        return self.event == "ticket.updated" and all(line.what == _ADDED for line in self.entries)


class NotAllowed(Exception):
    """A move that the states do not allow."""

    def __init__(self, state: TicketState, wanted: TicketState) -> None:
        super().__init__(f"{state} to {wanted}")
        self.state = state
        self.wanted = wanted
        self.allowed = MOVES[state]


class Missing(Exception):
    """Something that is needed to resolve, or is not one of the allowed values: field and what is wrong."""

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__(str(errors))
        self.errors = tuple(errors)


def entry(ticket: UUID, at: datetime, actor: str, what: LineKind, **detail: str | int | float | None) -> Entry:
    """Return a new line of the timeline."""
    return Entry(ticket=ticket, at=at, actor=actor, what=what, detail=detail)


@dataclass(frozen=True, slots=True)
class Opening:
    """What is needed besides the alert when a ticket is new."""

    number: int
    architect: str | None
    previous: Sequence[TicketV1] = ()
    """Earlier tickets of the problem, newest first."""
    name: str | None = None
    """What people call the customer."""


def opens_nothing(alert: AlertV1) -> bool:
    """Tell whether a message is a record only: good news, or the end of something that never had a ticket."""
    return alert.severity == "info" or alert.state == "cleared"


def open_ticket(alert: AlertV1, opening: Opening, now: datetime) -> Outcome:
    """Open a ticket for a problem that has none."""
    id_ = uuid7_at(int(now.timestamp() * 1000))
    ticket = TicketV1(
        id=id_,
        number=opening.number,
        customer=alert.customer,
        touchpoint=alert.touchpoint,
        title=f"{opening.name or alert.customer}: {alert.summary}"[:200],
        severity=alert.severity,
        state="open",
        assignee=opening.architect,
        alert=alert.id,
        dedup_key=alert.dedup_key,
        opened_at=now,
        version=1,
        summary=alert.summary,
        evidence=merged_evidence((), alert.evidence, _opener(alert)),
        answer=_opener(alert),
        context=_context(alert, _told_of(opening.previous)),
        caused_at=alert.caused_at,
    )
    line = entry(id_, now, SYSTEM, "opened", alert=str(alert.id), rule=alert.rule, severity=alert.severity)
    return Outcome(ticket, "ticket.opened", (line,))


def _opener(alert: AlertV1) -> UUID | None:
    """Return the answer that an alert is about, or the newest that led to it."""
    return alert.evidence[0].id if alert.evidence else None


def _told_of(previous: Sequence[TicketV1]) -> list[PreviousTicketV1]:
    return [
        PreviousTicketV1(
            number=ticket.number,
            opened_at=ticket.opened_at,
            state=ticket.state,
            root_cause=ticket.root_cause,
            resolution=ticket.resolution,
        )
        for ticket in previous
    ]


def _context(
    alert: AlertV1, previous: Sequence[PreviousTicketV1], before: TicketContextV1 | None = None
) -> TicketContextV1:
    """`before`: what was known of the respondent, where the newest answers do not say."""
    channel = before.respondent_channel if before is not None else None
    language = before.language if before is not None else None
    return TicketContextV1(
        nps=alert.scores.nps,
        mood=alert.scores.mood,
        goal=alert.scores.nps_goal if alert.kind.startswith("nps") else alert.scores.mood_goal,
        previous_tickets=[str(ticket.number) for ticket in previous],
        respondent_channel=next((answer.channel for answer in alert.evidence), channel),
        language=next((answer.language for answer in alert.evidence if answer.language is not None), language),
        previous=list(previous),
        contact=next((answer.contact for answer in alert.evidence if answer.contact is not None), None),
    )


def merge(ticket: TicketV1, alert: AlertV1, *, first: bool, now: datetime) -> Outcome | None:
    """Take an alert's message into the ticket of its problem. `first`: no message of this alert was taken in before."""
    if alert.state == "cleared":
        line = entry(ticket.id, now, SYSTEM, "alert cleared", alert=str(alert.id), summary=alert.summary)
        return Outcome(ticket, None, (line,))
    if ticket.state not in ACTIVE:
        reopens = first and not opens_nothing(alert)
        return reopen(ticket, alert, now) if reopens else _with_evidence(ticket, alert, ticket.severity, now)
    severity = max(ticket.severity, alert.severity, key=severity_rank)
    outcome = _with_evidence(ticket, alert, severity, now)
    return None if outcome is None else _asked_again(ticket, outcome, now)


def _asked_again(before: TicketV1, outcome: Outcome, now: datetime) -> Outcome:
    """Open a ticket that rose above the severity at which somebody took it: that was another problem."""
    after = outcome.ticket
    # A ticket of the version before does not say at which severity it was taken.
    taken_at = before.acknowledged_severity or before.severity
    if after.state not in _HANDLED or severity_rank(after.severity) <= severity_rank(taken_at):
        return outcome
    opened = msgspec.structs.replace(after, state="open", acknowledged_at=None, acknowledged_severity=taken_at)
    line = entry(after.id, now, SYSTEM, "state", before=after.state, after="open", why="rose since it was taken")
    return Outcome(opened, outcome.event, (*outcome.entries, line))


def _with_evidence(ticket: TicketV1, alert: AlertV1, severity: Severity, now: datetime) -> Outcome | None:
    evidence = merged_evidence(ticket.evidence, alert.evidence, ticket.answer)
    shown = {answer.id for answer in evidence}
    left = tuple(answer for answer in alert.evidence if answer.id not in shown)
    if evidence == ticket.evidence and severity == ticket.severity:
        return Outcome(ticket, None, (), left) if left else None
    lines = [entry(ticket.id, now, SYSTEM, _ADDED, alert=str(alert.id), summary=alert.summary)]
    if severity != ticket.severity:
        lines.append(entry(ticket.id, now, SYSTEM, "severity", before=ticket.severity, after=severity))
    changed = msgspec.structs.replace(
        ticket,
        version=ticket.version + 1,
        severity=severity,
        evidence=evidence,
        summary=alert.summary,
        context=_context(alert, ticket.context.previous, ticket.context),
    )
    return Outcome(changed, "ticket.updated", tuple(lines), left)


def merged_evidence(before: Sequence[EvidenceV1], more: Sequence[EvidenceV1], opener: UUID | None) -> list[EvidenceV1]:
    """Return both without repeats, newest first, at most 20.

    The answer that opened the ticket keeps its place, and verified ones come before those that anybody can give.
    """
    by_id = {answer.id: answer for answer in (*before, *more)}
    newest = sorted(by_id.values(), key=lambda a: (a.occurred_at, a.id), reverse=True)
    if len(newest) <= EVIDENCE:
        return newest
    # Sorting keeps the order of equals: within each rank the newest come first.
    ranked = sorted(newest, key=lambda a: (a.id != opener, a.trust != "verified"))
    kept = {answer.id for answer in ranked[:EVIDENCE]}
    return [answer for answer in newest if answer.id in kept]


def together(first: Outcome, then: Outcome) -> Outcome:
    """Return two changes of a ticket that come in one batch as one: one version, and a flood is one line."""
    version = first.ticket.version if first.event is not None else then.ticket.version
    event = first.event if then.event in (None, "ticket.updated") and first.event is not None else then.event
    before = first.entries
    after = then.entries
    if before and after and before[-1].what == after[0].what == _ADDED:
        count = before[-1].detail.get("alerts", 1)
        detail = {**after[0].detail, "alerts": (count if isinstance(count, int) else 1) + 1}
        before, after = before[:-1], (msgspec.structs.replace(after[0], detail=detail), *after[1:])
    shown = {answer.id for answer in then.ticket.evidence}
    left = {a.id: a for a in (*first.answers, *first.ticket.evidence, *then.answers) if a.id not in shown}
    ticket = msgspec.structs.replace(then.ticket, version=version)
    return Outcome(ticket, event, (*before, *after), tuple(left.values()))


def reopen(ticket: TicketV1, alert: AlertV1, now: datetime) -> Outcome:
    """Open a resolved ticket again: the new alert's severity, to be answered afresh."""
    changed = msgspec.structs.replace(
        _reopened(ticket, now),
        severity=alert.severity,
        alert=alert.id,
        summary=alert.summary,
        evidence=merged_evidence(ticket.evidence, alert.evidence, _opener(alert)),
        answer=_opener(alert),
        context=_context(alert, [*_told_of([ticket]), *ticket.context.previous][:PREVIOUS], ticket.context),
        caused_at=alert.caused_at,
    )
    line = entry(ticket.id, now, SYSTEM, "reopened", alert=str(alert.id), rule=alert.rule, severity=alert.severity)
    return Outcome(changed, "ticket.opened", (line,))


def _reopened(ticket: TicketV1, now: datetime) -> TicketV1:
    return msgspec.structs.replace(
        ticket,
        version=ticket.version + 1,
        opening=ticket.opening + 1,
        state="open",
        opened_at=now,
        acknowledged_at=None,
        acknowledged_severity=None,
        resolved_at=None,
        root_cause=None,
        resolution=None,
    )


def may_reopen(ticket: TicketV1, now: datetime, within: timedelta) -> bool:
    """Tell whether an alert of the same problem reopens this ticket instead of opening another."""
    resolved = ticket.state in {"resolved", "closed"} and ticket.resolved_at is not None
    return resolved and ticket.resolved_at is not None and now - ticket.resolved_at <= within


def take_page(ticket: TicketV1, event: str, page: PageV1, now: datetime) -> Outcome:
    """Write down what changes to a page; its acknowledgement acknowledges an open ticket, and moves no state back.

    A page that is taken as forgotten opens its ticket again: nobody has worked on it. One that was acknowledged before
    its ticket rose names who took it, and leaves it open.
    """
    line = entry(
        ticket.id,
        now,
        page.acknowledged_by or SYSTEM,
        _PAGE_LINES[event],
        person=page.person,
        level=page.level,
        round=page.round,
    )
    if event == "page.unacknowledged" and page.opening == ticket.opening and ticket.state in _TAKEN:
        changed = msgspec.structs.replace(ticket, version=ticket.version + 1, state="open", acknowledged_severity=None)
        return Outcome(changed, "ticket.updated", (line,))
    late = ticket.state != "open" or page.opening != ticket.opening
    if event != "page.acknowledged" or late:
        return Outcome(ticket, None, (line,))
    changed = msgspec.structs.replace(
        ticket,
        version=ticket.version + 1,
        state="acknowledged",
        acknowledged_at=page.acknowledged_at or now,
        acknowledged_severity=page.severity,
        assignee=page.acknowledged_by or ticket.assignee,
    )
    return _asked_again(changed, Outcome(changed, "ticket.updated", (line,)), now)


def take_desk(
    ticket: TicketV1,
    desk: str,
    state: TicketState | None,
    *,
    assignee: str | None,
    resolution: str | None,
    now: datetime,
) -> Outcome | None:
    """Take over what changed in the desk: its state (None: unchanged), and who works on it (None: nobody of ours).

    The desk is where people work, so its state wins, but for two things: it never makes an acknowledged ticket
    unacknowledged, and a ticket that is closed here stays closed.
    """
    actor = f"desk:{desk}"
    changed = ticket
    if state in {"resolved", "closed"} and ticket.state in ACTIVE:
        changed = msgspec.structs.replace(
            ticket,
            state="resolved",
            resolved_at=now,
            acknowledged_at=ticket.acknowledged_at or now,
            acknowledged_severity=ticket.severity,
            resolution=resolution or f"Resolved in {desk}",
        )
    elif state == "closed" and ticket.state == "resolved":
        changed = msgspec.structs.replace(ticket, state="closed")
    elif state == "cancelled" and ticket.state in ACTIVE:
        changed = msgspec.structs.replace(ticket, state="cancelled")
    elif state in ACTIVE and ticket.state == "resolved":
        changed = msgspec.structs.replace(_reopened(ticket, now), version=ticket.version)
    elif state in {"acknowledged", "in_progress", "waiting"} and ticket.state in ACTIVE:
        changed = msgspec.structs.replace(
            ticket,
            state=state,
            acknowledged_at=ticket.acknowledged_at or now,
            acknowledged_severity=ticket.acknowledged_severity if state == ticket.state else ticket.severity,
        )
    if assignee is not None and changed.state in ACTIVE:
        changed = msgspec.structs.replace(changed, assignee=assignee)
    if changed == ticket:
        return None
    changed = msgspec.structs.replace(changed, version=ticket.version + 1, worked_at=now)
    return Outcome(changed, _event(ticket, changed), tuple(_lines(ticket, changed, actor, now)))


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """What a person wants to change; None leaves it."""

    state: TicketState | None = None
    assignee: str | None = None
    severity: Severity | None = None
    root_cause: str | None = None
    resolution: str | None = None


def change(ticket: TicketV1, patch: Patch, *, root_causes: Sequence[str], actor: str, now: datetime) -> Outcome | None:
    """Change a ticket as a person wants. Raises NotAllowed or Missing."""
    wanted = patch.state
    if wanted is not None and wanted != ticket.state and wanted not in MOVES[ticket.state]:
        raise NotAllowed(ticket.state, wanted)
    root_cause = patch.root_cause if patch.root_cause is not None else ticket.root_cause
    resolution = patch.resolution if patch.resolution is not None else ticket.resolution
    errors: list[tuple[str, str]] = []
    if patch.root_cause is not None and root_causes and patch.root_cause not in root_causes:
        errors.append(("root_cause", f"must be one of: {', '.join(root_causes)}"))
    if wanted == "resolved" and ticket.state != "resolved":
        if not root_cause:
            errors.append(("root_cause", "is needed to resolve"))
        if not resolution:
            errors.append(("resolution", "is needed to resolve: what was done"))
    if errors:
        raise Missing(errors)
    changed = ticket
    if wanted == "open" and ticket.state == "resolved":
        changed = msgspec.structs.replace(_reopened(ticket, now), version=ticket.version)
        root_cause = resolution = None
    changed = msgspec.structs.replace(
        changed,
        state=wanted or ticket.state,
        assignee=patch.assignee or ticket.assignee,
        severity=patch.severity or ticket.severity,
        root_cause=root_cause,
        resolution=resolution,
    )
    if changed == ticket:
        return None
    if wanted not in {None, "open", "cancelled"}:
        at, severity = changed.acknowledged_at or now, changed.severity
        changed = msgspec.structs.replace(changed, acknowledged_at=at, acknowledged_severity=severity)
    if wanted == "resolved" and ticket.state != "resolved":
        changed = msgspec.structs.replace(changed, resolved_at=now)
    changed = msgspec.structs.replace(changed, version=ticket.version + 1, worked_at=now)
    outcome = Outcome(changed, _event(ticket, changed), tuple(_lines(ticket, changed, actor, now)))
    # Whoever says with it where the ticket stands takes it as it now is.
    return _asked_again(ticket, outcome, now) if wanted is None else outcome


def _event(before: TicketV1, after: TicketV1) -> EventType:
    if after.opening != before.opening:
        return "ticket.opened"
    if after.state != before.state and after.state == "resolved":
        return "ticket.resolved"
    if after.state != before.state and after.state in {"closed", "cancelled"}:
        return "ticket.closed"
    return "ticket.updated"


def _lines(before: TicketV1, after: TicketV1, actor: str, now: datetime) -> list[Entry]:
    return [
        entry(after.id, now, actor, what, before=getattr(before, field), after=getattr(after, field))
        for field, what in _FIELDS.items()
        if getattr(before, field) != getattr(after, field)
    ]


def by_hand(
    *,
    number: int,
    customer: str,
    touchpoint: str | None,
    title: str,
    severity: Severity,
    architect: str,
    actor: str,
    now: datetime,
) -> Outcome:
    """Open a ticket that a person asked for; it is a problem of its own."""
    id_ = uuid7_at(int(now.timestamp() * 1000))
    ticket = TicketV1(
        id=id_,
        number=number,
        customer=customer,
        touchpoint=touchpoint,
        title=title,
        severity=severity,
        state="open",
        assignee=architect,
        alert=None,
        dedup_key=f"{customer}/by-hand/{id_}",
        opened_at=now,
        version=1,
        summary=title,
    )
    return Outcome(ticket, "ticket.opened", (entry(id_, now, actor, "opened", severity=severity),))
