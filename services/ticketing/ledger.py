"""Where every change of a ticket goes through: its clocks, its row, and everybody who is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec

from services.ticketing.domain.sla import Calendar, breaches, calendar_of, looked, next_look, started, ticked
from services.ticketing.domain.ticket import SYSTEM, Outcome, entry
from services.ticketing.store import desks, tickets, webhooks
from shared.bus import outbox
from shared.bus.client import Outgoing, cloud_event
from shared.database.pool import Connection
from shared.directory.follower import Follower
from shared.directory.model import Customer, Directory, Sla, Webhook
from shared.errors import Transient
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.logs import Log, tracing
from shared.wire.events import DeskV1, EvidenceV1, FollowUpDueV1, TicketV1
from shared.wire.ids import uuid7
from shared.wire.signing import Signer
from shared.wire.topics import TICKETS

log = Log("ticketing")

SURVEY = timedelta(days=30)
"""How long a respondent can say whether it was put right."""


@dataclass(frozen=True, slots=True)
class TicketChange:
    """What became of a ticket, under the trace of what led to it."""

    outcome: Outcome
    traceparent: str | None


class Ledger:
    """Stores tickets, and in the same transaction what their desk, webhooks, respondents and Kafka are to be told."""

    def __init__(
        self,
        directory: Follower,
        clock: Clock,
        signer: Signer,
        public_url: Callable[[], str],
        *,
        group_interval: timedelta = timedelta(seconds=30),
    ) -> None:
        """`group_interval`: others hear of evidence that was added, and nothing else, at most so often."""
        self._group_interval = group_interval
        self._directory = directory
        self._clock = clock
        self._signer = signer
        self._public_url = public_url
        self.wake: Callable[[], None] = lambda: None
        """Called after a commit: something may be due for a desk or a webhook."""

    # ---- clocks

    def timed(self, before: TicketV1 | None, outcome: Outcome) -> Outcome:
        """Bring the clocks of a changed ticket to where its change puts them. Raises Transient without a directory."""
        ticket = outcome.ticket
        if outcome.event is None:
            return outcome
        directory, now = self._current(), self._clock.now()
        sla, calendar = _clocks(directory, ticket)
        if before is None or outcome.event == "ticket.opened":
            ticket = started(ticket, sla, calendar, now)
            ticket = self._presented(ticket, directory, now)
        else:
            ticket = ticked(before, ticket, sla, calendar, now, was=_clocks(directory, before))
        return self._told(before, replace(outcome, ticket=ticket), now)

    def looked(self, ticket: TicketV1) -> Outcome | None:
        """Return what time alone makes of a ticket's clocks; None: nothing."""
        now = self._clock.now()
        sla, calendar = _clocks(self._current(), ticket)
        changed = looked(ticket, sla, calendar, now)
        if changed is ticket:
            return None
        line = entry(ticket.id, now, SYSTEM, "clock", **_states(changed))
        changed = msgspec.structs.replace(changed, version=ticket.version + 1)
        return self._told(ticket, Outcome(changed, "ticket.updated", (line,)), now)

    def _told(self, before: TicketV1 | None, outcome: Outcome, now: datetime) -> Outcome:
        """Add a line for each clock that ran out."""
        ran_out = () if before is None else breaches(before, outcome.ticket)
        lines = [entry(outcome.ticket.id, now, SYSTEM, "sla breached", clock=clock) for clock in ran_out]
        return replace(outcome, entries=(*outcome.entries, *lines))

    def _presented(self, ticket: TicketV1, directory: Directory, now: datetime) -> TicketV1:
        """Add what a new ticket shows of its desk, and its respondents' page."""
        customer = directory.customers.get(ticket.customer)
        desk = None if customer is None or customer.desk is None else directory.desks.get(customer.desk)
        page = ticket.status_page
        if page is None:
            expires = now + timedelta(seconds=directory.retention)
            page = self._link("/t/", self._signer.sign("status", {"ticket": str(ticket.id)}, expires=expires))
        shown = ticket.desk or (None if desk is None else DeskV1(type=desk.type))
        return msgspec.structs.replace(ticket, status_page=page, desk=shown)

    def _link(self, path: str, token: str) -> str:
        return f"{self._public_url()}{path}{token}"

    def _current(self) -> Directory:
        revision = self._directory.current
        if revision is None:
            raise Transient("no directory was applied yet")
        return revision.directory

    def next_look(self, ticket: TicketV1) -> datetime | None:
        """Return when a clock of a ticket changes next by time alone."""
        return _next_look(self._current(), ticket)

    # ---- saving

    async def save(self, tx: Connection, changes: Sequence[TicketChange], now: datetime) -> None:
        """Store tickets and their new lines, and tell others what changed, all at once. Raises AlreadyOpen."""
        if not changes:
            return
        directory = self._current()
        changed = {one.outcome.ticket.id: one.outcome.ticket for one in changes if one.outcome.event is not None}
        looks = {id_: _next_look(directory, ticket) for id_, ticket in changed.items()}
        await tickets.save(tx, [one.outcome for one in changes], looks)
        await self._tell(tx, await self._to_be_told_now(tx, changes, now), now)

    async def tell_later(self, tx: Connection, waiting: Sequence[TicketV1], now: datetime) -> None:
        """Tell of evidence that was added since it was told last."""
        await tickets.tell_evidence(tx, {ticket.id: now for ticket in waiting}, {})
        await self._tell(tx, [TicketChange(Outcome(ticket, "ticket.updated", ()), None) for ticket in waiting], now)

    async def _to_be_told_now(
        self, tx: Connection, changes: Sequence[TicketChange], now: datetime
    ) -> Sequence[TicketChange]:
        """Return what others hear at once; what only adds evidence waits where they have just heard of such."""
        added = {one.outcome.ticket.id for one in changes if one.outcome.only_adds_evidence}
        at_once = [one for one in changes if one.outcome.event is not None and not one.outcome.only_adds_evidence]
        # Whatever is told holds all that was added.
        added -= {one.outcome.ticket.id for one in at_once}
        await tickets.told(tx, [one.outcome.ticket.id for one in at_once])
        last = await tickets.evidence_told(tx, sorted(added))
        later = {id_: at + self._group_interval for id_, at in last.items() if at and now < at + self._group_interval}
        await tickets.tell_evidence(tx, dict.fromkeys(added - later.keys(), now), later)
        waits = later.keys()
        return [one for one in changes if one.outcome.event is not None and one.outcome.ticket.id not in waits]

    async def _tell(self, tx: Connection, changes: Sequence[TicketChange], now: datetime) -> None:
        """Leave what Kafka, webhooks and desks are to be told."""
        directory = self._current()
        resolved = [one.outcome.ticket.id for one in changes if one.outcome.event == "ticket.resolved"]
        asked = await tickets.to_ask(tx, resolved)
        told: list[Outgoing] = []
        sent: list[webhooks.Sending] = []
        for one in changes:
            ticket, event = one.outcome.ticket, one.outcome.event
            if event is None:
                continue
            with tracing(one.traceparent):
                id_ = f"{ticket.id}:{ticket.version}"
                told.append(cloud_event(TICKETS, event, key=ticket.customer, id=id_, at=now, message=ticket))
                if event == "ticket.resolved":
                    told += self._follow_ups(ticket, asked[ticket.id], directory, now)
                log.info(
                    event, ticket=ticket.id, problem=ticket.dedup_key, severity=ticket.severity, state=ticket.state
                )
            sent += _webhooks(directory.webhooks, event, ticket, now)
        await outbox.add(tx, told)
        await webhooks.add(tx, sent, now)
        await self._want(tx, changes, directory, now)

    async def _want(self, tx: Connection, changes: Sequence[TicketChange], directory: Directory, now: datetime) -> None:
        wanted: list[tuple[TicketV1, str]] = []
        for one in changes:
            ticket = one.outcome.ticket
            customer = directory.customers.get(ticket.customer)
            # A line of the timeline alone, such as each page, is no news for a desk.
            if one.outcome.event is not None and customer is not None and customer.desk is not None:
                wanted.append((ticket, customer.desk))
        await desks.want(tx, wanted, now)

    def _follow_ups(
        self, ticket: TicketV1, asked: Sequence[tickets.Recipient], directory: Directory, now: datetime
    ) -> Iterable[Outgoing]:
        """Ask those whose answers led here whether it was put right, also where a flood has hidden them."""
        customer = directory.customers.get(ticket.customer)
        for answer in _asked(asked, ticket.evidence):
            facts = {
                "customer": ticket.customer,
                "respondent": answer.respondent,
                "touchpoint": ticket.touchpoint,
                "follow_up": ticket.dedup_key,
                "answer": str(uuid7()),
            }
            token = self._signer.sign("survey", facts, expires=now + SURVEY)
            message = FollowUpDueV1(
                id=uuid7(),
                ticket=ticket.id,
                number=ticket.number,
                opening=ticket.opening,
                customer=ticket.customer,
                touchpoint=ticket.touchpoint,
                dedup_key=ticket.dedup_key,
                respondent=answer.respondent,
                contact=answer.contact,
                language=answer.language or (directory.language if customer is None else customer.language),
                survey_url=self._link("/s/", token),
                due_at=now,
            )
            id_ = f"{ticket.id}:{ticket.opening}:{answer.respondent}"
            yield cloud_event(TICKETS, "follow-up.due", key=ticket.customer, id=id_, at=now, message=message)


def measure_breaches(changes: Sequence[TicketChange]) -> None:
    """Count the clocks that ran out, after the commit."""
    for one in changes:
        for line in one.outcome.entries:
            if line.what == "sla breached":
                metrics.SLA_BREACHED.labels(line.detail["clock"]).inc()


_AROUND_THE_CLOCK = Customer("", "", "", "", "UTC", "en")


def _clocks(directory: Directory, ticket: TicketV1) -> tuple[Sla | None, Calendar]:
    customer = directory.customers.get(ticket.customer, _AROUND_THE_CLOCK)
    return directory.sla.get(ticket.severity), calendar_of(customer, ticket.severity)


def _next_look(directory: Directory, ticket: TicketV1) -> datetime | None:
    return next_look(ticket, *_clocks(directory, ticket))


def _states(ticket: TicketV1) -> dict[str, str]:
    return {} if ticket.sla is None else {"first_response": ticket.sla.first_response, "resolve": ticket.sla.resolve}


def _asked(known: Sequence[tickets.Recipient], evidence: Sequence[EvidenceV1]) -> list[tickets.Recipient]:
    """Return those who left an address; else the newest respondent. `evidence`: of before others were kept."""
    newest = {one.respondent: one for one in known}
    for answer in evidence:
        if answer.respondent is not None and answer.respondent not in newest:
            one = tickets.Recipient(answer.respondent, answer.contact, answer.language, answer.occurred_at)
            newest[answer.respondent] = one
    in_order = sorted(newest.values(), key=lambda one: one.occurred_at, reverse=True)
    return [one for one in in_order if one.contact is not None] or in_order[:1]


def wants(endpoint: Webhook, customer: str, event: str) -> bool:
    """Tell whether an address is to be told of a customer's event."""
    return (not endpoint.customers or customer in endpoint.customers) and (
        not endpoint.events or event in endpoint.events
    )


def _webhooks(endpoints: Sequence[Webhook], event: str, ticket: TicketV1, now: datetime) -> Iterable[webhooks.Sending]:
    body: str | None = None
    for endpoint in endpoints:
        if not wants(endpoint, ticket.customer, event):
            continue
        if body is None:
            body = msgspec.json.encode({"type": event, "timestamp": now, "data": ticket}).decode()
        yield webhooks.Sending(uuid7(), endpoint.url, event, ticket.customer, ticket.id, body, endpoint.secret_env)
