"""It never stands still in silence: each connection of each service is frozen or cut while answers flow.

For every fault: somebody says so within 30 s, it heals by itself, nothing that was accepted is lost, and a critical
answer of that time reaches a person.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import asyncpg
import httpx
import pytest

from shared.bus.client import Kafka
from shared.bus.provisioning import ensure_topics
from shared.directory.follower import publish
from shared.directory.model import Key
from shared.embedded import EmbeddedPostgres
from shared.wire.ids import uuid7
from shared.wire.signing import key_hash, new_key
from shared.wire.topics import TOPICS
from tests.support.brokers import Brokers
from tests.support.house import company
from tests.support.phone import Phone
from tests.support.processes import ServiceProcess, processes
from tests.support.proxy import FAULTS, ProxiedKafka, Proxy, cut, frozen
from tests.support.standby import Standby
from tests.support.wait import until

FULL = os.environ.get("FIILIS_CHAOS") == "full"
SERVICES = ("ingest", "scoring", "ticketing", "notify")
SAID_WITHIN = 30.0
HEALED_WITHIN = 60.0
RESTARTED_WITHIN = 30.0
_SOCKET = ".s.PGSQL.5432"

Server = Literal["kafka", "postgresql"]


@dataclass(slots=True)
class Town:
    """Four services as processes, each behind proxies of its own."""

    servers: dict[Server, dict[str, Proxy]]
    services: dict[str, ServiceProcess]
    phone: Phone
    key: str
    database_url: str
    accepted: set[str] = field(default_factory=set[str])

    async def post(self, client: httpx.AsyncClient, score: int, customer: str) -> str | None:
        """Post one answer; return its id if it was accepted."""
        id_ = str(uuid7())
        answer = {"id": id_, "customer": customer, "kind": "mood", "score": score, "touchpoint": "support"}
        try:
            response = await client.post("/v1/feedback", json=answer)
        except httpx.HTTPError:
            return None
        if response.status_code == 202:
            self.accepted.add(id_)
            return id_
        assert response.status_code == 503, response.text
        return None

    @contextlib.asynccontextmanager
    async def traffic(self) -> AsyncIterator[httpx.AsyncClient]:
        """Post contented answers all the time; keeps every id that was accepted."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(
            base_url=self.services["ingest"].address, timeout=15, headers=headers, trust_env=False
        ) as client:

            async def flow() -> None:
                while True:
                    await self.post(client, 4, "borealis")
                    await asyncio.sleep(0.05)

            flows = [asyncio.create_task(flow()) for _ in range(4)]
            try:
                yield client
            finally:
                for one in flows:
                    one.cancel()
                await asyncio.gather(*flows, return_exceptions=True)

    async def readiness(self, name: str, query: str = "") -> tuple[int, dict[str, Any]]:
        """Return what a service says of itself; 0 while it does not answer."""
        try:
            async with httpx.AsyncClient(base_url=self.services[name].address, timeout=5, trust_env=False) as client:
                response = await client.get(f"/readyz{query}")
                return response.status_code, response.json()
        except httpx.HTTPError:
            return 0, {}

    async def says_so(self, name: str, log_before: int) -> bool:
        """Tell whether a service tells of trouble: at /readyz, or in its log."""
        status, body = await self.readiness(name)
        new = self.services[name].log()[log_before:]
        return status != 200 or bool(body.get("notes")) or " WARNING " in new or " ERROR " in new

    async def all_ready(self) -> bool:
        """Tell whether every service can do its work; whoever ended is started again, as its keeper would."""
        for service in self.services.values():
            if not service.alive:
                await service.start()
        return all([(await self.readiness(name))[0] == 200 for name in self.services])

    async def counted(self) -> int:
        """Return how many of the accepted answers scoring has counted, each once."""
        connection = await asyncpg.connect(self.database_url.replace("+asyncpg", ""))
        try:
            return await connection.fetchval(
                "SELECT count(*) FROM scoring.answer WHERE id = ANY($1::uuid[])", list(self.accepted)
            )
        finally:
            await connection.close()

    async def paged_for(self, answer: str) -> bool:
        """Tell whether somebody's phone has rung for an answer."""
        connection = await asyncpg.connect(self.database_url.replace("+asyncpg", ""))
        try:
            tickets = {
                str(row[0])
                for row in await connection.fetch(
                    "SELECT ticket FROM ticketing.shown_answer WHERE answer = $1::uuid", answer
                )
            }
        finally:
            await connection.close()
        return any(one.data.get("ticket") in tickets for one in self.phone.received)


@contextlib.asynccontextmanager
async def towned(
    kafka_server: ProxiedKafka | Brokers, databases: dict[str, tuple[Proxy, ...]], sql: str, tmp_path: Path
) -> AsyncIterator[Town]:
    """Run the four services; each reaches the database through proxies of its own, the first that can write."""
    to_kafka = kafka_server.proxies if isinstance(kafka_server, ProxiedKafka) else dict[str, Proxy]()
    phone = await Phone().start()
    try:
        kafka = Kafka(kafka_server.bootstrap)
        await ensure_topics(kafka, TOPICS)
        key = new_key("secret")
        keys = Key("ops", "secret", key_hash(key), scopes=("feedback", "admin"))
        await publish(kafka, company(phone, keys, repeat=9))
        database = sql.split("@/")[1].split("?")[0]
        made: dict[str, ServiceProcess] = {}
        async with contextlib.AsyncExitStack() as running:
            for name in SERVICES:
                hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in databases[name])
                environment = {
                    "FIILIS_KAFKA": f"127.0.0.1:{to_kafka[name].port}" if to_kafka else kafka_server.bootstrap,
                    "FIILIS_DATABASE_URL": f"postgresql://fiilis@{hosts}/{database}",
                    "FIILIS_SECRET": "a-secret-of-a-town-for-tests-only",
                    "FIILIS_ALLOW_PRIVATE_TARGETS": "true",
                    "FIILIS_STANDSTILL_SECONDS": "60",
                    "FIILIS_DRAIN_SECONDS": "0",
                }
                made |= await running.enter_async_context(processes(environment, tmp_path, name))
            first = {name: proxies[0] for name, proxies in databases.items()}
            yield Town({"kafka": to_kafka, "postgresql": first}, made, phone, key, sql)
    finally:
        for proxies in databases.values():
            for proxy in proxies:
                await proxy.close()
        await phone.close()


@pytest.fixture
async def kafka_server(tmp_path: Path) -> AsyncIterator[ProxiedKafka]:
    """A broker that each service reaches through a proxy of its own."""
    server = ProxiedKafka(tmp_path / "kafka", *SERVICES)
    await server.start()
    yield server
    await server.stop()


def behind(*sockets: Path) -> Callable[[], Awaitable[tuple[Proxy, ...]]]:
    """Return what starts a proxy before each server."""

    async def start() -> tuple[Proxy, ...]:
        return tuple([await Proxy(lambda socket=socket: socket).start() for socket in sockets])

    return start


@pytest.fixture
async def town(kafka_server: ProxiedKafka, database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    """The four services, with traffic able to flow."""
    start = behind(Path(database_url.split("host=")[1]) / _SOCKET)
    databases = {name: await start() for name in SERVICES}
    async with towned(kafka_server, databases, database_url, tmp_path) as made:
        yield made


async def _trouble(town: Town, server: Server, names: tuple[str, ...], fault: Callable[[Proxy], None]) -> None:
    """Do a fault to some services' connections, and see through what follows."""
    before = {name: len(town.services[name].log()) for name in names}
    async with town.traffic() as client:
        await until(lambda: _some(town, 20))
        begun = time.monotonic()
        for name in names:
            assert town.servers[server][name].connections > 0
            fault(town.servers[server][name])
        critical: list[str] = []

        async def critical_accepted() -> bool:
            if not critical and (id_ := await town.post(client, 1, "acme")) is not None:
                critical.append(id_)
            return bool(critical)

        told: dict[str, float] = {}

        async def all_told() -> bool:
            await critical_accepted()
            for name in names:
                if name not in told and await town.says_so(name, before[name]):
                    told[name] = time.monotonic() - begun
            return len(told) == len(names)

        if fault is not cut:  # a connection that breaks is made anew before anybody has to be told
            await until(all_told, seconds=SAID_WITHIN, every=0.2)
        await until(town.all_ready, seconds=SAID_WITHIN + HEALED_WITHIN, every=0.3)
        healed = time.monotonic() - begun
        await until(critical_accepted, seconds=10, every=0.2)
        await until(lambda: town.paged_for(critical[0]), seconds=30, every=0.2)
    await until(lambda: _all_counted(town), seconds=30, every=0.2)
    shown = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in told.items())
    print(f"{server} {fault.__name__}: said so: {shown or 'not needed'}; healed after {healed:.0f} s")


async def _some(town: Town, count: int) -> bool:
    return len(town.accepted) >= count


async def _all_counted(town: Town) -> bool:
    return await town.counted() == len(town.accepted)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("server", ["kafka", "postgresql"])
async def test_dead_connections_are_told_of_and_replaced(town: Town, server: Server) -> None:
    """All services' connections to a server go dead at once; new ones would work."""
    await _trouble(town, server, SERVICES, frozen)


@pytest.mark.skipif(not FULL, reason="the long form: make chaos")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("server", ["kafka", "postgresql"])
async def test_every_service_with_every_fault(town: Town, server: Server, fault: Callable[[Proxy], None]) -> None:
    """One service after the other, each alone."""
    for name in SERVICES:
        await _trouble(town, server, (name,), fault)
        assert town.services[name].alive


@pytest.mark.timeout(300)
async def test_a_fail_over_to_a_replica_counts_everything_once(kafka_server: ProxiedKafka, tmp_path: Path) -> None:
    """The primary dies, its replica is promoted, and services that know both go on there."""
    primary = EmbeddedPostgres(tmp_path / "primary")
    await primary.start()
    standby = Standby(primary, tmp_path / "standby")
    try:
        await standby.start()
        sockets = Path(primary.url.split("host=")[1]) / _SOCKET
        start = behind(sockets, standby.sockets / _SOCKET)
        databases = {name: await start() for name in SERVICES}
        async with towned(kafka_server, databases, primary.url, tmp_path) as town:
            async with town.traffic() as client:
                await until(lambda: _some(town, 50))
                await primary.kill()
                await standby.promote()
                town.database_url = standby.url
                critical: list[str] = []

                async def critical_accepted() -> bool:
                    if (id_ := await town.post(client, 1, "acme")) is not None:
                        critical.append(id_)
                    return bool(critical)

                await until(critical_accepted, seconds=30, every=0.2)
                await until(town.all_ready, seconds=HEALED_WITHIN, every=0.3)
                await until(lambda: town.paged_for(critical[0]), seconds=30, every=0.2)
            await until(lambda: _all_counted(town), seconds=30, every=0.2)
    finally:
        await standby.stop()
        await primary.stop()


@pytest.mark.skipif(not FULL, reason="the long form: make chaos")
@pytest.mark.timeout(600)
async def test_one_broker_of_three_at_a_time(database_url: str, tmp_path: Path) -> None:
    """Each is killed, and each hangs, one after the other: what was accepted is on the others."""
    brokers = Brokers(tmp_path)
    await brokers.start()
    try:
        start = behind(Path(database_url.split("host=")[1]) / _SOCKET)
        databases = {name: await start() for name in SERVICES}
        async with towned(brokers, databases, database_url, tmp_path) as town:
            async with town.traffic() as client:
                for broker in brokers.each:
                    before = len(town.accepted)
                    await broker.kill()
                    await until(lambda before=before: _some(town, before + 100), seconds=60)
                    await broker.start()
                    await until(town.all_ready, seconds=HEALED_WITHIN, every=0.3)
                    before = len(town.accepted)
                    await broker.pause()
                    try:
                        await until(lambda before=before: _some(town, before + 100), seconds=60)
                    finally:
                        await broker.go_on()
                    await until(town.all_ready, seconds=HEALED_WITHIN, every=0.3)
                critical = await town.post(client, 1, "acme")
                assert critical is not None
                await until(lambda: town.paged_for(critical), seconds=60, every=0.2)
            await until(lambda: _all_counted(town), seconds=60, every=0.2)
    finally:
        await brokers.stop()
