"""Migrations of a service's own schema: looked at first, done in a session of their own, told step by step.

They wait for locks a few seconds at a time, so that what runs meanwhile is never queued behind them, and take as long
as they need otherwise. A schema that is newer than this code is left alone: it only ever grows within a release.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from shared.database.pool import Database, Locked, Server, transient_errors
from shared.errors import Transient
from shared.runtime.logs import Log
from shared.runtime.retry import Backoff

log = Log("shared.database.migrate")

SHARED_MIGRATIONS = Path(__file__).parent / "migrations"

_SESSION = {"statement_timeout": "0", "lock_timeout": "5s", "timezone": "UTC"}
_LOCK_TRIES = 120
"""At 5 s each: what holds a table for longer than that is told to whoever waits."""

Say = Callable[[str], None]


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
    say(f"migrating {database.schema}: {', '.join(waiting)}")
    backoff = Backoff(0.2, 2)
    for attempt in range(1, _LOCK_TRIES + 1):
        try:
            return await _apply(database, migrations, url, say)
        except Locked:
            say(f"migrating {database.schema}: waits for a lock that something else holds (try {attempt})")
            await asyncio.sleep(backoff.delay(attempt))
    raise Transient(f"{database.schema}: something holds its tables; see pg_locks, and try again", of="PostgreSQL")


def run_script(script: str) -> None:
    """Run a migration's statements, each ended by a semicolon at the end of its line, in the service's schema."""
    schema: str = op.get_context().opts["version_table_schema"]
    op.execute(f'SET LOCAL search_path TO "{schema}"')
    for statement in script.split(";\n"):
        if statement.strip():
            op.execute(statement)


def _folders(migrations: Path | None) -> list[tuple[str, ScriptDirectory]]:
    """Return the tables of versions, and the folders that they tell of."""
    folders = [("shared_version", SHARED_MIGRATIONS), *([("version", migrations)] if migrations is not None else [])]
    return [(table, ScriptDirectory(str(folder), version_locations=[str(folder)])) for table, folder in folders]


async def pending(database: Database, migrations: Path | None) -> list[str]:
    """Return the revisions that the schema does not have, looked up with the service's own rights."""
    waiting: list[str] = []
    async with database.transaction() as tx:
        for table, script in _folders(migrations):
            there = await tx.fetchval("SELECT to_regclass($1)", f'"{database.schema}".{table}')
            current = None if there is None else await tx.fetchval(f"SELECT version_num FROM {table}")
            waiting += [step.revision.revision for step in _steps(script, current, database.schema)]
    return waiting


def _steps(script: ScriptDirectory, current: Any, schema: str) -> Sequence[Any]:
    """Return the steps that are missing; none where the schema is newer than this code."""
    try:
        return script._upgrade_revs("head", current)  # pyright: ignore[reportPrivateUsage]  (what `alembic upgrade` itself calls)
    except CommandError:
        log.info("the schema is newer than this code", schema=schema, revision=current)
        return []


async def _apply(database: Database, migrations: Path | None, url: str | None, say: Say) -> list[str]:
    role = None if url is None else await _role(database)
    setting = "FIILIS_DATABASE_URL" if url is None else "FIILIS_MIGRATION_URL"
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=Server(url or database.url, database.schema, _SESSION, setting=setting).connect,
        poolclass=NullPool,
    )
    applied: list[str] = []
    try:
        with transient_errors():
            async with engine.connect() as connection:
                more = True
                while more:
                    # Each step by itself: what one locks is not held while the next reads a whole table.
                    async with connection.begin():
                        more = await connection.run_sync(_migrate, database.schema, migrations, applied, say)
                        if role is not None:
                            await connection.run_sync(_grant, database.schema, role)
    finally:
        await engine.dispose()
    return applied


def _migrate(connection: sa.Connection, schema: str, migrations: Path | None, applied: list[str], say: Say) -> bool:
    """Apply the next step that is missing; tell whether there was one."""
    # Serialises the steps of the installation; released with the transaction.
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('fiilis.migrate'))"))
    if connection.execute(sa.text("SELECT to_regnamespace(:schema)"), {"schema": f'"{schema}"'}).scalar() is None:
        connection.execute(sa.text(f'CREATE SCHEMA "{schema}"'))
    for table, script in _folders(migrations):
        begun = time.monotonic()

        def upgrade(revision: Any, _: Any, script: ScriptDirectory = script) -> Any:
            return _steps(script, revision, schema)[:1]

        def told(step: Any, **_: Any) -> None:
            nonlocal begun
            applied.append(f"{schema} {step.up_revision_id}")
            say(f"applied {schema} {step.up_revision_id} ({time.monotonic() - begun:.1f} s)")
            begun = time.monotonic()

        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": table,
                "version_table_schema": schema,
                "fn": upgrade,
                "on_version_apply": (told,),
            },
        )
        before = len(applied)
        with Operations.context(context):
            context.run_migrations()
        if len(applied) > before:
            return True
    return False


async def _role(database: Database) -> str:
    """Return the role of the service itself."""
    async with database.transaction() as tx:
        return str(await tx.fetchval("SELECT current_user"))


def _grant(connection: sa.Connection, schema: str, user: str) -> None:
    """Let the service's own role work in the schema that another role has made."""
    if user == connection.execute(sa.text("SELECT current_user")).scalar():
        return
    role = connection.execute(sa.text("SELECT quote_ident(:user)"), {"user": user}).scalar()
    for statement in (
        f'GRANT USAGE ON SCHEMA "{schema}" TO {role}',
        f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO {role}',
        f'GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA "{schema}" TO {role}',
    ):
        connection.execute(sa.text(statement))
