"""What tests of stores share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from shared.database.migrate import migrate
from shared.database.pool import Database
from tests.support.services import MIGRATIONS


@pytest.fixture
async def of(database_url: str) -> AsyncIterator[Callable[[Any], Awaitable[Database]]]:
    """Migrate the schema of a named service."""
    made: list[Database] = []

    async def migrated(service: Any) -> Database:
        made.append(Database(database_url, service, pool=3))
        await migrate(made[-1], MIGRATIONS[service])
        return made[-1]

    yield migrated
    for one in made:
        await one.close()
