"""SQL of what is done before anything breaks: where customers stand, and meetings with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from services.notify.domain.check_in import CheckIn, Due
from shared.database.pool import Connection
from shared.http.cursor import Place
from shared.runtime.quarantine import not_held
from shared.wire.events import ScoreDailyV1

QUEUE = "check-ins"
"""Where a customer is set aside whose check-in cannot be looked at."""

_REMEMBER = """
INSERT INTO standing (customer, day, body) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT (customer) DO UPDATE SET day = excluded.day, body = excluded.body WHERE standing.day <= excluded.day
"""
_STANDINGS = "SELECT body FROM standing WHERE customer = ANY($1::text[])"
_COLUMNS = "id, customer, held_at, note, goals, made_at, made_by"
_ADD = f"INSERT INTO check_in ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)"
_LIST = f"""
SELECT {_COLUMNS} FROM check_in
WHERE ($1::text[] IS NULL OR customer = ANY($1)) AND ($2::timestamptz IS NULL OR (held_at, id) < ($2, $3::uuid))
ORDER BY held_at DESC, id DESC LIMIT $4
"""
_LAST = f"""
SELECT DISTINCT ON (customer) {_COLUMNS} FROM check_in WHERE customer = ANY($1::text[])
ORDER BY customer, held_at DESC, id DESC
"""
_PLAN = """
INSERT INTO check_in_due (customer, since, look_at)
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[])
ON CONFLICT (customer) DO UPDATE SET look_at = least(check_in_due.look_at, excluded.since)
    WHERE check_in_due.reminded = 0
"""
_UNPLAN = "DELETE FROM check_in_due WHERE customer NOT IN (SELECT unnest($1::text[]))"
_HELD = """
INSERT INTO check_in_due (customer, since, look_at) VALUES ($1, $2, $3)
ON CONFLICT (customer) DO UPDATE SET since = excluded.since, look_at = excluded.look_at, reminded = 0
    WHERE check_in_due.since <= excluded.since
"""
_DUE = f"""
SELECT customer, since, look_at, reminded FROM check_in_due
WHERE look_at <= $1 AND {not_held(QUEUE, "check_in_due.customer")} ORDER BY look_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_LOOK = """
UPDATE check_in_due SET look_at = new.look_at, reminded = new.reminded
FROM unnest($1::text[], $2::timestamptz[], $3::int[]) AS new(customer, look_at, reminded)
WHERE check_in_due.customer = new.customer
"""


async def remember_scores(tx: Connection, points: Sequence[ScoreDailyV1]) -> None:
    """Keep the newest daily scores of customers."""
    newest: dict[str, ScoreDailyV1] = {}
    for point in points:
        if point.customer not in newest or newest[point.customer].day <= point.day:
            newest[point.customer] = point
    await tx.execute(
        _REMEMBER,
        list(newest),
        [point.day for point in newest.values()],
        [msgspec.json.encode(point).decode() for point in newest.values()],
    )


async def standings(tx: Connection, customers: Sequence[str]) -> dict[str, ScoreDailyV1]:
    """Return where customers stand."""
    rows = await tx.fetch(_STANDINGS, customers)
    found = [msgspec.json.decode(row[0], type=ScoreDailyV1) for row in rows]
    return {point.customer: point for point in found}


async def add(tx: Connection, one: CheckIn) -> None:
    """Store a check-in that was held."""
    goals = msgspec.json.encode(one.goals).decode()
    await tx.execute(_ADD, one.id, one.customer, one.held_at, one.note, goals, one.made_at, one.made_by)


async def listed(tx: Connection, *, customers: Sequence[str] | None, after: Place | None, limit: int) -> list[CheckIn]:
    """Return check-ins, newest first."""
    at, id_ = after or (None, None)
    return [_check_in(row) for row in await tx.fetch(_LIST, customers, at, id_, limit)]


async def last(tx: Connection, customers: Sequence[str]) -> dict[str, CheckIn]:
    """Return the newest check-in of each customer."""
    return {one.customer: one for one in map(_check_in, await tx.fetch(_LAST, customers))}


def _check_in(row: Any) -> CheckIn:
    id_, customer, held_at, note, goals, made_at, made_by = row
    return CheckIn(
        id=UUID(int=id_.int),
        customer=customer,
        held_at=held_at,
        note=note,
        goals=msgspec.json.decode(goals),
        made_at=made_at,
        made_by=made_by,
    )


async def plan(tx: Connection, wanted: Mapping[str, tuple[datetime, datetime]]) -> None:
    """Look after these customers' check-ins, new ones from a moment on and when to look first; no others."""
    await tx.execute(_UNPLAN, list(wanted))
    await tx.execute(_PLAN, list(wanted), [since for since, _ in wanted.values()], [at for _, at in wanted.values()])


async def held(tx: Connection, customer: str, at: datetime, look_at: datetime) -> None:
    """Begin a customer's next period; an older check-in that is told late begins none."""
    await tx.execute(_HELD, customer, at, look_at)


async def due(tx: Connection, now: datetime, limit: int) -> list[Due]:
    """Return the customers whose check-ins are to be looked at, locked."""
    return [Due(*row) for row in await tx.fetch(_DUE, now, limit)]


async def looked(tx: Connection, looked_at: Sequence[Due]) -> None:
    """Store when to look again."""
    if looked_at:
        await tx.execute(
            _LOOK,
            [one.customer for one in looked_at],
            [one.look_at for one in looked_at],
            [one.reminded for one in looked_at],
        )
