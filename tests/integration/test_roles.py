"""The database roles of docker-compose.yml: each service's own, which owns its schema and sees no other."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import asyncpg
import pytest

from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.embedded.postgres import postgres_binaries
from shared.errors import Misconfigured, Transient
from tests.support.services import MIGRATIONS, NAMES


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """Nothing was migrated yet."""
    return empty_database_url


async def test_each_service_has_its_schema_and_no_other(root: Path, database_url: str) -> None:
    """It migrates it, works in it, and reads nothing of another's."""
    url = database_url.replace("+asyncpg", "")
    passwords = {f"POSTGRES_PASSWORD_{name.upper()}": f"of-{name}" for name in NAMES}
    psql = [
        str(postgres_binaries() / "psql"),
        url,
        "--no-psqlrc",
        "--quiet",
        "--file",
        str(root / "deploy/compose/roles.sql"),
    ]
    admin = await asyncpg.connect(url)
    try:
        done = await asyncio.to_thread(
            subprocess.run, psql, env={**os.environ, **passwords}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        for name in NAMES:
            database = Database(url.replace("fiilis@/", f"fiilis_{name}@/"), name, pool=1)
            other = "scoring" if name != "scoring" else "ticketing"
            try:
                assert await migrate(database, MIGRATIONS.get(name))
                async with database.transaction() as tx:
                    assert await tx.fetchval("SELECT count(*) FROM outbox") == 0
                for statement in (
                    f"SELECT * FROM {other}.outbox",
                    "CREATE SCHEMA mine",
                    "CREATE TABLE public.mine (x int)",
                ):
                    with pytest.raises((Misconfigured, Transient), match="permission denied"):
                        async with database.transaction() as tx:
                            await tx.execute(statement)
            finally:
                await database.close()
    finally:
        for name in NAMES:
            await admin.execute(f"DROP OWNED BY fiilis_{name} CASCADE")
            await admin.execute(f"DROP ROLE fiilis_{name}")
        await admin.close()
