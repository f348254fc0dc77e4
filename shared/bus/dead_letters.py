"""What was refused for ever: it lies in `<topic>.dead`, and can be sent again once its fault is mended.

How far it was sent again is the offset of a consumer group, so that lag tools show what waits. (A broker forgets it a
week after the last replay; what is then sent a second time has no second effect.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from shared.bus.client import Kafka, Outgoing, Producer, stopped
from shared.errors import Transient
from shared.runtime.audit import COMMAND, Actor, line, message
from shared.wire.topics import DEAD_LETTERS_GROUP, Topic

_BATCH = 500
_WAIT_SECONDS = 30
_ADDED = "dead_"


class DeadLetter(NamedTuple):
    """A record that a service could not use."""

    offset: int
    """In the topic of dead letters."""
    refused_at: datetime
    service: str
    """Who refused it."""
    reason: str
    source: str
    """`topic/partition/offset` where it was read."""
    type: str
    key: str
    value: str


class DeadLetters:
    """The dead letters of one topic."""

    def __init__(self, kafka: Kafka, topic: Topic) -> None:
        self._kafka = kafka
        self._topic = topic
        self._partition = TopicPartition(kafka.prefix + topic.dead, 0)

    async def letters(self, *, again: bool = False) -> AsyncGenerator[DeadLetter]:
        """Yield what waits, the oldest first; `again`: also what was sent again before. Raises Transient."""
        async with self._reading() as (consumer, first, waiting, end):
            async for record in self._records(consumer, first if again else waiting, end):
                yield _letter(record)

    async def replay(self, told: Callable[[int, int], None], by: Actor) -> int:
        """Send again what waits, and return how many; `told` gets how many were sent, and of how many.

        With each batch goes its line of the audit. Raises Transient. What failed in the middle goes on where it stood:
        a record may be sent twice, and has its effect once.
        """
        producer = Producer(self._kafka)
        sent = 0
        try:
            await producer.start()
            async with self._reading() as (consumer, _, waiting, end):
                while waiting + sent < end:
                    after = min(waiting + sent + _BATCH, end)
                    async with aclosing(self._records(consumer, waiting + sent, after)) as records:
                        batch = [self._as_it_was(record) async for record in records]
                    await producer.send_all([*batch, self._audited(by, waiting + sent, after)])
                    await consumer.commit({self._partition: after})
                    sent = after - waiting
                    told(sent, end - waiting)
        finally:
            await producer.close()
        return sent

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[tuple[AIOKafkaConsumer, int, int, int]]:
        """Lend a reader with the first offset of the log, that of what waits, and the one after the last."""
        there = (await self._kafka.describe([self._topic.dead])).topics.get(self._topic.dead)
        if there is None:
            raise Transient(f"{self._kafka.bootstrap}: topic {self._partition.topic} does not exist", of="Kafka")
        # The group is the log's own: of a topic that was made anew nothing has been sent again yet.
        log = f".{there.id}" if there.id else ""
        consumer = self._kafka.consumer(group=f"{DEAD_LETTERS_GROUP}{self._topic.name}{log}")
        with self._kafka.errors():
            try:
                await self._kafka.start(consumer)
                consumer.assign([self._partition])
                first = (await consumer.beginning_offsets([self._partition]))[self._partition]
                end = (await consumer.end_offsets([self._partition]))[self._partition]
                replayed = await consumer.committed(self._partition) or await self._replayed_before()
                yield consumer, first, max(first, replayed or 0), end
            finally:
                await stopped(consumer)

    async def _replayed_before(self) -> int | None:
        """Return how far it was sent again before groups were named after the log."""
        consumer = self._kafka.consumer(group=f"{DEAD_LETTERS_GROUP}{self._topic.name}")
        try:
            await self._kafka.start(consumer)
            consumer.assign([self._partition])
            return await consumer.committed(self._partition)
        finally:
            await stopped(consumer)

    async def _records(
        self, consumer: AIOKafkaConsumer, start: int, end: int
    ) -> AsyncGenerator[ConsumerRecord[bytes, bytes]]:
        consumer.seek(self._partition, start)
        while start < end:
            async with asyncio.timeout(_WAIT_SECONDS):
                record = await consumer.getone()
            start = record.offset + 1
            if record.offset < end:
                yield record

    def _audited(self, by: Actor, start: int, after: int) -> Outgoing:
        detail = {"topic": self._topic.name, "from": start, "to": after - 1}
        return message(line(COMMAND, datetime.now(UTC), by, "dead letters replayed", detail))

    def _as_it_was(self, record: ConsumerRecord[bytes, bytes]) -> Outgoing:
        headers = [(name, value or b"") for name, value in record.headers if not name.startswith(_ADDED)]
        return Outgoing(self._topic.name, record.key, record.value, headers)


def _letter(record: ConsumerRecord[bytes, bytes]) -> DeadLetter:
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
    return DeadLetter(
        offset=record.offset,
        refused_at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
        service=headers.get(f"{_ADDED}service", ""),
        reason=headers.get(f"{_ADDED}reason", ""),
        source="/".join(headers.get(f"{_ADDED}{part}", "") for part in ("topic", "partition", "offset")),
        type=headers.get("ce_type", ""),
        key=(record.key or b"").decode("utf-8", "replace"),
        value=(record.value or b"").decode("utf-8", "replace"),
    )
