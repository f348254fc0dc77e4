"""What is too old goes, some at a time: answers, what was counted of them, and alerts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from services.scoring.domain.counting import hour_time, window_start
from services.scoring.plans import Plans
from services.scoring.states import CustomerStates
from services.scoring.store import retention
from shared.bus.handler import AfterCommit
from shared.database.pool import Connection
from shared.directory.follower import Follower
from shared.runtime.logs import Log
from shared.runtime.quarantine import judging

log = Log("scoring")

_LOOKED = 1_000
"""Customers that are looked at, in one sweep, for what is too old."""
_OLD = 5_000
"""Answers that one sweep deletes, but that it leaves no hour half."""
_OLD_AGAIN = timedelta(hours=1)


class Retention:
    """Deletes what is older than the directory keeps."""

    def __init__(self, directory: Follower, plans: Plans, states: CustomerStates) -> None:
        self._directory = directory
        self._plans = plans
        self._states = states
        self.old_at = datetime.min.replace(tzinfo=UTC)
        """When something may be too old again."""
        self._old_after = 0
        """The last customer that was looked at."""

    async def delete_old(self, tx: Connection, partitions: Sequence[int], now: datetime) -> AfterCommit | None:
        """Delete what is older than the directory keeps, of some customers at a time, and of one customer some.

        Nothing goes that a window of a rule in force, or the one before it, can hold: where the directory keeps less
        than that, such answers stay until no window has them, so that no figure changes by what is deleted. Only the
        partition's owner deletes, inside the fence, and moves the customer's version: nobody counts for it meanwhile.
        """
        revision = self._directory.current
        if revision is None or now < self.old_at:
            return None
        window, cooldown = self._plans.longest(revision)
        keep = max(revision.directory.retention, window)
        before = retention.Before(hour_time(window_start(now, keep)), hour_time(window_start(now, max(keep, cooldown))))
        looked = await retention.look(tx, self._old_after, partitions, before, _LOOKED)
        left, reached, again = _OLD, self._old_after, self.old_at
        for customer in looked:
            if customer.old:
                with judging("customers", [customer.name]):
                    dropped = await retention.drop(tx, customer, before, left)
                left -= dropped.count
                self._keep_up(customer, dropped)
                if left <= 0:
                    break  # the rest of this customer, and those after it, the next time
            reached = customer.number
        else:
            if len(looked) < _LOOKED:
                reached, again = 0, now + _OLD_AGAIN

        def go_on() -> None:
            self._old_after, self.old_at = reached, again
            if left < _OLD:
                log.info("old answers and alerts deleted", count=_OLD - left)

        return go_on

    def _keep_up(self, customer: retention.Looked, dropped: retention.Dropped) -> None:
        """Go along with what was deleted of a customer, or forget it."""
        state = self._states.kept(customer.name)
        if state is None:
            return
        stale = state.version + 1 != dropped.version
        # It was not moved for long: what it would take away when it moves is no longer counted anywhere.
        behind = any(window.start < dropped.hour for window in (*state.hours.values(), *state.before.values()))
        if stale or behind:
            self._states.drop(customer.name)
        else:
            state.version, state.partition = dropped.version, customer.partition
