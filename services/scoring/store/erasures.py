"""SQL of erasures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from unicodedata import normalize
from uuid import UUID

from services.scoring.store import answers
from services.scoring.store.common import alert_decoder, text
from services.scoring.store.counting import rebuild
from shared.database.pool import Connection
from shared.wire.erasure import known_by, normalised
from shared.wire.events import AlertV1
from shared.wire.ids import uuid7

# Finds more than are meant, such as where only an accent's case differs: which are, is asked of those alone.
_ALIKE = """
SELECT DISTINCT customer, respondent FROM answer
WHERE customer = ANY($1::int[]) AND respondent IS NOT NULL
    AND replace(lower(normalize(btrim(respondent), NFC)), 'ß', 'ss') = ANY($2::text[])
"""
_ERASE = """
UPDATE answer SET respondent = known.pseudonym, comment = NULL, contact = NULL, context = NULL
FROM unnest($2::text[], $3::text[]) AS known(name, pseudonym)
WHERE answer.customer = $1 AND answer.respondent = known.name AND least(occurred_at, received_at) < $4
"""
_ERASE_WHOLLY = """
DELETE FROM answer WHERE customer = $1 AND respondent = ANY($2::text[]) AND least(occurred_at, received_at) < $3
"""
_ERASE_ANSWER = """
UPDATE answer SET comment = NULL, contact = NULL, context = NULL
WHERE id = $2 AND customer = $1 RETURNING respondent, series, vote
"""
# The whole of it, so that it still counts once; nobody can tell whose browser it was.
_UNKNOWN_VOTE = "UPDATE answer SET vote = $4 WHERE customer = $1 AND series = $2 AND vote = $3"
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


async def spellings(tx: Connection, people: Sequence[tuple[int, str]]) -> dict[tuple[int, str], list[str]]:
    """Return every way in which people are written in their customer's answers, by customer and normalised name.

    One look at each customer's answers, however many people they are.
    """
    wanted = {(customer, normalised(name)) for customer, name in people}
    alike = {_alike(form) for _, name in people for form in (name, normalised(name))}
    found: dict[tuple[int, str], list[str]] = {}
    for customer, written in await tx.fetch(_ALIKE, sorted({c for c, _ in wanted}), sorted(alike)):
        if (customer, normalised(written)) in wanted:
            found.setdefault((customer, normalised(written)), []).append(written)
    return {person: sorted(written) for person, written in found.items()}


def _alike(name: str) -> str:
    """Return what `_ALIKE` makes of a name."""
    return normalize("NFC", name.strip()).lower().replace("ß", "ss")


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
        for _, series, vote in erased:
            if vote is not None:
                await tx.execute(_UNKNOWN_VOTE, customer, series, vote, f"erased-{uuid7()}@{vote.rpartition('@')[2]}")
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
