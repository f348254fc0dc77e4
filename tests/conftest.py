"""Real Kafka and PostgreSQL, once for the whole run; each test gets its own database and its own topics on them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import hypothesis  # noqa: F401 - its plugin would import it when the run ends, where Python 3.11 can fail to parse it
import pytest

from shared.bus.client import Kafka
from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.embedded import EmbeddedKafka, EmbeddedPostgres
from shared.embedded.quick_start import make_class_cache
from shared.runtime.memory import tune_memory
from tests.support.house import House, house
from tests.support.services import MIGRATIONS, NAMES

_numbers = itertools.count(1)
_ROOM_BYTES = 4 << 30
"""For the write-ahead log, of 2 GB at the most, and the databases of the tests that run."""


def pytest_collection_finish() -> None:
    """Have the collector pass by what was imported, and run as seldom as in a service."""
    gc.freeze()
    tune_memory()


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of the run."""

    kafka: EmbeddedKafka
    postgres: EmbeddedPostgres


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Both servers."""
    folder = tmp_path_factory.mktemp("servers")
    in_memory = _memory_folder()
    found = Servers(EmbeddedKafka(folder / "kafka"), EmbeddedPostgres((in_memory or folder) / "postgres"))

    async def start() -> None:
        await make_class_cache(print)
        await asyncio.gather(found.kafka.start(), found.postgres.start())

    async def stop() -> None:
        await asyncio.gather(found.kafka.stop(), found.postgres.stop())

    try:
        asyncio.run(start())
        yield found
        asyncio.run(stop())
    finally:
        if in_memory is not None:
            shutil.rmtree(in_memory, ignore_errors=True)


def _memory_folder() -> Path | None:
    """Return a folder for PostgreSQL in memory; None where there is little.

    Each test has a database of some 800 files: on a disk, ext4 takes longer to make and drop them than the test runs.
    """
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM_BYTES:
        return Path(tempfile.mkdtemp(prefix="fiilis-test-", dir=memory))
    return None


@pytest.fixture(scope="session")
def template(servers: Servers) -> str:
    """The name of a database with the schemas of all services: a copy costs a tenth of migrating another."""
    name = f"template{os.getpid()}"

    async def make() -> None:
        connection = await asyncpg.connect(servers.postgres.url.replace("+asyncpg", ""))
        await connection.execute(f'CREATE DATABASE "{name}"')
        await connection.close()
        for service in NAMES:
            database = Database(servers.postgres.url.replace("/fiilis?", f"/{name}?"), service, pool=1)
            await migrate(database, MIGRATIONS.get(service))
            await database.close()

    asyncio.run(make())
    return name


@contextlib.asynccontextmanager
async def _database(servers: Servers, template: str) -> AsyncGenerator[str]:
    name = f"t{os.getpid()}_{next(_numbers)}"
    connection = await asyncpg.connect(servers.postgres.url.replace("+asyncpg", ""))
    await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    yield servers.postgres.url.replace("/fiilis?", f"/{name}?")
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


@pytest.fixture
async def database_url(servers: Servers, template: str) -> AsyncIterator[str]:
    """A database of the test's own, with every service's schema."""
    async with _database(servers, template) as url:
        yield url


@pytest.fixture
async def empty_database_url(servers: Servers) -> AsyncIterator[str]:
    """A database of the test's own in which there is nothing."""
    async with _database(servers, "template1") as url:
        yield url


@pytest.fixture
async def kafka(servers: Servers) -> AsyncIterator[Kafka]:
    """The cluster, with topics of the test's own."""
    made = Kafka(servers.kafka.bootstrap, f"t{os.getpid()}-{next(_numbers)}.")
    yield made
    # Of a thousand tests they would be ninety thousand partitions, of which a small broker thinks all the time.
    async with made.admin() as admin:
        ours = [name for name in await admin.list_topics() if name.startswith(made.prefix)]
        if ours:
            await admin.delete_topics(ours)


@pytest.fixture
async def fiilis(kafka: Kafka, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """All four services in this process, on a clock that the test moves."""
    async with house(kafka, database_url) as made:
        yield made


@pytest.fixture
async def pager(kafka: Kafka, database_url: str) -> AsyncIterator[House]:
    """Notify alone, on a clock that the test moves."""
    async with house(kafka, database_url, ("notify",)) as made:
        yield made


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return Path(__file__).parent.parent
