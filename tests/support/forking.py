"""Processes of ours, each a copy of one that has imported everything: a start costs a tenth of the processor's time.

What runs is what `python -m services ...` runs, in a process of its own that can be killed and stopped. The tests of
the README, and of everything in one process, start real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_MOST = 1024 * 1024
_POLL = 0.02
"""Bytes of a request, and seconds between two looks whether a process has ended."""


class Forked:
    """A process; of what asyncio's has, that which tests use."""

    def __init__(self, pid: int, ended: Mapping[int, int]) -> None:
        self.pid = pid
        self._ended = ended
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None

    @property
    def returncode(self) -> int | None:
        """As the system tells it: below 0 the signal that ended it."""
        return self._ended.get(self.pid)

    async def wait(self) -> int:
        """Return how it ended, once it has."""
        while self.returncode is None:
            await asyncio.sleep(_POLL)
        return self._ended[self.pid]

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return what it wrote, once it has ended."""
        assert self.stdout is not None
        assert self.stderr is not None
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return out, err

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError when it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a warning."""
        self.send_signal(signal.SIGKILL)


async def services(
    *arguments: str, environment: Mapping[str, str], folder: Path = _ROOT, stderr: int | None = None
) -> Forked:
    """Start `python -m services ARGUMENTS`; its standard output can be read, and its errors where no file is given."""
    out, out_end = os.pipe()
    err, err_end = (-1, os.dup(stderr)) if stderr is not None else os.pipe()
    try:
        made = await asyncio.to_thread(_server().start, arguments, environment, folder, (out_end, err_end))
    finally:
        os.close(out_end)
        os.close(err_end)
    made.stdout = await _reader(out)
    made.stderr = await _reader(err) if stderr is None else None
    return made


async def _reader(end: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(end, "rb", buffering=0)
    )
    return reader


class _Server:
    """The process that is copied, and what it tells."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for one in (self._ours, theirs):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forking", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._ended: dict[int, int] = {}
        self._started: list[int] = []
        self._some_started = threading.Semaphore(0)
        self._one_at_a_time = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, outputs: tuple[int, int]
    ) -> Forked:
        request = json.dumps([list(arguments), dict(environment), str(folder)]).encode()
        with self._one_at_a_time:
            socket.send_fds(self._ours, [request], list(outputs))
            assert self._some_started.acquire(timeout=60), "no process was started"
            pid = self._started.pop()
            self._ended.pop(pid, None)  # of an earlier process with the same id
        return Forked(pid, self._ended)

    def _listen(self) -> None:
        while told := self._ours.recv(100).split():
            if told[0] == b"started":
                self._started.append(int(told[1]))
                self._some_started.release()
            else:
                self._ended[int(told[1])] = int(told[2])


@cache
def _server() -> _Server:
    return _Server()


# ---- in the process that is copied


def _serve(connection: socket.socket) -> None:
    wakes, wake = os.pipe()
    for end in (wakes, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    while True:
        ready, _, _ = select.select([connection, wakes], [], [])
        if wakes in ready:
            os.read(wakes, 1000)
            with contextlib.suppress(ChildProcessError):
                while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                    connection.send(f"ended {ended[0]} {os.waitstatus_to_exitcode(ended[1])}".encode())
        if connection in ready:
            request, outputs, _, _ = socket.recv_fds(connection, _MOST, 2)
            if not request:
                return
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (connection.fileno(), wakes, wake):
                    os.close(end)
                _become(request, outputs)
            for end in outputs:
                os.close(end)
            connection.send(f"started {pid}".encode())


def _become(request: bytes, outputs: Sequence[int]) -> None:
    arguments, environment, folder = json.loads(request)
    for number, end in enumerate(outputs, 1):
        os.dup2(end, number)
        os.close(end)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["services", *arguments]
    code: object = 1
    try:
        runpy.run_module("services", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)  # as the interpreter does
            code = 1
    except BaseException:  # noqa: BLE001 (the end of the process: as the interpreter tells it)
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _import_all() -> None:
    """Import everything of ours that a process may need, and thereby what that needs."""
    for package in ("services", "shared"):
        for module in pkgutil.walk_packages([str(_ROOT / package)], f"{package}."):
            if not module.name.endswith("__main__") and ".migrations." not in module.name:
                importlib.import_module(module.name)


if __name__ == "__main__":
    _import_all()
    gc.collect()
    gc.freeze()  # what is never freed is not copied either
    _serve(socket.socket(fileno=int(sys.argv[1])))
