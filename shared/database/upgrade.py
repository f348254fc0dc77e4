"""Applies migrations, by Alembic: each step in a transaction of its own, one process at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from shared.database.migrate import Migrations, Say
from shared.database.pool import Database, Server, transient_errors

_SESSION = {"statement_timeout": "0", "lock_timeout": "5s", "timezone": "UTC"}


def run_script(script: str) -> None:
    """Run a migration's statements, each ended by a semicolon at the end of its line, in the service's schema."""
    schema: str = op.get_context().opts["version_table_schema"]
    op.execute(f'SET LOCAL search_path TO "{schema}"')
    for statement in script.split(";\n"):
        if statement.strip():
            op.execute(statement)


def _steps(script: ScriptDirectory, current: Any) -> Sequence[Any]:
    """Return the steps that are missing; none where the schema is newer than this code."""
    try:
        return script._upgrade_revs("head", current)  # pyright: ignore[reportPrivateUsage]  (what `alembic upgrade` itself calls)
    except CommandError:
        return []


async def upgrade(database: Database, folders: Sequence[Migrations], url: str | None, say: Say) -> list[str]:
    """Bring the schema up to date; return what was applied. Raises Transient, and Locked."""
    role = None if url is None else await _role(database)
    setting = "FIILIS_DATABASE_URL" if url is None else "FIILIS_MIGRATION_URL"
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=Server(url or database.url, database.schema, _SESSION, setting=setting).connect,
        poolclass=NullPool,
    )
    scripts = [(table, ScriptDirectory(str(folder), version_locations=[str(folder)])) for table, folder, _ in folders]
    applied: list[str] = []
    try:
        with transient_errors():
            async with engine.connect() as connection:
                more = True
                while more:
                    # Each step by itself: what one locks is not held while the next reads a whole table.
                    async with connection.begin():
                        more = await connection.run_sync(_step, database.schema, scripts, applied, say)
                        if role is not None:
                            await connection.run_sync(_grant, database.schema, role)
    finally:
        await engine.dispose()
    return applied


def _step(
    connection: sa.Connection, schema: str, scripts: Sequence[tuple[str, ScriptDirectory]], applied: list[str], say: Say
) -> bool:
    """Apply the next step that is missing; tell whether there was one."""
    # Serialises the steps of the installation; released with the transaction.
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('fiilis.migrate'))"))
    if connection.execute(sa.text("SELECT to_regnamespace(:schema)"), {"schema": f'"{schema}"'}).scalar() is None:
        connection.execute(sa.text(f'CREATE SCHEMA "{schema}"'))
    for table, script in scripts:
        begun = time.monotonic()

        def next_step(revision: Any, _: Any, script: ScriptDirectory = script) -> Any:
            return _steps(script, revision)[:1]

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
                "fn": next_step,
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
