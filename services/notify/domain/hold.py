"""Whether a page that is due goes on now. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.notify.domain.page import Finds, Outcome, Page, first_person, forgotten, hold, next_turn
from services.notify.domain.rota import quiet_until
from shared.directory.model import Person

CAP = 20
"""Pages of a person in an hour, beyond which what they were paged for before is not repeated."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A time in which nobody is paged for some problems; None stands for all."""

    id: UUID
    customer: str | None
    touchpoint: str | None
    rule: str | None
    reason: str
    start: datetime
    until: datetime
    made_at: datetime
    made_by: str


def silenced_until(page: Page, silences: Sequence[Silence], now: datetime) -> datetime | None:
    """Return until when silences in force hold a page; None: none does."""
    ends = [
        one.until
        for one in silences
        if one.start <= now < one.until
        and one.customer in {None, page.customer}
        and one.touchpoint in {None, page.touchpoint}
        and one.rule in {None, page.rule}
    ]
    return max(ends, default=None)


def turn(page: Page, finds: Finds, silences: Sequence[Silence], people: Mapping[str, Person], now: datetime) -> Outcome:
    """Return what a page does that is due."""
    if page.state == "acknowledged":
        return forgotten(page, now)
    until = silenced_until(page, silences, now)
    if until is not None:
        return hold(page, until, "silence")
    if page.level == 0 and page.severity == "high" and not page.slept:
        person = people.get(first_person(page, finds))
        until = None if person is None else quiet_until(person, now)
        if until is not None:
            return hold(page, until, "quiet hours")
    return next_turn(page, finds, now)


def held_back(before: Page, person: str, load: Mapping[str, int]) -> bool:
    """Tell whether a person has been paged so much that a repeat of a problem that is not critical can wait."""
    return before.severity != "critical" and person in before.paged and load.get(person, 0) >= CAP
