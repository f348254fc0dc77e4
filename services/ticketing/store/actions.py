"""SQL of improvement actions, and of the scores that they are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from services.ticketing.domain.action import Action
from shared.database.pool import Connection
from shared.http.cursor import Place
from shared.wire.events import ScoreDailyV1

_SAVE = """
INSERT INTO action (id, customer, ticket, due_on, state, opened_at, body)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::date[], $5::text[], $6::timestamptz[], $7::text[])
ON CONFLICT (id) DO UPDATE SET due_on = excluded.due_on, state = excluded.state, body = excluded.body
"""
_UNMEASURED = """
SELECT body FROM action
WHERE customer = ANY($1::text[]) AND state <> 'dropped' AND opened_at > $2
ORDER BY id FOR NO KEY UPDATE
"""
_LIST = """
SELECT body FROM action
WHERE ($1::text[] IS NULL OR customer = ANY($1)) AND ($2::text IS NULL OR state = $2)
    AND ($3::timestamptz IS NULL OR (opened_at, id) < ($3, $4::uuid))
ORDER BY opened_at DESC, id DESC LIMIT $5
"""
_ONE = "SELECT body FROM action WHERE id = $1 FOR NO KEY UPDATE"
_SCORES = """
INSERT INTO score (customer, day, body) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT (customer) DO UPDATE SET day = excluded.day, body = excluded.body WHERE score.day <= excluded.day
"""
_SCORE = "SELECT body FROM score WHERE customer = $1"

_decode = msgspec.json.Decoder(Action).decode
_encode = msgspec.json.Encoder().encode


async def save(tx: Connection, actions: Sequence[Action]) -> None:
    """Store actions."""
    if actions:
        await tx.execute(
            _SAVE,
            [a.id for a in actions],
            [a.customer for a in actions],
            [a.ticket for a in actions],
            [a.due_on for a in actions],
            [a.state for a in actions],
            [a.opened_at for a in actions],
            [_encode(a).decode() for a in actions],
        )


async def unmeasured(tx: Connection, customers: Sequence[str], since: datetime) -> list[Action]:
    """Return the actions of customers that were opened since a moment and are not dropped, locked."""
    return [_decode(row[0]) for row in await tx.fetch(_UNMEASURED, customers, since)]


async def listed(
    tx: Connection, *, customers: Sequence[str] | None, state: str | None, after: Place | None, limit: int
) -> list[Action]:
    """Return actions, newest first."""
    at, id_ = after or (None, None)
    return [_decode(row[0]) for row in await tx.fetch(_LIST, customers, state, at, id_, limit)]


async def one_locked(tx: Connection, action: UUID) -> Action | None:
    """Return an action that nobody else can change until the transaction ends."""
    body = await tx.fetchval(_ONE, action)
    return None if body is None else _decode(body)


async def remember_scores(tx: Connection, points: Sequence[ScoreDailyV1]) -> None:
    """Keep each customer's newest daily scores."""
    bodies = [_encode(point).decode() for point in points]
    await tx.execute(_SCORES, [point.customer for point in points], [point.day for point in points], bodies)


async def score(tx: Connection, customer: str) -> ScoreDailyV1 | None:
    """Return a customer's newest daily scores."""
    body = await tx.fetchval(_SCORE, customer)
    return None if body is None else msgspec.json.decode(body, type=ScoreDailyV1)
