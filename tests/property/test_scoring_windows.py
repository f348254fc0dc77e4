"""However answers arrive, each window says what a plain recount of all of them says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations, permutations
from statistics import fmean, pstdev
from typing import get_args
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.scoring.domain.counting import (
    CATEGORIES,
    WIDTH,
    Change,
    DatedScore,
    Series,
    category_of,
    changes,
    hour_of,
    hour_time,
    neighbours,
    new_answer,
    series_of,
    window_start,
)
from services.scoring.domain.report import goals_of, metric_scores, mood_score, nps_score, touchpoint_scores
from services.scoring.domain.windows import ExactWindow, Gain, HourWindow, Judged, Measure, view_of
from shared.rules.base import SUM
from shared.rules.figures import mood_of, nps_of
from shared.wire.events import RATINGS, Audience, FeedbackReceivedV1, Kind
from tests.support.build import NOW, answer, customer, dated_score
from tests.support.examples import examples

HOURS = {24 * 3600: True, 25 * 3600: False, 48 * 3600: True}
"""Windows of a day or more, and whether touchpoints are counted by themselves in them."""
EXACT = (60, 900, 2 * 3600)
TOUCHPOINTS = ("support", "billing", None)
SPEED = Measure("kpi", "speed", "customer")
NPS = Measure("nps", None, "customer")
_ASKED: list[tuple[Kind, str | None]] = [
    *((kind, None) for kind in RATINGS),
    *(("kpi", metric) for metric in ("speed", "price", "resolved")),
]
MEASURES = [Measure(kind, metric, audience) for kind, metric in _ASKED for audience in get_args(Audience)]


def judged(*, of_touchpoints: bool) -> frozenset[Judged]:
    """Return that rules look at everything."""
    return frozenset(Judged(measure, of) for measure in MEASURES for of in {False, of_touchpoints})


# ---- the plain recount


def first_moment(length: int, now: datetime) -> datetime:
    """Return where a window starts, by the contract."""
    start = now - timedelta(seconds=length)
    return start if length < 24 * 3600 else start.replace(minute=0, second=0, microsecond=0)


def place(kind: Kind, score: float) -> int:
    if kind == "kpi":
        return 0
    if kind != "nps":
        return int(score) - 1
    return 0 if score <= 6 else 1 if score <= 8 else 2


def recount(
    answers: Iterable[FeedbackReceivedV1],
    measure: Measure,
    touchpoint: str | None,
    since: datetime,
    until: datetime = datetime.max.replace(tzinfo=NOW.tzinfo),
) -> list[float]:
    """Count one touchpoint: of each respondent the latest answer within the window; who has no name, each."""
    counts: list[float] = [0] * (8 if measure.kind == "kpi" else CATEGORIES[measure.kind])
    counted: list[FeedbackReceivedV1] = []
    latest: dict[str, FeedbackReceivedV1] = {}
    for said in answers:
        if (said.kind, said.metric, said.audience) != measure or said.touchpoint != touchpoint:
            continue
        if not since <= said.occurred_at < until:
            continue
        if said.respondent is None:
            counted.append(said)
            continue
        known = latest.setdefault(said.respondent, said)
        if (said.occurred_at, said.received_at, said.id) > (known.occurred_at, known.received_at, known.id):
            latest[said.respondent] = said
    for said in (*counted, *latest.values()):
        counts[place(measure.kind, said.score)] += 1
        if measure.kind == "kpi":
            counts[7] += said.score
    return counts


# ---- what keeps the counts, with dicts for tables


@dataclass
class Memory:
    """Feeds windows as their owner does: moves them to now, applies what an answer changes, keeps the tables."""

    buckets: dict[tuple[Series, int], list[float]] = field(default_factory=dict[tuple[Series, int], list[float]])
    replaced: dict[tuple[Series, int, int, int], tuple[float, float]] = field(
        default_factory=dict[tuple[Series, int, int, int], tuple[float, float]]
    )
    """By series, hour, until and category: how many answers, and the sum of their scores."""
    stored: list[FeedbackReceivedV1] = field(default_factory=list[FeedbackReceivedV1])
    hours: dict[int, HourWindow] = field(default_factory=dict[int, HourWindow])
    before: dict[int, HourWindow] = field(default_factory=dict[int, HourWindow])
    exact: dict[int, ExactWindow] = field(default_factory=dict[int, ExactWindow])

    def add(self, window: HourWindow, first: int, after: float, sign: int, *, replaced: bool = False) -> None:
        """Add what the tables hold of some hours, as `counting.sum_hours` returns it."""
        for (series, hour), counts in self.buckets.items():
            if first <= hour < after:
                window.add(series, counts, sign)
        for (series, hour, until, category), (count, total) in self.replaced.items():
            if replaced and first <= hour < after <= until:
                counts = [0.0] * WIDTH
                counts[category], counts[SUM] = count, total
                window.add(series, counts, sign)

    def forget(self) -> None:
        self.hours.clear()
        self.before.clear()
        self.exact.clear()

    def move(self, now: datetime) -> None:
        for length, of_touchpoints in HOURS.items():
            start = window_start(now, length)
            window = self.hours.get(length)
            if window is None:
                window = self.hours[length] = HourWindow(judged(of_touchpoints=of_touchpoints), start)
                self.add(window, start, math.inf, 1)
            self.add(window, window.start, start, -1)
            window.start = start
            first = start - length // 3600
            if length not in self.before or self.before[length].start != first:
                self.before[length] = HourWindow(judged(of_touchpoints=of_touchpoints), first, start)
                self.add(self.before[length], first, start, 1, replaced=True)
        for length in EXACT:
            since = now - timedelta(seconds=length)
            window = self.exact.get(length)
            if window is None:
                window = self.exact[length] = ExactWindow(since)
                for said in self.stored:
                    _ = window.add(series_of(said), said.respondent, dated_score(said))
            window.move(since)

    def take(self, arrived: FeedbackReceivedV1, now: datetime) -> None:
        self.move(now)
        series, said = series_of(arrived), dated_score(arrived)
        made = changes(new_answer(arrived), *self.around(arrived))
        for change in made:
            self.keep(series, change)
        for window in (*self.hours.values(), *self.before.values(), *self.exact.values()):
            was = whole(window, measure_of(arrived))
            if isinstance(window, HourWindow):
                gains = window.apply(series, made)
            else:
                gains = window.add(series, arrived.respondent, said)
            assert_gained(was, gains, whole(window, measure_of(arrived)))
        self.stored.append(arrived)

    def around(self, arrived: FeedbackReceivedV1) -> tuple[DatedScore | None, DatedScore | None]:
        if arrived.respondent is None:
            return None, None
        who = (series_of(arrived), arrived.respondent)
        return neighbours(
            dated_score(arrived), [dated_score(a) for a in self.stored if (series_of(a), a.respondent) == who]
        )

    def keep(self, series: Series, change: Change) -> None:
        if change.until is None:
            counts = self.buckets.setdefault((series, change.hour), [0] * WIDTH)
            counts[change.category] += change.by
            counts[SUM] += change.amount
        else:
            key = (series, change.hour, change.until, change.category)
            count, total = self.replaced.get(key, (0, 0.0))
            self.replaced[key] = (count + change.by, total + change.amount)

    def tables(self) -> tuple[dict[tuple[Series, int], list[float]], dict[tuple[Series, int, int, int], object]]:
        """Return what the tables hold, without rows that have come back to nothing."""
        return (
            {key: counts for key, counts in self.buckets.items() if any(counts)},
            {key: sums for key, sums in self.replaced.items() if any(sums)},
        )

    def nps(self, length: int) -> list[float]:
        """Return the customer's NPS counts of a window that ends now."""
        window = self.hours[length] if length in HOURS else self.exact[length]
        return whole(window, NPS)


def measure_of(said: FeedbackReceivedV1) -> Measure:
    return Measure(said.kind, said.metric, said.audience)


def whole(window: HourWindow | ExactWindow, measure: Measure) -> list[float]:
    """Return the customer's counts in a window as they are now."""
    return list(window.view(measure, None, of_touchpoint=False).all)


def assert_gained(was: list[float], gains: Sequence[Gain], now: list[float]) -> None:
    """What an answer is said to have changed is what it changed: a rule takes it away to see what was before."""
    for category, by, amount in gains:
        was[category] += by
        if amount:
            was[SUM] += amount
    assert was == now


# ---- what arrives

ages = st.one_of(
    st.integers(-300, 1200),
    st.integers(0, 110).map(lambda hours: hours * 3600 + 30),  # on the very second where an hour's window may start
    st.integers(0, 110 * 3600),
    st.sampled_from([*EXACT, *HOURS, *(2 * length for length in HOURS)]),
)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[FeedbackReceivedV1, int]:
    """Return an answer whose `occurred_at` is NOW - age (to be moved with the clock), and that age in seconds."""
    kind = draw(st.sampled_from(("nps", "nps", "nps", "mood", "csat", "ces", "kpi", "kpi")))
    respondent = draw(st.sampled_from((None, "r-1", "r-1", "r-2")))
    # Quarters: their sums are exact, in whatever order they are added and taken away.
    score = draw(st.integers(-40, 400)) / 4 if kind == "kpi" else draw(st.integers(*RATINGS[kind]))
    said = answer(
        score,
        id=UUID(int=draw(st.integers(0, 2**128 - 1))),
        kind=kind,
        metric=draw(st.sampled_from(("speed", "speed", "resolved"))) if kind == "kpi" else None,
        touchpoint=draw(st.sampled_from(("support", *TOUCHPOINTS))),
        audience=draw(st.sampled_from(("customer", "customer", "customer", "employee"))),
        respondent=respondent,
        # Only a verified answer can name its respondent.
        trust="verified" if respondent else draw(st.sampled_from(("verified", "anonymous"))),
    )
    return said, draw(ages)


steps = st.lists(
    st.tuples(
        st.sampled_from((0, 0, 1, 30, 900, 3600, 6 * 3600)), st.booleans() | st.none(), arrivals(), st.integers(0, 2)
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda step: step[2][0].id,
)


@examples(200)
@given(steps)
def test_every_window_is_what_a_recount_says(
    told: list[tuple[int, bool | None, tuple[FeedbackReceivedV1, int], int]],
) -> None:
    """Late answers, repeats, passing time and lost memory included: score and stored answers never disagree.

    The window before too: it holds of a respondent the latest answer within it, whatever was said since.
    """
    memory, now = Memory(), NOW
    for pause, lost, (said, age), delay in told:
        now += timedelta(seconds=pause)
        if lost:
            memory.forget()
        arrived = answer(
            **{f: getattr(said, f) for f in said.__struct_fields__ if not f.endswith("_at")},
            occurred_at=now - timedelta(seconds=age),
            received_at=now - timedelta(seconds=delay),
        )
        memory.take(arrived, now)
        assert_recounted(memory, now)
    for hours in (1, 20, 23, 60):
        now += timedelta(hours=hours, seconds=1)
        memory.move(now)
        assert_recounted(memory, now)


def assert_recounted(memory: Memory, now: datetime) -> None:
    for length, of_touchpoints in HOURS.items():
        since = first_moment(length, now)
        assert_counts(memory.hours[length], memory.stored, of_touchpoints, since)
        then = since - timedelta(seconds=length)
        assert_counts(memory.before[length], memory.stored, of_touchpoints, then, since)
    for length in EXACT:
        window = memory.exact[length]
        assert_counts(window, memory.stored, True, first_moment(length, now))
        assert all(count >= 0 for series, counts in window.counts.items() for count in counts[:SUM])


def assert_counts(
    window: HourWindow | ExactWindow,
    stored: Sequence[FeedbackReceivedV1],
    of_touchpoints: bool,
    *range_: datetime,
) -> None:
    known = [said for said in stored if said.trust == "verified"]
    audiences: tuple[Audience, ...] = get_args(Audience)
    for measure in {measure_of(said)._replace(audience=audience) for said in stored for audience in audiences}:
        every, verified = (
            [recount(of, measure, touchpoint, *range_) for touchpoint in TOUCHPOINTS] for of in (stored, known)
        )
        for n, touchpoint in enumerate(TOUCHPOINTS if of_touchpoints else ()):
            found = window.view(measure, touchpoint, of_touchpoint=True)
            assert (found.all, found.verified) == (every[n], verified[n]), (measure, touchpoint, range_)
        found = window.view(measure, None, of_touchpoint=False)
        assert (found.all, found.verified) == (added(every), added(verified)), (measure, range_)


def added(each: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) for column in zip(*each, strict=True)]


@given(st.lists(arrivals(), min_size=1, max_size=8, unique_by=lambda a: a[0].id), st.data())
def test_the_order_of_arrival_does_not_matter(told: list[tuple[FeedbackReceivedV1, int]], data: st.DataObject) -> None:
    """Kafka's order is not the order in which people answered; the score is the same whichever came first."""
    said = [
        answer(
            **{f: getattr(a, f) for f in a.__struct_fields__ if f != "occurred_at"},
            occurred_at=NOW - timedelta(seconds=age),
        )
        for a, age in told
    ]
    one, other = Memory(), Memory()
    for arrived in said:
        one.take(arrived, NOW)
    for arrived in data.draw(st.permutations(said)):
        other.take(arrived, NOW)
    assert one.tables() == other.tables()
    assert_recounted(other, NOW)


# ---- one respondent, every window of a few hours

AT = hour_of(NOW)


def of_one(told: Sequence[tuple[int, int, float]], kind: Kind) -> list[FeedbackReceivedV1]:
    """Return answers of one respondent, by the second in which they occurred, their id and their score."""
    return [
        answer(
            score,
            id=UUID(int=id_),
            kind=kind,
            metric="speed" if kind == "kpi" else None,
            respondent="r-1",
            occurred_at=hour_time(AT) + timedelta(seconds=second),
        )
        for second, id_, score in told
    ]


HALF = 1800
LATE = [(0, 1, 0.0), (5 * HALF, 2, 10.0), (2 * HALF, 3, 7.0), (2 * HALF + 60, 4, 1.0), (12 * HALF, 5, 9.0)]


@examples(200)
@given(
    st.lists(
        st.tuples(st.integers(0, 8 * 3600 - 1) | st.integers(0, 15).map(lambda n: n * HALF), st.integers(1, 99)),
        min_size=1,
        max_size=7,
        unique_by=lambda a: a[1],
    ),
    st.sampled_from(("nps", "kpi")),
    st.lists(st.integers(0, 10), min_size=7, max_size=7),
)
@example([(second, id_) for second, id_, _ in LATE], "nps", [0, 10, 7, 1, 9, 0, 0])
def test_each_window_holds_the_latest_answer_within_it(
    told: list[tuple[int, int]], kind: Kind, scores: list[int]
) -> None:
    """Whoever compares a month with the month before compares what people thought in each, not what they say now."""
    answers = of_one([(at, id_, score) for (at, id_), score in zip(told, scores, strict=False)], kind)
    memory, measure = Memory(), measure_of(answers[0])
    every = judged(of_touchpoints=True)
    watched = {hours: HourWindow(every, *hours) for hours in combinations(range(AT - 1, AT + 10), 2)}
    for arrived in answers:
        made = changes(new_answer(arrived), *memory.around(arrived))
        memory.stored.append(arrived)
        for change in made:
            memory.keep(series_of(arrived), change)
        for (first, after), window in watched.items():
            _ = window.apply(series_of(arrived), made)
            loaded = HourWindow(every, first, after)
            memory.add(loaded, first, after, 1, replaced=True)
            wanted = recount(memory.stored, measure, "support", hour_time(first), hour_time(after))
            assert list(window.view(measure, "support", of_touchpoint=True).all) == wanted, (first - AT, after - AT)
            assert list(loaded.view(measure, "support", of_touchpoint=True).all) == wanted, (first - AT, after - AT)


@pytest.mark.parametrize("order", list(permutations(range(5))))
def test_what_was_replaced_does_not_depend_on_who_came_first(order: tuple[int, ...]) -> None:
    """Five answers, two in one hour, in any order: the hour's later one, and each that a window may end before."""
    memory, answers = Memory(), of_one(LATE, "nps")
    for place_ in order:
        memory.take(answers[place_], NOW + timedelta(days=1))
    series = series_of(answers[0])
    assert memory.tables() == (
        {(series, AT + 6): [0, 0, 1, *[0] * 5]},
        {
            (series, AT, AT + 1, 0): (1, 0.0),
            (series, AT + 1, AT + 2, 0): (1, 0.0),
            (series, AT + 2, AT + 6, 2): (1, 0.0),
        },
    )


def test_who_has_no_name_replaces_nobody() -> None:
    """Anonymous answers count each; nothing is said of when another came."""
    assert changes(new_answer(answer(3)), None, None) == [Change(AT, 0, 1)]
    assert changes(new_answer(answer(2.5, kind="kpi", metric="speed")), None, None) == [Change(AT, 0, 1, 2.5)]


@given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=12, unique=True),
    st.tuples(*[st.integers(0, 3)] * 3),
)
def test_neighbours_are_right_before_and_after(others: list[tuple[int, int, int]], new: tuple[int, int, int]) -> None:
    """By when it occurred, then when we received it, then by id; the score never decides."""

    def said(key: tuple[int, int, int], score: float) -> DatedScore:
        return DatedScore(NOW + timedelta(seconds=key[0]), NOW + timedelta(seconds=key[1]), UUID(int=key[2]), score)

    known = {key: said(key, 10 - n) for n, key in enumerate(others) if key != new}
    order = sorted([*known, new])
    at = order.index(new)
    wanted = (known[order[at - 1]] if at else None, known[order[at + 1]] if at + 1 < len(order) else None)
    assert neighbours(said(new, 5), list(known.values())) == wanted


@given(st.sampled_from([*RATINGS, "kpi"]), st.data())
def test_a_score_has_one_category(kind: Kind, data: st.DataObject) -> None:
    """From the worst: a rule takes the first one for bad."""
    score = data.draw(st.floats(-1e9, 1e9) if kind == "kpi" else st.integers(*RATINGS[kind]))
    assert category_of(kind, score) == place(kind, score)
    assert 0 <= category_of(kind, score) < CATEGORIES[kind] <= SUM


def test_a_window_of_a_day_starts_at_a_whole_hour() -> None:
    """At 10:20:30 the window of 24 h starts at 10:00 of the day before: its first hour is counted whole."""
    memory, now = Memory(), NOW
    start = NOW.replace(day=22, minute=0, second=0)
    memory.take(answer(0, occurred_at=start), now)
    memory.take(answer(0, occurred_at=start - timedelta(microseconds=1)), now)
    memory.move(now)
    assert memory.nps(24 * 3600) == [1, 0, 0]
    assert hour_of(start) == window_start(now, 24 * 3600)
    assert whole(memory.before[24 * 3600], NPS) == [1, 0, 0], "the window before ends there"


def test_an_earlier_window_is_not_falsified_by_a_later_answer() -> None:
    """Who answers again counts once in the newest window, by the latest answer, and leaves it with that answer."""
    memory = Memory()
    memory.take(answer(0, respondent="r-1", occurred_at=NOW), NOW)
    later = NOW + timedelta(hours=2)
    memory.take(answer(10, respondent="r-1", occurred_at=later), later)
    assert memory.nps(24 * 3600) == [0, 0, 1]
    gone = later + timedelta(hours=26)
    memory.move(gone)
    assert memory.nps(24 * 3600) == [0, 0, 0]


def test_the_window_before_keeps_what_was_said_then() -> None:
    """Who was happy last month and answers again now was happy last month: that is what a drop is measured from."""
    memory = Memory()
    then = NOW - timedelta(hours=30)
    memory.take(answer(10, respondent="r-1", occurred_at=then, received_at=then), then)
    memory.take(answer(0, respondent="r-1"), NOW)
    assert memory.nps(24 * 3600) == [1, 0, 0]
    assert whole(memory.before[24 * 3600], NPS) == [0, 0, 1]
    memory.forget()
    memory.move(NOW)
    assert whole(memory.before[24 * 3600], NPS) == [0, 0, 1], "also when it is read again"


def test_two_metrics_are_two_sums() -> None:
    """Seconds and euros are never added up, nor customers' and employees'."""
    window = HourWindow(judged(of_touchpoints=True), AT)
    for score, metric, audience in ((10, "speed", "customer"), (2.5, "speed", "customer"), (7, "price", "customer")):
        said = answer(score, kind="kpi", metric=metric, audience=audience)
        _ = window.apply(series_of(said), changes(new_answer(said), None, None))
    assert window.view(SPEED, None, of_touchpoint=False).all == [2, *[0] * 6, 12.5]
    assert window.view(SPEED._replace(metric="price"), None, of_touchpoint=False).all == [1, *[0] * 6, 7]
    assert window.view(SPEED._replace(audience="employee"), None, of_touchpoint=False).all == [0] * WIDTH


@given(st.sets(st.sampled_from(MEASURES)), st.lists(arrivals(), max_size=6, unique_by=lambda a: a[0].id))
def test_a_window_counts_what_rules_look_at_and_nothing_else(
    looked_at: set[Measure], told: list[tuple[FeedbackReceivedV1, int]]
) -> None:
    """What no rule asks for costs nothing, and tells rules nothing."""
    window = HourWindow(frozenset(Judged(measure, False) for measure in looked_at), 0)
    for said, _ in told:
        gains = window.apply(series_of(said), changes(new_answer(said), None, None))
        assert bool(gains) == (measure_of(said) in looked_at)
    for measure in MEASURES:
        mine = [said for said, _ in told if measure_of(said) == measure and measure in looked_at]
        assert sum(window.view(measure, None, of_touchpoint=False).all[:SUM]) == len(mine)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [((2, 1, 1), (1, 9, 9)), ((1, 2, 1), (1, 1, 9)), ((1, 1, 2), (1, 1, 1))],
    ids=["by occurred_at", "by received_at", "by id"],
)
def test_of_two_answers_the_later_counts(
    first: tuple[int, int, int], second: tuple[int, int, int], turned: bool
) -> None:
    """By when it occurred, then when we received it, then by id; whichever of them is handled first."""
    told = [
        answer(
            score,
            id=UUID(int=id_),
            respondent="r-1",
            occurred_at=NOW - timedelta(seconds=30 - occurred),
            received_at=NOW - timedelta(seconds=10 - received),
        )
        for score, (occurred, received, id_) in ((0, first), (10, second))
    ]
    memory = Memory()
    for arrived in reversed(told) if turned else told:
        memory.take(arrived, NOW)
    for length in (*HOURS, *EXACT):
        assert memory.nps(length) == [1, 0, 0]


# ---- figures

SUPPORT = Series("support", "customer", "nps", "verified")
FACES = Series("support", "customer", "mood", "verified")


def filled(counts: Sequence[int]) -> list[int]:
    return [*counts, *[0] * (WIDTH - len(counts))]


def test_nps_is_the_worked_example_of_the_contract() -> None:
    """Everybody who recomputes the published example gets our figures."""
    score = nps_score({SUPPORT: filled([15, 15, 10])}, "customer", None, 40)
    assert (score.score, score.responses, score.promoters, score.passives, score.detractors) == (-12.5, 40, 10, 15, 15)
    assert (score.margin, score.low, score.high) == (23.2, -34.8, 11.6)
    assert (score.reliable, score.goal, score.gap) == (True, 40, 52.5)


def test_mood_is_the_worked_example_of_the_contract() -> None:
    score = mood_score({FACES: filled([2, 5, 7, 7])}, "customer", None, 3.2)
    assert (score.average, score.responses, score.unhappy_share) == (2.9, 21, 0.33)
    assert score.counts == {"1": 2, "2": 5, "3": 7, "4": 7}
    assert (score.goal, score.gap) == (3.2, 0.3)


def test_nobody_answered_is_not_a_score_of_zero() -> None:
    """`null` says that nothing is known; a zero would look like a bad customer."""
    nps, mood = nps_score({}, "customer", None, 40), mood_score({}, "customer", None, 3.2)
    assert (nps.score, nps.margin, nps.low, nps.high, nps.gap, nps.reliable) == (None, None, None, None, None, False)
    assert (mood.average, mood.unhappy_share, mood.gap) == (None, None, None)


@given(*[st.integers(0, 500)] * 3)
def test_nps_and_its_interval(detractors: int, passives: int, promoters: int) -> None:
    """The interval is the adjusted Wald one, and neither figure ever leaves -100..100."""
    nps = nps_of([detractors, passives, promoters])
    n = detractors + passives + promoters
    interval = nps.interval()
    if not n:
        assert nps.score is None
        assert interval is None
        return
    assert nps.score == pytest.approx(100 * (promoters - detractors) / n)
    assert interval is not None
    margin, low, high = interval
    p, d = (promoters + 0.75) / (n + 3), (detractors + 0.75) / (n + 3)
    half = 1.96 * math.sqrt((p + d - (p - d) ** 2) / (n + 3))
    assert margin == pytest.approx(100 * half, rel=1e-4)
    assert low == pytest.approx(max(-100, 100 * (p - d - half)), abs=0.01)
    assert high == pytest.approx(min(100, 100 * (p - d + half)), abs=0.01)
    assert -100 <= low <= high <= 100


@given(st.lists(st.integers(0, 500), min_size=4, max_size=4))
def test_mood_is_a_mean_of_the_faces(faces: list[int]) -> None:
    mood, n = mood_of(faces), sum(faces)
    if not n:
        assert mood.average is None
        assert mood.unhappy_share is None
        return
    assert mood.average == pytest.approx(sum(face * count for face, count in enumerate(faces, 1)) / n)
    assert mood.unhappy_share == pytest.approx((faces[0] + faces[1]) / n)
    assert mood.average is not None
    assert 1 <= mood.average <= 4
    interval = mood.interval()
    assert interval is not None
    added = [face for face, count in enumerate(faces, 1) for _ in range(count + 1)]
    half = 1.959964 * pstdev(added) / math.sqrt(len(added))
    assert interval == pytest.approx((half, max(1, fmean(added) - half), min(4, fmean(added) + half)))


def test_a_metric_is_the_worked_example_of_the_contract() -> None:
    counts = {series_of(answer(0, kind="kpi", metric="first-contact-resolution")): [120, *[0] * 6, 120 * 93.1]}
    (found,) = metric_scores(counts, "customer", None, {"first-contact-resolution": 95}, {}).values()
    assert (found.mean, found.responses, found.goal, found.gap) == (93.1, 120, 95, 1.9)


@pytest.mark.parametrize(("better", "gap"), [("up", 2.0), ("down", -2.0)])
def test_the_gap_of_a_metric_is_on_its_bad_side(better: str, gap: float) -> None:
    """Ten minutes where twelve are the goal is good news where less is better, and bad news else."""
    counts = {series_of(answer(0, kind="kpi", metric="speed")): [2, *[0] * 6, 20.0]}
    assert metric_scores(counts, "customer", None, {"speed": 12}, {"speed": better})["speed"].gap == gap
    assert metric_scores(counts, "customer", None, {}, {"speed": better})["speed"].gap is None
    assert metric_scores(counts, "employee", None, {}, {}) == {}


def test_a_touchpoint_is_measured_by_its_own_goal() -> None:
    """A touchpoint that sets none has the customer's."""
    known = customer(goals={"nps": 40.0, "mood": 3.2}, touchpoint_goals={"support": {"nps": 10.0}})
    assert goals_of(known, "support") == {"nps": 10.0, "mood": 3.2}
    assert goals_of(known, "billing") == goals_of(known, None) == {"nps": 40.0, "mood": 3.2}
    counts = {SUPPORT: filled([1, 0, 1]), SUPPORT._replace(touchpoint=None): filled([1, 0, 1])}
    assert {t.touchpoint: t.nps.goal for t in touchpoint_scores(counts, "customer", known, {})} == {
        "support": 10,
        None: 40,
    }


@given(
    st.dictionaries(
        st.builds(
            lambda at, who, kind, trust: Series(at, who, kind, trust, "speed" if kind == "kpi" else None),
            st.sampled_from(TOUCHPOINTS),
            st.sampled_from(get_args(Audience)),
            st.sampled_from(get_args(Kind)),
            st.sampled_from(("verified", "anonymous")),
        ),
        st.lists(st.integers(0, 9), min_size=3, max_size=3).map(filled),
    )
)
def test_touchpoints_add_up_to_the_customer(counts: dict[Series, list[int]]) -> None:
    """What the touchpoints show is all that the customer's own figure rests on, the other audience left out."""
    each = touchpoint_scores(counts, "customer", customer(), {})
    whole = nps_score(counts, "customer", None, None)
    assert len({t.touchpoint for t in each}) == len(each)
    assert sum(t.nps.responses for t in each) == whole.responses
    assert sum(t.nps.detractors for t in each) == whole.detractors
    assert sum(t.mood.responses for t in each) == mood_score(counts, "customer", None, None).responses
    of_metrics = metric_scores(counts, "customer", None, {}, {})
    assert sum(m.responses for t in each for m in t.metrics.values()) == sum(m.responses for m in of_metrics.values())


def test_the_views_of_stored_counts() -> None:
    """Verified answers alone decide who is woken, so they are told from all."""
    stranger = SUPPORT._replace(trust="anonymous")
    counts = {SUPPORT: filled([1, 2, 3]), stranger: filled([5, 0, 0]), SUPPORT._replace(touchpoint=None): filled([7])}
    for touchpoints, every, verified in (
        (None, [13, 2, 3], [8, 2, 3]),
        (["support"], [6, 2, 3], [1, 2, 3]),
        ([None], [7, 0, 0], [7, 0, 0]),
        (["billing"], [0, 0, 0], [0, 0, 0]),
    ):
        found = view_of(counts, NPS, touchpoints)
        assert (found.all, found.verified) == (every, verified)


def test_the_weakest_touchpoint_comes_first() -> None:
    """Who opens the list sees first what to work on; one without answers comes last."""
    counts = {
        Series(name, "customer", "nps", "verified"): filled(faces)
        for name, faces in {"sales": [0, 2, 8], "billing": [8, 2, 0], "image": [0, 0, 0], "support": [3, 4, 3]}.items()
    }
    told = touchpoint_scores(counts, "customer", customer(), {})
    assert [t.touchpoint for t in told] == ["billing", "support", "sales", "image"]
