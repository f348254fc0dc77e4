"""PostgreSQL by TLS, by libpq's names in the address: whom we believe, and how a refusal is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.errors import Misconfigured, Transient
from tests.support.certificates import NEEDED, Authority
from tests.support.processes import command
from tests.support.services import MIGRATIONS
from tests.support.tls import TlsPostgres

pytestmark = NEEDED


class Wire:
    """A server that does TLS, and one that wants a certificate."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.authority, self.stranger = Authority(folder / "ours"), Authority(folder / "theirs", "stranger")
        path, _, query = database_url.partition("?")
        self.name = path.rpartition("/")[2]
        self.socket = Path(query.removeprefix("host=")) / ".s.PGSQL.5432"
        self.doors: list[TlsPostgres] = []

    async def door(self, *, tls: bool = True, clients: bool = False) -> TlsPostgres:
        """Return a server."""
        context = self.authority.server(clients=clients) if tls else None
        self.doors.append(await TlsPostgres(self.socket, context).start())
        return self.doors[-1]

    def url(self, door: TlsPostgres, host: str = "127.0.0.1", **names: object) -> str:
        """Return an address with these names of libpq's."""
        query = "&".join(f"{name}={value}" for name, value in names.items())
        return f"postgresql://fiilis@{host}:{door.port}/{self.name}?{query}"


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """Nothing was migrated yet."""
    return empty_database_url


@pytest.fixture
async def wire(tmp_path: Path, database_url: str) -> AsyncIterator[Wire]:
    made = Wire(tmp_path, database_url)
    yield made
    for door in made.doors:
        await door.close()


async def one(url: str) -> object:
    database = Database(url, "public", pool=1)
    try:
        async with database.transaction() as tx:
            return await tx.fetchval("SELECT 1")
    finally:
        await database.close()


async def test_verified(wire: Wire) -> None:
    """With our authority, also for migrations and by their own address; a client's certificate where one is asked."""
    door, own = await wire.door(), wire.authority.file
    assert await one(wire.url(door, sslmode="verify-full", sslrootcert=own)) == 1
    assert await one(wire.url(door, "localhost", sslmode="verify-full", sslrootcert=own)) == 1
    assert door.encrypted == 2
    certificate, key = wire.authority.certificate("client")
    strict = await wire.door(clients=True)
    full = {"sslmode": "verify-full", "sslrootcert": own}
    assert await one(wire.url(strict, **full, sslcert=certificate, sslkey=key)) == 1
    migrating = wire.url(door, sslmode="verify-ca", sslrootcert=own)
    database = Database(wire.url(strict, **full, sslcert=certificate, sslkey=key), "scoring", pool=1)
    try:
        before = door.encrypted
        assert await migrate(database, MIGRATIONS["scoring"], url=migrating)
        assert door.encrypted == before + 1
    finally:
        await database.close()


async def test_refusals_are_told_as_such(wire: Wire) -> None:
    """They were an outage, waited for without end."""
    door, plain, other = await wire.door(), await wire.door(tls=False), wire.stranger.file
    with pytest.raises(Misconfigured, match=r"FIILIS_DATABASE_URL: the server's certificate is not accepted"):
        await one(wire.url(door, sslmode="verify-full", sslrootcert=other))
    with pytest.raises(Misconfigured, match="does no TLS, and sslmode asks for it"):
        await one(wire.url(plain, sslmode="require"))
    assert await one(wire.url(plain, sslmode="prefer")) == 1


async def test_what_was_let_in_once_waits(wire: Wire) -> None:
    """A certificate that has run out under a running service is a refusal that may pass."""
    door = await wire.door()
    database = Database(wire.url(door, sslmode="verify-full", sslrootcert=wire.authority.file), "public", pool=1)
    try:
        async with database.transaction() as tx:
            await tx.execute("SELECT 1")
        door._context = wire.stranger.server()
        with pytest.raises(Transient, match="certificate is not accepted"):
            async with database.dedicated():
                pass
    finally:
        await database.close()


async def test_commands_say_it_in_one_line(wire: Wire) -> None:
    """With exit code 2, and by the name of the setting that is wrong."""
    door = await wire.door()
    good = wire.url(door, sslmode="verify-full", sslrootcert=wire.authority.file)
    bad = wire.url(door, sslmode="verify-full", sslrootcert=wire.stranger.file)
    for settings, named in (
        ({"FIILIS_DATABASE_URL": bad}, "FIILIS_DATABASE_URL: the server's certificate"),
        ({"FIILIS_DATABASE_URL": good, "FIILIS_MIGRATION_URL": bad}, "FIILIS_MIGRATION_URL: the server's certificate"),
        ({"FIILIS_DATABASE_URL": good, "FIILIS_MIGRATION_URL": "mysql://x"}, "FIILIS_MIGRATION_URL must be postgresql"),
    ):
        done = await command("migrate", **settings)
        assert (done.code, named in done.err) == (2, True), done.err
        assert done.err.count("\n") == 1
    done = await command("migrate", FIILIS_DATABASE_URL=good)
    assert done.code == 0, done.err
