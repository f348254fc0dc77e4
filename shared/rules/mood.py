"""Rules on the mood meter's four faces, 1 (worst) to 4, in a window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from shared.directory.fields import Window
from shared.rules.base import QUIET, Counts, OnWindow, Reason, Responses, Texts, Verdict, needs_more
from shared.rules.figures import mood_of
from shared.wire.events import Kind


class _OnMood(OnWindow, frozen=True):
    harmless: ClassVar[int] = 3

    @property
    def kind(self) -> Kind | None:
        """The kind of answers that it looks at."""
        return "mood"


class MoodBelow(_OnMood, frozen=True, tag="mood_below"):
    """Mean mood of a window under the threshold."""

    threshold: Annotated[float, Field(ge=1, le=4)]
    window: Window
    min_responses: Responses = 4
    clear_margin: Annotated[float, Field(ge=0, le=3)] = 0.1
    """Above the threshold, clears the alert."""

    texts: ClassVar[Texts] = Texts(
        "Mood {mood:.2f} of 4 from {responses} answers in {window}, under {threshold:g}",
        "Tunnelma {mood:.2f}/4, {responses} vastausta {window} aikana, alle {threshold:g}",
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Find what could never fire, or never clear."""
        if self.threshold == 1:
            yield "mood_below", "mood is never under 1, so the rule could never fire"
        if self.threshold + self.clear_margin >= 4:
            yield "clear_margin", f"an alert would clear above {self.threshold + self.clear_margin:g}, which is never"

    def badness(self, counts: Counts) -> float | None:
        """Return the mean turned round, from 0 to 3."""
        average = mood_of(counts).average
        return None if average is None else 4 - average

    def is_bad(self, category: int, score: float) -> bool:
        """Tell whether a face is under the threshold."""
        return score < self.threshold

    def verdict(self, counts: Counts, before: Counts) -> Verdict:
        """Judge a window."""
        mood = mood_of(counts)
        if mood.average is None:
            return QUIET
        fires = mood.responses >= self.min_responses and mood.average < self.threshold
        return Verdict(fires, mood.average > self.threshold + self.clear_margin)

    def reason(self, counts: Counts, before: Counts) -> Reason:
        """Return the numbers of a judgement."""
        mood = mood_of(counts)
        return {
            "mood": None if mood.average is None else round(mood.average, 3),
            "responses": mood.responses,
            "threshold": self.threshold,
            "min_responses": self.min_responses,
            "window_seconds": self.window,
        }

    def nearness(self, counts: Counts, before: Counts) -> str:
        """Return why it does not fire now."""
        mood = mood_of(counts)
        if mood.responses < self.min_responses:
            return needs_more(mood.responses, self.min_responses)
        return f"mood is {mood.average:.2f}" if mood.average is not None and mood.average >= self.threshold else ""


class UnhappyShareAbove(_OnMood, frozen=True, tag="unhappy_share_above"):
    """Share of the faces 1 and 2 in a window over the threshold (0-1)."""

    threshold: Annotated[float, Field(ge=0, lt=1)]
    window: Window
    min_responses: Responses = 4
    clear_margin: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share under the threshold that clears the alert."""

    texts: ClassVar[Texts] = Texts(
        "{unhappy_share:.0%} of {responses} answers unhappy in {window}",
        "{unhappy_share:.0%} {responses} vastauksesta tyytymättömiä {window} aikana",
    )

    def badness(self, counts: Counts) -> float | None:
        """Return the share."""
        return mood_of(counts).unhappy_share

    def is_bad(self, category: int, score: float) -> bool:
        """Tell whether a face is unhappy."""
        return category <= 1

    def verdict(self, counts: Counts, before: Counts) -> Verdict:
        """Judge a window. At a threshold of 0 there is no share under it: only a window without any clears."""
        mood = mood_of(counts)
        share = mood.unhappy_share
        if share is None:
            return QUIET
        fires = mood.responses >= self.min_responses and share > self.threshold
        return Verdict(fires, share == 0 or share < self.threshold - self.clear_margin)

    def reason(self, counts: Counts, before: Counts) -> Reason:
        """Return the numbers of a judgement."""
        mood = mood_of(counts)
        share = mood.unhappy_share
        return {
            "unhappy_share": None if share is None else round(share, 3),
            "unhappy": mood.counts[0] + mood.counts[1],
            "responses": mood.responses,
            "threshold": self.threshold,
            "min_responses": self.min_responses,
            "window_seconds": self.window,
        }

    def nearness(self, counts: Counts, before: Counts) -> str:
        """Return why it does not fire now."""
        mood = mood_of(counts)
        if mood.responses < self.min_responses:
            return needs_more(mood.responses, self.min_responses)
        share = mood.unhappy_share or 0.0
        return f"{share:.0%} unhappy" if share <= self.threshold else ""
