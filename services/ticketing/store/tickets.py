"""SQL of tickets, what was merged into them, and their timelines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from services.ticketing.domain.service import Tally
from services.ticketing.domain.ticket import Entry, Outcome
from shared.database.pool import Connection
from shared.http.cursor import Place
from shared.runtime.quarantine import judging, not_held
from shared.wire.events import ClockState, TicketV1
from shared.wire.ids import uuid7_at

CLOCKS = "clocks"
"""Where a ticket is set aside whose clocks cannot be looked at."""
NEWS = "news"
"""Where one is of which others cannot be told."""

_MOST_ASKED = 20


class Recipient(NamedTuple):
    """Somebody to ask whether it was put right."""

    respondent: str
    contact: str | None
    language: str | None
    occurred_at: datetime


_NUMBERS = "SELECT nextval('ticket_number') FROM generate_series(1, $1)"
_MERGED = "SELECT alert, version, ticket FROM merged_alert WHERE alert = ANY($1::uuid[])"
_REMEMBER = """
INSERT INTO merged_alert (alert, version, ticket) SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[])
ON CONFLICT (alert) DO UPDATE SET version = excluded.version
"""
_SEEN_PAGES = "SELECT page, version FROM seen_page WHERE page = ANY($1::uuid[])"
_REMEMBER_PAGES = """
INSERT INTO seen_page (page, version, ticket) SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[])
ON CONFLICT (page) DO UPDATE SET version = excluded.version, ticket = excluded.ticket
"""
_DROP_PAGES = """
DELETE FROM seen_page WHERE page IN (
    SELECT page FROM seen_page WHERE ticket IS NULL AND page < $1 ORDER BY page LIMIT $2
)
"""
_BY_ID = "SELECT body FROM ticket WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE"
_BY_PROBLEM = """
SELECT body FROM ticket WHERE id IN (
    SELECT DISTINCT ON (dedup_key) id FROM ticket
    WHERE dedup_key = ANY($1::text[]) AND (state <> 'cancelled')
    ORDER BY dedup_key, (state IN ('open', 'acknowledged', 'in_progress', 'waiting')) DESC, opened_at DESC
) ORDER BY id FOR NO KEY UPDATE
"""
_PREVIOUS = """
SELECT asked.key, earlier.body FROM unnest($1::text[]) AS asked(key)
CROSS JOIN LATERAL (
    SELECT body FROM ticket WHERE dedup_key = asked.key ORDER BY opened_at DESC LIMIT 5
) AS earlier
"""
_SAVE = """
INSERT INTO ticket (id, number, version, customer, state, severity, assignee, dedup_key, opened_at, resolved_at, sla,
    clock_due_at, body, opening, acknowledged_at, named, waited)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::timestamptz[], $10::timestamptz[], $11::text[], $12::timestamptz[], $13::text[], $14::int[],
    $15::timestamptz[], $16::bool[], $17::bool[])
ON CONFLICT (id) DO UPDATE SET version = excluded.version, state = excluded.state, severity = excluded.severity,
    assignee = excluded.assignee, opened_at = excluded.opened_at, resolved_at = excluded.resolved_at,
    sla = excluded.sla, clock_due_at = excluded.clock_due_at, body = excluded.body, opening = excluded.opening,
    acknowledged_at = excluded.acknowledged_at, named = excluded.named, waited = ticket.waited OR excluded.waited
"""
_SHOW = """
INSERT INTO shown_answer (answer, ticket, customer, respondent, occurred_at, contact, language)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[])
ON CONFLICT DO NOTHING
"""
_TO_ASK = """
SELECT ticket, respondent, contact, language, occurred_at FROM unnest($1::uuid[]) AS asked(ticket)
CROSS JOIN LATERAL (
    SELECT * FROM (
        SELECT DISTINCT ON (respondent) respondent, contact, language, occurred_at FROM shown_answer
        WHERE shown_answer.ticket = asked.ticket AND respondent IS NOT NULL AND occurred_at IS NOT NULL
        ORDER BY respondent, occurred_at DESC
    ) AS newest ORDER BY occurred_at DESC LIMIT $2
) AS people
"""
_EVIDENCE_TOLD = "SELECT id, evidence_told_at FROM ticket WHERE id = ANY($1::uuid[])"
_TOLD = "UPDATE ticket SET tell_at = NULL WHERE id = ANY($1::uuid[]) AND tell_at IS NOT NULL"
_TELL = """
UPDATE ticket SET evidence_told_at = coalesce(news.told_at, ticket.evidence_told_at),
    tell_at = CASE WHEN news.told_at IS NULL THEN coalesce(ticket.tell_at, news.tell_at) END
FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS news(id, told_at, tell_at) WHERE ticket.id = news.id
"""
_TO_TELL = f"""
SELECT id, body FROM ticket WHERE tell_at <= $1 AND {not_held(NEWS, "ticket.id")}
ORDER BY tell_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
"""
_CLOCKS = f"""
SELECT id, body FROM ticket WHERE clock_due_at <= $1 AND {not_held(CLOCKS, "ticket.id")}
ORDER BY clock_due_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
"""
_LOOK_AGAIN = """
UPDATE ticket SET clock_due_at = later.due_at FROM unnest($1::uuid[], $2::timestamptz[]) AS later(id, due_at)
WHERE ticket.id = later.id
"""
_OF_ANSWER = """
SELECT ticket.body FROM shown_answer JOIN ticket ON ticket.id = shown_answer.ticket
WHERE shown_answer.answer = $1 AND shown_answer.customer = $2
    AND ($3::timestamptz IS NULL OR shown_answer.occurred_at = $3)
ORDER BY ticket.opened_at DESC LIMIT 1
"""
_OF_RESPONDENT = """
SELECT body FROM ticket
WHERE id IN (SELECT ticket FROM shown_answer WHERE customer = $1 AND respondent = ANY($2::text[]))
ORDER BY id FOR NO KEY UPDATE
"""
_THAT_SHOW = """
SELECT body FROM ticket WHERE id IN (SELECT ticket FROM shown_answer WHERE customer = $1 AND answer = $2)
ORDER BY id FOR NO KEY UPDATE
"""
_UNNAME = """
UPDATE shown_answer SET respondent = NULL, contact = NULL
WHERE customer = $1 AND respondent = ANY($2::text[]) AND answer <> ALL($3::uuid[])
"""
_UNNAME_ANSWER = "UPDATE shown_answer SET respondent = NULL, contact = NULL WHERE customer = $1 AND answer = $2"
_BLANK = """
UPDATE timeline SET detail = '{"text": null, "author": null}'
WHERE ticket = ANY($1::uuid[]) AND what = 'desk comment' AND detail::jsonb ->> 'author' = ANY($2::text[])
"""
_DROP_OLD = """
DELETE FROM ticket WHERE id IN (
    SELECT id FROM ticket WHERE resolved_at < $1 AND state IN ('resolved', 'closed', 'cancelled') LIMIT $2
)
"""
_DROP_CANCELLED = """
DELETE FROM ticket WHERE id IN (SELECT id FROM ticket WHERE state = 'cancelled' AND opened_at < $1 LIMIT $2)
"""
_TALLY = """
SELECT count(*)::int AS tickets,
    count(*) FILTER (WHERE resolved)::int AS resolved,
    count(*) FILTER (WHERE resolved AND opening = 1 AND NOT waited)::int AS at_first_contact,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM acknowledged_at - opened_at)::float8)
        AS first_response_seconds,
    count(*) FILTER (WHERE resolved AND named)::int AS named,
    count(*) FILTER (WHERE resolved AND named AND opening = 1)::int AS recovered,
    count(*) FILTER (WHERE resolved AND opening > 1)::int AS reopened
FROM (
    SELECT opening, opened_at, acknowledged_at, named, waited, resolved_at IS NOT NULL OR opening > 1 AS resolved
    FROM ticket WHERE customer = $1 AND opened_at >= $2 AND state <> 'cancelled'
) AS found
"""
_APPEND = """
INSERT INTO timeline (ticket, at, actor, what, detail)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[])
"""
_ACTIVE = """
SELECT body FROM ticket WHERE state IN ('open', 'acknowledged', 'in_progress', 'waiting') ORDER BY opened_at, id
"""
_TO_BE_PAGED = """
SELECT customer, id FROM ticket WHERE state = 'open' AND severity IN ('critical', 'high') ORDER BY customer, opened_at
"""
_THAT_EXIST = "SELECT id FROM ticket WHERE id = ANY($1::uuid[])"
_ONE = "SELECT body FROM ticket WHERE id = $1"
# Not FOR UPDATE: whatever refers to a ticket (a line, what a desk has of it) checks that its key is there, and would
# wait for who holds it with that row in hand.
_ONE_LOCKED = "SELECT body FROM ticket WHERE id = $1 FOR NO KEY UPDATE"
_LIST = """
SELECT body FROM ticket
WHERE ($1::text[] IS NULL OR customer = ANY($1)) AND ($2::text[] IS NULL OR state = ANY($2))
    AND ($3::text IS NULL OR assignee = $3) AND ($4::text[] IS NULL OR severity = ANY($4))
    AND ($5::text[] IS NULL OR sla = ANY($5))
    AND ($6::timestamptz IS NULL OR (opened_at, id) < ($6, $7::uuid))
ORDER BY opened_at DESC, id DESC LIMIT $8
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

_ONE_OPEN = "one_open_ticket"
"""The index that keeps two open tickets of one problem apart."""


class AlreadyOpen(Exception):
    """Another ticket of the same problem is open."""


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


async def remember_pages(tx: Connection, taken: Mapping[UUID, tuple[int, UUID]]) -> None:
    """Store the newest version that was taken in of each page, and the ticket that took it."""
    if taken:
        await tx.execute(_REMEMBER_PAGES, list(taken), *(list(of) for of in zip(*taken.values(), strict=True)))


async def locked(tx: Connection, tickets: Sequence[UUID]) -> dict[UUID, TicketV1]:
    """Return tickets that nobody else can change until the transaction ends."""
    found = [_decode(row[0]) for row in await tx.fetch(_BY_ID, tickets)]
    return {ticket.id: ticket for ticket in found}


async def newest_of_problems(tx: Connection, dedup_keys: Sequence[str]) -> dict[str, TicketV1]:
    """Return each problem's open ticket, or else its newest, locked."""
    found = [_decode(row[0]) for row in await tx.fetch(_BY_PROBLEM, dedup_keys)]
    return {ticket.dedup_key: ticket for ticket in found}


async def previous(tx: Connection, dedup_keys: Sequence[str]) -> dict[str, list[TicketV1]]:
    """Return the earlier tickets of each problem, newest first, at most five."""
    found: dict[str, list[TicketV1]] = {}
    for row in await tx.fetch(_PREVIOUS, dedup_keys):
        found.setdefault(row[0], []).append(_decode(row[1]))
    return found


async def save(tx: Connection, outcomes: Sequence[Outcome], looks: Mapping[UUID, datetime | None]) -> None:
    """Store the newest state of each ticket and every line that was left. Raises AlreadyOpen.

    `looks`: when a clock of each ticket changes next.
    """
    last = {outcome.ticket.id: outcome.ticket for outcome in outcomes if outcome.event is not None}
    tickets = list(last.values())
    waited = {line.ticket for outcome in outcomes for line in outcome.entries if _waits(line)}
    if tickets:
        await _store(
            tx,
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
            [_worse(t) for t in tickets],
            [looks[t.id] for t in tickets],
            [_encode(t).decode() for t in tickets],
            [t.opening for t in tickets],
            [t.acknowledged_at for t in tickets],
            [any(answer.respondent is not None for answer in t.evidence) for t in tickets],
            [t.id in waited for t in tickets],
        )
    shown = {
        (answer.id, outcome.ticket.id): (answer, outcome.ticket)
        for outcome in outcomes
        for answer in (*(() if outcome.event is None else outcome.ticket.evidence), *outcome.answers)
    }
    if shown:
        answers = [answer for answer, _ in shown.values()]
        await tx.execute(
            _SHOW,
            [answer.id for answer in answers],
            [t.id for _, t in shown.values()],
            [t.customer for _, t in shown.values()],
            [answer.respondent for answer in answers],
            [answer.occurred_at for answer in answers],
            [answer.contact for answer in answers],
            [answer.language for answer in answers],
        )
    await append(tx, [line for outcome in outcomes for line in outcome.entries])


async def _store(tx: Connection, *columns: object) -> None:
    try:
        await tx.execute(_SAVE, *columns)
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != _ONE_OPEN:
            raise
        raise AlreadyOpen from error


def _waits(line: Entry) -> bool:
    return line.what == "state" and line.detail.get("after") == "waiting"


_CLOCK_STATES: Sequence[ClockState] = ("met", "running", "warning", "breached")


def _worse(ticket: TicketV1) -> str | None:
    if ticket.sla is None:
        return None
    return max(ticket.sla.first_response, ticket.sla.resolve, key=_CLOCK_STATES.index)


async def due_clocks(tx: Connection, now: datetime, limit: int) -> list[TicketV1]:
    """Return tickets of which a clock warns or runs out, locked."""
    found: list[TicketV1] = []
    for id_, body in await tx.fetch(_CLOCKS, now, limit):
        with judging(CLOCKS, [id_]):
            found.append(_decode(body))
    return found


async def active(tx: Connection) -> list[TicketV1]:
    """Return every ticket that is not over."""
    return [_decode(row[0]) for row in await tx.fetch(_ACTIVE)]


async def to_be_paged(tx: Connection) -> list[tuple[str, UUID]]:
    """Return every ticket that somebody is to be paged for and nobody has answered, by customer."""
    return [(row[0], UUID(int=row[1].int)) for row in await tx.fetch(_TO_BE_PAGED)]


async def that_exist(tx: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Return those of some ids that are tickets."""
    return {UUID(int=row[0].int) for row in await tx.fetch(_THAT_EXIST, ids)}


async def look_again(tx: Connection, looks: Mapping[UUID, datetime | None]) -> None:
    """Store when clocks change next, where nothing changed now."""
    if looks:
        await tx.execute(_LOOK_AGAIN, list(looks), list(looks.values()))


async def of_answer(tx: Connection, answer: UUID, customer: str, given: datetime | None) -> TicketV1 | None:
    """Return the ticket that an answer led to. `given`: when, as whoever asks says; None: they do not say."""
    body = await tx.fetchval(_OF_ANSWER, answer, customer, given)
    return None if body is None else _decode(body)


async def to_ask(tx: Connection, tickets: Sequence[UUID]) -> dict[UUID, list[Recipient]]:
    """Return whose answers led to each ticket, also those that it shows no longer; each once."""
    found: dict[UUID, list[Recipient]] = {id_: [] for id_ in tickets}
    for ticket, *asked in await tx.fetch(_TO_ASK, tickets, _MOST_ASKED) if tickets else ():
        found[UUID(int=ticket.int)].append(Recipient(*asked))
    return found


# ---- what others are told


async def evidence_told(tx: Connection, ids: Sequence[UUID]) -> dict[UUID, datetime | None]:
    """Return when others last heard of evidence that was added to some tickets."""
    return {UUID(int=row[0].int): row[1] for row in await tx.fetch(_EVIDENCE_TOLD, ids)} if ids else {}


async def told(tx: Connection, ids: Sequence[UUID]) -> None:
    """Note that others heard of all that is in some tickets."""
    if ids:
        await tx.execute(_TOLD, ids)


async def tell_evidence(tx: Connection, told_at: Mapping[UUID, datetime], tell_at: Mapping[UUID, datetime]) -> None:
    """Note of which tickets others heard of added evidence, and when they are to hear of that of others."""
    news = [*((id_, at, None) for id_, at in told_at.items()), *((id_, None, at) for id_, at in tell_at.items())]
    if news:
        await tx.execute(_TELL, *(list(column) for column in zip(*news, strict=True)))


async def to_tell(tx: Connection, now: datetime, limit: int) -> list[TicketV1]:
    """Return tickets of which others are to hear of added evidence now, locked."""
    found: list[TicketV1] = []
    for id_, body in await tx.fetch(_TO_TELL, now, limit):
        with judging(NEWS, [id_]):
            found.append(_decode(body))
    return found


async def of_respondent(tx: Connection, customer: str, names: Sequence[str]) -> list[TicketV1]:
    """Return the tickets that show answers of a person, locked. `names`: every way in which they are written."""
    return [_decode(row[0]) for row in await tx.fetch(_OF_RESPONDENT, customer, names)]


async def that_show(tx: Connection, customer: str, answer: UUID) -> list[TicketV1]:
    """Return the tickets that show an answer, or have shown it, locked."""
    return [_decode(row[0]) for row in await tx.fetch(_THAT_SHOW, customer, answer)]


async def unname(tx: Connection, customer: str, names: Sequence[str], but: Sequence[UUID]) -> None:
    """Forget whose answers a customer's tickets show or have shown, but for some that were not erased."""
    await tx.execute(_UNNAME, customer, names, but)


async def unname_answer(tx: Connection, customer: str, answer: UUID) -> None:
    """Forget whose answer it is."""
    await tx.execute(_UNNAME_ANSWER, customer, answer)


async def blank(tx: Connection, tickets: Sequence[UUID], authors: Sequence[str]) -> None:
    """Forget what some authors wrote in the desk."""
    if authors:
        await tx.execute(_BLANK, tickets, authors)


async def tally(tx: Connection, customer: str, since: datetime) -> Tally:
    """Count a customer's tickets that were opened since a moment."""
    row = await tx.fetchrow(_TALLY, customer, since)
    assert row is not None
    return Tally(**dict(row))


async def drop(tx: Connection, before: datetime, limit: int) -> int:
    """Delete tickets that ended before a moment, with all that belongs to them; return how many."""
    done = [await tx.execute(statement, before, limit) for statement in (_DROP_OLD, _DROP_CANCELLED)]
    await tx.execute(_DROP_PAGES, uuid7_at(int(before.timestamp() * 1000)), limit)
    return sum(int(text.split()[-1]) for text in done)


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
    sla: Sequence[str] | None,
    after: Place | None,
    limit: int,
) -> list[TicketV1]:
    """Return tickets, newest opening first."""
    at, id_ = after or (None, None)
    rows = await tx.fetch(_LIST, customers, states, assignee, severities, sla, at, id_, limit)
    # In a thread: 500 tickets with full evidence are 40 MB.
    return await asyncio.to_thread(lambda: [_decode(row[0]) for row in rows])


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
