"""What a data directory keeps of everything in one process: embedded servers and the secret that signs links."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Generator
from pathlib import Path

from shared.errors import Misconfigured


def kafka(data: Path) -> dict[str, str] | None:
    """Return the settings of the embedded Kafka of a data directory, if there is one. Raises Misconfigured."""
    from shared.embedded import EmbeddedKafka  # noqa: PLC0415 (a deployment has no such servers)

    with _readable(data):
        found = EmbeddedKafka.kept(data / "kafka")
    return None if found is None else found.settings


def database(data: Path) -> str | None:
    """Return the address of the embedded PostgreSQL of a data directory, if there is one. Raises Misconfigured."""
    with _readable(data):
        if not (data / "postgres").exists():
            return None
    from shared.embedded import EmbeddedPostgres  # noqa: PLC0415 (a deployment has no such servers)

    return EmbeddedPostgres(data / "postgres").url


def secret(data: Path) -> str:
    """Return the secret of a data directory, "" where there is none. Raises Misconfigured."""
    with _readable(data):
        file = _secret_file(data)
        return file.read_text().strip() if file.exists() else ""


@contextlib.contextmanager
def _readable(data: Path) -> Generator[None]:
    """Say in one line that a data directory is another user's."""
    try:
        yield
    except OSError as error:
        raise Misconfigured(f"--data {data} cannot be read: {error.strerror}; only who made it can use it") from None


def secret_made(data: Path) -> str:
    """Return the secret of this data directory; the first start makes it."""
    file = _secret_file(data)
    if not file.exists():
        draft = file.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(32))
        draft.replace(file)
    return secret(data)


def _secret_file(data: Path) -> Path:
    return data / "secret"
