"""A ticket's clocks run in the customer's working time, whatever local clocks do; what ran out stays run out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pytest
from holidays import country_holidays
from hypothesis import given
from hypothesis import strategies as st

from services.ticketing.domain.sla import Calendar, breaches, calendar_of, looked, next_look, started, ticked
from services.ticketing.domain.ticket import ACTIVE, NotAllowed, Patch, change
from shared.directory import wall_clock
from shared.directory.model import Customer, Severity, Sla
from shared.wire.events import ClockState, SlaV1, TicketState, TicketV1
from tests.support.build import NOW, ago, customer, ticket

WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ZONES = (
    "UTC",
    "Europe/Helsinki",
    "America/New_York",
    "Asia/Kathmandu",  # 05:45 ahead
    "Australia/Lord_Howe",  # clocks change by half an hour
    "America/Havana",  # they change at midnight
    "America/St_Johns",  # until 2011 a minute after it
    "Pacific/Apia",  # had no 30 December 2011
)
MICROSECOND = timedelta(microseconds=1)
HOUR = 3600.0


@cache
def changes(zone: str) -> tuple[datetime, ...]:
    """Return the days on which clocks change."""
    days = [datetime(2006, 1, 1, 12, tzinfo=UTC) + timedelta(days=n) for n in range(20 * 365)]
    offsets = [day.astimezone(ZoneInfo(zone)).utcoffset() for day in days]
    return tuple(day for day, before, after in zip(days[1:], offsets, offsets[1:], strict=False) if before != after)


def clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


@st.composite
def customers(draw: st.DrawFn) -> Customer:
    zone = draw(st.sampled_from(ZONES))
    return customer(
        business_hours=tuple(draw(st.lists(openings(), min_size=1, max_size=4))),
        timezone=zone,
        holidays=draw(st.sampled_from((None, "FI", "DE-BY", "XX"))),
    )


@st.composite
def openings(draw: st.DrawFn) -> str:
    """Any hours: of one day or some, a lunch apart, over midnight."""
    first, last = draw(st.sampled_from(WEEK)), draw(st.sampled_from(WEEK))
    days = first if first == last else f"{first}-{last}"
    opens, closes = draw(st.permutations(sorted(draw(st.sets(st.integers(0, 95), min_size=2, max_size=2)))))
    return f"{days} {clock(opens * 15)}-{draw(st.sampled_from((clock(closes * 15), '24:00')))}"


@st.composite
def moments(draw: st.DrawFn, zone: str) -> datetime:
    """Any moment; more often one about two days before clocks change."""
    near = st.sampled_from(changes(zone) or (NOW,))
    day = draw(near | st.integers(0, 20 * 365).map(lambda n: datetime(2006, 1, 1, 12, tzinfo=UTC) + timedelta(days=n)))
    return day.replace(minute=0, second=0) + timedelta(minutes=draw(st.integers(-4000, 500)))


def rules(holds: Customer) -> Calendar:
    return calendar_of(holds, "high")


# ---- working time


class Opening(NamedTuple):
    days: list[int]
    opens: str
    closes: str


def _opening(text: str) -> Opening:
    days, hours = text.split(" ")
    opens, closes = hours.split("-")
    first, last = WEEK.index(days[:3]), WEEK.index(days[-3:])
    open_on = [*range(first, last + 1)] if first <= last else [*range(first, 7), *range(last + 1)]
    return Opening(open_on, opens, closes)


def worked_minutes(holds: Customer, start: datetime, end: datetime) -> int:
    """Count minute by minute, on a wall clock that stands still instead of going back."""
    assert isinstance(holds.business_hours, tuple)
    openings = [_opening(one) for one in holds.business_hours]
    country = (holds.holidays or "XX").partition("-")
    closed = [] if country[0] == "XX" else country_holidays(country[0], subdiv=country[2] or None)

    def begins(opening: Opening, day: date) -> bool:
        return day.weekday() in opening.days and day not in closed and day not in holds.closed

    def is_open(shown: datetime) -> bool:
        time, yesterday = f"{shown:%H:%M}", shown.date() - timedelta(days=1)
        return any(
            (begins(one, shown.date()) and one.opens <= time < (one.closes if one.opens < one.closes else "24:00"))
            or (one.closes <= one.opens and begins(one, yesterday) and time < one.closes)
            for one in openings
        )

    zone, count, at = ZoneInfo(holds.timezone), 0, start - timedelta(days=2)
    shown = at.astimezone(zone).replace(tzinfo=None)
    while at < end:
        shown = max(shown, at.astimezone(zone).replace(tzinfo=None))
        count += is_open(shown) and at >= start
        at += timedelta(minutes=1)
    return count


@given(st.data())
def test_working_time_is_what_a_person_with_a_wall_clock_counts(data: st.DataObject) -> None:
    holds = data.draw(customers())
    start = data.draw(moments(holds.timezone))
    end = start + timedelta(minutes=data.draw(st.integers(0, 5 * 1440)))
    days = data.draw(st.lists(st.integers(-1, 6), max_size=3))
    holds = msgspec.structs.replace(holds, closed=tuple((start + timedelta(days=n)).date() for n in days))
    assert rules(holds).between(start, end) == 60 * worked_minutes(holds, start, end)


@given(st.data())
def test_a_due_is_the_first_moment_at_which_the_time_has_passed(data: st.DataObject) -> None:
    holds = data.draw(customers())
    calendar, start = rules(holds), data.draw(moments(holds.timezone))
    seconds = data.draw(st.integers(1, 200 * 3600 * 10**6)) / 10**6
    due = calendar.add(start, seconds)
    if due == start + timedelta(days=3653):
        assert calendar.between(start, due) <= seconds
    else:
        assert calendar.between(start, due) == seconds
        assert calendar.between(start, due - MICROSECOND) == pytest.approx(seconds - 1e-6, abs=1e-7)


@given(st.data())
def test_working_time_adds_up(data: st.DataObject) -> None:
    """However a stretch is cut, its parts are the whole; more time is never less work; backwards is none."""
    holds = data.draw(customers())
    calendar, start = rules(holds), data.draw(moments(holds.timezone))
    gaps = st.integers(0, 20 * 86400 * 10**6).map(lambda n: timedelta(microseconds=n))
    middle = start + data.draw(gaps)
    end = middle + data.draw(gaps)
    whole = calendar.between(start, end)
    assert calendar.between(start, middle) + calendar.between(middle, end) == pytest.approx(whole, abs=1e-6)
    assert 0 <= calendar.between(start, middle) <= whole <= (end - start).total_seconds()
    assert calendar.between(end, start) == 0
    assert start <= calendar.add(start, whole) <= end
    assert calendar.add(start, calendar.between(start, middle)) <= calendar.add(start, whole)


@given(st.sampled_from(ZONES), st.floats(0, 10**7), st.booleans())
def test_critical_tickets_and_customers_without_hours_are_worked_on_around_the_clock(
    zone: str, seconds: float, critical: bool
) -> None:
    """Nights, weekends and Christmas count."""
    holds = customer(timezone=zone, holidays="FI", business_hours="Mon-Fri 08:00-16:00" if critical else None)
    calendar = calendar_of(holds, "critical" if critical else "low")
    assert calendar.add(NOW, seconds) == NOW + timedelta(seconds=seconds)
    assert calendar.between(NOW, NOW + timedelta(days=40)) == 40 * 24 * HOUR


def local(text: str, zone: str = "Europe/Helsinki") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


@pytest.mark.parametrize(
    ("hours", "zone", "start", "seconds", "due"),
    [
        # Friday afternoon to Monday; the due is at closing time, not at the next opening.
        ("Mon-Fri 08:00-16:00", "Europe/Helsinki", "2026-11-20T15:00", 2 * HOUR, "2026-11-23T09:00"),
        ("Mon-Fri 08:00-16:00", "Europe/Helsinki", "2026-11-20T15:00", HOUR, "2026-11-20T16:00"),
        ("Mon-Fri 08:00-16:00", "Europe/Helsinki", "2026-11-21T15:00", HOUR, "2026-11-23T09:00"),
        # Christmas 2026: Thursday and Friday are holidays.
        ("Mon-Fri 08:00-16:00", "Europe/Helsinki", "2026-12-23T15:00", 2 * HOUR, "2026-12-28T09:00"),
        # On Mondays only, and two of them are holidays.
        ("Mon 08:00-16:00", "Europe/Helsinki", "2023-12-18T12:00", 8 * HOUR, "2024-01-08T12:00"),
        # 03:30 does not exist: open from 04:00. It happens twice: open from the first.
        ("Mon-Sun 03:30-16:00", "Europe/Helsinki", "2026-03-29T00:00", HOUR, "2026-03-29T05:00"),
        ("Mon-Sun 03:30-16:00", "Europe/Helsinki", "2026-10-25T00:00", 2 * HOUR, "2026-10-25T04:30"),
        # The day that clocks change has 23 or 25 hours.
        ("Mon-Sun 00:00-24:00", "Europe/Helsinki", "2026-03-28T12:00", 24 * HOUR, "2026-03-29T13:00"),
        ("Mon-Sun 00:00-24:00", "Europe/Helsinki", "2026-10-24T12:00", 24 * HOUR, "2026-10-25T11:00"),
        # Over the week's end, and over a day that never was.
        ("Fri-Mon 10:00-12:00", "Europe/Helsinki", "2026-11-23T11:00", 2 * HOUR, "2026-11-27T11:00"),
        ("Mon-Fri 08:00-16:00", "Pacific/Apia", "2011-12-29T15:00", 2 * HOUR, "2012-01-02T09:00"),
        ("Sat 09:00-10:00", "Asia/Kathmandu", "2026-11-23T12:00", HOUR, "2026-11-28T10:00"),
    ],
)
def test_dues_that_can_be_read_off_a_wall_calendar(hours: str, zone: str, start: str, seconds: float, due: str) -> None:
    holds = customer(business_hours=hours, timezone=zone, holidays="FI" if zone == "Europe/Helsinki" else None)
    assert rules(holds).add(local(start, zone), seconds) == local(due, zone)


def test_a_shift_may_begin_before_the_day_it_ends_in() -> None:
    """A minute into Sunday clocks went back to Saturday; who opens at midnight had opened, and stays open."""
    holds = customer(business_hours="Sun 00:00-12:00", timezone="America/St_Johns")
    opens = local("2010-11-07T00:00", "America/St_Johns").astimezone(UTC)
    later = opens + timedelta(minutes=10)
    assert later.astimezone(ZoneInfo("America/St_Johns")).day == 6
    assert rules(holds).between(opens - timedelta(hours=1), later) == 600
    assert rules(holds).add(later, 13 * HOUR - 600) == local("2010-11-07T12:00", "America/St_Johns")


def test_a_part_of_a_country_has_its_own_holidays() -> None:
    """Epiphany 2026 is one in Bavaria, none in Berlin; a part that is not known has the country's."""
    day = local("2026-01-06T00:00", "Europe/Berlin")
    worked = {
        code: rules(customer(business_hours="Mon-Fri 08:00-16:00", timezone="Europe/Berlin", holidays=code)).between(
            day, day + timedelta(days=1)
        )
        for code in ("DE-BY", "DE-BE", "DE-ZZ", "DE", "XX", "XX-YY")
    }
    assert worked == {**dict.fromkeys(worked, 8 * HOUR), "DE-BY": 0}
    new_year = local("2026-01-01T00:00", "Europe/Berlin")
    calendar = rules(customer(business_hours="Mon-Fri 08:00-16:00", timezone="Europe/Berlin", holidays="DE-ZZ"))
    assert calendar.between(new_year, new_year + timedelta(days=1)) == 0


def test_holidays_never_close_a_customer_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calendar that has every Sunday closes who is open all week on Sundays, but not who is open on them only."""

    def sundays(_: str, *, years: int, **__: object) -> Iterable[date]:
        days = (date(years, 1, 1) + timedelta(days=n) for n in range(366))
        return [day for day in days if day.weekday() == 6]

    monkeypatch.setattr(wall_clock, "country_holidays", sundays)
    all_week = rules(customer(business_hours="Mon-Sun 10:00-14:00", holidays="QQ"))
    only_then = rules(customer(business_hours="Sun 10:00-14:00", holidays="QQ"))
    assert all_week.between(NOW, NOW + timedelta(days=70)) == 60 * 4 * HOUR
    assert only_then.between(NOW, NOW + timedelta(days=70)) == 10 * 4 * HOUR


def test_a_due_is_at_most_ten_years_ahead() -> None:
    """Ten years of work at a minute a week would end after the calendar does."""
    calendar = rules(customer(business_hours="Mon 08:00-08:01"))
    assert calendar.add(NOW, 3650 * 86400) == NOW + timedelta(days=3653)


# ---- clocks

OFFICE = customer(business_hours="Mon-Fri 08:00-16:00", holidays="FI")
SLAS: Mapping[Severity, Sla] = {
    "critical": Sla(3600, 8 * 3600),
    "high": Sla(4 * 3600, 24 * 3600),
    "medium": Sla(8 * 3600, 40 * 3600),
    "low": Sla(1, 3),
}
DONE = {"root_cause": "process", "resolution": "Called back."}


def terms(severity: Severity, slas: Mapping[Severity, Sla] = SLAS) -> tuple[Sla | None, Calendar]:
    return slas.get(severity), calendar_of(OFFICE, severity)


def opened(severity: Severity = "high", at: datetime = NOW, **fields: Any) -> TicketV1:
    return started(ticket(severity=severity, opened_at=at, **fields), *terms(severity), at)


def tick(before: TicketV1, now: datetime, slas: Mapping[Severity, Sla] = SLAS, **fields: Any) -> TicketV1:
    after = msgspec.structs.replace(before, **fields)
    return ticked(before, after, *terms(after.severity, slas), now, was=terms(before.severity, slas))


def look(at: TicketV1, now: datetime) -> TicketV1:
    return looked(at, *terms(at.severity), now)


def states(of: TicketV1) -> tuple[ClockState, ClockState]:
    assert of.sla is not None
    return of.sla.first_response, of.sla.resolve


@dataclass
class Count:
    """The clocks told another way: by the working time that was used."""

    first: float = 0.0
    resolve: float = 0.0
    first_end: ClockState | None = None
    resolve_end: ClockState | None = None

    def pass_time(self, seconds: float, severity: Severity, state: TicketState) -> None:
        if state in ACTIVE:
            self.first += seconds
            self.resolve += 0.0 if state == "waiting" else seconds
            self.run_out(severity)

    def run_out(self, severity: Severity) -> None:
        if self.first >= SLAS[severity].first_response:
            self.first_end = self.first_end or "breached"
        if self.resolve >= SLAS[severity].resolve:
            self.resolve_end = self.resolve_end or "breached"

    def change_to(self, after: TicketV1) -> None:
        if after.acknowledged_at is not None:
            self.first_end = self.first_end or "met"
        if after.state == "resolved":
            self.resolve_end = self.resolve_end or "met"
        if after.state in ACTIVE:
            self.run_out(after.severity)

    def states(self, severity: Severity) -> tuple[ClockState, ClockState]:
        def by_time(used: float, total: int) -> ClockState:
            return "warning" if total - used <= total / 4 else "running"

        of = SLAS[severity]
        return (
            self.first_end or by_time(self.first, of.first_response),
            self.resolve_end or by_time(self.resolve, of.resolve),
        )


severities = st.sampled_from(tuple(SLAS))
patches = st.builds(
    lambda state, severity: Patch(state=state, severity=severity, **(DONE if state == "resolved" else {})),
    st.none()
    | st.sampled_from(("acknowledged", "in_progress", "waiting", "waiting", "in_progress", "resolved", "open")),
    st.none() | st.none() | severities,
)
gaps = st.one_of(st.integers(0, 90), st.integers(0, 4 * 3600), st.integers(0, 4 * 86400))


@given(severities, st.integers(-(10**7), 10**7), st.lists(st.tuples(gaps, patches), max_size=14))
def test_clocks_count_the_working_time_that_was_used(
    severity: Severity, start: int, changes_: list[tuple[int, Patch]]
) -> None:
    """Whatever people do: waiting uses nothing of resolve's time, another severity counts what was used before."""
    now = NOW + timedelta(seconds=start)
    current, count = opened(severity, now), Count()
    for gap, patch in changes_:
        then, now = now, now + timedelta(seconds=gap)
        count.pass_time(calendar_of(OFFICE, current.severity).between(then, now), current.severity, current.state)
        try:
            outcome = change(current, patch, root_causes=(), actor="ops", now=now)
        except NotAllowed:
            outcome = None
        before = current
        if outcome is None:
            current = look(before, now)
        else:
            after = outcome.ticket
            if after.opening != before.opening:
                count = Count()
            count.change_to(after)
            current = ticked(before, after, *terms(after.severity), now, was=terms(before.severity))
        if current.state in ACTIVE or before.state in ACTIVE:
            assert_counted(before, current, count, now)
        else:
            assert (current.sla, next_look(current, *terms(current.severity))) == (before.sla, None)


def assert_counted(before: TicketV1, current: TicketV1, count: Count, now: datetime) -> None:
    severity = current.severity if current.state in ACTIVE else before.severity
    promised, calendar = SLAS[severity], calendar_of(OFFICE, severity)
    assert states(current) == count.states(severity)
    if count.first_end is None:
        assert current.first_response_due is not None
        assert calendar.between(now, current.first_response_due) == promised.first_response - count.first
    if count.resolve_end is None and current.state == "waiting":
        assert current.resolve_due is None
        assert current.resolve_left == promised.resolve - count.resolve
    else:
        assert current.resolve_due is not None
        assert current.resolve_left is None
        if count.resolve_end is None:
            assert calendar.between(now, current.resolve_due) == promised.resolve - count.resolve
    assert_looks(current, now)
    if current.opening == before.opening:
        assert before.sla is not None
        ran_out = [name for name in ("first_response", "resolve") if getattr(current.sla, name) == "breached"]
        was_out = [name for name in ("first_response", "resolve") if getattr(before.sla, name) == "breached"]
        assert set(was_out) <= set(ran_out)
        assert list(breaches(before, current)) == [name for name in ran_out if name not in was_out]


def assert_looks(current: TicketV1, now: datetime) -> None:
    """The next look is the very moment at which something changes, and there is one if anything ever does."""
    at = next_look(current, *terms(current.severity))
    assert look(current, now) is current
    if at is None:
        assert look(current, now + timedelta(days=5000)) is current
    else:
        assert at > now
        assert look(current, at - MICROSECOND) is current
        assert look(current, at) is not current


@given(severities, st.integers(0, 10**6))
def test_looking_when_told_to_finds_every_state_in_order(severity: Severity, start: int) -> None:
    """From look to look both clocks warn at a quarter left and then run out, and then there is no more to see."""
    current = opened(severity, NOW + timedelta(seconds=start))
    seen: list[tuple[ClockState, ClockState]] = [states(current)]
    while (at := next_look(current, *terms(severity))) is not None:
        current = look(current, at)
        seen.append(states(current))
        assert len(seen) <= 5
    for clock_ in zip(*seen, strict=True):
        assert list(dict.fromkeys(clock_)) == ["running", "warning", "breached"]
    of = SLAS[severity]
    calendar = calendar_of(OFFICE, severity)
    assert current.resolve_due == calendar.add(current.opened_at, of.resolve)
    assert current.first_response_due == calendar.add(current.opened_at, of.first_response)


@given(st.integers(0, 23 * 3600), st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_waiting_costs_nothing(used: int, waits: list[int]) -> None:
    """However often and long the ticket waits, what is left stays left, and the due moves to where it fits."""
    calendar = calendar_of(OFFICE, "high")
    now = calendar.add(NOW, used)
    current = tick(opened(), now, state="in_progress", acknowledged_at=now)
    for seconds in waits:
        current = tick(current, now, state="waiting")
        assert (current.resolve_due, current.resolve_left) == (None, 24 * HOUR - used)
        now += timedelta(seconds=seconds)
        current = tick(current, now, state="in_progress")
        assert current.resolve_left is None
        assert current.resolve_due == calendar.add(now, 24 * HOUR - used)


def test_no_sla_no_clocks() -> None:
    """A severity that nothing is promised for has no dues, and nothing ever runs out."""
    plain = ticket(severity="low")
    calendar = calendar_of(OFFICE, "low")
    assert started(plain, None, calendar, NOW) is plain
    assert looked(plain, None, calendar, NOW + timedelta(days=99)) is plain
    assert next_look(plain, None, calendar) is None
    assert tick(plain, NOW, {}, state="acknowledged", acknowledged_at=NOW).sla is None
    again = started(opened(), None, calendar, NOW)
    assert (again.first_response_due, again.resolve_due, again.sla) == (None, None, None)


def test_a_change_that_is_none_of_the_clocks_leaves_the_ticket_as_it_is() -> None:
    before = opened()
    after = msgspec.structs.replace(before, summary="More of the same", version=2)
    assert ticked(before, after, *terms("high"), NOW, was=terms("high")) is after
    assert started(before, *terms("high"), NOW) is before
    assert look(before, NOW) is before


def test_an_acknowledgement_counts_when_it_was_made_not_when_it_was_heard_of() -> None:
    """A page was answered in time and Kafka was slow; nobody had looked meanwhile."""
    before = opened("critical", ago(hours=2))
    in_time = tick(before, NOW, state="acknowledged", acknowledged_at=ago(hours=1, seconds=1))
    at_the_due = tick(before, NOW, state="acknowledged", acknowledged_at=ago(hours=1))
    assert states(in_time)[0] == "met"
    assert states(at_the_due)[0] == "breached"
    seen = look(before, NOW)
    assert states(tick(seen, NOW, state="acknowledged", acknowledged_at=ago(hours=1, seconds=1)))[0] == "breached"


@pytest.mark.parametrize("state", ["acknowledged", "in_progress", "waiting", "resolved"])
def test_whatever_a_person_does_first_is_the_response(state: TicketState) -> None:
    done: dict[str, Any] = {"resolved_at": NOW} if state == "resolved" else {}
    found = tick(opened("critical", ago(minutes=59)), NOW, state=state, acknowledged_at=NOW, **done)
    assert states(found)[0] == "met"
    assert (states(found)[1] == "met") == (state == "resolved")


def test_an_acknowledgement_that_is_taken_back_was_made() -> None:
    """A stalled ticket goes back to open; it was answered in time all the same."""
    taken = tick(opened("critical"), NOW, state="acknowledged", acknowledged_at=NOW)
    back = tick(taken, NOW + timedelta(hours=3), state="open", acknowledged_at=None)
    assert states(back)[0] == "met"


def test_a_ticket_that_waits_too_late_has_run_out() -> None:
    """Nobody looked between the due and the move to waiting; the clock has nothing left to stop."""
    before = opened("critical", ago(hours=9))
    late = tick(before, NOW, state="waiting", acknowledged_at=NOW)
    assert states(late) == ("breached", "breached")
    assert (late.resolve_due, late.resolve_left) == (ago(hours=1), None)
    assert breaches(before, late) == ("first_response", "resolve")


@pytest.mark.parametrize(("hours", "state"), [(7, "met"), (8, "breached"), (9, "breached")])
def test_resolved_in_time_or_not_stays_so(hours: int, state: ClockState) -> None:
    before = opened("critical", ago(hours=hours))
    done = tick(before, NOW, state="resolved", acknowledged_at=NOW, resolved_at=NOW)
    assert states(done)[1] == state
    later = NOW + timedelta(days=9)
    assert tick(before, later, state="resolved", acknowledged_at=NOW, resolved_at=NOW).sla == done.sla
    assert tick(done, later, state="closed").sla == done.sla
    assert tick(done, later, severity="low").sla == done.sla
    assert next_look(done, *terms("critical")) is None


def test_a_ticket_may_be_resolved_while_it_waits() -> None:
    """The customer answers that all is well: the time it waited does not count."""
    waits = tick(opened("critical"), NOW + timedelta(hours=1), state="waiting", acknowledged_at=NOW)
    at = NOW + timedelta(days=30)
    done = tick(waits, at, state="resolved", resolved_at=at)
    assert states(done)[1] == "met"
    assert (done.resolve_due, done.resolve_left) == (at + timedelta(hours=7), None)


def test_a_cancelled_ticket_owes_nothing_more() -> None:
    """Its clocks end where they stand: neither met nor run out, unless they were."""
    gone = tick(opened("critical"), NOW + timedelta(minutes=50), state="cancelled")
    assert (gone.first_response_due, gone.resolve_due, gone.resolve_left, gone.sla) == (None, None, None, None)
    half = tick(opened("critical"), NOW + timedelta(hours=2), state="cancelled")
    assert half.sla == SlaV1(first_response="breached", resolve="running")
    assert half.resolve_due is None
    for at in (gone, half):
        assert next_look(at, *terms("critical")) is None
        assert look(at, NOW + timedelta(days=99)) is at


def test_a_reopened_ticket_starts_anew() -> None:
    """What ran out before was another opening's; the new one has all of its time."""
    late = look(opened("critical", ago(hours=9)), NOW)
    done = tick(late, NOW, state="resolved", acknowledged_at=NOW, resolved_at=NOW)
    at = NOW + timedelta(days=1)
    again = tick(done, at, state="open", opening=2, opened_at=at, acknowledged_at=None, resolved_at=None)
    assert states(again) == ("running", "running")
    assert (again.first_response_due, again.resolve_due) == (at + timedelta(hours=1), at + timedelta(hours=8))


def test_a_graver_ticket_may_be_late_at_once() -> None:
    """Two working hours of a high ticket's four were used; a critical one has one."""
    before = opened("high", ago(hours=2))
    after = tick(before, NOW, severity="critical")
    assert states(after) == ("breached", "running")
    assert after.first_response_due == NOW
    assert after.resolve_due == NOW + timedelta(hours=6)
    milder = tick(after, NOW, severity="medium")
    assert states(milder)[0] == "breached"


def test_a_milder_severity_excuses_nothing() -> None:
    """The due passed while it was critical, though nobody had looked."""
    after = tick(opened("critical", ago(hours=1)), NOW, severity="medium")
    assert states(after) == ("breached", "running")


def test_a_severity_without_a_promise_ends_the_clocks_and_one_with_it_begins_them() -> None:
    promised: Mapping[Severity, Sla] = {"critical": SLAS["critical"]}
    milder = tick(opened("critical"), NOW + timedelta(minutes=30), promised, severity="low")
    assert (milder.sla, milder.first_response_due, milder.resolve_due) == (None, None, None)
    late = tick(look(opened("critical", ago(hours=2)), NOW), NOW, promised, severity="low")
    assert late.sla == SlaV1(first_response="breached", resolve="running")
    assert late.resolve_due is None

    old = ticket(severity="low", opened_at=ago(days=3))
    graver = tick(old, NOW, promised, severity="critical")
    assert states(graver) == ("running", "running")
    assert graver.first_response_due == NOW + timedelta(hours=1)
    answered = ticket(severity="low", state="acknowledged", acknowledged_at=ago(days=1))
    taken = tick(answered, NOW, promised, severity="critical")
    assert states(taken) == ("met", "running")


def test_a_promise_that_was_made_stands_when_the_directory_takes_it_out() -> None:
    """No quarter can be told any more, but the due was given."""
    made, calendar = opened("critical"), calendar_of(OFFICE, "critical")
    assert next_look(made, None, calendar) == NOW + timedelta(hours=1)
    assert looked(made, None, calendar, NOW + timedelta(minutes=59)) is made
    assert states(looked(made, None, calendar, NOW + timedelta(hours=8))) == ("breached", "breached")
