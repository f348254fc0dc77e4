"""What is told without haste: to whom, and when. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from services.notify.domain.chain import stand_in
from services.notify.domain.rota import is_absent, next_clock, quiet_until
from services.notify.domain.texts import Entry
from shared.directory.model import Customer, Directory, Person
from shared.wire.events import AlertV1, Severity, TicketV1

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


Role = Literal["responsible", "team", "behind everybody"]
"""As what somebody is told a line: who that is, is asked when it is sent, since the directory may have changed."""


def addressee(role: Role | None, person: str, customer: str, directory: Directory, now: datetime) -> Person | None:
    """Return who is told a line that was gathered for somebody; None: it is nobody's any more.

    Without a role it is that person's, as long as the directory has them.
    """
    if role == "behind everybody":  # the next look tells those who are now
        return next((one for one in behind_everybody(directory) if one.id == person), None)
    gathered_for, known = directory.people.get(person), stand_in(directory, customer)
    if known is None or (role is None and gathered_for is not None):
        return gathered_for
    if role == "team" and gathered_for in team(directory, known):
        return gathered_for
    return responsible(directory, known, now)


def told_at(person: Person, gathered_for: str, due_at: datetime, now: datetime) -> datetime:
    """Return when a line that is due is told: after quiet hours that it was not meant for, such as when it is late."""
    meant = person.id == gathered_for and quiet_until(person, due_at) is not None
    return now if meant else quiet_until(person, now) or now


def behind_everybody(directory: Directory) -> list[Person]:
    """Return every catch-all."""
    names = dict.fromkeys(escalation.catch_all for escalation in directory.escalations.values())
    return [directory.people[name] for name in names if name in directory.people]


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
