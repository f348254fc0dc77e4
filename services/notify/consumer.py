"""tickets.v1 -> pages: a ticket that needs a person starts a page, one that has a person stops it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from services.notify import store
from services.notify.domain import Outcome, Page, customer_of, follow_ticket, start, wants_page
from services.notify.escalator import Happened, save
from shared import metrics
from shared.clock import Clock
from shared.consume import AfterCommit, Memoryless, Record
from shared.db import Connection
from shared.directory.follower import Follower
from shared.errors import Invalid, Transient
from shared.events import TicketV1
from shared.logs import Log

log = Log("notify")


class TicketHandler(Memoryless):
    """Starts and stops pages. Calls nobody: that is the escalator's and the sender's work."""

    def __init__(self, directory: Follower, clock: Clock, escalate: Callable[[], None]) -> None:
        """`escalate` is called when a page may be due."""
        self._directory = directory
        self._clock = clock
        self._escalate = escalate

    async def handle(self, tx: Connection, records: Sequence[Record[TicketV1]]) -> AfterCommit | None:
        """Bring each ticket's pages to where the ticket stands."""
        now = self._clock.now()
        ids = sorted({record.message.id for record in records})
        seen = await store.seen(tx, ids)
        pages: dict[tuple[UUID, int], Page] = {(p.ticket, p.opening): p for p in await store.pages_of(tx, ids)}
        happened: list[Happened] = []
        for index, record in enumerate(records):
            ticket = record.message
            if ticket.version <= seen.get(ticket.id, 0):
                continue
            seen[ticket.id] = ticket.version
            for key, page in list(pages.items()):
                outcome = follow_ticket(page, ticket, now) if page.ticket == ticket.id else None
                if outcome is not None:
                    pages[key] = outcome.page
                    happened.append(Happened(outcome, record.traceparent))
            if wants_page(ticket) and (ticket.id, ticket.opening) not in pages:
                page = self._start(ticket, index, now)
                pages[ticket.id, ticket.opening] = page
                happened.append(Happened(Outcome(page, None), record.traceparent))
        await save(tx, happened, now)
        await store.remember(tx, {ticket: seen[ticket] for ticket in ids if ticket in seen})
        return lambda: self._committed(happened)

    def _start(self, ticket: TicketV1, index: int, now: datetime) -> Page:
        revision = self._directory.current
        if revision is None:
            raise Transient("no directory was applied yet")
        customer = customer_of(revision.directory, ticket)
        if customer is None:
            raise Invalid("no-escalation", f"the directory has nobody to page for {ticket.customer}", index=index)
        return start(ticket, revision.directory, customer, now)

    def _committed(self, happened: Sequence[Happened]) -> None:
        for one in happened:
            page = one.outcome.page
            if one.outcome.event is None:
                metrics.PAGES.labels(page.severity).inc()
            elif one.outcome.event == "page.acknowledged" and page.acknowledged_at is not None:
                metrics.PAGE_TO_ACKNOWLEDGE.observe((page.acknowledged_at - page.opened_at).total_seconds())
        if happened:
            self._escalate()
