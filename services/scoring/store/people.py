"""SQL of erasures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.scoring.store import answers
from services.scoring.store.common import alert_decoder, text
from services.scoring.store.counting import rebuild
from shared.db import Connection
from shared.erasure import known_by, normalised
from shared.events import AlertV1
from shared.ids import uuid7

_RESPONDENTS = "SELECT DISTINCT respondent FROM answer WHERE customer = $1 AND respondent IS NOT NULL"
_ERASE = """
UPDATE answer SET respondent = known.pseudonym, comment = NULL, contact = NULL, context = NULL
FROM unnest($2::text[], $3::text[]) AS known(name, pseudonym)
WHERE answer.customer = $1 AND answer.respondent = known.name AND least(occurred_at, received_at) < $4
"""
_ERASE_WHOLLY = """
DELETE FROM answer WHERE customer = $1 AND respondent = ANY($2::text[]) AND least(occurred_at, received_at) < $3
"""
_ERASE_ANSWER = """
UPDATE answer SET comment = NULL, contact = NULL, context = NULL WHERE id = $2 AND customer = $1 RETURNING respondent
"""
_ERASE_ANSWER_WHOLLY = "DELETE FROM answer WHERE id = $2 AND customer = $1"
_TOMBSTONE = """
INSERT INTO erased (customer, respondent, before) VALUES ($1, $2, $3)
ON CONFLICT (customer, respondent) DO UPDATE SET before = greatest(erased.before, excluded.before)
"""
_TOMBSTONES = """
SELECT customer, respondent, before FROM erased JOIN unnest($1::int[], $2::text[]) AS asked(customer, respondent)
    USING (customer, respondent)
"""
_ALERTS_OF = """
SELECT body FROM alert
WHERE customer = $1 AND EXISTS (SELECT FROM unnest($2::text[]) AS asked(said) WHERE position(said IN body) > 0)
"""
_SCRUB = (
    "UPDATE alert SET body = seen.body FROM unnest($1::uuid[], $2::text[]) AS seen(id, body) WHERE alert.id = seen.id"
)


async def spellings(tx: Connection, customer: int, respondent: str) -> list[str]:
    """Return every way in which a person is written in a customer's answers."""
    wanted = normalised(respondent)
    return sorted(row[0] for row in await tx.fetch(_RESPONDENTS, customer) if normalised(row[0]) == wanted)


async def erase(
    tx: Connection, customer: int, names: Sequence[str], *, before: datetime, digest: str, keeps_counts: bool
) -> int:
    """Forget a person's answers and return how many; keep a digest, so that late ones are forgotten too.

    The answers stay counted, as those of as many people as there are names, or go, and the counts with them.
    """
    await answers.move(tx, customer)  # first: whoever counts for it now would not know of the tombstone
    await tx.execute(_TOMBSTONE, customer, digest, before)
    if keeps_counts:
        # The same for all answers under a name, so that it still counts once; nobody can tell whom it stands for.
        pseudonyms = [f"erased-{uuid7()}" for _ in names]
        done = await tx.execute(_ERASE, customer, names, pseudonyms, before)
    else:
        done = await tx.execute(_ERASE_WHOLLY, customer, names, before)
        await rebuild(tx, customer)
    return int(done.split()[-1])


async def erase_answer(
    tx: Connection, customer: int, answer: UUID, *, before: datetime, keeps_counts: bool
) -> tuple[int, bool]:
    """Forget one answer, also if it comes late; return how many there were, and whether a name is left.

    A name stays with a score that stays counted: by it the person counts once.
    """
    await answers.move(tx, customer)
    await tx.execute(_TOMBSTONE, customer, known_by(answer), before)
    if keeps_counts:
        erased = await tx.fetch(_ERASE_ANSWER, customer, answer)
        return len(erased), any(row[0] is not None for row in erased)
    done = await tx.execute(_ERASE_ANSWER_WHOLLY, customer, answer)
    await rebuild(tx, customer)
    return int(done.split()[-1]), False


async def tombstones(tx: Connection, asked: Sequence[tuple[int, str]]) -> dict[tuple[int, str], datetime]:
    """Return until when these are to be forgotten, by customer and by digest or answer; most are not."""
    if not asked:
        return {}
    rows = await tx.fetch(_TOMBSTONES, [customer for customer, _ in asked], [digest for _, digest in asked])
    return {(row[0], row[1]): row[2] for row in rows}


async def alerts_that_say(tx: Connection, customer: str, texts: Sequence[str]) -> list[AlertV1]:
    """Return the alerts whose message holds one of some texts, such as a respondent or an answer's id."""
    rows = await tx.fetch(_ALERTS_OF, customer, [text(one) for one in texts])  # as it has them: quoted and escaped
    return [alert_decoder.decode(row["body"]) for row in rows]


async def scrub(tx: Connection, alerts: Sequence[AlertV1]) -> None:
    """Replace what is shown of alerts."""
    if alerts:
        await tx.execute(_SCRUB, [alert.id for alert in alerts], [text(alert) for alert in alerts])
