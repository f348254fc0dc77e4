"""Sends webhooks: the attempt is counted before the call, the result stored after it.

Calls run beside each other, and each address has a few at most, so that one which does not answer delays no other.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import urlsplit

from services.ticketing.ledger import wants
from services.ticketing.store import webhooks
from services.ticketing.store.webhooks import DeliveryState, Sending
from shared.database.pool import Database
from shared.directory.follower import Follower
from shared.directory.model import Webhook
from shared.errors import Transient
from shared.http.client import Answer, Outbound, Refused, Unreachable
from shared.http.webhooks import NoSecret, signed_headers, signing_secrets
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.due import DueLoop
from shared.runtime.logs import Log
from shared.runtime.quarantine import Quarantine
from shared.wire.signing import Signer

log = Log("ticketing")

SCHEDULE = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds until the next attempt, after each; as Standard Webhooks proposes. After the last it has failed."""
_JITTER = 0.1
_SECONDS = 20.0
_LEASE = timedelta(seconds=30)
_AT_ONCE = 64
"""Calls under way: as many as sixteen addresses that do not answer can hold."""
_PER_ADDRESS = 4


class WebhookSender:
    """Calls the addresses that the directory lists."""

    def __init__(
        self,
        database: Database,
        directory: Follower,
        clock: Clock,
        signer: Signer,
        outbound: Outbound,
        quarantine: Quarantine,
    ) -> None:
        self._database = database
        self._directory = directory
        self._clock = clock
        self._signer = signer
        self._outbound = outbound
        self._busy: Counter[str] = Counter()
        """Calls under way, by address."""
        self._calls: asyncio.TaskGroup | None = None
        self._quarantine = quarantine
        self.loop = DueLoop("ticketing", "webhooks", self._work, quarantine, at_once=_AT_ONCE)

    async def run(self) -> None:
        """Run as long as the service."""
        async with asyncio.TaskGroup() as calls:
            self._calls = calls
            await self.loop.run()

    async def _work(self, limit: int) -> int:
        revision = self._directory.current
        free = min(limit, _AT_ONCE - self._busy.total())
        if revision is None or free == 0:
            return 0
        async with self._database.transaction() as tx:
            claimed = await webhooks.claim(
                tx, self._clock.now(), _LEASE, limit=free, per_address=_PER_ADDRESS, busy=self._busy
            )
            gone = await webhooks.disabled(tx) if claimed else set[str]()
        assert self._calls is not None
        for sending in claimed:
            endpoint = None if sending.url in gone else _entry_of(sending, revision.directory.webhooks)
            self._busy[sending.url] += 1
            self._calls.create_task(self._call(sending, endpoint))
        return len(claimed)

    async def _call(self, sending: Sending, endpoint: Webhook | None) -> None:
        try:
            async with self._quarantine.containing(webhooks.QUEUE, sending.id):
                await self._send(sending, endpoint)
        except Transient as error:
            log.warning("result not stored", delivery=sending.id, why=str(error))  # it falls due again
        finally:
            self._busy[sending.url] -= 1
            if not self._busy[sending.url]:
                del self._busy[sending.url]
            self.loop.wake()

    async def _send(self, sending: Sending, endpoint: Webhook | None) -> None:
        if endpoint is None:
            await self._store(sending, "failed", None, "the directory no longer lists the address, or it is gone")
            return
        try:
            secrets = signing_secrets(endpoint.url, endpoint.secret_env, self._signer)
            body = sending.body.encode()
            headers = signed_headers(secrets, str(sending.id), self._clock.now(), body)
            outbound = self._outbound.trusting(endpoint.ca_file)
            answer = await outbound.post(endpoint.url, body, headers, seconds=_SECONDS)
        except (NoSecret, Refused, Unreachable) as error:
            await self._again(sending, None, str(error), 0)
            return
        await self._answered(sending, answer)

    async def _answered(self, sending: Sending, answer: Answer) -> None:
        if 200 <= answer.status < 300 and answer.is_web_page:
            await self._again(sending, answer.status, f"HTTP {answer.status}: a web page, such as to sign in", 0)
        elif 200 <= answer.status < 300:
            await self._store(sending, "delivered", answer.status, "")
        elif answer.status == 410:
            await self._store(sending, "failed", answer.status, "the address is gone (410)")
            async with self._database.transaction() as tx:
                await webhooks.disable(tx, sending.url, self._clock.now(), "HTTP 410")
            log.warning("webhook disabled", host=urlsplit(sending.url).hostname)
        else:
            await self._again(sending, answer.status, f"HTTP {answer.status}", answer.retry_after or 0)

    async def _again(self, sending: Sending, status: int | None, why: str, at_least: float) -> None:
        if sending.attempts > len(SCHEDULE):
            await self._store(sending, "failed", status, why)
            return
        wait = SCHEDULE[sending.attempts - 1] * (1 + random.uniform(0, _JITTER))  # noqa: S311 (no secret)
        await self._store(sending, "pending", status, why, timedelta(seconds=max(wait, at_least)))

    async def _store(
        self, sending: Sending, state: DeliveryState, status: int | None, detail: str, wait: timedelta | None = None
    ) -> None:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            due = None if wait is None else now + wait
            await webhooks.answered(tx, sending.id, state, now=now, status=status, detail=detail, due_at=due)
        metrics.WEBHOOK_ATTEMPTS.labels("again" if state == "pending" else state).inc()


def _entry_of(sending: Sending, endpoints: Sequence[Webhook]) -> Webhook | None:
    """Return the directory's entry that a message is for; if its secret was given another name, one that wants it."""
    here = [endpoint for endpoint in endpoints if endpoint.url == sending.url]
    same = (endpoint for endpoint in here if endpoint.secret_env == sending.secret_env)
    return next(same, None) or next((one for one in here if wants(one, sending.customer, sending.event)), None)
