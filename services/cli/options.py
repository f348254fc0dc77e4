"""Options that several commands have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path, typer.Option(help="Where embedded Kafka and PostgreSQL keep their data, and the secret.")]
DATA = Path(".data")
Host = Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def no_slug(options: Mapping[str, str | None]) -> str | None:
    """Return what is wrong with the first option that should be a slug and is none."""
    wrong = ((name, text) for name, text in options.items() if text is not None and not _SLUG.fullmatch(text))
    return next((f"{name}: {text!r} is not a slug (a-z, 0-9 and -, at most 63)" for name, text in wrong), None)
