"""Scores day by day: what the window that ended with each UTC day says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import NamedTuple

from services.scoring.domain.counting import DAY, WIDTH, Series
from services.scoring.domain.report import Counts, metric_scores, mood_score, nps_score, touchpoint_scores
from shared.directory.model import Customer
from shared.wire.events import Audience, MetricPointV1, ScoreDailyV1


class Counted(NamedTuple):
    """Answers of one day in one series."""

    day: int
    """Whole UTC days since 1970."""
    until: int | None
    """The day on which they were replaced: they count in windows that ended before it. None: they count in all."""
    series: Series
    counts: Sequence[float]


def day_of(at: datetime) -> int:
    """Return the whole UTC days since 1970."""
    return int(at.timestamp()) // DAY


def day_name(day: int) -> str:
    """Return a day such as 2026-11-21."""
    return datetime.fromtimestamp(day * DAY, UTC).date().isoformat()


def daily(
    known: Customer,
    better: Mapping[str, str],
    counts: Counts,
    day: int,
    *,
    audience: Audience = "customer",
    touchpoints: Sequence[str | None] | None = None,
    goals: Mapping[str, float] | None = None,
) -> ScoreDailyV1:
    """Return where a customer stood when a day ended. `counts`: of the window until then."""
    goals = known.goals if goals is None else goals
    nps = nps_score(counts, audience, touchpoints, goals.get("nps"))
    mood = mood_score(counts, audience, touchpoints, goals.get("mood"))
    metrics = metric_scores(counts, audience, touchpoints, goals, better)
    places = touchpoint_scores(counts, audience, known, better)
    weakest = next((p.touchpoint for p in places if p.touchpoint is not None), None) if len(places) > 1 else None
    return ScoreDailyV1(
        customer=known.id,
        day=day_name(day),
        nps=nps.score,
        nps_responses=nps.responses,
        nps_goal=nps.goal,
        nps_gap=nps.gap,
        mood=mood.average,
        mood_responses=mood.responses,
        mood_goal=mood.goal,
        mood_gap=mood.gap,
        metrics={
            name: MetricPointV1(mean=score.mean, responses=score.responses, goal=score.goal, gap=score.gap)
            for name, score in metrics.items()
        },
        weakest=weakest,
    )


def windows(counted: Iterable[Counted], first: int, last: int, length: int) -> list[dict[Series, list[float]]]:
    """Return the counts per series of the window of `length` days that ended with each day from first to last.

    Each day's answers come into the window with it and leave `length` days later, or when they were replaced: one
    addition and one subtraction, however long the window is.
    """
    days = last - first + 1
    steps: dict[Series, list[list[float]]] = {}
    for day, until, series, counts in counted:
        start = max(day, first)
        after = min(day + length, last + 1) if until is None else min(day + length, last + 1, until)
        if start >= after:
            continue
        of = steps.setdefault(series, [[0] * (days + 1) for _ in range(WIDTH)])
        for category, count in enumerate(counts):
            if count:
                of[category][start - first] += count
                of[category][after - first] -= count
    found: list[dict[Series, list[float]]] = [{} for _ in range(days)]
    for series, categories in steps.items():
        sums = [list(accumulate(category)) for category in categories]
        for day in range(days):
            found[day][series] = [category[day] for category in sums]
    return found
