"""A server as a child process, behind its supervisor.

Promises: it never outlives this process, however this process ends; a stop is in order first and by SIGKILL after a
deadline. Bound to no event loop and no thread: any may call.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from shared.embedded import supervisor
from shared.embedded.supervisor import Spec

POLL_S = 0.05
TAIL_BYTES = 4000
TAIL_LINES = 15


class Child:
    """One run of a server, from spawn to exit."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._log = Path(spec["log"])
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        # -I and -S: the supervisor needs the standard library alone, so it is up in some 50 ms and stays small.
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                pass_fds=[spec["lock"]],
                env=spec["env"],
            )
        self._pid: int | None = None

    @property
    def exit_status(self) -> int | None:
        """None while it runs, else as a shell shows it: 128 + the number of the signal."""
        return self._process.poll()

    @property
    def pid(self) -> int | None:
        """The server's own process id while it runs, not the supervisor's."""
        return self._pid if self.exit_status is None else None

    async def spawned(self) -> None:
        """Wait until the server has a process id, or has failed to get one."""
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        self._process.stdout.close()
        self._pid = int(line) if line.strip() else None

    async def exited(self) -> int:
        """Wait for the end, by polling, so that no thread and no loop is left behind by a cancelled wait."""
        while (status := self.exit_status) is None:
            await asyncio.sleep(POLL_S)
        return status

    async def stop(self) -> int:
        """Stop in order; SIGKILL after the deadline, first by the supervisor, then of the supervisor."""
        assert self._process.stdin is not None
        self._process.stdin.close()  # which begins it, so that a cancelled wait changes nothing
        limit = time.monotonic() + self._spec["stop_deadline"] + 3.0
        while (status := self.exit_status) is None:
            if time.monotonic() > limit:
                self._process.kill()
            await asyncio.sleep(POLL_S / 5)
        return status

    async def kill(self) -> int:
        """SIGKILL the server and wait until it is gone."""
        control = self._process.stdin
        assert control is not None
        if not control.closed:
            # A broken pipe: it ended by itself in this moment.
            with suppress(BrokenPipeError):
                os.write(control.fileno(), supervisor.KILL)
        return await self.stop()

    def tail(self) -> str:
        """Return the last lines that this run wrote to the log."""
        size = self._log.stat().st_size
        start = self._log_start if size >= self._log_start else 0  # else the log began anew meanwhile
        with self._log.open("rb") as file:
            file.seek(max(start, size - TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-TAIL_LINES:])


async def run_once(spec: Spec, limit_s: float) -> str | None:
    """Run a command to its end under the same promises; None if it went well, else its last lines."""
    child = Child(spec)
    try:
        await child.spawned()
        async with asyncio.timeout(limit_s):
            status = await child.exited()
    except TimeoutError:
        return f"{child.tail()}\nNot done within {limit_s:.0f} s."
    finally:
        await child.stop()
    return None if status == 0 else f"{child.tail()}\nExit status {status}."
