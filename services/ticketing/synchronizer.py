"""Keeps tickets and service desks alike: what a desk lacks is due, and what changed there is read back.

One process at a time works for a desk, so that the budget of calls is one place. The intent to create is stored before
the call; when what came of it is not known, the desk is asked for our id after its search has settled.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec

from services.ticketing.desks import MOST, Desk, Draft, Failed, Gone, Remark, Remote
from services.ticketing.desks.registry import build
from services.ticketing.domain.story import tell
from services.ticketing.domain.ticket import Outcome, entry, take_desk
from services.ticketing.ledger import Happened, Ledger, measure_breaches
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
from shared.http import Outbound
from shared.ids import uuid7
from shared.logs import Log
from shared.retry import Backoff

log = Log("ticketing")

_LEASE = timedelta(seconds=30)
_RENEW = 10.0
_ROW_LEASE = timedelta(seconds=60)
_AT_ONCE = 4
_RETRY = Backoff(2, 300)
_MISTAKE = timedelta(minutes=10)
"""What a person has to mend is tried again this often."""
_TROUBLE = 5
"""Failures in a row after which a desk is left alone."""
_PAUSE = Backoff(15, 600)
_OVERLAP = timedelta(minutes=2)
"""Desks' clocks and searches lag: what changed lately is looked at again."""
_TICK = 0.5

_MARK = "Fiilis, ticket {number}, entry {line}"
_MARKED = re.compile(r"Fiilis, ticket [0-9]+, entry [0-9]+\Z")
"""Ends each remark that we write, so that it is not read back as somebody's."""


class Pace:
    """A desk's budget of calls: a quarter of a minute's at once, the rest spread, so never more than it in a minute."""

    def __init__(self, per_minute: int) -> None:
        self._room = max(1.0, per_minute / 4)
        self._refill = max(per_minute - self._room, per_minute / 2) / 60
        self._left = self._room
        self._at = 0.0
        self._lock = asyncio.Lock()

    async def __call__(self) -> None:
        """Wait until one more call may be made."""
        async with self._lock:
            while True:
                now = asyncio.get_running_loop().time()
                if now >= self._at:
                    self._left = min(self._room, self._left + (now - self._at if self._at else 0.0) * self._refill)
                    self._at = now
                    if self._left >= 1:
                        self._left -= 1
                        return
                # Looked at again after the sleep: meanwhile the desk may have asked for more patience.
                await asyncio.sleep(max(0.0, self._at - now) + max(0.0, 1 - self._left) / self._refill)

    def hold(self, seconds: float) -> None:
        """Make no call for so long: the desk asked for it."""
        now = asyncio.get_running_loop().time()
        self._left, self._at = 0.0, max(self._at, now + seconds)


class Synchronizer:
    """Runs a loop for each desk of the directory."""

    def __init__(
        self, database: Database, directory: Follower, clock: Clock, ledger: Ledger, outbound: Outbound
    ) -> None:
        self._database = database
        self._directory = directory
        self._clock = clock
        self._ledger = ledger
        self._outbound = outbound
        self._owner = uuid7()
        self._loops: dict[str, _Loop] = {}
        self.troubles: Mapping[str, str] = {}
        """Desks that are left alone for now, and why."""

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
                for name, settings in wanted.items():
                    if name not in self._loops:
                        loop = self._loops[name] = _Loop(name, settings, self._turn)
                        loop.task = group.create_task(loop.due.run())
                await asyncio.sleep(_TICK)

    def driver(self, name: str, settings: DeskSettings) -> Desk:
        """Return a desk's driver. Raises Failed while a secret is missing."""
        loop = self._loops.get(name)
        if loop is None or loop.settings != settings:
            return build(name, settings, self._outbound, Pace(settings.calls_per_minute), os.environ)
        return loop.driver(self._outbound)

    async def figures(self) -> None:
        """Measure what waits, and which desks are left alone."""
        async with self._database.transaction() as tx:
            waiting = await desks.waiting(tx)
            healths = await desks.healths(tx)
        now = self._clock.now()
        self.troubles = {
            name: f"left alone until {health.closed_until:%H:%M} UTC: {health.error}"
            for name, health in healths.items()
            if name in self._loops and health.closed_until is not None and health.closed_until > now
        }
        for name in self._loops:
            metrics.DESK_WAITING.labels(name).set(waiting.get(name, 0))
            metrics.DESK_OPEN.labels(name).set(name in self.troubles)

    # ---- one desk

    async def _turn(self, loop: _Loop) -> int:
        """Do some of what is due for a desk; return how many tickets."""
        revision = self._directory.current
        if revision is None:
            return 0
        now = self._clock.now()
        async with self._database.transaction() as tx:
            turn = await desks.lease(tx, loop.name, self._owner, now, _LEASE)
        if turn is None:
            return 0
        loop.failures = turn.failures
        if turn.closed_until is not None and turn.closed_until > now:
            return 0
        try:
            desk = loop.driver(self._outbound)
        except Failed as failed:
            await self._ailing(loop, failed, now)
            return 0
        work = asyncio.create_task(self._work(loop, desk, turn, revision.directory))
        keeping = asyncio.create_task(self._keep(loop.name))
        try:
            await asyncio.wait({work, keeping}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else 0
        finally:
            for task in (work, keeping):
                task.cancel()
            await asyncio.wait({work, keeping})

    async def _keep(self, desk: str) -> None:
        """Stay the one that works for the desk, however slow it is; return when that was lost."""
        lost_at = asyncio.get_running_loop().time() + _LEASE.total_seconds()
        while asyncio.get_running_loop().time() < lost_at:
            await asyncio.sleep(_RENEW)
            begun = asyncio.get_running_loop().time()
            try:
                async with self._database.transaction() as tx:
                    if await desks.lease(tx, desk, self._owner, self._clock.now(), _LEASE) is None:
                        break
                lost_at = begun + _LEASE.total_seconds()
            except Transient as error:
                log.warning("lease not renewed", desk=desk, why=str(error))
        log.warning("another process works for the desk", desk=desk)

    async def _work(self, loop: _Loop, desk: Desk, turn: desks.Turn, directory: Directory) -> int:
        now = self._clock.now()
        careful = turn.closed_until is not None  # one call shows whether it is well again
        if now >= loop.poll_at and not careful:
            await self._poll(loop, desk, turn.polled_until, now)
        async with self._database.transaction() as tx:
            claimed = await desks.claim(tx, loop.name, now, _ROW_LEASE, 1 if careful else _AT_ONCE)
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
        try:
            changed = await desk.changed(since - _OVERLAP)
        except (Failed, Gone) as error:
            await self._ailing(loop, error if isinstance(error, Failed) else Failed("permanent", str(error)), now)
            return
        async with self._database.transaction() as tx:
            known = await desks.seen(tx, loop.name, [remote.reference for remote in changed])
            ours = [remote for remote in changed if remote.reference in known]
            news = [one.reference for one in ours if one.changed_at is None or known[one.reference] != one.changed_at]
            await desks.heard(tx, loop.name, news, now)
            times = [remote.changed_at for remote in changed if remote.changed_at is not None]
            if len(changed) < MOST or not times:
                await desks.polled(tx, loop.name, now)
            else:
                # There is more: go on after the last of these, at once.
                await desks.polled(tx, loop.name, max(max(times) + _OVERLAP, since + timedelta(seconds=1)))
                loop.poll_at = now
        await self._well(loop)

    async def _one(self, loop: _Loop, desk: Desk, mirror: Mirror, directory: Directory) -> None:
        """Bring one ticket and the desk to the same state; whatever goes wrong is this ticket's."""
        try:
            try:
                await self._bring(loop, desk, mirror, directory)
                await self._well(loop)
            except Gone as gone:
                if mirror.reference is not None and await desk.find(mirror.ticket):
                    raise Failed("temporary", f"the desk does not find what it has: {gone}") from None
                await self._gone(mirror, str(gone))
        except Transient as error:
            log.warning("desk waits", desk=loop.name, why=str(error))  # the row falls due again
        except Failed as failed:
            await self._failed(loop, desk, mirror, failed)
        except Exception as error:  # noqa: BLE001
            # As in channels: what one ticket or one desk's answer brings out must not stop all tickets, again after
            # every restart. It is told as loudly as a crash.
            log.error("desk failed", failure=error, desk=loop.name, ticket=mirror.ticket)
            await self._failed(loop, desk, mirror, Failed("permanent", f"our fault: {type(error).__name__}"))

    async def _bring(self, loop: _Loop, desk: Desk, mirror: Mirror, directory: Directory) -> None:
        async with self._database.transaction() as tx:
            ticket = await tickets.one(tx, mirror.ticket)
        if ticket is None:
            return  # deleted meanwhile, and its row with it
        if ticket.customer not in directory.customers:
            async with self._database.transaction() as tx:
                await desks.rest(tx, mirror.ticket, mirror.wanted, "the customer left the directory")
        elif mirror.reference is None:
            await self._create(desk, mirror, ticket, directory)
        elif mirror.heard:
            # What changed there first: what is told then does not undo it.
            await self._read(loop, desk, mirror, directory)
        else:
            await self._update(loop, desk, mirror, ticket, directory)

    async def _create(self, desk: Desk, mirror: Mirror, ticket: TicketV1, directory: Directory) -> None:
        now = self._clock.now()
        found: list[Remote] = []
        if mirror.asked_at is not None:
            settled = mirror.asked_at + timedelta(seconds=desk.settles)
            if now < settled:
                async with self._database.transaction() as tx:
                    await desks.failed(tx, mirror.ticket, mirror.error or "asked, and waits", settled, unknown=True)
                return
            found = list(await desk.find(ticket.id))
        if not found:
            if ticket.state in {"closed", "cancelled"}:
                async with self._database.transaction() as tx:
                    await desks.rest(tx, ticket.id, mirror.wanted, "it ended before the desk had it")
                return
            async with self._database.transaction() as tx:
                await desks.ask(tx, ticket.id, self._clock.now())
            found = [await desk.create(_draft(ticket, directory))]
        remote, *more = found
        named = remote.reference and remote.label  # an address it need not have
        if not named or any(
            len(text) > 1_000 or not text.isprintable() for text in (remote.reference, remote.label, remote.url)
        ):
            raise Failed("unknown", "the desk calls its ticket something that nobody can store")
        now, actor = self._clock.now(), f"desk:{mirror.desk}"
        lines = [entry(ticket.id, now, actor, "desk ticket", text=f"{mirror.desk} {remote.label}")]
        lines += [entry(ticket.id, now, actor, "duplicate", text=one.label) for one in more]
        async with self._database.transaction() as tx:
            # Always the ticket before what the desk has of it: whoever saves a ticket locks them in this order.
            await tickets.append(tx, lines)
            await desks.adopt(
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
        for duplicate in more:
            log.warning("duplicate in the desk", desk=mirror.desk, ticket=ticket.id, reference=duplicate.reference)
            await desk.update(
                duplicate.reference, _draft(ticket, directory), "cancelled", f"Duplicate of {remote.label}"
            )

    async def _update(self, loop: _Loop, desk: Desk, mirror: Mirror, ticket: TicketV1, directory: Directory) -> None:
        assert mirror.reference is not None
        draft = _draft(ticket, directory)
        if mirror.erased:
            left = await desk.redact(mirror.reference, draft)
            async with self._database.transaction() as tx:
                line = entry(ticket.id, self._clock.now(), f"desk:{mirror.desk}", "erased in the desk", text=left)
                await tickets.append(tx, [line])
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
        known = mirror.state if state is None else (await desk.read(mirror.reference)).state
        async with self._database.transaction() as tx:
            now = self._clock.now()
            await desks.pushed(tx, ticket.id, ticket.version, last, known, erased=mirror.erased, now=now)

    async def _read(self, loop: _Loop, desk: Desk, mirror: Mirror, directory: Directory) -> None:
        assert mirror.reference is not None
        remote = await desk.read(mirror.reference)
        remarks = [one for one in await desk.remarks(mirror.reference) if not _MARKED.search(one.text.rstrip())]
        try:
            await self._take(loop, mirror, remote, remarks, directory)
        except tickets.AlreadyOpen:
            # Reopened there, while a newer ticket of the problem is open here: that one is worked on.
            await self._take(loop, mirror, replace(remote, state=mirror.state), remarks, directory)
        self._ledger.wake()

    async def _take(
        self, loop: _Loop, mirror: Mirror, remote: Remote, remarks: Sequence[Remark], directory: Directory
    ) -> None:
        """Take over what the desk has of a ticket."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            ticket = await tickets.one_locked(tx, mirror.ticket)
            if ticket is None:
                return
            new = await desks.new_remarks(tx, ticket.id, [one.id for one in remarks])
            actor = f"desk:{loop.name}"
            said = [
                entry(ticket.id, one.at, actor, "desk comment", text=one.text[:4_000], author=one.author)
                for one in remarks
                if one.id in new
            ]
            await tickets.append(tx, said)
            await desks.read(tx, ticket.id, remote.state, remote.assignee, remote.changed_at, now)
            outcome = take_desk(
                ticket,
                loop.name,
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
            line = entry(mirror.ticket, now, f"desk:{mirror.desk}", "deleted in the desk", text=mirror.label or "")
            await tickets.append(tx, [line])
            await desks.gone(tx, mirror.ticket, f"deleted in the desk: {why}")

    async def _failed(self, loop: _Loop, desk: Desk, mirror: Mirror, failed: Failed) -> None:
        now = self._clock.now()
        creating = mirror.reference is None
        # What came of an earlier create stays unknown until the desk has been asked for our id.
        unknown = creating and (failed.kind == "unknown" or mirror.asked_at is not None)
        if failed.kind == "permanent":
            wait = _MISTAKE
        elif unknown and failed.kind == "unknown":
            wait = timedelta(seconds=desk.settles)
        else:
            wait = timedelta(seconds=max(_RETRY.delay(mirror.attempts + 1), failed.retry_after or 0))
        async with self._database.transaction() as tx:
            await desks.failed(tx, mirror.ticket, failed.detail, now + wait, unknown=unknown)
        await self._ailing(loop, failed, now)

    async def _ailing(self, loop: _Loop, failed: Failed, now: datetime) -> None:
        """Count a failure; after several in a row leave the desk alone for a while."""
        log.warning("desk failed", desk=loop.name, kind=failed.kind, why=failed.detail)
        if failed.kind == "limited" or failed.retry_after is not None:
            loop.pace.hold(failed.retry_after or 10.0)
        if failed.kind == "limited":
            return
        loop.failures += 1
        closed_until = None
        if loop.failures >= _TROUBLE:
            closed_until = now + timedelta(seconds=_PAUSE.delay(loop.failures - _TROUBLE + 1))
        async with self._database.transaction() as tx:
            await desks.health(tx, loop.name, loop.failures, closed_until, failed.detail)

    async def _well(self, loop: _Loop) -> None:
        if loop.failures == 0:
            return
        loop.failures = 0
        async with self._database.transaction() as tx:
            await desks.health(tx, loop.name, 0, None, None)


class _Loop:
    """One desk's loop."""

    def __init__(self, name: str, settings: DeskSettings, turn: Callable[[_Loop], Awaitable[int]]) -> None:
        self.name = name
        self.settings = settings
        self.poll = timedelta(seconds=settings.poll)
        self.poll_at = datetime.min.replace(tzinfo=UTC)
        self.pace = Pace(settings.calls_per_minute)
        self.failures = 0
        self.due = DueLoop(f"desk {name}", partial(turn, self))
        self.task: asyncio.Task[None] | None = None
        self._desk: Desk | None = None

    def driver(self, outbound: Outbound) -> Desk:
        """Return the desk's driver. Raises Failed while a secret is missing."""
        if self._desk is None:
            self._desk = build(self.name, self.settings, outbound, self.pace, os.environ)
        return self._desk


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
