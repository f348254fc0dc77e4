"""alerts.v1 and pages.v1 -> tickets: load, decide, save, each once for the whole batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.ticketing import store
from services.ticketing.domain import (
    ACTIVE,
    Opening,
    Outcome,
    may_reopen,
    merge,
    open_ticket,
    opens_nothing,
    take_page,
)
from shared import metrics, outbox
from shared.clock import Clock
from shared.consume import AfterCommit, Memoryless, Record
from shared.db import Connection
from shared.directory.follower import Follower
from shared.events import AlertV1, PageV1, TicketV1
from shared.kafka import Outgoing, cloud_event
from shared.logs import Log, tracing
from shared.topics import TICKETS

log = Log("ticketing")


@dataclass(frozen=True, slots=True)
class Happened:
    """What became of a ticket, under the trace of what led to it."""

    outcome: Outcome
    traceparent: str | None


async def save(tx: Connection, happened: Sequence[Happened], now: datetime) -> None:
    """Store tickets and their new lines, and tell others what changed, all at once. Raises AlreadyOpen."""
    await store.save(tx, [one.outcome for one in happened])
    told: list[Outgoing] = []
    for one in happened:
        ticket, event = one.outcome.ticket, one.outcome.event
        if event is None:
            continue
        with tracing(one.traceparent):
            id_ = f"{ticket.id}:{ticket.version}"
            told.append(cloud_event(TICKETS, event, key=ticket.customer, id=id_, at=now, message=ticket))
            log.info(event, ticket=ticket.id, problem=ticket.dedup_key, severity=ticket.severity, state=ticket.state)
    await outbox.add(tx, told)


class AlertHandler(Memoryless):
    """One ticket per problem, whatever comes twice."""

    takes: Collection[str] | None = ("alert.opened", "alert.updated", "alert.cleared")

    def __init__(self, directory: Follower, clock: Clock, *, reopen_within: timedelta) -> None:
        self._directory = directory
        self._clock = clock
        self._reopen_within = reopen_within

    async def handle(self, tx: Connection, records: Sequence[Record[AlertV1]]) -> AfterCommit | None:
        """Merge each alert's message into the ticket of its problem, or open one."""
        now = self._clock.now()
        alerts = [record.message for record in records]
        merged = await store.merged(tx, [alert.id for alert in alerts])
        tickets = await store.newest_of_problems(tx, sorted({alert.dedup_key for alert in alerts}))
        by_id = {ticket.id: ticket for ticket in tickets.values()}
        elsewhere = sorted({ticket for _, ticket in merged.values()} - by_id.keys())
        by_id |= await store.locked(tx, elsewhere) if elsewhere else {}
        new = [a for a in alerts if a.dedup_key not in tickets or not self._takes(tickets[a.dedup_key], now)]
        numbers = await store.numbers(tx, len({a.dedup_key for a in new if not opens_nothing(a)}))
        previous = await store.previous_numbers(tx, [a.dedup_key for a in new]) if new else {}
        happened: list[Happened] = []
        for record in records:
            alert = record.message
            seen = merged.get(alert.id)
            if seen is not None and alert.version <= seen[0]:
                continue  # a repeat, or a late one
            if seen is not None:
                current: TicketV1 | None = by_id[seen[1]]
            else:
                newest = tickets.get(alert.dedup_key)
                current = newest if newest is not None and self._takes(newest, now) else None
            if current is not None:
                outcome = merge(current, alert, first=seen is None, now=now)
                ticket = current if outcome is None else outcome.ticket
            elif opens_nothing(alert):
                continue
            else:
                earlier = tuple(previous.get(alert.dedup_key, ()))
                outcome = open_ticket(alert, Opening(numbers.pop(), self._architect(alert.customer), earlier), now)
                ticket = outcome.ticket
            merged[alert.id] = (alert.version, ticket.id)
            by_id[ticket.id] = ticket
            newest = tickets.get(ticket.dedup_key)
            if seen is None or newest is None or newest.id == ticket.id:
                # An older alert may still belong to an earlier ticket of the problem: that one is not the newest.
                tickets[ticket.dedup_key] = ticket
            if outcome is not None:
                happened.append(Happened(outcome, record.traceparent))
        await save(tx, happened, now)
        await store.remember(tx, {alert.id: merged[alert.id] for alert in alerts if alert.id in merged})
        opened = {a.id: a.opened_at for a in alerts}
        return lambda: _measure(happened, opened, now)

    def _takes(self, ticket: TicketV1, now: datetime) -> bool:
        return ticket.state in ACTIVE or may_reopen(ticket, now, self._reopen_within)

    def _architect(self, customer: str) -> str | None:
        known = self._directory.customer(customer)
        return None if known is None else known.architect


class PageHandler(Memoryless):
    """What happened to a page is written on its ticket; an acknowledged page acknowledges it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def handle(self, tx: Connection, records: Sequence[Record[PageV1]]) -> AfterCommit | None:
        """Take each page's message into its ticket."""
        now = self._clock.now()
        tickets = await store.locked(tx, sorted({record.message.ticket for record in records}))
        seen = await store.seen_pages(tx, sorted({record.message.id for record in records}))
        happened: list[Happened] = []
        for record in records:
            page = record.message
            ticket = tickets.get(page.ticket)
            if ticket is None or page.version <= seen.get(page.id, 0):
                continue
            seen[page.id] = page.version
            outcome = take_page(ticket, record.type, page, now)
            tickets[page.ticket] = outcome.ticket
            happened.append(Happened(outcome, record.traceparent))
        await save(tx, happened, now)
        await store.remember_pages(tx, seen)
        return None


def _measure(happened: Sequence[Happened], opened: dict[UUID, datetime], now: datetime) -> None:
    for one in happened:
        alert = one.outcome.ticket.alert
        if one.outcome.event == "ticket.opened" and alert is not None and alert in opened:
            metrics.BREACH_TO_TICKET.observe(max(0.0, (now - opened[alert]).total_seconds()))
