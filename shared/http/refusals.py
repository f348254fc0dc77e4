"""Keys that were refused, for the audit: counted, so that whoever tries many keys fills nothing.

Told as one line for each reason, key and network, at once and then at most once a minute. Best effort: what is counted
when a process ends is lost, and while Kafka is away it goes on counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from shared.bus.client import Kafka, Producer
from shared.errors import Misconfigured, Transient
from shared.http.proxies import network_of
from shared.runtime import metrics
from shared.runtime.audit import UNKNOWN, Actor, line, message
from shared.runtime.clock import Clock
from shared.runtime.due import Periodic
from shared.runtime.logs import Log
from shared.runtime.progress import Worker
from shared.wire.events import AuditV1

log = Log("shared.http.refusals")

Reason = Literal["unknown", "revoked", "expired", "not_yet", "scope"]

_EVERY = timedelta(minutes=1)
_LOOK_SECONDS = 1.0
_SEND_SECONDS = 5.0
_MOST = 50
"""Of reason, key and network that are told apart; all others are told together."""


class _Refused(NamedTuple):
    reason: str
    key: str | None
    """None: no key that we know."""
    network: str | None


_OTHERS = _Refused("several", None, None)


@dataclass(slots=True)
class _Count:
    since: datetime
    due: datetime
    count: int = 0


class Refusals:
    """Those of one process."""

    def __init__(self, service: str, kafka: Kafka, clock: Clock) -> None:
        self._service = service
        self._producer = Producer(kafka)
        self._clock = clock
        self._counts: dict[_Refused, _Count] = {}

    def count(self, reason: Reason, key: str | None, address: str | None) -> None:
        """Note that a key was refused."""
        metrics.REFUSED_KEYS.labels(reason).inc()
        refused, now = _Refused(reason, key, network_of(address)), self._clock.now()
        if refused not in self._counts and len(self._counts) >= _MOST:
            refused = _OTHERS
        self._counts.setdefault(refused, _Count(now, now)).count += 1

    async def tell(self) -> None:
        """Send a line for each that is due, of what came since its last one."""
        now = self._clock.now()
        due = {refused: counted for refused, counted in self._counts.items() if counted.due <= now}
        told: dict[_Refused, AuditV1] = {}
        for refused, counted in due.items():
            if not counted.count:
                del self._counts[refused]
                continue
            counted.due = now + _EVERY
            told[refused] = self._line(refused, counted, now)
        sent = {refused: due[refused].count for refused in told}
        if not told:
            return
        try:
            await self._producer.send_all([message(one) for one in told.values()], timeout=_SEND_SECONDS)
        except (Transient, Misconfigured) as error:
            log.warning("refused keys are not in the audit yet", why=str(error), lines=len(told))
            return
        for refused, count in sent.items():
            due[refused].count -= count
            due[refused].since = now

    def _line(self, refused: _Refused, counted: _Count, now: datetime) -> AuditV1:
        actor = Actor(UNKNOWN if refused.key is None else f"key:{refused.key}", refused.network)
        detail = {"reason": refused.reason, "count": counted.count, "since": counted.since.isoformat()}
        return line(self._service, now, actor, "key refused", detail)

    @property
    def worker(self) -> Worker:
        """What tells them, as its process runs it."""
        return Periodic(self._service, "refused keys", _LOOK_SECONDS, self.tell).worker._replace(needed=False)

    async def close(self) -> None:
        """Let go of Kafka."""
        await self._producer.close()
