"""The audit: who was paged, who answered, who changed the rota and from what to what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from services.notify.store import audit
from shared.db import Database
from shared.directory.access import Access, Caller
from shared.lists import Page, page_of
from shared.web import caller_with, json_response, new_router


class AuditQuery(Page):
    """What can be asked of the list."""

    customer: str | None = None
    what: str | None = Field(default=None, max_length=63)


def build_router(database: Database, access: Access) -> APIRouter:
    """Return what is served of the audit."""
    router = new_router(prefix="/v1")
    reader = caller_with(access, "oncall", limited=True)

    @router.get("/audit")
    async def listed(query: Annotated[AuditQuery, Query()], caller: Caller = reader) -> Response:  # pyright: ignore[reportUnusedFunction]
        """List what happened, newest first."""
        customers, after = caller.limited_to(query.customer), query.after()
        async with database.transaction() as tx:
            found = await audit.listed(tx, customers=customers, what=query.what, after=after, limit=query.limit + 1)
        return json_response(page_of(found, query.limit, lambda one: (one.at, one.id)))

    return router
