"""Tickets over HTTP: list, read, change, comment, timeline, open by hand."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import Header, Query, Response
from msgspec.structs import replace
from pydantic import Field

from services.ticketing.api.dependencies import Dependencies, Deps, Reader
from services.ticketing.domain.ticket import Missing, NotAllowed, Outcome, Patch, by_hand, change, entry
from services.ticketing.ledger import TicketChange, measure_breaches
from services.ticketing.store import desks
from services.ticketing.store import tickets as store
from shared.database.pool import Connection
from shared.directory.access import Caller
from shared.errors import FieldError, Problem, invalid_fields
from shared.http.keys import new_router
from shared.http.lists import ListQuery, page_of
from shared.http.openapi import problems
from shared.http.request_model import RequestModel
from shared.http.responses import id_in_path, json_response
from shared.runtime import audit
from shared.runtime.clock import Clock
from shared.runtime.logs import new_traceparent
from shared.wire.events import AuditV1, ClockState, Severity, TicketState, TicketV1

_Text = Annotated[str, Field(min_length=1, max_length=4_000)]
_OpenSeverity = Annotated[Severity, Field(pattern="^(critical|high|medium|low)$")]


class TicketsQuery(ListQuery):
    """What can be asked of the list; `state`, `severity` and `sla` take several, by comma."""

    state: str | None = None
    customer: str | None = None
    assignee: str | None = None
    severity: str | None = None
    sla: str | None = None


class TimelineQuery(ListQuery):
    """What can be asked of a timeline; its cursor is the last line's place."""


class TicketPatch(RequestModel):
    """What can be changed."""

    state: TicketState | None = None
    assignee: str | None = Field(default=None, max_length=63)
    severity: _OpenSeverity | None = None
    root_cause: _Text | None = None
    resolution: _Text | None = None


class NewTicket(RequestModel):
    """A ticket by hand."""

    customer: str = Field(max_length=63)
    title: Annotated[str, Field(min_length=1, max_length=200)]
    severity: _OpenSeverity = "medium"
    touchpoint: str | None = Field(default=None, max_length=63)


class NewComment(RequestModel):
    """A comment for the timeline."""

    text: _Text


router = new_router(prefix="/v1/tickets", tags=["ticketing"])


@router.get("")
async def list_tickets(deps: Deps, query: Annotated[TicketsQuery, Query()], caller: Reader) -> Response:
    """List tickets, newest opening first."""
    customers, after = caller.limited_to(query.customer), query.after()
    async with deps.database.transaction() as tx:
        found = await store.listed(
            tx,
            customers=customers,
            states=_several("state", query.state, TicketState),
            assignee=query.assignee,
            severities=_several("severity", query.severity, Severity),
            sla=_several("sla", query.sla, ClockState),
            after=after,
            limit=query.limit + 1,
        )
        found = await _with_desks(tx, found, caller)
    listed = page_of(found, query.limit, lambda ticket: (ticket.opened_at, ticket.id))
    return await asyncio.to_thread(json_response, listed)


@router.post("", status_code=201)
async def open_ticket(deps: Deps, new: NewTicket, caller: Reader) -> Response:
    """Open a ticket by hand."""
    customer = caller.customer(new.customer)
    caller.check_touchpoint(customer, new.touchpoint)
    async with deps.database.transaction() as tx:
        outcome = by_hand(
            number=(await store.numbers(tx, 1))[0],
            customer=customer.id,
            touchpoint=new.touchpoint,
            title=new.title,
            severity=new.severity,
            architect=customer.architect,
            actor=caller.actor.id,
            now=deps.clock.now(),
        )
        outcome = await _save(deps, tx, None, outcome)
        await audit.add(tx, [_audited(caller, deps.clock.now(), "ticket opened", None, outcome.ticket)])
    deps.ledger.wake()
    return _shown(outcome.ticket, 201)


@router.get("/{ticket}")
async def get_ticket(deps: Deps, ticket: str, caller: Reader) -> Response:
    """Return a ticket; its ETag is its version."""
    async with deps.database.transaction() as tx:
        found = caller.visible("ticket", ticket, await store.one(tx, id_in_path("ticket", ticket)))
        return _shown((await _with_desks(tx, [found], caller))[0])


@router.patch("/{ticket}", responses=problems(409))
async def change_ticket(
    deps: Deps, ticket: str, patch: TicketPatch, caller: Reader, if_match: Annotated[str | None, Header()] = None
) -> Response:
    """Change a ticket that nobody changed since it was read."""
    if if_match is None:
        raise Problem(428, "if-match-missing", "If-Match is needed", "Send the ticket's version as If-Match.")
    if patch.assignee is not None and patch.assignee not in caller.directory.people:
        raise invalid_fields(FieldError("assignee", f"the directory has no person {patch.assignee!r}"))
    try:
        async with deps.database.transaction() as tx:
            current = caller.visible("ticket", ticket, await store.one_locked(tx, id_in_path("ticket", ticket)))
            _match(if_match, current)
            outcome = _changed(current, patch, caller, deps.clock)
            if outcome is None:
                return _shown((await _with_desks(tx, [current], caller))[0])
            outcome = await _save(deps, tx, current, outcome)
            await audit.add(tx, [_audited(caller, deps.clock.now(), "ticket changed", current, outcome.ticket)])
            shown = (await _with_desks(tx, [outcome.ticket], caller))[0]
    except store.AlreadyOpen:
        raise Problem(
            409, "already-open", "Another ticket of this problem is open", "Work on that one instead."
        ) from None
    deps.ledger.wake()
    return _shown(shown)


@router.post("/{ticket}/comments", status_code=201)
async def comment_on_ticket(deps: Deps, ticket: str, new: NewComment, caller: Reader) -> Response:
    """Append a comment to the timeline."""
    async with deps.database.transaction() as tx:
        current = caller.visible("ticket", ticket, await store.one_locked(tx, id_in_path("ticket", ticket)))
        line = entry(current.id, deps.clock.now(), caller.actor.id, "comment", text=new.text)
        await store.append(tx, [line])
        await desks.settle(tx, [current.id], deps.clock.now())
    deps.ledger.wake()
    return json_response(line, 201)


@router.get("/{ticket}/timeline")
async def get_ticket_timeline(
    deps: Deps, ticket: str, query: Annotated[TimelineQuery, Query()], caller: Reader
) -> Response:
    """Return everything that changes to a ticket, oldest first."""
    if query.cursor is not None and not re.fullmatch("[0-9]{1,18}", query.cursor):
        raise invalid_fields(FieldError("cursor", "not a cursor of this list"))
    after = int(query.cursor or 0)
    async with deps.database.transaction() as tx:
        current = caller.visible("ticket", ticket, await store.one(tx, id_in_path("ticket", ticket)))
        lines = await store.timeline(tx, current.id, after, query.limit + 1)
    shown = lines[: query.limit]
    more = len(lines) > len(shown)
    return json_response({"items": [line for _, line in shown], "next": str(shown[-1][0]) if more else None})


async def _save(deps: Dependencies, tx: Connection, before: TicketV1 | None, outcome: Outcome) -> Outcome:
    timed = deps.ledger.timed(before, outcome)
    changes = [TicketChange(timed, new_traceparent(timed.ticket.id.hex))]
    await deps.ledger.save(tx, changes, deps.clock.now())
    measure_breaches(changes)
    return timed


async def _with_desks(tx: Connection, found: Sequence[TicketV1], caller: Caller) -> list[TicketV1]:
    """Return tickets with where they stand in their desks."""
    shown = await desks.shown(tx, [ticket.id for ticket in found])
    settings = caller.directory.desks
    return [
        replace(ticket, desk=replace(shown[ticket.id][1], type=settings[shown[ticket.id][0]].type))
        if ticket.id in shown and shown[ticket.id][0] in settings
        else ticket
        for ticket in found
    ]


def _audited(caller: Caller, now: datetime, what: audit.What, before: TicketV1 | None, ticket: TicketV1) -> AuditV1:
    """Return the line of a change; what a person wrote is in the timeline."""
    changed = audit.changes(before, ticket, "state", "assignee", "severity")
    detail = {"ticket": str(ticket.id), "number": ticket.number, "version": ticket.version, **changed}
    return audit.line("ticketing", now, caller.actor, what, detail, customer=ticket.customer)


def _shown(ticket: TicketV1, status: int = 200) -> Response:
    return json_response(ticket, status, {"ETag": f'"{ticket.version}"'})


def _match(if_match: str, ticket: TicketV1) -> None:
    versions = {part.strip().removeprefix("W/").strip('"') for part in if_match.split(",")}
    if versions.isdisjoint({"*", str(ticket.version)}):
        raise Problem(
            412,
            "stale",
            "The ticket was changed meanwhile",
            f"Its version is {ticket.version}. Read it again and repeat the change if it still makes sense.",
            headers={"ETag": f'"{ticket.version}"'},
        )


def _changed(ticket: TicketV1, patch: TicketPatch, caller: Caller, clock: Clock) -> Outcome | None:
    wanted = Patch(**patch.model_dump())
    try:
        return change(
            ticket,
            wanted,
            root_causes=caller.directory.root_causes,
            actor=caller.actor.id,
            now=clock.now(),
        )
    except NotAllowed as no:
        allowed = ", ".join(no.allowed) or "none"
        raise Problem(
            409, "move-not-allowed", "The ticket cannot go there", f"From {no.state} it can go to: {allowed}."
        ) from None
    except Missing as missing:
        raise invalid_fields(*(FieldError(path, detail) for path, detail in missing.errors)) from None


def _several(field: str, text: str | None, allowed: Any) -> list[str] | None:
    """Return the values of a comma list. Raises the 422 for one that there is not."""
    if text is None:
        return None
    values = [part for part in re.split(r"\s*,\s*", text) if part]
    for value in values:
        if value not in allowed.__args__:
            raise invalid_fields(FieldError(field, f"must be of: {', '.join(allowed.__args__)}"))
    return values
