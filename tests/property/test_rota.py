"""Somebody is on call, and it is who a person with the rota and a clock on the wall would say, in every time zone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

import pytest
from holidays import country_holidays
from hypothesis import assume, given
from hypothesis import strategies as st

from services.notify.domain.rota import (
    LONGEST,
    REACH,
    Era,
    Override,
    Shift,
    absences_between,
    absent_until,
    calendar_shifts,
    is_absent,
    never_on_call,
    next_absence,
    next_clock,
    on_call,
    on_holiday,
    person_on_call,
    quiet_until,
    shift_end,
    shifts,
    shifts_over,
    some_shifts,
)
from shared.directory.model import Absence, Layer, Person, Schedule

WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ZONES = (
    "UTC",
    "Europe/Helsinki",
    "America/New_York",
    "Asia/Kathmandu",  # 05:45 ahead
    "Australia/Lord_Howe",  # clocks change by half an hour
    "America/Havana",  # they change at midnight
    "America/St_Johns",  # until 2011 a minute after it
    "Africa/Casablanca",  # and for Ramadan
    "Pacific/Apia",  # had no 30 December 2011
)
HELSINKI = "Europe/Helsinki"
PEOPLE = ("ann", "ben", "cem")
MICROSECOND, MINUTE, HOUR, DAY = timedelta(microseconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@cache
def changes(zone: str, first: int, years: int) -> tuple[datetime, ...]:
    """Return the moments at which a zone's clocks change."""
    tz, found = ZoneInfo(zone), []
    days = [datetime(first, 1, 1, tzinfo=UTC) + DAY * n for n in range(366 * years)]
    offsets = [day.astimezone(tz).utcoffset() for day in days]
    for (early, was), (late, _) in pairwise(zip(days, offsets, strict=True)):
        while late.astimezone(tz).utcoffset() != was and late - early > timedelta(seconds=1):
            middle = early + (late - early) // 2
            early, late = (middle, late) if middle.astimezone(tz).utcoffset() == was else (early, middle)
        if late.astimezone(tz).utcoffset() != was:
            found.append(late.replace(microsecond=0))
    return tuple(found)


def wall(zone: str, at: datetime) -> datetime:
    return at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def local(zone: str, text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def somebody(id: str = "ann", timezone: str = "UTC", **fields: str | tuple[Absence, ...] | None) -> Person:
    return Person(id, id.title(), timezone, "en", **fields)  # type: ignore[arg-type]


EVERYBODY: Mapping[str, Person] = {id: somebody(id) for id in PEOPLE}


def override(person: str, start: datetime, until: datetime, *, replaces: str | None = None, made: int = 0) -> Override:
    made_at = datetime(2026, 1, 1, 0, made, tzinfo=UTC)
    return Override(UUID(int=60 - made), "watch", person, start, until, replaces, made_at)


# ---- what hypothesis draws

quarters = st.integers(0, 95).map(lambda n: clock(15 * n))


@st.composite
def hours(draw: st.DrawFn) -> str:
    first, last = draw(quarters), draw(quarters | st.just("24:00"))
    assume(first != last)
    day, other = draw(st.sampled_from(WEEK)), draw(st.sampled_from(WEEK))
    return f"{draw(st.sampled_from(('', '', 'holidays ', f'{day} ', f'{day}-{other} ')))}{first}-{last}"


@st.composite
def anchors(draw: st.DrawFn, zone: str) -> datetime:
    """A moment, mostly near one at which clocks change, or near holidays."""
    near = (*changes(zone, 2006, 22), *(datetime(2026, m, d, tzinfo=UTC) for m, d in ((1, 1), (5, 1), (12, 25))))
    return draw(st.sampled_from(near)) + timedelta(minutes=draw(st.integers(-2000, 1500)))


def locals_near(zone: str, at: datetime, days: int) -> st.SearchStrategy[str]:
    """Local times on a quarter of an hour in the days about a moment."""
    shown = wall(zone, at).replace(minute=0, second=0, microsecond=0)
    return st.integers(-96 * days, 96 * days).map(lambda n: f"{shown + timedelta(minutes=15 * n):%Y-%m-%dT%H:%M}")


@st.composite
def layers(draw: st.DrawFn, zone: str, at: datetime) -> Layer:
    rotation = draw(st.sampled_from(("hourly", "daily", "weekly", "custom")))
    begins = draw(locals_near(zone, at - DAY * draw(st.sampled_from((1, 3, 10))), 2))
    return Layer(
        rotation,
        begins,
        tuple(draw(st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=3))),
        1 if rotation == "custom" else draw(st.integers(1, 3)),
        60 * draw(st.sampled_from((45, 720, 1440, 2160, 2880))) if rotation == "custom" else None,
        tuple(draw(st.lists(hours(), max_size=2))),
        draw(st.none() | st.none() | locals_near(zone, at, 3).filter(lambda until: until > begins)),
    )


@st.composite
def absences(draw: st.DrawFn, zone: str, at: datetime) -> tuple[Absence, ...]:
    pairs = draw(st.lists(st.tuples(locals_near(zone, at, 3), locals_near(zone, at, 3)).map(sorted), max_size=2))
    return tuple(Absence(start, until) for start, until in pairs)


@st.composite
def everybody(draw: st.DrawFn, at: datetime) -> Mapping[str, Person]:
    zones = {id: draw(st.sampled_from(ZONES)) for id in PEOPLE}
    return {
        id: somebody(
            id, zones[id], absences=draw(absences(zones[id], at)), holidays=draw(st.sampled_from((None, "FI")))
        )
        for id in PEOPLE[: draw(st.sampled_from((3, 3, 3, 2)))]
    }


@st.composite
def overrides_near(draw: st.DrawFn, at: datetime) -> list[Override]:
    found: list[Override] = []
    for n in range(draw(st.integers(0, 3))):
        start = at.replace(second=0, microsecond=0) + MINUTE * draw(st.integers(-3000, 3000))
        until = start + MINUTE * draw(st.integers(1, 3000))
        replaces = draw(st.none() | st.sampled_from(PEOPLE))
        made = draw(st.integers(0, 2))
        one = override(draw(st.sampled_from(PEOPLE)), start, until, replaces=replaces, made=made)
        found.append(Override(UUID(int=n), one.schedule, one.person, start, until, replaces, one.made_at))
    return found


Case = tuple[Schedule, Mapping[str, Person], list[Override], datetime]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A schedule, its people and overrides, and a moment about which things happen."""
    zone = draw(st.sampled_from(ZONES))
    at = draw(anchors(zone))
    stack = tuple(draw(st.lists(layers(zone, at), min_size=1, max_size=3)))
    schedule = Schedule("watch", zone, stack, draw(st.sampled_from((None, "FI"))))
    return schedule, draw(everybody(at)), draw(overrides_near(at)), at


# ---- the same, told by somebody who watches clocks, minute by minute


def watched_clock(zone: str, start: datetime, count: int, step: timedelta = MINUTE) -> list[datetime]:
    """Return what a clock shows each minute, that stands still where others go back."""
    shown, found = wall(zone, start), list[datetime]()
    for n in range(count):
        shown = max(shown, wall(zone, start + step * n))
        found.append(shown)
    return found


@cache
def public_holidays(country: str) -> Mapping[date, str]:
    return country_holidays(country, years=range(2005, 2030))


def within(text: str, shown: datetime, holidays: str | None) -> bool:
    days, _, span = text.rpartition(" ")
    opens, closes = span.split("-")
    now = f"{shown:%H:%M}"

    def begins_on(day: date) -> bool:
        holiday = holidays is not None and day in public_holidays(holidays)
        if days == "":
            return True
        if days == "holidays" or holiday:
            return days == "holidays" and holiday
        first, last = WEEK.index(days[:3]), WEEK.index(days[-3:])
        return day.weekday() in ([*range(first, last + 1)] if first <= last else [*range(first, 7), *range(last + 1)])

    if opens < closes:
        return begins_on(shown.date()) and opens <= now < closes
    return (begins_on(shown.date()) and now >= opens) or (begins_on(shown.date() - DAY) and now < closes)


def turns(layer: Layer, clock_: Sequence[datetime]) -> Iterator[str | None]:
    """Return whose turn it is each minute: hand over whenever the time for it has come."""
    by_clock = {"daily": 1440, "weekly": 7 * 1440}.get(layer.rotation, 0) * layer.every
    passing = 60 * layer.every if layer.rotation == "hourly" else 0
    if layer.turn is not None:
        by_clock, passing = (0, layer.turn // 60) if layer.turn % 86400 else (layer.turn // 60, 0)
    handover, number, left = datetime.fromisoformat(layer.start), -1, 0
    for shown in clock_:
        if by_clock:
            while shown >= handover:
                handover, number = handover + MINUTE * by_clock, number + 1
        elif number >= 0 or shown >= handover:
            number, left = (number + 1, passing - 1) if left == 0 else (number, left - 1)
        yield layer.people[number % len(layer.people)] if number >= 0 else None


def told(case: Case, start: datetime, minutes: int) -> list[tuple[str | None, str]]:
    """Return who is on call each minute from a whole minute on."""
    schedule, people, overrides, _ = case
    ahead = 20 * 1440
    clock_ = watched_clock(schedule.timezone, start - MINUTE * ahead, ahead + minutes)
    rows = [list(turns(layer, clock_))[ahead:] for layer in schedule.layers]
    own = {id: watched_clock(one.timezone, start - DAY, 1440 + minutes)[1440:] for id, one in people.items()}

    def can(id: str, n: int) -> bool:
        one, now = people[id], f"{own[id][n]:%Y-%m-%dT%H:%M}"
        off = one.holidays is not None and own[id][n].date() in public_holidays(one.holidays)
        return not off and not any(absence.start <= now < absence.until for absence in one.absences)

    found: list[tuple[str | None, str]] = []
    for n, shown in enumerate(clock_[ahead:]):
        now: tuple[str | None, str] = (None, "gap")
        for number, layer in reversed([*enumerate(schedule.layers)]):
            id = rows[number][n]
            ended = layer.until is not None and f"{shown:%Y-%m-%dT%H:%M}" >= layer.until
            on = not layer.restrict or any(within(text, shown, schedule.holidays) for text in layer.restrict)
            if id is not None and id in people and on and not ended and can(id, n):
                now = (id, f"layer {number + 1}")
        for made in sorted({one.made_at for one in overrides}):
            was = now[0]
            for one in sorted((one for one in overrides if one.made_at == made), key=lambda one: one.id):
                in_force = one.start <= start + MINUTE * n < one.until and one.person in people
                if in_force and one.replaces in (None, was):
                    now = (one.person, "override")
        found.append(now)
    return found


def each_minute(found: Sequence[Shift]) -> list[tuple[str | None, str]]:
    return [(one.person, one.via) for one in found for _ in range((one.end - one.start) // MINUTE)]


@given(cases())
def test_on_call_is_who_a_person_with_a_rota_and_a_wall_clock_says(case: Case) -> None:
    schedule, people, overrides, at = case
    start = at.replace(second=0, microsecond=0) - 1500 * MINUTE
    found = shifts(schedule, people, overrides, start, start + 3000 * MINUTE)
    assert all(one.start.second == one.start.microsecond == 0 for one in found)
    assert each_minute(found) == told(case, start, 3000)


# ---- shifts


def assert_tiles(found: Sequence[Shift], start: datetime, end: datetime) -> None:
    assert (found[0].start, found[-1].end) == (start, end)
    assert all(one.start < one.end and one.start.tzinfo is one.end.tzinfo is UTC for one in found)
    assert all((one.person is None) == (one.via == "gap") for one in found)
    for one, following in pairwise(found):
        assert one.end == following.start
        assert (one.person, one.via) != (following.person, following.via)


@given(cases(), st.integers(0, 10**13), st.integers(1, 20 * 86400 * 10**6))
def test_shifts_leave_no_hole_and_overlap_nowhere(case: Case, before: int, length: int) -> None:
    schedule, people, overrides, at = case
    start = at - timedelta(microseconds=before % (10 * 86400 * 10**6))
    end = start + timedelta(microseconds=length)
    assert_tiles(shifts(schedule, people, overrides, start, end), start, end)
    assert shifts(schedule, people, overrides, end, start) == []


@given(cases(), st.integers(-(4 * 86400) * 10**6, 4 * 86400 * 10**6))
def test_the_shift_in_force_is_the_one_in_the_list(case: Case, offset: int) -> None:
    schedule, people, overrides, middle = case
    at = middle + timedelta(microseconds=offset)
    listed = shifts(schedule, people, overrides, at - REACH, at + REACH)
    assert [one for one in listed if one.start <= at < one.end] == [on_call(schedule, people, overrides, at)]
    for one in listed:
        for moment in (one.start, one.end - MICROSECOND):
            seen = on_call(schedule, people, overrides, moment)
            assert (seen.person, seen.via) == (one.person, one.via)
            assert seen.start <= max(one.start, moment - REACH)
            assert seen.end >= min(one.end, moment + REACH)


@given(cases(), st.integers(0, 10**13))
def test_a_list_is_the_same_in_pieces(case: Case, cut: int) -> None:
    schedule, people, overrides, at = case
    start, end = at - 5 * DAY, at + 5 * DAY
    middle = start + timedelta(microseconds=cut % (10 * 86400 * 10**6 - 1) + 1)
    whole = shifts(schedule, people, overrides, start, end)
    parts = [*shifts(schedule, people, overrides, start, middle), *shifts(schedule, people, overrides, middle, end)]
    index = next(n for n, one in enumerate(parts) if one.end == middle)
    one, following = parts[index : index + 2]
    if (one.person, one.via) == (following.person, following.via):
        parts[index : index + 2] = [Shift(one.start, following.end, one.person, one.via)]
    assert parts == whole


def era(case: Case, since: datetime) -> Era:
    return Era(since, {case[0].name: case[0]}, case[1])


@given(cases(), cases(), st.integers(-5 * 1440, 5 * 1440), st.booleans())
def test_each_time_is_told_by_the_revision_of_then(one: Case, other: Case, minutes: int, left: bool) -> None:
    """What was is not changed by a later edit, in shifts as at each moment; a schedule that is gone has nobody."""
    at, overrides = one[3], one[2]
    start, turns_over, end = at - 5 * DAY, at + MINUTE * minutes, at + 5 * DAY
    later = Era(turns_over, {}, {}) if left else era(other, turns_over)
    found = shifts_over([era(one, at - 99 * DAY), later], "watch", overrides, start, end)
    if start < end:
        assert_tiles(found, start, end)
    before = shifts(one[0], one[1], overrides, start, turns_over)
    assert each_piece([f for f in found if f.start < turns_over], turns_over) == each_piece(before, turns_over)
    after = [] if left else shifts(other[0], other[1], overrides, turns_over, end)
    for shift in after:
        assert [(f.person, f.via) for f in found if f.start <= shift.start < f.end] == [(shift.person, shift.via)]
    alone = shifts_over([era(one, at)], "watch", overrides, start, end)
    assert alone == shifts(one[0], one[1], overrides, start, end), "the first counts before it, too"


def each_piece(found: Sequence[Shift], until: datetime) -> list[tuple[datetime, datetime, str | None, str]]:
    return [(one.start, min(one.end, until), one.person, one.via) for one in found]


@given(cases(), st.integers(0, 4 * 1440), st.integers(1, 60))
def test_a_long_list_is_told_in_parts(case: Case, minutes: int, most: int) -> None:
    """Nothing is told twice or left out, and no answer is much longer than was asked for."""
    schedule, _, overrides, at = case
    eras, start, end = [era(case, at)], at - MINUTE * minutes, at + 20 * DAY
    found, then = list[Shift](), start
    while then is not None:
        part, following = some_shifts(eras, "watch", overrides, then, end, most)
        assert part
        found += part
        assert following is None or following > then
        then = following
    assert found == shifts(schedule, case[1], overrides, start, end)


@given(cases(), st.integers(-3 * 1440, 3 * 1440))
def test_a_shift_ends_when_somebody_else_begins(case: Case, minutes: int) -> None:
    """Also one that lasts longer than anybody looks: then there is no end in sight, and not one that moves on."""
    schedule, people, overrides, middle = case
    at = middle + MINUTE * minutes
    ends = shift_end([era(case, at)], "watch", overrides, at)
    (first, *later) = shifts(schedule, people, overrides, at, at + LONGEST)
    assert ends == (first.end if later else None)
    assert person_on_call(schedule, people, overrides, at) == first.person


WHOLE = Layer("weekly", "2026-01-05T09:00", PEOPLE, every=6)


@pytest.mark.parametrize(
    ("layer", "began"),
    [
        (WHOLE, "2026-08-03T09:00"),  # a turn of 42 days
        (Layer("custom", "2026-01-05T09:00", PEOPLE, turn=91 * 86400), "2026-07-06T09:00"),
        (Layer("weekly", "2026-01-05T09:00", ("ann",)), "2026-01-05T09:00"),  # one person, for good
        (Layer("weekly", "2019-01-07T09:00", ("ann",)), "2025-01-01T00:00"),  # and for longer than anybody looks back
        (Layer("weekly", "2019-01-07T09:00", ("ann",), restrict=("00:00-24:00",)), "2025-01-01T00:00"),
        (Layer("daily", "2026-01-05T09:00", PEOPLE), "2026-08-06T09:00"),
    ],
)
def test_a_calendar_has_the_shift_in_force_as_it_began(layer: Layer, began: str) -> None:
    """It is the same event tomorrow: it begins where it began, and not where the calendar does."""
    watch = Schedule("watch", "UTC", (layer,))
    eras = [Era(local("UTC", "2026-01-01T00:00"), {"watch": watch}, EVERYBODY)]
    starts: list[datetime] = []
    for day in range(2):
        now = local("UTC", "2026-09-05T12:00") + DAY * day
        found = calendar_shifts(eras, "watch", [], now, now - 30 * DAY, now + 180 * DAY)
        (in_force,) = (one for one in found if one.start <= now < one.end)
        assert in_force.person is not None
        assert_tiles(found, found[0].start, now + 180 * DAY)
        starts.append(found[0].start)
    assert starts[0] == local("UTC", began)
    assert layer.rotation == "daily" or starts[1] == starts[0]


def test_a_calendar_is_no_longer_than_anybody_reads() -> None:
    """Turns of a quarter of an hour are 20,000 in half a year: those about now are told, and quickly."""
    watch = Schedule("watch", HELSINKI, (Layer("custom", "2026-01-05T09:00", PEOPLE, turn=900),))
    eras = [Era(local("UTC", "2026-01-01T00:00"), {"watch": watch}, EVERYBODY)]
    now = local("UTC", "2026-09-05T12:07")
    found = calendar_shifts(eras, "watch", [], now, now - 30 * DAY, now + 180 * DAY)
    assert 2_000 <= len(found) <= 4_000
    assert found[0].start < now - 5 * DAY
    assert found[-1].end > now + 10 * DAY
    assert any(one.start <= now < one.end and one.end - one.start == 15 * MINUTE for one in found)


@given(
    st.sampled_from(ZONES),
    st.integers(2, 9),
    st.sampled_from(("Mon-Fri 09:00-17:00", "Sat-Sun 08:00-20:00", "Mon 09:00-09:15", "18:00-08:00")),
    st.integers(1, 4),
    st.integers(0, 9 * 1440),
)
def test_who_never_has_a_turn_is_found(zone: str, many: int, restrict: str, every: int, minutes: int) -> None:
    """A round that is in step with the week leaves some out for good; whoever has a turn at some time is not told."""
    names = tuple(f"p{n}" for n in range(many))
    at = local(zone, "2026-01-05T09:00") + MINUTE * minutes
    layer = Layer("daily", "2026-01-05T09:00", names, every=every, restrict=(restrict,))
    watch = Schedule("watch", zone, (layer,))
    people = {id: somebody(id) for id in names}
    seen = {one.person for one in shifts(watch, people, [], at, at + LONGEST)}
    assert set(never_on_call(watch, layer, at)) == set(names) - seen


def test_seven_people_take_turns_of_a_day_in_an_office() -> None:
    """Whoever has Saturdays and Sundays never works; turns of hours leave some out on purpose."""
    layer = Layer("daily", "2026-01-05T00:00", tuple("abcdefg"), restrict=("Mon-Fri 08:00-16:00",))
    watch = Schedule("watch", HELSINKI, (layer,))
    assert never_on_call(watch, layer, datetime(2026, 9, 5, tzinfo=UTC)) == ["f", "g"]
    hourly = Layer("hourly", "2026-01-05T00:00", PEOPLE, every=8, restrict=("08:00-16:00",))
    assert never_on_call(watch, hourly, datetime(2026, 9, 5, tzinfo=UTC)) == []


def test_more_than_can_be_told_at_once_is_refused() -> None:
    watch = Schedule("watch", "UTC", (Layer("daily", "2026-01-01T00:00", PEOPLE),))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert len(shifts(watch, EVERYBODY, [], start, start + LONGEST)) == LONGEST.days
    with pytest.raises(ValueError, match="at most 400 days"):
        shifts(watch, EVERYBODY, [], start, start + LONGEST + MICROSECOND)


# ---- turns


@given(st.data())
def test_turns_of_days_and_weeks_are_in_order_and_end_by_the_clock(data: st.DataObject) -> None:
    """A turn is longer or shorter only by what the clocks changed by meanwhile, however long ago the rota began."""
    zone = data.draw(st.sampled_from(ZONES))
    at = data.draw(anchors(zone))
    assume(not (zone == "Pacific/Apia" and at.year == 2011))  # a day that never was; below
    began = f"{wall(zone, at) - timedelta(minutes=15 * data.draw(st.integers(96, 96 * 4000))):%Y-%m-%dT%H:%M}"
    every = data.draw(st.integers(1, 3))
    layer, length = data.draw(
        st.sampled_from(
            (
                (Layer("daily", began, PEOPLE, every), DAY * every),
                (Layer("weekly", began, PEOPLE, every), 7 * DAY * every),
            )
        )
    )
    found = shifts(Schedule("watch", zone, (layer,)), EVERYBODY, [], at - 2 * length, at + 3 * length)
    for one, following in pairwise([shift for shift in found if shift.person is not None]):
        assert (PEOPLE.index(one.person or "") + 1) % len(PEOPLE) == PEOPLE.index(following.person or "")
    for one in found[1:-1]:
        if one.person is not None:
            assert_shows(zone, one.start, layer.start[-5:])
            assert_shows(zone, one.end, layer.start[-5:])
            assert abs(one.end - one.start - length) <= HOUR


def assert_shows(zone: str, at: datetime, shown: str) -> None:
    """Check that a clock comes to a time at a moment, or jumps over it."""
    after, before = wall(zone, at), wall(zone, at - MICROSECOND)
    if f"{after:%H:%M:%S.%f}" != f"{shown}:00.000000":
        jumped = after - before - MICROSECOND
        assert jumped > timedelta(), (zone, at, shown)
        skipped = datetime.combine(after.date(), datetime.strptime(shown, "%H:%M").time())  # noqa: DTZ007
        assert any(before < moment < after for moment in (skipped, skipped - DAY)), (zone, at, shown)


@given(st.data())
def test_turns_of_hours_are_of_time_that_passes(data: st.DataObject) -> None:
    """Whatever clocks do, each works as long as the others."""
    zone = data.draw(st.sampled_from(ZONES))
    at = data.draw(anchors(zone))
    start = f"{wall(zone, at) - timedelta(minutes=data.draw(st.integers(1, 10**6))):%Y-%m-%dT%H:%M}"
    if data.draw(st.booleans()):
        every = data.draw(st.integers(1, 36))
        layer, length = Layer("hourly", start, PEOPLE, every), HOUR * every
    else:
        turn = data.draw(st.integers(600, 10**5).filter(lambda n: n % 86400))
        layer, length = Layer("custom", start, PEOPLE, 1, turn), timedelta(seconds=turn)
    found = shifts(Schedule("watch", zone, (layer,)), EVERYBODY, [], at - 2 * DAY, at + 2 * DAY)
    turns_ = [one for one in found if one.person is not None]
    assert all(one.end - one.start == length for one in turns_[1:-1])
    for one, following in pairwise(turns_):
        assert (PEOPLE.index(one.person or "") + 1) % len(PEOPLE) == PEOPLE.index(following.person or "")


def test_a_custom_turn_of_whole_days_ends_by_the_clock() -> None:
    watch = Schedule("watch", HELSINKI, (Layer("custom", "2026-03-27T09:00", PEOPLE, 1, 2 * 86400),))
    found = on_call(watch, EVERYBODY, [], local(HELSINKI, "2026-03-28T12:00"))
    assert found == Shift(local(HELSINKI, "2026-03-27T09:00"), local(HELSINKI, "2026-03-29T09:00"), "ann", "layer 1")
    assert found.end - found.start == 47 * HOUR


def test_a_day_that_never_was_takes_its_turn_along() -> None:
    """Samoa went from the end of 29 December 2011 to the 31st: who takes over on the 30th does as the clock jumps."""
    watch = Schedule("watch", "Pacific/Apia", (Layer("daily", "2011-12-28T09:00", PEOPLE),))
    start = local("Pacific/Apia", "2011-12-28T09:00")
    found = shifts(watch, EVERYBODY, [], start, start + 3 * DAY)
    assert [(one.person, f"{wall('Pacific/Apia', one.start):%dT%H:%M}") for one in found] == [
        ("ann", "28T09:00"),
        ("ben", "29T09:00"),
        ("cem", "31T00:00"),
        ("ann", "31T09:00"),
    ]


def test_a_turn_may_begin_before_the_day_it_is_in() -> None:
    """A minute into Sunday clocks went back to Saturday; who took over at midnight has taken over, and stays."""
    zone = "America/St_Johns"
    watch = Schedule("watch", zone, (Layer("daily", "2010-11-01T00:00", PEOPLE, restrict=("Sun 00:00-12:00",)),))
    midnight = local(zone, "2010-11-07T00:00")
    assert wall(zone, midnight + 10 * MINUTE).day == 6
    expected = Shift(midnight, local(zone, "2010-11-07T12:00"), "ann", "layer 1")
    assert on_call(watch, EVERYBODY, [], midnight + 10 * MINUTE) == expected


# ---- every zone of the tz database


def test_clocks_change_in_every_zone_and_nobody_is_lost() -> None:
    """At each change of 2026 and 2027: a daily handover about the change, nights 18:00-08:00, quiet hours, a digest."""
    moved = 0
    for zone in sorted(available_timezones()):
        for at in changes(zone, 2026, 2) or (datetime(2026, 3, 29, 1, tzinfo=UTC),):
            before, after = wall(zone, at - timedelta(seconds=1)) + timedelta(seconds=1), wall(zone, at)
            moved += before != after
            low, high = sorted((before, after))
            _handovers_hold(zone, at, {f"{low:%H:%M}", f"{low + (high - low) / 2:%H:%M}", f"{high:%H:%M}"})
            _nights_hold(zone, at, high - low)
            _quiet_hours_hold(zone, at, low, high)
    assert moved > 400


def _handovers_hold(zone: str, at: datetime, clocks: set[str]) -> None:
    """Check that each day brings the next person, when the clock says so or jumps over it."""
    for shown in clocks:
        began = f"{wall(zone, at) - 3 * DAY:%Y-%m-%d}T{shown}"
        watch = Schedule("watch", zone, (Layer("daily", began, PEOPLE),))
        found = shifts(watch, EVERYBODY, [], at - 5 * DAY, at + 2 * DAY)
        assert_tiles(found, at - 5 * DAY, at + 2 * DAY)
        assert [one.person for one in found][:6] == [None, *PEOPLE, *PEOPLE][: len(found)][:6], (zone, at, shown)
        for one in found[1:]:
            assert_shows(zone, one.start, shown)
        assert all(22 * HOUR <= one.end - one.start <= 26 * HOUR for one in found[1:-1]), (zone, at)


def _nights_hold(zone: str, at: datetime, by: timedelta) -> None:
    watch = Schedule("watch", zone, (Layer("weekly", "2025-12-29T18:00", ("ann",), 1, None, ("18:00-08:00",)),))
    found = shifts(watch, EVERYBODY, [], at - 2 * DAY, at + 2 * DAY)[1:-1]
    lengths = [one.end - one.start for one in found]
    for one, length in zip(found, lengths, strict=True):
        assert_shows(zone, one.start, "18:00" if one.person else "08:00")
        assert_shows(zone, one.end, "08:00" if one.person else "18:00")
        usual = 14 * HOUR if one.person else 10 * HOUR
        changed = one.start < at < one.end
        assert abs(length - usual) == (by if changed else timedelta()), (zone, at, one)


def _quiet_hours_hold(zone: str, at: datetime, low: datetime, high: datetime) -> None:
    """Check quiet hours that begin or end in what is skipped or comes twice, and those that have it within."""
    middle = low + (high - low) / 2
    spans = {("22:00", "07:00"), ("21:00", f"{middle:%H:%M}"), (f"{middle:%H:%M}", "12:00")}
    start, step = at - 6 * HOUR, 15 * MINUTE
    clock_ = [f"{shown:%H:%M}" for shown in watched_clock(zone, start, 48, step)]
    for opens, closes in spans:
        person = somebody(timezone=zone, quiet_hours=f"{opens}-{closes}")
        for n, now in enumerate(clock_):
            quiet = opens <= now < closes if opens < closes else now >= opens or now < closes
            moment = start + step * n
            until = quiet_until(person, moment)
            assert (until is not None) == quiet, (zone, moment, opens, closes)
            if until is not None:
                assert until > moment
                assert_shows(zone, until, closes)
                assert until == next_clock(zone, closes, moment)


# ---- hours of a layer


@pytest.mark.parametrize(
    ("restrict", "start", "end"),
    [
        # The night on which clocks change has an hour less or more.
        ("18:00-08:00", "2026-03-28T18:00", "2026-03-29T08:00"),
        ("18:00-08:00", "2026-10-24T18:00", "2026-10-25T08:00"),
        # 03:30 does not exist: from 04:00. It comes twice: from the first, until the first.
        ("03:30-16:00", "2026-03-29T04:00", "2026-03-29T16:00"),
        ("03:30-16:00", "2026-10-25T03:30", "2026-10-25T16:00"),
        ("18:00-03:30", "2026-03-28T18:00", "2026-03-29T04:00"),
        ("18:00-03:30", "2026-10-24T18:00", "2026-10-25T03:30"),
        # A night belongs to the day on which it begins: Friday's ends on Saturday, Sunday's is none of Mon-Fri.
        ("Mon-Fri 18:00-08:00", "2026-06-12T18:00", "2026-06-13T08:00"),
        ("Mon-Fri 18:00-08:00", "2026-06-15T18:00", "2026-06-16T08:00"),
        ("Sat 12:00-24:00", "2026-06-13T12:00", "2026-06-14T00:00"),
        ("Sat-Mon 00:00-24:00", "2026-06-13T00:00", "2026-06-16T00:00"),
        # Christmas 2026: the 24th to the 26th are holidays, a Thursday to a Saturday; the 27th is a Sunday.
        ("Mon-Fri 18:00-08:00", "2026-12-23T18:00", "2026-12-24T08:00"),
        ("Mon-Fri 18:00-08:00", "2026-12-28T18:00", "2026-12-29T08:00"),
        ("holidays 00:00-24:00", "2026-12-24T00:00", "2026-12-27T00:00"),
        ("holidays 18:00-08:00", "2026-12-26T18:00", "2026-12-27T08:00"),
        ("18:00-08:00", "2026-12-24T18:00", "2026-12-25T08:00"),
    ],
)
def test_hours_that_can_be_read_off_a_wall_calendar(restrict: str, start: str, end: str) -> None:
    layer = Layer("weekly", "2026-01-05T09:00", ("ann",), 1, None, (restrict,))
    watch = Schedule("watch", HELSINKI, (layer,), "FI")
    expected = Shift(local(HELSINKI, start), local(HELSINKI, end), "ann", "layer 1")
    assert on_call(watch, EVERYBODY, [], expected.start) == expected
    assert on_call(watch, EVERYBODY, [], expected.end - MICROSECOND) == expected
    assert on_call(watch, EVERYBODY, [], expected.start - MICROSECOND).via == "gap"
    assert on_call(watch, EVERYBODY, [], expected.end).via == "gap"


def test_a_schedule_without_holidays_has_no_holiday_hours_and_works_on_them() -> None:
    christmas = local(HELSINKI, "2026-12-25T12:00")
    for restrict, via in (("holidays 00:00-24:00", "gap"), ("Mon-Fri 08:00-16:00", "layer 1")):
        layer = Layer("weekly", "2026-01-05T09:00", ("ann",), 1, None, (restrict,))
        assert on_call(Schedule("watch", HELSINKI, (layer,)), EVERYBODY, [], christmas).via == via


def test_before_its_start_and_from_its_end_on_a_layer_has_nobody() -> None:
    layer = Layer("daily", "2026-03-29T03:30", PEOPLE, until="2026-10-25T03:30")
    watch = Schedule("watch", HELSINKI, (layer,))
    start, end = local(HELSINKI, "2026-03-29T04:00"), local(HELSINKI, "2026-10-25T03:30")
    found = shifts(watch, EVERYBODY, [], start - DAY, end + DAY)
    assert (found[0].via, found[0].end, found[-1].via, found[-1].start) == ("gap", start, "gap", end)
    assert all(one.person for one in found[1:-1])


# ---- who is away


@given(cases())
def test_no_layer_puts_on_call_who_is_absent_or_has_a_holiday(case: Case) -> None:
    schedule, people, _, at = case
    for one in shifts(schedule, people, [], at - 3 * DAY, at + 3 * DAY):
        if one.person is not None:
            person = people[one.person]
            for moment in (one.start, one.start + (one.end - one.start) / 2, one.end - MICROSECOND):
                assert not is_absent(person, moment)
                assert not on_holiday(person, moment)


@given(st.data())
def test_absent_is_who_the_calendar_says_until_back(data: st.DataObject) -> None:
    zone = data.draw(st.sampled_from(ZONES))
    at = data.draw(anchors(zone)).replace(second=0, microsecond=0)
    person = somebody(timezone=zone, absences=data.draw(absences(zone, at)), holidays="FI")
    for n, shown in enumerate(watched_clock(zone, at - DAY, 2 * 1440)):
        moment, now = at - DAY + MINUTE * n, f"{shown:%Y-%m-%dT%H:%M}"
        if n % 15 == 0 and n >= 720:
            away = any(absence.start <= now < absence.until for absence in person.absences)
            back = absent_until(person, moment)
            assert is_absent(person, moment) == away == (back is not None)
            assert on_holiday(person, moment) == (shown.date() in public_holidays("FI"))
            if back is not None:
                assert back > moment
                assert is_absent(person, back - MICROSECOND)
                assert not is_absent(person, back)


def test_absences_that_follow_at_once_are_one() -> None:
    away = tuple(Absence(f"2026-07-{a:02}T00:00", f"2026-07-{b:02}T00:00") for a, b in ((10, 20), (1, 8), (8, 10)))
    person = somebody(timezone=HELSINKI, absences=away)
    assert absent_until(person, local(HELSINKI, "2026-07-02T00:00")) == local(HELSINKI, "2026-07-20T00:00")
    assert absent_until(person, local(HELSINKI, "2026-07-20T00:00")) is None
    assert absent_until(somebody(), local(HELSINKI, "2026-07-20T00:00")) is None


def test_absences_to_come_are_known() -> None:
    away = (Absence("2026-08-01T00:00", "2026-08-08T00:00"), Absence("2026-07-01T00:00", "2026-07-08T00:00"))
    person = somebody(timezone=HELSINKI, absences=away)
    july, august = ((local(HELSINKI, one.start), local(HELSINKI, one.until)) for one in reversed(away))
    assert next_absence(person, july[0] - MICROSECOND) == july[0]
    assert next_absence(person, july[0]) == august[0]
    assert next_absence(person, august[0]) is None
    assert absences_between(person, july[1] - MICROSECOND, august[0] + MICROSECOND) == [july, august]
    assert absences_between(person, july[1], august[0]) == []


def test_an_absence_for_good_is_one() -> None:
    """People write 9999; in some zones that is no more a moment that can be told in UTC."""
    for zone in ("Pacific/Pago_Pago", "Pacific/Kiritimati"):
        person = somebody(timezone=zone, absences=(Absence("0001-01-01T00:00", "9999-12-31T23:59"),))
        assert is_absent(person, datetime(2026, 1, 1, tzinfo=UTC))
        watch = Schedule("watch", zone, (Layer("daily", "0001-01-01T00:00", ("ann", "ben")),))
        assert on_call(watch, {**EVERYBODY, "ann": person}, [], datetime(2026, 1, 1, tzinfo=UTC)).person in (
            "ben",
            None,
        )


def test_the_next_layer_is_asked_for_who_is_away_and_then_nobody() -> None:
    """Ann is on holiday on May Day by her own clock, two hours ahead of the schedule's."""
    two = (Layer("weekly", "2026-01-05T09:00", ("ann",)), Layer("weekly", "2026-01-05T09:00", ("ben",)))
    people = {"ann": somebody("ann", HELSINKI, holidays="FI"), "ben": somebody("ben")}
    start, end = local(HELSINKI, "2026-05-01T00:00"), local(HELSINKI, "2026-05-02T00:00")
    found = shifts(Schedule("watch", "UTC", two), people, [], start - DAY, end + DAY)
    assert found == [
        Shift(start - DAY, start, "ann", "layer 1"),
        Shift(start, end, "ben", "layer 2"),
        Shift(end, end + DAY, "ann", "layer 1"),
    ]
    alone = shifts(Schedule("watch", "UTC", two[:1]), people, [], start, end)
    assert alone == [Shift(start, end, None, "gap")]


def test_who_left_is_nowhere_on_call() -> None:
    """A page to somebody who is no more in the directory would reach nobody."""
    watch = Schedule("watch", "UTC", (Layer("weekly", "2026-01-05T00:00", ("gone",)),))
    at = datetime(2026, 2, 1, tzinfo=UTC)
    assert on_call(watch, EVERYBODY, [override("gone", at, at + DAY)], at).via == "gap"


# ---- overrides


@given(cases(), st.data())
def test_an_override_changes_nothing_outside_of_its_time(case: Case, data: st.DataObject) -> None:
    schedule, people, others, at = case
    start = at + timedelta(seconds=data.draw(st.integers(-100_000, 100_000)))
    until = start + timedelta(seconds=data.draw(st.integers(1, 100_000)))
    person, replaces = data.draw(st.sampled_from(sorted(people))), data.draw(st.none() | st.sampled_from(PEOPLE))
    more = [*others, override(person, start, until, replaces=replaces, made=9)]
    for first, last in ((at - 4 * DAY, start), (until, at + 4 * DAY)):
        assert shifts(schedule, people, more, first, last) == shifts(schedule, people, others, first, last)
    within_ = shifts(schedule, people, more, start, until)
    if replaces is None:
        assert within_ == [Shift(start, until, person, "override")]
    elif replaces != person:
        assert replaces not in {one.person for one in within_}


@given(cases())
def test_without_overrides_the_layers_are_as_they_were(case: Case) -> None:
    """Those of another schedule, or of nobody, are none."""
    schedule, people, overrides, at = case
    base = shifts(schedule, people, [], at - 3 * DAY, at + 3 * DAY)
    elsewhere = [Override(o.id, "other", o.person, o.start, o.until, o.replaces, o.made_at) for o in overrides]
    gone = [Override(o.id, o.schedule, "gone", o.start, o.until, o.replaces, o.made_at) for o in overrides]
    backwards = [Override(o.id, o.schedule, o.person, o.until, o.start, o.replaces, o.made_at) for o in overrides]
    assert shifts(schedule, people, [*elsewhere, *gone, *backwards], at - 3 * DAY, at + 3 * DAY) == base


@given(cases(), st.permutations(PEOPLE))
def test_a_swap_is_two_overrides(case: Case, order: list[str]) -> None:
    """Made at one moment, each takes what is the other's, over any time; nobody else's is touched."""
    schedule, people, _, at = case
    one, other = order[:2]
    assume(one in people and other in people)
    start, end = at - 3 * DAY, at + 3 * DAY
    swap = [override(one, start, end, replaces=other), override(other, start, end, replaces=one)]
    swapped = {one: other, other: one}
    base = shifts(schedule, people, [], start, end)
    after = shifts(schedule, people, swap, start, end)
    for shift in base:
        now = on_call(schedule, people, swap, shift.start)
        assert now.person == swapped.get(shift.person or "", shift.person)
        assert (now.via == "override") == (shift.person in swapped)
    taken = {id: sum((s.end - s.start for s in base if s.person == id), timedelta()) for id in order}
    given_ = {id: sum((s.end - s.start for s in after if s.person == id), timedelta()) for id in order}
    assert given_ == {id: taken[swapped.get(id, id)] for id in order}


NIGHTS = Schedule("watch", "UTC", (Layer("daily", "2026-01-01T00:00", ("ann", "ben"), restrict=("18:00-08:00",)),))
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def test_the_override_made_later_counts_in_whatever_order_they_come() -> None:
    first, second = override("ben", MONDAY, MONDAY + DAY, made=1), override("cem", MONDAY, MONDAY + HOUR, made=2)
    for both in ([first, second], [second, first]):
        assert [(one.person, one.via) for one in shifts(NIGHTS, EVERYBODY, both, MONDAY, MONDAY + DAY)] == [
            ("cem", "override"),
            ("ben", "override"),
        ]


def test_an_override_fills_a_gap_but_not_one_that_replaces_somebody() -> None:
    noon = MONDAY + 12 * HOUR
    assert on_call(NIGHTS, EVERYBODY, [], noon).via == "gap"
    assert on_call(NIGHTS, EVERYBODY, [override("cem", MONDAY, MONDAY + DAY)], noon).person == "cem"
    assert on_call(NIGHTS, EVERYBODY, [override("cem", MONDAY, MONDAY + DAY, replaces="ann")], noon).via == "gap"


def test_who_is_absent_may_be_put_on_call_on_purpose() -> None:
    people = {**EVERYBODY, "cem": somebody("cem", absences=(Absence("2026-01-01T00:00", "2026-02-01T00:00"),))}
    assert on_call(NIGHTS, people, [override("cem", MONDAY, MONDAY + DAY)], MONDAY).person == "cem"


def test_who_took_a_shift_may_pass_it_on() -> None:
    """Cem takes Ann's, and later Ben takes Cem's."""
    chain = [
        override("cem", MONDAY, MONDAY + DAY, replaces="ann", made=1),
        override("ben", MONDAY, MONDAY + DAY, replaces="cem", made=2),
    ]
    assert on_call(NIGHTS, EVERYBODY, [], MONDAY).person == "ann"
    assert on_call(NIGHTS, EVERYBODY, chain[:1], MONDAY).person == "cem"
    assert on_call(NIGHTS, EVERYBODY, chain, MONDAY).person == "ben"


# ---- clocks of people


@given(st.data())
def test_quiet_hours_end_when_the_clock_says_so(data: st.DataObject) -> None:
    zone = data.draw(st.sampled_from(ZONES))
    opens, closes = data.draw(st.lists(quarters, min_size=2, max_size=2, unique=True))
    at = data.draw(anchors(zone)) + timedelta(microseconds=data.draw(st.integers(0, 10**8)))
    person = somebody(timezone=zone, quiet_hours=f"{opens}-{closes}")
    until = quiet_until(person, at)
    shown = max(wall(zone, at), *watched_clock(zone, at - DAY, 1440))
    assert (until is not None) == within(f"{opens}-{closes}", shown, None)
    if until is not None:
        assert until > at
        assert_shows(zone, until, closes)
        assert quiet_until(person, until - MICROSECOND) == until
        if f"{wall(zone, until):%H:%M}" == closes:  # else the clock may have jumped to where they begin again
            assert quiet_until(person, until) is None


def test_who_has_no_quiet_hours_is_never_quiet() -> None:
    assert quiet_until(somebody(), MONDAY) is None


@given(st.data())
def test_the_next_time_a_clock_comes_to_a_time_is_the_next(data: st.DataObject) -> None:
    zone, shown = data.draw(st.sampled_from(ZONES)), data.draw(quarters)
    after = data.draw(anchors(zone)).replace(second=0, microsecond=0)
    found = next_clock(zone, shown, after)
    assert found > after
    assert_shows(zone, found, shown)
    assert next_clock(zone, shown, found - MICROSECOND) == found
    # Each minute until then, the clock is between two comings.
    clock_ = watched_clock(zone, after - DAY, 1440 + (found - after) // MINUTE + 1)[1440:]
    came = [shown_ - timedelta(hours=int(shown[:2]), minutes=int(shown[3:])) for shown_ in clock_]
    assert {moment.date() for moment in came[:-1]} == {came[0].date()}
    assert came[-1].date() > came[0].date()


@pytest.mark.parametrize(
    ("shown", "after", "found"),
    [
        ("08:00", "2026-06-01T07:59", "2026-06-01T08:00"),
        ("08:00", "2026-06-01T08:00", "2026-06-02T08:00"),
        ("03:30", "2026-03-29T02:59", "2026-03-29T04:00"),
        ("03:30", "2026-10-25T03:29", "2026-10-25T03:30"),
        ("03:30", "2026-10-25T03:30", "2026-10-26T03:30"),
    ],
)
def test_times_that_can_be_read_off_a_wall_clock(shown: str, after: str, found: str) -> None:
    assert next_clock(HELSINKI, shown, local(HELSINKI, after)) == local(HELSINKI, found)
