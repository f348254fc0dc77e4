"""SQL of what changes the rota: overrides, silences, and the directory as it was."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from services.notify.domain.hold import Silence
from services.notify.domain.rota import Override
from shared.database.pool import Connection
from shared.directory.model import Directory, Person
from shared.directory.record import decode, encode
from shared.http.cursor import Place

_OVERRIDE_COLUMNS = "id, schedule, person, start_at, until, replaces, made_at"
_OVERRIDES = f"SELECT {_OVERRIDE_COLUMNS} FROM override WHERE until > $1 AND start_at < $2 AND start_at < until"
_LIST_OVERRIDES = f"""
SELECT {_OVERRIDE_COLUMNS} FROM override WHERE ($1::text IS NULL OR schedule = $1) AND until > $2 AND start_at < until
    AND ($3::timestamptz IS NULL OR (start_at, id) > ($3, $4::uuid))
ORDER BY start_at, id LIMIT $5
"""
_ADD_OVERRIDE = """
INSERT INTO override (id, schedule, person, start_at, until, replaces, made_at, made_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
# One that has not begun never was; one that has begun ends now.
_END_OVERRIDE = f"""
UPDATE override SET until = greatest(start_at, $2) WHERE id = $1 AND until > $2
RETURNING {_OVERRIDE_COLUMNS}
"""
_SILENCE_COLUMNS = "id, customer, touchpoint, rule, reason, start_at, until, made_at, made_by"
_SILENCES = f"SELECT {_SILENCE_COLUMNS} FROM silence WHERE until > $1 AND start_at <= $1"
_LIST_SILENCES = f"""
SELECT {_SILENCE_COLUMNS} FROM silence
WHERE ($1::text[] IS NULL OR customer = ANY($1)) AND until > $2 AND start_at < until
    AND ($3::timestamptz IS NULL OR (start_at, id) > ($3, $4::uuid))
ORDER BY start_at, id LIMIT $5
"""
_ADD_SILENCE = f"INSERT INTO silence ({_SILENCE_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_ONE_SILENCE = f"SELECT {_SILENCE_COLUMNS} FROM silence WHERE id = $1"
_END_SILENCE = f"""
UPDATE silence SET until = greatest(start_at, $2) WHERE id = $1 AND until > $2 RETURNING {_SILENCE_COLUMNS}
"""
_ONE_AT_A_TIME = "LOCK TABLE directory_revision IN SHARE ROW EXCLUSIVE MODE"
# What is kept is numbered on: `revision` is the log's own number until the log is made anew and begins at 1 again.
_ADD_REVISION = """
INSERT INTO directory_revision (revision, log, number, applied_at, author, body, rota)
SELECT greatest($2, coalesce(max(revision) + 1, 1)), $1, $2, $3, $4, $5, $6 FROM directory_revision
ON CONFLICT DO NOTHING RETURNING revision
"""
_KEPT = "SELECT FROM directory_revision WHERE log = $1 AND coalesce(number, revision) = $2"
_UNKNOWN_LOG = "SELECT applied_at, body FROM directory_revision WHERE log = '' AND coalesce(number, revision) = $1"
_ADOPT = "UPDATE directory_revision SET log = $1, number = $2 WHERE log = '' AND coalesce(number, revision) = $2"
_LAST_BEFORE = """
SELECT body FROM directory_revision WHERE applied_at <= $1 AND (log, coalesce(number, revision)) <> ($2, $3)
ORDER BY applied_at DESC, revision DESC LIMIT 1
"""
_AT = "SELECT body FROM directory_revision WHERE applied_at <= $1 ORDER BY applied_at DESC, revision DESC LIMIT 1"
_FIRST = "SELECT body FROM directory_revision ORDER BY applied_at, revision LIMIT 1"
# Those that were in force in a time: the last one before it, too.
_BETWEEN = """
SELECT revision, applied_at FROM directory_revision
WHERE applied_at < $2 AND applied_at >= coalesce(
    (SELECT max(applied_at) FROM directory_revision WHERE applied_at <= $1), '-infinity'
)
ORDER BY applied_at, revision
"""
_ROTAS = "SELECT revision, coalesce(rota, body) FROM directory_revision WHERE revision = ANY($1::bigint[])"
_FORGET_REVISIONS = """
DELETE FROM directory_revision WHERE applied_at < (SELECT max(applied_at) FROM directory_revision WHERE applied_at < $1)
"""


async def overrides(tx: Connection, start: datetime, end: datetime) -> dict[str, list[Override]]:
    """Return the overrides that touch a time, by schedule."""
    found: defaultdict[str, list[Override]] = defaultdict(list)
    for row in await tx.fetch(_OVERRIDES, start, end):
        one = _override(row)
        found[one.schedule].append(one)
    return found


async def list_overrides(
    tx: Connection, schedule: str | None, now: datetime, after: Place | None, limit: int
) -> list[Override]:
    """Return the overrides that are not over, in the order in which they begin."""
    rows = await tx.fetch(_LIST_OVERRIDES, schedule, now, *(after or (None, None)), limit)
    return [_override(row) for row in rows]


async def add_override(tx: Connection, one: Override, made_by: str) -> None:
    """Store an override."""
    await tx.execute(
        _ADD_OVERRIDE, one.id, one.schedule, one.person, one.start, one.until, one.replaces, one.made_at, made_by
    )


async def end_override(tx: Connection, override: UUID, now: datetime) -> Override | None:
    """End an override; what was until now stays. None: there is none that is not over."""
    row = await tx.fetchrow(_END_OVERRIDE, override, now)
    return None if row is None else _override(row)


def _override(row: Any) -> Override:
    id_, schedule, person, start, until, replaces, made_at = row
    return Override(UUID(int=id_.int), schedule, person, start, until, replaces, made_at)


async def silences(tx: Connection, now: datetime) -> list[Silence]:
    """Return the silences in force."""
    return [_silence(row) for row in await tx.fetch(_SILENCES, now)]


async def list_silences(
    tx: Connection, customers: Sequence[str] | None, now: datetime, after: Place | None, limit: int
) -> list[Silence]:
    """Return the silences that are not over, in the order in which they begin."""
    rows = await tx.fetch(_LIST_SILENCES, customers, now, *(after or (None, None)), limit)
    return [_silence(row) for row in rows]


async def add_silence(tx: Connection, one: Silence) -> None:
    """Store a silence."""
    await tx.execute(
        _ADD_SILENCE,
        one.id,
        one.customer,
        one.touchpoint,
        one.rule,
        one.reason,
        one.start,
        one.until,
        one.made_at,
        one.made_by,
    )


async def one_silence(tx: Connection, silence: UUID) -> Silence | None:
    """Return a silence."""
    row = await tx.fetchrow(_ONE_SILENCE, silence)
    return None if row is None else _silence(row)


async def end_silence(tx: Connection, silence: UUID, now: datetime) -> Silence | None:
    """End a silence. None: there is none that is not over."""
    row = await tx.fetchrow(_END_SILENCE, silence, now)
    return None if row is None else _silence(row)


def _silence(row: Any) -> Silence:
    id_, *rest = row
    return Silence(UUID(int=id_.int), *rest)


# ---- who was responsible


def packed(directory: Directory) -> bytes:
    """Return a directory as it is kept. Takes long for a large one, as reading it does: call both in a thread."""
    return gzip.compress(encode(directory), compresslevel=1)


def packed_turns(directory: Directory) -> bytes:
    """Return what a directory says of who takes turns when, as it is kept; equal where that is the same."""
    return gzip.compress(encode(turns_alone(directory)), compresslevel=1, mtime=0)


def turns_alone(directory: Directory) -> Directory:
    """Return a directory without what does not change who is on call in a schedule."""
    people = {
        id_: Person(
            id=id_,
            name=person.name,
            timezone=person.timezone,
            language=person.language,
            holidays=person.holidays,
            absences=person.absences,
        )
        for id_, person in directory.people.items()
    }
    return Directory(
        company=directory.company,
        timezone=directory.timezone,
        language=directory.language,
        people=people,
        customers={},
        escalations={},
        schedules=directory.schedules,
    )


def directory_of(body: bytes) -> Directory:
    """Return a directory that was kept."""
    return decode(gzip.decompress(body))


async def one_revision_at_a_time(tx: Connection) -> None:
    """Let nobody else keep a revision until the transaction ends."""
    await tx.execute(_ONE_AT_A_TIME)


async def is_kept(tx: Connection, log: str, number: int) -> bool:
    """Tell whether a log's revision is kept."""
    return await tx.fetchrow(_KEPT, log, number) is not None


async def of_unknown_log(tx: Connection, number: int) -> tuple[datetime, bytes] | None:
    """Return when a revision was applied that was kept before logs were told apart, and its directory as it is kept."""
    row = await tx.fetchrow(_UNKNOWN_LOG, number)
    return None if row is None else (row[0], row[1])


async def adopt_revision(tx: Connection, log: str, number: int) -> None:
    """Note which log a revision is of that was kept before logs were told apart."""
    await tx.execute(_ADOPT, log, number)


async def add_revision(
    tx: Connection, log: str, number: int, body: bytes, applied_at: datetime, author: str, turns: bytes | None = None
) -> bool:
    """Keep a revision of the directory, and what it says of turns; False: it is kept already."""
    return await tx.fetchval(_ADD_REVISION, log, number, applied_at, author, body, turns) is not None


async def revision_before(tx: Connection, log: str, number: int, applied_at: datetime) -> bytes | None:
    """Return the directory that was in force before one was applied, as it is kept."""
    return await tx.fetchval(_LAST_BEFORE, applied_at, log, number)


async def revision_at(tx: Connection, at: datetime) -> bytes | None:
    """Return the directory that was in force at a moment, as it is kept; None: it is not."""
    return await tx.fetchval(_AT, at)


async def first_revision(tx: Connection) -> bytes | None:
    """Return the first directory that is kept, as it is kept."""
    return await tx.fetchval(_FIRST)


async def revisions_between(tx: Connection, start: datetime, end: datetime) -> list[tuple[int, datetime]]:
    """Return the revisions that were in force in a time, in order, and since when."""
    return [(row[0], row[1]) for row in await tx.fetch(_BETWEEN, start, end)]


async def turns_of(tx: Connection, revisions: Sequence[int]) -> dict[int, bytes]:
    """Return what is kept of some revisions' turns, or the whole of them where nothing else is."""
    return {row[0]: row[1] for row in await tx.fetch(_ROTAS, revisions)} if revisions else {}


async def forget_revisions(tx: Connection, before: datetime) -> None:
    """Delete revisions that were replaced before a moment."""
    await tx.execute(_FORGET_REVISIONS, before)
