"""SQL of what people are told that is no page, and of the lines that wait for the next digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from services.notify.domain.digest import Role
from services.notify.domain.texts import Entry, Words
from shared.database.pool import Connection
from shared.runtime.quarantine import judging, not_held
from shared.wire.ids import uuid7

QUEUE = "digests"
"""Where a line that can be told to nobody is set aside."""

_ADD = """
INSERT INTO notice (id, person, kind, made_at, body)
SELECT id, person, kind, $4, body FROM unnest($1::uuid[], $2::text[], $3::text[], $5::text[])
    AS new(id, person, kind, body)
"""
_SOME = "SELECT id, person, kind, made_at, body FROM notice WHERE id = ANY($1::uuid[])"
_CLAIM = "SELECT pg_try_advisory_xact_lock($1)"
_FORGET = "DELETE FROM notice WHERE made_at < $1"
_ADD_ENTRIES = """
INSERT INTO digest_entry (id, person, kind, customer, respondent, due_at, body, role, answer)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[],
    $8::text[], $9::uuid[])
ON CONFLICT (id) DO NOTHING
"""
# With those that are due, what would follow within the bundle's time: one message instead of two.
_TAKE = f"""
WITH people AS (
    SELECT DISTINCT person FROM digest_entry WHERE due_at <= $1 AND {not_held(QUEUE, "digest_entry.id")} LIMIT $3
), taken AS (
    SELECT id FROM digest_entry JOIN people USING (person)
    WHERE due_at <= $2 AND {not_held(QUEUE, "digest_entry.id")} LIMIT 5000
    FOR UPDATE OF digest_entry SKIP LOCKED
)
DELETE FROM digest_entry USING taken WHERE digest_entry.id = taken.id
RETURNING digest_entry.id, digest_entry.person, digest_entry.kind, digest_entry.customer, digest_entry.respondent,
    digest_entry.due_at, digest_entry.body, digest_entry.role, digest_entry.answer
"""
_DROP = "DELETE FROM digest_entry WHERE kind = $1"
_ERASE = "DELETE FROM digest_entry WHERE customer = $1 AND (respondent = ANY($2::text[]) OR answer = $3)"


@dataclass(frozen=True, slots=True)
class StoredNotice:
    """What a person is told."""

    id: UUID
    person: str
    kind: str
    words: Words
    made_at: datetime


@dataclass(frozen=True, slots=True)
class DigestLine:
    """A line that waits for the person's next digest; the id keeps a repeat from being a second line."""

    id: UUID
    person: str
    kind: str
    customer: str
    due_at: datetime
    entry: Entry
    respondent: str | None = None
    role: Role | None = None
    """As what the person is told."""
    answer: UUID | None = None
    """Whose words the line has; the respondent is theirs."""


async def add(tx: Connection, told: Sequence[StoredNotice], now: datetime) -> None:
    """Store what is told; deliveries carry it."""
    if told:
        await tx.execute(
            _ADD,
            [one.id for one in told],
            [one.person for one in told],
            [one.kind for one in told],
            now,
            [msgspec.json.encode(one.words).decode() for one in told],
        )


async def claim(tx: Connection, notice: UUID) -> bool:
    """Let nobody else store a notice until the transaction ends; False: somebody else is about to."""
    return await tx.fetchval(_CLAIM, notice.int >> 65)


def new(person: str, kind: str, words: Words, now: datetime) -> StoredNotice:
    """Return what a person is to be told."""
    return StoredNotice(uuid7(), person, kind, words, now)


async def some(tx: Connection, notices: Sequence[UUID]) -> dict[UUID, StoredNotice]:
    """Return notices by id."""
    rows = await tx.fetch(_SOME, notices) if notices else []
    found = [StoredNotice(UUID(int=r[0].int), r[1], r[2], msgspec.json.decode(r[4], type=Words), r[3]) for r in rows]
    return {one.id: one for one in found}


async def forget(tx: Connection, before: datetime) -> None:
    """Delete what was told before a moment; what was called for it goes with it."""
    await tx.execute(_FORGET, before)


async def add_lines(tx: Connection, lines: Sequence[DigestLine]) -> None:
    """Add lines for the next digests."""
    if lines:
        await tx.execute(
            _ADD_ENTRIES,
            [one.id for one in lines],
            [one.person for one in lines],
            [one.kind for one in lines],
            [one.customer for one in lines],
            [one.respondent for one in lines],
            [one.due_at for one in lines],
            [msgspec.json.encode(one.entry).decode() for one in lines],
            [one.role for one in lines],
            [one.answer for one in lines],
        )


async def replace_lines(tx: Connection, kind: str, lines: Sequence[DigestLine]) -> None:
    """Let these be the only lines of a kind that wait."""
    await tx.execute(_DROP, kind)
    await add_lines(tx, lines)


async def take_lines(tx: Connection, now: datetime, until: datetime, people: int) -> list[DigestLine]:
    """Take the lines of some people who have any that is due, with theirs that are due until a moment."""
    found: list[DigestLine] = []
    for row in await tx.fetch(_TAKE, now, until, people):
        with judging(QUEUE, [row["id"]]):
            found.append(_line(row))
    return found


async def erase(tx: Connection, customer: str, names: Sequence[str], answer: UUID | None) -> int:
    """Delete the lines of what a respondent said, in every way that they are written, or of an answer; return how many.

    A line of which nobody knows the answer, from before it was kept, is gone with the next digest.
    """
    return int((await tx.execute(_ERASE, customer, names, answer)).split()[-1])


def _line(row: Any) -> DigestLine:
    id_, person, kind, customer, respondent, due_at, body, role, answer = row
    entry = msgspec.json.decode(body, type=Entry)
    told_of = None if answer is None else UUID(int=answer.int)
    return DigestLine(UUID(int=id_.int), person, kind, customer, due_at, entry, respondent, role, told_of)
