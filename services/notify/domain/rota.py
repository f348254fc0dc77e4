"""Who is on call in a schedule, at any moment, past or to come. Pure.

On call is the person of the first layer that has somebody: it has begun and not ended, the moment is within its hours
(`restrict`), and the person whose turn it is neither is absent nor has a public holiday. An absent person's layer has
nobody, so the next one is asked; nobody at all is a gap. Overrides come on top. Who is no longer in the directory
cannot be paged, and so is nowhere on call.

Every clock is one that stands still where others go back: a local time comes at the first moment at which the clock
shows it or a later one. So a handover that is skipped in spring happens as the clock jumps, and one that comes twice in
autumn happens the first time. Turns of days and weeks are by that clock, those of hours by time that passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from shared.directory.model import Absence, Layer, Person, Schedule
from shared.directory.wall_clock import ALWAYS, NEVER, moment, public_holidays

REACH = timedelta(days=35)
"""How far before and after a moment `on_call` looks for the bounds of its shift."""
LONGEST = timedelta(days=400)
"""How much `shifts` tells at once; it bounds the work."""
_CHUNK = timedelta(days=7)
_MOST_BACK, _MOST_AHEAD = 500, 1_500
"""Events of a calendar: turns of a quarter of an hour make 20,000 in half a year, and nobody reads them."""
_HALF_A_YEAR = timedelta(days=182)
_TICK = timedelta(microseconds=1)
_DAY = timedelta(days=1)
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Override:
    """Somebody is on call instead. The later made one counts; those made at one moment are one act, such as a swap."""

    id: UUID
    schedule: str
    person: str
    """On call even if absent: somebody said so on purpose."""
    start: datetime
    until: datetime
    """Excluded."""
    replaces: str | None
    """Only while this person would be on call; None: whoever is, or nobody."""
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Shift:
    """One person on call without a break. Times are UTC."""

    start: datetime
    end: datetime
    """Excluded."""
    person: str | None
    """None: a gap."""
    via: str
    """`layer 1` and so on, or `override`; `gap` where nobody is on call."""


def on_call(schedule: Schedule, people: Mapping[str, Person], overrides: Sequence[Override], at: datetime) -> Shift:
    """Return the shift in force at a moment; a bound that is further away than `REACH` is cut there."""
    at = at.astimezone(UTC)
    first, last = at - REACH, at + REACH
    rota = _rota(schedule, people, overrides, first, last)
    found = rota.stretch(at)
    while found.start > first and _same(before := rota.stretch(found.start - _TICK), found):
        found = replace(found, start=before.start)
    while found.end < last and _same(found, after := rota.stretch(found.end)):
        found = replace(found, end=after.end)
    return replace(found, start=max(first, found.start), end=min(last, found.end))


def shifts(
    schedule: Schedule, people: Mapping[str, Person], overrides: Sequence[Override], start: datetime, end: datetime
) -> list[Shift]:
    """Return the shifts and gaps from `start` to `end`, which cut the first and the last one.

    Raises ValueError for more than `LONGEST`.
    """
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    if end - start > LONGEST:
        raise ValueError(f"ask for at most {LONGEST.days} days of shifts at once")
    rota = _rota(schedule, people, overrides, start, end)
    found: list[Shift] = []
    at = start
    while at < end:
        stretch = rota.stretch(at)
        until = min(end, stretch.end)
        if found and _same(found[-1], stretch):
            found[-1] = replace(found[-1], end=until)
        else:
            found.append(replace(stretch, start=at, end=until))
        at = until
    return found


def person_on_call(
    schedule: Schedule, people: Mapping[str, Person], overrides: Sequence[Override], at: datetime
) -> str | None:
    """Return who is on call at a moment."""
    at = at.astimezone(UTC)
    return _rota(schedule, people, overrides, at, at + _TICK).stretch(at).person


def never_on_call(schedule: Schedule, layer: Layer, at: datetime) -> list[str]:
    """Return who takes turns in a layer, and in half a year and a whole round never within its hours.

    Only where turns are days: those of hours may be out of its hours for some on purpose.
    """
    length = _turn_length(layer)
    if not layer.restrict or layer.rotation == "hourly" or length < _DAY or len(set(layer.people)) == 1:
        return []
    at = max(at.astimezone(UTC), _local(schedule.timezone, layer.start))
    around = math.lcm(len(layer.people) * int(length.total_seconds()), 7 * 86_400)
    # Also beyond the end of a layer that ends: whose turn comes too late for it is not out of its hours.
    end = at + min(LONGEST, max(_HALF_A_YEAR, timedelta(seconds=around)))
    if layer.until is not None and _local(schedule.timezone, layer.until) <= at:
        return []
    waiting, taken = dict.fromkeys(layer.people), set[str]()
    while at < end and waiting:
        turn = _turn(layer, schedule.timezone, at)
        taken.add(turn.person)
        if turn.person in waiting and _is_within(layer, schedule, at, min(end, turn.until)):
            del waiting[turn.person]
        at = turn.until
    return [person for person in waiting if person in taken]


def _is_within(layer: Layer, schedule: Schedule, start: datetime, end: datetime) -> bool:
    """Tell whether a layer is on call at any moment of a time."""
    while start < end:
        hours = _within(layer.restrict, schedule.timezone, schedule.holidays, start)
        if hours.holds:
            return True
        start = hours.until
    return False


class Era(NamedTuple):
    """A time in which one revision of the directory was in force: until the next one's."""

    since: datetime
    schedules: Mapping[str, Schedule]
    people: Mapping[str, Person]


def shifts_over(
    eras: Sequence[Era], name: str, overrides: Sequence[Override], start: datetime, end: datetime
) -> list[Shift]:
    """Return the shifts and gaps of a schedule as they were and will be, each time by the revision of then.

    `eras` are in order; the first counts before it, too. A schedule that a revision does not have is a gap then.
    Raises ValueError for more than `LONGEST`.
    """
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    if end - start > LONGEST:
        raise ValueError(f"ask for at most {LONGEST.days} days of shifts at once")
    found: list[Shift] = []
    for number, era in enumerate(eras):
        since = start if number == 0 else max(start, era.since.astimezone(UTC))
        until = end if number + 1 == len(eras) else min(end, eras[number + 1].since.astimezone(UTC))
        if since >= until:
            continue
        schedule = era.schedules.get(name)
        if schedule is None:
            _join(found, [Shift(since, until, None, "gap")])
        else:
            _join(found, shifts(schedule, era.people, overrides, since, until))
    return found


def shift_end(eras: Sequence[Era], name: str, overrides: Sequence[Override], at: datetime) -> datetime | None:
    """Return when the shift that is in force at a moment ends; None: not in sight, such as of somebody alone."""
    reach = _DAY
    while True:
        (shift, *later) = shifts_over(eras, name, overrides, at, at + reach)
        if later:
            return shift.end
        if reach >= LONGEST:
            return None
        reach = min(LONGEST, reach * 4)


def some_shifts(
    eras: Sequence[Era], name: str, overrides: Sequence[Override], start: datetime, end: datetime, most: int
) -> tuple[list[Shift], datetime | None]:
    """Return about so many shifts at the most, and where the next ones begin; None: that was all."""
    found, until = list[Shift](), start.astimezone(UTC)
    while until < end:
        if len(found) > most:
            return found[:-1], found[-1].start
        since, until = until, min(end, until + _CHUNK)
        _join(found, shifts_over(eras, name, overrides, since, until))
    return found, None


def calendar_shifts(
    eras: Sequence[Era], name: str, overrides: Sequence[Override], at: datetime, back: datetime, ahead: datetime
) -> list[Shift]:
    """Return the shifts about a moment for a calendar, whole but for the last: some 500 before it and 1,500 after it.

    The first begins where it began, however long ago, so that it is the same event tomorrow; what has no beginning
    since the year before last begins with that year.
    """
    at = at.astimezone(UTC)
    found, until = list[Shift](), at
    while until < ahead and len(found) < _MOST_AHEAD:
        since, until = until, min(ahead, until + _CHUNK)
        _join(found, shifts_over(eras, name, overrides, since, until))
    before, since = list[Shift](), at
    while since > back and len(before) < _MOST_BACK:
        since, until = max(back, since - _CHUNK), since
        before = _joined(shifts_over(eras, name, overrides, since, until), before)
    return _begun(eras, name, overrides, _joined(before, found))


def _begun(eras: Sequence[Era], name: str, overrides: Sequence[Override], found: list[Shift]) -> list[Shift]:
    """Return shifts with the first one as it began."""
    anchor = datetime((found[0].start - LONGEST).year, 1, 1, tzinfo=UTC)
    reach = _DAY
    while found[0].start > anchor:
        since = max(anchor, found[0].start - reach)
        joined = _joined(shifts_over(eras, name, overrides, since, found[0].start), found[:1])
        found[0] = joined[-1]
        if len(joined) > 1:
            break
        reach = min(_CHUNK, reach * 2)
    return found


def _joined(one: list[Shift], other: Sequence[Shift]) -> list[Shift]:
    _join(one, other)
    return one


def _join(found: list[Shift], later: Sequence[Shift]) -> None:
    """Add shifts that follow at once; what goes on is one."""
    if found and later and _same(found[-1], later[0]):
        found[-1] = replace(found[-1], end=later[0].end)
        later = later[1:]
    found += later


def is_absent(person: Person, at: datetime) -> bool:
    """Tell whether a moment is within one of a person's absences."""
    return bool(person.absences) and _away(person.timezone, person.absences, at.astimezone(UTC)).holds


def absent_until(person: Person, at: datetime) -> datetime | None:
    """Return when a person who is absent is back, from absences that follow at once too; None: is not absent."""
    away = _away(person.timezone, person.absences, at.astimezone(UTC))
    return away.until if away.holds else None


def next_absence(person: Person, at: datetime) -> datetime | None:
    """Return when a person is next away, after a moment; None: not planned."""
    return next((since for since, _ in _absences(person.timezone, person.absences) if since > at), None)


def absences_between(person: Person, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Return when a person is away between two moments, uncut and in order; absences that follow at once are one."""
    away = _absences(person.timezone, person.absences)
    return [(since, until) for since, until in away if since < end and until > start]


def on_holiday(person: Person, at: datetime) -> bool:
    """Tell whether a moment is on one of a person's public holidays, by the person's clock."""
    return person.holidays is not None and _holiday(person.holidays, person.timezone, at.astimezone(UTC)).holds


def quiet_until(person: Person, at: datetime) -> datetime | None:
    """Return the end of a person's quiet hours, in UTC, if a moment is within them."""
    if person.quiet_hours is None:
        return None
    quiet = _within((person.quiet_hours,), person.timezone, None, at.astimezone(UTC))
    return quiet.until if quiet.holds else None


def next_clock(zone: str, clock: str, after: datetime) -> datetime:
    """Return the next moment, in UTC, at which the clock of a zone comes to a time such as 08:00."""
    after = after.astimezone(UTC)
    day, shown = _today(zone, after).day, time.fromisoformat(clock)
    while (found := moment(zone, datetime.combine(day, shown))) <= after:
        day += _DAY
    return found


class _Stretch(NamedTuple):
    """Whether something holds, and a time in which that does not change; not always the longest such."""

    holds: bool
    since: datetime
    until: datetime

    def cut(self, other: _Stretch) -> _Stretch:
        """Return what holds when another does too, for as long as neither changes."""
        return _Stretch(self.holds and other.holds, max(self.since, other.since), min(self.until, other.until))


class _Day(NamedTuple):
    """A local day. Where clocks go back over midnight, it began when it began first."""

    day: date
    since: datetime
    until: datetime


class _Turn(NamedTuple):
    person: str
    since: datetime
    until: datetime


class _Hours(NamedTuple):
    """Hours of some days, by minutes after the midnight of the day on which they begin."""

    days: frozenset[int] | None
    """0 is Monday; None: of every day, or of holidays."""
    on_holidays: bool
    opens: int
    closes: int
    """More than 1440 where they pass midnight."""

    def of(self, day: date, holidays: str | None) -> bool:
        """Tell whether they begin on a day."""
        if self.days is None and not self.on_holidays:
            return True
        if holidays is not None and day in public_holidays(holidays, day.year):
            return self.on_holidays
        return self.days is not None and day.weekday() in self.days


@dataclass(frozen=True, slots=True)
class _Rota:
    """A schedule, with the overrides that matter."""

    schedule: Schedule
    people: Mapping[str, Person]
    acts: tuple[tuple[Override, ...], ...]
    """Overrides by when they were made."""

    def stretch(self, at: datetime) -> Shift:
        """Return who is on call at a moment, and a time about it in which nothing changes: a shift or a part of one."""
        found = self._by_layers(at)
        start, end, person, via = found.start, found.end, found.person, found.via
        for act in self.acts:
            before = person
            for override in act:
                if at < override.start:
                    end = min(end, override.start)
                elif at >= override.until:
                    start = max(start, override.until)
                else:
                    start, end = max(start, override.start), min(end, override.until)
                    if override.replaces is None or override.replaces == before:
                        person, via = override.person, "override"
        return Shift(start, end, person, via)

    def _by_layers(self, at: datetime) -> Shift:
        start, end = ALWAYS, NEVER
        for number, layer in enumerate(self.schedule.layers, 1):
            works = _runs(layer, self.schedule, at)
            person = None
            if works.holds:
                turn = _turn(layer, self.schedule.timezone, at)
                person = turn.person
                works = works.cut(self._reachable(person, at)).cut(_Stretch(True, turn.since, turn.until))
            start, end = max(start, works.since), min(end, works.until)
            if works.holds:
                return Shift(start, end, person, f"layer {number}")
        return Shift(start, end, None, "gap")

    def _reachable(self, id: str, at: datetime) -> _Stretch:
        """Tell whether somebody takes a turn: is in the directory, not absent and has no holiday."""
        person = self.people.get(id)
        if person is None:
            return _Stretch(False, ALWAYS, NEVER)
        here = _Stretch(True, ALWAYS, NEVER)
        if person.absences:
            here = here.cut(_not(_away(person.timezone, person.absences, at)))
        if person.holidays is not None:
            here = here.cut(_not(_holiday(person.holidays, person.timezone, at)))
        return here


def _rota(
    schedule: Schedule, people: Mapping[str, Person], overrides: Sequence[Override], start: datetime, end: datetime
) -> _Rota:
    """Keep the overrides that say something between two moments."""
    near = [
        replace(override, start=override.start.astimezone(UTC), until=override.until.astimezone(UTC))
        for override in overrides
        if override.schedule == schedule.name
        and override.person in people
        and max(start, override.start) < min(end, override.until)
    ]
    near.sort(key=lambda override: (override.made_at, override.id))
    acts = tuple(tuple(act) for _, act in groupby(near, key=lambda override: override.made_at))
    return _Rota(schedule, people, acts)


def _same(one: Shift, other: Shift) -> bool:
    return (one.person, one.via) == (other.person, other.via)


def _not(stretch: _Stretch) -> _Stretch:
    return _Stretch(not stretch.holds, stretch.since, stretch.until)


def _runs(layer: Layer, schedule: Schedule, at: datetime) -> _Stretch:
    """Tell whether a layer is on call, whoever's turn it is."""
    begins = _local(schedule.timezone, layer.start)
    if at < begins:
        return _Stretch(False, ALWAYS, begins)
    ends = NEVER if layer.until is None else _local(schedule.timezone, layer.until)
    if at >= ends:
        return _Stretch(False, ends, NEVER)
    alive = _Stretch(True, begins, ends)
    if not layer.restrict:
        return alive
    return alive.cut(_within(layer.restrict, schedule.timezone, schedule.holidays, at))


def _turn(layer: Layer, zone: str, at: datetime) -> _Turn:
    """Return whose turn it is in a layer that has begun."""
    if len(set(layer.people)) == 1:
        return _Turn(layer.people[0], ALWAYS, NEVER)
    begins = _local(zone, layer.start)
    length = _turn_length(layer)
    if layer.rotation == "hourly" or length % _DAY:
        number = (at - begins) // length
        since, until = begins + number * length, begins + (number + 1) * length
    else:
        wall = datetime.fromisoformat(layer.start)
        # Where clocks went back, or are about to jump, the clock alone may tell the turn before.
        number = (at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) - wall) // length
        since = moment(zone, wall + number * length)
        while (until := moment(zone, wall + (number + 1) * length)) <= at:
            number, since = number + 1, until
    return _Turn(layer.people[number % len(layer.people)], since, until)


def _turn_length(layer: Layer) -> timedelta:
    match layer.rotation:
        case "hourly":
            return timedelta(hours=layer.every)
        case "daily":
            return timedelta(days=layer.every)
        case "weekly":
            return timedelta(weeks=layer.every)
        case "custom":
            assert layer.turn is not None  # the directory makes sure
            return timedelta(seconds=layer.turn)


def _within(restrict: tuple[str, ...], zone: str, holidays: str | None, at: datetime) -> _Stretch:
    """Tell whether a moment is within any of some hours."""
    today = _today(zone, at)
    hours = _stretches(restrict, zone, holidays, today.day - _DAY) + _stretches(restrict, zone, holidays, today.day)
    around = [(since, until) for since, until in hours if since <= at < until]
    if around:
        return _Stretch(True, min(since for since, _ in around), max(until for _, until in around))
    since = max((until for _, until in hours if until <= at), default=today.since)
    until = min((since for since, _ in hours if since > at), default=today.until)
    return _Stretch(False, max(since, today.since), min(until, today.until))


@lru_cache(maxsize=4096)
def _stretches(
    restrict: tuple[str, ...], zone: str, holidays: str | None, day: date
) -> tuple[tuple[datetime, datetime], ...]:
    """Return the hours that begin on a day."""
    midnight = datetime.combine(day, time())
    return tuple(
        (
            moment(zone, midnight + timedelta(minutes=hours.opens)),
            moment(zone, midnight + timedelta(minutes=hours.closes)),
        )
        for hours in map(_hours, restrict)
        if hours.of(day, holidays)
    )


@lru_cache(maxsize=1024)
def _hours(text: str) -> _Hours:
    days, _, clock = text.rpartition(" ")
    opens, closes = (int(part[:2]) * 60 + int(part[3:]) for part in clock.split("-"))
    if closes <= opens:
        closes += 1440
    if days in ("", "holidays"):
        return _Hours(None, days == "holidays", opens, closes)
    first, _, last = days.partition("-")
    start, end = _WEEKDAYS.index(first), _WEEKDAYS.index(last or first)
    return _Hours(frozenset((start + n) % 7 for n in range((end - start) % 7 + 1)), False, opens, closes)


def _away(zone: str, absences: tuple[Absence, ...], at: datetime) -> _Stretch:
    since, until = ALWAYS, NEVER
    for starts, ends in _absences(zone, absences):
        if starts <= at < ends:
            return _Stretch(True, starts, ends)
        if ends <= at:
            since = ends
        else:
            until = min(until, starts)
    return _Stretch(False, since, until)


@lru_cache(maxsize=1024)
def _absences(zone: str, absences: tuple[Absence, ...]) -> tuple[tuple[datetime, datetime], ...]:
    """Return when a person is away, in order; absences that overlap or follow at once are one."""
    joined: list[tuple[datetime, datetime]] = []
    for since, until in sorted((_local(zone, absence.start), _local(zone, absence.until)) for absence in absences):
        if joined and since <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], until))
        elif since < until:
            joined.append((since, until))
    return tuple(joined)


def _holiday(holidays: str, zone: str, at: datetime) -> _Stretch:
    today = _today(zone, at)
    return _Stretch(today.day in public_holidays(holidays, today.day.year), today.since, today.until)


def _today(zone: str, at: datetime) -> _Day:
    day = at.astimezone(ZoneInfo(zone)).date()
    while (until := moment(zone, datetime.combine(day + _DAY, time()))) <= at:
        day += _DAY
    return _Day(day, moment(zone, datetime.combine(day, time())), until)


def _local(zone: str, text: str) -> datetime:
    return moment(zone, datetime.fromisoformat(text))
