"""The HTTP application of a process: the doors of its services, health, figures and the reference, under one port."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.http import reference
from shared.http.failures import add_handlers
from shared.http.html import PAGE_HEADERS
from shared.http.keys import new_router
from shared.http.openapi import Responses, completed
from shared.http.responses import json_response
from shared.http.stylesheet import serve_style

Check = Callable[[], str | None]
"""Returns what is missing until the work can be done, or None."""


class Doors(Protocol):
    """The part of a service that HTTP sees."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def router(self) -> APIRouter: ...  # noqa: D102
    @property
    def described(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def provides(self) -> Sequence[object]: ...  # noqa: D102
    def missing(self, *, door: bool = False) -> Mapping[str, str]: ...  # noqa: D102
    def all_notes(self) -> Mapping[str, str]: ...  # noqa: D102


def operation_id(route: APIRoute) -> str:
    """Return what a generated client calls an operation: the function that answers it."""
    return route.name


def build_app(services: Sequence[Doors], *, ops_elsewhere: bool) -> FastAPI:
    """Return the HTTP face of some services under one port."""
    names = ", ".join(service.name for service in services)
    app = FastAPI(
        title=f"Fiilis {names}" if len(services) == 1 else "Fiilis",
        version="1",
        docs_url=None,
        openapi_url=None if ops_elsewhere else "/openapi.json",
        redoc_url=None,
        strict_content_type=False,
        generate_unique_id_function=operation_id,
    )
    app.state.provided = {type(one): one for service in services for one in service.provides}
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
    add_handlers(app)
    return app


_WAITING: Responses = {
    503: {"description": "Waiting: what is missing", "content": {"application/json": {"schema": {}}}}
}


def _health(services: Sequence[Doors]) -> APIRouter:
    async def healthz() -> dict[str, str]:
        """Tell that the process is alive."""
        return {"status": "ok"}

    async def readyz(door: str | None = None) -> Response:
        """Tell whether the process can do its work; if not, what is missing. `?door`: whether it can answer requests.

        A balancer asks for the door: with Kafka away pages are still acknowledged and scores read.
        """
        gaps = {service.name: service.missing(door=door is not None) for service in services}
        missing = {f"{of}: {name}": gap for of, found in gaps.items() for name, gap in found.items()}
        notes = {f"{service.name}: {name}": note for service in services for name, note in service.all_notes().items()}
        body = {"status": "waiting" if missing else "ok", "missing": missing, **({"notes": notes} if notes else {})}
        return json_response(body, 503 if missing else 200)

    router = new_router(tags=["health"])
    router.get("/healthz")(healthz)
    router.get("/readyz", responses=_WAITING)(readyz)
    for path, answer in (("/healthz", healthz), ("/readyz", readyz)):
        router.head(path, include_in_schema=False)(answer)
    return router


async def metrics() -> Response:
    """Return the figures for Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _ops() -> APIRouter:
    router = new_router(tags=["health"])
    router.get("/metrics", response_class=PlainTextResponse)(metrics)
    return router


def build_ops_app(app: FastAPI, services: Sequence[Doors]) -> FastAPI:
    """Return what a port of its own for operations serves: figures, health, and the description of an application.

    Health also here: whoever floods the other port keeps nobody from seeing that the process is well.
    """
    ops = FastAPI(title="Fiilis operations", docs_url=None, redoc_url=None, openapi_url=None)
    ops.include_router(_ops())
    ops.include_router(_health(services))
    ops.include_router(_reference(lambda: app.openapi()))

    async def described() -> Response:
        return json_response(app.openapi())

    ops.get("/openapi.json", include_in_schema=False)(described)
    return ops


def _reference(openapi: Callable[[], Mapping[str, Any]]) -> APIRouter:
    async def docs() -> Response:
        return Response(reference.page(openapi()), headers=PAGE_HEADERS, media_type="text/html")

    router = APIRouter()
    serve_style(router, "/docs")
    router.get("/docs", include_in_schema=False)(docs)
    return router
