"""Ticketing over HTTP, by what it is about."""

from __future__ import annotations

from fastapi import APIRouter

from services.ticketing.api import desks, hooks, improvement, status, tickets
from services.ticketing.desk_sync.supervisor import DeskSync
from services.ticketing.ledger import Ledger
from shared.database.pool import Database
from shared.directory.access import Access
from shared.http.doors import new_router
from shared.runtime.clock import Clock
from shared.wire.signing import Signer


def build_router(
    database: Database, access: Access, clock: Clock, ledger: Ledger, desk_sync: DeskSync, signer: Signer
) -> APIRouter:
    """Return ticketing's part of the HTTP interface."""
    router = new_router(tags=["ticketing"])
    router.include_router(tickets.build_router(database, access, clock, ledger))
    router.include_router(improvement.build_router(database, access, clock))
    router.include_router(desks.build_router(database, access, clock, desk_sync))
    router.include_router(hooks.build_router(database, access, clock, ledger))
    router.include_router(status.build_router(database, access, clock, signer))
    return router
