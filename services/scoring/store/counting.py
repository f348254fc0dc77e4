"""SQL of what is counted: per hour, in the windows that are sums of hours, per day; and of counting afresh."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from services.scoring.domain.counting import HOUR, LARGEST, WIDTH, Change, DatedScore, Series, series, window_start
from services.scoring.domain.customer import CustomerState
from services.scoring.domain.plan import Plan
from services.scoring.domain.windows import ExactWindow, HourWindow
from services.scoring.store import answers
from services.scoring.store.answers import Place
from services.scoring.store.common import COLUMNS, SUMS, ints, summed, text
from shared.database.pool import Connection
from shared.wire.events import ScoreDailyV1

_SUM_HOURS = f"""
SELECT asked.place::int, bucket.series, {SUMS}
FROM unnest($1::int[], $2::int[], $3::int[]) WITH ORDINALITY AS asked(customer, first, after, place)
JOIN bucket ON bucket.customer = asked.customer AND bucket.hour >= asked.first AND bucket.hour < asked.after
GROUP BY asked.place, bucket.series
"""
_SUM_REPLACED = f"""
SELECT asked.place::int, replaced.series, replaced.category, sum(replaced.count)::int, {summed("replaced.total")}
FROM unnest($1::int[], $2::int[], $3::int[]) WITH ORDINALITY AS asked(customer, first, after, place)
JOIN replaced ON replaced.customer = asked.customer AND replaced.hour >= asked.first AND replaced.hour < asked.after
    AND replaced.until >= asked.after
GROUP BY asked.place, replaced.series, replaced.category
"""
_GAINED = "count(*) FILTER (WHERE gain = {n}) - count(*) FILTER (WHERE gain = -{n})"
_COUNT = f"""
INSERT INTO bucket (customer, hour, series, {", ".join(COLUMNS)})
SELECT (place >> 16)::int, hour, (place & 65535)::int,
    {", ".join(_GAINED.format(n=n) for n in range(1, WIDTH))},
    coalesce(sum(amount), 0)
FROM unnest($1::text::bigint[], $2::text::int[], $3::text::int[], $4::float8[])
    AS change(place, hour, gain, amount)
GROUP BY place, hour
ON CONFLICT (customer, hour, series) DO UPDATE
SET {", ".join(f"{name} = bucket.{name} + excluded.{name}" for name in COLUMNS)}
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
SELECT asked.place::int, answer.series, coalesce(answer.respondent, answer.vote), answer.occurred_at,
    answer.received_at, answer.id, answer.score
FROM unnest($1::int[], $2::timestamptz[]) WITH ORDINALITY AS asked(customer, since, place)
JOIN series ON series.customer = asked.customer
JOIN answer ON answer.customer = series.customer AND answer.series = series.number
    AND answer.occurred_at >= asked.since
"""
_CLEAR_BUCKETS = "DELETE FROM bucket WHERE customer = $1"
_CLEAR_REPLACED = "DELETE FROM replaced WHERE customer = $1"
_SAID = f"""
SELECT series, (extract(epoch FROM date_trunc('hour', occurred_at, 'UTC')) / 3600)::int AS hour,
    CASE kind WHEN 'nps' THEN CASE WHEN score <= 6 THEN 0 WHEN score <= 8 THEN 1 ELSE 2 END
        WHEN 'kpi' THEN 0 ELSE score::int - 1 END AS category,
    CASE kind WHEN 'kpi' THEN greatest(least(score, {LARGEST}), -{LARGEST}) ELSE 0 END AS amount,
    CASE WHEN coalesce(respondent, vote) IS NOT NULL THEN lead(
        (extract(epoch FROM date_trunc('hour', occurred_at, 'UTC')) / 3600)::int
    ) OVER (PARTITION BY series, coalesce(respondent, vote) ORDER BY occurred_at, received_at, id) END AS until
FROM answer JOIN series ON series.customer = answer.customer AND series.number = answer.series
WHERE answer.customer = $1
"""
_REBUILD_BUCKETS = f"""
WITH said AS ({_SAID})
INSERT INTO bucket (customer, hour, series, {", ".join(COLUMNS)})
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
SELECT hour, NULL::int AS until, series, {", ".join(COLUMNS[:-1])}, round(total::numeric, 6) FROM bucket
WHERE customer = $1 AND (c1, c2, c3, c4, c5, c6, c7) <> (0, 0, 0, 0, 0, 0, 0)
UNION ALL
SELECT hour, until, series, category, count, 0, 0, 0, 0, 0, round(total::numeric, 6) FROM replaced
WHERE customer = $1 AND count <> 0
ORDER BY 1, 2, 3, 4, 5
"""
_EVERY_CUSTOMER = "SELECT number FROM customer ORDER BY number"
_DAILY = """
INSERT INTO daily (customer, day, body)
SELECT * FROM unnest($1::int[], $2::int[], $3::text[]) ON CONFLICT DO NOTHING RETURNING customer
"""
_WINDOW = f"""
SELECT customer.name, series.touchpoint, series.audience, series.kind, series.trust, series.metric, counted.*
FROM customer
CROSS JOIN LATERAL (
    SELECT bucket.series AS number, {SUMS} FROM bucket
    WHERE bucket.customer = customer.number AND bucket.hour >= $2 GROUP BY bucket.series
) AS counted
JOIN series ON series.customer = customer.number AND series.number = counted.number
WHERE customer.name = ANY($1::text[])
"""

# ---- counts

_FAR = 2**31 - 1

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


Counted = tuple[Place, Change]
"""What an answer changes, and where."""


async def count(tx: Connection, made: Sequence[Counted]) -> None:
    """Apply changes to the buckets of their series, and to what was replaced."""
    if made:
        now = [(place, change) for place, change in made if change.until is None]
        summed = any(change.amount for _, change in now)
        await tx.execute(
            _COUNT,
            ints(place for place, _ in now),
            ints(change.hour for _, change in now),
            ints((change.category + 1) * change.by for _, change in now),
            [change.amount for _, change in now] if summed else [],
        )
        if len(now) < len(made):
            then = [(place, change) for place, change in made if change.until is not None]
            await tx.execute(
                _REPLACE,
                [place >> 16 for place, _ in then],
                [place & 65535 for place, _ in then],
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


# ---- windows


async def window_counts(
    tx: Connection, customers: Sequence[str], first_hour: int
) -> dict[str, dict[Series, list[float]]]:
    """Return the counts per series of some customers from an hour on."""
    found: dict[str, dict[Series, list[float]]] = {customer: {} for customer in customers}
    for row in await tx.fetch(_WINDOW, customers, first_hour):
        found[row["name"]][_series(row)] = list(row)[7:]
    return found


def _series(row: Any) -> Series:
    return series(row["touchpoint"], row["audience"], row["kind"], row["trust"], row["metric"])


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
        for length, judged in plan.hour_lengths.items():
            start = starts.get(length)
            if start is None:
                start = starts[length] = window_start(now, length)
            window = state.hours.get(length)
            if window is not None and window.start >= start and window.judged >= judged:
                continue
            sign, first, after = 1, start, _FAR
            if window is None or not window.judged >= judged:
                window = state.hours[length] = HourWindow(judged, start)
            else:
                sign, first, after = -1, window.start, start
                window.start = start
            if state.series:
                asked.append((state.number, first, after))
                then.append((state, window, sign))
    for sums, (state, window, sign) in zip(await sum_hours(tx, asked), then, strict=True):
        _add(state, window, sums, sign)


async def _move_compared(tx: Connection, planned: Sequence[tuple[CustomerState, Plan]], now: datetime) -> None:
    """Read the windows before anew where they have moved on: each has its own latest answer of a voter."""
    asked: list[Hours] = []
    then: list[tuple[CustomerState, HourWindow]] = []
    for state, plan in planned:
        for length in plan.compared:
            after = window_start(now, length)
            first = after - length // HOUR
            window = state.before.get(length)
            judged = plan.hour_lengths[length]
            if window is None or window.start != first or not window.judged >= judged:
                window = HourWindow(judged, first, after)
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
    for dated, (state, window) in zip(await recent(tx, asked), then, strict=True):
        _fill(window, state, dated)


async def exact_counts(tx: Connection, state: CustomerState, since: datetime) -> dict[Series, list[float]]:
    """Return the counts per series of a customer since a moment, to the second."""
    window = ExactWindow(since)
    _fill(window, state, (await recent(tx, [(state.number, since)]))[0])
    return window.counts


def _fill(window: ExactWindow, state: CustomerState, answers: Iterable[Recent]) -> None:
    names = _names(state)
    for answer in answers:
        window.add(names[answer.series], answer.voter, answer.dated)


@dataclass(frozen=True, slots=True)
class Recent:
    """A stored answer of a window shorter than a day."""

    series: int
    voter: str | None
    dated: DatedScore


async def recent(tx: Connection, asked: Sequence[tuple[int, datetime]]) -> list[list[Recent]]:
    """Return the stored answers of each asked customer since a moment."""
    found: list[list[Recent]] = [list[Recent]() for _ in asked]
    if asked:
        for row in await tx.fetch(_RECENT, [a[0] for a in asked], [a[1] for a in asked]):
            found[int(row[0]) - 1].append(Recent(row[1], row[2], DatedScore(row[3], row[4], row[5], row[6])))
    return found


# ---- day by day


async def add_points(tx: Connection, points: Sequence[tuple[int, int, ScoreDailyV1]]) -> set[int]:
    """Store daily scores: customer's number, day and what was known; return the customers whose day had none yet."""
    rows = await tx.fetch(
        _DAILY, [number for number, _, _ in points], [day for _, day, _ in points], [text(p) for _, _, p in points]
    )
    return {row[0] for row in rows}


# ---- rebuilding


async def every_customer(tx: Connection) -> list[int]:
    """Return every customer's number."""
    return [row[0] for row in await tx.fetch(_EVERY_CUSTOMER)]


async def recount(tx: Connection, customer: int) -> bool:
    """Count a customer's stored answers afresh, while nobody adds to them; tell whether that changed anything."""
    await answers.move(tx, customer)  # before the table: who counts for a customer takes them in this order
    await tx.execute(_HOLD)
    before = await tx.fetch(_ALL_COUNTS, customer)
    await rebuild(tx, customer)
    return before != await tx.fetch(_ALL_COUNTS, customer)


async def rebuild(tx: Connection, customer: int) -> None:
    """Count a customer's stored answers afresh, for who has moved its version."""
    await tx.execute(_CLEAR_BUCKETS, customer)
    await tx.execute(_CLEAR_REPLACED, customer)
    await tx.execute(_REBUILD_BUCKETS, customer)
    await tx.execute(_REBUILD_REPLACED, customer)
