"""One customer's past answers, given to the rules again: what they would have told, and when. No store, no clock."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from services.scoring.domain.counting import (
    DAY,
    HOUR,
    WIDTH,
    Change,
    DatedScore,
    Series,
    changes,
    neighbours,
    new_answer,
    window_start,
)
from services.scoring.domain.customer import CustomerState, midnight_after
from services.scoring.domain.decide import Alert, Decision
from services.scoring.domain.plan import Plan
from services.scoring.domain.shift import DEFAULT_PRIOR, Prior
from services.scoring.domain.votes import vote_of
from services.scoring.domain.windows import ExactWindow, HourWindow, Judged
from shared.directory.model import REVOTE_AFTER
from shared.rules.base import OnWindow
from shared.wire.events import FeedbackReceivedV1


class DatedDecision(NamedTuple):
    """What the rules would have told, and when."""

    at: datetime
    decision: Decision


class Replay:
    """Takes one customer's answers in the order in which they were given."""

    def __init__(
        self, customer: str, rules: Plan, prior: Prior = DEFAULT_PRIOR, *, revote_after: int = REVOTE_AFTER
    ) -> None:
        self._rules = rules
        self._revote_after = revote_after
        self._prior = prior
        self._state = CustomerState(customer, 0, 0, datetime.min.replace(tzinfo=UTC))
        self._buckets: dict[int, dict[Series, list[float]]] = {}
        self._hours: list[int] = []
        self._replaced: list[tuple[Series, Change]] = []
        self._said: dict[tuple[Series, str], list[DatedScore]] = {}
        self._next: dict[int, int] = {}
        """By window: the place in `_hours` of the first that is inside."""
        self._single: list[tuple[datetime, int, Alert]] = []
        self._hour = -1
        self._enough = 500
        """Hours at which to look which are past."""

    def take(self, answer: FeedbackReceivedV1) -> list[DatedDecision]:
        """Let time pass until the answer, then take it; it counts as received when it was given."""
        now = answer.occurred_at
        state = self._state
        if self._hour < 0:
            state.due_at = midnight_after(now)
        due = state.due_at <= now or state.alerts or self._single
        told = list(self.until(now)) if due else []
        self._move(now)
        new = new_answer(answer, now)
        previous = following = None
        if new.voter is None and answer.device is not None:
            vote = vote_of(new, self._revote_after, lambda vote: self._last(new.series, vote))
            new = msgspec.structs.replace(new, voter=vote)
        if new.voter is not None:
            others = self._said.setdefault((new.series, new.voter), [])
            previous, following = neighbours(new.dated, others)
            others[:] = [new.dated] if following is None else [*others, new.dated]
        made = changes(new, previous, following)
        for change in made:
            self._count(new.series, change)
        for decision in state.take(self._rules, new, previous, made, now, self._prior):
            if decision.alert.answer is not None:
                heapq.heappush(self._single, (decision.alert.due_at, len(self._single), decision.alert))
            told.append(DatedDecision(now, decision))
        return told

    def _last(self, series: Series, vote: str) -> DatedScore | None:
        return max(self._said.get((series, vote), ()), default=None)

    def until(self, now: datetime) -> Iterator[DatedDecision]:
        """Let time pass: alerts clear, silence is heard."""
        state = self._state
        while self._hour >= 0:
            due = state.due_at
            if self._single and self._single[0][0] < due:
                due = self._single[0][0]
            alert = min(state.alerts.values(), key=lambda alert: alert.due_at) if state.alerts else None
            if alert is not None and alert.due_at < due:
                due = alert.due_at
            if due > now:
                return
            if self._single and self._single[0][0] == due:
                yield DatedDecision(due, state.review(self._rules, heapq.heappop(self._single)[2], due))
            elif alert is not None and alert.due_at == due:
                self._move(due)
                decision = state.review(self._rules, alert, due)
                if decision.event == "deferred":
                    self._defer(decision.alert)
                else:
                    yield DatedDecision(due, decision)
            else:
                yield from (DatedDecision(due, decision) for decision in state.review_silences(self._rules, due))

    def _defer(self, alert: Alert) -> None:
        """Look again when something leaves the window: until then time alone changes nothing."""
        rule = self._rules.rules.get(alert.rule)
        if rule is None or not isinstance(rule.when, OnWindow) or rule.when.seconds < DAY or rule.when.compares:
            return
        place = self._next[rule.when.seconds]
        if place < len(self._hours):
            leaves = datetime.fromtimestamp((self._hours[place] + 1) * HOUR + rule.when.seconds, UTC)
            if leaves > alert.due_at:
                self._state.alerts[alert.dedup_key] = replace(alert, due_at=leaves)

    def _count(self, series: Series, change: Change) -> None:
        hour = change.hour
        if change.until is not None:
            if self._rules.compared:
                self._replaced.append((series, change))
            return
        bucket = self._buckets.get(hour)
        if bucket is None:
            bucket = self._buckets[hour] = {}
            if self._hours and hour < self._hours[-1]:
                insort(self._hours, hour)
                self._next = {length: place + (hour < self._start(length)) for length, place in self._next.items()}
            else:
                self._hours.append(hour)
        counts = bucket.get(series)
        if counts is None:
            counts = bucket[series] = [0] * WIDTH
        counts[change.category] += change.by
        counts[-1] += change.amount

    def _start(self, length: int) -> int:
        return self._state.hours[length].start

    def _move(self, now: datetime) -> None:
        """Move every window to now, as its owner does from the store."""
        state, rules = self._state, self._rules
        for length in rules.exact_lengths:
            window = state.exact.get(length)
            since = now - timedelta(seconds=length)
            if window is None:
                window = state.exact[length] = ExactWindow(since)
            window.move(since)
        seconds = int(now.timestamp())
        hour = seconds // HOUR
        if hour == self._hour:
            return
        self._hour = hour
        hours = self._hours
        for length, judged in rules.hour_lengths.items():
            start = (seconds - length) // HOUR
            window = state.hours.get(length)
            if window is None:
                window = state.hours[length] = HourWindow(judged, start)
                self._next[length] = 0
            place = self._next[length]
            while place < len(hours) and hours[place] < start:
                for series, counts in self._buckets[hours[place]].items():
                    window.add(series, counts, -1)
                place += 1
            self._next[length] = place
            window.start = start
        for length in rules.compared:
            after = window_start(now, length)
            state.before[length] = self._before(rules.hour_lengths[length], after - length // HOUR, after)
        self._drop()

    def _before(self, judged: frozenset[Judged], first: int, after: int) -> HourWindow:
        window = HourWindow(judged, first, after)
        for hour in self._hours[bisect_left(self._hours, first) : bisect_left(self._hours, after)]:
            for series, counts in self._buckets[hour].items():
                window.add(series, counts, 1)
        for series, change in self._replaced:
            window.apply(series, [change])
        return window

    def _drop(self) -> None:
        """Forget the hours that no window can hold any more, now and then."""
        if len(self._hours) < self._enough:
            return
        if not self._rules.hour_lengths:
            reach = self._hour
        else:
            longest = max(self._rules.hour_lengths)
            reach = self._hour - (2 if self._rules.compared else 1) * longest // HOUR - 2
        gone = bisect_left(self._hours, reach)
        if gone:
            for hour in self._hours[:gone]:
                del self._buckets[hour]
            del self._hours[:gone]
            self._next = {length: max(0, place - gone) for length, place in self._next.items()}
            self._replaced = [(series, change) for series, change in self._replaced if change.hour >= reach]
        self._enough = len(self._hours) + 500
