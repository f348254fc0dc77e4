"""What the rooms beside it write in the same way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from services.scoring.domain.counting import WIDTH
from shared.wire.events import AlertV1

COLUMNS = (*(f"c{n}" for n in range(1, WIDTH)), "total")


def summed(column: str) -> str:
    """Return the SQL sum of scores: what was counted before they were bounded would make it overflow, an error."""
    return f"sum(greatest(least({column}, 1e300), -1e300))"


SUMS = ", ".join((*(f"sum({name})::int" for name in COLUMNS[:-1]), summed("total")))

_encode = msgspec.json.Encoder().encode
alert_decoder = msgspec.json.Decoder(AlertV1)


def text(message: Any) -> str:
    """Return a value as JSON."""
    return _encode(message).decode()


def ints(numbers: Iterable[int]) -> str:
    """Return an array as its text: the driver asks of each element of a list whether it is a list again."""
    return f"{{{','.join(map(str, numbers))}}}"


def plain(score: float) -> float:
    """Return a whole score without its fraction."""
    return int(score) if score.is_integer() else score
