"""SQL of what is only looked at: over HTTP, by the gauges and by the backtest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from services.scoring.domain.counting import WIDTH, Series, series
from services.scoring.domain.trend import Counted
from services.scoring.store.common import SUMS, alert_decoder, plain, summed
from shared.database.pool import Connection
from shared.wire.events import AlertScoresV1, AlertV1, FeedbackReceivedV1, ScoreDailyV1

_DAYS = f"""
SELECT bucket.hour / 24, NULL::int, series.touchpoint, series.audience, series.kind, series.trust, series.metric,
    {SUMS}
FROM bucket JOIN series ON series.customer = bucket.customer AND series.number = bucket.series
WHERE bucket.customer = $1 AND bucket.hour >= $2
GROUP BY 1, series.customer, series.number
"""
_DAYS_REPLACED = f"""
SELECT replaced.hour / 24, replaced.until / 24, series.touchpoint, series.audience, series.kind, series.trust,
    series.metric, replaced.category, sum(replaced.count)::int, {summed("replaced.total")}
FROM replaced JOIN series ON series.customer = replaced.customer AND series.number = replaced.series
WHERE replaced.customer = $1 AND replaced.hour >= $2 AND replaced.until / 24 > replaced.hour / 24
GROUP BY 1, 2, series.customer, series.number, replaced.category
"""
_POINTS = "SELECT body FROM daily WHERE customer = $1 AND day >= $2 ORDER BY day"
_CHANNELS = """
SELECT channel, touchpoint, audience, kind, trust, metric, score FROM (
    SELECT DISTINCT ON (series.number, coalesce(respondent, vote, answer.id::text))
        channel, touchpoint, audience, kind, trust, metric, score
    FROM series JOIN answer ON answer.customer = series.customer AND answer.series = series.number
    WHERE series.customer = $1 AND series.kind IN ('nps', 'mood') AND answer.occurred_at >= $2
    ORDER BY series.number, coalesce(respondent, vote, answer.id::text), occurred_at DESC, received_at DESC,
        answer.id DESC
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
    respondent, comment, channel, language, backfill, follow_up, split_part(vote, '@', 1) AS device
FROM customer JOIN series ON series.customer = customer.number
JOIN answer ON answer.customer = series.customer AND answer.series = series.number
WHERE customer.name = $1
ORDER BY occurred_at, answer.id
"""
_NAMES = "SELECT name FROM customer ORDER BY name"
_ALERTS = """
SELECT body FROM alert
WHERE ($1::text IS NULL OR state = $1) AND ($2::text[] IS NULL OR customer = ANY($2))
    AND ($3::timestamptz IS NULL OR (opened_at, id) < ($3, $4::uuid))
ORDER BY opened_at DESC, id DESC LIMIT $5
"""
_ONE_ALERT = "SELECT body, opening FROM alert WHERE id = $1"
_OPEN_COUNTS = (
    "SELECT customer, count(*)::int FROM alert WHERE state = 'open' AND customer = ANY($1::text[]) GROUP BY 1"
)
_OPEN_BY_SEVERITY = "SELECT severity, count(*)::int FROM alert WHERE state = 'open' GROUP BY 1"

_point_decoder = msgspec.json.Decoder(ScoreDailyV1)


# ---- alerts


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
    return [alert_decoder.decode(row[0]) for row in await tx.fetch(_ALERTS, state, customers, at, id_, limit)]


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """The decision that opened an alert."""

    summary: str
    sentences: dict[str, str]
    reason: dict[str, str | int | float | None]
    scores: AlertScoresV1


class ShownAlert(AlertV1, frozen=True, kw_only=True):
    """An alert as it stands now, with what it began with."""

    opened: Opening | None = None


_shown = msgspec.json.Decoder(ShownAlert).decode
_opening = msgspec.json.Decoder(Opening).decode


async def alert(tx: Connection, id_: UUID) -> ShownAlert | None:
    """Return one alert."""
    row = await tx.fetchrow(_ONE_ALERT, id_)
    if row is None:
        return None
    opened = None if row["opening"] is None else _opening(row["opening"])
    return msgspec.structs.replace(_shown(row["body"]), opened=opened)


async def open_counts(tx: Connection, customers: Sequence[str]) -> dict[str, int]:
    """Return how many alerts are open per customer."""
    return {row[0]: row[1] for row in await tx.fetch(_OPEN_COUNTS, customers)}


async def open_by_severity(tx: Connection) -> dict[str, int]:
    """Return how many alerts are open per severity."""
    return {row[0]: row[1] for row in await tx.fetch(_OPEN_BY_SEVERITY)}


# ---- day by day


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
class AnswerQuery:
    """Which answers of a customer; None: all."""

    customer: int
    kind: str | None = None
    touchpoint: str | None = None
    audience: str | None = None
    channel: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def feedback(
    tx: Connection, asked: AnswerQuery, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[Answer]:
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
    return Answer(id=UUID(int=id.int), score=plain(score), **facts)


async def customer_names(tx: Connection) -> list[str]:
    """Return every customer that has answered."""
    return [row[0] for row in await tx.fetch(_NAMES)]


async def past(tx: Connection, customer: str) -> list[FeedbackReceivedV1]:
    """Return all answers of a customer, the oldest first."""
    return [_received(**dict(row)) for row in await tx.fetch(_PAST, customer)]


def _received(*, id: UUID, score: float, **facts: Any) -> FeedbackReceivedV1:
    return FeedbackReceivedV1(id=UUID(int=id.int), score=plain(score), **facts)
