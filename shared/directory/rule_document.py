"""The rules of directory.yaml: what an alert is made on.

A new rule type is one small class here and its name in `Condition` and `RULE_TYPES`, one in model.py, and its judgement
in scoring's rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self, cast

from pydantic import Field, PlainValidator, model_validator

from shared.directory import model
from shared.directory.fields import DAY, Duration, Section, Slug, Touchpoint, Window


class MoodAtMost(Section):
    """One mood answer at or under the threshold."""

    mood_at_most: Annotated[int, Field(ge=1, le=4)]

    def fact(self) -> model.Condition:
        """Return the condition as the services hold it."""
        return model.MoodAtMost(self.mood_at_most)


class NpsBelow(Section):
    """NPS of a window under the threshold."""

    nps_below: Annotated[float, Field(ge=-100, le=100)]
    window: Window
    min_responses: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    certainty: Literal["strict", "simple"] = "strict"
    clear_margin: Annotated[float, Field(ge=0, le=200)] = 5.0

    def fact(self) -> model.Condition:
        """Return the condition as the services hold it."""
        return model.NpsBelow(self.nps_below, self.window, self.min_responses, self.certainty, self.clear_margin)


class UnhappyShareAbove(Section):
    """Share of unhappy mood answers in a window over the threshold."""

    unhappy_share_above: Annotated[float, Field(ge=0, lt=1)]
    window: Window
    min_responses: Annotated[int, Field(ge=1, le=1_000_000)] = 4
    clear_margin: Annotated[float, Field(ge=0, le=1)] = 0.05

    def fact(self) -> model.Condition:
        """Return the condition as the services hold it."""
        return model.UnhappyShareAbove(self.unhappy_share_above, self.window, self.min_responses, self.clear_margin)


Condition = MoodAtMost | NpsBelow | UnhappyShareAbove

RULE_TYPES: dict[str, type[Condition]] = {
    next(iter(kind.model_fields)): kind for kind in (MoodAtMost, NpsBelow, UnhappyShareAbove)
}
"""By the first field of each: the word under `when` that says which rule it is."""


def rule_type(when: Mapping[str, object]) -> str | None:
    """Return the word that says which rule this is, or None."""
    return next((word for word in when if word in RULE_TYPES), None)


def _condition(value: object) -> Condition:
    when = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    kind = rule_type(when)
    if kind is None:
        raise ValueError(f"unknown rule: {', '.join(when) or value}; known are {', '.join(RULE_TYPES)}")
    return RULE_TYPES[kind].model_validate(when)


class Rule(Section):
    """What makes an alert."""

    name: Slug
    when: Annotated[Condition, PlainValidator(_condition)]
    severity: model.Severity
    touchpoint: Touchpoint | None = None
    per: Literal["touchpoint"] | None = None
    audience: model.Audience = "customer"
    trust: Literal["verified", "any"] = "verified"
    max_age: Duration = DAY
    cooldown: Duration | None = None
    enabled: bool = True

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.touchpoint is not None and self.per is not None:
            raise ValueError("has both touchpoint and per: touchpoint; keep one")
        return self


def built_in_rules() -> list[Rule]:
    """Return the rules of a company that writes none."""
    low = {"nps_below": 0.0, "window": "30d", "min_responses": 10, "certainty": "strict"}
    return [
        Rule.model_validate({"name": "mood-one", "when": {"mood_at_most": 1}, "severity": "critical"}),
        Rule.model_validate({"name": "nps-low", "when": low, "severity": "high"}),
    ]
