"""The embedded servers keep what they acknowledged, come back, and never outlive or outnumber their Fiilis."""

# aiokafka has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from shared.embedded import EmbeddedKafka, EmbeddedPostgres, EmbeddedUnavailable, embedded
from shared.embedded.server import DEATHS, Server

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
S = TypeVar("S", bound=Server)
Make = type[EmbeddedKafka] | type[EmbeddedPostgres]
BOTH = pytest.mark.parametrize("make", [EmbeddedKafka, EmbeddedPostgres])

PARENT = """
import asyncio, json, signal, sys
from pathlib import Path
from shared.embedded import embedded

# A shell starts what is in its background with SIGINT ignored, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    async with embedded(Path(sys.argv[1])) as servers:
        print(json.dumps([servers.kafka.pid, servers.postgres.pid]), flush=True)
        await servers.watch()

asyncio.run(main())
"""


async def until(condition: Callable[[], bool | Awaitable[bool]], limit_s: float = 60.0) -> None:
    """Poll until it holds."""
    limit = time.monotonic() + limit_s
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < limit, "did not become true in time"
        await asyncio.sleep(0.02)


def running(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
async def parent_of_both(tmp_path: Path) -> AsyncGenerator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Start a process that starts both servers; give it and every process below it."""
    parent = subprocess.Popen(  # noqa: ASYNC220 (nothing else runs on the loop meanwhile)
        [sys.executable, "-c", PARENT, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert parent.stdout is not None
    try:
        servers: list[int] = json.loads(await asyncio.to_thread(parent.stdout.readline))
        below = [each.pid for each in psutil.Process(parent.pid).children(recursive=True)]
        assert set(servers) < set(below)
        yield parent, below
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


@asynccontextmanager
async def stopped_after(server: S) -> AsyncGenerator[S]:
    """Leave nothing behind."""
    try:
        yield server
    finally:
        await server.stop()


async def connect(postgres: EmbeddedPostgres) -> asyncpg.Connection:
    """Connect as a service would."""
    return await asyncpg.connect(postgres.url.replace("+asyncpg", ""))


async def produce(kafka: EmbeddedKafka, topic: str, values: list[bytes]) -> None:
    """Send, and return when all are acknowledged."""
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, acks="all", enable_idempotence=True, max_request_size=17 << 20
    )
    await producer.start()
    try:
        for acknowledged in [await producer.send(topic, value, key=b"key") for value in values]:
            await acknowledged
    finally:
        await producer.stop()


async def consume(kafka: EmbeddedKafka, topic: str, count: int) -> list[bytes]:
    """Read so many records in a group."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=kafka.bootstrap,
        group_id="test",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=6000,
        max_partition_fetch_bytes=20 << 20,
    )
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            return [(await consumer.getone()).value or b"" for _ in range(count)]
    finally:
        await consumer.stop()


async def make_topic(kafka: EmbeddedKafka, topic: str, **configs: str) -> None:
    """Create a topic of one partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=configs)])
    finally:
        await admin.close()


async def test_postgres_keeps_what_it_committed_over_a_kill(tmp_path: Path) -> None:
    """The promise on which every offset and every page stands."""
    async with stopped_after(EmbeddedPostgres(tmp_path / "p")) as postgres:
        await postgres.start()
        connection = await connect(postgres)
        await connection.execute("CREATE TABLE answer (body text)")
        await connection.execute("INSERT INTO answer VALUES ('hyvä')")
        url, killed = postgres.url, postgres.pid
        await postgres.kill()
        assert postgres.pid is None
        await postgres.start()
        assert postgres.pid != killed
        assert postgres.url == url
        again = await connect(postgres)
        assert await again.fetchval("SELECT upper(body) FROM answer") == "HYVÄ"
        assert await again.fetchval("SHOW listen_addresses") == ""
        assert await again.fetchval("SHOW fsync") == "on"
        await again.close()
        connection.terminate()


async def test_kafka_keeps_what_it_acknowledged_over_a_kill(tmp_path: Path) -> None:
    """202 means durable: the records are there, at the same address, and the group goes on."""
    async with stopped_after(EmbeddedKafka(tmp_path / "k")) as kafka:
        await kafka.start()
        await make_topic(kafka, "answers")
        values = [b"%d" % number for number in range(1000)]
        await produce(kafka, "answers", values)
        bootstrap = kafka.bootstrap
        await kafka.kill()
        await kafka.start()
        assert kafka.bootstrap == bootstrap
        assert await consume(kafka, "answers", len(values)) == values


async def test_kafka_takes_a_record_of_16_mib(tmp_path: Path) -> None:
    """The directory is one record; in the small heap it must still fit."""
    async with stopped_after(EmbeddedKafka(tmp_path / "k")) as kafka:
        await kafka.start()
        await make_topic(kafka, "big", **{"max.message.bytes": str(17 << 20), "cleanup.policy": "compact"})
        big = [os.urandom(16 << 20) for _ in range(3)]
        killed = kafka.pid
        await produce(kafka, "big", big)
        assert await consume(kafka, "big", 3) == big
        assert kafka.pid == killed


async def test_no_server_listens_beyond_this_machine(tmp_path: Path) -> None:
    """Neither asks for a password, so only this machine's (Kafka) or this user's (PostgreSQL) programs may come."""
    async with embedded(tmp_path) as servers:
        assert servers.kafka.pid is not None
        assert servers.postgres.pid is not None
        heard = psutil.Process(servers.kafka.pid).net_connections("inet")
        assert {c.laddr.ip.removeprefix("::ffff:") for c in heard if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
        assert psutil.Process(servers.postgres.pid).net_connections("inet") == []
        sockets = Path(servers.postgres.url.partition("host=")[2])
        assert sockets.stat().st_mode & 0o777 == 0o700


async def test_a_path_that_is_long_and_not_ascii_works(tmp_path: Path) -> None:
    """People keep things in folders with names; a socket's path has a limit."""
    data = tmp_path / "Työ, päivä = 1" / ("x" * 100)
    async with embedded(data) as servers:
        await make_topic(servers.kafka, "t")
        connection = await connect(servers.postgres)
        await connection.close()
        assert len(servers.postgres.url.partition("host=")[2]) < 100


@BOTH
async def test_a_second_server_on_the_same_data_is_refused(make: Make, tmp_path: Path) -> None:
    """Two servers on the same files would destroy them."""
    async with stopped_after(make(tmp_path / "d")) as first:
        await first.start()
        with pytest.raises(EmbeddedUnavailable, match=rf"(?s)in use.*process {os.getpid()}.*{first.setting}"):
            await make(tmp_path / "d").start()
        assert first.pid is not None
        await first.stop()
        async with stopped_after(make(tmp_path / "d")) as second:
            await second.start()


@BOTH
async def test_watch_brings_back_what_died(make: Make, tmp_path: Path) -> None:
    """A crash of a server is an interruption, not the end of the service."""
    said: list[str] = []
    async with stopped_after(make(tmp_path / "d", say=said.append)) as server:
        await server.start()
        watch = asyncio.create_task(server.watch())
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: f"{server.name} is back" in said)
        assert server.pid not in (None, first)
        assert f"{server.name} died (status 137), starting it again" in said
        # A stop is wanted: nobody brings it back.
        await server.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await until(lambda: server.pid is not None)
        assert server.pid is None
        assert not watch.done()
        watch.cancel()


async def test_watch_gives_up_on_what_keeps_dying(tmp_path: Path) -> None:
    """Five deaths in a minute are no accident: a person must look, and is told where."""
    said: list[str] = []
    async with stopped_after(EmbeddedPostgres(tmp_path / "d", say=said.append)) as postgres:
        await postgres.start()
        watch = asyncio.create_task(postgres.watch())
        for death in range(DEATHS):
            await until(lambda lives=death: said.count("PostgreSQL is back") == lives)
            await postgres.kill()
        with pytest.raises(EmbeddedUnavailable, match=r"(?s)died 5 times in a minute.*FIILIS_DATABASE_URL"):
            await watch


async def test_a_broken_data_folder_is_an_error_with_the_last_lines(tmp_path: Path) -> None:
    """What the server said is in the message, and nothing is left running."""
    async with stopped_after(EmbeddedPostgres(tmp_path / "d")) as postgres:
        await postgres.start()
        await postgres.stop()
        (tmp_path / "d" / "data" / "global" / "pg_control").unlink()
        with pytest.raises(EmbeddedUnavailable, match=r"(?s)pg_control"):
            await postgres.start()
        assert postgres.pid is None


async def test_a_killed_parent_leaves_no_orphan(
    parent_of_both: tuple[subprocess.Popen[bytes], list[int]], tmp_path: Path
) -> None:
    """An orphan would hold the data, and answer the next start's probe in place of the new server."""
    parent, below = parent_of_both
    parent.kill()
    parent.wait()
    # At once: the next Fiilis waits for the end of the old servers by itself.
    async with embedded(tmp_path) as servers:
        assert not {servers.kafka.pid, servers.postgres.pid} & set(below)
        await until(lambda: not any(running(pid) for pid in below), 30)


async def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    """The one process between is not a way to lose the server either."""
    if sys.platform != "linux":
        pytest.skip("the kernel's parent-death signal is Linux's")
    async with stopped_after(EmbeddedPostgres(tmp_path / "d")) as postgres:
        await postgres.start()
        pid = postgres.pid
        assert pid is not None
        supervisor = psutil.Process(pid).parent()
        assert supervisor is not None
        supervisor.kill()
        await until(lambda: not running(pid), 30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signalled_parent_stops_both_in_order(
    number: signal.Signals, parent_of_both: tuple[subprocess.Popen[bytes], list[int]], tmp_path: Path
) -> None:
    """Ctrl-C, or a service manager: both shut down cleanly, so that the next start needs no recovery."""
    parent, below = parent_of_both
    os.killpg(parent.pid, number)  # to the whole group, as a terminal does
    await asyncio.to_thread(parent.wait, 30)
    await until(lambda: not any(running(pid) for pid in below), 30)
    assert "database system is shut down" in (tmp_path / "postgres" / "postgres.log").read_text().splitlines()[-1]
    assert (tmp_path / "kafka" / "log" / ".kafka_cleanshutdown").exists()


async def test_a_data_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """Not an OSError from somewhere inside."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EmbeddedUnavailable, match="FIILIS_KAFKA"):
        await EmbeddedKafka(tmp_path / "file" / "k").start()


async def test_kafka_moves_when_its_port_is_taken(tmp_path: Path) -> None:
    """Another program took the port while we were down: the data is served at another one."""
    async with stopped_after(EmbeddedKafka(tmp_path / "k", say=lambda _line: None)) as kafka:
        await kafka.start()
        await make_topic(kafka, "answers")
        await produce(kafka, "answers", [b"before"])
        await kafka.stop()
        before = kafka.bootstrap
        with socket.create_server(("127.0.0.1", int(before.partition(":")[2]))):
            await kafka.start()
            assert kafka.bootstrap != before
            assert await consume(kafka, "answers", 1) == [b"before"]
