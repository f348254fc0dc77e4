"""What is told before anything breaks: signs of life of sources, and meetings that were held."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import Query, Response
from pydantic import Field, FiniteFloat

from services.notify.api.dependencies import Deps, Reader
from services.notify.domain.check_in import CheckIn, first_look
from services.notify.jobs.heartbeats import end_pages
from services.notify.store import audit, heartbeats
from services.notify.store import proactive as store
from shared.directory.fields import GOAL_RANGES
from shared.errors import FieldError, Problem, invalid_fields, not_found
from shared.http.keys import new_router
from shared.http.lists import ListQuery, page_of
from shared.http.request_model import Moment, RequestModel
from shared.http.responses import json_response
from shared.wire.ids import uuid7

_AHEAD = timedelta(minutes=5)


class NewCheckIn(RequestModel):
    """A meeting that was held, and the goals of the next period."""

    customer: str = Field(max_length=63)
    held_at: Moment
    note: str = Field(min_length=1, max_length=4_000)
    goals: dict[Annotated[str, Field(max_length=63)], FiniteFloat] = Field(default_factory=dict, max_length=50)


class CheckInsQuery(ListQuery):
    """What can be asked of the list."""

    customer: str | None = None


router = new_router(prefix="/v1")


@router.post("/heartbeats/{name}")
async def take_heartbeat(deps: Deps, name: str, caller: Reader) -> Response:
    """Take a sign of life; it ends the page of a silence."""
    settings = caller.directory.heartbeats.get(name)
    if settings is None or not caller.may_see(settings.customer):
        raise not_found("heartbeat", name)
    now = deps.clock.now()
    due_at = now + timedelta(seconds=settings.every)
    async with deps.database.transaction() as tx:
        found = await heartbeats.beat(tx, name, now, due_at)
        if found is None:
            raise Problem(503, "not-ready", "The directory is new", "Try again.", headers={"Retry-After": "5"})
        await end_pages(tx, [] if found.page is None else [found.page], now)
    return json_response({"name": name, "beaten_at": now, "due_at": due_at})


@router.post("/check-ins", status_code=201)
async def record_check_in(deps: Deps, told: NewCheckIn, caller: Reader) -> Response:
    """Write down a meeting; the next one is due a period later."""
    customer, now = caller.customer(told.customer), deps.clock.now()
    errors: list[FieldError] = []
    if told.held_at > now + _AHEAD:
        errors.append(FieldError("held_at", "is in the future; tell it when it was held"))
    known = {"nps", "mood", *caller.directory.metrics}
    errors += [
        FieldError(f"goals.{name}", f"must be one of {', '.join(sorted(known))}")
        for name in told.goals
        if name not in known
    ]
    errors += [
        FieldError(f"goals.{name}", f"must be from {low} to {high}")
        for name, (low, high) in GOAL_RANGES.items()
        if not low <= told.goals.get(name, low) <= high
    ]
    if errors:
        raise invalid_fields(*errors)
    made = CheckIn(
        id=uuid7(),
        customer=customer.id,
        held_at=told.held_at,
        note=told.note,
        goals=told.goals,
        made_at=now,
        made_by=caller.actor.id,
    )
    async with deps.database.transaction() as tx:
        await store.add(tx, made)
        if customer.check_in is not None:
            await store.held(tx, customer.id, told.held_at, first_look(told.held_at, customer.check_in))
        await audit.add(
            tx,
            [audit.line(now, caller.actor, "check-in held", customer=customer.id, held_at=told.held_at.isoformat())],
        )
    return json_response(made, 201)


@router.get("/check-ins")
async def list_check_ins(deps: Deps, query: Annotated[CheckInsQuery, Query()], caller: Reader) -> Response:
    """List meetings that were held, newest first."""
    customers, after = caller.limited_to(query.customer), query.after()
    async with deps.database.transaction() as tx:
        found = await store.listed(tx, customers=customers, after=after, limit=query.limit + 1)
    return json_response(page_of(found, query.limit, lambda one: (one.held_at, one.id)))
