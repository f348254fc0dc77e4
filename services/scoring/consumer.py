"""feedback.v1 -> scores and alerts: load, decide, save, each in a few statements for the whole batch.

Memory is changed while the transaction runs; when it does not commit, the loop makes us forget it. Owning a partition
is not owning a customer: each transaction that changes what is remembered of one moves its version on from what we
remember, before it writes anything else. Where somebody else was first, memory is forgotten and the work done again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, groupby
from operator import attrgetter
from typing import cast
from uuid import UUID

from msgspec.structs import replace

from services.scoring.domain.counting import (
    DAY,
    HOUR,
    SCORES_WINDOW,
    Arrival,
    Said,
    Series,
    arrival,
    changes,
    hour_time,
    neighbours,
    window_start,
)
from services.scoring.domain.customer import CustomerState, Plan, midnight_after, plan
from services.scoring.domain.decide import Decision
from services.scoring.domain.report import alert_message, alert_scores, without
from services.scoring.domain.shift import DEFAULT_PRIOR, Prior
from services.scoring.domain.trend import daily, day_of
from services.scoring.domain.votes import candidates, vote_of
from services.scoring.store import alerts, answers, counting, people, retention
from shared.bus import outbox
from shared.bus.client import Outgoing, cloud_event
from shared.bus.consume import AfterCommit, Record
from shared.database.pool import Connection
from shared.directory.follower import Follower, Revision
from shared.directory.model import REVOTE_AFTER
from shared.rules.base import OnWindow
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.logs import Log, tracing
from shared.runtime.quarantine import judging
from shared.wire.erasure import known_by, names, normalised, said_before, type_of
from shared.wire.events import AlertV1, ErasedV1, FeedbackReceivedV1, Kind, RespondentErasedV1, ScoreDailyV1
from shared.wire.topics import ALERTS, ERASURES

log = Log("scoring")

_DUE = 500
_LOOKED = 1_000
"""Customers that are looked at, in one sweep, for what is too old."""
_OLD = 5_000
"""Answers that one sweep deletes, but that it leaves no hour half."""
_OLD_AGAIN = timedelta(hours=1)

Told = tuple[Decision, str | None]
"""A decision and the trace of the answer that led to it."""


@dataclass(frozen=True, slots=True)
class Erasing:
    """How people are forgotten."""

    digests: Callable[[str], Sequence[str]]
    """What is kept of a respondent's name, the newest first. Raises Misconfigured without a secret."""
    keeps_counts: bool
    """Their answers stay counted, as somebody's."""


class FeedbackHandler:
    """Counts answers and decides on alerts for the partitions that this process owns."""

    sweep_seconds: float | None
    takes: Collection[str] | None = None

    def __init__(
        self, directory: Follower, clock: Clock, erasing: Erasing, *, remembered: int, sweep_seconds: float
    ) -> None:
        """`remembered`: customers kept in memory; the others are read again when they answer."""
        self.sweep_seconds = sweep_seconds
        self._erasing = erasing
        self.priors: Mapping[Kind, Prior] = {}
        """How the company's answers are spread, by kind."""
        self._directory = directory
        self._clock = clock
        self._remembered = remembered
        self._states: OrderedDict[str, CustomerState] = OrderedDict()
        self._company_plan: Plan | None = None
        self._old_at = datetime.min.replace(tzinfo=UTC)
        self._old_after = 0
        """The last customer that was looked at for what is too old."""
        self._reach: tuple[int, tuple[int, int]] | None = None
        directory.listen(lambda _: self._forget_plans())

    async def handle(
        self, tx: Connection, records: Sequence[Record[FeedbackReceivedV1 | RespondentErasedV1]]
    ) -> AfterCommit | None:
        """Count each answer once and tell of what it broke; forget whom we are told to, in the order that it came."""
        then: list[AfterCommit | None] = []
        for type_, some in groupby(records, attrgetter("type")):
            if type_ in ERASURES:
                erased = cast("list[Record[RespondentErasedV1]]", list(some))
                written = await self._spellings(tx, erased)
                for record in erased:
                    await self._erase(tx, record, written)
            else:
                then.append(await self._count(tx, cast("list[Record[FeedbackReceivedV1]]", list(some))))
        return _all(then)

    async def _count(self, tx: Connection, records: Sequence[Record[FeedbackReceivedV1]]) -> AfterCommit | None:
        now = self._clock.now()
        states = await self._states_of(tx, {r.message.customer: r.partition for r in records}, now)
        fresh = await self._fresh(tx, records, states)
        if not fresh:
            return None
        new = [arrival(record.message) for record in fresh]
        places, added = self._places(new, states)
        new, around = await self._around(tx, new, places)
        counted: list[counting.Counted] = []
        told: list[Told] = []
        touched: dict[str, CustomerState] = {}
        async with answers.in_step(tx, states.values()):
            for record, one, place in zip(fresh, new, places, strict=True):
                answer = one.answer
                previous = following = None
                if one.voter is not None:
                    others = around[place, one.voter]
                    previous, following = neighbours(one.said, others)
                    others.append(one.said)
                made = changes(one, previous, following)
                for change in made:
                    counted.append((place, change))  # noqa: PERF401 (usually one: a comprehension costs more)
                state = touched[answer.customer] = states[answer.customer]
                prior = self.priors.get(answer.kind, DEFAULT_PRIOR)
                decisions = state.take(self._plan(state), one, previous, made, now, prior)
                if decisions:
                    told += [(decision, record.traceparent) for decision in decisions]
        await answers.save_customers(tx, touched.values())
        await answers.add_series(tx, added)
        await answers.store_answers(tx, new, places)
        await counting.count(tx, counted)
        return await self._tell(tx, told, states, now)

    async def sweep(self, tx: Connection, partitions: Sequence[int], limit: int | None = None) -> AfterCommit | None:
        """Look at the open alerts, and at the customers, that are due by time alone.

        `limit`: at so many customers at the most, and at nothing else. Raises Undecidable for what is wrong with one.
        """
        now = self._clock.now()
        then = [await self._forget_old(tx, partitions, now) if limit is None else None]
        due = await alerts.due_alerts(tx, now, partitions, limit or _DUE)
        owned = {row.alert.customer: row.partition for row in due}
        quiet = await answers.due_customers(tx, now, partitions, _DUE if limit is None else limit - len(owned))
        owned |= quiet
        with judging("customers", owned):
            then.append(await self._look(tx, due, list(quiet), owned, now))
        return _all(then)

    async def _look(
        self, tx: Connection, due: Sequence[alerts.Kept], quiet: Sequence[str], owned: dict[str, int], now: datetime
    ) -> AfterCommit | None:
        """Look at alerts that are due, and at customers. `owned`: all of these customers, with their partitions."""
        if not owned:
            return None
        states = await self._states_of(tx, owned, now)
        told: list[Told] = []
        async with answers.in_step(tx, states.values()):
            for row in due:
                state, alert = states[row.alert.customer], row.alert
                if alert.answer is None and state.alerts.get(alert.dedup_key) != alert:
                    raise answers.StaleCustomer(1, len(states))  # changed before we had the customer, or while away
                told.append((state.look(self._plan(state), alert, now), row.traceparent))
            for customer in quiet:
                state = states[customer]
                told += [(decision, None) for decision in state.listen(self._plan(state), now)]
        await answers.save_customers(tx, states.values())
        await self._end_day(tx, [states[customer] for customer in quiet], now)
        return await self._tell(tx, told, states, now)

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop the customers that were last counted or looked at by these partitions."""
        gone = set(partitions)
        for customer in [c for c, state in self._states.items() if state.partition in gone]:
            del self._states[customer]

    # ---- load

    async def _fresh(
        self, tx: Connection, records: Sequence[Record[FeedbackReceivedV1]], states: Mapping[str, CustomerState]
    ) -> Sequence[Record[FeedbackReceivedV1]]:
        """Leave out what was counted before, or comes twice in this batch: the first one wins."""
        ids = [record.message.id for record in records]
        known = await answers.known_ids(tx, ids)
        erased = await self._erased(tx, records, states)
        if not known and not erased and len(set(ids)) == len(ids):
            return records  # as nearly always
        fresh: list[Record[FeedbackReceivedV1]] = []
        for record in records:
            state = states[record.message.customer]
            key = (record.message.id, state.number)
            if key not in known and key not in erased:
                known.add(key)
                fresh.append(record)
        return fresh

    async def _states_of(self, tx: Connection, partitions: dict[str, int], now: datetime) -> dict[str, CustomerState]:
        """Return the states of some customers, every window moved to now."""
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
            planned.append((state, self._plan(state)))
        while len(self._states) > max(self._remembered, len(states)):
            self._states.popitem(last=False)
        async with answers.in_step(tx, states.values()):
            await counting.move_windows(tx, planned, now)
        return states

    async def _load_cooling(self, tx: Connection, states: Sequence[CustomerState], now: datetime) -> None:
        cooling = {state.name: cooldown for state in states if (cooldown := self._plan(state).cooldown)}
        if cooling:
            since = now - timedelta(seconds=max(cooling.values()))
            for customer, problem, trust, cleared_at in await alerts.cleared_since(tx, list(cooling), since):
                self._states[customer].cleared[problem, trust] = cleared_at

    def _places(
        self, new: Sequence[Arrival], states: Mapping[str, CustomerState]
    ) -> tuple[list[answers.Place], list[tuple[int, int, Series]]]:
        """Return where each answer is counted, and the series that are new: they get the customer's next number."""
        added: list[tuple[int, int, Series]] = []
        places: list[answers.Place] = []
        for one in new:
            state = states[one.answer.customer]
            number = state.series.get(one.series)
            if number is None:
                number = state.series[one.series] = len(state.series)
                added.append((state.number, number, one.series))
            places.append(answers.place_of(state.number, number))
        return places, added

    async def _around(
        self, tx: Connection, new: Sequence[Arrival], places: Sequence[answers.Place]
    ) -> tuple[Sequence[Arrival], dict[answers.Voice, list[Said]]]:
        """Return the answers with their voters, and what those said before, as far as it is next to a new answer."""
        of_devices = [n for n, one in enumerate(new) if one.voter is None and one.answer.device is not None]
        named = [
            ((place, who), one.said) for one, place in zip(new, places, strict=True) if (who := one.voter) is not None
        ]
        around = await self._beside(tx, "respondent", named)
        if not of_devices:
            return new, around
        revision = self._directory.current
        revote_after = REVOTE_AFTER if revision is None else revision.directory.revote_after
        asked = {(places[n], vote) for n in of_devices for vote in candidates(new[n], revote_after)}
        last = await answers.latest(tx, "vote", list(asked))
        voted, votes = list(new), list[tuple[answers.Voice, Said]]()
        for n in of_devices:
            one, place = new[n], places[n]
            vote = vote_of(one, revote_after, lambda vote, place=place: last.get((place, vote)))
            voted[n] = replace(one, voter=vote)
            votes.append(((place, vote), one.said))
            last[place, vote] = max(one.said, last.get((place, vote), one.said))
        return voted, around | await self._beside(tx, "vote", votes)

    async def _beside(
        self, tx: Connection, by: answers.Voter, said: Sequence[tuple[answers.Voice, Said]]
    ) -> dict[answers.Voice, list[Said]]:
        """Return what is stored next to some answers, of the same voices."""
        around: dict[answers.Voice, list[Said]] = {voice: [] for voice, _ in said}
        latest = await answers.latest(tx, by, list(around))
        for voice, newest in latest.items():
            around[voice].append(newest)
        # Most come in order: the latest is all that they are next to.
        late = [(voice, one) for voice, one in said if voice in latest and one < latest[voice]]
        for voice, one in await answers.neighbours(tx, by, late):
            around[voice].append(one)
        return around

    # ---- forget

    async def _spellings(
        self, tx: Connection, records: Sequence[Record[RespondentErasedV1]]
    ) -> Mapping[tuple[int, str], Sequence[str]]:
        """Return how those are written who are to be forgotten, by customer's number and normalised name."""
        people_of = [record for record in records if record.message.answer is None]
        if not people_of:
            return {}
        partitions = {record.message.customer: record.partition for record in people_of}
        states = await self._states_of(tx, partitions, self._clock.now())
        asked = [(states[r.message.customer].number, r.message.respondent) for r in people_of]
        return await people.spellings(tx, asked)

    async def _erase(
        self,
        tx: Connection,
        record: Record[RespondentErasedV1],
        written: Mapping[tuple[int, str], Sequence[str]],
    ) -> None:
        """Forget a person's answers up to a moment, or one, also in what alerts show, and pass the word on."""
        wanted, now = record.message, self._clock.now()
        states = await self._states_of(tx, {wanted.customer: record.partition}, now)
        number, keeps = states[wanted.customer].number, self._erasing.keeps_counts
        if wanted.answer is None:
            wanted = replace(wanted, spellings=list(written.get((number, normalised(wanted.respondent)), ())))
            said = names(wanted)
            digest = self._erasing.digests(wanted.respondent)[0]
            removed = await people.erase(tx, number, said, before=wanted.before, digest=digest, keeps_counts=keeps)
            left = "scores, without the person" if keeps else ""
        else:
            said = [str(wanted.answer)]
            removed, named = await people.erase_answer(
                tx, number, wanted.answer, before=wanted.before, keeps_counts=keeps
            )
            left = "the score, and the respondent's name" if named else "the score" if keeps and removed else ""
        shown = await people.alerts_that_say(tx, wanted.customer, said)
        await people.scrub(tx, [without(alert, wanted) for alert in shown])
        del self._states[wanted.customer]  # its windows and answers may have changed
        line = ErasedV1(service="scoring", removed=removed, left=left)
        passed_on = replace(wanted, done=[*wanted.done, line])
        id_ = f"{wanted.erasure}:scoring"
        with tracing(record.traceparent):
            event = cloud_event(ALERTS, type_of(wanted), key=wanted.customer, id=id_, at=now, message=passed_on)
            log.info("respondent erased", erasure=wanted.erasure, removed=removed)
        await outbox.add(tx, [event])

    async def _erased(
        self, tx: Connection, records: Sequence[Record[FeedbackReceivedV1]], states: Mapping[str, CustomerState]
    ) -> set[tuple[UUID, int]]:
        """Return those of some answers that come late, of who was to be forgotten, each with its customer's number."""
        asked: list[tuple[int, str, FeedbackReceivedV1]] = []
        for answer in (record.message for record in records):
            state = states[answer.customer]
            if not state.forgets:
                continue
            asked.append((state.number, known_by(answer.id), answer))
            if answer.respondent is not None:
                asked += [(state.number, digest, answer) for digest in self._erasing.digests(answer.respondent)]
        befores = await people.tombstones(tx, [(number, known) for number, known, _ in asked])
        return {
            (answer.id, number)
            for number, known, answer in asked
            if (before := befores.get((number, known))) is not None
            and (known == known_by(answer.id) or said_before(answer.occurred_at, answer.received_at, before))
        }

    # ---- what is too old

    async def _forget_old(self, tx: Connection, partitions: Sequence[int], now: datetime) -> AfterCommit | None:
        """Delete what is older than the directory keeps, of some customers at a time, and of one customer some.

        Nothing goes that a window of a rule in force, or the one before it, can hold: where the directory keeps less
        than that, such answers stay until no window has them, so that no figure changes by what is deleted. Only the
        partition's owner deletes, inside the fence, and moves the customer's version: nobody counts for it meanwhile.
        """
        revision = self._directory.current
        if revision is None or now < self._old_at:
            return None
        window, cooldown = self._longest(revision)
        keep = max(revision.directory.retention, window)
        before = retention.Before(hour_time(window_start(now, keep)), hour_time(window_start(now, max(keep, cooldown))))
        looked = await retention.look(tx, self._old_after, partitions, before, _LOOKED)
        left, reached, again = _OLD, self._old_after, self._old_at
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
            self._old_after, self._old_at = reached, again
            if left < _OLD:
                log.info("old answers and alerts deleted", count=_OLD - left)

        return go_on

    def _keep_up(self, customer: retention.Looked, dropped: retention.Dropped) -> None:
        """Go along with what was deleted of a customer, or forget it."""
        state = self._states.get(customer.name)
        if state is None:
            return
        stale = state.version + 1 != dropped.version
        # It was not moved for long: what it would take away when it moves is no longer counted anywhere.
        behind = any(window.start < dropped.hour for window in (*state.hours.values(), *state.before.values()))
        if stale or behind:
            del self._states[customer.name]
        else:
            state.version, state.partition = dropped.version, customer.partition

    def _longest(self, revision: Revision) -> tuple[int, int]:
        """Return how far back a window in force looks, with the one before it where that is compared, and a cooldown.

        Both in seconds.
        """
        if self._reach is None or self._reach[0] != revision.number:
            known = revision.directory
            rules = list(chain(known.rules, *(customer.rules for customer in known.customers.values())))
            windows = (rule.when for rule in rules if isinstance(rule.when, OnWindow))
            longest = max((when.seconds * (2 if when.compares else 1) for when in windows), default=0)
            cooldown = max((rule.cooldown for rule in rules), default=0)
            self._reach = revision.number, (max(longest, SCORES_WINDOW), cooldown)
        return self._reach[1]

    # ---- the day's end

    async def _end_day(self, tx: Connection, states: Sequence[CustomerState], now: datetime) -> None:
        """Store the scores of the day that ended, once, and tell them."""
        revision = self._directory.current
        if revision is None:
            return
        better = {name: metric.better for name, metric in revision.directory.metrics.items()}
        day = day_of(now) - 1
        after = (day + 1) * DAY // HOUR
        first = after - SCORES_WINDOW // HOUR
        sums = await counting.sum_hours(tx, [(state.number, first, after) for state in states], replaced=True)
        points: dict[int, ScoreDailyV1] = {}
        for state, of in zip(states, sums, strict=True):
            known = revision.directory.customers.get(state.name)
            if of and known is not None:
                points[state.number] = daily(known, better, counting.by_series(state, of), day)
        new = await counting.add_points(tx, [(number, day, point) for number, point in points.items()])
        told = [points[number] for number in sorted(new)]
        await outbox.add(
            tx,
            [
                cloud_event(ALERTS, "score.daily", key=p.customer, id=f"{p.customer}:{p.day}", at=now, message=p)
                for p in told
            ],
        )

    # ---- save

    async def _tell(
        self, tx: Connection, told: Sequence[Told], states: dict[str, CustomerState], now: datetime
    ) -> AfterCommit | None:
        """Store what was decided and leave the messages that tell it."""
        last = {d.alert.id: d for d, _ in told}
        later = [d.alert for d in last.values() if d.happening == "deferred"]
        said = [(d, trace) for d, trace in told if d.happening != "deferred"]
        if not said:
            await alerts.defer(tx, later)
            return None
        evidence = await alerts.evidence(tx, [self._evidence_of(d, states[d.alert.customer], now) for d, _ in said])
        customers = sorted({d.alert.customer for d, _ in said})
        counts = await counting.window_counts(tx, customers, window_start(now, SCORES_WINDOW))
        tellings: list[alerts.Telling] = []
        sent: list[Outgoing] = []
        for (decision, trace), shown in zip(said, evidence, strict=True):
            customer = decision.alert.customer
            scores = alert_scores(counts[customer], decision.alert.touchpoint, self._goals(customer))
            message = alert_message(decision, shown, scores)
            tellings.append(alerts.Telling(decision, message, states[customer].partition, trace))
            with tracing(trace):
                sent.append(_outgoing(decision, message, now))
                log.info(
                    f"alert {decision.happening}",
                    alert=message.id,
                    problem=message.dedup_key,
                    severity=message.severity,
                    trust=message.trust,
                )
        await alerts.save(tx, tellings)
        await alerts.defer(tx, later)  # after it: one that was told and has more to tell is in both
        await outbox.add(tx, sent)
        return lambda: _measure([d for d, _ in said])

    def _evidence_of(self, decision: Decision, state: CustomerState, now: datetime) -> alerts.EvidenceOf:
        alert = decision.alert
        rule = self._plan(state).rules.get(alert.rule)
        when = None if rule is None else rule.when
        length = when.seconds if isinstance(when, OnWindow) else SCORES_WINDOW
        return alerts.EvidenceOf(
            customer=alert.customer,
            audience="customer" if rule is None else rule.audience,
            kind=None if when is None else when.kind,
            metric=None if when is None else when.metric,
            touchpoint=alert.touchpoint,
            since=now - timedelta(seconds=length),
            answer=alert.answer,
        )

    # ---- rules

    def _goals(self, customer: str) -> Mapping[str, float]:
        known = self._directory.customer(customer)
        return {} if known is None else known.goals

    def _plan(self, state: CustomerState) -> Plan:
        if state.rules is None:
            state.rules = self._plan_of(state.name)
        return state.rules

    def _plan_of(self, customer: str) -> Plan:
        revision, known = self._directory.current, self._directory.customer(customer)
        if revision is None or known is None:
            return _NO_RULES  # it left the directory: its answers count, and break no rule
        if known.rules:
            return plan(revision.directory.rules_of(known))
        if self._company_plan is None:
            self._company_plan = plan(revision.directory.rules_of(known))
        return self._company_plan

    def _forget_plans(self) -> None:
        self._company_plan = None
        for state in self._states.values():
            state.rules = None


_NO_RULES = plan(())


def _all(then: Sequence[AfterCommit | None]) -> AfterCommit | None:
    wanted = [one for one in then if one is not None]

    def each() -> None:
        for one in wanted:
            one()

    return each if wanted else None


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
