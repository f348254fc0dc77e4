"""How often a customer answers, so that it can be told when it has fallen silent."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from services.scoring.domain.counting import DAY
from shared.rules.base import OnTime, Rate, Reason

_NEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""The last day that there is."""
_HALF_LIFE_DAYS = 120.0
"""What was half a year ago says little of today's rate."""


class Pulse(msgspec.Struct, array_like=True):
    """When somebody answered last, and how often they do."""

    last: float
    """Seconds since 1970."""
    answers: float = 1.0
    days: float = 0.0
    longest: float = 0.0

    def beat(self, at: float) -> None:
        """Take in an answer; one from before the last only counts."""
        if at <= self.last:
            self.answers += 1
            return
        passed = (at - self.last) / DAY
        kept = 0.5 ** (passed / _HALF_LIFE_DAYS)
        self.answers = self.answers * kept + 1
        self.days = self.days * kept + passed
        self.longest = max(self.longest * kept, passed)
        self.last = at

    def limit(self, condition: OnTime) -> float | None:
        """Return the seconds of silence that are news."""
        return condition.limit(Rate(self.answers - 1, self.days, self.longest))

    def breaks_at(self, condition: OnTime) -> datetime | None:
        """Return when silence becomes news, if nobody answers until then."""
        limit = self.limit(condition)
        return None if limit is None else datetime.fromtimestamp(min(self.last + limit, _NEVER.timestamp()), UTC)

    def reason(self, condition: OnTime, now: datetime) -> Reason:
        """Return the numbers of a judgement at a moment."""
        limit = self.limit(condition)
        rate = self.answers / self.days if self.days else None
        return {
            "silent_seconds": int(now.timestamp() - self.last),
            "limit_seconds": None if limit is None else int(limit),
            "answers_per_day": None if rate is None else round(rate, 3),
            "longest_days": round(self.longest, 2),
        }
