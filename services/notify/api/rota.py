"""What changes the rota for a time: overrides, and silences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from fastapi import Query, Response
from pydantic import Field

from services.notify.api.dependencies import Dependencies, Deps, Reader, WholeReader
from services.notify.domain.hold import Silence
from services.notify.domain.page import Outcome
from services.notify.domain.preflight import rule_names
from services.notify.domain.rota import Override
from services.notify.ledger import PageChange, save
from services.notify.store import audit, deliveries, pages
from services.notify.store import rota as store
from shared.directory.access import Caller
from shared.errors import FieldError, Problem, invalid_fields, not_found
from shared.http.keys import new_router
from shared.http.lists import ListQuery, page_of
from shared.http.openapi import problems
from shared.http.request_model import Moment, RequestModel
from shared.http.responses import id_in_path, json_response
from shared.runtime.audit import Actor
from shared.wire.ids import uuid7

_LONGEST = timedelta(days=366)


class NewOverride(RequestModel):
    """Somebody is on call instead of whom the schedule says."""

    schedule: str = Field(max_length=63)
    person: str = Field(max_length=63)
    start: Moment | None = Field(default=None, alias="from")
    """None: now."""
    until: Moment
    replaces: str | None = Field(default=None, max_length=63)
    """Only while this person would be on call; None: whoever is. A swap is two of these."""


class NewSwap(RequestModel):
    """Two people take each other's turns."""

    schedule: str = Field(max_length=63)
    person: str = Field(max_length=63)
    other: str = Field(alias="with", max_length=63)
    start: Moment | None = Field(default=None, alias="from")
    """None: now."""
    until: Moment


class NewSilence(RequestModel):
    """A time in which nobody is paged for some problems."""

    customer: str | None = Field(default=None, max_length=63)
    touchpoint: str | None = Field(default=None, max_length=63)
    rule: str | None = Field(default=None, max_length=63)
    start: Moment | None = Field(default=None, alias="from")
    """None: now."""
    until: Moment
    reason: str = Field(min_length=1, max_length=500)


class OverridesQuery(ListQuery):
    """What can be asked of the list."""

    schedule: str | None = None


class SilencesQuery(ListQuery):
    """What can be asked of the list."""

    customer: str | None = None


router = new_router(prefix="/v1")


@router.post("/overrides", status_code=201)
async def make_override(deps: Deps, asked: NewOverride, caller: WholeReader) -> Response:
    """Put somebody on call for a time."""
    (made,) = await _make(deps, caller, _asked(asked, caller, deps.clock.now()))
    return json_response(_override(made), 201)


@router.post("/swaps", status_code=201)
async def make_swap(deps: Deps, asked: NewSwap, caller: WholeReader) -> Response:
    """Let two people take each other's turns for a time: two overrides, and one act."""
    now, other = deps.clock.now(), asked.other
    there = _asked(asked, caller, now, replaces=("with", other))
    back = [replace(one, id=uuid7(), person=other, replaces=asked.person) for one in there]
    made = await _make(deps, caller, [*there, *back])
    return json_response({"items": [_override(one) for one in made], "next": None}, 201)


async def _make(deps: Dependencies, caller: Caller, made: Sequence[Override]) -> Sequence[Override]:
    async with deps.database.transaction() as tx:
        for one in made:
            await store.add_override(tx, one, caller.actor.id)
        await audit.add(tx, [_line(caller, one.made_at, "override made", one) for one in made])
    return made


@router.get("/overrides")
async def list_overrides(deps: Deps, query: Annotated[OverridesQuery, Query()], caller: WholeReader) -> Response:
    """List the overrides that are not over."""
    after = query.after()
    async with deps.database.transaction() as tx:
        found = await store.list_overrides(tx, query.schedule, deps.clock.now(), after, query.limit + 1)
    listed = page_of(found, query.limit, lambda one: (one.start, one.id))
    return json_response({**listed, "items": [_override(one) for one in listed["items"]]})


@router.delete("/overrides/{override}")
async def end_override(deps: Deps, override: str, caller: WholeReader) -> Response:
    """Take an override back; what it was until now stays what was."""
    now = deps.clock.now()
    async with deps.database.transaction() as tx:
        ended = await store.end_override(tx, id_in_path("override", override), now)
        if ended is None:
            raise not_found("override", override)
        await audit.add(tx, [_line(caller, now, "override ended", ended)])
    return json_response(_override(ended))


@router.post("/silences", status_code=201)
async def make_silence(deps: Deps, asked: NewSilence, caller: Reader) -> Response:
    """Page nobody for some problems for a time; what is still a problem then is paged then."""
    now = deps.clock.now()
    start, until = _time(asked.start, asked.until, now)
    if asked.customer is not None:
        _ = caller.customer(asked.customer)
    elif caller.customers is not None:
        raise invalid_fields(FieldError("customer", "is needed: the key is limited to some customers"))
    if asked.touchpoint is not None and asked.touchpoint not in caller.directory.touchpoints:
        raise invalid_fields(FieldError("touchpoint", f"the directory has no touchpoint {asked.touchpoint!r}"))
    if asked.rule is not None and asked.rule not in rule_names(caller.directory, asked.customer):
        of = "no customer has" if asked.customer is None else f"{asked.customer} has no"
        raise invalid_fields(FieldError("rule", f"{of} a rule {asked.rule!r}; a silence of it would hold nothing"))
    made = Silence(
        uuid7(),
        asked.customer,
        asked.touchpoint,
        asked.rule,
        asked.reason,
        start,
        until,
        now,
        caller.actor.id,
    )
    async with deps.database.transaction() as tx:
        await store.add_silence(tx, made)
        await audit.add(tx, [_silence_line(now, caller.actor, "silence made", made)])
    return json_response(_silence(made), 201)


@router.get("/silences")
async def list_silences(deps: Deps, query: Annotated[SilencesQuery, Query()], caller: Reader) -> Response:
    """List the silences that are not over."""
    customers, after = caller.limited_to(query.customer), query.after()
    async with deps.database.transaction() as tx:
        found = await store.list_silences(tx, customers, deps.clock.now(), after, query.limit + 1)
    listed = page_of(found, query.limit, lambda one: (one.start, one.id))
    return json_response({**listed, "items": [_silence(one) for one in listed["items"]]})


@router.delete("/silences/{silence}", responses=problems(409))
async def end_silence(deps: Deps, silence: str, caller: Reader) -> Response:
    """End a silence now: what it holds is paged."""
    now, id_ = deps.clock.now(), id_in_path("silence", silence)
    async with deps.database.transaction() as tx:
        found = await store.one_silence(tx, id_)
        if found is None or (caller.customers is not None and found.customer not in caller.customers):
            raise not_found("silence", silence)
        ended = await store.end_silence(tx, id_, now)
        if ended is None:
            raise Problem(409, "over", "The silence is over", "It has ended before.")
        await audit.add(tx, [_silence_line(now, caller.actor, "silence ended", ended)])
        # Those that another silence holds too are held again when they are looked at.
        held: list[PageChange] = []
        for kept in await pages.held_locked(tx, ended.customer):
            outcome = Outcome(msgspec.structs.replace(kept.page, due_at=now, held=None), None)
            held.append(PageChange(outcome, kept.traceparent, caller.actor))
        await save(tx, held, now)
        await deliveries.release(tx, ended.customer, now)
    deps.escalate()
    deps.sent()
    return json_response(_silence(ended))


def _asked(
    asked: NewOverride | NewSwap, caller: Caller, now: datetime, replaces: tuple[str, str | None] | None = None
) -> list[Override]:
    """Return the override that is asked for; `replaces`: the field that says whom, and who. Raises the 422."""
    start, until = _time(asked.start, asked.until, now)
    if isinstance(asked, NewOverride):
        replaces = ("replaces", asked.replaces)
    assert replaces is not None
    directory = caller.directory
    errors: list[FieldError] = []
    if asked.schedule not in directory.schedules:
        errors.append(FieldError("schedule", f"the directory has no schedule {asked.schedule!r}"))
    for field, name in (("person", asked.person), replaces):
        if name is not None and name not in directory.people:
            errors.append(FieldError(field, f"the directory has no person {name!r}"))
    if errors:
        raise invalid_fields(*errors)
    return [Override(uuid7(), asked.schedule, asked.person, start, until, replaces[1], now)]


def _time(start: datetime | None, until: datetime, now: datetime) -> tuple[datetime, datetime]:
    """Return a time that is not over. Raises the 422."""
    since = start or now
    if until <= now:
        raise invalid_fields(FieldError("until", "is in the past"))
    if until <= since:
        raise invalid_fields(FieldError("until", "must be after from"))
    if since < now - timedelta(minutes=5):
        raise invalid_fields(FieldError("from", "is in the past; who was on call then stays as it was"))
    if until - since > _LONGEST:
        raise invalid_fields(FieldError("until", "must be at most 366 days after from"))
    return max(since, now), until


def _override(one: Override) -> dict[str, object]:
    return {
        "id": one.id,
        "schedule": one.schedule,
        "person": one.person,
        "replaces": one.replaces,
        "from": one.start,
        "until": one.until,
        "made_at": one.made_at,
    }


def _silence(one: Silence) -> dict[str, object]:
    return {
        "id": one.id,
        "customer": one.customer,
        "touchpoint": one.touchpoint,
        "rule": one.rule,
        "reason": one.reason,
        "from": one.start,
        "until": one.until,
        "made_at": one.made_at,
        "made_by": one.made_by,
    }


def _line(caller: Caller, now: datetime, what: str, one: Override) -> audit.Line:
    return audit.line(
        now,
        caller.actor,
        what,
        override=str(one.id),
        schedule=one.schedule,
        person=one.person,
        replaces=one.replaces,
        start=one.start.isoformat(),
        until=one.until.isoformat(),
    )


def _silence_line(now: datetime, by: Actor, what: str, one: Silence) -> audit.Line:
    return audit.line(
        now,
        by,
        what,
        customer=one.customer,
        silence=str(one.id),
        touchpoint=one.touchpoint,
        rule=one.rule,
        reason=one.reason,
        start=one.start.isoformat(),
        until=one.until.isoformat(),
    )
