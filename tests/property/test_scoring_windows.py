"""However answers arrive, each window says what a plain recount of all of them says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import get_args
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scoring.domain.counting import (
    CATEGORIES,
    WIDTH,
    Said,
    Series,
    changes,
    hour_of,
    series_of,
    window_start,
)
from services.scoring.domain.figures import mood_of, nps_of
from services.scoring.domain.report import mood_score, nps_score, touchpoint_scores
from services.scoring.domain.windows import ExactWindow, HourWindow, tally
from shared.events import RATINGS, Audience, FeedbackReceivedV1, Kind
from tests.support.build import NOW, answer

HOURS = (24 * 3600, 25 * 3600, 48 * 3600)
EXACT = (60, 900, 2 * 3600)
TOUCHPOINTS = ("support", "billing", None)
RATED: tuple[Kind, ...] = tuple(CATEGORIES)


# ---- the plain recount


def first_moment(length: int, now: datetime) -> datetime:
    """Return where a window starts, by the contract."""
    start = now - timedelta(seconds=length)
    return start if length < 24 * 3600 else start.replace(minute=0, second=0, microsecond=0)


def place(kind: Kind, score: float) -> int:
    if kind != "nps":
        return int(score) - 1
    return 0 if score <= 6 else 1 if score <= 8 else 2


def recount(
    answers: Iterable[FeedbackReceivedV1], since: datetime, kind: Kind, audience: Audience, touchpoint: str | None
) -> list[int]:
    """Count one touchpoint of one kind: each respondent once, by the latest answer; who has no name, each."""
    counts = [0] * CATEGORIES[kind]
    latest: dict[str, FeedbackReceivedV1] = {}
    for said in answers:
        if (said.kind, said.audience, said.touchpoint) != (kind, audience, touchpoint) or said.occurred_at < since:
            continue
        if said.respondent is None:
            counts[place(kind, said.score)] += 1
            continue
        known = latest.setdefault(said.respondent, said)
        if (said.occurred_at, said.received_at, said.id) > (known.occurred_at, known.received_at, known.id):
            latest[said.respondent] = said
    for said in latest.values():
        counts[place(kind, said.score)] += 1
    return counts


# ---- what keeps the counts, with dicts for tables


@dataclass
class Memory:
    """Feeds windows as their owner does: moves them to now, applies what an answer changes, keeps the buckets."""

    buckets: dict[tuple[Series, int], list[int]] = field(default_factory=dict[tuple[Series, int], list[int]])
    latest: dict[tuple[Series, str], Said] = field(default_factory=dict[tuple[Series, str], Said])
    stored: list[FeedbackReceivedV1] = field(default_factory=list[FeedbackReceivedV1])
    hours: dict[int, HourWindow] = field(default_factory=dict[int, HourWindow])
    exact: dict[int, ExactWindow] = field(default_factory=dict[int, ExactWindow])

    def sum_hours(self, series: Series, first: int, after: float) -> list[int]:
        sums = [0] * WIDTH
        for (of, hour), counts in self.buckets.items():
            if of == series and first <= hour < after:
                sums = [a + b for a, b in zip(sums, counts, strict=True)]
        return sums

    def forget(self) -> None:
        self.hours.clear()
        self.exact.clear()

    def move(self, now: datetime) -> None:
        for length in HOURS:
            start = window_start(now, length)
            window = self.hours.get(length)
            if window is None:
                series = {series_of(said) for said in self.stored}
                window = self.hours[length] = HourWindow(start, {s: self.sum_hours(s, start, math.inf) for s in series})
            for series in window.counts:
                window.add(series, self.sum_hours(series, window.start, start), -1)
            window.start = start
        for length in EXACT:
            since = now - timedelta(seconds=length)
            window = self.exact.get(length)
            if window is None:
                window = self.exact[length] = ExactWindow(since)
                for said in self.stored:
                    window.add(series_of(said), said.respondent, said_of(said))
            window.move(since)

    def take(self, arrived: FeedbackReceivedV1, now: datetime) -> None:
        self.move(now)
        series, said = series_of(arrived), said_of(arrived)
        before = None if arrived.respondent is None else self.latest.get((series, arrived.respondent))
        made = changes(arrived.kind, said, before)
        if arrived.respondent is not None and (before is None or before < said):
            self.latest[series, arrived.respondent] = said
        for change in made:
            self.buckets.setdefault((series, change.hour), [0] * WIDTH)[change.category] += change.by
        for window in self.hours.values():
            window.apply(series, made)
        for window in self.exact.values():
            window.add(series, arrived.respondent, said)
        self.stored.append(arrived)

    def counts(self, length: int) -> Mapping[Series, Sequence[int]]:
        return (self.hours[length] if length in self.hours else self.exact[length]).counts


def said_of(said: FeedbackReceivedV1) -> Said:
    return Said(said.occurred_at, said.received_at, said.id, said.score)


# ---- what arrives

ages = st.one_of(
    st.integers(-300, 1200),
    st.integers(0, 60).map(lambda hours: hours * 3600 + 30),  # on the very second where an hour's window may start
    st.integers(0, 60 * 3600),
    st.sampled_from([*EXACT, *HOURS]),
)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[FeedbackReceivedV1, int]:
    """Return an answer whose `occurred_at` is NOW - age (to be moved with the clock), and that age in seconds."""
    kind = draw(st.sampled_from(("nps", "nps", "mood", "csat", "ces")))
    respondent = draw(st.sampled_from((None, "r-1", "r-1", "r-2")))
    said = answer(
        draw(st.integers(*RATINGS[kind])),
        id=UUID(int=draw(st.integers(0, 2**128 - 1))),
        kind=kind,
        touchpoint=draw(st.sampled_from(TOUCHPOINTS)),
        audience=draw(st.sampled_from(("customer", "customer", "employee"))),
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


@settings(max_examples=200)
@given(steps)
def test_every_window_is_what_a_recount_says(
    told: list[tuple[int, bool | None, tuple[FeedbackReceivedV1, int], int]],
) -> None:
    """Late answers, repeats, passing time and lost memory included: score and stored answers never disagree."""
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
        for length in (*HOURS, *EXACT):
            assert_counts(memory, length, now)
    for hours in (1, 20, 23, 60):
        now += timedelta(hours=hours, seconds=1)
        memory.move(now)
        for length in (*HOURS, *EXACT):
            assert_counts(memory, length, now)


def assert_counts(memory: Memory, length: int, now: datetime) -> None:
    since, counts = first_moment(length, now), memory.counts(length)
    kinds: set[Kind] = {said.kind for said in memory.stored}
    for kind in kinds:
        for audience in get_args(Audience):
            each = [recount(memory.stored, since, kind, audience, touchpoint) for touchpoint in TOUCHPOINTS]
            for touchpoint, expected in zip(TOUCHPOINTS, each, strict=True):
                found = tally(counts, kind=kind, audience=audience, touchpoints=[touchpoint]).total
                assert found == expected, (length, kind, audience, touchpoint)
            found = tally(counts, kind=kind, audience=audience, touchpoints=None).total
            assert found == [sum(column) for column in zip(*each, strict=True)]
    assert all(count >= 0 for per_category in counts.values() for count in per_category)


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
    for length in (*HOURS, *EXACT):
        assert one.counts(length) == other.counts(length)


def test_a_window_of_a_day_starts_at_a_whole_hour() -> None:
    """At 10:20:30 the window of 24 h starts at 10:00 of the day before: its first hour is counted whole."""
    memory, now = Memory(), NOW
    start = NOW.replace(day=22, minute=0, second=0)
    memory.take(answer(0, occurred_at=start), now)
    memory.take(answer(0, occurred_at=start - timedelta(microseconds=1)), now)
    memory.move(now)
    assert tally(memory.counts(24 * 3600), kind="nps", audience="customer", touchpoints=None).total == [1, 0, 0]
    assert hour_of(start) == window_start(now, 24 * 3600)


def test_an_earlier_window_is_not_falsified_by_a_later_answer() -> None:
    """Who answers again counts once in the newest window, by the latest answer, and leaves it with that answer."""
    memory = Memory()
    memory.take(answer(0, respondent="r-1", occurred_at=NOW), NOW)
    later = NOW + timedelta(hours=2)
    memory.take(answer(10, respondent="r-1", occurred_at=later), later)
    assert tally(memory.counts(24 * 3600), kind="nps", audience="customer", touchpoints=None).total == [0, 0, 1]
    gone = later + timedelta(hours=26)
    memory.move(gone)
    assert tally(memory.counts(24 * 3600), kind="nps", audience="customer", touchpoints=None).total == [0, 0, 0]


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
        found = tally(memory.counts(length), kind="nps", audience="customer", touchpoints=None).total
        assert found == [1, 0, 0]


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


@given(
    st.dictionaries(
        st.builds(
            Series,
            st.sampled_from(TOUCHPOINTS),
            st.sampled_from(get_args(Audience)),
            st.sampled_from(RATED),
            st.sampled_from(("verified", "anonymous")),
        ),
        st.lists(st.integers(0, 9), min_size=3, max_size=3).map(filled),
    )
)
def test_touchpoints_add_up_to_the_customer(counts: dict[Series, list[int]]) -> None:
    """What the touchpoints show is all that the customer's own figure rests on, the other audience left out."""
    each = touchpoint_scores(counts, "customer")
    whole = nps_score(counts, "customer", None, None)
    assert len({t.touchpoint for t in each}) == len(each)
    assert sum(t.nps.responses for t in each) == whole.responses
    assert sum(t.nps.detractors for t in each) == whole.detractors
    assert sum(t.mood.responses for t in each) == mood_score(counts, "customer", None, None).responses


def test_the_weakest_touchpoint_comes_first() -> None:
    """Who opens the list sees first what to work on; one without answers comes last."""
    counts = {
        Series(name, "customer", "nps", "verified"): filled(faces)
        for name, faces in {"sales": [0, 2, 8], "billing": [8, 2, 0], "image": [0, 0, 0], "support": [3, 4, 3]}.items()
    }
    assert [t.touchpoint for t in touchpoint_scores(counts, "customer")] == ["billing", "support", "sales", "image"]
