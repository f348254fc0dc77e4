"""Rules on NPS in a window."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.directory.fields import DAY, Window
from shared.rules.base import QUIET, Counts, OnWindow, Reason, Responses, Texts, Verdict, needs_more
from shared.rules.figures import Z95, adjusted_difference, nps_of, quantile
from shared.wire.events import Kind


class _OnNps(OnWindow, frozen=True):
    harmless: ClassVar[int] = 2

    @property
    def kind(self) -> Kind | None:
        """The kind of answers that it looks at."""
        return "nps"

    def badness(self, counts: Counts) -> float | None:
        """Return the NPS turned round, from 0 to 200."""
        score = nps_of(counts).score
        return None if score is None else 100 - score


def _counted(counts: Counts, z: float = Z95) -> Reason:
    nps = nps_of(counts)
    interval = nps.interval(z)
    reason: Reason = {
        "nps": None if nps.score is None else round(nps.score, 1),
        "responses": nps.responses,
        "promoters": nps.promoters,
        "passives": nps.passives,
        "detractors": nps.detractors,
    }
    if interval is not None:
        reason |= {"low": round(interval[1], 1), "high": round(interval[2], 1)}
    return reason


class NpsBelow(_OnNps, frozen=True, tag="nps_below"):
    """NPS of a window under the threshold: by the interval's high end (strict) or by the score (simple)."""

    threshold: Annotated[float, Field(ge=-100, le=100)]
    window: Window
    min_responses: Responses = 10
    certainty: Literal["strict", "simple"] = "strict"
    clear_margin: Annotated[float, Field(ge=0, le=200)] = 5.0
    """Points above the threshold that clear the alert."""
    confidence: Annotated[float, Field(ge=0.5, le=0.999999)] = 0.95
    """Of the interval, two-sided. The rule asks again with each answer, so that 0.95 is wrong far oftener than that."""

    texts: ClassVar[Texts] = Texts(
        "NPS {nps:+z.0f} from {responses} answers in {window}, under {threshold:g}",
        "NPS {nps:+z.0f}, {responses} vastausta {window} aikana, alle {threshold:g}",
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Find what could never fire, or never clear."""
        if self.threshold == -100:
            yield "nps_below", "NPS is never under -100, so the rule could never fire"
        if self.threshold + self.clear_margin >= 100:
            yield "clear_margin", f"an alert would clear above {self.threshold + self.clear_margin:g}, which is never"
        if self.certainty == "simple" and self.confidence != 0.95:
            yield "confidence", "has no meaning with certainty: simple, which looks at the score alone"

    def verdict(self, counts: Counts, before: Counts) -> Verdict:
        """Judge a window."""
        detractors, passives, promoters = counts[:3]
        responses = detractors + passives + promoters
        if not responses:
            return QUIET
        value = 100 * (promoters - detractors) / responses
        clear = self.threshold + self.clear_margin
        if self.certainty == "strict" and value <= clear:  # of most customers the interval is not needed
            # Of very few answers the adjusted interval can end below the score.
            value = max(value, nps_of(counts).high(quantile(self.confidence)))
        return Verdict(responses >= self.min_responses and value < self.threshold, value > clear)

    def reason(self, counts: Counts, before: Counts) -> Reason:
        """Return the numbers of a judgement."""
        return {
            **_counted(counts, quantile(self.confidence)),
            "threshold": self.threshold,
            "certainty": self.certainty,
            "confidence": self.confidence,
            "min_responses": self.min_responses,
            "window_seconds": self.window,
        }

    def nearness(self, counts: Counts, before: Counts) -> str:
        """Return why it does not fire now."""
        nps = nps_of(counts)
        if nps.responses < self.min_responses:
            return needs_more(nps.responses, self.min_responses)
        if nps.score is not None and nps.score >= self.threshold:
            return f"NPS is {nps.score:+.0f}"
        high = nps.high(quantile(self.confidence))
        return f"interval reaches {high:+.0f}" if self.certainty == "strict" and high >= self.threshold else ""


class NpsDrop(_OnNps, frozen=True, tag="nps_drop"):
    """NPS of a window that much lower than of the window before it, and the difference is significant."""

    points: Annotated[float, Field(gt=0, le=200)]
    window: Window
    confidence: Annotated[float, Field(ge=0.5, le=0.999999)] = 0.95
    """Two-sided."""
    min_responses: Responses = 15
    """In each of the windows."""
    clear_margin: Annotated[float, Field(ge=0, le=200)] = 5.0
    """The alert clears when the drop is so much smaller than `points`."""

    compares: ClassVar[bool] = True
    texts: ClassVar[Texts] = Texts(
        "NPS fell by {drop:.0f} to {nps:+z.0f} within {window} ({responses} answers, {responses_before} before)",
        "NPS laski {drop:.0f}, nyt {nps:+z.0f}, {window} aikana ({responses} vastausta, aiemmin {responses_before})",
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Find what could never fire, or is not kept."""
        if self.window < DAY:
            yield "window", "must be at least 1d, since the window before it is kept in whole hours"
        if self.window > 200 * DAY:
            yield "window", "must be at most 200d, so that it and the window before it fit into 400d"
        if self.clear_margin >= self.points:
            yield "clear_margin", f"must be under {self.points:g}, or an alert would clear only once NPS has risen"

    def verdict(self, counts: Counts, before: Counts) -> Verdict:
        """Judge a window against the one before it."""
        now, then = nps_of(counts), nps_of(before)
        if now.score is None or then.score is None:
            return QUIET
        drop = then.score - now.score
        enough = min(now.responses, then.responses) >= self.min_responses
        fires = enough and drop >= self.points and self._z(counts, before) > quantile(self.confidence)
        return Verdict(fires, drop < self.points - self.clear_margin)

    def _z(self, counts: Counts, before: Counts) -> float:
        difference, error = adjusted_difference(nps_of(before), nps_of(counts))
        return difference / error

    def reason(self, counts: Counts, before: Counts) -> Reason:
        """Return the numbers of a judgement."""
        now, then = nps_of(counts), nps_of(before)
        drop = None if now.score is None or then.score is None else then.score - now.score
        return {
            **_counted(counts),
            "nps_before": None if then.score is None else round(then.score, 1),
            "responses_before": then.responses,
            "drop": None if drop is None else round(drop, 1),
            "z": None if drop is None else round(self._z(counts, before), 2),
            "z_needed": round(quantile(self.confidence), 2),
            "points": self.points,
            "confidence": self.confidence,
            "min_responses": self.min_responses,
            "window_seconds": self.window,
        }

    def is_known(self, reason: Reason) -> bool:
        """Tell whether there were answers to compare."""
        return reason.get("drop") is not None

    def nearness(self, counts: Counts, before: Counts) -> str:
        """Return why it does not fire now."""
        now, then = nps_of(counts), nps_of(before)
        if then.responses < self.min_responses:
            return f"the window before {needs_more(then.responses, self.min_responses)}"
        if now.responses < self.min_responses:
            return needs_more(now.responses, self.min_responses)
        assert now.score is not None
        assert then.score is not None
        drop = then.score - now.score
        if drop < self.points:
            return f"NPS is {abs(drop):.0f} {'lower' if drop > 0 else 'higher'} than in the window before"
        z = self._z(counts, before)
        return f"the drop of {drop:.0f} is not significant (z {z:.2f})" if z <= quantile(self.confidence) else ""


class DetractorsAtLeast(_OnNps, frozen=True, tag="detractors_at_least"):
    """A count of detractors in a window, for small customers."""

    threshold: Annotated[int, Field(ge=1, le=1_000_000)]
    window: Window

    texts: ClassVar[Texts] = Texts(
        "{detractors} detractors in {window}, of {responses} answers",
        "{detractors} arvostelijaa {window} aikana, {responses} vastauksesta",
    )

    def badness(self, counts: Counts) -> float | None:
        """Return the detractors."""
        return counts[0]

    def is_bad(self, category: int, score: float) -> bool:
        """Only one more detractor makes the count worse."""
        return False

    def verdict(self, counts: Counts, before: Counts) -> Verdict:
        """Judge a window."""
        return Verdict(counts[0] >= self.threshold, counts[0] < self.threshold)

    def reason(self, counts: Counts, before: Counts) -> Reason:
        """Return the numbers of a judgement."""
        return {**_counted(counts), "threshold": self.threshold, "window_seconds": self.window}

    def nearness(self, counts: Counts, before: Counts) -> str:
        """Return why it does not fire now."""
        missing = math.ceil(self.threshold - counts[0])
        return f"needs {missing} more detractor{'' if missing == 1 else 's'}" if missing > 0 else ""
