"""Publishes a directory as one record and follows the newest: a service has a whole revision or none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from shared import metrics
from shared.directory.model import Customer, Directory, Key
from shared.directory.record import decode, encode
from shared.errors import Transient
from shared.ids import uuid7
from shared.kafka import Kafka, Outgoing, Producer, event_headers, kafka_errors
from shared.logs import Log
from shared.retry import Backoff
from shared.topics import DIRECTORY, DIRECTORY_LIMIT

log = Log("shared.directory")

_KEY = b"directory"
_AUTHOR = "ce_author"
_WAIT_SECONDS = 30


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


def revision_of(number: int, directory: Directory) -> Revision:
    """Return a directory with what is looked up in it all the time."""
    return Revision(number, directory, {key.sha256: key for key in directory.keys})


async def publish(kafka: Kafka, directory: Directory, author: str = "apply") -> int:
    """Publish a directory and return its revision. Raises Transient; then it may or may not be the newest."""
    value = encode(directory)
    producer = Producer(kafka, compression_type="gzip", max_request_size=DIRECTORY_LIMIT * 8)
    try:
        await producer.start()
        headers = event_headers("directory.published", str(uuid7()), "apply", datetime.now(UTC).isoformat(), None)
        headers = [*headers, (_AUTHOR, author.encode())]
        await producer.send_all([Outgoing(DIRECTORY.name, _KEY, value, headers)])
    finally:
        await producer.close()
    newest = await read_newest(kafka)
    assert newest is not None
    return newest.number


async def read_newest(kafka: Kafka) -> Revision | None:
    """Return the newest revision, or None where nothing was ever published. Raises Transient."""
    consumer = kafka.consumer(group=None)
    with kafka_errors():
        try:
            await consumer.start()
            async with asyncio.timeout(_WAIT_SECONDS):
                tp = _partition(kafka)
                return await _newest(consumer, tp) if tp.topic in await consumer.topics() else None
        finally:
            await consumer.stop()


def _partition(kafka: Kafka) -> TopicPartition:
    return TopicPartition(kafka.prefix + DIRECTORY.name, 0)


async def _newest(consumer: AIOKafkaConsumer, tp: TopicPartition) -> Revision | None:
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
            return await _decoded(record)


async def _decoded(record: ConsumerRecord[Any, Any]) -> Revision:
    # In a thread: a directory of 100,000 customers takes long enough to delay an acknowledgement.
    revision = revision_of(record.offset + 1, await asyncio.to_thread(decode, record.value or b""))
    author = (dict(record.headers).get(_AUTHOR) or b"apply").decode(errors="replace")
    return replace(revision, applied_at=datetime.fromtimestamp(record.timestamp / 1000, UTC), author=author)


class Follower:
    """Holds the newest directory for one process."""

    def __init__(self, kafka: Kafka, services: tuple[str, ...]) -> None:
        """`services` run in this process; each reports the revision in use."""
        self._kafka = kafka
        self._services = services
        self._caught_up = False
        self._listeners: list[Callable[[Revision], None]] = []
        self._local_keys: dict[str, Key] = {}
        self.current: Revision | None = None

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

    def ready(self) -> str | None:
        """Return what is missing until a directory is in use, or None."""
        if not self._caught_up:
            return "directory.v1 is not read yet"
        if self.current is None:
            return "no directory was applied yet: python -m services apply FILE"
        return None

    async def run(self) -> None:
        """Follow for as long as the process lives; an outage of Kafka leaves the last revision in use."""
        backoff, failures = Backoff(0.2, 5), 0
        while True:
            consumer = self._kafka.consumer(group=None)
            try:
                with kafka_errors():
                    await consumer.start()
                    tp = _partition(self._kafka)
                    newest = await _newest(consumer, tp)
                    failures = 0
                    if newest is not None:
                        self._use(newest)
                    self._caught_up = True
                    while True:
                        record = await consumer.getone()
                        self._use(await _decoded(record))
            except (Transient, KafkaError) as error:
                failures += 1
                log.warning("directory waits", why=str(error))
                await asyncio.sleep(backoff.delay(failures))
            finally:
                await consumer.stop()

    def _use(self, revision: Revision) -> None:
        if self.current is not None and revision.number == self.current.number:
            return
        revision = self.current = replace(revision, keys=revision.keys | self._local_keys)
        for service in self._services:
            metrics.DIRECTORY_REVISION.labels(service).set(revision.number)
        log.info("directory in use", revision=revision.number, customers=len(revision.directory.customers))
        for listener in self._listeners:
            listener(revision)
