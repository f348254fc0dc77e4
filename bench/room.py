"""One service in this process, on servers and a directory of the benchmark's."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from services.registry import Build, ServiceName
from shared.bus.client import Kafka
from shared.bus.provisioning import ensure_topics
from shared.database.pool import Database
from shared.directory.follower import revision_of
from shared.directory.model import Directory
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.process import parts
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.wire.topics import TOPICS


class Room:
    """A service that a benchmark opens, starts, asks and closes."""

    def __init__(
        self,
        name: ServiceName,
        settings: Settings,
        known: Directory,
        build: Build,
        clock: Clock | None = None,
    ) -> None:
        assert settings.kafka is not None
        assert settings.database_url is not None
        self.kafka = Kafka(settings.kafka, settings.topic_prefix)
        self.admin = Database(settings.database_url, name, pool=2)
        self._name = name
        shared = parts(settings, clock or SystemClock(), (name,))
        shared.directory.current = revision_of(1, known)
        self.service: Service = build(settings, shared, lambda: "https://fiilis.example.test")
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Make the topics and tables."""
        await ensure_topics(self.kafka, TOPICS)
        for resource in self.service.resources:
            await resource.__aenter__()

    def start(self) -> None:
        """Begin to work."""
        tasks = [cast("Any", task)() for task in self.service.all_tasks().values()]
        self._tasks = [asyncio.create_task(task) for task in tasks]

    async def wait(self) -> None:
        """Work until a task fails, and raise that."""
        await asyncio.gather(*self._tasks)

    async def ask(self, statement: str) -> Any:
        """Return one value of the database."""
        for task in self._tasks:
            if task.done():
                task.result()
        async with self.admin.transaction() as tx:
            return await tx.fetchval(statement)

    async def close(self) -> None:
        """Stop, and forget everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for resource in reversed(self.service.resources):
            await resource.__aexit__(None, None, None)
        async with self.admin.transaction() as tx:
            await tx.execute(f"DROP SCHEMA {self._name} CASCADE")
        await self.admin.close()
