"""When an alert opens, is updated, and clears: prior state, answers and rules in, next state and decisions out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import add
from typing import Literal, NamedTuple
from uuid import UUID

from services.scoring.domain.counting import DAY, HOUR
from services.scoring.domain.rules import (
    Explanation,
    Reason,
    answer_fires,
    explain,
    explain_answer,
    judge,
    type_of,
    window_of,
    worsens,
)
from shared.directory.model import Rule, severity_rank
from shared.events import FeedbackReceivedV1, Severity, Trust
from shared.ids import uuid7_at

UPDATE_SECONDS = 10
"""An open alert tells of further bad answers at most this often; what came between is told together."""

ANONYMOUS_SEVERITY: Severity = "medium"
"""What anonymous answers alone can reach: they open a ticket and wake nobody."""

Happening = Literal["opened", "updated", "cleared", "deferred"]
"""`deferred`: there is something to tell, later; no message."""


@dataclass(frozen=True, slots=True)
class Alert:
    """What decisions need to know of an alert."""

    id: UUID
    version: int
    customer: str
    rule: str
    kind: str
    touchpoint: str | None
    dedup_key: str
    severity: Severity
    trust: Trust
    opened_at: datetime
    updated_at: datetime
    caused_at: datetime
    due_at: datetime
    """When to look at it again without an answer."""
    answer: UUID | None = None
    """The answer, for a rule on a single one."""
    pending: bool = False
    """Bad answers came that no message has told of yet."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What happened to an alert, and why."""

    happening: Happening
    alert: Alert
    reason: Reason
    summary: str


class Tally(NamedTuple):
    """Counts per category of what a rule looks at, apart by trust."""

    verified: list[int]
    anonymous: list[int]

    @property
    def total(self) -> list[int]:
        """All answers."""
        return list(map(add, self.verified, self.anonymous))


def dedup_key(customer: str, rule: Rule, touchpoint: str | None) -> str:
    """Return the name of the problem: answers that share it belong to one ticket."""
    of_touchpoint = rule.per_touchpoint or rule.touchpoint is not None or window_of(rule.when) is None
    return f"{customer}/{rule.name}/{(touchpoint if of_touchpoint else None) or '*'}"


def is_live(answer: FeedbackReceivedV1, rule: Rule, now: datetime) -> bool:
    """Tell whether an answer may open an alert: not imported, and not older than the rule allows."""
    fresh = now - answer.occurred_at <= timedelta(seconds=rule.max_age)
    return fresh and not answer.backfill and answer.channel != "import"


def is_cooling(rule: Rule, cleared_at: datetime | None, now: datetime) -> bool:
    """Tell whether the problem's last alert cleared so lately that the rule opens none."""
    return cleared_at is not None and now - cleared_at < timedelta(seconds=rule.cooldown)


def capped(severity: Severity, trust: Trust, rule: Rule) -> Severity:
    """Return the severity that answers of this trust can reach."""
    if trust == "verified" or rule.trust == "any" or severity_rank(severity) <= severity_rank(ANONYMOUS_SEVERITY):
        return severity
    return ANONYMOUS_SEVERITY


def decide_answer(rule: Rule, answer: FeedbackReceivedV1, now: datetime) -> Decision | None:
    """Decide on a single answer: it opens an alert of its own, which clears after the rule's `max_age`."""
    if not (answer_fires(rule.when, answer.score) and is_live(answer, rule, now)):
        return None
    alert = Alert(
        id=_new_id(now),
        version=1,
        customer=answer.customer,
        rule=rule.name,
        kind=type_of(rule.when),
        touchpoint=answer.touchpoint,
        dedup_key=dedup_key(answer.customer, rule, answer.touchpoint),
        severity=capped(rule.severity, answer.trust, rule),
        trust=answer.trust,
        opened_at=now,
        updated_at=now,
        caused_at=answer.received_at,
        due_at=now + timedelta(seconds=rule.max_age),
        answer=answer.id,
    )
    reason, summary = explain_answer(rule.when, answer.score)
    place = "" if answer.touchpoint is None else f" at {answer.touchpoint}"
    return Decision("opened", alert, reason, summary + place)


def decide_window(
    rule: Rule,
    answer: FeedbackReceivedV1,
    category: int,
    before: Sequence[int],
    tally: Tally,
    alert: Alert | None,
    now: datetime,
) -> Decision | None:
    """Decide on a window after one answer: `before` are all counts without it, `tally` those with it."""
    total = tally.total
    worse = worsens(rule.when, category, before, total) and is_live(answer, rule, now)
    if alert is None and not worse:
        return None
    verdict = judge(rule.when, total)
    if alert is None:
        if not verdict.fires:
            return None
        trust = _trust(rule, tally)
        touchpoint = answer.touchpoint if rule.per_touchpoint else rule.touchpoint
        opened = Alert(
            id=_new_id(now),
            version=1,
            customer=answer.customer,
            rule=rule.name,
            kind=type_of(rule.when),
            touchpoint=touchpoint,
            dedup_key=dedup_key(answer.customer, rule, touchpoint),
            severity=capped(rule.severity, trust, rule),
            trust=trust,
            opened_at=now,
            updated_at=now,
            caused_at=answer.received_at,
            due_at=next_look(rule, now),
        )
        return Decision("opened", opened, *explain(rule.when, total))
    if verdict.clears:
        return _cleared(alert, explain(rule.when, total), now)
    if not worse:
        return None
    trust = "verified" if alert.trust == "verified" or _trust(rule, tally) == "verified" else "anonymous"
    severity = max(alert.severity, capped(rule.severity, trust, rule), key=severity_rank)
    told_lately = now - alert.updated_at < timedelta(seconds=UPDATE_SECONDS)
    if severity == alert.severity and told_lately:
        if alert.pending:
            return None
        due = min(alert.due_at, alert.updated_at + timedelta(seconds=UPDATE_SECONDS))
        return Decision("deferred", replace(alert, pending=True, due_at=due), {}, "")
    updated = replace(
        alert,
        version=alert.version + 1,
        severity=severity,
        trust=trust,
        updated_at=now,
        due_at=next_look(rule, now),
        pending=False,
    )
    return Decision("updated", updated, *explain(rule.when, total))


def decide_by_time(rule: Rule | None, tally: Tally | None, alert: Alert, now: datetime) -> Decision:
    """Decide on an open alert that is due, without an answer; it clears, or waits for its next look.

    `rule` is None where it is no longer in force; `tally` is None for a rule on a single answer.
    """
    if rule is None:
        return _cleared(alert, Explanation({}, "The rule is no longer in force"), now)
    if tally is None:
        return _cleared(alert, Explanation({"max_age_seconds": rule.max_age}, "Its time is over"), now)
    if judge(rule.when, tally.total).clears:
        return _cleared(alert, explain(rule.when, tally.total), now)
    waiting = replace(alert, due_at=next_look(rule, now), pending=False)
    if alert.pending:
        waiting = replace(waiting, version=alert.version + 1, updated_at=now)
        return Decision("updated", waiting, *explain(rule.when, tally.total))
    return Decision("deferred", waiting, {}, "")


def next_look(rule: Rule, now: datetime) -> datetime:
    """Return when a window may have changed by time alone: at the next hour, or soon for one shorter than a day."""
    window = window_of(rule.when) or DAY
    if window < DAY:
        return now + timedelta(seconds=max(1.0, min(60.0, window / 10)))
    seconds = HOUR - now.timestamp() % HOUR
    return now + timedelta(seconds=seconds)


def _trust(rule: Rule, tally: Tally) -> Trust:
    return "verified" if judge(rule.when, tally.verified).fires else "anonymous"


def _cleared(alert: Alert, why: Explanation, now: datetime) -> Decision:
    cleared = replace(alert, version=alert.version + 1, updated_at=now, pending=False)
    return Decision("cleared", cleared, *why)


def _new_id(now: datetime) -> UUID:
    return uuid7_at(int(now.timestamp() * 1000))
