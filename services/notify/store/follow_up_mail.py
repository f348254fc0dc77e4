"""SQL of letters to respondents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec

from shared.database.pool import Connection
from shared.runtime.quarantine import judging, not_held
from shared.wire.events import FollowUpDueV1

QUEUE = "letters"
"""Where one that cannot be sent is set aside."""

_ADD_LETTERS = """
INSERT INTO letter (id, customer, respondent, ticket, opening, state, due_at, traceparent, body)
SELECT id, customer, respondent, ticket, opening, 'pending', $6, traceparent, body
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::int[], $7::text[], $8::text[])
    AS new(id, customer, respondent, ticket, opening, traceparent, body)
ON CONFLICT (id) DO NOTHING
"""
_CLAIM_LETTERS = f"""
WITH due AS (
    SELECT id FROM letter WHERE due_at <= $1 AND {not_held(QUEUE, "letter.id")}
    ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE letter SET due_at = $3, attempts = attempts + 1 FROM due WHERE letter.id = due.id
RETURNING letter.id, letter.body, letter.attempts, letter.traceparent
"""
_FINISH_LETTER = """
UPDATE letter SET state = $2, due_at = $3, detail = $4, finished_at = $5 WHERE id = $1 AND state = 'pending'
"""
_FORGET_LETTERS = "DELETE FROM letter WHERE finished_at < $1"
_ERASE_LETTERS = "DELETE FROM letter WHERE customer = $1 AND respondent = ANY($2::text[])"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Letter:
    """A question to a respondent whether it was put right."""

    message: FollowUpDueV1
    attempt: int
    """1 is the first."""
    traceparent: str | None


async def add(tx: Connection, letters: Sequence[tuple[FollowUpDueV1, str | None]], now: datetime) -> None:
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


async def claim(tx: Connection, now: datetime, limit: int, lease: timedelta) -> list[Letter]:
    """Claim letters that are due until the lease is over, and count the attempt before it is made."""
    found: list[Letter] = []
    for id_, body, attempt, traceparent in await tx.fetch(_CLAIM_LETTERS, now, limit, now + lease):
        with judging(QUEUE, [id_]):
            found.append(Letter(msgspec.json.decode(body, type=FollowUpDueV1), attempt, traceparent))
    return found


async def finish(
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


async def forget(tx: Connection, before: datetime) -> None:
    """Delete what was finished before a moment."""
    await tx.execute(_FORGET_LETTERS, before)


async def erase(tx: Connection, customer: str, names: Sequence[str]) -> int:
    """Delete the letters to a respondent, in every way that they are written; return how many."""
    return int((await tx.execute(_ERASE_LETTERS, customer, names)).split()[-1])
