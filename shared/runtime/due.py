"""What waits is a row with an indexed `due_at`, claimed with FOR UPDATE SKIP LOCKED; this is the loop that looks.

The store's claim moves `due_at` ahead (a lease) in the same statement, so a crash lets the row fall due again. A row
that cannot be decided is found by doing the batch again one by one, and set aside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared.errors import Transient
from shared.runtime import metrics
from shared.runtime.logs import Log
from shared.runtime.progress import STALE_SECONDS, Progress, Worker
from shared.runtime.quarantine import Quarantine, Undecidable, is_one_rows
from shared.runtime.retry import Backoff

log = Log("shared.runtime.due")

_FAILED_SECONDS = 60.0


class DueLoop:
    """Calls `work` when it is woken, and at least every `poll` seconds; again at once while it finds something."""

    def __init__(
        self,
        service: str,
        name: str,
        work: Callable[[int], Awaitable[int]],
        quarantine: Quarantine,
        *,
        at_once: int,
        poll: float = 0.5,
        within: float = STALE_SECONDS,
    ) -> None:
        """`work` claims and does so many due rows at the most and returns how many there were.

        `within`: seconds that one call of it may take before the worker counts as standing still. What it does under
        `judging` is done again row by row when one of them is at fault; what is set aside then, its claim passes by.
        """
        self._name = name
        self._work = work
        self._quarantine = quarantine
        self._at_once = at_once
        self._singly = 0
        """How many more rows are done one by one, because one of them is at fault."""
        self._doubted: set[str] = set()
        """Queues of which a row was set aside, and none has gone well since."""
        self._poll = poll
        self._event = asyncio.Event()
        self.progress = Progress(service, name, within=within)

    @property
    def worker(self) -> Worker:
        """The loop as its service runs it."""
        return Worker(self.run, self.progress)

    def wake(self) -> None:
        """Look now: something may have fallen due."""
        self._event.set()

    async def run(self) -> None:
        """Run as long as the service; an outage of the database only delays it."""
        self.progress.made()
        backoff, failures = Backoff(0.1, 5), 0
        while True:
            self._event.clear()
            try:
                found = await self.once()
            except Transient as error:
                failures += 1
                self.progress.waits(error)
                await asyncio.sleep(backoff.delay(failures))
                continue
            failures = 0
            self.progress.made()
            if found:
                continue
            try:
                async with asyncio.timeout(self._poll):
                    await self._event.wait()
            except TimeoutError:
                continue

    async def once(self) -> int:
        """Do some rows; return how many were due. Raises Transient."""
        singly = self._singly > 0
        self._singly = max(0, self._singly - 1)
        try:
            found = await self._work(1 if singly else self._at_once)
        except Undecidable as error:
            if not singly and len(error.keys) > 1:
                self._singly = len(error.keys)
                return len(error.keys)
            # What belongs to one claim of one is set aside together.
            for key in error.keys:
                await self._quarantine.set_aside(error.queue, key, error.__cause__ or error)
            self._doubted.add(error.queue)
            return len(error.keys)
        if found:
            for queue in self._doubted:
                self._quarantine.went_well(queue)
            self._doubted.clear()
        return found


class Periodic:
    """Does some work every so many seconds for as long as the service lives; skips a turn while something is away."""

    def __init__(self, service: str, name: str, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        self._seconds = seconds
        self._work = work
        self.progress = Progress(service, name, within=max(seconds, _FAILED_SECONDS) + STALE_SECONDS)
        self._failing = metrics.WORKER_FAILING.labels(service, name)

    @property
    def worker(self) -> Worker:
        """The job as its service runs it."""
        return Worker(self.run, self.progress)

    async def run(self) -> None:
        """Run as long as the service.

        What a job fails at is told as loudly as a crash, and tried again: no setting or row of one customer may end
        everybody's service, again after each restart.
        """
        self.progress.made()
        backoff, failures = Backoff(1, _FAILED_SECONDS), 0
        while True:
            wait = self._seconds
            try:
                await self._work()
                self.progress.made()
                self.progress.trouble = None
                self._failing.set(0)
                failures = 0
            except Transient as error:
                # Not at its next turn, which may be in an hour: a second's trouble is no standstill.
                failures += 1
                self.progress.waits(error)
                wait = min(wait, backoff.delay(failures))
            except Exception as error:
                if not is_one_rows(error):
                    raise
                log.error("job failed", failure=error, service=self.progress.service, job=self.progress.worker)
                self._failing.set(1)
                self.progress.made()
                self.progress.trouble = (
                    f"{type(error).__name__}; the log has more"  # a text may hold what somebody said
                )
                wait = max(wait, _FAILED_SECONDS)
            await asyncio.sleep(wait)
