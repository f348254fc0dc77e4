"""Rules on a single answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.rules.base import OnAnswer, Reason, Texts
from shared.wire.events import RATINGS, FeedbackReceivedV1, Kind


class MoodAtMost(OnAnswer, frozen=True, tag="mood_at_most"):
    """One mood answer at or under the threshold."""

    threshold: Annotated[int, Field(ge=1, le=4)]

    texts: ClassVar[Texts] = Texts("Mood {score} of 4", "Tunnelma {score}/4")

    @property
    def kind(self) -> Kind | None:
        """The kind of answers that it looks at."""
        return "mood"

    def fires(self, answer: FeedbackReceivedV1) -> bool:
        """Judge an answer."""
        return answer.score <= self.threshold


class ScoreAtMost(OnAnswer, frozen=True, tag="score_at_most"):
    """One answer of another kind at or under the threshold."""

    threshold: Annotated[int, Field(ge=0, le=10)]
    of: Annotated[Literal["nps", "mood", "csat", "ces"], Field(alias="kind")]

    texts: ClassVar[Texts] = Texts("{kind} {score} of {highest}", "{kind} {score}/{highest}")

    @property
    def kind(self) -> Kind | None:
        """The kind of answers that it looks at."""
        return self.of

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Find a score that the kind does not have."""
        low, high = RATINGS[self.of]
        if not low <= self.threshold < high:
            yield "score_at_most", f"must be from {low} to {high - 1} for kind {self.of}, not {self.threshold}"

    def fires(self, answer: FeedbackReceivedV1) -> bool:
        """Judge an answer."""
        return answer.score <= self.threshold

    def reason(self, answer: FeedbackReceivedV1) -> Reason:
        """Return the numbers of that judgement."""
        named = {"nps": "NPS", "mood": "Mood", "csat": "CSAT", "ces": "CES"}[self.of]
        return {"score": answer.score, "threshold": self.threshold, "kind": named, "highest": RATINGS[self.of][1]}


class MoodAtLeast(OnAnswer, frozen=True, tag="mood_at_least"):
    """A good experience worth sharing: one happy face, perhaps only with a comment."""

    threshold: Annotated[int, Field(ge=1, le=4)]
    with_comment: bool = False

    texts: ClassVar[Texts] = Texts("A good experience: mood {score} of 4", "Hyvä kokemus: tunnelma {score}/4")

    @property
    def kind(self) -> Kind | None:
        """The kind of answers that it looks at."""
        return "mood"

    def fires(self, answer: FeedbackReceivedV1) -> bool:
        """Judge an answer."""
        return answer.score >= self.threshold and (answer.comment is not None or not self.with_comment)


class FollowUpAtMost(OnAnswer, frozen=True, tag="follow_up_at_most"):
    """Somebody who was asked whether it was put right says no, by mood or CSAT: the ticket of that problem reopens."""

    threshold: Annotated[int, Field(ge=1, le=4)]

    texts: ClassVar[Texts] = Texts(
        "Not put right: {score} in the follow-up", "Asia ei korjaantunut: jälkikyselyssä {score}"
    )

    @property
    def kind(self) -> Kind | None:
        """The kind of answers that it looks at."""
        return None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Every kind of answers that it looks at."""
        return ("mood", "csat")

    def fires(self, answer: FeedbackReceivedV1) -> bool:
        """Judge an answer."""
        return answer.follow_up is not None and answer.kind in self.kinds and answer.score <= self.threshold
