"""Who is on call now, before and after a directory is applied: what an edit means at this moment, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from services.notify.domain.chain import Presence, chain
from services.notify.domain.rota import person_on_call
from shared.directory.model import Directory, Schedule

_MOST = 20
"""Customers that are named; a change of a schedule reaches all of them."""


def who_is_on_call(before: Directory | None, after: Directory, now: datetime) -> Iterator[str]:
    """Yield a line for each schedule, and one for each customer whose chain becomes another one."""
    yield "on call now, by the schedules alone (overrides come on top):"
    known: Mapping[str, Schedule] = {} if before is None else before.schedules
    for name in sorted({*known, *after.schedules}):
        yield f"  schedule {name}: {_changed(_in_schedule(before, name, now), _in_schedule(after, name, now))}"
    presences = (None if before is None else Presence(before, {}, now), Presence(after, {}, now))
    changed = [
        (name, was, becomes)
        for name in after.customers
        if (was := _chain(before, name, presences[0])) != (becomes := _chain(after, name, presences[1]))
    ]
    for name, was, becomes in changed[:_MOST]:
        yield f"  customer {name}: {_changed(was, becomes)}"
    if len(changed) > _MOST:
        yield f"  and {len(changed) - _MOST} customers more"
    if not changed:
        yield "  every customer's chain stays what it is"


def _changed(before: str | None, after: str | None) -> str:
    was, becomes = before or "nobody", after or "nobody"
    return becomes if was == becomes else f"{was} -> {becomes}"


def _in_schedule(directory: Directory | None, name: str, now: datetime) -> str | None:
    schedule = None if directory is None else directory.schedules.get(name)
    return None if directory is None or schedule is None else person_on_call(schedule, directory.people, (), now)


def _chain(directory: Directory | None, name: str, presence: Presence | None) -> str | None:
    customer = None if directory is None else directory.customers.get(name)
    if directory is None or customer is None or presence is None:
        return None
    found = [presence.finds(turn) for turn in chain(directory, customer)]
    catch_all = directory.escalations[customer.escalation].catch_all
    return ", ".join([*(person for person in found if person is not None), catch_all])
