"""Calendars that were made lately: one takes seconds, and programs that subscribe ask again and again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

MadeCalendar = tuple[str, bytes]
"""The ETag and the calendar."""

_KEPT = 100


class CalendarCache:
    """Keeps the calendars that were asked for last, and makes one at a time."""

    def __init__(self) -> None:
        self._made: OrderedDict[Hashable, MadeCalendar] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()

    async def get(self, key: Hashable, make: Callable[[], Awaitable[MadeCalendar]]) -> MadeCalendar:
        """Return a calendar; it is made where none is kept by this key."""
        async with self._one_at_a_time:
            if key not in self._made:
                self._made[key] = await make()
            self._made.move_to_end(key)
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
            return self._made[key]
