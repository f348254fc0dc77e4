"""The shell of every service: HTTP, health, supervised tasks, and an ordered end.

A task that dies ends the process with an error, and so does a worker that stands still while everything that it needs
is there: a service never looks alive without its work. On SIGTERM it says at `/readyz` that it goes, and serves until
balancers have heard of it; then, as at once on Ctrl-C, it stops taking requests, ends the tasks, and closes what was
opened in reverse order, within a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter
from starlette.types import ASGIApp

from shared.errors import Misconfigured
from shared.http.app import Check, build_app, build_ops_app
from shared.http.front import Front
from shared.http.headers import Headers
from shared.http.proxies import Proxies
from shared.http.server import DRAIN_SECONDS, Limits, listen
from shared.runtime.logs import Log
from shared.runtime.memory import tune_memory
from shared.runtime.progress import Worker

log = Log("shared.runtime.service")

_STOP_SECONDS = 20
_LIMITS = Limits()
_OPS_CONNECTIONS = 100
_LOOK_SECONDS = 5.0
_LATE_LOOKS = 4
"""In a row: a process that was stopped and goes on has old signs of life, and gets the time for new ones."""
_FROZEN_SECONDS = 60
"""An event loop that takes no turn for so long takes none any more."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service, put together but not running."""

    name: str
    router: APIRouter = field(default_factory=APIRouter)
    provides: Sequence[object] = ()
    """What its routes are given, each by its type."""
    hot: Mapping[str, ASGIApp] = field(default_factory=dict[str, ASGIApp])
    """Paths that are served without the framework, because they carry the load."""
    described: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """OpenAPI path items of the hot paths."""
    resources: Sequence[contextlib.AbstractAsyncContextManager[Any]] = ()
    """Opened in order before the tasks start, closed in reverse after they ended."""
    tasks: Mapping[str, Callable[[], Awaitable[None]]] = field(default_factory=dict[str, Callable[[], Awaitable[None]]])
    """Run as long as the service; the end of one is the end of the process."""
    workers: Sequence[Worker] = ()
    """Run like the tasks; readiness, and the watchdog, ask for their progress."""
    checks: Mapping[str, Check] = field(default_factory=dict[str, Check])
    """What readiness asks besides."""
    door: Collection[str] = ()
    """Which of the checks answering requests needs; the work behind it may need more."""
    notes: Callable[[], Mapping[str, str]] = dict
    """What readiness tells of besides: trouble of others that does not keep us from our work."""

    def all_tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return everything that runs as long as the service, by name."""
        return {**self.tasks, **{worker.progress.worker: worker.run for worker in self.workers}}

    def missing(self, *, door: bool = False) -> dict[str, str]:
        """Return what is missing until the work can be done, or, `door`, until requests can be answered."""
        checks = {
            **self.checks,
            **({} if door else {f"worker {w.progress.worker}": w.progress.missing for w in self.workers if w.needed}),
        }
        return {
            name: gap
            for name, check in checks.items()
            if (not door or name in self.door) and (gap := check()) is not None
        }

    def all_notes(self) -> dict[str, str]:
        """Return what readiness tells of besides."""
        told = {
            f"worker {worker.progress.worker}": trouble
            for worker in self.workers
            if (trouble := worker.progress.trouble or (None if worker.needed else worker.progress.missing()))
        }
        return {**self.notes(), **told}


class Stop(asyncio.Event):
    """Set when the process is to end; some seconds before that it may say that it is going."""

    def __init__(self) -> None:
        super().__init__()
        self.draining = False


class Standstill(RuntimeError):
    """A worker stands still though everything that it needs is there."""


@contextlib.asynccontextmanager
async def opened(
    start: Callable[[], Awaitable[Any]] | None, close: Callable[[], Awaitable[None]]
) -> AsyncGenerator[None]:
    """Make a resource of two functions."""
    if start is not None:
        await start()
    try:
        yield
    finally:
        await close()


async def run(
    services: Sequence[Service],
    *,
    host: str,
    port: int,
    ops_port: int | None = None,
    stop: asyncio.Event,
    on_listening: Callable[[str], None] = lambda _: None,
    on_ready: Callable[[str], None] = lambda _: None,
    away: Callable[[], Mapping[str, str]] = dict,
    standstill: float = 120.0,
    proxies: str = "",
    hsts_seconds: int = 0,
    limits: Limits = _LIMITS,
) -> None:
    """Run services until `stop` is set; the callbacks get the address once it is bound, and once all are ready.

    It listens first, so that health is answered while Kafka or PostgreSQL is waited for. `away` says who of them does
    not answer now: a worker that stands still for `standstill` seconds while nobody is away ends the process. Raises
    what ended a task.
    """
    hot = {path: target for service in services for path, target in service.hot.items()}

    def going() -> str | None:
        return "the process is ending" if isinstance(stop, Stop) and stop.draining else None

    starting: dict[str, Check] = {"start": lambda: None if front.open else "the services are starting", "stop": going}
    process = Service(name="process", checks=starting, door=starting)
    app = build_app([process, *services], ops_elsewhere=ops_port is not None)
    front = Front(app, hot, Proxies(proxies), limits.requests)
    listening = [await listen(Headers(front, hsts_seconds=hsts_seconds), host, port, limits)]
    address = listening[0].address
    on_listening(address)
    if ops_port is not None:
        ops = Headers(build_ops_app(app, [process, *services]))
        listening.append(await listen(ops, host, ops_port, replace(limits, connections=_OPS_CONNECTIONS)))
        log.info("operations", address=listening[-1].address)
    servers = [one.task for one in listening]
    opening = asyncio.create_task(_open(services), name="start")
    tasks: list[asyncio.Task[None]] = []
    try:
        await _first([opening, *servers], stop)
        if not stop.is_set():
            front.open = True
            tasks += [
                asyncio.create_task(_supervised(service.name, name, task), name=f"{service.name} {name}")
                for service in services
                for name, task in service.all_tasks().items()
            ]
            workers = [worker for service in services for worker in service.workers]
            tasks.append(asyncio.create_task(_watch(workers, away, standstill), name="watchdog"))
            tasks.append(asyncio.create_task(_announce([process, *services], address, on_ready), name="announce"))
            await _first([*tasks, *servers], stop)
    finally:
        for one in listening:
            one.server.should_exit = True
        await asyncio.wait(servers, timeout=DRAIN_SECONDS + 1)
        await _cancel(tasks)
        await _cancel([opening])
        if not opening.cancelled() and opening.exception() is None:
            await opening.result().aclose()


async def _open(services: Sequence[Service]) -> contextlib.AsyncExitStack:
    """Open every resource; what was opened is closed again when one fails or the wait is given up."""
    async with contextlib.AsyncExitStack() as stack:
        for service in services:
            for resource in service.resources:
                await stack.enter_async_context(resource)
        return stack.pop_all()


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_STOP_SECONDS / 2)


async def _supervised(service: str, name: str, task: Callable[[], Awaitable[None]]) -> None:
    await task()
    raise RuntimeError(f"{service}: {name} ended by itself")


async def _announce(services: Sequence[Service], address: str, on_ready: Callable[[str], None]) -> None:
    while any(service.missing() for service in services):
        await asyncio.sleep(0.02)
    on_ready(address)
    await asyncio.Event().wait()


async def _watch(workers: Sequence[Worker], away: Callable[[], Mapping[str, str]], standstill: float) -> None:
    """Wait for a worker to stand still. Raises Standstill, which ends the process, so that it is started afresh."""
    late: Counter[str] = Counter()
    while True:
        await asyncio.sleep(min(_LOOK_SECONDS, standstill / 4))
        if away():
            late.clear()  # they are right to wait
            continue
        for worker in workers:
            name = f"{worker.progress.service}: {worker.progress.worker}"
            late[name] = late[name] + 1 if worker.progress.late > standstill else 0
            if late[name] >= _LATE_LOOKS:
                raise Standstill(f"{name}: {worker.progress.missing()}, and everything that it needs is there")


async def _first(tasks: Sequence[asyncio.Task[Any]], stop: asyncio.Event) -> None:
    """Wait until one ends, or `stop` is set. Raises what a task raised."""
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    for task in done - {stopping}:
        failure = _failure(task)
        if failure is not None:
            if not isinstance(failure, Misconfigured):
                log.error("task ended", failure=failure, task=task.get_name())
            raise failure


def _failure(task: asyncio.Task[Any]) -> BaseException | None:
    """Return what ended a task that nobody has told to end."""
    try:
        return task.exception()
    except asyncio.CancelledError as error:
        # A library's own, such as of a task of its that it gave up: to let it pass would be an end with exit code 0.
        failure = RuntimeError(f"{task.get_name()} was cancelled")
        failure.__cause__ = error
        return failure


def run_process(main: Callable[[asyncio.Event], Awaitable[None]], *, drain_seconds: float = 0.0) -> int:
    """Run a process until SIGINT or SIGTERM; return its exit code. A second signal or the deadline ends it at once.

    After SIGTERM it says for `drain_seconds` that it is going, and works on.
    """

    async def body() -> int:
        stop = Stop()
        loop = asyncio.get_running_loop()
        _watch_loop(loop)

        def end() -> None:
            if not stop.is_set():
                stop.set()
                loop.call_later(_STOP_SECONDS, _overdue)

        def on_signal(drain: float) -> None:
            if stop.draining or stop.is_set():
                os._exit(1)
            stop.draining = True
            loop.call_later(drain, end) if drain else end()

        loop.add_signal_handler(signal.SIGINT, on_signal, 0.0)
        loop.add_signal_handler(signal.SIGTERM, on_signal, drain_seconds)
        try:
            await main(stop)
        except Misconfigured as error:
            log.error(str(error))
            return 2
        except Exception as error:  # noqa: BLE001 (the edge of the process: say it, exit with an error, be restarted)
            log.error("process ends", failure=error)
            return 1
        return 0

    tune_memory()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(body())


def _watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    """End the process when its event loop takes no turn any more: nothing on the loop itself could tell."""
    turned = threading.Event()

    def turn() -> None:
        turned.set()
        loop.call_later(0.5, turn)

    def watch() -> None:
        frozen = 0  # seconds that were looked at, not that the clock says: a stopped process looks at none
        while not loop.is_closed():
            time.sleep(1)
            frozen = 0 if turned.is_set() else frozen + 1
            turned.clear()
            if frozen >= _FROZEN_SECONDS:
                log.error("the event loop stands still", seconds=frozen)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(1)

    loop.call_soon(turn)
    threading.Thread(target=watch, name="watch-loop", daemon=True).start()


def _overdue() -> None:
    log.error("not stopped within the deadline", seconds=_STOP_SECONDS)
    os._exit(1)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 (not to be had on Windows)

    return uvloop.new_event_loop
