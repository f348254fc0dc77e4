"""What the services of one process share, and how each waits for its outside to be there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
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

_ASK_EVERY = 2.0
_ANSWER_WITHIN = 3.0
_CONNECT_WITHIN = 6.0
"""Seconds."""
_FAILURES = 2
"""In a row; one broker of several may just be restarted."""


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


def outside(parts: Parts, *, either: bool) -> Service:
    """Return the part of the process that follows the directory and asks whether Kafka and PostgreSQL are there.

    Once for all services of the process; `either`: one of the two is enough for their work.
    """
    kafka = Reachable("Kafka", partial(_kafka, parts.kafka))
    postgres = Reachable("PostgreSQL", partial(_postgres, parts.database_url))
    asked = {"kafka": kafka.missing, "postgresql": postgres.missing}

    def away() -> dict[str, str]:
        return {name: why for name, missing in asked.items() if (why := missing()) is not None}

    def nothing() -> str | None:
        return ", ".join(away().values()) if len(away()) == len(asked) else None

    return Service(
        name="outside",
        resources=[opened(lambda: patiently("Kafka", lambda: parts.kafka.ensure_topics(TOPICS)), _nothing)],
        tasks={"follower": parts.directory.run, "kafka": kafka.run, "postgresql": postgres.run},
        checks={"directory": parts.directory.ready, **({"kafka or postgresql": nothing} if either else asked)},
        notes=away if either else dict,
    )


Ask = Callable[[], Awaitable[object]]


class Reachable:
    """Asks again and again whether another side answers: who cannot work is to say so at `/readyz`."""

    def __init__(self, what: str, reach: Callable[[], AbstractAsyncContextManager[Ask]]) -> None:
        """`reach` connects and lends what asks; both raise Transient."""
        self._what = what
        self._reach = reach
        self._failures = 0

    def missing(self) -> str | None:
        """Return what readiness tells, None while it answers."""
        return f"{self._what} does not answer" if self._failures >= _FAILURES else None

    async def run(self) -> None:
        """Ask as long as the process lives."""
        while True:
            try:
                async with contextlib.AsyncExitStack() as connected:
                    async with asyncio.timeout(_CONNECT_WITHIN):
                        ask = await connected.enter_async_context(self._reach())
                    while True:
                        async with asyncio.timeout(_ANSWER_WITHIN):
                            await ask()
                        if self.missing() is not None:
                            log.info(f"{self._what} answers again")
                        self._failures = 0
                        await asyncio.sleep(_ASK_EVERY)
            except (Transient, TimeoutError) as error:
                self._failures += 1
                if self._failures == _FAILURES:
                    log.warning(f"{self._what} does not answer", why=str(error))
            await asyncio.sleep(_ASK_EVERY)


@contextlib.asynccontextmanager
async def _kafka(kafka: Kafka) -> AsyncGenerator[Ask]:
    async with kafka.admin() as admin:
        yield lambda: admin.describe_topics([])  # of no topic: a shared cluster may have thousands


@contextlib.asynccontextmanager
async def _postgres(url: str) -> AsyncGenerator[Ask]:
    database = Database(url, "public", pool=1)
    try:
        async with database.dedicated() as connection:
            yield lambda: connection.execute("SELECT 1")
    except Misconfigured as error:
        raise Transient(str(error)) from None  # whoever does the work decides what that means
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def database_ready(database: Database, migrations: Path) -> AsyncGenerator[None]:
    """Wait for PostgreSQL, migrate the service's schema, and close the pool in the end."""
    try:
        await migrated(database, migrations)
        yield
    finally:
        await database.close()


async def migrated(database: Database, migrations: Path | None) -> None:
    """Wait for PostgreSQL and bring the service's schema to the newest revision."""
    for revision in await patiently("PostgreSQL", lambda: database.migrate(migrations)):
        log.info("migrated", revision=revision)


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
