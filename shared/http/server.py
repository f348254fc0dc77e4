"""The HTTP server: uvicorn, with bounds on what a connection may send, how slowly, and how many there are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, cast

import httptools
import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from shared.errors import Misconfigured, Problem
from shared.http.headers import DEFAULTS
from shared.http.limits import Limits
from shared.runtime.sockets import OPTIONS

if TYPE_CHECKING:
    import resource
else:
    try:
        import resource
    except ImportError:  # not to be had on Windows
        resource = None

DRAIN_SECONDS = 5
"""That requests under way get when the server stops."""
_LINGER_BYTES = 64 * 1024 * 1024
_LINGER_SECONDS = 10.0
_WRITE_SECONDS = 60.0
_FILES = 500
"""Open files of a process besides its clients' connections; those of the port for operations are among them."""
_PIPELINED = 16
"""Requests of one connection that may wait for the answer to one before them."""
_SWEEP_TICKS = 10
"""uvicorn ticks ten times a second."""


class _Phase(Enum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    DONE = auto()
    """The request is here, its answer under way."""
    LINGER = auto()
    """Refused; what still comes is dropped, so that the client sees why."""


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        self.problem = problem


_BAD_REQUEST = Problem(400, "bad-request", "This is not HTTP/1.1")
_SLOW_HEAD = Problem(408, "too-slow", "The headers did not arrive in time")
_SLOW_BODY = Problem(408, "too-slow", "The body did not arrive in time")
_LONG_URL = Problem(414, "url-too-long", "The address is too long")
_LARGE_HEAD = Problem(431, "headers-too-large", "The headers are too large")
_FULL = Problem(503, "too-busy", "Too many connections", "Try again soon.", headers={"Retry-After": "2"})


class _Config(uvicorn.Config):
    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        super().__init__(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=limits.idle_seconds,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        self.limits = limits


class _Protocol(HttpToolsProtocol):
    """One connection. The server looks at each once a second, so that a request in time costs no timer."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config, _Config)
        self._limits = config.limits
        self._phase = _Phase.IDLE
        self._since = self.loop.time()
        self._head_bytes = 0
        """Of a head that came in several pieces, after the first."""
        self._running: RequestResponseCycle | None = None
        """Whose answer is under way, or was the last; requests behind it wait in the pipeline."""
        self._lingered = 0
        self._stuck_since: float | None = None
        """Since when the client has not read what we write."""
        self._closing_since: float | None = None
        """Since when it is to close, and has still something to write."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a connection; where there are too many, in the place of one that is missed least."""
        super().connection_made(transport)
        if len(self.connections) <= self._limits.connections:
            return
        least = self._least_missed([cast("_Protocol", one) for one in self.connections if one is not self])
        if least is None:
            self._refuse(_FULL)
        else:
            least.transport.abort()

    def _least_missed(self, others: list[_Protocol]) -> _Protocol | None:
        """Return what to end: what was done with, what is idle, or of who has most what has not asked yet."""
        done = [one for one in others if one.transport.is_closing() or one._phase is _Phase.LINGER]
        found = done or [one for one in others if one._phase is _Phase.IDLE]
        if found:
            return min(found, key=lambda one: one._since)
        held = Counter(one.address for one in others)
        address, most = held.most_common(1)[0]
        slow = [one for one in others if one.address == address and one._phase in (_Phase.HEAD, _Phase.BODY)]
        return min(slow, key=lambda one: one._since) if slow and most > 2 * (held[self.address] + 1) else None

    @property
    def address(self) -> str | None:
        """Of who has connected, which may be a proxy."""
        return None if self.client is None else self.client[0]

    def data_received(self, data: bytes) -> None:
        """Feed the parser, within bounds."""
        if self._phase is _Phase.LINGER:
            self._lingered += len(data)
            if self._lingered > _LINGER_BYTES:
                self.transport.abort()
            return
        if self._phase is _Phase.HEAD:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            cast("httptools.HttpRequestParser", self.parser).feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # we speak nothing else; the request is answered as it is
        except httptools.HttpParserError as error:
            refused = error.__context__
            self._refuse(refused.problem if isinstance(refused, _Refused) else _BAD_REQUEST)
            return
        if self._phase is _Phase.HEAD and self._head_bytes > self._limits.header_bytes + self._limits.url_bytes:
            # One that does not end: the parser tells of a header only when it is whole.
            self._refuse(_LARGE_HEAD)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._enter(_Phase.HEAD)
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self._limits.url_bytes:
            raise _Refused(_LONG_URL)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is _Phase.HEAD:
            super().on_header(name, value)
        else:
            # A trailer: nobody reads it, it is no header, and it has the same bound.
            self._head_bytes += len(name) + len(value) + 4
            if self._head_bytes > self._limits.header_bytes:
                raise _Refused(_LARGE_HEAD)

    def on_headers_complete(self) -> None:
        if sum(len(name) + len(value) + 4 for name, value in self.headers) > self._limits.header_bytes:
            raise _Refused(_LARGE_HEAD)
        if len(self.pipeline) >= _PIPELINED:
            raise _Refused(_FULL)
        self._enter(_Phase.BODY)
        self._head_bytes = 0
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._enter(_Phase.IDLE if self.cycle.response_complete else _Phase.DONE)

    def on_response_complete(self) -> None:
        following = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if following is not None:
            self._running = following
            self._since = self.loop.time()  # nobody waited for its body before
            if self.pipeline:
                self.flow.pause_reading()  # what is read is parsed whole: many requests for each answer
        elif self._phase is _Phase.DONE:
            self._enter(_Phase.IDLE)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck_since = None

    def shutdown(self) -> None:
        if self._phase is _Phase.LINGER:
            self.transport.close()
        else:
            super().shutdown()

    def sweep(self, now: float) -> None:
        """End what has taken too long."""
        limits, took = self._limits, now - self._since
        if self._stuck_since is not None and now - self._stuck_since > _WRITE_SECONDS:
            self.transport.abort()
            return
        if self.transport.is_closing():
            self._closing_since = now if self._closing_since is None else self._closing_since
            if now - self._closing_since > _LINGER_SECONDS:
                self.transport.abort()  # a client that reads a little now and then keeps no place
            return
        match self._phase:
            case _Phase.HEAD if took > limits.header_seconds and not self._answers_another():
                self._refuse(_SLOW_HEAD)
            case _Phase.BODY if took > limits.body_seconds and not self._answers_another():
                self._refuse(_SLOW_BODY)
            case _Phase.IDLE if took > limits.idle_seconds:
                self.transport.close()
            case _Phase.LINGER if took > _LINGER_SECONDS and not self._answering():
                self.transport.abort()
            case _:
                pass

    def _answering(self) -> bool:
        running = self._running
        return running is not None and not running.response_complete and not running.disconnected

    def _answers_another(self) -> bool:
        """Tell whether an earlier request than the one that is coming in has its answer under way."""
        return self._answering() and (self._phase is not _Phase.BODY or self._running is not self.cycle)

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        self._since = self.loop.time()

    def _refuse(self, problem: Problem) -> None:
        """Answer in place of the application; then drop what comes, for a while, until the client closes."""
        if self.transport.is_closing():
            return
        running = self._running
        if running is not None and self._answering():
            if self._answers_another() or running.response_started:
                # An answer is not written into another: what is whole is answered, and then the connection ends.
                if self._phase is _Phase.BODY and self.pipeline:
                    self.pipeline.popleft()
                last = self.pipeline[0][0] if self.pipeline else running
                last.keep_alive = last.more_body = False
                last.message_event.set()
                self._enter(_Phase.LINGER)
                return
            running.disconnected = True  # whoever reads the body hears of it
            running.message_event.set()
        body = msgspec.json.encode(problem.body())
        headers = {
            "content-type": "application/problem+json",
            "content-length": str(len(body)),
            "connection": "close",
            **{name.decode(): value.decode() for name, value in DEFAULTS},
            **problem.headers,
        }
        lines = b"".join(f"{name.lower()}: {value}\r\n".encode() for name, value in headers.items())
        self._enter(_Phase.LINGER)
        self.transport.write(STATUS_LINE[problem.status] + lines + b"\r\n" + body)
        self.transport.write_eof()
        self.flow.resume_reading()


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the shell decides when and in which order things end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Leave signals to the shell."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Look at every connection, once a second."""
        if counter % _SWEEP_TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast("_Protocol", connection).sweep(now)
        return await super().on_tick(counter)


@dataclass(slots=True)
class Listening:
    """A server that runs, and where."""

    server: Server
    task: asyncio.Task[None]
    address: str


async def listen(app: ASGIApp, host: str, port: int, limits: Limits) -> Listening:
    """Serve an application. Raises Misconfigured where the address cannot be had."""
    # Bound here, because uvicorn ends the process by itself when an address is taken.
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise Misconfigured(
            f"cannot listen on {host}:{port} ({error.strerror}): set FIILIS_HOST or FIILIS_PORT to a free address"
        ) from None
    # Accepted sockets inherit it; without it plain asyncio answers 40 ms late, uvloop sets it by itself.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for level, option, value in OPTIONS:
        listener.setsockopt(level, option, value)
    _allow_files(limits.connections + _FILES)
    server = Server(_Config(app, limits))
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    bound = listener.getsockname()[1]
    return Listening(server, task, f"http://{f'[{host}]' if ':' in host else host}:{bound}")


def _allow_files(count: int) -> None:
    """Raise how many files the process may have open, as far as it may."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard == -1 else min(count, hard), hard))
