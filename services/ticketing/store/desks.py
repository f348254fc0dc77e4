"""SQL of the desks: which ticket is where, what a desk is still to be told, and who works for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from shared.db import Connection
from shared.directory.model import severity_rank
from shared.events import DeskV1, TicketState, TicketV1
from shared.quarantine import not_held

QUEUE = "desks"
"""Where a ticket is set aside that cannot be brought to its desk."""

_WANT = """
INSERT INTO desk_ticket (ticket, desk, customer, severity, wanted, pushed, due_at)
SELECT ticket, desk, customer, severity, wanted, 0, $6
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::int[]) AS new(ticket, desk, customer, severity, wanted)
ON CONFLICT (ticket) DO UPDATE SET wanted = excluded.wanted, severity = excluded.severity,
    due_at = CASE WHEN desk_ticket.gone THEN desk_ticket.due_at ELSE coalesce(desk_ticket.due_at, excluded.due_at) END
"""
_DOUBLED = "EXISTS (SELECT FROM desk_duplicate WHERE desk_duplicate.ticket = desk_ticket.ticket)"
_KEEP_UP = f"""
UPDATE desk_ticket SET wanted = $2, pushed = $2, due_at = CASE WHEN erased OR {_DOUBLED} THEN due_at END
WHERE ticket = $1 AND pushed = $3
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
    ) AS due ORDER BY turn, random() LIMIT $4
) AS claimed
WHERE desk_ticket.ticket = claimed.ticket
RETURNING desk_ticket.*
"""
_ONE = "SELECT * FROM desk_ticket WHERE ticket = $1"
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
_TOLD = "('comment', 'evidence added', 'sla breached', 'reopened', 'alert cleared')"
"""Lines of the timeline that a desk is told as remarks."""
_UNTOLD = (
    f"EXISTS (SELECT FROM timeline WHERE timeline.ticket = desk_ticket.ticket AND line > {{after}} AND what IN {_TOLD})"
)
_ADOPT = f"""
UPDATE desk_ticket SET reference = $2, label = $3, url = $4, state = $5, asked_at = NULL, pushed = $6,
    attempts = 0, error = NULL, synced_at = $7,
    due_at = CASE WHEN wanted > $6 OR erased OR {_DOUBLED} OR {_UNTOLD.format(after="desk_ticket.line")}
        THEN $7::timestamptz END
WHERE ticket = $1 AND reference IS NULL RETURNING ticket
"""
_DUPLICATED = """
INSERT INTO desk_duplicate (desk, reference, ticket, label)
SELECT $1, reference, $2, label FROM unnest($3::text[], $4::text[]) AS new(reference, label)
ON CONFLICT DO NOTHING RETURNING reference
"""
_DUPLICATES = "SELECT reference, label FROM desk_duplicate WHERE ticket = $1 ORDER BY reference"
_CLOSED_DUPLICATE = "DELETE FROM desk_duplicate WHERE desk = $1 AND reference = $2"
_PUSHED = f"""
UPDATE desk_ticket SET pushed = $2, line = $3, state = coalesce($4, state), attempts = 0, error = NULL, synced_at = $5,
    erased = erased AND NOT ($6 AND wanted = $2),
    due_at = CASE WHEN wanted > $2 OR heard OR (erased AND NOT $6) OR {_DOUBLED} OR {_UNTOLD.format(after="$3")}
        THEN $5::timestamptz END
WHERE ticket = $1
"""
_READ = f"""
UPDATE desk_ticket SET heard = false, gone = false, state = coalesce($2, state), assignee = $5, seen_at = $4,
    synced_at = $3, attempts = 0, error = NULL,
    due_at = CASE WHEN wanted > pushed OR erased OR {_DOUBLED} OR {_UNTOLD.format(after="desk_ticket.line")}
        THEN $3::timestamptz END
WHERE ticket = $1
"""
_FAILED = """
UPDATE desk_ticket SET attempts = attempts + 1, error = $2, due_at = $3, asked_at = CASE WHEN $4 THEN asked_at END
WHERE ticket = $1
"""
_REST = "UPDATE desk_ticket SET asked_at = NULL, error = $3, due_at = NULL WHERE ticket = $1 AND wanted = $2"
_GONE = "UPDATE desk_ticket SET gone = true, heard = false, error = $2, due_at = NULL WHERE ticket = $1"
_LOOK_AGAIN = """
UPDATE desk_ticket SET heard = true, due_at = $2 WHERE ticket IN (
    SELECT ticket FROM desk_ticket WHERE desk = $1 AND gone AND due_at IS NULL ORDER BY random() LIMIT $3
)
"""
_BACK = "UPDATE desk_erasure SET rest = NULL WHERE ticket = $1 AND rest = ''"
_TRY_AGAIN = """
UPDATE desk_ticket SET due_at = $2 WHERE desk = $1 AND due_at > $2 AND error IS NOT NULL AND asked_at IS NULL
"""
_SIBLINGS = """
SELECT reference FROM desk_ticket WHERE desk = $1 AND ticket IS DISTINCT FROM $2 AND reference IS NOT NULL AND NOT gone
ORDER BY synced_at DESC NULLS LAST LIMIT $3
"""
_CREATING = """
SELECT EXISTS (SELECT FROM desk_ticket WHERE desk = $1 AND due_at IS NOT NULL AND reference IS NULL AND asked_at > $2)
"""
_HEARD = """
UPDATE desk_ticket SET heard = true, due_at = least(coalesce(due_at, $3), $3)
WHERE desk = $1 AND reference = ANY($2::text[])
RETURNING ticket
"""
_BY_REFERENCE = "SELECT reference, seen_at, gone FROM desk_ticket WHERE desk = $1 AND reference = ANY($2::text[])"
_OF_REFERENCE = "SELECT ticket FROM desk_ticket WHERE desk = $1 AND reference = $2"
_NUDGE = "UPDATE desk_ticket SET due_at = coalesce(due_at, $2) WHERE ticket = $1 AND NOT gone"
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
    UPDATE desk_ticket SET erased = true, due_at = CASE WHEN gone THEN due_at ELSE $2 END WHERE ticket = ANY($1::uuid[])
    RETURNING ticket, desk, gone
), noted AS (
    INSERT INTO desk_erasure (erasure, ticket, desk, rest) SELECT $3, ticket, desk, CASE WHEN gone THEN '' END FROM told
    ON CONFLICT DO NOTHING RETURNING desk, rest
)
SELECT desk FROM noted WHERE rest IS NULL
"""
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


def _mirror(row: Any) -> Mirror:
    facts: dict[str, Any] = dict(row)
    facts["ticket"] = UUID(int=facts["ticket"].int)
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
            now,
        )


async def keep_up(tx: Connection, ticket: UUID, version: int, before: int) -> None:
    """Note that the desk has a version already, since the change came from it; unless it lacked the one before."""
    await tx.execute(_KEEP_UP, ticket, version, before)


@dataclass(frozen=True, slots=True)
class Turn:
    """How a desk does."""

    polled_until: datetime | None
    failures: int
    closed_until: datetime | None
    error: str | None


async def lease(tx: Connection, desk: str, owner: UUID, now: datetime, length: timedelta) -> Turn | None:
    """Take or keep a desk; None while another process works for it."""
    await tx.execute(_OPEN_DESK, desk)
    row = await tx.fetchrow(_LEASE, desk, owner, now + length, now)
    return None if row is None else Turn(*row)


async def claim(tx: Connection, desk: str, now: datetime, lease: timedelta, limit: int) -> list[Mirror]:
    """Return what the desk is to be told next: of customers drawn by lot the severest, so that each gets its share."""
    return [_mirror(row) for row in await tx.fetch(_CLAIM, desk, now, now + lease, limit)]


async def one(tx: Connection, ticket: UUID) -> Mirror | None:
    """Return where a ticket stands in its desk."""
    row = await tx.fetchrow(_ONE, ticket)
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


async def adopt(
    tx: Connection,
    ticket: UUID,
    *,
    reference: str,
    label: str,
    url: str,
    state: TicketState | None,
    pushed: int,
    now: datetime,
) -> bool:
    """Remember the desk's ticket: it has the version `pushed`. False: there is another one already."""
    return await tx.fetchval(_ADOPT, ticket, reference, label, url, state, pushed, now) is not None


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


async def pushed(
    tx: Connection, ticket: UUID, version: int, line: int, state: TicketState | None, *, erased: bool, now: datetime
) -> None:
    """Remember that the desk has a version; `erased`: and no longer the words of those who were erased before it."""
    await tx.execute(_PUSHED, ticket, version, line, state, now, erased)


async def read(
    tx: Connection,
    ticket: UUID,
    state: TicketState | None,
    assignee: str | None,
    seen_at: datetime | None,
    now: datetime,
) -> None:
    """Remember how the desk has a ticket; `seen_at`: when it had changed last there."""
    await tx.execute(_READ, ticket, state, now, seen_at, assignee)


async def failed(tx: Connection, ticket: UUID, error: str, due_at: datetime, *, unknown: bool) -> None:
    """Store why a call did not succeed and when to try again; `unknown`: a create may have been done."""
    await tx.execute(_FAILED, ticket, error[:1000], due_at, unknown)


async def rest(tx: Connection, ticket: UUID, wanted: int, why: str) -> None:
    """Tell the desk nothing until the ticket changes again; unless it has, since that version was wanted."""
    await tx.execute(_REST, ticket, wanted, why)


async def gone(tx: Connection, ticket: UUID, error: str) -> None:
    """Remember that somebody deleted it in the desk: it is told nothing more, until it is seen again."""
    await tx.execute(_GONE, ticket, error)


async def back(tx: Connection, ticket: UUID) -> None:
    """Have the desk's ticket rewritten for erasures that were over because it was gone."""
    await tx.execute(_BACK, ticket)


async def look_again(tx: Connection, desk: str, now: datetime, most: int) -> None:
    """Have some of those that are gone looked at again."""
    await tx.execute(_LOOK_AGAIN, desk, now, most)


async def try_again(tx: Connection, desk: str, now: datetime) -> None:
    """Have what failed tried again at once, but for creates that may have been done."""
    await tx.execute(_TRY_AGAIN, desk, now)


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


async def nudge(tx: Connection, ticket: UUID, now: datetime) -> None:
    """Have the desk told of new lines of the timeline."""
    await tx.execute(_NUDGE, ticket, now)


async def polled(tx: Connection, desk: str, until: datetime) -> None:
    """Remember up to when the desk was asked what changed."""
    await tx.execute(_POLLED, desk, until)


async def health(tx: Connection, desk: str, failures: int, closed_until: datetime | None, error: str | None) -> None:
    """Store how a desk does."""
    await tx.execute(_HEALTH, desk, failures, closed_until, error)


async def healths(tx: Connection) -> dict[str, Turn]:
    """Return how each desk does that was ever worked for."""
    return {row[0]: Turn(*row[1:]) for row in await tx.fetch(_HEALTHS)}


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
    return sorted({row[0] for row in await tx.fetch(_ERASE, tickets, now, erasure)})


async def erasing(tx: Connection, ticket: UUID) -> list[UUID]:
    """Return the erasures for which a ticket is still to be rewritten."""
    return [row[0] for row in await tx.fetch(_ERASING, ticket)]


async def erased(tx: Connection, ticket: UUID, erasures: Sequence[UUID], rest: str) -> None:
    """Remember that the desk's ticket was rewritten, and what it still has of the people."""
    await tx.execute(_ERASED, ticket, erasures, rest)
