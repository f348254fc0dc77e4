"""Where every change of a page goes through: its row, the audit, and everybody who is told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from services.notify.contact_selection import Reach
from services.notify.domain.contacts import Listed, free_place, next_contact
from services.notify.domain.page import WAITING, Outcome, Page, acknowledge, message, undeliverable
from services.notify.store import audit, deliveries, pages
from services.notify.store.deliveries import Beside, Delivery
from services.notify.store.pages import StoredPage
from shared.bus import outbox
from shared.bus.client import Outgoing, cloud_event
from shared.database.pool import Connection
from shared.runtime.audit import Actor
from shared.runtime.logs import Log, tracing
from shared.runtime.retry import Backoff
from shared.wire.topics import PAGES

log = Log("notify")

_RETRY = Backoff(2, 10)
"""Between tries at somebody who is being paged: a channel that works again after 45 s finds a step of 60 s running."""
_RETRY_LATER = Backoff(2, 45)
"""Between tries at somebody whose step went by while the channel was away."""


@dataclass(frozen=True, slots=True)
class PageChange:
    """What became of a page, under the trace of the answer that led to it."""

    outcome: Outcome
    traceparent: str | None
    actor: Actor = audit.SYSTEM


async def save(tx: Connection, happened: Sequence[PageChange], now: datetime) -> None:
    """Store pages, write down what happened to them and tell others, all at once."""
    await pages.save(tx, [StoredPage(one.outcome.page, one.traceparent) for one in happened])
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


def _line(now: datetime, actor: Actor, what: str, page: Page, outcome: Outcome) -> audit.Line:
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
    tx: Connection, asked: Sequence[StoredPage], person: str | None, now: datetime, *, actor: Actor
) -> list[PageChange]:
    """Acknowledge a page, and those that it was sent for after it, all locked; empty when it was over before."""
    happened: list[PageChange] = []
    for kept in asked:
        outcome = acknowledge(kept.page, person, now)
        if outcome is not None:
            happened.append(PageChange(outcome, kept.traceparent, actor))
        elif kept is asked[0]:
            return []
    await save(tx, happened, now)
    return happened


async def call_next(
    tx: Connection, failed: Sequence[Delivery], current: Mapping[UUID, StoredPage], reach: Reach, now: datetime
) -> list[PageChange]:
    """Call the next contacts of people whose contact failed; return the pages whose next person is due sooner.

    Where there is no further contact and no other one was reached, what failed for something that passes is called
    again, and if there is nothing such the next person is due. `current`: the pages, locked.
    """
    turns: defaultdict[_Turn, list[Beside]] = defaultdict(list)
    for one in await deliveries.beside(tx, failed):
        turns[_turn_of(one.delivery)].append(one)
    last: dict[_Turn, None] = {}
    for delivery in failed:
        of_turn = _turn_of(delivery)
        # A notice has no severity.
        severity = None if delivery.page is None else current[delivery.page].page.severity
        if not await _called_next(tx, delivery, turns[of_turn], reach.order(delivery.person, severity), reach, now):
            last[of_turn] = None
    happened: dict[UUID, PageChange] = {}
    again: list[tuple[UUID, datetime]] = []
    for of_turn in last:
        if of_turn.page is None or any(one.state in {"pending", "delivered"} for one in turns[of_turn]):
            continue
        kept = current[of_turn.page]
        # What its person has given up meanwhile ended without a call: how the last one went says nothing.
        in_vain = [one for one in turns[of_turn] if one.in_vain and reach.leads_somewhere(one.delivery)]
        outcome = None if in_vain else undeliverable(kept.page, of_turn.turn, now)
        if outcome is not None:
            happened[of_turn.page] = PageChange(outcome, kept.traceparent)
        elif kept.page.state in WAITING:
            again += [(one.delivery.id, _later(one, kept.page, now)) for one in in_vain]
    await deliveries.revive(tx, again)
    return list(happened.values())


class _Turn(NamedTuple):
    page: UUID | None
    notice: UUID | None
    turn: int


def _turn_of(delivery: Delivery) -> _Turn:
    return _Turn(delivery.page, delivery.notice, delivery.turn)


async def _called_next(
    tx: Connection,
    delivery: Delivery,
    beside: list[Beside],
    order: Sequence[Listed],
    reach: Reach,
    now: datetime,
) -> bool:
    """Have a person's next contact called in a turn; False: there is none. What is called is added to the turn."""
    waiting = {one.delivery.id for one in beside if one.state == "pending" and one.delivery.attempt == 0}
    ways = {one.delivery.id: reach.way(one.delivery) for one in beside}
    called = {way for id_, way in ways.items() if way is not None and id_ not in waiting}
    found = next_contact(order, called)
    if found is None:
        return False
    soon = [id_ for id_, way in ways.items() if way == found.way and id_ in waiting]
    await deliveries.hasten(tx, soon, now)
    if not soon:
        place = free_place(found.place, [one.delivery.contact for one in beside])
        wanted = deliveries.following(delivery, place, found.way, now)
        await deliveries.add(tx, [wanted], now)
        beside.append(deliveries.promised(wanted))
    return True


def _later(tried: Beside, page: Page, now: datetime) -> datetime:
    """Return when what was tried in vain is tried again: within its step as long as that lasts, but sooner or later.

    No sooner than the other side asked for, unless the step ends before.
    """
    runs = page.turn == tried.delivery.turn and page.due_at is not None and page.due_at > now
    wait = (_RETRY if runs else _RETRY_LATER).delay(tried.delivery.attempt)
    at = max(tried.due_at, now + timedelta(seconds=wait))
    return min(at, page.due_at) if runs and page.due_at is not None else at
