"""Processes die at random moments while answers flow; afterwards SQL proves that each had its effect once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from aiokafka.structs import TopicPartition
from msgspec.structs import replace

from shared.bus.client import Kafka
from shared.bus.provisioning import ensure_topics
from shared.directory.follower import publish
from shared.directory.model import Key, MoodAtMost, NpsBelow, Rule
from shared.embedded import EmbeddedKafka, EmbeddedPostgres
from shared.wire.ids import uuid7
from shared.wire.signing import key_hash, new_key
from shared.wire.topics import ALERTS, FEEDBACK, PAGES, TICKETS, TOPICS
from tests.support.house import company
from tests.support.phone import Phone
from tests.support.processes import ServiceProcess, processes
from tests.support.proxy import FAULTS, ProxiedKafka, Proxy
from tests.support.wait import until

FULL = os.environ.get("FIILIS_CHAOS") == "full"
ANSWERS = 20_000
SECONDS = 90 if FULL else 25
"""How long the answers flow."""
SEED = int(os.environ.get("FIILIS_CHAOS_SEED", "20261121"))
BATCH = 50
VICTIMS = ("scoring", "ticketing", "notify")
SERVICES = ("ingest", *VICTIMS)
BREAKS = 16 if FULL else 4
"""How often connections are frozen or cut."""
CUSTOMERS = 40
SCORES = {
    ("mood", "bad"): (1, 2, 2, 3, 4),
    ("mood", "good"): (3, 4),
    ("nps", "bad"): (2, 4, 9),
    ("nps", "good"): (7, 9, 10),
}

RULES = (
    Rule("mood-one", MoodAtMost(1), "critical"),
    Rule("nps-low", NpsBelow(0, 30 * 86400, min_responses=10, certainty="simple"), "high"),
)


@dataclass(slots=True)
class Flow:
    """What was sent, and accepted."""

    chance: random.Random
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    refused: int = 0

    def answer(self) -> dict[str, Any]:
        """Make an answer: some customers are bad, some respondents answer again and again."""
        number = self.chance.randrange(CUSTOMERS)
        temper = "bad" if number % 4 == 0 else "good"
        kind = "mood" if self.chance.random() < 0.3 else "nps"
        return {
            "id": str(uuid7()),
            "customer": f"c{number}",
            "kind": kind,
            "score": self.chance.choice(SCORES[kind, temper]),
            "touchpoint": self.chance.choice(("support", "billing")),
            "respondent": f"r-{self.chance.randrange(60)}" if self.chance.random() < 0.7 else None,
        }

    async def run(self, address: str, key: str) -> None:
        """Send every answer twice, the second time some batches later; a refused one is sent until it is accepted."""
        begun, batches = time.monotonic(), ANSWERS // BATCH
        again: list[list[dict[str, Any]]] = []
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=address, timeout=15, headers=headers) as client:
            for number in range(batches):
                batch = [self.answer() for _ in range(BATCH)]
                await self._send(client, batch)
                again.append(batch)
                if len(again) > 5:
                    await self._send(client, again.pop(self.chance.randrange(len(again))))
                ahead = begun + SECONDS * (number + 1) / batches - time.monotonic()
                if ahead > 0:
                    await asyncio.sleep(ahead)
            for batch in again:
                await self._send(client, batch)

    async def _send(self, client: httpx.AsyncClient, batch: list[dict[str, Any]]) -> None:
        for _ in range(200):
            try:
                response = await client.post("/v1/feedback", json=batch)
            except httpx.HTTPError:
                await asyncio.sleep(0.2)
                continue
            if response.status_code == 503:
                assert "retry-after" in response.headers
                self.refused += 1
                await asyncio.sleep(0.2)
                continue
            assert response.status_code == 202, response.text
            assert response.json()["rejected"] == 0
            self.accepted |= {answer["id"]: answer for answer in batch}
            return
        raise AssertionError("ingest did not come back")


async def _kill_at_random(victims: list[ServiceProcess], chance: random.Random, kills: int) -> None:
    for number in range(kills):
        await asyncio.sleep(chance.uniform(0.5, 2 * SECONDS / kills - 0.5))
        victim = victims[number % len(victims)]
        await victim.kill()
        await asyncio.sleep(chance.uniform(0, 0.5))
        await victim.start()


async def _break_connections(proxies: list[Proxy], chance: random.Random, count: int) -> None:
    """Freeze or cut the connections of a service to a server, now and then."""
    for _ in range(count):
        await asyncio.sleep(chance.uniform(0.5, 2 * SECONDS / count - 0.5))
        chance.choice(FAULTS)(chance.choice(proxies))


async def _restart_servers(kafka: EmbeddedKafka, postgres: EmbeddedPostgres) -> None:
    await asyncio.sleep(SECONDS * 0.35)
    await kafka.kill()
    await kafka.start()
    await asyncio.sleep(SECONDS * 0.25)
    await postgres.kill()
    await postgres.start()


@pytest.mark.heavy
@pytest.mark.timeout(400)
async def test_nothing_accepted_is_lost_or_counted_twice(tmp_path: Path) -> None:
    """Scoring, ticketing and notify are killed, Kafka and PostgreSQL too, while every answer is sent twice; meanwhile
    connections of each service are frozen, in one direction or both, or cut.
    """
    chance = random.Random(SEED)
    servers = ProxiedKafka(tmp_path / "kafka", *SERVICES), EmbeddedPostgres(tmp_path / "postgres")
    await asyncio.gather(*(server.start() for server in servers))
    phone = await Phone().start()
    try:
        await _run(tmp_path, chance, *servers, phone)
    finally:
        await phone.close()
        await asyncio.gather(*(server.stop() for server in servers))


async def _run(
    folder: Path, chance: random.Random, servers_kafka: ProxiedKafka, postgres: EmbeddedPostgres, phone: Phone
) -> None:
    kafka, key = Kafka(servers_kafka.bootstrap), new_key("secret")
    small = company(phone, Key("ops", "secret", key_hash(key), scopes=("feedback",)))
    first = next(iter(small.customers.values()))
    customers = {f"c{n}": replace(first, id=f"c{n}", name=f"Customer {n}") for n in range(CUSTOMERS)}
    await ensure_topics(kafka, TOPICS)
    await publish(kafka, replace(small, customers=customers, rules=RULES))
    sockets = Path(postgres.url.split("host=")[1]) / ".s.PGSQL.5432"
    databases = {name: await Proxy(lambda: sockets).start() for name in SERVICES}
    async with contextlib.AsyncExitStack() as started:
        running: dict[str, ServiceProcess] = {}
        for name in SERVICES:
            environment = {
                "FIILIS_KAFKA": f"127.0.0.1:{servers_kafka.proxies[name].port}",
                "FIILIS_DATABASE_URL": f"postgresql://fiilis@127.0.0.1:{databases[name].port}/fiilis",
                "FIILIS_SECRET": "a-secret-of-a-town-for-tests-only",
                "FIILIS_ALLOW_PRIVATE_TARGETS": "true",
            }
            started.push_async_callback(databases[name].close)
            running |= await started.enter_async_context(processes(environment, folder, name))
        flow = Flow(chance)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flow.run(running["ingest"].address, key))
            victims = [running[name] for name in VICTIMS]
            tasks.create_task(_kill_at_random(victims, random.Random(SEED), 12 if FULL else 6))
            tasks.create_task(_restart_servers(servers_kafka, postgres))
            proxies = [*databases.values(), *servers_kafka.proxies.values()]
            tasks.create_task(_break_connections(proxies, random.Random(SEED + 1), BREAKS))
        assert len(flow.accepted) == ANSWERS
        sql = await asyncpg.connect(postgres.url.replace("+asyncpg", ""))
        try:
            await until(lambda: _settled(kafka, sql), seconds=90, every=0.5)
            await _prove(sql, flow, phone)
        finally:
            await sql.close()
        await _no_dead_letters(kafka)
        for process in running.values():
            assert process.alive, f"{process.name} ended by itself:\n{process.log()[-4000:]}"


async def _settled(kafka: Kafka, sql: Any) -> bool:
    """Tell whether every record was handled, every message relayed, and every page sent."""
    for schema, topic in (("scoring", FEEDBACK), ("ticketing", ALERTS), ("ticketing", PAGES), ("notify", TICKETS)):
        consumer = kafka.consumer(group=None)
        await consumer.start()
        try:
            tps = [TopicPartition(topic.name, p) for p in range(topic.partitions)]
            ends = {tp.partition: end for tp, end in (await consumer.end_offsets(tps)).items()}
        finally:
            await consumer.stop()
        rows = await sql.fetch(f"SELECT partition, next FROM {schema}.consumer_offset WHERE topic = $1", topic.name)
        if {row["partition"]: row["next"] for row in rows} != ends:
            return False
    for schema in VICTIMS:
        if await sql.fetchval(f"SELECT count(*) FROM {schema}.outbox"):
            return False
    return not await sql.fetchval("SELECT count(*) FROM notify.page WHERE state = 'pending'")


async def _prove(sql: Any, flow: Flow, phone: Phone) -> None:
    stored = {str(row["id"]): row for row in await sql.fetch("SELECT id, score FROM scoring.answer")}
    assert stored.keys() == flow.accepted.keys(), "every accepted answer is stored, once"
    counted = await sql.fetch(_COUNTED)
    recounted = await sql.fetch(_RECOUNTED)
    assert [tuple(row) for row in counted] == [tuple(row) for row in recounted], "every answer counts once"

    worst = [a for a in flow.accepted.values() if (a["kind"], a["score"]) == ("mood", 1)]
    moods = {f"{a['customer']}/mood-one/{a['touchpoint']}" for a in worst}
    alerts = {row[0] for row in await sql.fetch("SELECT DISTINCT dedup_key FROM scoring.alert")}
    assert moods == {key for key in alerts if "/mood-one/" in key}, "every breach was noticed"
    ones = await sql.fetchval("SELECT count(*) FROM scoring.alert WHERE rule = 'mood-one'")
    assert ones == len(worst), "one alert per answer"
    tickets = [row[0] for row in await sql.fetch("SELECT dedup_key FROM ticketing.ticket")]
    assert sorted(tickets) == sorted(alerts), "exactly one ticket per problem"
    pages = await sql.fetch("SELECT p.id FROM ticketing.ticket t LEFT JOIN notify.page p ON p.ticket = t.id")
    assert all(row["id"] is not None for row in pages), "every problem has a page"
    heard = [received.data["page"] for received in phone.received]
    assert {str(row["id"]) for row in pages} <= set(heard), "every page was delivered at least once"
    keys = [(received.headers["webhook-id"], received.path) for received in phone.received]
    again = len(keys) - len(set(keys))
    print(f"{len(pages)} pages, {len(set(keys))} deliveries, {again} of them sent again")
    # A crash may send a page again, and a connection that dies before the result is stored; nothing else.
    assert again <= 12 + 4 * BREAKS


_COUNTED = """
SELECT customer, series, sum(c1), sum(c2), sum(c3), sum(c4) FROM scoring.bucket GROUP BY 1, 2 ORDER BY 1, 2
"""
_RECOUNTED = """
WITH latest AS (
    SELECT DISTINCT ON (customer, series, coalesce(respondent, id::text)) customer, series, score FROM scoring.answer
    ORDER BY customer, series, coalesce(respondent, id::text), occurred_at DESC, received_at DESC, id DESC
), category AS (
    SELECT latest.customer, latest.series,
        CASE WHEN kind = 'mood' THEN score WHEN score <= 6 THEN 1 WHEN score <= 8 THEN 2 ELSE 3 END AS c
    FROM latest JOIN scoring.series ON series.customer = latest.customer AND series.number = latest.series
)
SELECT customer, series, count(*) FILTER (WHERE c = 1), count(*) FILTER (WHERE c = 2),
    count(*) FILTER (WHERE c = 3), count(*) FILTER (WHERE c = 4)
FROM category GROUP BY 1, 2 ORDER BY 1, 2
"""


async def _no_dead_letters(kafka: Kafka) -> None:
    consumer = kafka.consumer(group=None)
    await consumer.start()
    try:
        tps = [TopicPartition(topic.dead, 0) for topic in (FEEDBACK, ALERTS, TICKETS, PAGES)]
        assert set((await consumer.end_offsets(tps)).values()) == {0}
    finally:
        await consumer.stop()
