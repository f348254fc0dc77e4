"""A loop for each desk of the directory, of which one process at a time has the lease.

So the budget of calls is one place. A turn looks at what changed in the desk, then takes the steps of tickets that are
due.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from datetime import datetime, timedelta

from services.ticketing.desk_sync.loop import DeskLoop
from services.ticketing.desk_sync.ticket import TicketSync, shows_any
from services.ticketing.desks import MOST, Desk, DeskReport, Failed, Gone
from services.ticketing.desks.guarded import Guarded
from services.ticketing.desks.registry import build
from services.ticketing.domain.change_cursor import ChangeCursor
from services.ticketing.ledger import Ledger
from services.ticketing.store import desks
from services.ticketing.token_bucket import TokenBucket
from shared.directory.model import Desk as DeskSettings
from shared.directory.model import Directory
from shared.errors import Transient
from shared.http.client import Outbound
from shared.runtime import metrics
from shared.runtime.logs import Log
from shared.runtime.progress import Progress
from shared.runtime.runtime import Runtime
from shared.wire.ids import uuid7

log = Log("ticketing")

_LEASE = timedelta(seconds=30)
_RENEW = 5.0
_ROW_LEASE = timedelta(seconds=60)
_RECHECK = timedelta(hours=1)
_RECHECKED = 10
"""So many tickets that are gone, and open quiet ones, are looked at each time, whatever webhooks and searches show."""
_OVERLAP = timedelta(minutes=2)
"""Desks' clocks and searches lag: what changed lately is looked at again."""
_TICK = 0.5


class DeskSync:
    """Runs a loop for each desk of the directory."""

    def __init__(self, runtime: Runtime, ledger: Ledger, outbound: Outbound) -> None:
        self._database = runtime.database
        self._directory = runtime.directory
        self._clock = runtime.clock
        self._quarantine = runtime.quarantine
        self._outbound = outbound
        self._tickets = TicketSync(runtime, ledger)
        self._owner = uuid7()
        self._loops: dict[str, DeskLoop] = {}
        self._left_alone: Mapping[str, str] = {}
        """Desks that are left alone for now, and why."""
        self.progress = Progress("ticketing", "desks")

    @property
    def troubles(self) -> dict[str, str]:
        """Desks for which nothing is done now, and why."""
        late = {name: why for name, loop in self._loops.items() if (why := loop.due.progress.missing()) is not None}
        return {**late, **self._left_alone}

    def wake(self) -> None:
        """Something may be due."""
        for loop in self._loops.values():
            loop.due.wake()

    async def run(self) -> None:
        """Run as long as the service."""
        async with asyncio.TaskGroup() as group:
            while True:
                revision = self._directory.current
                wanted = {} if revision is None else dict(revision.directory.desks)
                for name, loop in list(self._loops.items()):
                    if wanted.get(name) != loop.settings:
                        assert loop.task is not None
                        loop.task.cancel()
                        del self._loops[name]
                        loop.due.progress.close()
                for name, settings in wanted.items():
                    if name not in self._loops:
                        loop = DeskLoop(name, settings, self._database, self._turn, self._quarantine)
                        self._loops[name] = loop
                        loop.task = group.create_task(loop.due.run())
                self.progress.made()
                await asyncio.sleep(_TICK)

    def driver(self, name: str, settings: DeskSettings) -> Desk:
        """Return a desk's driver. Raises Failed while a secret is missing."""
        loop = self._loops.get(name)
        if loop is None or loop.settings != settings:
            driver = build(name, settings, self._outbound, TokenBucket(settings.calls_per_minute), os.environ)
            return Guarded(name, driver)
        return loop.driver(self._outbound)

    async def take(self, name: str, reference: str, told: DeskReport) -> bool:
        """Take over what a desk that cannot be asked tells of its ticket; return whether it is one of ours."""
        return await self._tickets.take(name, reference, told)

    async def figures(self) -> None:
        """Measure what waits, and which desks are left alone."""
        async with self._database.transaction() as tx:
            waiting = await desks.waiting(tx)
            healths = await desks.healths(tx)
        now = self._clock.now()
        self._left_alone = {
            name: f"left alone until {health.closed_until:%H:%M} UTC: {health.error}"
            for name, health in healths.items()
            if name in self._loops and health.closed_until is not None and health.closed_until > now
        }
        for name in self._loops:
            metrics.DESK_WAITING.labels(name).set(waiting.get(name, 0))
            metrics.DESK_OPEN.labels(name).set(name in self._left_alone)

    # ---- a turn of one desk

    async def _turn(self, loop: DeskLoop, limit: int) -> int:
        """Do some of what is due for a desk, so much at the most; return how many tickets."""
        revision = self._directory.current
        if revision is None:
            return 0
        now, begun = self._clock.now(), asyncio.get_running_loop().time()
        async with self._database.transaction() as tx:
            turn = await desks.lease(tx, loop.name, self._owner, now, _LEASE)
        if turn is None:
            return 0
        if loop.revision != revision.number:
            # At a start, too: what a person had to mend may be mended.
            async with self._database.transaction() as tx:
                await desks.try_again(tx, loop.name, now)
            loop.revision = revision.number
        loop.circuit.begin(turn)
        loop.lost_at = begun + _LEASE.total_seconds()
        if turn.closed_until is not None and turn.closed_until > now:
            return 0
        try:
            desk = loop.driver(self._outbound)
        except Failed as failed:
            await loop.circuit.failed(failed, now)
            return 0
        work = asyncio.create_task(self._work(loop, desk, turn, limit, revision.directory))
        keeping = asyncio.create_task(self._keep(loop))
        try:
            await asyncio.wait({work, keeping}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else 0
        finally:
            for task in (work, keeping):
                task.cancel()
            await asyncio.wait({work, keeping})

    async def _keep(self, loop: DeskLoop) -> None:
        """Stay the one that works for the desk, however slow it is; return when that was lost."""
        while asyncio.get_running_loop().time() < loop.lost_at:
            await asyncio.sleep(_RENEW)
            begun = asyncio.get_running_loop().time()
            try:
                async with self._database.transaction() as tx:
                    if await desks.lease(tx, loop.name, self._owner, self._clock.now(), _LEASE) is None:
                        break
                loop.lost_at = begun + _LEASE.total_seconds()
            except Transient as error:
                log.warning("lease not renewed", desk=loop.name, why=str(error))
        log.warning("another process works for the desk", desk=loop.name)

    async def _work(self, loop: DeskLoop, desk: Desk, turn: desks.DeskState, limit: int, directory: Directory) -> int:
        now = self._clock.now()
        careful = turn.closed_until is not None  # one call shows whether it is well again
        if now >= loop.poll_at and not careful:
            await self._poll(loop, desk, turn.polled_until, now)
        if now >= loop.recheck_at and not careful:
            loop.recheck_at = now + _RECHECK
            async with self._database.transaction() as tx:
                await desks.look_again(tx, loop.name, now, _RECHECKED, now - _RECHECK)
        async with self._database.transaction() as tx:
            claimed = await desks.claim(tx, loop.name, now, _ROW_LEASE, 1 if careful else limit)
        if careful and not claimed:
            await self._poll(loop, desk, turn.polled_until, now)
        async with asyncio.TaskGroup() as group:
            for mirror in claimed:
                group.create_task(self._tickets.sync(loop, desk, mirror, directory))
        return len(claimed)

    async def _poll(self, loop: DeskLoop, desk: Desk, since: datetime | None, now: datetime) -> None:
        """Look at what changed in the desk, of our tickets, since the last look."""
        loop.poll_at = now + loop.poll
        if since is None:
            async with self._database.transaction() as tx:
                await desks.polled(tx, loop.name, now)  # nothing of ours was there before
            return
        cursor = loop.cursor
        if cursor is None or cursor.since != since - _OVERLAP:
            cursor = ChangeCursor(since - _OVERLAP)
        loop.cursor = None  # kept again when what it showed is stored
        try:
            changed = await desk.changed(cursor.since, cursor.skip)
            if not changed and not await self._may_believe(loop, desk):
                return
        except (Failed, Gone) as error:
            await loop.circuit.failed(error if isinstance(error, Failed) else Failed("permanent", str(error)), now)
            return
        async with self._database.transaction() as tx:
            known = await desks.seen(tx, loop.name, [remote.reference for remote in changed])
            ours = [remote for remote in changed if remote.reference in known]
            news = [
                one.reference
                for one in ours
                if one.changed_at is None or known[one.reference] != (one.changed_at, False)
            ]
            await desks.heard(tx, loop.name, news, now)
            await desks.look_at_followed(tx, loop.name, now, _RECHECKED)
            begin = cursor.look([(one.reference, one.changed_at) for one in changed], MOST, now)
            if begin is not None:
                await desks.polled(tx, loop.name, begin if cursor.is_over else begin + _OVERLAP)
        loop.cursor = cursor
        if not cursor.is_over:
            loop.poll_at = now  # there is more, at once
        if desk.readable:  # of another one, nothing was asked
            await loop.circuit.well()

    async def _may_believe(self, loop: DeskLoop, desk: Desk) -> bool:
        """Return whether a desk that shows nothing new has nothing new. Raises Failed if our account is nobody.

        Else what changes while the account sees nothing would be missed for good.
        """
        await desk.who_am_i()
        return not loop.circuit.is_blind or await shows_any(self._database, desk, loop.name) is not False
