"""A detector alarms when answers become worse, not otherwise, and says why."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.domain.shares import total
from services.scoring.domain.shift import (
    DEFAULT_PRIOR,
    Detector,
    Prior,
    Signal,
    nearness,
)

DAY, BUDGET = 20_000.0, 0.1
GOOD, BAD = (15, 30, 55), (45, 30, 25)
"""NPS +40 and -20."""
KEYS = {
    "touchpoint", "baseline_nps", "baseline_answers", "since_nps", "since_answers", "onset",
    "statistic", "threshold", "answers_per_month", "false_alarms_per_year",
}  # fmt: skip
Answers = list[tuple[int, str | None, float]]

ANSWERS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from((None, "a", "b")), st.floats(-2, 40, allow_nan=False), st.integers(1, 25)
    ),
    max_size=25,
)
"""Runs of equal answers with the days before each: enough to alarm, recover and settle."""


def stream(
    seed: int, rate: float, shares: tuple[int, int, int], count: int, begin: float = DAY, of: int = 1
) -> Answers:
    """Return answers at so many a month."""
    chance, day, answers = random.Random(seed), begin, Answers()
    for category in chance.choices((0, 1, 2), shares, k=count):
        day += chance.expovariate(rate * 12 / 365.25)
        answers.append((category, None if of == 1 else f"t{chance.randrange(of)}", day))
    return answers


def run(detector: Detector, answers: Answers, prior: Prior = DEFAULT_PRIOR) -> Iterator[tuple[int, Signal]]:
    """Yield the signals and the places of the answers that brought them."""
    for place, (category, touchpoint, day) in enumerate(answers):
        signal = detector.take(category, touchpoint, day, prior, BUDGET)
        if signal is not None:
            yield place, signal


def stored(detector: Detector) -> Detector:
    """Return it as another process reads it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(detector), type=Detector)


def flat(runs: list[tuple[int, str | None, float, int]]) -> Answers:
    """Return the answers of what hypothesis drew."""
    day, answers = DAY, Answers()
    for category, touchpoint, gap, times in runs:
        for number in range(times):
            day += gap if number == 0 else 0.3
            answers.append((category, touchpoint, day))
    return answers


def alarmed(rate: float = 300, of: int = 1) -> tuple[Detector, Signal, float]:
    """Return a detector with an open alarm after a year, its signal and the day."""
    detector, count = Detector(), int(rate * 12)
    past = stream(5, rate, GOOD, count, of=of)
    assert not list(run(detector, past))
    after = stream(6, rate, BAD, 400, past[-1][2], of)
    for place, signal in run(detector, after):
        return detector, signal, after[place][2]
    raise AssertionError("no alarm")


@given(ANSWERS, st.integers(200, 800))
def test_what_is_loaded_behaves_as_what_was_dumped(runs: list[tuple[int, str | None, float, int]], cut: int) -> None:
    answers = stream(8, 300, GOOD, 250, DAY - 40, 2) + flat(runs)
    whole, first = Detector(), Detector()
    cut = min(cut, len(answers))
    expected = list(run(whole, answers))
    got = list(run(first, answers[:cut]))
    second = stored(first)
    got += [(place + cut, signal) for place, signal in run(second, answers[cut:])]
    assert got == expected
    assert second == whole
    assert nearness(second) == nearness(whole)


def test_an_unused_detector_can_be_stored() -> None:
    assert stored(Detector()) == Detector()
    assert nearness(Detector()).ratio == 0


@pytest.mark.parametrize(("rate", "days"), [(20, 75), (300, 7), (3000, 1.0)])
def test_a_jump_is_found_soon(rate: int, days: float) -> None:
    delays = list[float]()
    for seed in range(6):
        detector = Detector()
        past = stream(seed, rate, GOOD, min(12 * rate, 6000))
        list(run(detector, past))
        after = stream(seed + 100, rate, BAD, 300, past[-1][2])
        found = [after[place][2] - past[-1][2] for place, signal in run(detector, after) if signal.event == "worse"]
        delays.append(found[0] if found else math.inf)
    assert sorted(delays)[4] < days, delays


def test_one_touchpoint_of_five_is_found_and_named() -> None:
    detector = Detector()
    past = stream(3, 300, GOOD, 3600, of=5)
    assert not list(run(detector, past))
    chance = random.Random(4)
    after = [
        (chance.choices((0, 1, 2), BAD)[0] if touchpoint == "t3" else category, touchpoint, day)
        for category, touchpoint, day in stream(2, 300, GOOD, 600, past[-1][2], of=5)
    ]
    place, signal = next(run(detector, after))
    assert signal.reason["touchpoint"] == "t3"
    assert after[place][2] - past[-1][2] < 40
    assert total(detector.counts) + cast(int, signal.reason["since_answers"]) == len(past) + place + 1


@pytest.mark.parametrize("of", [1, 5])
@pytest.mark.parametrize("shares", [GOOD, BAD, (5, 20, 75), (70, 20, 10)])
def test_stable_answers_raise_no_alarm(shares: tuple[int, int, int], of: int) -> None:
    alarms = sum(
        signal.event == "worse"
        for seed in range(20)
        for _, signal in run(Detector(), stream(seed, 60, shares, 720, of=of))
    )
    assert alarms <= 5  # 2 expected in 20 years


def test_first_answers_raise_no_alarm() -> None:
    assert not list(run(Detector(), [(0, None, DAY + number / 10) for number in range(200)]))
    assert not list(run(Detector(), [(0, f"t{number % 3}", DAY + number / 10) for number in range(200)]))


def test_nothing_is_told_against_the_company_alone() -> None:
    firm = Prior(0.0, 0.1, 0.9, 1000.0)
    assert not list(run(Detector(), [(0, None, DAY + number) for number in range(20)], firm))


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(20, 60))
def test_better_answers_never_alarm(seed: int, of: int, step: int) -> None:
    """Each answer is at least as good as the one before at its touchpoint."""
    chance, answers = random.Random(seed), Answers()
    for number in range(3 * step):
        touchpoint = f"t{chance.randrange(of)}"
        answers.append((number // step, touchpoint, DAY + number * chance.random()))
    assert not list(run(Detector(), answers))


def test_improving_answers_do_not_alarm() -> None:
    for seed in range(5):
        past = stream(seed, 300, BAD, 3600)
        later = stream(seed + 50, 300, GOOD, 3600, past[-1][2])
        detector = Detector()
        before = list(run(detector, past))
        assert not before or before[-1][1].event != "worse"
        assert not list(run(detector, later))


@given(ANSWERS)
def test_worse_is_told_once_until_it_ends(runs: list[tuple[int, str | None, float, int]]) -> None:
    detector, is_open = Detector(), False
    answers = flat([(2, "a", 1.0, 40), *runs, (0, "a", 1.0, 30), (2, "a", 1.0, 60), (0, "a", 1.0, 30)])
    for category, touchpoint, day in answers:
        signal = detector.take(category, touchpoint, day, DEFAULT_PRIOR, BUDGET)
        if signal is not None:
            assert is_open == (signal.event != "worse")
            is_open = signal.event == "worse"
        assert detector.is_shifted == is_open
        assert (nearness(detector).ratio == 1) >= is_open


@given(ANSWERS)
def test_the_reason_explains(runs: list[tuple[int, str | None, float, int]]) -> None:
    answers = flat([(2, "a", 1.0, 40), (2, "b", 1.0, 30), *runs, (0, "b", 1.0, 40), (2, "b", 1.0, 100)])
    for place, (event, reason) in run(Detector(), answers):
        assert set(reason) == KEYS
        if event != "settled":
            assert isinstance(reason["statistic"], float)
            assert isinstance(reason["threshold"], float)
            assert reason["statistic"] >= reason["threshold"] > 0
        if event == "worse":
            assert isinstance(reason["since_nps"], float)
            assert isinstance(reason["baseline_nps"], float)
            assert isinstance(reason["onset"], float)
            assert isinstance(reason["since_answers"], int)
            assert reason["since_nps"] < reason["baseline_nps"]
            assert 0 < reason["since_answers"] <= place + 1
            assert DAY <= reason["onset"] <= max(day for _, _, day in answers)
            assert reason["false_alarms_per_year"] == BUDGET


def test_the_numbers_of_an_alarm() -> None:
    _, (event, reason), day = alarmed()
    assert event == "worse"
    assert isinstance(reason["onset"], float)
    assert isinstance(reason["since_nps"], float)
    assert isinstance(reason["baseline_answers"], int)
    assert isinstance(reason["since_answers"], int)
    assert reason["baseline_nps"] == pytest.approx(40, abs=5)
    assert reason["since_nps"] < 10
    assert abs(reason["onset"] - (DAY + 365)) < 20
    assert reason["onset"] < day
    assert reason["baseline_answers"] + reason["since_answers"] >= 3600
    assert reason["answers_per_month"] == pytest.approx(300, rel=0.1)


@pytest.mark.parametrize("of", [1, 5])
def test_back_at_the_old_level_it_recovers_and_watches_again(of: int) -> None:
    detector, alarm, day = alarmed(of=of)
    (place, signal), *more = run(detector, stream(9, 300, GOOD, 150, day, of))
    assert not more
    assert signal.event == "recovered"
    learned = cast(int, alarm.reason["baseline_answers"]) + 150 - place - 1
    assert total(detector.counts) == learned
    held = sum(total(stream.counts) for stream in detector.streams.values())
    assert abs(learned - held) < (1 if of == 1 else 60)
    assert not list(run(detector, stream(12, 300, GOOD, 1000, day + 16, of)))
    later = stream(10, 300, BAD, 200, day + 125, of)
    assert next(run(detector, later))[1].event == "worse"


@pytest.mark.parametrize("of", [1, 5])
def test_a_lasting_level_settles_and_is_the_new_baseline(of: int) -> None:
    detector, _, day = alarmed(of=of)
    signals = list(run(detector, stream(9, 300, BAD, 1800, day, of)))
    assert [signal.event for _, signal in signals] == ["settled"]
    assert nearness(detector).baseline_nps == pytest.approx(-20, abs=12)
    worse = stream(11, 300, (75, 20, 5), 300, day + 190, of)
    assert next(run(detector, worse))[1].event == "worse"


def test_it_settles_without_answers_after_half_a_year() -> None:
    detector, _, day = alarmed()
    assert detector.review(day + 179) is None
    signal = detector.review(day + 181)
    assert signal is not None
    assert signal.event == "settled"
    assert not detector.is_shifted
    assert detector.review(day + 182) is None


@given(st.integers(0, 1000), st.sampled_from((0.0, 0.5, 3.0)))
def test_days_going_back_are_harmless(seed: int, back: float) -> None:
    chance, detector = random.Random(seed), Detector()
    past = [(c, t, day - back * chance.random()) for c, t, day in stream(seed, 100, GOOD, 400, of=2)]
    begin = past[-1][2]
    after = [(c, t, day - back * chance.random()) for c, t, day in stream(seed + 1, 100, BAD, 240, begin, of=2)]
    list(run(detector, past))
    assert detector.is_shifted or any(signal.event == "worse" for _, signal in run(detector, after))
    assert not list(run(Detector(), [(c, t, DAY) for c, t, _ in past + after]))


@pytest.mark.parametrize("of", [1, 3])
def test_history_that_is_imported_is_what_answers_are_compared_with(of: int) -> None:
    """Whoever moves here in the worst month is not measured by that month."""
    detector = Detector()
    for category, touchpoint, day in stream(3, 300, GOOD, 600, of=of):
        detector.learn(category, touchpoint, day)
    found = next((found for found in run(detector, stream(4, 300, BAD, 300, begin=DAY + 70, of=of))), None)
    assert found is not None
    place, signal = found
    assert signal.event == "worse"
    assert place < 60 * of
    assert 20 < cast("float", signal.reason["baseline_nps"]) < 60
    assert cast("float", signal.reason["onset"]) > DAY + 50


def test_what_comes_late_of_a_bad_time_is_not_what_was_usual() -> None:
    """Neither before the alarm nor while it is open; the level to come back to stays what it was."""
    detector, signal, day = alarmed()
    onset = cast("float", signal.reason["onset"])
    for number in range(100):
        detector.learn(0, None, onset + number / 100)
    assert nearness(detector).baseline_nps == signal.reason["baseline_nps"]
    for number in range(100):
        detector.learn(2, None, onset - 1 - number / 100)
    assert cast("float", nearness(detector).baseline_nps) > cast("float", signal.reason["baseline_nps"])
    assert detector.is_shifted
    assert day > onset


def test_late_answers_do_not_delay_an_alarm() -> None:
    """An answer of just before each live one takes nothing of the time over which evidence may begin."""
    found: list[list[int]] = []
    for late in (False, True):
        delays: list[int] = []
        for seed in range(40):
            detector = Detector()
            for category, touchpoint, day in stream(seed, 60, GOOD, 200):
                detector.learn(category, touchpoint, day)
            bad = stream(seed + 900, 6, BAD, 60, begin=DAY + 110)
            delays.append(next((place for place, _ in _told(detector, bad, late=late)), len(bad)))
        found.append(sorted(delays))
    assert abs(found[0][20] - found[1][20]) <= 2


def _told(detector: Detector, answers: Answers, *, late: bool) -> Iterator[tuple[int, Signal]]:
    """Yield the signals; with `late` a passive's answer of shortly before comes before each."""
    for place, (category, touchpoint, day) in enumerate(answers):
        if late:
            detector.learn(1, touchpoint, day - 0.1)
        signal = detector.take(category, touchpoint, day, DEFAULT_PRIOR, BUDGET)
        if signal is not None:
            yield place, signal


def test_years_of_history_in_any_order_are_learned() -> None:
    """Halving what is old happens once, not with each old answer."""
    past = stream(5, 83, GOOD, 3_000)
    for order in (past, past[::-1], random.Random(1).sample(past, len(past))):
        detector = Detector()
        for number, (category, touchpoint, day) in enumerate(order):
            detector.learn(category, touchpoint, day)
            if number % 20 == 19:
                detector.take(2, None, DAY + 1_200 + number / 100, DEFAULT_PRIOR, BUDGET)
        assert total(detector.counts) > 500


@given(ANSWERS, ANSWERS)
def test_what_is_learned_is_no_evidence(
    lived: list[tuple[int, str | None, float, int]], late: list[tuple[int, str | None, float, int]]
) -> None:
    """It adds to what is usual, also while an alarm is open, and never raises one."""
    detector = Detector()
    list(run(detector, flat(lived)))
    before, was_shifted = nearness(detector), detector.is_shifted
    since = total(detector.counts) - total(detector.mark)
    evidence = (detector.r1, detector.r2, detector.r3)
    for category, touchpoint, day in flat(late):
        detector.learn(category, touchpoint, day)
    assert detector.is_shifted == was_shifted
    assert (detector.r1, detector.r2, detector.r3) == evidence
    after_onset = total(detector.counts) - total(detector.mark)
    assert after_onset == since if was_shifted else after_onset >= since
    if was_shifted:
        after = nearness(detector)
        assert after.recent_nps == before.recent_nps
        assert after.learned >= before.learned
    after_it: Answers = [(0, "a", 21_000.0 + n) for n in range(60)]
    list(run(detector, [*after_it, *((2, "b", 21_100 + n / 9) for n in range(900))]))
    assert total(detector.counts) >= 0


def test_many_touchpoints_stay_bounded() -> None:
    detector, chance = Detector(), random.Random(3)
    for number in range(2000):
        detector.take(chance.choices((0, 1, 2), GOOD)[0], f"t{number}", DAY + number / 10, DEFAULT_PRIOR, BUDGET)
    assert len(msgspec.msgpack.encode(detector)) < 6000


def test_a_customer_with_millions_of_answers_is_counted_within_its_bits() -> None:
    detector, day = Detector(), DAY
    assert not list(run(detector, stream(1, 3000, GOOD, 200, day)))
    more = sum((2**19 - 200) << 21 * category for category in range(3))
    for held in (detector, *detector.streams.values()):
        held.counts += more
        held.mark += more
    list(run(detector, stream(2, 3000, GOOD, 120_000, day + 2)))
    assert total(detector.counts) < 3 * 2**19
    assert stored(detector) == detector
