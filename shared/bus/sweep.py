"""What is due by time alone, for partitions whose records are all done: one transaction, fenced like a batch."""

from __future__ import annotations

from collections.abc import Mapping

from shared.bus.handler import Handler
from shared.bus.offsets import Offsets
from shared.database.pool import Database
from shared.errors import Transient
from shared.runtime.progress import Progress
from shared.runtime.quarantine import Quarantine, Undecidable


class Sweeper:
    """Has a handler do what is due; a row that cannot be decided is set aside, and keeps no other waiting."""

    def __init__(self, database: Database, offsets: Offsets, handler: Handler, progress: Progress) -> None:
        self._database = database
        self._offsets = offsets
        self._handler = handler
        self._progress = progress
        self._quarantine = Quarantine(database)
        self._singly = 0
        """How many more rows are swept one by one, because one of them is at fault."""
        self.waits = False
        """The last sweep could not be done: records may flow, and yet not all of the work is done."""

    @property
    def goes_on(self) -> bool:
        """Whether to sweep again at once: rows are taken one by one."""
        return self._singly > 0

    async def sweep(self, caught_up: Mapping[int, int]) -> None:
        """Sweep partitions, each with the offset up to which its records are done."""
        partitions = list(caught_up)
        if not partitions:
            return
        try:
            async with self._database.transaction() as tx:
                # What is lost went on elsewhere; the next batch of that partition finds out and repositions.
                lost = await self._offsets.claim(tx, {p: (offset, offset) for p, offset in caught_up.items()})
                owned = [p for p in partitions if p not in lost]
                limit = 1 if self._singly else None
                after = await self._handler.sweep(tx, owned, limit) if owned else None
        except Undecidable as error:
            self._handler.forget(partitions)
            await self._set_aside(error)
            return
        except Transient as error:
            self._handler.forget(partitions)
            self.waits = True
            self._progress.waits(error)
            return
        self.waits = False
        self._singly = max(0, self._singly - 1)
        self._quarantine.went_well()
        if after is not None:
            after()

    async def _set_aside(self, error: Undecidable) -> None:
        """Set the row at fault aside, or look for it among several by sweeping one at a time."""
        if len(error.keys) > 1:
            self._singly = len(error.keys)
            return
        try:
            await self._quarantine.set_aside(error.queue, error.keys[0], error.__cause__ or error)
        except Transient as away:
            self._progress.waits(away)
