"""One server for one data folder, by two flocks: no guess from process ids, which are reused and outlived by zombies.

The first is held by the Fiilis that wants the server: a second one is refused at once. The other is inherited by the
server and lasts exactly as long as it: after a crash of Fiilis, or a kill, the next one waits for the old server's end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from shared.embedded.errors import EmbeddedUnavailable

LEAVING_S = 30.0
"""How long a server may take to end after its Fiilis died: the longest stop deadline, and some."""


class DataLock:
    """The right to run a server on a folder."""

    def __init__(self, folder: Path, setting: str) -> None:
        self._folder = folder
        self._setting = setting
        self._held: list[int] = []

    @property
    def fd(self) -> int:
        """The descriptor for the server to inherit."""
        if not self._held:
            raise self._refused("no longer ours, since a stop came during the start: start again")
        return self._held[1]

    async def acquire(self) -> None:
        """Take both, or raise EmbeddedUnavailable; nothing happens if this object has them."""
        if self._held:
            return
        if sys.platform == "win32":
            raise EmbeddedUnavailable("Embedded servers need Linux or macOS.", self._setting)
        try:
            ours = self._open("lock")
            if not try_flock(ours):
                holder = os.pread(ours, 20, 0).decode().strip() or "unknown"
                raise self._refused(f"in use by another Fiilis (process {holder}): stop that one")
            os.ftruncate(ours, 0)
            os.pwrite(ours, b"%d\n" % os.getpid(), 0)
            servers = self._open("lock.server")
            limit = time.monotonic() + LEAVING_S
            while not try_flock(servers):
                if time.monotonic() > limit:
                    raise self._refused("in use by a server whose Fiilis is gone: end that server")
                await asyncio.sleep(0.02)
        except BaseException:
            self.release()
            raise

    def _open(self, name: str) -> int:
        fd = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held.append(fd)
        return fd

    def _refused(self, why: str) -> EmbeddedUnavailable:
        return EmbeddedUnavailable(f"{self._folder} is {why}, or choose another data folder.", self._setting)

    def release(self) -> None:
        """Let go; the server keeps its own until it is gone."""
        while self._held:
            os.close(self._held.pop())


def try_flock(fd: int) -> bool:
    """Take the flock if it is free."""
    import fcntl  # noqa: PLC0415 (not on Windows, where this module must still import)

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
