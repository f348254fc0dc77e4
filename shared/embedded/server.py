"""What both embedded servers have in common: start until ready, stop, kill, and being brought back after a death.

A start that fails leaves nothing running. A stop is no death; anything else that ends the server is one.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

from shared.embedded.child import POLL_S, Child
from shared.embedded.errors import EmbeddedUnavailable
from shared.embedded.lock import DataLock
from shared.embedded.supervisor import Spec

Say = Callable[[str], None]

READY_POLL_S = 0.02
AGAIN_S = 10.0
"""How long a start that failed for a passing reason is tried again."""
DEATHS = 5
DEATHS_WITHIN_S = 60.0
FIRST_BACKOFF_S = 0.25


def to_stderr(line: str) -> None:
    """Tell a person, by default."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 (for a person, not a log)


def own_folder(folder: Path) -> None:
    """Make a folder that only this user can look into; one of ours that others could look into is closed to them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    # As root, PostgreSQL is another user, who has to pass.
    ours = 0o700 if os.geteuid() else 0o711
    if found.st_uid == os.geteuid() and mode & ~ours and not mode & stat.S_ISVTX:
        folder.chmod(mode & ours)


class Server(ABC):
    """A server that runs as a child on a data folder of its own."""

    name: str
    setting: str
    """The setting that points at a real server instead."""
    start_limit_s: float
    """Longest start, recovery after a kill on a slow disk included."""

    def __init__(self, data: Path, say: Say) -> None:
        self._data = data.expanduser().absolute()
        self._say = say
        self._lock = DataLock(self._data, self.setting)
        self._child: Child | None = None
        self._wanted = False
        self._starting = asyncio.Lock()

    @abstractmethod
    async def _prepare(self) -> Spec:
        """Make the data folder ready, once or again, and return what to run."""

    @abstractmethod
    async def _answers(self) -> bool:
        """Tell whether this very server serves now."""

    @abstractmethod
    def _passes(self, tail: str) -> bool:
        """Tell whether a start that ended with this log is worth another try."""

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it does not run."""
        return None if self._child is None else self._child.pid

    async def start(self) -> None:
        """Start and return when it serves; nothing happens if it runs."""
        self._wanted = True
        try:
            await self._bring_up()
        except BaseException:
            self._wanted = False
            raise

    async def _bring_up(self) -> None:
        async with self._starting:
            if self._child is not None and self._child.exit_status is None:
                return
            try:
                await self._start()
            except BaseException:
                self._lock.release()
                failed, self._child = self._child, None
                if failed is not None:
                    await failed.stop()
                raise

    async def _start(self) -> None:
        try:
            own_folder(self._data)
            await self._lock.acquire()
            await self._start_until_ready()
        except OSError as error:  # a folder that is closed to us, a full disk
            raise self._unavailable(f"could not be started: {error}") from error

    async def _start_until_ready(self) -> None:
        limit = time.monotonic() + self.start_limit_s
        again_until = time.monotonic() + AGAIN_S
        while True:
            spec = await self._prepare()
            if not self._wanted:
                raise self._unavailable("was stopped while starting")
            if self._child is not None:
                await self._child.stop()  # it has ended; this closes its pipe
            child = self._child = Child(spec)
            await child.spawned()
            while child.exit_status is None:
                if await self._answers():
                    return
                if time.monotonic() > limit:
                    raise self._unavailable(f"did not get ready within {self.start_limit_s:.0f} s")
                await asyncio.sleep(READY_POLL_S)
            if not self._wanted or not self._passes(child.tail()) or time.monotonic() > again_until:
                raise self._unavailable(f"ended while starting (status {child.exit_status})")
            await asyncio.sleep(10 * READY_POLL_S)

    def _unavailable(self, what: str) -> EmbeddedUnavailable:
        tail = "" if self._child is None else self._child.tail()
        return EmbeddedUnavailable(f"The embedded {self.name} in {self._data} {what}.", self.setting, tail)

    async def stop(self) -> None:
        """Stop in order, by SIGKILL after a deadline; nothing happens if it does not run."""
        self._wanted = False
        await self._end(lambda child: child.stop())

    async def kill(self) -> None:
        """SIGKILL it, as a crash would; a running watch() brings it back."""
        await self._end(lambda child: child.kill())

    async def _end(self, way: Callable[[Child], Awaitable[int]]) -> None:
        # First the lock: the server holds it too while it lives, and after the wait it may be a successor's.
        self._lock.release()
        if self._child is not None:
            await way(self._child)

    async def watch(self) -> NoReturn:
        """Bring it back whenever it dies; raise EmbeddedUnavailable when it died five times in a minute."""
        deaths: deque[float] = deque(maxlen=DEATHS)
        while True:
            dead = self._child is None or self._child.exit_status is not None
            if not (self._wanted and dead) or self._starting.locked():
                await asyncio.sleep(POLL_S)
                continue
            why = "died" if self._child is None else f"died (status {self._child.exit_status})"
            deaths.append(time.monotonic())
            recent = sum(deaths[-1] - death < DEATHS_WITHIN_S for death in deaths)
            if recent == DEATHS:
                raise self._unavailable(f"died {DEATHS} times in a minute")
            self._say(f"{self.name} {why}, starting it again")
            await asyncio.sleep(FIRST_BACKOFF_S * (2 ** (recent - 1) - 1))
            if not self._wanted:
                continue
            try:
                await self._bring_up()
                self._say(f"{self.name} is back")
            except EmbeddedUnavailable as error:
                self._say(str(error))
