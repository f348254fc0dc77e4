"""What is told without haste: to whom, and when. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from services.notify.domain.rota import is_absent, next_clock, quiet_until
from services.notify.domain.words import Entry
from shared.directory.model import Customer, Directory, Person
from shared.events import AlertV1, Severity, TicketV1

BUNDLE = timedelta(minutes=2)
"""What comes within it is one message."""


def due_at(person: Person, severity: Severity, now: datetime) -> datetime:
    """Return when a person is told: soon of what is medium, but not in quiet hours; else with the day's digest."""
    if severity in {"critical", "high", "medium"}:
        soon = now + BUNDLE
        return quiet_until(person, soon) or soon
    return next_clock(person.timezone, person.digest_at, now)


def responsible(directory: Directory, customer: Customer, now: datetime) -> Person | None:
    """Return who is told of a customer: the architect, the deputy in their absence, else the catch-all."""
    named = [customer.architect, customer.deputy, directory.escalations[customer.escalation].catch_all]
    people = [directory.people[name] for name in named if name is not None and name in directory.people]
    present = [person for person in people if not is_absent(person, now)]
    return next(iter(present or people), None)


def team(directory: Directory, customer: Customer) -> list[Person]:
    """Return who shares a customer's good experiences."""
    named = dict.fromkeys((*directory.team, customer.architect, customer.deputy))
    return [directory.people[name] for name in named if name is not None and name in directory.people]


def of_ticket(ticket: TicketV1, customer: Customer, now: datetime) -> Entry:
    """Return a new ticket as a line."""
    comment = next((answer.comment for answer in ticket.evidence if answer.comment), None)
    text = f"[{ticket.severity}] {ticket.summary or ticket.title}, ticket {ticket.number}"
    return Entry(customer=customer.id, customer_name=customer.name, text=text, at=now, comment=comment)


def of_breach(ticket: TicketV1, customer: Customer, now: datetime) -> Entry:
    """Return a ticket that is late as a line."""
    text = f"ticket {ticket.number} is late: {ticket.summary or ticket.title}"
    return Entry(customer=customer.id, customer_name=customer.name, text=text, at=now)


def of_good_news(alert: AlertV1, customer: Customer) -> Entry:
    """Return a good experience as a line."""
    comment = next((answer.comment for answer in alert.evidence if answer.comment), None)
    return Entry(
        customer=customer.id, customer_name=customer.name, text=alert.summary, at=alert.opened_at, comment=comment
    )


def late_clocks(ticket: TicketV1) -> int:
    """Return how many clocks of a ticket ran out."""
    return 0 if ticket.sla is None else [ticket.sla.first_response, ticket.sla.resolve].count("breached")
