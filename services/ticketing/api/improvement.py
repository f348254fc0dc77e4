"""How well problems are taken care of, improvement actions, and what became of an erasure."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from fastapi import Query, Response
from pydantic import Field

from services.ticketing.api.dependencies import Deps, Reader
from services.ticketing.domain.action import Action, figure
from services.ticketing.domain.service import service_of
from services.ticketing.store import actions, erasures, tickets
from shared.directory.access import Caller
from shared.directory.fields import duration_seconds
from shared.errors import FieldError, Problem, invalid_fields
from shared.http.keys import caller_with, new_router
from shared.http.lists import ListQuery, page_of
from shared.http.openapi import problems
from shared.http.request_model import RequestModel
from shared.http.responses import id_in_path, json_response
from shared.runtime import audit
from shared.wire.events import AuditV1
from shared.wire.ids import uuid7

_LONGEST = 400 * 86400
_State = Literal["open", "done", "dropped"]


class ServiceQuery(RequestModel):
    """Whose, and over which period until now."""

    customer: str
    window: str = "90d"


class ActionsQuery(ListQuery):
    """What can be asked of the list."""

    customer: str | None = None
    state: _State | None = None


class NewAction(RequestModel):
    """One small concrete step."""

    customer: str = Field(max_length=63)
    step: Annotated[str, Field(min_length=1, max_length=500)]
    owner: str = Field(max_length=63)
    due_on: date
    metric: str = Field(default="nps", max_length=63)
    ticket: UUID | None = None


class ActionPatch(RequestModel):
    """What can be changed."""

    state: _State | None = None
    due_on: date | None = None
    owner: str | None = Field(default=None, max_length=63)


router = new_router(prefix="/v1")


@router.get("/service")
async def get_service_figures(deps: Deps, query: Annotated[ServiceQuery, Query()], caller: Reader) -> Response:
    """Return how well a customer's problems were taken care of."""
    customer = caller.customer(query.customer)
    try:
        seconds = duration_seconds(query.window)
    except ValueError as error:
        raise invalid_fields(FieldError("window", str(error))) from None
    if seconds > _LONGEST:
        raise invalid_fields(FieldError("window", "must be at most 400d"))
    now = deps.clock.now()
    start = now - timedelta(seconds=seconds)
    async with deps.database.transaction() as tx:
        tally = await tickets.tally(tx, customer.id, start)
    figures = msgspec.structs.asdict(service_of(tally))
    window = {"length": query.window, "start": start, "end": now}
    return json_response({"customer": customer.id, "window": window, **figures})


@router.get("/actions")
async def list_actions(deps: Deps, query: Annotated[ActionsQuery, Query()], caller: Reader) -> Response:
    """List improvement actions, newest first."""
    customers, after = caller.limited_to(query.customer), query.after()
    async with deps.database.transaction() as tx:
        found = await actions.listed(tx, customers=customers, state=query.state, after=after, limit=query.limit + 1)
    return json_response(page_of(found, query.limit, lambda action: (action.opened_at, action.id)))


@router.post("/actions", status_code=201)
async def open_action(deps: Deps, new: NewAction, caller: Reader) -> Response:
    """Decide on a step; the figure that it is taken for is remembered as it is now."""
    customer = caller.customer(new.customer)
    _check_owner(new.owner, caller)
    if new.metric not in {"nps", "mood", *caller.directory.metrics}:
        raise invalid_fields(FieldError("metric", "must be nps, mood or a metric that the directory declares"))
    async with deps.database.transaction() as tx:
        if new.ticket is not None:
            ticket = await tickets.one(tx, new.ticket)
            if ticket is None or ticket.customer != customer.id:
                raise invalid_fields(FieldError("ticket", f"{customer.id} has no such ticket"))
        point = await actions.score(tx, customer.id)
        action = Action(
            id=uuid7(),
            customer=customer.id,
            ticket=new.ticket,
            step=new.step,
            owner=new.owner,
            due_on=new.due_on,
            metric=new.metric,
            state="open",
            opened_at=deps.clock.now(),
            before=None if point is None else figure(point, new.metric),
        )
        await actions.save(tx, [action])
        await audit.add(tx, [_audited(caller, action.opened_at, "action opened", None, action)])
    return json_response(action, 201)


@router.patch("/actions/{action}", responses=problems(409))
async def change_action(deps: Deps, action: str, patch: ActionPatch, caller: Reader) -> Response:
    """Change a step: done, dropped, another owner or day."""
    if patch.owner is not None:
        _check_owner(patch.owner, caller)
    async with deps.database.transaction() as tx:
        found = await actions.one_locked(tx, id_in_path("action", action))
        current = caller.visible("action", action, found)
        state = patch.state or current.state
        if current.state == "dropped" and state != "dropped":
            raise Problem(409, "dropped", "The action was dropped", "Decide on a new one instead.")
        done_at = (current.done_at or deps.clock.now()) if state == "done" else None
        changed = msgspec.structs.replace(
            current,
            state=state,
            done_at=done_at,
            due_on=patch.due_on or current.due_on,
            owner=patch.owner or current.owner,
        )
        if changed != current:
            changed = msgspec.structs.replace(changed, version=current.version + 1)
            await actions.save(tx, [changed])
            await audit.add(tx, [_audited(caller, deps.clock.now(), "action changed", current, changed)])
    return json_response(changed)


@router.get("/erasures/{erasure}")
async def get_erasure(
    deps: Deps, erasure: str, caller: Annotated[Caller, caller_with("admin", limited=True)]
) -> Response:
    """Return what each service did to forget a person, and then each desk."""
    async with deps.database.transaction() as tx:
        found = caller.visible("erasure", erasure, await erasures.one(tx, id_in_path("erasure", erasure)))
        lines = await erasures.in_desks(tx, found.id)
    return json_response(msgspec.structs.replace(found, done=[*found.done, *lines]))


def _audited(caller: Caller, now: datetime, what: audit.What, before: Action | None, action: Action) -> AuditV1:
    """Return the line of a change."""
    changed = audit.changes(before, action, "state", "owner", "due_on", "metric")
    detail = {"action": str(action.id), "version": action.version, **changed}
    return audit.line("ticketing", now, caller.actor, what, detail, customer=action.customer)


def _check_owner(owner: str, caller: Caller) -> None:
    if owner not in caller.directory.people:
        raise invalid_fields(FieldError("owner", f"the directory has no person {owner!r}"))
