"""The directory, the secrets that it names, and whether desks, channels and webhooks are reached."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from services.cli.doctor.finding import CONNECT_SECONDS, Finding, Findings, unreachable
from shared.bus.client import Kafka
from shared.directory.follower import Revision, read_newest
from shared.directory.model import Directory
from shared.http.client import Guard, Outbound, Refused, Unreachable
from shared.runtime.settings import Settings
from shared.wire.topics import Undecodable


async def look(kafka: Kafka, found: list[Revision | None]) -> Findings:
    """Look at the newest directory, and leave it in `found`. Raises Transient."""
    try:
        revision = await read_newest(kafka)
    except Undecodable as error:
        yield Finding("wrong", "directory", str(error))
        return
    found.append(revision)
    if revision is None:
        yield Finding("wrong", "directory", "none was applied yet", "python -m services apply FILE")
        return
    size = f"{len(revision.directory.customers)} customers, {len(revision.directory.people)} people"
    yield Finding("ok", "directory", f"revision {revision.number}: {size}")
    missing = sorted({name for name in _secrets(revision.directory) if not os.environ.get(name)})
    if missing:
        what = f"environment variables that it names are not set here: {', '.join(missing)}"
        yield Finding("warning", "secrets", what, "services need them where they run")


def _secrets(directory: Directory) -> Iterator[str]:
    """Yield the environment variables that a directory takes secrets from."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            named: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
            for name, inner in named.items():
                if name.endswith("_env") and isinstance(inner, str):
                    yield inner
                else:
                    yield from walk(inner)
        elif isinstance(value, list):
            items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
            for inner in items:
                yield from walk(inner)

    yield from walk(msgspec.to_builtins(directory))


async def targets(directory: Directory, given: Settings) -> Findings:
    """Look whether desks, channels and webhooks are reached; nothing is sent to them but a question for nothing."""
    guarded = Outbound(Guard(given.allow_private_targets))
    try:
        looks = [_target(guarded, subject, url) for subject, url in _addresses(directory)]
        if directory.smtp is not None:
            looks.append(_smtp(directory.smtp.host, directory.smtp.port))
        for some in _in_lots(looks, 16):
            for finding in await asyncio.gather(*some):
                yield finding
    finally:
        await guarded.close()


def _in_lots(looks: Sequence[Awaitable[Finding]], size: int) -> Iterator[Sequence[Awaitable[Finding]]]:
    return (looks[start : start + size] for start in range(0, len(looks), size))


def _addresses(directory: Directory) -> list[tuple[str, str]]:
    """Return whom a directory calls: each address once, with what it is."""
    found: dict[str, str] = {}
    for name, desk in directory.desks.items():
        found.setdefault(desk.url, f"desk {name}")
    for hook in directory.webhooks:
        found.setdefault(hook.url, "webhook")
    for person in directory.people.values():
        for contact in person.contacts:
            if contact.address.startswith(("https://", "http://")):
                found.setdefault(contact.address, f"{contact.channel} of {person.id}")
    return [(subject, url) for url, subject in found.items()]


async def _target(guarded: Outbound, subject: str, url: str) -> Finding:
    host = urlsplit(url).netloc
    try:
        answer = await guarded.request("OPTIONS", url, b"", {}, seconds=CONNECT_SECONDS)
    except Refused as error:
        return Finding("wrong", subject, str(error))
    except Unreachable as error:
        return Finding("wrong", subject, f"{host} is not reached: {error}")
    return Finding("ok", subject, f"{host} answers (HTTP {answer.status})")


async def _smtp(host: str, port: int) -> Finding:
    why = await unreachable(host, port)
    if why is None:
        return Finding("ok", "e-mail", f"{host}:{port} takes connections")
    return Finding("wrong", "e-mail", f"{host}:{port} is not reached: {why}")
