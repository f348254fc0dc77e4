"""Where every change of a page goes through: its row, the audit, and everybody who is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.notify.domain.page import Outcome, Page, acknowledge, message, undeliverable
from services.notify.reach import Reach
from services.notify.store import audit, deliveries, pages
from services.notify.store.deliveries import Delivery, Wanted
from services.notify.store.pages import Kept
from shared import outbox
from shared.db import Connection
from shared.kafka import Outgoing, cloud_event
from shared.logs import Log, tracing
from shared.topics import PAGES

log = Log("notify")


@dataclass(frozen=True, slots=True)
class Happened:
    """What became of a page, under the trace of the answer that led to it."""

    outcome: Outcome
    traceparent: str | None
    actor: str = audit.SYSTEM


async def save(tx: Connection, happened: Sequence[Happened], now: datetime) -> None:
    """Store pages, write down what happened to them and tell others, all at once."""
    await pages.save(tx, [Kept(one.outcome.page, one.traceparent) for one in happened])
    told: list[Outgoing] = []
    lines: list[audit.Line] = []
    for one in happened:
        page, event = one.outcome.page, one.outcome.event
        what = event or one.outcome.why
        if what:
            lines.append(_line(now, one.actor, what, page, one.outcome))
        if event is None:
            continue
        with tracing(one.traceparent):
            id_ = f"{page.id}:{page.version}"
            told.append(cloud_event(PAGES, event, key=page.customer, id=id_, at=now, message=message(page)))
            log.info(event, page=page.id, ticket=page.ticket, person=page.person, level=page.level)
    await audit.add(tx, lines)
    await outbox.add(tx, told)


def _line(now: datetime, actor: str, what: str, page: Page, outcome: Outcome) -> audit.Line:
    until = page.due_at.isoformat() if page.held is not None and page.due_at is not None else None
    return audit.line(
        now,
        actor,
        what,
        page=page.id,
        customer=page.customer,
        person=outcome.pages or page.person,
        level=page.level or None,
        round=page.round if page.level else None,
        until=until,
    )


async def take(
    tx: Connection, asked: Sequence[Kept], person: str | None, now: datetime, *, actor: str
) -> list[Happened]:
    """Acknowledge a page, and those that it was sent for after it, all locked; empty when it was over before."""
    happened: list[Happened] = []
    for kept in asked:
        outcome = acknowledge(kept.page, person, now)
        if outcome is not None:
            happened.append(Happened(outcome, kept.traceparent, actor))
        elif kept is asked[0]:
            return []
    await save(tx, happened, now)
    return happened


async def call_next(
    tx: Connection, failed: Sequence[Delivery], current: Mapping[UUID, Kept], reach: Reach, now: datetime
) -> list[Happened]:
    """Call the next contacts of people whose contact failed; return the pages whose next person is due at once.

    Those are where there is no further contact and no other one was reached. `current`: the pages, locked.
    """
    following: list[Wanted] = []
    last: list[Delivery] = []
    for delivery in failed:
        severity = None if delivery.page is None else current[delivery.page].page.severity  # a notice has none
        place = reach.next_place(delivery.person, severity, delivery.contact)
        if place is None:
            last.append(delivery)
        else:
            following.append(deliveries.following(delivery, place, now))
    await deliveries.add(tx, following, now)
    turns = {(delivery.page, delivery.turn) for delivery in last if delivery.page is not None}
    lively = await deliveries.lively(tx, sorted(turns))
    happened: dict[UUID, Happened] = {}
    for id_, turn in sorted(turns - lively):
        kept = current[id_]
        outcome = undeliverable(kept.page, turn, now)
        if outcome is not None:
            happened[id_] = Happened(outcome, kept.traceparent)
    return list(happened.values())
