"""A budget of calls, kept in the process that makes them."""

from __future__ import annotations

import asyncio


class TokenBucket:
    """A desk's budget of calls: a quarter of a minute's at once, the rest spread, so never more than it in a minute."""

    def __init__(self, per_minute: int) -> None:
        self._room = max(1.0, per_minute / 4)
        self._refill = max(per_minute - self._room, per_minute / 2) / 60
        self._left = self._room
        self._at = 0.0
        self._lock = asyncio.Lock()

    async def __call__(self) -> None:
        """Wait until one more call may be made."""
        async with self._lock:
            while True:
                now = asyncio.get_running_loop().time()
                if now >= self._at:
                    self._left = min(self._room, self._left + (now - self._at if self._at else 0.0) * self._refill)
                    self._at = now
                    if self._left >= 1:
                        self._left -= 1
                        return
                # Looked at again after the sleep: meanwhile the desk may have asked for more patience.
                await asyncio.sleep(max(0.0, self._at - now) + max(0.0, 1 - self._left) / self._refill)

    def hold(self, seconds: float) -> None:
        """Make no call for so long: the desk asked for it."""
        now = asyncio.get_running_loop().time()
        self._left, self._at = 0.0, max(self._at, now + seconds)
