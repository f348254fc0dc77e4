"""SQL of what is too old to be kept: answers, what was counted and told of them, some at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.scoring.domain.counting import DAY, HOUR, hour_of, hour_time
from services.scoring.store import answers
from shared.database.pool import Connection
from shared.runtime.quarantine import not_held

_LOOK = f"""
SELECT number, name, partition,
    EXISTS (SELECT FROM bucket WHERE bucket.customer = number AND hour < $3)
    OR EXISTS (SELECT FROM replaced WHERE replaced.customer = number AND hour < $3)
    OR EXISTS (SELECT FROM daily WHERE daily.customer = number AND day < $4)
    OR EXISTS (SELECT FROM alert WHERE alert.customer = name AND state = 'cleared' AND cleared_at < $6) AS old
FROM (
    SELECT number, name, partition FROM customer
    WHERE number > $1 AND partition = ANY($2::int[]) AND {not_held("customers", "customer.name")}
    ORDER BY number LIMIT $5
) AS looked ORDER BY number
"""
_OLDEST = """
SELECT count(*)::int, max(occurred_at) FROM (
    SELECT oldest.occurred_at FROM series
    CROSS JOIN LATERAL (
        SELECT occurred_at FROM answer
        WHERE answer.customer = series.customer AND answer.series = series.number AND occurred_at < $2
        ORDER BY occurred_at LIMIT $3
    ) AS oldest
    WHERE series.customer = $1 ORDER BY oldest.occurred_at LIMIT $3
) AS found
"""
_DROP_ANSWERS = """
DELETE FROM answer USING series
WHERE series.customer = $1 AND answer.customer = series.customer AND answer.series = series.number
    AND occurred_at < $2
"""
_DROP_BUCKETS = "DELETE FROM bucket WHERE customer = $1 AND hour < $2"
_DROP_REPLACED = "DELETE FROM replaced WHERE customer = $1 AND hour < $2"
_DROP_DAYS = "DELETE FROM daily WHERE customer = $1 AND day < $2"
_DROP_ALERTS = """
DELETE FROM alert WHERE id IN (
    SELECT id FROM alert WHERE customer = $1 AND state = 'cleared' AND cleared_at < $2 ORDER BY cleared_at LIMIT $3
)
"""


@dataclass(frozen=True, slots=True)
class Looked:
    """A customer that was looked at."""

    number: int
    name: str
    partition: int
    old: bool
    """It has something that is too old."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What went of a customer."""

    count: int
    """Answers and alerts."""
    hour: int
    """The first that stayed."""
    version: int
    """Of the customer from now on."""


@dataclass(frozen=True, slots=True)
class Before:
    """What is too old: whole hours."""

    answers: datetime
    alerts: datetime
    """Later than the answers' where a rule keeps still for longer after an alert."""


async def look(tx: Connection, after: int, partitions: Sequence[int], before: Before, limit: int) -> list[Looked]:
    """Return the next customers of some partitions by number, each with whether something of it is too old."""
    hour = hour_of(before.answers)
    rows = await tx.fetch(_LOOK, after, partitions, hour, hour * HOUR // DAY, limit, before.alerts)
    return [Looked(*row) for row in rows]


async def drop(tx: Connection, customer: Looked, before: Before, limit: int) -> Dropped:
    """Delete a customer's oldest answers, all that was counted of their hours, and old alerts.

    `limit`: about how many; an hour goes whole, so that what is counted is always what is kept.
    """
    version = await answers.move(tx, customer.number)
    oldest = await tx.fetchrow(_OLDEST, customer.number, before.answers, limit)
    assert oldest is not None
    hour = hour_of(before.answers)
    if oldest[0] >= limit:
        hour = min(hour, hour_of(oldest[1]) + 1)
    said = await tx.execute(_DROP_ANSWERS, customer.number, hour_time(hour))
    await tx.execute(_DROP_BUCKETS, customer.number, hour)
    await tx.execute(_DROP_REPLACED, customer.number, hour)
    await tx.execute(_DROP_DAYS, customer.number, hour * HOUR // DAY)
    alerts = await tx.execute(_DROP_ALERTS, customer.name, before.alerts, limit)
    return Dropped(int(said.split()[-1]) + int(alerts.split()[-1]), hour, version)
