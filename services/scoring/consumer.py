"""feedback.v1 -> scores and alerts: load, decide, save, each in a few statements for the whole batch.

Memory is changed while the transaction runs; when it does not commit, the loop makes us forget it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from services.scoring import store
from services.scoring.domain.counting import DAY, WIDTH, Change, Said, Series, changes, series_of, window_start
from services.scoring.domain.customer import CustomerState, Plan, plan
from services.scoring.domain.decide import Decision
from services.scoring.domain.report import alert_message, alert_scores
from services.scoring.domain.rules import kind_of, window_of
from services.scoring.domain.windows import ExactWindow, HourWindow
from shared import metrics, outbox
from shared.clock import Clock
from shared.consume import AfterCommit, Record
from shared.db import Connection
from shared.directory.follower import Follower
from shared.events import AlertV1, FeedbackReceivedV1
from shared.kafka import Outgoing, cloud_event
from shared.logs import Log, tracing
from shared.topics import ALERTS

log = Log("scoring")

_FAR = 2**31 - 1
_DUE = 500
SCORES_WINDOW = 30 * DAY

Told = tuple[Decision, str | None]
"""A decision and the trace of the answer that led to it."""


class FeedbackHandler:
    """Counts answers and decides on alerts for the partitions that this process owns."""

    sweep_seconds: float | None

    def __init__(self, directory: Follower, clock: Clock, *, remembered: int, sweep_seconds: float) -> None:
        """`remembered`: customers kept in memory; the others are read again when they answer."""
        self.sweep_seconds = sweep_seconds
        self._directory = directory
        self._clock = clock
        self._remembered = remembered
        self._states: OrderedDict[str, CustomerState] = OrderedDict()
        self._plans: dict[str, Plan] = {}
        self._company_plan: Plan | None = None
        directory.listen(lambda _: self._forget_plans())

    async def handle(self, tx: Connection, records: Sequence[Record[FeedbackReceivedV1]]) -> AfterCommit | None:
        """Count each answer once and tell of what it broke."""
        now = self._clock.now()
        fresh = await self._fresh(tx, records)
        if not fresh:
            return None
        states = await self._states_of(tx, {r.message.customer: r.partition for r in fresh}, now)
        ids = await self._series_ids(tx, fresh, states)
        latest = await self._latest(tx, fresh, ids)
        await store.store_answers(tx, [r.message for r in fresh], ids)
        counted: list[tuple[int, Change]] = []
        told: list[Told] = []
        for record, series in zip(fresh, ids, strict=True):
            answer = record.message
            said = Said(answer.occurred_at, answer.received_at, answer.id, answer.score)
            made = self._changes(answer, said, series, latest)
            counted += [(series, change) for change in made]
            decisions = states[answer.customer].take(self._plan(answer.customer), answer, said, made, now)
            told += [(decision, record.traceparent) for decision in decisions]
        await store.count(tx, counted)
        return await self._tell(tx, told, states, now)

    async def sweep(self, tx: Connection, partitions: Sequence[int]) -> AfterCommit | None:
        """Look at the open alerts that are due by time alone."""
        now = self._clock.now()
        due = await store.due_alerts(tx, now, partitions, _DUE)
        if not due:
            return None
        partition_of = {row.alert.customer: row.partition for row in due}
        states = await self._states_of(tx, partition_of, now)
        told = [
            (states[row.alert.customer].look(self._plan(row.alert.customer), row.alert, now), row.traceparent)
            for row in due
        ]
        return await self._tell(tx, told, states, now)

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop the customers of these partitions."""
        gone = set(partitions)
        for customer in [c for c, state in self._states.items() if state.partition in gone]:
            del self._states[customer]

    # ---- load

    async def _fresh(
        self, tx: Connection, records: Sequence[Record[FeedbackReceivedV1]]
    ) -> list[Record[FeedbackReceivedV1]]:
        """Leave out what was counted before, or comes twice in this batch: the first one wins."""
        known = await store.known_ids(tx, [r.message.id for r in records])
        fresh: list[Record[FeedbackReceivedV1]] = []
        for record in records:
            key = (record.message.id, record.message.customer)
            if key not in known:
                known.add(key)
                fresh.append(record)
        return fresh

    async def _states_of(self, tx: Connection, partitions: dict[str, int], now: datetime) -> dict[str, CustomerState]:
        """Return the states of some customers, every window moved to now."""
        missing = [customer for customer in partitions if customer not in self._states]
        if missing:
            series = await store.series_of_customers(tx, missing)
            for customer in missing:
                self._states[customer] = CustomerState(partitions[customer], series[customer])
            for alert in await store.open_alerts(tx, missing):
                self._states[alert.customer].alerts[alert.dedup_key] = alert
            await self._load_cooling(tx, missing, now)
        states = {customer: self._states[customer] for customer in partitions}
        for customer in partitions:
            self._states.move_to_end(customer)
        while len(self._states) > max(self._remembered, len(states)):
            self._states.popitem(last=False)
        await self._move_hours(tx, states, now)
        await self._move_exact(tx, states, now)
        return states

    async def _load_cooling(self, tx: Connection, customers: Sequence[str], now: datetime) -> None:
        cooling = [customer for customer in customers if self._plan(customer).cooldown]
        if cooling:
            since = now - timedelta(seconds=max(self._plan(customer).cooldown for customer in cooling))
            for customer, problem, cleared_at in await store.cleared_since(tx, cooling, since):
                self._states[customer].cleared[problem] = cleared_at

    async def _move_hours(self, tx: Connection, states: dict[str, CustomerState], now: datetime) -> None:
        """Build windows that are new and slide those whose first hour is past, in one statement."""
        asked: list[store.Hours] = []
        then: list[tuple[HourWindow, Series, int]] = []
        starts: dict[int, int] = {}
        for customer, state in states.items():
            for length in self._plan(customer).hour_lengths:
                start = starts.get(length)
                if start is None:
                    start = starts[length] = window_start(now, length)
                window = state.hours.get(length)
                if window is not None and window.start >= start:
                    continue
                sign, first, after = 1, start, _FAR
                if window is None:
                    window = state.hours[length] = HourWindow(start, {s: [0] * WIDTH for s in state.series})
                else:
                    sign, first, after = -1, window.start, start
                    window.start = start
                for series in window.counts:
                    asked.append((state.series[series], first, after))
                    then.append((window, series, sign))
        for sums, (window, series, sign) in zip(await store.sum_hours(tx, asked), then, strict=True):
            window.add(series, sums, sign)

    async def _move_exact(self, tx: Connection, states: dict[str, CustomerState], now: datetime) -> None:
        asked: list[tuple[int, datetime]] = []
        then: list[tuple[ExactWindow, Series]] = []
        for customer, state in states.items():
            for length in self._plan(customer).exact_lengths:
                since = now - timedelta(seconds=length)
                window = state.exact.get(length)
                if window is None:
                    window = state.exact[length] = ExactWindow(since)
                    for series, id_ in state.series.items():
                        asked.append((id_, since))
                        then.append((window, series))
                window.move(since)
        for answers, (window, series) in zip(await store.recent(tx, asked), then, strict=True):
            for answer in answers:
                window.add(series, answer.respondent, answer.said)

    async def _series_ids(
        self, tx: Connection, fresh: Sequence[Record[FeedbackReceivedV1]], states: dict[str, CustomerState]
    ) -> list[int]:
        keys = [(r.message.customer, series_of(r.message)) for r in fresh]
        new = {key for key in keys if key[1] not in states[key[0]].series}
        if new:
            for (customer, series), id_ in (await store.add_series(tx, new)).items():
                states[customer].series[series] = id_
        return [states[customer].series[series] for customer, series in keys]

    async def _latest(
        self, tx: Connection, fresh: Sequence[Record[FeedbackReceivedV1]], ids: Sequence[int]
    ) -> dict[tuple[int, str], Said]:
        asked = {
            (series, respondent)
            for record, series in zip(fresh, ids, strict=True)
            if (respondent := record.message.respondent) is not None
        }
        return await store.latest_of_respondents(tx, list(asked)) if asked else {}

    def _changes(
        self, answer: FeedbackReceivedV1, said: Said, series: int, latest: dict[tuple[int, str], Said]
    ) -> list[Change]:
        if answer.respondent is None:
            return changes(answer.kind, said, None)
        before = latest.get((series, answer.respondent))
        if before is None or before < said:
            latest[series, answer.respondent] = said
        return changes(answer.kind, said, before)

    # ---- save

    async def _tell(
        self, tx: Connection, told: Sequence[Told], states: dict[str, CustomerState], now: datetime
    ) -> AfterCommit | None:
        """Store what was decided and leave the messages that tell it."""
        await store.defer(tx, [d.alert for d, _ in told if d.happening == "deferred"])
        said = [(d, trace) for d, trace in told if d.happening != "deferred"]
        if not said:
            return None
        evidence = await store.evidence(tx, [self._evidence_of(d, now) for d, _ in said])
        customers = sorted({d.alert.customer for d, _ in said})
        counts = await store.window_counts(tx, customers, window_start(now, SCORES_WINDOW))
        tellings: list[store.Telling] = []
        sent: list[Outgoing] = []
        for (decision, trace), shown in zip(said, evidence, strict=True):
            customer = decision.alert.customer
            scores = alert_scores(counts[customer], decision.alert.touchpoint, self._goals(customer))
            message = alert_message(decision, shown, scores)
            tellings.append(store.Telling(decision, message, states[customer].partition, trace))
            with tracing(trace):
                sent.append(_outgoing(decision, message, now))
                log.info(
                    f"alert {decision.happening}",
                    alert=message.id,
                    problem=message.dedup_key,
                    severity=message.severity,
                    trust=message.trust,
                )
        await store.save(tx, tellings)
        await outbox.add(tx, sent)
        return lambda: _measure([d for d, _ in said])

    def _evidence_of(self, decision: Decision, now: datetime) -> store.EvidenceOf:
        alert = decision.alert
        rule = self._plan(alert.customer).rule(alert.rule)
        length = None if rule is None else window_of(rule.when)
        since = now - timedelta(seconds=length or SCORES_WINDOW)
        return store.EvidenceOf(
            customer=alert.customer,
            audience="customer" if rule is None else rule.audience,
            kind="nps" if rule is None else kind_of(rule.when),
            touchpoint=alert.touchpoint,
            since=datetime.fromtimestamp(0, since.tzinfo) if alert.answer is not None else since,
            answer=alert.answer,
        )

    # ---- rules

    def _goals(self, customer: str) -> Mapping[str, float]:
        known = self._directory.customer(customer)
        return {} if known is None else known.goals

    def _plan(self, customer: str) -> Plan:
        found = self._plans.get(customer)
        if found is None:
            revision, known = self._directory.current, self._directory.customer(customer)
            if revision is None or known is None:
                found = plan(())  # it left the directory: its answers count, and break no rule
            elif known.rules:
                found = plan(revision.directory.rules_of(known))
            else:
                found = self._company_plan = self._company_plan or plan(revision.directory.rules_of(known))
            self._plans[customer] = found
        return found

    def _forget_plans(self) -> None:
        self._plans.clear()
        self._company_plan = None


def _outgoing(decision: Decision, message: AlertV1, now: datetime) -> Outgoing:
    return cloud_event(
        ALERTS,
        f"alert.{decision.happening}",
        key=message.customer,
        id=f"{message.id}:{message.version}",
        at=now,
        message=message,
    )


def _measure(decisions: Sequence[Decision]) -> None:
    for decision in decisions:
        if decision.happening == "opened":
            metrics.ALERTS.labels(decision.alert.rule, decision.alert.severity).inc()
