"""All SQL of ticketing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import asyncpg
import msgspec

from services.ticketing.domain import Entry, Outcome
from shared.cursor import Place
from shared.db import Connection
from shared.events import TicketV1

_NUMBERS = "SELECT nextval('ticket_number') FROM generate_series(1, $1)"
_MERGED = "SELECT alert, version, ticket FROM merged_alert WHERE alert = ANY($1::uuid[])"
_REMEMBER = """
INSERT INTO merged_alert (alert, version, ticket) SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[])
ON CONFLICT (alert) DO UPDATE SET version = excluded.version
"""
_SEEN_PAGES = "SELECT page, version FROM seen_page WHERE page = ANY($1::uuid[])"
_REMEMBER_PAGES = """
INSERT INTO seen_page (page, version) SELECT * FROM unnest($1::uuid[], $2::int[])
ON CONFLICT (page) DO UPDATE SET version = excluded.version
"""
_BY_ID = "SELECT body FROM ticket WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"
_BY_PROBLEM = """
SELECT body FROM ticket WHERE id IN (
    SELECT DISTINCT ON (dedup_key) id FROM ticket
    WHERE dedup_key = ANY($1::text[]) AND (state <> 'cancelled')
    ORDER BY dedup_key, (state IN ('open', 'acknowledged', 'in_progress', 'waiting')) DESC, opened_at DESC
) ORDER BY id FOR UPDATE
"""
_PREVIOUS = """
SELECT asked.key, earlier.number FROM unnest($1::text[]) AS asked(key)
CROSS JOIN LATERAL (
    SELECT number FROM ticket WHERE dedup_key = asked.key ORDER BY opened_at DESC LIMIT 5
) AS earlier
"""
_SAVE = """
INSERT INTO ticket (id, number, version, customer, state, severity, assignee, dedup_key, opened_at, resolved_at, body)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::timestamptz[], $10::timestamptz[], $11::text[])
ON CONFLICT (id) DO UPDATE SET version = excluded.version, state = excluded.state, severity = excluded.severity,
    assignee = excluded.assignee, opened_at = excluded.opened_at, resolved_at = excluded.resolved_at,
    body = excluded.body
"""
_APPEND = """
INSERT INTO timeline (ticket, at, actor, what, detail)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[])
"""
_ONE = "SELECT body FROM ticket WHERE id = $1"
_ONE_LOCKED = "SELECT body FROM ticket WHERE id = $1 FOR UPDATE"
_LIST = """
SELECT body FROM ticket
WHERE ($1::text[] IS NULL OR customer = ANY($1)) AND ($2::text[] IS NULL OR state = ANY($2))
    AND ($3::text IS NULL OR assignee = $3) AND ($4::text[] IS NULL OR severity = ANY($4))
    AND ($5::timestamptz IS NULL OR (opened_at, id) < ($5, $6::uuid))
ORDER BY opened_at DESC, id DESC LIMIT $7
"""
_TIMELINE = """
SELECT line, ticket, at, actor, what, detail FROM timeline
WHERE ticket = $1 AND line > $2 ORDER BY line LIMIT $3
"""
_OPEN_BY_SEVERITY = """
SELECT severity, count(*)::int FROM ticket
WHERE state IN ('open', 'acknowledged', 'in_progress', 'waiting') GROUP BY severity
"""

_decode = msgspec.json.Decoder(TicketV1).decode
_encode = msgspec.json.Encoder().encode

AlreadyOpen = asyncpg.UniqueViolationError
"""Raised by `save` when another ticket of the same problem is open."""


async def numbers(tx: Connection, count: int) -> list[int]:
    """Return fresh ticket numbers."""
    return [row[0] for row in await tx.fetch(_NUMBERS, count)] if count else []


async def merged(tx: Connection, alerts: Sequence[UUID]) -> dict[UUID, tuple[int, UUID]]:
    """Return the newest version taken in of each alert, and the ticket that took it."""
    return {UUID(int=row[0].int): (row[1], UUID(int=row[2].int)) for row in await tx.fetch(_MERGED, alerts)}


async def remember(tx: Connection, taken: Mapping[UUID, tuple[int, UUID]]) -> None:
    """Store the newest version taken in of each alert."""
    if taken:
        versions, tickets = [v for v, _ in taken.values()], [t for _, t in taken.values()]
        await tx.execute(_REMEMBER, list(taken), versions, tickets)


async def seen_pages(tx: Connection, pages: Sequence[UUID]) -> dict[UUID, int]:
    """Return the newest version that was taken in of each page."""
    return {UUID(int=row[0].int): row[1] for row in await tx.fetch(_SEEN_PAGES, pages)}


async def remember_pages(tx: Connection, versions: Mapping[UUID, int]) -> None:
    """Store the newest version that was taken in of each page."""
    if versions:
        await tx.execute(_REMEMBER_PAGES, list(versions), list(versions.values()))


async def locked(tx: Connection, tickets: Sequence[UUID]) -> dict[UUID, TicketV1]:
    """Return tickets that nobody else can change until the transaction ends."""
    found = [_decode(row[0]) for row in await tx.fetch(_BY_ID, tickets)]
    return {ticket.id: ticket for ticket in found}


async def newest_of_problems(tx: Connection, dedup_keys: Sequence[str]) -> dict[str, TicketV1]:
    """Return each problem's open ticket, or else its newest, locked."""
    found = [_decode(row[0]) for row in await tx.fetch(_BY_PROBLEM, dedup_keys)]
    return {ticket.dedup_key: ticket for ticket in found}


async def previous_numbers(tx: Connection, dedup_keys: Sequence[str]) -> dict[str, list[str]]:
    """Return the numbers of the earlier tickets of each problem, newest first."""
    found: dict[str, list[str]] = {}
    for row in await tx.fetch(_PREVIOUS, dedup_keys):
        found.setdefault(row[0], []).append(str(row[1]))
    return found


async def save(tx: Connection, outcomes: Sequence[Outcome]) -> None:
    """Store the newest state of each ticket and every line that was left. Raises AlreadyOpen."""
    last = {outcome.ticket.id: outcome.ticket for outcome in outcomes if outcome.event is not None}
    tickets = list(last.values())
    if tickets:
        await tx.execute(
            _SAVE,
            [t.id for t in tickets],
            [t.number for t in tickets],
            [t.version for t in tickets],
            [t.customer for t in tickets],
            [t.state for t in tickets],
            [t.severity for t in tickets],
            [t.assignee for t in tickets],
            [t.dedup_key for t in tickets],
            [t.opened_at for t in tickets],
            [t.resolved_at for t in tickets],
            [_encode(t).decode() for t in tickets],
        )
    await append(tx, [line for outcome in outcomes for line in outcome.entries])


async def append(tx: Connection, entries: Sequence[Entry]) -> None:
    """Append lines to timelines."""
    if entries:
        await tx.execute(
            _APPEND,
            [e.ticket for e in entries],
            [e.at for e in entries],
            [e.actor for e in entries],
            [e.what for e in entries],
            [_encode(e.detail).decode() for e in entries],
        )


async def one(tx: Connection, ticket: UUID) -> TicketV1 | None:
    """Return a ticket."""
    body = await tx.fetchval(_ONE, ticket)
    return None if body is None else _decode(body)


async def one_locked(tx: Connection, ticket: UUID) -> TicketV1 | None:
    """Return a ticket that nobody else can change until the transaction ends."""
    body = await tx.fetchval(_ONE_LOCKED, ticket)
    return None if body is None else _decode(body)


async def listed(
    tx: Connection,
    *,
    customers: Sequence[str] | None,
    states: Sequence[str] | None,
    assignee: str | None,
    severities: Sequence[str] | None,
    after: Place | None,
    limit: int,
) -> list[TicketV1]:
    """Return tickets, newest opening first."""
    at, id_ = after or (None, None)
    rows = await tx.fetch(_LIST, customers, states, assignee, severities, at, id_, limit)
    return [_decode(row[0]) for row in rows]


async def timeline(tx: Connection, ticket: UUID, after: int, limit: int) -> list[tuple[int, Entry]]:
    """Return a ticket's lines after a place, oldest first, each with its place."""
    rows = await tx.fetch(_TIMELINE, ticket, after, limit)
    return [
        (
            row["line"],
            Entry(
                ticket=UUID(int=row["ticket"].int),
                at=row["at"],
                actor=row["actor"],
                what=row["what"],
                detail=msgspec.json.decode(row["detail"]),
            ),
        )
        for row in rows
    ]


async def open_by_severity(tx: Connection) -> dict[str, int]:
    """Return how many tickets are worked on, per severity."""
    return {row[0]: row[1] for row in await tx.fetch(_OPEN_BY_SEVERITY)}
