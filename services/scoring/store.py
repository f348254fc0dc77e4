"""All SQL of scoring's way of the answers: what a batch reads and writes, each in one statement for the whole batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from services.scoring.domain.counting import HOUR, WIDTH, Change, Said, Series, series, window_start
from services.scoring.domain.customer import CustomerState, Memory, Plan
from services.scoring.domain.decide import Alert, Decision
from services.scoring.domain.shift import DEFAULT_PRIOR, Prior
from services.scoring.domain.trend import Counted
from services.scoring.domain.windows import ExactWindow, HourWindow
from shared.db import Connection
from shared.events import AlertV1, EvidenceV1, FeedbackReceivedV1, Kind, ScoreDailyV1

EVIDENCE = 20
"""Answers that an alert shows at most."""

_COLUMNS = (*(f"c{n}" for n in range(1, WIDTH)), "total")
_SUMS = ", ".join((*(f"sum({name})::int" for name in _COLUMNS[:-1]), "sum(total)"))

_CUSTOMERS = """
SELECT name, number, partition, due_at, memory.body AS memory
FROM customer LEFT JOIN memory ON memory.customer = customer.number WHERE name = ANY($1::text[])
"""
_NEW_CUSTOMERS = """
INSERT INTO customer (name, partition, due_at)
SELECT name, partition, $3 FROM unnest($1::text[], $2::int[]) AS new(name, partition)
RETURNING name, number, partition, due_at, NULL::bytea AS memory
"""
_REMEMBER = """
INSERT INTO memory (customer, body) SELECT * FROM unnest($1::text::int[], $2::bytea[]) AS seen(customer, body)
ON CONFLICT (customer) DO UPDATE SET body = excluded.body
"""
_SAVE_DUE = """
UPDATE customer SET due_at = seen.due_at, partition = seen.partition
FROM unnest($1::int[], $2::timestamptz[], $3::int[]) AS seen(number, due_at, partition)
WHERE customer.number = seen.number
"""
_DUE_CUSTOMERS = """
SELECT name, partition FROM customer WHERE due_at <= $1 AND partition = ANY($2::int[]) ORDER BY due_at LIMIT $3
"""
_KNOWN = """
SELECT id, customer FROM answer WHERE id = ANY($1::uuid[])
"""
_SERIES = """
SELECT customer, number, touchpoint, audience, kind, trust, metric FROM series WHERE customer = ANY($1::int[])
"""
_NEIGHBOURS = """
SELECT asked.place::int, said.occurred_at, said.received_at, said.id, said.score
FROM unnest($1::text::bigint[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::uuid[])
    WITH ORDINALITY AS asked(at, respondent, occurred_at, received_at, id, place)
CROSS JOIN LATERAL (
    (SELECT occurred_at, received_at, id, score FROM answer
    WHERE answer.customer = (asked.at >> 16)::int AND answer.series = (asked.at & 65535)::int
        AND answer.respondent = asked.respondent
        AND (answer.occurred_at, answer.received_at, answer.id) < (asked.occurred_at, asked.received_at, asked.id)
    ORDER BY occurred_at DESC, received_at DESC, id DESC LIMIT 1)
    UNION ALL
    (SELECT occurred_at, received_at, id, score FROM answer
    WHERE answer.customer = (asked.at >> 16)::int AND answer.series = (asked.at & 65535)::int
        AND answer.respondent = asked.respondent
        AND (answer.occurred_at, answer.received_at, answer.id) > (asked.occurred_at, asked.received_at, asked.id)
    ORDER BY occurred_at, received_at, id LIMIT 1)
) AS said
"""
_SUM_HOURS = f"""
SELECT asked.place::int, bucket.series, {_SUMS}
FROM unnest($1::int[], $2::int[], $3::int[]) WITH ORDINALITY AS asked(customer, first, after, place)
JOIN bucket ON bucket.customer = asked.customer AND bucket.hour >= asked.first AND bucket.hour < asked.after
GROUP BY asked.place, bucket.series
"""
_SUM_REPLACED = """
SELECT asked.place::int, replaced.series, replaced.category, sum(replaced.count)::int, sum(replaced.total)
FROM unnest($1::int[], $2::int[], $3::int[]) WITH ORDINALITY AS asked(customer, first, after, place)
JOIN replaced ON replaced.customer = asked.customer AND replaced.hour >= asked.first AND replaced.hour < asked.after
    AND replaced.until >= asked.after
GROUP BY asked.place, replaced.series, replaced.category
"""
_GAINED = "count(*) FILTER (WHERE gain = {n}) - count(*) FILTER (WHERE gain = -{n})"
_COUNT = f"""
INSERT INTO bucket (customer, hour, series, {", ".join(_COLUMNS)})
SELECT (place >> 16)::int, hour, (place & 65535)::int,
    {", ".join(_GAINED.format(n=n) for n in range(1, WIDTH))},
    coalesce(sum(amount), 0)
FROM unnest($1::text::bigint[], $2::text::int[], $3::text::int[], $4::float8[])
    AS change(place, hour, gain, amount)
GROUP BY place, hour
ON CONFLICT (customer, hour, series) DO UPDATE
SET {", ".join(f"{name} = bucket.{name} + excluded.{name}" for name in _COLUMNS)}
"""
_REPLACE = """
INSERT INTO replaced (customer, series, hour, until, category, count, total)
SELECT customer, series, hour, until, category, sum(by), sum(amount)
FROM unnest($1::int[], $2::int[], $3::int[], $4::int[], $5::int[], $6::int[], $7::float8[])
    AS change(customer, series, hour, until, category, by, amount)
GROUP BY customer, series, hour, until, category
ON CONFLICT (customer, hour, until, series, category) DO UPDATE
SET count = replaced.count + excluded.count, total = replaced.total + excluded.total
"""
_RECENT = """
SELECT asked.place::int, answer.series, answer.respondent, answer.occurred_at, answer.received_at, answer.id,
    answer.score
FROM unnest($1::int[], $2::timestamptz[]) WITH ORDINALITY AS asked(customer, since, place)
JOIN series ON series.customer = asked.customer
JOIN answer ON answer.customer = series.customer AND answer.series = series.number
    AND answer.occurred_at >= asked.since
"""
_EVIDENCE = """
SELECT asked.place::int, said.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
    WITH ORDINALITY AS asked(customer, audience, kind, metric, touchpoint, since, place)
JOIN customer ON customer.name = asked.customer
CROSS JOIN LATERAL (
    SELECT answer.id, series.kind, answer.score, answer.occurred_at, series.trust, answer.comment,
        answer.respondent, answer.channel, answer.language, answer.contact
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
    answer.respondent, answer.channel, answer.language, answer.contact
FROM unnest($1::text[], $2::uuid[]) WITH ORDINALITY AS asked(customer, answer, place)
JOIN customer ON customer.name = asked.customer
JOIN answer ON answer.id = asked.answer AND answer.customer = customer.number
JOIN series ON series.customer = answer.customer AND series.number = answer.series
"""
_DAYS = f"""
SELECT bucket.hour / 24, NULL::int, series.touchpoint, series.audience, series.kind, series.trust, series.metric,
    {_SUMS}
FROM bucket JOIN series ON series.customer = bucket.customer AND series.number = bucket.series
WHERE bucket.customer = $1 AND bucket.hour >= $2
GROUP BY 1, series.customer, series.number
"""
_DAYS_REPLACED = """
SELECT replaced.hour / 24, replaced.until / 24, series.touchpoint, series.audience, series.kind, series.trust,
    series.metric, replaced.category, sum(replaced.count)::int, sum(replaced.total)
FROM replaced JOIN series ON series.customer = replaced.customer AND series.number = replaced.series
WHERE replaced.customer = $1 AND replaced.hour >= $2 AND replaced.until / 24 > replaced.hour / 24
GROUP BY 1, 2, series.customer, series.number, replaced.category
"""
_POINTS = "SELECT body FROM daily WHERE customer = $1 AND day >= $2 ORDER BY day"
_CHANNELS = """
SELECT channel, touchpoint, audience, kind, trust, metric, score FROM (
    SELECT DISTINCT ON (series.number, coalesce(respondent, answer.id::text))
        channel, touchpoint, audience, kind, trust, metric, score
    FROM series JOIN answer ON answer.customer = series.customer AND answer.series = series.number
    WHERE series.customer = $1 AND series.kind IN ('nps', 'mood') AND answer.occurred_at >= $2
    ORDER BY series.number, coalesce(respondent, answer.id::text), occurred_at DESC, received_at DESC, answer.id DESC
) AS latest
"""
_FEEDBACK = """
SELECT answer.id, kind, score, metric, touchpoint, audience, trust, occurred_at, received_at, respondent, comment,
    channel, language, backfill
FROM series JOIN answer ON answer.customer = series.customer AND answer.series = series.number
WHERE series.customer = $1 AND ($2::text IS NULL OR kind = $2) AND ($3::text IS NULL OR touchpoint = $3)
    AND ($4::text IS NULL OR audience = $4) AND ($5::text IS NULL OR channel = $5)
    AND ($6::timestamptz IS NULL OR occurred_at >= $6) AND ($7::timestamptz IS NULL OR occurred_at < $7)
    AND ($8::timestamptz IS NULL OR (occurred_at, answer.id) < ($8, $9::uuid))
ORDER BY occurred_at DESC, answer.id DESC LIMIT $10
"""
_PAST = """
SELECT answer.id, customer.name AS customer, kind, score, metric, touchpoint, audience, trust, occurred_at, received_at,
    respondent, comment, channel, language, backfill, follow_up
FROM customer JOIN series ON series.customer = customer.number
JOIN answer ON answer.customer = series.customer AND answer.series = series.number
WHERE customer.name = $1
ORDER BY occurred_at, answer.id
"""
_NAMES = "SELECT name FROM customer ORDER BY name"
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
_TOMBSTONES = "SELECT customer, respondent, before FROM erased WHERE customer = ANY($1::int[])"
_ALERTS_OF = "SELECT body FROM alert WHERE customer = $1 AND position($2 IN body) > 0"
_SCRUB = (
    "UPDATE alert SET body = seen.body FROM unnest($1::uuid[], $2::text[]) AS seen(id, body) WHERE alert.id = seen.id"
)
_CLEAR_BUCKETS = "DELETE FROM bucket WHERE customer = $1"
_CLEAR_REPLACED = "DELETE FROM replaced WHERE customer = $1"
_SAID = """
SELECT series, (extract(epoch FROM date_trunc('hour', occurred_at, 'UTC')) / 3600)::int AS hour,
    CASE kind WHEN 'nps' THEN CASE WHEN score <= 6 THEN 0 WHEN score <= 8 THEN 1 ELSE 2 END
        WHEN 'kpi' THEN 0 ELSE score::int - 1 END AS category,
    CASE kind WHEN 'kpi' THEN score ELSE 0 END AS amount,
    CASE WHEN respondent IS NOT NULL THEN lead(
        (extract(epoch FROM date_trunc('hour', occurred_at, 'UTC')) / 3600)::int
    ) OVER (PARTITION BY series, respondent ORDER BY occurred_at, received_at, id) END AS until
FROM answer JOIN series ON series.customer = answer.customer AND series.number = answer.series
WHERE answer.customer = $1
"""
_REBUILD_BUCKETS = f"""
WITH said AS ({_SAID})
INSERT INTO bucket (customer, hour, series, {", ".join(_COLUMNS)})
SELECT $1, hour, series, {", ".join(f"count(*) FILTER (WHERE category = {n})" for n in range(WIDTH - 1))}, sum(amount)
FROM said WHERE until IS NULL GROUP BY hour, series
"""
_REBUILD_REPLACED = f"""
WITH said AS ({_SAID})
INSERT INTO replaced (customer, series, hour, until, category, count, total)
SELECT $1, series, hour, until, category, count(*), sum(amount)
FROM said WHERE until > hour GROUP BY series, hour, until, category
"""
_HOLD = "LOCK TABLE answer IN SHARE ROW EXCLUSIVE MODE"
_ALL_COUNTS = f"""
SELECT hour, NULL::int AS until, series, {", ".join(_COLUMNS[:-1])}, round(total::numeric, 6) FROM bucket
WHERE customer = $1 AND (c1, c2, c3, c4, c5, c6, c7) <> (0, 0, 0, 0, 0, 0, 0)
UNION ALL
SELECT hour, until, series, category, count, 0, 0, 0, 0, 0, round(total::numeric, 6) FROM replaced
WHERE customer = $1 AND count <> 0
ORDER BY 1, 2, 3, 4, 5
"""
_EVERY_CUSTOMER = "SELECT number FROM customer ORDER BY number"
_LEVELS = "SELECT kind, detractors, passives, promoters FROM company"
_LEVELS_AT = "SELECT min(measured_at) FROM company"
_MEASURE_LEVELS = """
INSERT INTO company (kind, detractors, passives, promoters, measured_at)
SELECT kind, bad / (bad + middling + good), middling / (bad + middling + good), good / (bad + middling + good), $3
FROM (
    SELECT kind,
        sum(CASE kind WHEN 'nps' THEN c1 ELSE c1 + c2 END)::float8 AS bad,
        sum(CASE kind WHEN 'nps' THEN c2 ELSE c3 END)::float8 AS middling,
        sum(CASE kind WHEN 'nps' THEN c3 ELSE c4 END)::float8 AS good
    FROM (SELECT number FROM customer ORDER BY hashint4(number + $2) LIMIT $1) AS sample
    JOIN series ON series.customer = sample.number
    JOIN bucket ON bucket.customer = series.customer AND bucket.series = series.number
        AND bucket.hour >= extract(epoch FROM $3::timestamptz)::bigint / 3600 - 2160
    WHERE kind IN ('nps', 'mood') AND audience = 'customer'
    GROUP BY kind
) AS counted
WHERE bad + middling + good > 0
ON CONFLICT (kind) DO UPDATE SET detractors = excluded.detractors, passives = excluded.passives,
    promoters = excluded.promoters, measured_at = excluded.measured_at
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
_DAILY = """
INSERT INTO daily (customer, day, body)
SELECT * FROM unnest($1::int[], $2::int[], $3::text[]) ON CONFLICT DO NOTHING RETURNING customer
"""
_DEFER = """
UPDATE alert SET due_at = later.due_at, pending = later.pending
FROM unnest($1::uuid[], $2::timestamptz[], $3::bool[]) AS later(id, due_at, pending) WHERE alert.id = later.id
"""

_SERIES_COLUMNS = ["customer", "number", *Series._fields]
_ANSWER_COLUMNS = [
    "id",
    "customer",
    "series",
    "score",
    "occurred_at",
    "received_at",
    "respondent",
    "comment",
    "channel",
    "language",
    "contact",
    "context",
    "backfill",
    "follow_up",
]

_encode = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Memory).decode
_WINDOW = f"""
SELECT customer.name, series.touchpoint, series.audience, series.kind, series.trust, series.metric, counted.*
FROM customer
CROSS JOIN LATERAL (
    SELECT bucket.series AS number, {_SUMS} FROM bucket
    WHERE bucket.customer = customer.number AND bucket.hour >= $2 GROUP BY bucket.series
) AS counted
JOIN series ON series.customer = customer.number AND series.number = counted.number
WHERE customer.name = ANY($1::text[])
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
_point_decoder = msgspec.json.Decoder(ScoreDailyV1)

# ---- customers and series

_FAR = 2**31 - 1


async def customers(tx: Connection, partitions: Mapping[str, int], due_at: datetime) -> list[CustomerState]:
    """Return some customers with their series; those that are new are due first at `due_at`."""
    rows = await tx.fetch(_CUSTOMERS, list(partitions))
    if len(rows) < len(partitions):
        known = {row["name"] for row in rows}
        new = [name for name in partitions if name not in known]
        rows += await tx.fetch(_NEW_CUSTOMERS, new, [partitions[name] for name in new], due_at)
    states = await _states(tx, rows)
    for state in states:
        state.partition = partitions[state.name]
    return states


async def known_customer(tx: Connection, customer: str) -> CustomerState | None:
    """Return a customer as it is stored, with its series; None when it has never answered."""
    return next(iter(await _states(tx, await tx.fetch(_CUSTOMERS, [customer]))), None)


async def _states(tx: Connection, rows: Sequence[Any]) -> list[CustomerState]:
    states: dict[int, CustomerState] = {}
    for name, number, partition, due_at, memory in rows:
        state = states[number] = CustomerState(name, partition, number, due_at, stored=(due_at, partition))
        if memory is not None:
            state.recall(_unpack(memory))
    for number, series_number, *of in await tx.fetch(_SERIES, list(states)):
        states[number].series[series(*of)] = series_number
    for number, digest, before in await tx.fetch(_TOMBSTONES, list(states)):
        states[number].erased[digest] = before
    return list(states.values())


async def save_customers(tx: Connection, states: Sequence[CustomerState]) -> None:
    """Store what is remembered of customers, and when to look at them again."""
    kept = [state for state in states if state.pulses or state.detectors]
    if kept:
        await tx.execute(_REMEMBER, _ints(s.number for s in kept), [_pack(s.memory()) for s in kept])
    moved = [state for state in states if state.stored != (state.due_at, state.partition)]
    if moved:
        await tx.execute(_SAVE_DUE, [s.number for s in moved], [s.due_at for s in moved], [s.partition for s in moved])
        for state in moved:
            state.stored = state.due_at, state.partition


async def due_customers(tx: Connection, now: datetime, partitions: Sequence[int], limit: int) -> dict[str, int]:
    """Return customers to look at by time alone, with their partitions."""
    return {row[0]: row[1] for row in await tx.fetch(_DUE_CUSTOMERS, now, partitions, limit)}


async def known_ids(tx: Connection, ids: Sequence[UUID]) -> set[tuple[UUID, int]]:
    """Return which of these were counted before, each with its customer's number."""
    return {(row[0], row[1]) for row in await tx.fetch(_KNOWN, ids)}


async def add_series(tx: Connection, new: Sequence[tuple[int, int, Series]]) -> None:
    """Create series: customer, number and what is counted."""
    if new:
        records = [(customer, number, *series) for customer, number, series in new]
        await tx.copy_records_to_table("series", columns=_SERIES_COLUMNS, records=records)


def _series(row: Any) -> Series:
    return series(row["touchpoint"], row["audience"], row["kind"], row["trust"], row["metric"])


# ---- answers

Place = tuple[int, int]
"""A customer's number and a series' number; as one integer the series is in the lower 16 bits."""


async def neighbours(tx: Connection, asked: Sequence[tuple[Place, str, Said]]) -> list[list[Said]]:
    """Return for each answer of a respondent in a series the stored ones right before and right after it."""
    found: list[list[Said]] = [list[Said]() for _ in asked]
    if asked:
        rows = await tx.fetch(
            _NEIGHBOURS,
            _ints(place[0] << 16 | place[1] for place, _, _ in asked),
            [respondent for _, respondent, _ in asked],
            [said.occurred_at for _, _, said in asked],
            [said.received_at for _, _, said in asked],
            [said.id for _, _, said in asked],
        )
        for place, *said in rows:
            found[int(place) - 1].append(Said(*said))
    return found


async def store_answers(tx: Connection, answers: Sequence[tuple[FeedbackReceivedV1, Place]]) -> None:
    """Store new answers. COPY costs half of an INSERT with unnest."""
    await tx.copy_records_to_table(
        "answer",
        columns=_ANSWER_COLUMNS,
        records=[
            (
                a.id,
                *place,
                a.score,
                a.occurred_at,
                a.received_at,
                a.respondent,
                a.comment,
                a.channel,
                a.language,
                a.contact,
                None if a.context is None else _encode(a.context).decode(),
                a.backfill,
                a.follow_up,
            )
            for a, place in answers
        ],
    )


# ---- counts

Hours = tuple[int, int, int]
"""A customer's number, the first hour, and the hour after the last."""

Sums = list[tuple[int, list[float]]]
"""Numbers of series with their counts."""


async def sum_hours(tx: Connection, asked: Sequence[Hours], *, replaced: bool = False) -> list[Sums]:
    """Return the counts per series of each asked range, in its order.

    Without `replaced` the answers that count in a window that ends now; with it, in one that ended with the range.
    """
    found = [Sums() for _ in asked]
    if not asked:
        return found
    arguments = [a[0] for a in asked], [a[1] for a in asked], [a[2] for a in asked]
    for place, number, *counts in await tx.fetch(_SUM_HOURS, *arguments):
        found[int(place) - 1].append((number, counts))
    if replaced:
        for place, number, category, count, total in await tx.fetch(_SUM_REPLACED, *arguments):
            counts: list[float] = [0] * WIDTH
            counts[category], counts[-1] = count, total
            found[int(place) - 1].append((number, counts))
    return found


def _ints(numbers: Iterable[int]) -> str:
    """Return an array as its text: the driver asks of each element of a list whether it is a list again."""
    return f"{{{','.join(map(str, numbers))}}}"


async def count(tx: Connection, made: Sequence[tuple[Place, Change]]) -> None:
    """Apply changes to the buckets of their series, and to what was replaced."""
    if made:
        now = [(place, change) for place, change in made if change.until is None]
        summed = any(change.amount for _, change in now)
        await tx.execute(
            _COUNT,
            _ints(place[0] << 16 | place[1] for place, _ in now),
            _ints(change.hour for _, change in now),
            _ints((change.category + 1) * change.by for _, change in now),
            [change.amount for _, change in now] if summed else [],
        )
        if len(now) < len(made):
            then = [(place, change) for place, change in made if change.until is not None]
            await tx.execute(
                _REPLACE,
                [place[0] for place, _ in then],
                [place[1] for place, _ in then],
                [change.hour for _, change in then],
                [change.until for _, change in then],
                [change.category for _, change in then],
                [change.by for _, change in then],
                [change.amount for _, change in then],
            )


def _names(state: CustomerState) -> dict[int, Series]:
    return {number: series for series, number in state.series.items()}


def by_series(state: CustomerState, sums: Sums) -> dict[Series, list[float]]:
    """Return sums by what was counted."""
    names, found = _names(state), dict[Series, list[float]]()
    for number, counts in sums:
        into = found.setdefault(names[number], [0] * WIDTH)
        for category, count in enumerate(counts):
            into[category] += count
    return found


def _add(state: CustomerState, window: HourWindow, sums: Sums, sign: int) -> None:
    if sums:
        names = _names(state)
        for number, counts in sums:
            window.add(names[number], counts, sign)


async def move_windows(tx: Connection, planned: Sequence[tuple[CustomerState, Plan]], now: datetime) -> None:
    """Move every window of some customers to now; build those that are new."""
    await _move_hours(tx, planned, now)
    await _move_compared(tx, planned, now)
    await _move_exact(tx, planned, now)


async def _move_hours(tx: Connection, planned: Sequence[tuple[CustomerState, Plan]], now: datetime) -> None:
    asked: list[Hours] = []
    then: list[tuple[CustomerState, HourWindow, int]] = []
    starts: dict[int, int] = {}
    for state, plan in planned:
        if len(state.hours) > len(plan.hour_lengths):
            state.hours = {length: window for length, window in state.hours.items() if length in plan.hour_lengths}
        for length, of_touchpoints in plan.hour_lengths.items():
            start = starts.get(length)
            if start is None:
                start = starts[length] = window_start(now, length)
            window = state.hours.get(length)
            if window is not None and window.start >= start and window.of_touchpoints >= of_touchpoints:
                continue
            sign, first, after = 1, start, _FAR
            if window is None or window.of_touchpoints < of_touchpoints:
                window = state.hours[length] = HourWindow(start, of_touchpoints=of_touchpoints)
            else:
                sign, first, after = -1, window.start, start
                window.start = start
            if state.series:
                asked.append((state.number, first, after))
                then.append((state, window, sign))
    for sums, (state, window, sign) in zip(await sum_hours(tx, asked), then, strict=True):
        _add(state, window, sums, sign)


async def _move_compared(tx: Connection, planned: Sequence[tuple[CustomerState, Plan]], now: datetime) -> None:
    """Read the windows before anew where they have moved on: each has its own latest answer of a respondent."""
    asked: list[Hours] = []
    then: list[tuple[CustomerState, HourWindow]] = []
    for state, plan in planned:
        for length in plan.compared:
            after = window_start(now, length)
            first = after - length // HOUR
            window = state.before.get(length)
            if window is None or window.start != first or window.of_touchpoints < plan.hour_lengths[length]:
                window = HourWindow(first, after, of_touchpoints=plan.hour_lengths[length])
                state.before[length] = window
                asked.append((state.number, first, after))
                then.append((state, window))
    for sums, (state, window) in zip(await sum_hours(tx, asked, replaced=True), then, strict=True):
        _add(state, window, sums, 1)


async def _move_exact(tx: Connection, planned: Sequence[tuple[CustomerState, Plan]], now: datetime) -> None:
    asked: list[tuple[int, datetime]] = []
    then: list[tuple[CustomerState, ExactWindow]] = []
    for state, plan in planned:
        for length in plan.exact_lengths:
            since = now - timedelta(seconds=length)
            window = state.exact.get(length)
            if window is None:
                window = state.exact[length] = ExactWindow(since)
                if state.series:
                    asked.append((state.number, since))
                    then.append((state, window))
            window.move(since)
    for answers, (state, window) in zip(await recent(tx, asked), then, strict=True):
        _fill(window, state, answers)


async def exact_counts(tx: Connection, state: CustomerState, since: datetime) -> dict[Series, list[float]]:
    """Return the counts per series of a customer since a moment, to the second."""
    window = ExactWindow(since)
    _fill(window, state, (await recent(tx, [(state.number, since)]))[0])
    return window.counts


def _fill(window: ExactWindow, state: CustomerState, answers: Iterable[Recent]) -> None:
    names = _names(state)
    for answer in answers:
        window.add(names[answer.series], answer.respondent, answer.said)


@dataclass(frozen=True, slots=True)
class Recent:
    """A stored answer of a window shorter than a day."""

    series: int
    respondent: str | None
    said: Said


async def recent(tx: Connection, asked: Sequence[tuple[int, datetime]]) -> list[list[Recent]]:
    """Return the stored answers of each asked customer since a moment."""
    found: list[list[Recent]] = [list[Recent]() for _ in asked]
    if asked:
        for row in await tx.fetch(_RECENT, [a[0] for a in asked], [a[1] for a in asked]):
            found[int(row[0]) - 1].append(Recent(row[1], row[2], Said(row[3], row[4], row[5], row[6])))
    return found


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
        score=_plain(row["score"]),
        occurred_at=row["occurred_at"],
        trust=row["trust"],
        comment=row["comment"],
        respondent=row["respondent"],
        channel=row["channel"],
        language=row["language"],
        contact=row["contact"],
    )


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
) -> dict[str, dict[Series, list[float]]]:
    """Return the counts per series of some customers from an hour on."""
    found: dict[str, dict[Series, list[float]]] = {customer: {} for customer in customers}
    for row in await tx.fetch(_WINDOW, customers, first_hour):
        found[row["name"]][_series(row)] = list(row)[7:]
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


# ---- day by day


async def add_points(tx: Connection, points: Sequence[tuple[int, int, ScoreDailyV1]]) -> set[int]:
    """Store daily scores: customer's number, day and what was known; return the customers whose day had none yet."""
    rows = await tx.fetch(
        _DAILY, [number for number, _, _ in points], [day for _, day, _ in points], [_text(p) for _, _, p in points]
    )
    return {row[0] for row in rows}


def _text(message: Any) -> str:
    return _encode(message).decode()


async def points(tx: Connection, customer: int, first_day: int) -> list[ScoreDailyV1]:
    """Return the stored daily scores from a day on."""
    return [_point_decoder.decode(row[0]) for row in await tx.fetch(_POINTS, customer, first_day)]


async def days(tx: Connection, customer: int, first_hour: int) -> list[Counted]:
    """Return what was counted per day, and what was replaced, from an hour on."""
    found = [
        Counted(day, until, series(*of), counts)
        for day, until, *of, counts in (
            (*row[:7], list(row)[7:]) for row in map(tuple, await tx.fetch(_DAYS, customer, first_hour))
        )
    ]
    for day, until, *of, category, count, total in await tx.fetch(_DAYS_REPLACED, customer, first_hour):
        counts: list[float] = [0] * WIDTH
        counts[category], counts[-1] = count, total
        found.append(Counted(day, until, series(*of), counts))
    return found


async def channels(tx: Connection, customer: int, since: datetime) -> list[tuple[str, Series, float]]:
    """Return the channel, series and score of each answer since a moment, of a respondent the latest."""
    return [(channel, series(*of), score) for channel, *of, score in await tx.fetch(_CHANNELS, customer, since)]


# ---- the answers themselves


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A stored answer as others see it."""

    id: UUID
    kind: str
    score: float
    metric: str | None
    touchpoint: str | None
    audience: str
    trust: str
    occurred_at: datetime
    received_at: datetime
    respondent: str | None
    comment: str | None
    channel: str
    language: str | None
    backfill: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """Which answers of a customer; None: all."""

    customer: int
    kind: str | None = None
    touchpoint: str | None = None
    audience: str | None = None
    channel: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def feedback(tx: Connection, asked: Asked, *, after: tuple[datetime, UUID] | None, limit: int) -> list[Answer]:
    """Return answers, newest first."""
    at, id_ = after or (None, None)
    rows = await tx.fetch(
        _FEEDBACK,
        asked.customer,
        asked.kind,
        asked.touchpoint,
        asked.audience,
        asked.channel,
        asked.since,
        asked.until,
        at,
        id_,
        limit,
    )
    return [_answer(**dict(row)) for row in rows]


def _answer(*, id: UUID, score: float, **facts: Any) -> Answer:
    return Answer(id=UUID(int=id.int), score=_plain(score), **facts)


def _plain(score: float) -> float:
    return int(score) if score.is_integer() else score


async def customer_names(tx: Connection) -> list[str]:
    """Return every customer that has answered."""
    return [row[0] for row in await tx.fetch(_NAMES)]


async def past(tx: Connection, customer: str) -> list[FeedbackReceivedV1]:
    """Return all answers of a customer, the oldest first."""
    return [_received(**dict(row)) for row in await tx.fetch(_PAST, customer)]


def _received(*, id: UUID, score: float, **facts: Any) -> FeedbackReceivedV1:
    return FeedbackReceivedV1(id=UUID(int=id.int), score=_plain(score), **facts)


# ---- to be forgotten


async def erase(
    tx: Connection, customer: int, respondent: str, *, pseudonym: str | None, before: datetime, digest: str
) -> int:
    """Forget a person's answers and return how many; keep a digest, so that late ones are forgotten too.

    With a pseudonym the answers stay counted, as one person's; without one they go, and the counts with them.
    """
    await tx.execute(_TOMBSTONE, customer, digest, before)
    if pseudonym is None:
        done = await tx.execute(_ERASE_WHOLLY, customer, respondent, before)
        await rebuild(tx, customer)
    else:
        done = await tx.execute(_ERASE, customer, respondent, pseudonym, before)
    return int(done.split()[-1])


async def alerts_that_name(tx: Connection, customer: str, respondent: str) -> list[AlertV1]:
    """Return the alerts whose message holds a text, such as a respondent."""
    rows = await tx.fetch(_ALERTS_OF, customer, _text(respondent))  # as the message has it: quoted and escaped
    return [_alert_decoder.decode(row["body"]) for row in rows]


async def scrub(tx: Connection, alerts: Sequence[AlertV1]) -> None:
    """Replace what is shown of alerts."""
    if alerts:
        await tx.execute(_SCRUB, [alert.id for alert in alerts], [_text(alert) for alert in alerts])


# ---- rebuilding


async def every_customer(tx: Connection) -> list[int]:
    """Return every customer's number."""
    return [row[0] for row in await tx.fetch(_EVERY_CUSTOMER)]


async def recount(tx: Connection, customer: int) -> bool:
    """Count a customer's stored answers afresh, while nobody adds to them; tell whether that changed anything."""
    await tx.execute(_HOLD)
    before = await tx.fetch(_ALL_COUNTS, customer)
    await rebuild(tx, customer)
    return before != await tx.fetch(_ALL_COUNTS, customer)


async def rebuild(tx: Connection, customer: int) -> None:
    """Count a customer's stored answers afresh."""
    await tx.execute(_CLEAR_BUCKETS, customer)
    await tx.execute(_CLEAR_REPLACED, customer)
    await tx.execute(_REBUILD_BUCKETS, customer)
    await tx.execute(_REBUILD_REPLACED, customer)


# ---- the company


async def levels(tx: Connection) -> dict[Kind, Prior]:
    """Return how the company's answers are spread, by kind."""
    return {row[0]: Prior(row[1], row[2], row[3], DEFAULT_PRIOR.strength) for row in await tx.fetch(_LEVELS)}


async def levels_at(tx: Connection) -> datetime | None:
    """Return when that was measured last."""
    return await tx.fetchval(_LEVELS_AT)


async def measure_levels(tx: Connection, now: datetime, *, customers: int, chance: int) -> None:
    """Measure it over a sample of customers and 90 days."""
    await tx.execute(_MEASURE_LEVELS, customers, chance, now)
