"""Apache Kafka: messages in CloudEvents form, topics, and producers that answer when every in-sync replica has it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import aiokafka.conn
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from aiokafka.partitioner import murmur2
from aiokafka.protocol.metadata import MetadataRequest

from shared.bus import cluster
from shared.bus.security import PLAINTEXT, Security
from shared.errors import Misconfigured, Transient
from shared.runtime.logs import Log, current_traceparent, new_traceparent
from shared.runtime.retry import Backoff
from shared.runtime.sockets import keep_alive
from shared.wire.ids import uuid7
from shared.wire.topics import Topic

Headers = list[tuple[str, bytes]]

log = Log("shared.bus.client")

SESSION_MS = 6_000
_HEARTBEAT_MS = 1_500
# A handler that holds a record while the database is away keeps its membership for as long; a hung one is ended by the
# database's statement time-out, so nothing needs Kafka's own limit on the time between polls.
_MAX_POLL_MS = 24 * 3600 * 1000
_REQUEST_MS = 10_000
_SEND_SECONDS = 30
_START_SECONDS = 15
_STOP_SECONDS = 5
_TROUBLE_SECONDS = 3.0
_ROUND_SECONDS = 0.05


_OF_CERTIFICATES = {"CERTIFICATE", "CA"}
"""Words in OpenSSL's names of what the other side says about a certificate of ours."""
_REFUSALS = (TopicAuthorizationFailedError, GroupAuthorizationFailedError, ClusterAuthorizationFailedError)


class _Connection(aiokafka.conn.AIOKafkaConnection):
    """The library's, on a socket that notices a peer that has vanished; it offers no way to say so.

    Whatever fails in it is an error of Kafka, or of the system: the library's own tasks know no others.
    """

    async def connect(self) -> Any:
        try:
            connected: Any = await super().connect()
        except ssl.SSLError:
            raise
        except (ValueError, KeyError, AssertionError) as error:  # in an exchange of SASL
            raise AuthenticationFailedError(f"{type(error).__name__}: {error}") from error
        keep_alive(self._writer)
        return connected


aiokafka.conn.AIOKafkaConnection = _Connection


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


class Refused(Misconfigured):
    """Kafka is there, and lets us not in, or not do what we have to; or it is not who it should be."""


async def _trouble(server: str, security: Security) -> Refused | str:
    """Return why one of the bootstrap servers cannot be talked to: the library keeps it to itself."""
    host, _, port = server.strip().rpartition(":")
    try:
        connection = _Connection(
            host.strip("[]"), int(port), request_timeout_ms=round(_TROUBLE_SECONDS * 1000), **security.options
        )
    except ValueError:
        return f"{server!r} is not host:port"
    try:
        async with asyncio.timeout(_TROUBLE_SECONDS):
            await connection.connect()
            await connection.send(MetadataRequest([]))
    except TimeoutError:
        return f"{server} does not answer within {_TROUBLE_SECONDS:g} s"
    except (KafkaError, OSError) as error:
        return _told(server, security, error)
    finally:
        connection.close()
    return f"{server} answers again"


def _told(server: str, security: Security, error: BaseException) -> Refused | str:
    """Return what a failed connection means."""
    for cause in _causes(error):
        match cause:
            case SaslAuthenticationFailed():
                why = f"{server} refused the user name or password ({security.login})"
                return Refused(f"FIILIS_KAFKA_SASL_PASSWORD: {why}")
            case UnsupportedSaslMechanismError():
                return Refused(f"FIILIS_KAFKA_SASL_MECHANISM: {server} does not take {security.mechanism}")
            case IllegalSaslStateError():
                return Refused(f"FIILIS_KAFKA_SECURITY: {server} takes no user name on this port: it is not SASL")
            case AuthenticationFailedError():
                return Refused(f"FIILIS_KAFKA: {server} does not prove that it knows our password: {cause}")
            case ssl.SSLCertVerificationError():
                why = f"the certificate of {server} is not accepted: {cause.verify_message}"
                return Refused(f"FIILIS_KAFKA_CA_FILE: {why} (is it of the CA that is named there?)")
            case ssl.SSLError() if _OF_CERTIFICATES & set(_reason(cause).split("_")):
                said = _reason(cause).lower().replace("_", " ")
                return Refused(f"FIILIS_KAFKA_CERT_FILE: {server} does not accept our certificate, or none: {said}")
            case ssl.SSLError():
                why = f"{server} does not speak TLS as we do: {_reason(cause) or cause}"
                return Refused(f"FIILIS_KAFKA_SECURITY: {why}")
            case _:
                continue
    hint = "is its listener what FIILIS_KAFKA_SECURITY says?"
    if isinstance(error, ConnectionResetError) and security.tls is not None:
        return f"{server} breaks TLS off as it begins ({hint})"
    if isinstance(error, OSError):
        return f"{server}: {error.strerror or error or type(error).__name__}"
    return f"{server} takes connections, but does not speak Kafka as we do ({hint})"


def _reason(error: ssl.SSLError) -> str:
    return getattr(error, "reason", None) or ""  # set by OpenSSL, not by the class


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


class MessageTooLarge(Exception):
    """The cluster takes no message of this size."""

    def __init__(self, message: Outgoing, why: str) -> None:
        size = len(message.value or b"")
        super().__init__(f"{message.topic}: a message of {size:,} bytes is larger than Kafka takes ({why})")
        self.message = message


class Kafka:
    """One cluster, as one installation sees it: every topic and group carries the installation's prefix."""

    def __init__(self, bootstrap: str, prefix: str = "", security: Security = PLAINTEXT) -> None:
        self.bootstrap = bootstrap
        self.prefix = prefix
        self.security = security
        self.partitions: dict[str, int] = {}
        """Over how many partitions each topic's keys are spread: a fact of the installation, kept with the directory.

        Not what the topic has now: a producer that went by that, beside one that has not heard of new partitions yet,
        would put one customer into two of them, with two owners."""
        self.admitted = False
        """It has let us in before: from then on a refusal is an outage, which ends no process."""
        self.topics: dict[str, cluster.TopicState] = {}
        """As they were last seen by whoever asks all the time whether Kafka is there."""

    @contextlib.contextmanager
    def errors(self) -> Generator[None]:
        """Turn "Kafka is away" into Transient, and "you may not" into Misconfigured, until it has once let us."""
        try:
            yield
        except Refused as error:
            if self.admitted:
                raise Transient(str(error), of="Kafka") from None
            raise
        except _REFUSALS as error:
            why = f"{self.bootstrap}: Kafka refuses this user: {type(error).__name__}: {error}"
            if self.admitted:
                raise Transient(why, of="Kafka") from error
            raise Refused(f"FIILIS_KAFKA: {why}; `python -m services doctor` shows its rights") from None
        except (KafkaError, OSError, TimeoutError) as error:
            name, said = type(error).__name__, str(error) or "no answer in time"
            said = said.removeprefix(f"{name}: ")  # the library puts it there itself
            raise Transient(f"{self.bootstrap}: {name}: {said}", of="Kafka") from error

    def place_of(self, topic: str, key: bytes | None) -> int | None:
        """Return the partition of a key; None where the topic's own number of partitions decides."""
        count = self.partitions.get(topic)
        return None if count is None or key is None else partition_of(key, count)

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
            **self.security.options,
        )

    async def describe(self, topics: Iterable[str] = ()) -> cluster.Cluster:
        """Return what the cluster says of itself and of topics (named without the prefix). Raises Transient."""
        async with self.admin() as admin:
            return await self.describe_by(admin, topics)

    async def describe_by(self, admin: AIOKafkaAdminClient, topics: Iterable[str]) -> cluster.Cluster:
        """Return the same by a client that is open. Raises Transient."""
        with self.errors():
            async with asyncio.timeout(_START_SECONDS):
                found = await cluster.ask(admin, [self.prefix + topic for topic in topics])
            self.admitted = True
        named = {name.removeprefix(self.prefix): state for name, state in found.topics.items()}
        return cluster.Cluster(found.id, found.brokers, named)

    async def log_state(self, topic: str) -> cluster.LogState | None:
        """Return a topic's log as it is now, None where there is no such topic. Raises Transient."""
        found = await self.describe([topic])
        there = found.topics.get(topic)
        if there is None:
            return None
        partitions = [TopicPartition(self.prefix + topic, number) for number in range(there.partitions)]
        consumer = self.consumer(group=None)
        with self.errors():
            try:
                async with asyncio.timeout(_START_SECONDS):
                    await self.start(consumer)
                    starts = await consumer.beginning_offsets(partitions)
                    ends = await consumer.end_offsets(partitions)
            finally:
                await stopped(consumer)
        return cluster.LogState(
            found.id,
            there.id,
            {tp.partition: offset for tp, offset in starts.items()},
            {tp.partition: offset for tp, offset in ends.items()},
        )

    async def start(self, client: AIOKafkaAdminClient | AIOKafkaConsumer | AIOKafkaProducer) -> None:
        """Start a client of the library, within `errors`: what keeps us out is told as that, and not as an outage."""
        try:
            await client.start()
        except KafkaConnectionError as error:
            told = [await _trouble(server, self.security) for server in self.bootstrap.split(",")]
            for one in told:
                if isinstance(one, Refused):
                    raise one from error
            raise Transient("; ".join(map(str, told)), of="Kafka") from error

    @contextlib.asynccontextmanager
    async def admin(self) -> AsyncGenerator[AIOKafkaAdminClient]:
        """Lend an admin client. Raises Transient."""
        with self.errors():
            client = AIOKafkaAdminClient(
                bootstrap_servers=self.bootstrap, request_timeout_ms=_REQUEST_MS, **self.security.options
            )
            try:
                async with asyncio.timeout(_START_SECONDS):
                    await self.start(client)
                yield client
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STOP_SECONDS):
                        await client.close()


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
        with self._kafka.errors():
            await self._connected()

    async def close(self) -> None:
        """Let go of the connection; what is in flight has some seconds to arrive."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stopped(producer)

    async def partitions(self, topic: str) -> int:
        """Return over how many partitions a topic's keys are spread. Raises Transient, and Misconfigured."""
        with self._kafka.errors():
            producer = await self._connected()
            there = len(await producer.partitions_for(self._kafka.prefix + topic))
        wanted = self._kafka.partitions.get(topic, there)
        if there < wanted:
            raise Misconfigured(
                f"{topic} has {there} partitions, and this installation spreads its keys over {wanted}: was it made "
                "anew? See 'Partitions' in docs/operations.md"
            )
        return wanted

    async def send_all(self, messages: Sequence[Outgoing], *, timeout: float = _SEND_SECONDS) -> None:
        """Send in order and wait until all are acknowledged. Raises Transient; then nobody knows which ones arrived.

        Raises MessageTooLarge for one that the cluster does not take; the others may have arrived.
        """
        try:
            await self._send_all(messages, timeout)
        except MessageSizeTooLargeError as error:
            # Of a batch, or of one message: only sending fewer at once tells.
            if len(messages) == 1:
                raise MessageTooLarge(messages[0], str(error)) from None
            half = len(messages) // 2
            await self.send_all(messages[:half], timeout=timeout)
            await self.send_all(messages[half:], timeout=timeout)

    async def _send_all(self, messages: Sequence[Outgoing], timeout: float) -> None:
        """Do so, as one. Raises MessageSizeTooLargeError, too."""
        kafka = self._kafka
        async with self._sending(timeout) as producer:
            sent = [
                await producer.send(
                    kafka.prefix + m.topic,
                    value=m.value,
                    key=m.key,
                    partition=kafka.place_of(m.topic, m.key),
                    headers=m.headers,
                )
                for m in messages
            ]
            await asyncio.gather(*sent)

    async def send_batch(self, batch: Any, topic: str, partition: int) -> None:
        """Send a batch that `create_batch` made and wait until it is acknowledged.

        Raises Transient, and MessageSizeTooLargeError.
        """
        async with self._sending(_SEND_SECONDS) as producer:
            await (await producer.send_batch(batch, self._kafka.prefix + topic, partition=partition))

    @contextlib.asynccontextmanager
    async def _sending(self, seconds: float) -> AsyncGenerator[AIOKafkaProducer]:
        """Lend the producer for some seconds; after whatever fails, the next one is made anew.

        Raises Transient, and MessageSizeTooLargeError as it is: that is no trouble of Kafka's.
        """
        too_large: MessageSizeTooLargeError | None = None
        with self._kafka.errors():
            producer = await self._connected()
            try:
                async with asyncio.timeout(seconds):
                    yield producer
            except MessageSizeTooLargeError as error:
                await self._renew(producer)
                too_large = error
            except (KafkaError, OSError, TimeoutError):
                await self._renew(producer)
                raise
        if too_large is not None:
            raise too_large

    async def create_batch(self) -> Any:
        """Return an empty batch. Raises Transient."""
        with self._kafka.errors():
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
                    **self._kafka.security.options,
                    **self._options,
                )
                try:
                    async with asyncio.timeout(_START_SECONDS):
                        await self._kafka.start(producer)
                except BaseException:
                    await stopped(producer)
                    raise
                self._producer = producer
            return self._producer

    async def _renew(self, broken: AIOKafkaProducer) -> None:
        # An idempotent producer whose batch failed has a hole in its sequence: only a new one can go on.
        if self._producer is broken:
            self._producer = None
            await stopped(broken)


async def stopped(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stop a client of the library, which on a dead connection may take longer than anybody waits.

    In a task of its own: a consumer that waits to fetch again passes on the cancellation of its own tasks, which nobody
    could tell from ours (seen: Kafka away for 10 s, and every service had ended, with exit code 0 and not a word).
    """
    stopping = asyncio.ensure_future(client.stop())
    try:
        await asyncio.wait({stopping}, timeout=_STOP_SECONDS)
    finally:
        stopping.cancel()
    if not stopping.done() or stopping.cancelled():
        library: Any = client  # it has not come to closing its connections
        below: Any = library._client if isinstance(client, AIOKafkaConsumer) else library.client
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_STOP_SECONDS):
                await below.close()
    elif (failure := stopping.exception()) is not None and not isinstance(failure, (TimeoutError, KafkaError)):
        raise failure


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

    most: int | None = None
    """Bytes of a batch of several messages, until nothing waits: a larger one was more than the broker takes."""
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
        backoff, failures = Backoff(0.2, 5), 0
        while not self._lanes:
            try:
                await self.prepare()
            except Transient:
                failures += 1
                await asyncio.sleep(backoff.delay(failures))
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
        """Return a future that is done when Kafka has the message; it fails with Transient."""
        loop = asyncio.get_running_loop()
        acknowledged: asyncio.Future[None] = loop.create_future()
        if not self._lanes:
            acknowledged.set_exception(Transient("Kafka was not reached yet", of="Kafka"))
            return acknowledged
        if self._waiting >= self._limit:
            acknowledged.set_exception(Transient("too many messages wait for Kafka", of="Kafka"))
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
                if lane.most is not None and lane.under_way and batch.size() + len(value) > lane.most:
                    break
                if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                    break
                lane.under_way.append(lane.waiting.popleft())
            self._waiting -= len(lane.under_way)
            if not lane.under_way:
                self._too_large(lane, "than a batch")
                return
            await producer.send_batch(batch, self._topic.name, partition)
            for one in lane.under_way:
                if not one.acknowledged.done():
                    one.acknowledged.set_result(None)
        except MessageSizeTooLargeError:
            lane.waiting.extendleft(reversed(lane.under_way))
            self._waiting += len(lane.under_way)
            if len(lane.under_way) == 1:
                self._too_large(lane, "than the broker takes")
            else:
                lane.most = sum(len(one.value) for one in lane.under_way) // 2
        except Transient as error:
            # What waits behind would fail the same way, and its clients can try again sooner than we can know.
            self._waiting -= len(lane.waiting)
            _fail([*lane.under_way, *lane.waiting], str(error))
            lane.waiting.clear()
        finally:
            lane.under_way = []
            lane.sending = None
            if not lane.waiting:
                lane.most = None

    def _too_large(self, lane: _Lane, what: str) -> None:
        """Refuse the first message that waits, alone."""
        one = lane.waiting.popleft()
        self._waiting -= 1
        if not one.acknowledged.done():
            message = Outgoing(self._topic.name, one.key, one.value, one.headers)
            one.acknowledged.set_exception(MessageTooLarge(message, f"larger {what}"))


def _fail(waiting: Iterable[_Waiting], why: str) -> None:
    for one in waiting:
        if not one.acknowledged.done():
            one.acknowledged.set_exception(Transient(why, of="Kafka"))
