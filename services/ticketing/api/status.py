"""The respondent's own page: what changes to my feedback."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Header, Response
from fastapi.responses import HTMLResponse

from services.ticketing.api.dependencies import Deps
from services.ticketing.domain.status import steps
from services.ticketing.domain.texts import LANGUAGES
from services.ticketing.pages import page, refusal
from services.ticketing.store import tickets
from shared.directory.model import Directory
from shared.http.html import PAGE_HEADERS, accepted_language
from shared.http.keys import new_router
from shared.http.openapi import problems
from shared.http.stylesheet import serve_style
from shared.wire.events import TicketV1
from shared.wire.signing import BadToken, ExpiredToken

router = new_router()
serve_style(router, "/t")


@router.get("/t/{token}", response_class=HTMLResponse, responses=problems(410, page=True))
async def show_status_page(deps: Deps, token: str, accept_language: Annotated[str | None, Header()] = None) -> Response:
    """Show how far an answer, or a ticket, is."""
    wanted = accepted_language(accept_language, LANGUAGES)
    directory = deps.access.revision.directory
    try:
        facts = deps.signer.verify("status", token, now=deps.clock.now())
    except ExpiredToken:
        return _refused(410, "expired", directory, wanted)
    except BadToken:
        return _refused(404, "unknown", directory, wanted)
    async with deps.database.transaction() as tx:
        ticket = await _ticket(tx, facts)
    customer = directory.customers.get(facts.get("customer", "") if ticket is None else ticket.customer)
    body = page(
        steps(ticket, _received(facts, ticket)),
        company=directory.company,
        customer_zone=directory.timezone if customer is None else customer.timezone,
        person=directory.people.get((None if ticket is None else ticket.assignee) or ""),
        language=wanted or _spoken(ticket) or (directory.language if customer is None else customer.language),
    )
    return Response(body, 200, PAGE_HEADERS, media_type="text/html")


def _refused(status: int, why: Literal["expired", "unknown"], directory: Directory, wanted: str | None) -> Response:
    body = refusal(why, company=directory.company, language=wanted or directory.language)
    return Response(body, status, PAGE_HEADERS, media_type="text/html")


async def _ticket(tx: Any, facts: dict[str, Any]) -> TicketV1 | None:
    if "ticket" in facts:
        return await tickets.one(tx, UUID(facts["ticket"]))
    # Links of before name no moment.
    given = datetime.fromisoformat(facts["given"]) if "given" in facts else None
    return await tickets.of_answer(tx, UUID(facts["answer"]), facts["customer"], given)


def _received(facts: dict[str, Any], ticket: TicketV1 | None) -> datetime | None:
    if "at" in facts:
        return datetime.fromtimestamp(facts["at"], UTC)
    return None if ticket is None else ticket.caused_at


def _spoken(ticket: TicketV1 | None) -> str | None:
    return None if ticket is None else ticket.context.language
