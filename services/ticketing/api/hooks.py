"""The log of webhooks out, and sending one again."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Response

from services.ticketing.ledger import Ledger
from services.ticketing.store import hooks
from shared.database.pool import Database
from shared.directory.access import Access, Caller
from shared.http.client import shown_url
from shared.http.doors import caller_with, id_in_path, json_response, new_router
from shared.http.lists import Page, page_of
from shared.runtime import audit
from shared.runtime.clock import Clock


class DeliveriesQuery(Page):
    """What can be asked of the log."""

    customer: str | None = None
    state: Literal["pending", "delivered", "failed"] | None = None


def build_router(database: Database, access: Access, clock: Clock, ledger: Ledger) -> APIRouter:
    """Return what is served of webhooks out."""
    router = new_router(prefix="/v1/webhooks")
    reader = caller_with(access, "tickets", limited=True)

    @router.get("/deliveries")
    async def listed(query: Annotated[DeliveriesQuery, Query()], caller: Caller = reader) -> Response:  # pyright: ignore[reportUnusedFunction]
        """List what was sent, newest first."""
        customers, after = caller.limited_to(query.customer), query.after()
        async with database.transaction() as tx:
            found = await hooks.listed(tx, customers=customers, state=query.state, after=after, limit=query.limit + 1)
        listed = page_of(found, query.limit, lambda one: (one.created_at, one.id))
        return json_response({**listed, "items": [_shown(one) for one in listed["items"]]})

    @router.post("/deliveries/{delivery}/replay", status_code=202)
    async def replay(delivery: str, caller: Caller = reader) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Send a message again, with the same id; an address that was gone gets messages again."""
        async with database.transaction() as tx:
            found = caller.visible("delivery", delivery, await hooks.one(tx, id_in_path("delivery", delivery)))
            await hooks.enable(tx, found.url)
            await hooks.replay(tx, found.id, clock.now())
            again = await hooks.one(tx, found.id)
            detail = {"delivery": str(found.id), "url": shown_url(found.url)}
            told = audit.line(
                "ticketing", clock.now(), caller.actor, "webhook replayed", detail, customer=found.customer
            )
            await audit.add(tx, [told])
        ledger.wake()
        assert again is not None
        return json_response(_shown(again), 202)

    return router


def _shown(delivery: hooks.Delivery) -> hooks.Delivery:
    return msgspec.structs.replace(delivery, url=shown_url(delivery.url))
