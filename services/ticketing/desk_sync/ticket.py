"""Brings one ticket and its desk to the same state, one step after another; whatever goes wrong is this ticket's."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.ticketing.desk_sync.loop import DeskLoop
from services.ticketing.desk_sync.pull import Pull
from services.ticketing.desk_sync.push import Push, draft_of
from services.ticketing.desk_sync.step import DesiredTicket, Left, Step, next_step
from services.ticketing.desks import Desk, DeskReport, Draft, Failed, Gone
from services.ticketing.desks.api import SEES_NOTHING
from services.ticketing.domain.ticket import entry
from services.ticketing.ledger import Ledger
from services.ticketing.store import desks, tickets
from services.ticketing.store.desks import Mirror
from shared.database.pool import Database
from shared.directory.model import Directory
from shared.errors import Transient
from shared.runtime.logs import Log
from shared.runtime.retry import Backoff
from shared.runtime.runtime import Runtime

log = Log("ticketing")

_RETRY = Backoff(2, 300)
_MISTAKE = timedelta(minutes=10)
"""What a person has to mend is tried again this often."""
_SIBLINGS = 3
_STEPS = 40
"""Steps of one ticket in one turn: another one's turn comes, whatever a desk makes of it."""
_CALLS: frozenset[Step] = frozenset({"read", "describe", "tell", "move"})
"""Steps that cannot be done without the desk: what else is done shows nothing of how it does."""


class TicketSync:
    """Works on tickets of which something is left to do."""

    def __init__(self, runtime: Runtime, ledger: Ledger) -> None:
        self._database = runtime.database
        self._clock = runtime.clock
        self._quarantine = runtime.quarantine
        self._push = Push(runtime.database, runtime.clock)
        self._pull = Pull(runtime.database, runtime.directory, runtime.clock, ledger)

    async def take(self, name: str, reference: str, told: DeskReport) -> bool:
        """Take over what a desk that cannot be asked tells of its ticket; return whether it is one of ours."""
        return await self._pull.told(name, reference, told)

    async def sync(self, loop: DeskLoop, desk: Desk, mirror: Mirror, directory: Directory) -> None:
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
    ) -> tuple[Mirror, DesiredTicket, Draft, Left] | None:
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
        self, step: Step, desk: Desk, mirror: Mirror, wanted: DesiredTicket, draft: Draft, directory: Directory
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

    async def _rest(self, mirror: Mirror, wanted: DesiredTicket, now: datetime) -> None:
        """Note that the desk has all of a version, unless something of it waits."""
        async with self._database.transaction() as tx:
            if mirror.reference is not None and not mirror.gone and (not mirror.held_until or mirror.held_until <= now):
                well: dict[str, Any] = {"attempts": 0, "error": None, "held_until": None, "refused": []}
                await desks.note(tx, mirror.ticket, now, pushed=wanted.ticket.version, **well)
            else:
                await desks.settle(tx, [mirror.ticket], now)

    async def _check_that_it_is_gone(self, desk: Desk, mirror: Mirror, gone: Gone) -> None:
        """Raise Failed unless our account is well: it is known, and is shown another ticket where there is one."""
        if await desk.find(mirror.ticket):
            raise Failed("temporary", f"the desk does not find what it has: {gone}") from None
        await desk.who_am_i()
        if await shows_any(self._database, desk, mirror.desk, mirror.ticket) is False:
            raise Failed("blind", f"{SEES_NOTHING}: neither this ticket nor others of ours: {gone}")

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


async def shows_any(database: Database, desk: Desk, name: str, but: UUID | None = None) -> bool | None:
    """Return whether the desk shows our account another ticket of ours; None: there is none."""
    async with database.transaction() as tx:
        siblings = await desks.siblings(tx, name, but, _SIBLINGS)
    for reference in siblings:
        with suppress(Gone):
            await desk.read(reference)
            return True
    return False if siblings else None
