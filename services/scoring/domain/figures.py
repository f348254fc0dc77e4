"""The figures of a window: NPS with its interval, mean mood, share of unhappy faces.

NPS interval: adjusted Wald, adding three responses (3/4 promoter, 1 1/2 passive, 3/4 detractor); B. Rocks, "Interval
Estimation for the Net Promoter Score", The American Statistician 70 (2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Z95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""

RELIABLE_RESPONSES = 30
"""From here on one or two answers no longer swing the score (rule of thumb: 25 to 30)."""


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

    @property
    def high(self) -> float:
        """The interval's high end in points; 100 without responses."""
        interval = self.interval()
        return 100.0 if interval is None else interval[2]

    def interval(self) -> tuple[float, float, float] | None:
        """Return margin, low and high of the 95 % interval in points; None without responses."""
        if not self.responses:
            return None
        n = self.responses + 3
        p, d = (self.promoters + 0.75) / n, (self.detractors + 0.75) / n
        margin = 100 * Z95 * math.sqrt((p + d - (p - d) ** 2) / n)
        centre = 100 * (p - d)
        return margin, max(-100.0, centre - margin), min(100.0, centre + margin)


def nps_of(counts: Sequence[int]) -> Nps:
    """Return the NPS of counts per category (detractors, passives, promoters)."""
    return Nps(promoters=counts[2], passives=counts[1], detractors=counts[0])


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

    @property
    def unhappy_share(self) -> float | None:
        """Share of the faces 1 and 2; None without responses."""
        return (self.counts[0] + self.counts[1]) / self.responses if self.responses else None


def mood_of(counts: Sequence[int]) -> Mood:
    """Return the mood of counts per face."""
    return Mood((counts[0], counts[1], counts[2], counts[3]))
