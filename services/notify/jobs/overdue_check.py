"""Makes sure that paging works: what is overdue is repaired, counted and told.

The watchdog hears only from a paging that is alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from services.notify.store import deliveries, pages
from shared.directory.model import Watchdog
from shared.http.client import Outbound, Refused, Unreachable
from shared.runtime import metrics
from shared.runtime.logs import Log
from shared.runtime.runtime import Runtime

log = Log("notify")

EVERY = 30.0
"""Seconds."""
_LATE = timedelta(seconds=30)
_SECONDS = 10.0


class OverdueCheck:
    """Looks at what should have happened."""

    def __init__(
        self,
        runtime: Runtime,
        outbound: Outbound,
        *,
        repair: Callable[[], Awaitable[int]],
        missing: Callable[[], str | None],
    ) -> None:
        """`repair` does what is due and returns how much that was; `missing` says what keeps tickets from us."""
        self._database = runtime.database
        self._directory = runtime.directory
        self._clock = runtime.clock
        self._outbound = outbound
        self._repair = repair
        self._missing = missing
        self._called_at = float("-inf")

    async def look(self) -> bool:
        """Look once; tell whether paging works."""
        before = self._clock.now() - _LATE
        async with self._database.transaction() as tx:
            late = await pages.overdue(tx, before)
            waiting = await deliveries.overdue(tx, before)
        metrics.PAGES_OVERDUE.set(late + waiting)
        missing = self._missing()
        if late or waiting:
            repaired = await self._repair()
            metrics.PAGES_REPAIRED.inc(repaired)
            log.error("paging is late", pages=late, deliveries=waiting, repaired=repaired)
        if missing is not None:
            log.info("tickets do not come", why=missing)
        return not late and not waiting and missing is None

    async def run_once(self) -> None:
        """Look, and tell the watchdog when all is well."""
        revision = self._directory.current
        well = await self.look()
        watchdog = None if revision is None else revision.directory.watchdog
        elapsed = asyncio.get_running_loop().time()
        if well and watchdog is not None and elapsed - self._called_at >= watchdog.every - EVERY / 2:
            self._called_at = elapsed
            await self._call(watchdog)

    async def _call(self, watchdog: Watchdog) -> None:
        try:
            answer = await self._outbound.post(watchdog.url, b"", {}, seconds=_SECONDS)
            heard = 200 <= answer.status < 300 and not answer.is_web_page
            result = "heard" if heard else "refused"
        except (Refused, Unreachable) as error:
            result = "unreachable"
            log.warning("watchdog not reached", why=str(error))
        metrics.WATCHDOG.labels(result).inc()
