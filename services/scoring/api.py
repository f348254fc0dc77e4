"""GET customers, scores, alerts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from fastapi import Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from services.scoring.dependencies import Deps
from services.scoring.domain.counting import DAY, SCORES_WINDOW, WIDTH, Series, category_of, hour_time, window_start
from services.scoring.domain.customer import CustomerState
from services.scoring.domain.nearness import nearness
from services.scoring.domain.plan import plan
from services.scoring.domain.report import (
    ChannelScore,
    MetricScore,
    MoodScore,
    NpsScore,
    TouchpointScore,
    goals_of,
    metric_scores,
    mood_score,
    nps_score,
    strength,
    touchpoint_scores,
)
from services.scoring.domain.trend import Counted, daily, day_name, day_of, windows
from services.scoring.store import alerts as alerting
from services.scoring.store import answers, counting, reads
from shared.database.pool import Connection
from shared.directory.access import Caller
from shared.directory.fields import duration_seconds
from shared.errors import FieldError, invalid_fields
from shared.http.keys import caller_with, new_router
from shared.http.lists import ListQuery, page_of
from shared.http.request_model import Moment, RequestModel
from shared.http.responses import id_in_path, json_response
from shared.http.spreadsheet import BOM, cell
from shared.wire.events import Audience, Channel, Kind, ScoreDailyV1

_LONGEST = 400 * DAY
_EXPORTED = 2_000
"""Answers read at a time for an export: what one of them holds in memory."""


class Csv(StreamingResponse):
    """As RFC 4180 has it."""

    media_type = "text/csv"


class CustomersQuery(ListQuery):
    """What can be asked of the list."""


class AlertsQuery(ListQuery):
    """What can be asked of the list."""

    state: Literal["open", "cleared"] | None = None
    customer: str | None = None


class ScoresQuery(RequestModel):
    """What can be asked of scores."""

    window: str = Field(default="30d", max_length=16)
    touchpoint: str | None = None
    audience: Audience = "customer"
    by: Literal["touchpoint", "channel"] = "touchpoint"


class TrendQuery(RequestModel):
    """What can be asked of a trend."""

    window: str = Field(default="30d", max_length=16)
    days: int = Field(default=180, ge=1, le=400)
    touchpoint: str | None = None
    audience: Audience = "customer"


class AnswersQuery(RequestModel):
    """Which answers."""

    kind: Kind | None = None
    touchpoint: str | None = None
    audience: Audience | None = None
    channel: Channel | None = None
    since: Moment | None = None
    until: Moment | None = None


class FeedbackQuery(AnswersQuery, ListQuery):
    """What can be asked of the list of answers."""


class ExportQuery(AnswersQuery):
    """What can be asked of an export."""

    bom: Literal["0", "1"] = "0"
    """1: a mark at the start by which spreadsheets know UTF-8."""


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
    metrics: dict[str, MetricScore]
    touchpoints: list[TouchpointScore] | msgspec.UnsetType = msgspec.UNSET
    channels: list[ChannelScore] | msgspec.UnsetType = msgspec.UNSET


def window_seconds(text: str) -> int:
    """Return the seconds of a window. Raises the 422 that names it."""
    try:
        seconds = duration_seconds(text)
    except ValueError as error:
        raise invalid_fields(FieldError("window", str(error))) from None
    if seconds > _LONGEST:
        raise invalid_fields(FieldError("window", "must be at most 400d"))
    return seconds


router = new_router(prefix="/v1", tags=["scoring"])
_Reader = Annotated[Caller, caller_with("scores", limited=True)]


@router.get("/customers")
async def list_customers(deps: Deps, query: Annotated[CustomersQuery, Query()], caller: _Reader) -> Response:
    """List the customers with their 30-day NPS and mood."""
    known = caller.directory.customers
    visible = sorted(id_ for id_ in known if caller.may_see(id_) and id_ > (query.cursor or ""))
    page = visible[: query.limit]
    async with deps.database.transaction() as tx:
        counts = await counting.window_counts(tx, page, window_start(deps.clock.now(), SCORES_WINDOW))
        opened = await reads.open_counts(tx, page)
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
async def get_scores(deps: Deps, customer: str, query: Annotated[ScoresQuery, Query()], caller: _Reader) -> Response:
    """Return a customer's scores in a window, its touchpoints weakest first."""
    known = caller.customer(customer)
    caller.check_touchpoint(known, query.touchpoint)
    length, now = window_seconds(query.window), deps.clock.now()
    async with deps.database.snapshot() as tx:
        state = await answers.known_customer(tx, customer) if length < DAY or query.by == "channel" else None
        if length >= DAY:
            start = hour_time(window_start(now, length))
            counts = (await counting.window_counts(tx, [customer], window_start(now, length)))[customer]
        else:
            start = now - timedelta(seconds=length)
            counts = {} if state is None else await counting.exact_counts(tx, state, start)
        channels = await _channels(tx, state, start, query) if query.by == "channel" else msgspec.UNSET
    touchpoints = None if query.touchpoint is None else [query.touchpoint]
    goals = goals_of(known, query.touchpoint)
    better = _better(caller)
    return json_response(
        CustomerScores(
            customer=customer,
            window=WindowFacts(length=query.window, start=_utc(start), end=_utc(now)),
            audience=query.audience,
            touchpoint=query.touchpoint,
            nps=nps_score(counts, query.audience, touchpoints, goals.get("nps")),
            mood=mood_score(counts, query.audience, touchpoints, goals.get("mood")),
            metrics=metric_scores(counts, query.audience, touchpoints, goals, better),
            touchpoints=msgspec.UNSET
            if query.by == "channel"
            else [
                score
                for score in touchpoint_scores(counts, query.audience, known, better)
                if touchpoints is None or score.touchpoint in touchpoints
            ],
            channels=channels,
        )
    )


@router.get("/customers/{customer}/trend")
async def get_trend(deps: Deps, customer: str, query: Annotated[TrendQuery, Query()], caller: _Reader) -> Response:
    """Return a customer's scores day by day: what was known when each day ended, as far as that was stored.

    Days and windows that were not stored are counted from the answers that there are now.
    """
    known = caller.customer(customer)
    caller.check_touchpoint(known, query.touchpoint)
    length = window_seconds(query.window)
    if length % DAY:
        raise invalid_fields(FieldError("window", "must be whole days"))
    last = day_of(deps.clock.now()) - 1
    first = last - query.days + 1
    stored: dict[str, ScoreDailyV1] = {}
    counted: list[Counted] = []
    async with deps.database.transaction() as tx:
        state = await answers.known_customer(tx, customer)
        if state is not None:
            counted = await reads.days(tx, state.number, (first - length // DAY) * 24)
            if length == SCORES_WINDOW and query.touchpoint is None and query.audience == "customer":
                stored = {point.day: point for point in await reads.points(tx, state.number, first)}
    touchpoints, goals = None if query.touchpoint is None else [query.touchpoint], goals_of(known, query.touchpoint)
    points = [
        stored.get(day_name(day))
        or daily(known, _better(caller), counts, day, audience=query.audience, touchpoints=touchpoints, goals=goals)
        for day, counts in enumerate(windows(counted, first, last, length // DAY), first)
    ]
    return json_response(
        {"customer": customer, "window": query.window, "days": query.days, "items": points, "next": None}
    )


@router.get("/customers/{customer}/feedback")
async def list_feedback(
    deps: Deps, customer: str, query: Annotated[FeedbackQuery, Query()], caller: _Reader
) -> Response:
    """List a customer's answers, newest first."""
    known, after = caller.customer(customer), query.after()
    caller.check_touchpoint(known, query.touchpoint)
    found: list[reads.Answer] = []
    async with deps.database.transaction() as tx:
        state = await answers.known_customer(tx, customer)
        if state is not None:
            found = await reads.feedback(tx, _asked(state.number, query), after=after, limit=query.limit + 1)
    return json_response(page_of(found, query.limit, lambda answer: (answer.occurred_at, answer.id)))


@router.get("/customers/{customer}/export.csv", response_class=Csv)
async def export_feedback(
    deps: Deps, customer: str, query: Annotated[ExportQuery, Query()], caller: _Reader
) -> Response:
    """Stream a customer's answers as CSV, newest first."""
    known = caller.customer(customer)
    caller.check_touchpoint(known, query.touchpoint)
    async with deps.database.transaction() as tx:
        state = await answers.known_customer(tx, customer)

    async def lines() -> AsyncIterator[bytes]:
        yield ((BOM if query.bom == "1" else "") + ",".join(reads.Answer.__struct_fields__) + "\r\n").encode()
        after: tuple[datetime, UUID] | None = None
        while state is not None:
            async with deps.database.transaction() as tx:
                found = await reads.feedback(tx, _asked(state.number, query), after=after, limit=_EXPORTED)
            # In a thread: comments of a full size take a third of a second, and others have to answer meanwhile.
            yield await asyncio.to_thread(_csv, found)
            if len(found) < _EXPORTED:
                return
            after = found[-1].occurred_at, found[-1].id

    disposition = f'attachment; filename="{customer}.csv"'
    return Csv(lines(), headers={"Content-Disposition": disposition})


@router.get("/customers/{customer}/rules")
async def list_rules(deps: Deps, customer: str, caller: _Reader) -> Response:
    """Return for each rule how near it is to firing, and why it did not."""
    known, now = caller.customer(customer), deps.clock.now()
    in_force = plan(caller.directory.rules_of(known))
    async with deps.database.snapshot() as tx:
        state = await answers.known_customer(tx, customer) or CustomerState(customer, 0, 0, now)
        await counting.move_windows(tx, [(state, in_force)], now)
        for alert in await alerting.open_alerts(tx, [customer]):
            state.alerts[alert.dedup_key] = alert
    return json_response({"customer": customer, "items": nearness(state, in_force, now), "next": None})


@router.get("/alerts")
async def list_alerts(deps: Deps, query: Annotated[AlertsQuery, Query()], caller: _Reader) -> Response:
    """List alerts, newest first."""
    customers, after = caller.limited_to(query.customer), query.after()
    async with deps.database.transaction() as tx:
        found = await reads.alerts(tx, state=query.state, customers=customers, after=after, limit=query.limit + 1)
    return json_response(page_of(found, query.limit, lambda alert: (alert.opened_at, alert.id)))


@router.get("/alerts/{alert}")
async def get_alert(deps: Deps, alert: str, caller: _Reader) -> Response:
    """Return one alert with every number of its decision."""
    id_ = id_in_path("alert", alert)
    async with deps.database.transaction() as tx:
        return json_response(caller.visible("alert", alert, await reads.alert(tx, id_)))


def _csv(found: Sequence[reads.Answer]) -> bytes:
    return b"".join(csv_line(msgspec.structs.astuple(answer)) for answer in found)


async def _channels(
    tx: Connection, state: CustomerState | None, since: datetime, query: ScoresQuery
) -> list[ChannelScore]:
    counts: dict[str, dict[Series, list[float]]] = {}
    for channel, series, score in [] if state is None else await reads.channels(tx, state.number, since):
        if series.audience == query.audience and query.touchpoint in {None, series.touchpoint}:
            counted = counts.setdefault(channel, {}).setdefault(series, [0] * WIDTH)
            counted[category_of(series.kind, score)] += 1
    scores = [
        ChannelScore(
            channel=channel,
            nps=nps_score(of, query.audience, None, None),
            mood=mood_score(of, query.audience, None, None),
        )
        for channel, of in counts.items()
    ]
    return sorted(scores, key=lambda one: (strength(one.nps, one.mood), one.channel))


def _better(caller: Caller) -> dict[str, str]:
    return {name: metric.better for name, metric in caller.directory.metrics.items()}


def _asked(customer: int, query: AnswersQuery) -> reads.AnswerQuery:
    return reads.AnswerQuery(
        customer, query.kind, query.touchpoint, query.audience, query.channel, query.since, query.until
    )


def csv_line(values: Iterable[object]) -> bytes:
    """Return a line of CSV (RFC 4180) that is none of a spreadsheet's formulas."""
    return (",".join(map(cell, values)) + "\r\n").encode()


def _utc(at: object) -> str:
    return str(msgspec.to_builtins(at))
