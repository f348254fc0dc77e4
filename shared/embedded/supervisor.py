"""Stands between Fiilis and one server, as a process of its own, so that the server never outlives Fiilis.

Started by child.py. When its stdin closes (Fiilis asked for a stop, or died, however it died) it stops the server in
order, and kills it after a deadline. It writes the server's output to a log of bounded size, and exits as it did.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

KILL = b"K"
"""Sent on stdin: SIGKILL the server now."""

CHUNK = 65536


class Spec(TypedDict):
    """What to run, and how it ends."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    user: str | None
    stop_signal: int
    stop_deadline: float
    """Seconds from the stop signal to SIGKILL."""
    log: str
    log_bytes: int
    """Size at which the log starts anew; the one before is kept beside it."""
    lock: int
    """A file descriptor that the server inherits: its flock lasts as long as any process of the server."""


class Log:
    """A file that never grows beyond twice its limit."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._file = path.open("ab")

    def write(self, data: bytes) -> None:
        """Append, starting anew when full."""
        try:
            if self._file.tell() + len(data) > self._limit:
                self._file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._path.open("ab")
            self._file.write(data)
            self._file.flush()
        except OSError:
            # A full disk must not take the server down for the sake of its log.
            pass


def die_with_supervisor() -> Callable[[], None] | None:
    """Return what the server runs before exec, so that SIGKILL of this process takes it along; Linux only."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    supervisor = os.getpid()

    def in_child() -> None:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != supervisor:  # it died before the call, so no signal will come
            os._exit(1)

    return in_child


def spawn(spec: Spec) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own: a Ctrl-C in the terminal is not for it."""
    return subprocess.Popen(
        spec["argv"],
        cwd=spec["cwd"],
        env=spec["env"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=[spec["lock"]],
        user=spec["user"],
        group=spec["user"],
        extra_groups=None if spec["user"] is None else [],
        # After setuid, which clears a parent-death signal.
        preexec_fn=die_with_supervisor(),  # noqa: PLW1509 (this process has one thread)
    )


def supervise(spec: Spec, log: Log) -> int:
    """Run the server to its end and return its exit status, 128 + signal if a signal ended it."""
    wake, signalled = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(signalled, False)
    signal.set_wakeup_fd(signalled)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)

    server = spawn(spec)
    assert server.stdout is not None
    output = server.stdout.fileno()
    os.set_blocking(output, False)
    os.write(1, b"%d\n" % server.pid)
    os.close(1)
    os.close(spec["lock"])

    control = 0
    watched = {control, output, wake}
    kill_at: float | None = None
    while server.poll() is None:
        # The cap is for a SIGCHLD that came between poll and select and is already drained.
        pause = 1.0 if kill_at is None else min(1.0, max(0.0, kill_at - time.monotonic()))
        ready = select.select(watched, [], [], pause)[0]
        stop = wake in ready and signal.SIGTERM in os.read(wake, 512)
        if control in ready:
            asked = os.read(control, 1)
            if asked == KILL:
                server.kill()
            elif not asked:
                watched.discard(control)
                stop = True
        if output in ready and not copy(output, log):
            watched.discard(output)
        if stop and kill_at is None:
            server.send_signal(spec["stop_signal"])
            kill_at = time.monotonic() + spec["stop_deadline"]
        if kill_at is not None and time.monotonic() >= kill_at:
            log.write(b"fiilis: did not stop in time, killed\n")
            server.kill()
            kill_at += 1.0
    while output in watched and copy(output, log):
        pass
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def copy(output: int, log: Log) -> bool:
    """Copy what is there; false when there is nothing or never more will be."""
    try:
        data = os.read(output, CHUNK)
    except BlockingIOError:
        return False
    log.write(data)
    return bool(data)


def main() -> None:
    """Run the server that the one argument describes."""
    spec: Spec = json.loads(sys.argv[1])
    log = Log(Path(spec["log"]), spec["log_bytes"])
    try:
        status = supervise(spec, log)
    except (OSError, subprocess.SubprocessError) as error:
        log.write(f"fiilis: {spec['argv'][0]}: {error}\n".encode())
        status = 127
    os._exit(status)


if __name__ == "__main__":
    main()
