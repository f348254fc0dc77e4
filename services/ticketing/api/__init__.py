"""Ticketing over HTTP, by what it is about."""

from __future__ import annotations

from services.ticketing.api import desks, improvement, status, tickets, webhooks
from shared.http.keys import new_router

router = new_router(tags=["ticketing"])
for room in (tickets, improvement, desks, webhooks, status):
    router.include_router(room.router)
