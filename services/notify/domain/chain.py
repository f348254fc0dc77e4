"""Who answers for a customer, in which order. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from services.notify.domain.rota import Era, Override, is_absent, next_absence, person_on_call, shift_end
from shared.directory.model import Customer, Directory, Schedule
from shared.wire.events import TicketV1


class EscalationStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a page."""

    person: str | None
    """None: who is on call is known when the step comes, or it finds nobody and is skipped."""
    via: str
    """What the step names, such as `architect` or `schedule:night-watch`."""
    ack_within: float
    """Seconds."""

    @property
    def schedule(self) -> str | None:
        """The schedule that knows who it is."""
        return self.via.removeprefix("schedule:") if self.via.startswith("schedule:") else None


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a customer's chain."""

    person: str
    via: str
    until: datetime | None
    """Until when it is this person; None: no end in sight."""


def chain(directory: Directory, customer: Customer) -> list[EscalationStep]:
    """Return a customer's steps with whom each names."""
    escalation = directory.escalations[customer.escalation]
    return [
        EscalationStep(
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


class Presence:
    """Who is there at a moment: the schedules with their overrides, and nobody who is absent."""

    def __init__(
        self,
        directory: Directory,
        overrides: Mapping[str, Sequence[Override]],
        at: datetime,
        eras: Sequence[Era] = (),
    ) -> None:
        """Look at a moment; `overrides` are by schedule. `eras`: what followed the directory, where that is known."""
        self._eras = eras or [Era(at, directory.schedules, directory.people)]
        self._directory = directory
        self._overrides = overrides
        self._at = at
        self._known: dict[str, str | None] = {}

    def on_call(self, schedule: str) -> str | None:
        """Return who is on call in a schedule."""
        if schedule not in self._known:
            known = self._directory.schedules.get(schedule)
            self._known[schedule] = None if known is None else self._asked(schedule, known)
        return self._known[schedule]

    def _asked(self, name: str, schedule: Schedule) -> str | None:
        return person_on_call(schedule, self._directory.people, self._overrides.get(name, ()), self._at)

    def finds(self, turn: EscalationStep) -> str | None:
        """Return whom a step finds."""
        person = turn.person if turn.schedule is None else self.on_call(turn.schedule)
        known = self._directory.people.get(person) if person is not None else None
        if known is None or (turn.schedule is None and is_absent(known, self._at)):
            return None
        return known.id

    def until(self, turn: EscalationStep) -> datetime | None:
        """Return until when it is the person that the step finds."""
        if turn.schedule is not None:
            return shift_end(self._eras, turn.schedule, self._overrides.get(turn.schedule, ()), self._at)
        person = self._directory.people.get(turn.person or "")
        return None if person is None else next_absence(person, self._at)


def full_chain(directory: Directory, customer: Customer, presence: Presence) -> list[Link]:
    """Return everybody who is paged for a customer, in order; the catch-all is always the last, so never empty."""
    links = [
        Link(person, turn.via, presence.until(turn))
        for turn in chain(directory, customer)
        if (person := presence.finds(turn)) is not None
    ]
    return [*links, Link(directory.escalations[customer.escalation].catch_all, "catch_all", None)]


def customer_of(directory: Directory, ticket: TicketV1) -> Customer | None:
    """Return the ticket's customer; one that left the directory with a ticket open is the catch-all's.

    None where the directory has no escalation at all, and so nobody to page.
    """
    return stand_in(directory, ticket.customer)


def stand_in(directory: Directory, customer: str) -> Customer | None:
    """Return a customer by id, as `customer_of` does."""
    known = directory.customers.get(customer)
    if known is not None or not directory.escalations:
        return known
    escalation = next(iter(directory.escalations.values()))
    return Customer(
        id=customer,
        name=customer,
        architect=escalation.catch_all,
        escalation=escalation.name,
        timezone=directory.timezone,
        language=directory.language,
    )
