"""Who is not woken, who is not forgotten, and what is told without haste: the decisions of notify around a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.notify.domain.hold import CAP, Silence, held_back, turn
from services.notify.domain.page import (
    CROWD,
    CROWD_WITHIN,
    WAITING,
    Outcome,
    Page,
    Work,
    acknowledge,
    follow_ticket,
    forgotten,
    gather,
    next_turn,
    resolve,
    start,
)
from services.notify.domain.rota import quiet_until
from services.notify.domain.storm import follows, review
from shared.directory.model import SEVERITIES, Person, severity_rank
from shared.wire.events import Severity, SlaV1, TicketV1
from shared.wire.ids import uuid7
from tests.support import build
from tests.support.build import NOW, customer, directory, page, person, ticket

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


def finds(step: build.EscalationStep) -> str | None:
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
            before = dict(self.pages)
            following = [one for one in due if follows(one)]
            outcomes = review(following, before, {}, (), now)
            for one in due:
                outcome = outcomes[one.id] if one.id in outcomes else turn(one, finds, (), {}, now)
                if outcome.pages is not None:
                    self.heard |= {one.id, *(p.id for p in before.values() if p.lead == one.id)}
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


# ---- a ticket that rises since somebody took it


def risen(of: TicketV1, severity: Severity, **fields: object) -> TicketV1:
    """Return a ticket as ticketing tells it when it rises above what was taken."""
    told = {"state": "open", "severity": severity, "acknowledged_severity": of.severity, **fields}
    return replace(of, version=of.version + 1, **told)


@given(st.sampled_from(("architect-1", "architect-2", "duty-manager")), st.sampled_from(("medium", "high")))
def test_its_taker_is_asked_first_and_then_the_chain(taker: str, before: Severity) -> None:
    """A handled ticket that turns critical pages whoever has it, at once, and then everybody as for any other."""
    of = ticket(severity=before, state="acknowledged", assignee=taker, version=2)
    if before == "high":
        running = follow_ticket(start(ticket(severity="high"), directory(), customer(), NOW), of, NOW)[-1].page
        assert running.state == "acknowledged"
        outcomes = follow_ticket(running, risen(of, "critical"), NOW + HOUR)
        assert [one.event for one in outcomes if one.event] == ["page.unacknowledged"]
        running = outcomes[-1].page
    else:
        running = start(risen(of, "critical"), directory(), customer(), NOW + HOUR)
    assert (running.state in WAITING, running.due_at, running.severity) == (True, NOW + HOUR, "critical")
    asked: list[str | None] = []
    for _ in range(6):
        assert running.due_at is not None
        outcome = turn(running, finds, (), {}, running.due_at)
        asked.append(outcome.pages)
        running = outcome.page
    chain = ["architect-1", "architect-2", "architect-1", "architect-2", "duty-manager", "duty-manager"]
    expected = chain if taker == "architect-1" else [taker, *chain]
    assert asked == expected[:6], "and nobody twice in a row, but the catch-all"


@pytest.mark.parametrize("left", [False, True])
def test_a_taker_who_cannot_be_paged_is_passed_over(left: bool) -> None:
    """Who took it last month may have left: the chain begins at once."""
    taken = page(state="acknowledged", severity="high", work=Work(state="acknowledged"))
    of = ticket(severity="high", state="acknowledged", assignee="night-1")
    running = follow_ticket(taken, risen(of, "critical"), NOW)[-1].page
    reachable = {"architect-1", "architect-2"} | (set() if left else {"night-1"})
    outcome = turn(running, lambda step: step.person if step.person in reachable else None, (), {}, NOW)
    assert outcome.pages == ("architect-1" if left else "night-1")


def test_what_was_taken_by_a_page_alone_rises_too() -> None:
    """The ticket rose before it heard that somebody had said yes to less."""
    of = ticket(severity="high")
    running = start(of, directory(), customer(), NOW)
    taken = acknowledge(running, "architect-2", NOW + MINUTE)
    assert taken is not None
    rose = replace(of, version=2, severity="critical")
    after = follow_ticket(taken.page, rose, NOW + 2 * MINUTE)[-1].page
    assert (after.state, after.taker, after.due_at) == ("sent", "architect-2", NOW + 2 * MINUTE)
    # Ticketing tells of the answer: that is no new one.
    told = replace(rose, version=3, assignee="architect-2", acknowledged_severity="high")
    outcomes = follow_ticket(after, told, NOW + 3 * MINUTE)
    assert all(one.event is None and one.page.state == "sent" for one in outcomes)


@given(st.lists(st.sampled_from(SEVERITIES[1:]), max_size=8))
def test_who_says_so_has_taken_what_it_is(rises: list[Severity]) -> None:
    """A ticket that is raised by whoever works on it asks nobody."""
    of = ticket(severity="high", state="in_progress", version=2)
    running = follow_ticket(start(ticket(severity="high"), directory(), customer(), NOW), of, NOW)[-1].page
    for number, severity in enumerate(rises):
        of = replace(of, version=3 + number, severity=severity, acknowledged_severity=severity, worked_at=NOW)
        outcomes = follow_ticket(running, of, NOW + MINUTE)
        running = outcomes[-1].page if outcomes else running
        assert running.state == "acknowledged"


def test_the_takers_night_is_theirs() -> None:
    """`high` waits for the quiet hours of whom it is asked first; the chain after them is a page that runs."""
    taker = person("architect-2", quiet_hours="09:00-13:00", timezone="UTC")
    architect = person("architect-1", quiet_hours="13:00-20:00", timezone="UTC")
    of = ticket(severity="medium", state="acknowledged", assignee="architect-2", version=2)
    running = start(risen(of, "high"), directory(), customer(), NOW)
    *held, (at, first) = turns(running, [taker, architect])
    assert [one.page.held for _, one in held] == ["quiet hours"]
    assert (at.hour, first.pages) == (13, "architect-2")
    assert first.page.due_at is not None
    assert turn(first.page, finds, (), {one.id: one for one in (taker, architect)}, first.page.due_at).pages == (
        "architect-1"
    )
