"""Running windows of one customer: adding an answer and moving on cost the same for a day or a year."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import NamedTuple, cast

from services.scoring.domain.counting import CATEGORIES, WIDTH, Change, DatedScore, Series, amount_of, category_of
from shared.rules.base import SUM
from shared.wire.events import Audience, Kind

Gain = tuple[int, int, float]
"""A category, how many answers it gained (or lost, below 0), and their scores if they are summed."""


class Measure(NamedTuple):
    """Whose answers to what are counted together."""

    kind: Kind
    metric: str | None
    audience: Audience


class Judged(NamedTuple):
    """What a rule looks at in a window."""

    measure: Measure
    of_touchpoint: bool
    """Each touchpoint by itself."""


_Key = tuple[Judged, str | None]


@cache
def _keys(judged: frozenset[Judged], series: Series) -> tuple[_Key, ...]:
    """Return the views that a series is part of. There are few: customers share rules and touchpoints."""
    measure = Measure(series.kind, series.metric, series.audience)
    return tuple((of, series.touchpoint if of.of_touchpoint else None) for of in judged if of.measure == measure)


class View:
    """Counts per category of what a rule looks at; `anonymous` is None while there are none."""

    __slots__ = ("all", "anonymous")

    def __init__(self, kind: Kind) -> None:
        self.all: list[float] = [0] * (WIDTH if kind == "kpi" else CATEGORIES[kind])
        self.anonymous: list[float] | None = None

    def gain(self, category: int, by: int, amount: float, *, anonymous: bool) -> None:
        """Count answers."""
        self.all[category] += by
        if amount:
            self.all[SUM] += amount
        if anonymous:
            counts = self._touched(anonymous=True)[1]
            counts[category] += by
            if amount:
                counts[SUM] += amount

    def add(self, counts: Sequence[float], sign: int, *, anonymous: bool) -> None:
        """Add whole counts (sign 1), or take them away (-1)."""
        for into in self._touched(anonymous=anonymous):
            for category in range(len(into)):
                into[category] += sign * counts[category]

    def _touched(self, *, anonymous: bool) -> tuple[list[float], ...]:
        if not anonymous:
            return (self.all,)
        counts = self.anonymous
        if counts is None:
            counts = self.anonymous = cast("list[float]", [0] * len(self.all))
        return self.all, counts

    @property
    def verified(self) -> list[float]:
        """Counts of verified answers alone."""
        if self.anonymous is None:
            return self.all
        return [count - less for count, less in zip(self.all, self.anonymous, strict=True)]


class HourWindow:
    """Counts over whole hours, of what rules look at and nothing else."""

    __slots__ = ("_views", "end", "judged", "start")

    def __init__(self, judged: frozenset[Judged], start: int, end: int | None = None) -> None:
        """`start` is the first hour inside, `end` the first after it; None: it ends now."""
        self.judged = judged
        self.start = start
        self.end = end
        self._views: dict[_Key, View] = {}

    def apply(self, series: Series, changes: Iterable[Change]) -> list[Gain]:
        """Count changes that lie inside, and return what they did to the counts."""
        gains: list[Gain] = []
        keys = _keys(self.judged, series)
        if not keys:
            return gains
        end, anonymous = self.end, series.trust == "anonymous"
        for change in changes:
            hour, until = change.hour, change.until
            if hour >= self.start and (
                until is None if end is None else hour < end and (until is None or until >= end)
            ):
                category, by, amount = change.category, change.by, change.amount
                for key in keys:
                    self._view(key).gain(category, by, amount, anonymous=anonymous)
                gains.append((category, by, amount))
        return gains

    def add(self, series: Series, counts: Sequence[float], sign: int) -> None:
        """Add the counts of hours that came in (sign 1), or take away those of hours that are now outside (-1)."""
        for key in _keys(self.judged, series):
            self._view(key).add(counts, sign, anonymous=series.trust == "anonymous")

    def view(self, measure: Measure, touchpoint: str | None, *, of_touchpoint: bool) -> View:
        """Return the counts of the customer, or of one touchpoint (None: of answers that named none)."""
        return self._view((Judged(measure, of_touchpoint), touchpoint if of_touchpoint else None))

    def _view(self, key: _Key) -> View:
        found = self._views.get(key)
        if found is None:
            found = self._views[key] = View(key[0].measure.kind)
        return found


def view_of(
    counts: Mapping[Series, Sequence[float]], measure: Measure, touchpoints: Sequence[str | None] | None
) -> View:
    """Sum up the series of a measure; `touchpoints` None means all."""
    found = View(measure.kind)
    for series, counted in counts.items():
        if Measure(series.kind, series.metric, series.audience) == measure and (
            touchpoints is None or series.touchpoint in touchpoints
        ):
            found.add(counted, 1, anonymous=series.trust == "anonymous")
    return found


class ExactWindow:
    """Counts over the last so many seconds, per series, from the stored answers."""

    __slots__ = ("_by_time", "_latest", "_since", "counts")

    def __init__(self, since: datetime) -> None:
        self._since = since
        self.counts: dict[Series, list[float]] = {}
        self._by_time: list[tuple[DatedScore, Series, str | None]] = []
        self._latest: dict[tuple[Series, str], DatedScore] = {}

    def add(self, series: Series, voter: str | None, dated: DatedScore) -> list[Gain]:
        """Count an answer, and return what that did to the counts.

        It takes the place of the voter's earlier one; one that comes late or lies outside changes nothing.
        """
        if dated.occurred_at < self._since:
            return []
        gains: list[Gain] = [_gain(series.kind, dated, 1)]
        if voter is not None:
            before = self._latest.get((series, voter))
            if before is not None:
                if dated < before:
                    return []
                gains.append(_gain(series.kind, before, -1))
            self._latest[series, voter] = dated
        self._count(series, gains)
        heapq.heappush(self._by_time, (dated, series, voter))
        return gains

    def move(self, since: datetime) -> None:
        """Drop what occurred before `since`."""
        self._since = since
        while self._by_time and self._by_time[0][0].occurred_at < since:
            dated, series, voter = heapq.heappop(self._by_time)
            if voter is not None:
                if self._latest.get((series, voter)) != dated:
                    continue  # a later answer took its place and its count
                del self._latest[series, voter]
            self._count(series, [_gain(series.kind, dated, -1)])

    def view(self, measure: Measure, touchpoint: str | None, *, of_touchpoint: bool) -> View:
        """Return the counts of the customer, or of one touchpoint."""
        return view_of(self.counts, measure, (touchpoint,) if of_touchpoint else None)

    def _count(self, series: Series, gains: Sequence[Gain]) -> None:
        counts = self.counts.setdefault(series, [0] * WIDTH)
        for category, by, amount in gains:
            counts[category] += by
            counts[SUM] += amount


def _gain(kind: Kind, dated: DatedScore, by: int) -> Gain:
    return category_of(kind, dated.score), by, by * amount_of(kind, dated.score)
