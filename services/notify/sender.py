"""Calls contacts: the intent is stored before the call, the result after it, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.notify.channels import REACHED, Channel, Notice, Result
from services.notify.contact_selection import Reach
from services.notify.domain.hold import silenced_until
from services.notify.domain.page import UNREACHED, delivered
from services.notify.domain.rota import quiet_until
from services.notify.ledger import PageChange, call_next, save
from services.notify.notice_writer import NoticeWriter
from services.notify.store import audit, contacts, deliveries, notices, pages, rota
from services.notify.store.deliveries import Delivery, DeliveryState, Finished, Intent
from services.notify.store.notices import StoredNotice
from services.notify.store.pages import StoredPage
from shared.database.pool import Connection
from shared.directory.model import Directory
from shared.errors import Transient
from shared.runtime import metrics
from shared.runtime.due import DueLoop
from shared.runtime.logs import Log, tracing
from shared.runtime.quarantine import Undecidable, judging
from shared.runtime.retry import Backoff
from shared.runtime.runtime import Runtime
from shared.wire.ids import uuid7
from shared.wire.signing import Signer

log = Log("notify")

_LEASE_MARGIN = timedelta(seconds=5)
_RETRY = Backoff(2, 10)
_LATER = Backoff(10, 21_600)
_LETTERS = 20
"""Attempts at what is no page, as at letters."""
_STORE_AGAIN = Backoff(0.1, 2)
_PATIENCE = 60.0
"""Longest that a page waits because a channel asks for it, in seconds."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One attempt under way."""

    attempt: UUID
    delivery: Delivery
    notice: Notice | None
    """None: there is nobody to call, or nothing to say any more."""
    kept: StoredPage | None
    """The page, as it was then."""


@dataclass(frozen=True, slots=True)
class _Called:
    """One that has ended."""

    call: _Call
    result: Result


@dataclass(frozen=True, slots=True)
class SenderLimits:
    """How much, how often and how long contacts are called."""

    call_seconds: float
    """A channel may take so long to answer."""
    attempts: int
    """At a contact before the person's next contact is tried."""
    calls: int
    """Under way at once."""
    link_days: float
    """An acknowledge link works so long."""


class Sender:
    """Calls the contacts of deliveries that are due."""

    def __init__(
        self,
        runtime: Runtime,
        channels: Mapping[str, Channel],
        signer: Signer,
        limits: SenderLimits,
        *,
        public_url: Callable[[], str],
        escalate: Callable[[], None],
    ) -> None:
        """`escalate` is called when a person could not be reached at all."""
        self._database = runtime.database
        self._directory = runtime.directory
        self._channels = channels
        self._clock = runtime.clock
        self._writer = NoticeWriter(signer, public_url, timedelta(days=limits.link_days))
        self._lease = timedelta(seconds=limits.call_seconds) + _LEASE_MARGIN
        self._attempts = limits.attempts
        self._free = limits.calls
        self._escalate = escalate
        self._calls: asyncio.TaskGroup | None = None
        self._called: list[_Called] = []
        self._some_called = asyncio.Event()
        self._quarantine = runtime.quarantine
        self.loop = DueLoop("notify", "sender", self._work, runtime.quarantine, at_once=limits.calls)

    async def run(self) -> None:
        """Run as long as the service."""
        async with asyncio.TaskGroup() as calls:
            self._calls = calls
            calls.create_task(self._store())
            await self.loop.run()

    async def _work(self, limit: int) -> int:
        revision, free = self._directory.current, min(limit, self._free)
        if revision is None or free == 0:
            return 0
        async with self._database.transaction() as tx:
            now = self._clock.now()
            claimed = await deliveries.claim(tx, now, free, self._lease)
            if not claimed:
                return 0
            with judging(deliveries.QUEUE, [delivery.id for delivery in claimed]):
                calls = await self._prepared(tx, claimed, revision.directory, now)
                await deliveries.add_intents(tx, [_intent(call, call.notice) for call in calls if call.notice], now)
        assert self._calls is not None
        for call in calls:
            self._free -= 1
            self._calls.create_task(self._call(call))
        return len(claimed)

    async def _prepared(
        self, tx: Connection, claimed: list[Delivery], directory: Directory, now: datetime
    ) -> list[_Call]:
        of_pages = sorted({d.page for d in claimed if d.page is not None})
        known = await pages.kept_of(tx, of_pages)
        followers = await pages.followers(tx, [id_ for id_, kept in known.items() if kept.page.storm])
        told = await notices.some(tx, sorted({d.notice for d in claimed if d.notice is not None}))
        stopped = await contacts.stopped(tx)
        silences = await rota.silences(tx, now) if of_pages else []
        calls: list[_Call] = []
        held: list[tuple[UUID, datetime, str]] = []
        for delivery in claimed:
            kept = None if delivery.page is None else known[delivery.page]
            if kept is not None:
                until = silenced_until(kept.page, silences, now)
                if until is not None:
                    held.append((delivery.id, until, "silence"))
                    continue
                notice = self._writer.of_page(delivery, kept, followers.get(kept.page.id, 0), directory, now)
            else:
                assert delivery.notice is not None
                notice = self._writer.of_notice(delivery, told[delivery.notice], directory, now)
                until = None if notice is None else _sleeps_until(notice, told[delivery.notice])
                if until is not None:
                    held.append((delivery.id, until, "quiet hours"))
                    continue
            if notice is not None and (notice.person.id, notice.contact.channel, notice.contact.address) in stopped:
                notice = None  # it was queued before the person answered STOP
            calls.append(_Call(uuid7(), delivery, notice, kept))
        await deliveries.hold(tx, held)
        return calls

    async def _call(self, call: _Call) -> None:
        result = Result("unknown", "broken off")
        try:
            with tracing(None if call.kept is None else call.kept.traceparent):
                result = await self._send(call.notice)
        finally:
            self._called.append(_Called(call, result))
            self._some_called.set()

    async def _send(self, notice: Notice | None) -> Result:
        if notice is None:
            return Result("permanent", "the person has no such contact, or it wants no messages")
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

    # ---- what came of it

    async def _store(self) -> None:
        """Store results as they come, all that have gathered in one transaction."""
        failures = 0
        while True:
            await self._some_called.wait()
            self._some_called.clear()
            batch, self._called = self._called, []
            waiting = list(batch)
            begun = asyncio.get_running_loop().time()
            while True:
                try:
                    await self._stored(waiting)
                    failures = 0
                except Transient as error:
                    failures += 1
                    if asyncio.get_running_loop().time() - begun < self._lease.total_seconds():
                        await asyncio.sleep(_STORE_AGAIN.delay(failures))
                        continue
                    # The lease brings the deliveries back, with the same keys.
                    log.warning("results not stored", calls=len(waiting), why=str(error))
                break
            self._free += len(batch)
            self.loop.wake()

    async def _stored(self, waiting: list[_Called]) -> None:
        """Store results and take them from those that wait. Raises Transient.

        One that cannot be stored is set aside, and its page goes on to the next person by its own timer.
        """
        try:
            with judging(deliveries.QUEUE, [one.call.delivery.id for one in waiting]):
                await self._store_all(waiting)
            waiting.clear()
        except Undecidable:
            while waiting:
                async with self._quarantine.containing(deliveries.QUEUE, waiting[-1].call.delivery.id):
                    await self._store_all(waiting[-1:])
                waiting.pop()

    async def _store_all(self, batch: list[_Called]) -> None:
        revision = self._directory.current
        assert revision is not None
        now = self._clock.now()
        async with self._database.transaction() as tx:
            ids = sorted({one.call.delivery.page for one in batch if one.call.delivery.page is not None})
            known = await pages.some_locked(tx, ids)
            await deliveries.finish_attempts(
                tx,
                [
                    Finished(one.call.attempt, one.result.kind, one.result.receipt, one.result.detail)
                    for one in batch
                    if one.call.notice is not None
                ],
                now,
            )
            ended = {one.call.delivery.id: self._ended(one, now) for one in batch}
            changed = await deliveries.finish(tx, [(id_, *end) for id_, end in ended.items()])
            failed = [
                one.call.delivery
                for one in batch
                if ended[one.call.delivery.id][0] == "failed" and one.call.delivery.id in changed
            ]
            reached, first = _delivered(batch, known, now)
            current = {
                **known,
                **{one.outcome.page.id: StoredPage(one.outcome.page, one.traceparent) for one in reached},
            }
            reach = Reach(revision.directory, self._channels, await contacts.stopped(tx) if failed else set())
            happened = [*reached, *await call_next(tx, failed, current, reach, now)]
            await save(tx, happened, now)
            await audit.add(tx, [_line(one, now) for one in batch if one.call.delivery.page is not None])
        for one in batch:
            self._tell(one)
        for page in first:
            if page.page.caused_at is not None:
                metrics.FEEDBACK_TO_PAGE.observe(max(0.0, (now - page.page.caused_at).total_seconds()))
        if any(one.outcome.why == UNREACHED for one in happened):
            self._escalate()

    def _ended(self, one: _Called, now: datetime) -> tuple[DeliveryState, datetime]:
        """Return where a delivery stands after a call, and when it is tried again."""
        if one.result.kind in REACHED:
            return "delivered", now
        if one.call.delivery.page is None and one.result.kind != "permanent":
            # Nobody waits for it, and nothing else tells it: it goes on for days.
            attempt = one.call.delivery.attempt
            wait = max(_LATER.delay(attempt), one.result.retry_after or 0)
            return ("pending", now + timedelta(seconds=wait)) if attempt < _LETTERS else ("failed", now)
        if one.result.kind != "permanent":
            wait = max(_RETRY.delay(one.call.delivery.attempt), one.result.retry_after or 0)
            at = _within_step(one, now, now + timedelta(seconds=min(wait, _PATIENCE)))
            # Given up for the person's next contact; where there is none, it goes on then.
            return ("pending" if one.call.delivery.attempt < self._attempts else "failed"), at
        return "failed", now

    def _tell(self, one: _Called) -> None:
        delivery, notice, result = one.call.delivery, one.call.notice, one.result
        channel = "none" if notice is None else notice.contact.channel
        metrics.PAGE_ATTEMPTS.labels(channel, result.kind).inc()
        say = log.info if result.kind in REACHED else log.warning
        kind = "page" if notice is None else notice.kind
        facts = {"page": delivery.page, "person": delivery.person, "channel": channel, "detail": result.detail}
        with tracing(None if one.call.kept is None else one.call.kept.traceparent):
            say(f"{kind} {result.kind}", **facts)


def _delivered(
    batch: Sequence[_Called], known: Mapping[UUID, StoredPage], now: datetime
) -> tuple[list[PageChange], list[StoredPage]]:
    """Return what becomes of the pages that reached somebody, and those of them that did for the first time."""
    current = dict(known)
    happened: list[PageChange] = []
    first: list[StoredPage] = []
    for one in batch:
        id_ = one.call.delivery.page
        if id_ is None or one.result.kind not in REACHED:
            continue
        kept = current[id_]
        if kept.page.sent_at is None:
            first.append(kept)
        outcome = delivered(kept.page, now)
        current[id_] = StoredPage(outcome.page, kept.traceparent)
        happened.append(PageChange(outcome, kept.traceparent))
    return happened, first


_ASKED_FOR = frozenset({"verification", "link"})
"""What somebody waits for at this moment."""


def _sleeps_until(notice: Notice, told: StoredNotice) -> datetime | None:
    """Return until when a person sleeps whom something that is no page would reach late; None: it is told now.

    What was made within their quiet hours was meant for then, such as a digest at the hour that they chose.
    """
    if told.kind in _ASKED_FOR or quiet_until(notice.person, told.made_at) is not None:
        return None
    return quiet_until(notice.person, notice.at)


def _within_step(one: _Called, now: datetime, at: datetime) -> datetime:
    """Return when a page is tried again at a contact: at the latest when its step ends.

    _PATIENCE alone does not see to it, since a step may be as short as a second; later the next person is paged anyway.
    """
    page = None if one.call.kept is None else one.call.kept.page
    if page is None or page.turn != one.call.delivery.turn or page.due_at is None or page.due_at <= now:
        return at
    return min(at, page.due_at)


def _intent(call: _Call, notice: Notice) -> Intent:
    return Intent(call.attempt, call.delivery.id, call.delivery.page, notice.contact.channel, notice.contact.address)


def _line(one: _Called, now: datetime) -> audit.Line:
    notice, kept = one.call.notice, one.call.kept
    return audit.line(
        now,
        audit.SYSTEM,
        f"attempt {one.result.kind}",
        page=one.call.delivery.page,
        customer=None if kept is None else kept.page.customer,
        person=one.call.delivery.person,
        channel=None if notice is None else notice.contact.channel,
        detail=one.result.detail,
        receipt=one.result.receipt,
    )
