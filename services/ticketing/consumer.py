"""alerts.v1 and pages.v1 -> tickets: load, decide, save, each once for the whole batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import cast
from uuid import UUID

from msgspec.structs import replace

from services.ticketing.domain.action import MEASURED_SINCE, measured
from services.ticketing.domain.erase import without
from services.ticketing.domain.ticket import (
    ACTIVE,
    SYSTEM,
    Opening,
    Outcome,
    entry,
    may_reopen,
    merge,
    open_ticket,
    opens_nothing,
    take_page,
    together,
)
from services.ticketing.ledger import Ledger, TicketChange, measure_breaches
from services.ticketing.store import actions, desks, erasures, tickets, webhooks
from shared.bus import outbox
from shared.bus.client import cloud_event
from shared.bus.handler import AfterCommit, Memoryless, Record
from shared.database.pool import Connection
from shared.directory.follower import Follower
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.comparison import compare
from shared.runtime.logs import Log, tracing
from shared.wire.erasure import is_erased, known_by, nameless, names, said_before, type_of
from shared.wire.events import (
    AlertV1,
    ErasedV1,
    EvidenceV1,
    PageV1,
    RespondentErasedV1,
    ScoreDailyV1,
    StillOpenV1,
    TicketV1,
)
from shared.wire.topics import ERASED, ERASURES, TICKETS

log = Log("ticketing")

AlertMessage = AlertV1 | StillOpenV1 | ScoreDailyV1 | RespondentErasedV1
Digests = Callable[[str], Sequence[str]]
"""What is kept of a respondent's name, the newest first."""


class AlertHandler(Memoryless):
    """One ticket per problem, whatever comes twice; a person who is erased is forgotten."""

    takes: Collection[str] | None = None

    def __init__(
        self, directory: Follower, clock: Clock, ledger: Ledger, digests: Digests, *, reopen_within: timedelta
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._ledger = ledger
        self._digests = digests
        self._reopen_within = reopen_within

    async def handle(self, tx: Connection, records: Sequence[Record[AlertMessage]]) -> AfterCommit | None:
        """Take alerts, daily scores and erasures in the order that they came."""
        then: list[AfterCommit] = []
        for kind, some in groupby(records, _kind):
            if kind == ERASED:
                for record in some:
                    await self._erase(tx, cast("Record[RespondentErasedV1]", record))
            elif kind == "alerts":
                for record in some:
                    told = cast("StillOpenV1", record.message)
                    await compare(tx, told, (await tickets.merged(tx, told.ids)).keys())
            elif kind == "score":
                await self._score(tx, [cast("ScoreDailyV1", record.message) for record in some])
            else:
                then.append(await self._merge(tx, cast("list[Record[AlertV1]]", list(some))))

        def after() -> None:
            for one in then:
                one()
            self._ledger.wake()

        return after

    async def _merge(self, tx: Connection, records: Sequence[Record[AlertV1]]) -> AfterCommit:
        """Merge each alert's message into the ticket of its problem, or open one."""
        now = self._clock.now()
        alerts = await self._without_the_erased(tx, [record.message for record in records])
        merged = await tickets.merged(tx, [alert.id for alert in alerts])
        newest_of = await tickets.newest_of_problems(tx, sorted({alert.dedup_key for alert in alerts}))
        by_id = {ticket.id: ticket for ticket in newest_of.values()}
        elsewhere = sorted({ticket for _, ticket in merged.values()} - by_id.keys())
        by_id |= await tickets.locked(tx, elsewhere) if elsewhere else {}
        new = [a for a in alerts if a.dedup_key not in newest_of or not self._takes(newest_of[a.dedup_key], now)]
        numbers = await tickets.numbers(tx, len({a.dedup_key for a in new if not opens_nothing(a)}))
        previous = await tickets.previous(tx, [a.dedup_key for a in new]) if new else {}
        changes: list[TicketChange] = []
        for record, alert in zip(records, alerts, strict=True):
            seen = merged.get(alert.id)
            if seen is not None and alert.version <= seen[0]:
                continue  # a repeat, or a late one
            if seen is not None:
                current: TicketV1 | None = by_id.get(seen[1])
                if current is None:
                    continue  # its ticket is so old that it was deleted
            else:
                newest = newest_of.get(alert.dedup_key)
                current = newest if newest is not None and self._takes(newest, now) else None
            if current is not None:
                outcome = merge(current, alert, first=seen is None, now=now)
            elif opens_nothing(alert):
                continue
            else:
                known = self._directory.customer(alert.customer)
                architect, name = (None, None) if known is None else (known.architect, known.name)
                opening = Opening(numbers.pop(), architect, previous.get(alert.dedup_key, ()), name)
                outcome = open_ticket(alert, opening, now)
            if outcome is not None:
                outcome = self._ledger.timed(current, outcome)
                changes.append(TicketChange(outcome, record.traceparent))
            ticket = cast("TicketV1", current) if outcome is None else outcome.ticket
            merged[alert.id] = (alert.version, ticket.id)
            by_id[ticket.id] = ticket
            newest = newest_of.get(ticket.dedup_key)
            if seen is None or newest is None or newest.id == ticket.id:
                # An older alert may still belong to an earlier ticket of the problem: that one is not the newest.
                newest_of[ticket.dedup_key] = ticket
        changes = _one_each(changes)
        await self._ledger.save(tx, changes, now)
        await tickets.remember(tx, {alert.id: merged[alert.id] for alert in alerts if alert.id in merged})
        opened = {a.id: a.opened_at for a in alerts}
        return lambda: _measure(changes, opened, now)

    async def _without_the_erased(self, tx: Connection, alerts: Sequence[AlertV1]) -> list[AlertV1]:
        """Return alerts without the words of those who are to be forgotten, where they come late."""
        said = {(a.customer, one.id) for a in alerts for one in a.evidence if one.comment or one.contact}
        named = {(alert.customer, one.respondent) for alert in alerts for one in alert.evidence if one.respondent}
        digests = {person: self._digests(person[1]) for person in named}
        asked = [(customer, digest) for (customer, _), known_as in digests.items() for digest in known_as]
        asked += [(customer, known_by(answer)) for customer, answer in said]
        tombstones = await erasures.tombstones(tx, asked)
        if not tombstones:
            return list(alerts)

        def shown(customer: str, answer: EvidenceV1) -> EvidenceV1:
            if (customer, known_by(answer.id)) in tombstones:
                return nameless(answer)
            if not answer.respondent:
                return answer
            befores = (tombstones.get((customer, digest)) for digest in digests[customer, answer.respondent])
            if any(b is not None and said_before(answer.occurred_at, answer.received_at, b) for b in befores):
                return nameless(answer)
            return answer

        return [replace(a, evidence=[shown(a.customer, answer) for answer in a.evidence]) for a in alerts]

    def _takes(self, ticket: TicketV1, now: datetime) -> bool:
        return ticket.state in ACTIVE or may_reopen(ticket, now, self._reopen_within)

    # ---- scores, against which improvement actions are measured

    async def _score(self, tx: Connection, points: Sequence[ScoreDailyV1]) -> None:
        last = {point.customer: point for point in points}
        await actions.remember_scores(tx, list(last.values()))
        changed = [
            after
            for action in await actions.unmeasured(tx, list(last), self._clock.now() - MEASURED_SINCE)
            if (after := measured(action, last[action.customer])) is not action
        ]
        await actions.save(tx, changed)

    # ---- erasure

    async def _erase(self, tx: Connection, record: Record[RespondentErasedV1]) -> None:
        """Forget a person, or an answer, in tickets and in what desks have of them, and pass the word on."""
        wanted, now = record.message, self._clock.now()
        known = await erasures.one(tx, wanted.erasure)
        if known is not None and any(line.service == "ticketing" for line in known.done):
            return  # a repeat
        written = names(wanted)
        if wanted.answer is None:
            known_as = self._digests(wanted.respondent)[0]
            found = await tickets.of_respondent(tx, wanted.customer, written)
        else:
            known_as = known_by(wanted.answer)
            found = await tickets.that_show(tx, wanted.customer, wanted.answer)
        await erasures.tombstone(tx, wanted.customer, known_as, wanted.before)
        changed = [(ticket, without(ticket, wanted)) for ticket in found]
        what = "respondent erased" if wanted.answer is None else "answer erased"
        outcomes = [
            Outcome(replace(after, version=after.version + 1), "ticket.updated", (entry(after.id, now, SYSTEM, what),))
            for before, after in changed
            if after is not before
        ]
        await self._ledger.save(tx, [TicketChange(outcome, record.traceparent) for outcome in outcomes], now)
        # Also of those that no longer show the person, but did when they were told.
        ids = [after.id for _, after in changed]
        addresses = {a.contact for ticket in found for a in ticket.evidence if is_erased(a, wanted)}
        await tickets.blank(tx, ids, sorted(address for address in addresses if address is not None))
        newest = {ticket.id: ticket for ticket in (*found, *(outcome.ticket for outcome in outcomes))}
        await webhooks.erase(tx, list(newest.values()))
        if wanted.answer is None:
            later = [a.id for _, after in changed for a in after.evidence if a.respondent in written]
            await tickets.unname(tx, wanted.customer, written, later)
        else:
            await tickets.unname_answer(tx, wanted.customer, wanted.answer)
        await _keep(tx, wanted, wanted.done, now)
        rewritten = await desks.erase(tx, wanted.erasure, ids, now)
        left = f"desk {', '.join(rewritten)}: the text is replaced; its own history may keep it" if rewritten else ""
        done = [*wanted.done, ErasedV1(service="ticketing", removed=len(outcomes), left=left)]
        await _keep(tx, wanted, done, now)
        passed_on = replace(wanted, done=done)
        id_ = f"{wanted.erasure}:ticketing"
        with tracing(record.traceparent):
            event = cloud_event(TICKETS, type_of(wanted), key=wanted.customer, id=id_, at=now, message=passed_on)
            log.info("respondent erased", erasure=wanted.erasure, removed=len(outcomes))
        await outbox.add(tx, [event])


def _kind(record: Record[AlertMessage]) -> str:
    return ERASED if record.type in ERASURES else record.type.split(".")[0]


async def _keep(tx: Connection, wanted: RespondentErasedV1, done: list[ErasedV1], now: datetime) -> None:
    erasure = erasures.Erasure(
        id=wanted.erasure, customer=wanted.customer, before=wanted.before, done=done, updated_at=now
    )
    await erasures.save(tx, erasure)


class PageHandler(Memoryless):
    """What changes to a page is written on its ticket; an acknowledged page acknowledges it."""

    takes: Collection[str] | None = None

    def __init__(self, clock: Clock, ledger: Ledger) -> None:
        self._clock = clock
        self._ledger = ledger

    async def handle(
        self, tx: Connection, records: Sequence[Record[PageV1 | RespondentErasedV1]]
    ) -> AfterCommit | None:
        """Take each page's message into its ticket, and what notify did to forget a person."""
        now = self._clock.now()
        pages = [cast("Record[PageV1]", record) for record in records if record.type not in ERASURES]
        for record in records:
            if record.type in ERASURES:
                erased = cast("RespondentErasedV1", record.message)
                known = await erasures.one(tx, erased.erasure)
                if known is None or len(known.done) < len(erased.done):  # else a repeat
                    await _keep(tx, erased, erased.done, now)
        current = await tickets.locked(tx, sorted({record.message.ticket for record in pages}))
        seen = await tickets.seen_pages(tx, sorted({record.message.id for record in pages}))
        changes: list[TicketChange] = []
        taken: dict[UUID, tuple[int, UUID]] = {}
        for record in pages:
            page = record.message
            ticket = current.get(page.ticket)
            if ticket is None or page.version <= seen.get(page.id, 0):
                continue
            seen[page.id] = page.version
            taken[page.id] = (page.version, ticket.id)
            outcome = self._ledger.timed(ticket, take_page(ticket, record.type, page, now))
            current[page.ticket] = outcome.ticket
            changes.append(TicketChange(outcome, record.traceparent))
        await self._ledger.save(tx, changes, now)
        await tickets.remember_pages(tx, taken)
        return lambda: self._after(changes)

    def _after(self, changes: Sequence[TicketChange]) -> None:
        measure_breaches(changes)
        self._ledger.wake()


def _one_each(changes: Sequence[TicketChange]) -> list[TicketChange]:
    """Return what a batch made of each ticket as one change: a flood of answers is one version, and told once."""
    by_ticket: dict[UUID, TicketChange] = {}
    for one in changes:
        id_ = one.outcome.ticket.id
        before = by_ticket.get(id_)
        by_ticket[id_] = (
            one if before is None else dataclasses.replace(before, outcome=together(before.outcome, one.outcome))
        )
    return list(by_ticket.values())


def _measure(changes: Sequence[TicketChange], opened: dict[UUID, datetime], now: datetime) -> None:
    measure_breaches(changes)
    for one in changes:
        alert = one.outcome.ticket.alert
        if one.outcome.event == "ticket.opened" and alert is not None and alert in opened:
            metrics.BREACH_TO_TICKET.observe(max(0.0, (now - opened[alert]).total_seconds()))
