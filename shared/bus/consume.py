"""THE consume loop: each record has its effect exactly once.

A handler is one transaction: claim the place, do the work, write the outbox, commit. Offsets live in PostgreSQL beside
the state; the claim moves `next` from the first offset of the batch to the one after its last, so a process that was
stopped, fenced or late changes nothing. Memory of a batch that did not commit is forgotten. Kafka's own group offset is
written later, for lag tools only.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import (
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from shared.bus import outbox
from shared.bus.client import Headers, Kafka, Outgoing, stopped
from shared.bus.offsets import OffsetLost, Offsets
from shared.database.pool import Connection, Database, TooSlow
from shared.errors import Invalid, Transient
from shared.runtime import metrics
from shared.runtime.logs import Log, parse_traceparent, tracing
from shared.runtime.progress import Progress, Worker
from shared.runtime.quarantine import Quarantine, Undecidable, is_one_rows
from shared.runtime.retry import Backoff
from shared.wire.topics import Decoder, Topic, Undecodable, group_of

log = Log("shared.bus.consume")

M_co = TypeVar("M_co", covariant=True)

AfterCommit = Callable[[], None]
"""What a handler does to its memory once the transaction has committed."""

_POLL_MS = 500
_GROUP_COMMIT_SECONDS = 5.0
_GAP_TRIES = 3
_LOOK_SECONDS = 5.0
_ANSWER_SECONDS = 12.0
"""A little over the client's own limit on a request."""
_SHORTENED_TRIES = 3
"""A new leader may for a moment know less of the log than the old one told."""


class Record(msgspec.Struct, Generic[M_co], frozen=True, gc=False):
    """One decoded message and where it stood."""

    message: M_co
    type: str
    partition: int
    offset: int
    trace: bytes | None = None

    @property
    def traceparent(self) -> str | None:
        """The trace that it belongs to."""
        return None if self.trace is None else parse_traceparent(self.trace.decode("utf-8", "replace"))


class Handler(Protocol):
    """What a service does with the records of a topic."""

    sweep_seconds: float | None
    """How often `sweep` runs, in real seconds; None: never."""
    takes: Collection[str] | None
    """The `ce_type`s that concern it; it passes the others by. None: all of the topic's."""

    async def handle(self, tx: Connection, records: Sequence[Record[Any]]) -> AfterCommit | None:
        """Do the work of these records inside the transaction. Raises Invalid for a record that can never succeed."""
        ...

    async def sweep(self, tx: Connection, partitions: Sequence[int], limit: int | None = None) -> AfterCommit | None:
        """Do what is due by time alone for partitions that this process owns and has caught up with.

        Raises Undecidable, naming the rows; then it is asked again with a `limit` of one row.
        """
        ...

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop what memory holds of these partitions: they went elsewhere, or a transaction did not commit."""
        ...


class Memoryless:
    """What a handler is that remembers nothing and has nothing due by time."""

    sweep_seconds: float | None = None
    takes: Collection[str] | None = None

    async def sweep(self, tx: Connection, partitions: Sequence[int], limit: int | None = None) -> AfterCommit | None:
        """Nothing is due by time."""

    def forget(self, partitions: Sequence[int]) -> None:
        """Nothing is remembered."""


class TooManyInvalid(Exception):
    """So many records in a row were refused that the fault is ours."""


class _Fenced(Exception):
    def __init__(self, partitions: Sequence[int]) -> None:
        super().__init__(f"fenced: {partitions}")
        self.partitions = partitions


@dataclass(slots=True)
class _Place:
    """What this process believes of a partition it was given. Truth is in PostgreSQL."""

    generation: int = 0
    ready: bool = False
    next: int = 0
    gap_tries: int = 0


@dataclass(frozen=True, slots=True)
class _Letter:
    record: ConsumerRecord[bytes, bytes]
    reason: str
    detail: str


@dataclass(slots=True)
class _Share:
    """A batch's records of one partition."""

    generation: int
    first: int
    after: int
    raw: list[ConsumerRecord[bytes, bytes]]
    records: list[Record[Any]] = field(default_factory=list[Record[Any]])
    letters: list[_Letter] = field(default_factory=list[_Letter])


_Batch = dict[int, _Share]


def _halves(batch: _Batch) -> tuple[_Batch, _Batch]:
    """Return a batch of several records as two."""
    if len(batch) > 1:
        shares = list(batch.items())
        middle = len(shares) // 2
        return dict(shares[:middle]), dict(shares[middle:])
    ((partition, share),) = batch.items()
    # Where the first half ends the other begins, whatever offsets the log has skipped there.
    middle = share.records[len(share.records) // 2].offset
    first = _Share(share.generation, share.first, middle, [r for r in share.raw if r.offset < middle])
    second = _Share(share.generation, middle, share.after, [r for r in share.raw if r.offset >= middle])
    for half in (first, second):
        offsets = {record.offset for record in half.raw}
        half.records = [record for record in share.records if record.offset in offsets]
        half.letters = [letter for letter in share.letters if letter.record.offset in offsets]
    return {partition: first}, {partition: second}


class Consumer(ConsumerRebalanceListener):
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
        self._kafka = kafka
        self._database = database
        self._topic = topic
        self._offsets = Offsets(database, topic)
        self._handler = handler
        self._max_records = max_records
        self._invalid_limit = invalid_limit
        self._service = database.schema
        self._name = kafka.prefix + topic.name
        self._quarantine = Quarantine(database)
        self._singly = 0
        """How many more rows are swept one by one, because one of them is at fault."""
        self._log_id = ""
        """The topic that the places were adopted from."""
        self._ends: dict[int, int] = {}
        """Of the partitions, when they were last asked for; what was fetched may know of later ones."""
        self.progress = Progress(self._service, worker or topic.name)
        self._sweep_waits = False
        """The last sweep could not be done: records may flow, and yet not all of the work is done."""
        self._decoder = Decoder(topic)
        self._others = topic.messages.keys() - (topic.messages if handler.takes is None else handler.takes)
        self._places: dict[int, _Place] = {}
        self._busy = asyncio.Lock()
        self._failure: asyncio.Future[NoReturn] | None = None
        self._invalid_in_a_row = 0
        self._assigned = False
        self._group = group_of(self._service, topic)
        self._member: AIOKafkaConsumer | None = None
        self._generations = itertools.count(1)
        labels = (self._service, topic.name)
        self._figures = metrics.ConsumerFigures(*labels)
        self._handled = metrics.RECORDS.labels(*labels, "handled")
        self._dead = metrics.RECORDS.labels(*labels, "dead")

    def ready(self) -> str | None:
        """Return what is missing until records flow, or None."""
        if self._member is None or not self._assigned:
            return f"{self._topic.name}: no place in the consumer group yet"
        waiting = [p for p, place in self._places.items() if not place.ready]
        return f"{self._topic.name}: partitions {waiting} wait for their offsets" if waiting else None

    @property
    def worker(self) -> Worker:
        """The consumer as its service runs it."""
        return Worker(self.run, self.progress)

    def owned(self) -> set[int]:
        """Return the partitions that this process handles now."""
        return {partition for partition, place in self._places.items() if place.ready}

    async def run(self) -> None:
        """Consume until cancelled. Raises on our own faults, which must end the process."""
        self._failure = asyncio.get_running_loop().create_future()
        self.progress.made()
        try:
            await self._start()
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(self._watch()), group.create_task(self._look())]
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

    async def _watch(self) -> None:
        assert self._failure is not None
        await asyncio.shield(self._failure)

    async def _look(self) -> None:
        """Ask how far the log goes, on the connections that records are fetched by.

        What fetching itself tells is not enough: over a connection that is dead it finds nothing, as over a log that
        has nothing new.
        """
        while True:
            partitions = [TopicPartition(self._name, p) for p in self.owned()]
            try:
                with self._kafka.errors():
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        ends = await self._consumer.end_offsets(partitions) if partitions else {}
                self._ends = {tp.partition: end for tp, end in ends.items()}
                if self._assigned and not self._lag():
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
        self._consumer.subscribe([self._name], listener=self)

    async def _consume(self) -> None:
        fetching = asyncio.create_task(self._fetch())
        sweep = self._handler.sweep_seconds
        next_sweep = time.monotonic() + (sweep or 0)
        next_commit = time.monotonic() + _GROUP_COMMIT_SECONDS
        try:
            while True:
                batch = await fetching
                # The next batch is fetched and decoded while this one is in PostgreSQL.
                fetching = asyncio.create_task(self._fetch())
                if batch:
                    await self._process(batch)
                await self._check_log()
                now = time.monotonic()
                if sweep is not None and now >= next_sweep:
                    await self._sweep()
                    next_sweep = now if self._singly else now + sweep
                if now >= next_commit:
                    await self._commit_group_offsets()
                    next_commit = now + _GROUP_COMMIT_SECONDS
                self._measure(batch)
        finally:
            fetching.cancel()

    # ---- fetching

    async def _fetch(self) -> _Batch:
        try:
            fetched = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=self._max_records)
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            # Before the seek that follows an assignment this is only noise; after it, the place is checked.
            await self._reposition([p for p, place in self._places.items() if place.ready], repeated=str(error))
            return {}
        except KafkaError as error:
            self.progress.waits(Transient(f"{self._topic.name}: {error}", of="Kafka"))
            await asyncio.sleep(1)
            return {}
        # No await from here to the generation: what was drained belongs to the generation of this moment.
        batch: _Batch = {}
        for tp, raw in fetched.items():
            place = self._places.get(tp.partition)
            if place is not None and place.ready:
                batch[tp.partition] = self._decode(place.generation, raw)
        return batch

    def _decode(self, generation: int, raw: list[Any]) -> _Share:
        share = _Share(generation, raw[0].offset, raw[-1].offset + 1, raw)
        decode, others = self._decoder.decode, self._others
        for record in raw:
            headers = dict(record.headers)
            ce_type = (headers.get("ce_type") or b"").decode("utf-8", "replace")
            if ce_type in others:
                continue
            try:
                message = decode(ce_type, record.value)
            except Undecodable as error:
                share.letters.append(_Letter(record, "undecodable", str(error)))
                continue
            trace = headers.get("traceparent")
            share.records.append(Record(message, ce_type, record.partition, record.offset, trace))
        return share

    # ---- handling

    async def _process(self, batch: _Batch) -> None:
        backoff, attempt = Backoff(0.1, 5), 0
        while True:
            for partition in [p for p, share in batch.items() if not self._current(p, share.generation)]:
                del batch[partition]
            if not batch:
                break
            try:
                async with self._busy:
                    if not all(self._current(p, share.generation) for p, share in batch.items()):
                        continue
                    await self._transact(batch)
                break
            except _Fenced as fenced:
                log.info("fenced", topic=self._topic.name, partitions=fenced.partitions)
                await self._reposition(fenced.partitions, firsts={p: batch[p].first for p in fenced.partitions})
            except Transient as error:
                attempt += 1
                self.progress.waits(error)
                self._pause(batch)
                await asyncio.sleep(backoff.delay(attempt))
        if attempt:
            self._resume()

    async def _transact(self, batch: _Batch) -> None:
        """One transaction for the whole batch; again without the record that turned out to be invalid.

        A failure that may be one record's is looked for by halves: what fails alone is refused, the rest goes on.
        """
        while True:
            records = [record for share in batch.values() for record in share.records]
            try:
                async with self._database.transaction() as tx:
                    lost = await self._offsets.claim(tx, {p: (s.first, s.after) for p, s in batch.items()})
                    if lost:
                        raise _Fenced(lost)
                    after: AfterCommit | None = None
                    if records:
                        with tracing(records[0].traceparent if len(records) == 1 else None):
                            after = await self._handler.handle(tx, records)
                    letters = [letter for share in batch.values() for letter in share.letters]
                    await outbox.add(tx, [self._dead_letter(letter) for letter in letters])
            except Invalid as invalid:
                self._handler.forget(list(batch))
                self._refuse(batch, records[invalid.index], invalid)
                continue
            except BaseException as error:
                self._handler.forget(list(batch))  # the handler may have changed its memory before it failed
                too_slow = isinstance(error, TooSlow) and len(records) > 1  # together; each may be done in time
                if not records or isinstance(error, _Fenced) or not (too_slow or is_one_rows(error)):
                    raise
                if len(records) > 1:
                    for half in _halves(batch):
                        await self._transact(half)
                    return
                log.error("record failed", failure=error, topic=self._topic.name, offset=records[0].offset)
                self._refuse(batch, records[0], Invalid("undecidable", f"{type(error).__name__}: {error}"))
                continue
            if after is not None:
                after()
            self._done(batch, records, letters)
            return

    def _done(self, batch: _Batch, records: list[Record[Any]], letters: list[_Letter]) -> None:
        for partition, share in batch.items():
            place = self._places.get(partition)
            if place is not None and place.generation == share.generation:
                place.next, place.gap_tries = share.after, 0
        self._made()
        self._handled.inc(len(records))
        for letter in letters:
            self._dead.inc()
            metrics.DEAD_LETTERS.labels(self._service, self._topic.name, letter.reason).inc()
            where = f"{self._topic.name}/{letter.record.partition}/{letter.record.offset}"
            log.error("dead letter", record=where, reason=letter.reason, detail=letter.detail)
        self._invalid_in_a_row = 0 if records else self._invalid_in_a_row + len(letters)
        if self._invalid_in_a_row > self._invalid_limit:
            raise TooManyInvalid(
                f"{self._invalid_in_a_row} records of {self._topic.name} in a row were refused; the last one: "
                f"{letters[-1].detail}. They are in {self._topic.dead}."
            )

    def _refuse(self, batch: _Batch, record: Record[Any], invalid: Invalid) -> None:
        share = batch[record.partition]
        share.records.remove(record)
        raw = next(r for r in share.raw if r.offset == record.offset)
        share.letters.append(_Letter(raw, invalid.reason, invalid.detail))

    def _dead_letter(self, letter: _Letter) -> Outgoing:
        record = letter.record
        headers: Headers = [
            *((name, value or b"") for name, value in record.headers),  # Kafka knows headers without a value
            ("dead_reason", f"{letter.reason}: {letter.detail}"[:500].encode()),
            ("dead_topic", self._topic.name.encode()),
            ("dead_partition", str(record.partition).encode()),
            ("dead_offset", str(record.offset).encode()),
            ("dead_service", self._service.encode()),
        ]
        return Outgoing(self._topic.dead, record.key, record.value, headers)

    async def _sweep(self) -> None:
        async with self._busy:
            caught_up = [p for p, place in self._places.items() if place.ready and self._behind(p, place) == 0]
            if not caught_up:
                return
            try:
                async with self._database.transaction() as tx:
                    here = {p: (self._places[p].next, self._places[p].next) for p in caught_up}
                    # What is lost went on elsewhere; the next batch of that partition finds out and repositions.
                    lost = await self._offsets.claim(tx, here)
                    owned = [p for p in caught_up if p not in lost]
                    limit = 1 if self._singly else None
                    after = await self._handler.sweep(tx, owned, limit) if owned else None
            except Undecidable as error:
                self._handler.forget(caught_up)
                await self._set_aside(error)
                return
            except Transient as error:
                self._handler.forget(caught_up)
                self._sweep_waits = True
                self.progress.waits(error)
                return
            self._sweep_waits = False
            self._singly = max(0, self._singly - 1)
            self._quarantine.went_well()
            if after is not None:
                after()

    async def _set_aside(self, error: Undecidable) -> None:
        """Set the row at fault aside, or look for it among several by sweeping one at a time."""
        if len(error.keys) > 1:
            self._singly = len(error.keys)
            return
        try:
            await self._quarantine.set_aside(error.queue, error.keys[0], error.__cause__ or error)
        except Transient as away:
            self.progress.waits(away)

    # ---- places

    def _current(self, partition: int, generation: int) -> bool:
        place = self._places.get(partition)
        return place is not None and place.ready and place.generation == generation

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Stop handling at once, wait for the transaction under way, forget."""
        self._assigned = False
        partitions = [tp.partition for tp in revoked]
        for partition in partitions:
            place = self._places.get(partition)
            if place is not None:
                place.ready = False
        async with self._busy:
            self._handler.forget(partitions)
            for partition in partitions:
                self._places.pop(partition, None)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Read the offsets from PostgreSQL and go there."""
        # aiokafka only logs what a listener raises and would go on from the group's offset: our loop raises it instead.
        try:
            await self._adopt([tp.partition for tp in assigned], assigned=True)
            self._assigned = True
        except Exception as error:  # noqa: BLE001 (handed to the loop, which ends the process)
            if self._failure is not None and not self._failure.done():
                self._failure.set_exception(error)

    async def _adopt(self, partitions: list[int], *, assigned: bool = False) -> None:
        """Read the places and go there; `assigned`: they are ours from now on, else only as far as they still are."""
        if not partitions:
            return
        backoff, attempt, shortened = Backoff(0.2, 5), 0, 0
        while True:
            try:
                places = await self._offsets.places(partitions)
                now = await self._kafka.log_state(self._topic.name)
                if now is None:
                    raise Transient(f"{self._kafka.bootstrap}: topic {self._name} does not exist", of="Kafka")
                nexts = await self._offsets.taken(partitions, places, now)
                break
            except Transient as error:
                attempt += 1
                self.progress.waits(error)
                await asyncio.sleep(backoff.delay(attempt))
            except OffsetLost:
                shortened += 1
                if shortened >= _SHORTENED_TRIES:
                    raise
                await asyncio.sleep(1)
        self._log_id = now.log
        self._ends |= now.ends
        async with self._busy:
            self._handler.forget(partitions)
            for partition, offset in nexts.items():
                if assigned:
                    self._places.setdefault(partition, _Place())
                place = self._places.get(partition)
                if place is not None:  # not revoked while we asked
                    self._go_to(partition, place, offset)
        log.info("partitions adopted", topic=self._topic.name, partitions=partitions)

    def _go_to(self, partition: int, place: _Place, offset: int) -> None:
        """Seek, then open a new generation: what was fetched before belongs to the old one and is dropped."""
        try:
            self._consumer.seek(TopicPartition(self._name, partition), offset)
        except IllegalStateError:  # revoked meanwhile
            return
        # Never one that this partition had before: what was fetched in an earlier life of it must not pass for new.
        place.generation = next(self._generations)
        place.next = offset
        place.ready = True

    async def _check_log(self) -> None:
        """Look at the places again when the cluster has been seen to have another topic of this name.

        While there was none, we may have lost our partitions and with them the reason to look. Raises OffsetLost.
        """
        seen = self._kafka.topics.get(self._topic.name)
        if seen is None or not seen.id or not self._log_id or seen.id == self._log_id:
            return
        every = list(range(seen.partitions))
        try:
            places = await self._offsets.places(every)
            now = await self._kafka.log_state(self._topic.name)
            if now is None:
                return
            await self._offsets.taken(list(now.starts), places, now)
        except Transient as error:
            self.progress.waits(error)
            return
        self._log_id = now.log
        await self._reposition([p for p, place in self._places.items() if place.ready], repeated="another log")

    async def _reposition(
        self, partitions: Sequence[int], *, firsts: dict[int, int] | None = None, repeated: str = ""
    ) -> None:
        """Somebody else went on: forget, read the stored offsets again, seek."""
        if not partitions:
            return
        for partition in partitions:
            self._places[partition].ready = False
        for partition, first in (firsts or {}).items():
            place = self._places[partition]
            place.gap_tries += 1
            if place.gap_tries > _GAP_TRIES and first > place.next:
                raise self._offsets.gap(partition, place.next, first)
        if repeated:
            log.warning("place is checked", topic=self._topic.name, why=repeated)
        await self._adopt([p for p in partitions if p in self._places])

    def _pause(self, batch: _Batch) -> None:
        for partition in batch:
            with contextlib.suppress(IllegalStateError):
                self._consumer.pause(TopicPartition(self._name, partition))

    def _resume(self) -> None:
        for tp in self._consumer.paused():
            self._consumer.resume(tp)

    # ---- figures

    def _behind(self, partition: int, place: _Place) -> int | None:
        try:
            fetched = self._consumer.highwater(TopicPartition(self._name, partition))
        except (IllegalStateError, AssertionError):  # revoked meanwhile; the library asserts it
            return None
        if fetched is None:
            return None
        return max(0, max(fetched, self._ends.get(partition, 0)) - place.next)

    def _made(self) -> None:
        if not self._sweep_waits:
            self.progress.made()

    def _lag_of(self, partition: int, place: _Place) -> int:
        return max(0, self._ends.get(partition, 0) - place.next)

    def _lag(self) -> int:
        """Return how many records wait, as far as the log was asked."""
        return sum(self._lag_of(p, place) for p, place in self._places.items())

    def _measure(self, batch: _Batch) -> None:
        lag = sum(self._behind(p, place) or self._lag_of(p, place) for p, place in self._places.items())
        stamps = [share.raw[0].timestamp for share in batch.values()]
        self._figures.tell(lag, time.time() - min(stamps) / 1000 if stamps else 0.0)

    async def _commit_group_offsets(self) -> None:
        offsets = {TopicPartition(self._name, p): place.next for p, place in self._places.items() if place.ready}
        if not offsets:
            return
        try:
            await self._consumer.commit(offsets)
        except KafkaError as error:  # only lag tools read it
            log.debug("group offset not written", topic=self._topic.name, why=str(error))
