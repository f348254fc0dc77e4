"""What stands before the framework: hot paths, requests at once, and bounds on bodies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import Problem
from shared.http.proxies import Proxies
from shared.http.responses import problem_response

BODY_LIMIT = 1024 * 1024
"""Bytes of a request's body, decoded."""

_DROP_BYTES = 64 * 1024 * 1024
_DROP_SECONDS = 10.0
"""How much of a refused body is still read."""

_ALWAYS = {"/healthz", "/readyz", "/metrics", "/docs", "/docs/style.css", "/openapi.json"}
_STARTING = Problem(
    503, "starting", "Starting", "Not everything is there yet; /readyz says what.", headers={"Retry-After": "2"}
)
_BUSY = Problem(503, "too-busy", "Too many requests at once", "Try again soon.", headers={"Retry-After": "2"})
_NUL = Problem(400, "bad-request", "The address has a NUL character")


class _TooLarge(HTTPException):
    """A body over the limit (the framework turns other errors while it reads a body into a 400)."""

    def __init__(self) -> None:
        super().__init__(413, f"At most {BODY_LIMIT} bytes.")


class _Exchange:
    """One request and its answer: the body is bounded, and read to its end before a connection closes.

    A client that still sends when the connection closes sees that it broke, and not the answer.
    """

    __slots__ = ("_answered", "_asked", "_receive", "_scope", "_send", "_taken", "_whole")

    def __init__(self, scope: Scope, receive: Receive, send: Send, answered: Callable[[], None]) -> None:
        """`answered` is called when all but the rest of the body is done with."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._answered = answered
        self._taken = 0
        self._asked = False
        """Whether the client was given leave to send the body, if it waits for that."""
        self._whole = False
        """Whether the body came to its end, or the client went."""

    async def receive(self) -> Any:
        """Return the next part of the body."""
        self._asked = True
        message = await self._receive()
        self._whole = not message.get("more_body")
        self._taken += len(message.get("body", b""))
        return message

    async def bounded(self) -> Any:
        """Return the next part of the body. Raises the 413."""
        message = await self.receive()
        if self._taken > BODY_LIMIT:
            raise _TooLarge
        return message

    async def send(self, message: Any) -> None:
        """Send a part of the answer; its last one after what is left of the body has come."""
        if self._whole:
            await self._send(message)
        elif message["type"] == "http.response.start":
            if _has_body(self._scope):
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
                self._whole = not self._asked and any(name == b"expect" for name, _ in self._scope["headers"])
            else:
                self._whole = True
            await self._send(message)
        elif message.get("more_body"):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._drop_rest()
            await self._send({"type": "http.response.body", "body": b""})

    async def _drop_rest(self) -> None:
        self._answered()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DROP_SECONDS):
                while not self._whole and self._taken < _DROP_BYTES:
                    await self.receive()


def _has_body(scope: Scope) -> bool:
    """Tell whether a body was announced."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


class Front:
    """Sends a request to its hot path or to the framework, so many at once, and bounds their bodies."""

    def __init__(self, app: ASGIApp, hot: Mapping[str, ASGIApp], proxies: Proxies, most: int) -> None:
        """`hot`: paths that are served without the framework, because they carry the load; `most`: requests at once."""
        self._app = app
        self._hot = hot
        self._proxies = proxies
        self._most = most
        self._under_way = 0
        self.open = False
        """Set once everything that requests need is there; until then only health is answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        holding = True

        def answered() -> None:
            nonlocal holding
            self._under_way -= holding
            holding = False

        exchange = _Exchange(scope, receive, send, answered)
        self._under_way += 1
        try:
            target = self._target(scope)
            await target(scope, exchange.bounded if target is self._app else exchange.receive, exchange.send)
        finally:
            answered()

    def _target(self, scope: Scope) -> ASGIApp:
        path: str = scope["path"]
        self._proxies.unveil(scope)
        if path not in _ALWAYS:
            if not self.open:
                return problem_response(_STARTING)
            if self._under_way > self._most:
                return problem_response(_BUSY)
        if "\0" in path or b"%00" in scope["query_string"]:
            # PostgreSQL cannot hold NUL, so nothing is called that.
            return problem_response(_NUL)
        return self._hot.get(path, self._app)
