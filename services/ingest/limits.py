"""How much one speaker may post: a token bucket for each key, respondent and address, in the memory of this process.

Several processes of ingest each allow as much, so that the limits are approximate: they are there against floods.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from datetime import datetime
from typing import Literal, NamedTuple

from shared.directory.model import Key, KeyLimits
from shared.errors import Problem
from shared.http.proxies import network_of
from shared.runtime import metrics

By = Literal["key", "respondent", "address"]

_MOST = 100_000
"""Speakers that are remembered of each kind; beyond it those forgotten first have waited longest."""
_MOST_ITEMS = 1_000
"""Of one request, that may be more than a bucket holds."""


class Bucket(NamedTuple):
    """What is asked of one speaker's bucket."""

    by: By
    who: str
    limits: KeyLimits


class Buckets:
    """Token buckets, kept as the moment at which each is full again (the generic cell rate algorithm, GCRA)."""

    def __init__(self) -> None:
        self._full_at: dict[By, OrderedDict[str, float]] = {
            by: OrderedDict() for by in ("key", "respondent", "address")
        }

    def take(self, buckets: list[Bucket], count: int, now: datetime) -> None:
        """Take so many tokens from each bucket, or from none. Raises the 429.

        More than a bucket holds is let in when it is full, and paid off afterwards. None is taken of 0, but there must
        be one.
        """
        at = now.timestamp()
        full_at: list[float] = []
        for by, who, limits in buckets:
            seconds = 60 / limits.per_minute
            room = limits.burst * seconds
            full = max(self._full_at[by].get(who, at), at)
            if full > at + max(room, _MOST_ITEMS * seconds):
                # A clock that was set back leaves nobody waiting for the difference.
                full = self._full_at[by][who] = at + room
            wait = full + max(count, 1) * seconds - at - room if count <= limits.burst else full - at
            if wait > 1e-6:
                metrics.RATE_LIMITED.labels(by).inc(max(count, 1))
                raise _too_many(by, limits, wait, left=math.floor((room - (full - at)) / seconds + 1e-6))
            full_at.append(full + count * seconds)
        for (by, who, _), after in zip(buckets, full_at, strict=True):
            kept = self._full_at[by]
            kept[who] = after
            kept.move_to_end(who)
            if len(kept) > _MOST:
                kept.popitem(last=False)


def _too_many(by: By, limits: KeyLimits, wait: float, *, left: int) -> Problem:
    window = max(1, round(60 * limits.burst / limits.per_minute))
    headers = {
        "Retry-After": str(max(1, math.ceil(wait))),
        "RateLimit-Policy": f'"{by}";q={limits.burst};w={window}',
        "RateLimit": f'"{by}";r={max(0, left)};t={max(1, math.ceil(wait))}',
    }
    return Problem(429, "too-many", "Too many answers", f"So many come from one {by} at once; wait.", headers=headers)


class Limits(NamedTuple):
    """What public speakers may post unless a key says otherwise."""

    key: KeyLimits
    address: KeyLimits
    respondent: KeyLimits

    def of(self, key: Key, address: str | None) -> list[Bucket]:
        """Return the buckets of a request. A secret key is limited only where it says so itself."""
        if key.kind == "secret":
            return [] if key.limits is None else [Bucket("key", key.id, key.limits)]
        of_key = Bucket("key", key.id, key.limits or self.key)
        network = network_of(address)
        return [of_key] if network is None else [of_key, Bucket("address", network, self.address)]

    def of_respondent(self, customer: str, respondent: str) -> list[Bucket]:
        """Return the bucket of somebody with a respondent token."""
        return [Bucket("respondent", f"{customer}/{respondent}", self.respondent)]
