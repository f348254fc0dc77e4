"""Routes that look at the key before they read anything; they are given the caller, and what services provide."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from shared.directory.access import Access, Caller
from shared.directory.model import Scope as KeyScope
from shared.errors import FieldError, Problem, invalid_fields
from shared.http.openapi import Facts, Responses, key_needed, refusals
from shared.http.responses import address_of

T = TypeVar("T")


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
            authorization, address = request.headers.get("authorization"), address_of(request.scope)
            for door in doors:
                request.state.caller = door.admit(_provided(request, Access), authorization, address)
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

    def __init__(self, scope: KeyScope, *, limited: bool) -> None:
        self.scope: KeyScope = scope
        self._limited = limited

    def admit(self, access: Access, authorization: str | None, address: str | None) -> Caller:
        """Return the caller. Raises the 401 or 403."""
        caller = access.require(authorization, self.scope, address)
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


def provided(kind: type[T]) -> Any:
    """Return the dependency that is what a service of the process provides of a kind (`Service.provides`)."""

    async def find(request: Request) -> T:
        return _provided(request, kind)

    return Depends(find)


def _provided(request: Request, kind: type[T]) -> T:
    return request.app.state.provided[kind]


def caller_with(scope: KeyScope, *, limited: bool = False) -> Any:
    """Return the dependency that lets in keys with this scope.

    `limited`: also those that are limited to some customers, to which the route keeps by itself.
    """
    return Depends(_Door(scope, limited=limited))


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
