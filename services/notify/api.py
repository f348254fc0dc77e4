"""Who is on call, the pages, and the two ways to acknowledge: an API call, and the link in a page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from services.notify import store
from services.notify.domain import Page as PageFacts
from services.notify.domain import acknowledge, full_chain, message
from services.notify.escalator import Happened, save
from shared import metrics
from shared.clock import Clock
from shared.db import Database
from shared.directory.access import Access, Caller
from shared.errors import FieldError, Problem, invalid_fields, not_found
from shared.lists import Page, page_of
from shared.logs import Log
from shared.pages import PAGE_HEADERS, templates
from shared.security import BadToken, ExpiredToken, Signer
from shared.web import caller_with, id_in_path, json_response

log = Log("notify")

_templates = templates(__file__)


class PagesQuery(Page):
    """What can be asked of the list."""

    state: Literal["pending", "sent", "acknowledged", "resolved", "exhausted"] | None = None
    customer: str | None = None


class OnCallQuery(BaseModel):
    """Whom and when to ask for."""

    model_config = ConfigDict(extra="forbid")

    customer: str
    at: AwareDatetime | None = None


class Acknowledgement(BaseModel):
    """Who answers."""

    model_config = ConfigDict(extra="forbid")

    person: str = Field(max_length=63)


class ChainLink(msgspec.Struct, frozen=True, kw_only=True):
    """One person of a customer's chain."""

    level: int
    person: str
    via: str
    contacts: list[str]
    until: datetime | None


def build_router(database: Database, access: Access, clock: Clock, signer: Signer) -> APIRouter:
    """Return notify's part of the HTTP interface."""
    router = APIRouter(tags=["notify"])
    reader = caller_with(access, "oncall")

    @router.get("/v1/oncall")
    async def oncall(query: Annotated[OnCallQuery, Query()], caller: Caller = reader) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return everybody who would be paged for a customer, in order; never empty."""
        customer = caller.customer(query.customer)
        people = caller.directory.people
        chain = [
            ChainLink(
                level=level,
                person=link.person,
                via=link.via,
                contacts=[contact.channel for contact in people[link.person].contacts],
                until=None,
            )
            for level, link in enumerate(full_chain(caller.directory, customer), 1)
        ]
        try:
            at = (query.at or clock.now()).astimezone(UTC)
        except OverflowError:
            raise invalid_fields(FieldError("at", "is not a moment of this era")) from None
        return json_response({"customer": customer.id, "at": at, "chain": chain})

    @router.get("/v1/pages")
    async def pages(query: Annotated[PagesQuery, Query()], caller: Caller = reader) -> Response:  # pyright: ignore[reportUnusedFunction]
        """List pages, newest first."""
        customers, after = caller.limited_to(query.customer), query.after()
        async with database.transaction() as tx:
            found = await store.listed(tx, customers=customers, state=query.state, after=after, limit=query.limit + 1)
        listed = page_of(found, query.limit, lambda page: (page.opened_at, page.id))
        return json_response({**listed, "items": [_shown(page) for page in listed["items"]]})

    @router.get("/v1/pages/{page}")
    async def one(page: str, caller: Caller = reader) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return a page with every attempt to reach somebody."""
        async with database.transaction() as tx:
            found = caller.visible("page", page, await store.one(tx, id_in_path("page", page)))
            attempts = await store.attempts(tx, found.id)
        return json_response({**_shown(found), "attempts": attempts})

    @router.post("/v1/pages/{page}/acknowledge")
    async def acknowledge_page(page: str, by: Acknowledgement, caller: Caller = reader) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Stop paging: this person answers."""
        if by.person not in caller.directory.people:
            raise invalid_fields(FieldError("person", f"the directory has no person {by.person!r}"))
        async with database.transaction() as tx:
            kept = await store.one_locked(tx, id_in_path("page", page))
            found = caller.visible("page", page, None if kept is None else kept.page)
        return json_response(_shown(await _acknowledge(found.id, by.person)))

    @router.get("/a/{token}")
    async def show(token: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Show a page and a button; never acknowledges (mail scanners follow links)."""
        facts, problem = _facts(token)
        if problem is not None:
            return problem
        async with database.transaction() as tx:
            page = await store.one(tx, UUID(facts["page"]))
        return _not_there() if page is None else _page_shown(page)

    @router.post("/a/{token}")
    async def answer(token: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Acknowledge: the person of the link answers."""
        facts, problem = _facts(token)
        if problem is not None:
            return problem
        try:
            page = await _acknowledge(UUID(facts["page"]), facts["person"])
        except Problem as refused:
            return _not_there() if refused.status == 404 else _html(409, "No longer needed", refused.detail or "")
        return _page_shown(page)

    async def _acknowledge(id_: UUID, person: str) -> PageFacts:
        async with database.transaction() as tx:
            now = clock.now()
            kept = await store.one_locked(tx, id_)
            if kept is None:
                raise not_found("page", str(id_))
            outcome = acknowledge(kept.page, person, now)
            if outcome is None:
                if kept.page.state == "acknowledged":
                    return kept.page
                raise Problem(409, "resolved", "The page is over", "Its ticket was resolved; nobody needs to answer.")
            await save(tx, [Happened(outcome, kept.traceparent)], now)
        metrics.PAGE_TO_ACKNOWLEDGE.observe((now - outcome.page.opened_at).total_seconds())
        return outcome.page

    def _facts(token: str) -> tuple[dict[str, Any], Response | None]:
        try:
            return signer.verify("acknowledge", token, now=clock.now()), None
        except ExpiredToken:
            return {}, _html(410, "This link has expired", "Open a newer page, or acknowledge the ticket in your desk.")
        except BadToken:
            return {}, _not_there()

    return router


def _shown(page: PageFacts) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(message(page)),
        "title": page.title,
        "summary": page.summary,
        "ticket_number": page.ticket_number,
        "steps": page.steps,
        "repeat": page.repeat,
        "catch_all": page.catch_all,
        "due_at": page.due_at,
        "sent_at": page.sent_at,
    }


def _html(status: int, heading: str, lead: str, page: PageFacts | None = None, *, ask: bool = False) -> Response:
    body = _templates.get_template("acknowledge.html").render(heading=heading, lead=lead, page=page, ask=ask)
    return Response(body, status, PAGE_HEADERS, media_type="text/html")


def _not_there() -> Response:
    return _html(404, "This link leads nowhere", "It may have been cut off on its way. Open the page's mail again.")


def _page_shown(page: PageFacts) -> Response:
    if page.state == "acknowledged":
        who = page.acknowledged_by or "somebody"
        return _html(200, "Taken", f"{who} takes it. Nobody else is paged.", page)
    if page.state == "resolved":
        return _html(200, "Resolved", "The ticket was resolved. Nobody needs to answer.", page)
    return _html(200, page.summary, "Do you take it?", page, ask=True)
