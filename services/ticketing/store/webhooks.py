"""SQL of webhooks out: what was sent to whom, and what is still to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec

from shared.database.pool import Connection
from shared.http.cursor import Place
from shared.runtime.quarantine import not_held
from shared.wire.events import TicketV1

QUEUE = "webhooks"
"""Where a message is set aside that cannot be sent, or whose result cannot be stored."""

_ADD = """
INSERT INTO webhook_delivery (id, url, secret_env, event, customer, ticket, body, state, created_at, due_at)
SELECT id, url, secret_env, event, customer, ticket, body, 'pending', $8, $8
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::text[])
    AS new(id, url, secret_env, event, customer, ticket, body)
"""
# The addresses are stepped through by the index, and of each only as many rows are read as it has calls left: what one
# of them has waiting neither hides nor delays the others.
_CLAIM = f"""
WITH RECURSIVE address AS (
    (SELECT url FROM webhook_delivery WHERE due_at IS NOT NULL ORDER BY url LIMIT 1)
    UNION ALL
    SELECT (
        SELECT url FROM webhook_delivery WHERE due_at IS NOT NULL AND url > address.url ORDER BY url LIMIT 1
    ) FROM address WHERE address.url IS NOT NULL
), due AS (
    SELECT oldest.id, oldest.due_at,
        coalesce(busy.calls, 0) + row_number() OVER (PARTITION BY address.url ORDER BY oldest.due_at) AS turn
    FROM address LEFT JOIN unnest($5::text[], $6::int[]) AS busy(url, calls) ON busy.url = address.url
    CROSS JOIN LATERAL (
        SELECT id, due_at FROM webhook_delivery
        WHERE webhook_delivery.url = address.url AND due_at <= $1 AND {not_held(QUEUE, "webhook_delivery.id")}
        ORDER BY due_at LIMIT greatest($4 - coalesce(busy.calls, 0), 0) FOR UPDATE SKIP LOCKED
    ) AS oldest
)
UPDATE webhook_delivery SET due_at = $2, attempts = attempts + 1
WHERE id IN (SELECT id FROM due ORDER BY turn, due_at LIMIT $3)
RETURNING id, url, event, customer, ticket, body, secret_env, attempts
"""
_ANSWERED = """
UPDATE webhook_delivery SET state = $2, answered_at = $3, status = $4, detail = $5, due_at = $6 WHERE id = $1
"""
_DISABLE = """
INSERT INTO webhook_endpoint (url, disabled_at, reason) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""
_GIVE_UP = """
UPDATE webhook_delivery SET state = 'failed', due_at = NULL, detail = 'the address is gone (410)'
WHERE url = $1 AND state = 'pending'
"""
_ENABLE = "DELETE FROM webhook_endpoint WHERE url = $1"
_DISABLED = "SELECT url FROM webhook_endpoint"
_LIST = """
SELECT id, url, event, customer, ticket, state, attempts, created_at, due_at, answered_at, status, detail
FROM webhook_delivery
WHERE ($1::text[] IS NULL OR customer = ANY($1)) AND ($2::text IS NULL OR state = $2)
    AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4::uuid))
ORDER BY created_at DESC, id DESC LIMIT $5
"""
_ONE = """
SELECT id, url, event, customer, ticket, state, attempts, created_at, due_at, answered_at, status, detail
FROM webhook_delivery WHERE id = $1
"""
_REPLAY = """
UPDATE webhook_delivery SET state = 'pending', attempts = 0, due_at = $2 WHERE id = $1
"""
_DROP_SENT = "DELETE FROM webhook_delivery WHERE ticket = ANY($1::uuid[]) AND state <> 'pending'"
_REWRITE = """
UPDATE webhook_delivery SET body = jsonb_set(webhook_delivery.body::jsonb, '{data}', changed.data::jsonb)::text
FROM unnest($1::uuid[], $2::text[]) AS changed(ticket, data)
WHERE webhook_delivery.ticket = changed.ticket AND state = 'pending'
"""
_FORGET = "DELETE FROM webhook_delivery WHERE state <> 'pending' AND created_at < $1"

DeliveryState = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, slots=True)
class Sending:
    """One message for one address."""

    id: UUID
    """The same on each repetition."""
    url: str
    event: str
    customer: str
    ticket: UUID
    body: str
    secret_env: str | None = None
    """Of the directory's entry that it is for: two may share an address and not a secret."""
    attempts: int = 0
    """This one counted."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a message."""

    id: UUID
    url: str
    event: str
    customer: str
    ticket: UUID
    state: DeliveryState
    attempts: int
    created_at: datetime
    due_at: datetime | None
    answered_at: datetime | None
    status: int | None
    """HTTP's, of the last answer."""
    detail: str


async def add(tx: Connection, new: Sequence[Sending], now: datetime) -> None:
    """Store messages to be sent at once."""
    if new:
        await tx.execute(
            _ADD,
            [one.id for one in new],
            [one.url for one in new],
            [one.secret_env for one in new],
            [one.event for one in new],
            [one.customer for one in new],
            [one.ticket for one in new],
            [one.body for one in new],
            now,
        )


async def claim(
    tx: Connection, now: datetime, lease: timedelta, *, limit: int, per_address: int, busy: Mapping[str, int]
) -> list[Sending]:
    """Return what is due, in turn of the addresses, and count the attempt before it is made.

    `busy`: calls that are under way to addresses, which have `per_address` at most.
    """
    rows = await tx.fetch(_CLAIM, now, now + lease, limit, per_address, list(busy), list(busy.values()))
    return [Sending(UUID(int=row[0].int), row[1], row[2], row[3], UUID(int=row[4].int), *row[5:]) for row in rows]


async def answered(
    tx: Connection,
    sending: UUID,
    state: DeliveryState,
    *,
    now: datetime,
    status: int | None,
    detail: str,
    due_at: datetime | None,
) -> None:
    """Store what came of an attempt; `due_at`: when to try again."""
    await tx.execute(_ANSWERED, sending, state, now, status, detail[:1000], due_at)


async def disable(tx: Connection, url: str, now: datetime, reason: str) -> None:
    """Send an address nothing more."""
    await tx.execute(_DISABLE, url, now, reason)
    await tx.execute(_GIVE_UP, url)


async def enable(tx: Connection, url: str) -> None:
    """Send to an address again."""
    await tx.execute(_ENABLE, url)


async def disabled(tx: Connection) -> set[str]:
    """Return the addresses that get nothing more."""
    return {row[0] for row in await tx.fetch(_DISABLED)}


async def listed(
    tx: Connection, *, customers: Sequence[str] | None, state: str | None, after: Place | None, limit: int
) -> list[Delivery]:
    """Return deliveries, newest first."""
    at, id_ = after or (None, None)
    return [_delivery(**dict(row)) for row in await tx.fetch(_LIST, customers, state, at, id_, limit)]


async def one(tx: Connection, delivery: UUID) -> Delivery | None:
    """Return what became of a message."""
    row = await tx.fetchrow(_ONE, delivery)
    return None if row is None else _delivery(**dict(row))


def _delivery(*, id: UUID, ticket: UUID, **facts: object) -> Delivery:
    return Delivery(id=UUID(int=id.int), ticket=UUID(int=ticket.int), **facts)  # pyright: ignore[reportArgumentType]


async def replay(tx: Connection, delivery: UUID, now: datetime) -> None:
    """Send it again, with the same id."""
    await tx.execute(_REPLAY, delivery, now)


async def erase(tx: Connection, tickets: Sequence[TicketV1]) -> None:
    """Forget what was sent of tickets that a person was erased from; what is still to be sent says them as they are."""
    if tickets:
        ids = [ticket.id for ticket in tickets]
        await tx.execute(_DROP_SENT, ids)
        await tx.execute(_REWRITE, ids, [msgspec.json.encode(ticket).decode() for ticket in tickets])


async def forget(tx: Connection, before: datetime) -> None:
    """Drop the log before a moment."""
    await tx.execute(_FORGET, before)
