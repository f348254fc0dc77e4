"""What an answer counts as, and where: series, categories, hours. One respondent counts once, by the latest answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple
from uuid import UUID

import msgspec

from shared.rules.base import SUM
from shared.wire.events import Audience, FeedbackReceivedV1, Kind, Trust

HOUR = 3600
DAY = 24 * HOUR
SCORES_WINDOW = 30 * DAY
"""Of the scores that nobody asked another window of, in seconds."""

CATEGORIES: dict[Kind, int] = {"nps": 3, "mood": 4, "csat": 5, "ces": 7, "kpi": 1}
"""How many categories are counted of each kind; NPS has detractors, passives, promoters, a key metric only one."""
LARGEST = 1e15
"""Score of a key metric, as it is summed up: beside a larger one a sum no longer holds the others, or overflows."""
WIDTH = SUM + 1
"""Columns of a bucket: seven categories, then the sum of the scores of a key metric."""


class Series(NamedTuple):
    """What is counted apart. A customer's figures are sums over its series."""

    touchpoint: str | None
    audience: Audience
    kind: Kind
    trust: Trust
    metric: str | None = None


@cache
def series(touchpoint: str | None, audience: Audience, kind: Kind, trust: Trust, metric: str | None) -> Series:
    """Return a series; there are few, and all customers share the objects."""
    return Series(touchpoint, audience, kind, trust, metric)


def series_of(answer: FeedbackReceivedV1) -> Series:
    """Return the series that an answer belongs to."""
    return series(answer.touchpoint, answer.audience, answer.kind, answer.trust, answer.metric)


def category_of(kind: Kind, score: float) -> int:
    """Return the place of a score in its kind's counts, from the worst."""
    if kind == "nps":
        return 0 if score <= 6 else 1 if score <= 8 else 2
    return 0 if kind == "kpi" else int(score) - 1


def amount_of(kind: Kind, score: float) -> float:
    """Return what a score adds to the sum of its series: of a key metric itself, as far as it can be summed up."""
    return max(-LARGEST, min(LARGEST, score)) if kind == "kpi" else 0.0


def hour_of(at: datetime) -> int:
    """Return the whole UTC hours since 1970, below 0 before."""
    return int(at.timestamp() // HOUR)


def window_start(now: datetime, length: int) -> int:
    """Return the first hour of a window of `length` seconds that ends now; rounded down to a whole hour."""
    return (int(now.timestamp()) - length) // HOUR


def hour_time(hour: int) -> datetime:
    """Return the moment at which an hour starts."""
    return datetime.fromtimestamp(hour * HOUR, UTC)


class DatedScore(msgspec.Struct, frozen=True, order=True, gc=False):
    """One answer of a voter; the later is the greater: by when it occurred, was received, then by id."""

    occurred_at: datetime
    received_at: datetime
    id: UUID
    score: float


class NewAnswer(msgspec.Struct, frozen=True, gc=False):
    """An answer, with what is asked of it again and again."""

    answer: FeedbackReceivedV1
    series: Series
    dated: DatedScore
    at: float
    """When it occurred, in seconds since 1970."""
    category: int
    """The place of its score in its kind's counts."""
    voter: str | None
    """Whose answers count once: a respondent, or a vote of a device. None: it counts by itself."""


def new_answer(answer: FeedbackReceivedV1, received_at: datetime | None = None) -> NewAnswer:
    """Return an answer with what follows from it alone; `received_at`: as if it had been received then."""
    dated = DatedScore(answer.occurred_at, received_at or answer.received_at, answer.id, answer.score)
    at, category = answer.occurred_at.timestamp(), category_of(answer.kind, answer.score)
    return NewAnswer(answer, series_of(answer), dated, at, category, answer.respondent)


class Change(msgspec.Struct, frozen=True, gc=False):
    """What to add to one series in one hour: a category gains or loses answers, and their scores if they are summed."""

    hour: int
    category: int
    by: int
    amount: float = 0.0
    until: int | None = None
    """Of an answer that was replaced: the hour of the one that took its place. It counts in windows that end by then,
    and in none that ends now."""


def changes(new: NewAnswer, previous: DatedScore | None, following: DatedScore | None) -> list[Change]:
    """Return how the counts change when `new` arrives between a voter's previous and following answer.

    A window holds of a voter the latest answer within it. One that ends now therefore holds the latest of all; one
    that ended earlier still holds an answer that was replaced after its end.
    """
    kind, dated = new.series.kind, new.dated
    if previous is None and following is None:
        return [Change(int(new.at // HOUR), new.category, 1, amount_of(kind, dated.score))]
    found = [_place(kind, dated, following, 1)]
    if previous is not None:
        found.append(_place(kind, previous, following, -1))
        found.append(_place(kind, previous, dated, 1))
    return [change for change in found if change.until is None or change.until > change.hour]


def _place(kind: Kind, dated: DatedScore, replaced_by: DatedScore | None, by: int) -> Change:
    until = None if replaced_by is None else hour_of(replaced_by.occurred_at)
    amount = by * amount_of(kind, dated.score)
    return Change(hour_of(dated.occurred_at), category_of(kind, dated.score), by, amount, until)


def neighbours(new: DatedScore, others: Sequence[DatedScore]) -> tuple[DatedScore | None, DatedScore | None]:
    """Return the answers right before and right after a new one, among some of the same voter."""
    if not others:
        return None, None
    before = max((dated for dated in others if dated < new), default=None)
    after = min((dated for dated in others if dated > new), default=None)
    return before, after
