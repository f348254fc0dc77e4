"""SQL of deliveries to contacts, and of every attempt at them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec

from services.notify.domain.contacts import Way
from shared.database.pool import Connection
from shared.runtime.quarantine import not_held
from shared.wire.ids import uuid7

DeliveryState = Literal["pending", "delivered", "failed"]
QUEUE = "deliveries"
"""Where one is set aside that cannot be called, or whose result cannot be stored."""

_COLUMNS = """
    delivery.id, delivery.page, delivery.notice, delivery.turn, delivery.level, delivery.round, delivery.person,
    delivery.contact, delivery.attempts, delivery.code, delivery.channel, delivery.address, delivery.nth"""
_ADD = """
INSERT INTO delivery (id, page, notice, turn, level, round, person, contact, state, attempts, due_at, made_at, code,
    channel, address, nth)
SELECT id, page, notice, turn, level, round, person, contact, 'pending', 0, due_at, $9, code, channel, address, nth
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::int[], $6::int[], $7::text[], $8::int[],
    $10::timestamptz[], $11::text[], $12::text[], $13::text[], $14::int[])
    AS new(id, page, notice, turn, level, round, person, contact, due_at, code, channel, address, nth)
ON CONFLICT DO NOTHING
"""
# The lease: whoever dies between the claim and the result lets the delivery fall due again.
_CLAIM = f"""
WITH due AS (
    SELECT id FROM delivery WHERE state = 'pending' AND due_at <= $1 AND {not_held(QUEUE, "delivery.id")}
    ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE delivery SET due_at = $3, attempts = attempts + 1, held = NULL
FROM due WHERE delivery.id = due.id
RETURNING {_COLUMNS}
"""
# It was not called: the claim is no attempt.
_HOLD = """
UPDATE delivery SET due_at = new.due_at, held = new.held, attempts = attempts - 1
FROM unnest($1::uuid[], $2::timestamptz[], $3::text[]) AS new(id, due_at, held)
WHERE delivery.id = new.id AND delivery.state = 'pending'
"""
_RELEASE = """
UPDATE delivery SET due_at = $2 FROM page
WHERE page.id = delivery.page AND ($1::text IS NULL OR page.customer = $1)
    AND delivery.held = 'silence' AND delivery.state = 'pending' AND delivery.due_at > $2
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
# Everything that was done, or waits, in the turns and notices of some deliveries. How the last call ended is told
# by its attempt, which a receipt may have changed since.
_BESIDE = f"""
SELECT {_COLUMNS}, delivery.state, delivery.due_at, (
    SELECT result FROM attempt WHERE attempt.delivery = delivery.id ORDER BY started_at DESC, attempt.id DESC LIMIT 1
) AS result
FROM delivery JOIN (
    SELECT id FROM delivery WHERE notice = ANY($1::uuid[])
    UNION
    SELECT id FROM delivery JOIN unnest($2::uuid[], $3::int[]) AS asked(page, turn) USING (page, turn)
) AS found USING (id)
ORDER BY delivery.id
"""
# A contact whose time has not come is called at once when the one before it fails.
_HASTEN = "UPDATE delivery SET due_at = $2 WHERE id = ANY($1::uuid[]) AND state = 'pending' AND attempts = 0"
_REVIVE = """
UPDATE delivery SET state = 'pending', due_at = new.due_at FROM unnest($1::uuid[], $2::timestamptz[]) AS new(id, due_at)
WHERE delivery.id = new.id AND delivery.state = 'failed'
"""
# What was tried in vain for somebody who is paged anew: the newer call is the one that goes on.
_SUPERSEDE = """
UPDATE delivery SET state = 'cancelled'
FROM unnest($1::uuid[], $2::text[], $3::int[]) AS newer(page, person, turn)
WHERE delivery.page = newer.page AND delivery.person = newer.person AND delivery.turn < newer.turn
    AND delivery.state = 'pending' AND delivery.attempts > 0
"""
_CALLED = "SELECT DISTINCT channel, address FROM attempt WHERE delivery = $1"
_ONE = f"SELECT {_COLUMNS} FROM delivery WHERE id = $1"
_BY_SMS = f"""
SELECT {_COLUMNS}, page.state IN ('pending', 'sent', 'exhausted') AS waits
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
    """Its number in the turn: its place in the person's list when it was stored, where no other has that."""
    attempt: int
    """1 is the first."""
    code: str
    way: Way | None
    """None: stored by a version that knew the place only."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A delivery among those of its turn or notice."""

    delivery: Delivery
    state: Literal["pending", "delivered", "failed", "cancelled"]
    due_at: datetime
    result: str | None
    """How its last call ended."""

    @property
    def in_vain(self) -> bool:
        """It was given up for something that passes: the other side was busy, away, or nobody knows."""
        return self.state == "failed" and self.result in {"temporary", "unknown"}


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery to add."""

    page: UUID | None
    person: str
    contact: int
    due_at: datetime
    way: Way | None = None
    notice: UUID | None = None
    turn: int = 0
    level: int = 0
    round: int = 0


def following(delivery: Delivery, contact: int, way: Way, now: datetime) -> NewDelivery:
    """Return the same for a further contact, in place of one that failed; `contact`: a number that is free."""
    return NewDelivery(
        delivery.page,
        delivery.person,
        contact,
        now,
        way=way,
        notice=delivery.notice,
        turn=delivery.turn,
        level=delivery.level,
        round=delivery.round,
    )


def promised(wanted: NewDelivery) -> Beside:
    """Return what has just been added, as it stands among the others of its turn."""
    delivery = Delivery(
        uuid7(),
        wanted.page,
        wanted.notice,
        wanted.turn,
        wanted.level,
        wanted.round,
        wanted.person,
        wanted.contact,
        0,
        "",
        wanted.way,
    )
    return Beside(delivery, "pending", wanted.due_at, None)


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


async def add(tx: Connection, wanted: Sequence[NewDelivery], now: datetime) -> None:
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
            [None if one.way is None else one.way.channel for one in wanted],
            [None if one.way is None else one.way.address for one in wanted],
            [None if one.way is None else one.way.nth for one in wanted],
        )


async def claim(tx: Connection, now: datetime, limit: int, lease: timedelta) -> list[Delivery]:
    """Claim deliveries that are due until the lease is over."""
    return [_delivery(row) for row in await tx.fetch(_CLAIM, now, limit, now + lease)]


def _delivery(row: Any) -> Delivery:
    id_, page, notice, turn, level, round_, person, contact, attempts, code, channel, address, nth = row
    way = None if channel is None else Way(channel, address, nth)
    return Delivery(
        UUID(int=id_.int), _uuid(page), _uuid(notice), turn, level, round_, person, contact, attempts, code or "", way
    )


def _uuid(value: Any) -> UUID | None:
    return None if value is None else UUID(int=value.int)


async def hold(tx: Connection, held: Sequence[tuple[UUID, datetime, str]]) -> None:
    """Let what was claimed wait until a moment, for a reason, without being called."""
    if held:
        await tx.execute(_HOLD, [one[0] for one in held], [one[1] for one in held], [one[2] for one in held])


async def release(tx: Connection, customer: str | None, now: datetime) -> None:
    """Let what a silence holds fall due, of one customer or all; what another one holds too is held again."""
    await tx.execute(_RELEASE, customer, now)


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


async def beside(tx: Connection, some: Sequence[Delivery]) -> list[Beside]:
    """Return every delivery of the turns and notices that some are of."""
    notices = sorted({one.notice for one in some if one.notice is not None})
    turns = sorted({(one.page, one.turn) for one in some if one.page is not None})
    rows = await tx.fetch(_BESIDE, notices, [page for page, _ in turns], [turn for _, turn in turns]) if some else []
    return [Beside(_delivery(row[:13]), *row[13:]) for row in rows]


async def hasten(tx: Connection, some: Sequence[UUID], now: datetime) -> None:
    """Let contacts that wait for their time be called at once."""
    if some:
        await tx.execute(_HASTEN, some, now)


async def revive(tx: Connection, again: Sequence[tuple[UUID, datetime]]) -> None:
    """Call once more, at some moments, what was given up."""
    if again:
        await tx.execute(_REVIVE, [id_ for id_, _ in again], [at for _, at in again])


async def supersede(tx: Connection, newer: Sequence[NewDelivery]) -> None:
    """Give up what was tried in vain for people who are paged anew."""
    of_pages = [one for one in newer if one.page is not None]
    if of_pages:
        await tx.execute(
            _SUPERSEDE, [one.page for one in of_pages], [one.person for one in of_pages], [one.turn for one in of_pages]
        )


async def one(tx: Connection, delivery: UUID) -> Delivery | None:
    """Return a delivery."""
    row = await tx.fetchrow(_ONE, delivery)
    return None if row is None else _delivery(row)


async def called(tx: Connection, delivery: UUID) -> list[tuple[str, str]]:
    """Return the channel and address that a delivery went to."""
    return [(row[0], row[1]) for row in await tx.fetch(_CALLED, delivery)]


async def by_sms(tx: Connection, address: str, since: datetime) -> list[tuple[Delivery, bool]]:
    """Return what was sent to a number by SMS and whether it waits for an answer: what does first, then the newest."""
    return [(_delivery(row[:13]), row[13]) for row in await tx.fetch(_BY_SMS, address, since)]
