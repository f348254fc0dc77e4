"""The services: one specification each, of what a process must know to run it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from pydantic import ValidationError

from shared.runtime.process import Parts
from shared.runtime.service import Service
from shared.runtime.settings import Environment, Settings, wrong_setting

ServiceName = Literal["ingest", "scoring", "ticketing", "notify"]
Build = Callable[..., Service]
"""Of the common settings, what the process shares, what starts every link once the port is known, and the service's
own settings; without them the environment says."""


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service."""

    name: ServiceName
    port: int
    """Where it listens when it runs alone."""

    @property
    def migrations(self) -> Path | None:
        """The folder of its schema's migrations; None: it has no tables of its own."""
        folder = Path(__file__).parent / self.name / "migrations"
        return folder if folder.is_dir() else None

    def build(
        self, settings: Settings, parts: Parts, public_url: Callable[[], str], own: Environment | None = None
    ) -> Service:
        """Return the service, ready to run. Raises Misconfigured naming the setting that is wrong.

        `own`: its own settings; without them the environment says.
        """
        # Imported here: a process that runs one service, or a command, starts without the others.
        build = cast("Build", importlib.import_module(f"services.{self.name}.main").build)
        try:
            return build(settings, parts, public_url, own)
        except ValidationError as error:
            raise wrong_setting(error) from None


SERVICES: dict[ServiceName, ServiceSpec] = {
    spec.name: spec
    for spec in (
        ServiceSpec("ingest", 8001),
        ServiceSpec("scoring", 8002),
        ServiceSpec("ticketing", 8003),
        ServiceSpec("notify", 8004),
    )
}
"""In the order in which data flows."""
