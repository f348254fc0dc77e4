"""PostgreSQL: one pool per service, and transactions that end.

SQLAlchemy keeps the pool; statements run on the driver's connection, because building them in SQLAlchemy cost 1.6 ms a
transaction and half of the processor under load. Every table name is unqualified: the connection's `search_path` is
the service's schema.

Every transaction has a deadline of ours, a little over the server's: a socket that a firewall has forgotten answers
nothing, and PostgreSQL cannot end what it never hears of (seen: 76 s of nothing, with every probe green). A connection
that missed it, or says that it cannot write, is thrown away, and every other one that is as old with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, TypeAlias, cast
from urllib.parse import parse_qs, urlsplit

import asyncpg
import sqlalchemy.exc
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from shared.database.address import address, refused_by_tls
from shared.errors import Misconfigured, Transient
from shared.runtime.sockets import keep_alive

Connection: TypeAlias = "asyncpg.Connection[Any]"
"""The driver's connection inside a transaction; what stores are given."""

_STATEMENT_SECONDS = 20
_MARGIN_SECONDS = 5
"""How much later than the server we give up."""
# A connection that goes dead between a new statement and its values leaves a session that is not idle, and that no
# other limit ends: it would hold its locks for ever. PostgreSQL has this one from 17 on.
_TRANSACTION_LIMIT = "transaction_timeout"
_LIMITED_FROM = 17
# A stopped process holds its row locks until PostgreSQL ends its session: below Kafka's session time-out (6 s), so that
# the partition's next owner does not wait for it (measured: taken over after 6.0-6.4 s).
_SESSION = {
    "idle_in_transaction_session_timeout": "3s",
    "lock_timeout": "3s",
    "statement_timeout": f"{_STATEMENT_SECONDS}s",
    _TRANSACTION_LIMIT: f"{_STATEMENT_SECONDS + _MARGIN_SECONDS}s",
    "timezone": "UTC",
    "jit": "off",
    # A plan made while a table was empty reads all of it for ever, until the first ANALYZE: with what a company brought
    # along, scoring took 61 s for 300,000 answers instead of 15. Every statement that is asked often has an index.
    "enable_seqscan": "off",
}
_CONNECT_SECONDS = 5
_POOL_SECONDS = 10
_COMMAND_SECONDS = 15.0
"""Of a single statement on a connection of its own."""

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
    asyncpg.TransactionTimeoutError,
    asyncpg.DiskFullError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, until the failover is complete
    sqlalchemy.exc.TimeoutError,
)

_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)

_POOLED_BY_TRANSACTION = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)
TRANSACTION_POOLER = (
    "FIILIS_DATABASE_URL: a pooler gives each transaction another session (PgBouncer's pool_mode = transaction), and "
    "Fiilis needs sessions of its own: set pool_mode = session, or name PostgreSQL itself"
)


class Refused(Misconfigured):
    """PostgreSQL is there, and lets us not in, or not do what we have to."""


class Locked(Transient):
    """Something else has held a lock for longer than we wait for one."""


class TooSlow(Transient):
    """A statement took longer than it may."""


_KINDS: dict[type[BaseException], type[Transient]] = {
    asyncpg.LockNotAvailableError: Locked,
    asyncpg.QueryCanceledError: TooSlow,
}


@contextlib.contextmanager
def transient_errors() -> Generator[None]:
    """Turn "the database is away" into Transient and "it lets us not in" into Refused; other errors pass."""
    try:
        yield
    except _REFUSED as error:
        raise _refused(error) from None
    except _POOLED_BY_TRANSACTION:
        raise Refused(TRANSACTION_POOLER) from None
    except _AWAY as error:
        if isinstance(error, ValueError):
            raise  # asyncpg: what can be no parameter, which trying again does not change
        raise _away(error) from error
    except sqlalchemy.exc.DBAPIError as error:
        # SQLAlchemy opens the connections, and wraps the driver's error twice.
        driver = None if error.orig is None else error.orig.__cause__
        if isinstance(driver, _REFUSED):
            raise _refused(driver) from None
        if error.connection_invalidated or isinstance(error.orig, _AWAY) or isinstance(driver, _AWAY):
            raise _away(driver or error.orig or error) from error
        raise


def _away(error: BaseException) -> Transient:
    kind = _KINDS.get(type(error), Transient)
    return kind(f"database: {type(error).__name__}: {error}", of="PostgreSQL")


def _refused(error: Exception, setting: str = "FIILIS_DATABASE_URL") -> Refused:
    text = f"{setting}: PostgreSQL says: {error}"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        text += (
            "; the role needs USAGE on the service's schema and all rights on its tables, and to migrate CREATE on the "
            "database (GRANT CREATE ON DATABASE ... TO ...), which FIILIS_MIGRATION_URL can have in its place"
        )
    return Refused(text)


def _session_name(schema: str) -> str:
    """Return what `pg_stat_activity` shows: which of a service's processes holds a lock is told from there."""
    return f"fiilis {schema} {os.getpid()}@{socket.gethostname()}"[:63]


def plain_url(url: str, setting: str = "FIILIS_DATABASE_URL") -> str:
    """Return a database address as libpq writes it. Raises Misconfigured, which shows nothing of it."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise _no_address(setting)
    if scheme.partition("+")[0] not in {"postgresql", "postgres"}:
        raise Misconfigured(f"{setting} must be postgresql://..., not {scheme}://...")
    try:
        _ = urlsplit(f"postgresql://{rest}").username
    except ValueError:
        raise _no_address(setting) from None
    return f"postgresql://{rest}"


def _no_address(setting: str = "FIILIS_DATABASE_URL") -> Misconfigured:
    return Misconfigured(
        f"{setting} is not a database address: it must be postgresql://user:password@host/database, and characters "
        "such as / # ? [ ] @ in a password must be written as %2F %23 %3F %5B %5D %40"
    )


class Server:
    """Opens connections to the database as one service uses it."""

    def __init__(
        self,
        url: str,
        schema: str,
        session: Mapping[str, str] = _SESSION,
        *,
        setting: str = "FIILIS_DATABASE_URL",
    ) -> None:
        """`url` takes libpq's names (`sslmode`, several hosts, ...); `setting` has it. Raises Misconfigured."""
        self._setting = setting
        self._dsn, self._tls = address(plain_url(url, setting), setting)
        self._schema = schema
        self._session = session
        # After a fail-over only one of several hosts can write; a standby that is named alone is waited for.
        self._attributes: Any = None if "target_session_attrs" in parse_qs(urlsplit(self._dsn).query) else "read-write"

    async def connect(self, *, command_seconds: float | None = None) -> Connection:
        """Open one. Raises what the driver raises, and Misconfigured."""
        try:
            connection = await asyncpg.connect(
                self._dsn,
                timeout=_CONNECT_SECONDS,
                command_timeout=command_seconds,
                target_session_attrs=self._attributes,
                server_settings={"application_name": _session_name(self._schema)},
                ssl=self._tls,
            )
        except (ssl.SSLError, ConnectionError, asyncpg.PostgresConnectionError) as error:
            why = refused_by_tls(error)
            if why is None:
                raise
            raise Refused(f"{self._setting}: {why}") from None
        except _REFUSED as error:
            raise _refused(error, self._setting) from None
        except ValueError:  # asyncpg's errors about an address are of this kind, too, and may quote the password
            raise _no_address(self._setting) from None
        try:
            keep_alive(connection._transport)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]  (asyncpg has no other way)
            encoding = connection.get_settings().server_encoding
            if encoding != "UTF8":
                raise Misconfigured(
                    f"FIILIS_DATABASE_URL: the database is encoded in {encoding}, which cannot hold what people write: "
                    "create one with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
                )
            # Not at the start of the session, where a pooler refuses what it does not know.
            known = connection.get_server_version().major >= _LIMITED_FROM
            session = {name: value for name, value in self._session.items() if known or name != _TRANSACTION_LIMIT}
            await connection.execute(
                "; ".join(f"SET {name} = '{value}'" for name, value in session.items())
                + f'; SET search_path = "{self._schema}"',
                timeout=_CONNECT_SECONDS,
            )
        except BaseException:
            connection.terminate()
            raise
        return connection


class Database:
    """The database as one service sees it."""

    def __init__(self, url: str, schema: str, *, pool: int = 10) -> None:
        """`url` is `postgresql://...`; `schema` is the service's name. Raises Misconfigured."""
        self.url = url
        self.schema = schema
        self._server = Server(url, schema)
        self._admitted = False
        """It has let us in before: if it does so no longer, that may pass (a restore, a pooler)."""
        self._generation = 0
        """Connections of an earlier one are thrown away instead of lent."""
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._server.connect,
            pool_size=pool,
            max_overflow=0,
            pool_timeout=_POOL_SECONDS,
            pool_reset_on_return=None,  # our transactions always end; a reset would only cost a round trip
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    @contextlib.contextmanager
    def errors(self) -> Generator[None]:
        """Turn the driver's errors into ours; what refuses us may pass, once it has let us in."""
        try:
            with transient_errors():
                yield
        except Refused as error:
            if self._admitted:
                raise Transient(str(error), of="PostgreSQL") from None
            raise
        self._admitted = True

    @contextlib.asynccontextmanager
    async def dedicated(self) -> AsyncGenerator[Connection]:
        """Lend a connection of its own, for LISTEN and advisory locks; closed afterwards. Raises Transient.

        A statement on it that is not answered within 15 s ends with Transient.
        """
        with self.errors():
            driver = await self._server.connect(command_seconds=_COMMAND_SECONDS)
            self._admitted = True
            try:
                yield driver
            finally:
                driver.terminate()

    @contextlib.asynccontextmanager
    async def transaction(self, *, within: float = _STATEMENT_SECONDS) -> AsyncGenerator[Connection]:
        """Lend a connection inside a transaction: commits at the end, rolls back on an error. Raises Transient.

        `within`: seconds that it may take; after them, and some more for the server to say so, the connection is cut.
        """
        async with self._begun(within) as driver:
            yield driver

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Connection]:
        """Lend a connection that only reads, and to which every statement shows the same moment. Raises Transient."""
        async with self._begun(_STATEMENT_SECONDS, isolation="repeatable_read", readonly=True) as driver:
            yield driver

    @contextlib.asynccontextmanager
    async def _begun(self, within: float, **options: Any) -> AsyncGenerator[Connection]:
        with self.errors():
            async with self._lend(within) as driver:
                transaction = driver.transaction(**options)
                await transaction.start()
                try:
                    if within != _STATEMENT_SECONDS:
                        await driver.execute(f"SET LOCAL statement_timeout = '{round(within)}s'")
                        if driver.get_server_version().major >= _LIMITED_FROM:
                            await driver.execute(f"SET LOCAL {_TRANSACTION_LIMIT} = 0")  # it is not counted anew
                    yield driver
                except asyncio.CancelledError:
                    raise  # `_lend` cuts the connection: a ROLLBACK on a dead one would wait for ever
                except BaseException:
                    if not driver.is_closed():
                        await transaction.rollback()
                    raise
                else:
                    await transaction.commit()

    @contextlib.asynccontextmanager
    async def _lend(self, within: float) -> AsyncGenerator[Connection]:
        lent, driver = await self._checked_out()
        overdue = False

        def cut() -> None:
            nonlocal overdue
            overdue = True
            driver.terminate()

        timer = asyncio.get_running_loop().call_later(within + _MARGIN_SECONDS, cut)
        try:
            yield driver
        except asyncio.CancelledError:
            # Broken off within BEGIN, it would go back to the pool with a transaction that never ends.
            driver.terminate()
            raise
        except asyncpg.ReadOnlySQLTransactionError:
            self._generation += 1  # they all lead to a server that is the primary no longer
            driver.terminate()
            raise
        except Exception as error:
            if overdue:
                self._generation += 1  # what ate this one's packets has forgotten the others as well
                why = f"database: no answer within {within + _MARGIN_SECONDS:g} s; the connection is given up"
                raise Transient(why, of="PostgreSQL") from error
            raise
        finally:
            timer.cancel()
            if driver.is_closed():
                await lent.invalidate()
            await asyncio.shield(lent.close())

    async def _checked_out(self) -> tuple[AsyncConnection, Connection]:
        """Return a connection of the pool that is open and of this generation."""
        while True:
            async with asyncio.timeout(_POOL_SECONDS + 2 * _CONNECT_SECONDS):
                lent = await self._engine.connect()
            pooled = await lent.get_raw_connection()
            driver = cast("Connection", pooled.driver_connection)
            if driver.is_closed() or pooled.info.setdefault("generation", self._generation) != self._generation:
                # It died while it lay in the pool, or leads to where nobody answers any more.
                driver.terminate()
                await lent.invalidate()
                await lent.close()
                continue
            self._admitted = True
            return lent, driver

    async def pooler_refused(self) -> None:
        """Raise Misconfigured when a pooler lies between us and the server that changes sessions between transactions.

        Two connections at once: one asks who serves it before and after the other has begun a transaction; a pooler by
        transaction gives the other one the same session, and then this one another.
        """
        with self.errors():
            first = await self._server.connect(command_seconds=_COMMAND_SECONDS)
            try:
                second = await self._server.connect(command_seconds=_COMMAND_SECONDS)
                try:
                    before = await first.fetchval("SELECT pg_backend_pid()")
                    async with second.transaction():
                        other = await second.fetchval("SELECT pg_backend_pid()")
                        after = await first.fetchval("SELECT pg_backend_pid()")
                finally:
                    second.terminate()
            finally:
                first.terminate()
        if before == other or after != before:
            raise Misconfigured(TRANSACTION_POOLER)
