"""Servers die in the middle of the work: nothing accepted is lost, nobody is forgotten, and services end when asked."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import operator
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from shared.bus import outbox
from shared.bus.client import Kafka, Outgoing, Producer, event_headers
from shared.bus.outbox import Relay
from shared.bus.provisioning import ensure_topics
from shared.database.pool import Database
from shared.directory.follower import publish
from shared.directory.model import Key
from shared.embedded import EmbeddedKafka, EmbeddedPostgres
from shared.wire.ids import uuid7
from shared.wire.signing import key_hash, new_key
from shared.wire.topics import ALERTS, TOPICS
from tests.conftest import Servers
from tests.integration.test_message_sizes import arrived as relayed
from tests.support.effects import SCHEMA, prepare
from tests.support.house import House, company, house
from tests.support.phone import Phone
from tests.support.processes import ServiceProcess, processes
from tests.support.services import NAMES
from tests.support.wait import until

STOP_SECONDS = 10
WAIT_SECONDS = 2


def environment(kafka: Kafka, database_url: str) -> dict[str, str]:
    return {
        "FIILIS_KAFKA": kafka.bootstrap,
        "FIILIS_TOPIC_PREFIX": kafka.prefix,
        "FIILIS_DATABASE_URL": database_url,
        "FIILIS_SECRET": "a-secret-of-a-test-with-32-characters",
        "FIILIS_DRAIN_SECONDS": "0",
    }


def impatient(kafka: Kafka, database_url: str) -> dict[str, str]:
    """Return the settings of an ingest that waits shorter than it would for Kafka, and for PostgreSQL."""
    return {**environment(kafka, database_url), "FIILIS_INGEST_WAIT_SECONDS": str(WAIT_SECONDS)}


async def settle(kafka: Kafka) -> str:
    """Apply a directory; return a key for everything."""
    key = new_key("secret")
    phone = await Phone().start()
    await ensure_topics(kafka, TOPICS)
    await publish(kafka, company(phone, Key("ops", "secret", key_hash(key), scopes=("admin",))))
    await phone.close()
    return key


# ---- Kafka is away


@pytest.fixture
async def own_kafka(tmp_path: Path) -> AsyncIterator[EmbeddedKafka]:
    made = EmbeddedKafka(tmp_path / "kafka")
    await made.start()
    yield made
    await made.stop()


async def test_answers_are_taken_while_kafka_is_away(
    tmp_path: Path, own_kafka: EmbeddedKafka, postgres: EmbeddedPostgres
) -> None:
    """They go to the spool, nobody waits for Kafka twice; with PostgreSQL away too the sender is told so; in the end
    every accepted answer is counted, once."""
    kafka = Kafka(own_kafka.bootstrap)
    key = await settle(kafka)
    async with processes(impatient(kafka, postgres.url), tmp_path, "ingest", "scoring") as running:
        ingest, scoring = (
            httpx.AsyncClient(base_url=running[name].address, timeout=20, headers=_bearer(key))
            for name in ("ingest", "scoring")
        )
        async with ingest, scoring:
            accepted = [_answer() for _ in range(20)]
            for answer in accepted:
                assert (await ingest.post("/v1/feedback", json=answer)).status_code == 202
            await own_kafka.kill()

            first = [_answer() for _ in range(5)]
            for response, seconds in await asyncio.gather(*(_timed(ingest, answer) for answer in first)):
                assert response.status_code == 202
                assert seconds < 1 + WAIT_SECONDS
            accepted += first
            for answer in (*first, *(then := [_answer() for _ in range(20)])):
                response, seconds = await _timed(ingest, answer)
                assert response.status_code == 202
                assert seconds < WAIT_SECONDS, "Kafka is known to be away"
            accepted += then
            array = [_answer() for _ in range(200)]
            response = await ingest.post("/v1/feedback", json=array)
            assert response.json()["accepted"] == 200
            accepted += array
            erased = await ingest.delete("/v1/respondents/r-1", params={"customer": "acme"})
            assert erased.status_code == 202
            await until(lambda: _spooled(running["ingest"], 20 + 2 * len(first) + len(array) + 1))
            assert await until(lambda: _missing(scoring)) == {"outside: kafka"}
            notes = await until(lambda: _notes(ingest))
            assert re.fullmatch(r"Kafka: 127\.0\.0\.1:\d+: Connection refused", notes["outside: kafka"])
            assert await _is_ready(ingest)

            await postgres.kill()
            lost = _answer()
            response, seconds = await _timed(ingest, lost)
            assert response.status_code == 503
            assert response.json()["code"] == "not-durable"
            assert int(response.headers["retry-after"]) > 0
            assert seconds < 1 + WAIT_SECONDS
            assert (await ingest.get("/healthz")).status_code == 200
            assert await until(lambda: _missing(ingest)) == {"outside: kafka or postgresql"}

            await postgres.start()
            await until(lambda: _accepted(ingest, lost), every=0.2)
            await own_kafka.start()
            await until(lambda: _spooled(running["ingest"], 0), seconds=30)
            after = [_answer() for _ in range(20)]
            for answer in after:
                assert (await ingest.post("/v1/feedback", json=answer)).status_code == 202
            accepted += [lost, *after]
            await until(lambda: _counted(scoring, len(accepted)), seconds=30, every=0.1)
            for client in (ingest, scoring):
                await until(lambda client=client: _is_ready(client))
        assert all(process.alive for process in running.values())
        assert "Traceback" not in running["ingest"].log()


async def _spooled(ingest: ServiceProcess, count: int) -> bool:
    return f"fiilis_spool_records {float(count)}\n" in await ingest.metrics()


async def test_ingest_starts_without_postgres(
    tmp_path: Path, own_kafka: EmbeddedKafka, postgres: EmbeddedPostgres
) -> None:
    """While Kafka is there it needs no spool; there is one as soon as PostgreSQL is there."""
    kafka = Kafka(own_kafka.bootstrap)
    key = await settle(kafka)
    await postgres.kill()
    async with (
        processes(impatient(kafka, postgres.url), tmp_path, "ingest") as running,
        httpx.AsyncClient(base_url=running["ingest"].address, timeout=20, headers=_bearer(key)) as client,
    ):
        assert (await client.post("/v1/feedback", json=_answer())).status_code == 202
        await own_kafka.kill()
        response, seconds = await _timed(client, _answer())
        assert (response.status_code, response.json()["code"]) == (503, "not-durable")
        assert seconds < 1 + WAIT_SECONDS
        await postgres.start()
        await until(lambda: _accepted(client, _answer()), seconds=20, every=0.2)


@pytest.mark.timeout(300)
async def test_services_start_without_kafka(
    tmp_path: Path, own_kafka: EmbeddedKafka, postgres: EmbeddedPostgres
) -> None:
    """With the directory that they kept: ingest takes answers, who is on call and what was scored is told."""
    kafka = Kafka(own_kafka.bootstrap)
    key = await settle(kafka)
    names = ("ingest", "scoring", "notify")
    async with processes(impatient(kafka, postgres.url), tmp_path, *names) as running:
        await until(lambda: _kept(postgres, names), seconds=20, every=0.2)
        await asyncio.gather(*(process.stop() for process in running.values()))
        await own_kafka.kill()
        for process in running.values():
            await process.start(wait=False)
        clients = {
            name: httpx.AsyncClient(base_url=process.address, timeout=20, headers=_bearer(key))
            for name, process in running.items()
        }
        for client in clients.values():
            await until(lambda client=client: _door_is_open(client), seconds=60, every=0.2)
        assert await _is_ready(clients["ingest"])
        assert "directory" in str(await _notes(clients["ingest"]))
        assert (await clients["ingest"].post("/v1/feedback", json=_answer())).status_code == 202
        assert (await clients["notify"].get("/v1/oncall?customer=acme")).json()["chain"]
        assert (await clients["scoring"].get("/v1/customers")).status_code == 200
        assert (await clients["scoring"].get("/readyz")).status_code == 503
        await own_kafka.start()
        for client in clients.values():
            await until(lambda client=client: _is_ready(client), seconds=60, every=0.2)
        await until(lambda: _counted(clients["scoring"], 1), seconds=30, every=0.1)
        for client in clients.values():
            await client.aclose()
        assert all(process.alive for process in running.values())


async def _kept(postgres: EmbeddedPostgres, names: tuple[str, ...]) -> bool:
    sql = await asyncpg.connect(postgres.url.replace("+asyncpg", ""))
    try:
        return all([await sql.fetchval(f"SELECT count(*) FROM {name}.directory") for name in names])
    finally:
        await sql.close()


async def _door_is_open(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz?door")).status_code == 200
    except httpx.TransportError:
        return False


async def test_a_spool_that_cannot_write(tmp_path: Path, own_kafka: EmbeddedKafka, postgres: EmbeddedPostgres) -> None:
    """A standby is waited for; what should never happen ends the process. Nobody waits for ever in either case."""
    kafka = Kafka(own_kafka.bootstrap)
    key = await settle(kafka)
    async with (
        processes(impatient(kafka, postgres.url), tmp_path, "ingest") as running,
        httpx.AsyncClient(base_url=running["ingest"].address, timeout=20, headers=_bearer(key)) as client,
    ):
        await own_kafka.kill()
        await until(lambda: _accepted(client, _answer()))
        await _sql(postgres, "ALTER DATABASE fiilis SET default_transaction_read_only = on")
        await _sql(postgres, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        await until(lambda: _refused(client))
        await _sql(postgres, "SET default_transaction_read_only = off", "ALTER DATABASE fiilis RESET ALL")
        await _sql(postgres, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        await until(lambda: _accepted(client, _answer()))
        await _sql(postgres, "ALTER TABLE ingest.outbox ADD CONSTRAINT broken CHECK (false) NOT VALID")
        # The first ends the process: one that comes while it ends is answered, or finds its connection closed.
        began = time.monotonic()
        answers = await asyncio.gather(*(_accepted(client, _answer()) for _ in range(3)), return_exceptions=True)
        assert time.monotonic() - began < 1 + WAIT_SECONDS
        told = [answer for answer in answers if not isinstance(answer, httpx.TransportError)]
        assert told in ([False], [False] * 2, [False] * 3)
        await until(lambda: _ended(running["ingest"]))
        assert "CheckViolationError" in running["ingest"].log()


async def _refused(client: httpx.AsyncClient) -> bool:
    return not await _accepted(client, _answer())


async def _ended(process: ServiceProcess) -> bool:
    return not process.alive


async def _sql(postgres: EmbeddedPostgres, *statements: str) -> None:
    connection = await asyncpg.connect(postgres.url.replace("+asyncpg", ""))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _missing(client: httpx.AsyncClient) -> set[str]:
    """Return what the process says that it cannot work without."""
    response = await client.get("/readyz")
    missing = set(response.json()["missing"])
    assert (response.status_code == 503) == bool(missing)
    return missing


async def _notes(client: httpx.AsyncClient) -> dict[str, str]:
    return (await client.get("/readyz")).json().get("notes", {})


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return not await _missing(client)


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _answer() -> dict[str, Any]:
    return {"id": str(uuid7()), "kind": "nps", "score": 9, "customer": "acme"}


async def _timed(client: httpx.AsyncClient, answer: dict[str, Any]) -> tuple[httpx.Response, float]:
    begun = time.monotonic()
    response = await client.post("/v1/feedback", json=answer)
    return response, time.monotonic() - begun


async def _accepted(client: httpx.AsyncClient, answer: dict[str, Any]) -> bool:
    response = await client.post("/v1/feedback", json=answer)
    assert response.status_code in {202, 503}
    return response.status_code == 202


async def _counted(client: httpx.AsyncClient, count: int) -> bool:
    response = await client.get("/v1/customers/acme/scores")
    return response.status_code == 200 and response.json()["nps"]["responses"] == count


# ---- PostgreSQL is away


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(tmp_path / "postgres")
    await made.start()
    yield made
    await made.stop()


async def test_postgres_dies_in_the_middle_of_an_escalation(kafka: Kafka, postgres: EmbeddedPostgres) -> None:
    """The page goes on where it stood: the deputy's turn comes, the answer is taken, nobody is called twice for it."""
    async with house(kafka, postgres.url) as fiilis:
        await fiilis.post({"kind": "mood", "score": 1, "customer": "acme", "touchpoint": "support"})
        await until(lambda: _rung(fiilis, 1))
        await until(lambda: fiilis.items("/v1/pages", state="sent"))
        await postgres.kill()
        fiilis.move(seconds=301)
        await asyncio.sleep(1)
        assert len(fiilis.phone.received) == 1, "without a place to keep the intent nobody is called"
        await postgres.start()
        await until(lambda: _rung(fiilis, 2))
        assert [r.path for r in fiilis.phone.received] == ["/architect-1", "/deputy-1"]
        link = fiilis.phone.received[1].data["acknowledge_url"]
        assert "Taken" in (await fiilis.client.post(link)).text
        ticket = (await until(lambda: fiilis.items("/v1/tickets", state="acknowledged")))[0]
        assert ticket["assignee"] == "deputy-1"
        await fiilis.post({"kind": "mood", "score": 1, "customer": "borealis", "touchpoint": "support"})
        await until(lambda: _rung(fiilis, 3))


async def test_requests_while_postgres_is_away(kafka: Kafka, postgres: EmbeddedPostgres) -> None:
    """503 with Retry-After, not "our fault"; answers are still taken, since Kafka is there, and counted later."""
    async with house(kafka, postgres.url) as fiilis:
        await fiilis.post({"kind": "mood", "score": 1, "customer": "acme", "touchpoint": "support"})
        await until(lambda: _rung(fiilis, 1))
        link = fiilis.phone.received[0].data["acknowledge_url"]
        await postgres.kill()
        headers = _bearer(fiilis.key)
        assert (await fiilis.post({"kind": "nps", "score": 9, "customer": "acme"})).status_code == 202
        asked = [
            fiilis.client.get(path, headers=headers)
            for path in ("/v1/tickets", "/v1/alerts", "/v1/pages", "/v1/customers")
        ]
        told = [*await asyncio.gather(*asked), await fiilis.client.get(link), await fiilis.client.post(link)]
        assert await until(lambda: _missing(fiilis.client)) == {"outside: postgresql"}
        await postgres.start()
        assert [response.status_code for response in told] == [503] * 6
        assert all(int(response.headers["retry-after"]) > 0 for response in told)
        assert all(response.headers["content-type"] == "application/problem+json" for response in told[:4])
        await until(lambda: _responses(fiilis, 1))
        await until(lambda: _is_ready(fiilis.client))
        assert "Taken" in (await fiilis.client.post(link)).text


async def _rung(fiilis: House, count: int) -> bool:
    return len(fiilis.phone.received) >= count


async def _responses(fiilis: House, count: int) -> bool:
    headers = _bearer(fiilis.key)
    response = await fiilis.client.get("/v1/customers/acme/scores", headers=headers)
    return response.status_code == 200 and response.json()["nps"]["responses"] == count


# ---- the outbox


@pytest.fixture
async def database(database_url: str, kafka: Kafka) -> AsyncIterator[Database]:
    made = Database(database_url, SCHEMA)
    await prepare(made)
    await ensure_topics(kafka, [ALERTS])
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def relaying(database: Database, kafka: Kafka, count: int = 1) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run so many relays, as so many processes would."""
    producers = [Producer(kafka) for _ in range(count)]
    tasks = [asyncio.create_task(Relay(database, producer).run()) for producer in producers]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(producer.close() for producer in producers))


async def leave(database: Database, first: int, count: int) -> None:
    """Leave numbered messages of five customers."""
    now = datetime.now(UTC).isoformat()
    for number in range(first, first + count):
        headers = event_headers("alert.opened", str(number), "test", now, None)
        async with database.transaction() as tx:
            await outbox.add(tx, [Outgoing(ALERTS.name, f"c{number % 5}".encode(), str(number).encode(), headers)])


async def is_empty(database: Database) -> bool:
    async with database.transaction() as tx:
        return await tx.fetchval("SELECT count(*) FROM outbox") == 0


async def test_the_outbox_is_relayed_in_order(database: Database, kafka: Kafka) -> None:
    """Each customer's messages arrive in the order in which they were decided, and rows go once Kafka has them."""
    await leave(database, 0, 60)
    async with relaying(database, kafka, 2) as tasks:
        await leave(database, 60, 140)
        await until(lambda: is_empty(database))
        assert not any(task.done() for task in tasks)
    arrived = await relayed(kafka)
    assert arrived == {f"c{n}".encode(): list(range(n, 200, 5)) for n in range(5)}


async def test_a_row_stays_until_kafka_has_it(database: Database, kafka: Kafka) -> None:
    """What cannot be sent waits; no message is lost by a broker that is away."""
    await leave(database, 0, 10)
    async with relaying(database, Kafka(f"127.0.0.1:{_closed_port()}")) as (task,):
        await asyncio.sleep(1)
        assert not task.done()
        async with database.transaction() as tx:
            assert await tx.fetchval("SELECT count(*) FROM outbox") == 10
    async with relaying(database, kafka):
        await until(lambda: is_empty(database))
    assert sorted(functools.reduce(operator.iadd, (await relayed(kafka)).values(), [])) == list(range(10))


async def test_a_relay_that_loses_its_lock_is_taken_over(database: Database, kafka: Kafka) -> None:
    """Whoever holds the lock may be cut off: another process goes on, and the first one comes back for its turn."""
    async with relaying(database, kafka, 2) as tasks:
        for round_ in range(3):
            await leave(database, round_ * 20, 20)
            await until(lambda: is_empty(database))
            holders = await _holders(database)
            assert len(holders) == 1, "one relays at a time"
            async with database.transaction() as tx:
                assert await tx.fetchval("SELECT pg_terminate_backend($1)", holders[0])
        await leave(database, 60, 20)
        await until(lambda: is_empty(database))
        assert not any(task.done() for task in tasks)
    arrived = await relayed(kafka)
    assert {key: sorted(set(numbers)) for key, numbers in arrived.items()} == {
        f"c{n}".encode(): list(range(n, 80, 5)) for n in range(5)
    }


async def _holders(database: Database) -> list[int]:
    async with database.transaction() as tx:
        rows = await tx.fetch(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
            " AND classid::bigint = (hashtext('fiilis.outbox')::bigint & 4294967295)"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    return [row[0] for row in rows]


# ---- the end


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


async def test_sigterm_ends_each_service_in_order(kafka: Kafka, database_url: str, tmp_path: Path) -> None:
    """Exit code 0, soon, with nothing that a person must look at in the log."""
    await settle(kafka)
    async with processes(environment(kafka, database_url), tmp_path, *NAMES) as running:

        async def stopped(name: str) -> tuple[int, float]:
            begun = time.monotonic()
            return await running[name].stop(), time.monotonic() - begun

        ends = dict(zip(NAMES, await asyncio.gather(*map(stopped, NAMES)), strict=True))
        assert {name: code for name, (code, _) in ends.items()} == dict.fromkeys(NAMES, 0)
        assert {name: seconds for name, (_, seconds) in ends.items() if seconds > STOP_SECONDS} == {}
        for process in running.values():
            assert "ERROR" not in process.log(), process.log()
            assert "Traceback" not in process.log(), process.log()


@pytest.mark.parametrize("away", ["Kafka", "PostgreSQL"])
async def test_sigterm_while_it_waits_for_a_server(
    servers: Servers, database_url: str, tmp_path: Path, away: str
) -> None:
    """A service that cannot start yet is alive, says what is missing, and ends when asked."""
    kafka = Kafka(f"127.0.0.1:{_closed_port()}" if away == "Kafka" else servers.kafka.bootstrap, "waiting.")
    url = database_url if away == "Kafka" else f"postgresql://fiilis@127.0.0.1:{_closed_port()}/fiilis"
    names = NAMES if away == "Kafka" else NAMES[1:]
    await asyncio.gather(
        *(_waits_and_ends(name, {**os.environ, **environment(kafka, url)}, tmp_path) for name in names)
    )


async def _waits_and_ends(name: str, variables: dict[str, str], folder: Path) -> None:
    port, log = _closed_port(), folder / f"{name}.log"
    with log.open("wb") as written:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services", name, "--port", str(port)),
            env=variables,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=written,
        )
    try:
        await until(lambda: _says(log, "waiting for"), seconds=60, every=0.1)  # four start at once
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert (await client.get("/healthz")).status_code == 200
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["missing"]
            refused = await client.post("/v1/feedback", json={})
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), 30)
        assert code == 0, f"{name}: {log.read_text()[-2000:]}"
        assert time.monotonic() - begun < STOP_SECONDS
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _says(log: Path, text: str) -> bool:
    return text in log.read_text()
