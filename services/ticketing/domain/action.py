"""Improvement actions: one small concrete step, whose it is, and what it did to the figure that it was taken for."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec

from shared.wire.events import ScoreDailyV1

ActionState = Literal["open", "done", "dropped"]

MEASURED_FOR = timedelta(days=90)
"""After it was done the figure is followed for so long."""
MEASURED_SINCE = timedelta(days=365) + MEASURED_FOR
"""Older actions are not looked at any more."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure on a day: the score of the 30 days until then."""

    day: str
    value: float
    responses: int


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """A step that somebody takes so that it does not happen again."""

    id: UUID
    customer: str
    ticket: UUID | None
    """What led to it."""
    step: str
    owner: str
    """A person's id."""
    due_on: date
    metric: str
    """What is to become better: nps, mood, or a key metric."""
    state: ActionState
    opened_at: datetime
    done_at: datetime | None = None
    before: Figure | None = None
    """When it was decided on; None: nothing was measured yet."""
    after: Figure | None = None
    """The newest since it was done."""
    effect: float | None = None
    """After less before."""
    version: int = 1


def figure(point: ScoreDailyV1, metric: str) -> Figure | None:
    """Return what a day's scores say about a metric; None: nothing."""
    if metric == "nps":
        value, responses = point.nps, point.nps_responses
    elif metric == "mood":
        value, responses = point.mood, point.mood_responses
    else:
        found = point.metrics.get(metric)
        value, responses = (None, 0) if found is None else (found.mean, found.responses)
    return None if value is None else Figure(day=point.day, value=value, responses=responses)


def measured(action: Action, point: ScoreDailyV1) -> Action:
    """Take in a day's scores: the first known before it was done, then the newest for 90 days."""
    now = figure(point, action.metric)
    if now is None:
        return action
    if action.state == "open":
        return action if action.before is not None else msgspec.structs.replace(action, before=now)
    if action.state == "dropped" or action.done_at is None or now.day <= action.done_at.date().isoformat():
        return action
    if now.day > (action.done_at + MEASURED_FOR).date().isoformat():
        return action
    effect = None if action.before is None else round(now.value - action.before.value, 4)
    return msgspec.structs.replace(action, after=now, effect=effect)
