"""What every benchmark stands on: embedded servers in a folder of their own, and a directory of made-up customers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from shared.directory.model import Customer, Directory, Escalation, Key, Person, Rule, Step
from shared.embedded import Servers, embedded


@dataclass(frozen=True, slots=True)
class Place:
    """Where a benchmark runs."""

    servers: Servers
    folder: Path

    @property
    def kafka(self) -> str:
        """Bootstrap servers."""
        return self.servers.kafka.bootstrap

    @property
    def database_url(self) -> str:
        """The database."""
        return self.servers.postgres.url


@contextlib.asynccontextmanager
async def place() -> AsyncIterator[Place]:
    """Lend fresh servers."""
    with tempfile.TemporaryDirectory(prefix="fiilis-bench-") as folder:
        async with embedded(Path(folder), say=lambda _: None) as servers:
            yield Place(servers, Path(folder))


def directory(
    customers: int, rules: tuple[Rule, ...], keys: tuple[Key, ...] = (), person: Person | None = None
) -> Directory:
    """Return a directory of so many customers, all with one architect."""
    touchpoints = ("support", "billing", "sales")
    someone = person or Person(id="architect", name="Architect", timezone="UTC", language="en")
    return Directory(
        company="Example",
        timezone="UTC",
        language="en",
        people={someone.id: someone},
        escalations={"standard": Escalation("standard", (Step("architect", 300),), someone.id)},
        touchpoints=touchpoints,
        customers={
            f"c{n}": Customer(f"c{n}", f"Customer {n}", someone.id, "standard", "UTC", "en", touchpoints=touchpoints)
            for n in range(customers)
        },
        rules=rules,
        keys=keys,
    )
