"""A message larger than the cluster takes stops itself alone: what is before and behind it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from aiokafka.structs import TopicPartition

from shared.bus import outbox
from shared.bus.client import Kafka, MessageTooLarge, Outgoing, Producer, Publisher, event_headers
from shared.bus.outbox import Relay
from shared.bus.provisioning import ensure_topics, mend
from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.runtime.quarantine import Held, items, release
from shared.wire.ids import uuid7
from shared.wire.topics import ALERTS, AUDIT, FEEDBACK, Topic
from tests.support.house import House
from tests.support.services import MIGRATIONS
from tests.support.wait import until

LIMIT = 20_000
LARGE = 30_000
KEYS = 5


@pytest.fixture
async def producer(kafka: Kafka) -> AsyncIterator[Producer]:
    """One that knows that alerts.v1 takes no message over LIMIT."""
    await ensure_topics(kafka, [ALERTS])
    made = Producer(kafka)
    await take(kafka, made, ALERTS, LIMIT)
    yield made
    await made.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url, "scoring", pool=3)
    await migrate(made, MIGRATIONS["scoring"])
    yield made
    await made.close()


async def take(kafka: Kafka, producer: Producer, topic: Topic, limit: int) -> None:
    """Let a topic take messages of so many bytes; return when the broker has heard of it."""
    async with kafka.admin() as admin:
        await mend(kafka, admin, topic.name, {"max.message.bytes": str(limit)})

    async def heard() -> bool:
        try:
            await producer.send_all([outgoing(0, LARGE, key=b"probe")])
        except MessageTooLarge:
            return limit < LARGE
        return limit > LARGE

    await until(heard)


def outgoing(number: int, size: int = 0, *, key: bytes | None = None) -> Outgoing:
    """Return a numbered message of one of the customers, at least so many bytes long."""
    headers = event_headers("alert.opened", str(number), "test", datetime.now(UTC).isoformat(), None)
    return Outgoing(ALERTS.name, key or b"c%d" % (number % KEYS), str(number).rjust(size).encode(), headers)


async def arrived(kafka: Kafka, topic: Topic = ALERTS) -> dict[bytes, list[int]]:
    """Return the numbers that arrived, by key, in the order of the log."""
    consumer = kafka.consumer(group=None)
    await consumer.start()
    try:
        tps = [TopicPartition(kafka.prefix + topic.name, p) for p in range(topic.partitions)]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        for tp in tps:
            consumer.seek(tp, 0)
        found: dict[bytes, list[int]] = {}
        for _ in range(sum(ends.values())):
            record = await asyncio.wait_for(consumer.getone(), 30)
            found.setdefault(record.key or b"", []).append(int(record.value or b""))
        found.pop(b"probe", None)
        return found
    finally:
        await consumer.stop()


def in_order(numbers: Sequence[int]) -> bool:
    """Tell whether each came for the first time after the ones before it, and the newest is what stands at the end."""
    first = list(dict.fromkeys(numbers))
    return first == sorted(first) and numbers[-1] == first[-1]


# ---- send_all


async def test_what_is_too_large_only_together_arrives(kafka: Kafka, producer: Producer) -> None:
    """A cluster may take less at once than we send at once: that is no reason to stand still."""
    await producer.send_all([outgoing(number, 1_000) for number in range(200)])
    found = await arrived(kafka)
    assert {key: sorted(set(numbers)) for key, numbers in found.items()} == {
        b"c%d" % n: list(range(n, 200, KEYS)) for n in range(KEYS)
    }
    assert all(in_order(numbers) for numbers in found.values())


async def test_the_one_at_fault_is_named(producer: Producer) -> None:
    """Somebody has to know which one it is."""
    large = outgoing(7, LARGE)
    with pytest.raises(MessageTooLarge, match=r"alerts\.v1: a message of 30,000 bytes") as refused:
        await producer.send_all([*map(outgoing, range(7)), large, *map(outgoing, range(8, 20))])
    assert refused.value.message == large


async def test_one_that_no_request_can_hold_is_named(kafka: Kafka, producer: Producer) -> None:
    """The client library refuses it by itself, before the broker is asked."""
    large = outgoing(1, 2_000_000)
    with pytest.raises(MessageTooLarge) as refused:
        await producer.send_all([outgoing(0), large, outgoing(2)])
    assert refused.value.message == large
    await producer.send_all([outgoing(3)])
    assert 3 in (await arrived(kafka))[b"c3"]


# ---- the outbox


async def leave(database: Database, messages: Sequence[Outgoing]) -> None:
    async with database.transaction() as tx:
        await outbox.add(tx, messages)


async def waiting(database: Database) -> list[str]:
    async with database.transaction() as tx:
        return [str(row[0]) for row in await tx.fetch("SELECT id FROM outbox ORDER BY id")]


async def aside(database: Database) -> list[Held]:
    async with database.transaction() as tx:
        return await items(tx)


async def test_an_outbox_row_that_kafka_does_not_take_waits_alone(
    kafka: Kafka, producer: Producer, database: Database
) -> None:
    """A critical alert may stand behind it. Released once the topic takes it, it is sent."""
    await leave(database, [outgoing(n, LARGE if n == 4 else 0) for n in range(12)])
    relaying = asyncio.create_task(Relay(database, producer).run())
    try:

        async def alone() -> list[Held]:
            return await aside(database) if len(await waiting(database)) == 1 else []

        (held,) = await until(alone)
        assert (held.queue, held.reason) == ("outbox", "MessageTooLarge")
        assert [held.key] == await waiting(database)
        found = await arrived(kafka)
        assert {number for numbers in found.values() for number in numbers} == set(range(12)) - {4}
        assert all(in_order(numbers) for numbers in found.values())

        await take(kafka, producer, ALERTS, 2 * LARGE)
        async with database.transaction() as tx:
            await release(tx, held.id)
        await until(lambda: _none(database))
        assert (await arrived(kafka))[b"c4"][-1] == 4
        assert not relaying.done()
    finally:
        relaying.cancel()
        await asyncio.gather(relaying, return_exceptions=True)


async def _none(database: Database) -> bool:
    return not await waiting(database)


async def test_rows_too_large_with_good_ones_between_are_not_our_fault(
    kafka: Kafka, producer: Producer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a month would otherwise end the service at the hundred-and-first."""
    monkeypatch.setattr("shared.runtime.quarantine._LIMIT", 1)
    relaying = asyncio.create_task(Relay(database, producer).run())
    try:
        for n in range(3):
            await leave(database, [outgoing(n, LARGE)])
            await until(lambda n=n: _set_aside(database, relaying, n + 1))
            await leave(database, [outgoing(100 + n)])
            await until(lambda n=n: _left(database, relaying, n + 1))
    finally:
        relaying.cancel()
        await asyncio.gather(relaying, return_exceptions=True)


async def _set_aside(database: Database, relaying: asyncio.Task[None], count: int) -> bool:
    assert not relaying.done(), relaying.exception()
    return len(await aside(database)) == count


async def _left(database: Database, relaying: asyncio.Task[None], count: int) -> bool:
    assert not relaying.done(), relaying.exception()
    return len(await waiting(database)) == count


# ---- the publisher


async def test_the_publisher_refuses_the_one_at_fault(kafka: Kafka, producer: Producer) -> None:
    """Many requests share a batch: theirs succeed, in order, whatever somebody else's holds."""
    publisher = Publisher([producer], ALERTS, wait=10)
    await publisher.prepare()
    sent = {n: outgoing(n, {50: LARGE, 51: 300_000}.get(n, 1_000), key=b"one") for n in range(100)}
    futures = [publisher.publish(m.key or b"", m.value or b"", m.headers) for m in sent.values()]
    answers: list[Any] = await asyncio.gather(*futures, return_exceptions=True)
    await publisher.close()
    refused = {n: answer for n, answer in enumerate(answers) if answer is not None}
    assert {n: type(answer) for n, answer in refused.items()} == {50: MessageTooLarge, 51: MessageTooLarge}
    assert {n: answer.message.value for n, answer in refused.items()} == {n: sent[n].value for n in (50, 51)}
    assert (await arrived(kafka))[b"one"] == [n for n in range(100) if n not in {50, 51}]


# ---- ingest


@pytest.fixture
async def small(kafka: Kafka, fiilis: House) -> House:
    """The house, whose Kafka takes no answer over some 2 KB."""
    async with kafka.admin() as admin:
        await mend(kafka, admin, FEEDBACK.name, {"max.message.bytes": "2000"})

    async def heard() -> bool:
        return (await fiilis.post(answer("x" * 4_000))).status_code != 202

    await until(heard)
    return fiilis


def answer(comment: str) -> dict[str, Any]:
    return {"id": str(uuid7()), "kind": "nps", "score": 9, "customer": "acme", "comment": comment}


async def test_an_answer_that_kafka_does_not_take_is_refused(small: House) -> None:
    """No fault of ours, and no reason to try again: it says so. Others are taken, and none goes to the spool."""
    large, short = answer("x" * 4_000), [answer("short") for _ in range(3)]
    refused: httpx.Response = await small.post(large)
    assert (refused.status_code, refused.json()["code"]) == (413, "too-large")
    mixed = await small.post(short[0], large, {"kind": "nps"}, short[1])
    assert mixed.status_code == 202
    assert (mixed.json()["accepted"], mixed.json()["rejected"]) == (2, 2)
    first, second, third, fourth = mixed.json()["results"]
    assert (first["status"], fourth["status"]) == ("accepted", "accepted")
    assert (second["id"], second["status"], second["error"]["code"]) == (large["id"], "rejected", "too-large")
    assert (third["status"], third["error"]["code"]) == ("rejected", "invalid")
    none = await small.post(large, answer("y" * 4_000))
    assert (none.status_code, none.json()["rejected"]) == (422, 2)
    assert [one["error"]["code"] for one in none.json()["results"]] == ["too-large", "too-large"]
    assert (await small.post(short[2])).status_code == 202

    async def counted() -> bool:
        rows = await small.sql("SELECT id FROM scoring.answer")
        return {str(row[0]) for row in rows} >= {one["id"] for one in short}

    await until(counted)
    assert await small.sql("SELECT FROM ingest.outbox UNION ALL SELECT FROM ingest.quarantine") == []


@pytest.mark.timeout(90)
async def test_the_audit_holds_nothing_up(kafka: Kafka, producer: Producer, database: Database) -> None:
    """Where its topic is away, what stands behind a batch of its lines is sent all the same; they wait."""
    await leave(database, [replace(outgoing(n), topic=AUDIT.name) for n in range(600)])
    await leave(database, [outgoing(1000)])
    relaying = asyncio.create_task(Relay(database, producer).run())

    async def sent(number: int) -> bool:
        assert not relaying.done(), relaying.exception()
        return any(number in numbers for numbers in (await arrived(kafka)).values())

    try:
        await until(lambda: sent(1000), seconds=20)
        await leave(database, [outgoing(1001)])
        await until(lambda: sent(1001), seconds=30)
        assert len(await waiting(database)) == 600
    finally:
        relaying.cancel()
        await asyncio.gather(relaying, return_exceptions=True)
