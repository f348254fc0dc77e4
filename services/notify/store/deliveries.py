"""SQL of deliveries to contacts, and of every attempt at them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec

from shared.db import Connection
from shared.ids import uuid7
from shared.quarantine import not_held

DeliveryState = Literal["pending", "delivered", "failed"]
QUEUE = "deliveries"
"""Where one is set aside that cannot be called, or whose result cannot be stored."""

# A contact whose time has not come is called at once when the one before it fails.
_ADD = """
INSERT INTO delivery (id, page, notice, turn, level, round, person, contact, state, attempts, due_at, made_at, code)
SELECT id, page, notice, turn, level, round, person, contact, 'pending', 0, due_at, $9, code
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::int[], $6::int[], $7::text[], $8::int[],
    $10::timestamptz[], $11::text[])
    AS new(id, page, notice, turn, level, round, person, contact, due_at, code)
ON CONFLICT (page, turn, contact) DO UPDATE SET due_at = least(delivery.due_at, excluded.due_at)
    WHERE delivery.state = 'pending' AND delivery.attempts = 0
"""
# The lease: whoever dies between the claim and the result lets the delivery fall due again.
_CLAIM = f"""
WITH due AS (
    SELECT id FROM delivery WHERE state = 'pending' AND due_at <= $1 AND {not_held(QUEUE, "delivery.id")}
    ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE delivery SET due_at = $3, attempts = attempts + 1
FROM due WHERE delivery.id = due.id
RETURNING delivery.id, delivery.page, delivery.notice, delivery.turn, delivery.level, delivery.round, delivery.person,
    delivery.contact, delivery.attempts, delivery.code
"""
_INTENT = """
INSERT INTO attempt (id, delivery, page, channel, address, started_at)
SELECT *, $6::timestamptz FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[])
"""
_RESULT = """
UPDATE attempt SET finished_at = $5, result = new.result, receipt = new.receipt, detail = new.detail
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS new(id, result, receipt, detail)
WHERE attempt.id = new.id AND attempt.finished_at IS NULL
"""
_AFTER = """
UPDATE delivery SET state = new.state, due_at = new.due_at
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS new(id, state, due_at)
WHERE delivery.id = new.id AND delivery.state = 'pending' RETURNING delivery.id
"""
_ATTEMPTS = """
SELECT attempt.channel, attempt.address, attempt.started_at, attempt.finished_at, attempt.result, attempt.receipt,
    attempt.detail, delivery.person, delivery.level, delivery.round, delivery.id AS delivery
FROM attempt JOIN delivery ON delivery.id = attempt.delivery
WHERE attempt.page = $1 ORDER BY attempt.started_at DESC, attempt.id DESC LIMIT 500
"""
_LOAD = """
SELECT person, count(DISTINCT (page, turn)) FROM delivery
WHERE person = ANY($1::text[]) AND made_at > $2 AND page IS NOT NULL GROUP BY person
"""
_OVERDUE = f"""
SELECT count(*) FROM delivery WHERE state = 'pending' AND due_at < $1 AND {not_held(QUEUE, "delivery.id")}
"""
# A call whose result nobody knows (it timed out, or the process died) is the one that a receipt of no other is of.
_RECEIVED = """
UPDATE attempt SET result = $3, receipt = coalesce(receipt, $2), detail = left($4, 500),
    finished_at = coalesce(finished_at, $5)
WHERE id = (
    SELECT id FROM attempt
    WHERE delivery = $1 AND (
        (result = 'accepted' AND (receipt IS NULL OR $2::text IS NULL OR receipt = $2))
        OR (receipt IS NULL AND (result IS NULL OR result = 'unknown'))
    ) AND NOT EXISTS (SELECT FROM attempt WHERE delivery = $1 AND receipt = $2 AND result <> 'accepted')
    ORDER BY receipt IS NOT DISTINCT FROM $2 DESC, started_at LIMIT 1
) RETURNING id
"""
_SETTLE = """
UPDATE delivery SET state = $2 WHERE id = $1 AND state IN ('pending', 'delivered') AND state <> $2 RETURNING id
"""
_LIVELY = """
SELECT DISTINCT delivery.page, delivery.turn FROM delivery
JOIN unnest($1::uuid[], $2::int[]) AS asked(page, turn) ON delivery.page = asked.page AND delivery.turn = asked.turn
WHERE delivery.state IN ('pending', 'delivered')
"""
_CALLED = "SELECT DISTINCT channel, address FROM attempt WHERE delivery = $1"
_ONE = """
SELECT id, page, notice, turn, level, round, person, contact, attempts, code FROM delivery WHERE id = $1
"""
_BY_SMS = """
SELECT delivery.id, delivery.page, delivery.notice, delivery.turn, delivery.level, delivery.round, delivery.person,
    delivery.contact, delivery.attempts, delivery.code, page.state IN ('pending', 'sent', 'exhausted') AS waits
FROM attempt JOIN delivery ON delivery.id = attempt.delivery JOIN page ON page.id = delivery.page
WHERE attempt.address = $1 AND attempt.channel = 'sms' AND attempt.started_at > $2
ORDER BY waits DESC, attempt.started_at DESC LIMIT 100
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One contact of one person, for a page's turn or a notice; `id` is the idempotency key."""

    id: UUID
    page: UUID | None
    notice: UUID | None
    turn: int
    level: int
    round: int
    person: str
    contact: int
    """Place in the person's list, from 0."""
    attempt: int
    """1 is the first."""
    code: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A delivery to add."""

    page: UUID | None
    person: str
    contact: int
    due_at: datetime
    notice: UUID | None = None
    turn: int = 0
    level: int = 0
    round: int = 0


def following(delivery: Delivery, contact: int, now: datetime) -> Wanted:
    """Return the same for a further contact, in place of one that failed."""
    return Wanted(
        delivery.page,
        delivery.person,
        contact,
        now,
        notice=delivery.notice,
        turn=delivery.turn,
        level=delivery.level,
        round=delivery.round,
    )


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be called."""

    id: UUID
    delivery: UUID
    page: UUID | None
    channel: str
    address: str


@dataclass(frozen=True, slots=True)
class Finished:
    """What came of a call."""

    attempt: UUID
    result: str
    receipt: str | None
    detail: str


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One call to a channel, as the interface shows it."""

    channel: str
    address: str
    person: str
    level: int
    round: int
    started_at: datetime
    finished_at: datetime | None
    result: str | None
    """null: under way, or the process died before it knew."""
    receipt: str | None
    detail: str | None
    delivery: UUID


async def add(tx: Connection, wanted: Sequence[Wanted], now: datetime) -> None:
    """Add what is to be sent."""
    if wanted:
        await tx.execute(
            _ADD,
            [uuid7() for _ in wanted],
            [one.page for one in wanted],
            [one.notice for one in wanted],
            [one.turn for one in wanted],
            [one.level for one in wanted],
            [one.round for one in wanted],
            [one.person for one in wanted],
            [one.contact for one in wanted],
            now,
            [one.due_at for one in wanted],
            [f"{secrets.randbelow(10_000):04}" for _ in wanted],
        )


async def claim(tx: Connection, now: datetime, limit: int, lease: timedelta) -> list[Delivery]:
    """Claim deliveries that are due until the lease is over."""
    return [_delivery(row) for row in await tx.fetch(_CLAIM, now, limit, now + lease)]


def _delivery(row: Any) -> Delivery:
    id_, page, notice, turn, level, round_, person, contact, attempts, code = row
    return Delivery(
        UUID(int=id_.int), _uuid(page), _uuid(notice), turn, level, round_, person, contact, attempts, code or ""
    )


def _uuid(value: Any) -> UUID | None:
    return None if value is None else UUID(int=value.int)


async def add_intents(tx: Connection, intents: Sequence[Intent], now: datetime) -> None:
    """Store what is about to be called, before it is."""
    if intents:
        await tx.execute(
            _INTENT,
            [i.id for i in intents],
            [i.delivery for i in intents],
            [i.page for i in intents],
            [i.channel for i in intents],
            [i.address for i in intents],
            now,
        )


async def finish_attempts(tx: Connection, finished: Sequence[Finished], now: datetime) -> None:
    """Store what came of calls."""
    if finished:
        await tx.execute(
            _RESULT,
            [one.attempt for one in finished],
            [one.result for one in finished],
            [one.receipt for one in finished],
            [one.detail for one in finished],
            now,
        )


async def finish(tx: Connection, changed: Sequence[tuple[UUID, DeliveryState, datetime]]) -> set[UUID]:
    """Store where deliveries stand; return those that were not cancelled or finished meanwhile."""
    if not changed:
        return set()
    rows = await tx.fetch(_AFTER, [c[0] for c in changed], [c[1] for c in changed], [c[2] for c in changed])
    return {UUID(int=row[0].int) for row in rows}


async def attempts(tx: Connection, page: UUID) -> list[Attempt]:
    """Return the calls that were made for a page, oldest first: the newest 500."""
    found: list[Attempt] = []
    for row in await tx.fetch(_ATTEMPTS, page):
        facts: dict[str, Any] = dict(row)
        facts["delivery"] = UUID(int=facts["delivery"].int)
        found.append(Attempt(**facts))
    return found[::-1]


async def load(tx: Connection, people: Sequence[str], since: datetime) -> dict[str, int]:
    """Return how many pages each person was sent since a moment."""
    return {row[0]: row[1] for row in await tx.fetch(_LOAD, people, since)} if people else {}


async def overdue(tx: Connection, before: datetime) -> int:
    """Return how many deliveries wait that were due before a moment."""
    return await tx.fetchval(_OVERDUE, before)


async def received(
    tx: Connection, delivery: UUID, receipt: str | None, result: str, detail: str, now: datetime
) -> bool:
    """Store what a provider said later of a call; False: no news, or of none that we made."""
    return await tx.fetchval(_RECEIVED, delivery, receipt, result, detail, now) is not None


async def settle(tx: Connection, delivery: UUID, state: DeliveryState) -> bool:
    """Store where a delivery stands after all; False: it stood there, or was cancelled."""
    return await tx.fetchval(_SETTLE, delivery, state) is not None


async def lively(tx: Connection, turns: Sequence[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
    """Return the turns of pages in which some contact was reached, or is still to be called."""
    if not turns:
        return set()
    rows = await tx.fetch(_LIVELY, [page for page, _ in turns], [turn for _, turn in turns])
    return {(UUID(int=row[0].int), row[1]) for row in rows}


async def one(tx: Connection, delivery: UUID) -> Delivery | None:
    """Return a delivery."""
    row = await tx.fetchrow(_ONE, delivery)
    return None if row is None else _delivery(row)


async def called(tx: Connection, delivery: UUID) -> list[tuple[str, str]]:
    """Return the channel and address that a delivery went to."""
    return [(row[0], row[1]) for row in await tx.fetch(_CALLED, delivery)]


async def by_sms(tx: Connection, address: str, since: datetime) -> list[tuple[Delivery, bool]]:
    """Return what was sent to a number by SMS and whether it waits for an answer: what does first, then the newest."""
    return [(_delivery(row[:10]), row[10]) for row in await tx.fetch(_BY_SMS, address, since)]
