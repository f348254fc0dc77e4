"""THE consume loop on real Kafka and PostgreSQL: every effect exactly once, whatever stops, lags or lies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast

import asyncpg
import msgspec
import pytest
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition

from shared.bus.client import Kafka, Outgoing, Producer, event_headers
from shared.bus.consume import Consumer
from shared.bus.offsets import OffsetLost
from shared.bus.outbox import Relay
from shared.bus.provisioning import ensure_topics, mend
from shared.bus.transact import TooManyInvalid
from shared.database.pool import Database
from shared.errors import Invalid, Transient
from shared.wire.events import FeedbackReceivedV1
from shared.wire.ids import uuid7
from shared.wire.topics import FEEDBACK
from tests.support.effects import SCHEMA, Effects, prepare
from tests.support.wait import until


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url, SCHEMA)
    await prepare(made)
    yield made
    await made.close()


@pytest.fixture
async def topic(kafka: Kafka) -> Kafka:
    await ensure_topics(kafka, [FEEDBACK])
    return kafka


def record(customer: str, value: bytes | None = None, ce_type: str = "feedback.received") -> Outgoing:
    now = datetime.now(UTC)
    answer = FeedbackReceivedV1(
        id=uuid7(), customer=customer, kind="nps", score=5, occurred_at=now, received_at=now, trust="verified"
    )
    headers = event_headers(ce_type, str(answer.id), "test", now.isoformat(), None)
    return Outgoing(FEEDBACK.name, customer.encode(), msgspec.json.encode(answer) if value is None else value, headers)


async def send(kafka: Kafka, count: int, **of: Any) -> None:
    producer = Producer(kafka)
    await producer.send_all([record(f"c{n % 50}", **of) for n in range(count)])
    await producer.close()


async def effects(database: Database) -> tuple[int, int]:
    """Return all effects and how many records they belong to."""
    async with database.transaction() as tx:
        row: Any = await tx.fetchrow("SELECT count(*), count(DISTINCT (partition, record)) FROM effect")
    return row[0], row[1]


async def has(database: Database, count: int) -> bool:
    return (await effects(database))[1] >= count


@contextlib.asynccontextmanager
async def consuming(consumer: Consumer) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(consumer.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_record_has_one_effect(topic: Kafka, database: Database) -> None:
    """A consumer that is started again goes on where the state stands, not where Kafka's group offset stands."""
    for round_ in (1, 2):
        await send(topic, 200)
        async with consuming(Consumer(topic, database, FEEDBACK, Effects())):
            await until(lambda round_=round_: has(database, 200 * round_))
    assert await effects(database) == (400, 400)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_a_broker_that_compresses_is_read(topic: Kafka, database: Database, codec: str) -> None:
    """`compression.type` of a broker or topic: what came plain is stored, and sent on, compressed."""
    async with topic.admin() as admin:
        await mend(topic, admin, FEEDBACK.name, {"compression.type": codec})
    await send(topic, 200)
    async with consuming(Consumer(topic, database, FEEDBACK, Effects())):
        await until(lambda: has(database, 200))
    assert await effects(database) == (200, 200)


async def test_a_failed_transaction_is_tried_again_and_memory_forgets(topic: Kafka, database: Database) -> None:
    """While the database is away the records are held; what memory took from the failed try is dropped."""
    handler = Effects()
    handler.fail = [Transient("away"), Transient("away")]
    await send(topic, 50)
    async with consuming(Consumer(topic, database, FEEDBACK, handler)):
        await until(lambda: has(database, 50))
    assert await effects(database) == (50, 50)
    assert set(handler.remembered) <= set(handler.forgotten)


async def test_a_record_that_does_not_decode_goes_to_the_dead_letters(topic: Kafka, database: Database) -> None:
    """Junk is put aside with its reason and place, and the consumer goes on."""
    producer = Producer(topic)
    junk = [
        record("a", b"not json"),
        record("b", b'{"id": 5}'),
        record("c", ce_type="something.else"),
        Outgoing(FEEDBACK.name, b"d", b"\xff\xfe", []),
        Outgoing(FEEDBACK.name, b"e", None, record("e").headers),
        Outgoing(FEEDBACK.name, b"f", b"{}", cast("Any", [("ce_type", None), ("traceparent", None)])),
    ]
    await producer.send_all([*junk, *(record("a") for _ in range(5))])
    relay = asyncio.create_task(Relay(database, producer).run())
    async with consuming(Consumer(topic, database, FEEDBACK, Effects())):
        await until(lambda: has(database, 5))
        letters = await read(topic, FEEDBACK.dead, len(junk))
    relay.cancel()
    await producer.close()
    assert await effects(database) == (5, 5)
    assert {letter.value for letter in letters} >= {None, b"not json", b'{"id": 5}', b"\xff\xfe"}
    headers = [dict(letter.headers) for letter in letters]
    assert all(h["dead_topic"] == b"feedback.v1" and h["dead_service"] == SCHEMA.encode() for h in headers)
    assert all(int(h["dead_partition"]) in range(8) and int(h["dead_offset"]) >= 0 for h in headers)
    assert any(h["dead_reason"].startswith(b"undecodable: unknown ce_type 'something.else'") for h in headers)


async def test_a_record_that_the_handler_refuses_costs_only_itself(topic: Kafka, database: Database) -> None:
    """An Invalid rolls back, puts that one record aside and handles the rest of the batch."""
    handler = Effects()
    handler.fail = [Invalid("no-good", "refused by the test", index=3)]
    await send(topic, 20)
    async with consuming(Consumer(topic, database, FEEDBACK, handler)):
        await until(lambda: has(database, 19))
    assert await effects(database) == (19, 19)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM outbox WHERE topic = $1", FEEDBACK.dead) == 1


async def test_our_own_bug_does_not_drain_a_topic(topic: Kafka, database: Database) -> None:
    """Too many refusals in a row stop the service loudly."""
    await send(topic, 60, value=b"junk")
    async with consuming(Consumer(topic, database, FEEDBACK, Effects(), max_records=10, invalid_limit=20)) as task:
        with pytest.raises(TooManyInvalid, match=r"feedback\.v1"):
            await asyncio.wait_for(task, 20)


async def test_a_record_that_cannot_be_decided_costs_only_itself(topic: Kafka, database: Database) -> None:
    """One record whose content brings a bug out is found among the others and put aside, with the reason."""
    handler = Effects()
    handler.poison = "c7"
    await send(topic, 100)  # two of each customer
    async with consuming(Consumer(topic, database, FEEDBACK, handler)):
        await until(lambda: has(database, 98))
        async with database.transaction() as tx:
            headers = await tx.fetch("SELECT headers FROM outbox WHERE topic = $1", FEEDBACK.dead)
    assert await effects(database) == (98, 98)
    assert len(headers) == 2
    assert all("undecidable: OverflowError: date value out of range" in row[0] for row in headers)


async def test_what_would_fail_for_every_record_ends_the_consumer(topic: Kafka, database: Database) -> None:
    """A table that is missing is no record's fault: nothing is put aside, the process ends."""
    async with database.transaction() as tx:
        await tx.execute("ALTER TABLE effect RENAME TO gone")
    await send(topic, 5)
    async with consuming(Consumer(topic, database, FEEDBACK, Effects())) as task:
        with pytest.raises(asyncpg.UndefinedTableError):
            await asyncio.wait_for(task, 20)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM outbox") == 0


async def test_another_cluster_stops_the_service_loudly(topic: Kafka, database: Database) -> None:
    """Offsets of a log that is not this one must not skip or repeat records."""
    await send(topic, 5)
    async with consuming(Consumer(topic, database, FEEDBACK, Effects())):
        await until(lambda: has(database, 5))
    async with database.transaction() as tx:
        await tx.execute("UPDATE consumer_offset SET cluster = 'another'")
    async with consuming(Consumer(topic, database, FEEDBACK, Effects())) as task:
        with pytest.raises(OffsetLost, match="another"):
            await asyncio.wait_for(task, 20)


async def test_records_deleted_before_they_were_handled_stop_the_service_loudly(
    topic: Kafka, database: Database
) -> None:
    """A gap left by retention is said, with what to do, and never skipped over."""
    await send(topic, 200)
    async with consuming(Consumer(topic, database, FEEDBACK, Effects())):
        await until(lambda: has(database, 200))
    async with database.transaction() as tx:
        await tx.execute("UPDATE consumer_offset SET next = 0")
    async with topic.admin() as admin:
        name = topic.prefix + FEEDBACK.name
        await admin.delete_records({TopicPartition(name, p): RecordsToDelete(before_offset=1) for p in range(8)})
    async with consuming(Consumer(topic, database, FEEDBACK, Effects())) as task:
        with pytest.raises(OffsetLost, match="retention"):
            await asyncio.wait_for(task, 20)


async def test_partitions_move_between_two_consumers(topic: Kafka, database: Database) -> None:
    """Consumers that come and go while records flow: no effect is lost or doubled."""
    sent = 0
    async with consuming(Consumer(topic, database, FEEDBACK, Effects(), max_records=10)):
        for _ in range(4):
            await send(topic, 100)
            sent += 100
            async with consuming(Consumer(topic, database, FEEDBACK, Effects(), max_records=10)):
                await send(topic, 100)
                sent += 100
                await until(lambda sent=sent: has(database, sent - 50), seconds=40)
        await until(lambda: has(database, sent), seconds=40)
    assert await effects(database) == (sent, sent)


async def test_a_stopped_process_is_fenced_and_changes_nothing_when_it_wakes(
    topic: Kafka, database: Database, database_url: str
) -> None:
    """SIGSTOP in the middle of a batch for longer than the session time-out: another process takes over, and the
    sleeper's batch has no second effect when it goes on.
    """
    command = (sys.executable, "-m", "tests.support.effects", topic.bootstrap, topic.prefix, database_url, "300")
    sleeper = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        await send(topic, 400)
        assert sleeper.stdout is not None
        assert await asyncio.wait_for(sleeper.stdout.readline(), 30) == b"middle\n"
        os.kill(sleeper.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        async with consuming(Consumer(topic, database, FEEDBACK, Effects(), max_records=20)) as other:
            await until(lambda: has(database, 400), seconds=40)
            assert time.monotonic() - stopped > 5, "the other took over only when the session had timed out"
            os.kill(sleeper.pid, signal.SIGCONT)
            await send(topic, 200)
            await until(lambda: has(database, 600), seconds=40)
            assert not other.done()
        assert sleeper.returncode is None, "the woken process goes on working, fenced"
    finally:
        with contextlib.suppress(ProcessLookupError):
            sleeper.kill()
        await sleeper.wait()
    assert await effects(database) == (600, 600)


async def read(kafka: Kafka, topic: str, count: int) -> list[Any]:
    """Return the first records of a topic of one partition."""
    consumer = kafka.consumer(group=None)
    await consumer.start()
    try:
        tp = TopicPartition(kafka.prefix + topic, 0)
        consumer.assign([tp])
        consumer.seek(tp, 0)
        return [await asyncio.wait_for(consumer.getone(), 20) for _ in range(count)]
    finally:
        await consumer.stop()
