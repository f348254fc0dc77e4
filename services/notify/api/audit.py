"""The audit: who was paged, who answered, and who changed what in any of the services, from where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query, Response
from msgspec.structs import replace
from pydantic import Field

from services.notify.api.dependencies import Deps, Reader
from services.notify.store import audit
from shared.directory.access import Caller
from shared.http.keys import new_router
from shared.http.lists import ListQuery, page_of
from shared.http.request_model import Moment
from shared.http.responses import json_response


class AuditQuery(ListQuery):
    """What can be asked of the list."""

    customer: str | None = None
    who: str | None = Field(default=None, max_length=200)
    what: str | None = Field(default=None, max_length=63)
    since: Moment | None = Field(default=None, alias="from")


def shown(lines: Sequence[audit.Line], caller: Caller) -> list[audit.Line]:
    """Return lines as a caller may see them: from where somebody came is nothing for keys of a customer."""
    return [line if caller.customers is None else replace(line, address=None) for line in lines]


router = new_router(prefix="/v1")


@router.get("/audit")
async def list_audit(deps: Deps, query: Annotated[AuditQuery, Query()], caller: Reader) -> Response:
    """List what happened, newest first."""
    customers, after = caller.limited_to(query.customer), query.after()
    async with deps.database.transaction() as tx:
        found = await audit.listed(
            tx,
            customers=customers,
            what=query.what,
            who=query.who,
            since=query.since,
            after=after,
            limit=query.limit + 1,
        )
    listed = page_of(found, query.limit, lambda one: (one.at, one.id))
    return json_response({**listed, "items": shown(listed["items"], caller)})
