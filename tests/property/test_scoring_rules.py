"""Every type of rule does what its sentence in the contract says, and tells a person why it did or did not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import cast, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.scoring.domain.counting import CATEGORIES, DAY, HOUR, WIDTH, category_of, changes, new_answer
from services.scoring.domain.plan import plan
from services.scoring.domain.windows import Measure
from shared.directory.model import (
    DetractorsAtLeast,
    FollowUpAtMost,
    MetricMean,
    MoodAtLeast,
    MoodAtMost,
    MoodBelow,
    NpsBelow,
    NpsDrop,
    ScoreAtMost,
    UnhappyShareAbove,
)
from shared.rules.base import SUM, OnAnswer, OnWindow, length
from shared.rules.conditions import CONDITIONS
from shared.rules.document import built_in_rules
from shared.wire.events import RATINGS, FeedbackReceivedV1, Kind
from tests.property.test_scoring_decide import Watched
from tests.support.build import NOW, answer, dated_score, rule
from tests.support.examples import examples

LANGUAGES = ("en", "fi")
MONTH = 30 * DAY
SECOND = timedelta(seconds=1)


# ---- the contract's sentences, over plain lists of scores


def nps(scores: Sequence[float]) -> float | None:
    promoters, detractors = sum(s >= 9 for s in scores), sum(s <= 6 for s in scores)
    return 100 * (promoters - detractors) / len(scores) if scores else None


def wald(scores: Sequence[float]) -> tuple[float, float]:
    """Return the adjusted score and its variance: three responses more, 3/4 promoter, 1 1/2 passive, 3/4 detractor."""
    n = len(scores) + 3
    p, d = (sum(s >= 9 for s in scores) + 0.75) / n, (sum(s <= 6 for s in scores) + 0.75) / n
    return p - d, (p + d - (p - d) ** 2) / n


QUANTILES = {0.8: 1.281552, 0.95: 1.959964, 0.99: 2.575829}
"""Of the standard normal distribution, two-sided, from a printed table."""


def high_end(scores: Sequence[float], confidence: float) -> float:
    centre, variance = wald(scores)
    return min(100.0, 100 * (centre + QUANTILES[confidence] * math.sqrt(variance)))


def chance_of_drop(before: Sequence[float], now: Sequence[float]) -> float:
    """Return how likely two equal populations differ that much either way; 1 where it is no drop."""
    (then, of_then), (today, of_now) = wald(before), wald(now)
    z = (then - today) / math.sqrt(of_then + of_now)
    return math.erfc(z / math.sqrt(2)) if z > 0 else 1.0


def judged(when: OnWindow, now: Sequence[float], before: Sequence[float]) -> tuple[bool, bool]:
    """Return whether a rule fires, and whether its alert clears, on the scores of its window and the one before."""
    n = len(now)
    match when:
        case DetractorsAtLeast():
            detractors = sum(s <= 6 for s in now)
            return detractors >= when.threshold, detractors < when.threshold
        case NpsDrop():
            then, today = nps(before), nps(now)
            if then is None or today is None:
                return False, True
            enough = n >= when.min_responses and len(before) >= when.min_responses
            significant = chance_of_drop(before, now) < 1 - when.confidence
            drop = then - today
            return enough and drop >= when.points and significant, drop < when.points - when.clear_margin
        case _ if not n:
            return False, True
        case NpsBelow():
            value = cast("float", nps(now)) if when.certainty == "simple" else high_end(now, when.confidence)
            return n >= when.min_responses and value < when.threshold, value > when.threshold + when.clear_margin
        case MoodBelow():
            mean = sum(now) / n
            return n >= when.min_responses and mean < when.threshold, mean > when.threshold + when.clear_margin
        case UnhappyShareAbove():
            share = sum(s <= 2 for s in now) / n
            clears = share < when.threshold - when.clear_margin or not share
            return n >= when.min_responses and share > when.threshold, clears
        case MetricMean(mean_below=float(limit)):
            mean = sum(now) / n
            return n >= when.min_responses and mean < limit, mean >= limit + when.clear_margin
        case MetricMean(mean_above=float(limit)):
            mean = sum(now) / n
            return n >= when.min_responses and mean > limit, mean <= limit - when.clear_margin
        case _:
            raise AssertionError(when)


def goodness(when: OnWindow, scores: Sequence[float]) -> float | None:
    """Return the value that a rule watches; more is better."""
    if isinstance(when, DetractorsAtLeast):
        return -sum(s <= 6 for s in scores)
    if not scores:
        return None
    if isinstance(when, UnhappyShareAbove):
        return -sum(s <= 2 for s in scores) / len(scores)
    if when.kind == "nps":
        return nps(scores)
    return sum(scores) / len(scores) * (1 if not isinstance(when, MetricMean) or when.mean_above is None else -1)


def is_bad(when: OnWindow, score: float) -> bool:
    """Tell whether an answer is bad by itself: it adds to a value that cannot get any worse."""
    match when:
        case MoodBelow():
            return score < when.threshold
        case UnhappyShareAbove():
            return score <= 2
        case MetricMean():
            low, high = when.mean_below, when.mean_above
            return score < low if low is not None else score > cast("float", high)
        case DetractorsAtLeast():
            return False  # a count can always grow
        case _:
            return score <= 6


def made_worse(when: OnWindow, was: Sequence[float], now: Sequence[float], score: float) -> bool:
    """Tell whether an answer lowered the value; at the scale's end, or among equals, a bad one counts as worse."""
    before, after = goodness(when, was), cast("float", goodness(when, now))
    if before is None:
        return is_bad(when, score) or (not isinstance(when, MetricMean) and after < best(when))
    return after < before or (after == before and is_bad(when, score))


def best(when: OnWindow) -> float:
    if isinstance(when, UnhappyShareAbove | DetractorsAtLeast):
        return 0
    return 100 if when.kind == "nps" else 4


# ---- rules that the directory allows, and answers to judge

limits = st.integers(-8, 16).map(lambda n: n / 4)
lengths = st.sampled_from((900, 3 * HOUR, DAY, 2 * DAY, MONTH))
few = st.integers(1, 6)
window_rules: Mapping[type[OnWindow], st.SearchStrategy[OnWindow]] = {
    NpsBelow: st.builds(
        NpsBelow,
        st.integers(-99, 95),
        lengths,
        st.integers(1, 12),
        st.sampled_from(("strict", "simple")),
        st.sampled_from((0, 1, 5, 40)),
        st.sampled_from(tuple(QUANTILES)),
    ),
    NpsDrop: st.builds(
        NpsDrop,
        st.integers(1, 150),
        st.sampled_from((DAY, 2 * DAY)),
        st.sampled_from((0.5, 0.8, 0.95, 0.99)),
        few,
        st.sampled_from((0, 0.5, 5, 40)),
    ),
    DetractorsAtLeast: st.builds(DetractorsAtLeast, few, lengths),
    MoodBelow: st.builds(
        MoodBelow, st.integers(5, 16).map(lambda n: n / 4), lengths, few, st.sampled_from((0, 0.1, 0.5))
    ),
    UnhappyShareAbove: st.builds(
        UnhappyShareAbove, st.integers(0, 9).map(lambda n: n / 10), lengths, few, st.sampled_from((0, 0.05, 0.3))
    ),
    MetricMean: st.builds(
        lambda below, limit, *rest: MetricMean(
            "speed", rest[0], *((limit, None) if below else (None, limit)), *rest[1:]
        ),
        st.booleans(),
        limits,
        lengths,
        few,
        st.sampled_from((0, 0.25, 1.5)),
    ),
}
on_windows = st.one_of(*window_rules.values()).filter(lambda when: not list(when.contradictions()))
METRIC = {"kind": "kpi", "metric": "speed"}


def scores_of(kind: Kind | None) -> st.SearchStrategy[float]:
    return limits if kind == "kpi" else st.integers(*RATINGS[cast("Kind", kind)])


def counts_of(kind: Kind | None, scores: Sequence[float]) -> list[float]:
    """Return scores as a window counts them."""
    counts: list[float] = [0] * (WIDTH if kind == "kpi" else CATEGORIES[cast("Kind", kind)])
    for score in scores:
        counts[category_of(cast("Kind", kind), score)] += 1
        if kind == "kpi":
            counts[SUM] += score
    return counts


@st.composite
def judgements(draw: st.DrawFn) -> tuple[OnWindow, list[float], list[float]]:
    """Return a rule with the scores of its window and of the one before; many of few, so that rules fire."""
    when = draw(on_windows)
    kind = when.kind
    some = st.lists(st.tuples(scores_of(kind), st.sampled_from((1, 1, 2, 5, 30))), max_size=5)
    now = [score for score, times in draw(some) for _ in range(times)]
    before = [score for score, times in draw(some) for _ in range(times)] if when.compares else []
    return when, now, before


def counted(when: OnWindow, now: Sequence[float], before: Sequence[float]) -> tuple[list[float], list[float]]:
    return counts_of(when.kind, now), counts_of(when.kind, before) if when.compares else []


@examples(1000)
@given(judgements())
def test_a_window_is_judged_as_the_contract_says(told: tuple[OnWindow, list[float], list[float]]) -> None:
    """Fires, clears, or neither within its band; an alert that fires and clears at once would flap for ever."""
    when, now, before = told
    fires, clears = when.verdict(*counted(when, now, before))
    assert (fires, clears) == judged(when, now, before)
    assert not (fires and clears)


FIRES, STAYS, CLEARS = (True, False), (False, False), (False, True)


@pytest.mark.parametrize(
    ("when", "now", "before", "verdict"),
    [
        (NpsBelow(0, DAY, 4, "simple"), [2, 0, 2], [], STAYS),
        (NpsBelow(25, DAY, 4, "simple"), [1, 1, 2], [], STAYS),
        (NpsBelow(20, DAY, 4, "simple", 5), [1, 1, 2], [], STAYS),
        (NpsBelow(20, DAY, 4, "simple", 4), [1, 1, 2], [], CLEARS),
        (NpsBelow(26, DAY, 4, "simple"), [1, 1, 2], [], FIRES),
        (NpsBelow(26, DAY, 5, "simple"), [1, 1, 2], [], STAYS),
        (NpsDrop(50, DAY), [10, 0, 30], [0, 0, 40], FIRES),
        (NpsDrop(51, DAY), [10, 0, 30], [0, 0, 40], STAYS),
        (NpsDrop(55, DAY), [10, 0, 30], [0, 0, 40], STAYS),
        (NpsDrop(56, DAY), [10, 0, 30], [0, 0, 40], CLEARS),
        (NpsDrop(50, DAY, min_responses=41), [10, 0, 30], [0, 0, 40], STAYS),
        (DetractorsAtLeast(3, DAY), [3, 0, 9], [], FIRES),
        (DetractorsAtLeast(4, DAY), [3, 0, 9], [], CLEARS),
        (MoodBelow(2.5, DAY, 4), [1, 1, 1, 1], [], STAYS),
        (MoodBelow(2.25, DAY, 4, 0.25), [1, 1, 1, 1], [], STAYS),
        (MoodBelow(2.25, DAY, 4, 0.125), [1, 1, 1, 1], [], CLEARS),
        (MoodBelow(2.75, DAY, 4), [1, 1, 1, 1], [], FIRES),
        (UnhappyShareAbove(0.5, 900), [1, 1, 1, 1], [], STAYS),
        (UnhappyShareAbove(0.25, 900), [1, 1, 1, 1], [], FIRES),
        (UnhappyShareAbove(0.75, 900, clear_margin=0.25), [1, 1, 1, 1], [], STAYS),
        (UnhappyShareAbove(0.75, 900, clear_margin=0.125), [1, 1, 1, 1], [], CLEARS),
        (UnhappyShareAbove(0, 900), [0, 0, 1, 1], [], CLEARS),
        (MetricMean("speed", DAY, mean_below=3), [5, *[0] * 6, 15.0], [], CLEARS),
        (MetricMean("speed", DAY, mean_below=3), [5, *[0] * 6, 14.75], [], FIRES),
        (MetricMean("speed", DAY, mean_below=3), [4, *[0] * 6, 11.0], [], STAYS),
        (MetricMean("speed", DAY, mean_above=3, clear_margin=1), [5, *[0] * 6, 15.0], [], STAYS),
        (MetricMean("speed", DAY, mean_above=3, clear_margin=1), [5, *[0] * 6, 10.0], [], CLEARS),
    ],
)
def test_what_is_exactly_on_the_limit(
    when: OnWindow, now: list[float], before: list[float], verdict: tuple[bool, bool]
) -> None:
    """Under a threshold is not at it; a drop of so many points is."""
    assert when.verdict(now, before) == verdict


def test_every_rule_on_a_window_is_judged_here() -> None:
    """A type that is added to the product is added to these properties."""
    assert set(window_rules) == {kind for kind in CONDITIONS.values() if issubclass(kind, OnWindow)}


@examples(1000)
@given(judgements())
def test_a_window_that_does_not_fire_says_why(told: tuple[OnWindow, list[float], list[float]]) -> None:
    """Who wonders why nobody was paged reads what is missing, or how far it is."""
    when, now, before = told
    why = when.nearness(*counted(when, now, before))
    fires, _ = judged(when, now, before)
    assert (why == "") == fires
    wanted = when.threshold if isinstance(when, DetractorsAtLeast) else getattr(when, "min_responses", 0)
    has = sum(s <= 6 for s in now) if isinstance(when, DetractorsAtLeast) else len(now)
    if isinstance(when, NpsDrop) and len(before) < when.min_responses:
        assert why.startswith(f"the window before needs {when.min_responses - len(before)} more answer")
    elif has < wanted:
        assert why.startswith(f"needs {wanted - has} more ")
        assert why.endswith("s") == (wanted - has > 1)
    else:
        assert "needs" not in why


def test_one_promoter_is_judged_and_explained_alike() -> None:
    """The adjusted interval of a single promoter ends at 98.5, under a score of 100: the words follow the verdict."""
    when = NpsBelow(99, MONTH, 1, "strict", 0)
    assert list(when.contradictions()) == []
    fires, why = when.verdict([0, 0, 1], []).fires, when.nearness([0, 0, 1], [])
    assert (why == "") == fires


@pytest.mark.parametrize(
    ("when", "now", "before", "why"),
    [
        (NpsBelow(0, MONTH), [1, 2, 4], [], "needs 3 more answers"),
        (NpsBelow(0, MONTH), [3, 2, 4], [], "needs 1 more answer"),
        (NpsBelow(0, MONTH), [15, 15, 10], [], "interval reaches +12"),
        (NpsBelow(0, MONTH, confidence=0.99), [15, 15, 10], [], "interval reaches +19"),
        (NpsBelow(20, MONTH, certainty="simple"), [3, 3, 5], [], ""),
        (NpsBelow(10, MONTH, certainty="simple"), [3, 3, 5], [], "NPS is +18"),
        (NpsBelow(-30, MONTH, certainty="simple"), [5, 4, 3], [], "NPS is -17"),
        (NpsDrop(20, MONTH), [0, 0, 20], [0, 0, 12], "the window before needs 3 more answers"),
        (NpsDrop(20, MONTH), [14, 0, 0], [0, 0, 20], "needs 1 more answer"),
        (NpsDrop(20, MONTH), [5, 5, 10], [5, 4, 11], "NPS is 5 lower than in the window before"),
        (NpsDrop(20, MONTH), [5, 4, 11], [5, 5, 10], "NPS is 5 higher than in the window before"),
        (NpsDrop(20, MONTH), [8, 5, 7], [5, 4, 11], "the drop of 35 is not significant (z 1.23)"),
        (MoodBelow(2.5, DAY), [1, 1, 1, 0], [], "needs 1 more answer"),
        (MoodBelow(2.5, DAY, 4), [0, 2, 2, 0], [], "mood is 2.50"),
        (UnhappyShareAbove(0.5, 900), [1, 0, 0, 1], [], "needs 2 more answers"),
        (UnhappyShareAbove(0.5, 900), [1, 1, 2, 0], [], "50% unhappy"),
        (DetractorsAtLeast(3, DAY), [1, 9, 9], [], "needs 2 more detractors"),
        (DetractorsAtLeast(3, DAY), [2, 9, 9], [], "needs 1 more detractor"),
        (MetricMean("speed", DAY, mean_below=3), [4, *[0] * 6, 1.0], [], "needs 1 more answer"),
        (MetricMean("speed", DAY, mean_below=3), [5, *[0] * 6, 15.0], [], "the mean is 3"),
        (MetricMean("speed", DAY, mean_above=3), [8, *[0] * 6, 10.0], [], "the mean is 1.25"),
        (MetricMean("speed", DAY, mean_above=3), [5, *[0] * 6, 15.5], [], ""),
    ],
)
def test_what_is_missing_in_words(when: OnWindow, now: list[float], before: list[float], why: str) -> None:
    assert when.nearness(now, before) == why


@examples(1000)
@given(judgements(), st.data())
def test_an_answer_makes_worse_what_its_rule_watches(
    told: tuple[OnWindow, list[float], list[float]], data: st.DataObject
) -> None:
    """Only who made it worse opens an alert; at the scale's end one more bad answer counts as worse."""
    when, was, _ = told
    score = data.draw(scores_of(when.kind))
    now = [*was, score]
    before, after = goodness(when, was), cast("float", goodness(when, now))
    worse = made_worse(when, was, now, score)
    assume(before is None or after == before or abs(after - before) > 1e-6)
    counts = counts_of(when.kind, was), counts_of(when.kind, now)
    assert when.worsens(category_of(cast("Kind", when.kind), score), score, *counts) == worse
    if category_of(cast("Kind", when.kind), score) >= when.harmless:
        assert not worse, "what is taken for harmless is not even judged"


# ---- a drop


@examples(300)
@given(*[st.tuples(*[st.integers(0, 60)] * 3)] * 2, st.sampled_from((0.8, 0.95)))
def test_a_drop_is_significant_by_the_two_samples(
    before: tuple[int, int, int], now: tuple[int, int, int], confidence: float
) -> None:
    """Adjusted Wald, the variances added: a small survey that happens to go badly is no drop."""
    when = NpsDrop(1, MONTH, confidence, 1, 0)
    (of_before, of_now) = ([0] * d + [7] * p + [9] * q for d, p, q in (before, now))
    fires, _ = when.verdict(now, before)
    if not of_before or not of_now:
        assert not fires
        return
    drop = cast("float", nps(of_before)) - cast("float", nps(of_now))
    chance = chance_of_drop(of_before, of_now)
    assume(abs(chance - (1 - confidence)) > 1e-9)
    assert fires == (drop >= 1 and chance < 1 - confidence)
    reason = when.reason(now, before)
    assert reason["drop"] == pytest.approx(drop, abs=0.06)
    assert (cast("float", reason["z"]) > cast("float", reason["z_needed"])) == (chance < 1 - confidence) or (
        reason["z"] == reason["z_needed"]
    )


def test_the_window_before_takes_late_answers_in() -> None:
    """A kiosk that was offline yesterday changes what today is compared with, without being read again."""
    of = rule(NpsDrop(20, DAY), name="one")
    watched = Watched([of])
    _ = watched.take(answer(10, respondent="r-1", occurred_at=NOW - timedelta(hours=30)), NOW)
    before = watched.state.before[DAY].view(Measure("nps", None, "customer"), None, of_touchpoint=False)
    assert before.all == [0, 0, 1]
    state = watched.state
    late = answer(0, respondent="r-1", occurred_at=NOW - timedelta(hours=26))
    first, said = dated_score(watched.stored[0]), dated_score(late)
    _ = state.take(plan([of]), new_answer(late), first, changes(new_answer(late), first, None), NOW)
    assert before.all == [1, 0, 0]
    today = answer(7, respondent="r-1")
    _ = state.take(plan([of]), new_answer(today), said, changes(new_answer(today), said, None), NOW)
    assert before.all == [1, 0, 0]


def test_a_drop_never_fires_upwards() -> None:
    when = NpsDrop(20, MONTH)
    assert when.verdict([0, 0, 90], [90, 0, 0]) == (False, True)
    assert when.verdict([90, 0, 0], [0, 0, 90]) == (True, False)
    assert when.verdict([90, 0, 0], [0, 0, 0]) == when.verdict([0, 0, 0], [0, 0, 90]) == (False, True)


# ---- every sentence


def renders(text: str) -> None:
    assert text
    assert not any(mark in text for mark in ("None", "{", "}", "?", "nan")), text


@examples(500)
@given(judgements())
def test_a_sentence_for_every_judgement(told: tuple[OnWindow, list[float], list[float]]) -> None:
    """A page that says `None`, or that fails because it has no number, wakes somebody for nothing."""
    when, now, before = told
    assume(now and (before or not when.compares))
    counts = counted(when, now, before)
    reason = when.reason(*counts)
    assert reason["responses"] == len(now)
    assert reason["window_seconds"] == when.seconds
    english, finnish = (when.sentence(reason, language) for language in LANGUAGES)
    renders(english)
    renders(finnish)
    assert english != finnish
    if not isinstance(when, UnhappyShareAbove):
        shown = sum(s <= 6 for s in now) if isinstance(when, DetractorsAtLeast) else len(now)
        assert all(f"{shown} " in text for text in (english, finnish))
    assert length(when.seconds) in english
    assert length(when.seconds, "fi") in finnish


@pytest.mark.parametrize(
    ("when", "now", "before", "sentences"),
    [
        (
            NpsBelow(0, MONTH),
            [15, 15, 10],
            [],
            (
                "NPS -12 from 40 answers in 30 days, under 0",
                "NPS -12, 40 vastausta 30 päivän aikana, alle 0",
            ),
        ),
        (
            NpsDrop(20, MONTH),
            [15, 15, 10],
            [5, 5, 10],
            (
                "NPS fell by 38 to -12 within 30 days (40 answers, 20 before)",
                "NPS laski 38, nyt -12, 30 päivän aikana (40 vastausta, aiemmin 20)",
            ),
        ),
        (
            DetractorsAtLeast(3, DAY),
            [3, 1, 1],
            [],
            ("3 detractors in 1 day, of 5 answers", "3 arvostelijaa 1 päivän aikana, 5 vastauksesta"),
        ),
        (
            MoodBelow(2.5, 90 * 60),
            [2, 1, 0, 1],
            [],
            (
                "Mood 2.00 of 4 from 4 answers in 90 minutes, under 2.5",
                "Tunnelma 2.00/4, 4 vastausta 90 minuutin aikana, alle 2.5",
            ),
        ),
        (
            UnhappyShareAbove(0.5, 900),
            [2, 1, 0, 1],
            [],
            ("75% of 4 answers unhappy in 15 minutes", "75% 4 vastauksesta tyytymättömiä 15 minuutin aikana"),
        ),
        (
            MetricMean("speed", 25 * HOUR, mean_above=3),
            [5, *[0] * 6, 16.25],
            [],
            (
                "speed 3.25 on average from 5 answers in 25 hours, above 3",
                "speed keskimäärin 3.25, 5 vastausta 25 tunnin aikana, raja 3",
            ),
        ),
    ],
)
def test_the_sentences_as_people_read_them(
    when: OnWindow, now: list[float], before: list[float], sentences: tuple[str, str]
) -> None:
    reason = when.reason(now, before)
    assert tuple(when.sentence(reason, language) for language in LANGUAGES) == sentences


@pytest.mark.parametrize(
    ("seconds", "en", "fi"),
    [
        (1, "1 second", "1 sekunnin"),
        (90, "90 seconds", "90 sekunnin"),
        (60, "1 minute", "1 minuutin"),
        (HOUR, "1 hour", "1 tunnin"),
        (36 * HOUR, "36 hours", "36 tunnin"),
        (86 * HOUR, "3.6 days", "3.6 päivän"),
        (7 * DAY, "7 days", "7 päivän"),
    ],
)
def test_a_length_in_words(seconds: int, en: str, fi: str) -> None:
    assert (length(seconds), length(seconds, "fi"), length(seconds, "sv")) == (en, fi, en)


# ---- rules on a single answer

KINDS: tuple[Kind, ...] = get_args(Kind)
answers = st.builds(
    lambda kind, data, **more: (kind, data, more),
    st.sampled_from(KINDS),
    st.integers(0, 100),
    comment=st.sampled_from((None, "Thank you!")),
    follow_up=st.sampled_from((None, "acme/mood-one/support", "acme/nps-low/*")),
    touchpoint=st.sampled_from(("support", None)),
    trust=st.sampled_from(("verified", "anonymous")),
)
on_answers: Mapping[type[OnAnswer], st.SearchStrategy[OnAnswer]] = {
    MoodAtMost: st.builds(MoodAtMost, st.integers(1, 4)),
    ScoreAtMost: st.builds(ScoreAtMost, st.integers(0, 9), st.sampled_from(("nps", "mood", "csat", "ces"))).filter(
        lambda when: not list(when.contradictions())
    ),
    MoodAtLeast: st.builds(MoodAtLeast, st.integers(1, 4), st.booleans()),
    FollowUpAtMost: st.builds(FollowUpAtMost, st.integers(1, 4)),
}


def scored(kind: Kind, part: int) -> float:
    low, high = RATINGS.get(kind, (-5, 5))
    return low + part % (high - low + 1)


def fires_on(when: OnAnswer, said: FeedbackReceivedV1) -> bool:
    match when:
        case MoodAtMost():
            return said.kind == "mood" and said.score <= when.threshold
        case ScoreAtMost():
            return said.kind == when.of and said.score <= when.threshold
        case MoodAtLeast():
            wanted = not when.with_comment or said.comment is not None
            return said.kind == "mood" and said.score >= when.threshold and wanted
        case FollowUpAtMost():
            return said.kind in {"mood", "csat"} and said.follow_up is not None and said.score <= when.threshold
        case _:
            raise AssertionError(when)


@examples(300)
@given(st.one_of(*on_answers.values()), st.lists(answers, min_size=1, max_size=6))
def test_a_single_answer_is_judged_as_the_contract_says(
    when: OnAnswer, told: list[tuple[Kind, int, dict[str, object]]]
) -> None:
    """Each that fires is an alert of its own, with its sentence; a kind that the rule does not name is left alone."""
    of = rule(when, name="one", severity="high")
    watched = Watched([of])
    for kind, part, more in told:
        metric = "speed" if kind == "kpi" else None
        said = answer(scored(kind, part), id=watched.next_id, kind=kind, metric=metric, **more)
        decisions = watched.take(said, NOW)
        assert [d.event for d in decisions] == ["opened"] * fires_on(when, said)
        for decision in decisions:
            key = f"acme/one/{said.touchpoint or '*'}"
            if isinstance(when, FollowUpAtMost):
                key = said.follow_up
            assert (decision.alert.dedup_key, decision.alert.answer) == (key, said.id)
            assert decision.reason["score"] == said.score
            assert f"{said.score:g}" in decision.summary
            for language in LANGUAGES:
                renders(when.sentence(decision.reason, language))
            assert decision.alert.trust == said.trust
            assert decision.alert.severity == ("high" if said.trust == "verified" else "medium")


def test_every_rule_on_an_answer_is_judged_here() -> None:
    assert set(on_answers) == {kind for kind in CONDITIONS.values() if issubclass(kind, OnAnswer)}


@pytest.mark.parametrize(
    ("when", "said", "en", "fi"),
    [
        (MoodAtMost(1), answer(1, kind="mood"), "Mood 1 of 4", "Tunnelma 1/4"),
        (ScoreAtMost(3, "csat"), answer(2, kind="csat"), "CSAT 2 of 5", "CSAT 2/5"),
        (ScoreAtMost(3, "ces"), answer(2, kind="ces"), "CES 2 of 7", "CES 2/7"),
        (ScoreAtMost(0, "nps"), answer(0), "NPS 0 of 10", "NPS 0/10"),
        (MoodAtLeast(4), answer(4, kind="mood"), "A good experience: mood 4 of 4", "Hyvä kokemus: tunnelma 4/4"),
        (
            FollowUpAtMost(2),
            answer(2, kind="csat", follow_up="a"),
            "Not put right: 2 in the follow-up",
            "Asia ei korjaantunut: jälkikyselyssä 2",
        ),
    ],
)
def test_the_sentence_of_a_single_answer(when: OnAnswer, said: FeedbackReceivedV1, en: str, fi: str) -> None:
    reason = when.reason(said)
    assert (when.sentence(reason), when.sentence(reason, "fi")) == (en, fi)


def test_an_unhappy_follow_up_has_the_tickets_own_problem() -> None:
    """Ticketing reopens what has the same dedup_key: with a name of its own it would be a ticket beside the old one."""
    watched = Watched(built_in_rules())
    said = answer(2, kind="mood", follow_up="acme/nps-low/*", comment="Still broken")
    (decision,) = watched.take(said, NOW)
    assert (decision.alert.rule, decision.alert.kind) == ("follow-up", "follow_up_at_most")
    assert (decision.alert.dedup_key, decision.alert.severity) == ("acme/nps-low/*", "high")
    assert watched.take(answer(2, kind="mood"), NOW) == [], "nobody asked whether anything was put right"
    assert watched.take(answer(3, kind="mood", follow_up="acme/nps-low/*"), NOW) == []


def test_a_follow_up_leaves_the_open_alert_of_its_problem_alone() -> None:
    """Both have one dedup_key; the alert of the window lives on and clears by itself."""
    low = rule(NpsBelow(0, MONTH, 3, "simple"), name="nps-low", severity="high")
    watched = Watched([low, rule(FollowUpAtMost(2), name="follow-up", severity="high")])
    for _ in range(3):
        _ = watched.take(answer(0), NOW)
    before = dict(watched.alerts)
    (opened,) = watched.take(answer(1, kind="csat", follow_up="acme/nps-low/*"), NOW)
    assert watched.alerts == before
    (cleared,) = watched.review(opened.alert.due_at, opened.alert)
    assert cleared.event == "cleared"
    assert watched.alerts == before


def test_the_built_in_good_experience_has_a_comment() -> None:
    """A happy face without a word is nothing to share."""
    watched = Watched(built_in_rules())
    assert watched.take(answer(4, kind="mood"), NOW) == []
    (decision,) = watched.take(answer(4, kind="mood", comment="Splendid"), NOW)
    assert (decision.alert.rule, decision.alert.severity) == ("good-experience", "info")
