"""Lists of the HTTP interface: limit, cursor, and the shape of a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import Field

from shared.http import cursor
from shared.http.cursor import Place
from shared.http.request_model import RequestModel

T = TypeVar("T")


class ListQuery(RequestModel):
    """What every list can be asked."""

    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = Field(default=None, max_length=200)

    def after(self) -> Place | None:
        """Return the place after which the page starts. Raises the 422 that names the cursor."""
        return None if self.cursor is None else cursor.decode(self.cursor)


def page_of(found: Sequence[T], limit: int, place: Callable[[T], Place]) -> dict[str, Any]:
    """Return the contract's page of a list that was asked for one item more than `limit`."""
    items = found[:limit]
    more = len(found) > limit
    return {"items": list(items), "next": cursor.encode(place(items[-1])) if more else None}
