"""What time alone does to tickets: their clocks warn and run out, what waits is told, and what is too old goes."""

from __future__ import annotations

from datetime import timedelta

from services.ticketing.ledger import Ledger, TicketChange, measure_breaches
from services.ticketing.store import tickets, webhooks
from shared.database.pool import Database
from shared.directory.follower import Follower
from shared.runtime.clock import Clock
from shared.runtime.due import DueLoop
from shared.runtime.logs import Log
from shared.runtime.quarantine import Quarantine, judging

log = Log("ticketing")

_AT_ONCE = 200
_LOG_KEPT = timedelta(days=30)
"""The log of webhooks."""


class SlaTimer:
    """Looks at tickets whose clocks are due."""

    def __init__(
        self, database: Database, directory: Follower, clock: Clock, ledger: Ledger, quarantine: Quarantine
    ) -> None:
        self._database = database
        self._directory = directory
        self._clock = clock
        self._ledger = ledger
        self.loop = DueLoop("ticketing", "clocks", self._work, quarantine, at_once=_AT_ONCE)
        self.news = DueLoop("ticketing", "news", self._tell, quarantine, at_once=_AT_ONCE)

    async def _work(self, limit: int) -> int:
        if self._directory.current is None:
            return 0
        now = self._clock.now()
        async with self._database.transaction() as tx:
            due = await tickets.due_clocks(tx, now, limit)
            with judging(tickets.CLOCKS, [ticket.id for ticket in due]):
                changes = [TicketChange(outcome, None) for ticket in due if (outcome := self._ledger.looked(ticket))]
                await self._ledger.save(tx, changes, now)
                changed = {one.outcome.ticket.id for one in changes}
                unchanged = [ticket for ticket in due if ticket.id not in changed]
                await tickets.look_again(tx, {ticket.id: self._ledger.next_look(ticket) for ticket in unchanged})
        if changes:
            measure_breaches(changes)
            self._ledger.wake()
        return len(changes)

    async def _tell(self, limit: int) -> int:
        """Tell of evidence that has waited to be told together."""
        if self._directory.current is None:
            return 0
        now = self._clock.now()
        async with self._database.transaction() as tx:
            waiting = await tickets.to_tell(tx, now, limit)
            with judging(tickets.NEWS, [ticket.id for ticket in waiting]):
                await self._ledger.tell_later(tx, waiting, now)
        if waiting:
            self._ledger.wake()
        return len(waiting)

    async def forget(self) -> None:
        """Delete what is older than the directory keeps, some at a time."""
        revision = self._directory.current
        if revision is None:
            return
        now = self._clock.now()
        async with self._database.transaction() as tx:
            dropped = await tickets.drop(tx, now - timedelta(seconds=revision.directory.retention), 1_000)
            await webhooks.forget(tx, now - _LOG_KEPT)
        if dropped:
            log.info("old tickets deleted", tickets=dropped)
