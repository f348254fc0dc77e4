"""SQL of the signs of life that sources of feedback give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.database.pool import Connection
from shared.runtime.quarantine import not_held

QUEUE = "heartbeats"
"""Where a source is set aside whose silence cannot be paged."""

_COLUMNS = "name, beaten_at, due_at, silences, page"
_PLAN = """
INSERT INTO heartbeat (name, due_at) SELECT * FROM unnest($1::text[], $2::timestamptz[]) ON CONFLICT (name) DO NOTHING
"""
_UNPLAN = "DELETE FROM heartbeat WHERE name <> ALL($1::text[]) RETURNING page"
_BEAT = """
UPDATE heartbeat SET beaten_at = $2, due_at = $3, page = NULL
FROM (SELECT name, page FROM heartbeat WHERE name = $1 FOR UPDATE) AS before
WHERE heartbeat.name = before.name
RETURNING heartbeat.name, heartbeat.beaten_at, heartbeat.due_at, heartbeat.silences, before.page
"""
_DUE = f"""
SELECT {_COLUMNS} FROM heartbeat
WHERE due_at <= $1 AND page IS NULL AND {not_held(QUEUE, "heartbeat.name")}
ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_SILENT = """
UPDATE heartbeat SET silences = silences + 1, page = new.page FROM unnest($1::text[], $2::uuid[]) AS new(name, page)
WHERE heartbeat.name = new.name
"""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Where a source stands."""

    name: str
    beaten_at: datetime | None
    due_at: datetime
    silences: int
    """How often it fell silent."""
    page: UUID | None
    """The page of the present silence."""


async def plan(tx: Connection, due: Mapping[str, datetime]) -> list[UUID]:
    """Look after these sources and no others; return the pages of those that are no longer looked after."""
    gone = await tx.fetch(_UNPLAN, list(due))
    await tx.execute(_PLAN, list(due), list(due.values()))
    return [UUID(int=row[0].int) for row in gone if row[0] is not None]


async def beat(tx: Connection, name: str, now: datetime, due_at: datetime) -> Heartbeat | None:
    """Note a sign of life; the page is that of the silence which it ends. None: nobody looks after it yet."""
    row = await tx.fetchrow(_BEAT, name, now, due_at)
    return None if row is None else _heartbeat(row)


async def due(tx: Connection, now: datetime, limit: int) -> list[Heartbeat]:
    """Return the sources that have fallen silent, locked."""
    return [_heartbeat(row) for row in await tx.fetch(_DUE, now, limit)]


async def silent(tx: Connection, paged: Sequence[tuple[str, UUID]]) -> None:
    """Store the pages of silences."""
    if paged:
        await tx.execute(_SILENT, [name for name, _ in paged], [page for _, page in paged])


def _heartbeat(row: Any) -> Heartbeat:
    name, beaten_at, due_at, silences, page = row
    return Heartbeat(name, beaten_at, due_at, silences, None if page is None else UUID(int=page.int))
