"""Ticketing over HTTP, by what it is about."""

from __future__ import annotations

from services.ticketing.api import desks, hooks, improvement, status, tickets
from shared.http.keys import new_router

router = new_router(tags=["ticketing"])
for room in (tickets, improvement, desks, hooks, status):
    router.include_router(room.router)
