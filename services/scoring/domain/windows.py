"""Running windows of one customer: adding an answer and moving on cost the same for a day or a year."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from services.scoring.domain.counting import CATEGORIES, WIDTH, Change, Said, Series, category_of
from services.scoring.domain.decide import Tally
from shared.events import Audience, Kind

Gain = tuple[int, int]
"""A category and how many answers it gained (or lost, below 0)."""


def tally(
    counts: Mapping[Series, Sequence[int]], *, kind: Kind, audience: Audience, touchpoints: Sequence[str | None] | None
) -> Tally:
    """Sum the series of a kind and audience; `touchpoints` None means all."""
    width = CATEGORIES[kind]
    verified, anonymous = [0] * width, [0] * width
    for (touchpoint, of_audience, of_kind, trust), counted in counts.items():
        if of_kind == kind and of_audience == audience and (touchpoints is None or touchpoint in touchpoints):
            into = verified if trust == "verified" else anonymous
            for category in range(width):
                into[category] += counted[category]
    return Tally(verified, anonymous)


class HourWindow:
    """Counts over whole hours up to now, per series."""

    __slots__ = ("counts", "start")

    def __init__(self, start: int, counts: dict[Series, list[int]]) -> None:
        """`start` is the first hour inside; `counts` are per category."""
        self.start = start
        self.counts = counts

    def apply(self, series: Series, changes: Iterable[Change]) -> list[Gain]:
        """Count changes whose hour is inside, and return what they did to the counts."""
        counts = self.counts.get(series)
        if counts is None:
            counts = self.counts[series] = [0] * WIDTH
        gains: list[Gain] = []
        for hour, category, by in changes:
            if hour >= self.start:
                counts[category] += by
                gains.append((category, by))
        return gains

    def add(self, series: Series, counts: Sequence[int], sign: int) -> None:
        """Add the counts of hours that came in (sign 1), or take away those of hours that are now outside (-1)."""
        into = self.counts[series]
        for category, count in enumerate(counts):
            into[category] += sign * count


class ExactWindow:
    """Counts over the last so many seconds, per series, from the stored answers."""

    __slots__ = ("_by_time", "_latest", "_since", "counts")

    def __init__(self, since: datetime) -> None:
        self._since = since
        self.counts: dict[Series, list[int]] = {}
        self._by_time: list[tuple[Said, Series, str | None]] = []
        self._latest: dict[tuple[Series, str], Said] = {}

    def add(self, series: Series, respondent: str | None, said: Said) -> list[Gain]:
        """Count an answer, and return what that did to the counts.

        It takes the place of the respondent's earlier one; one that comes late or lies outside changes nothing.
        """
        category = category_of(series.kind, said.score)
        if category is None or said.occurred_at < self._since:
            return []
        counts = self.counts.setdefault(series, [0] * WIDTH)
        gains: list[Gain] = [(category, 1)]
        if respondent is not None:
            before = self._latest.get((series, respondent))
            if before is not None:
                if said < before:
                    return []
                old = category_of(series.kind, before.score)
                assert old is not None
                counts[old] -= 1
                gains.append((old, -1))
            self._latest[series, respondent] = said
        counts[category] += 1
        heapq.heappush(self._by_time, (said, series, respondent))
        return gains

    def move(self, since: datetime) -> None:
        """Drop what occurred before `since`."""
        self._since = since
        while self._by_time and self._by_time[0][0].occurred_at < since:
            said, series, respondent = heapq.heappop(self._by_time)
            if respondent is not None:
                if self._latest.get((series, respondent)) != said:
                    continue  # a later answer took its place and its count
                del self._latest[series, respondent]
            category = category_of(series.kind, said.score)
            assert category is not None
            self.counts[series][category] -= 1
