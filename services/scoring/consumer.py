"""feedback.v1 -> scores and alerts: load, decide, save, each in a few statements for the whole batch.

Memory is changed while the transaction runs; when it does not commit, the loop makes us forget it. Owning a partition
is not owning a customer: each transaction that changes what is remembered of one moves its version on from what we
remember, before it writes anything else. Where somebody else was first, memory is forgotten and the work done again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import cast

from services.scoring.alert_publisher import AlertPublisher, TracedDecision
from services.scoring.counter import Neighbours, fresh, places_of
from services.scoring.day_end import end_day
from services.scoring.domain.counting import (
    changes,
    neighbours,
    new_answer,
)
from services.scoring.domain.customer import CustomerState
from services.scoring.domain.shift import DEFAULT_PRIOR, Prior
from services.scoring.erasing import Eraser, Erasing
from services.scoring.plans import Plans
from services.scoring.retention import Retention
from services.scoring.states import CustomerStates
from services.scoring.store import alerts, answers, counting
from shared.bus.handler import AfterCommit, Record
from shared.database.pool import Connection
from shared.directory.follower import Follower
from shared.runtime.clock import Clock
from shared.runtime.logs import Log
from shared.runtime.quarantine import judging
from shared.wire.events import FeedbackReceivedV1, Kind, RespondentErasedV1
from shared.wire.topics import ERASURES

log = Log("scoring")

_DUE = 500
"""Alerts, and customers, that one sweep looks at."""


class FeedbackHandler:
    """Counts answers and decides on alerts for the partitions that this process owns."""

    sweep_seconds: float | None
    takes: Collection[str] | None = None

    def __init__(
        self, directory: Follower, clock: Clock, erasing: Erasing, *, remembered: int, sweep_seconds: float
    ) -> None:
        """`remembered`: customers kept in memory; the others are read again when they answer."""
        self.sweep_seconds = sweep_seconds
        self.priors: Mapping[Kind, Prior] = {}
        """How the company's answers are spread, by kind."""
        self._directory = directory
        self._clock = clock
        self._plans = Plans(directory)
        self.states = CustomerStates(self._plans, remembered)
        self._eraser = Eraser(self.states, clock, erasing)
        self._neighbours = Neighbours(directory)
        self.retention = Retention(directory, self._plans, self.states)
        self._publisher = AlertPublisher(self._plans)
        directory.listen(lambda _: self._forget_plans())

    async def handle(
        self, tx: Connection, records: Sequence[Record[FeedbackReceivedV1 | RespondentErasedV1]]
    ) -> AfterCommit | None:
        """Count each answer once and tell of what it broke; forget whom we are told to, in the order that it came."""
        then: list[AfterCommit | None] = []
        for type_, some in groupby(records, attrgetter("type")):
            if type_ in ERASURES:
                await self._eraser.erase_all(tx, cast("list[Record[RespondentErasedV1]]", list(some)))
            else:
                then.append(await self._count(tx, cast("list[Record[FeedbackReceivedV1]]", list(some))))
        return _all(then)

    async def _count(self, tx: Connection, records: Sequence[Record[FeedbackReceivedV1]]) -> AfterCommit | None:
        now = self._clock.now()
        states = await self.states.of(tx, {r.message.customer: r.partition for r in records}, now)
        unseen = await fresh(tx, records, states, await self._eraser.late(tx, records, states))
        if not unseen:
            return None
        new = [new_answer(record.message) for record in unseen]
        places, added = places_of(new, states)
        new, around = await self._neighbours.around(tx, new, places)
        counted: list[counting.Counted] = []
        told: list[TracedDecision] = []
        touched: dict[str, CustomerState] = {}
        async with answers.in_step(tx, states.values()):
            for record, one, place in zip(unseen, new, places, strict=True):
                answer = one.answer
                previous = following = None
                if one.voter is not None:
                    others = around[place, one.voter]
                    previous, following = neighbours(one.dated, others)
                    others.append(one.dated)
                made = changes(one, previous, following)
                for change in made:
                    counted.append((place, change))  # noqa: PERF401 (usually one: a comprehension costs more)
                state = touched[answer.customer] = states[answer.customer]
                prior = self.priors.get(answer.kind, DEFAULT_PRIOR)
                decisions = state.take(self._plans.of(state), one, previous, made, now, prior)
                if decisions:
                    told += [(decision, record.traceparent) for decision in decisions]
        await answers.save_customers(tx, touched.values())
        await answers.add_series(tx, added)
        await answers.store_answers(tx, new, places)
        await counting.count(tx, counted)
        return await self._publisher.publish(tx, told, states, now)

    async def sweep(self, tx: Connection, partitions: Sequence[int], limit: int | None = None) -> AfterCommit | None:
        """Look at the open alerts, and at the customers, that are due by time alone.

        `limit`: at so many customers at the most, and at nothing else. Raises Undecidable for what is wrong with one.
        """
        now = self._clock.now()
        then = [await self.retention.delete_old(tx, partitions, now) if limit is None else None]
        due = await alerts.due_alerts(tx, now, partitions, limit or _DUE)
        owned = {row.alert.customer: row.partition for row in due}
        quiet = await answers.due_customers(tx, now, partitions, _DUE if limit is None else limit - len(owned))
        owned |= quiet
        with judging("customers", owned):
            then.append(await self._look(tx, due, list(quiet), owned, now))
        return _all(then)

    async def _look(
        self,
        tx: Connection,
        due: Sequence[alerts.StoredAlert],
        quiet: Sequence[str],
        owned: dict[str, int],
        now: datetime,
    ) -> AfterCommit | None:
        """Look at alerts that are due, and at customers. `owned`: all of these customers, with their partitions."""
        if not owned:
            return None
        states = await self.states.of(tx, owned, now)
        told: list[TracedDecision] = []
        async with answers.in_step(tx, states.values()):
            for row in due:
                state, alert = states[row.alert.customer], row.alert
                if alert.answer is None and state.alerts.get(alert.dedup_key) != alert:
                    raise answers.StaleCustomer(1, len(states))  # changed before we had the customer, or while away
                told.append((state.review(self._plans.of(state), alert, now), row.traceparent))
            for customer in quiet:
                state = states[customer]
                told += [(decision, None) for decision in state.review_silences(self._plans.of(state), now)]
        await answers.save_customers(tx, states.values())
        if (revision := self._directory.current) is not None:
            await end_day(tx, [states[customer] for customer in quiet], revision.directory, now)
        return await self._publisher.publish(tx, told, states, now)

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop the customers that were last counted or looked at by these partitions."""
        self.states.forget(partitions)

    def _forget_plans(self) -> None:
        self._plans.forget()
        self.states.forget_plans()


def _all(then: Sequence[AfterCommit | None]) -> AfterCommit | None:
    wanted = [one for one in then if one is not None]

    def each() -> None:
        for one in wanted:
            one()

    return each if wanted else None
