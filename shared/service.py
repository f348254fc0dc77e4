"""The shell of every service: settings, HTTP, health, supervised tasks, and an ordered end.

A task that dies ends the process with an error: a service never looks alive without its work. On SIGTERM or Ctrl-C the
shell stops taking requests, ends the tasks, and closes what was opened in reverse order, within a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.directory.access import Access, Caller
from shared.directory.model import Scope as KeyScope
from shared.errors import FieldError, Misconfigured, Problem, invalid_fields
from shared.logs import Log

log = Log("shared.service")

BODY_LIMIT = 1024 * 1024
_DRAIN_SECONDS = 5
_STOP_SECONDS = 20


class Settings(BaseSettings):
    """What every service is told by its environment."""

    model_config = SettingsConfigDict(env_prefix="FIILIS_", extra="ignore")

    kafka: str | None = None
    """Bootstrap servers, `host:port,host:port`."""
    database_url: str | None = None
    """`postgresql://user:password@host/database`."""
    topic_prefix: str = ""
    """Set before each topic and group, where several installations share a cluster."""
    host: str = "127.0.0.1"
    port: int | None = Field(default=None, ge=0, le=65535)
    """0 takes a free one; none: the service's own."""
    ops_port: int | None = Field(default=None, ge=0, le=65535)
    """Moves /metrics and /docs to a port of their own."""
    public_url: str | None = None
    """Starts every link; default http://HOST:PORT."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    secret: str = ""
    """A comma list; the first signs, all verify."""
    allow_private_targets: str = ""
    """`true`, or a comma list of networks and hosts that outgoing requests may reach besides public ones."""

    @property
    def secrets(self) -> list[str]:
        """The signing secrets, newest first."""
        return [part.strip() for part in self.secret.split(",") if part.strip()]


Check = Callable[[], str | None]
"""Returns what is missing, or None."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service, put together but not running."""

    name: str
    router: APIRouter = field(default_factory=APIRouter)
    hot: Mapping[str, ASGIApp] = field(default_factory=dict[str, ASGIApp])
    """Paths that are served without the framework, because they carry the load."""
    resources: Sequence[contextlib.AbstractAsyncContextManager[Any]] = ()
    """Opened in order before the tasks start, closed in reverse after they ended."""
    tasks: Mapping[str, Callable[[], Awaitable[None]]] = field(default_factory=dict[str, Callable[[], Awaitable[None]]])
    """Run as long as the service; the end of one is the end of the process."""
    checks: Mapping[str, Check] = field(default_factory=dict[str, Check])
    """What readiness asks."""


@contextlib.asynccontextmanager
async def opened(
    start: Callable[[], Awaitable[Any]] | None, close: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Make a resource of two functions."""
    if start is not None:
        await start()
    try:
        yield
    finally:
        await close()


# ---- HTTP


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return wire messages as they are on the wire."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


def problem_response(problem: Problem) -> Response:
    """Return a problem as RFC 9457 has it."""
    content = msgspec.json.encode(problem.body())
    return Response(content, problem.status, problem.headers, media_type="application/problem+json")


def caller_with(access: Access, scope: KeyScope) -> Any:
    """Return the dependency that lets in keys with this scope."""

    def caller(authorization: Annotated[str | None, Header()] = None) -> Caller:
        return access.require(authorization, scope)

    return Depends(caller)


def build_app(services: Sequence[Service], *, ops_elsewhere: bool) -> FastAPI:
    """Return the HTTP face of some services under one port."""
    names = ", ".join(service.name for service in services)
    app = FastAPI(
        title=f"Fiilis {names}" if len(services) == 1 else "Fiilis",
        version="1",
        docs_url=None if ops_elsewhere else "/docs",
        redoc_url=None,
    )
    for service in services:
        app.include_router(service.router)
    app.include_router(_health(services))
    if not ops_elsewhere:
        app.include_router(_ops())
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    return app


def _health(services: Sequence[Service]) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """The process is alive."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> Response:  # pyright: ignore[reportUnusedFunction]
        """The process can do its work; if not, what is missing."""
        missing = {
            f"{service.name}: {name}": gap
            for service in services
            for name, check in service.checks.items()
            if (gap := check()) is not None
        }
        return json_response({"status": "waiting" if missing else "ok", "missing": missing}, 503 if missing else 200)

    return router


def _ops() -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/metrics")
    async def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Prometheus."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


_HTTP_PROBLEMS = {
    400: ("bad-request", "The request cannot be read"),
    404: ("not-found", "No such address"),
    405: ("method-not-allowed", "This address does not take that method"),
    413: ("too-large", "The body is too large"),
}


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _on_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found: Sequence[Any] = error.errors()
    if any(e["type"] == "json_invalid" for e in found):
        return problem_response(Problem(400, "not-json", "The body is not JSON", str(found[0]["ctx"]["error"])))
    errors = [FieldError(_path(e["loc"]), e["msg"]) for e in found]
    return problem_response(invalid_fields(*errors))


def _path(loc: Sequence[str | int]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc[1:])
    return path.lstrip(".") or str(loc[0])


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, title = _HTTP_PROBLEMS.get(error.status_code, (f"http-{error.status_code}", "The request failed"))
    return problem_response(Problem(error.status_code, code, title, error.detail, headers=dict(error.headers or {})))


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("request failed", failure=error, path=request.scope["route"].path if "route" in request.scope else "?")
    return problem_response(Problem(500, "internal", "Something went wrong on our side"))


class _Front:
    """Sends a request to its hot path or to the framework, whose bodies it bounds."""

    def __init__(self, app: ASGIApp, hot: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._hot = hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        hot = self._hot.get(scope["path"])
        if hot is not None:
            await hot(scope, receive, send)
            return
        taken = 0

        async def bounded() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > BODY_LIMIT:
                raise _TooLarge
            return message

        await self._app(scope, bounded, send)


# ---- the process


class _TooLarge(HTTPException):
    """A body over the limit (the framework turns other errors while it reads a body into a 400)."""

    def __init__(self) -> None:
        super().__init__(413, f"At most {BODY_LIMIT} bytes.")


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the shell decides when and in which order things end."""

    @contextlib.contextmanager
    def capture_signals(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        yield


@dataclass(slots=True)
class _Listening:
    server: _Server
    task: asyncio.Task[None]


async def _listen(app: ASGIApp, host: str, port: int) -> tuple[_Listening, str]:
    # Bound here, because uvicorn ends the process by itself when an address is taken.
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise Misconfigured(
            f"cannot listen on {host}:{port} ({error.strerror}): set FIILIS_HOST or FIILIS_PORT to a free address"
        ) from None
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    bound = listener.getsockname()
    return _Listening(server, task), f"http://{f'[{host}]' if ':' in host else host}:{bound[1]}"


async def run(
    services: Sequence[Service],
    *,
    host: str,
    port: int,
    ops_port: int | None = None,
    stop: asyncio.Event,
    on_listening: Callable[[str], None] = lambda _: None,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Run services until `stop` is set; the callbacks get the address once it is bound, and once all are ready.

    Raises what ended a task.
    """
    async with contextlib.AsyncExitStack() as stack:
        for service in services:
            for resource in service.resources:
                await stack.enter_async_context(resource)
        app = build_app(services, ops_elsewhere=ops_port is not None)
        hot = {path: target for service in services for path, target in service.hot.items()}
        listening = [await _listen(_Front(app, hot), host, port)]
        address = listening[0][1]
        on_listening(address)
        if ops_port is not None:
            ops = FastAPI(title="Fiilis operations", openapi_url=None)
            ops.include_router(_ops())
            ops.add_api_route("/docs", lambda: _docs(address), include_in_schema=False)
            listening.append(await _listen(ops, host, ops_port))
        tasks = [
            asyncio.create_task(_supervised(service.name, name, task), name=f"{service.name} {name}")
            for service in services
            for name, task in service.tasks.items()
        ]
        tasks.append(asyncio.create_task(_announce(services, address, on_ready), name="announce"))
        try:
            await _until_stopped(tasks, [one.task for one, _ in listening], stop)
        finally:
            for one, _ in listening:
                one.server.should_exit = True
            await asyncio.wait([one.task for one, _ in listening], timeout=_DRAIN_SECONDS + 1)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=_STOP_SECONDS / 2)


def _docs(address: str) -> Response:
    """Return the page of the interface's documentation, wherever it is served."""
    from fastapi.openapi.docs import get_swagger_ui_html  # noqa: PLC0415 (only where the port is moved)

    return get_swagger_ui_html(openapi_url=f"{address}/openapi.json", title="Fiilis")


async def _supervised(service: str, name: str, task: Callable[[], Awaitable[None]]) -> None:
    await task()
    raise RuntimeError(f"{service}: {name} ended by itself")


async def _announce(services: Sequence[Service], address: str, on_ready: Callable[[str], None]) -> None:
    while any(check() is not None for service in services for check in service.checks.values()):
        await asyncio.sleep(0.02)
    on_ready(address)
    await asyncio.Event().wait()


async def _until_stopped(
    tasks: Sequence[asyncio.Task[None]], servers: Sequence[asyncio.Task[None]], stop: asyncio.Event
) -> None:
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([stopping, *tasks, *servers], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    for task in done:
        if task is not stopping and not task.cancelled() and (failure := task.exception()) is not None:
            log.error("task ended", failure=failure, task=task.get_name())
            raise failure


def tune_memory() -> None:
    """Let the cyclic collector run seldom.

    A batch of answers makes some 100,000 objects that reference counting frees by itself; with the default (700) the
    collector walked the customers in memory again and again: 36,000 answers a second instead of 29,000 with 1,000
    customers, 21,000 instead of 17,000 with 50,000 (bench/scoring.py).
    """
    gc.set_threshold(50_000, 20, 50)


def run_process(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run a process until SIGINT or SIGTERM; return its exit code. A second signal, or the deadline, ends it at once."""

    async def body() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if stop.is_set():
                os._exit(1)
            stop.set()
            loop.call_later(_STOP_SECONDS, _overdue)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
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


def _overdue() -> None:
    log.error("not stopped within the deadline", seconds=_STOP_SECONDS)
    os._exit(1)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 (not to be had on Windows)

    return uvloop.new_event_loop
