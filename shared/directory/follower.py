"""Publishes a directory as one record and follows the newest: a service has a whole revision or none."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from shared.bus.client import Kafka, Outgoing, Producer, event_headers, stopped
from shared.directory.model import Customer, Directory, Key
from shared.directory.record import decode, encode
from shared.errors import Transient
from shared.runtime import metrics
from shared.runtime.logs import Log
from shared.runtime.progress import Progress, Worker
from shared.runtime.quarantine import is_one_rows
from shared.runtime.retry import Backoff
from shared.wire.ids import uuid7
from shared.wire.topics import DIRECTORY, DIRECTORY_LIMIT, TOPICS, Undecodable

log = Log("shared.directory")

_KEY = b"directory"
_AUTHOR = "ce_author"
_PARTITIONS = "ce_partitions"
_WAIT_SECONDS = 30
_POLL_MS = 1_000
_NOT_READ = "directory.v1 is not read yet"
_LOOK_SECONDS = 5.0
_ANSWER_SECONDS = 12.0


@dataclass(frozen=True, slots=True)
class Revision:
    """One published directory."""

    number: int
    """Offset + 1 of its record."""
    directory: Directory
    keys: dict[str, Key] = field(default_factory=dict[str, Key])
    """By the hash of the key's text."""
    applied_at: datetime | None = None
    author: str = "apply"
    """Who applied it."""
    log: str = ""
    """The id of the topic that it was read from: numbers begin again in a topic that was made anew."""
    partitions: Mapping[str, int] = field(default_factory=dict[str, int])
    """Over how many partitions the installation spreads the keys of each topic; nothing: as many as a topic has."""


def revision_of(number: int, directory: Directory) -> Revision:
    """Return a directory with what is looked up in it all the time."""
    return Revision(number, directory, {key.sha256: key for key in directory.keys})


async def publish(kafka: Kafka, directory: Directory, author: str = "apply", *, repartition: bool = False) -> int:
    """Publish a directory and return its revision. Raises Transient; then it may or may not be the newest.

    With it goes over how many partitions the installation spreads the keys of each topic: what it was, or with
    `repartition` what the topics have now. A topic that was made since the last revision has what it has now.
    """
    value = encode(directory)
    before = None if repartition else await _before(kafka)
    spread = {**await _spread(kafka), **(before.partitions if before else {})}
    producer = Producer(kafka, compression_type="gzip", max_request_size=DIRECTORY_LIMIT * 8)
    try:
        await producer.start()
        headers = event_headers("directory.published", str(uuid7()), "apply", datetime.now(UTC).isoformat(), None)
        headers = [*headers, (_AUTHOR, author.encode()), (_PARTITIONS, json.dumps(spread).encode())]
        await producer.send_all([Outgoing(DIRECTORY.name, _KEY, value, headers)])
    finally:
        await producer.close()
    newest = await read_newest(kafka)
    assert newest is not None
    return newest.number


async def _before(kafka: Kafka) -> Revision | None:
    """Return the newest revision that can be read at all. Raises Transient."""
    try:
        return await read_newest(kafka)
    except Undecodable as error:
        log.warning("the newest directory cannot be read", why=str(error))
        return None


async def _spread(kafka: Kafka) -> dict[str, int]:
    """Return how many partitions each topic of keyed messages has. Raises Transient."""
    found = (await kafka.describe(topic.name for topic in TOPICS)).topics
    return {name: state.partitions for name, state in found.items() if name != DIRECTORY.name}


async def read_newest(kafka: Kafka) -> Revision | None:
    """Return the newest revision, or None where nothing was ever published. Raises Transient, and Undecodable.

    From then on `kafka` spreads keys as the revision says.
    """
    there = (await kafka.describe([DIRECTORY.name])).topics.get(DIRECTORY.name)
    if there is None:
        return None
    consumer = kafka.consumer(group=None)
    with kafka.errors():
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await kafka.start(consumer)
                record = await _newest(consumer, _partition(kafka))
            if record is None:
                return None
            revision = await _decoded(record, there.id)
            kafka.partitions = dict(revision.partitions)
            return revision
        finally:
            await stopped(consumer)


def _partition(kafka: Kafka) -> TopicPartition:
    return TopicPartition(kafka.prefix + DIRECTORY.name, 0)


async def _newest(consumer: AIOKafkaConsumer, tp: TopicPartition) -> ConsumerRecord[Any, Any] | None:
    """Go to the last record (compaction always keeps it) and read it."""
    consumer.assign([tp])
    end = (await consumer.end_offsets([tp]))[tp]
    if end == 0:
        consumer.seek(tp, 0)
        return None
    consumer.seek(tp, end - 1)
    while True:
        record = await consumer.getone()
        if record.offset >= end - 1:
            return record


async def _decoded(record: ConsumerRecord[Any, Any], log: str) -> Revision:
    """Return the revision of a record. Raises Undecodable."""
    number = record.offset + 1
    try:
        # In a thread: a directory of 100,000 customers takes long enough to delay an acknowledgement.
        revision = revision_of(number, await asyncio.to_thread(decode, record.value or b""))
        headers = dict(record.headers)
        return replace(
            revision,
            applied_at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
            author=(headers.get(_AUTHOR) or b"apply").decode(errors="replace"),
            log=log,
            partitions=msgspec.json.decode(headers.get(_PARTITIONS) or b"{}", type=dict[str, int]),
        )
    except Exception as error:
        if not is_one_rows(error):
            raise
        why = f"revision {number} of directory.v1 cannot be read ({type(error).__name__}: {error}): apply one that can"
        raise Undecodable(why) from error


class Follower:
    """Holds the newest directory for one process."""

    def __init__(self, kafka: Kafka, services: tuple[str, ...]) -> None:
        """`services` run in this process; each reports the revision in use."""
        self._kafka = kafka
        self._services = services
        self._caught_up = False
        self._trouble: str | None = None
        """What keeps the newest revision from being used; the one before it stays in use."""
        self._listeners: list[Callable[[Revision], None]] = []
        self._local_keys: dict[str, Key] = {}
        self.current: Revision | None = None
        self.progress = Progress("+".join(services), DIRECTORY.name)

    @property
    def worker(self) -> Worker:
        """The follower as its process runs it."""
        return Worker(self.run, self.progress)

    def admit(self, keys: Sequence[Key]) -> None:
        """Let in keys that only this process knows (the demo's and the simulation's); call it before `run`."""
        self._local_keys = {key.sha256: key for key in keys}

    def listen(self, listener: Callable[[Revision], None]) -> None:
        """Call `listener` with the present revision, if any, and with each later one."""
        self._listeners.append(listener)
        if self.current is not None:
            listener(self.current)

    def customer(self, id: str) -> Customer | None:
        """Return a customer of the newest revision."""
        return None if self.current is None else self.current.directory.customers.get(id)

    def missing(self) -> str | None:
        """Return what is missing until a directory is in use, or None."""
        if self.current is not None:
            return None
        if not self._caught_up:
            return _NOT_READ
        return self._trouble or "no directory was applied yet: python -m services apply FILE"

    def ready(self) -> str | None:
        """Return what is missing until the newest directory is in use, or None."""
        return self.missing() or self._trouble or (None if self._caught_up else _NOT_READ)

    async def prepare(self) -> None:
        """Use the newest revision, where there is one: over how many partitions keys are spread is needed first.

        Raises Transient.
        """
        revision = await _before(self._kafka)
        if revision is not None:
            self._use(revision)

    def begin_with(self, revision: Revision) -> None:
        """Use a revision that was kept, until the newest can be read."""
        if self.current is None:
            self._use(revision)

    async def run(self) -> None:
        """Follow for as long as the process lives; an outage of Kafka leaves the last revision in use."""
        self.progress.made()
        backoff, failures = Backoff(0.2, 5), 0
        while True:
            consumer = self._kafka.consumer(group=None)
            try:
                with self._kafka.errors():
                    async with asyncio.timeout(_WAIT_SECONDS):
                        log_id = await self._log_id()
                        await self._kafka.start(consumer)
                        newest = await _newest(consumer, _partition(self._kafka))
                    failures = 0
                    if newest is not None:
                        await self._take(newest, log_id)
                    elif self.current is not None:
                        self._complain("directory.v1 was made anew and is empty: apply the directory again")
                    self._caught_up = True
                    self.progress.made()
                    await self._follow(consumer, log_id)
            except Transient as error:
                failures += 1
                self.progress.waits(error)
                await asyncio.sleep(backoff.delay(failures))
            finally:
                await stopped(consumer)

    async def _log_id(self) -> str:
        """Return the id of the topic. Raises Transient while there is none."""
        there = (await self._kafka.describe([DIRECTORY.name])).topics.get(DIRECTORY.name)
        if there is None:
            raise Transient(f"{self._kafka.bootstrap}: topic {DIRECTORY.name} does not exist", of="Kafka")
        return there.id

    async def _follow(self, consumer: AIOKafkaConsumer, log_id: str) -> None:
        """Take each revision that comes, until the topic is another one. Raises Transient, and KafkaError.

        The end is asked for on the same connection: one that is dead brings nothing, as does a quiet directory, and a
        key that was revoked would stay good.
        """
        tp = _partition(self._kafka)
        asked = 0.0
        while True:
            fetched = await consumer.getmany(tp, timeout_ms=_POLL_MS)
            for record in fetched.get(tp, ()):
                await self._take(record, log_id)
            if time.monotonic() - asked >= _LOOK_SECONDS:
                asked = time.monotonic()
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await consumer.end_offsets([tp])
                self.progress.made()
                seen = self._kafka.topics.get(DIRECTORY.name)
                if log_id and seen is not None and seen.id and seen.id != log_id:
                    log.warning("directory.v1 is another log", was=log_id, now=seen.id)
                    return

    async def _take(self, record: ConsumerRecord[Any, Any], log_id: str) -> None:
        """Use a record's revision; one that cannot be read leaves the one before it in use, and says so."""
        if self.current is not None and (log_id, record.offset + 1) == (self.current.log, self.current.number):
            self._trouble = None
            return
        try:
            revision = await _decoded(record, log_id)
        except Undecodable as error:
            self._complain(str(error))
            return
        self._trouble = None
        self._use(revision)

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.error("directory cannot be used", why=trouble)
        self._trouble = trouble

    def _use(self, revision: Revision) -> None:
        revision = self.current = replace(revision, keys=revision.keys | self._local_keys)
        self._kafka.partitions = dict(revision.partitions)
        for service in self._services:
            metrics.DIRECTORY_REVISION.labels(service).set(revision.number)
        log.info("directory in use", revision=revision.number, customers=len(revision.directory.customers))
        for listener in self._listeners:
            listener(revision)
