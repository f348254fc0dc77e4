"""SQL of the audit: only ever appended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from shared.database.pool import Connection
from shared.http.cursor import Place
from shared.runtime.audit import Actor
from shared.wire.events import AuditV1
from shared.wire.ids import uuid7

SYSTEM = Actor("fiilis")
_OURS = "notify"

_ADD = """
INSERT INTO audit (id, at, service, actor, address, what, page, customer, detail)
SELECT * FROM unnest(
    $1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::uuid[], $8::text[], $9::text[]
)
ON CONFLICT (id) DO NOTHING
"""
_COLUMNS = "id, at, service, actor, address, what, page, customer, detail"
_OF_PAGE = f"SELECT {_COLUMNS} FROM audit WHERE page = $1 ORDER BY at DESC, id DESC LIMIT 1000"
_LIST = f"""
SELECT {_COLUMNS} FROM audit
WHERE ($1::text[] IS NULL OR customer = ANY($1)) AND ($2::text IS NULL OR what = $2)
    AND ($3::text IS NULL OR actor = $3) AND ($4::timestamptz IS NULL OR at >= $4)
    AND ($5::timestamptz IS NULL OR (at, id) < ($5, $6::uuid))
ORDER BY at DESC, id DESC LIMIT $7
"""
_FORGET = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 ORDER BY at LIMIT $2)"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened."""

    id: UUID
    at: datetime
    service: str
    """Where it happened."""
    actor: str
    """A person, `key:ID`, `command:USER`, a channel, `fiilis`, or `unknown`."""
    address: str | None
    """From where, if somebody came from somewhere."""
    what: str
    page: UUID | None = None
    customer: str | None = None
    detail: dict[str, Any] = {}


def line(
    at: datetime,
    by: Actor | str,
    what: str,
    *,
    id: UUID | None = None,
    page: UUID | None = None,
    customer: str | None = None,
    **detail: Any,
) -> Line:
    """Return a line of notify; what is None of `detail` is left out. `id`: where the same may be told twice."""
    told = {key: value for key, value in detail.items() if value is not None}
    actor = Actor(by) if isinstance(by, str) else by
    return Line(
        id=id or uuid7(),
        at=at,
        service=_OURS,
        actor=actor.id,
        address=actor.address,
        what=what,
        page=page,
        customer=customer,
        detail=told,
    )


def told(line: AuditV1) -> Line:
    """Return a line that another service tells, as it can be stored."""
    return Line(
        id=line.id,
        at=line.at,
        service=line.service,
        actor=line.actor,
        address=line.address,
        what=line.what,
        customer=line.customer,
        detail=line.detail,
    )


async def add(tx: Connection, lines: Sequence[Line]) -> None:
    """Append lines; one that is there already stays as it is."""
    if lines:
        await tx.execute(
            _ADD,
            [one.id for one in lines],
            [one.at for one in lines],
            [one.service for one in lines],
            [one.actor for one in lines],
            [one.address for one in lines],
            [one.what for one in lines],
            [one.page for one in lines],
            [one.customer for one in lines],
            [msgspec.json.encode(one.detail).decode() for one in lines],
        )


async def of_page(tx: Connection, page: UUID) -> list[Line]:
    """Return what happened to a page, oldest first: the newest 1,000 lines."""
    return [_line(row) for row in await tx.fetch(_OF_PAGE, page)][::-1]


async def listed(
    tx: Connection,
    *,
    customers: Sequence[str] | None,
    what: str | None = None,
    who: str | None = None,
    since: datetime | None = None,
    after: Place | None,
    limit: int,
) -> list[Line]:
    """Return lines, newest first."""
    at, id_ = after or (None, None)
    return [_line(row) for row in await tx.fetch(_LIST, customers, what, who, since, at, id_, limit)]


async def forget(tx: Connection, before: datetime, limit: int) -> None:
    """Delete what is older than the directory keeps, some at a time."""
    await tx.execute(_FORGET, before, limit)


def _line(row: Any) -> Line:
    id_, at, service, actor, address, what, page, customer, detail = row
    return Line(
        id=UUID(int=id_.int),
        at=at,
        service=service,
        actor=actor,
        address=address,
        what=what,
        page=None if page is None else UUID(int=page.int),
        customer=customer,
        detail=msgspec.json.decode(detail),
    )
