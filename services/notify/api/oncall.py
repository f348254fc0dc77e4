"""Who is on call: now, at any time in the past and the future, as shifts and as a calendar."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from services.notify.calendar_feed import feed_of_many
from services.notify.domain.chain import Presence, full_chain
from services.notify.domain.rota import REACH, Shift, shifts
from services.notify.rounds.watch import Watch
from services.notify.store import rota as store
from shared.asked import Asked, Moment
from shared.clock import Clock
from shared.db import Database
from shared.directory.access import Access, Caller
from shared.directory.model import Directory
from shared.errors import FieldError, Problem, invalid_fields, not_found
from shared.security import BadToken, ExpiredToken, Signer
from shared.web import caller_with, json_response, new_router

_LONGEST = timedelta(days=366)
_FEED_BACK = timedelta(days=30)
_FEED_AHEAD = timedelta(days=180)
_FEED_LINK = timedelta(days=730)


class OnCallQuery(Asked):
    """Whom and when to ask for."""

    customer: str
    at: Moment | None = None


class ShiftsQuery(Asked):
    """Which time to ask for."""

    start: Moment | None = Field(default=None, alias="from")
    to: Moment | None = None


class ChainLink(msgspec.Struct, frozen=True, kw_only=True):
    """One person of a customer's chain."""

    level: int
    person: str
    via: str
    contacts: list[str]
    until: datetime | None


def build_router(
    database: Database,
    access: Access,
    clock: Clock,
    signer: Signer,
    watch: Watch,
    public_url: Callable[[], str],
) -> APIRouter:
    """Return what is served of who is on call."""
    router = new_router(prefix="/v1")
    whole = caller_with(access, "oncall")
    """People and schedules are there for all customers."""

    @router.get("/oncall")
    async def oncall(  # pyright: ignore[reportUnusedFunction]
        query: Annotated[OnCallQuery, Query()], caller: Caller = caller_with(access, "oncall", limited=True)
    ) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return everybody who would be paged for a customer, or would have been, in order; never empty."""
        customer = caller.customer(query.customer)
        now = clock.now()
        at = query.at or now
        async with database.transaction() as tx:
            past = None if at >= now else await store.revision_at(tx, at)
            overrides = await store.overrides(tx, at - REACH, at + REACH)
        # In a thread, as whatever takes long for a large directory: it must not delay an acknowledgement.
        directory = None if past is None else await asyncio.to_thread(store.directory_of, past)
        if directory is None or customer.id not in directory.customers:
            # Before the first directory that is kept: the first one is the best answer there is.
            directory = caller.directory
        presence = Presence(directory, overrides, at)
        chain = [
            ChainLink(
                level=level,
                person=link.person,
                via=link.via,
                contacts=[contact.channel for contact in directory.people[link.person].contacts],
                until=link.until,
            )
            for level, link in enumerate(full_chain(directory, directory.customers[customer.id], presence), 1)
        ]
        return json_response({"customer": customer.id, "at": at, "chain": chain})

    @router.get("/schedules")
    async def schedules(caller: Caller = whole) -> Response:  # pyright: ignore[reportUnusedFunction]
        """List the schedules, each with the address of its calendar."""
        items = [{"name": name, "calendar": _calendar("schedules", name)} for name in caller.directory.schedules]
        return json_response({"items": items, "next": None})

    @router.get("/people/{person}/calendar")
    async def calendar_of(person: str, caller: Caller = whole) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return the address of a person's calendar."""
        if person not in caller.directory.people:
            raise not_found("person", person)
        return json_response({"person": person, "calendar": _calendar("people", person)})

    @router.get("/schedules/{name}/shifts")
    async def shifts_of(name: str, query: Annotated[ShiftsQuery, Query()], caller: Caller = whole) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return who is on call from a moment (now) until another (14 days later); nobody is `null`."""
        start = query.start or clock.now()
        end = query.to or start + timedelta(days=14)
        if not start < end <= start + _LONGEST:
            raise invalid_fields(FieldError("to", "must be after from, by at most 366 days"))
        found = await _shifts(caller.directory, [_known(caller.directory, name)], start, end)
        items = [{"start": s.start, "end": s.end, "person": s.person, "via": s.via} for s in found[name]]
        return json_response({"schedule": name, "items": items, "next": None})

    @router.get("/schedules/{name}.ics")
    async def schedule_feed(name: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return a schedule as a calendar that others can subscribe to, by the token of its address."""
        directory = _admitted(request, "schedules", name)
        found = await _shifts(directory, [_known(directory, name)], *_feed_time())
        # Without the first, which is cut at a moment that moves on: it would be another event every day.
        return _ics(name, {name: found[name][1:]}, directory)

    @router.get("/people/{person}.ics")
    async def person_feed(person: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return a person's shifts in every schedule as a calendar, by the token of its address."""
        directory = _admitted(request, "people", person)
        planned = await _shifts(directory, list(directory.schedules), *_feed_time())
        found = {name: [shift for shift in of[1:] if shift.person == person] for name, of in planned.items()}
        return _ics(person, found, directory)

    @router.get("/preflight")
    async def preflight(caller: Caller = whole) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return what should be mended before it is needed."""
        found = await watch.findings(caller.directory)
        return json_response({"at": clock.now(), "ready": not found, "items": found, "next": None})

    async def _shifts(
        directory: Directory, names: Sequence[str], start: datetime, end: datetime
    ) -> Mapping[str, Sequence[Shift]]:
        async with database.transaction() as tx:
            overrides = await store.overrides(tx, start - REACH, end + REACH)

        def planned() -> Mapping[str, Sequence[Shift]]:
            known, people = directory.schedules, directory.people
            return {name: shifts(known[name], people, overrides.get(name, ()), start, end) for name in names}

        return await asyncio.to_thread(planned)

    def _feed_time() -> tuple[datetime, datetime]:
        return clock.now() - _FEED_BACK, clock.now() + _FEED_AHEAD

    def _calendar(kind: str, name: str) -> str:
        token = signer.sign("calendar", {"kind": kind, "name": name}, expires=clock.now() + _FEED_LINK)
        return f"{public_url()}/v1/{kind}/{name}.ics?token={token}"

    def _admitted(request: Request, kind: str, name: str) -> Directory:
        try:
            facts = signer.verify("calendar", request.query_params.get("token", ""), now=clock.now())
        except (BadToken, ExpiredToken):
            facts = {}
        if (facts.get("kind"), facts.get("name")) != (kind, name):
            raise Problem(401, "unauthorized", "A valid token is needed", "Ask for the calendar's address again.")
        return access.revision.directory

    def _ics(name: str, found: Mapping[str, Sequence[Shift]], directory: Directory) -> Response:
        names = {id_: person.name for id_, person in directory.people.items()}
        return Response(feed_of_many(name, found, names, clock.now()), media_type="text/calendar")

    return router


def _known(directory: Directory, schedule: str) -> str:
    if schedule not in directory.schedules:
        raise not_found("schedule", schedule)
    return schedule
