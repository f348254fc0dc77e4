"""One customer's state in the memory of its partition's owner, and what a new answer makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, cast
from uuid import UUID

import msgspec

from services.scoring.domain.counting import DAY, Arrival, Change, Said, Series
from services.scoring.domain.decide import (
    Alert,
    Decision,
    Seen,
    age_of,
    capped,
    cleared,
    decide_by_time,
    decide_window,
    dedup_key,
    is_cooling,
    is_repeated,
    next_look,
    open_for_answer,
    opened,
    told,
)
from services.scoring.domain.shift import DEFAULT_PRIOR, Detector, Prior, Signal
from services.scoring.domain.silence import Pulse
from services.scoring.domain.windows import ExactWindow, HourWindow, Judged, Measure, View
from shared.directory.model import Rule, severity_rank
from shared.rules.base import OnAnswer, OnSequence, OnTime, OnWindow, Reason, length
from shared.rules.sequence import Shift
from shared.wire.events import FeedbackReceivedV1, Trust

NEWS_AFTER = timedelta(days=7)
"""A detector takes a respondent's answer again after so long: one loud person is not the customer's voice."""


class Watched(NamedTuple):
    """A rule on more than single answers."""

    rule: Rule
    problem: str | None
    """What follows the customer's name in the dedup_key; None where that depends on the answer's touchpoint."""

    def key(self, customer: str, touchpoint: str | None) -> str:
        """Return the dedup_key of an answer at a touchpoint."""
        return dedup_key(customer, self.rule, touchpoint) if self.problem is None else customer + self.problem


def _watched(rule: Rule) -> Watched:
    return Watched(rule, None if rule.per_touchpoint else dedup_key("", rule, rule.touchpoint))


class Planned(NamedTuple):
    """A rule on a window, with what is asked of it for every answer."""

    watched: Watched
    condition: OnWindow
    length: int
    """Of its window, in seconds."""
    judged: Judged


def _planned(rule: Rule, when: OnWindow) -> Planned:
    assert when.kind is not None
    of_touchpoint = rule.per_touchpoint or rule.touchpoint is not None
    judged = Judged(Measure(when.kind, when.metric, rule.audience), of_touchpoint)
    return Planned(_watched(rule), when, when.seconds, judged)


class Concerned(NamedTuple):
    """The rules that an answer of one series concerns, by what they look at."""

    answers: tuple[tuple[Rule, OnAnswer], ...]
    windows: tuple[Planned, ...]
    sequences: tuple[Watched, ...]
    silences: tuple[Watched, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A customer's rules, and what follows from them."""

    rules: Mapping[str, Rule]
    silences: tuple[Rule, ...]
    hour_lengths: Mapping[int, frozenset[Judged]]
    """Windows of a day or more, in seconds, kept in whole hours: what rules look at in each."""
    compared: tuple[int, ...]
    """Windows of which the one before is needed too."""
    exact_lengths: tuple[int, ...]
    """Windows shorter than a day, kept to the second."""
    cooldown: int
    """The longest cooldown, in seconds."""
    _concerned: dict[Series, Concerned] = field(default_factory=dict[Series, Concerned])

    def concerned(self, series: Series) -> Concerned:
        """Return the rules that look at an answer of a series."""
        found = self._concerned.get(series)
        if found is None:
            found = self._concerned[series] = _concerned(self.rules.values(), series)
        return found


def _concerned(rules: Iterable[Rule], series: Series) -> Concerned:
    measure = Measure(series.kind, series.metric, series.audience)
    answers: list[tuple[Rule, OnAnswer]] = []
    windows: list[Planned] = []
    sequences: list[Watched] = []
    silences: list[Watched] = []
    for rule in rules:
        when = rule.when
        here = rule.touchpoint is None or rule.touchpoint == series.touchpoint
        if not here or rule.audience != series.audience or series.kind not in when.kinds:
            continue
        if isinstance(when, OnWindow):
            planned = _planned(rule, when)
            if planned.judged.measure == measure:
                windows.append(planned)
        elif isinstance(when, OnAnswer):
            answers.append((rule, when))
        elif isinstance(when, OnSequence):
            sequences.append(_watched(rule))
        else:
            silences.append(_watched(rule))
    return Concerned(tuple(answers), tuple(windows), tuple(sequences), tuple(silences))


def plan(rules: Sequence[Rule]) -> Plan:
    """Prepare the rules in force."""
    lengths: dict[int, set[Judged]] = {}
    compared: set[int] = set()
    for rule in rules:
        when = rule.when
        if isinstance(when, OnWindow):
            planned = _planned(rule, when)
            lengths.setdefault(planned.length, set()).add(planned.judged)
            if when.compares:
                compared.add(planned.length)
    return Plan(
        rules={rule.name: rule for rule in rules},
        silences=tuple(rule for rule in rules if isinstance(rule.when, OnTime)),
        hour_lengths={length: frozenset(judged) for length, judged in lengths.items() if length >= DAY},
        compared=tuple(compared),
        exact_lengths=tuple(length for length in lengths if length < DAY),
        cooldown=max((rule.cooldown for rule in rules), default=0),
    )


class Nearness(msgspec.Struct, frozen=True, kw_only=True):
    """How near a rule is to firing."""

    rule: str
    kind: str
    severity: str
    audience: str
    touchpoint: str | None
    alert: UUID | None
    """The alert that it has open."""
    why_not: str | None
    """Why it does not fire now; null while its alert is open."""
    reason: Reason
    """The numbers that it looks at."""


class Memory(msgspec.Struct, array_like=True):
    """What is kept of a customer beside its counts: what the answers' order and times have told."""

    pulses: dict[str, Pulse] = {}
    """By dedup_key of a rule on silence."""
    detectors: dict[str, Detector] = {}
    """By dedup_key of a rule on a sequence; with `#verified` of verified answers alone, once there were others."""


_VERIFIED = "#verified"


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
        new: Arrival,
        previous: Said | None,
        changes: Sequence[Change],
        now: datetime,
        prior: Prior = DEFAULT_PRIOR,
    ) -> list[Decision]:
        """Count an answer and decide what follows from it. `previous`: the same voter's answer before it."""
        answer, series = new.answer, new.series
        age = age_of(answer, now)
        gains = {seconds: window.apply(series, changes) for seconds, window in self.hours.items()}
        for seconds, window in self.exact.items():
            gains[seconds] = window.add(series, new.voter, new.said)
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
            seen = self._seen(planned, series.touchpoint)
            self._keep(decisions, watched.rule, decide_window(watched.rule, new, age, gained, seen, alert, now), now)
        if concerned.sequences and (previous is None or answer.occurred_at - previous.occurred_at >= NEWS_AFTER):
            for watched in concerned.sequences:
                if age <= watched.rule.max_age:
                    self._keep(decisions, watched.rule, self._sequence(watched, new, prior, now), now)
                else:
                    self._learn(watched, new)
        for watched in concerned.silences:
            if age <= watched.rule.max_age:
                self._keep(decisions, watched.rule, self._spoke(watched, new, now), now)
        return decisions

    def _keep(self, decisions: list[Decision], rule: Rule, decision: Decision | None, now: datetime) -> None:
        if decision is None:
            return
        if decision.happening == "opened" and self._is_cooling(rule, decision.alert, now):
            return
        self.remember(decision)
        decisions.append(decision)

    def _is_cooling(self, rule: Rule, alert: Alert, now: datetime) -> bool:
        """Tell whether a problem ended so lately that it is no news; what strangers said quiets nobody who is known."""
        trusts: tuple[Trust, ...] = (
            ("verified", "anonymous") if alert.trust == "anonymous" or rule.trust == "any" else ("verified",)
        )
        return any(is_cooling(rule, self.cleared.get((alert.dedup_key, trust)), now) for trust in trusts)

    def _seen(self, planned: Planned, touchpoint: str | None) -> Seen:
        _, _, length, (measure, of_touchpoint) = planned
        window = self.hours.get(length) or self.exact.get(length)
        before = self.before.get(length)
        now = View(measure.kind) if window is None else window.view(measure, touchpoint, of_touchpoint=of_touchpoint)
        then = None if before is None else before.view(measure, touchpoint, of_touchpoint=of_touchpoint)
        return Seen(now, then)

    # ---- sequences

    def _detectors(self, watched: Watched, answer: FeedbackReceivedV1) -> tuple[Detector, Detector | None]:
        """Return what listens to all answers, and what listens to verified ones, once there were others."""
        key = watched.key(self.name, answer.touchpoint)
        detector = self.detectors.get(key)
        if detector is None:
            detector = self.detectors[key] = Detector()
        verified = self.detectors.get(key + _VERIFIED)
        if verified is None and answer.trust == "anonymous":
            verified = self.detectors[key + _VERIFIED] = deepcopy(detector)
        return detector, verified

    def _learn(self, watched: Watched, new: Arrival) -> None:
        """Take an answer that came too late to be news, or was imported, into what is usual."""
        answer, place, day = new.answer, _third(new), new.at / DAY
        detector, verified = self._detectors(watched, answer)
        detector.learn(place, answer.touchpoint, day)
        if verified is not None and answer.trust == "verified":
            verified.learn(place, answer.touchpoint, day)

    def _sequence(self, watched: Watched, new: Arrival, prior: Prior, now: datetime) -> Decision | None:
        rule, answer, place, day = watched.rule, new.answer, _third(new), new.at / DAY
        detector, verified = self._detectors(watched, answer)
        budget = cast("Shift", rule.when).false_alarms_per_year
        signal = detector.take(place, answer.touchpoint, day, prior, budget)
        confirmed = None
        if verified is not None and answer.trust == "verified":
            confirmed = verified.take(place, answer.touchpoint, day, prior, budget)
        if signal is None and confirmed is None:
            return None
        alert = self.alerts.get(watched.key(self.name, answer.touchpoint))
        touchpoint = answer.touchpoint if rule.per_touchpoint else rule.touchpoint
        worse = next((one for one in (signal, confirmed) if one is not None and one.happening == "worse"), None)
        known = verified is None or verified.is_shifted
        if worse is None:
            ended = signal or confirmed
            assert ended is not None
            if alert is None or detector.is_shifted or (verified is not None and verified.is_shifted):
                return None  # what either of them still hears is not over
            return cleared(alert, _reason(rule, ended, prior), *_ENDS[ended.happening], now)
        reason = _reason(rule, worse, prior)
        if alert is None:
            trust = "verified" if known else "anonymous"
            alarm = opened(rule, self.name, touchpoint, trust, answer.received_at, next_look(rule, now), now)
            return Decision("opened", alarm, *told(rule, reason, touchpoint))
        if alert.trust == "verified" or not known:
            return None
        severity = max(alert.severity, capped(rule.severity, "verified", rule), key=severity_rank)
        raised = replace(alert, version=alert.version + 1, trust="verified", severity=severity, updated_at=now)
        return Decision("updated", raised, *told(rule, reason, touchpoint))

    # ---- silence

    def _spoke(self, watched: Watched, new: Arrival, now: datetime) -> Decision | None:
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
        return cleared(alert, reason, "Answers come again", "Vastauksia tulee taas", now)

    # ---- time

    def look(self, rules: Plan, alert: Alert, now: datetime) -> Decision:
        """Decide on an alert that is due by time alone."""
        rule = rules.rules.get(alert.rule)
        if rule is not None and rule.when.word != alert.kind:
            rule = None  # the name now belongs to a rule of another type
        seen = None
        if rule is not None and isinstance(rule.when, OnWindow):
            seen = self._seen(_planned(rule, rule.when), alert.touchpoint)
        decision = decide_by_time(rule, seen, alert, now)
        self.remember(decision)
        return decision

    def listen(self, rules: Plan, now: datetime) -> list[Decision]:
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
                new = opened(rule, self.name, touchpoint, "verified", now, next_look(rule, now), now)
                self._keep(decisions, rule, Decision("opened", new, *told(rule, reason, touchpoint)), now)
        decisions += self._settled(rules, now)
        self.due_at = due
        return decisions

    def _settled(self, rules: Plan, now: datetime) -> list[Decision]:
        """Clear the shifts whose new level has lasted."""
        decisions: list[Decision] = []
        day = now.timestamp() / DAY
        for key in {name.removesuffix(_VERIFIED) for name in self.detectors}:
            both = [one for name in (key, key + _VERIFIED) if (one := self.detectors.get(name)) is not None]
            signals = [signal for one in both if one.is_shifted and (signal := one.look(day)) is not None]
            alert = self.alerts.get(key)
            rule = None if alert is None else rules.rules.get(alert.rule)
            over = signals and not any(one.is_shifted for one in both)
            if over and alert is not None and rule is not None:
                reason = _reason(rule, signals[0], DEFAULT_PRIOR)
                self._keep(decisions, rule, cleared(alert, reason, *_ENDS[signals[0].happening], now), now)
        return decisions

    # ---- how near

    def nearness(self, rules: Plan, now: datetime) -> list[Nearness]:
        """Return for each rule where it stands, and in a few words why it does not fire."""
        found: list[Nearness] = []
        for rule in rules.rules.values():
            for touchpoint in self._judged(rule):
                key = dedup_key(self.name, rule, touchpoint)
                reason, why = self._near(rule, touchpoint, key, now)
                found.append(
                    Nearness(
                        rule=rule.name,
                        kind=rule.when.word,
                        severity=rule.severity,
                        audience=rule.audience,
                        touchpoint=touchpoint,
                        alert=self.alerts[key].id if key in self.alerts else None,
                        why_not=None if key in self.alerts or not why else why,
                        reason=reason,
                    )
                )
        return found

    def _judged(self, rule: Rule) -> list[str | None]:
        """Return what a rule judges by itself: the customer, or each touchpoint that has answers."""
        if not rule.per_touchpoint or isinstance(rule.when, OnAnswer):
            return [rule.touchpoint]
        of_kind = rule.when.kind
        places = {s.touchpoint for s in self.series if s.audience == rule.audience and of_kind in (None, s.kind)}
        return sorted(places, key=lambda place: place or "") or [None]

    def _near(self, rule: Rule, touchpoint: str | None, key: str, now: datetime) -> tuple[Reason, str]:
        when = rule.when
        if isinstance(when, OnAnswer):
            return {"threshold": getattr(when, "threshold", None)}, "fires on a single answer"
        if isinstance(when, OnWindow):
            counts = self._seen(_planned(rule, when), touchpoint).of(verified=False)
            return when.reason(*counts), when.nearness(*counts) or "waits for a live answer that makes it worse"
        if isinstance(when, OnTime):
            pulse = self.pulses.get(key)
            if pulse is None:
                return {}, "waits for the first live answer"
            reason = pulse.reason(when, now)
            limit = pulse.limit(when)
            return reason, "needs more answers to know the rate" if limit is None else f"fires after {length(limit)}"
        detector = self.detectors.get(key)
        if detector is None:
            return {}, "waits for the first live answer"
        near = detector.nearness()
        why = (
            f"evidence is {near.statistic:.1f} of {near.threshold:.1f}" if near.threshold else "learns the usual level"
        )
        return dict(near._asdict()), why

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
        if decision.happening == "cleared":
            self.cleared[alert.dedup_key, alert.trust] = alert.updated_at
        if alert.answer is not None:
            return  # a rule on a single answer opens one alert each; none of them changes what follows
        if decision.happening == "cleared":
            self.alerts.pop(alert.dedup_key, None)
        else:
            self.alerts[alert.dedup_key] = alert


def midnight_after(now: datetime) -> datetime:
    """Return the end of the UTC day."""
    return datetime.fromtimestamp((now.timestamp() // DAY + 1) * DAY, UTC)


def _is_fixed(rule: Rule) -> bool:
    """Tell whether a silence rule can be due before the next daily look; by rate it is three days at least."""
    return getattr(rule.when, "after", "auto") != "auto"


def _third(new: Arrival) -> int:
    """Return bad, middling or good: faces 1 and 2 are bad, 4 is good."""
    return new.category if new.series.kind == "nps" else max(0, new.category - 1)


_ENDS = {
    "recovered": ("Answers are back at their old level", "Vastaukset ovat palanneet ennalleen"),
    "settled": (
        "The new level has lasted and is what answers are compared to now",
        "Uudesta tasosta on tullut tavallinen",
    ),
}


def _reason(rule: Rule, signal: Signal, prior: Prior) -> Reason:
    kind = (rule.when.kind or "nps").upper()
    place = signal.reason.get("touchpoint")
    reason: Reason = {"subject": kind if place is None else f"{kind} ({place})", **signal.reason}
    if reason["baseline_nps"] is None:
        reason["baseline_nps"] = 100 * (prior.promoters - prior.detractors)
    return reason
