"""What Kafka could not take: kept in PostgreSQL, and forwarded in order once Kafka is back.

It is the outbox that every service has, with one difference: nothing else is stored in the transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain

from shared.bus import outbox
from shared.bus.client import Outgoing, Producer
from shared.bus.outbox import Relay
from shared.database.pool import Database
from shared.errors import Misconfigured, Transient
from shared.runtime import metrics
from shared.runtime.due import Periodic
from shared.runtime.logs import Log
from shared.runtime.process import migrated
from shared.runtime.progress import Worker
from shared.runtime.quarantine import Quarantine

log = Log("ingest")

_FIGURES_SECONDS = 15
_REFUSED_SECONDS = 30.0

_Waiting = list[tuple[Sequence[Outgoing], asyncio.Future[None]]]


class Spool:
    """Writes what many requests leave at the same moment in one transaction."""

    def __init__(
        self, database: Database, producer: Producer, *, wait: float, limit: int, migration_url: str | None
    ) -> None:
        """`wait`: seconds that a transaction may take; `limit`: messages that may wait for one."""
        self._database = database
        self._migration_url = migration_url
        self._relay = Relay(database, producer)
        self._quarantine = Quarantine(database)
        self._wait = wait
        self._limit = limit
        self._open = False
        self._refused: str | None = None
        """Why PostgreSQL lets us not in."""
        self._wake = asyncio.Event()
        self._waiting: _Waiting = []
        self._count = 0
        """Messages in `_waiting`."""

    async def run(self) -> None:
        """Open it once PostgreSQL is there, then write and forward for as long as the service lives.

        In the background: while Kafka is there, ingest needs no PostgreSQL, not even to start.
        """
        while True:
            try:
                await migrated(self._database, None, self._migration_url)
            except Misconfigured as error:
                # Loud, and no end: a password that was changed may not keep answers from Kafka, which is there.
                self._refused = str(error)
                log.error("the spool cannot open", why=self._refused)
                await asyncio.sleep(_REFUSED_SECONDS)
            else:
                break
        self._refused = None
        self._open = True
        held = Periodic("ingest", "quarantine", _FIGURES_SECONDS, self._quarantine.measure)
        metrics.SPOOL_RECORDS.set_function(lambda: self._relay.waiting)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._relay.run())
                group.create_task(self._write())
                group.create_task(held.run())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            self._open = False
            _settle(self._waiting, Transient("database: the spool is closed"))

    @property
    def worker(self) -> Worker:
        """The spool as ingest runs it."""
        return Worker(self.run, self._relay.progress, needed=False)

    def notes(self) -> dict[str, str]:
        """Return what readiness tells of it."""
        refused = {} if self._refused is None else {"spool": self._refused}
        return {**refused, **self._quarantine.notes()}

    async def add(self, messages: Sequence[Outgoing]) -> None:
        """Return when they are durable. Raises Transient; then they may be, or not."""
        if not self._open:
            raise Transient("database: the spool is not open yet")
        if self._count >= self._limit:
            raise Transient("database: too many messages wait")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, written))
        self._count += len(messages)
        self._wake.set()
        await written

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            some, self._waiting, self._count = self._waiting, [], 0
            failure: Transient | None = Transient("database: the spool failed")
            try:
                failure = await self._written(some)
            finally:  # also where a bug ends the process: nobody waits for ever
                _settle(some, failure)

    async def _written(self, some: _Waiting) -> Transient | None:
        try:
            async with asyncio.timeout(self._wait), self._database.transaction() as tx:
                await outbox.add(tx, list(chain.from_iterable(messages for messages, _ in some)))
        except TimeoutError:
            return Transient(f"database: no commit within {self._wait:g} s")
        except Transient as error:
            return error
        return None


def _settle(waiting: _Waiting, failure: Transient | None) -> None:
    for _, written in waiting:
        if written.done():
            continue  # whoever waited for it has gone
        if failure is None:
            written.set_result(None)
        else:
            written.set_exception(failure)
