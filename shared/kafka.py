"""Apache Kafka: messages in CloudEvents form, topics, and producers that answer when every in-sync replica has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.partitioner import murmur2

from shared.errors import Transient
from shared.ids import uuid7
from shared.logs import Log, current_traceparent, new_traceparent
from shared.topics import DAY_MS, Topic

Headers = list[tuple[str, bytes]]

log = Log("shared.kafka")

SESSION_MS = 6_000
_HEARTBEAT_MS = 1_500
# A handler that holds a record while the database is away keeps its membership for as long; a hung one is ended by the
# database's statement time-out, so nothing needs Kafka's own limit on the time between polls.
_MAX_POLL_MS = 24 * 3600 * 1000
_REQUEST_MS = 10_000
_SEND_SECONDS = 30
_STOP_SECONDS = 5
_ROUND_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way to a topic (named without the installation's prefix)."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


def cloud_event(topic: Topic, ce_type: str, *, key: str, id: str, at: datetime, message: msgspec.Struct) -> Outgoing:
    """Return a message in CloudEvents 1.0 binary mode, under the trace of what is being handled."""
    if ce_type not in topic.messages:
        raise ValueError(f"{topic.name} carries no {ce_type}")
    headers = event_headers(ce_type, id, topic.owner, at.isoformat(), current_traceparent())
    return Outgoing(topic.name, key.encode(), msgspec.json.encode(message), headers)


def event_headers(ce_type: str, id: str, source: str, time: str, traceparent: str | None) -> Headers:
    """Return the headers of a CloudEvent whose value is JSON; what time alone has brought about begins a trace."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", id.encode()),
        ("ce_type", ce_type.encode()),
        ("ce_source", f"/fiilis/{source}".encode()),
        ("ce_time", time.encode()),
        ("content-type", b"application/json"),
        ("traceparent", (traceparent or new_traceparent(uuid7().hex)).encode()),
    ]


@contextlib.contextmanager
def kafka_errors() -> Generator[None]:
    """Turn "Kafka is away" into Transient."""
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise Transient(f"kafka: {type(error).__name__}: {error}") from error


class Kafka:
    """One cluster, as one installation sees it: every topic and group carries the installation's prefix."""

    def __init__(self, bootstrap: str, prefix: str = "") -> None:
        self.bootstrap = bootstrap
        self.prefix = prefix

    def consumer(self, *, group: str | None) -> AIOKafkaConsumer:
        """Return a consumer that never moves an offset by itself."""
        return AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=None if group is None else self.prefix + group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=_HEARTBEAT_MS,
            max_poll_interval_ms=_MAX_POLL_MS,
            max_partition_fetch_bytes=2 * 1024 * 1024,
            request_timeout_ms=_REQUEST_MS,
            retry_backoff_ms=200,
            # A cluster that was wiped under us shows as new metadata: half a minute, not the default five.
            metadata_max_age_ms=30_000,
        )

    async def ensure_topics(self, topics: Iterable[Topic]) -> None:
        """Create the topics that are missing, and their dead-letter topics. Raises Transient."""
        wanted: list[NewTopic] = []
        for topic in topics:
            settings = {"retention.ms": str(topic.retention_ms), **topic.settings}
            wanted.append(_new_topic(self.prefix + topic.name, topic.partitions, settings))
            if topic.messages:
                wanted.append(_new_topic(self.prefix + topic.dead, 1, {"retention.ms": str(30 * DAY_MS)}))
        async with self.admin() as admin:
            answer: Any = await admin.create_topics(wanted)
            for name, code, message in answer.topic_errors:
                if code not in (0, TopicAlreadyExistsError.errno):
                    raise Transient(f"kafka: topic {name}: {for_code(code).__name__}: {message}")

    async def cluster_id(self) -> str:
        """Return the id of the cluster that the log lives in. Raises Transient."""
        async with self.admin() as admin:
            cluster: dict[str, Any] = await admin.describe_cluster()
            return str(cluster["cluster_id"])

    @contextlib.asynccontextmanager
    async def admin(self) -> AsyncGenerator[AIOKafkaAdminClient]:
        """Lend an admin client. Raises Transient."""
        with kafka_errors():
            client = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=_REQUEST_MS)
            try:
                await client.start()
                yield client
            finally:
                await client.close()


def _new_topic(name: str, partitions: int, settings: dict[str, str]) -> NewTopic:
    topic = NewTopic(name, partitions, 1, topic_configs=settings)
    topic.replication_factor = -1  # the broker's default; aiokafka's constructor refuses to say so
    return topic


class Producer:
    """Sends, and answers when every in-sync replica has it.

    After an unknown outcome it starts afresh, so a message may come twice, but its order within a key holds from the
    caller's retry on.
    """

    def __init__(self, kafka: Kafka, **options: Any) -> None:
        self._kafka = kafka
        self._options = options
        self._producer: AIOKafkaProducer | None = None
        self._renewing = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises Transient."""
        with kafka_errors():
            await self._connected()

    async def close(self) -> None:
        """Let go of the connection; what is in flight has some seconds to arrive."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop(producer)

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has. Raises Transient."""
        with kafka_errors():
            producer = await self._connected()
            return len(await producer.partitions_for(self._kafka.prefix + topic))

    async def send_all(self, messages: Sequence[Outgoing], *, timeout: float = _SEND_SECONDS) -> None:
        """Send in order and wait until all are acknowledged. Raises Transient; then nobody knows which ones arrived."""
        with kafka_errors():
            producer = await self._connected()
            try:
                async with asyncio.timeout(timeout):
                    sent = [
                        await producer.send(self._kafka.prefix + m.topic, value=m.value, key=m.key, headers=m.headers)
                        for m in messages
                    ]
                    await asyncio.gather(*sent)
            except (KafkaError, OSError, TimeoutError):
                await self._renew(producer)
                raise

    async def send_batch(self, batch: Any, topic: str, partition: int) -> None:
        """Send a batch that `create_batch` made and wait until it is acknowledged. Raises Transient."""
        with kafka_errors():
            producer = await self._connected()
            try:
                await (await producer.send_batch(batch, self._kafka.prefix + topic, partition=partition))
            except (KafkaError, OSError, TimeoutError):
                await self._renew(producer)
                raise

    async def create_batch(self) -> Any:
        """Return an empty batch. Raises Transient."""
        with kafka_errors():
            return (await self._connected()).create_batch()

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        async with self._renewing:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._kafka.bootstrap,
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=0,
                    max_batch_size=256 * 1024,
                    request_timeout_ms=_REQUEST_MS,
                    retry_backoff_ms=50,
                    **self._options,
                )
                try:
                    await producer.start()
                except BaseException:
                    await _stop(producer)
                    raise
                self._producer = producer
            return self._producer

    async def _renew(self, broken: AIOKafkaProducer) -> None:
        # An idempotent producer whose batch failed has a hole in its sequence: only a new one can go on.
        if self._producer is broken:
            self._producer = None
            await _stop(broken)


async def _stop(producer: AIOKafkaProducer) -> None:
    with contextlib.suppress(TimeoutError, KafkaError, KafkaConnectionError):
        async with asyncio.timeout(_STOP_SECONDS):
            await producer.stop()


class _Waiting(NamedTuple):
    """A message and who waits for it."""

    key: bytes
    value: bytes
    headers: Headers
    acknowledged: asyncio.Future[None]
    since: float


@dataclass(slots=True)
class _Lane:
    """What waits for one partition, and what is under way to it."""

    waiting: deque[_Waiting] = field(default_factory=deque[_Waiting])
    under_way: list[_Waiting] = field(default_factory=list[_Waiting])
    sending: asyncio.Task[None] | None = None


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key, as every Kafka client's default partitioner has it."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


class Publisher:
    """Batches what many requests publish at the same moment: rounds of one batch per partition, sent together.

    (aiokafka has one request under way per broker, so partitions that send by themselves wait for each other with small
    batches: 5,000 requests a second instead of 13,000. And callers that contend for a partition get its time-out within
    a fraction of a second.) The wait is bounded here: the client's own time-outs came after 24 s.
    """

    def __init__(self, producers: Sequence[Producer], topic: Topic, *, wait: float, limit: int = 20_000) -> None:
        """`wait`: seconds after which a publication is given up as unknown; `limit`: messages that may wait.

        The producers share the partitions, each with rounds of its own.
        """
        self._producers = producers
        self._topic = topic
        self._wait = wait
        self._limit = limit
        self._waiting = 0
        self._lanes: list[_Lane] = []
        self._partitions: dict[bytes, int] = {}
        self._rounds: list[asyncio.Task[None] | None] = [None] * len(producers)

    async def run(self) -> None:
        """Give up what has waited too long; runs as long as the service."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._wait / 10)
            late = loop.time() - self._wait
            for lane in self._lanes:
                if lane.under_way and lane.under_way[0].since < late:
                    _fail(lane.under_way, "no acknowledgement in time")
                while lane.waiting and lane.waiting[0].since < late:
                    self._waiting -= 1
                    _fail([lane.waiting.popleft()], "no room in time")

    async def close(self) -> None:
        """Wait for what is under way."""
        under_way = [rounds for rounds in self._rounds if rounds is not None]
        if under_way:
            await asyncio.wait(under_way, timeout=_STOP_SECONDS)

    async def prepare(self) -> None:
        """Learn the topic's partitions. Raises Transient."""
        if not self._lanes:
            for producer in self._producers:
                await producer.start()
            count = await self._producers[0].partitions(self._topic.name)
            self._lanes = [_Lane() for _ in range(count)]

    def publish(self, key: bytes, value: bytes, headers: Headers) -> asyncio.Future[None]:
        """Return a future that is done when Kafka has the message; it fails with Transient. Call `prepare` first."""
        loop = asyncio.get_running_loop()
        acknowledged: asyncio.Future[None] = loop.create_future()
        if self._waiting >= self._limit:
            acknowledged.set_exception(Transient("kafka: too many messages wait"))
            return acknowledged
        self._waiting += 1
        partition = self._partition_of(key)
        self._lanes[partition].waiting.append(_Waiting(key, value, headers, acknowledged, loop.time()))
        of = partition % len(self._producers)
        if self._rounds[of] is None:
            self._rounds[of] = loop.create_task(self._send_rounds(of))
        return acknowledged

    def _partition_of(self, key: bytes) -> int:
        partition = self._partitions.get(key)
        if partition is None:
            if len(self._partitions) > 100_000:
                self._partitions.clear()
            partition = self._partitions[key] = partition_of(key, len(self._lanes))
        return partition

    async def _send_rounds(self, of: int) -> None:
        """Send a producer's rounds while anything waits; a partition whose last batch is under way sits one out."""
        loop = asyncio.get_running_loop()
        step = len(self._producers)
        lanes = list(enumerate(self._lanes))[of::step]
        while True:
            for partition, lane in lanes:
                if lane.waiting and lane.sending is None:
                    lane.sending = loop.create_task(self._send(lane, partition))
            sending = [lane.sending for _, lane in lanes if lane.sending is not None]
            if not sending:
                self._rounds[of] = None
                return
            # One broker that is away must not hold up the partitions of the others.
            await asyncio.wait(sending, timeout=_ROUND_SECONDS)

    async def _send(self, lane: _Lane, partition: int) -> None:
        producer = self._producers[partition % len(self._producers)]
        try:
            batch = await producer.create_batch()
            while lane.waiting:
                key, value, headers, _, _ = lane.waiting[0]
                if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                    break
                lane.under_way.append(lane.waiting.popleft())
            if not lane.under_way:
                raise Transient("the message is larger than a batch")
            self._waiting -= len(lane.under_way)
            await producer.send_batch(batch, self._topic.name, partition)
            for one in lane.under_way:
                if not one.acknowledged.done():
                    one.acknowledged.set_result(None)
        except Transient as error:
            # What waits behind would fail the same way, and its clients can try again sooner than we can know.
            self._waiting -= len(lane.waiting)
            _fail([*lane.under_way, *lane.waiting], str(error))
            lane.waiting.clear()
        finally:
            lane.under_way = []
            lane.sending = None


def _fail(waiting: Iterable[_Waiting], why: str) -> None:
    for one in waiting:
        if not one.acknowledged.done():
            one.acknowledged.set_exception(Transient(why))
