"""Keeps each directory that was in force, so that it is known who was responsible when, and who changed it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from services.notify.store import audit, pages, rota
from shared.clock import Clock
from shared.db import Connection, Database
from shared.directory.difference import difference
from shared.directory.follower import Follower, Revision
from shared.directory.model import Directory
from shared.due import DueLoop

_RESPONSIBLE = ("people", "schedules", "escalations", "customers", "team")
"""Sections that say who is paged."""
_AT_ONCE = 5_000
_MOST = 200
"""Changes of one revision that are told one by one."""

Plan = Callable[[Connection, Directory], Awaitable[None]]


class Revisions:
    """Takes over each new directory."""

    def __init__(self, database: Database, directory: Follower, clock: Clock, plans: Sequence[Plan]) -> None:
        """`plans` are told of each new directory, in the same transaction."""
        self._database = database
        self._directory = directory
        self._clock = clock
        self._plans = plans
        self._kept = 0
        self.loop = DueLoop("revisions", self._work, poll=5)
        directory.listen(lambda _: self.loop.wake())

    async def _work(self) -> int:
        revision = self._directory.current
        if revision is None or revision.number == self._kept:
            return 0
        at = revision.applied_at or self._clock.now()
        async with self._database.transaction() as tx:
            before = await rota.revision_before(tx, revision.number)
        # Not within a transaction: a large directory takes longer than one may stand still.
        lines = await asyncio.to_thread(_lines, before, revision, at)
        body = await asyncio.to_thread(rota.packed, revision.directory)
        async with self._database.transaction() as tx:
            if await rota.add_revision(tx, revision.number, body, at, revision.author):
                await audit.add(tx, lines)
            for plan in self._plans:
                await plan(tx, revision.directory)
        self._kept = revision.number
        return 1

    async def forget(self) -> None:
        """Delete what is older than the directory keeps."""
        revision = self._directory.current
        if revision is not None:
            before = self._clock.now() - timedelta(seconds=revision.directory.retention)
            async with self._database.transaction() as tx:
                await rota.forget_revisions(tx, before)
                await audit.forget(tx, before, _AT_ONCE)
                await pages.forget(tx, before, _AT_ONCE)


def _lines(before: bytes | None, revision: Revision, at: datetime) -> list[audit.Line]:
    known = None if before is None else rota.directory_of(before)
    changes = [change for change in difference(known, revision.directory) if change.path.split(".")[0] in _RESPONSIBLE]
    told = [
        audit.line(
            at,
            revision.author,
            "rota changed",
            customer=_customer(change.path),
            revision=revision.number,
            path=change.path,
            before=change.before,
            after=change.after,
        )
        for change in changes[:_MOST]
    ]
    if len(changes) > _MOST:
        more = len(changes) - _MOST
        told.append(audit.line(at, revision.author, "rota changed", revision=revision.number, more=more))
    return told


def _customer(path: str) -> str | None:
    section, *rest = path.split(".")
    return rest[0] if section == "customers" and rest else None
