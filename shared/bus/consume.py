"""THE consume loop: each record has its effect exactly once.

A handler is one transaction: claim the place, do the work, write the outbox, commit. Offsets live in PostgreSQL beside
the state; the claim moves `next` from the first offset of the batch to the one after its last, so a process that was
stopped, fenced or late changes nothing. Memory of a batch that did not commit is forgotten. Kafka's own group offset is
written later, for lag tools only.

Its parts: `batch` (what was fetched), `places` (where each partition goes on), `transact` (one transaction for a
batch), `sweep` (what is due by time alone).
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from shared.bus.batch import Batch, BatchDecoder
from shared.bus.client import Kafka, stopped
from shared.bus.handler import Handler
from shared.bus.offsets import Offsets
from shared.bus.places import Places
from shared.bus.sweep import Sweeper
from shared.bus.transact import Fenced, Transactions
from shared.database.pool import Database
from shared.errors import Transient
from shared.runtime import metrics
from shared.runtime.logs import Log
from shared.runtime.progress import Progress, Worker
from shared.runtime.retry import Backoff
from shared.wire.topics import Topic, group_of

log = Log("shared.bus.consume")

_POLL_MS = 500
_GROUP_COMMIT_SECONDS = 5.0
_LOOK_SECONDS = 5.0


class Consumer:
    """Consumes one topic for one service."""

    def __init__(
        self,
        kafka: Kafka,
        database: Database,
        topic: Topic,
        handler: Handler,
        *,
        max_records: int = 500,
        invalid_limit: int = 100,
        worker: str | None = None,
    ) -> None:
        """`max_records` bounds a transaction; `invalid_limit` is how many refusals in a row stop the service.

        `worker` is its name where several consume one topic in a process.
        """
        service, offsets = database.schema, Offsets(database, topic)
        self.progress = Progress(service, worker or topic.name)
        self._kafka = kafka
        self._topic = topic
        self._name = kafka.prefix + topic.name
        self._group = group_of(service, topic)
        self._max_records = max_records
        self._sweep_seconds = handler.sweep_seconds
        self._decoder = BatchDecoder(topic, handler.takes)
        self._places = Places(kafka, topic, offsets, handler, self.progress)
        self._transactions = Transactions(
            database, topic, offsets, handler, self._committed, invalid_limit=invalid_limit
        )
        self._sweeper = Sweeper(database, offsets, handler, self.progress)
        self._figures = metrics.ConsumerFigures(service, topic.name)
        self._member: AIOKafkaConsumer | None = None

    def ready(self) -> str | None:
        """Return what is missing until records flow, or None."""
        return self._places.missing()

    @property
    def worker(self) -> Worker:
        """The consumer as its service runs it."""
        return Worker(self.run, self.progress)

    def owned(self) -> set[int]:
        """Return the partitions that this process handles now."""
        return self._places.owned()

    async def run(self) -> None:
        """Consume until cancelled. Raises on our own faults, which must end the process."""
        self.progress.made()
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(self._places.failed())]
                await self._start()
                beside.append(group.create_task(self._look()))
                await self._consume()
                for task in beside:
                    task.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            self._figures.tell(0, 0.0)
            if self._member is not None:
                await stopped(self._member)

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        assert self._member is not None
        return self._member

    async def _look(self) -> None:
        """Ask how far the log goes, on the connections that records are fetched by.

        What fetching itself tells is not enough: over a connection that is dead it finds nothing, as over a log that
        has nothing new.
        """
        while True:
            try:
                await self._places.ask_ends()
                if self._places.at_the_end:
                    self._made()
            except Transient as error:
                self.progress.waits(error)
            except IllegalStateError:  # revoked meanwhile
                pass
            await asyncio.sleep(_LOOK_SECONDS)

    async def _start(self) -> None:
        backoff = Backoff(0.2, 5)
        attempt = 0
        while True:
            self._member = self._kafka.consumer(group=self._group)
            try:
                with self._kafka.errors():
                    await self._kafka.start(self._consumer)
                break
            except Transient as error:
                attempt += 1
                self.progress.waits(error)
                await stopped(self._consumer)
                await asyncio.sleep(backoff.delay(attempt))
        self._places.join(self._consumer)

    async def _consume(self) -> None:
        fetching = asyncio.create_task(self._fetch())
        sweep = self._sweep_seconds
        next_sweep = time.monotonic() + (sweep or 0)
        next_commit = time.monotonic() + _GROUP_COMMIT_SECONDS
        try:
            while True:
                batch = await fetching
                # The next batch is fetched and decoded while this one is in PostgreSQL.
                fetching = asyncio.create_task(self._fetch())
                if batch:
                    await self._process(batch)
                await self._places.check_log()
                now = time.monotonic()
                if sweep is not None and now >= next_sweep:
                    async with self._places.busy:
                        await self._sweeper.sweep(self._places.caught_up())
                    next_sweep = now if self._sweeper.goes_on else now + sweep
                if now >= next_commit:
                    await self._commit_group_offsets()
                    next_commit = now + _GROUP_COMMIT_SECONDS
                self._measure(batch)
        finally:
            fetching.cancel()

    async def _fetch(self) -> Batch:
        try:
            fetched = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=self._max_records)
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            # Before the seek that follows an assignment this is only noise; after it, the place is checked.
            await self._places.check(str(error))
            return {}
        except KafkaError as error:
            self.progress.waits(Transient(f"{self._topic.name}: {error}", of="Kafka"))
            await asyncio.sleep(1)
            return {}
        # No await from here to the generation: what was drained belongs to the generation of this moment.
        batch: Batch = {}
        for tp, raw in fetched.items():
            generation = self._places.generation(tp.partition)
            if generation is not None:
                batch[tp.partition] = self._decoder.share(generation, raw)
        return batch

    async def _process(self, batch: Batch) -> None:
        backoff, attempt = Backoff(0.1, 5), 0
        while True:
            self._places.drop_old(batch)
            if not batch:
                break
            try:
                async with self._places.busy:
                    if self._places.drop_old(batch):
                        continue
                    await self._transactions.do(batch)
                break
            except Fenced as fenced:
                log.info("fenced", topic=self._topic.name, partitions=fenced.partitions)
                await self._places.fenced({p: batch[p].first for p in fenced.partitions})
            except Transient as error:
                attempt += 1
                self.progress.waits(error)
                self._pause(batch)
                await asyncio.sleep(backoff.delay(attempt))
        if attempt:
            self._resume()

    def _committed(self, batch: Batch) -> None:
        self._places.done(batch)
        self._made()

    def _made(self) -> None:
        if not self._sweeper.waits:
            self.progress.made()

    def _pause(self, batch: Batch) -> None:
        for partition in batch:
            with contextlib.suppress(IllegalStateError):
                self._consumer.pause(TopicPartition(self._name, partition))

    def _resume(self) -> None:
        for tp in self._consumer.paused():
            self._consumer.resume(tp)

    def _measure(self, batch: Batch) -> None:
        stamps = [share.raw[0].timestamp for share in batch.values()]
        self._figures.tell(self._places.lag(), time.time() - min(stamps) / 1000 if stamps else 0.0)

    async def _commit_group_offsets(self) -> None:
        offsets = self._places.next_offsets()
        if not offsets:
            return
        try:
            await self._consumer.commit(offsets)
        except KafkaError as error:  # only lag tools read it
            log.debug("group offset not written", topic=self._topic.name, why=str(error))
