"""The one way in which an embedded server says that it cannot be had."""

from __future__ import annotations


class EmbeddedUnavailable(RuntimeError):
    """An embedded server cannot run here; the message names what failed and which setting points at a real one."""

    def __init__(self, what: str, setting: str, tail: str = "") -> None:
        log = f"\nIts last lines:\n{tail}" if tail else ""
        super().__init__(f"{what}\nTo use a server of your own instead, set {setting}.{log}")
