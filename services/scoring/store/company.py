"""SQL of how the answers of the whole company are spread."""

from __future__ import annotations

from datetime import datetime

from services.scoring.domain.shift import DEFAULT_PRIOR, Prior
from shared.database.pool import Connection
from shared.wire.events import Kind

_LEVELS = "SELECT kind, detractors, passives, promoters FROM company"
_LEVELS_AT = "SELECT min(measured_at) FROM company"
_MEASURE_LEVELS = """
INSERT INTO company (kind, detractors, passives, promoters, measured_at)
SELECT kind, bad / (bad + middling + good), middling / (bad + middling + good), good / (bad + middling + good), $3
FROM (
    SELECT kind,
        greatest(sum(CASE kind WHEN 'nps' THEN c1 ELSE c1 + c2 END), 0)::float8 AS bad,
        greatest(sum(CASE kind WHEN 'nps' THEN c2 ELSE c3 END), 0)::float8 AS middling,
        greatest(sum(CASE kind WHEN 'nps' THEN c3 ELSE c4 END), 0)::float8 AS good
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


async def levels(tx: Connection) -> dict[Kind, Prior]:
    """Return how the company's answers are spread, by kind."""
    return {row[0]: Prior(row[1], row[2], row[3], DEFAULT_PRIOR.strength) for row in await tx.fetch(_LEVELS)}


async def levels_at(tx: Connection) -> datetime | None:
    """Return when that was measured last."""
    return await tx.fetchval(_LEVELS_AT)


async def measure_levels(tx: Connection, now: datetime, *, customers: int, chance: int) -> None:
    """Measure it over a sample of customers and 90 days."""
    await tx.execute(_MEASURE_LEVELS, customers, chance, now)
