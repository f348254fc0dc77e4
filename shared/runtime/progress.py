"""Green means that work was done: each worker tells when it did some, or found that there was none.

Readiness, gauges and the watchdog read it from here, so that a worker that stands still shows, whatever a probe on
another connection says. Trouble is told in one line a minute for each service and dependency, however many workers
wait for it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from shared.errors import Transient
from shared.runtime import metrics
from shared.runtime.logs import Log

log = Log("shared.runtime.progress")

STALE_SECONDS = 20.0
"""A worker that has done nothing for so long is told at `/readyz`: a little over the deadline of a transaction."""
_AGAIN_SECONDS = 60.0


class Progress:
    """What one worker of a service has done lately."""

    def __init__(self, service: str, worker: str, *, within: float = STALE_SECONDS) -> None:
        """`within`: seconds between two signs of life of a worker that is well."""
        self.service = service
        self.worker = worker
        self._within = within
        self._at: float | None = None
        self._why = ""
        self.trouble: str | None = None
        """What the worker fails at though everything that it needs is there; it goes on with the rest."""
        self._outage: _Outage | None = None
        metrics.WORKER_PROGRESS_AGE.labels(service, worker).set_function(lambda: self.age)
        metrics.WORKER_LATE.labels(service, worker).set_function(lambda: max(0.0, self.late))

    def close(self) -> None:
        """Tell nothing of the worker any more: its work is no longer wanted."""
        for gauge in (metrics.WORKER_PROGRESS_AGE, metrics.WORKER_LATE):
            with contextlib.suppress(KeyError):
                gauge.remove(self.service, self.worker)

    @property
    def age(self) -> float:
        """Seconds since the worker last did its work or found none; 0 before it has begun."""
        return 0.0 if self._at is None else time.monotonic() - self._at

    @property
    def late(self) -> float:
        """Seconds by which its sign of life is late; 0 or less while it is well."""
        return self.age - self._within

    def made(self) -> None:
        """Note that the work was done, or that there was none; also once when the worker begins."""
        self._at = time.monotonic()
        if self._outage is not None:
            self._why = ""
            self._outage.over(self.worker)
            self._outage = None

    def waits(self, error: Transient) -> None:
        """Note what keeps the worker from its work."""
        self._why = str(error)
        outage = _outages.setdefault((self.service, error.of), _Outage(self.service, error.of))
        if self._outage is not None and self._outage is not outage:
            self._outage.over(self.worker)
        self._outage = outage
        outage.tell(self.worker, self._why)

    def missing(self) -> str | None:
        """Return what `/readyz` tells, None while the worker is well."""
        if self.late <= 0:
            return None
        return f"nothing done for {self.age:.0f} s" + (f": {self._why}" if self._why else "")


class Worker(NamedTuple):
    """Something that runs as long as its service, and by whose progress the service is judged."""

    run: Callable[[], Awaitable[None]]
    progress: Progress
    needed: bool = True
    """Whether the service is not ready without it; otherwise its trouble is told, and the watchdog sees to it."""


@dataclass(slots=True)
class _Outage:
    """A dependency that one service waits for."""

    service: str
    of: str
    since: float = 0.0
    told: float = -math.inf
    """When, in monotonic time."""
    open: bool = False
    """Told, and its end not yet."""
    waiting: set[str] = field(default_factory=set[str])

    def tell(self, worker: str, why: str) -> None:
        if not self.waiting:
            self.since = time.time()
        self.waiting.add(worker)
        if time.monotonic() - self.told >= _AGAIN_SECONDS:
            self.told, self.open = time.monotonic(), True
            since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds")
            waiting = ", ".join(sorted(self.waiting))
            log.warning(f"waiting for {self.of}", service=self.service, why=why, since=since, workers=waiting)

    def over(self, worker: str) -> None:
        self.waiting.discard(worker)
        if not self.waiting and self.open:
            self.open = False
            seconds = round(time.time() - self.since, 1)
            log.info(f"{self.of} is there again", service=self.service, after_seconds=seconds)


_outages: dict[tuple[str, str], _Outage] = {}
