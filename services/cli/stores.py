"""The services' schemas, as commands reach them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from services import kept
from services.cli.environment import settings
from services.registry import SERVICES
from shared.database.pool import Database
from shared.errors import Misconfigured


def database_url(data: Path) -> str:
    """Return the address of the database of the settings, or of everything in one process. Raises Misconfigured."""
    given = settings()
    return given.database_url or kept.database(data) or given.named_database


@contextlib.asynccontextmanager
async def databases(data: Path) -> AsyncGenerator[dict[str, Database]]:
    """Lend the services' schemas that exist, by the service's name. Raises Misconfigured."""
    url = database_url(data)
    made = {name: Database(url, name, pool=1) for name in SERVICES}
    try:
        there: dict[str, Database] = {}
        for name, database in made.items():
            async with database.transaction() as tx:
                if await tx.fetchval("SELECT to_regclass('consumer_offset')") is not None:
                    there[name] = database
        if not there:
            raise Misconfigured("the database has no tables of Fiilis yet: python -m services migrate")
        yield there
    finally:
        for database in made.values():
            await database.close()
