"""What a database can be wrong at: said in one line with what to do, before anything is half done."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from shared.database.migrate import migrate
from shared.database.pool import _SESSION, Database, Server
from shared.errors import Misconfigured, Transient
from tests.conftest import Servers
from tests.support.processes import command
from tests.support.proxy import Proxy
from tests.support.services import MIGRATIONS
from tests.support.wait import until


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """Nothing was migrated yet."""
    return empty_database_url


def admin_url(servers: Servers) -> str:
    return servers.postgres.url.replace("+asyncpg", "")


def as_role(url: str, role: str) -> str:
    return url.replace("fiilis@/", f"{role}@/")


@pytest.fixture
async def poor_role(servers: Servers, database_url: str) -> AsyncIterator[str]:
    """A role that may connect and nothing else."""
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    await connection.execute("CREATE ROLE poor LOGIN")
    yield as_role(database_url, "poor")
    await connection.execute("DROP OWNED BY poor")
    await connection.execute("DROP ROLE poor")
    await connection.close()


async def test_another_encoding_is_refused(servers: Servers) -> None:
    """A LATIN1 database was taken, and then killed scoring at each emoji."""
    connection = await asyncpg.connect(admin_url(servers))
    try:
        await connection.execute("DROP DATABASE IF EXISTS latin")
        await connection.execute(
            "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
        database = Database(servers.postgres.url.replace("/fiilis?", "/latin?"), "scoring")
        with pytest.raises(Misconfigured, match="encoded in LATIN1"):
            await migrate(database, MIGRATIONS["scoring"])
        await database.close()
    finally:
        await connection.execute("DROP DATABASE IF EXISTS latin WITH (FORCE)")
        await connection.close()


async def test_a_role_without_rights_gets_one_line_and_code_2(poor_role: str) -> None:
    """It was a traceback of 240 lines."""
    done = await command("migrate", FIILIS_DATABASE_URL=poor_role)
    assert done.code == 2
    assert done.err.count("\n") <= 4, done.err
    assert "permission denied for database" in done.err
    assert "FIILIS_MIGRATION_URL" in done.err


async def test_a_role_of_its_own_migrates(servers: Servers, database_url: str, poor_role: str) -> None:
    """The services' role gets rows and no right to change a table; looking needs no right to create."""
    database = Database(poor_role, "scoring", pool=1)
    try:
        said: list[str] = []
        assert await migrate(database, MIGRATIONS["scoring"], url=database_url, say=said.append)
        assert said[0].startswith("migrating scoring: shared_0001, ")
        assert len(said) > 5, "each step is told"
        assert await migrate(database, MIGRATIONS["scoring"]) == [], "up to date: nothing to create"
        async with database.transaction() as tx:
            assert await tx.fetchval("SELECT count(*) FROM answer") == 0
            await tx.execute("INSERT INTO outbox (topic, headers) VALUES ('x', '[]')")
        with pytest.raises((Misconfigured, Transient), match="must be owner"):
            async with database.transaction() as tx:
                await tx.execute("ALTER TABLE answer ADD COLUMN x int")
    finally:
        await database.close()


async def test_a_newer_schema_is_worked_with(database_url: str) -> None:
    """While a new version is rolled out the old one runs on its schema."""
    database = Database(database_url, "scoring", pool=1)
    try:
        await migrate(database, MIGRATIONS["scoring"])
        async with database.transaction() as tx:
            await tx.execute("UPDATE version SET version_num = '9999'")
        assert await migrate(database, MIGRATIONS["scoring"]) == []
    finally:
        await database.close()


async def test_a_migration_waits_for_a_lock_and_takes_its_time(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives others way every few seconds, says so, and no limit of the services ends it."""
    shutil.copy(MIGRATIONS["scoring"] / "0001_answers_and_alerts.py", tmp_path)
    database = Database(database_url, "scoring", pool=2)
    try:
        await migrate(database, tmp_path)
        (tmp_path / "0002_slow.py").write_text(
            "from shared.database.upgrade import run_script\n"
            "revision = '0002'\ndown_revision = '0001'\n"
            "def upgrade():\n    run_script('ALTER TABLE alert ADD COLUMN x int;\\nSELECT pg_sleep(1.5);\\n')\n"
        )
        monkeypatch.setattr("shared.database.upgrade._SESSION", {"statement_timeout": "0", "lock_timeout": "300ms"})
        said: list[str] = []
        holder = await asyncpg.connect(database_url.replace("+asyncpg", ""))
        held = holder.transaction()
        await held.start()
        await holder.execute("SELECT * FROM scoring.alert")
        migrating = asyncio.create_task(migrate(database, tmp_path, say=said.append))
        await until(lambda: _said(said, "waits for a lock"), seconds=10)
        await held.rollback()
        await holder.close()
        assert await migrating == ["scoring 0002"]
    finally:
        await database.close()


async def _said(lines: list[str], what: str) -> bool:
    return any(what in line for line in lines)


async def test_a_connection_that_answers_nothing_is_given_up(database_url: str, servers: Servers) -> None:
    """And with it the others that lie in the pool: what ate its packets has forgotten them as well."""
    socket_path = Path(admin_url(servers).split("host=")[1]) / ".s.PGSQL.5432"
    proxy = await Proxy(lambda: socket_path).start()
    name = database_url.split("@/")[1].split("?")[0]
    database = Database(f"postgresql://fiilis@127.0.0.1:{proxy.port}/{name}", "public", pool=3)
    try:

        async def one() -> None:
            async with database.transaction() as tx:
                await tx.fetchval("SELECT pg_sleep(0.2)")

        await asyncio.gather(*(one() for _ in range(3)))
        assert proxy.connections == 3
        proxy.freeze()
        with pytest.raises(Transient, match="no answer within 6 s; the connection is given up"):
            async with database.transaction(within=1) as tx:
                await tx.fetchval("SELECT 1")
        begun = asyncio.get_running_loop().time()
        async with database.transaction(within=1) as tx:
            assert await tx.fetchval("SELECT 1") == 1
        assert asyncio.get_running_loop().time() - begun < 2, "a new connection at once, not the next dead one"
    finally:
        await database.close()
        await proxy.close()


async def test_a_server_that_cannot_write_is_left(database_url: str) -> None:
    """After a fail-over the pool stayed on what had been the primary, for ever."""
    database = Database(database_url, "public", pool=1)
    other = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        async with database.transaction() as tx:
            before = await tx.fetchval("SELECT pg_backend_pid()")
            await tx.execute("CREATE TABLE kept (x int)")
            await tx.execute("SET default_transaction_read_only = on")  # of this session alone, as a demotion would
        with pytest.raises(Transient, match="read-only"):
            async with database.transaction() as tx:
                await tx.execute("INSERT INTO kept VALUES (1)")
        async with database.transaction() as tx:
            assert await tx.fetchval("SELECT pg_backend_pid()") != before
            await tx.execute("INSERT INTO kept VALUES (1)")
    finally:
        await other.close()
        await database.close()


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed (Debian: pgbouncer)")
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_pgbouncer(database_url: str, servers: Servers, mode: str) -> None:
    """By session it is worked with, as it comes; by transaction it is refused with a sentence."""
    sockets = admin_url(servers).split("host=")[1]
    name = database_url.split("@/")[1].split("?")[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(sockets).parents[1] / f"pgbouncer-{mode}"  # beside PostgreSQL, where its user is let through
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "users.txt").write_text('"fiilis" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{name} = host={sockets} dbname={name} user=fiilis\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\nlogfile = {folder}/log\n"
    )
    bouncer = await asyncio.create_subprocess_exec(
        str(shutil.which("pgbouncer")),
        "-q",
        *(("-u", "pgserver")),
        str(folder / "pgbouncer.ini"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    database = Database(f"postgresql://fiilis@127.0.0.1:{port}/{name}", "scoring", pool=3)
    try:

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await until(listens)
        if mode == "transaction":
            with pytest.raises(Misconfigured, match="pool_mode = session"):
                await database.pooler_refused()
            return
        await database.pooler_refused()
        await migrate(database, MIGRATIONS["scoring"])
        async with database.transaction() as tx:
            assert await tx.fetchval("SELECT current_setting('lock_timeout')") == "3s"
            assert await tx.fetchval("SELECT count(*) FROM answer") == 0
    finally:
        await database.close()
        bouncer.terminate()
        await bouncer.wait()


async def test_a_cancelled_transaction_is_cancelled(database_url: str) -> None:
    """Not "the database is away", over which a loop that is to end would go on; and the next one finds a clean pool."""
    database = Database(database_url, "public", pool=1)
    begun = asyncio.Event()

    async def slow() -> None:
        async with database.transaction() as tx:
            await tx.execute("CREATE TABLE half (x int)")
            begun.set()
            await tx.execute("SELECT pg_sleep(20)")

    try:
        task = asyncio.create_task(slow())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with database.transaction() as tx:
            assert await tx.fetchval("SELECT to_regclass('half')") is None
    finally:
        await database.close()


async def test_a_session_that_waits_for_values_holds_no_row_for_ever(database_url: str) -> None:
    """One whose connection went dead between a new statement and its values is not idle: another limit ends it."""
    assert {"transaction_timeout", "idle_in_transaction_session_timeout"} <= _SESSION.keys()
    dead = await Server(database_url, "public", {**_SESSION, "transaction_timeout": "2s"}).connect()
    other = await Server(database_url, "public").connect()
    lock = "SELECT * FROM held WHERE id = 1 FOR NO KEY UPDATE"
    try:
        await other.execute("CREATE TABLE held (id int PRIMARY KEY); INSERT INTO held VALUES (1)")
        await dead.execute(f"BEGIN; {lock}")
        await dead.prepare("SELECT $1::int")
        shown = "SELECT state, wait_event FROM pg_stat_activity WHERE pid = $1"
        (row,) = await other.fetch(shown, dead.get_server_pid())
        assert tuple(row) == ("active", "ClientRead"), "no limit on idle sessions is for this one"

        async def free() -> bool:
            try:
                await other.execute(lock)
            except asyncpg.LockNotAvailableError:
                return False
            return True

        await until(free, seconds=10)
    finally:
        dead.terminate()
        await other.close()


async def test_a_long_piece_of_work_has_its_own_limit(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as to count all answers afresh: what ends a transaction of every day does not end it."""
    monkeypatch.setitem(_SESSION, "transaction_timeout", "1s")
    database = Database(database_url, "public", pool=1)
    try:
        with pytest.raises(Transient):
            async with database.transaction() as tx:
                await tx.execute("SELECT pg_sleep(1.5)")
        async with database.transaction(within=60) as tx:
            await tx.execute("SELECT pg_sleep(1.5)")
    finally:
        await database.close()
