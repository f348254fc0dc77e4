"""What the OpenAPI document says of keys and of refusals, from the facts of a route: nobody writes it by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Responses: TypeAlias = dict[int | str, dict[str, Any]]
"""As the framework wants them: by status."""

_SAID: Mapping[int, str] = {
    304: "It is what If-None-Match names",
    400: "The address or the body cannot be read",
    401: "What proves who asks is missing, or not good now",
    403: "Whoever asks has not that right",
    404: "There is no such thing, or not for this key",
    409: "It conflicts with the present state",
    410: "The link has expired",
    412: "It was changed meanwhile: read it again",
    413: "The body is too large",
    415: "The body is of another media type than this address takes",
    422: "Invalid; the fields are named",
    425: "Too early; Retry-After says when to try again",
    428: "If-Match is missing",
    429: "Too many; Retry-After says when",
    503: "Not now; Retry-After says when to try again",
}
_WAIT = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 0}}}
_SCHEMES: Mapping[str, Any] = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key of the directory; each address names its scope."},
    "key_in_address": {
        "type": "apiKey",
        "in": "query",
        "name": "key",
        "description": "A publishable key, for sendBeacon, which sends no headers.",
    },
}
_PROBLEM: Mapping[str, Any] = {
    "type": "object",
    "description": "RFC 9457; `code` is a stable slug.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        **{name: {"type": "string"} for name in ("type", "title", "detail", "code")},
        "status": {"type": "integer"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "detail"],
                "properties": {"path": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_FRAMEWORKS = ("HTTPValidationError", "ValidationError")


@dataclass(frozen=True, slots=True)
class Facts:
    """What of a route decides how it can refuse."""

    scope: str | None
    """Of the key that it needs; None: no key."""
    fields: frozenset[str]
    """What can be said in its query and its body."""
    named: bool
    """Its address has a name in it."""
    body: bool
    decoded: bool
    """The framework reads the body, not the route."""
    versioned: bool
    """It asks for If-Match."""
    page: bool
    """People read its answers."""


def refusals(facts: Facts) -> Responses:
    """Return the responses by which a route can refuse; what only itself knows (409, 410, 425, 429) it says itself."""
    return problems(*_statuses(facts), page=facts.page)


def _statuses(facts: Facts) -> Iterator[int]:
    yield from (400, 503)
    if facts.scope is not None:
        yield from (401, 403, 413, 422)  # it refuses what it does not know, so it reads what it is sent
    if facts.named or "customer" in facts.fields:
        yield 404
    if facts.fields:
        yield 422
    if facts.body:
        yield from (413, 422)
    if facts.decoded:
        yield 415
    if facts.versioned:
        yield from (412, 428)


def problems(*statuses: int, page: bool = False) -> Responses:
    """Return the responses of some statuses; `page`: people may be told on a page."""
    return {status: _response(status, page=page) for status in sorted({*statuses})}


def _response(status: int, *, page: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"description": _SAID[status]}
    if status >= 400:
        told["content"] = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        if page:
            told["content"]["text/html"] = {"schema": {"type": "string"}}
    if status in {425, 429, 503}:
        told["headers"] = _WAIT
    return told


def raw_body(*media_types: str) -> dict[str, Any]:
    """Return what a route says of a body that it reads by itself."""
    return {"requestBody": {"content": {media: {"schema": {}} for media in media_types}}}


def key_needed(scope: str, *, in_address: bool = False) -> list[dict[str, list[str]]]:
    """Return the security of an operation that needs a key with a scope (OpenAPI 3.1 has it for every scheme)."""
    return [{"key": [scope]}, *([{"key_in_address": [scope]}] if in_address else ())]


def completed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a document with what its operations refer to, and without what the framework tells of errors."""
    components: dict[str, Any] = schema.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    for name in _FRAMEWORKS:
        schemas.pop(name, None)
    schemas["Problem"] = _PROBLEM
    used = {"key"}
    for operation in (operation for item in schema["paths"].values() for operation in item.values()):
        security: Sequence[Mapping[str, Any]] = operation.get("security", ())
        used.update(name for one in security for name in one)
        # The framework thinks that whatever has a parameter can refuse it.
        if "HTTPValidationError" in str(operation["responses"].get("422")):
            del operation["responses"]["422"]
        operation["responses"] = dict(sorted(operation["responses"].items()))
    components["securitySchemes"] = {name: _SCHEMES[name] for name in sorted(used)}
    return schema
