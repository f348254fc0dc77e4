"""The outbox: messages are written in the transaction that decides them, and relayed to Kafka afterwards, in order.

One process per service relays at a time. It resends from the first unacknowledged row after a crash, so a message may
come twice; consumers know the object's version.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from shared.bus.client import Headers, MessageTooLarge, Outgoing, Producer
from shared.database.pool import Connection, Database
from shared.errors import Transient
from shared.runtime import metrics
from shared.runtime.logs import Log
from shared.runtime.progress import Progress, Worker
from shared.runtime.quarantine import Quarantine, not_held
from shared.runtime.retry import Backoff
from shared.wire.topics import AUDIT

log = Log("shared.bus.outbox")

_BATCH = 500
_AUDIT_AGAIN = 60.0
"""Seconds after which lines of the audit are tried again."""
_POLL_SECONDS = 1.0
# The relay asks at least once a second, so a session that is silent for longer belongs to a stopped process: PostgreSQL
# ends it and with it the lock, and another process takes over.
_IDLE_SESSION = "5s"

_ADD = """
INSERT INTO outbox (topic, key, value, headers)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::text[])
"""
_NOTIFY = "SELECT pg_notify('fiilis_outbox_' || current_schema(), '')"
_LOCK = "SELECT pg_try_advisory_lock(hashtext('fiilis.outbox'), hashtext(current_schema()))"
_QUEUE = "outbox"
_NEXT = f"""
SELECT id, topic, key, value, headers, created_at FROM outbox
WHERE {not_held(_QUEUE, "outbox.id")} AND (topic = '{AUDIT.name}') = $2 ORDER BY id LIMIT $1
"""
_DELETE = "DELETE FROM outbox WHERE id = ANY($1::bigint[])"
_COUNTED = 10_000
_WAITING = f"""
SELECT CASE WHEN count(*) < {_COUNTED} THEN count(*) ELSE (SELECT max(id) FROM outbox) - min(id) + 1 END,
    min(created_at)
FROM (
    SELECT id, created_at FROM outbox WHERE {not_held(_QUEUE, "outbox.id")} ORDER BY id LIMIT {_COUNTED}
) AS waiting
"""
"""How many rows there are, and the oldest; of very many the ids tell, so that asking costs no more than of few."""


async def add(tx: Connection, messages: Sequence[Outgoing]) -> None:
    """Leave messages to be sent once the transaction commits; wakes the relay."""
    if not messages:
        return
    await tx.execute(
        _ADD,
        [m.topic for m in messages],
        [m.key for m in messages],
        [m.value for m in messages],
        [json.dumps([[name, value.decode("latin-1")] for name, value in m.headers]) for m in messages],
    )
    await tx.execute(_NOTIFY)


class Relay:
    """Sends what one service's outbox holds."""

    def __init__(self, database: Database, producer: Producer) -> None:
        self._database = database
        self._producer = producer
        self.waiting = 0
        """Messages not yet acknowledged, as far as this relay has looked."""
        self._wake = asyncio.Event()
        self._failures = 0
        """In a row."""
        self._audit_at = 0.0
        """When to send lines of the audit again, in the loop's time."""
        self._quarantine = Quarantine(database)
        self.progress = Progress(database.schema, "outbox")
        self._records = metrics.OUTBOX_RECORDS.labels(database.schema)
        self._oldest = metrics.OUTBOX_OLDEST.labels(database.schema)

    @property
    def worker(self) -> Worker:
        """The relay as its service runs it."""
        return Worker(self.run, self.progress)

    async def run(self) -> None:
        """Relay for as long as the service lives; an outage of Kafka or the database only delays it."""
        self.progress.made()
        backoff = Backoff(0.1, 5)
        while True:
            try:
                async with self._database.dedicated() as connection:
                    await self._relay(connection)
            except Transient as error:
                self._failures += 1
                self.progress.waits(error)
                await asyncio.sleep(backoff.delay(self._failures))

    async def _relay(self, connection: Connection) -> None:
        """Take the lock, then send until the connection or Kafka fails (Transient)."""
        await connection.execute(f"SET idle_session_timeout = '{_IDLE_SESSION}'")
        while not await connection.fetchval(_LOCK):
            self._tell(0, 0.0)  # another process relays, and tells
            self.progress.made()
            await asyncio.sleep(_POLL_SECONDS)
        await connection.add_listener(f"fiilis_outbox_{self._database.schema}", self._woken)
        while True:
            self._wake.clear()
            rows = await connection.fetch(_NEXT, _BATCH, False)
            if rows:
                if self._failures:
                    await self._measure(connection)  # a broker that refuses at once leaves no time for it below
                # Keeping the session busy while Kafka takes its time: see _IDLE_SESSION.
                await self._send(rows, connection)
                self.progress.made()
                if len(rows) == _BATCH:
                    continue
            await self._relay_audit(connection)
            await self._measure(connection)
            self.progress.made()
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _relay_audit(self, connection: Connection) -> None:
        """Send lines of the audit apart: where their topic is away, tickets and pages do not wait behind them."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._audit_at:
            return
        rows = await connection.fetch(_NEXT, _BATCH, True)
        if rows:
            try:
                await self._send(rows, connection)
            except Transient as error:
                self._audit_at = loop.time() + _AUDIT_AGAIN
                log.warning("the audit waits", service=self._database.schema, why=str(error))

    async def _send(self, rows: Sequence[Any], connection: Connection) -> None:
        sending = asyncio.ensure_future(self._producer.send_all([_outgoing(row) for row in rows]))
        try:
            while not (await asyncio.wait({sending}, timeout=_POLL_SECONDS))[0]:
                await self._measure(connection)
        finally:
            if not sending.done():
                sending.cancel()
        try:
            await sending
        except MessageTooLarge as error:
            # What stands behind it may be a critical answer: this one alone waits for a person.
            row = next(row for row in rows if _outgoing(row) == error.message)
            await self._quarantine.set_aside(_QUEUE, row["id"], error)
            self._quarantine.went_well(_QUEUE)  # the cluster's limit, and no bug of ours, however many there are
            self._wake.set()
            return
        self._quarantine.went_well(_QUEUE)
        await connection.execute(_DELETE, [row["id"] for row in rows])
        self._failures = 0

    async def _measure(self, connection: Connection) -> None:
        row: Any = await connection.fetchrow(_WAITING)
        self._tell(row[0], 0.0 if row[1] is None else (datetime.now(UTC) - row[1]).total_seconds())

    def _tell(self, waiting: int, oldest: float) -> None:
        self.waiting = waiting
        self._records.set(waiting)
        self._oldest.set(oldest)

    def _woken(self, *_: object) -> None:
        self._wake.set()


def _outgoing(row: Any) -> Outgoing:
    headers: Headers = [(name, value.encode("latin-1")) for name, value in json.loads(row["headers"])]
    return Outgoing(row["topic"], row["key"], row["value"], headers)
