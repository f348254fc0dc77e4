"""Whom a page goes to, and when the next one is due. Pure: prior page in, next page and what to do out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec

from services.notify.domain.chain import EscalationStep, chain
from shared.directory.model import Customer, Directory, severity_rank
from shared.wire import erasure
from shared.wire.events import EvidenceV1, PageState, PageV1, RespondentErasedV1, Severity, TicketState, TicketV1
from shared.wire.ids import uuid7_at

PAGED: frozenset[Severity] = frozenset({"critical", "high"})
"""Severities that page; the others are told in a digest."""

WAITING: frozenset[PageState] = frozenset({"pending", "sent", "exhausted"})

EventType = Literal[
    "page.sent", "page.acknowledged", "page.unacknowledged", "page.escalated", "page.exhausted", "page.resolved"
]
Held = Literal["quiet hours", "silence", "storm"]
OPENED = "opened"
UNREACHED = "nobody reached"
_UNREACHED, _UNREACHED_MOST = timedelta(seconds=30), timedelta(minutes=15)
"""Between pages of a catch-all whose every contact was refused, doubled each time: it may have been mended by then."""
_SHOWN_EVIDENCE = 5
_LONGEST_STEP = 3650 * 86_400.0
"""Seconds; the longest duration of a directory."""
_NO_STEPS = 300.0
"""Seconds to answer where the escalation has no steps that say it."""
_FOLLOWING = timedelta(minutes=1)
"""A page of a storm looks this often whether the one that is sent for all of them is still waiting."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a ticket showed of somebody's work when the page last looked."""

    state: TicketState = "open"
    assignee: str | None = None
    root_cause: str | None = None
    worked_at: datetime | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """The search for a person who answers for a ticket."""

    id: UUID
    version: int
    ticket: UUID
    ticket_number: int
    opening: int
    customer: str
    customer_name: str
    severity: Severity
    title: str
    summary: str
    evidence: list[EvidenceV1]
    steps: list[EscalationStep]
    """As they were when the page started: a later edit of the directory does not change a running page."""
    repeat: int
    """Rounds of the steps in all, before the catch-all."""
    catch_all: str
    state: PageState
    opened_at: datetime
    dedup_key: str = ""
    touchpoint: str | None = None
    acknowledged_for: float = 4 * 3600
    """Seconds; paging goes on when an acknowledged ticket was not touched for so long."""
    caused_at: datetime | None = None
    """When the answer that broke the rule was received."""
    turn: int = 0
    """How many people were paged so far; each is a delivery of its own."""
    level: int = 0
    round: int = 1
    person: str | None = None
    """Who is paged now."""
    due_at: datetime | None = None
    """When the next person is paged; of an acknowledged page, when it is taken as forgotten."""
    sent_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    held: Held | None = None
    """What it waits for."""
    slept: bool = False
    """It has waited for quiet hours to end, which it does once."""
    lead: UUID | None = None
    """The page that is sent for this one too, because there are many of the customer at once."""
    storm: bool = False
    """Others follow this one."""
    paged: list[str] = []
    """Who was paged for this problem before."""
    work: Work = Work()
    breached: list[str] = []
    """Clocks of the ticket whose breach has escalated already."""
    unreached: int = 0
    """How often in a row the catch-all could not be called at all."""
    taker: str | None = None
    """Who had taken the ticket before it rose: the next turn pages them, and then the steps begin."""

    @property
    def rule(self) -> str:
        """The rule that was broken; empty for a ticket that was opened by hand."""
        parts = self.dedup_key.split("/")
        return parts[1] if len(parts) == 3 else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The next page, and the event that tells it, if others should know."""

    page: Page
    event: EventType | None
    pages: str | None = None
    """The person to page now."""
    why: str = ""
    """For the timeline, where no event says it."""


Finds = Callable[[EscalationStep], str | None]
"""Returns whom a step finds now, who can be reached and is there."""


def start(ticket: TicketV1, directory: Directory, customer: Customer, now: datetime) -> Page:
    """Return the page of a ticket's opening, with the policy of this moment copied onto it; due at once."""
    escalation = directory.escalations[customer.escalation]
    return Page(
        id=uuid7_at(int(now.timestamp() * 1000)),
        version=1,
        ticket=ticket.id,
        ticket_number=ticket.number,
        opening=ticket.opening,
        customer=ticket.customer,
        customer_name=customer.name,
        severity=ticket.severity,
        title=ticket.title,
        summary=ticket.summary,
        evidence=ticket.evidence[:_SHOWN_EVIDENCE],
        steps=chain(directory, customer),
        repeat=escalation.repeat,
        catch_all=escalation.catch_all,
        acknowledged_for=escalation.acknowledged_for,
        state="pending",
        opened_at=now,
        dedup_key=ticket.dedup_key,
        touchpoint=ticket.touchpoint,
        caused_at=ticket.caused_at,
        due_at=now,
        work=_work(ticket),
        breached=_breached(ticket),
        taker=ticket.assignee if ticket.acknowledged_severity is not None else None,
    )


def follow(page: Page, lead: Page, now: datetime) -> Page:
    """Return a page of a storm: another one is sent for it; asked again at once where a silence may hold only that."""
    due_at = now if lead.held == "silence" else now + _FOLLOWING
    return msgspec.structs.replace(page, lead=lead.id, held="storm", due_at=due_at)


def look_up(page: Page, lead: Page | None, now: datetime) -> Outcome:
    """Return what a page of a storm does when it is due: it waits on as long as the other is waiting."""
    if lead is not None and lead.state in WAITING:
        return Outcome(msgspec.structs.replace(page, due_at=now + _FOLLOWING), None)
    return Outcome(msgspec.structs.replace(page, lead=None, held=None, due_at=now), None)


def hold(page: Page, until: datetime, held: Held) -> Outcome:
    """Page nobody before a moment."""
    slept = page.slept or held == "quiet hours"
    changed = msgspec.structs.replace(page, version=page.version + 1, due_at=until, held=held, slept=slept)
    return Outcome(changed, None, why=f"held for {held}")


def first_person(page: Page, finds: Finds) -> str:
    """Return whom the next turn pages."""
    return next_turn(page, finds, page.opened_at).pages or page.catch_all


def next_turn(page: Page, finds: Finds, now: datetime) -> Outcome:
    """Page the next person: the next step that finds somebody reachable, the next round, at last the catch-all.

    After the last round the catch-all is paged again every last `ack_within`: exhausted is an alarm, not an end.
    Whoever had taken the ticket before it rose comes before all steps.
    """
    if page.taker is not None:
        return _to_taker(page, page.taker, finds, now)
    level, round_ = page.level, page.round
    if page.state != "exhausted":
        for _ in range(len(page.steps) * page.repeat + 1):
            level += 1
            if level > len(page.steps):
                level, round_ = 1, round_ + 1
            if round_ > page.repeat or not page.steps:
                break
            step = page.steps[level - 1]
            person = finds(step)
            if person is not None:
                changed = msgspec.structs.replace(
                    page,
                    version=page.version + 1,
                    turn=page.turn + 1,
                    level=level,
                    round=round_,
                    person=person,
                    paged=_with(page.paged, person),
                    held=None,
                    due_at=now + timedelta(seconds=step.ack_within),
                )
                return Outcome(changed, "page.escalated" if page.turn else None, pages=person)
    return to_catch_all(page, now)


def _to_taker(page: Page, taker: str, finds: Finds, now: datetime) -> Outcome:
    """Page who had taken the ticket, in the time of the first step; whoever cannot be paged is passed over at once."""
    before = msgspec.structs.replace(page, taker=None)
    ack_within = page.steps[0].ack_within if page.steps else _NO_STEPS
    if finds(EscalationStep(person=taker, via="assignee", ack_within=ack_within)) is None:
        return next_turn(before, finds, now)
    # Nobody is asked twice in a row: where the first step finds the same person, this is that step.
    is_first = bool(page.steps) and finds(page.steps[0]) == taker
    changed = msgspec.structs.replace(
        before,
        version=page.version + 1,
        turn=page.turn + 1,
        level=1 if is_first else 0,
        person=taker,
        paged=_with(page.paged, taker),
        held=None,
        slept=True,  # the quiet hours were those of whom it is asked first
        due_at=now + timedelta(seconds=ack_within),
    )
    return Outcome(changed, "page.escalated" if page.turn else None, pages=taker)


def to_catch_all(page: Page, now: datetime) -> Outcome:
    """Page whoever is behind everybody."""
    # Whatever its steps say: this is what is done when nothing else can be.
    wait = min(_LONGEST_STEP, page.steps[-1].ack_within) if page.steps else _NO_STEPS
    changed = msgspec.structs.replace(
        page,
        version=page.version + 1,
        turn=page.turn + 1,
        level=len(page.steps) + 1,
        round=page.repeat if page.state != "exhausted" else page.round + 1,
        person=page.catch_all,
        paged=_with(page.paged, page.catch_all),
        taker=None,
        held=None,
        state="exhausted",
        due_at=now + timedelta(seconds=wait),
    )
    return Outcome(changed, "page.escalated" if page.state == "exhausted" else "page.exhausted", pages=page.catch_all)


def _with(people: list[str], person: str) -> list[str]:
    return people if person in people else [*people, person]


def delivered(page: Page, now: datetime) -> Outcome:
    """Note that a page reached a person's device; whether the person answers is another matter."""
    state: PageState = "sent" if page.state == "pending" else page.state
    sent_at = page.sent_at or now
    return Outcome(
        msgspec.structs.replace(page, version=page.version + 1, state=state, sent_at=sent_at, unreached=0),
        "page.sent" if page.state in WAITING else None,
    )


def undeliverable(page: Page, turn: int, now: datetime) -> Outcome | None:
    """Let the next person be due at once, because no contact of this one worked. None when the page went on.

    Behind the catch-all there is nobody: they are paged again after a while that grows, whatever the last step's time.
    """
    if page.state not in WAITING or page.turn != turn:
        return None
    due_at = now
    if page.state == "exhausted":
        due_at = now + min(_UNREACHED_MOST, _UNREACHED * 2 ** min(page.unreached, 10))
        if page.due_at is not None and page.due_at <= due_at:
            return None
    unreached = page.unreached + (page.state == "exhausted")
    changed = msgspec.structs.replace(page, version=page.version + 1, due_at=due_at, unreached=unreached)
    return Outcome(changed, None, why=UNREACHED)


def acknowledge(page: Page, person: str | None, now: datetime) -> Outcome | None:
    """Stop paging: somebody answers. None when it had stopped before."""
    if page.state not in WAITING:
        return None
    changed = msgspec.structs.replace(
        page,
        version=page.version + 1,
        state="acknowledged",
        due_at=now + timedelta(seconds=page.acknowledged_for),
        acknowledged_at=now,
        acknowledged_by=person,
        person=person,
    )
    return Outcome(changed, "page.acknowledged")


def forgotten(page: Page, now: datetime) -> Outcome:
    """Page again from the first step: who acknowledged has not touched the ticket since."""
    changed = msgspec.structs.replace(
        page,
        version=page.version + 1,
        state="sent",
        level=0,
        round=1,
        slept=False,
        due_at=now,
        acknowledged_at=None,
    )
    return Outcome(changed, "page.unacknowledged")


def _asked_again(page: Page, ticket: TicketV1, lead: UUID | None, now: datetime) -> Outcome:
    """Page again: the ticket is more severe than what somebody took. They are asked first, then the steps begin.

    `lead`: what it followed. A storm that rises as a whole is one page again.
    """
    knows = ticket.acknowledged_severity is not None
    changed = msgspec.structs.replace(
        forgotten(page, now).page,
        taker=ticket.assignee if knows else page.acknowledged_by or ticket.assignee,
        lead=lead,
        held=None if lead is None else "storm",
    )
    return Outcome(changed, "page.unacknowledged")


def escalate(page: Page, now: datetime, why: str) -> Outcome | None:
    """Page the next person at once, also where one has acknowledged. None when nobody is needed any more."""
    if page.state == "resolved":
        return None
    state: PageState = "sent" if page.state == "acknowledged" else page.state
    # One of a storm stays one of a storm: 500 clocks that run out at once are no more pages than 500 tickets. And a
    # clock that runs out at night wakes nobody who sleeps.
    sleeps = page.held == "quiet hours" and page.state in WAITING
    due_at, held = (page.due_at, page.held) if sleeps else (now, None)
    changed = msgspec.structs.replace(page, version=page.version + 1, state=state, due_at=due_at, held=held)
    return Outcome(changed, None, why=why)


def resolve(page: Page) -> Outcome | None:
    """Stop paging: the ticket needs nobody any more. None when it was resolved before."""
    if page.state == "resolved":
        return None
    return Outcome(
        msgspec.structs.replace(page, version=page.version + 1, state="resolved", due_at=None), "page.resolved"
    )


def follow_ticket(page: Page, ticket: TicketV1, now: datetime) -> list[Outcome]:
    """Return what a ticket's new state makes of one of its pages, step by step."""
    if page.state == "resolved":
        return []
    if ticket.state in {"resolved", "closed", "cancelled"} or page.opening != ticket.opening:
        outcome = resolve(page)
        return [] if outcome is None else [outcome]
    found: list[Outcome] = []
    work, known = _work(ticket), page.work
    if work != known:
        page = msgspec.structs.replace(page, work=work)
        # Only what somebody does answers a page: a ticket that is in progress, and says so again while it is escalated,
        # does not.
        taken = None if ticket.state == "open" else acknowledge(page, ticket.assignee, now)
        touched = _touched(page if taken is None else taken.page, ticket, now)
        outcome = touched if taken is None else Outcome(touched.page, taken.event)
        page = outcome.page
        found.append(outcome)
    if severity_rank(ticket.severity) > severity_rank(page.severity):
        due, lead = now if page.held is not None and page.state in WAITING else page.due_at, page.lead
        page = msgspec.structs.replace(page, severity=ticket.severity, due_at=due, lead=None, held=None)
        found.append(Outcome(page, None, why=f"severity {ticket.severity}"))
        # Taken by a page or, while that was escalated, in the ticket alone.
        if ticket.state == "open" and (page.state == "acknowledged" or known.state != "open"):
            found.append(_asked_again(page, ticket, lead, now))
            page = found[-1].page
    for clock in _breached(ticket):
        if clock not in page.breached:
            page = msgspec.structs.replace(page, breached=[*page.breached, clock])
            outcome = escalate(page, now, f"sla {clock} breached") or Outcome(page, None)
            page = outcome.page
            found.append(outcome)
    return found


def _work(ticket: TicketV1) -> Work:
    return Work(state=ticket.state, assignee=ticket.assignee, root_cause=ticket.root_cause, worked_at=ticket.worked_at)


def _breached(ticket: TicketV1) -> list[str]:
    if ticket.sla is None:
        return []
    return [clock for clock in ("first_response", "resolve") if getattr(ticket.sla, clock) == "breached"]


def _touched(page: Page, ticket: TicketV1, now: datetime) -> Outcome:
    """Give who acknowledged their time again; none runs while the ticket waits for somebody outside."""
    if page.state != "acknowledged":
        return Outcome(page, None)
    due_at = None if ticket.state == "waiting" else now + timedelta(seconds=page.acknowledged_for)
    return Outcome(msgspec.structs.replace(page, due_at=due_at), None)


def wants_page(ticket: TicketV1) -> bool:
    """Tell whether a ticket as it stands needs a person now."""
    return ticket.state == "open" and ticket.severity in PAGED


def without(page: Page, wanted: RespondentErasedV1) -> Page:
    """Return a page that no longer says who gave an answer that is to be forgotten, nor what they wrote."""
    evidence = erasure.without(page.evidence, wanted)
    return page if evidence == page.evidence else msgspec.structs.replace(page, evidence=evidence)


def message(page: Page) -> PageV1:
    """Return what others are told of a page."""
    return PageV1(
        id=page.id,
        version=page.version,
        ticket=page.ticket,
        opening=page.opening,
        customer=page.customer,
        severity=page.severity,
        state=page.state,
        level=page.level,
        round=page.round,
        opened_at=page.opened_at,
        person=page.person,
        acknowledged_at=page.acknowledged_at,
        acknowledged_by=page.acknowledged_by,
        ticket_number=page.ticket_number,
        title=page.title,
        summary=page.summary,
        touchpoint=page.touchpoint,
        sent_at=page.sent_at,
        due_at=page.due_at,
        held=page.held,
        lead=page.lead,
        repeat=page.repeat,
        catch_all=page.catch_all,
    )


# ---- many at once

CROWD = 5
"""Pages of one customer within `CROWD_WITHIN` that are sent one by one; what comes then is sent as one."""
CROWD_WITHIN = timedelta(minutes=10)


def gather(new: Sequence[Page], recent: int, lead: Page | None, now: datetime) -> list[Page]:
    """Return a customer's new pages, those that come in a storm as one that leads and others that follow it.

    `recent`: pages of the customer that were opened lately and are sent on their own; `lead`: one of a storm that
    waits. A page never follows one that is less severe, whose quiet hours are not its own.
    """
    storm = recent + len(new) > CROWD
    gathered: list[Page] = []
    # The most severe leads.
    for page in sorted(new, key=lambda one: -severity_rank(one.severity)):
        if lead is not None and severity_rank(page.severity) <= severity_rank(lead.severity):
            gathered.append(follow(page, lead, now))
            continue
        leads = msgspec.structs.replace(page, storm=True) if storm else page
        lead = leads if storm else lead
        gathered.append(leads)
    return gathered
