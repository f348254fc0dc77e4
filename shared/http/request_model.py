"""What a request may say, in its body or its address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, cast

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

_ERA = range(1970, 9000)
"""Years; what is added to a moment then still is one."""


def _of_this_era(at: datetime) -> datetime:
    if at.year not in _ERA:
        raise PydanticCustomError("moment", "is not a moment of this era")
    return at.astimezone(UTC)


Moment = Annotated[AwareDatetime, AfterValidator(_of_this_era)]
"""In UTC, whatever zone it was written in."""


class RequestModel(BaseModel):
    """Fields that a request may have; any other is an error, and so is text that nothing can hold."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _can_be_kept(cls, value: object) -> object:
        for text in _texts(value):
            if "\0" in text:
                raise PydanticCustomError("nul", "has a NUL character")
            if not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text):
                raise PydanticCustomError("surrogate", "has half of a surrogate pair")
        return value


def _texts(value: object) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            named = cast("Mapping[Any, Any]", one)
            waiting += [*named.keys(), *named.values()]
        elif isinstance(one, list):
            waiting += cast("list[Any]", one)
