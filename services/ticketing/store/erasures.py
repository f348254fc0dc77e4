"""SQL of erasures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from shared.database.pool import Connection
from shared.wire.events import ErasedV1

_TOMBSTONE = """
INSERT INTO erased (customer, respondent, before) VALUES ($1, $2, $3)
ON CONFLICT (customer, respondent) DO UPDATE SET before = greatest(erased.before, excluded.before)
"""
_TOMBSTONES = """
SELECT customer, respondent, before FROM erased JOIN unnest($1::text[], $2::text[]) AS asked(customer, respondent)
    USING (customer, respondent)
"""
_SAVE = """
INSERT INTO erasure (id, customer, before, done, updated_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO UPDATE SET done = excluded.done, updated_at = excluded.updated_at
"""
_ONE = "SELECT id, customer, before, done, updated_at FROM erasure WHERE id = $1"
_DESKS = """
SELECT desk, count(rest)::int, count(*)::int - count(rest)::int, array_agg(DISTINCT rest) FILTER (WHERE rest <> '')
FROM desk_erasure WHERE erasure = $1 GROUP BY desk ORDER BY desk
"""


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the wish to forget a person."""

    id: UUID
    customer: str
    before: datetime
    """What was said until then is erased."""
    done: list[ErasedV1]
    """What each service did, in the order in which it came to them."""
    updated_at: datetime


async def tombstone(tx: Connection, customer: str, known_as: str, before: datetime) -> None:
    """Keep who, or which answer, is to be forgotten, so that what comes late is forgotten too."""
    await tx.execute(_TOMBSTONE, customer, known_as, before)


async def tombstones(tx: Connection, asked: Sequence[tuple[str, str]]) -> dict[tuple[str, str], datetime]:
    """Return until when these are to be forgotten, by customer and by digest or answer; most are not."""
    if not asked:
        return {}
    rows = await tx.fetch(_TOMBSTONES, [customer for customer, _ in asked], [digest for _, digest in asked])
    return {(row[0], row[1]): row[2] for row in rows}


async def save(tx: Connection, erasure: Erasure) -> None:
    """Store what was done so far."""
    done = msgspec.json.encode(erasure.done).decode()
    await tx.execute(_SAVE, erasure.id, erasure.customer, erasure.before, done, erasure.updated_at)


async def one(tx: Connection, erasure: UUID) -> Erasure | None:
    """Return what was done so far."""
    row = await tx.fetchrow(_ONE, erasure)
    if row is None:
        return None
    done = msgspec.json.decode(row[3], type=list[ErasedV1])
    return Erasure(id=UUID(int=row[0].int), customer=row[1], before=row[2], done=done, updated_at=row[4])


async def in_desks(tx: Connection, erasure: UUID) -> list[ErasedV1]:
    """Return a line for each desk that has tickets of the person: what was rewritten there, and what it keeps."""
    lines: list[ErasedV1] = []
    for desk, removed, waiting, rests in await tx.fetch(_DESKS, erasure):
        left = [*(rests or ()), *([f"{waiting} not rewritten yet"] if waiting else [])]
        lines.append(ErasedV1(service=f"desk:{desk}", removed=removed, left="; ".join(left)))
    return lines
