"""TCP as every connection of ours has it: a peer that has vanished without a word is noticed within half a minute."""

from __future__ import annotations

import socket
from typing import Any

_IDLE_SECONDS = 10
_PROBE_SECONDS = 5
_PROBES = 3
_UNACKNOWLEDGED_MS = 20_000


def _options() -> list[tuple[int, int, int]]:
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    named = {  # by what the platform has
        "TCP_KEEPIDLE": _IDLE_SECONDS,
        "TCP_KEEPINTVL": _PROBE_SECONDS,
        "TCP_KEEPCNT": _PROBES,
        "TCP_USER_TIMEOUT": _UNACKNOWLEDGED_MS,
    }
    for name, value in named.items():
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


OPTIONS: list[tuple[int, int, int]] = _options()
"""Level, option and value, as `setsockopt` takes them."""


def keep_alive(transport: Any) -> None:
    """Set them on the socket below a transport, if it is one of TCP."""
    below = None if transport is None else transport.get_extra_info("socket")
    if below is None or below.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    for level, option, value in OPTIONS:
        below.setsockopt(level, option, value)
