"""Who is on call, as calendars that other programs subscribe to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated

from fastapi import Query, Request, Response

from services.notify.api.dependencies import Dependencies, Deps, WholeReader
from services.notify.calendar_cache import MadeCalendar
from services.notify.calendar_feed import feed_of_many
from services.notify.domain.rota import LONGEST, Era, Override, calendar_shifts
from services.notify.store import rota as store
from shared.directory.follower import Revision
from shared.errors import Problem, not_found
from shared.http.keys import new_router
from shared.http.openapi import problems
from shared.http.responses import json_response, unless_known
from shared.wire.signing import BadToken, ExpiredToken

_BACK = timedelta(days=30)
_AHEAD = timedelta(days=180)
_BEGINNINGS = timedelta(days=2 * 366) + LONGEST
"""How long ago a shift that goes on may have begun."""
_LINK = timedelta(days=730)
_Token = Annotated[str, Query(description="Of the calendar's address")]


class Calendar(Response):
    """As RFC 5545 has it."""

    media_type = "text/calendar"


router = new_router(prefix="/v1")


@router.get("/schedules")
async def list_schedules(deps: Deps, caller: WholeReader) -> Response:
    """List the schedules, each with the address of its calendar."""
    items = [{"name": name, "calendar": _address(deps, "schedules", name)} for name in caller.directory.schedules]
    return json_response({"items": items, "next": None})


@router.get("/people/{person}/calendar")
async def get_calendar_address(deps: Deps, person: str, caller: WholeReader) -> Response:
    """Return the address of a person's calendar."""
    if person not in caller.directory.people:
        raise not_found("person", person)
    return json_response({"person": person, "calendar": _address(deps, "people", person)})


@router.get("/schedules/{name}.ics", response_class=Calendar, responses=problems(304, 401))
async def get_schedule_feed(deps: Deps, name: str, request: Request, token: _Token = "") -> Response:
    """Return a schedule as a calendar, by the token of its address; 304 where it is the one that is known."""
    revision = _admitted(deps, token, "schedules", name)
    if name not in revision.directory.schedules:
        raise not_found("schedule", name)
    return _answered(request, await _feed(deps, name, [name], None, revision))


@router.get("/people/{person}.ics", response_class=Calendar, responses=problems(304, 401))
async def get_person_feed(deps: Deps, person: str, request: Request, token: _Token = "") -> Response:
    """Return a person's shifts in every schedule as a calendar, by the token of its address."""
    revision = _admitted(deps, token, "people", person)
    return _answered(request, await _feed(deps, person, list(revision.directory.schedules), person, revision))


async def _feed(
    deps: Dependencies, name: str, schedules: Sequence[str], person: str | None, revision: Revision
) -> MadeCalendar:
    """Return a calendar: the same one until the directory, an override or the day changes. Made one at a time."""
    now = deps.clock.now()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    back, ahead = today - _BACK, today + _AHEAD
    async with deps.database.transaction() as tx:
        overrides = await store.overrides(tx, back - _BEGINNINGS, ahead)
    told = tuple(sorted((schedule, tuple(some)) for schedule, some in overrides.items() if schedule in schedules))
    key = (name, person, revision.log, revision.number, today, hash(told))

    async def make() -> MadeCalendar:
        eras = await deps.history.eras(revision, back - _BEGINNINGS, now)
        times, applied_at = (now, back, ahead), revision.applied_at or today
        # In a thread, as whatever takes long: it must not delay an acknowledgement.
        return await asyncio.to_thread(_made, name, schedules, person, eras, overrides, times, applied_at)

    return await deps.calendars.get(key, make)


def _address(deps: Dependencies, kind: str, name: str) -> str:
    token = deps.signer.sign("calendar", {"kind": kind, "name": name}, expires=deps.clock.now() + _LINK)
    return f"{deps.public_url()}/v1/{kind}/{name}.ics?token={token}"


def _admitted(deps: Dependencies, token: str, kind: str, name: str) -> Revision:
    try:
        facts = deps.signer.verify("calendar", token, now=deps.clock.now())
    except (BadToken, ExpiredToken):
        facts = {}
    if (facts.get("kind"), facts.get("name")) != (kind, name):
        raise Problem(401, "unauthorized", "A valid token is needed", "Ask for the calendar's address again.")
    return deps.access.revision


def _made(
    name: str,
    schedules: Sequence[str],
    person: str | None,
    eras: Sequence[Era],
    overrides: Mapping[str, Sequence[Override]],
    times: tuple[datetime, datetime, datetime],
    applied_at: datetime,
) -> MadeCalendar:
    found = {one: calendar_shifts(eras, one, overrides.get(one, ()), *times) for one in schedules}
    if person is not None:
        found = {one: [shift for shift in of if shift.person == person] for one, of in found.items()}
    names = {id_: one.name for era in eras for id_, one in era.people.items()}
    # When what it says was last changed, so that the same calendar is the same bytes.
    stamps = [applied_at, *(one.made_at for one in schedules for one in overrides.get(one, ()))]
    calendar = feed_of_many(name, found, names, max(stamps))
    return f'"{sha256(calendar).hexdigest()[:32]}"', calendar


def _answered(request: Request, made: MadeCalendar) -> Response:
    etag, calendar = made
    return unless_known(request, calendar, {"ETag": etag, "Cache-Control": "private, no-cache"}, "text/calendar")
