"""PostgreSQL: one pool per service, transactions, and migrations of the service's own schema.

SQLAlchemy keeps the pool and the migrations; statements run on the driver's connection, because building them in
SQLAlchemy cost 1.6 ms a transaction and half of the processor under load. Every table name is unqualified: the
connection's `search_path` is the service's schema.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, TypeAlias, cast

import asyncpg
import sqlalchemy as sa
import sqlalchemy.exc
from alembic import op
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from shared.errors import Misconfigured, Transient

Connection: TypeAlias = "asyncpg.Connection[Any]"
"""The driver's connection inside a transaction; what stores are given."""

SHARED_MIGRATIONS = Path(__file__).parent / "migrations"

# A stopped process holds its row locks until PostgreSQL ends its session: below Kafka's session time-out (6 s), so that
# the partition's next owner does not wait for it (measured: taken over after 6.0-6.4 s).
_SESSION = {
    "idle_in_transaction_session_timeout": "3s",
    "lock_timeout": "3s",
    "statement_timeout": "30s",
    "timezone": "UTC",
    "jit": "off",
    # A plan made while a table was empty reads all of it for ever, until the first ANALYZE: with what a company brought
    # along, scoring took 61 s for 300,000 answers instead of 15. Every statement that is asked often has an index.
    "enable_seqscan": "off",
}
_CONNECT_SECONDS = 5
_POOL_SECONDS = 10

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.DiskFullError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, until the failover is complete
    sqlalchemy.exc.TimeoutError,
)

_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidCatalogNameError,
)


@contextlib.contextmanager
def transient_errors() -> Generator[None]:
    """Turn "the database is away" into Transient and "it lets us not in" into Misconfigured; other errors pass."""
    try:
        yield
    except _REFUSED as error:
        raise _refused(error) from None
    except _AWAY as error:
        if isinstance(error, ValueError):
            raise  # asyncpg: what can be no parameter, which trying again does not change
        raise Transient(f"database: {type(error).__name__}: {error}") from error
    except sqlalchemy.exc.DBAPIError as error:
        # SQLAlchemy opens the connections, and wraps the driver's error twice.
        driver = None if error.orig is None else error.orig.__cause__
        if isinstance(driver, _REFUSED):
            raise _refused(driver) from None
        if error.connection_invalidated or isinstance(error.orig, _AWAY) or isinstance(driver, _AWAY):
            raise Transient(f"database: {error.orig}") from error
        raise


def _session_name(schema: str) -> str:
    """Return what `pg_stat_activity` shows: which of a service's processes holds a lock is told from there."""
    return f"fiilis {schema} {os.getpid()}@{socket.gethostname()}"


def _refused(error: Exception) -> Misconfigured:
    return Misconfigured(f"FIILIS_DATABASE_URL: PostgreSQL says: {error}")


class Database:
    """The database as one service sees it."""

    def __init__(self, url: str, schema: str, *, pool: int = 10) -> None:
        """`url` is `postgresql://...`; `schema` is the service's name."""
        try:
            parsed = make_url(url)
        except sqlalchemy.exc.ArgumentError as error:
            raise Misconfigured(f"FIILIS_DATABASE_URL is not a database address: {error}") from None
        if not parsed.drivername.startswith("postgres"):
            raise Misconfigured(f"FIILIS_DATABASE_URL must be postgresql://..., not {parsed.drivername}://...")
        self.schema = schema
        self._admitted = False
        """It has let us in before: if it does so no longer, that may pass (a restore, a pooler)."""
        self._engine = create_async_engine(
            parsed.set(drivername="postgresql+asyncpg"),
            pool_size=pool,
            max_overflow=0,
            pool_timeout=_POOL_SECONDS,
            pool_reset_on_return=None,  # our transactions always end; a reset would only cost a round trip
            connect_args={
                "timeout": _CONNECT_SECONDS,
                "server_settings": {**_SESSION, "search_path": schema, "application_name": _session_name(schema)},
            },
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        try:
            with transient_errors():
                yield
        except Misconfigured as error:
            if self._admitted:
                raise Transient(str(error)) from None
            raise

    @contextlib.asynccontextmanager
    async def dedicated(self) -> AsyncGenerator[Connection]:
        """Lend a connection of its own, for LISTEN and advisory locks; closed afterwards. Raises Transient."""
        with self._errors():
            async with self._lend() as driver:
                try:
                    yield driver
                finally:
                    driver.terminate()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """Lend a connection inside a transaction: commits at the end, rolls back on an error. Raises Transient."""
        with self._errors():
            async with self._lend() as driver, driver.transaction():
                yield driver

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Connection]:
        """Lend a connection that only reads, and to which every statement shows the same moment. Raises Transient."""
        with self._errors():
            async with self._lend() as driver, driver.transaction(isolation="repeatable_read", readonly=True):
                yield driver

    @contextlib.asynccontextmanager
    async def _lend(self) -> AsyncGenerator[Connection]:
        while True:
            lent = await self._engine.connect()
            driver = await _driver(lent)
            self._admitted = True
            if not driver.is_closed():
                break
            await lent.invalidate()  # it died while it lay in the pool
            await lent.close()
        try:
            yield driver
        except asyncio.CancelledError:
            # Broken off within BEGIN, it would go back to the pool with a transaction that never ends.
            driver.terminate()
            raise
        finally:
            if driver.is_closed():
                await lent.invalidate()
            await asyncio.shield(lent.close())

    async def migrate(self, migrations: Path | None) -> list[str]:
        """Bring the schema to the newest revision; return what was applied. Safe to run twice at once.

        Without migrations of its own the schema has the tables that every service has.
        """
        applied: list[str] = []
        with self._errors():
            async with self._engine.begin() as connection:
                await connection.run_sync(_migrate, self.schema, migrations, applied)
        self._admitted = True
        return applied


def run_script(script: str) -> None:
    """Run a migration's statements, each ended by a semicolon at the end of its line, in the service's schema."""
    schema: str = op.get_context().opts["version_table_schema"]
    op.execute(f'SET LOCAL search_path TO "{schema}"')
    for statement in script.split(";\n"):
        if statement.strip():
            op.execute(statement)


async def _driver(lent: AsyncConnection) -> Connection:
    pooled = await lent.get_raw_connection()
    return cast("Connection", pooled.driver_connection)


def _migrate(connection: sa.Connection, schema: str, migrations: Path | None, applied: list[str]) -> None:
    # Serialises every migration of the installation; released with the transaction.
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('fiilis.migrate'))"))
    connection.execute(sa.text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
    connection.execute(sa.text("SET LOCAL lock_timeout = '30s'"))
    for folder, version_table in ((SHARED_MIGRATIONS, "shared_version"), (migrations, "version")):
        if folder is None:
            continue
        script = ScriptDirectory(str(folder), version_locations=[str(folder)])

        def upgrade(revision: Any, _: Any, script: ScriptDirectory = script) -> Any:
            steps = script._upgrade_revs("head", revision)  # pyright: ignore[reportPrivateUsage]  (what `alembic upgrade` itself calls)
            applied.extend(f"{schema} {step.revision.revision}" for step in steps)
            return steps

        context = MigrationContext.configure(
            connection,
            opts={"version_table": version_table, "version_table_schema": schema, "fn": upgrade},
        )
        with Operations.context(context):
            context.run_migrations()
