"""What desks tell us, and how they do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Request, Response

from services.ticketing.api.dependencies import Deps
from services.ticketing.desks import BadSignature, Desk, Failed, News
from services.ticketing.store import desks
from shared.directory.access import Caller
from shared.errors import FieldError, Problem, invalid_fields
from shared.http.keys import caller_with, new_router
from shared.http.openapi import problems, raw_body
from shared.http.responses import json_response
from shared.runtime.logs import Log

log = Log("ticketing")

_IN_THE_AIR = timedelta(minutes=2)
"""A create that was sent longer ago has failed, or its ticket was found by now."""
_WAIT = 5
"""Seconds."""


router = new_router(prefix="/v1/desks")


@router.get("")
async def list_desks(deps: Deps, _: Annotated[Caller, caller_with("admin")]) -> Response:
    """List the desks: what waits for each, and whether it is left alone because it fails."""
    async with deps.database.transaction() as tx:
        waiting = await desks.waiting(tx)
        health = await desks.healths(tx)
    shown = [
        {
            "name": name,
            "type": settings.type,
            "waiting": waiting.get(name, 0),
            "error": None if name not in health else health[name].error,
            "closed_until": None if name not in health else health[name].closed_until,
        }
        for name, settings in deps.access.revision.directory.desks.items()
    ]
    return json_response({"items": shown, "next": None})


@router.post(
    "/{desk}/events", status_code=202, responses=problems(401, 425), openapi_extra=raw_body("application/json")
)
async def take_desk_event(deps: Deps, desk: str, request: Request) -> Response:
    """Take a desk's word that a ticket changed; what it is now, the desk is asked, if it can be."""
    settings = deps.access.revision.directory.desks.get(desk)
    secrets = [] if settings is None else _secrets(settings.hook_secret_env)
    if settings is None or not secrets:
        # Nobody without the secret is told which desks there are.
        log.warning("a desk's word was refused: no such desk, or its hook_secret_env is not set", desk=desk[:63])
        raise _not_the_desks()
    headers: Mapping[str, str] = request.headers
    body = await request.body()
    try:
        news = _heard(deps.desk_sync.driver(desk, settings), headers, body, secrets, deps.clock.now())
    except BadSignature as error:
        log.warning("a desk's word was refused", desk=desk, why=str(error))
        raise _not_the_desks() from None
    except Failed as failed:
        raise Problem(503, "desk-unusable", "The desk cannot be used", failed.detail) from None
    except ValueError as error:
        raise invalid_fields(FieldError("body", str(error)[:200])) from None
    async with deps.database.transaction() as tx:
        # Asked first: what is called so by then is known below.
        creating = await desks.creating(tx, desk, deps.clock.now() - _IN_THE_AIR)
    if news.told is not None:
        known = await deps.desk_sync.take(desk, news.reference, news.told)
    else:
        async with deps.database.transaction() as tx:
            known = await desks.heard(tx, desk, [news.reference], deps.clock.now()) > 0
        deps.desk_sync.wake()
    if creating and not known:
        raise _too_early()
    return json_response({"known": known}, 202)


def _secrets(variable: str | None) -> list[str]:
    """Return the secrets of an environment variable: a comma list while one is replaced."""
    return [one for part in os.environ.get(variable or "", "").split(",") if (one := part.strip())]


def _heard(driver: Desk, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime) -> News:
    """Return what a request tells that was signed by one of some secrets. Raises BadSignature, ValueError."""
    for secret in secrets[:-1]:
        with suppress(BadSignature):
            return driver.heard(headers, body, secret, now)
    return driver.heard(headers, body, secrets[-1], now)


def _too_early() -> Problem:
    detail = "A ticket is being created in this desk, and it may be this one: tell it again."
    return Problem(425, "too-early", "Not known yet", detail, headers={"Retry-After": str(_WAIT)})


def _not_the_desks() -> Problem:
    return Problem(401, "bad-signature", "The signature is not the desk's", "The log of ticketing says why.")
