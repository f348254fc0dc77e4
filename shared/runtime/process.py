"""What the services of one process share, and how each waits for its outside to be there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from shared.bus.client import Kafka
from shared.bus.provisioning import ensure_topics
from shared.bus.security import security
from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.directory.access import Access
from shared.directory.follower import Follower
from shared.directory.kept import DirectoryKeeper
from shared.errors import Misconfigured, Transient
from shared.http.client import Guard, Outbound, Refused
from shared.http.refusals import Refusals
from shared.runtime.clock import Clock
from shared.runtime.due import Periodic
from shared.runtime.logs import Log
from shared.runtime.retry import Backoff
from shared.runtime.service import Service, opened
from shared.runtime.settings import Settings
from shared.wire.signing import SHORTEST_SECRET, Signer
from shared.wire.topics import TOPICS

log = Log("shared.runtime.process")

T = TypeVar("T")

_ASK_EVERY = 2.0
_ANSWER_WITHIN = 3.0
_CONNECT_WITHIN = 6.0
"""Seconds."""
_TELL_EVERY = 60.0
_KEEP_SECONDS = 2.0
_FAILURES = 2
"""In a row; one broker of several may just be restarted."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Built once per process."""

    kafka: Kafka
    database_url: str
    migration_url: str | None
    directory: Follower
    keeper: DirectoryKeeper
    access: Access
    refusals: Refusals
    clock: Clock


def parts(settings: Settings, clock: Clock, services: tuple[str, ...]) -> Parts:
    """Put together what the services of this process share. Raises Misconfigured naming the missing setting."""
    checked_secrets(settings)
    kafka = kafka_of(settings)
    database_url = settings.named_database
    directory = Follower(kafka, services)
    # In the schema of one of the services, which is this process's own.
    keeper = DirectoryKeeper(directory, Database(database_url, services[0], pool=1))
    refusals = Refusals(directory.progress.service, kafka, clock)
    access = Access(directory, clock, refusals)
    return Parts(kafka, database_url, settings.migration_url, directory, keeper, access, refusals, clock)


def kafka_of(settings: Settings) -> Kafka:
    """Return Kafka as the settings have it. Raises Misconfigured naming the one that is missing or wrong."""
    if settings.kafka is None:
        raise Misconfigured("FIILIS_KAFKA is not set: the bootstrap servers of Kafka, such as kafka:9092")
    return Kafka(settings.kafka, settings.topic_prefix, security(settings))


def signer(settings: Settings) -> Signer:
    """Return the signer of links. Raises Misconfigured without a secret, and for one that can be guessed."""
    if not settings.secrets:
        raise Misconfigured(
            "FIILIS_SECRET is not set: a long random text that signs links; a comma list to replace one"
        )
    return Signer(checked_secrets(settings))


def checked_secrets(settings: Settings) -> list[str]:
    """Return the secrets, newest first. Raises Misconfigured for one that can be guessed."""
    for number, secret in enumerate(settings.secrets, 1):
        if len(secret) < SHORTEST_SECRET:
            raise Misconfigured(f"FIILIS_SECRET: {too_short(number, secret)}")
    return settings.secrets


def too_short(number: int, secret: str) -> str:
    """Return what is wrong with a secret of the list that can be guessed."""
    return (
        f"the {number}. secret has {len(secret)} characters, and must have {SHORTEST_SECRET} or more: "
        "take another, such as `openssl rand -base64 32` prints"
    )


def outbound(settings: Settings) -> Outbound:
    """Return the guarded client."""
    try:
        return Outbound(Guard(settings.allow_private_targets))
    except Refused as refused:
        raise Misconfigured(str(refused)) from None


@dataclass(frozen=True, slots=True)
class Outside:
    """The part of a process that follows the directory and asks whether Kafka and PostgreSQL are there."""

    service: Service
    away: Callable[[], Mapping[str, str]]
    """Who does not answer now, and why."""


def outside(parts: Parts, *, either: bool) -> Outside:
    """Return what looks after the outside, once for all services of the process.

    `either`: one of Kafka and PostgreSQL is enough for their work.
    """
    kafka = Reachable("Kafka", partial(_kafka, parts.kafka))
    postgres = Reachable("PostgreSQL", partial(_postgres, parts.database_url))
    asked = {"kafka": kafka.missing, "postgresql": postgres.missing}

    def away() -> dict[str, str]:
        return {name: why for name, missing in asked.items() if (why := missing()) is not None}

    def nothing() -> str | None:
        return "; ".join(away().values()) if len(away()) == len(asked) else None

    def troubles() -> dict[str, str]:
        unread = parts.directory.ready()
        return {**away(), **({} if unread is None else {"directory": unread})}

    async def topics() -> None:
        try:
            await parts.directory.prepare()  # first: it says over how many partitions topics must have at least
            await ensure_topics(parts.kafka, TOPICS)
        except Misconfigured as error:
            if not either or parts.directory.current is None:
                raise
            raise Transient(str(error), of="Kafka") from None

    prepared = asyncio.Event()

    async def begin() -> None:
        """Have a directory in use: the newest, or while Kafka is away the one that was kept.

        Raises Transient, and Misconfigured where Kafka lets us not in and is needed.
        """
        try:
            await topics()
        except (Transient, Misconfigured) as error:
            if isinstance(error, Transient) or either:
                with contextlib.suppress(Transient, Misconfigured):
                    if await parts.keeper.restore():
                        # It has let us in before, since there is a directory; what it refuses now, it may take again.
                        parts.kafka.admitted = either or parts.kafka.admitted
                        log.warning("goes on without Kafka", why=str(error))
                        return
            raise
        prepared.set()

    async def go_on() -> None:
        if not prepared.is_set():
            await patiently("Kafka", topics)
        await asyncio.Event().wait()

    needed = {"kafka or postgresql": nothing} if either else {**asked, "directory": parts.directory.ready}
    follower = parts.directory.worker
    keeping = Periodic(parts.directory.progress.service, "directory kept", _KEEP_SECONDS, parts.keeper.keep).worker
    service = Service(
        name="outside",
        provides=[parts.access],
        resources=[
            opened(None, parts.keeper.close),
            opened(None, parts.refusals.close),
            opened(lambda: patiently("Kafka", begin), _nothing),
        ],
        tasks={"kafka": kafka.run, "postgresql": postgres.run, "topics": go_on},
        workers=[follower._replace(needed=not either), keeping._replace(needed=False), parts.refusals.worker],
        checks={"directory in use": parts.directory.missing, **needed},
        # Acknowledging a page or reading a score needs no Kafka, and taking an answer one of the two.
        door={"directory in use", "kafka or postgresql" if either else "postgresql"},
        notes=troubles if either else dict,
    )
    return Outside(service, away)


Ask = Callable[[], Awaitable[object]]


class Reachable:
    """Asks again and again whether another side answers: who cannot work is to say so at `/readyz`."""

    def __init__(self, what: str, reach: Callable[[], AbstractAsyncContextManager[Ask]]) -> None:
        """`reach` connects and lends what asks; both raise Transient."""
        self._what = what
        self._reach = reach
        self._failures = 0
        self._why = ""

    def missing(self) -> str | None:
        """Return what readiness tells, None while it answers."""
        return f"{self._what}: {self._why}" if self._failures >= _FAILURES else None

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
                self._why = str(error) or f"no answer within {_ANSWER_WITHIN:g} s"
                if self._failures == _FAILURES:
                    log.warning(f"{self._what} does not answer", why=self._why)
            await asyncio.sleep(_ASK_EVERY)


@contextlib.asynccontextmanager
async def _kafka(kafka: Kafka) -> AsyncGenerator[Ask]:
    names = [topic.name for topic in TOPICS]
    async with kafka.admin() as admin:

        async def ask() -> None:
            kafka.topics = dict((await kafka.describe_by(admin, names)).topics)

        yield ask


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
async def database_ready(database: Database, migrations: Path, url: str | None) -> AsyncGenerator[None]:
    """Wait for PostgreSQL, migrate the service's schema, and close the pool in the end.

    `url`: of a role that may change the schema, if the service's own may not.
    """
    try:
        await migrated(database, migrations, url)
        yield
    finally:
        await database.close()


async def migrated(database: Database, migrations: Path | None, url: str | None) -> None:
    """Wait for PostgreSQL and bring the service's schema to the newest revision. Raises Misconfigured."""

    async def bring() -> None:
        await database.pooler_refused()
        await migrate(database, migrations, url=url)

    await patiently("PostgreSQL", bring)


async def patiently(what: str, ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the other side is there."""
    backoff = Backoff(0.2, 5)
    attempt = 0
    told, since = -_TELL_EVERY, datetime.now(UTC)
    while True:
        try:
            found = await ask()
        except Transient as error:
            attempt += 1
            if time.monotonic() - told >= _TELL_EVERY:
                told = time.monotonic()
                log.warning(f"waiting for {what}", why=str(error), since=since.isoformat(timespec="seconds"))
            await asyncio.sleep(backoff.delay(attempt))
        else:
            if attempt:
                log.info(f"{what} is there")
            return found


async def _nothing() -> None:
    return None
