"""Rules on the customer's own key metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field, FiniteFloat

from shared.directory.fields import DeclaredMetric, Window
from shared.rules.base import QUIET, SUM, Counts, OnWindow, Reason, Responses, Texts, Verdict, needs_more
from shared.wire.events import Kind


class MetricMean(OnWindow, frozen=True, tag="metric"):
    """Mean of a key metric in a window, under or over a limit."""

    of: DeclaredMetric
    window: Window
    mean_below: FiniteFloat | None = None
    mean_above: FiniteFloat | None = None
    min_responses: Responses = 5
    clear_margin: Annotated[float, Field(ge=0)] = 0.0
    """Beyond the limit, on its good side, clears the alert; in the metric's own unit."""

    scaled: ClassVar[bool] = False
    texts: ClassVar[Texts] = Texts(
        "{metric} {mean:g} on average from {responses} answers in {window}, {side} {limit:g}",
        "{metric} keskimäärin {mean:g}, {responses} vastausta {window} aikana, raja {limit:g}",
    )

    @property
    def kind(self) -> Kind | None:
        """The kind of answers that it looks at."""
        return "kpi"

    @property
    def metric(self) -> str | None:
        """The key metric."""
        return self.of

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Find a limit that is missing, or doubled."""
        if (self.mean_below is None) == (self.mean_above is None):
            yield "metric", "needs exactly one of mean_below, mean_above"

    @property
    def _limit(self) -> float:
        limit = self.mean_above if self.mean_below is None else self.mean_below
        assert limit is not None
        return limit

    @property
    def _sign(self) -> int:
        return 1 if self.mean_below is None else -1

    def badness(self, counts: Counts) -> float | None:
        """Return the mean, turned round where less is worse."""
        return self._sign * counts[SUM] / counts[0] if counts[0] else None

    def is_bad(self, category: int, score: float) -> bool:
        """Tell whether a value is beyond the limit."""
        return self._sign * (score - self._limit) > 0

    def verdict(self, counts: Counts, before: Counts) -> Verdict:
        """Judge a window."""
        value = self.badness(counts)
        if value is None:
            return QUIET
        limit = self._sign * self._limit
        return Verdict(counts[0] >= self.min_responses and value > limit, value <= limit - self.clear_margin)

    def reason(self, counts: Counts, before: Counts) -> Reason:
        """Return the numbers of a judgement."""
        mean = counts[SUM] / counts[0] if counts[0] else None
        return {
            "metric": self.of,
            "mean": None if mean is None else float(f"{mean:.6g}"),
            "responses": int(counts[0]),
            "limit": self._limit,
            "side": "above" if self.mean_below is None else "below",
            "min_responses": self.min_responses,
            "window_seconds": self.window,
        }

    def nearness(self, counts: Counts, before: Counts) -> str:
        """Return why it does not fire now."""
        if counts[0] < self.min_responses:
            return needs_more(int(counts[0]), self.min_responses)
        if self.verdict(counts, before).fires:
            return ""
        return f"the mean is {counts[SUM] / counts[0]:g}"
