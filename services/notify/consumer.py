"""tickets.v1 -> pages, digests and letters; alerts.v1 -> good experiences and daily scores; audit.v1 -> the audit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from itertools import groupby
from typing import cast
from uuid import UUID, uuid5

from msgspec.structs import replace

from services.notify.domain.chain import customer_of
from services.notify.domain.digest import due_at, late_clocks, of_breach, of_good_news, of_ticket, responsible, team
from services.notify.domain.page import (
    CROWD_WITHIN,
    OPENED,
    PAGED,
    Outcome,
    Page,
    follow_ticket,
    gather,
    start,
    wants_page,
    without,
)
from services.notify.ledger import PageChange, save
from services.notify.store import audit, follow_up_mail, notices, pages, proactive
from services.notify.store.notices import DigestLine
from shared.bus import outbox
from shared.bus.client import cloud_event
from shared.bus.handler import AfterCommit, Memoryless, Record
from shared.database.pool import Connection
from shared.directory.follower import Follower
from shared.directory.model import Directory, severity_rank
from shared.errors import Invalid, Transient
from shared.runtime import metrics
from shared.runtime.audit import UNKNOWN, Actor
from shared.runtime.clock import Clock
from shared.runtime.comparison import compare
from shared.runtime.logs import Log, tracing
from shared.wire.erasure import names, type_of
from shared.wire.events import (
    AlertV1,
    AuditV1,
    ErasedV1,
    EvidenceV1,
    FollowUpDueV1,
    RespondentErasedV1,
    ScoreDailyV1,
    StillOpenV1,
    TicketV1,
)
from shared.wire.topics import ERASURES, PAGES

log = Log("notify")

TicketMessage = TicketV1 | FollowUpDueV1 | StillOpenV1 | RespondentErasedV1
AlertMessage = AlertV1 | ScoreDailyV1 | RespondentErasedV1


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

    async def handle(self, tx: Connection, records: Sequence[Record[TicketMessage]]) -> AfterCommit | None:
        """Take tickets, follow-ups and erasures in the order that they came."""
        happened: list[PageChange] = []
        written: list[tuple[FollowUpDueV1, str | None]] = []
        for kind, some in groupby(enumerate(records), lambda place: type(place[1].message)):
            if kind is RespondentErasedV1:
                for _, record in some:
                    await self._erase(tx, cast("Record[RespondentErasedV1]", record))
            elif kind is StillOpenV1:
                for _, record in some:
                    told = cast("StillOpenV1", record.message)
                    await compare(tx, told, await pages.paged(tx, told.ids))
            elif kind is FollowUpDueV1:
                due = [(cast("FollowUpDueV1", record.message), record.traceparent) for _, record in some]
                written += due
                await follow_up_mail.add(tx, [one for one in due if one[0].contact is not None], self._clock.now())
            else:
                happened += await self._follow(tx, cast("list[tuple[int, Record[TicketV1]]]", list(some)))
        return lambda: self._committed(happened, written)

    async def _follow(self, tx: Connection, records: Sequence[tuple[int, Record[TicketV1]]]) -> list[PageChange]:
        """Bring each ticket's pages to where the ticket stands."""
        now, directory = self._clock.now(), self._current()
        ids = sorted({record.message.id for _, record in records})
        seen = await pages.seen(tx, ids)
        known: defaultdict[UUID, dict[int, Page]] = defaultdict(dict)
        for page in await pages.of_tickets(tx, ids):
            known[page.ticket][page.opening] = page
        happened: list[PageChange] = []
        new: dict[UUID, PageChange] = {}
        lines: list[DigestLine] = []
        for index, record in records:
            ticket = record.message
            before = seen.get(ticket.id, pages.SeenTicket(0, 0, None))
            if ticket.version <= before.version:
                continue
            seen[ticket.id] = pages.SeenTicket(ticket.version, late_clocks(ticket), ticket.severity)
            of_ticket = known[ticket.id]
            for opening, page in list(of_ticket.items()):
                for outcome in follow_ticket(page, ticket, now):
                    of_ticket[opening] = outcome.page
                    happened.append(PageChange(outcome, record.traceparent))
            if wants_page(ticket) and ticket.opening not in of_ticket:
                page = self._start(ticket, directory, index, now)
                of_ticket[ticket.opening] = page
                new[page.id] = PageChange(Outcome(page, None), record.traceparent)
            lines += _told_later(record, directory, before, now)
        # What something has become of in the same batch is sent on its own, if at all.
        changed = {one.outcome.page.id for one in happened}
        gathered = await self._gathered(tx, [one.outcome.page for id_, one in new.items() if id_ not in changed], now)
        opened = [*gathered, *(one.outcome.page for id_, one in new.items() if id_ in changed)]
        first = [PageChange(Outcome(page, None, why=OPENED), new[page.id].traceparent) for page in opened]
        await save(tx, [*first, *happened], now)
        await notices.add_lines(tx, lines)
        await pages.remember(tx, {ticket: seen[ticket] for ticket in ids if ticket in seen}, now)
        return [*first, *happened]

    async def _gathered(self, tx: Connection, opened: Sequence[Page], now: datetime) -> list[Page]:
        """Let many pages of one customer be sent as one."""
        if not opened:
            return []
        of_customer: defaultdict[str, list[Page]] = defaultdict(list)
        for page in opened:
            of_customer[page.customer].append(page)
        names = sorted(of_customer)
        recent = await pages.recent(tx, names, now - CROWD_WITHIN)
        leads = await pages.leads(tx, names, now - CROWD_WITHIN)
        return [
            page
            for name, some in of_customer.items()
            for page in gather(some, recent.get(name, 0), leads.get(name), now)
        ]

    async def _erase(self, tx: Connection, record: Record[RespondentErasedV1]) -> None:
        """Forget a person, or an answer, in pages, digests and letters, and pass the word on."""
        wanted, now = record.message, self._clock.now()
        removed = 0
        written = names(wanted)
        for page in await pages.that_say(tx, wanted.customer, written or [str(wanted.answer)]):
            scrubbed = without(page, wanted)
            if scrubbed is not page:
                await pages.scrub(tx, scrubbed)
                removed += 1
        removed += await follow_up_mail.erase(tx, wanted.customer, written)
        removed += await notices.erase(tx, wanted.customer, written, wanted.answer)
        left = "what was mailed or sent before is with those who got it" if removed else ""
        passed_on = replace(wanted, done=[*wanted.done, ErasedV1(service="notify", removed=removed, left=left)])
        id_ = f"{wanted.erasure}:notify"
        with tracing(record.traceparent):
            event = cloud_event(PAGES, type_of(wanted), key=wanted.customer, id=id_, at=now, message=passed_on)
            log.info("respondent erased", erasure=wanted.erasure, removed=removed)
        await outbox.add(tx, [event])
        asked = Actor(wanted.by or UNKNOWN, wanted.address)
        told = audit.line(
            wanted.before, asked, "erasure", id=wanted.erasure, customer=wanted.customer, erasure=str(wanted.erasure)
        )
        await audit.add(tx, [told])

    def _current(self) -> Directory:
        revision = self._directory.current
        if revision is None:
            raise Transient("no directory was applied yet")
        return revision.directory

    def _start(self, ticket: TicketV1, directory: Directory, index: int, now: datetime) -> Page:
        customer = customer_of(directory, ticket)
        if customer is None:
            raise Invalid("no-escalation", f"the directory has nobody to page for {ticket.customer}", index=index)
        return start(ticket, directory, customer, now)

    def _committed(self, happened: Sequence[PageChange], written: Sequence[tuple[FollowUpDueV1, str | None]]) -> None:
        for one in happened:
            page = one.outcome.page
            if one.outcome.why == OPENED:
                metrics.PAGES.labels(page.severity).inc()
            elif one.outcome.event == "page.acknowledged" and page.acknowledged_at is not None:
                metrics.PAGE_TO_ACKNOWLEDGE.observe((page.acknowledged_at - page.opened_at).total_seconds())
        if happened:
            self._escalate()
        if written:
            self._write()


def _told_later(
    record: Record[TicketV1], directory: Directory, before: pages.SeenTicket, now: datetime
) -> list[DigestLine]:
    """Return what a ticket that pages nobody adds to the digest of who is responsible; `before`: as it was seen."""
    ticket = record.message
    customer = customer_of(directory, ticket)
    if customer is None or wants_page(ticket) or ticket.severity == "info":
        return []
    rose = before.severity is not None and severity_rank(ticket.severity) > severity_rank(before.severity)
    if ticket.severity not in PAGED and (record.type == "ticket.opened" or (rose and ticket.state == "open")):
        kind, entry = "ticket", of_ticket(ticket, customer, now)
    elif late_clocks(ticket) > before.late and ticket.severity not in PAGED:
        kind, entry = "late", of_breach(ticket, customer, now)
    else:
        return []
    person = responsible(directory, customer, now)
    if person is None:
        return []
    id_ = uuid5(ticket.id, f"{kind} {ticket.version}")
    respondent, answer = _whose_words(ticket.evidence)
    at = due_at(person, ticket.severity, now)
    return [DigestLine(id_, person.id, kind, ticket.customer, at, entry, respondent, "responsible", answer)]


def _whose_words(evidence: Sequence[EvidenceV1]) -> tuple[str | None, UUID | None]:
    """Return the respondent and the id of the answer whose comment a digest shows."""
    return next(((answer.respondent, answer.id) for answer in evidence if answer.comment), (None, None))


class AlertHandler(Memoryless):
    """Shares good experiences, and keeps where each customer stands for briefs."""

    takes: Collection[str] | None = frozenset({"alert.opened", "score.daily"}) | ERASURES

    def __init__(self, directory: Follower, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    async def handle(self, tx: Connection, records: Sequence[Record[AlertMessage]]) -> AfterCommit | None:
        """Take good experiences, daily scores and erasures in the order that they came."""
        revision = self._directory.current
        if revision is None:
            raise Transient("no directory was applied yet")
        now = self._clock.now()
        for kind, some in groupby(records, lambda record: type(record.message)):
            messages = [record.message for record in some]
            if kind is RespondentErasedV1:
                for message in cast("list[RespondentErasedV1]", messages):
                    await notices.erase(tx, message.customer, names(message), message.answer)
            elif kind is ScoreDailyV1:
                await proactive.remember_scores(tx, cast("list[ScoreDailyV1]", messages))
            else:
                alerts = cast("list[AlertV1]", messages)
                await notices.add_lines(tx, _good_news(alerts, revision.directory, now))
        return None


class AuditHandler(Memoryless):
    """Keeps what every service tells of who changed what."""

    async def handle(self, tx: Connection, records: Sequence[Record[AuditV1]]) -> AfterCommit | None:
        """Keep lines; one that comes again stays as it is."""
        await audit.add(tx, [audit.told(record.message) for record in records])
        return None


def _good_news(alerts: Sequence[AlertV1], directory: Directory, now: datetime) -> list[DigestLine]:
    lines: list[DigestLine] = []
    for alert in alerts:
        customer = directory.customers.get(alert.customer)
        if customer is None or alert.severity != "info" or alert.state != "open":
            continue
        respondent, answer = _whose_words(alert.evidence)
        lines += [
            DigestLine(
                uuid5(alert.id, person.id),
                person.id,
                "good",
                alert.customer,
                due_at(person, "info", now),
                of_good_news(alert, customer),
                respondent,
                "team",
                answer,
            )
            for person in team(directory, customer)
        ]
    return lines
