"""What is remembered of customers between batches: so many of them, those that answered last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta

from services.scoring.domain.customer import CustomerState, midnight_after
from services.scoring.domain.plan import Plan
from services.scoring.plans import Plans
from services.scoring.store import alerts, answers, counting
from shared.database.pool import Connection


class CustomerStates:
    """Customers' windows, series and open alerts, read when they are needed and kept until others push them out."""

    def __init__(self, plans: Plans, remembered: int) -> None:
        """`remembered`: customers kept in memory; the others are read again when they answer."""
        self._plans = plans
        self._remembered = remembered
        self._states: OrderedDict[str, CustomerState] = OrderedDict()

    async def of(self, tx: Connection, partitions: dict[str, int], now: datetime) -> dict[str, CustomerState]:
        """Return the states of some customers, by name, every window moved to now.

        `partitions`: the customers, each with the partition by which it was claimed.
        """
        missing = {customer: p for customer, p in partitions.items() if customer not in self._states}
        if missing:
            for state in await answers.customers(tx, missing, midnight_after(now)):
                self._states[state.name] = state
            names = list(missing)
            for alert in await alerts.open_alerts(tx, names):
                self._states[alert.customer].alerts[alert.dedup_key] = alert
            await self._load_cooling(tx, [self._states[name] for name in names], now)
        states: dict[str, CustomerState] = {}
        planned: list[tuple[CustomerState, Plan]] = []
        for customer, partition in partitions.items():
            self._states.move_to_end(customer)
            state = states[customer] = self._states[customer]
            # It may be another one than the last time: `forget` must find it by what this transaction claimed.
            state.partition = partition
            planned.append((state, self._plans.of(state)))
        while len(self._states) > max(self._remembered, len(states)):
            self._states.popitem(last=False)
        async with answers.in_step(tx, states.values()):
            await counting.move_windows(tx, planned, now)
        return states

    def kept(self, customer: str) -> CustomerState | None:
        """Return what is remembered of a customer, as it was left."""
        return self._states.get(customer)

    def drop(self, customer: str) -> None:
        """Forget one customer: what is stored of it was changed."""
        self._states.pop(customer, None)

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop the customers that were last counted or looked at by these partitions."""
        gone = set(partitions)
        for customer in [c for c, state in self._states.items() if state.partition in gone]:
            del self._states[customer]

    def forget_plans(self) -> None:
        """Have every customer's plan made again: the directory is another one."""
        for state in self._states.values():
            state.rules = None

    async def _load_cooling(self, tx: Connection, states: Sequence[CustomerState], now: datetime) -> None:
        cooling = {state.name: cooldown for state in states if (cooldown := self._plans.of(state).cooldown)}
        if cooling:
            since = now - timedelta(seconds=max(cooling.values()))
            for customer, problem, trust, cleared_at in await alerts.cleared_since(tx, list(cooling), since):
                self._states[customer].cleared[problem, trust] = cleared_at
