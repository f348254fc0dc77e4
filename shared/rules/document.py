"""The rules of directory.yaml: what an alert is made on, and the rules of a company that writes none."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import PlainValidator, model_validator

from shared.directory import model
from shared.directory.fields import DAY, Duration, Section, Slug, Touchpoint
from shared.rules.base import OnTime
from shared.rules.conditions import Condition, read


class Rule(Section):
    """What makes an alert."""

    name: Slug
    when: Annotated[Condition, PlainValidator(read)]
    severity: model.Severity
    touchpoint: Touchpoint | None = None
    per: Literal["touchpoint"] | None = None
    audience: model.Audience = "customer"
    trust: Literal["verified", "any"] = "verified"
    max_age: Duration = DAY
    cooldown: Duration | None = None
    enabled: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.touchpoint is not None and self.per is not None:
            raise ValueError("has both touchpoint and per: touchpoint; keep one")
        if isinstance(self.when, OnTime) and "max_age" in self.model_fields_set:
            raise ValueError("max_age has no meaning for silence; remove it")
        return self


def built_in_rules() -> list[model.Rule]:
    """Return the rules of a company that writes none."""
    return [
        model.Rule("mood-one", model.MoodAtMost(1), "critical"),
        # At 0.95, asked again with each answer, it alone would use the false alarms of all where NPS is usually +20.
        model.Rule("nps-low", model.NpsBelow(0, 30 * DAY, confidence=0.999), "high"),
        model.Rule("shift", model.Shift(), "high"),
        model.Rule("silence", model.NoFeedbackFor("auto"), "low"),
        model.Rule("good-experience", model.MoodAtLeast(4, with_comment=True), "info"),
        model.Rule("follow-up", model.FollowUpAtMost(2), "high"),
    ]
