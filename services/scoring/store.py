"""All SQL of scoring's way of the answers: what a batch reads and writes, each in one statement for the whole batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from services.scoring.domain.counting import WIDTH, Change, Said, Series
from services.scoring.domain.decide import Alert, Decision
from shared.db import Connection
from shared.events import AlertV1, EvidenceV1, FeedbackReceivedV1

EVIDENCE = 20
"""Answers that an alert shows at most."""

_COLUMNS = ", ".join(f"c{n}" for n in range(1, WIDTH + 1))
_SUMS = ", ".join(f"sum(c{n})::int" for n in range(1, WIDTH + 1))

_KNOWN = "SELECT id, customer FROM answer WHERE id = ANY($1::uuid[])"
_SERIES = "SELECT id, customer, touchpoint, audience, kind, trust FROM series WHERE customer = ANY($1::text[])"
_NEW_SERIES = """
INSERT INTO series (customer, touchpoint, audience, kind, trust)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
RETURNING id, customer, touchpoint, audience, kind, trust
"""
_LATEST = """
SELECT asked.place, said.occurred_at, said.received_at, said.id, said.score
FROM unnest($1::int[], $2::text[]) WITH ORDINALITY AS asked(series, respondent, place)
CROSS JOIN LATERAL (
    SELECT occurred_at, received_at, id, score FROM answer
    WHERE answer.series = asked.series AND answer.respondent = asked.respondent
    ORDER BY occurred_at DESC, received_at DESC, id DESC LIMIT 1
) AS said
"""
_SUM_HOURS = f"""
SELECT asked.place::int, {_SUMS}
FROM unnest($1::int[], $2::int[], $3::int[]) WITH ORDINALITY AS asked(series, first, after, place)
JOIN bucket ON bucket.series = asked.series AND bucket.hour >= asked.first AND bucket.hour < asked.after
GROUP BY asked.place
"""
_COUNT = f"""
INSERT INTO bucket (series, hour, {_COLUMNS})
SELECT series, hour, {", ".join(f"coalesce(sum(by) FILTER (WHERE category = {n}), 0)" for n in range(WIDTH))}
FROM unnest($1::int[], $2::int[], $3::int[], $4::int[]) AS change(series, hour, category, by)
GROUP BY series, hour
ON CONFLICT (series, hour) DO UPDATE SET {", ".join(f"c{n} = bucket.c{n} + excluded.c{n}" for n in range(1, WIDTH + 1))}
"""
_RECENT = """
SELECT asked.place::int, answer.respondent, answer.occurred_at, answer.received_at, answer.id, answer.score
FROM unnest($1::int[], $2::timestamptz[]) WITH ORDINALITY AS asked(series, since, place)
JOIN answer ON answer.series = asked.series AND answer.occurred_at >= asked.since
"""
_EVIDENCE = """
SELECT asked.place::int, said.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::uuid[])
    WITH ORDINALITY AS asked(customer, audience, kind, touchpoint, since, answer, place)
CROSS JOIN LATERAL (
    SELECT answer.id, series.kind, answer.score, answer.occurred_at, series.trust, answer.comment,
        answer.respondent, answer.channel, answer.language
    FROM series JOIN answer ON answer.series = series.id
    WHERE series.customer = asked.customer AND series.audience = asked.audience AND series.kind = asked.kind
        AND (asked.touchpoint IS NULL OR series.touchpoint = asked.touchpoint)
        AND answer.occurred_at >= asked.since
        AND (asked.answer IS NULL OR answer.id = asked.answer)
        AND answer.score <= CASE series.kind WHEN 'nps' THEN 6 WHEN 'mood' THEN 2 ELSE answer.score END
    ORDER BY answer.occurred_at DESC, answer.id DESC LIMIT $7
) AS said
ORDER BY asked.place, said.occurred_at DESC, said.id DESC
"""
_ALERT = """
SELECT id, version, customer, rule, kind, touchpoint, dedup_key, severity, trust, opened_at, updated_at, caused_at,
    due_at, answer, pending, partition, traceparent
FROM alert
"""
_OPEN = _ALERT + "WHERE state = 'open' AND answer IS NULL AND customer = ANY($1::text[])"
_DUE = _ALERT + "WHERE state = 'open' AND due_at <= $1 AND partition = ANY($2::int[]) ORDER BY due_at LIMIT $3"
_CLEARED = """
SELECT DISTINCT ON (customer, dedup_key) customer, dedup_key, cleared_at FROM alert
WHERE state = 'cleared' AND customer = ANY($1::text[]) AND cleared_at >= $2
ORDER BY customer, dedup_key, cleared_at DESC
"""
_SAVE = """
INSERT INTO alert (id, version, customer, partition, rule, kind, touchpoint, dedup_key, state, severity, trust,
    opened_at, updated_at, cleared_at, caused_at, due_at, answer, pending, traceparent, body)
SELECT * FROM unnest($1::uuid[], $2::int[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[],
    $15::timestamptz[], $16::timestamptz[], $17::uuid[], $18::bool[], $19::text[], $20::text[])
ON CONFLICT (id) DO UPDATE SET version = excluded.version, state = excluded.state, severity = excluded.severity,
    trust = excluded.trust, updated_at = excluded.updated_at, cleared_at = excluded.cleared_at,
    due_at = excluded.due_at, pending = excluded.pending, body = excluded.body
"""
_DEFER = """
UPDATE alert SET due_at = later.due_at, pending = later.pending
FROM unnest($1::uuid[], $2::timestamptz[], $3::bool[]) AS later(id, due_at, pending) WHERE alert.id = later.id
"""

_ANSWER_COLUMNS = [
    "id",
    "customer",
    "series",
    "score",
    "occurred_at",
    "received_at",
    "respondent",
    "metric",
    "comment",
    "channel",
    "language",
    "contact",
    "context",
    "backfill",
]

_encode = msgspec.json.Encoder().encode
_WINDOW = f"""
SELECT series.customer, series.touchpoint, series.audience, series.kind, series.trust, {_SUMS}
FROM series JOIN bucket ON bucket.series = series.id AND bucket.hour >= $2
WHERE series.customer = ANY($1::text[])
GROUP BY series.id
"""
_ALERTS = """
SELECT body FROM alert
WHERE ($1::text IS NULL OR state = $1) AND ($2::text[] IS NULL OR customer = ANY($2))
    AND ($3::timestamptz IS NULL OR (opened_at, id) < ($3, $4::uuid))
ORDER BY opened_at DESC, id DESC LIMIT $5
"""
_ONE_ALERT = "SELECT body FROM alert WHERE id = $1"
_OPEN_COUNTS = (
    "SELECT customer, count(*)::int FROM alert WHERE state = 'open' AND customer = ANY($1::text[]) GROUP BY 1"
)
_OPEN_BY_SEVERITY = "SELECT severity, count(*)::int FROM alert WHERE state = 'open' GROUP BY 1"

_alert_decoder = msgspec.json.Decoder(AlertV1)


async def known_ids(tx: Connection, ids: Sequence[UUID]) -> set[tuple[UUID, str]]:
    """Return which of these (id, customer) were counted before."""
    return {(row[0], row[1]) for row in await tx.fetch(_KNOWN, ids)}


async def series_of_customers(tx: Connection, customers: Sequence[str]) -> dict[str, dict[Series, int]]:
    """Return every series of some customers."""
    found: dict[str, dict[Series, int]] = {customer: {} for customer in customers}
    for row in await tx.fetch(_SERIES, customers):
        found[row["customer"]][_series(row)] = row["id"]
    return found


async def add_series(tx: Connection, wanted: Collection[tuple[str, Series]]) -> dict[tuple[str, Series], int]:
    """Create series that are new and return their ids."""
    rows = await tx.fetch(
        _NEW_SERIES,
        [customer for customer, _ in wanted],
        [series.touchpoint for _, series in wanted],
        [series.audience for _, series in wanted],
        [series.kind for _, series in wanted],
        [series.trust for _, series in wanted],
    )
    return {(row["customer"], _series(row)): row["id"] for row in rows}


def _series(row: Any) -> Series:
    return Series(row["touchpoint"], row["audience"], row["kind"], row["trust"])


async def latest_of_respondents(tx: Connection, asked: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Said]:
    """Return the latest stored answer of each respondent in a series."""
    rows = await tx.fetch(_LATEST, [series for series, _ in asked], [respondent for _, respondent in asked])
    return {asked[row[0] - 1]: Said(row[1], row[2], row[3], row[4]) for row in rows}


async def store_answers(tx: Connection, answers: Sequence[FeedbackReceivedV1], series: Sequence[int]) -> None:
    """Store new answers. COPY costs half of an INSERT with unnest."""
    await tx.copy_records_to_table(
        "answer",
        columns=_ANSWER_COLUMNS,
        records=[
            (
                a.id,
                a.customer,
                of,
                a.score,
                a.occurred_at,
                a.received_at,
                a.respondent,
                a.metric,
                a.comment,
                a.channel,
                a.language,
                a.contact,
                None if a.context is None else _encode(a.context).decode(),
                a.backfill,
            )
            for a, of in zip(answers, series, strict=True)
        ],
    )


Hours = tuple[int, int, int]
"""A series, the first hour, and the hour after the last."""


async def sum_hours(tx: Connection, asked: Sequence[Hours]) -> list[list[int]]:
    """Return the counts per category of each asked range, in its order."""
    sums = [[0] * WIDTH for _ in asked]
    if asked:
        for row in await tx.fetch(_SUM_HOURS, [a[0] for a in asked], [a[1] for a in asked], [a[2] for a in asked]):
            sums[row[0] - 1] = list(row)[1:]
    return sums


async def count(tx: Connection, made: Sequence[tuple[int, Change]]) -> None:
    """Apply changes to the buckets of their series."""
    if made:
        await tx.execute(
            _COUNT,
            [series for series, _ in made],
            [change.hour for _, change in made],
            [change.category for _, change in made],
            [change.by for _, change in made],
        )


@dataclass(frozen=True, slots=True)
class Recent:
    """A stored answer of a window shorter than a day."""

    respondent: str | None
    said: Said


async def recent(tx: Connection, asked: Sequence[tuple[int, datetime]]) -> list[list[Recent]]:
    """Return the stored answers of each asked series since a moment."""
    found: list[list[Recent]] = [list[Recent]() for _ in asked]
    if asked:
        for row in await tx.fetch(_RECENT, [a[0] for a in asked], [a[1] for a in asked]):
            found[int(row[0]) - 1].append(Recent(row[1], Said(row[2], row[3], row[4], row[5])))
    return found


@dataclass(frozen=True, slots=True)
class EvidenceOf:
    """Which bad answers led to an alert."""

    customer: str
    audience: str
    kind: str
    touchpoint: str | None
    since: datetime
    answer: UUID | None


async def evidence(tx: Connection, asked: Sequence[EvidenceOf]) -> list[list[EvidenceV1]]:
    """Return the newest bad answers for each, at most 20."""
    found: list[list[EvidenceV1]] = [list[EvidenceV1]() for _ in asked]
    if not asked:
        return found
    rows = await tx.fetch(
        _EVIDENCE,
        [a.customer for a in asked],
        [a.audience for a in asked],
        [a.kind for a in asked],
        [a.touchpoint for a in asked],
        [a.since for a in asked],
        [a.answer for a in asked],
        EVIDENCE,
    )
    for row in rows:
        found[int(row["place"]) - 1].append(
            EvidenceV1(
                id=UUID(int=row["id"].int),
                kind=row["kind"],
                score=int(row["score"]) if row["score"].is_integer() else row["score"],
                occurred_at=row["occurred_at"],
                trust=row["trust"],
                comment=row["comment"],
                respondent=row["respondent"],
                channel=row["channel"],
                language=row["language"],
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored alert, the partition of its customer, and the trace of the answer that caused it."""

    alert: Alert
    partition: int
    traceparent: str | None


def _kept(row: Any) -> Kept:
    facts = dict(row)
    partition, traceparent = facts.pop("partition"), facts.pop("traceparent")
    facts["id"] = UUID(int=facts["id"].int)  # the driver's own UUID class cannot be encoded
    return Kept(Alert(**facts), partition, traceparent)


async def open_alerts(tx: Connection, customers: Sequence[str]) -> list[Alert]:
    """Return the open alerts of rules on a window."""
    return [_kept(row).alert for row in await tx.fetch(_OPEN, customers)]


async def cleared_since(tx: Connection, customers: Sequence[str], since: datetime) -> list[tuple[str, str, datetime]]:
    """Return customer, dedup_key and time of the last alert that cleared, for each problem since a moment."""
    return [(row[0], row[1], row[2]) for row in await tx.fetch(_CLEARED, customers, since)]


async def due_alerts(tx: Connection, now: datetime, partitions: Sequence[int], limit: int) -> list[Kept]:
    """Return open alerts to look at by time alone."""
    return [_kept(row) for row in await tx.fetch(_DUE, now, partitions, limit)]


@dataclass(frozen=True, slots=True)
class Telling:
    """What happened to an alert and the message that tells it."""

    decision: Decision
    message: AlertV1
    partition: int
    traceparent: str | None


async def save(tx: Connection, told: Sequence[Telling]) -> None:
    """Store what happened to alerts. The last of each alert wins."""
    last = {one.decision.alert.id: one for one in told}
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
        [_encode(m).decode() for _, m, _, _ in rows],
    )


async def defer(tx: Connection, alerts: Sequence[Alert]) -> None:
    """Store when to look at alerts again."""
    if alerts:
        await tx.execute(_DEFER, [a.id for a in alerts], [a.due_at for a in alerts], [a.pending for a in alerts])


async def window_counts(
    tx: Connection, customers: Sequence[str], first_hour: int
) -> dict[str, dict[Series, list[int]]]:
    """Return the counts per series of some customers from an hour on."""
    found: dict[str, dict[Series, list[int]]] = {customer: {} for customer in customers}
    for row in await tx.fetch(_WINDOW, customers, first_hour):
        found[row["customer"]][_series(row)] = list(row)[5:]
    return found


async def alerts(
    tx: Connection,
    *,
    state: str | None,
    customers: Sequence[str] | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[AlertV1]:
    """Return alerts, newest first."""
    at, id_ = after or (None, None)
    return [_alert_decoder.decode(row[0]) for row in await tx.fetch(_ALERTS, state, customers, at, id_, limit)]


async def alert(tx: Connection, id_: UUID) -> AlertV1 | None:
    """Return one alert."""
    body = await tx.fetchval(_ONE_ALERT, id_)
    return None if body is None else _alert_decoder.decode(body)


async def open_counts(tx: Connection, customers: Sequence[str]) -> dict[str, int]:
    """Return how many alerts are open per customer."""
    return {row[0]: row[1] for row in await tx.fetch(_OPEN_COUNTS, customers)}


async def open_by_severity(tx: Connection) -> dict[str, int]:
    """Return how many alerts are open per severity."""
    return {row[0]: row[1] for row in await tx.fetch(_OPEN_BY_SEVERITY)}
