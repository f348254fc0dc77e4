"""Who is paged, and when the next one is. Pure: prior page in, next page and what to do out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec

from shared import erasure
from shared.directory.model import Customer, Directory
from shared.events import EvidenceV1, PageState, PageV1, Severity, TicketV1
from shared.ids import uuid7_at

PAGED: frozenset[Severity] = frozenset({"critical", "high"})
"""Severities that page; the others are told in a digest."""

WAITING: frozenset[PageState] = frozenset({"pending", "sent", "exhausted"})

EventType = Literal["page.sent", "page.acknowledged", "page.escalated", "page.exhausted", "page.resolved"]
_SHOWN_EVIDENCE = 5


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One step as it was when the page started: a later edit of the directory does not change a running page."""

    person: str | None
    """None: the step finds nobody and is skipped."""
    via: str
    """What the step names, such as `architect` or `schedule:night-watch`."""
    ack_within: float
    """Seconds."""


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
    steps: list[Turn]
    repeat: int
    """Rounds of the steps in all, before the catch-all."""
    catch_all: str
    state: PageState
    opened_at: datetime
    caused_at: datetime | None = None
    """When the answer that broke the rule was received."""
    turn: int = 0
    """How many people were paged so far; each is a delivery of its own."""
    level: int = 0
    round: int = 1
    person: str | None = None
    """Who is paged now."""
    due_at: datetime | None = None
    sent_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The next page, and the event that tells it, if others should know."""

    page: Page
    event: EventType | None
    pages: str | None = None
    """The person to page now."""


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a customer's chain."""

    person: str
    via: str
    ack_within: float | None


def chain(directory: Directory, customer: Customer) -> list[Turn]:
    """Return a customer's steps with who each finds now."""
    escalation = directory.escalations[customer.escalation]
    return [
        Turn(
            person=_person(directory, customer, escalation.catch_all, step.page),
            via=step.page,
            ack_within=step.ack_within,
        )
        for step in escalation.steps
    ]


def _person(directory: Directory, customer: Customer, catch_all: str, target: str) -> str | None:
    match target.partition(":"):
        case ("architect", _, _):
            found: str | None = customer.architect
        case ("deputy", _, _):
            found = customer.deputy
        case ("catch_all", _, _):
            found = catch_all
        case ("person", _, name):
            found = name
        case _:
            found = None
    return found if found in directory.people else None


def full_chain(directory: Directory, customer: Customer) -> list[Link]:
    """Return everybody who is paged for a customer, in order; the catch-all is always the last, so never empty."""
    links = [
        Link(turn.person, turn.via, turn.ack_within) for turn in chain(directory, customer) if turn.person is not None
    ]
    return [*links, Link(directory.escalations[customer.escalation].catch_all, "catch_all", None)]


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
        state="pending",
        opened_at=now,
        caused_at=ticket.caused_at,
        due_at=now,
    )


def next_turn(page: Page, reachable: Collection[str], now: datetime) -> Outcome:
    """Page the next person: the next step that finds somebody reachable, the next round, at last the catch-all.

    After the last round the catch-all is paged again every last `ack_within`: exhausted is an alarm, not an end.
    """
    level, round_ = page.level, page.round
    if page.state != "exhausted":
        for _ in range(len(page.steps) * page.repeat + 1):
            level += 1
            if level > len(page.steps):
                level, round_ = 1, round_ + 1
            if round_ > page.repeat or not page.steps:
                break
            step = page.steps[level - 1]
            if step.person is not None and step.person in reachable:
                changed = msgspec.structs.replace(
                    page,
                    version=page.version + 1,
                    turn=page.turn + 1,
                    level=level,
                    round=round_,
                    person=step.person,
                    due_at=now + timedelta(seconds=step.ack_within),
                )
                return Outcome(changed, "page.escalated" if page.turn else None, pages=step.person)
    wait = page.steps[-1].ack_within if page.steps else 300.0
    changed = msgspec.structs.replace(
        page,
        version=page.version + 1,
        turn=page.turn + 1,
        level=len(page.steps) + 1,
        round=page.repeat if page.state != "exhausted" else page.round + 1,
        person=page.catch_all,
        state="exhausted",
        due_at=now + timedelta(seconds=wait),
    )
    return Outcome(changed, "page.escalated" if page.state == "exhausted" else "page.exhausted", pages=page.catch_all)


def delivered(page: Page, now: datetime) -> Outcome:
    """Note that a page reached a person's device; whether the person answers is another matter."""
    state: PageState = "sent" if page.state == "pending" else page.state
    sent_at = page.sent_at or now
    return Outcome(
        msgspec.structs.replace(page, version=page.version + 1, state=state, sent_at=sent_at),
        "page.sent" if page.state in WAITING else None,
    )


def undeliverable(page: Page, turn: int, now: datetime) -> Page | None:
    """Return the page with its next person due at once, because no contact of this one worked; None if it went on."""
    if page.state not in WAITING or page.turn != turn or page.state == "exhausted":
        # An exhausted page whose catch-all cannot be reached waits its turn: there is nobody behind.
        return None
    return msgspec.structs.replace(page, version=page.version + 1, due_at=now)


def acknowledge(page: Page, person: str | None, now: datetime) -> Outcome | None:
    """Stop paging: somebody answers. None when it had stopped before."""
    if page.state not in WAITING:
        return None
    changed = msgspec.structs.replace(
        page,
        version=page.version + 1,
        state="acknowledged",
        due_at=None,
        acknowledged_at=now,
        acknowledged_by=person,
        person=person,
    )
    return Outcome(changed, "page.acknowledged")


def resolve(page: Page) -> Outcome | None:
    """Stop paging: the ticket needs nobody any more. None when it was resolved before."""
    if page.state == "resolved":
        return None
    return Outcome(
        msgspec.structs.replace(page, version=page.version + 1, state="resolved", due_at=None), "page.resolved"
    )


def follow_ticket(page: Page, ticket: TicketV1, now: datetime) -> Outcome | None:
    """Return what a ticket's new state makes of one of its pages."""
    if ticket.state in {"resolved", "closed", "cancelled"} or page.opening != ticket.opening:
        return resolve(page)
    if ticket.state != "open":
        return acknowledge(page, ticket.assignee, now)
    return None


def customer_of(directory: Directory, ticket: TicketV1) -> Customer | None:
    """Return the ticket's customer; one that left the directory with a ticket open is the catch-all's.

    None where the directory has no escalation at all, and so nobody to page.
    """
    known = directory.customers.get(ticket.customer)
    if known is not None or not directory.escalations:
        return known
    escalation = next(iter(directory.escalations.values()))
    return Customer(
        id=ticket.customer,
        name=ticket.customer,
        architect=escalation.catch_all,
        escalation=escalation.name,
        timezone=directory.timezone,
        language=directory.language,
    )


def wants_page(ticket: TicketV1) -> bool:
    """Tell whether a ticket as it stands needs a person now."""
    return ticket.state == "open" and ticket.severity in PAGED


def without(page: Page, respondent: str, before: datetime) -> Page:
    """Return a page that no longer says who gave an answer before a moment, nor what they wrote."""
    evidence = erasure.without(page.evidence, respondent, before)
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
    )
