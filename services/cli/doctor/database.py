"""PostgreSQL, its settings and clock, the services' schemas, and what services have left in them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from services.cli.doctor.finding import Finding, Findings
from services.cli.offsets import judged
from services.registry import SERVICES, ServiceName
from shared.bus import offsets
from shared.bus.client import Kafka
from shared.database import migrate
from shared.database.pool import Database
from shared.runtime import quarantine
from shared.runtime.settings import Settings

_CLOCK_WARNING, _CLOCK_WRONG = 2.0, 60.0
"""Seconds between our clock and PostgreSQL's."""
_BESIDES = 30
"""Connections that one process of each service may take beside the three pools of FIILIS_DATABASE_POOL."""
_WAITING = "SELECT count(*) FROM outbox WHERE created_at < now() - interval '1 min'"


async def look(url: str, given: Settings, fix: bool) -> Findings:
    """Look at the server and the schemas; `fix` migrates. Raises Transient, and Misconfigured."""
    database = Database(url, "public", pool=2)
    try:
        async with database.transaction() as tx:
            row: Any = await tx.fetchrow(_SERVER)
            yield Finding("ok", "database", f"PostgreSQL {row['version']} lets {row['who']} in, and can be written to")
            for finding in _server(row, _BESIDES + 3 * given.database_pool):
                yield finding
        apart = abs((datetime.now(UTC) - row["now"]).total_seconds())
        if apart > _CLOCK_WARNING:
            level = "wrong" if apart > _CLOCK_WRONG else "warning"
            yield Finding(level, "clocks", f"ours and PostgreSQL's differ by {apart:.0f} s", "run NTP on both machines")
        await database.pooler_refused()
    finally:
        await database.close()
    for name in SERVICES:
        async for finding in _schema(url, name, given, fix, may_create=row["may_create"]):
            yield finding


_SERVER = """
SELECT current_setting('server_version') AS version, current_user AS who, now() AS now,
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    current_setting('max_connections')::int AS connections, current_setting('synchronous_commit') AS commit,
    current_setting('fsync') AS fsync, inet_server_addr() AS at,
    (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS encrypted,
    current_setting('server_version_num')::int AS number
"""


_OWNS = "SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = $1"


def _server(row: Any, needed: int) -> Iterator[Finding]:
    if row["number"] < 140_000:
        yield Finding(
            "wrong", "database", f"PostgreSQL {row['version']} is too old", "14 or newer; 18 is what is tested"
        )
    if row["fsync"] != "on":
        yield Finding("wrong", "database", "fsync is off: a power cut loses what was committed", "fsync = on")
    if row["commit"] == "off":
        what = "synchronous_commit is off: a crash loses what was said to be done"
        yield Finding("wrong", "database", what, "synchronous_commit = on")
    if row["at"] is not None and not row["at"].is_loopback and not row["encrypted"]:
        what = "the connection is not encrypted: what is sent can be read on the way"
        yield Finding("warning", "database", what, "sslmode=verify-full&sslrootcert=FILE in FIILIS_DATABASE_URL")
    if row["connections"] < needed:
        what = f"max_connections is {row['connections']}, one process of each service may take {needed}"
        yield Finding("warning", "database", what, "more, a smaller FIILIS_DATABASE_POOL, or PgBouncer in session mode")


async def _schema(url: str, name: ServiceName, given: Settings, fix: bool, *, may_create: bool) -> Findings:
    database = Database(url, name, pool=1)
    try:
        pending = await migrate.pending(database, SERVICES[name].migrations)
        async with database.transaction() as tx:
            may_create = may_create or bool(await tx.fetchval(_OWNS, name))
        if pending and fix:
            await migrate.migrate(database, SERVICES[name].migrations, url=given.migration_url)
            yield Finding("ok", "database", f"{name}: migrated {', '.join(pending)}")
        elif pending and not may_create and given.migration_url is None:
            remedy = "GRANT CREATE ON DATABASE, or set FIILIS_MIGRATION_URL to a role that may"
            yield Finding("wrong", "database", f"{name}: {len(pending)} migrations wait, and this role may not", remedy)
        elif pending:
            remedy = "the service does it when it starts, or: python -m services migrate"
            yield Finding("warning", "database", f"{name}: {len(pending)} migrations wait", remedy)
    finally:
        await database.close()


async def left_behind(kafka: Kafka, url: str) -> Findings:
    """Look for lost places, rows that were set aside, and messages that wait. Raises Transient, and Misconfigured."""
    for name in SERVICES:
        database = Database(url, name, pool=1)
        try:
            async with database.transaction() as tx:
                if await tx.fetchval("SELECT to_regclass('quarantine')") is None:
                    continue
                places, held = await offsets.all_places(tx), await quarantine.items(tx)
                waiting: Any = await tx.fetchval(_WAITING)
        finally:
            await database.close()
        logs = {topic: await kafka.log_state(topic) for topic in {place.topic for place in places}}
        lost = [found for place in places if isinstance(found := judged(place, logs), offsets.Loss)]
        if lost:
            yield Finding("wrong", name, lost[0].detail, "python -m services offsets show")
        if held:
            yield Finding("wrong", name, f"{len(held)} rows are set aside", "python -m services quarantine list")
        if waiting:
            yield Finding("warning", name, f"{waiting} messages have waited for Kafka for more than a minute")
