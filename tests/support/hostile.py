"""What nobody honest sends: values that are JSON, or nearly, in the place of any value of a good example."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import msgspec
from hypothesis import strategies as st

ABSURD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e300,
    2**63,
    10**400,
    "",
    "\0",
    "a\0b",
    "a\u2028b\u202ec",
    "x" * 100_000,
    "9" * 400,
    "0001-01-01T00:00:00+14:00",
    "0001-01-01 00:00:00",
    "9999-12-31T23:59:59.999999-14:00",
    [],
    [None],
    [[[[1]]]],
    {},
    {"": None},
)
"""As JSON has it; beside these below, which no strict writer writes."""
DEEP = "[" * 50_000 + "]" * 50_000

values = st.sampled_from(
    (
        *ABSURD,
        math.nan,
        math.inf,
        -math.inf,
        10**4_000,
        "\ud800",
        "\udfff\ud800",
        "9" * 5_000,
        "1e999",
        "0001-01-01",
        "9999-12-31",
        "1970-01-01T00:00:00+99:99",
        "P" + "9" * 400 + "D",
        "9" * 40 + "d",
        {"\ud800": "\ud800"},
        {"\0": "\0"},
    )
)
texts = st.sampled_from([one for one in ABSURD if isinstance(one, str)]) | st.text(
    alphabet=st.characters(), max_size=40
)


@st.composite
def instead(draw: st.DrawFn, example: Any) -> bytes:
    """Return an example as JSON, with something absurd in the place of one of its values, or of all of it."""
    whole = copy.deepcopy(example)
    places = list(_places(whole))
    place = draw(st.integers(-1, len(places) - 1))
    value = draw(values)
    if draw(st.integers(0, 20)) == 0:
        # No writer of ours makes what is nested so deep.
        marked = "a place for what is deep"
        if place < 0:
            return DEEP.encode()
        inside, key = places[place]
        inside[key] = marked
        return json.dumps(whole).replace(json.dumps(marked), DEEP).encode()
    if place < 0:
        return json.dumps(value).encode()
    inside, key = places[place]
    inside[key] = value
    return json.dumps(whole).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(inner):
        yield value, key
        yield from _places(one)


def can_be_kept(result: object) -> bool:
    """Tell whether PostgreSQL can hold what was read, and a message can say it."""
    msgspec.json.encode(result).decode()
    return all(_fits(one) for one in _leaves(msgspec.to_builtins(result, builtin_types=(datetime, date))))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _leaves(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(one)
    else:
        yield value


def _fits(value: object) -> bool:
    if isinstance(value, str):
        return "\0" not in value
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, datetime):
        return 1970 <= value.astimezone().year <= 9000
    return True
