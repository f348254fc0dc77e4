"""Leaves a desk alone that fails again and again; what it refuses of one ticket is no failure of the desk."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from services.ticketing.desks import Failed
from services.ticketing.desks.api import SEES_NOTHING
from services.ticketing.store import desks
from services.ticketing.token_bucket import TokenBucket
from shared.database.pool import Database
from shared.runtime.logs import Log
from shared.runtime.retry import Backoff

log = Log("ticketing")

_TROUBLE = 5
"""Failures in a row after which a desk is left alone."""
_PAUSE = Backoff(15, 120)


class Circuit:
    """How one desk does, as the database has it for whoever works for the desk."""

    def __init__(self, database: Database, desk: str, budget: TokenBucket) -> None:
        self._database = database
        self._desk = desk
        self._budget = budget
        self._failures = 0
        self._error: str | None = None
        self._opened = False
        """In this turn: what else fails in it failed of the same."""
        self._storing = asyncio.Lock()
        """What is counted last is stored last: tickets that fail at once store at once."""

    def begin(self, turn: desks.DeskState) -> None:
        """Go on from how the desk did."""
        self._failures, self._error, self._opened = turn.failures, turn.error, False

    @property
    def is_blind(self) -> bool:
        """Whether the desk was last seen to show our account nothing."""
        return self._error is not None and self._error.startswith(SEES_NOTHING)

    async def failed(self, failed: Failed, now: datetime) -> None:
        """Count a failure; after several in a row leave the desk alone for a while."""
        log.warning("desk failed", desk=self._desk, kind=failed.kind, why=failed.detail)
        if failed.kind == "limited" or failed.retry_after is not None:
            self._budget.hold(failed.retry_after or 10.0)
        if failed.kind == "limited":
            return
        async with self._storing:
            if self._opened:
                return
            self._error = failed.detail
            closed_until = None
            if failed.kind != "blind":  # all of them may be deleted: what is new is not kept waiting
                self._failures += 1
                if self._failures >= _TROUBLE:
                    self._opened = True
                    closed_until = now + timedelta(seconds=_PAUSE.delay(self._failures - _TROUBLE + 1))
            async with self._database.transaction() as tx:
                await desks.health(tx, self._desk, self._failures, closed_until, failed.detail)

    async def well(self) -> None:
        """Forget the failures: the desk did what it was asked."""
        async with self._storing:
            if self._failures == 0 and self._error is None:
                return
            self._failures, self._error = 0, None
            async with self._database.transaction() as tx:
                await desks.health(tx, self._desk, 0, None, None)
