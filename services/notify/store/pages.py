"""SQL of pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from services.notify.domain.page import WAITING, Page
from shared.database.pool import Connection
from shared.http.cursor import Place
from shared.runtime.logs import Log
from shared.runtime.quarantine import judging, not_held
from shared.wire.events import Severity

log = Log("notify")

QUEUE = "pages"
"""Where a page that cannot be decided is set aside."""

_SEEN = "SELECT ticket, version, late, severity FROM seen_ticket WHERE ticket = ANY($1::uuid[])"
_REMEMBER = """
INSERT INTO seen_ticket (ticket, version, late, severity, seen_at)
SELECT *, $5::timestamptz FROM unnest($1::uuid[], $2::int[], $3::int[], $4::text[])
ON CONFLICT (ticket) DO UPDATE SET version = excluded.version, late = excluded.late, severity = excluded.severity,
    seen_at = excluded.seen_at
"""
_OF_TICKETS = "SELECT body, traceparent FROM page WHERE ticket = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE"
_SAVE = """
INSERT INTO page (id, version, ticket, opening, customer, severity, state, opened_at, due_at, lead, held, traceparent,
    body)
SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::int[], $5::text[], $6::text[], $7::text[],
    $8::timestamptz[], $9::timestamptz[], $10::uuid[], $11::text[], $12::text[], $13::text[])
ON CONFLICT (id) DO UPDATE SET version = excluded.version, severity = excluded.severity, state = excluded.state,
    due_at = excluded.due_at, lead = excluded.lead, held = excluded.held, body = excluded.body
"""
_CANCEL = "UPDATE delivery SET state = 'cancelled' WHERE page = ANY($1::uuid[]) AND state = 'pending'"
_DUE = f"""
SELECT id, body, traceparent FROM page WHERE due_at <= $1 AND {not_held(QUEUE, "page.id")}
ORDER BY due_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
"""
_SOME = "SELECT id, body, traceparent FROM page WHERE id = ANY($1::uuid[])"
_LEADING = f"SELECT id, body, traceparent FROM page WHERE id = ANY($1::uuid[]) AND {not_held(QUEUE, 'page.id')}"
_ONE_LOCKED = "SELECT body, traceparent FROM page WHERE id = $1 FOR NO KEY UPDATE"
_SOME_LOCKED = "SELECT body, traceparent FROM page WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE"
_WITH_FOLLOWERS_LOCKED = "SELECT body, traceparent FROM page WHERE id = $1 OR lead = $1 ORDER BY id FOR NO KEY UPDATE"
_FOLLOWERS = "SELECT lead, count(*) FROM page WHERE lead = ANY($1::uuid[]) GROUP BY lead"
_HELD_LOCKED = """
SELECT body, traceparent FROM page
WHERE held = 'silence' AND state IN ('pending', 'sent', 'exhausted') AND ($1::text IS NULL OR customer = $1)
ORDER BY id FOR NO KEY UPDATE
"""
_LIST = """
SELECT body FROM page
WHERE ($1::text[] IS NULL OR customer = ANY($1)) AND ($2::text IS NULL OR state = $2)
    AND ($3::timestamptz IS NULL OR (opened_at, id) < ($3, $4::uuid))
ORDER BY opened_at DESC, id DESC LIMIT $5
"""
_ACTIVE = "SELECT body FROM page WHERE state IN ('sent', 'exhausted', 'acknowledged') ORDER BY opened_at, id"
_PAGED = "SELECT DISTINCT ticket FROM page WHERE ticket = ANY($1::uuid[])"
_OLDEST = "SELECT min(opened_at) FROM page WHERE state IN ('pending', 'sent', 'exhausted')"
_RECENT = """
SELECT customer, count(*) FROM page WHERE customer = ANY($1::text[]) AND opened_at > $2 AND lead IS NULL
GROUP BY customer
"""
# Looked for as text: PostgreSQL reads all of a body as JSON for one field of it, and refuses a NUL in any other.
_LEADS = f"""
SELECT DISTINCT ON (customer) id, body, traceparent FROM page
WHERE customer = ANY($1::text[]) AND opened_at > $2 AND lead IS NULL AND state IN ('pending', 'sent', 'exhausted')
    AND position('"storm":true' IN body) > 0 AND {not_held(QUEUE, "page.id")}
ORDER BY customer, opened_at DESC
"""
_OVERDUE = f"SELECT count(*) FROM page WHERE due_at < $1 AND {not_held(QUEUE, 'page.id')}"
_THAT_SAY = """
SELECT body, traceparent FROM page
WHERE customer = $1 AND EXISTS (SELECT FROM unnest($2::text[]) AS asked(said) WHERE position(said IN body) > 0)
ORDER BY id FOR NO KEY UPDATE
"""
_FORGET = """
DELETE FROM page
WHERE id IN (SELECT id FROM page WHERE opened_at < $1 AND state = 'resolved' ORDER BY opened_at LIMIT $2)
"""
_FORGET_SEEN = """
DELETE FROM seen_ticket WHERE ticket IN (SELECT ticket FROM seen_ticket WHERE seen_at < $1 ORDER BY seen_at LIMIT $2)
"""
_SCRUB = "UPDATE page SET body = $2 WHERE id = $1"

_decode = msgspec.json.Decoder(Page).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A stored page and the trace of the answer that led to it."""

    page: Page
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class SeenTicket:
    """What was acted on of a ticket."""

    version: int
    late: int
    """Clocks that had run out."""
    severity: Severity | None
    """None: a process of the version before saw it."""


async def seen(tx: Connection, tickets: Sequence[UUID]) -> dict[UUID, SeenTicket]:
    """Return what was acted on last of each ticket."""
    return {UUID(int=row[0].int): SeenTicket(row[1], row[2], row[3]) for row in await tx.fetch(_SEEN, tickets)}


async def remember(tx: Connection, versions: Mapping[UUID, SeenTicket], now: datetime) -> None:
    """Store what was acted on last of each ticket."""
    if versions:
        told = versions.values()
        await tx.execute(
            _REMEMBER,
            list(versions),
            [one.version for one in told],
            [one.late for one in told],
            [one.severity for one in told],
            now,
        )


async def of_tickets(tx: Connection, tickets: Sequence[UUID]) -> list[Page]:
    """Return every page of some tickets, locked."""
    return [_decode(row[0]) for row in await tx.fetch(_OF_TICKETS, tickets)]


async def save(tx: Connection, kept: Sequence[StoredPage]) -> None:
    """Store the newest state of pages; what no longer waits has its deliveries cancelled."""
    last = {one.page.id: one for one in kept}
    if not last:
        return
    # One that leads is stored before those that follow it.
    ordered = sorted(last.values(), key=lambda one: one.page.lead is not None)
    pages = [one.page for one in ordered]
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
        [p.lead for p in pages],
        [p.held for p in pages],
        [one.traceparent for one in ordered],
        [_encode(p).decode() for p in pages],
    )
    over = [p.id for p in pages if p.state not in WAITING]
    if over:
        await tx.execute(_CANCEL, over)


async def due(tx: Connection, now: datetime, limit: int) -> list[StoredPage]:
    """Return pages whose next person is due, locked; those that another process holds are left to it."""
    found: list[StoredPage] = []
    for row in await tx.fetch(_DUE, now, limit):
        with judging(QUEUE, [row["id"]]):
            found.append(_kept(row))
    return found


def _kept(row: Any) -> StoredPage:
    return StoredPage(_decode(row["body"]), row["traceparent"])


def _readable(rows: Iterable[Any]) -> list[Page]:
    """Return the pages that can be read: one that cannot leads nobody, and is set aside when it is due itself."""
    found: list[Page] = []
    for row in rows:
        try:
            found.append(_decode(row["body"]))
        except msgspec.DecodeError as error:
            log.error("page cannot be read", page=row["id"], why=str(error))
    return found


async def overdue(tx: Connection, before: datetime) -> int:
    """Return how many pages were due before a moment and are taken up by nobody."""
    return await tx.fetchval(_OVERDUE, before)


async def one(tx: Connection, page: UUID) -> Page | None:
    """Return a page."""
    return (await some(tx, [page])).get(page)


async def some(tx: Connection, pages: Sequence[UUID]) -> dict[UUID, Page]:
    """Return pages by id."""
    return {id_: kept.page for id_, kept in (await kept_of(tx, pages)).items()}


async def kept_of(tx: Connection, pages: Sequence[UUID]) -> dict[UUID, StoredPage]:
    """Return pages by id, with their traces."""
    found = [_kept(row) for row in await tx.fetch(_SOME, pages)] if pages else []
    return {kept.page.id: kept for kept in found}


async def leading(tx: Connection, pages: Sequence[UUID]) -> dict[UUID, Page]:
    """Return those of some pages that others can follow, by id: for one that is set aside nobody is paged."""
    return {page.id: page for page in _readable(await tx.fetch(_LEADING, pages) if pages else [])}


async def one_locked(tx: Connection, page: UUID) -> StoredPage | None:
    """Return a page that nobody else can change until the transaction ends."""
    row = await tx.fetchrow(_ONE_LOCKED, page)
    return None if row is None else StoredPage(_decode(row[0]), row[1])


async def some_locked(tx: Connection, pages: Sequence[UUID]) -> dict[UUID, StoredPage]:
    """Return pages by id, locked."""
    found = [StoredPage(_decode(row[0]), row[1]) for row in await tx.fetch(_SOME_LOCKED, pages)] if pages else []
    return {kept.page.id: kept for kept in found}


async def with_followers_locked(tx: Connection, page: UUID) -> list[StoredPage]:
    """Return a page, then those that it is sent for, locked in the order of ids, as everybody locks pages.

    A statement that waited for a lock does not see who has come to follow meanwhile: it is asked until nobody has.
    """
    found: list[StoredPage] = []
    known = -1
    while len(found) > known:
        known = len(found)
        found = [StoredPage(_decode(row[0]), row[1]) for row in await tx.fetch(_WITH_FOLLOWERS_LOCKED, page)]
    return sorted(found, key=lambda kept: kept.page.id != page)


async def followers(tx: Connection, leads: Sequence[UUID]) -> dict[UUID, int]:
    """Return how many pages follow each."""
    return {UUID(int=row[0].int): row[1] for row in await tx.fetch(_FOLLOWERS, leads)} if leads else {}


async def held_locked(tx: Connection, customer: str | None) -> list[StoredPage]:
    """Return the pages that a silence holds, of one customer or all, locked."""
    return [StoredPage(_decode(row[0]), row[1]) for row in await tx.fetch(_HELD_LOCKED, customer)]


async def listed(
    tx: Connection, *, customers: Sequence[str] | None, state: str | None, after: Place | None, limit: int
) -> list[Page]:
    """Return pages, newest first."""
    at, id_ = after or (None, None)
    return [_decode(row[0]) for row in await tx.fetch(_LIST, customers, state, at, id_, limit)]


async def recent(tx: Connection, customers: Sequence[str], since: datetime) -> dict[str, int]:
    """Return how many pages of each customer were opened lately that are sent on their own."""
    return {row[0]: row[1] for row in await tx.fetch(_RECENT, customers, since)}


async def leads(tx: Connection, customers: Sequence[str], since: datetime) -> dict[str, Page]:
    """Return each customer's newest page that leads a storm and waits."""
    return {page.customer: page for page in _readable(await tx.fetch(_LEADS, customers, since))}


async def active(tx: Connection) -> list[Page]:
    """Return every page that somebody is called for, or has taken, and that is not over."""
    return [_decode(row[0]) for row in await tx.fetch(_ACTIVE)]


async def paged(tx: Connection, tickets: Sequence[UUID]) -> set[UUID]:
    """Return those of some tickets that have a page."""
    return {UUID(int=row[0].int) for row in await tx.fetch(_PAGED, tickets)}


async def oldest_waiting(tx: Connection) -> datetime | None:
    """Return when the oldest page was opened that nobody has answered."""
    return await tx.fetchval(_OLDEST)


# ---- to be forgotten


async def forget(tx: Connection, before: datetime, limit: int) -> None:
    """Delete pages that are over, with what was sent for them, that are older than the directory keeps, some a time."""
    await tx.execute(_FORGET, before, limit)
    await tx.execute(_FORGET_SEEN, before, limit)


async def that_say(tx: Connection, customer: str, texts: Sequence[str]) -> list[Page]:
    """Return a customer's pages that hold one of some texts, such as a respondent or an answer's id, locked."""
    asked = [_encode(one).decode() for one in texts]  # as the page has it: quoted and escaped
    return [_decode(row[0]) for row in await tx.fetch(_THAT_SAY, customer, asked)]


async def scrub(tx: Connection, page: Page) -> None:
    """Replace what is kept of a page."""
    await tx.execute(_SCRUB, page.id, _encode(page).decode())
