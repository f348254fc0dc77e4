"""What commands find around them: settings, the servers that they name or a data directory keeps, and who runs them."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from services import kept
from services.cli.terminal import err
from shared.bus.client import Kafka
from shared.directory.follower import Revision, read_newest
from shared.runtime import audit
from shared.runtime.audit import COMMAND, Actor
from shared.runtime.process import kafka_of as kafka_of_settings
from shared.runtime.settings import Settings, wrong_setting
from shared.wire.events import AuditV1
from shared.wire.topics import Undecodable


def settings(**given: Any) -> Settings:
    """Return the settings of the environment, with what the command line said. Raises Misconfigured."""
    try:
        found = Settings()
        return found.model_copy(update={name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise wrong_setting(error) from None


def with_kept_secret(data: Path) -> Settings:
    """Return the settings; without FIILIS_SECRET with the one that everything in one process made for itself."""
    given = settings()
    return given if given.secret else given.model_copy(update={"secret": kept.secret(data)})


def _with_kept_kafka(data: Path) -> Settings:
    """Return the settings; without FIILIS_KAFKA with what everything in one process keeps, if it does."""
    given = settings()
    of_data = kept.kafka(data) if given.kafka is None else None
    return given if of_data is None else given.model_copy(update=of_data)


def found_kafka(data: Path) -> Kafka | None:
    """Return the Kafka of the settings, or the one that everything in one process keeps in its data directory."""
    given = _with_kept_kafka(data)
    return None if given.kafka is None else kafka_of_settings(given)


def kafka_of(data: Path) -> Kafka:
    """Return Kafka, as `found_kafka`. Raises Misconfigured where none is named."""
    return kafka_of_settings(_with_kept_kafka(data))


async def newest_revision(kafka: Kafka) -> Revision | None:
    """Return the newest revision, None also where it cannot be read: applying another heals that."""
    try:
        return await read_newest(kafka)
    except Undecodable as error:
        err.print(str(error), style="yellow", markup=False)
        return None


def user() -> str:
    """Return who runs this, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "apply"


def at_the_command_line() -> Actor:
    """Return who runs this, as the audit has it, and on which host."""
    return Actor(f"{COMMAND}:{user()}", socket.gethostname())


def audited(what: audit.What, detail: Mapping[str, audit.Value]) -> AuditV1:
    """Return the line of the audit for what a command does."""
    return audit.line(COMMAND, datetime.now(UTC), at_the_command_line(), what, detail)
