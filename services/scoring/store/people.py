"""SQL of erasures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.scoring.store import answers
from services.scoring.store.common import alert_decoder, text
from services.scoring.store.counting import rebuild
from shared.db import Connection
from shared.events import AlertV1

_ERASE = """
UPDATE answer SET respondent = $3, comment = NULL, contact = NULL, context = NULL
WHERE customer = $1 AND respondent = $2 AND occurred_at < $4
"""
_ERASE_WHOLLY = """
DELETE FROM answer WHERE customer = $1 AND respondent = $2 AND occurred_at < $3
"""
_TOMBSTONE = """
INSERT INTO erased (customer, respondent, before) VALUES ($1, $2, $3)
ON CONFLICT (customer, respondent) DO UPDATE SET before = greatest(erased.before, excluded.before)
"""
_TOMBSTONES = """
SELECT customer, respondent, before FROM erased JOIN unnest($1::int[], $2::text[]) AS asked(customer, respondent)
    USING (customer, respondent)
"""
_ALERTS_OF = "SELECT body FROM alert WHERE customer = $1 AND position($2 IN body) > 0"
_SCRUB = (
    "UPDATE alert SET body = seen.body FROM unnest($1::uuid[], $2::text[]) AS seen(id, body) WHERE alert.id = seen.id"
)


async def erase(
    tx: Connection, customer: int, respondent: str, *, pseudonym: str | None, before: datetime, digest: str
) -> int:
    """Forget a person's answers and return how many; keep a digest, so that late ones are forgotten too.

    With a pseudonym the answers stay counted, as one person's; without one they go, and the counts with them.
    """
    await answers.move(tx, customer)  # first: whoever counts for it now would not know of the tombstone
    await tx.execute(_TOMBSTONE, customer, digest, before)
    if pseudonym is None:
        done = await tx.execute(_ERASE_WHOLLY, customer, respondent, before)
        await rebuild(tx, customer)
    else:
        done = await tx.execute(_ERASE, customer, respondent, pseudonym, before)
    return int(done.split()[-1])


async def tombstones(tx: Connection, asked: Sequence[tuple[int, str]]) -> dict[tuple[int, str], datetime]:
    """Return until when the answers of these are to be forgotten, by customer and digest; most are not."""
    if not asked:
        return {}
    rows = await tx.fetch(_TOMBSTONES, [customer for customer, _ in asked], [digest for _, digest in asked])
    return {(row[0], row[1]): row[2] for row in rows}


async def alerts_that_name(tx: Connection, customer: str, respondent: str) -> list[AlertV1]:
    """Return the alerts whose message holds a text, such as a respondent."""
    rows = await tx.fetch(_ALERTS_OF, customer, text(respondent))  # as the message has it: quoted and escaped
    return [alert_decoder.decode(row["body"]) for row in rows]


async def scrub(tx: Connection, alerts: Sequence[AlertV1]) -> None:
    """Replace what is shown of alerts."""
    if alerts:
        await tx.execute(_SCRUB, [alert.id for alert in alerts], [text(alert) for alert in alerts])
