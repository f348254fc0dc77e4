"""Detractors, passives and promoters: their counts in one integer, their shares, and how far apart two of those are.

The sources are named in `shift`, which is what this is for.
"""

from __future__ import annotations

import math

_BITS = 21
_MASK = (1 << _BITS) - 1
UNITS = (1, 1 << _BITS, 1 << 2 * _BITS)
"""Counts per category are packed into one integer that fits 64 bits: one addition an answer, and a snapshot is an
assignment."""
MANY = 1 << _BITS - 2
"""A baseline with so many answers in a category is halved: it knows enough, and there is room for what follows."""


def unpack(counts: int) -> tuple[int, int, int]:
    """Return detractors, passives, promoters."""
    return counts & _MASK, counts >> _BITS & _MASK, counts >> 2 * _BITS


def total(counts: int) -> int:
    """Return how many answers the counts are."""
    return (counts & _MASK) + (counts >> _BITS & _MASK) + (counts >> 2 * _BITS)


def pack(counts: tuple[int, int, int] | list[int]) -> int:
    """Return the counts as one integer."""
    return counts[0] + (counts[1] << _BITS) + (counts[2] << 2 * _BITS)


def halved(counts: int) -> int:
    """Return half of each count, rounded up."""
    return pack([(count + 1) // 2 for count in unpack(counts)])


def less(counts: int, part: int) -> int:
    """Return the counts without a part of them, at least 0 each."""
    return pack([max(0, left - right) for left, right in zip(unpack(counts), unpack(part), strict=True)])


def nps(counts: int) -> float | None:
    """Return the NPS in points, None without answers."""
    detractors, passives, promoters = unpack(counts)
    answers = detractors + passives + promoters
    return 100 * (promoters - detractors) / answers if answers else None


def shares_of(counts: int, prior: tuple[float, float, float], strength: float) -> tuple[float, float, float]:
    """Return the posterior mean of the shares; the prior weighs as much as `strength` answers."""
    detractors, passives, promoters = counts & _MASK, counts >> _BITS & _MASK, counts >> 2 * _BITS
    answers = detractors + passives + promoters + strength
    return (
        (detractors + strength * prior[0]) / answers,
        (passives + strength * prior[1]) / answers,
        (promoters + strength * prior[2]) / answers,
    )


def normaliser(shares: tuple[float, float, float], theta: float) -> float:
    """Return Z, the sum of the tilted shares."""
    return shares[0] * math.exp(theta) + shares[1] + shares[2] * math.exp(-theta)


def tilt_between(before: tuple[float, float, float], nps: float) -> float:
    """Return the theta that tilts shares to an NPS in points, 0 to 3, by bisection."""
    low, high = 0.0, 3.0
    for _ in range(20):
        theta = (low + high) / 2
        worse, better = before[0] * math.exp(theta), before[2] * math.exp(-theta)
        if 100 * (better - worse) / (worse + before[1] + better) > nps:
            low = theta
        else:
            high = theta
    return low
