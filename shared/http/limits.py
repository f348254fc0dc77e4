"""What clients may ask of one process at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may ask of one process."""

    connections: int = 1_000
    requests: int = 500
    """Under way at once; more are told 503 before their body is read."""
    header_bytes: int = 64 * 1024
    url_bytes: int = 8 * 1024
    header_seconds: float = 15.0
    """From the first byte of a request to the end of its headers."""
    body_seconds: float = 30.0
    """From there to the end of its body."""
    idle_seconds: int = 75
    """Longer than proxies keep an idle connection: the one that closes it is not the one that may be sending on it."""
