"""Two scoring processes share the customers, and hand them over under load without a wrong number."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import asyncpg
import msgspec
from msgspec.structs import replace

from services.scoring.store import counting
from shared.bus.client import Kafka, Producer, Publisher, event_headers
from shared.bus.provisioning import ensure_topics
from shared.database.pool import Database
from shared.directory.follower import publish
from shared.directory.model import NpsBelow, NpsDrop, Rule
from shared.wire.events import FeedbackReceivedV1
from shared.wire.ids import uuid7
from shared.wire.topics import FEEDBACK, TOPICS
from tests.support.house import company
from tests.support.phone import Phone
from tests.support.processes import ServiceProcess
from tests.support.wait import until

CUSTOMERS = 60
AHEAD = 3_000
"""Answers that wait to be counted, at most: there is something to do at each hand-over, however fast the machine is."""
RULES = (
    Rule("low", NpsBelow(0, 86400, min_responses=5, certainty="simple"), "high"),
    Rule("drop", NpsDrop(30, 86400), "high", per_touchpoint=True),
)


async def send(
    kafka: Kafka, chance: random.Random, counted: Callable[[int], Awaitable[bool]], enough: asyncio.Event
) -> int:
    """Publish answers, some late, of respondents who answer again and again, until it is enough; return how many."""
    producer = Producer(kafka)
    publisher = Publisher([producer], FEEDBACK, wait=30, limit=AHEAD)
    await publisher.prepare()
    now, sent = datetime.now(UTC), 0
    while not enough.is_set():
        waiting = []
        for _ in range(200):
            one = FeedbackReceivedV1(
                id=uuid7(),
                customer=f"c{chance.randrange(CUSTOMERS)}",
                kind="nps",
                score=chance.choice((1, 5, 7, 9, 10)),
                occurred_at=now - timedelta(seconds=chance.random() * 3 * 86400),
                received_at=now,
                trust="verified",
                touchpoint=chance.choice(("support", "billing")),
                respondent=f"r-{chance.randrange(20)}" if chance.random() < 0.7 else None,
            )
            headers = event_headers("feedback.received", str(one.id), "test", now.isoformat(), None)
            waiting.append(publisher.publish(one.customer.encode(), msgspec.json.encode(one), headers))
        await asyncio.gather(*waiting)
        sent += len(waiting)
        await until(partial(counted, sent - AHEAD), seconds=60)
    await producer.close()
    return sent


async def test_partitions_move_under_load(kafka: Kafka, database_url: str, tmp_path: Path) -> None:
    """One joins, one is stopped, one is killed and comes back, while answers flow; a recount finds no difference."""
    chance = random.Random(4)
    phone = await Phone().start()
    small = company(phone)
    first = next(iter(small.customers.values()))
    customers = {f"c{n}": replace(first, id=f"c{n}") for n in range(CUSTOMERS)}
    await ensure_topics(kafka, TOPICS)
    await publish(kafka, replace(small, customers=customers, rules=RULES))
    environment = {
        "FIILIS_KAFKA": kafka.bootstrap,
        "FIILIS_TOPIC_PREFIX": kafka.prefix,
        "FIILIS_DATABASE_URL": database_url,
    }
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = ServiceProcess("scoring", environment, tmp_path / "one")
    two = ServiceProcess("scoring", environment, tmp_path / "two")
    sql = await asyncpg.create_pool(database_url.replace("+asyncpg", ""), min_size=1, max_size=2)
    database = Database(database_url, "scoring", pool=1)
    enough = asyncio.Event()

    async def counted(count: int) -> bool:
        return await sql.fetchval("SELECT count(*) FROM scoring.answer") >= count

    try:
        await one.start()
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(send(kafka, chance, counted, enough))
            await until(lambda: counted(1_000), seconds=60)
            await two.start()
            await until(lambda: counted(4_000), seconds=60)
            assert await one.stop() == 0
            await until(lambda: counted(6_000), seconds=60)
            await one.start()
            await until(lambda: counted(8_000), seconds=60)
            await two.kill()
            await until(lambda: counted(10_000), seconds=60)
            enough.set()
        await until(lambda: counted(sending.result()), seconds=60)
        async with database.transaction() as tx:
            numbers = await counting.every_customer(tx)
            assert len(numbers) == CUSTOMERS
            assert [number for number in numbers if await counting.recount(tx, number)] == []
            assert await tx.fetchval("SELECT count(*) FROM replaced WHERE count > 0") > 100
    finally:
        await phone.close()
        await database.close()
        await sql.close()
        for process in (one, two):
            if process.alive:
                await process.kill()
