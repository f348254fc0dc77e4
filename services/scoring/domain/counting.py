"""What an answer counts as, and where: series, categories, hours. One respondent counts once, by the latest answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from shared.events import Audience, FeedbackReceivedV1, Kind, Trust

HOUR = 3600
DAY = 24 * HOUR

CATEGORIES: dict[Kind, int] = {"nps": 3, "mood": 4, "csat": 5, "ces": 7}
"""How many categories are counted of each kind; NPS has detractors, passives, promoters, the others one per score."""
WIDTH = max(CATEGORIES.values())


class Series(NamedTuple):
    """What is counted apart. A customer's figures are sums over its series."""

    touchpoint: str | None
    audience: Audience
    kind: Kind
    trust: Trust


def series_of(answer: FeedbackReceivedV1) -> Series:
    """Return the series that an answer belongs to."""
    return Series(answer.touchpoint, answer.audience, answer.kind, answer.trust)


def category_of(kind: Kind, score: float) -> int | None:
    """Return the place of a score in its kind's counts, from the worst; None for kinds that are not counted."""
    if kind == "nps":
        return 0 if score <= 6 else 1 if score <= 8 else 2
    return int(score) - 1 if kind in CATEGORIES else None


def hour_of(at: datetime) -> int:
    """Return the whole UTC hours since 1970."""
    return int(at.timestamp()) // HOUR


def window_start(now: datetime, length: int) -> int:
    """Return the first hour of a window of `length` seconds that ends now; rounded down to a whole hour."""
    return (int(now.timestamp()) - length) // HOUR


def hour_time(hour: int) -> datetime:
    """Return the moment at which an hour starts."""
    return datetime.fromtimestamp(hour * HOUR, UTC)


class Said(NamedTuple):
    """One answer of a respondent; the later is the greater: by when it occurred, was received, then by id."""

    occurred_at: datetime
    received_at: datetime
    id: UUID
    score: float


class Change(NamedTuple):
    """What to add to one series in one hour: a category gains or loses answers."""

    hour: int
    category: int
    by: int


def changes(kind: Kind, new: Said, latest: Said | None) -> list[Change]:
    """Return how the counts change when `new` arrives and `latest` was the same respondent's latest until now.

    A window that ends now holds every later answer than any it holds, so in it only the latest counts: an older answer
    that arrives late changes nothing, a newer one takes the place of the one before.
    """
    if latest is not None and new < latest:
        return []
    category = category_of(kind, new.score)
    if category is None:
        return []
    found = [Change(hour_of(new.occurred_at), category, 1)]
    if latest is not None and (before := category_of(kind, latest.score)) is not None:
        found.append(Change(hour_of(latest.occurred_at), before, -1))
    return found
