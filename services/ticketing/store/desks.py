"""SQL of the desks: which ticket is where, what a desk is still to be told, and who works for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from shared.database.pool import Connection
from shared.directory.model import severity_rank
from shared.runtime.quarantine import not_held
from shared.wire.events import DeskV1, TicketState, TicketV1

QUEUE = "desks"
"""Where a ticket is set aside that cannot be brought to its desk."""

_TOLD = "('comment', 'evidence added', 'sla breached', 'reopened', 'alert cleared', 'followed up in the desk')"
"""Lines of the timeline that a desk is told as remarks."""
_DOUBLED = "EXISTS (SELECT FROM desk_duplicate WHERE desk_duplicate.ticket = desk_ticket.ticket)"
_UNTOLD = f"""EXISTS (
    SELECT FROM timeline
    WHERE timeline.ticket = desk_ticket.ticket AND timeline.line > desk_ticket.line AND what IN {_TOLD}
)"""
_SETTLE = f"""
UPDATE desk_ticket SET due_at = CASE
    WHEN heard THEN $2
    WHEN gone THEN NULL
    WHEN NOT ((wanted > pushed AND NOT rests) OR erased OR unread OR {_DOUBLED} OR {_UNTOLD}) THEN NULL
    WHEN held_until IS NULL OR held_until <= $2 THEN $2
    WHEN refused <> '{{}}' AND (
        (unread AND 'read remarks' <> ALL(refused)) OR (erased AND 'redact' <> ALL(refused))
        OR ('remark' <> ALL(refused) AND {_UNTOLD}) OR ('close duplicate' <> ALL(refused) AND {_DOUBLED})
    ) THEN $2
    ELSE held_until END
WHERE ticket = ANY($1::uuid[])
"""
"""The one place that knows what is left to be done for a ticket in its desk, and when."""
_WANT = """
INSERT INTO desk_ticket (ticket, desk, customer, severity, wanted, pushed)
SELECT ticket, desk, customer, severity, wanted, 0
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::int[]) AS new(ticket, desk, customer, severity, wanted)
ON CONFLICT (ticket) DO UPDATE SET wanted = excluded.wanted, severity = excluded.severity, rests = false,
    held_until = CASE WHEN desk_ticket.refused = '{}' THEN desk_ticket.held_until END, refused = '{}'
"""
_OPEN_DESK = "INSERT INTO desk (name) VALUES ($1) ON CONFLICT DO NOTHING"
_LEASE = """
UPDATE desk SET owner = $2, leased_until = $3
WHERE name = $1 AND (owner = $2 OR leased_until IS NULL OR leased_until < $4)
RETURNING polled_until, failures, closed_until, error
"""
_CLAIM = f"""
UPDATE desk_ticket SET due_at = $3
FROM (
    SELECT ticket FROM (
        SELECT ticket, severity, due_at,
            row_number() OVER (PARTITION BY customer ORDER BY severity DESC, due_at) AS turn
        FROM desk_ticket WHERE desk = $1 AND due_at <= $2 AND {not_held(QUEUE, "desk_ticket.ticket")} LIMIT 20000
    ) AS due ORDER BY severity < $5, turn, random() LIMIT $4
) AS claimed
WHERE desk_ticket.ticket = claimed.ticket
RETURNING desk_ticket.*
"""
_ONE = "SELECT * FROM desk_ticket WHERE ticket = $1"
_OF_TICKET = """
SELECT desk_ticket.* FROM desk_ticket JOIN ticket ON ticket.id = desk_ticket.ticket
WHERE ticket.id::text = $1 OR ticket.number::text = $1
"""
_OF_TICKETS = f"""
SELECT ticket, desk_ticket.desk, reference, url, synced_at,
    CASE WHEN {not_held(QUEUE, "desk_ticket.ticket")}
        THEN coalesce(desk_ticket.error, CASE WHEN due_at IS NOT NULL THEN desk.error END)
        ELSE 'set aside: python -m services quarantine list' END
FROM desk_ticket LEFT JOIN desk ON desk.name = desk_ticket.desk WHERE ticket = ANY($1::uuid[])
"""
_ASK = """
UPDATE desk_ticket SET asked_at = $2 WHERE ticket = $1 AND reference IS NULL AND due_at = $3 RETURNING ticket
"""
_ADOPT = """
UPDATE desk_ticket SET reference = $2, asked_at = NULL WHERE ticket = $1 AND reference IS NULL RETURNING ticket
"""
_REST = "UPDATE desk_ticket SET asked_at = NULL, error = $3, rests = true WHERE ticket = $1 AND wanted = $2"
_DUPLICATED = """
INSERT INTO desk_duplicate (desk, reference, ticket, label)
SELECT $1, reference, $2, label FROM unnest($3::text[], $4::text[]) AS new(reference, label)
ON CONFLICT DO NOTHING RETURNING reference
"""
_DUPLICATES = "SELECT reference, label FROM desk_duplicate WHERE ticket = $1 ORDER BY reference"
_CLOSED_DUPLICATE = "DELETE FROM desk_duplicate WHERE desk = $1 AND reference = $2"
_LOOK_AGAIN = """
UPDATE desk_ticket SET heard = true, due_at = $2 WHERE ticket IN (
    SELECT ticket FROM desk_ticket WHERE desk = $1 AND gone AND due_at IS NULL ORDER BY random() LIMIT $3
) OR ticket IN (
    SELECT ticket FROM desk_ticket
    WHERE desk = $1 AND reference IS NOT NULL AND ended_at IS NULL AND NOT gone AND due_at IS NULL AND synced_at < $4
    ORDER BY synced_at LIMIT $3
)
"""
_LOOK_AT_FOLLOWED = """
UPDATE desk_ticket SET heard = true, unread = true, due_at = $2 WHERE ticket IN (
    SELECT ticket FROM desk_ticket
    WHERE desk = $1 AND followed_at IS NOT NULL AND ended_at IS NULL AND NOT gone AND due_at IS NULL
    ORDER BY synced_at LIMIT $3
)
"""
_BACK = "UPDATE desk_erasure SET rest = NULL WHERE ticket = $1 AND rest = ''"
_TRY_AGAIN = """
UPDATE desk_ticket SET held_until = NULL, refused = '{}'
WHERE desk = $1 AND due_at IS NOT NULL AND error IS NOT NULL AND asked_at IS NULL RETURNING ticket
"""
_SIBLINGS = """
SELECT reference FROM desk_ticket WHERE desk = $1 AND ticket IS DISTINCT FROM $2 AND reference IS NOT NULL AND NOT gone
ORDER BY synced_at DESC NULLS LAST LIMIT $3
"""
_CREATING = """
SELECT EXISTS (SELECT FROM desk_ticket WHERE desk = $1 AND due_at IS NOT NULL AND reference IS NULL AND asked_at > $2)
"""
_HEARD = """
UPDATE desk_ticket SET heard = true, unread = true, due_at = $3
WHERE desk = $1 AND reference = ANY($2::text[])
RETURNING ticket
"""
_BY_REFERENCE = "SELECT reference, seen_at, gone FROM desk_ticket WHERE desk = $1 AND reference = ANY($2::text[])"
_OF_REFERENCE = "SELECT ticket FROM desk_ticket WHERE desk = $1 AND reference = $2"
_POLLED = "UPDATE desk SET polled_until = $2 WHERE name = $1"
_HEALTH = "UPDATE desk SET failures = $2, closed_until = $3, error = $4 WHERE name = $1"
_HEALTHS = "SELECT name, polled_until, failures, closed_until, error FROM desk"
_NEW_REMARKS = """
INSERT INTO desk_remark (ticket, remark) SELECT $1, * FROM unnest($2::text[]) ON CONFLICT DO NOTHING RETURNING remark
"""
_LINES = f"""
SELECT line, what, detail FROM timeline WHERE ticket = $1 AND line > $2 AND what IN {_TOLD} ORDER BY line LIMIT 200
"""
_WAITING = "SELECT desk, count(*)::int FROM desk_ticket WHERE due_at IS NOT NULL GROUP BY desk"
_ERASE = """
WITH told AS (
    UPDATE desk_ticket SET erased = true WHERE ticket = ANY($1::uuid[]) RETURNING ticket, desk, gone
), noted AS (
    INSERT INTO desk_erasure (erasure, ticket, desk, rest) SELECT $2, ticket, desk, CASE WHEN gone THEN '' END FROM told
    ON CONFLICT DO NOTHING RETURNING desk, rest
)
SELECT desk FROM noted WHERE rest IS NULL
"""
_FORMER = """
INSERT INTO desk_reference (desk, reference, ticket, label, url, until, why)
SELECT desk, reference, ticket, label, coalesce(url, ''), $2, $3 FROM desk_ticket WHERE ticket = $1
ON CONFLICT DO NOTHING
"""
_FORMERS = "SELECT reference FROM desk_reference WHERE ticket = $1 ORDER BY until"
_ERASING = "SELECT erasure FROM desk_erasure WHERE ticket = $1 AND rest IS NULL"
_ERASED = """
UPDATE desk_erasure SET rest = $3 WHERE ticket = $1 AND erasure = ANY($2::uuid[]) AND rest IS NULL
"""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A ticket as the desk is to have it, and as it has it."""

    ticket: UUID
    desk: str
    customer: str
    severity: int
    reference: str | None
    label: str | None
    url: str | None
    asked_at: datetime | None
    wanted: int
    pushed: int
    line: int
    state: TicketState | None
    assignee: str | None
    seen_at: datetime | None
    heard: bool
    erased: bool
    gone: bool
    attempts: int
    due_at: datetime | None
    synced_at: datetime | None
    error: str | None
    told_state: TicketState | None
    fields: str | None
    story: str | None
    answers: Sequence[UUID]
    unread: bool
    remarks_upto: str | None
    held_until: datetime | None
    refused: Sequence[str]
    followed_at: datetime | None
    sealed: bool
    rests: bool
    ended_at: datetime | None


def _mirror(row: Any) -> Mirror:
    facts: dict[str, Any] = dict(row)
    facts["ticket"] = UUID(int=facts["ticket"].int)
    facts["answers"] = [UUID(int=one.int) for one in facts["answers"]]
    return Mirror(**facts)


async def want(tx: Connection, tickets: Sequence[tuple[TicketV1, str]], now: datetime) -> None:
    """Note that desks are to have these tickets as they stand: each with the desk's name. The last of each wins."""
    last = {ticket.id: (ticket, desk) for ticket, desk in tickets}
    if last:
        await tx.execute(
            _WANT,
            list(last),
            [desk for _, desk in last.values()],
            [ticket.customer for ticket, _ in last.values()],
            [severity_rank(ticket.severity) for ticket, _ in last.values()],
            [ticket.version for ticket, _ in last.values()],
        )
        await settle(tx, list(last), now)


async def settle(tx: Connection, tickets: Sequence[UUID], now: datetime) -> None:
    """Bring to what is left when these tickets are due in their desks: after every change of their facts."""
    await tx.execute(_SETTLE, tickets, now)


async def note(tx: Connection, ticket: UUID, now: datetime, **facts: Any) -> None:
    """Store facts of a ticket in its desk, by the columns' names, and when it is due with them."""
    values = ", ".join(f"{column} = ${number}" for number, column in enumerate(facts, 2))
    await tx.execute(f"UPDATE desk_ticket SET {values} WHERE ticket = $1", ticket, *facts.values())
    await settle(tx, [ticket], now)


@dataclass(frozen=True, slots=True)
class DeskState:
    """How a desk does."""

    polled_until: datetime | None
    failures: int
    closed_until: datetime | None
    error: str | None


async def lease(tx: Connection, desk: str, owner: UUID, now: datetime, length: timedelta) -> DeskState | None:
    """Take or keep a desk; None while another process works for it."""
    await tx.execute(_OPEN_DESK, desk)
    row = await tx.fetchrow(_LEASE, desk, owner, now + length, now)
    return None if row is None else DeskState(*row)


async def claim(tx: Connection, desk: str, now: datetime, lease: timedelta, limit: int) -> list[Mirror]:
    """Return what the desk is to be told next: what is critical, then of customers drawn by lot the severest."""
    first = severity_rank("critical")
    return [_mirror(row) for row in await tx.fetch(_CLAIM, desk, now, now + lease, limit, first)]


async def one(tx: Connection, ticket: UUID) -> Mirror | None:
    """Return where a ticket stands in its desk."""
    row = await tx.fetchrow(_ONE, ticket)
    return None if row is None else _mirror(row)


async def of_ticket(tx: Connection, ticket: str) -> Mirror | None:
    """Return where a ticket stands in its desk, by its number or id as a person writes it."""
    row = await tx.fetchrow(_OF_TICKET, ticket.removeprefix("#"))
    return None if row is None else _mirror(row)


async def shown(tx: Connection, tickets: Sequence[UUID]) -> dict[UUID, tuple[str, DeskV1]]:
    """Return what users see of tickets in desks: the desk's name, and the rest without the desk's type."""
    rows = await tx.fetch(_OF_TICKETS, tickets) if tickets else []
    return {
        UUID(int=row[0].int): (
            row[1],
            DeskV1(type="", reference=row[2], url=row[3], synced_at=row[4], error=row[5]),
        )
        for row in rows
    }


async def ask(tx: Connection, mirror: Mirror, now: datetime) -> bool:
    """Store the intent to create, before the call; False: what was claimed is somebody else's by now."""
    return await tx.fetchval(_ASK, mirror.ticket, now, mirror.due_at) is not None


async def adopt(tx: Connection, ticket: UUID, reference: str) -> bool:
    """Remember the desk's ticket. False: there is another one already."""
    return await tx.fetchval(_ADOPT, ticket, reference) is not None


async def rest(tx: Connection, ticket: UUID, wanted: int, why: str, now: datetime) -> None:
    """Tell the desk nothing until the ticket changes again; unless it has, since that version was wanted."""
    await tx.execute(_REST, ticket, wanted, why)
    await settle(tx, [ticket], now)


async def duplicated(tx: Connection, desk: str, ticket: UUID, found: Sequence[tuple[str, str]]) -> set[str]:
    """Note the references and labels of tickets that are one too many; return those references that are new."""
    if not found:
        return set()
    rows = await tx.fetch(_DUPLICATED, desk, ticket, [one for one, _ in found], [label for _, label in found])
    return {row[0] for row in rows}


async def duplicates(tx: Connection, ticket: UUID) -> list[tuple[str, str]]:
    """Return the references and labels of a ticket's duplicates that are still to be closed."""
    return [(row[0], row[1]) for row in await tx.fetch(_DUPLICATES, ticket)]


async def closed_duplicate(tx: Connection, desk: str, reference: str) -> None:
    """Forget a duplicate that is closed."""
    await tx.execute(_CLOSED_DUPLICATE, desk, reference)


async def back(tx: Connection, ticket: UUID) -> None:
    """Have the desk's ticket rewritten for erasures that were over because it was gone."""
    await tx.execute(_BACK, ticket)


async def look_again(tx: Connection, desk: str, now: datetime, most: int, quiet_since: datetime) -> None:
    """Have some looked at of those that are gone, and of open ones of which nothing was heard since a moment.

    A search may show neither that one is back nor that one became a part of another.
    """
    await tx.execute(_LOOK_AGAIN, desk, now, most, quiet_since)


async def look_at_followed(tx: Connection, desk: str, now: datetime, most: int) -> None:
    """Have some looked at of those that became a part of a ticket that is not ours: no search for ours shows it."""
    await tx.execute(_LOOK_AT_FOLLOWED, desk, now, most)


async def try_again(tx: Connection, desk: str, now: datetime) -> int:
    """Have what failed tried again at once, but for creates that may have been done; return how many tickets."""
    waiting = [row[0] for row in await tx.fetch(_TRY_AGAIN, desk)]
    await settle(tx, waiting, now)
    return len(waiting)


async def siblings(tx: Connection, desk: str, ticket: UUID | None, most: int) -> list[str]:
    """Return the references of (other) tickets of ours in the desk, those first that it had last."""
    return [row[0] for row in await tx.fetch(_SIBLINGS, desk, ticket, most)]


async def creating(tx: Connection, desk: str, since: datetime) -> bool:
    """Tell whether the desk was asked since a moment to create a ticket, and what it is called is not known yet."""
    return bool(await tx.fetchval(_CREATING, desk, since))


async def heard(tx: Connection, desk: str, references: Sequence[str], now: datetime) -> int:
    """Note that some of a desk's tickets have changed there; return how many of them are ours."""
    return len(await tx.fetch(_HEARD, desk, references, now))


async def seen(tx: Connection, desk: str, references: Sequence[str]) -> dict[str, tuple[datetime | None, bool]]:
    """Return those of the desk's tickets that are ours: how new they were when they were read last, and if gone."""
    return {row[0]: (row[1], row[2]) for row in await tx.fetch(_BY_REFERENCE, desk, references)}


async def of_reference(tx: Connection, desk: str, reference: str) -> UUID | None:
    """Return which of our tickets a desk's is."""
    found = await tx.fetchval(_OF_REFERENCE, desk, reference)
    return None if found is None else UUID(int=found.int)


async def polled(tx: Connection, desk: str, until: datetime) -> None:
    """Remember up to when the desk was asked what changed."""
    await tx.execute(_POLLED, desk, until)


async def health(tx: Connection, desk: str, failures: int, closed_until: datetime | None, error: str | None) -> None:
    """Store how a desk does."""
    await tx.execute(_HEALTH, desk, failures, closed_until, error)


async def healths(tx: Connection) -> dict[str, DeskState]:
    """Return how each desk does that was ever worked for."""
    return {row[0]: DeskState(*row[1:]) for row in await tx.fetch(_HEALTHS)}


async def new_remarks(tx: Connection, ticket: UUID, remarks: Sequence[str]) -> set[str]:
    """Remember comments of the desk; return those that were not known."""
    return {row[0] for row in await tx.fetch(_NEW_REMARKS, ticket, remarks)} if remarks else set()


async def untold(tx: Connection, ticket: UUID, line: int) -> list[Any]:
    """Return the timeline's lines after one that a desk is told of: line, what, detail (JSON)."""
    return await tx.fetch(_LINES, ticket, line)


async def waiting(tx: Connection) -> dict[str, int]:
    """Return how many tickets wait, by desk."""
    return {row[0]: row[1] for row in await tx.fetch(_WAITING)}


async def erase(tx: Connection, erasure: UUID, tickets: Sequence[UUID], now: datetime) -> list[str]:
    """Have the desks' tickets rewritten for an erasure that is stored; return the names of the desks that have any."""
    rewritten = sorted({row[0] for row in await tx.fetch(_ERASE, tickets, erasure)})
    await settle(tx, tickets, now)
    return rewritten


async def former(tx: Connection, ticket: UUID, now: datetime, why: str) -> None:
    """Remember that the desk's ticket was ours, and why (`closed`, `merged`) another one is now."""
    await tx.execute(_FORMER, ticket, now, why)


async def formers(tx: Connection, ticket: UUID) -> list[str]:
    """Return the references of the desk's tickets that were ours, the last one last."""
    return [row[0] for row in await tx.fetch(_FORMERS, ticket)]


async def erasing(tx: Connection, ticket: UUID) -> list[UUID]:
    """Return the erasures for which a ticket is still to be rewritten."""
    return [row[0] for row in await tx.fetch(_ERASING, ticket)]


async def erased(tx: Connection, ticket: UUID, erasures: Sequence[UUID], rest: str) -> None:
    """Remember that the desk's ticket was rewritten, and what it still has of the people."""
    await tx.execute(_ERASED, ticket, erasures, rest)
