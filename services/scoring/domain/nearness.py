"""How near each rule is to firing, for people who ask why it did not."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from services.scoring.domain import shift
from services.scoring.domain.customer import CustomerState
from services.scoring.domain.decide import dedup_key
from services.scoring.domain.plan import Plan, planned_of
from shared.directory.model import Rule
from shared.rules.base import OnAnswer, OnTime, OnWindow, Reason, length


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


def nearness(state: CustomerState, rules: Plan, now: datetime) -> list[Nearness]:
    """Return for each rule where it stands, and in a few words why it does not fire."""
    found: list[Nearness] = []
    for rule in rules.rules.values():
        for touchpoint in _judged(state, rule):
            key = dedup_key(state.name, rule, touchpoint)
            reason, why = _near(state, rule, touchpoint, key, now)
            found.append(
                Nearness(
                    rule=rule.name,
                    kind=rule.when.word,
                    severity=rule.severity,
                    audience=rule.audience,
                    touchpoint=touchpoint,
                    alert=state.alerts[key].id if key in state.alerts else None,
                    why_not=None if key in state.alerts or not why else why,
                    reason=reason,
                )
            )
    return found


def _judged(state: CustomerState, rule: Rule) -> list[str | None]:
    """Return what a rule judges by itself: the customer, or each touchpoint that has answers."""
    if not rule.per_touchpoint or isinstance(rule.when, OnAnswer):
        return [rule.touchpoint]
    of_kind = rule.when.kind
    places = {s.touchpoint for s in state.series if s.audience == rule.audience and of_kind in (None, s.kind)}
    return sorted(places, key=lambda place: place or "") or [None]


def _near(state: CustomerState, rule: Rule, touchpoint: str | None, key: str, now: datetime) -> tuple[Reason, str]:
    when = rule.when
    if isinstance(when, OnAnswer):
        return {"threshold": getattr(when, "threshold", None)}, "fires on a single answer"
    if isinstance(when, OnWindow):
        counts = state.seen(planned_of(rule, when), touchpoint).of(verified=False)
        return when.reason(*counts), when.nearness(*counts) or "waits for a live answer that makes it worse"
    if isinstance(when, OnTime):
        pulse = state.pulses.get(key)
        if pulse is None:
            return {}, "waits for the first live answer"
        reason = pulse.reason(when, now)
        limit = pulse.limit(when)
        return reason, "needs more answers to know the rate" if limit is None else f"fires after {length(limit)}"
    detector = state.detectors.get(key)
    if detector is None:
        return {}, "waits for the first live answer"
    near = shift.nearness(detector)
    why = f"evidence is {near.statistic:.1f} of {near.threshold:.1f}" if near.threshold else "learns the usual level"
    return dict(near._asdict()), why
