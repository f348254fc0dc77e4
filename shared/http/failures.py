"""Problems for whatever ends a request otherwise: nothing of the inside is told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from shared.errors import FieldError, Problem, Transient, invalid_fields
from shared.http.responses import problem_response
from shared.runtime.logs import Log

log = Log("shared.http")

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


def add_handlers(app: FastAPI) -> None:
    """Have an application answer with problems."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Transient, _on_transient)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_bug)
