"""All SQL of notify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec

from services.notify.domain import Page
from shared.cursor import Place
from shared.db import Connection
from shared.events import FollowUpDueV1
from shared.ids import uuid7

_SEEN = "SELECT ticket, version FROM seen_ticket WHERE ticket = ANY($1::uuid[])"
_REMEMBER = """
INSERT INTO seen_ticket (ticket, version) SELECT * FROM unnest($1::uuid[], $2::int[])
ON CONFLICT (ticket) DO UPDATE SET version = excluded.version
"""
_OF_TICKETS = "SELECT body, traceparent FROM page WHERE ticket = ANY($1::uuid[]) ORDER BY id FOR UPDATE"
_SAVE = """
INSERT INTO page (id, version, ticket, opening, customer, severity, state, opened_at, due_at, traceparent, body)
SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::int[], $5::text[], $6::text[], $7::text[],
    $8::timestamptz[], $9::timestamptz[], $10::text[], $11::text[])
ON CONFLICT (id) DO UPDATE SET version = excluded.version, state = excluded.state, due_at = excluded.due_at,
    body = excluded.body
"""
_DUE = """
SELECT body, traceparent FROM page WHERE due_at <= $1 ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_ONE = "SELECT body FROM page WHERE id = $1"
_ONE_LOCKED = "SELECT body, traceparent FROM page WHERE id = $1 FOR UPDATE"
_LIST = """
SELECT body FROM page
WHERE ($1::text[] IS NULL OR customer = ANY($1)) AND ($2::text IS NULL OR state = $2)
    AND ($3::timestamptz IS NULL OR (opened_at, id) < ($3, $4::uuid))
ORDER BY opened_at DESC, id DESC LIMIT $5
"""
_OLDEST = "SELECT min(opened_at) FROM page WHERE due_at IS NOT NULL"

_ADD_DELIVERIES = """
INSERT INTO delivery (id, page, turn, level, round, person, contact, state, attempts, due_at)
SELECT id, page, turn, level, round, person, contact, 'pending', 0, due_at
FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::int[], $5::int[], $6::text[], $7::int[], $8::timestamptz[])
    AS new(id, page, turn, level, round, person, contact, due_at)
ON CONFLICT (page, turn, contact) DO NOTHING
"""
_CANCEL = "UPDATE delivery SET state = 'cancelled' WHERE page = ANY($1::uuid[]) AND state = 'pending'"
# The lease: whoever dies between the claim and the result lets the delivery fall due again.
_CLAIM = """
WITH due AS (
    SELECT id FROM delivery WHERE state = 'pending' AND due_at <= $1 ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE delivery SET due_at = $3, attempts = attempts + 1
FROM due, page WHERE delivery.id = due.id AND page.id = delivery.page
RETURNING delivery.id, delivery.turn, delivery.level, delivery.round, delivery.person, delivery.contact,
    delivery.attempts, page.body, page.traceparent
"""
_INTENT = """
INSERT INTO attempt (id, delivery, page, channel, address, started_at)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[])
"""
_RESULT = """
UPDATE attempt SET finished_at = $2, result = $3, receipt = $4, detail = $5 WHERE id = $1 AND finished_at IS NULL
"""
_AFTER = "UPDATE delivery SET state = $2, due_at = $3 WHERE id = $1 AND state = 'pending' RETURNING id"
_ATTEMPTS = """
SELECT attempt.channel, attempt.address, attempt.started_at, attempt.finished_at, attempt.result, attempt.receipt,
    attempt.detail, delivery.person, delivery.level, delivery.round, delivery.id AS delivery
FROM attempt JOIN delivery ON delivery.id = attempt.delivery
WHERE attempt.page = $1 ORDER BY attempt.started_at, attempt.id LIMIT 500
"""

_ADD_LETTERS = """
INSERT INTO letter (id, customer, respondent, ticket, opening, state, due_at, traceparent, body)
SELECT id, customer, respondent, ticket, opening, 'pending', $6, traceparent, body
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::int[], $7::text[], $8::text[])
    AS new(id, customer, respondent, ticket, opening, traceparent, body)
ON CONFLICT (id) DO NOTHING
"""
_CLAIM_LETTERS = """
WITH due AS (SELECT id FROM letter WHERE due_at <= $1 ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED)
UPDATE letter SET due_at = $3, attempts = attempts + 1 FROM due WHERE letter.id = due.id
RETURNING letter.body, letter.attempts, letter.traceparent
"""
_FINISH_LETTER = """
UPDATE letter SET state = $2, due_at = $3, detail = $4, finished_at = $5 WHERE id = $1 AND state = 'pending'
"""
_FORGET_LETTERS = "DELETE FROM letter WHERE finished_at < $1"
_NAMING = "SELECT body, traceparent FROM page WHERE customer = $1 AND position($2 IN body) > 0 ORDER BY id FOR UPDATE"
_SCRUB = "UPDATE page SET body = $2 WHERE id = $1"
_ERASE_LETTERS = "DELETE FROM letter WHERE customer = $1 AND respondent = $2"

_decode = msgspec.json.Decoder(Page).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored page and the trace of the answer that led to it."""

    page: Page
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One contact of one person in one turn; `id` is the idempotency key."""

    id: UUID
    page: Page
    turn: int
    level: int
    round: int
    person: str
    contact: int
    attempt: int
    """1 is the first."""
    traceparent: str | None


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


async def seen(tx: Connection, tickets: Sequence[UUID]) -> dict[UUID, int]:
    """Return the newest version that was acted on of each ticket."""
    return {UUID(int=row[0].int): row[1] for row in await tx.fetch(_SEEN, tickets)}


async def remember(tx: Connection, versions: Mapping[UUID, int]) -> None:
    """Store the newest version that was acted on of each ticket."""
    if versions:
        await tx.execute(_REMEMBER, list(versions), list(versions.values()))


async def pages_of(tx: Connection, tickets: Sequence[UUID]) -> list[Page]:
    """Return every page of some tickets, locked."""
    return [_decode(row[0]) for row in await tx.fetch(_OF_TICKETS, tickets)]


async def save(tx: Connection, kept: Sequence[Kept]) -> None:
    """Store the newest state of pages; what no longer waits has its deliveries cancelled."""
    last = {one.page.id: one for one in kept}
    if not last:
        return
    pages = [one.page for one in last.values()]
    await tx.execute(
        _SAVE,
        [p.id for p in pages],
        [p.version for p in pages],
        [p.ticket for p in pages],
        [p.opening for p in pages],
        [p.customer for p in pages],
        [p.severity for p in pages],
        [p.state for p in pages],
        [p.opened_at for p in pages],
        [p.due_at for p in pages],
        [one.traceparent for one in last.values()],
        [_encode(p).decode() for p in pages],
    )
    over = [p.id for p in pages if p.due_at is None]
    if over:
        await tx.execute(_CANCEL, over)


async def due_pages(tx: Connection, now: datetime, limit: int) -> list[Kept]:
    """Return pages whose next person is due, locked; those that another process holds are left to it."""
    return [Kept(_decode(row[0]), row[1]) for row in await tx.fetch(_DUE, now, limit)]


async def add_deliveries(tx: Connection, wanted: Sequence[tuple[Page, str, int, datetime]]) -> None:
    """Add what is to be sent: the page in its present turn, the person, the contact's place, and when."""
    if wanted:
        await tx.execute(
            _ADD_DELIVERIES,
            [uuid7() for _ in wanted],
            [page.id for page, _, _, _ in wanted],
            [page.turn for page, _, _, _ in wanted],
            [page.level for page, _, _, _ in wanted],
            [page.round for page, _, _, _ in wanted],
            [person for _, person, _, _ in wanted],
            [contact for _, _, contact, _ in wanted],
            [at for _, _, _, at in wanted],
        )


async def next_contact(tx: Connection, delivery: Delivery, at: datetime) -> None:
    """Go on with the person's next contact."""
    await tx.execute(
        _ADD_DELIVERIES,
        [uuid7()],
        [delivery.page.id],
        [delivery.turn],
        [delivery.level],
        [delivery.round],
        [delivery.person],
        [delivery.contact + 1],
        [at],
    )


async def claim(tx: Connection, now: datetime, limit: int, lease: timedelta) -> list[Delivery]:
    """Claim deliveries that are due until the lease is over."""
    return [
        Delivery(
            id=UUID(int=row["id"].int),
            page=_decode(row["body"]),
            turn=row["turn"],
            level=row["level"],
            round=row["round"],
            person=row["person"],
            contact=row["contact"],
            attempt=row["attempts"],
            traceparent=row["traceparent"],
        )
        for row in await tx.fetch(_CLAIM, now, limit, now + lease)
    ]


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be called."""

    id: UUID
    delivery: UUID
    page: UUID
    channel: str
    address: str


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
            [now] * len(intents),
        )


async def finish_attempt(
    tx: Connection, attempt: UUID, *, result: str, receipt: str | None, detail: str | None, now: datetime
) -> None:
    """Store what came of a call."""
    await tx.execute(_RESULT, attempt, now, result, receipt, detail)


async def finish_delivery(
    tx: Connection, delivery: UUID, state: Literal["pending", "delivered", "failed"], due_at: datetime
) -> bool:
    """Store where a delivery stands; False when it was cancelled or finished meanwhile."""
    return await tx.fetchval(_AFTER, delivery, state, due_at) is not None


async def one(tx: Connection, page: UUID) -> Page | None:
    """Return a page."""
    body = await tx.fetchval(_ONE, page)
    return None if body is None else _decode(body)


async def one_locked(tx: Connection, page: UUID) -> Kept | None:
    """Return a page that nobody else can change until the transaction ends."""
    row = await tx.fetchrow(_ONE_LOCKED, page)
    return None if row is None else Kept(_decode(row[0]), row[1])


async def listed(
    tx: Connection, *, customers: Sequence[str] | None, state: str | None, after: Place | None, limit: int
) -> list[Page]:
    """Return pages, newest first."""
    at, id_ = after or (None, None)
    return [_decode(row[0]) for row in await tx.fetch(_LIST, customers, state, at, id_, limit)]


async def attempts(tx: Connection, page: UUID) -> list[Attempt]:
    """Return every call that was made for a page, oldest first."""
    rows = await tx.fetch(_ATTEMPTS, page)
    found: list[Attempt] = []
    for row in rows:
        facts: dict[str, Any] = dict(row)
        facts["delivery"] = UUID(int=facts["delivery"].int)
        found.append(Attempt(**facts))
    return found


# ---- letters to respondents


@dataclass(frozen=True, slots=True)
class Letter:
    """A question to a respondent whether it was put right."""

    message: FollowUpDueV1
    attempt: int
    """1 is the first."""
    traceparent: str | None


async def add_letters(tx: Connection, letters: Sequence[tuple[FollowUpDueV1, str | None]], now: datetime) -> None:
    """Add letters, each with the trace of the answer that led to it."""
    if letters:
        await tx.execute(
            _ADD_LETTERS,
            [m.id for m, _ in letters],
            [m.customer for m, _ in letters],
            [m.respondent for m, _ in letters],
            [m.ticket for m, _ in letters],
            [m.opening for m, _ in letters],
            now,
            [trace for _, trace in letters],
            [_encode(m).decode() for m, _ in letters],
        )


async def claim_letters(tx: Connection, now: datetime, limit: int, lease: timedelta) -> list[Letter]:
    """Claim letters that are due until the lease is over, and count the attempt before it is made."""
    rows = await tx.fetch(_CLAIM_LETTERS, now, limit, now + lease)
    return [Letter(msgspec.json.decode(row[0], type=FollowUpDueV1), row[1], row[2]) for row in rows]


async def finish_letter(
    tx: Connection,
    letter: UUID,
    state: Literal["pending", "sent", "failed"],
    detail: str,
    *,
    due_at: datetime | None,
    now: datetime,
) -> None:
    """Store what came of an attempt; `due_at`: when to try again."""
    await tx.execute(_FINISH_LETTER, letter, state, due_at, detail[:500], None if state == "pending" else now)


async def forget_letters(tx: Connection, before: datetime) -> None:
    """Delete what was finished before a moment."""
    await tx.execute(_FORGET_LETTERS, before)


# ---- to be forgotten


async def naming(tx: Connection, customer: str, respondent: str) -> list[Page]:
    """Return a customer's pages that hold a respondent's name, locked."""
    asked = _encode(respondent).decode()  # as the page has it: quoted and escaped
    return [_decode(row[0]) for row in await tx.fetch(_NAMING, customer, asked)]


async def scrub(tx: Connection, page: Page) -> None:
    """Replace what is kept of a page."""
    await tx.execute(_SCRUB, page.id, _encode(page).decode())


async def erase_letters(tx: Connection, customer: str, respondent: str) -> int:
    """Delete the letters to a respondent; return how many."""
    return int((await tx.execute(_ERASE_LETTERS, customer, respondent)).split()[-1])


async def oldest_waiting(tx: Connection) -> datetime | None:
    """Return when the oldest page was opened that nobody has answered."""
    return await tx.fetchval(_OLDEST)
