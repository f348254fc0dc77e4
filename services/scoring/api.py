"""GET customers, scores, alerts."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from services.scoring import store
from services.scoring.domain.counting import DAY, Series, hour_time, window_start
from services.scoring.domain.report import (
    MoodScore,
    NpsScore,
    TouchpointScore,
    mood_score,
    nps_score,
    touchpoint_scores,
)
from services.scoring.domain.windows import ExactWindow
from shared.clock import Clock
from shared.db import Connection, Database
from shared.directory.access import Access, Caller
from shared.directory.fields import duration_seconds
from shared.errors import FieldError, invalid_fields
from shared.events import Audience
from shared.lists import Page, page_of
from shared.web import caller_with, id_in_path, json_response

_LONGEST = 400 * DAY


class CustomersQuery(Page):
    """What can be asked of the list."""


class AlertsQuery(Page):
    """What can be asked of the list."""

    state: Literal["open", "cleared"] | None = None
    customer: str | None = None


class ScoresQuery(BaseModel):
    """What can be asked of scores."""

    model_config = ConfigDict(extra="forbid")

    window: str = Field(default="30d", max_length=16)
    touchpoint: str | None = None
    audience: Audience = "customer"


class CustomerItem(msgspec.Struct, frozen=True, kw_only=True):
    """A customer in the list."""

    id: str
    name: str
    nps: NpsScore
    mood: MoodScore
    open_alerts: int


class WindowFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Which answers were looked at."""

    length: str
    start: str
    end: str


class CustomerScores(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's scores in one window."""

    customer: str
    window: WindowFacts
    audience: Audience
    touchpoint: str | None
    nps: NpsScore
    mood: MoodScore
    touchpoints: list[TouchpointScore]


def window_seconds(text: str) -> int:
    """Return the seconds of a window. Raises the 422 that names it."""
    try:
        seconds = duration_seconds(text)
    except ValueError as error:
        raise invalid_fields(FieldError("window", str(error))) from None
    if seconds > _LONGEST:
        raise invalid_fields(FieldError("window", "must be at most 400d"))
    return seconds


def build_router(database: Database, access: Access, clock: Clock) -> APIRouter:
    """Return scoring's part of the HTTP interface."""
    router = APIRouter(prefix="/v1", tags=["scoring"])
    reader = caller_with(access, "scores")

    @router.get("/customers")
    async def customers(query: Annotated[CustomersQuery, Query()], caller: Caller = reader) -> Response:  # pyright: ignore[reportUnusedFunction]
        """List the customers with their 30-day NPS and mood."""
        known = caller.directory.customers
        visible = sorted(id_ for id_ in known if caller.may_see(id_) and id_ > (query.cursor or ""))
        page = visible[: query.limit]
        async with database.transaction() as tx:
            counts = await store.window_counts(tx, page, window_start(clock.now(), 30 * DAY))
            opened = await store.open_counts(tx, page)
        items = [
            CustomerItem(
                id=id_,
                name=known[id_].name,
                nps=nps_score(counts[id_], "customer", None, known[id_].goals.get("nps")),
                mood=mood_score(counts[id_], "customer", None, known[id_].goals.get("mood")),
                open_alerts=opened.get(id_, 0),
            )
            for id_ in page
        ]
        return json_response({"items": items, "next": page[-1] if len(visible) > len(page) else None})

    @router.get("/customers/{customer}/scores")
    async def scores(customer: str, query: Annotated[ScoresQuery, Query()], caller: Caller = reader) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return a customer's scores in a window, its touchpoints weakest first."""
        known = caller.customer(customer)
        if query.touchpoint is not None and query.touchpoint not in (known.touchpoints or caller.directory.touchpoints):
            raise invalid_fields(FieldError("touchpoint", f"{customer} has no touchpoint {query.touchpoint!r}"))
        length, now = window_seconds(query.window), clock.now()
        async with database.transaction() as tx:
            if length >= DAY:
                start = hour_time(window_start(now, length))
                counts = (await store.window_counts(tx, [customer], window_start(now, length)))[customer]
            else:
                start = now - timedelta(seconds=length)
                counts = await _exact_counts(tx, customer, length, clock)
        touchpoints = None if query.touchpoint is None else [query.touchpoint]
        goals = known.goals
        return json_response(
            CustomerScores(
                customer=customer,
                window=WindowFacts(length=query.window, start=_utc(start), end=_utc(now)),
                audience=query.audience,
                touchpoint=query.touchpoint,
                nps=nps_score(counts, query.audience, touchpoints, goals.get("nps")),
                mood=mood_score(counts, query.audience, touchpoints, goals.get("mood")),
                touchpoints=[
                    score
                    for score in touchpoint_scores(counts, query.audience)
                    if touchpoints is None or score.touchpoint in touchpoints
                ],
            )
        )

    @router.get("/alerts")
    async def alerts(query: Annotated[AlertsQuery, Query()], caller: Caller = reader) -> Response:  # pyright: ignore[reportUnusedFunction]
        """List alerts, newest first."""
        customers, after = caller.limited_to(query.customer), query.after()
        async with database.transaction() as tx:
            found = await store.alerts(tx, state=query.state, customers=customers, after=after, limit=query.limit + 1)
        return json_response(page_of(found, query.limit, lambda alert: (alert.opened_at, alert.id)))

    @router.get("/alerts/{alert}")
    async def one_alert(alert: str, caller: Caller = reader) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return one alert with every number of its decision."""
        id_ = id_in_path("alert", alert)
        async with database.transaction() as tx:
            return json_response(caller.visible("alert", alert, await store.alert(tx, id_)))

    return router


async def _exact_counts(tx: Connection, customer: str, length: int, clock: Clock) -> dict[Series, list[int]]:
    since = clock.now() - timedelta(seconds=length)
    series = (await store.series_of_customers(tx, [customer]))[customer]
    window = ExactWindow(since)
    for of, answers in zip(series, await store.recent(tx, [(id_, since) for id_ in series.values()]), strict=True):
        for answer in answers:
            window.add(of, answer.respondent, answer.said)
    return window.counts


def _utc(at: object) -> str:
    return str(msgspec.to_builtins(at))
