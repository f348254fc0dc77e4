"""The rota as it was: by the revisions of the directory that were in force, for whatever asks about the past."""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from services.notify.domain.rota import Era
from services.notify.store import rota
from shared.database.pool import Database
from shared.directory.follower import Revision
from shared.directory.model import Directory
from shared.runtime.logs import Log

log = Log("notify")

_AT_ONCE = 20
"""Revisions that are read in one transaction: one may be whole, and large."""
_KEPT = 500
"""Revisions that are kept in memory."""


class History:
    """Knows which directory was in force when."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[int, Directory | None] = OrderedDict()

    async def eras(self, current: Revision, start: datetime, now: datetime) -> list[Era]:
        """Return the eras from a moment on, the present one last, which lasts on. Raises Transient.

        The present one began when it was applied, whether it is kept already or not: a shift that begins with it is the
        same one a moment later.
        """
        present = rota.turns_alone(current.directory)
        if start >= now:
            return [_era(now, present)]
        async with self._database.transaction() as tx:
            listed = await rota.revisions_between(tx, start, now)
        of = await self._turns([revision for revision, _ in listed])
        eras: list[Era] = []
        for revision, since in listed:
            turns = of[revision]
            if turns is not None and (not eras or not _is_same(eras[-1], turns)):
                eras.append(_era(since, turns))
        if not eras or not _is_same(eras[-1], present):
            eras.append(_era(min(now, current.applied_at or now), present))
        return eras

    async def _turns(self, revisions: Sequence[int]) -> Mapping[int, Directory | None]:
        """Return what revisions say of turns; None for one that cannot be read: the one before it goes on."""
        found = {revision: self._known[revision] for revision in revisions if revision in self._known}
        missing = [revision for revision in revisions if revision not in found]
        for first in range(0, len(missing), _AT_ONCE):
            async with self._database.transaction() as tx:
                kept = await rota.turns_of(tx, missing[first : first + _AT_ONCE])
            found |= await asyncio.to_thread(_read, kept)
        for revision in revisions:
            self._known[revision] = found.setdefault(revision, None)
            self._known.move_to_end(revision)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return found


def _read(kept: Mapping[int, bytes]) -> dict[int, Directory | None]:
    read: dict[bytes, Directory | None] = {}
    for revision, body in kept.items():
        if body not in read:
            try:
                read[body] = rota.turns_alone(rota.directory_of(body))
            except (OSError, EOFError, zlib.error, msgspec.MsgspecError, UnicodeError) as error:
                log.error("revision cannot be read", revision=revision, why=str(error))
                read[body] = None
    return {revision: read[body] for revision, body in kept.items()}


def _era(since: datetime, directory: Directory) -> Era:
    return Era(since, directory.schedules, directory.people)


def _is_same(era: Era, directory: Directory) -> bool:
    return era.schedules == directory.schedules and era.people == directory.people
