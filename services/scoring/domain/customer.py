"""One customer's state in the memory of its partition's owner, and what a new answer makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import msgspec

from services.scoring.domain.counting import DAY, Change, DatedScore, NewAnswer, Series
from services.scoring.domain.decide import (
    Alert,
    Decision,
    WindowCounts,
    age_of,
    clear_alert,
    decide_by_time,
    decide_window,
    dedup_key,
    explain,
    is_cooling,
    is_repeated,
    next_review,
    open_alert,
    open_for_answer,
)
from services.scoring.domain.plan import Plan, Planned, Watched, planned_of
from services.scoring.domain.sequences import NEWS_AFTER, decide_sequence, learn, pair_for, settled
from services.scoring.domain.shift import DEFAULT_PRIOR, Detector, Prior
from services.scoring.domain.silence import Pulse
from services.scoring.domain.windows import ExactWindow, HourWindow, View
from shared.directory.model import Rule
from shared.rules.base import OnTime, OnWindow
from shared.wire.events import Trust


class Memory(msgspec.Struct, array_like=True):
    """What is kept of a customer beside its counts: what the answers' order and times have told."""

    pulses: dict[str, Pulse] = {}
    """By dedup_key of a rule on silence."""
    detectors: dict[str, Detector] = {}
    """By dedup_key of a rule on a sequence; with `#verified` of verified answers alone, once there were others."""


@dataclass(slots=True)
class CustomerState:
    """What the owner remembers; all of it can be read again from the store."""

    name: str
    partition: int
    """By which it was last counted or looked at."""
    number: int
    """What the store calls it."""
    due_at: datetime
    """When to look at it without an answer: for the daily scores, and silence."""
    series: dict[Series, int] = field(default_factory=dict[Series, int])
    """Numbers of the customer's series."""
    hours: dict[int, HourWindow] = field(default_factory=dict[int, HourWindow])
    """By length in seconds."""
    before: dict[int, HourWindow] = field(default_factory=dict[int, HourWindow])
    """The window before, of the same length."""
    exact: dict[int, ExactWindow] = field(default_factory=dict[int, ExactWindow])
    alerts: dict[str, Alert] = field(default_factory=dict[str, Alert])
    """Open alerts but those of single answers, by dedup_key."""
    cleared: dict[tuple[str, Trust], datetime] = field(default_factory=dict[tuple[str, Trust], datetime])
    """When problems whose rules have a cooldown cleared last, by dedup_key and who had shown them."""
    pulses: dict[str, Pulse] = field(default_factory=dict[str, Pulse])
    detectors: dict[str, Detector] = field(default_factory=dict[str, Detector])
    rules: Plan | None = None
    """In force; None: to be asked."""
    stored_due_at: datetime | None = None
    """`due_at` as the store has it."""
    version: int = 0
    """Of the stored customer as it was read or saved; when that has moved on, this is old."""
    forgets: bool = False
    """Somebody is to be forgotten: who it is, each batch asks for its own respondents."""

    # ---- memory

    def recall(self, memory: Memory) -> None:
        """Take over what was kept."""
        self.pulses = memory.pulses
        self.detectors = memory.detectors

    def memory(self) -> Memory:
        """Return what to keep."""
        return Memory(self.pulses, self.detectors)

    # ---- an answer

    def take(
        self,
        rules: Plan,
        new: NewAnswer,
        previous: DatedScore | None,
        changes: Sequence[Change],
        now: datetime,
        prior: Prior = DEFAULT_PRIOR,
    ) -> list[Decision]:
        """Count an answer and decide what follows from it. `previous`: the same voter's answer before it."""
        answer, series = new.answer, new.series
        age = age_of(answer, now)
        gains = {seconds: window.apply(series, changes) for seconds, window in self.hours.items()}
        for seconds, window in self.exact.items():
            gains[seconds] = window.add(series, new.voter, new.dated)
        for window in self.before.values():
            window.apply(series, changes)
        concerned = rules.concerned(series)
        decisions: list[Decision] = []
        for rule, condition in concerned.answers:
            if age <= rule.max_age and condition.fires(answer):
                repeated = previous is not None and is_repeated(rule, new, previous)
                self._keep(decisions, rule, open_for_answer(rule, answer, now, repeated=repeated), now)
        for planned in concerned.windows:
            gained = gains.get(planned.length)
            if not gained:
                continue  # nor is there a window yet for a rule that came into force in the middle of a batch
            watched, condition = planned.watched, planned.condition
            alert = self.alerts.get(watched.key(self.name, series.touchpoint)) if self.alerts else None
            if alert is None and len(gained) == 1 and gained[0][0] >= condition.harmless:
                continue  # most answers: there is nothing to judge
            seen = self.seen(planned, series.touchpoint)
            self._keep(decisions, watched.rule, decide_window(watched.rule, new, age, gained, seen, alert, now), now)
        if concerned.sequences and (previous is None or answer.occurred_at - previous.occurred_at >= NEWS_AFTER):
            for watched in concerned.sequences:
                rule, key = watched.rule, watched.key(self.name, series.touchpoint)
                pair = pair_for(self.detectors, key, answer)
                if age > rule.max_age:
                    learn(pair, new)
                    continue
                alert = self.alerts.get(key)
                self._keep(decisions, rule, decide_sequence(rule, self.name, new, pair, alert, prior, now), now)
        for watched in concerned.silences:
            if age <= watched.rule.max_age:
                self._keep(decisions, watched.rule, self._spoke(watched, new, now), now)
        return decisions

    def _keep(self, decisions: list[Decision], rule: Rule, decision: Decision | None, now: datetime) -> None:
        if decision is None:
            return
        if decision.event == "opened" and self._is_cooling(rule, decision.alert, now):
            return
        self.remember(decision)
        decisions.append(decision)

    def _is_cooling(self, rule: Rule, alert: Alert, now: datetime) -> bool:
        """Tell whether a problem ended so lately that it is no news; what strangers said quiets nobody who is known."""
        trusts: tuple[Trust, ...] = (
            ("verified", "anonymous") if alert.trust == "anonymous" or rule.trust == "any" else ("verified",)
        )
        return any(is_cooling(rule, self.cleared.get((alert.dedup_key, trust)), now) for trust in trusts)

    def seen(self, planned: Planned, touchpoint: str | None) -> WindowCounts:
        """Return what a rule on a window looks at, now and before."""
        _, _, length, (measure, of_touchpoint) = planned
        window = self.hours.get(length) or self.exact.get(length)
        before = self.before.get(length)
        now = View(measure.kind) if window is None else window.view(measure, touchpoint, of_touchpoint=of_touchpoint)
        then = None if before is None else before.view(measure, touchpoint, of_touchpoint=of_touchpoint)
        return WindowCounts(now, then)

    # ---- silence

    def _spoke(self, watched: Watched, new: NewAnswer, now: datetime) -> Decision | None:
        rule, key = watched.rule, watched.key(self.name, new.series.touchpoint)
        pulse = self.pulses.get(key)
        if pulse is None:
            self.pulses[key] = pulse = Pulse(new.at)
        else:
            pulse.beat(new.at)
        breaks = pulse.breaks_at(cast("OnTime", rule.when)) if _is_fixed(rule) else None
        if breaks is not None and breaks < self.due_at:
            self.due_at = breaks
        alert = self.alerts.get(key) if self.alerts else None
        if alert is None:
            return None
        breaks = pulse.breaks_at(cast("OnTime", rule.when))
        if breaks is not None and breaks <= now:
            return None  # it was given before, or in, the silence that still lasts
        reason = pulse.reason(cast("OnTime", rule.when), now)
        return clear_alert(alert, reason, "Answers come again", "Vastauksia tulee taas", now)

    # ---- time

    def review(self, rules: Plan, alert: Alert, now: datetime) -> Decision:
        """Decide on an alert that is due by time alone."""
        rule = rules.rules.get(alert.rule)
        if rule is not None and rule.when.word != alert.kind:
            rule = None  # the name now belongs to a rule of another type
        seen = None
        if rule is not None and isinstance(rule.when, OnWindow):
            seen = self.seen(planned_of(rule, rule.when), alert.touchpoint)
        decision = decide_by_time(rule, seen, alert, now)
        self.remember(decision)
        return decision

    def review_silences(self, rules: Plan, now: datetime) -> list[Decision]:
        """Decide by time alone whether the customer fell silent, or a new level has lasted, and when to ask again."""
        decisions: list[Decision] = []
        due = midnight_after(now)
        for rule in rules.silences:
            condition = cast("OnTime", rule.when)
            for touchpoint in self._heard(rule):
                key = dedup_key(self.name, rule, touchpoint)
                breaks = self.pulses[key].breaks_at(condition)
                if breaks is None or key in self.alerts:
                    continue
                if breaks > now:
                    due = min(due, breaks)
                    continue
                reason = self.pulses[key].reason(condition, now)
                new = open_alert(rule, self.name, touchpoint, "verified", now, next_review(rule, now), now)
                self._keep(decisions, rule, Decision("opened", new, *explain(rule, reason, touchpoint)), now)
        for rule, decision in settled(self.detectors, self.alerts, rules.rules, now):
            self._keep(decisions, rule, decision, now)
        self.due_at = due
        return decisions

    def _heard(self, rule: Rule) -> list[str | None]:
        """Return the touchpoints whose silence a rule watches: those that have ever answered."""
        if not rule.per_touchpoint:
            return [rule.touchpoint] if dedup_key(self.name, rule, rule.touchpoint) in self.pulses else []
        start = f"{self.name}/{rule.name}/"
        places = [key.removeprefix(start) for key in self.pulses if key.startswith(start)]
        return [None if place == "*" else place for place in places]

    def remember(self, decision: Decision) -> None:
        """Take over what a decision made of an alert."""
        alert = decision.alert
        if decision.event == "cleared":
            self.cleared[alert.dedup_key, alert.trust] = alert.updated_at
        if alert.answer is not None:
            return  # a rule on a single answer opens one alert each; none of them changes what follows
        if decision.event == "cleared":
            self.alerts.pop(alert.dedup_key, None)
        else:
            self.alerts[alert.dedup_key] = alert


def midnight_after(now: datetime) -> datetime:
    """Return the end of the UTC day."""
    return datetime.fromtimestamp((now.timestamp() // DAY + 1) * DAY, UTC)


def _is_fixed(rule: Rule) -> bool:
    """Tell whether a silence rule can be due before the next daily look; by rate it is three days at least."""
    return getattr(rule.when, "after", "auto") != "auto"
