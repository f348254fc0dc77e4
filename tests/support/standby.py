"""A real streaming replica of an embedded PostgreSQL, to fail over to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import asyncpg

from shared.embedded import EmbeddedPostgres
from shared.embedded.postgres import NAME, postgres_binaries, system_user
from tests.support.wait import until


class Standby:
    """Follows a primary synchronously: what that one said is committed, this one has."""

    def __init__(self, primary: EmbeddedPostgres, folder: Path) -> None:
        self._primary = primary
        self._data = folder / "data"
        self.sockets = folder / "sockets"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"postgresql://{NAME}@/{NAME}?host={self.sockets}"

    async def start(self) -> Standby:
        """Copy the primary, follow it, and let it wait for us from now on."""
        user = system_user()
        self.sockets.mkdir(parents=True)
        if user is not None:
            for folder in (self.sockets, self.sockets.parent):
                shutil.chown(folder, user, user)
        primary = str(self._primary.url).split("host=")[1]
        copy = await self._run("pg_basebackup", "-h", primary, "-U", NAME, "-D", str(self._data), "-R", "-X", "stream")
        assert await copy.wait() == 0
        self._process = await self._run(
            "postgres",
            "-D",
            str(self._data),
            "-c",
            f"unix_socket_directories={self.sockets}",
            "-c",
            "listen_addresses=",
        )
        await until(self._follows, seconds=30)
        connection = await asyncpg.connect(self._primary.url.replace("+asyncpg", ""))
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
        return self

    async def promote(self) -> None:
        """Make it the primary."""
        connection = await asyncpg.connect(self.url)
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        assert await connection.fetchval("SELECT pg_promote()")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()

    async def stop(self) -> None:
        """End it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
            await self._process.wait()

    async def _follows(self) -> bool:
        try:
            connection = await asyncpg.connect(self._primary.url.replace("+asyncpg", ""))
            try:
                return bool(
                    await connection.fetchval("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
                )
            finally:
                await connection.close()
        except (OSError, asyncpg.PostgresError):
            return False

    async def _run(self, program: str, *arguments: str) -> asyncio.subprocess.Process:
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        user = system_user()
        who: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        return await asyncio.create_subprocess_exec(
            str(postgres_binaries() / program),
            *arguments,
            **who,
            cwd="/",
            env={**kept, "LC_ALL": "C"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
