"""Who is not woken, who is not forgotten, and what is told without haste: the decisions of notify around a page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import get_args
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.notify.domain.chain import Presence, chain, full_chain
from services.notify.domain.check_in import PERIODS, Due, Reminder, first_look, look
from services.notify.domain.check_in import due_at as check_in_due
from services.notify.domain.digest import BUNDLE, due_at, responsible
from services.notify.domain.hold import CAP, Silence, held_back, turn
from services.notify.domain.page import (
    CROWD,
    CROWD_WITHIN,
    WAITING,
    Finds,
    Outcome,
    Page,
    acknowledge,
    follow,
    follow_ticket,
    forgotten,
    gather,
    look_up,
    next_turn,
    resolve,
    start,
)
from services.notify.domain.preflight import AHEAD, Code, Finding, preflight
from services.notify.domain.rota import Override, on_call, quiet_until, shifts
from services.notify.domain.words import Asked, Entry, digest_words, page_words
from shared.directory.model import SEVERITIES, Absence, Directory, Layer, Person, Schedule, Step, severity_rank
from shared.events import Severity, SlaV1, TicketV1
from shared.ids import uuid7
from tests.support import build
from tests.support.build import NOW, customer, directory, evidence, page, person, ticket

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
PAGED: tuple[Severity, ...] = ("critical", "high")
ZONES = ("UTC", "Europe/Helsinki", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana")
CHANGES = tuple(
    datetime.fromisoformat(at).replace(tzinfo=UTC)
    for at in (
        "2026-03-08T05:00",  # Havana and New York, to summer
        "2026-03-29T01:00",  # Helsinki
        "2026-10-03T15:30",  # Lord Howe, by half an hour
        "2026-10-25T01:00",
        "2026-11-01T05:00",
    )
)

moments = st.builds(lambda at, minutes: at + MINUTE * minutes, st.sampled_from(CHANGES), st.integers(-1500, 1500))
clocks = st.builds(lambda n: f"{n // 60:02}:{n % 60:02}", st.integers(0, 1439))
# With more than an hour of the day that is not quiet: less may be skipped as a whole when clocks change in spring.
hours_of_quiet = st.builds(
    lambda opens, lasts: "-".join(f"{n // 60:02}:{n % 60:02}" for n in (opens, (opens + lasts) % 1440)),
    st.integers(0, 1439),
    st.integers(1, 1440 - 61),
)


def finds(step: build.Turn) -> str | None:
    return step.person


def wall(zone: str, at: datetime) -> datetime:
    return at.astimezone(ZoneInfo(zone))


def minutes(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def is_quiet(quiet: str, shown: datetime) -> bool:
    """Tell whether a clock on the wall is within quiet hours."""
    opens, closes = map(minutes, quiet.split("-"))
    at = shown.hour * 60 + shown.minute
    return opens <= at < closes if opens < closes else at >= opens or at < closes


# ---- quiet hours and silences


def silence(start: datetime, until: datetime, **fields: str | None) -> Silence:
    of = {"customer": None, "touchpoint": None, "rule": None, **fields}
    return Silence(uuid7(), reason="move", start=start, until=until, made_at=start, made_by="key:ops", **of)


def turns(
    running: Page, people: Sequence[Person], silences: Sequence[Silence] = (), most: int = 40
) -> list[tuple[datetime, Outcome]]:
    """Let a page take its turns, each when it is due, until it has paged somebody."""
    found: list[tuple[datetime, Outcome]] = []
    for _ in range(most):
        assert running.due_at is not None
        outcome = turn(running, finds, silences, {one.id: one for one in people}, running.due_at)
        found.append((running.due_at, outcome))
        if outcome.pages is not None:
            return found
        running = outcome.page
    raise AssertionError("nobody was paged")


@given(hours_of_quiet, st.sampled_from(ZONES), moments, st.integers(0, 2))
def test_quiet_hours_never_hold_what_is_critical(quiet: str, zone: str, now: datetime, level: int) -> None:
    """Critical is what may wake somebody."""
    sleeper = person(quiet_hours=quiet, timezone=zone)
    running = page(severity="critical", due_at=now, level=level, turn=level)
    outcome = turn(running, finds, (), {sleeper.id: sleeper}, now)
    assert outcome.pages is not None
    assert outcome.page.held is None


@given(hours_of_quiet, st.sampled_from(ZONES), moments)
def test_high_is_held_once_and_its_timers_start_then(quiet: str, zone: str, now: datetime) -> None:
    """The architect sleeps out and then has the whole time to answer; the second night does not hold it again."""
    sleeper = person(quiet_hours=quiet, timezone=zone)
    *held, (paged_at, last) = turns(page(severity="high", due_at=now, opened_at=now), [sleeper])
    assert len(held) == (quiet_until(sleeper, now) is not None)
    for _, outcome in held:
        assert (outcome.page.held, outcome.event) == ("quiet hours", None)
        assert quiet_until(sleeper, paged_at) is None
    assert (last.pages, last.page.held) == ("architect-1", None), "the sleeper is not passed over"
    assert last.page.due_at == paged_at + timedelta(seconds=300)
    night = turn(last.page, finds, (), {sleeper.id: sleeper}, now + 3 * DAY)
    assert night.pages == "architect-2", "a page that runs goes on at night"


PARTS = {"customer": ("acme", "borealis"), "touchpoint": ("support", "billing"), "rule": ("mood-one", "nps-low")}


@given(
    st.fixed_dictionaries({name: st.sampled_from((None, *values)) for name, values in PARTS.items()}),
    st.fixed_dictionaries({name: st.sampled_from(values) for name, values in PARTS.items()}),
    st.integers(-3, 3),
    st.integers(1, 3),
    st.sampled_from(PAGED),
)
def test_a_silence_holds_exactly_what_it_names(
    named: dict[str, str | None], of: dict[str, str], begins: int, lasts: int, severity: Severity
) -> None:
    """Maintenance of the billing desk keeps nobody from hearing of support; what is silenced waits, critical too."""
    start = NOW + HOUR * begins
    one = silence(start, start + HOUR * lasts, **named)
    key = f"{of['customer']}/{of['rule']}/{of['touchpoint']}"
    running = page(severity=severity, customer=of["customer"], touchpoint=of["touchpoint"], dedup_key=key)
    outcome = turn(running, finds, [one], {}, NOW)
    in_force = begins <= 0 < begins + lasts
    if in_force and all(value is None or value == of[name] for name, value in named.items()):
        assert (outcome.pages, outcome.page.held, outcome.page.due_at) == (None, "silence", one.until)
        assert (outcome.page.turn, outcome.page.slept) == (0, False)
    else:
        assert outcome.pages == "architect-1"


@given(
    st.lists(st.tuples(st.integers(-4, 10), st.integers(1, 6)), max_size=6), st.sampled_from(PAGED), st.integers(0, 3)
)
def test_a_page_goes_on_when_the_last_of_its_silences_ends(
    planned: list[tuple[int, int]], severity: Severity, paged: int
) -> None:
    """Silences that overlap, or follow at once, are one; the first free moment is not slept through."""
    silences = [silence(NOW + HOUR * start, NOW + HOUR * (start + length)) for start, length in planned]
    free = next(n for n in range(100) if not any(start <= n < start + length for start, length in planned))
    *held, (at, outcome) = turns(page(severity=severity, turn=paged, level=min(paged, 2)), [], silences)
    assert at == NOW + HOUR * free
    assert outcome.pages is not None
    assert all(one.page.held == "silence" and one.pages is None for _, one in held)
    for since, one in held:
        assert one.page.due_at == max(each.until for each in silences if each.start <= since < each.until), "said once"


@given(st.lists(st.tuples(st.integers(-4, 30), st.integers(1, 9)), max_size=4), hours_of_quiet)
@example([(1, 24)], "12:00-13:30")  # slept out, silenced until the next night, and not held for that one
def test_silences_and_quiet_hours_together(planned: list[tuple[int, int]], quiet: str) -> None:
    """Whatever the order: nobody is paged within a silence, the night is slept out once, and somebody is paged."""
    silences = [silence(NOW + HOUR * start, NOW + HOUR * (start + length)) for start, length in planned]
    *held, (at, last) = turns(page(severity="high"), [person(quiet_hours=quiet)], silences)
    assert not any(one.start <= at < one.until for one in silences)
    assert sum(outcome.page.held == "quiet hours" for _, outcome in held) <= 1
    assert last.pages == "architect-1"
    assert last.page.due_at == at + timedelta(seconds=300)


@given(st.integers(1, 5), st.booleans(), st.sampled_from(PAGED))
def test_work_that_stalls_begins_again_at_the_first_step(level: int, silenced: bool, severity: Severity) -> None:
    """Who acknowledged and did nothing is asked again, and a silence then holds the page, not the news of it."""
    taken = page(state="acknowledged", level=level, turn=level, round=2, acknowledged_at=NOW, severity=severity)
    silences = [silence(NOW - HOUR, NOW + HOUR)] if silenced else []
    outcome = turn(taken, finds, silences, {}, NOW)
    after = outcome.page
    assert (after.state, after.level, after.round, after.due_at) == ("sent", 0, 1, NOW)
    assert (outcome.event, outcome.pages, after.acknowledged_at) == ("page.unacknowledged", None, None)
    again = turn(after, finds, silences, {}, NOW)
    assert (again.pages, again.page.level) == ((None, 0) if silenced else ("architect-1", 1))


@given(st.sets(st.sampled_from(("ann", "ben"))), st.integers(CAP - 2, CAP + 2), st.sampled_from(SEVERITIES))
def test_the_cap_holds_back_repeats_only(paged: set[str], load: int, severity: Severity) -> None:
    """However many pages there were: the first of a problem reaches the person, and so does all that is critical."""
    before = page(severity=severity, paged=sorted(paged))
    held = held_back(before, "ann", {"ann": load, "ben": 10 * CAP})
    assert held == (severity != "critical" and "ann" in paged and load >= CAP)


# ---- storms


def burst(severities: Sequence[Severity], now: datetime = NOW) -> list[Page]:
    return [page(severity=one, opened_at=now, due_at=now) for one in severities]


bursts = st.lists(st.sampled_from(PAGED), max_size=4 * CROWD)


@given(bursts, st.integers(0, 2 * CROWD), st.sampled_from((None, *PAGED)), st.booleans())
def test_each_page_of_a_burst_is_sent_or_follows(
    severities: list[Severity], recent: int, leading: Severity | None, silenced: bool
) -> None:
    """None is left out, and none waits behind one that is held for what does not hold itself."""
    lead = None if leading is None else page(severity=leading, storm=True, held="silence" if silenced else None)
    new = burst(severities)
    gathered = gather(new, recent, lead, NOW)
    assert {one.id for one in gathered} == {one.id for one in new}
    assert len(gathered) == len(new)
    known = {one.id: one for one in [*gathered, *([] if lead is None else [lead])]}
    for one in gathered:
        assert one.due_at is not None
        if one.lead is None:
            assert one.due_at == NOW
            continue
        leads = known[one.lead]
        assert (leads.state in WAITING, leads.storm, leads.lead) == (True, True, None)
        assert severity_rank(leads.severity) >= severity_rank(one.severity)
        again = "it is looked at again, whatever becomes of the other; at once where that is silenced"
        assert (one.due_at == NOW) == (leads.held == "silence"), again
        assert one.due_at >= NOW, again


@given(st.lists(st.sampled_from(PAGED), max_size=CROWD), st.integers(0, CROWD))
def test_a_few_pages_are_sent_one_by_one(severities: list[Severity], recent: int) -> None:
    """Two problems in ten minutes are two problems."""
    assume(len(severities) + recent <= CROWD)
    new = burst(severities)
    assert {one.id: one for one in gather(new, recent, None, NOW)} == {one.id: one for one in new}


@given(bursts, st.integers(0, 2 * CROWD), st.sampled_from((None, *PAGED)))
def test_a_burst_is_one_page_of_a_severity_at_most(
    severities: list[Severity], recent: int, leading: Severity | None
) -> None:
    """A storm of 500 tickets does not ring 500 times; what is no worse than what waits already does not ring at all."""
    assume(severities and recent + len(severities) > CROWD)
    lead = None if leading is None else page(severity=leading, storm=True)
    sent = [one for one in gather(burst(severities), recent, lead, NOW) if one.lead is None]
    assert len({one.severity for one in sent}) == len(sent)
    worst = max(severities, key=severity_rank)
    rings = leading is None or severity_rank(worst) > severity_rank(leading)
    assert [one.severity for one in sent] == [worst] * rings


@dataclass
class Storm:
    """What consumer, escalator and ledger do with the pages of one customer, without their tables."""

    pages: dict[UUID, Page] = field(default_factory=dict)
    heard: set[UUID] = field(default_factory=set)
    """Somebody was paged for it, by its own page or by one that was sent for it too."""

    def arrive(self, severities: Sequence[Severity], now: datetime) -> None:
        lately = [p for p in self.pages.values() if p.opened_at > now - CROWD_WITHIN and p.lead is None]
        leads = [p for p in lately if p.storm and p.state in WAITING]
        lead = max(leads, key=lambda p: p.opened_at, default=None)
        self.keep(gather(burst(severities, now), len(lately), lead, now))

    def keep(self, pages: Sequence[Page]) -> None:
        self.pages |= {one.id: one for one in pages}

    def look(self, now: datetime) -> None:
        """Let everything that is due have its turn, as `Escalator._decide` does, until nothing is."""
        for _ in range(10):
            due = [p for p in self.pages.values() if p.due_at is not None and p.due_at <= now]
            if not due:
                return
            before, new = dict(self.pages), dict[UUID, Page]()
            for one in due:
                if one.lead is None:
                    outcome = turn(one, finds, (), {}, now)
                    if outcome.pages is not None:
                        self.heard |= {one.id, *(p.id for p in before.values() if p.lead == one.id)}
                else:
                    outcome = look_up(one, before.get(one.lead), now)
                    if outcome.page.lead is None and one.lead in new:
                        outcome = Outcome(follow(one, new[one.lead], now), None)
                    elif outcome.page.lead is None:
                        new[one.lead] = replace(outcome.page, storm=True)
                        outcome = Outcome(new[one.lead], None)
                self.keep([outcome.page])
        raise AssertionError("something stays due")

    def sent(self) -> list[Page]:
        """Return what waits for an answer, in the order in which it came."""
        return [p for p in self.pages.values() if p.state in WAITING and p.lead is None and p.turn]

    def waiting(self) -> list[Page]:
        return [p for p in self.pages.values() if p.state in WAITING]

    def take(self, one: Page, now: datetime) -> None:
        """Acknowledge a page and those that follow it, as `ledger.take` does."""
        for each in [one, *(p for p in self.pages.values() if p.lead == one.id)]:
            outcome = acknowledge(each, "architect-1", now)
            if outcome is not None:
                assert one.id in self.heard
                self.heard.add(each.id)
                self.keep([outcome.page])


happenings = st.one_of(
    st.tuples(st.just("arrive"), st.lists(st.sampled_from(PAGED), min_size=1, max_size=9)),
    st.tuples(st.sampled_from(("take", "resolve lead", "resolve", "take alone")), st.integers(0, 50)),
    st.tuples(st.just("pass"), st.integers(1, 200)),
)


@given(st.lists(happenings, max_size=25))
@example([("arrive", ["high"] * 9), ("resolve lead", 0), ("pass", 30), ("resolve lead", 0), ("arrive", ["critical"])])
def test_nobody_is_lost_in_a_storm(told: list[tuple[str, int | list[Severity]]]) -> None:
    """Whatever becomes of the pages that lead: each that waits is sent, or answered with one that was sent for it."""
    storm, now = Storm(), NOW
    for what, detail in told:
        now += timedelta(seconds=detail if what == "pass" and isinstance(detail, int) else 1)
        sent, waiting = storm.sent(), storm.waiting()
        if isinstance(detail, list):
            storm.arrive(detail, now)
        elif what == "take" and sent:
            storm.take(sent[detail % len(sent)], now)
        elif what == "resolve lead" and sent:
            storm.keep([_over(sent[detail % len(sent)])])
        elif what == "resolve" and waiting:
            storm.keep([_over(waiting[detail % len(waiting)])])
        elif what == "take alone" and waiting:  # its ticket was taken in the desk
            alone = acknowledge(waiting[detail % len(waiting)], "architect-2", now)
            assert alone is not None
            storm.heard.add(alone.page.id)
            storm.keep([alone.page])
        storm.look(now)
        for one in storm.waiting():
            assert one.due_at is not None
            assert one.due_at > now
            assert one.lead is not None or one.turn > 0
    rounds = 0
    while storm.waiting():
        rounds += 1
        assert rounds <= 2 + len(storm.pages), "a page waits that nobody hears of"
        for one in storm.sent():
            storm.take(one, now)
        now += timedelta(seconds=61)
        storm.look(now)
    over = {one.id for one in storm.pages.values() if one.state == "acknowledged"}
    assert over <= storm.heard


def _over(one: Page) -> Page:
    outcome = resolve(one)
    assert outcome is not None
    return outcome.page


# ---- what a ticket says

changes_of_tickets = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(("open", "acknowledged", "in_progress", "waiting")),
        "severity": st.sampled_from(SEVERITIES),
        "first_response": st.sampled_from(("running", "breached")),
        "resolve": st.sampled_from(("running", "breached")),
        "worked": st.just(True),
        "root_cause": st.sampled_from(("process", "people")),
    },
)


@example([{"state": "waiting"}, {"state": "open"}])
@given(st.lists(changes_of_tickets, max_size=12))
def test_a_page_follows_every_change_of_its_ticket_once(changes: list[dict[str, str]]) -> None:
    """Severity only rises, late is late once by each clock, and what comes twice does nothing the second time."""
    of, now = ticket(severity="high", sla=SlaV1()), NOW
    running = start(of, directory(), customer(), now)
    worst, late = severity_rank(of.severity), list[str]()
    for change in changes:
        now += MINUTE
        of = changed(of, change, now)
        outcomes = follow_ticket(running, of, now)
        late += [outcome.why for outcome in outcomes if outcome.why.startswith("sla")]
        running = outcomes[-1].page if outcomes else running
        worst = max(worst, severity_rank(of.severity))
        assert severity_rank(running.severity) == worst
        assert len(set(late)) == len(late), "a breach escalates once"
        assert running.due_at is not None or of.state == "waiting"
        assert not follow_ticket(running, of, now + HOUR), "a repeat changes nothing"
    breached = {clock for change in changes for clock in ("first_response", "resolve") if change.get(clock)}
    assert {why.split()[1] for why in late} <= breached


def changed(of: TicketV1, change: dict[str, str], now: datetime) -> TicketV1:
    assert of.sla is not None
    # A clock that ran out stays so.
    sla = SlaV1(
        **{
            clock: "breached" if getattr(of.sla, clock) == "breached" else change.get(clock, "running")  # type: ignore[arg-type]
            for clock in ("first_response", "resolve")
        }
    )
    fields = {name: change[name] for name in ("state", "severity", "root_cause") if name in change}
    worked = {"worked_at": now} if "worked" in change else {}
    return replace(of, version=of.version + 1, sla=sla, **fields, **worked)


@given(
    st.sampled_from(("acknowledged", "in_progress", "waiting")),
    st.sampled_from(("first_response", "resolve")),
    st.lists(st.sampled_from(SEVERITIES), max_size=5),
)
def test_only_work_answers_a_page_that_is_late(state: str, clock: str, severities: list[Severity]) -> None:
    """Once escalated it pages on until somebody does something: a ticket that is told again is no work."""
    of = ticket(state=state, sla=SlaV1(), version=2)
    taken = follow_ticket(start(ticket(), directory(), customer(), NOW), of, NOW)[-1].page
    assert taken.state == "acknowledged"
    of = replace(of, version=3, sla=SlaV1(**{clock: "breached"}))  # type: ignore[arg-type]
    late = follow_ticket(taken, of, NOW + MINUTE)[-1].page
    assert (late.state, late.due_at) == ("sent", NOW + MINUTE)
    paged = next_turn(late, finds, NOW + MINUTE).page
    for number, severity in enumerate(severities):
        of = replace(of, version=4 + number, severity=severity, title=f"told again, {number}")
        outcomes = follow_ticket(paged, of, NOW + 2 * MINUTE)
        paged = outcomes[-1].page if outcomes else paged
        assert paged.state == "sent"
    after = follow_ticket(paged, replace(of, version=99, worked_at=NOW + 3 * MINUTE), NOW + 3 * MINUTE)[-1].page
    assert after.state == "acknowledged"


def test_what_waits_for_somebody_outside_is_not_stalled() -> None:
    """An architect who waits for a customer's answer has not forgotten it; back at work, their time runs again."""
    of = ticket(state="acknowledged", version=2)
    running = follow_ticket(start(ticket(), directory(), customer(), NOW), of, NOW)[-1].page
    assert running.due_at == NOW + 4 * HOUR
    waits = follow_ticket(running, replace(of, state="waiting", version=3), NOW + HOUR)[-1].page
    assert (waits.state, waits.due_at) == ("acknowledged", None)
    works = follow_ticket(waits, replace(of, state="in_progress", version=4), NOW + 9 * HOUR)[-1].page
    assert (works.state, works.due_at) == ("acknowledged", NOW + 13 * HOUR)


def test_the_echo_of_a_forgotten_page_takes_nothing_from_who_answers_meanwhile() -> None:
    """Within one opening a ticket opens only because a page was forgotten: that word is our own, and may come late."""
    of = ticket(state="acknowledged", version=2)
    running = follow_ticket(start(ticket(), directory(), customer(), NOW), of, NOW)[-1].page
    again = forgotten(running, NOW + 4 * HOUR).page
    assert (again.state, again.due_at, again.level) == ("sent", NOW + 4 * HOUR, 0)
    taken = acknowledge(again, "architect-1", NOW + 4 * HOUR + MINUTE)
    assert taken is not None
    echo = follow_ticket(taken.page, replace(of, state="open", version=3), NOW + 4 * HOUR + 2 * MINUTE)
    assert all(one.page.state == "acknowledged" and one.event is None for one in echo)


@pytest.mark.parametrize("state", sorted(WAITING))
def test_a_page_that_is_answered_by_waiting_is_not_stalled(state: str) -> None:
    """A ticket goes from open to waiting too, and from in progress while it is escalated: nobody forgot it."""
    running = page(state=state, turn=1, level=1)
    (outcome,) = follow_ticket(running, ticket(state="waiting"), NOW)
    assert (outcome.page.state, outcome.event, outcome.page.due_at) == ("acknowledged", "page.acknowledged", None)


# ---- who is there

NAMES = ("architect-1", "architect-2", "night-1", "night-2", "duty-manager")
TARGETS = ("architect", "deputy", "person:night-1", "person:gone", "schedule:night-watch")
absences = st.dictionaries(
    st.sampled_from(NAMES), st.tuples(st.integers(-3, 3), st.integers(1, 3)), max_size=len(NAMES)
)


def away(first: int, days: int) -> tuple[Absence, ...]:
    begin = datetime(2026, 11, 23) + DAY * first  # noqa: DTZ001 (the person's clock)
    return (Absence(f"{begin:%Y-%m-%dT%H:%M}", f"{begin + DAY * days:%Y-%m-%dT%H:%M}"),)


def is_away(absent: dict[str, tuple[int, int]], who: str) -> bool:
    first, days = absent.get(who, (1, 0))
    return first <= 0 < first + days


def override(who: str, start: timedelta, until: timedelta) -> Override:
    return Override(uuid7(), "night-watch", who, NOW + start, NOW + until, None, NOW)


@given(absences, st.lists(st.sampled_from(TARGETS), max_size=5), st.sampled_from((None, *NAMES)), st.integers(1, 3))
def test_who_is_away_is_passed_over_and_the_catch_all_never(
    absent: dict[str, tuple[int, int]], targets: list[str], swapped: str | None, repeat: int
) -> None:
    """A holiday is a holiday; whom an override names said so on purpose, and behind everybody there is nobody else."""
    people = {name: person(name, absences=away(*absent[name]) if name in absent else ()) for name in NAMES}
    layer = Layer("daily", "2026-11-01T00:00", ("night-1",))
    known = directory(
        people=people,
        schedules={"night-watch": Schedule("night-watch", "UTC", (layer,))},
        escalations={
            "standard": build.escalation(steps=tuple(Step(one, 60.0) for one in targets), repeat=repeat),
        },
    )
    overrides = {"night-watch": [override(swapped, -HOUR, HOUR)]} if swapped is not None else {}
    presence = Presence(known, overrides, NOW)
    named = {"architect": "architect-1", "deputy": "architect-2", "person:night-1": "night-1"}
    expected: list[str] = []
    for target in targets:
        if target == "schedule:night-watch" and swapped is not None:
            expected.append(swapped)
        elif target == "schedule:night-watch" and not is_away(absent, "night-1"):
            expected.append("night-1")
        elif target in named and not is_away(absent, named[target]):
            expected.append(named[target])
    assert [link.person for link in full_chain(known, known.customers["acme"], presence)] == [
        *expected,
        "duty-manager",
    ]
    running = start(ticket(), known, known.customers["acme"], NOW)
    paged: list[str | None] = []
    for _ in range(len(expected) * repeat + 2):
        outcome = next_turn(running, presence.finds, NOW)
        paged.append(outcome.pages)
        running = outcome.page
    assert paged == [*expected * repeat, "duty-manager", "duty-manager"]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-4, 3), st.integers(1, 5)), max_size=4))
def test_a_schedules_step_finds_whom_its_overrides_name(planned: list[tuple[str, int, int]]) -> None:
    """Swaps of the last minute count when the step comes: who is paged is who the calendar shows."""
    rota = Schedule("night-watch", "UTC", (Layer("daily", "2026-11-01T00:00", ("night-1", "night-2")),))
    known = directory(people={name: person(name) for name in NAMES}, schedules={"night-watch": rota})
    overrides = [override(who, HOUR * first, HOUR * (first + hours)) for who, first, hours in planned]
    presence = Presence(known, {"night-watch": overrides}, NOW)
    step = build.turn(None, via="schedule:night-watch")
    in_force = {who for who, first, hours in planned if first <= 0 < first + hours}
    assert presence.finds(step) in (in_force or {"night-1", "night-2"})
    assert presence.finds(step) == on_call(rota, known.people, overrides, NOW).person
    assert presence.finds(build.turn(None, via="schedule:gone")) is None


# ---- digests


@given(st.sampled_from(ZONES), hours_of_quiet, moments)
def test_medium_is_told_soon_but_not_at_night(zone: str, quiet: str, now: datetime) -> None:
    """Two minutes, so that what comes together is one message; never in the hours that somebody asked to be quiet."""
    reader = person(timezone=zone, quiet_hours=quiet)
    told = due_at(reader, "medium", now)
    assert now + BUNDLE <= told <= now + BUNDLE + timedelta(hours=25)
    # An hour that comes twice in autumn counts the first time.
    if wall(zone, told).fold == 0:
        assert not is_quiet(quiet, wall(zone, told))
    soon = wall(zone, now + BUNDLE)
    if soon.fold == 0 and not is_quiet(quiet, soon):
        assert told == now + BUNDLE
    assert due_at(replace(reader, quiet_hours=None), "medium", now) == now + BUNDLE


@given(st.sampled_from(ZONES), clocks, moments, st.sampled_from(("low", "info")), hours_of_quiet)
def test_low_is_told_at_the_persons_own_hour(
    zone: str, digest_at: str, now: datetime, severity: Severity, quiet: str
) -> None:
    """Every local day has one digest, at that hour by the clock on the wall, also when clocks change."""
    reader = person(timezone=zone, digest_at=digest_at, quiet_hours=quiet)
    told = due_at(reader, severity, now)
    assert now < told <= now + timedelta(hours=25)
    shown, before = wall(zone, told), wall(zone, told - MINUTE)
    at, after, then = minutes(digest_at), minutes(f"{before:%H:%M}"), minutes(f"{shown:%H:%M}")
    assert 0 < (at - after) % 1440 <= (then - after) % 1440, "the clock comes to it in this minute, or jumps over it"
    for n in range(1, int((told - now) / MINUTE)):
        earlier = wall(zone, now + MINUTE * n)
        assert earlier.hour * 60 + earlier.minute != at or earlier.fold == 1, "it was missed"
    following = due_at(reader, severity, told)
    assert wall(zone, following).date() - shown.date() == DAY


@given(absences, st.sampled_from(("architect-1", "gone")), st.sampled_from(("architect-2", "gone", None)))
def test_somebody_is_told_of_every_customer(
    absent: dict[str, tuple[int, int]], architect: str, deputy: str | None
) -> None:
    """The architect, in their absence the deputy, at last whoever is behind everybody; never nobody."""
    people = {name: person(name, absences=away(*absent[name]) if name in absent else ()) for name in NAMES}
    acme = customer(architect=architect, deputy=deputy)
    known = directory(people=people, customers={"acme": acme})
    found = responsible(known, acme, NOW)
    assert found is not None
    named = [name for name in (architect, deputy, "duty-manager") if name in people]
    assert found.id == next((name for name in named if not is_away(absent, name)), named[0])


# ---- meetings with customers


@dataclass
class Year:
    """Looks at a customer's check-ins as the round does: when they are due, and somewhat late."""

    due: Due
    check_in: str
    told: list[tuple[datetime, datetime, Reminder]] = field(default_factory=list)
    """When, of which period, and what."""

    def pass_time(self, now: datetime, until: datetime, late: timedelta) -> None:
        while now < until:
            now += timedelta(hours=6)
            if self.due.look_at + late <= now:
                since = self.due.since
                self.due, reminder = look(self.due, self.check_in, now)
                assert self.due.since == since
                assert self.due.look_at > now, "it would be looked at again and again"
                if reminder is not None:
                    self.told.append((now, since, reminder))

    def of(self, since: datetime, kind: str) -> list[datetime]:
        return [at for at, of, reminder in self.told if of == since and reminder.kind == kind]


def planned(since: datetime, check_in: str) -> Due:
    return Due("acme", since, first_look(since, check_in), 0)


periods = st.sampled_from(tuple(PERIODS))


@given(periods, st.lists(st.integers(1, 200), max_size=5), st.integers(0, 30))
def test_one_brief_before_each_meeting_and_a_word_a_week_after(check_in: str, gaps: list[int], late: int) -> None:
    """Enough to remember by and too little to be ignored; a meeting that was held ends it until the next period."""
    now, delay = NOW, timedelta(hours=late)
    year = Year(planned(now, check_in), check_in)
    slack = delay + timedelta(hours=6)
    for days in [*gaps, 400]:
        since, until = now, now + DAY * days
        year.pass_time(now, until, delay)
        briefs, overdue = year.of(since, "brief"), year.of(since, "overdue")
        assert (
            len(briefs) == (until >= first_look(since, check_in) + slack) or until < first_look(since, check_in) + slack
        )
        assert len(briefs) <= 1
        assert all(at >= first_look(since, check_in) for at in briefs)
        assert all(at > check_in_due(since, check_in) for at in overdue)
        assert all(b - a >= timedelta(days=7) for a, b in pairwise(overdue))
        if until > check_in_due(since, check_in) + DAY + 2 * slack:
            assert overdue, "an overdue meeting is told"
        now = until
        year.due = planned(now, check_in)  # held
    assert all(reminder.due_at == check_in_due(since, check_in) for _, since, reminder in year.told)


@given(st.lists(st.tuples(periods, st.integers(1, 120)), min_size=2, max_size=6))
def test_a_period_that_the_directory_changes(changes: list[tuple[str, int]]) -> None:
    """Meetings more or less often: still one brief, nothing overdue before its day, and not more than once a week."""
    now = since = NOW
    year = Year(planned(now, changes[0][0]), changes[0][0])
    for check_in, days in changes:
        year.check_in, begun = check_in, len(year.told)
        year.pass_time(now, now + DAY * days, timedelta())
        for at, _, reminder in year.told[begun:]:
            earliest = first_look if reminder.kind == "brief" else check_in_due
            assert at >= earliest(since, check_in)
            assert reminder.due_at == check_in_due(since, check_in)
        now += DAY * days
    overdue = year.of(since, "overdue")
    assert len(year.of(since, "brief")) <= 1
    assert all(b - a >= timedelta(days=7) for a, b in pairwise(overdue))
    assert year.due.look_at <= max(now, check_in_due(since, max(PERIODS, key=lambda one: PERIODS[one]))) + 8 * DAY


# ---- before it is needed

OFFICE = "Mon-Fri 09:00-17:00"
rotas = st.builds(
    lambda rotation, every, people, restrict, zone: Schedule(
        "night-watch", zone, (Layer(rotation, "2026-11-02T09:00", people, every=every, restrict=restrict),)
    ),
    st.sampled_from(("hourly", "daily", "weekly")),
    st.integers(1, 5),
    st.permutations(("night-1", "night-2", "night-3")).map(tuple),
    st.sampled_from(((), (OFFICE,), ("18:00-08:00", "Sat-Sun 08:00-18:00"))),
    st.sampled_from(ZONES),
)
STAFF = ("architect-1", "architect-2", "duty-manager", "night-1", "night-2", "night-3")


def staffed(rota: Schedule, **fields: object) -> Directory:
    """Return a company in which nothing is wrong."""
    return directory(
        **{
            "people": {name: person(name) for name in STAFF},
            "schedules": {rota.name: rota},
            "escalations": {"standard": build.escalation(steps=(Step("architect", 60), Step("deputy", 60)))},
            **fields,
        }
    )


def found_in(
    known: Directory, *, reachable: Collection[str] = STAFF, verified: Collection[str] = STAFF
) -> list[Finding]:
    return preflight(known, {}, reachable=reachable, verified=verified, now=NOW)


def gone(*names: str) -> dict[str, Person]:
    """Return the staff, some of whom are away at the start of December."""
    off = (Absence("2026-12-01T00:00", "2026-12-09T00:00"),)
    return {name: person(name, absences=off if name in names else ()) for name in STAFF}


@given(rotas)
def test_a_company_where_all_is_well_has_nothing_to_mend(rota: Schedule) -> None:
    """A check that cries wolf is not read; nights that no layer is meant for are no gap."""
    assert found_in(staffed(rota)) == []


def ended(rota: Schedule) -> Schedule:
    return replace(rota, layers=tuple(replace(one, until="2026-12-04T00:00") for one in rota.layers))


@given(rotas)
def test_each_defect_is_named_by_its_own_word(rota: Schedule) -> None:
    """Who reads the report knows what to mend: one thing that is wrong is one sort of finding."""
    alone = replace(rota, layers=tuple(replace(one, people=("night-1",)) for one in rota.layers))
    boss = customer(architect="duty-manager", deputy=None)
    well = staffed(rota)
    on = next(one.person for one in shifts(rota, well.people, (), NOW, NOW + AHEAD) if one.person is not None)
    defects: dict[Code, list[Finding]] = {
        "gap": found_in(staffed(ended(rota))),
        "empty-shift": found_in(staffed(alone, people=gone("night-1"))),
        "both-absent": found_in(staffed(rota, people=gone("architect-1", "architect-2"))),
        "one-person": found_in(staffed(rota, customers={"acme": boss})),
        "unreachable": found_in(well, reachable={*STAFF} - {on}),
        "unverified": found_in(well, verified={*STAFF} - {"architect-2"}),
    }
    assert set(defects) == set(get_args(Code))
    assert {code: {one.code for one in found} for code, found in defects.items()} == {code: {code} for code in defects}
    assert {one.subject for one in defects["unreachable"]} == {f"person:{on}"}
    assert all(one.subject == "schedule:night-watch" for one in defects["gap"] + defects["empty-shift"])
    assert all(one.start is not None and one.end is not None and one.start < one.end for one in defects["empty-shift"])


@given(rotas, st.booleans())
def test_hours_in_which_only_the_catch_all_is_left_are_told(rota: Schedule, architect_too: bool) -> None:
    """A schedule may be meant for the night alone; an escalation of nothing else has nobody by day."""
    steps = (Step("schedule:night-watch", 60), *([Step("architect", 60)] if architect_too else []))
    known = staffed(rota, escalations={"standard": build.escalation(steps=steps)})
    holes = [one for one in shifts(rota, known.people, (), NOW, NOW + AHEAD) if one.person is None]
    found = [one for one in found_in(known) if one.subject == "escalation:standard"]
    assert len(found) == (1 if holes and not architect_too else 0)
    for one in found:
        assert (one.code, one.start, one.end) == ("gap", holes[0].start, holes[0].end)
        assert (f"{len(holes)} times" in one.detail) == (len(holes) > 1)


@given(st.sampled_from(ZONES), st.sets(st.sampled_from(("night-1", "night-2", "night-3"))), st.integers(1, 5))
def test_nobody_is_missed_outside_office_hours(zone: str, absent: set[str], every: int) -> None:
    """What is reported are exactly the hours in which somebody should be there and is not."""
    layer = Layer("daily", "2026-11-02T09:00", ("night-1", "night-2", "night-3"), every=every, restrict=(OFFICE,))
    known = staffed(Schedule("night-watch", zone, (layer,)), people=gone(*absent))
    found = found_in(known)
    at = NOW.replace(minute=30, second=0)
    while (at := at + 5 * HOUR) < NOW + AHEAD:
        shown = wall(zone, at)
        office = shown.weekday() < 5 and 9 <= shown.hour < 17
        nobody = on_call(known.schedules["night-watch"], known.people, (), at).person is None
        reported = any(one.start <= at < one.end for one in found if one.start is not None and one.end is not None)
        assert reported == (office and nobody)


def test_a_gap_right_after_an_absence_is_a_gap() -> None:
    """A rota that ends while its last person is away leaves two things to mend, not one."""
    layer = Layer("weekly", "2026-11-02T09:00", ("night-1",), until="2026-12-09T00:00")
    rota = Schedule("night-watch", "Europe/Helsinki", (layer,))
    found = found_in(staffed(rota, people=gone("night-1")))
    assert {one.code for one in found} == {"empty-shift", "gap"}
    covered = sum(((one.end or NOW) - (one.start or NOW) for one in found), timedelta())
    assert covered == NOW + AHEAD - datetime(2026, 11, 30, 22, tzinfo=UTC)


# ---- in words

SAID = "Nobody ever called"
texts = st.text(max_size=400)


@given(texts, texts, st.integers(0, 500), st.integers(0, 3), st.booleans(), st.sampled_from(PAGED))
def test_a_page_in_words(
    name: str, summary: str, followers: int, answers: int, allowed: bool, severity: Severity
) -> None:
    """An SMS is an SMS and a subject one line; what a customer wrote is in neither, unless the company said so."""
    running = page(
        customer_name=name,
        summary=summary,
        severity=severity,
        evidence=[evidence(comment=f"{SAID}\n{'!' * 500}") for _ in range(answers)],
    )
    url = "https://fiilis.example.test/a/" + "t" * 300
    asked = Asked(url, "4711", 1, "architect-1", followers=followers, comments_in_short=allowed)
    words = page_words(running, asked)
    assert len(words.short) <= 300
    assert len(words.subject) <= 200
    assert len(words.subject.splitlines()) == len(words.short.splitlines()) == 1
    assert (SAID in words.short) == (allowed and answers > 0)
    assert SAID not in words.subject
    assert SAID not in str(words.data)
    assert words.text.count(SAID) == answers
    assert url in words.text.splitlines()
    assert (f"{followers + 1} tickets at once" in words.subject) == (followers > 0) or len(name) > 100


entries = st.builds(
    lambda kind, text, name, comment, minutes: (
        kind,
        Entry(customer="acme", customer_name=name, text=text, at=NOW + MINUTE * minutes, comment=comment),
    ),
    st.sampled_from(("ticket", "good", "late", "preflight")),
    texts,
    texts,
    st.one_of(st.none(), st.just(f"{SAID}\nback")),
    st.integers(0, 1000),
)


@given(st.lists(entries, min_size=1, max_size=12))
def test_a_digest_mentions_everything(told: list[tuple[str, Entry]]) -> None:
    """Whoever reads it once a day misses nothing; the phone's list shows how much there is, and no customer's words."""
    words = digest_words(told)
    lines = words.text.splitlines()
    assert len([line for line in lines if line.startswith("- ")]) == len(told)
    for _, entry in told:
        said = [" ".join(text.split()) for text in (entry.text, entry.comment or "")]
        assert any(all(text in line for text in said) and f"{entry.at:%Y-%m-%d %H:%M}" in line for line in lines)
    counts = [int(word) for word in words.subject.split() if word.isdigit()]
    assert sum(counts) == len(told)
    assert len(words.subject) <= 200
    assert len(words.short) <= 300
    assert SAID not in words.short + words.subject
    assert len(words.data["entries"]) == len(told)


def test_an_escalations_snapshot_asks_schedules_when_the_step_comes() -> None:
    """The page knows which schedule, not who: a night is handed over while a page runs."""
    known = directory(escalations={"standard": build.escalation(steps=(Step("schedule:night-watch", 60.0),))})
    (step,) = chain(known, known.customers["acme"])
    assert (step.person, step.schedule) == (None, "night-watch")
    asked: list[str | None] = []

    def both(step: build.Turn) -> str | None:
        asked.append(step.schedule)
        return "architect-2"

    found: Finds = both
    assert next_turn(page(steps=[step]), found, NOW).pages == "architect-2"
    assert asked == ["night-watch"]
