"""HTTP as every service speaks it: problems, keys, health, and the front that sends a request where it belongs."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.directory.access import Access, Caller
from shared.directory.model import Scope as KeyScope
from shared.errors import FieldError, Problem, Transient, invalid_fields, not_found
from shared.http import reference
from shared.http.html import PAGE_HEADERS, style
from shared.http.openapi import Facts, Responses, completed, key_needed, refusals
from shared.http.proxies import Proxies
from shared.runtime.logs import Log

log = Log("shared.http.doors")

BODY_LIMIT = 1024 * 1024
"""Bytes of a request's body, decoded."""

_DROP_BYTES = 64 * 1024 * 1024
_DROP_SECONDS = 10.0
"""How much of a refused body is still read."""

Check = Callable[[], str | None]
"""Returns what is missing until the work can be done, or None."""


class Faced(Protocol):
    """The part of a service that HTTP sees."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def router(self) -> APIRouter: ...  # noqa: D102
    @property
    def described(self) -> Mapping[str, Any]: ...  # noqa: D102
    def missing(self, *, door: bool = False) -> Mapping[str, str]: ...  # noqa: D102
    def all_notes(self) -> Mapping[str, str]: ...  # noqa: D102


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return wire messages as they are on the wire."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


def unless_known(request: Request, body: bytes, headers: Mapping[str, str], media_type: str) -> Response:
    """Return what can be kept by its ETag, or the 304 for who has that one (`If-None-Match`, RFC 9110)."""
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if known & {headers["ETag"], "*"}:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


def problem_response(problem: Problem) -> Response:
    """Return a problem as RFC 9457 has it."""
    content = msgspec.json.encode(problem.body())
    return Response(content, problem.status, problem.headers, media_type="application/problem+json")


def address_of(scope: Scope) -> str | None:
    """Return from where a request comes, behind the proxies that we trust; None where nobody can tell."""
    client: tuple[str, int] | None = scope["client"]
    return None if client is None else client[0]


class KeyedRoute(APIRoute):
    """A route that looks at the key before it reads anything of the body, and is described as it refuses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        scope = next((door.scope for door in self._doors()), None)
        extra: dict[str, Any] = self.openapi_extra or {}
        dependant = self.dependant
        facts = Facts(
            scope=scope,
            fields=frozenset(_names([*dependant.query_params, *dependant.body_params])),
            named=bool(dependant.path_params),
            body=self.body_field is not None or "requestBody" in extra,
            decoded=self.body_field is not None,
            versioned=any(one.alias == "if-match" for one in dependant.header_params),
            page=isinstance(self.response_class, type) and issubclass(self.response_class, HTMLResponse),
        )
        self.responses: Responses = {**refusals(facts), **self.responses}
        if scope is not None:
            self.openapi_extra = {**extra, "security": key_needed(scope)}

    def _doors(self) -> list[_Door]:
        return [d.call for d in self.dependant.dependencies if isinstance(d.call, _Door)]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()
        doors = self._doors()

        async def keyed(request: Request) -> Response:
            for door in doors:
                request.state.caller = door.admit(request.headers.get("authorization"), address_of(request.scope))
            return await handle(request)

        return keyed if doors else handle


def _names(params: Sequence[Any]) -> Iterator[str]:
    """Yield what can be said: fields of a model, where it stands for all of a query or a body."""
    for param in params:
        kind: Any = param.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (one.alias or name for name, one in kind.model_fields.items())
        else:
            yield param.alias


class _Door:
    """The dependency that lets in keys with a scope."""

    def __init__(self, access: Access, scope: KeyScope, *, limited: bool) -> None:
        self._access = access
        self.scope: KeyScope = scope
        self._limited = limited

    def admit(self, authorization: str | None, address: str | None) -> Caller:
        """Return the caller. Raises the 401 or 403."""
        caller = self._access.require(authorization, self.scope, address)
        if caller.customers is not None and not self._limited:
            detail = "The key is limited to some customers, and this is about all of them."
            raise Problem(403, "forbidden", "The key has not that right", detail)
        return caller

    async def __call__(self, request: Request) -> Caller:
        route = request.scope["route"]
        # An address with a query or a body has a model that refuses what it does not know; the others take none.
        if not route.dependant.query_params and request.query_params:
            raise invalid_fields(*(FieldError(name, "unknown parameter") for name in request.query_params))
        if route.body_field is None:
            _refuse_fields(await request.body())
        elif not _is_json(request.headers.get("content-type", "application/json")):
            raise Problem(415, "unsupported-media-type", "The body must be application/json")
        return request.state.caller


def new_router(**options: Any) -> APIRouter:
    """Return a router whose keys are looked at first."""
    return APIRouter(route_class=KeyedRoute, **options)


def caller_with(access: Access, scope: KeyScope, *, limited: bool = False) -> Any:
    """Return the dependency that lets in keys with this scope.

    `limited`: also those that are limited to some customers, to which the route keeps by itself.
    """
    return Depends(_Door(access, scope, limited=limited))


def _is_json(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or (media.startswith("application/") and media.endswith("+json"))


def _refuse_fields(body: bytes) -> None:
    """Raise the 422 for a body that says something, where nothing can be said."""
    if not body.strip():
        return
    try:
        said = list(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = ["body"]
    if said:
        raise invalid_fields(*(FieldError(name[:63], "unknown field") for name in said))


def id_in_path(what: str, text: str) -> UUID:
    """Return the id that an address names. Raises the 404."""
    try:
        return UUID(text)
    except ValueError:
        raise not_found(what, text[:64]) from None


def build_app(services: Sequence[Faced], *, ops_elsewhere: bool) -> FastAPI:
    """Return the HTTP face of some services under one port."""
    names = ", ".join(service.name for service in services)
    app = FastAPI(
        title=f"Fiilis {names}" if len(services) == 1 else "Fiilis",
        version="1",
        docs_url=None,
        openapi_url=None if ops_elsewhere else "/openapi.json",
        redoc_url=None,
        strict_content_type=False,
    )
    for service in services:
        app.include_router(service.router)
    app.include_router(_health(services))
    if not ops_elsewhere:
        app.include_router(_ops())
        app.include_router(_reference(lambda: app.openapi()))
    described = {path: item for service in services for path, item in service.described.items()}
    framework = app.openapi

    def openapi() -> dict[str, Any]:
        schema = framework()
        schema["paths"] |= described
        return completed(schema)

    app.openapi = openapi
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Transient, _on_transient)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_bug)
    return app


_WAITING: Responses = {
    503: {"description": "Waiting: what is missing", "content": {"application/json": {"schema": {}}}}
}


def _health(services: Sequence[Faced]) -> APIRouter:
    router = new_router(tags=["health"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz")
    async def healthz() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """Tell that the process is alive."""
        return {"status": "ok"}

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", responses=_WAITING)
    async def readyz(door: str | None = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Tell whether the process can do its work; if not, what is missing. `?door`: whether it can answer requests.

        A balancer asks for the door: with Kafka away pages are still acknowledged and scores read.
        """
        gaps = {service.name: service.missing(door=door is not None) for service in services}
        missing = {f"{of}: {name}": gap for of, found in gaps.items() for name, gap in found.items()}
        notes = {f"{service.name}: {name}": note for service in services for name, note in service.all_notes().items()}
        body = {"status": "waiting" if missing else "ok", "missing": missing, **({"notes": notes} if notes else {})}
        return json_response(body, 503 if missing else 200)

    return router


def _ops() -> APIRouter:
    router = new_router(tags=["health"])

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return the figures for Prometheus."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


_ALWAYS = {"/healthz", "/readyz", "/metrics", "/docs", "/docs/style.css", "/openapi.json"}
_STARTING = Problem(
    503, "starting", "Starting", "Not everything is there yet; /readyz says what.", headers={"Retry-After": "2"}
)
_BUSY = Problem(503, "too-busy", "Too many requests at once", "Try again soon.", headers={"Retry-After": "2"})
_NUL = Problem(400, "bad-request", "The address has a NUL character")
_HTTP_PROBLEMS = {
    400: ("not-json", "The body is not JSON"),
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


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return problem_response(_not_that_method(request))
    code, title = _HTTP_PROBLEMS.get(error.status_code, (f"http-{error.status_code}", "The request failed"))
    return problem_response(Problem(error.status_code, code, title, error.detail, headers=dict(error.headers or {})))


def _not_that_method(request: Request) -> Problem:
    """Return the 405 with every method of the address (the framework names those of the first route only)."""
    described: dict[str, Any] = request.app.openapi()["paths"]
    # Most names in an address have no slash; a respondent's may.
    allowed = _methods(described, request.url.path, "[^/]+") or _methods(described, request.url.path, ".+")
    code, title = _HTTP_PROBLEMS[405]
    return Problem(405, code, title, headers={"Allow": ", ".join(sorted(allowed))} if allowed else {})


def _methods(described: Mapping[str, Any], path: str, name: str) -> set[str]:
    return {
        method.upper()
        for template, item in described.items()
        if re.fullmatch(re.sub(r"\\\{[^/]+?\\\}", name, re.escape(template)), path)
        for method in item
    }


async def _on_transient(_: Request, error: Exception) -> Response:
    log.warning("request refused", why=str(error))
    problem = Problem(503, "unavailable", "Not available for now", "Try again soon.", headers={"Retry-After": "2"})
    return problem_response(problem)


async def _on_gone(_: Request, __: Exception) -> Response:
    return problem_response(Problem(400, "broken-off", "The request broke off"))  # nobody reads it


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("request failed", failure=error, path=request.scope["route"].path if "route" in request.scope else "?")
    return problem_response(Problem(500, "internal", "Something went wrong on our side"))


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


def build_ops_app(app: FastAPI, services: Sequence[Faced]) -> FastAPI:
    """Return what a port of its own for operations serves: figures, health, and the description of an application.

    Health also here: whoever floods the other port keeps nobody from seeing that the process is well.
    """
    ops = FastAPI(title="Fiilis operations", docs_url=None, redoc_url=None, openapi_url=None)
    ops.include_router(_ops())
    ops.include_router(_health(services))
    ops.include_router(_reference(lambda: app.openapi()))

    @ops.get("/openapi.json", include_in_schema=False)
    async def described() -> Response:  # pyright: ignore[reportUnusedFunction]
        return json_response(app.openapi())

    return ops


def _reference(openapi: Callable[[], Mapping[str, Any]]) -> APIRouter:
    router = APIRouter()
    serve_style(router, "/docs")

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(reference.page(openapi()), headers=PAGE_HEADERS, media_type="text/html")

    return router


def serve_style(router: APIRouter, folder: str) -> None:
    """Serve the stylesheet of pages beside them; call it before their own route is made, which would take it."""

    @router.get(f"{folder}/style.css", include_in_schema=False)
    async def stylesheet(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return unless_known(request, *style(), "text/css")
