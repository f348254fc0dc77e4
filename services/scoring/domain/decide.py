"""When an alert opens, is updated, and clears: prior state, answers and rules in, next state and decisions out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, cast
from uuid import UUID

import msgspec

from services.scoring.domain.counting import DAY, HOUR, DatedScore, NewAnswer
from services.scoring.domain.windows import Gain, View
from shared.directory.model import Rule, severity_rank
from shared.rules.base import SUM, Counts, OnAnswer, OnWindow, Reason, Verdict
from shared.rules.single import FollowUpAtMost
from shared.wire.events import FeedbackReceivedV1, Severity, Trust
from shared.wire.ids import uuid7_at

UPDATE_SECONDS = 10
"""An open alert tells of further bad answers at most this often; what came between is told together."""

ANONYMOUS_SEVERITY: Severity = "medium"
"""What anonymous answers alone can reach: they open a ticket and wake nobody."""

_SAID_AGAIN = 3600
"""Seconds in which a person with a token wakes nobody twice by the same."""

AlertEvent = Literal["opened", "updated", "cleared", "deferred"]
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

    event: AlertEvent
    alert: Alert
    reason: Reason
    summary: str
    finnish: str = ""

    @property
    def sentences(self) -> dict[str, str]:
        """Why, in one sentence, by language."""
        return {"en": self.summary, "fi": self.finnish or self.summary} if self.summary else {}


class WindowCounts(NamedTuple):
    """What a rule on a window looks at: its counts, and those of the window before where it compares them."""

    now: View
    before: View | None

    def of(self, *, verified: bool) -> tuple[Counts, Counts]:
        """Return the counts of now and before, of all answers or of verified ones alone."""
        if verified:
            return self.now.verified, () if self.before is None else self.before.verified
        return self.now.all, () if self.before is None else self.before.all

    @property
    def all_verified(self) -> bool:
        """Whether there are no others, so that there is one judgement."""
        return self.now.anonymous is None and (self.before is None or self.before.anonymous is None)


class Judgement(NamedTuple):
    """What a rule says of a window, of all answers and of the verified ones alone: anybody can add to the former.

    An alert opens when either fires and clears when neither does, so that anonymous answers never overrule known ones.
    """

    all: Verdict
    verified: Verdict

    @property
    def fires(self) -> bool:
        """Whether either fires."""
        return self.all.fires or self.verified.fires

    @property
    def trust(self) -> Trust:
        """Whether the verified answers are enough for it."""
        return "verified" if self.verified.fires else "anonymous"

    @property
    def on_verified(self) -> bool:
        """Whether only the verified ones fire: theirs are the numbers to tell."""
        return self.verified.fires and not self.all.fires

    def clears(self, trust: Trust) -> bool:
        """Tell whether an alert of this trust clears. In the band between, what has not fired holds nothing."""
        return self.all.clears and (self.verified.clears if trust == "verified" else not self.verified.fires)


def judge(condition: OnWindow, seen: WindowCounts) -> Judgement:
    """Judge a window."""
    verdict = condition.verdict(*seen.of(verified=False))
    return Judgement(verdict, verdict if seen.all_verified else condition.verdict(*seen.of(verified=True)))


def dedup_key(customer: str, rule: Rule, touchpoint: str | None) -> str:
    """Return the name of the problem: answers that share it belong to one ticket."""
    of_touchpoint = rule.per_touchpoint or rule.touchpoint is not None or isinstance(rule.when, OnAnswer)
    return f"{customer}/{rule.name}/{(touchpoint if of_touchpoint else None) or '*'}"


def age_of(answer: FeedbackReceivedV1, now: datetime) -> float:
    """Return how many seconds ago an answer was given; infinite for one that was imported, which opens nothing."""
    if answer.backfill or answer.channel == "import":
        return math.inf
    return (now - answer.occurred_at).total_seconds()


def is_cooling(rule: Rule, cleared_at: datetime | None, now: datetime) -> bool:
    """Tell whether the problem's last alert cleared so lately that the rule opens none."""
    return cleared_at is not None and now - cleared_at < timedelta(seconds=rule.cooldown)


def capped(severity: Severity, trust: Trust, rule: Rule) -> Severity:
    """Return the severity that answers of this trust can reach."""
    if trust == "verified" or rule.trust == "any" or severity_rank(severity) <= severity_rank(ANONYMOUS_SEVERITY):
        return severity
    return ANONYMOUS_SEVERITY


def open_alert(
    rule: Rule,
    customer: str,
    touchpoint: str | None,
    trust: Trust,
    caused_at: datetime,
    due_at: datetime,
    now: datetime,
) -> Alert:
    """Return a new alert of a rule."""
    return Alert(
        id=uuid7_at(int(now.timestamp() * 1000)),
        version=1,
        customer=customer,
        rule=rule.name,
        kind=rule.when.word,
        touchpoint=touchpoint,
        dedup_key=dedup_key(customer, rule, touchpoint),
        severity=capped(rule.severity, trust, rule),
        trust=trust,
        opened_at=now,
        updated_at=now,
        caused_at=caused_at,
        due_at=due_at,
    )


def is_repeated(rule: Rule, new: NewAnswer, previous: DatedScore) -> bool:
    """Tell whether somebody whom the public key let in says again what fired the rule, within the hour or the cooldown.

    Periods are counted from 1970 on: whoever goes on for days is heard again in each.
    """
    answer = new.answer
    if (previous.received_at - previous.occurred_at).total_seconds() > rule.max_age:
        return False  # it came too late to open anything
    if answer.by_token:
        period = max(_SAID_AGAIN, rule.cooldown)
        soon = int(previous.occurred_at.timestamp() // period) == int(new.at // period)
    else:
        soon = answer.trust == "anonymous" and answer.device is not None
    return soon and cast("OnAnswer", rule.when).fires(msgspec.structs.replace(answer, score=previous.score))


def open_for_answer(rule: Rule, answer: FeedbackReceivedV1, now: datetime, *, repeated: bool = False) -> Decision:
    """Open an alert for a single answer that fires; it clears after the rule's `max_age`.

    `repeated`: the same person has just said so. It is written down, and wakes nobody again.
    """
    condition = cast("OnAnswer", rule.when)
    due = now + timedelta(seconds=rule.max_age)
    alert = open_alert(rule, answer.customer, answer.touchpoint, answer.trust, answer.received_at, due, now)
    severity = min(alert.severity, ANONYMOUS_SEVERITY, key=severity_rank) if repeated else alert.severity
    alert = replace(alert, answer=answer.id, severity=severity)
    if isinstance(condition, FollowUpAtMost) and (answer.follow_up or "").startswith(f"{answer.customer}/"):
        alert = replace(alert, dedup_key=answer.follow_up or alert.dedup_key)
    return Decision("opened", alert, *explain(rule, condition.reason(answer), answer.touchpoint))


def explain(rule: Rule, reason: Reason, touchpoint: str | None) -> tuple[Reason, str, str]:
    """Return the numbers of a decision, and the sentence in English and Finnish."""
    english, finnish = rule.when.sentence(reason), rule.when.sentence(reason, "fi")
    if touchpoint is not None:
        english, finnish = f"{english} at {touchpoint}", f"{finnish} ({touchpoint})"
    return reason, english, finnish


def explain_window(
    rule: Rule, seen: WindowCounts, touchpoint: str | None, *, on_verified: bool = False
) -> tuple[Reason, str, str]:
    """Return the numbers of a judgement, and the sentence in English and Finnish."""
    condition = cast("OnWindow", rule.when)
    reason = condition.reason(*seen.of(verified=on_verified))
    if not condition.is_known(reason):
        return reason, "Too few answers to judge", "Liian vähän vastauksia arvioitavaksi"
    if not on_verified:
        return explain(rule, reason, touchpoint)
    reason, english, finnish = explain(rule, {**reason, "trust": "verified"}, touchpoint)
    return reason, f"{english} (verified answers)", f"{finnish} (tunnistetut vastaajat)"


def decide_window(
    rule: Rule,
    new: NewAnswer,
    age: float,
    gains: Sequence[Gain],
    seen: WindowCounts,
    alert: Alert | None,
    now: datetime,
) -> Decision | None:
    """Decide on a window after one answer, which made these gains; `age` as `age_of` says."""
    condition = cast("OnWindow", rule.when)
    judgement = judge(condition, seen)
    if alert is None and not judgement.fires:
        return None
    answer = new.answer

    def worsens(*, verified: bool) -> bool:
        counts = seen.of(verified=verified)[0]
        return condition.worsens(new.category, answer.score, _without(counts, gains), counts)

    # Each judgement by its own value: what makes one worse may make the other, with a flood in it, better.
    live, is_open = age <= rule.max_age, alert is not None
    worse = live and (is_open or judgement.all.fires) and worsens(verified=False)
    on_verified = False
    if live and not worse and not seen.all_verified and answer.trust == "verified":
        worse = on_verified = (is_open or judgement.verified.fires) and worsens(verified=True)
    if alert is None:
        if not worse:
            return None
        touchpoint = answer.touchpoint if rule.per_touchpoint else rule.touchpoint
        due = next_review(rule, now)
        started = open_alert(rule, answer.customer, touchpoint, judgement.trust, answer.received_at, due, now)
        return Decision("opened", started, *explain_window(rule, seen, touchpoint, on_verified=on_verified))
    if judgement.clears(alert.trust):
        return clear_alert(alert, *explain_window(rule, seen, alert.touchpoint), now)
    if not worse:
        return None
    trust = "verified" if alert.trust == "verified" else judgement.trust
    severity = max(alert.severity, capped(rule.severity, trust, rule), key=severity_rank)
    told_lately = now - alert.updated_at < timedelta(seconds=UPDATE_SECONDS)
    if (severity, trust) == (alert.severity, alert.trust) and told_lately:
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
        due_at=next_review(rule, now),
        pending=False,
    )
    return Decision("updated", updated, *explain_window(rule, seen, alert.touchpoint, on_verified=on_verified))


def _without(counts: Counts, gains: Sequence[Gain]) -> Counts:
    was = list(counts)
    for category, by, amount in gains:
        was[category] -= by
        if amount:
            was[SUM] -= amount
    return was


def decide_by_time(rule: Rule | None, seen: WindowCounts | None, alert: Alert, now: datetime) -> Decision:
    """Decide on an open alert that is due, without an answer; it clears, or waits for its next look.

    `rule` is None where it is no longer in force; `seen` is None for a rule that is not on a window.
    """
    if rule is None:
        return clear_alert(alert, {}, "The rule is no longer in force", "Sääntö ei ole enää voimassa", now)
    if isinstance(rule.when, OnAnswer):
        return clear_alert(alert, {"max_age_seconds": rule.max_age}, "Its time is over", "Sen aika on ohi", now)
    waiting = replace(alert, due_at=next_review(rule, now), pending=False)
    if seen is not None and isinstance(rule.when, OnWindow):
        judgement = judge(rule.when, seen)
        if judgement.clears(alert.trust):
            return clear_alert(alert, *explain_window(rule, seen, alert.touchpoint), now)
        if alert.pending:
            waiting = replace(waiting, version=alert.version + 1, updated_at=now)
            sentences = explain_window(rule, seen, alert.touchpoint, on_verified=judgement.on_verified)
            return Decision("updated", waiting, *sentences)
    return Decision("deferred", waiting, {}, "")


def next_review(rule: Rule, now: datetime) -> datetime:
    """Return when a window may have changed by time alone: at the next hour, or soon for one shorter than a day.

    What only an answer ends is looked at daily, in case that the rule goes.
    """
    if not isinstance(rule.when, OnWindow):
        return now + timedelta(seconds=DAY)
    window = rule.when.seconds
    if window < DAY:
        return now + timedelta(seconds=max(1.0, min(60.0, window / 10)))
    return now + timedelta(seconds=HOUR - now.timestamp() % HOUR)


def clear_alert(alert: Alert, reason: Reason, summary: str, finnish: str, now: datetime) -> Decision:
    """Return the end of an alert."""
    ended = replace(alert, version=alert.version + 1, updated_at=now, pending=False)
    return Decision("cleared", ended, reason, summary, finnish)
