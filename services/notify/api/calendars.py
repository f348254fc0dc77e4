"""Who is on call, as calendars that other programs subscribe to."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from services.notify.calendar_feed import feed_of_many
from services.notify.domain.rota import LONGEST, Era, Override, calendar_shifts
from services.notify.history import History
from services.notify.store import rota as store
from shared.database.pool import Database
from shared.directory.access import Access, Caller
from shared.directory.follower import Revision
from shared.errors import Problem, not_found
from shared.http.doors import caller_with, json_response, new_router, unless_known
from shared.http.openapi import problems
from shared.runtime.clock import Clock
from shared.wire.signing import BadToken, ExpiredToken, Signer

_BACK = timedelta(days=30)
_AHEAD = timedelta(days=180)
_BEGINNINGS = timedelta(days=2 * 366) + LONGEST
"""How long ago a shift that goes on may have begun."""
_LINK = timedelta(days=730)
_KEPT = 100
"""Calendars that are kept in memory."""

_Token = Annotated[str, Query(description="Of the calendar's address")]
Kept = tuple[str, bytes]
"""The ETag and the calendar."""


class Calendar(Response):
    """As RFC 5545 has it."""

    media_type = "text/calendar"


def build_router(
    database: Database,
    access: Access,
    clock: Clock,
    signer: Signer,
    history: History,
    public_url: Callable[[], str],
) -> APIRouter:
    """Return what is served of calendars."""
    router = new_router(prefix="/v1")
    whole = caller_with(access, "oncall")
    kept: OrderedDict[object, Kept] = OrderedDict()
    one_at_a_time = asyncio.Lock()

    @router.get("/schedules")
    async def schedules(caller: Caller = whole) -> Response:  # pyright: ignore[reportUnusedFunction]
        """List the schedules, each with the address of its calendar."""
        items = [{"name": name, "calendar": _address("schedules", name)} for name in caller.directory.schedules]
        return json_response({"items": items, "next": None})

    @router.get("/people/{person}/calendar")
    async def calendar_of(person: str, caller: Caller = whole) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return the address of a person's calendar."""
        if person not in caller.directory.people:
            raise not_found("person", person)
        return json_response({"person": person, "calendar": _address("people", person)})

    @router.get("/schedules/{name}.ics", response_class=Calendar, responses=problems(304, 401))
    async def schedule_feed(name: str, request: Request, token: _Token = "") -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return a schedule as a calendar, by the token of its address; 304 where it is the one that is known."""
        revision = _admitted(token, "schedules", name)
        if name not in revision.directory.schedules:
            raise not_found("schedule", name)
        return _answered(request, await _feed(name, [name], None, revision))

    @router.get("/people/{person}.ics", response_class=Calendar, responses=problems(304, 401))
    async def person_feed(person: str, request: Request, token: _Token = "") -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return a person's shifts in every schedule as a calendar, by the token of its address."""
        revision = _admitted(token, "people", person)
        return _answered(request, await _feed(person, list(revision.directory.schedules), person, revision))

    async def _feed(name: str, schedules: Sequence[str], person: str | None, revision: Revision) -> Kept:
        """Return a calendar: the same one until the directory, an override or the day changes. Made one at a time."""
        now = clock.now()
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        back, ahead = today - _BACK, today + _AHEAD
        async with database.transaction() as tx:
            overrides = await store.overrides(tx, back - _BEGINNINGS, ahead)
        told = tuple(sorted((schedule, tuple(some)) for schedule, some in overrides.items() if schedule in schedules))
        key = (name, person, revision.log, revision.number, today, hash(told))
        async with one_at_a_time:
            if key not in kept:
                eras = await history.eras(revision.directory, back - _BEGINNINGS, now)
                # In a thread, as whatever takes long: it must not delay an acknowledgement.
                kept[key] = await asyncio.to_thread(
                    _made, name, schedules, person, eras, overrides, (now, back, ahead), revision.applied_at or today
                )
            kept.move_to_end(key)
            while len(kept) > _KEPT:
                kept.popitem(last=False)
            return kept[key]

    def _address(kind: str, name: str) -> str:
        token = signer.sign("calendar", {"kind": kind, "name": name}, expires=clock.now() + _LINK)
        return f"{public_url()}/v1/{kind}/{name}.ics?token={token}"

    def _admitted(token: str, kind: str, name: str) -> Revision:
        try:
            facts = signer.verify("calendar", token, now=clock.now())
        except (BadToken, ExpiredToken):
            facts = {}
        if (facts.get("kind"), facts.get("name")) != (kind, name):
            raise Problem(401, "unauthorized", "A valid token is needed", "Ask for the calendar's address again.")
        return access.revision

    return router


def _made(
    name: str,
    schedules: Sequence[str],
    person: str | None,
    eras: Sequence[Era],
    overrides: Mapping[str, Sequence[Override]],
    times: tuple[datetime, datetime, datetime],
    applied_at: datetime,
) -> Kept:
    found = {one: calendar_shifts(eras, one, overrides.get(one, ()), *times) for one in schedules}
    if person is not None:
        found = {one: [shift for shift in of if shift.person == person] for one, of in found.items()}
    names = {id_: one.name for era in eras for id_, one in era.people.items()}
    # When what it says was last changed, so that the same calendar is the same bytes.
    stamps = [applied_at, *(one.made_at for one in schedules for one in overrides.get(one, ()))]
    calendar = feed_of_many(name, found, names, max(stamps))
    return f'"{sha256(calendar).hexdigest()[:32]}"', calendar


def _answered(request: Request, made: Kept) -> Response:
    etag, calendar = made
    return unless_known(request, calendar, {"ETag": etag, "Cache-Control": "private, no-cache"}, "text/calendar")
