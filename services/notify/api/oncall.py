"""Who is on call: now, at any time in the past and the future, and as shifts."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from fastapi import Query, Response
from pydantic import Field

from services.notify.api.dependencies import Deps, Reader, WholeReader
from services.notify.domain.chain import Presence, full_chain
from services.notify.domain.rota import LONGEST, some_shifts
from services.notify.store import rota as store
from shared.directory.model import Directory
from shared.errors import FieldError, invalid_fields, not_found
from shared.http.keys import new_router
from shared.http.request_model import Moment, RequestModel
from shared.http.responses import json_response

_MOST_SHIFTS = 5_000
"""In one answer: turns of a quarter of an hour make 38,000 in 400 days."""


class OnCallQuery(RequestModel):
    """Whom and when to ask for."""

    customer: str
    at: Moment | None = None


class ShiftsQuery(RequestModel):
    """Which time to ask for."""

    start: Moment | None = Field(default=None, alias="from")
    to: Moment | None = None
    cursor: Moment | None = None
    """`next` of the answer before."""


class ChainLink(msgspec.Struct, frozen=True, kw_only=True):
    """One person of a customer's chain."""

    level: int
    person: str
    via: str
    contacts: list[str]
    until: datetime | None


router = new_router(prefix="/v1")


@router.get("/oncall")
async def get_on_call(deps: Deps, query: Annotated[OnCallQuery, Query()], caller: Reader) -> Response:
    """Return everybody who would be paged for a customer, or would have been, in order; never empty."""
    customer = caller.customer(query.customer)
    now = deps.clock.now()
    at = query.at or now
    async with deps.database.transaction() as tx:
        # Before the first directory that is kept: the first one is the best answer there is.
        past = None if at >= now else await store.revision_at(tx, at) or await store.first_revision(tx)
        overrides = await store.overrides(tx, at, at + LONGEST)
    # In a thread, as whatever takes long for a large directory: it must not delay an acknowledgement.
    directory = None if past is None else await asyncio.to_thread(store.directory_of, past)
    if directory is None or customer.id not in directory.customers:
        directory = caller.directory
    eras = await deps.history.eras(deps.access.revision, at, now)
    chain = await asyncio.to_thread(_chain, directory, customer.id, Presence(directory, overrides, at, eras))
    return json_response({"customer": customer.id, "at": at, "chain": chain})


@router.get("/schedules/{name}/shifts")
async def list_shifts(deps: Deps, name: str, query: Annotated[ShiftsQuery, Query()], caller: WholeReader) -> Response:
    """Return who is on call from a moment (now) until another (14 days later); nobody is `null`.

    The past is told as it was, by the revisions of then.
    """
    now = deps.clock.now()
    start = query.start or now
    end = query.to or start + timedelta(days=14)
    if not start < end <= start + LONGEST:
        raise invalid_fields(FieldError("to", f"must be after from, by at most {LONGEST.days} days"))
    start = start if query.cursor is None else min(max(start, query.cursor), end)
    eras = await deps.history.eras(deps.access.revision, start, now)
    if not any(name in era.schedules for era in eras):
        raise not_found("schedule", name)
    async with deps.database.transaction() as tx:
        overrides = await store.overrides(tx, start, end)
    found, then = await asyncio.to_thread(some_shifts, eras, name, overrides.get(name, ()), start, end, _MOST_SHIFTS)
    items = [{"start": s.start, "end": s.end, "person": s.person, "via": s.via} for s in found]
    return json_response({"schedule": name, "items": items, "next": then})


@router.get("/preflight")
async def get_preflight(deps: Deps, caller: WholeReader) -> Response:
    """Return what should be mended before it is needed."""
    found = await deps.preflight.findings(caller.directory)
    return json_response({"at": deps.clock.now(), "ready": not found, "items": found, "next": None})


def _chain(directory: Directory, customer: str, presence: Presence) -> list[ChainLink]:
    return [
        ChainLink(
            level=level,
            person=link.person,
            via=link.via,
            contacts=[contact.channel for contact in directory.people[link.person].contacts],
            until=link.until,
        )
        for level, link in enumerate(full_chain(directory, directory.customers[customer], presence), 1)
    ]
