"""Keeps each directory that was in force, so that it is known who was responsible when, and who changed it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from services.notify.store import audit, pages, rota
from shared.database.pool import Connection
from shared.directory.difference import Change, difference
from shared.directory.follower import Revision
from shared.directory.model import Directory
from shared.runtime.due import DueLoop
from shared.runtime.progress import STALE_SECONDS
from shared.runtime.quarantine import held, judging
from shared.runtime.runtime import Runtime

_RESPONSIBLE = ("people", "schedules", "escalations", "customers", "team")
"""Sections that say who is paged."""
_AT_ONCE = 5_000
_MOST = 200
"""Changes of one revision that are told one by one, of each kind."""

_QUEUE = "revisions"
"""Where a revision is set aside that cannot be kept, or planned by."""

Plan = Callable[[Connection, Directory], Awaitable[None]]


class Revisions:
    """Takes over each new directory."""

    def __init__(self, runtime: Runtime, plans: Mapping[str, Plan]) -> None:
        """`plans` are told of each new directory, each in a transaction of its own."""
        self._database = runtime.database
        self._directory = runtime.directory
        self._clock = runtime.clock
        self._plans = plans
        self._taken: tuple[str, int] | None = None
        """Log and number of the last one that was taken over."""
        # A large directory takes long to be compared and packed.
        within = 3 * STALE_SECONDS
        self.loop = DueLoop("notify", "revisions", self._work, runtime.quarantine, at_once=1, poll=5, within=within)
        runtime.directory.listen(lambda _: self.loop.wake())

    async def _work(self, _: int) -> int:
        revision = self._directory.current
        if revision is None or (revision.log, revision.number) == self._taken:
            return 0
        async with self._database.transaction() as tx:
            aside = await held(tx, _QUEUE)
        name = f"{revision.log}/{revision.number}"
        if name not in aside:
            with judging(_QUEUE, [name]):
                await self._keep(revision)
        for what, plan in self._plans.items():
            if f"{name} {what}" not in aside:
                with judging(_QUEUE, [f"{name} {what}"]):
                    async with self._database.transaction() as tx:
                        await plan(tx, revision.directory)
        self._taken = (revision.log, revision.number)
        return 1

    async def _keep(self, revision: Revision) -> None:
        """Keep a revision once, and write down what it changes."""
        at = revision.applied_at or self._clock.now()
        log, number = revision.log, revision.number
        async with self._database.transaction() as tx:
            if await rota.is_kept(tx, log, number):
                return
            unknown = await rota.of_unknown_log(tx, number)
            before = await rota.revision_before(tx, log, number, at)
        # Not within a transaction: a large directory takes longer than one may stand still.
        if unknown is not None and await asyncio.to_thread(_is_same, revision, at, *unknown):
            async with self._database.transaction() as tx:
                await rota.adopt_revision(tx, log, number)
            return
        lines = await asyncio.to_thread(_lines, before, revision, at)
        body = await asyncio.to_thread(rota.packed, revision.directory)
        turns = await asyncio.to_thread(rota.packed_turns, revision.directory)
        async with self._database.transaction() as tx:
            await rota.one_revision_at_a_time(tx)
            if await rota.add_revision(tx, log, number, body, at, _storable(revision.author), turns):
                await audit.add(tx, lines)

    async def forget(self) -> None:
        """Delete what is older than the directory keeps."""
        revision = self._directory.current
        if revision is not None:
            before = self._clock.now() - timedelta(seconds=revision.directory.retention)
            async with self._database.transaction() as tx:
                await rota.forget_revisions(tx, before)
                await audit.forget(tx, before, _AT_ONCE)
                await pages.forget(tx, before, _AT_ONCE)


def _is_same(revision: Revision, at: datetime, applied_at: datetime, body: bytes) -> bool:
    """Tell whether a revision is the one that was kept under its number, of a log that was not known."""
    return at == applied_at or rota.directory_of(body) == revision.directory


def _storable(author: str) -> str:
    """Return who applied it as a record's header says, which anybody may have written."""
    return "".join(c for c in author[:200] if c.isprintable())


def _lines(before: bytes | None, revision: Revision, at: datetime) -> list[audit.Line]:
    known = None if before is None else rota.directory_of(before)
    changes: defaultdict[str, list[Change]] = defaultdict(list)
    for change in difference(known, revision.directory):
        responsible = change.path.split(".")[0] in _RESPONSIBLE
        changes["rota changed" if responsible else "configuration changed"].append(change)
    author = _storable(revision.author)
    told: list[audit.Line] = []
    for what, some in changes.items():
        told += [
            audit.line(
                at,
                author,
                what,
                customer=_customer(change.path),
                revision=revision.number,
                path=change.path,
                before=change.before,
                after=change.after,
            )
            for change in some[:_MOST]
        ]
        if len(some) > _MOST:
            told.append(audit.line(at, author, what, revision=revision.number, more=len(some) - _MOST))
    return told


def _customer(path: str) -> str | None:
    section, *rest = path.split(".")
    return rest[0] if section == "customers" and rest else None
