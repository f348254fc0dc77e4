"""The pages, and the two ways to acknowledge one: an API call, and the link in it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import Field

from services.notify import __file__ as _ROOM
from services.notify.acknowledgements import NotInDirectory
from services.notify.api.audit import shown
from services.notify.api.dependencies import Dependencies, Deps, Reader
from services.notify.domain.page import Page as PageFacts
from services.notify.domain.page import message
from services.notify.store import audit, deliveries
from services.notify.store import pages as store
from shared.directory.access import Caller
from shared.errors import Problem
from shared.http.client import shown_url
from shared.http.html import PAGE_HEADERS, templates
from shared.http.keys import new_router
from shared.http.lists import ListQuery, page_of
from shared.http.openapi import problems
from shared.http.request_model import RequestModel
from shared.http.responses import address_of, id_in_path, json_response
from shared.http.stylesheet import serve_style
from shared.runtime.audit import Actor
from shared.wire.signing import BadToken, ExpiredToken

_templates = templates(_ROOM)


class PagesQuery(ListQuery):
    """What can be asked of the list."""

    state: Literal["pending", "sent", "acknowledged", "resolved", "exhausted"] | None = None
    customer: str | None = None


class Acknowledgement(RequestModel):
    """Who answers."""

    person: str = Field(max_length=63)


router = new_router()
serve_style(router, "/a")


@router.get("/v1/pages")
async def list_pages(deps: Deps, query: Annotated[PagesQuery, Query()], caller: Reader) -> Response:
    """List pages, newest first."""
    customers, after = caller.limited_to(query.customer), query.after()
    async with deps.database.transaction() as tx:
        found = await store.listed(tx, customers=customers, state=query.state, after=after, limit=query.limit + 1)
    listed = page_of(found, query.limit, lambda page: (page.opened_at, page.id))
    return json_response({**listed, "items": [_shown(page) for page in listed["items"]]})


@router.get("/v1/pages/{page}")
async def get_page(deps: Deps, page: str, caller: Reader) -> Response:
    """Return a page with every attempt to reach somebody, and everything else that happened to it."""
    # One moment for all of it: an attempt that has just been stored belongs to the page as it was stored with it.
    async with deps.database.snapshot() as tx:
        found = caller.visible("page", page, await store.one(tx, id_in_path("page", page)))
        attempts = [_masked(one, caller) for one in await deliveries.attempts(tx, found.id)]
        timeline = shown(await audit.of_page(tx, found.id), caller)
    return json_response({**_shown(found), "attempts": attempts, "timeline": timeline})


async def _visible_page(deps: Dependencies, page: str, caller: Caller) -> PageFacts:
    async with deps.database.transaction() as tx:
        return caller.visible("page", page, await store.one(tx, id_in_path("page", page)))


@router.post("/v1/pages/{page}/acknowledge", responses=problems(409))
async def acknowledge_page(deps: Deps, page: str, by: Acknowledgement, caller: Reader) -> Response:
    """Stop paging: this person answers."""
    found = await _visible_page(deps, page, caller)
    return json_response(_shown(await deps.acknowledgements.take(found.id, by.person, by=caller.actor)))


@router.post("/v1/pages/{page}/escalate", status_code=202, responses=problems(409))
async def escalate_page(deps: Deps, page: str, caller: Reader) -> Response:
    """Page the next person at once."""
    found = await _visible_page(deps, page, caller)
    escalated = await deps.acknowledgements.escalate(found.id, by=caller.actor)
    deps.escalate()
    return json_response(_shown(escalated), 202)


@router.get("/a/{token}", response_class=HTMLResponse, responses=problems(403, 410, page=True))
async def show_acknowledge_page(deps: Deps, token: str) -> Response:
    """Show a page and a button; never acknowledges (mail scanners follow links)."""
    facts, problem = await _facts(deps, token)
    if problem is not None:
        return problem
    async with deps.database.transaction() as tx:
        page = await store.one(tx, UUID(facts["page"]))
    if page is None:
        return _not_there()
    return _page_shown(page) if facts["person"] in deps.access.revision.directory.people else _has_left()


@router.post("/a/{token}", response_class=HTMLResponse, responses=problems(403, 409, 410, page=True))
async def acknowledge_by_link(deps: Deps, token: str, request: Request) -> Response:
    """Acknowledge: the person of the link answers."""
    facts, problem = await _facts(deps, token)
    if problem is not None:
        return problem
    delivery = facts.get("delivery")
    try:
        page = await deps.acknowledgements.take(
            UUID(facts["page"]),
            facts["person"],
            by=Actor(facts["person"], address_of(request.scope)),
            delivery=None if delivery is None else UUID(delivery),
        )
    except NotInDirectory:
        return _has_left()
    except Problem as refused:
        return _not_there() if refused.status == 404 else _html(409, "No longer needed", refused.detail or "")
    return _page_shown(page)


async def _facts(deps: Dependencies, token: str) -> tuple[dict[str, Any], Response | None]:
    try:
        return deps.signer.verify("acknowledge", token, now=deps.clock.now()), None
    except ExpiredToken as expired:
        mailed = await deps.acknowledgements.mail_fresh_link(
            UUID(expired.facts["page"]), expired.facts["person"], deps.public_url()
        )
        deps.sent()
        if mailed:
            return {}, _html(410, "This link has expired", "A fresh one is on its way to your own mail address.")
        return {}, _html(410, "This link has expired", "Open a newer page, or acknowledge the ticket in your desk.")
    except BadToken:
        return {}, _not_there()


def _masked(attempt: deliveries.Attempt, caller: Caller) -> deliveries.Attempt:
    if caller.customers is not None:
        return msgspec.structs.replace(attempt, address="...")
    if "://" not in attempt.address:
        return attempt
    return msgspec.structs.replace(attempt, address=shown_url(attempt.address))


def _shown(page: PageFacts) -> dict[str, Any]:
    return {**msgspec.structs.asdict(message(page)), "steps": page.steps}


def _html(status: int, heading: str, lead: str, page: PageFacts | None = None, *, ask: bool = False) -> Response:
    body = _templates.get_template("acknowledge.html").render(heading=heading, lead=lead, page=page, ask=ask)
    return Response(body, status, PAGE_HEADERS, media_type="text/html")


def _not_there() -> Response:
    return _html(404, "This link leads nowhere", "It may have been cut off on its way. Open the page's mail again.")


def _has_left() -> Response:
    return _html(403, "You are no longer in the directory", "The page goes on to the next person.")


def _page_shown(page: PageFacts) -> Response:
    if page.state == "acknowledged":
        who = page.acknowledged_by or "somebody"
        return _html(200, "Taken", f"{who} takes it. Nobody else is paged.", page)
    if page.state == "resolved":
        return _html(200, "Resolved", "The ticket was resolved. Nobody needs to answer.", page)
    return _html(200, page.summary, "Do you take it?", page, ask=True)
