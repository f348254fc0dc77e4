"""Runs services: all in one process on embedded servers, or one alone against a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services import kept
from services.registry import SERVICES, ServiceName
from shared.bus.provisioning import ensure_topics
from shared.bus.security import security
from shared.directory import check
from shared.directory.follower import publish, read_newest
from shared.directory.model import Directory, Key
from shared.errors import Misconfigured
from shared.runtime import service
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.logs import Log
from shared.runtime.process import Parts, kafka_of, outside, parts, patiently
from shared.runtime.service import Service
from shared.runtime.settings import Environment, Settings
from shared.wire.topics import TOPICS

log = Log("services")

ALL_PORT = 8080
OPS_PORT = 9080
_OPS_ABOVE = 1_000
_HIGHEST_PORT = 65_535
_NONE: Mapping[ServiceName, Environment] = {}


class Address:
    """Where the process is reached; known once it listens."""

    def __init__(self, public_url: str | None) -> None:
        self._public_url = public_url
        self._listening = ""

    def listening(self, address: str) -> None:
        """Take the address that was bound."""
        self._listening = address

    def __call__(self) -> str:
        """Return what starts every link."""
        return (self._public_url or self._listening).rstrip("/")


async def run_services(
    names: Sequence[ServiceName],
    settings: Settings,
    *,
    port: int,
    stop: asyncio.Event,
    own: Mapping[ServiceName, Environment] = _NONE,
    clock: Clock | None = None,
    local_keys: Sequence[Key] = (),
    besides: Callable[[Parts], Sequence[Service]] = lambda _: (),
    on_ready: Callable[[str], None],
) -> None:
    """Run some services in this process until `stop`.

    `own`: settings of single services, instead of the environment's; `local_keys` are good in this process only.
    """
    address = Address(settings.public_url)
    shared_parts = parts(settings, clock or SystemClock(), tuple(names))
    shared_parts.directory.admit(local_keys)
    built = [SERVICES[name].build(settings, shared_parts, address, own.get(name)) for name in names]
    around = outside(shared_parts, either=tuple(names) == ("ingest",))
    await service.run(
        [around.service, *built, *besides(shared_parts)],
        host=settings.host,
        port=port,
        ops_port=ops_port_of(names, settings, port),
        stop=stop,
        on_listening=address.listening,
        on_ready=on_ready,
        away=around.away,
        standstill=settings.standstill_seconds,
        proxies=settings.trusted_proxies,
        hsts_seconds=settings.hsts_seconds,
        limits=settings.limits,
    )


def ops_port_of(names: Sequence[ServiceName], settings: Settings, port: int) -> int | None:
    """Return the port of /metrics and /docs; None: the services' own."""
    if settings.ops_port is not None:
        return None if settings.ops_port == port else settings.ops_port
    if len(names) > 1:
        return None if _is_loopback(settings.host) else OPS_PORT
    return port + _OPS_ABOVE if 0 < port <= _HIGHEST_PORT - _OPS_ABOVE else 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def run_one(name: ServiceName, settings: Settings, stop: asyncio.Event) -> None:
    """Run one service alone."""
    port = SERVICES[name].port if settings.port is None else settings.port
    await run_services([name], settings, port=port, stop=stop, on_ready=say_ready)


@dataclass(frozen=True, slots=True)
class Everything:
    """How to run all of it in one process."""

    data: Path
    directory: Path | Directory | None = None
    """Applied at the start."""
    local_keys: tuple[Key, ...] = ()
    besides: Callable[[Parts], Sequence[Service]] = lambda _: ()
    """What else runs in the process."""


async def run_everything(
    how: Everything, settings: Settings, stop: asyncio.Event, on_ready: Callable[[str], None]
) -> None:
    """Run every service in one process; what the settings do not name is embedded."""
    directory = _read(how.directory) if isinstance(how.directory, Path) else how.directory
    async with _servers(how, settings) as (complete, watching):
        if directory is not None:
            await _apply(complete, directory)
        port = ALL_PORT if settings.port is None else settings.port
        await run_services(
            tuple(SERVICES),
            complete,
            port=port,
            stop=stop,
            local_keys=how.local_keys,
            besides=lambda parts: [*watching, *how.besides(parts)],
            on_ready=on_ready,
        )


@contextlib.asynccontextmanager
async def _servers(how: Everything, settings: Settings) -> AsyncGenerator[tuple[Settings, list[Service]]]:
    from shared.embedded import (  # noqa: PLC0415 (a deployment has no such servers)
        EmbeddedKafka,
        EmbeddedPostgres,
        EmbeddedUnavailable,
        own_folder,
    )

    if settings.kafka is None:
        if settings.kafka_security != "plaintext":
            raise Misconfigured(f"FIILIS_KAFKA_SECURITY is {settings.kafka_security}, and FIILIS_KAFKA is not set")
        security(settings)  # what else is set would be of FIILIS_KAFKA
    try:
        own_folder(how.data)
    except OSError as error:
        raise Misconfigured(f"--data {how.data}: {error.strerror}") from None
    kafka = EmbeddedKafka(how.data / "kafka", guarded=True, say=_say) if settings.kafka is None else None
    postgres = EmbeddedPostgres(how.data / "postgres", say=_say) if settings.database_url is None else None
    embedded = [server for server in (kafka, postgres) if server is not None]
    try:
        for started in await asyncio.gather(*(server.start() for server in embedded), return_exceptions=True):
            if isinstance(started, EmbeddedUnavailable):
                raise Misconfigured(str(started)) from None
            if started is not None:
                raise started
        found: dict[str, str] = {}
        if kafka is not None:
            found |= kafka.settings
        if postgres is not None:
            found["database_url"] = postgres.url
        if embedded and not settings.secret:
            found["secret"] = kept.secret_made(how.data)
        # The services read their own settings; what was found here is theirs too.
        complete = settings.model_copy(update=found)
        tasks = {type(server).__name__: server.watch for server in embedded}
        yield complete, [Service(name="embedded", tasks=tasks)] if embedded else []
    finally:
        await asyncio.gather(*(server.stop() for server in embedded))


def _read(file: Path) -> Directory:
    try:
        return check.parse_file(file)
    except check.Findings as findings:
        lines = "\n".join(finding.render(str(file)) for finding in findings.findings)
        raise Misconfigured(f"the directory is not valid\n{lines}") from None
    except OSError as error:
        raise Misconfigured(f"cannot read {file}: {error.strerror}") from None


async def _apply(settings: Settings, directory: Directory) -> None:
    kafka = kafka_of(settings)
    await patiently("Kafka", lambda: ensure_topics(kafka, TOPICS))
    newest = await patiently("Kafka", lambda: read_newest(kafka))
    if newest is None or newest.directory != directory:
        log.info("directory applied", revision=await publish(kafka, directory))


def say_ready(address: str) -> None:
    """Tell whoever started us."""
    print(f"ready {address}", flush=True)  # noqa: T201


def _say(line: str) -> None:
    log.info(line)
