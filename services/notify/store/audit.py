"""SQL of the audit: only ever appended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from shared.cursor import Place
from shared.db import Connection
from shared.ids import uuid7

SYSTEM = "fiilis"

_ADD = """
INSERT INTO audit (id, at, actor, what, page, customer, detail)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::text[])
"""
_OF_PAGE = (
    "SELECT id, at, actor, what, page, customer, detail FROM audit WHERE page = $1 ORDER BY at DESC, id DESC LIMIT 1000"
)
_LIST = """
SELECT id, at, actor, what, page, customer, detail FROM audit
WHERE ($1::text[] IS NULL OR customer = ANY($1)) AND ($2::text IS NULL OR what = $2)
    AND ($3::timestamptz IS NULL OR (at, id) < ($3, $4::uuid))
ORDER BY at DESC, id DESC LIMIT $5
"""
_FORGET = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 ORDER BY at LIMIT $2)"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened."""

    id: UUID
    at: datetime
    actor: str
    """A person, `key:ID`, a channel, or `fiilis`."""
    what: str
    page: UUID | None = None
    customer: str | None = None
    detail: dict[str, Any] = {}


def line(
    at: datetime, actor: str, what: str, *, page: UUID | None = None, customer: str | None = None, **detail: Any
) -> Line:
    """Return a line; what is None of `detail` is left out."""
    told = {key: value for key, value in detail.items() if value is not None}
    return Line(id=uuid7(), at=at, actor=actor, what=what, page=page, customer=customer, detail=told)


async def add(tx: Connection, lines: Sequence[Line]) -> None:
    """Append lines."""
    if lines:
        await tx.execute(
            _ADD,
            [one.id for one in lines],
            [one.at for one in lines],
            [one.actor for one in lines],
            [one.what for one in lines],
            [one.page for one in lines],
            [one.customer for one in lines],
            [msgspec.json.encode(one.detail).decode() for one in lines],
        )


async def of_page(tx: Connection, page: UUID) -> list[Line]:
    """Return what happened to a page, oldest first: the newest 1,000 lines."""
    return [_line(row) for row in await tx.fetch(_OF_PAGE, page)][::-1]


async def listed(
    tx: Connection, *, customers: Sequence[str] | None, what: str | None, after: Place | None, limit: int
) -> list[Line]:
    """Return lines, newest first."""
    at, id_ = after or (None, None)
    return [_line(row) for row in await tx.fetch(_LIST, customers, what, at, id_, limit)]


async def forget(tx: Connection, before: datetime, limit: int) -> None:
    """Delete what is older than the directory keeps, some at a time."""
    await tx.execute(_FORGET, before, limit)


def _line(row: Any) -> Line:
    id_, at, actor, what, page, customer, detail = row
    return Line(
        id=UUID(int=id_.int),
        at=at,
        actor=actor,
        what=what,
        page=None if page is None else UUID(int=page.int),
        customer=customer,
        detail=msgspec.json.decode(detail),
    )
