"""A loop for each desk of the directory, of which one process at a time has the lease.

So the budget of calls is one place. A turn looks at what changed in the desk, then takes the steps of tickets that are
due.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from services.ticketing.desk_sync.circuit import Circuit
from services.ticketing.desk_sync.pull import Pull
from services.ticketing.desk_sync.push import Push, draft_of
from services.ticketing.desk_sync.step import Left, Step, Wanted, next_step
from services.ticketing.desks import MOST, Desk, Draft, Failed, Gone, Told
from services.ticketing.desks.api import SEES_NOTHING
from services.ticketing.desks.guarded import Guarded
from services.ticketing.desks.registry import build
from services.ticketing.domain.change_cursor import ChangeCursor
from services.ticketing.domain.ticket import entry
from services.ticketing.ledger import Ledger
from services.ticketing.store import desks, tickets
from services.ticketing.store.desks import Mirror
from services.ticketing.token_bucket import TokenBucket
from shared.database.pool import Database
from shared.directory.follower import Follower
from shared.directory.model import Desk as DeskSettings
from shared.directory.model import Directory
from shared.errors import Transient
from shared.http.client import LONGEST_WAIT, Outbound
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.due import DueLoop
from shared.runtime.logs import Log
from shared.runtime.progress import STALE_SECONDS, Progress
from shared.runtime.quarantine import Quarantine
from shared.runtime.retry import Backoff
from shared.wire.ids import uuid7

log = Log("ticketing")

_LEASE = timedelta(seconds=30)
_RENEW = 5.0
_CALL = 20.0
"""Seconds that a call to a desk can take: one that is made has ended before somebody else works for the desk."""
_ROW_LEASE = timedelta(seconds=60)
_AT_ONCE = 4
_RETRY = Backoff(2, 300)
_MISTAKE = timedelta(minutes=10)
"""What a person has to mend is tried again this often."""
_RECHECK = timedelta(hours=1)
_RECHECKED = 10
"""So many tickets that are gone, and open quiet ones, are looked at each time, whatever webhooks and searches show."""
_SIBLINGS = 3
_OVERLAP = timedelta(minutes=2)
"""Desks' clocks and searches lag: what changed lately is looked at again."""
_STEPS = 40
"""Steps of one ticket in one turn: another one's turn comes, whatever a desk makes of it."""
_CALLS: frozenset[Step] = frozenset({"read", "describe", "tell", "move"})
"""Steps that cannot be done without the desk: what else is done shows nothing of how it does."""
_TICK = 0.5
_PATIENCE = LONGEST_WAIT + STALE_SECONDS
"""Seconds that a turn can take between two calls: a desk may ask us to wait."""


class DeskSync:
    """Runs a loop for each desk of the directory."""

    def __init__(
        self,
        database: Database,
        directory: Follower,
        clock: Clock,
        ledger: Ledger,
        outbound: Outbound,
        quarantine: Quarantine,
    ) -> None:
        self._database = database
        self._directory = directory
        self._clock = clock
        self._outbound = outbound
        self._quarantine = quarantine
        self._push = Push(database, clock)
        self._pull = Pull(database, directory, clock, ledger)
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

    async def take(self, name: str, reference: str, told: Told) -> bool:
        """Take over what a desk that cannot be asked tells of its ticket; return whether it is one of ours."""
        return await self._pull.told(name, reference, told)

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
                group.create_task(self._one(loop, desk, mirror, directory))
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
        return not loop.circuit.is_blind or await self._shows_any(desk, loop.name) is not False

    # ---- one ticket

    async def _one(self, loop: DeskLoop, desk: Desk, mirror: Mirror, directory: Directory) -> None:
        """Bring one ticket and the desk to the same state; whatever goes wrong is this ticket's."""
        try:
            async with self._quarantine.containing(desks.QUEUE, mirror.ticket):
                await self._bring(loop, desk, mirror, directory)
        except Transient as error:
            log.warning("desk waits", desk=loop.name, why=str(error))  # the row falls due again

    async def _bring(self, loop: DeskLoop, desk: Desk, mirror: Mirror, directory: Directory) -> None:
        """Take one step after another, until nothing is left or something fails that is not one step's."""
        seen, claimed = False, mirror.due_at
        for _ in range(_STEPS):
            found = await self._look(loop, desk, mirror.ticket, directory)
            if found is None:
                return
            mirror, wanted, draft, left = found
            now = self._clock.now()
            step = next_step(mirror, wanted, left, now, seen=seen, rewrites=desk.rewrites)
            if step is None:
                await self._rest(mirror, wanted, now)
                return
            try:
                if step == "create":
                    if seen:
                        return  # it was tried in this turn
                    # Who has claimed the row since may be creating it.
                    asked = await self._push.create(desk, replace(mirror, due_at=claimed), wanted.ticket, draft)
                else:
                    await self._take_step(step, desk, mirror, wanted, draft, directory)
                    asked = step in _CALLS and (desk.readable or step != "read")
                if asked:
                    await loop.circuit.well()
            except Gone as gone:
                try:
                    await self._check_that_it_is_gone(desk, mirror, gone)
                except Failed as failed:
                    await self._failed(loop, desk, mirror, step, failed)
                else:
                    await self._gone(mirror, str(gone))
                return
            except Failed as failed:
                await self._failed(loop, desk, mirror, step, failed)
                if not failed.refusal or mirror.reference is None:
                    return
            if mirror.gone and step == "read":
                loop.recheck_at = now  # what hid one may have hidden others
            seen = seen or step in {"read", "create"}
        async with self._database.transaction() as tx:
            await desks.settle(tx, [mirror.ticket], self._clock.now())

    async def _look(
        self, loop: DeskLoop, desk: Desk, id_: UUID, directory: Directory
    ) -> tuple[Mirror, Wanted, Draft, Left] | None:
        """Return how a ticket stands here, and what its desk is known to have of it; None: nothing is to be done."""
        async with self._database.transaction() as tx:
            ticket = await tickets.one(tx, id_)
            mirror = await desks.one(tx, id_)
            if ticket is None or mirror is None:
                return None  # deleted meanwhile, and its row with it
            if ticket.customer not in directory.customers:
                await desks.rest(tx, id_, mirror.wanted, "the customer left the directory", self._clock.now())
                return None
            doubles = await desks.duplicates(tx, id_)
            lines = await desks.untold(tx, id_, mirror.line)
            former = await desks.formers(tx, id_)
        draft, wanted = draft_of(ticket, directory, loop.settings, desk, former)
        return mirror, wanted, draft, Left(bool(doubles), bool(lines))

    async def _take_step(
        self, step: Step, desk: Desk, mirror: Mirror, wanted: Wanted, draft: Draft, directory: Directory
    ) -> None:
        match step:
            case "follow up":
                await self._push.follow_up(mirror)
            case "read":
                await self._pull.read(desk, mirror, directory)
            case "read remarks":
                await self._pull.remarks(desk, mirror, wanted.ticket)
            case _:
                await self._push.do(step, desk, mirror, wanted, draft, directory)

    async def _rest(self, mirror: Mirror, wanted: Wanted, now: datetime) -> None:
        """Note that the desk has all of a version, unless something of it waits."""
        async with self._database.transaction() as tx:
            if mirror.reference is not None and not mirror.gone and (not mirror.held_until or mirror.held_until <= now):
                well: dict[str, Any] = {"attempts": 0, "error": None, "held_until": None, "refused": []}
                await desks.note(tx, mirror.ticket, now, pushed=wanted.ticket.version, **well)
            else:
                await desks.settle(tx, [mirror.ticket], now)

    # ---- what goes wrong

    async def _check_that_it_is_gone(self, desk: Desk, mirror: Mirror, gone: Gone) -> None:
        """Raise Failed unless our account is well: it is known, and is shown another ticket where there is one."""
        if await desk.find(mirror.ticket):
            raise Failed("temporary", f"the desk does not find what it has: {gone}") from None
        await desk.who_am_i()
        if await self._shows_any(desk, mirror.desk, mirror.ticket) is False:
            raise Failed("blind", f"{SEES_NOTHING}: neither this ticket nor others of ours: {gone}")

    async def _shows_any(self, desk: Desk, name: str, but: UUID | None = None) -> bool | None:
        """Return whether the desk shows our account another ticket of ours; None: there is none."""
        async with self._database.transaction() as tx:
            siblings = await desks.siblings(tx, name, but, _SIBLINGS)
        for reference in siblings:
            with suppress(Gone):
                await desk.read(reference)
                return True
        return False if siblings else None

    async def _gone(self, mirror: Mirror, why: str) -> None:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            if not mirror.gone:
                line = entry(mirror.ticket, now, f"desk:{mirror.desk}", "deleted in the desk", text=mirror.label or "")
                await tickets.append(tx, [line])
            erasures = await desks.erasing(tx, mirror.ticket)
            await desks.erased(tx, mirror.ticket, erasures, "")
            error = f"deleted in the desk: {why}"[:1000]
            await desks.note(tx, mirror.ticket, now, gone=True, heard=False, error=error)

    async def _failed(self, loop: DeskLoop, desk: Desk, mirror: Mirror, step: Step, failed: Failed) -> None:
        """Store what failed of a ticket: a step that is refused waits alone, else all of it waits."""
        now = self._clock.now()
        creating = mirror.reference is None
        # What came of an earlier create stays unknown until the desk has been asked for our id.
        unknown = creating and (failed.kind == "unknown" or mirror.asked_at is not None)
        if failed.kind in {"permanent", "blind"}:
            wait = _MISTAKE
        elif unknown and failed.kind == "unknown":
            wait = timedelta(seconds=desk.settles)
        else:
            wait = timedelta(seconds=max(_RETRY.delay(mirror.attempts + 1), failed.retry_after or 0))
        alone = failed.refusal and failed.kind == "permanent"
        facts = {
            "attempts": mirror.attempts + 1,
            "error": failed.detail[:1000],
            "held_until": now + wait,
            "refused": sorted({*mirror.refused, step}) if alone else [],
            **({} if unknown else {"asked_at": None}),
        }
        async with self._database.transaction() as tx:
            await desks.note(tx, mirror.ticket, now, **facts)
        if failed.refusal:
            log.warning("desk refused", desk=loop.name, ticket=mirror.ticket, step=step, why=failed.detail)
        else:
            await loop.circuit.failed(failed, now)


class DeskLoop:
    """One desk's loop, in the process that works for it."""

    def __init__(
        self,
        name: str,
        settings: DeskSettings,
        database: Database,
        turn: Callable[[DeskLoop, int], Awaitable[int]],
        quarantine: Quarantine,
    ) -> None:
        self.name = name
        self.settings = settings
        self.poll = timedelta(seconds=settings.poll)
        self.poll_at = datetime.min.replace(tzinfo=UTC)
        self.budget = TokenBucket(settings.calls_per_minute)
        self.circuit = Circuit(database, name, self.budget)
        self.lost_at = 0.0
        """When somebody else may work for the desk unless we say before that we do, by the loop's own clock."""
        self.recheck_at = self.poll_at
        self.revision: int | None = None
        """Of the directory, for which what failed was tried again."""
        self.cursor: ChangeCursor | None = None
        self.due = DueLoop(
            "ticketing", f"desk {name}", partial(turn, self), quarantine, at_once=_AT_ONCE, within=_PATIENCE
        )
        self.task: asyncio.Task[None] | None = None
        self._desk: Desk | None = None

    def driver(self, outbound: Outbound) -> Desk:
        """Return the desk's driver. Raises Failed while a secret is missing."""
        if self._desk is None:
            driver = build(self.name, self.settings, outbound, self._may_call, os.environ)
            self._desk = Guarded(self.name, driver)
        return self._desk

    async def _may_call(self) -> None:
        """Wait until one more call may be made. Raises Transient if it could end after we work for the desk.

        A process that was stopped for a while must not go on and create what the next one has created meanwhile.
        """
        await self.budget()
        self.due.progress.made()
        if asyncio.get_running_loop().time() + _CALL > self.lost_at:
            raise Transient("the desk is not ours for long enough to call it")
