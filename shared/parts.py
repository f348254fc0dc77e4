"""What the services of one process share, and how each waits for its outside to be there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shared.clock import Clock
from shared.db import Database
from shared.directory.access import Access
from shared.directory.follower import Follower
from shared.errors import Misconfigured, Transient
from shared.http import Guard, Outbound
from shared.kafka import Kafka
from shared.logs import Log
from shared.retry import Backoff
from shared.security import Signer
from shared.service import Service, Settings, opened
from shared.topics import TOPICS

log = Log("shared.parts")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """Built once per process."""

    kafka: Kafka
    database_url: str
    directory: Follower
    access: Access
    clock: Clock


def parts(settings: Settings, clock: Clock, services: tuple[str, ...]) -> Parts:
    """Put together what the services of this process share. Raises Misconfigured naming the missing setting."""
    if settings.kafka is None:
        raise Misconfigured("FIILIS_KAFKA is not set: the bootstrap servers of Kafka, such as kafka:9092")
    if settings.database_url is None:
        raise Misconfigured("FIILIS_DATABASE_URL is not set, such as postgresql://fiilis:secret@db/fiilis")
    kafka = Kafka(settings.kafka, settings.topic_prefix)
    directory = Follower(kafka, services)
    return Parts(kafka, settings.database_url, directory, Access(directory), clock)


def signer(settings: Settings) -> Signer:
    """Return the signer of links. Raises Misconfigured without a secret."""
    if not settings.secrets:
        raise Misconfigured(
            "FIILIS_SECRET is not set: a long random text that signs links; a comma list to replace one"
        )
    return Signer(settings.secrets)


def outbound(settings: Settings) -> Outbound:
    """Return the guarded client."""
    return Outbound(Guard(settings.allow_private_targets))


def directory_service(parts: Parts) -> Service:
    """Return the part of the process that follows the directory, once for all its services."""
    return Service(
        name="directory",
        resources=[opened(lambda: patiently("Kafka", lambda: parts.kafka.ensure_topics(TOPICS)), _nothing)],
        tasks={"follower": parts.directory.run},
        checks={"directory": parts.directory.ready},
    )


@contextlib.asynccontextmanager
async def database_ready(database: Database, migrations: Path) -> AsyncGenerator[None]:
    """Wait for PostgreSQL, migrate the service's schema, and close the pool in the end."""
    try:
        for revision in await patiently("PostgreSQL", lambda: database.migrate(migrations)):
            log.info("migrated", revision=revision)
        yield
    finally:
        await database.close()


async def patiently(what: str, ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the other side is there."""
    backoff = Backoff(0.2, 5)
    attempt = 0
    while True:
        try:
            return await ask()
        except Transient as error:
            attempt += 1
            log.warning(f"waiting for {what}", why=str(error), attempt=attempt)
            await asyncio.sleep(backoff.delay(attempt))


async def _nothing() -> None:
    return None
