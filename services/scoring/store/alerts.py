"""SQL of alerts: which are open, due or cleared, what led to them, and what happened to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from services.scoring.domain.decide import Alert, Decision
from services.scoring.store.common import plain, text
from shared.database.pool import Connection
from shared.runtime.quarantine import not_held
from shared.wire.events import AlertV1, EvidenceV1, Trust

EVIDENCE = 20
"""Answers that an alert shows at most."""

_EVIDENCE = """
SELECT asked.place::int, said.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
    WITH ORDINALITY AS asked(customer, audience, kind, metric, touchpoint, since, place)
JOIN customer ON customer.name = asked.customer
CROSS JOIN LATERAL (
    SELECT answer.id, series.kind, answer.score, answer.occurred_at, series.trust, answer.comment,
        answer.respondent, answer.channel, answer.language, answer.contact, answer.received_at
    FROM series JOIN answer ON answer.customer = series.customer AND answer.series = series.number
    WHERE series.customer = customer.number AND series.audience = asked.audience AND series.kind = asked.kind
        AND series.metric IS NOT DISTINCT FROM asked.metric
        AND (asked.touchpoint IS NULL OR series.touchpoint = asked.touchpoint)
        AND answer.occurred_at >= asked.since
        AND answer.score <= CASE series.kind WHEN 'nps' THEN 6 WHEN 'mood' THEN 2 ELSE answer.score END
    ORDER BY answer.occurred_at DESC, answer.id DESC LIMIT $7
) AS said
ORDER BY asked.place, said.occurred_at DESC, said.id DESC
"""
_EVIDENCE_ONE = """
SELECT asked.place::int, answer.id, series.kind, answer.score, answer.occurred_at, series.trust, answer.comment,
    answer.respondent, answer.channel, answer.language, answer.contact, answer.received_at
FROM unnest($1::text[], $2::uuid[]) WITH ORDINALITY AS asked(customer, answer, place)
JOIN customer ON customer.name = asked.customer
JOIN answer ON answer.id = asked.answer AND answer.customer = customer.number
JOIN series ON series.customer = answer.customer AND series.number = answer.series
"""
_ALERT = """
SELECT id, version, customer, rule, kind, touchpoint, dedup_key, severity, trust, opened_at, updated_at, caused_at,
    due_at, answer, pending, partition, traceparent
FROM alert
"""
_OPEN = _ALERT + "WHERE state = 'open' AND answer IS NULL AND customer = ANY($1::text[])"
_DUE = f"""
{_ALERT}WHERE state = 'open' AND due_at <= $1 AND partition = ANY($2::int[])
    AND {not_held("customers", "alert.customer")}
ORDER BY due_at LIMIT $3
"""
_OPEN_MESSAGES = "SELECT body FROM alert WHERE state = 'open' AND severity <> 'info' ORDER BY opened_at, id"
_OPEN_IDS = "SELECT customer, id FROM alert WHERE state = 'open' AND severity <> 'info' ORDER BY customer, opened_at"
_CLEARED = """
SELECT customer, dedup_key, trust, max(cleared_at) FROM alert
WHERE state = 'cleared' AND customer = ANY($1::text[]) AND cleared_at >= $2
GROUP BY customer, dedup_key, trust
"""
_SAVE = """
INSERT INTO alert (id, version, customer, partition, rule, kind, touchpoint, dedup_key, state, severity, trust,
    opened_at, updated_at, cleared_at, caused_at, due_at, answer, pending, traceparent, body, opening)
SELECT * FROM unnest($1::uuid[], $2::int[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[],
    $15::timestamptz[], $16::timestamptz[], $17::uuid[], $18::bool[], $19::text[], $20::text[], $21::text[])
ON CONFLICT (id) DO UPDATE SET version = excluded.version, state = excluded.state, severity = excluded.severity,
    partition = excluded.partition,
    trust = excluded.trust, updated_at = excluded.updated_at, cleared_at = excluded.cleared_at,
    due_at = excluded.due_at, pending = excluded.pending, body = excluded.body
"""
_DEFER = """
UPDATE alert SET due_at = later.due_at, pending = later.pending
FROM unnest($1::uuid[], $2::timestamptz[], $3::bool[]) AS later(id, due_at, pending) WHERE alert.id = later.id
"""


_decode_message = msgspec.json.Decoder(AlertV1).decode


@dataclass(frozen=True, slots=True)
class EvidenceOf:
    """Which answers led to an alert: one, or the bad ones of a kind since a moment; of no kind none."""

    customer: str
    audience: str
    kind: str | None
    metric: str | None
    touchpoint: str | None
    since: datetime
    answer: UUID | None


async def evidence(tx: Connection, asked: Sequence[EvidenceOf]) -> list[list[EvidenceV1]]:
    """Return the newest of them for each, at most 20."""
    found: list[list[EvidenceV1]] = [list[EvidenceV1]() for _ in asked]
    ones = [(place, a) for place, a in enumerate(asked) if a.answer is not None]
    many = [(place, a) for place, a in enumerate(asked) if a.answer is None and a.kind is not None]
    if ones:
        rows = await tx.fetch(_EVIDENCE_ONE, [a.customer for _, a in ones], [a.answer for _, a in ones])
        for row in rows:
            found[ones[int(row["place"]) - 1][0]].append(_shown(row))
    if many:
        rows = await tx.fetch(
            _EVIDENCE,
            [a.customer for _, a in many],
            [a.audience for _, a in many],
            [a.kind for _, a in many],
            [a.metric for _, a in many],
            [a.touchpoint for _, a in many],
            [a.since for _, a in many],
            EVIDENCE,
        )
        for row in rows:
            found[many[int(row["place"]) - 1][0]].append(_shown(row))
    return found


def _shown(row: Any) -> EvidenceV1:
    return EvidenceV1(
        id=UUID(int=row["id"].int),
        kind=row["kind"],
        score=plain(row["score"]),
        occurred_at=row["occurred_at"],
        trust=row["trust"],
        comment=row["comment"],
        respondent=row["respondent"],
        channel=row["channel"],
        language=row["language"],
        contact=row["contact"],
        received_at=row["received_at"],
    )


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """A stored alert, the partition of its customer, and the trace of the answer that caused it."""

    alert: Alert
    partition: int
    traceparent: str | None


def _kept(row: Any) -> StoredAlert:
    facts = dict(row)
    partition, traceparent = facts.pop("partition"), facts.pop("traceparent")
    facts["id"] = UUID(int=facts["id"].int)  # the driver's own UUID class cannot be encoded
    return StoredAlert(Alert(**facts), partition, traceparent)


async def open_messages(tx: Connection) -> list[AlertV1]:
    """Return every open alert that a ticket belongs to, as others were told of it last."""
    return [_decode_message(row[0]) for row in await tx.fetch(_OPEN_MESSAGES)]


async def open_ids(tx: Connection) -> list[tuple[str, UUID]]:
    """Return every open alert that a ticket belongs to, by customer."""
    return [(row[0], UUID(int=row[1].int)) for row in await tx.fetch(_OPEN_IDS)]


async def open_alerts(tx: Connection, customers: Sequence[str]) -> list[Alert]:
    """Return the open alerts of rules on a window."""
    return [_kept(row).alert for row in await tx.fetch(_OPEN, customers)]


async def cleared_since(
    tx: Connection, customers: Sequence[str], since: datetime
) -> list[tuple[str, str, Trust, datetime]]:
    """Return customer, dedup_key, trust and time of the last alert of each that cleared since a moment."""
    return [(row[0], row[1], row[2], row[3]) for row in await tx.fetch(_CLEARED, customers, since)]


async def due_alerts(tx: Connection, now: datetime, partitions: Sequence[int], limit: int) -> list[StoredAlert]:
    """Return open alerts to look at by time alone."""
    return [_kept(row) for row in await tx.fetch(_DUE, now, partitions, limit)]


@dataclass(frozen=True, slots=True)
class PublishedDecision:
    """What happened to an alert and the message that tells it."""

    decision: Decision
    message: AlertV1
    partition: int
    traceparent: str | None


async def save(tx: Connection, told: Sequence[PublishedDecision]) -> None:
    """Store what happened to alerts. The last of each alert wins."""
    last = {one.decision.alert.id: one for one in told}
    first = {one.decision.alert.id: _opening(one.message) for one in reversed(told)}
    rows = [(one.decision.alert, one.message, one.partition, one.traceparent) for one in last.values()]
    if not rows:
        return
    await tx.execute(
        _SAVE,
        [a.id for a, _, _, _ in rows],
        [a.version for a, _, _, _ in rows],
        [a.customer for a, _, _, _ in rows],
        [p for _, _, p, _ in rows],
        [a.rule for a, _, _, _ in rows],
        [a.kind for a, _, _, _ in rows],
        [a.touchpoint for a, _, _, _ in rows],
        [a.dedup_key for a, _, _, _ in rows],
        [m.state for _, m, _, _ in rows],
        [a.severity for a, _, _, _ in rows],
        [a.trust for a, _, _, _ in rows],
        [a.opened_at for a, _, _, _ in rows],
        [a.updated_at for a, _, _, _ in rows],
        [m.cleared_at for _, m, _, _ in rows],
        [a.caused_at for a, _, _, _ in rows],
        [a.due_at for a, _, _, _ in rows],
        [a.answer for a, _, _, _ in rows],
        [a.pending for a, _, _, _ in rows],
        [t for _, _, _, t in rows],
        [text(m) for _, m, _, _ in rows],
        [first[a.id] for a, _, _, _ in rows],
    )


def _opening(message: AlertV1) -> str:
    """Return what is kept of the first decision; of one that is known already the store keeps what it has."""
    return text({name: getattr(message, name) for name in ("summary", "sentences", "reason", "scores")})


async def defer(tx: Connection, alerts: Sequence[Alert]) -> None:
    """Store when to look at alerts again."""
    if alerts:
        await tx.execute(_DEFER, [a.id for a in alerts], [a.due_at for a in alerts], [a.pending for a in alerts])
