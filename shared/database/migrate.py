"""Migrations of a service's own schema: looked at first, done in a session of their own, told step by step.

They wait for locks a few seconds at a time, so that what runs meanwhile is never queued behind them, and take as long
as they need otherwise. A schema that is newer than this code is left alone: it only ever grows within a release.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from shared.database.pool import Database, Locked
from shared.errors import Transient
from shared.runtime.logs import Log
from shared.runtime.retry import Backoff

log = Log("shared.database.migrate")

_LOCK_TRIES = 120
"""At 5 s each: what holds a table for longer than that is told to whoever waits."""

Say = Callable[[str], None]


class Migrations(NamedTuple):
    """A folder of migrations, each a file whose name begins with its number."""

    table: str
    """Which has the revision that the schema is at."""
    folder: Path
    revisions: tuple[str, ...]
    """In order."""


async def migrate(
    database: Database, migrations: Path | None, *, url: str | None = None, say: Say = log.info
) -> list[str]:
    """Bring a schema to the newest revision; return what was applied. Safe to run twice at once. Raises Transient.

    Without migrations of its own the schema has the tables that every service has. `url`: of a role that may change
    the schema, when the service's own may not; its tables are then granted to the service's.
    """
    waiting = await pending(database, migrations)
    if not waiting:
        return []
    from shared.database.upgrade import upgrade  # noqa: PLC0415 (Alembic is a tenth of what a start imports)

    say(f"migrating {database.schema}: {', '.join(waiting)}")
    backoff = Backoff(0.2, 2)
    for attempt in range(1, _LOCK_TRIES + 1):
        try:
            return await upgrade(database, folders(migrations), url, say)
        except Locked:
            say(f"migrating {database.schema}: waits for a lock that something else holds (try {attempt})")
            await asyncio.sleep(backoff.delay(attempt))
    raise Transient(f"{database.schema}: something holds its tables; see pg_locks, and try again", of="PostgreSQL")


async def pending(database: Database, migrations: Path | None) -> list[str]:
    """Return the revisions that the schema does not have, looked up with the service's own rights."""
    waiting: list[str] = []
    async with database.transaction() as tx:
        for table, _, revisions in folders(migrations):
            there = await tx.fetchval("SELECT to_regclass($1)", f'"{database.schema}".{table}')
            current = None if there is None else await tx.fetchval(f"SELECT version_num FROM {table}")
            if current is None:
                waiting += revisions
            elif current in revisions:
                waiting += revisions[revisions.index(current) + 1 :]
            else:
                log.info("the schema is newer than this code", schema=database.schema, revision=current)
    return waiting


def folders(migrations: Path | None) -> tuple[Migrations, ...]:
    """Return what a schema has: the tables of every service, and its own."""
    shared = _read("shared_version", Path(__file__).parent / "migrations", "shared_")
    return (shared,) if migrations is None else (shared, _read("version", migrations))


def _read(table: str, folder: Path, prefix: str = "") -> Migrations:
    numbers = sorted(file.name.partition("_")[0] for file in folder.glob("[0-9]*_*.py"))
    return Migrations(table, folder, tuple(prefix + number for number in numbers))
