"""What desks tell us, and how they do."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fastapi import APIRouter, Request, Response

from services.ticketing.desks import BadSignature, Failed
from services.ticketing.store import desks
from services.ticketing.synchronizer import Synchronizer
from shared.clock import Clock
from shared.db import Database
from shared.directory.access import Access, Caller
from shared.errors import FieldError, Problem, invalid_fields, not_found
from shared.logs import Log
from shared.web import caller_with, json_response

log = Log("ticketing")


def build_router(database: Database, access: Access, clock: Clock, synchronizer: Synchronizer) -> APIRouter:
    """Return what is served of desks."""
    router = APIRouter(prefix="/v1/desks")

    @router.get("")
    async def listed(_: Caller = caller_with(access, "admin")) -> Response:  # pyright: ignore[reportUnusedFunction]
        """List the desks: what waits for each, and whether it is left alone because it fails."""
        async with database.transaction() as tx:
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
            for name, settings in access.revision.directory.desks.items()
        ]
        return json_response({"items": shown, "next": None})

    @router.post("/{desk}/events", status_code=202)
    async def heard(desk: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Take a desk's word that a ticket changed; what it is now, the desk is asked, if it can be."""
        settings = access.revision.directory.desks.get(desk)
        if settings is None:
            raise not_found("desk", desk)
        secret = os.environ.get(settings.hook_secret_env or "")
        if not secret:
            raise Problem(
                403, "forbidden", "The desk has no secret", "Set hook_secret_env, and the variable that it names."
            )
        headers: Mapping[str, str] = request.headers
        body = await request.body()
        try:
            news = synchronizer.driver(desk, settings).heard(headers, body, secret, clock.now())
        except BadSignature as error:
            raise Problem(401, "bad-signature", "The signature is not the desk's", str(error)) from None
        except Failed as failed:
            raise Problem(503, "desk-unusable", "The desk cannot be used", failed.detail) from None
        except ValueError as error:
            raise invalid_fields(FieldError("body", str(error)[:200])) from None
        if news.told is not None:
            return json_response({"known": await synchronizer.take(desk, news.reference, news.told)}, 202)
        async with database.transaction() as tx:
            known = await desks.heard(tx, desk, [news.reference], clock.now())
        synchronizer.wake()
        return json_response({"known": known > 0}, 202)

    return router
