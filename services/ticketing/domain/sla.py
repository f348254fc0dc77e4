"""The clocks of a ticket: by when somebody answers it and resolves it, in the customer's working time. Pure.

A due is a moment, worked out once: a later edit of the directory moves no clock that runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from services.ticketing.domain.ticket import ACTIVE
from shared.directory.model import Customer, Severity, Sla
from shared.directory.wall_clock import moment, public_holidays
from shared.wire.events import ClockState, SlaV1, TicketV1

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FARTHEST = timedelta(days=3653)
"""A due further ahead than ten years is no promise; it also bounds how many days are walked."""
_NEAR = 15
"""Days before and after a holiday: when it and all working days so near are holidays, none of them is believed."""
_UNDECIDED: frozenset[ClockState] = frozenset({"running", "warning"})

ClockName = Literal["first_response", "resolve"]


@dataclass(frozen=True, slots=True)
class Hours:
    """Some of the time when a customer is open."""

    days: frozenset[int]
    """0 is Monday."""
    opens: int
    """Minutes of the wall clock after midnight."""
    closes: int
    """The same; 1440 is the day's end, and more is in the next day."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """The time in which tickets are worked on.

    A shift lasts from the first moment at which the wall clock shows its opening hour, or a later one, to the first at
    which it shows its closing hour, or a later one. So an hour that is skipped in spring, or a whole day, is no working
    time, and one that happens twice in autumn is within a shift twice.
    """

    zone: ZoneInfo
    hours: tuple[Hours, ...] | None
    """None: around the clock, on holidays too."""
    holidays: str | None
    """Country, or country and subdivision, such as DE-BY."""
    closed: frozenset[date] = frozenset()
    """Days on which no shift begins besides."""

    def add(self, start: datetime, seconds: float) -> datetime:
        """Return the first moment, in UTC, at which so much working time has passed; at most ten years ahead."""
        start = start.astimezone(UTC)
        left = timedelta(seconds=seconds)
        if left <= timedelta():
            return start
        for opens, closes in self._shifts(start, start + _FARTHEST):
            if left <= closes - opens:
                return opens + left
            left -= closes - opens
        return start + _FARTHEST

    def between(self, start: datetime, end: datetime) -> float:
        """Return the seconds of working time from `start` to `end`; 0 where the end is not later."""
        shifts = self._shifts(start.astimezone(UTC), end.astimezone(UTC))
        return sum((closes - opens for opens, closes in shifts), timedelta()).total_seconds()

    def _shifts(self, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Return the working time between two moments, in order."""
        if self.hours is None:
            if start < end:
                yield start, end
            return
        # A shift of the night before may still last.
        day = start.astimezone(self.zone).date() - timedelta(days=1)
        # One more: where clocks go back over midnight, the next day has begun once already.
        last = end.astimezone(self.zone).date() + timedelta(days=1)
        held: tuple[datetime, datetime] | None = None
        while day <= last:
            for opens, closes in self._shifts_of(day):
                if held is not None and opens <= held[1]:
                    held = (held[0], max(held[1], closes))
                    continue
                if held is not None:
                    yield from _within(held, start, end)
                held = (opens, closes)
            day += timedelta(days=1)
        if held is not None:
            yield from _within(held, start, end)

    def _shifts_of(self, day: date) -> list[tuple[datetime, datetime]]:
        """Return the shifts that begin on a day, in order."""
        assert self.hours is not None
        works = (one for one in self.hours if self._works(day, one))
        return sorted((self._at(day, one.opens), self._at(day, one.closes)) for one in works)

    def _works(self, day: date, hours: Hours) -> bool:
        if day.weekday() not in hours.days or day in self.closed:
            return False
        if self.holidays is None or day not in public_holidays(self.holidays, day.year):
            return True
        # Holidays that leave no working day for a month would stop every clock, and nobody would be late: it is rather
        # the calendar that is wrong for this customer, such as one that has every Sunday for who is open on Sundays.
        assert self.hours is not None
        days = frozenset[int]().union(*(one.days for one in self.hours))
        near = (day + timedelta(days=n) for n in range(-_NEAR, _NEAR + 1))
        return all(d in public_holidays(self.holidays, d.year) for d in near if d.weekday() in days)

    def _at(self, day: date, minutes: int) -> datetime:
        """Return the first moment at which the wall clock shows so many minutes after the day's midnight, or more."""
        return moment(self.zone.key, datetime.combine(day, time()) + timedelta(minutes=minutes))


def _within(shift: tuple[datetime, datetime], start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    opens, closes = max(start, shift[0]), min(end, shift[1])
    if opens < closes:
        yield opens, closes


def calendar_of(customer: Customer, severity: Severity) -> Calendar:
    """Return the time in which a customer's tickets of a severity are worked on."""
    hours = customer.business_hours
    opening = None if hours is None or severity == "critical" else (hours,) if isinstance(hours, str) else hours
    return _calendar(opening, customer.timezone, customer.holidays, customer.closed)


@lru_cache(maxsize=4096)
def _calendar(opening: tuple[str, ...] | None, zone: str, holidays: str | None, closed: tuple[date, ...]) -> Calendar:
    hours = None if opening is None else tuple(map(_hours, opening))
    return Calendar(ZoneInfo(zone), hours, holidays, frozenset(closed))


def _hours(text: str) -> Hours:
    days, hours = text.split(" ")
    first, _, last = days.partition("-")
    start, end = _WEEKDAYS.index(first), _WEEKDAYS.index(last or first)
    opens, closes = (int(clock[:2]) * 60 + int(clock[3:]) for clock in hours.split("-"))
    if closes <= opens:
        closes += 1440
    return Hours(frozenset((start + n) % 7 for n in range((end - start) % 7 + 1)), opens, closes)


Terms = tuple[Sla | None, Calendar]
"""What is promised for a ticket of one severity, and the time in which it counts."""


def started(ticket: TicketV1, sla: Sla | None, calendar: Calendar, now: datetime) -> TicketV1:
    """Start the clocks of a ticket that was just opened or reopened, from `opened_at`; no Sla, no clocks."""
    if sla is None:
        clocks = msgspec.structs.replace(ticket, first_response_due=None, resolve_due=None, resolve_left=None, sla=None)
        return _kept(ticket, clocks)
    clocks = msgspec.structs.replace(
        ticket,
        first_response_due=calendar.add(ticket.opened_at, sla.first_response),
        resolve_due=calendar.add(ticket.opened_at, sla.resolve),
        resolve_left=None,
        sla=SlaV1(),
    )
    return _kept(ticket, looked(clocks, sla, calendar, now))


def ticked(
    before: TicketV1, after: TicketV1, sla: Sla | None, calendar: Calendar, now: datetime, *, was: Terms
) -> TicketV1:
    """Move the clocks of a ticket that changed. `was`: the terms of the severity before.

    What was done is judged by the due that stood until now; then another severity's terms begin.
    """
    if after.opening != before.opening:
        return started(after, sla, calendar, now)
    ticket = _answered(after)
    if before.state == "waiting" and after.state != "waiting":
        ticket = _resumed(ticket, was[1], now)
    if after.state == "resolved":
        ticket = _resolved(ticket)
    if after.severity != before.severity and after.state in ACTIVE:
        ticket = _retermed(ticket, was, (sla, calendar), now)
    ticket = looked(ticket, sla, calendar, now)
    if after.state == "waiting":
        ticket = _paused(ticket, calendar, now)
    if after.state not in ACTIVE:
        ticket = _stopped(ticket)
    return _kept(after, ticket)


def looked(ticket: TicketV1, sla: Sla | None, calendar: Calendar, now: datetime) -> TicketV1:
    """Move the clocks by time alone: `warning` when a quarter or less is left, `breached` when nothing is."""
    if ticket.sla is None:
        return ticket
    first, resolve = _totals(sla)
    clocks = SlaV1(
        first_response=_aged(ticket.sla.first_response, ticket.first_response_due, first, calendar, now),
        resolve=_aged(ticket.sla.resolve, ticket.resolve_due, resolve, calendar, now),
    )
    return _with(ticket, clocks)


def next_look(ticket: TicketV1, sla: Sla | None, calendar: Calendar) -> datetime | None:
    """Return the next moment at which `looked` changes something; one that has passed means now."""
    if ticket.sla is None:
        return None
    first, resolve = _totals(sla)
    moments = [
        *_turns(ticket, ticket.sla.first_response, ticket.first_response_due, first, calendar),
        *_turns(ticket, ticket.sla.resolve, ticket.resolve_due, resolve, calendar),
    ]
    return min(moments, default=None)


def breaches(before: TicketV1, after: TicketV1) -> tuple[ClockName, ...]:
    """Return the clocks that ran out between two states of a ticket."""
    was, now = before.sla or SlaV1(), after.sla or SlaV1()
    names: tuple[ClockName, ...] = ("first_response", "resolve")
    return tuple(name for name in names if getattr(now, name) == "breached" != getattr(was, name))


def _kept(ticket: TicketV1, changed: TicketV1) -> TicketV1:
    return ticket if changed == ticket else changed


def _with(ticket: TicketV1, clocks: SlaV1 | None) -> TicketV1:
    return ticket if clocks == ticket.sla else msgspec.structs.replace(ticket, sla=clocks)


def _totals(sla: Sla | None) -> tuple[int | None, int | None]:
    return (None, None) if sla is None else (sla.first_response, sla.resolve)


def _judged(state: ClockState, due: datetime | None, at: datetime | None) -> ClockState:
    """Return a clock's state after what it waited for was done; at the due itself it is too late."""
    if state not in _UNDECIDED or due is None or at is None:
        return state
    return "met" if at < due else "breached"


def _answered(ticket: TicketV1) -> TicketV1:
    if ticket.sla is None:
        return ticket
    state = _judged(ticket.sla.first_response, ticket.first_response_due, ticket.acknowledged_at)
    return _with(ticket, msgspec.structs.replace(ticket.sla, first_response=state))


def _resolved(ticket: TicketV1) -> TicketV1:
    if ticket.sla is None:
        return ticket
    state = _judged(ticket.sla.resolve, ticket.resolve_due, ticket.resolved_at)
    return _with(ticket, msgspec.structs.replace(ticket.sla, resolve=state))


def _paused(ticket: TicketV1, calendar: Calendar, now: datetime) -> TicketV1:
    """Stop the resolve clock, unless it ran out."""
    if ticket.sla is None or ticket.resolve_due is None or ticket.sla.resolve not in _UNDECIDED:
        return ticket
    left = calendar.between(now, ticket.resolve_due)
    return msgspec.structs.replace(ticket, resolve_due=None, resolve_left=left)


def _resumed(ticket: TicketV1, calendar: Calendar, now: datetime) -> TicketV1:
    if ticket.resolve_left is None:
        return ticket
    due = calendar.add(now, ticket.resolve_left)
    return msgspec.structs.replace(ticket, resolve_due=due, resolve_left=None)


def _retermed(ticket: TicketV1, was: Terms, terms: Terms, now: datetime) -> TicketV1:
    """Give the clocks that run the time of other terms, less what they used.

    A ticket that had no clock begins with nothing used: what went by then was promised to nobody.
    """
    sla, calendar = terms
    ticket = looked(ticket, *was, now)
    if sla is None:
        return _stopped(ticket)
    was_first, was_resolve = _totals(was[0])
    clocks = ticket.sla or SlaV1()
    if clocks.first_response in _UNDECIDED:
        due = ticket.first_response_due
        left = _left(sla.first_response, None if due is None else was[1].between(now, due), was_first)
        clocks = msgspec.structs.replace(clocks, first_response="running")
        ticket = msgspec.structs.replace(ticket, first_response_due=calendar.add(now, left))
    if clocks.resolve in _UNDECIDED:
        due, had = ticket.resolve_due, ticket.resolve_left
        left = _left(sla.resolve, had if due is None else was[1].between(now, due), was_resolve)
        clocks = msgspec.structs.replace(clocks, resolve="running")
        ticket = msgspec.structs.replace(ticket, resolve_due=calendar.add(now, left), resolve_left=None)
    return _answered(msgspec.structs.replace(ticket, sla=clocks))


def _left(total: int, left: float | None, was: int | None) -> float:
    """Return what a clock of `total` seconds has left where one of `was` seconds has `left`; None: there was none.

    It may be less than nothing.
    """
    used = 0.0 if left is None or was is None else max(0.0, was - left)
    return total - used


def _stopped(ticket: TicketV1) -> TicketV1:
    """End the clocks that run: they have no due any more; what was met or ran out stays."""
    if ticket.sla is None:
        return ticket
    clocks = ticket.sla
    if clocks.first_response in _UNDECIDED:
        clocks = msgspec.structs.replace(clocks, first_response="running")
        ticket = msgspec.structs.replace(ticket, first_response_due=None)
    if clocks.resolve in _UNDECIDED:
        clocks = msgspec.structs.replace(clocks, resolve="running")
        ticket = msgspec.structs.replace(ticket, resolve_due=None, resolve_left=None)
    return _with(ticket, None if clocks == SlaV1() else clocks)


def _aged(state: ClockState, due: datetime | None, total: int | None, calendar: Calendar, now: datetime) -> ClockState:
    """Return a clock's state at a moment. `total` None: its severity has no Sla any more, so it only runs out."""
    if state not in _UNDECIDED or due is None:
        return state
    if now >= due:
        return "breached"
    near = total is not None and calendar.between(now, due) <= total / 4
    return "warning" if near else state


def _turns(
    ticket: TicketV1, state: ClockState, due: datetime | None, total: int | None, calendar: Calendar
) -> Iterator[datetime]:
    """Return the moments at which a clock changes by itself."""
    if state not in _UNDECIDED or due is None:
        return
    yield due
    if state == "running" and total is not None:
        yield calendar.add(ticket.opened_at, calendar.between(ticket.opened_at, due) - total / 4)
