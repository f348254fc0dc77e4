"""Rules on the order of a customer's answers: whom a detector listens to, and what its signals make of an alert."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple, cast

from services.scoring.domain.counting import DAY, NewAnswer
from services.scoring.domain.decide import Alert, Decision, capped, clear_alert, explain, next_review, open_alert
from services.scoring.domain.shift import DEFAULT_PRIOR, Detector, Prior, Signal
from shared.directory.model import Rule, severity_rank
from shared.rules.base import Reason
from shared.rules.sequence import Shift
from shared.wire.events import FeedbackReceivedV1

NEWS_AFTER = timedelta(days=7)
"""A detector takes a respondent's answer again after so long: one loud person is not the customer's voice."""
_VERIFIED = "#verified"
_ENDS = {
    "recovered": ("Answers are back at their old level", "Vastaukset ovat palanneet ennalleen"),
    "settled": (
        "The new level has lasted and is what answers are compared to now",
        "Uudesta tasosta on tullut tavallinen",
    ),
}


class DetectorPair(NamedTuple):
    """The detectors of one problem: of all its answers, and, once there were anonymous ones, of the verified alone."""

    all: Detector
    verified: Detector | None

    @property
    def is_shifted(self) -> bool:
        """Whether either has an alarm open."""
        return self.all.is_shifted or (self.verified is not None and self.verified.is_shifted)

    @property
    def is_known(self) -> bool:
        """Whether the verified answers alone show the shift."""
        return self.verified is None or self.verified.is_shifted

    def hears(self, answer: FeedbackReceivedV1) -> list[Detector]:
        """Return those that an answer is for."""
        return [self.all] if self.verified is None or answer.trust != "verified" else [self.all, self.verified]


def pair_for(detectors: dict[str, Detector], key: str, answer: FeedbackReceivedV1) -> DetectorPair:
    """Return a problem's detectors, made where an answer is the first of its kind. `detectors`: by `dedup_key`."""
    detector = detectors.get(key)
    if detector is None:
        detector = detectors[key] = Detector()
    verified = detectors.get(key + _VERIFIED)
    if verified is None and answer.trust == "anonymous":
        verified = detectors[key + _VERIFIED] = deepcopy(detector)
    return DetectorPair(detector, verified)


def learn(pair: DetectorPair, new: NewAnswer) -> None:
    """Take an answer that came too late to be news, or was imported, into what is usual."""
    for detector in pair.hears(new.answer):
        detector.learn(_third(new), new.answer.touchpoint, new.at / DAY)


def decide_sequence(
    rule: Rule, customer: str, new: NewAnswer, pair: DetectorPair, alert: Alert | None, prior: Prior, now: datetime
) -> Decision | None:
    """Take a live answer, and decide what follows; mostly nothing. `alert`: the problem's, where one is open."""
    answer = new.answer
    budget = cast("Shift", rule.when).false_alarms_per_year
    signals = [
        signal
        for detector in pair.hears(answer)
        if (signal := detector.take(_third(new), answer.touchpoint, new.at / DAY, prior, budget)) is not None
    ]
    if not signals:
        return None
    worse = next((signal for signal in signals if signal.event == "worse"), None)
    if worse is None:
        if alert is None or pair.is_shifted:
            return None  # what either of them still hears is not over
        return clear_alert(alert, _reason(rule, signals[0], prior), *_ENDS[signals[0].event], now)
    reason = _reason(rule, worse, prior)
    touchpoint = answer.touchpoint if rule.per_touchpoint else rule.touchpoint
    if alert is None:
        trust = "verified" if pair.is_known else "anonymous"
        alarm = open_alert(rule, customer, touchpoint, trust, answer.received_at, next_review(rule, now), now)
        return Decision("opened", alarm, *explain(rule, reason, touchpoint))
    if alert.trust == "verified" or not pair.is_known:
        return None
    severity = max(alert.severity, capped(rule.severity, "verified", rule), key=severity_rank)
    raised = replace(alert, version=alert.version + 1, trust="verified", severity=severity, updated_at=now)
    return Decision("updated", raised, *explain(rule, reason, touchpoint))


def settled(
    detectors: Mapping[str, Detector], alerts: Mapping[str, Alert], rules: Mapping[str, Rule], now: datetime
) -> Iterable[tuple[Rule, Decision]]:
    """Clear the alerts of shifts whose new level has lasted. `rules`: those in force, by name."""
    day = now.timestamp() / DAY
    for key in {name.removesuffix(_VERIFIED) for name in detectors}:
        both = [one for name in (key, key + _VERIFIED) if (one := detectors.get(name)) is not None]
        signals = [signal for one in both if one.is_shifted and (signal := one.review(day)) is not None]
        alert = alerts.get(key)
        rule = None if alert is None else rules.get(alert.rule)
        if signals and not any(one.is_shifted for one in both) and alert is not None and rule is not None:
            reason = _reason(rule, signals[0], DEFAULT_PRIOR)
            yield rule, clear_alert(alert, reason, *_ENDS[signals[0].event], now)


def _third(new: NewAnswer) -> int:
    """Return bad, middling or good: faces 1 and 2 are bad, 4 is good."""
    return new.category if new.series.kind == "nps" else max(0, new.category - 1)


def _reason(rule: Rule, signal: Signal, prior: Prior) -> Reason:
    kind = (rule.when.kind or "nps").upper()
    place = signal.reason.get("touchpoint")
    reason: Reason = {"subject": kind if place is None else f"{kind} ({place})", **signal.reason}
    if reason["baseline_nps"] is None:
        reason["baseline_nps"] = 100 * (prior.promoters - prior.detractors)
    return reason
