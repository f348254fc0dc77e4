"""One customer's state in the memory of its partition's owner, and what a new answer makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from services.scoring.domain.counting import DAY, Change, Said, Series, category_of, series_of
from services.scoring.domain.decide import (
    Alert,
    Decision,
    Tally,
    decide_answer,
    decide_by_time,
    decide_window,
    dedup_key,
    is_cooling,
)
from services.scoring.domain.rules import is_best, kind_of, window_of
from services.scoring.domain.windows import ExactWindow, Gain, HourWindow, tally
from shared.directory.model import Rule
from shared.events import Audience, FeedbackReceivedV1, Kind


class Planned(NamedTuple):
    """A rule in force, with what is asked of it for every answer."""

    rule: Rule
    length: int | None
    """Window in seconds; None for a rule on a single answer."""
    of_touchpoint: bool
    """It judges one touchpoint by itself."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A customer's rules, sorted by what they need."""

    by_kind: Mapping[tuple[Kind, Audience], tuple[Planned, ...]]
    hour_lengths: tuple[int, ...]
    """Windows of a day or more, in seconds: kept in whole hours."""
    exact_lengths: tuple[int, ...]
    """Shorter ones, kept to the second."""
    cooldown: int
    """The longest cooldown, in seconds."""

    def rule(self, name: str) -> Rule | None:
        """Return a rule in force by its name."""
        return next((p.rule for planned in self.by_kind.values() for p in planned if p.rule.name == name), None)


def _planned(rule: Rule) -> Planned:
    return Planned(rule, window_of(rule.when), rule.per_touchpoint or rule.touchpoint is not None)


def plan(rules: Sequence[Rule]) -> Plan:
    """Sort the rules in force."""
    by_kind: dict[tuple[Kind, Audience], list[Planned]] = {}
    for rule in rules:
        by_kind.setdefault((kind_of(rule.when), rule.audience), []).append(_planned(rule))
    lengths = sorted({length for rule in rules if (length := window_of(rule.when)) is not None})
    return Plan(
        by_kind={key: tuple(planned) for key, planned in by_kind.items()},
        hour_lengths=tuple(length for length in lengths if length >= DAY),
        exact_lengths=tuple(length for length in lengths if length < DAY),
        cooldown=max((rule.cooldown for rule in rules), default=0),
    )


@dataclass(slots=True)
class CustomerState:
    """What the owner remembers; all of it can be read again from the store."""

    partition: int
    series: dict[Series, int]
    """Ids of the customer's series."""
    hours: dict[int, HourWindow] = field(default_factory=dict[int, HourWindow])
    """By length in seconds."""
    exact: dict[int, ExactWindow] = field(default_factory=dict[int, ExactWindow])
    alerts: dict[str, Alert] = field(default_factory=dict[str, Alert])
    """Open alerts of rules on a window, by dedup_key."""
    cleared: dict[str, datetime] = field(default_factory=dict[str, datetime])
    """When problems cleared whose rules have a cooldown."""

    def tally(self, planned: Planned, touchpoint: str | None) -> Tally:
        """Return what a rule on a window looks at now; `touchpoint` is the one it judges, if it judges one."""
        rule, length, of_touchpoint = planned
        assert length is not None
        window = self.hours.get(length) or self.exact.get(length)
        return tally(
            {} if window is None else window.counts,
            kind=kind_of(rule.when),
            audience=rule.audience,
            touchpoints=(touchpoint,) if of_touchpoint else None,
        )

    def take(
        self, rules: Plan, answer: FeedbackReceivedV1, said: Said, changes: Sequence[Change], now: datetime
    ) -> list[Decision]:
        """Count an answer and decide what follows from it."""
        series = series_of(answer)
        gains = {length: window.apply(series, changes) for length, window in self.hours.items()}
        for length, window in self.exact.items():
            gains[length] = window.add(series, answer.respondent, said)
        decisions: list[Decision] = []
        category = category_of(answer.kind, answer.score)
        for planned in rules.by_kind.get((answer.kind, answer.audience), ()):
            rule, length, _ = planned
            if rule.touchpoint is not None and rule.touchpoint != answer.touchpoint:
                continue
            if length is None:
                decision = decide_answer(rule, answer, now)
            elif category is None or not gains.get(length):
                continue
            else:
                decision = self._take_window(planned, answer, category, gains[length], now)
            if decision is not None and not self._cools(rule, decision, now):
                self.remember(decision)
                decisions.append(decision)
        return decisions

    def _cools(self, rule: Rule, decision: Decision, now: datetime) -> bool:
        opened = decision.happening == "opened"
        return opened and is_cooling(rule, self.cleared.get(decision.alert.dedup_key), now)

    def _take_window(
        self, planned: Planned, answer: FeedbackReceivedV1, category: int, gains: Sequence[Gain], now: datetime
    ) -> Decision | None:
        rule = planned.rule
        touchpoint = answer.touchpoint if rule.per_touchpoint else rule.touchpoint
        alert = self.alerts.get(dedup_key(answer.customer, rule, touchpoint)) if self.alerts else None
        if alert is None and len(gains) == 1 and is_best(rule.when, category):
            return None  # most answers: nothing to sum up
        sums = self.tally(planned, touchpoint)
        before = sums.total
        for changed, by in gains:
            before[changed] -= by
        return decide_window(rule, answer, category, before, sums, alert, now)

    def look(self, rules: Plan, alert: Alert, now: datetime) -> Decision:
        """Decide on an alert that is due by time alone."""
        rule = rules.rule(alert.rule)
        single = alert.answer is not None
        if rule is not None and single != (window_of(rule.when) is None):
            rule = None  # the name now belongs to a rule of another sort
        decision = decide_by_time(
            rule, None if single or rule is None else self.tally(_planned(rule), alert.touchpoint), alert, now
        )
        self.remember(decision)
        return decision

    def remember(self, decision: Decision) -> None:
        """Take over what a decision made of an alert."""
        alert = decision.alert
        if decision.happening == "cleared":
            self.cleared[alert.dedup_key] = alert.updated_at
        if alert.answer is not None:
            return  # a rule on a single answer opens one alert each; none of them changes what follows
        if decision.happening == "cleared":
            self.alerts.pop(alert.dedup_key, None)
        else:
            self.alerts[alert.dedup_key] = alert
