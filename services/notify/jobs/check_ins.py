"""Reminds architects of meetings with their customers, each with a brief of one page, and says when one is overdue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from services.notify.channels import Channel
from services.notify.contact_selection import Reach
from services.notify.domain.check_in import Due, brief, first_look, look
from services.notify.domain.digest import responsible
from services.notify.store import contacts, notices, proactive
from services.notify.store.notices import StoredNotice
from shared.database.pool import Connection
from shared.directory.model import Directory
from shared.runtime.due import DueLoop
from shared.runtime.logs import Log
from shared.runtime.quarantine import judging
from shared.runtime.runtime import Runtime

log = Log("notify")

_AT_ONCE = 200


class CheckIns:
    """Looks at the customers whose next check-in is near, or overdue."""

    def __init__(self, runtime: Runtime, channels: Mapping[str, Channel], sent: Callable[[], None]) -> None:
        """`sent` is called when there is something for the sender."""
        self._database = runtime.database
        self._directory = runtime.directory
        self._channels = channels
        self._clock = runtime.clock
        self._sent = sent
        self.loop = DueLoop("notify", "check-ins", self._work, runtime.quarantine, at_once=_AT_ONCE, poll=5)

    async def plan(self, tx: Connection, directory: Directory) -> None:
        """Look after the customers that a new directory asks for."""
        now = self._clock.now()
        wanted = {
            customer.id: (now, first_look(now, customer.check_in))
            for customer in directory.customers.values()
            if customer.check_in is not None
        }
        await proactive.plan(tx, wanted)

    async def _work(self, limit: int) -> int:
        revision = self._directory.current
        if revision is None:
            return 0
        now = self._clock.now()
        async with self._database.transaction() as tx:
            due = await proactive.due(tx, now, limit)
            if not due:
                return 0
            with judging(proactive.QUEUE, [one.customer for one in due]):
                looked, told = await self._look(tx, due, revision.directory, now)
        if told:
            log.info("check-ins", reminders=told)
            self._sent()
        return looked

    async def _look(self, tx: Connection, due: Sequence[Due], directory: Directory, now: datetime) -> tuple[int, int]:
        """Return how many customers were looked at, and how many reminders came of it."""
        names = [one.customer for one in due]
        standings, held = await proactive.standings(tx, names), await proactive.last(tx, names)
        told: list[StoredNotice] = []
        looked: list[Due] = []
        for one in due:
            customer = directory.customers.get(one.customer)
            if customer is None or customer.check_in is None:
                continue  # the next plan forgets it
            after, reminder = look(one, customer.check_in, now)
            looked.append(after)
            person = responsible(directory, customer, now)
            if reminder is not None and person is not None:
                words = brief(customer, reminder, standings.get(customer.id), held.get(customer.id))
                told.append(notices.new(person.id, reminder.kind, words, now))
        await proactive.looked(tx, looked)
        reach = Reach(directory, self._channels, await contacts.stopped(tx))
        await reach.tell(tx, told, now)
        return len(looked), len(told)
