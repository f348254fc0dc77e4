"""tickets.v1 -> pages: a ticket that needs a person starts a page, one that has a person stops it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from itertools import groupby
from typing import cast
from uuid import UUID

from msgspec.structs import replace

from services.notify import store
from services.notify.domain import Outcome, Page, customer_of, follow_ticket, start, wants_page, without
from services.notify.escalator import Happened, save
from shared import metrics, outbox
from shared.clock import Clock
from shared.consume import AfterCommit, Memoryless, Record
from shared.db import Connection
from shared.directory.follower import Follower
from shared.errors import Invalid, Transient
from shared.events import ErasedV1, FollowUpDueV1, RespondentErasedV1, TicketV1
from shared.kafka import cloud_event
from shared.logs import Log, tracing
from shared.topics import ERASED, PAGES

log = Log("notify")


Message = TicketV1 | FollowUpDueV1 | RespondentErasedV1


class TicketHandler(Memoryless):
    """Starts and stops pages, writes letters. Calls nobody: that is the escalator's and the senders' work."""

    takes: Collection[str] | None = None

    def __init__(
        self,
        directory: Follower,
        clock: Clock,
        escalate: Callable[[], None],
        write: Callable[[], None],
    ) -> None:
        """`escalate` is called when a page may be due, `write` when a letter is."""
        self._directory = directory
        self._clock = clock
        self._escalate = escalate
        self._write = write

    async def handle(self, tx: Connection, records: Sequence[Record[Message]]) -> AfterCommit | None:
        """Take tickets, follow-ups and erasures in the order that they came."""
        happened: list[Happened] = []
        letters: list[tuple[FollowUpDueV1, str | None]] = []
        for kind, some in groupby(enumerate(records), lambda place: type(place[1].message)):
            if kind is RespondentErasedV1:
                for _, record in some:
                    await self._erase(tx, cast("Record[RespondentErasedV1]", record))
            elif kind is FollowUpDueV1:
                due = [(cast("FollowUpDueV1", record.message), record.traceparent) for _, record in some]
                letters += due
                await store.add_letters(tx, [one for one in due if one[0].contact is not None], self._clock.now())
            else:
                happened += await self._follow(tx, cast("list[tuple[int, Record[TicketV1]]]", list(some)))
        return lambda: self._committed(happened, letters)

    async def _follow(self, tx: Connection, records: Sequence[tuple[int, Record[TicketV1]]]) -> list[Happened]:
        """Bring each ticket's pages to where the ticket stands."""
        now = self._clock.now()
        ids = sorted({record.message.id for _, record in records})
        seen = await store.seen(tx, ids)
        pages: dict[tuple[UUID, int], Page] = {(p.ticket, p.opening): p for p in await store.pages_of(tx, ids)}
        happened: list[Happened] = []
        for index, record in records:
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
        return happened

    async def _erase(self, tx: Connection, record: Record[RespondentErasedV1]) -> None:
        """Forget a person in pages and letters, and pass the word on."""
        wanted, now = record.message, self._clock.now()
        removed = 0
        for page in await store.naming(tx, wanted.customer, wanted.respondent):
            scrubbed = without(page, wanted.respondent, wanted.before)
            if scrubbed is not page:
                await store.scrub(tx, scrubbed)
                removed += 1
        removed += await store.erase_letters(tx, wanted.customer, wanted.respondent)
        left = "what was mailed or sent before is with those who got it" if removed else ""
        passed_on = replace(wanted, done=[*wanted.done, ErasedV1(service="notify", removed=removed, left=left)])
        id_ = f"{wanted.erasure}:notify"
        with tracing(record.traceparent):
            event = cloud_event(PAGES, ERASED, key=wanted.customer, id=id_, at=now, message=passed_on)
            log.info("respondent erased", erasure=wanted.erasure, removed=removed)
        await outbox.add(tx, [event])

    def _start(self, ticket: TicketV1, index: int, now: datetime) -> Page:
        revision = self._directory.current
        if revision is None:
            raise Transient("no directory was applied yet")
        customer = customer_of(revision.directory, ticket)
        if customer is None:
            raise Invalid("no-escalation", f"the directory has nobody to page for {ticket.customer}", index=index)
        return start(ticket, revision.directory, customer, now)

    def _committed(self, happened: Sequence[Happened], letters: Sequence[tuple[FollowUpDueV1, str | None]]) -> None:
        for one in happened:
            page = one.outcome.page
            if one.outcome.event is None:
                metrics.PAGES.labels(page.severity).inc()
            elif one.outcome.event == "page.acknowledged" and page.acknowledged_at is not None:
                metrics.PAGE_TO_ACKNOWLEDGE.observe((page.acknowledged_at - page.opened_at).total_seconds())
        if happened:
            self._escalate()
        if letters:
            self._write()
