"""Real Kafka and real PostgreSQL as child processes, for a laptop and for tests.

The same servers as in production, from Python packages (extra `embedded`): they end with this process however it ends,
keep their data, and come back when they die. Where they cannot run, EmbeddedUnavailable says what to set instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from shared.embedded.errors import EmbeddedUnavailable
from shared.embedded.kafka import EmbeddedKafka
from shared.embedded.postgres import EmbeddedPostgres
from shared.embedded.server import own_folder, to_stderr

__all__ = ["EmbeddedKafka", "EmbeddedPostgres", "EmbeddedUnavailable", "Servers", "embedded", "own_folder"]


@dataclass(frozen=True, slots=True)
class Servers:
    """Both servers, started."""

    kafka: EmbeddedKafka
    postgres: EmbeddedPostgres

    async def watch(self) -> NoReturn:
        """Bring back whichever dies; raise EmbeddedUnavailable when one keeps dying."""
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self.kafka.watch())
                both.create_task(self.postgres.watch())
        except* EmbeddedUnavailable as group:
            raise group.exceptions[0] from None
        raise AssertionError("a watch ended")


@asynccontextmanager
async def embedded(data: Path, *, say: Callable[[str], None] = to_stderr) -> AsyncGenerator[Servers]:
    """Start both at the same time on a folder, and stop both in the end."""
    servers = Servers(EmbeddedKafka(data / "kafka", say=say), EmbeddedPostgres(data / "postgres", say=say))
    try:
        kafka, postgres = await asyncio.gather(servers.kafka.start(), servers.postgres.start(), return_exceptions=True)
        for failed in (kafka, postgres):
            if failed is not None:
                raise failed
        yield servers
    finally:
        await asyncio.gather(servers.kafka.stop(), servers.postgres.stop())
