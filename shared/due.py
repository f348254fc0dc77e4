"""What waits is a row with an indexed `due_at`, claimed with FOR UPDATE SKIP LOCKED; this is the loop that looks.

The store's claim moves `due_at` ahead (a lease) in the same statement, so a crash lets the row fall due again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared.errors import Transient
from shared.logs import Log
from shared.retry import Backoff

log = Log("shared.due")


class DueLoop:
    """Calls `work` when it is woken, and at least every `poll` seconds; again at once while it finds something."""

    def __init__(self, name: str, work: Callable[[], Awaitable[int]], *, poll: float = 0.5) -> None:
        """`work` claims and does some due rows and returns how many there were."""
        self._name = name
        self._work = work
        self._poll = poll
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Look now: something may have fallen due."""
        self._event.set()

    async def run(self) -> None:
        """Run as long as the service; an outage of the database only delays it."""
        backoff, failures = Backoff(0.1, 5), 0
        while True:
            self._event.clear()
            try:
                found = await self._work()
                failures = 0
            except Transient as error:
                failures += 1
                log.warning("due work waits", loop=self._name, why=str(error))
                await asyncio.sleep(backoff.delay(failures))
                continue
            if found:
                continue
            try:
                async with asyncio.timeout(self._poll):
                    await self._event.wait()
            except TimeoutError:
                continue


async def periodically(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do some work every so many seconds for as long as the service lives; skip a turn while something is away."""
    while True:
        try:
            await work()
        except Transient as error:
            log.debug("skipped", why=str(error))
        await asyncio.sleep(seconds)
