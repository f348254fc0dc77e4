"""`doctor`: looks at everything that an installation stands on, and says what is wrong and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from services.cli import stores
from services.cli.doctor import cluster, database, directory
from services.cli.doctor.finding import Finding, Findings, Level
from services.cli.environment import found_kafka, with_kept_secret
from services.cli.terminal import DONE, FAILED, out
from shared.bus.client import Kafka
from shared.directory.follower import Revision
from shared.errors import Misconfigured, Transient
from shared.runtime.process import too_short
from shared.runtime.settings import Settings
from shared.wire.signing import SHORTEST_SECRET

app = typer.Typer()
_STYLES: dict[Level, str] = {"ok": "", "warning": "yellow", "wrong": "red"}


@app.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Make missing topics, set their settings, migrate.")] = False,
    data: Annotated[Path, typer.Option(help="Where embedded Kafka and PostgreSQL keep their data.")] = Path(".data"),
) -> None:
    """Look at brokers, topics, rights, database, clocks, directory, secrets, desks and channels.

    Says what is wrong and what to do; exit code 1 when something is wrong. Changes nothing without --fix.
    """

    async def body() -> int:
        wrong = 0
        async for finding in _everything(with_kept_secret(data), found_kafka(data), data, fix):
            wrong += finding.level == "wrong"
            out.print(finding.line(), style=_STYLES[finding.level], markup=False)
        out.print(f"{wrong} to mend" if wrong else "nothing is wrong")
        return FAILED if wrong else DONE

    raise typer.Exit(asyncio.run(body()))


async def _everything(given: Settings, kafka: Kafka | None, data: Path, fix: bool) -> Findings:
    revision: Revision | None = None
    for finding in _settings(given):
        yield finding
    if kafka is None:
        yield Finding("wrong", "kafka", "FIILIS_KAFKA is not set", "name the bootstrap servers, such as kafka:9092")
    else:
        found: list[Revision | None] = []
        about = [finding async for finding in _guarded("directory", lambda: directory.look(kafka, found))]
        async for finding in _guarded("kafka", lambda: cluster.look(kafka, fix)):
            yield finding
        for finding in about:
            yield finding
        revision = found[0] if found else None
    try:
        url = stores.database_url(data)
    except Misconfigured as error:
        yield Finding("wrong", "database", str(error))
    else:
        async for finding in _guarded("database", lambda: database.look(url, given, fix)):
            yield finding
        if kafka is not None:
            async for finding in _guarded("work", lambda: database.left_behind(kafka, url)):
                yield finding
    if revision is not None:
        async for finding in directory.targets(revision.directory, given):
            yield finding


async def _guarded(subject: str, look: Callable[[], Findings]) -> Findings:
    """Pass findings on; what cannot be looked at is one itself."""
    try:
        async for finding in look():
            yield finding
    except (Misconfigured, Transient) as error:
        yield Finding("wrong", subject, str(error))


def _settings(given: Settings) -> Iterator[Finding]:
    if not given.secrets:
        yield Finding("wrong", "secret", "FIILIS_SECRET is not set", "a random text of 32 characters or more")
    for number, secret in enumerate(given.secrets, 1):
        if len(secret) < SHORTEST_SECRET:
            yield Finding("wrong", "secret", f"FIILIS_SECRET: {too_short(number, secret)}")
    if given.public_url is None:
        yield Finding("warning", "links", "FIILIS_PUBLIC_URL is not set: links start with this machine's own address")
    elif urlsplit(given.public_url).scheme != "https":
        yield Finding("warning", "links", f"FIILIS_PUBLIC_URL is {given.public_url}: links travel unencrypted")
