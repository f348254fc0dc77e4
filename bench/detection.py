"""Detection: how soon the default rules tell that answers have become worse, and how often they tell it falsely.

Simulated customers, Poisson arrivals, changes of known size. Beside it the oracle, a CUSUM that knows both
distributions, and in a touchpoint's change the touchpoint, calibrated to the same budget; and the rules that are common
elsewhere.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import time
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from copy import copy, deepcopy
from multiprocessing import Pool
from typing import Any, NamedTuple

from services.scoring.domain.shift import DEFAULT_PRIOR, Detector
from services.scoring.domain.silence import Pulse
from shared.rules.document import built_in_rules
from shared.rules.figures import nps_of, quantile
from shared.rules.nps import NpsBelow
from shared.rules.sequence import NoFeedbackFor

SEED = "detection-1"
"""Other than those that the detector was tuned with."""
BUDGET = 0.1
YEAR, MONTH = 365.25, 365.25 / 12
SHORT = bool(os.environ.get("BENCH_SHORT"))
"""Only to show that it runs."""
RATES = (6, 20) if SHORT else (6, 20, 60, 300, 3000)
SHARES = {
    70: (0.05, 0.20, 0.75),
    40: (0.15, 0.30, 0.55),
    20: (0.25, 0.30, 0.45),
    10: (0.30, 0.30, 0.40),
    0: (0.35, 0.30, 0.35),
    -10: (0.40, 0.30, 0.30),
    -20: (0.45, 0.30, 0.25),
    -40: (0.55, 0.30, 0.15),
    -60: (0.70, 0.20, 0.10),
}
"""NPS: shares of detractors, passives, promoters."""
DRIFT = 60.0
"""Days from the old level to the new."""
COUNTED = 4 * MONTH
"""Scenarios count that the oracle finds in half of the cases in so many days."""
HORIZON, WINDOW_HORIZON = YEAR, 120.0
"""Days after the change until a run is given up: ours, and the window rules."""
YEARS = 2.0
"""From a customer's first answer on, when false alarms are counted."""
FALSE_CUSTOMERS = {6: 5000, 20: 4000, 60: 2000, 300: 800, 3000: 160}
RUNS = {6: 4000, 20: 4000, 60: 2500, 300: 900, 3000: 160}
BAR_MEAN, BAR_WORST, BAR_FALSE = 1.15, 1.6, 0.15
LOWS = (-20, -40, -60)
CONFIDENCES = (0.95, 0.995, 0.999, 0.9999)
SILENCE = NoFeedbackFor("auto")
LOW = next(rule.when for rule in built_in_rules() if isinstance(rule.when, NpsBelow))
LOW_Z = quantile(LOW.confidence)
CATEGORY = (0,) * 7 + (1, 1, 2, 2)
"""Category per score 0 to 10."""


class Scenario(NamedTuple):
    """A change, and whether it counts for the bar."""

    name: str
    before: int
    after: int
    how: str = "jump"
    touchpoints: int = 1
    history: float = YEAR
    counts: bool = True


SCENARIOS = (
    Scenario("jump +40 to -20", 40, -20),
    Scenario("jump +40 to +10", 40, 10),
    Scenario("drift +40 to -20, 60 days", 40, -20, "drift"),
    Scenario("1 touchpoint of 5, +40 to -20", 40, -20, "touchpoint", 5),
    Scenario("jump 0 to -60", 0, -60),
    Scenario("jump +70 to +10", 70, 10),
    Scenario("jump +20 to -10", 20, -10),
    Scenario("(jump +40 to -20, all 5 touchpoints)", 40, -20, "jump", 5, counts=False),
    Scenario("(jump +40 to -20, 3 months' history)", 40, -20, history=3 * MONTH, counts=False),
)


class NpsLow:
    """`nps-low`: 30 days; its numbers are the built-in rule's."""

    def __init__(self, z: float = LOW_Z) -> None:
        """`z`: the quantile of its confidence."""
        self.z = z
        self.window: deque[tuple[float, int]] = deque()
        self.counts = [0, 0, 0]
        self.open = False

    def fork(self) -> NpsLow:
        """Return a copy that goes its own way."""
        other = NpsLow(self.z)
        other.window, other.counts, other.open = deque(self.window), list(self.counts), self.open
        return other

    def opens(self, day: float, category: int) -> bool:
        """Take an answer; tell whether it opens an alert."""
        counts, window = self.counts, self.window
        window.append((day, category))
        counts[category] += 1
        while window[0][0] <= day - 30:
            counts[window.popleft()[1]] -= 1
        enough = counts[2] < counts[0] and len(window) >= LOW.min_responses
        low = enough and nps_of(counts).high(self.z) < LOW.threshold
        opens = low and not self.open
        if low or (self.open and 100 * (counts[2] - counts[0]) >= LOW.clear_margin * len(window)):
            self.open = low
        return opens


class DefaultRules:
    """The rules that a company has without choosing any, for one customer that is asked for NPS only.

    `nps-low`, `shift` and `silence`.
    """

    names = ("shift", "nps-low", "silence")

    def __init__(self) -> None:
        self.detector = Detector()
        self.low = NpsLow()
        self.pulse: Pulse | None = None

    def fork(self) -> DefaultRules:
        """Return a copy that goes its own way."""
        other = DefaultRules()
        other.detector = deepcopy(self.detector)
        other.low = self.low.fork()
        other.pulse = None if self.pulse is None else copy(self.pulse)
        return other

    def answer(self, day: float, score: int, touchpoint: str | None) -> tuple[str, ...]:
        """Take an answer; return the names of the rules that alarm now."""
        category = CATEGORY[score]
        signal = self.detector.take(category, touchpoint, day, DEFAULT_PRIOR, BUDGET)
        alarms = ("shift",) if signal is not None and signal.event == "worse" else ()
        if self.low.opens(day, category):
            alarms = (*alarms, "nps-low")
        if self.fell_silent(day * 86400):
            alarms = (*alarms, "silence")
        return alarms

    def fell_silent(self, at: float) -> bool:
        """Take the time of an answer; tell whether silence was told of before it."""
        pulse = self.pulse
        if pulse is None:
            self.pulse = Pulse(at)
            return False
        silent = at - pulse.last
        limit = pulse.limit(SILENCE) if silent > 3 * 86400 else None
        pulse.beat(at)
        return limit is not None and silent > limit


class WindowRules:
    """The rules that are common elsewhere: two thresholds, and two adjacent windows with a test."""

    names = ("below 0", "below 0, n>=10", "two windows")

    def __init__(self) -> None:
        self.windows: tuple[deque[tuple[float, int]], deque[tuple[float, int]]] = (deque(), deque())
        self.counts = ([0, 0, 0], [0, 0, 0])
        self.open = [False, False, False]
        self.looked = -math.inf

    def answer(self, day: float, score: int) -> list[str]:
        """Take an answer; return the names of the rules that alarm now. They look ten times a day at most."""
        (new, old), (now, then) = self.windows, self.counts
        category = CATEGORY[score]
        new.append((day, category))
        now[category] += 1
        while new[0][0] <= day - 30:
            moved = new.popleft()
            old.append(moved)
            now[moved[1]] -= 1
            then[moved[1]] += 1
        while old and old[0][0] <= day - 60:
            then[old.popleft()[1]] -= 1
        if day - self.looked < 0.1:
            return []
        self.looked = day
        below = now[2] < now[0]
        holds = (below, below and len(new) >= 10, self.fell())
        alarms = [name for name, hold, before in zip(self.names, holds, self.open, strict=True) if hold and not before]
        self.open[:] = holds
        return alarms

    def fell(self) -> bool:
        """Whether the newer window is lower than the older by more than the 95 % margin of the difference."""
        now, then = self.counts
        count, before = sum(now), sum(then)
        if not before or (now[2] - now[0]) * before >= (then[2] - then[0]) * count:
            return False
        newer, older = nps_of(now).interval(), nps_of(then).interval()
        if newer is None or older is None:
            return False
        centres = [100 * (c[2] - c[0]) / (sum(c) + 3) for c in (now, then)]
        return centres[1] - centres[0] > math.hypot(newer[0], older[0])


def chance(*key: object) -> random.Random:
    """Return the source of chance of one task."""
    return random.Random(zlib.crc32(repr((SEED, key)).encode()))


def weights(shares: tuple[float, float, float]) -> list[float]:
    """Return the weights of the scores 0 to 10: even within a category."""
    return [shares[CATEGORY[score]] / CATEGORY.count(CATEGORY[score]) for score in range(11)]


def answers(
    luck: random.Random, rate: float, before: int, touchpoints: int, begin: float, end: float
) -> Iterator[tuple[float, int, str | None]]:
    """Yield stable answers: day, score, touchpoint."""
    a_day, table, names = rate / MONTH, weights(SHARES[before]), [f"t{number}" for number in range(touchpoints)]
    day, scores = begin, range(11)
    while True:
        picked = luck.choices(scores, table, k=200)
        where = luck.choices(names, k=200) if touchpoints > 1 else [None] * 200
        for score, touchpoint in zip(picked, where, strict=True):
            day += luck.expovariate(a_day)
            if day >= end:
                return
            yield day, score, touchpoint


def changed(
    luck: random.Random, rate: float, scenario: Scenario, begin: float
) -> Iterator[tuple[float, int, str | None]]:
    """Yield answers from the change on."""
    a_day, old, new = rate / MONTH, weights(SHARES[scenario.before]), weights(SHARES[scenario.after])
    day, scores = begin, range(11)
    while True:
        day += luck.expovariate(a_day)
        number = luck.randrange(scenario.touchpoints)
        if scenario.how == "drift":
            table = new if luck.random() < (day - begin) / DRIFT else old
        else:
            table = new if scenario.how == "jump" or number == 0 else old
        yield day, luck.choices(scores, table)[0], f"t{number}" if scenario.touchpoints > 1 else None


class Oracle:
    """A CUSUM that knows the distributions before and after."""

    def __init__(self, scenario: Scenario, luck: random.Random, cycles: int) -> None:
        self.before, self.after, self.luck = SHARES[scenario.before], SHARES[scenario.after], luck
        self.steps = [math.log(new / old) for old, new in zip(self.before, self.after, strict=True)]
        self.records = [self.climb() for _ in range(cycles)]
        self.cycle = statistics.fmean(self.fall() for _ in range(cycles))

    def climb(self) -> list[float]:
        """Return the new heights of one cycle after the change, from 0 until it falls back to 0 or is at 16."""
        height, top = 0.0, 0.0
        records: list[float] = []
        while True:
            for step in self.luck.choices(self.steps, self.after, k=16):
                height += step
                if height <= 0:
                    return records
                if height > top:
                    records.append(height)
                    top = height
                if height > 16:
                    return records

    def fall(self) -> int:
        """Return the answers of one cycle from 0 back to 0 before the change."""
        height, count = 0.0, 0
        while True:
            for step in self.luck.choices(self.steps, self.before, k=8):
                height += step
                count += 1
                if height <= 0 or height > 16:
                    return count

    def false_alarms(self, threshold: float, a_year: float) -> float:
        """Return false alarms a year, by importance sampling (D. Siegmund, "Sequential Analysis", 1985, chapter IV)."""
        reached = 0.0
        for records in self.records:
            place = bisect_left(records, threshold)
            if place < len(records):
                reached += math.exp(-records[place])
        return a_year * reached / len(self.records) / self.cycle

    def threshold(self, a_year: float) -> float:
        """Return the threshold at the budget."""
        low, high = 0.1, 16.0
        for _ in range(30):
            middle = (low + high) / 2
            if self.false_alarms(middle, a_year) > BUDGET:
                low = middle
            else:
                high = middle
        return high

    def delay(self, threshold: float, rate: float, drift: bool) -> float:
        """Return the days of one run from the change to the alarm."""
        luck, steps, height, day = self.luck, self.steps, 0.0, 0.0
        for step in luck.choices(steps, self.before, k=200):
            height = max(0.0, height + step)
            if height >= threshold:
                height = 0.0
        while day < HORIZON:
            day += luck.expovariate(rate / MONTH)
            new = not drift or luck.random() < day / DRIFT
            height = max(0.0, height + luck.choices(steps, self.after if new else self.before)[0])
            if height >= threshold:
                return day
        return math.inf


def measure_oracle(scenario: Scenario, part: float) -> dict[int, tuple[float, float]]:
    """Return median delay and false alarms a year for each rate."""
    runs = int(6000 * part) + (300 if part >= 0.01 else 30)
    oracle = Oracle(scenario, chance("oracle", scenario.before, scenario.after), 4 * runs)
    check = Oracle(scenario, chance("check", scenario.before, scenario.after), 4 * runs)
    found: dict[int, tuple[float, float]] = {}
    for rate in RATES:
        own = rate / scenario.touchpoints if scenario.how == "touchpoint" else rate
        threshold = oracle.threshold(own * 12)
        delays = [
            oracle.delay(threshold, own, scenario.how == "drift") for _ in range(runs if rate < 3000 else runs // 3)
        ]
        found[rate] = statistics.median(delays), check.false_alarms(threshold, own * 12)
    return found


def measure_false(before: int, touchpoints: int, rate: int, customers: int, part: int) -> dict[str, float]:
    """Return false alarms by rule, and the customer-years they come from."""
    luck = chance("false", before, touchpoints, rate, part)
    found: dict[str, float] = dict.fromkeys((*DefaultRules.names, *WindowRules.names), 0.0)
    windows_of = max(1, customers // 5)
    for customer in range(customers):
        rules = DefaultRules()
        windows = WindowRules() if customer < windows_of else None
        for day, score, touchpoint in answers(luck, rate, before, touchpoints, 20_000, 20_000 + YEARS * YEAR):
            for name in rules.answer(day, score, touchpoint):
                found[name] += 1
            if windows is not None:
                for name in windows.answer(day, score):
                    found[name] += 1
    return found | {"years": YEARS * customers, "window years": YEARS * windows_of}


def measure_delays(scenarios: list[Scenario], rate: int, runs: int, part: int) -> dict[str, dict[str, list[float]]]:
    """Return delays in days by scenario and rule; the scenarios share their histories."""
    first = scenarios[0]
    luck = chance("delay", first.before, first.touchpoints, first.history, rate, part)
    found = {one.name: {name: [] for name in ("shift", "nps-low", *WindowRules.names)} for one in scenarios}
    begin = 20_000 + first.history
    for run in range(runs):
        past = DefaultRules()
        recent: list[tuple[float, int]] = []
        for day, score, touchpoint in answers(luck, rate, first.before, first.touchpoints, 20_000, begin):
            past.answer(day, score, touchpoint)
            if day > begin - 61:
                recent.append((day, score))
        for scenario in scenarios:
            rules, into = past.fork(), found[scenario.name]
            windows = WindowRules() if run < runs // 3 or runs < 3 else None
            waiting = {"shift"}
            if windows is not None:
                waiting |= {"nps-low", *WindowRules.names}
                for day, score in recent:
                    windows.answer(day, score)
            names = set(waiting)
            for day, score, touchpoint in changed(luck, rate, scenario, begin):
                alarms = list(rules.answer(day, score, touchpoint))
                if windows is not None and day - begin < WINDOW_HORIZON:
                    alarms += windows.answer(day, score)
                elif "shift" in waiting:
                    waiting = {"shift"}
                for name in alarms:
                    if name in waiting:
                        waiting.discard(name)
                        into[name].append(day - begin)
                        names.discard(name)
                if not waiting or day - begin > (HORIZON if "shift" in waiting else WINDOW_HORIZON):
                    break
            for name in names:
                into[name].append(math.inf)
    return found


def work(task: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
    """Run one task in a child."""
    what, *rest = task
    return task, {"oracle": measure_oracle, "false": measure_false, "delay": measure_delays}[what](*rest)


def nps_low(confidence: float, part: float) -> str:
    """Return a line of the table of `nps-low`: what a confidence costs and brings, with 20 answers a month."""
    rate, end = 20, 20_000 + YEARS * YEAR
    customers = max(2, int(1_500 * part))
    stable = (answers(chance("nps-low", n), rate, 0, 1, 20_000, end) for n in range(customers))
    row = [f"{confidence}", f"{sum(len(list(told_low(confidence, said))) for said in stable) / customers / YEARS:.2f}"]
    for low in LOWS:
        firsts = [
            next(told_low(confidence, answers(chance("low", low, n), rate, low, 1, 20_000, end)), math.inf)
            for n in range(max(2, int(300 * part)))
        ]
        row.append(days(statistics.median(firsts) - 20_000))
    return "".join(f"{cell:>12}" for cell in row)


def told_low(confidence: float, said: Iterable[tuple[float, int, str | None]]) -> Iterator[float]:
    """Yield the days on which nps-low opens an alert."""
    rule = NpsLow(quantile(confidence))
    for day, score, _ in said:
        if rule.opens(day, CATEGORY[score]):
            yield day


def tasks(part: float) -> list[tuple[Any, ...]]:
    """Return what there is to do, the longest first."""
    pasts: dict[tuple[int, int, float], list[Scenario]] = {}
    for scenario in SCENARIOS:
        pasts.setdefault((scenario.before, scenario.touchpoints, scenario.history), []).append(scenario)
    todo: list[tuple[Any, ...]] = []
    for rate in reversed(RATES):
        for before, touchpoints in {(before, touchpoints): None for before, touchpoints, _ in pasts}:
            count = max(8, int(FALSE_CUSTOMERS[rate] * part))
            todo += [("false", before, touchpoints, rate, count // 4, quarter) for quarter in range(4)]
        for scenarios in pasts.values():
            count = max(10, int(RUNS[rate] * part))
            todo += [("delay", scenarios, rate, count // 2, half) for half in range(2)]
    return todo + [("oracle", scenario, part) for scenario in SCENARIOS]


def days(value: float) -> str:
    """Return a delay for the table."""
    return "-" if math.isinf(value) else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def main() -> None:
    """Measure, print the table and whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="smaller samples, same code")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    part = 0.001 if SHORT else 0.1 if options.short else 1.0
    began = time.perf_counter()
    oracles: dict[str, dict[int, tuple[float, float]]] = {}
    false: dict[tuple[int, int, int], dict[str, float]] = {}
    delays: dict[tuple[str, int], dict[str, list[float]]] = {}
    with Pool(options.workers) as pool:
        for task, result in pool.imap_unordered(work, tasks(part)):
            if task[0] == "oracle":
                oracles[task[1].name] = result
            elif task[0] == "false":
                into = false.setdefault(task[1:4], dict.fromkeys(result, 0.0))
                for name, count in result.items():
                    into[name] += count
            else:
                for name, lists in result.items():
                    into = delays.setdefault((name, task[2]), {rule: [] for rule in lists})
                    for rule, values in lists.items():
                        into[rule] += values
        lows = pool.starmap(nps_low, [(confidence, part) for confidence in CONFIDENCES])
    report(oracles, false, delays)
    print("nps-low by its confidence, 20 answers a month: false alarms a year at NPS 0, its threshold,")
    print("and the median days until it tells of a customer that always was so low (-: not in half of the cases)")
    print("".join(f"{head:>12}" for head in ("confidence", "NPS 0", *(f"NPS {low}" for low in LOWS))))
    print("\n".join(lows))
    print(f"{time.perf_counter() - began:.0f} s")


def report(
    oracles: dict[str, dict[int, tuple[float, float]]],
    false: dict[tuple[int, int, int], dict[str, float]],
    delays: dict[tuple[str, int], dict[str, list[float]]],
) -> None:
    """Print the table and the lines below it."""
    print("Median days from the change to the alarm, and false alarms a customer-year (fa) from the first answer on.")
    print("History before the change: 12 months of stable answers. Touchpoints: none, or 5 with equal shares.")
    print("* counts: found by the oracle in half of the cases within four months; () never counts.")
    print("default fa: shift, nps-low and silence together. -: not found in half of the runs.")
    rules = ("nps-low", *WindowRules.names)
    head = f"{'scenario':37} {'a month':>7} | {'oracle':>6} {'fa':>5} | "
    head += f"{'shift':>6} {'ratio':>5}  {'fa':>5} {'default fa':>10} |"
    print(head + "".join(f" {name:>14} {'fa':>5}" for name in rules))
    ratios: list[tuple[float, str]] = []
    highest: dict[str, tuple[float, str]] = dict.fromkeys(("shift", "above 0", "at 0"), (0.0, ""))
    for scenario in SCENARIOS:
        for rate in RATES:
            oracle, oracle_false = oracles[scenario.name][rate]
            medians = {rule: statistics.median(values) for rule, values in delays[scenario.name, rate].items()}
            alarms = false[scenario.before, scenario.touchpoints, rate]
            a_year = {rule: alarms[rule] / alarms["window years"] for rule in WindowRules.names}
            a_year |= {rule: alarms[rule] / alarms["years"] for rule in DefaultRules.names}
            together = sum(a_year[rule] for rule in DefaultRules.names)
            ratio = medians["shift"] / oracle
            counts = scenario.counts and oracle <= COUNTED
            if counts:
                ratios.append((ratio, f"{scenario.name}, {rate} a month"))
            where = f"NPS {scenario.before:+}, {scenario.touchpoints} touchpoint(s), {rate} a month"
            highest["shift"] = max(highest["shift"], (a_year["shift"], where))
            key = "above 0" if scenario.before > 0 else "at 0"
            highest[key] = max(highest[key], (together, where))
            shown = "-" if math.isinf(ratio) or math.isnan(ratio) else f"{ratio:.2f}"
            line = f"{scenario.name:37} {rate:7} | {days(oracle):>6} {oracle_false:5.2f} | {days(medians['shift']):>6} "
            line += f"{shown:>5}{'*' if counts else ' '} {a_year['shift']:5.2f} {together:10.2f} |"
            print(line + "".join(f" {days(medians[rule]):>14} {a_year[rule]:5.2f}" for rule in rules))
    mean = math.exp(statistics.fmean(math.log(ratio) for ratio, _ in ratios))
    worst, where = max(ratios)
    met = mean <= BAR_MEAN and worst <= BAR_WORST and highest["above 0"][0] <= BAR_FALSE
    print(f"geometric average of {len(ratios)} ratios: {mean:.3f} (bar {BAR_MEAN})")
    print(f"worst ratio: {worst:.2f} at {where} (bar {BAR_WORST})")
    print("most false alarms a customer-year:")
    print("  shift alone: {:.3f} at {}".format(*highest["shift"]))
    print("  default rules, baselines above 0: {:.3f} at {} (bar {})".format(*highest["above 0"], BAR_FALSE))
    print("  default rules, baseline 0, where nps-low's threshold is: {:.3f} at {}".format(*highest["at 0"]))
    print(f"bar {'met' if met else 'NOT met'}")


if __name__ == "__main__":
    main()
