"""Notify over HTTP, by what it is about."""

from __future__ import annotations

from services.notify.api import audit, calendars, callbacks, contacts, oncall, pages, proactive, rota
from shared.http.keys import new_router

router = new_router(tags=["notify"])
for room in (pages, oncall, calendars, rota, contacts, proactive, audit, callbacks):
    router.include_router(room.router)
