"""What doors answer with: wire messages, problems (RFC 9457), and what can be kept by its ETag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
from fastapi import Request, Response
from starlette.types import Scope

from shared.errors import Problem, not_found


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


def id_in_path(what: str, text: str) -> UUID:
    """Return the id that an address names. Raises the 404."""
    try:
        return UUID(text)
    except ValueError:
        raise not_found(what, text[:64]) from None
