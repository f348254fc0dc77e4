"""Keeps tickets and service desks alike: what a desk lacks is due, and what changed there is read back.

One process at a time works for a desk, so that the budget of calls is one place. The intent to create is stored before
the call; when what came of it is not known, the desk is asked for our id after its search has settled.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import msgspec

from services.ticketing.desks import MOST, Desk, Draft, Failed, Gone, Remark, Remote, Told
from services.ticketing.desks.api import SEES_NOTHING, quotes
from services.ticketing.desks.guarded import Guarded
from services.ticketing.desks.registry import build
from services.ticketing.domain.crowd import Crowd
from services.ticketing.domain.story import tell
from services.ticketing.domain.ticket import Outcome, entry, take_desk
from services.ticketing.ledger import Happened, Ledger, measure_breaches
from services.ticketing.pace import Pace
from services.ticketing.store import desks, tickets
from services.ticketing.store.desks import Mirror
from shared import metrics
from shared.clock import Clock
from shared.db import Connection, Database
from shared.directory.follower import Follower
from shared.directory.model import Desk as DeskSettings
from shared.directory.model import Directory
from shared.due import DueLoop
from shared.errors import Transient
from shared.events import TicketV1
from shared.http import LONGEST_WAIT, Outbound
from shared.ids import uuid7
from shared.logs import Log
from shared.progress import STALE_SECONDS, Progress
from shared.quarantine import Quarantine
from shared.retry import Backoff

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
_TROUBLE = 5
"""Failures in a row after which a desk is left alone."""
_PAUSE = Backoff(15, 600)
_RECHECK = timedelta(hours=1)
_RECHECKED = 10
"""So many tickets that are gone are looked at again each time, whatever the desk's webhooks and searches show."""
_SIBLINGS = 3
_TICK_OF_DESKS = timedelta(seconds=2)
"""Desks that count whole seconds have counted on after this time."""
_OVERLAP = timedelta(minutes=2)
"""Desks' clocks and searches lag: what changed lately is looked at again."""
_TICK = 0.5
_PATIENCE = LONGEST_WAIT + STALE_SECONDS
"""Seconds that a turn can take between two calls: a desk may ask us to wait."""

_REMARK = 4_000
"""Characters of a desk's comment that are kept."""
_MARK = "Fiilis, ticket {number}, entry {line}"
_MARKED = re.compile(r"Fiilis, ticket ([0-9]+), entry [0-9]+\Z")
"""Ends each remark that we write, so that it is not read back as somebody's."""


class Synchronizer:
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
        self._ledger = ledger
        self._outbound = outbound
        self._quarantine = quarantine
        self._owner = uuid7()
        self._loops: dict[str, _Loop] = {}
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
                        loop = self._loops[name] = _Loop(name, settings, self._turn, self._quarantine)
                        loop.task = group.create_task(loop.due.run())
                self.progress.made()
                await asyncio.sleep(_TICK)

    def driver(self, name: str, settings: DeskSettings) -> Desk:
        """Return a desk's driver. Raises Failed while a secret is missing."""
        loop = self._loops.get(name)
        if loop is None or loop.settings != settings:
            driver = build(name, settings, self._outbound, Pace(settings.calls_per_minute), os.environ)
            return Guarded(name, driver)
        return loop.driver(self._outbound)

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

    # ---- one desk

    async def _turn(self, loop: _Loop, limit: int) -> int:
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
        loop.failures, loop.error = turn.failures, turn.error
        loop.lost_at = begun + _LEASE.total_seconds()
        if turn.closed_until is not None and turn.closed_until > now:
            return 0
        try:
            desk = loop.driver(self._outbound)
        except Failed as failed:
            await self._ailing(loop, failed, now)
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

    async def _keep(self, loop: _Loop) -> None:
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

    async def _work(self, loop: _Loop, desk: Desk, turn: desks.Turn, limit: int, directory: Directory) -> int:
        now = self._clock.now()
        careful = turn.closed_until is not None  # one call shows whether it is well again
        if now >= loop.poll_at and not careful:
            await self._poll(loop, desk, turn.polled_until, now)
        if now >= loop.recheck_at and not careful:
            loop.recheck_at = now + _RECHECK
            async with self._database.transaction() as tx:
                await desks.look_again(tx, loop.name, now, _RECHECKED)
        async with self._database.transaction() as tx:
            claimed = await desks.claim(tx, loop.name, now, _ROW_LEASE, 1 if careful else limit)
        if careful and not claimed:
            await self._poll(loop, desk, turn.polled_until, now)
        async with asyncio.TaskGroup() as group:
            for mirror in claimed:
                group.create_task(self._one(loop, desk, mirror, directory))
        return len(claimed)

    async def _poll(self, loop: _Loop, desk: Desk, since: datetime | None, now: datetime) -> None:
        """Look at what changed in the desk, of our tickets, since the last look."""
        loop.poll_at = now + loop.poll
        if since is None:
            async with self._database.transaction() as tx:
                await desks.polled(tx, loop.name, now)  # nothing of ours was there before
            return
        crowd = loop.crowd
        if crowd is None or crowd.since != since - _OVERLAP:
            crowd = Crowd(since - _OVERLAP)
        loop.crowd = None  # kept again when what it showed is stored
        try:
            changed = await desk.changed(crowd.since, crowd.skip)
            if not changed and not await self._may_believe(loop, desk):
                return
        except (Failed, Gone) as error:
            await self._ailing(loop, error if isinstance(error, Failed) else Failed("permanent", str(error)), now)
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
            begin = crowd.look([(one.reference, one.changed_at) for one in changed], MOST, now)
            if begin is not None:
                await desks.polled(tx, loop.name, begin if crowd.is_over else begin + _OVERLAP)
        loop.crowd = crowd
        if not crowd.is_over:
            loop.poll_at = now  # there is more, at once
        await self._well(loop)

    async def _one(self, loop: _Loop, desk: Desk, mirror: Mirror, directory: Directory) -> None:
        """Bring one ticket and the desk to the same state; whatever goes wrong is this ticket's."""
        try:
            async with self._quarantine.containing(desks.QUEUE, mirror.ticket):
                try:
                    await self._brought(loop, desk, mirror, directory)
                except Failed as failed:
                    await self._failed(loop, desk, mirror, failed)
        except Transient as error:
            log.warning("desk waits", desk=loop.name, why=str(error))  # the row falls due again

    async def _brought(self, loop: _Loop, desk: Desk, mirror: Mirror, directory: Directory) -> None:
        try:
            if await self._bring(loop, desk, mirror, directory):
                await self._well(loop)
        except Gone as gone:
            if await desk.find(mirror.ticket):
                raise Failed("temporary", f"the desk does not find what it has: {gone}") from None
            await self._check_that_it_sees(desk, mirror, gone)
            await self._gone(mirror, str(gone))

    async def _check_that_it_sees(self, desk: Desk, mirror: Mirror, gone: Gone) -> None:
        """Raise Failed unless our account is well: it is known, and is shown another ticket where there is one."""
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

    async def _may_believe(self, loop: _Loop, desk: Desk) -> bool:
        """Return whether a desk that shows nothing new has nothing new. Raises Failed if our account is nobody.

        Else what changes while the account sees nothing would be missed for good.
        """
        await desk.who_am_i()
        blind = loop.error is not None and loop.error.startswith(SEES_NOTHING)
        return not blind or await self._shows_any(desk, loop.name) is not False

    async def _bring(self, loop: _Loop, desk: Desk, mirror: Mirror, directory: Directory) -> bool:
        """Return whether the desk was asked for anything."""
        async with self._database.transaction() as tx:
            # Before the ticket is read: it no longer says who these are about.
            erasures = await desks.erasing(tx, mirror.ticket) if mirror.erased else []
            ticket = await tickets.one(tx, mirror.ticket)
            doubles = await desks.duplicates(tx, mirror.ticket)
        if ticket is None:
            return False  # deleted meanwhile, and its row with it
        if ticket.customer not in directory.customers:
            async with self._database.transaction() as tx:
                await desks.rest(tx, mirror.ticket, mirror.wanted, "the customer left the directory")
            return False
        if mirror.reference is None:
            return await self._create(desk, mirror, ticket, directory)
        for reference, label in doubles:
            await self._close(desk, mirror, reference, label, _draft(ticket, directory))
        if mirror.heard:
            # What changed there first: what is told then does not undo it.
            await self._read(loop, desk, mirror, directory)
        else:
            await self._update(loop, desk, mirror, ticket, erasures, directory)
        return True

    async def _create(self, desk: Desk, mirror: Mirror, ticket: TicketV1, directory: Directory) -> bool:
        now = self._clock.now()
        found: list[Remote] = []
        if mirror.asked_at is not None:
            settled = mirror.asked_at + timedelta(seconds=desk.settles)
            if now < settled:
                async with self._database.transaction() as tx:
                    await desks.failed(tx, mirror.ticket, mirror.error or "asked, and waits", settled, unknown=True)
                return False
            found = list(await desk.find(ticket.id))
            if not found:
                await desk.who_am_i()
        if not found:
            if ticket.state in {"closed", "cancelled"}:
                async with self._database.transaction() as tx:
                    await desks.rest(tx, ticket.id, mirror.wanted, "it ended before the desk had it")
                return mirror.asked_at is not None
            async with self._database.transaction() as tx:
                if not await desks.ask(tx, mirror, self._clock.now()):
                    return False  # whoever has it now asks
            found = [await desk.create(_draft(ticket, directory))]
        if not all(one.can_be_named for one in found):
            raise Failed("unknown", "the desk calls its ticket something that nobody can store")
        await self._adopt(mirror, ticket, found)
        return True

    async def _adopt(self, mirror: Mirror, ticket: TicketV1, found: Sequence[Remote]) -> None:
        """Keep the first of the desk's tickets; the others, and all if another was kept meanwhile, are to be closed."""
        remote, now, actor = found[0], self._clock.now(), f"desk:{mirror.desk}"
        async with self._database.transaction() as tx:
            # Always the ticket before what the desk has of it: whoever saves a ticket locks them in this order.
            if await tickets.one_locked(tx, ticket.id) is None:
                return
            named = await desks.of_reference(tx, mirror.desk, remote.reference)
            if named not in {None, ticket.id}:
                raise Failed("permanent", f"the desk calls two tickets {remote.reference}: this one, and {named}")
            kept = await desks.adopt(
                tx,
                ticket.id,
                reference=remote.reference,
                label=remote.label,
                url=remote.url,
                state=remote.state,
                # One that was found may be of an earlier version: it is brought to this one.
                pushed=ticket.version if mirror.asked_at is None and ticket.state == "open" else 0,
                now=now,
            )
            current = await desks.one(tx, ticket.id)
            assert current is not None
            more = [(one.reference, one.label) for one in found if one.reference != current.reference]
            new = await desks.duplicated(tx, mirror.desk, ticket.id, more)
            lines = [entry(ticket.id, now, actor, "desk ticket", text=f"{mirror.desk} {remote.label}")] if kept else []
            lines += [entry(ticket.id, now, actor, "duplicate", text=label) for one, label in more if one in new]
            await tickets.append(tx, lines)
            if new:
                await desks.nudge(tx, ticket.id, now)
        for reference in new:
            log.warning("duplicate in the desk", desk=mirror.desk, ticket=ticket.id, reference=reference)

    async def _close(self, desk: Desk, mirror: Mirror, reference: str, label: str, draft: Draft) -> None:
        """Close a duplicate, whoever found it."""
        with suppress(Gone):
            await desk.update(reference, draft, "cancelled", f"Duplicate of {mirror.label}")
        async with self._database.transaction() as tx:
            await desks.closed_duplicate(tx, mirror.desk, reference)
        log.info("duplicate closed", desk=mirror.desk, ticket=mirror.ticket, label=label)

    async def _update(
        self,
        loop: _Loop,
        desk: Desk,
        mirror: Mirror,
        ticket: TicketV1,
        erasures: Sequence[UUID],
        directory: Directory,
    ) -> None:
        assert mirror.reference is not None
        draft = _draft(ticket, directory)
        if mirror.erased:
            left = await desk.redact(mirror.reference, draft)
            async with self._database.transaction() as tx:
                line = entry(ticket.id, self._clock.now(), f"desk:{mirror.desk}", "erased in the desk", text=left)
                await tickets.append(tx, [line])
                await desks.erased(tx, ticket.id, erasures, left)
        state = None if _alike(mirror.state, ticket.state) else ticket.state
        if state is not None:
            there = (await desk.read(mirror.reference)).state
            if there is not None and not _alike(mirror.state, there):
                await self._read(loop, desk, mirror, directory)  # it changed there first
                return
        async with self._database.transaction() as tx:
            told = await desks.untold(tx, ticket.id, mirror.line)
        last = told[-1]["line"] if told else mirror.line
        remark = None
        if told:
            mark = _MARK.format(number=ticket.number, line=last)
            remark = "\n".join(_sentence(line["what"], msgspec.json.decode(line["detail"])) for line in told)
            remark = f"{remark}\n\n{mark}"
        await desk.update(mirror.reference, draft, state, remark)
        # Read back, since desks have fewer states, and workflows that say no without a word: what it shows now is no
        # news the next time.
        known = state
        if state is not None and desk.readable:
            known = (await desk.read(mirror.reference)).state
        async with self._database.transaction() as tx:
            now = self._clock.now()
            await desks.pushed(tx, ticket.id, ticket.version, last, known, erased=mirror.erased, now=now)

    async def _read(self, loop: _Loop, desk: Desk, mirror: Mirror, directory: Directory) -> None:
        assert mirror.reference is not None
        remote = await desk.read(mirror.reference)
        remarks = await desk.remarks(mirror.reference)
        remote = replace(remote, changed_at=_known_as_of(mirror, remote.changed_at, self._clock.now()))
        try:
            async with self._database.transaction() as tx:
                await self._take(tx, mirror, remote, remarks, directory)
        except tickets.AlreadyOpen:
            # Reopened there, while a newer ticket of the problem is open here: that one is worked on.
            async with self._database.transaction() as tx:
                await self._take(tx, mirror, replace(remote, state=mirror.state), remarks, directory)
        if mirror.gone:
            loop.recheck_at = self._clock.now()  # what hid one may have hidden others
        self._ledger.wake()

    async def take(self, name: str, reference: str, told: Told) -> bool:
        """Take over what a desk that cannot be asked tells of its ticket; return whether it is one of ours."""
        try:
            known = await self._take_told(name, reference, told)
        except tickets.AlreadyOpen:
            known = await self._take_told(name, reference, replace(told, state=None))
        self._ledger.wake()
        return known

    async def _take_told(self, name: str, reference: str, told: Told) -> bool:
        revision = self._directory.current
        if revision is None:
            raise Transient("no directory was applied yet")
        async with self._database.transaction() as tx:
            ticket = await desks.of_reference(tx, name, reference)
            if ticket is None or await tickets.one_locked(tx, ticket) is None:
                return False
            mirror = await desks.one(tx, ticket)
            assert mirror is not None
            # What has no time, or the same, is in the order in which it came.
            late = mirror.seen_at is not None and told.at is not None and told.at < mirror.seen_at
            remote = Remote(
                reference,
                mirror.label or "",
                mirror.url or "",
                mirror.state if late or told.state is None else told.state,
                mirror.assignee if late or told.assignee is None else told.assignee,
                told.resolution,
                mirror.seen_at if late or told.at is None else told.at,
            )
            await self._take(tx, mirror, remote, told.remarks, revision.directory)
        return True

    async def _take(
        self, tx: Connection, mirror: Mirror, remote: Remote, remarks: Sequence[Remark], directory: Directory
    ) -> None:
        """Take over what the desk has of a ticket."""
        now, actor = self._clock.now(), f"desk:{mirror.desk}"
        ticket = await tickets.one_locked(tx, mirror.ticket)
        if ticket is None:
            return
        # Ours are kept with them: they stay ours when another account works for us.
        new = await desks.new_remarks(tx, ticket.id, [one.id for one in remarks])
        said = [
            entry(ticket.id, one.at, actor, "desk comment", text=one.text[:_REMARK], author=one.author)
            for one in remarks
            if one.id in new and not _is_ours(one, ticket.number)
        ]
        if mirror.gone:
            said.append(entry(ticket.id, now, actor, "seen in the desk again", text=mirror.label or ""))
            await desks.back(tx, ticket.id)
        await tickets.append(tx, said)
        await desks.read(tx, ticket.id, remote.state, remote.assignee, remote.changed_at, now)
        outcome = take_desk(
            ticket,
            mirror.desk,
            None if _alike(mirror.state, remote.state) else remote.state,
            assignee=None if remote.assignee == mirror.assignee else _person(directory, remote.assignee),
            resolution=remote.resolution,
            now=now,
        )
        if outcome is not None:
            await self._save(tx, ticket, outcome, now)

    async def _save(self, tx: Connection, ticket: TicketV1, outcome: Outcome, now: datetime) -> None:
        happened = [Happened(self._ledger.timed(ticket, outcome), None, by_desk=ticket.version)]
        await self._ledger.save(tx, happened, now)
        measure_breaches(happened)

    # ---- what goes wrong

    async def _gone(self, mirror: Mirror, why: str) -> None:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            if not mirror.gone:
                line = entry(mirror.ticket, now, f"desk:{mirror.desk}", "deleted in the desk", text=mirror.label or "")
                await tickets.append(tx, [line])
            erasures = await desks.erasing(tx, mirror.ticket)
            await desks.erased(tx, mirror.ticket, erasures, "")
            await desks.gone(tx, mirror.ticket, f"deleted in the desk: {why}")

    async def _failed(self, loop: _Loop, desk: Desk, mirror: Mirror, failed: Failed) -> None:
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
        async with self._database.transaction() as tx:
            await desks.failed(tx, mirror.ticket, failed.detail, now + wait, unknown=unknown)
        if failed.refusal:
            log.warning("desk refused", desk=loop.name, ticket=mirror.ticket, why=failed.detail)
        else:
            await self._ailing(loop, failed, now)

    async def _ailing(self, loop: _Loop, failed: Failed, now: datetime) -> None:
        """Count a failure; after several in a row leave the desk alone for a while."""
        log.warning("desk failed", desk=loop.name, kind=failed.kind, why=failed.detail)
        if failed.kind == "limited" or failed.retry_after is not None:
            loop.pace.hold(failed.retry_after or 10.0)
        if failed.kind == "limited":
            return
        loop.error = failed.detail
        if failed.kind == "blind":
            # All of them may be deleted: what is new is not kept waiting.
            async with self._database.transaction() as tx:
                await desks.health(tx, loop.name, loop.failures, None, failed.detail)
            return
        loop.failures += 1
        closed_until = None
        if loop.failures >= _TROUBLE:
            closed_until = now + timedelta(seconds=_PAUSE.delay(loop.failures - _TROUBLE + 1))
        async with self._database.transaction() as tx:
            await desks.health(tx, loop.name, loop.failures, closed_until, failed.detail)

    async def _well(self, loop: _Loop) -> None:
        if loop.failures == 0 and loop.error is None:
            return
        loop.failures, loop.error = 0, None
        async with self._database.transaction() as tx:
            await desks.health(tx, loop.name, 0, None, None)


class _Loop:
    """One desk's loop."""

    def __init__(
        self,
        name: str,
        settings: DeskSettings,
        turn: Callable[[_Loop, int], Awaitable[int]],
        quarantine: Quarantine,
    ) -> None:
        self.name = name
        self.settings = settings
        self.poll = timedelta(seconds=settings.poll)
        self.poll_at = datetime.min.replace(tzinfo=UTC)
        self.pace = Pace(settings.calls_per_minute)
        self.lost_at = 0.0
        """When somebody else may work for the desk unless we say before that we do, by the loop's own clock."""
        self.recheck_at = self.poll_at
        self.revision: int | None = None
        """Of the directory, for which what failed was tried again."""
        self.crowd: Crowd | None = None
        self.failures = 0
        self.error: str | None = None
        """What the desk failed of last, since it did well."""
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
        await self.pace()
        self.due.progress.made()
        if asyncio.get_running_loop().time() + _CALL > self.lost_at:
            raise Transient("the desk is not ours for long enough to call it")


def _draft(ticket: TicketV1, directory: Directory) -> Draft:
    customer = directory.customers[ticket.customer]
    return Draft(
        ticket=ticket.id,
        number=ticket.number,
        title=ticket.title,
        story=tell(ticket, customer, directory.people, customer.language),
        severity=ticket.severity,
        state=ticket.state,
        customer=ticket.customer,
        root_cause=ticket.root_cause,
        resolution=ticket.resolution,
    )


_SAME = {"acknowledged": "in_progress", "closed": "resolved"}
"""States that many desks cannot tell apart."""


def _alike(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and _SAME.get(one, one) == _SAME.get(other, other)


def _is_ours(remark: Remark, number: int) -> bool:
    """Tell whether we wrote a remark of a ticket.

    A colleague's answer may end with what it answers, and so with our mark: the account decides. Where the desk does
    not say who wrote it, the mark has to be a line of its own, in a text that quotes nothing.
    """
    lines = remark.text.rstrip().splitlines()
    last = lines[-1].strip() if lines else ""
    marked = _MARKED.search(last)
    if remark.own is False or marked is None or int(marked[1]) != number:
        return False
    if remark.own:
        return not quotes(last)
    return marked.start() == 0 and not quotes(remark.text)


def _known_as_of(mirror: Mirror, changed_at: datetime | None, now: datetime) -> datetime | None:
    """Return how new a ticket that was read just now is known to be.

    A desk that counts whole seconds may change it once more in the second that it names. Until it was read again after
    that second it is known as of a little before, so that the next poll that shows it has it read.
    """
    if changed_at is None or changed_at.microsecond:
        return changed_at
    before = changed_at - timedelta(microseconds=1)
    again = mirror.seen_at in {before, changed_at}
    late = mirror.synced_at is not None and mirror.synced_at <= now - _TICK_OF_DESKS
    return changed_at if again and late else before


def _person(directory: Directory, assignee: str | None) -> str | None:
    """Return who an assignee of the desk is, by id or e-mail."""
    if assignee is None:
        return None
    if assignee in directory.people:
        return assignee
    for person in directory.people.values():
        if any(contact.channel == "email" and contact.address == assignee for contact in person.contacts):
            return person.id
    return None


def _sentence(what: str, detail: Mapping[str, object]) -> str:
    shown = detail.get("text") or detail.get("summary") or detail.get("clock") or ""
    return f"{what}: {shown}" if shown else what
