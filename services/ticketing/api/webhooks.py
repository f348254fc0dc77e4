"""The log of webhooks out, and sending one again."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import Query, Response

from services.ticketing.api.dependencies import Deps, Reader
from services.ticketing.store import webhooks
from shared.http.client import shown_url
from shared.http.keys import new_router
from shared.http.lists import ListQuery, page_of
from shared.http.responses import id_in_path, json_response
from shared.runtime import audit


class DeliveriesQuery(ListQuery):
    """What can be asked of the log."""

    customer: str | None = None
    state: Literal["pending", "delivered", "failed"] | None = None


router = new_router(prefix="/v1/webhooks")


@router.get("/deliveries")
async def list_webhook_deliveries(deps: Deps, query: Annotated[DeliveriesQuery, Query()], caller: Reader) -> Response:
    """List what was sent, newest first."""
    customers, after = caller.limited_to(query.customer), query.after()
    async with deps.database.transaction() as tx:
        found = await webhooks.listed(tx, customers=customers, state=query.state, after=after, limit=query.limit + 1)
    listed = page_of(found, query.limit, lambda one: (one.created_at, one.id))
    return json_response({**listed, "items": [_shown(one) for one in listed["items"]]})


@router.post("/deliveries/{delivery}/replay", status_code=202)
async def replay_webhook_delivery(deps: Deps, delivery: str, caller: Reader) -> Response:
    """Send a message again, with the same id; an address that was gone gets messages again."""
    async with deps.database.transaction() as tx:
        found = caller.visible("delivery", delivery, await webhooks.one(tx, id_in_path("delivery", delivery)))
        await webhooks.enable(tx, found.url)
        await webhooks.replay(tx, found.id, deps.clock.now())
        again = await webhooks.one(tx, found.id)
        detail = {"delivery": str(found.id), "url": shown_url(found.url)}
        told = audit.line(
            "ticketing", deps.clock.now(), caller.actor, "webhook replayed", detail, customer=found.customer
        )
        await audit.add(tx, [told])
    deps.ledger.wake()
    assert again is not None
    return json_response(_shown(again), 202)


def _shown(delivery: webhooks.Delivery) -> webhooks.Delivery:
    return msgspec.structs.replace(delivery, url=shown_url(delivery.url))
