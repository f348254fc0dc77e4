"""How long to wait before trying again."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential waiting with jitter, so that many who failed together do not return together."""

    base: float
    """Seconds before the second try."""
    cap: float
    """Seconds; no wait is longer before jitter."""
    jitter: float = 0.2
    """Share of the wait that is drawn at random around it."""

    def delay(self, attempt: int, *, draw: float | None = None) -> float:
        """Return the seconds to wait after a failed attempt (1 is the first); `draw` in 0..1 fixes the chance."""
        wait = min(self.cap, self.base * 2 ** min(attempt - 1, 32))
        chance = random.random() if draw is None else draw  # noqa: S311 (spreads load, guards nothing)
        return wait * (1 - self.jitter + 2 * self.jitter * chance)
