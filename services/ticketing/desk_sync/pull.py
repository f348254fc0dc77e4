"""What a desk has of a ticket, taken over here: its state, who works on it, its comments, and which ticket it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from services.ticketing.desk_sync.push import ending
from services.ticketing.desk_sync.step import is_alike
from services.ticketing.desks import Desk, DeskReport, Gone, Remark, Remote
from services.ticketing.desks.api import quotes
from services.ticketing.domain.ticket import Outcome, entry, take_desk
from services.ticketing.ledger import Ledger, TicketChange, measure_breaches
from services.ticketing.store import desks, tickets
from services.ticketing.store.desks import Mirror
from shared.database.pool import Connection, Database
from shared.directory.follower import Follower
from shared.directory.model import Directory
from shared.errors import Transient
from shared.runtime.clock import Clock
from shared.runtime.logs import Log
from shared.wire.events import TicketV1

log = Log("ticketing")

_REMARK = 4_000
"""Characters of a desk's comment that are kept."""
_MARKED = re.compile(r"Fiilis, ticket ([0-9]+), entry [0-9]+\Z")
"""How a remark of ours ends: `push.MARK`."""
_TICK_OF_DESKS = timedelta(seconds=2)
"""Desks that count whole seconds have counted on after this time."""
_BEFORE_A_MERGE = timedelta(minutes=10)
"""Comments of the ticket that ours became a part of count from so long before that was seen."""


class Pull:
    """Takes over what desks have."""

    def __init__(self, database: Database, directory: Follower, clock: Clock, ledger: Ledger) -> None:
        self._database = database
        self._directory = directory
        self._clock = clock
        self._ledger = ledger

    async def read(self, desk: Desk, mirror: Mirror, directory: Directory) -> None:
        """Take over a ticket as it stands, or the one that it became a part of. Raises Failed, Gone."""
        assert mirror.reference is not None
        remote = await desk.read(mirror.reference)
        if remote.merged_into is not None or remote.reference != mirror.reference:
            await self._merged(desk, mirror, remote, directory)
            return
        # Of a look before something is written, the next poll still shows what else changed until then.
        as_of = _known_as_of(mirror, remote.changed_at, self._clock.now()) if mirror.heard else mirror.seen_at
        remote = replace(remote, changed_at=as_of)
        await self._take_unless_open(mirror, remote, directory)

    async def _take_unless_open(self, mirror: Mirror, remote: Remote, directory: Directory) -> None:
        try:
            async with self._database.transaction() as tx:
                await self._take(tx, mirror, remote, directory)
        except tickets.AlreadyOpen:
            # Reopened there, while a newer ticket of the problem is open here: that one is worked on.
            async with self._database.transaction() as tx:
                await self._take(tx, mirror, replace(remote, state=mirror.state), directory)
        self._ledger.wake()

    async def _merged(self, desk: Desk, mirror: Mirror, remote: Remote, directory: Directory) -> None:
        """Follow a ticket into the one that it became a part of; where that is not known, say so and tell nothing."""
        target: Remote | None = remote if remote.merged_into is None else None
        if remote.merged_into:
            with suppress(Gone):
                target = await desk.read(remote.merged_into)
        if target is not None and (target.merged_into is not None or not target.can_be_named):
            target = None  # merged once more: it is read again
        now, actor = self._clock.now(), f"desk:{mirror.desk}"
        async with self._database.transaction() as tx:
            if await tickets.one_locked(tx, mirror.ticket) is None:
                return
            other = None if target is None else await desks.of_reference(tx, mirror.desk, target.reference)
            if target is None or other not in {None, mirror.ticket}:
                where = "another ticket" if target is None else target.label
                ours = "" if other is None else ", which is the desk's of another ticket of ours"
                why = f"merged into {where} in the desk{ours}: it is told nothing more"
                if not mirror.gone:
                    await tickets.append(tx, [entry(mirror.ticket, now, actor, "merged in the desk", text=where)])
                await desks.note(tx, mirror.ticket, now, gone=True, heard=False, error=why, synced_at=now)
                return
            await tickets.append(tx, [entry(mirror.ticket, now, actor, "merged in the desk", text=target.label)])
            await desks.former(tx, mirror.ticket, now, "merged")
            facts = {"reference": target.reference, "label": target.label, "url": target.url, "followed_at": now}
            await desks.note(
                tx, mirror.ticket, now, **facts, remarks_upto=None, unread=True, seen_at=None, sealed=False
            )
            followed = await desks.one(tx, mirror.ticket)
        assert followed is not None
        await self._take_unless_open(followed, target, directory)

    async def remarks(self, desk: Desk, mirror: Mirror, ticket: TicketV1) -> None:
        """Take over comments that were written since they were read last. Raises Failed, Gone."""
        assert mirror.reference is not None
        read = await desk.remarks(mirror.reference, mirror.remarks_upto)
        async with self._database.transaction() as tx:
            if await tickets.one_locked(tx, mirror.ticket) is None:
                return
            now = self._clock.now()
            await self._hear(tx, mirror, ticket, read.items)
            if read.skipped:
                text = "there were more than are read: the oldest are in the desk alone"
                line = entry(ticket.id, now, f"desk:{mirror.desk}", "desk comment", text=text, author="")
                await tickets.append(tx, [line])
            facts = {"remarks_upto": read.upto, "unread": read.more, "synced_at": now}
            refused = [one for one in mirror.refused if one != "read remarks"]
            await desks.note(tx, mirror.ticket, now, **facts, refused=refused)

    async def told(self, name: str, reference: str, told: DeskReport) -> bool:
        """Take over what a desk that cannot be asked tells of its ticket; return whether it is one of ours."""
        try:
            known = await self._take_told(name, reference, told)
        except tickets.AlreadyOpen:
            known = await self._take_told(name, reference, replace(told, state=None))
        self._ledger.wake()
        return known

    async def _take_told(self, name: str, reference: str, told: DeskReport) -> bool:
        revision = self._directory.current
        if revision is None:
            raise Transient("no directory was applied yet")
        async with self._database.transaction() as tx:
            id_ = await desks.of_reference(tx, name, reference)
            ticket = None if id_ is None else await tickets.one_locked(tx, id_)
            if ticket is None:
                return False
            mirror = await desks.one(tx, ticket.id)
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
            await self._hear(tx, mirror, ticket, told.remarks)
            await self._take(tx, mirror, remote, revision.directory)
            await desks.note(tx, ticket.id, self._clock.now(), unread=False)
        return True

    async def _hear(self, tx: Connection, mirror: Mirror, ticket: TicketV1, remarks: Sequence[Remark]) -> None:
        # Ours are kept with them: they stay ours when another account works for us.
        new = await desks.new_remarks(tx, ticket.id, [one.id for one in remarks])
        since = None if mirror.followed_at is None else mirror.followed_at - _BEFORE_A_MERGE
        said = [
            entry(ticket.id, one.at, f"desk:{mirror.desk}", "desk comment", text=one.text[:_REMARK], author=one.author)
            for one in remarks
            if one.id in new and not is_ours(one, ticket.number) and (since is None or one.at >= since)
        ]
        await tickets.append(tx, said)

    async def _take(self, tx: Connection, mirror: Mirror, remote: Remote, directory: Directory) -> None:
        """Take over what the desk has of a ticket."""
        now, actor = self._clock.now(), f"desk:{mirror.desk}"
        ticket = await tickets.one_locked(tx, mirror.ticket)
        if ticket is None:
            return
        facts: dict[str, Any] = {"seen_at": remote.changed_at, "synced_at": now}
        facts |= {"heard": False} if mirror.heard else {}
        facts |= {"assignee": remote.assignee, "sealed": remote.sealed, **ending(mirror, remote.state, self._clock)}
        if mirror.gone and mirror.followed_at is None:
            await tickets.append(tx, [entry(ticket.id, now, actor, "seen in the desk again", text=mirror.label or "")])
            await desks.back(tx, ticket.id)
            facts |= {"gone": False, "error": None, "unread": True}
        if remote.can_be_named and (remote.label, remote.url) != (mirror.label, mirror.url):
            if remote.label != mirror.label and mirror.label is not None and mirror.followed_at is None:
                line = entry(ticket.id, now, actor, "moved in the desk", text=f"{mirror.label} is {remote.label} now")
                await tickets.append(tx, [line])
            facts |= {"label": remote.label, "url": remote.url}
        if remote.state is not None:
            facts["state"] = remote.state
        outcome = take_desk(
            ticket,
            mirror.desk,
            None if is_alike(mirror.state, remote.state) else remote.state,
            assignee=None if remote.assignee == mirror.assignee else _person(directory, mirror.desk, remote.assignee),
            resolution=remote.resolution,
            now=now,
        )
        if outcome is not None:
            await self._save(tx, ticket, outcome, now)
            facts["told_state"] = outcome.ticket.state
        await desks.note(tx, ticket.id, now, **facts)

    async def _save(self, tx: Connection, ticket: TicketV1, outcome: Outcome, now: datetime) -> None:
        changes = [TicketChange(self._ledger.timed(ticket, outcome), None)]
        await self._ledger.save(tx, changes, now)
        measure_breaches(changes)


def is_ours(remark: Remark, number: int) -> bool:
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


def _person(directory: Directory, desk: str, assignee: str | None) -> str | None:
    """Return who an assignee of the desk is: by id or e-mail, or by a name that is one person's where that is set."""
    if assignee is None:
        return None
    wanted = assignee.strip().casefold()
    for person in directory.people.values():
        if person.id == wanted:
            return person.id
        if any(one.channel == "email" and one.address.casefold() == wanted for one in person.contacts):
            return person.id
    settings = directory.desks.get(desk)
    if settings is None or settings.options.get("assignees") != "by name":
        return None
    named = [person.id for person in directory.people.values() if person.name.casefold() == wanted]
    return named[0] if len(named) == 1 else None
