"""Rules on the order of answers and on their absence: silence, shift; and what they make of a customer."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.scoring.domain.counting import DAY, HOUR
from services.scoring.domain.silence import Pulse
from shared.directory.model import (
    MetricMean,
    NoFeedbackFor,
    NpsBelow,
    NpsDrop,
    Shift,
)
from shared.rules.base import Rate, length
from shared.wire.events import FeedbackReceivedV1
from tests.property.test_scoring_alerts import worked_up
from tests.property.test_scoring_decide import Watched, pages
from tests.property.test_scoring_rules import LANGUAGES, METRIC, MONTH, SECOND, renders
from tests.support.build import NOW, answer, rule

# ---- silence

AUTO = NoFeedbackFor("auto")


@given(
    st.sampled_from((HOUR, 12 * HOUR, DAY, 3 * DAY, 14 * DAY)),
    st.lists(
        st.tuples(
            st.sampled_from((1, 600, 5 * HOUR, DAY, 2 * DAY, 5 * DAY, 20 * DAY)),
            st.sampled_from(("live", "live", "live", "backfill", "import", "old", "employee")),
        ),
        min_size=1,
        max_size=12,
    ),
)
def test_silence_opens_when_it_has_lasted_and_ends_with_the_next_answer(
    after: int, told: list[tuple[int, str]]
) -> None:
    """To the second, once, and not before the first live answer: who never answered has not fallen silent."""
    watched, now = Watched([rule(NoFeedbackFor(after), name="quiet", severity="low")]), NOW
    last: datetime | None = None
    for pause, way in told:
        end = now + timedelta(seconds=pause)
        while watched.state.due_at <= end:
            now = watched.state.due_at
            opened = pages(watched.review_silences(now), "opened")
            assert watched.state.due_at > now
            for decision in opened:
                assert last is not None
                assert now - last == timedelta(seconds=after)
                assert (decision.alert.severity, decision.alert.dedup_key) == ("low", "acme/quiet/*")
        now = end
        is_silent = last is not None and now - last >= timedelta(seconds=after)
        assert bool(watched.alerts) == is_silent
        more: dict[str, object] = {
            "backfill": {"backfill": True},
            "import": {"channel": "import"},
            "old": {"occurred_at": now - timedelta(days=1, seconds=1)},
            "employee": {"audience": "employee"},
        }.get(way, {})
        decisions = watched.take(answer(**{"occurred_at": now, "received_at": now, **more}), now)
        if way == "live":
            last = now
            assert [d.event for d in decisions] == ["cleared"] * is_silent
        else:
            assert decisions == []
    kinds = [d.event for d in watched.told if d.event != "deferred"]
    assert kinds == [("opened", "cleared")[n % 2] for n in range(len(kinds))]
    for decision in watched.told:
        assert set(decision.sentences) in (set(LANGUAGES), set())
        for text in decision.sentences.values():
            renders(text)


@given(st.lists(st.integers(1, 40 * DAY), min_size=1, max_size=80))
@example([1] * 9 + [1_793_715])  # in days and back, a gap is a hair shorter
def test_silence_by_rate_is_never_shorter_than_three_days(gaps: list[int]) -> None:
    """A weekend and a holiday are no silence, however often somebody answers; nor is what was usual lately."""
    pulse, at = Pulse(NOW.timestamp()), NOW.timestamp()
    for gap in gaps:
        at += gap
        pulse.beat(at)
        limit = pulse.limit(AUTO)
        assert limit is None or limit >= max(3 * DAY, 1.5 * gap) - 1e-6
        breaks = pulse.breaks_at(AUTO)
        assert (breaks is None) == (limit is None)
        assert breaks is None or limit is None or breaks.timestamp() == pytest.approx(at + limit)


@given(st.lists(st.integers(60, 30 * DAY), min_size=1, max_size=30))
def test_what_is_long_past_says_less_of_the_rate(gaps: list[int]) -> None:
    """Each answer, and each pause, counts half after 120 days; what is counted are the pauses between answers."""
    pulse, at = Pulse(0.0), 0
    for gap in gaps:
        at += gap
        pulse.beat(at)
    ends = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    weights = [0.5 ** ((at - end) / DAY / 120) for end in ends]
    begun = [0.5 ** ((at - end) / DAY / 120) for end in (0, *ends[:-1])]
    limit = AUTO.limit(
        Rate(
            sum(begun),
            sum(gap / DAY * weight for gap, weight in zip(gaps, weights, strict=True)),
            max(gap / DAY * weight for gap, weight in zip(gaps, weights, strict=True)),
        )
    )
    assert pulse.limit(AUTO) == (None if limit is None else pytest.approx(limit))


@given(st.integers(1, 20), st.floats(0.01, 30))
def test_silence_by_rate_needs_a_rate(answers_so_far: int, days: float) -> None:
    """After a handful of answers nobody knows how often somebody answers."""
    limit = AUTO.limit(Rate(answers_so_far, days, 0))
    assert (limit is None) == (answers_so_far < 5)


@given(st.floats(5, 400), st.floats(1, 400), st.floats(1.1, 5))
def test_who_answers_less_may_be_silent_longer(answers_so_far: float, days: float, times: float) -> None:
    """The limit follows the customer's own rate, and a customer that is known longer is judged more closely."""
    seldom, often = AUTO.limit(Rate(answers_so_far, days * times, 0)), AUTO.limit(Rate(answers_so_far, days, 0))
    assert seldom is not None
    assert often is not None
    assert seldom >= often
    longer = AUTO.limit(Rate(answers_so_far * times, days * times, 0))
    assert longer is not None
    assert longer <= often * 1.2


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.5, 1, 2, 4])
@pytest.mark.parametrize("known_for", [1, 20])
def test_chance_alone_seldom_looks_like_silence(rate: float, known_for: int) -> None:
    """At 0.05 false alarms a year a company of a hundred customers hears five; the seed is fixed, so that none is luck.

    `known_for`: years of one customer, from its first answer; in its first year the rate is a guess.
    """
    random_ = random.Random(20261123)
    alarms, customers = 0, round(90_000 / (rate * 365 * known_for)) + 1
    for _ in range(customers):
        pulse, at = Pulse(0.0), 0.0
        while at < known_for * 365.25 * DAY:
            gap = random_.expovariate(rate) * DAY
            limit = pulse.limit(AUTO)
            alarms += limit is not None and gap > limit
            at += gap
            pulse.beat(at)
    years = customers * known_for
    assert years > 50
    assert alarms / years <= 0.05 + 2 * math.sqrt(0.05 / years), (alarms, years)


@pytest.mark.parametrize(("a_day", "days"), [(0.5, 25), (1, 14), (3, 6), (20, 3.5)])
def test_real_silence_is_heard(a_day: float, days: float) -> None:
    """A rule that never cries would pass the test before: after half a year of answers a stop is news in days."""
    random_ = random.Random(7)
    at, pulse = 0.0, Pulse(0.0)
    while at < 180 * DAY:
        at += random_.expovariate(a_day) * DAY
        pulse.beat(at)
    limit = pulse.limit(AUTO)
    assert limit is not None
    assert 3 <= limit / DAY <= days


def test_waves_are_no_silence() -> None:
    """A survey each quarter is quiet between its waves; half as long again is news."""
    at, pulse = 0.0, Pulse(0.0)
    for wave in range(6):
        at = wave * 91 * DAY
        for n in range(60):
            pulse.beat(at + n * HOUR)
    limit = pulse.limit(AUTO)
    assert limit is not None
    assert 91 < limit / DAY < 150


def test_silence_of_each_touchpoint() -> None:
    """One desk falls silent while the others answer on; a desk that never answered is not missed."""
    of = rule(NoFeedbackFor(2 * DAY), name="quiet", severity="low", per_touchpoint=True)
    watched, now = Watched([of]), NOW
    for hours in range(0, 24 * 5, 3):
        now = NOW + timedelta(hours=hours)
        while watched.state.due_at <= now:
            _ = watched.review_silences(watched.state.due_at)
        for touchpoint, until in (("support", 24), ("billing", 999), (None, 48)):
            if hours < until:
                said = answer(9, touchpoint=touchpoint, occurred_at=now, received_at=now)
                assert watched.take(said, now) == []
    assert {(d.alert.dedup_key, d.alert.touchpoint) for d in pages(watched.told, "opened")} == {
        ("acme/quiet/support", "support"),
        ("acme/quiet/*", None),
    }
    (cleared,) = watched.take(answer(9, touchpoint="support", occurred_at=now, received_at=now), now)
    assert (cleared.event, cleared.alert.touchpoint) == ("cleared", "support")


def test_silence_of_one_touchpoint_is_not_broken_by_another() -> None:
    watched = Watched([rule(NoFeedbackFor(2 * DAY), name="quiet", severity="low", touchpoint="support")])
    _ = watched.take(answer(9, touchpoint="support"), NOW)
    later = NOW + timedelta(days=1)
    _ = watched.take(answer(9, touchpoint="billing", occurred_at=later, received_at=later), later)
    while watched.state.due_at <= NOW + timedelta(days=3):
        _ = watched.review_silences(watched.state.due_at)
    (opened,) = pages(watched.told, "opened")
    assert (opened.alert.dedup_key, opened.alert.opened_at) == ("acme/quiet/support", NOW + timedelta(days=2))


def test_silence_cools_down() -> None:
    """Somebody who answers once a month sets off one alert, not one a month."""
    of = rule(NoFeedbackFor(7 * DAY), name="quiet", severity="low", cooldown=60 * DAY)
    watched = Watched([of])
    for month in range(4):
        now = NOW + timedelta(days=30 * month)
        while watched.state.due_at <= now:
            _ = watched.review_silences(watched.state.due_at)
        _ = watched.take(answer(9, occurred_at=now, received_at=now), now)
    # Cleared on day 30 and quiet until day 90, where the third month's silence is still open.
    assert [d.alert.opened_at - NOW for d in pages(watched.told, "opened")] == [timedelta(days=7)]


def test_an_answer_that_was_on_its_way_does_not_make_silence_flap() -> None:
    """A kiosk that was offline sends what is hours old: it is a beat of then, and a live one."""
    watched = Watched([rule(NoFeedbackFor(2 * DAY), name="quiet", severity="low")])
    _ = watched.take(answer(9), NOW)
    now = NOW + timedelta(days=2, hours=1)
    while watched.state.due_at <= now:
        _ = watched.review_silences(watched.state.due_at)
    said = answer(9, occurred_at=now - timedelta(hours=20), received_at=now)
    assert [d.event for d in watched.take(said, now)] == ["cleared"]
    while watched.state.due_at <= now + timedelta(days=1):
        assert watched.review_silences(watched.state.due_at) == []


def test_an_answer_from_before_the_silence_does_not_end_it() -> None:
    """It is over when somebody answers within the hour; else the same silence is told twice."""
    watched = Watched([rule(NoFeedbackFor(HOUR), name="quiet", severity="low")])
    _ = watched.take(answer(9), NOW)
    now = NOW + timedelta(hours=3)
    while watched.state.due_at <= now:
        _ = watched.review_silences(watched.state.due_at)
    said = answer(9, occurred_at=NOW + timedelta(minutes=5), received_at=now)
    _ = watched.take(said, now)
    while watched.state.due_at <= now + SECOND:
        _ = watched.review_silences(max(now, watched.state.due_at))
    assert len(pages(watched.told, "opened")) == 1


@pytest.mark.parametrize(
    ("after", "silent", "told"),
    [
        (600, 630, "No answer for 10.5 minutes, where at most 10 minutes is usual"),
        (HOUR, HOUR, "No answer for 1 hour, where at most 1 hour is usual"),
        (14 * DAY, 14 * DAY + 9 * HOUR, "No answer for 14.4 days, where at most 14 days is usual"),
    ],
)
def test_a_silence_is_told_in_units_that_fit(after: int, silent: int, told: str) -> None:
    """No answer for 0.0 days: that tells nobody what happened."""
    when = NoFeedbackFor(after)
    reason = Pulse(NOW.timestamp()).reason(when, NOW + timedelta(seconds=silent))
    assert (reason["silent_seconds"], reason["limit_seconds"]) == (silent, after)
    assert when.sentence(reason) == told
    assert when.sentence(reason, "fi").startswith(f"Vastauksissa on ollut {length(silent, 'fi')} tauko")


# ---- shift: that it is wired, not what it finds


@pytest.mark.parametrize("kind", ["nps", "mood"])
@pytest.mark.parametrize("per_touchpoint", [False, True])
def test_a_shift_is_told_in_words(kind: Literal["nps", "mood"], per_touchpoint: bool) -> None:
    """A customer that was happy for half a year and then is not at all: one alert, in both languages."""
    of = rule(Shift(0.1, kind), name="shift", severity="high", per_touchpoint=per_touchpoint)
    watched = Watched([of])
    good, bad = (10, 0) if kind == "nps" else (4, 1)
    state = watched.state
    for n in range(360):
        now = NOW + timedelta(hours=12 * n)
        _ = watched.take(scored_at(good if n < 300 else bad, kind, now), now)
        watched.stored.clear()
    assert state is not watched.state
    opened = pages(watched.told, "opened")
    assert [d.alert.dedup_key for d in opened] == ["acme/shift/support" if per_touchpoint else "acme/shift/*"]
    assert set(opened[0].sentences) == set(LANGUAGES)
    for decision in watched.told:
        for text in decision.sentences.values():
            renders(text)


def scored_at(score: float, kind: str, now: datetime, **more: object) -> FeedbackReceivedV1:
    return answer(score, kind=kind, occurred_at=now, received_at=now, **more)


@pytest.mark.parametrize(
    "more",
    [{"backfill": True}, {"channel": "import"}, {"occurred_at": NOW - timedelta(days=400)}, {"trust": "anonymous"}],
)
def test_history_teaches_a_shift_and_opens_nothing(more: dict[str, object]) -> None:
    """Whoever imports a year of good answers, or a year of bad ones, hears of the first live ones that are worse."""
    watched = Watched([rule(Shift(), name="shift", severity="high")])
    for number in range(300):
        at, backfill = NOW - timedelta(days=300 - number), more.get("trust") == "anonymous"
        _ = watched.take(answer(**{"score": 9, "occurred_at": at, "backfill": backfill, **more}), NOW)
        watched.stored.clear()
    assert watched.told == []
    for number in range(60):
        now = NOW + timedelta(hours=number)
        _ = watched.take(answer(2, occurred_at=now, received_at=now), now)
    assert len(pages(watched.told, "opened")) == 1


def test_a_flood_of_tens_hides_no_shift() -> None:
    """Known people become worse; between their answers anybody says 10, which neither hides the shift nor ends it."""
    watched = Watched([rule(Shift(), name="shift", severity="high")])
    for number in range(300):
        now = NOW + timedelta(hours=12 * number)
        _ = watched.take(answer(10, occurred_at=now, received_at=now), now)
        watched.stored.clear()
    begins = NOW + timedelta(days=150)
    for number in range(60):
        now = begins + timedelta(hours=number)
        _ = watched.take(answer(0, occurred_at=now, received_at=now), now)
        for _ in range(20):
            _ = watched.take(answer(10, trust="anonymous", occurred_at=now, received_at=now), now)
        watched.stored.clear()
    (alert,) = watched.alerts.values()
    assert (alert.trust, alert.severity) == ("verified", "high")
    assert not pages(watched.told, "cleared")


@pytest.mark.parametrize("more", [{"audience": "employee"}, {"kind": "mood"}, {"touchpoint": "billing"}])
def test_a_shift_does_not_hear_what_is_not_for_it(more: dict[str, object]) -> None:
    """An employee's answer is none of a customer's."""
    watched = Watched([rule(Shift(), name="shift", severity="high", touchpoint="support")])
    _ = watched.take(answer(**{"score": 1, **more}), NOW)
    assert watched.state.detectors == {}
    _ = watched.take(answer(1), NOW)
    assert list(watched.state.detectors) == ["acme/shift/support"]


def test_one_loud_person_is_not_the_customers_voice() -> None:
    """Sixty bad answers of one person within a week are one for the detector, of sixty people sixty."""
    for loud, opens in ((True, False), (False, True)):
        watched = Watched([rule(Shift(), name="shift", severity="high")])
        for n in range(300):
            now = NOW + timedelta(hours=12 * n)
            _ = watched.take(answer(10, occurred_at=now, received_at=now), now)
            watched.stored.clear()
        for n in range(60):
            now = NOW + timedelta(days=150, hours=n)
            _ = watched.take(answer(0, respondent="r-1" if loud else f"r-{n}", occurred_at=now, received_at=now), now)
        assert bool(pages(watched.told, "opened")) == opens


# ---- what the product does not do yet as the contract has it


@pytest.mark.parametrize("by", ["time", "an answer"])
def test_a_drop_clears_when_there_is_nothing_left_to_compare_with(by: str) -> None:
    """The window before slides off the good answers and finds none: the alert is over, and its end can be told."""
    of = rule(NpsDrop(20, 2 * DAY, min_responses=5), name="one")
    watched = Watched([of])
    for _ in range(12):
        _ = watched.take(answer(10), NOW)
    now = NOW + timedelta(days=3, hours=1)
    for _ in range(12):
        _ = watched.take(answer(0, occurred_at=now, received_at=now), now)
    assert watched.alerts
    now += timedelta(days=1, hours=1)
    if by == "time":
        (cleared,) = watched.review(now)
    else:
        (cleared,) = watched.take(answer(0, occurred_at=now, received_at=now), now)
    assert cleared.event == "cleared"
    for text in cleared.sentences.values():
        renders(text)


@pytest.mark.parametrize("when", [Shift(), NoFeedbackFor(14 * DAY)])
def test_an_alert_is_over_when_its_name_belongs_to_another_type(when: Shift | NoFeedbackFor) -> None:
    """Nobody closes it: the window that it was about is not looked at, and the detector never saw a shift."""
    watched, now = worked_up(rule(NpsBelow(0, DAY, 5), name="one"), 0, 10)
    watched.rules = [rule(when, name="one")]
    for _ in range(3):
        now += timedelta(days=1)
        _ = watched.review(now)
    assert not watched.alerts


def of_speed(limit: float, scores: Sequence[float]) -> Watched:
    of = rule(MetricMean("speed", MONTH, mean_below=limit), name="one")
    watched = Watched([of])
    for n, score in enumerate(scores):
        _ = watched.take(answer(score, backfill=True, respondent=f"r-{n}", **METRIC), NOW)
    return watched


def test_a_metric_that_became_better_opens_nothing() -> None:
    """The contract: only an answer that itself makes the value worse opens an alert."""
    watched, later = of_speed(80, (40, 40, 40, 40)), NOW + SECOND
    assert watched.take(answer(60, occurred_at=later, received_at=later, **METRIC), later) == []


def test_a_metric_that_fell_opens() -> None:
    """Somebody's 95 becomes 82: the mean falls from 81 to 78.4 and under the limit, by this live answer."""
    watched, later = of_speed(80, (75, 75, 80, 80, 95)), NOW + SECOND
    said = answer(82, respondent="r-4", occurred_at=later, received_at=later, **METRIC)
    assert pages(watched.take(said, later), "opened")
