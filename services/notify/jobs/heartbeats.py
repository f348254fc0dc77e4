"""Pages when a source of feedback has fallen silent: no answers are no good news."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from services.notify.domain.chain import stand_in
from services.notify.domain.page import OPENED, Outcome, Page, resolve, start
from services.notify.ledger import PageChange, save
from services.notify.store import heartbeats, pages
from services.notify.store.heartbeats import Heartbeat
from shared.database.pool import Connection
from shared.directory.model import Directory
from shared.runtime import metrics
from shared.runtime.due import DueLoop
from shared.runtime.quarantine import judging
from shared.runtime.runtime import Runtime
from shared.wire.events import TicketV1

_AT_ONCE = 100
_NAMESPACE = UUID("5b7a3f0e-6f0c-5d0b-9a51-8f4b7f6f2c11")


class Heartbeats:
    """Looks for sources that are silent for too long."""

    def __init__(self, runtime: Runtime, escalate: Callable[[], None]) -> None:
        """`escalate` is called when a page is due."""
        self._database = runtime.database
        self._directory = runtime.directory
        self._clock = runtime.clock
        self._escalate = escalate
        self.loop = DueLoop("notify", "heartbeats", self._work, runtime.quarantine, at_once=_AT_ONCE, poll=1)

    async def plan(self, tx: Connection, directory: Directory) -> None:
        """Look after the sources that a new directory lists; one that is new has its time until the first sign."""
        now = self._clock.now()
        due = {name: now + timedelta(seconds=beat.every) for name, beat in directory.heartbeats.items()}
        await end_pages(tx, await heartbeats.plan(tx, due), now)

    async def _work(self, limit: int) -> int:
        revision = self._directory.current
        if revision is None:
            return 0
        now = self._clock.now()
        async with self._database.transaction() as tx:
            silent = await heartbeats.due(tx, now, limit)
            with judging(heartbeats.QUEUE, [one.name for one in silent]):
                pages_of = [(one.name, _page(one, revision.directory, now)) for one in silent]
                started = [(name, page) for name, page in pages_of if page is not None]
                await save(tx, [PageChange(Outcome(page, None, why=OPENED), None) for _, page in started], now)
                await heartbeats.silent(tx, [(name, page.id) for name, page in started])
        for _, page in started:
            metrics.PAGES.labels(page.severity).inc()
        if started:
            self._escalate()
        return len(started)


async def end_pages(tx: Connection, over: list[UUID], now: datetime) -> None:
    """Stop paging for silences that are over."""
    ended = [
        PageChange(outcome, kept.traceparent)
        for kept in (await pages.some_locked(tx, over)).values()
        if (outcome := resolve(kept.page)) is not None
    ]
    await save(tx, ended, now)


def _page(silent: Heartbeat, directory: Directory, now: datetime) -> Page | None:
    """Return the page of a silence: as if it were a ticket's, so that it is paged like any other."""
    settings = directory.heartbeats.get(silent.name)
    customer = None if settings is None else stand_in(directory, settings.customer)
    if settings is None or customer is None:
        return None
    last = "never" if silent.beaten_at is None else f"{silent.beaten_at:%Y-%m-%d %H:%M} UTC"
    ticket = TicketV1(
        id=uuid5(_NAMESPACE, f"{silent.name} {silent.due_at.isoformat()}"),
        number=0,
        customer=customer.id,
        touchpoint=None,
        title=f"{silent.name} is silent",
        severity=settings.severity,
        state="open",
        assignee=None,
        alert=None,
        dedup_key=f"{customer.id}/heartbeat/{silent.name}",
        opened_at=now,
        version=1,
        summary=f"no sign of life from {silent.name}, the last one: {last}",
    )
    return start(ticket, directory, customer, now)
