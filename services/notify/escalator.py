"""The two loops that reach a person: the escalator decides who is paged next, the sender calls their contacts.

Both work from due rows, so whatever dies is taken up again by the next process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.notify import store
from services.notify.channels import Channel, Notice, Result
from services.notify.domain import Outcome, delivered, message, next_turn, undeliverable
from shared import metrics, outbox
from shared.clock import Clock
from shared.db import Connection, Database
from shared.directory.follower import Follower
from shared.directory.model import Directory
from shared.due import DueLoop
from shared.errors import Transient
from shared.ids import uuid7
from shared.kafka import Outgoing, cloud_event
from shared.logs import Log, tracing
from shared.retry import Backoff
from shared.security import Signer
from shared.topics import PAGES

log = Log("notify")

_PAGES_AT_ONCE = 200
_LEASE_MARGIN = timedelta(seconds=5)
_RETRY = Backoff(2, 30)


@dataclass(frozen=True, slots=True)
class Happened:
    """What became of a page, under the trace of the answer that led to it."""

    outcome: Outcome
    traceparent: str | None


async def save(tx: Connection, happened: Sequence[Happened], now: datetime) -> None:
    """Store pages and tell others what happened to them, all at once."""
    await store.save(tx, [store.Kept(one.outcome.page, one.traceparent) for one in happened])
    told: list[Outgoing] = []
    for one in happened:
        page, event = one.outcome.page, one.outcome.event
        if event is None:
            continue
        with tracing(one.traceparent):
            id_ = f"{page.id}:{page.version}"
            told.append(cloud_event(PAGES, event, key=page.customer, id=id_, at=now, message=message(page)))
            log.info(event, page=page.id, ticket=page.ticket, person=page.person, level=page.level)
    await outbox.add(tx, told)


def reachable(directory: Directory, channels: Mapping[str, Channel]) -> set[str]:
    """Return the people who have a contact that we can call."""
    return {
        person.id
        for person in directory.people.values()
        if any(contact.channel in channels for contact in person.contacts)
    }


class Escalator:
    """Pages the next person of every page that is due."""

    def __init__(
        self,
        database: Database,
        directory: Follower,
        channels: Mapping[str, Channel],
        clock: Clock,
        sent: Callable[[], None],
    ) -> None:
        """`sent` is called when there is something for the sender."""
        self._database = database
        self._directory = directory
        self._channels = channels
        self._clock = clock
        self._sent = sent
        self.loop = DueLoop("escalator", self._work)

    async def _work(self) -> int:
        revision = self._directory.current
        if revision is None:
            return 0
        async with self._database.transaction() as tx:
            now = self._clock.now()
            due = await store.due_pages(tx, now, _PAGES_AT_ONCE)
            if not due:
                return 0
            people = reachable(revision.directory, self._channels)
            happened = [Happened(next_turn(kept.page, people, now), kept.traceparent) for kept in due]
            await save(tx, happened, now)
            wanted = [
                (one.outcome.page, one.outcome.pages, 0, now) for one in happened if one.outcome.pages is not None
            ]
            await store.add_deliveries(tx, wanted)
        for one in happened:
            if one.outcome.event == "page.exhausted":
                page = one.outcome.page
                metrics.PAGES_EXHAUSTED.inc()
                log.error("nobody answers", page=page.id, ticket=page.ticket, customer=page.customer)
        if wanted:
            self._sent()
        return len(due)


class Sender:
    """Calls contacts: the intent is stored before the call, the result after it."""

    def __init__(
        self,
        database: Database,
        directory: Follower,
        channels: Mapping[str, Channel],
        clock: Clock,
        signer: Signer,
        *,
        public_url: Callable[[], str],
        call_seconds: float,
        attempts: int,
        calls: int,
        link_days: float,
        escalate: Callable[[], None],
    ) -> None:
        """`escalate` is called when a person could not be reached at all."""
        self._database = database
        self._directory = directory
        self._channels = channels
        self._clock = clock
        self._signer = signer
        self._public_url = public_url
        self._lease = timedelta(seconds=call_seconds) + _LEASE_MARGIN
        self._attempts = attempts
        self._free = calls
        self._link = timedelta(days=link_days)
        self._escalate = escalate
        self._calls: asyncio.TaskGroup | None = None
        self.loop = DueLoop("sender", self._work)

    async def run(self) -> None:
        """Run as long as the service; a bug in a call ends it."""
        async with asyncio.TaskGroup() as calls:
            self._calls = calls
            await self.loop.run()

    async def _work(self) -> int:
        revision = self._directory.current
        if revision is None or self._free == 0:
            return 0
        async with self._database.transaction() as tx:
            now = self._clock.now()
            claimed = await store.claim(tx, now, self._free, self._lease)
            notices = [(delivery, uuid7(), self._notice(delivery, revision.directory)) for delivery in claimed]
            await store.add_intents(
                tx,
                [
                    store.Intent(attempt, d.id, d.page.id, notice.contact.channel, notice.contact.address)
                    for d, attempt, notice in notices
                    if notice is not None
                ],
                now,
            )
        assert self._calls is not None
        for delivery, attempt, notice in notices:
            self._free -= 1
            self._calls.create_task(self._call(delivery, attempt, notice))
        return len(claimed)

    def _notice(self, delivery: store.Delivery, directory: Directory) -> Notice | None:
        person = directory.people.get(delivery.person)
        if person is None or delivery.contact >= len(person.contacts):
            return None
        now = self._clock.now()
        facts = {"page": str(delivery.page.id), "person": person.id}
        token = self._signer.sign("acknowledge", facts, expires=now + self._link)
        return Notice(
            key=str(delivery.id),
            page=delivery.page,
            person=person,
            contact=person.contacts[delivery.contact],
            directory=directory,
            level=delivery.level,
            acknowledge_url=f"{self._public_url()}/a/{token}",
            at=now,
        )

    async def _call(self, delivery: store.Delivery, attempt: UUID, notice: Notice | None) -> None:
        try:
            with tracing(delivery.traceparent):
                result = await self._send(notice)
                await self._finish(delivery, attempt, notice, result)
        except Transient as error:
            # The lease brings the delivery back, with the same key.
            log.warning("result not stored", delivery=delivery.id, why=str(error))
        finally:
            self._free += 1
            self.loop.wake()

    async def _send(self, notice: Notice | None) -> Result:
        if notice is None:
            return Result("permanent", "the person has no further contact")
        channel = self._channels.get(notice.contact.channel)
        if channel is None:
            return Result("permanent", f"there is no channel {notice.contact.channel!r}")
        try:
            return await channel.send(notice)
        except Exception as error:  # noqa: BLE001
            # A bug that one contact brings out must not end paging for everybody, again after every restart: it is
            # told as loudly as a crash, and the next contact or person is paged.
            log.error("channel failed", failure=error, channel=notice.contact.channel, person=notice.person.id)
            return Result("permanent", f"our fault: {type(error).__name__}")

    async def _finish(self, delivery: store.Delivery, attempt: UUID, notice: Notice | None, result: Result) -> None:
        now = self._clock.now()
        channel = "none" if notice is None else notice.contact.channel
        gave_up = False
        async with self._database.transaction() as tx:
            if notice is not None:
                await store.finish_attempt(
                    tx, attempt, result=result.kind, receipt=result.receipt, detail=result.detail, now=now
                )
            kept = await store.one_locked(tx, delivery.page.id)
            assert kept is not None
            if result.kind == "delivered":
                first = kept.page.sent_at is None
                await store.finish_delivery(tx, delivery.id, "delivered", now)
                await save(tx, [Happened(delivered(kept.page, now), kept.traceparent)], now)
                if first and kept.page.caused_at is not None:
                    metrics.FEEDBACK_TO_PAGE.observe(max(0.0, (now - kept.page.caused_at).total_seconds()))
            elif result.kind != "permanent" and delivery.attempt < self._attempts:
                wait = max(_RETRY.delay(delivery.attempt), result.retry_after or 0)
                await store.finish_delivery(tx, delivery.id, "pending", now + timedelta(seconds=min(wait, 60)))
            elif await store.finish_delivery(tx, delivery.id, "failed", now):
                if notice is not None and delivery.contact + 1 < len(notice.person.contacts):
                    await store.next_contact(tx, delivery, now)
                else:
                    page = undeliverable(kept.page, delivery.turn, now)
                    gave_up = page is not None
                    if page is not None:
                        await store.save(tx, [store.Kept(page, kept.traceparent)])
        metrics.PAGE_ATTEMPTS.labels(channel, result.kind).inc()
        say = log.info if result.kind == "delivered" else log.warning
        say(f"page {result.kind}", page=delivery.page.id, person=delivery.person, channel=channel, detail=result.detail)
        if gave_up:
            self._escalate()
