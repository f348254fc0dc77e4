"""The figures of a window: NPS with its interval, mean mood, share of unhappy faces.

NPS interval: adjusted Wald, adding three responses (3/4 promoter, 1 1/2 passive, 3/4 detractor); B. Rocks, "Interval
Estimation for the Net Promoter Score", The American Statistician 70 (2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple, cast

Z95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""

RELIABLE_RESPONSES = 30
"""From here on one or two answers no longer swing the score (rule of thumb: 25 to 30)."""


@lru_cache(maxsize=1_000)
def quantile(confidence: float) -> float:
    """Return the standard normal quantile of a two-sided interval."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


class Nps(NamedTuple):
    """NPS in points, -100 to 100; None without responses."""

    promoters: int
    passives: int
    detractors: int

    @property
    def responses(self) -> int:
        """How many answers it rests on."""
        return self.promoters + self.passives + self.detractors

    @property
    def score(self) -> float | None:
        """100 (promoters - detractors) / responses."""
        return 100 * (self.promoters - self.detractors) / self.responses if self.responses else None

    def high(self, z: float = Z95) -> float:
        """Return the interval's high end in points; 100 without responses."""
        interval = self.interval(z)
        return 100.0 if interval is None else interval[2]

    def interval(self, z: float = Z95) -> tuple[float, float, float] | None:
        """Return margin, low and high of the interval in points; None without responses."""
        if not self.responses:
            return None
        centre, variance = self.adjusted()
        margin = z * math.sqrt(variance)
        return margin, max(-100.0, centre - margin), min(100.0, centre + margin)

    def adjusted(self) -> tuple[float, float]:
        """Return the adjusted score in points and its variance, the three added responses included."""
        n = self.promoters + self.passives + self.detractors + 3
        p, d = (self.promoters + 0.75) / n, (self.detractors + 0.75) / n
        return 100 * (p - d), 10_000 * (p + d - (p - d) ** 2) / n


def nps_of(counts: Sequence[float]) -> Nps:
    """Return the NPS of counts per category (detractors, passives, promoters)."""
    detractors, passives, promoters = cast("Sequence[int]", counts[:3])
    return Nps(promoters, passives, detractors)


def adjusted_difference(before: Nps, after: Nps) -> tuple[float, float]:
    """Return how much lower the second score is, in points, and the standard error of that: both adjusted Wald.

    J. Sauro, J. R. Lewis, "Comparing Two Net Promoter Scores" (MeasuringU, 2021): the samples' variances add up.
    """
    (then, of_then), (now, of_now) = before.adjusted(), after.adjusted()
    return then - now, math.sqrt(of_then + of_now)


class Mood(NamedTuple):
    """The mood meter's four faces, 1 (worst) to 4."""

    counts: tuple[int, int, int, int]

    @property
    def responses(self) -> int:
        """How many answers it rests on."""
        one, two, three, four = self.counts
        return one + two + three + four

    @property
    def average(self) -> float | None:
        """Mean face, 1 to 4; None without responses."""
        total = sum(face * count for face, count in enumerate(self.counts, 1))
        return total / self.responses if self.responses else None

    def interval(self) -> tuple[float, float, float] | None:
        """Return margin, low and high of the mean's 95 % interval; None without responses.

        As for NPS, responses are added so that few equal answers do not look certain: one of each face (A. Agresti,
        B. Coull, "Approximate Is Better than Exact", The American Statistician 52 (1998), for more than two outcomes).
        """
        if not self.responses:
            return None
        added = [count + 1 for count in self.counts]
        n = sum(added)
        mean = sum(face * count for face, count in enumerate(added, 1)) / n
        variance = sum((face - mean) ** 2 * count for face, count in enumerate(added, 1)) / n
        margin = Z95 * math.sqrt(variance / n)
        return margin, max(1.0, mean - margin), min(4.0, mean + margin)

    @property
    def unhappy_share(self) -> float | None:
        """Share of the faces 1 and 2; None without responses."""
        return (self.counts[0] + self.counts[1]) / self.responses if self.responses else None


def mood_of(counts: Sequence[float]) -> Mood:
    """Return the mood of counts per face."""
    one, two, three, four = cast("Sequence[int]", counts[:4])
    return Mood((one, two, three, four))
