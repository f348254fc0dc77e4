"""Which types of rules there are, and how one is read from directory.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast, get_args, get_type_hints

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from shared.rules.metric import MetricMean
from shared.rules.mood import MoodBelow, UnhappyShareAbove
from shared.rules.nps import DetractorsAtLeast, NpsBelow, NpsDrop
from shared.rules.sequence import NoFeedbackFor, Shift
from shared.rules.single import FollowUpAtMost, MoodAtLeast, MoodAtMost, ScoreAtMost

Condition = (
    MoodAtMost
    | NpsBelow
    | NpsDrop
    | MoodBelow
    | UnhappyShareAbove
    | DetractorsAtLeast
    | ScoreAtMost
    | MetricMean
    | NoFeedbackFor
    | Shift
    | MoodAtLeast
    | FollowUpAtMost
)

CONDITIONS: Mapping[str, type[Condition]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Condition)}
"""By the word under `when` that says which rule it is."""


def rule_type(when: Mapping[str, object]) -> str | None:
    """Return the word that says which rule this is, or None."""
    return next((word for word in when if word in CONDITIONS), None)


@cache
def document_of(word: str) -> type[BaseModel]:
    """Return how a type is written in directory.yaml: its fields and limits, the first one under the type's word."""
    kind = CONDITIONS[word]
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {}
    for place, field in enumerate(msgspec.structs.fields(kind)):
        default: object = ... if field.required else field.default
        alias = word if place == 0 and word != "shift" else _alias(hints[field.name])
        fields[field.name] = (hints[field.name], Field(default, alias=alias) if alias else default)
    config = ConfigDict(extra="forbid", strict=True, frozen=True)
    return create_model(kind.__name__, __config__=config, **fields)


def _alias(hint: Any) -> str | None:
    return next((m.alias for m in getattr(hint, "__metadata__", ()) if isinstance(m, FieldInfo) and m.alias), None)


def parameters(word: str) -> list[str]:
    """Return the fields that a type takes beside its first one."""
    names = [field.alias or name for name, field in document_of(word).model_fields.items()]
    return names if word == "shift" else names[1:]


def _inside(word: str, wrong: ErrorDetails) -> InitErrorDetails:
    ctx = wrong.get("ctx", {})
    return {"type": wrong["type"], "loc": (word, *wrong["loc"]), "input": wrong["input"], "ctx": ctx}


def written(condition: Condition) -> dict[str, object]:
    """Return the fields of a condition by the names that directory.yaml has for them."""
    names = {name: field.alias or name for name, field in document_of(condition.word).model_fields.items()}
    return {names[name]: getattr(condition, name) for name in condition.__struct_fields__}


def read(value: object, info: ValidationInfo) -> Condition:
    """Read what stands under `when`. Raises ValueError, or ValidationError with the fields that are wrong."""
    when = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    word = rule_type(when)
    if word is None:
        raise ValueError(f"unknown rule: {', '.join(when) or value}; known are {', '.join(CONDITIONS)}")
    written = when
    if word == "shift":
        inner = when[word]
        if not isinstance(inner, dict) or len(when) > 1:
            raise ValueError("shift takes a mapping such as {false_alarms_per_year: 0.1}, and nothing beside it")
        written = cast("dict[str, object]", inner)
    try:
        checked = document_of(word).model_validate(written, context=info.context)
    except ValidationError as error:
        if word != "shift":
            raise
        raise ValidationError.from_exception_data("shift", [_inside(word, wrong) for wrong in error.errors()]) from None
    condition = CONDITIONS[word](**{name: getattr(checked, name) for name in document_of(word).model_fields})
    wrong: list[InitErrorDetails] = [
        {"type": PydanticCustomError("rule", "{why}", {"why": why}), "loc": (field,), "input": written.get(field)}
        for field, why in condition.contradictions()
    ]
    if wrong:
        raise ValidationError.from_exception_data(word, wrong)
    return condition
