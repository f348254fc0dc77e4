"""What scoring tells others: alert messages, and scores as the contract has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from services.scoring.domain.counting import Series
from services.scoring.domain.decide import Decision
from services.scoring.domain.windows import Measure, view_of
from shared.directory.model import Customer
from shared.rules.base import SUM
from shared.rules.figures import RELIABLE_RESPONSES, Mood, Nps, mood_of, nps_of
from shared.wire import erasure
from shared.wire.events import AlertScoresV1, AlertV1, Audience, EvidenceV1, Kind, RespondentErasedV1

Counts = Mapping[Series, Sequence[float]]
Touchpoints = Sequence[str | None] | None
"""None: all of them."""


class NpsScore(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """NPS in points with its 95 % interval."""

    score: float | None
    responses: int
    promoters: int
    passives: int
    detractors: int
    margin: float | None
    low: float | None
    high: float | None
    reliable: bool
    goal: float | None
    gap: float | None
    """Goal - score."""
    verified: NpsScore | None = None
    """The same of verified answers alone, where there are others."""


class MoodScore(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The mood meter, 1 (worst) to 4."""

    average: float | None
    responses: int
    counts: dict[str, int]
    unhappy_share: float | None
    margin: float | None
    low: float | None
    high: float | None
    reliable: bool
    goal: float | None
    gap: float | None
    """Goal - average."""
    verified: MoodScore | None = None
    """The same of verified answers alone, where there are others."""


class MetricScore(msgspec.Struct, frozen=True, kw_only=True):
    """A key metric of the customer's own, in its own unit."""

    mean: float
    responses: int
    goal: float | None
    gap: float | None
    """How far the mean is on the bad side of the goal; below 0 it is beyond it."""


class TouchpointScore(msgspec.Struct, frozen=True, kw_only=True):
    """One touchpoint; `touchpoint` is null for answers that named none."""

    touchpoint: str | None
    nps: NpsScore
    mood: MoodScore
    metrics: dict[str, MetricScore] = {}


class ChannelScore(msgspec.Struct, frozen=True, kw_only=True):
    """The answers that came one way."""

    channel: str
    nps: NpsScore
    mood: MoodScore


def nps_score(counts: Counts, audience: Audience, touchpoints: Touchpoints, goal: float | None) -> NpsScore:
    """Return the NPS of some counts."""
    view = view_of(counts, Measure("nps", None, audience), touchpoints)
    verified = None if view.anonymous is None else _nps_score(view.verified, goal, None)
    return _nps_score(view.all, goal, verified)


def _nps_score(counts: Sequence[float], goal: float | None, verified: NpsScore | None) -> NpsScore:
    nps = nps_of(counts)
    interval = nps.interval()
    score = None if nps.score is None else round(nps.score, 1)
    margin, low, high = (None, None, None) if interval is None else (round(figure, 1) for figure in interval)
    return NpsScore(
        score=score,
        responses=nps.responses,
        promoters=nps.promoters,
        passives=nps.passives,
        detractors=nps.detractors,
        margin=margin,
        low=low,
        high=high,
        reliable=nps.responses >= RELIABLE_RESPONSES,
        goal=goal,
        gap=_gap(goal, score, 1),
        verified=verified,
    )


def mood_score(counts: Counts, audience: Audience, touchpoints: Touchpoints, goal: float | None) -> MoodScore:
    """Return the mood of some counts."""
    view = view_of(counts, Measure("mood", None, audience), touchpoints)
    verified = None if view.anonymous is None else _mood_score(view.verified, goal, None)
    return _mood_score(view.all, goal, verified)


def _mood_score(counts: Sequence[float], goal: float | None, verified: MoodScore | None) -> MoodScore:
    mood = mood_of(counts)
    average = None if mood.average is None else round(mood.average, 2)
    interval = mood.interval()
    margin, low, high = (None, None, None) if interval is None else (round(figure, 2) for figure in interval)
    return MoodScore(
        average=average,
        responses=mood.responses,
        counts={str(face): count for face, count in enumerate(mood.counts, 1)},
        unhappy_share=None if mood.unhappy_share is None else round(mood.unhappy_share, 2),
        margin=margin,
        low=low,
        high=high,
        reliable=mood.responses >= RELIABLE_RESPONSES,
        goal=goal,
        gap=_gap(goal, average, 2),
        verified=verified,
    )


def metric_scores(
    counts: Counts, audience: Audience, touchpoints: Touchpoints, goals: Mapping[str, float], better: Mapping[str, str]
) -> dict[str, MetricScore]:
    """Return every key metric that has answers. `better`: up or down, by metric."""
    found: dict[str, MetricScore] = {}
    for metric in sorted({series.metric for series in counts if series.metric is not None}):
        view = view_of(counts, Measure("kpi", metric, audience), touchpoints)
        responses = int(view.all[0])
        if responses:
            mean, goal = float(f"{view.all[SUM] / responses:.6g}"), goals.get(metric)
            gap = _gap(goal, mean, 6)
            if gap is not None and better.get(metric) == "down":
                gap = -gap
            found[metric] = MetricScore(mean=mean, responses=responses, goal=goal, gap=gap)
    return found


def goals_of(known: Customer, touchpoint: str | None) -> Mapping[str, float]:
    """Return the goals of a customer, or of one of its touchpoints: its own, else the customer's."""
    own = known.touchpoint_goals.get(touchpoint or "")
    return {**known.goals, **own} if own else known.goals


def touchpoint_scores(
    counts: Counts, audience: Audience, known: Customer, better: Mapping[str, str]
) -> list[TouchpointScore]:
    """Return every touchpoint that has answers, the weakest first."""
    touchpoints = {series.touchpoint for series in counts if series.audience == audience}
    scores: list[TouchpointScore] = []
    for touchpoint in touchpoints:
        goals = goals_of(known, touchpoint)
        scores.append(
            TouchpointScore(
                touchpoint=touchpoint,
                nps=nps_score(counts, audience, [touchpoint], goals.get("nps")),
                mood=mood_score(counts, audience, [touchpoint], goals.get("mood")),
                metrics=metric_scores(counts, audience, [touchpoint], goals, better),
            )
        )
    return sorted(scores, key=lambda one: (strength(one.nps, one.mood), one.touchpoint or ""))


def strength(nps: NpsScore, mood: MoodScore) -> float:
    """Return both scales brought to 0..1; of what has both, the worse one counts. 2 without answers."""
    parts: list[float] = []
    if nps.score is not None:
        parts.append((nps.score + 100) / 200)
    if mood.average is not None:
        parts.append((mood.average - 1) / 3)
    return min(parts, default=2.0)


def _total(counts: Counts, kind: Kind, audience: Audience, touchpoints: Touchpoints) -> list[float]:
    return view_of(counts, Measure(kind, None, audience), touchpoints).all


def _gap(goal: float | None, value: float | None, digits: int) -> float | None:
    return None if goal is None or value is None else round(goal - value, digits)


def alert_scores(counts: Counts, touchpoint: str | None, goals: Mapping[str, float]) -> AlertScoresV1:
    """Return where a customer stands, in the alert's touchpoint if it has one."""
    touchpoints = None if touchpoint is None else [touchpoint]
    nps: Nps = nps_of(_total(counts, "nps", "customer", touchpoints))
    mood: Mood = mood_of(_total(counts, "mood", "customer", touchpoints))
    return AlertScoresV1(
        nps=None if nps.score is None else round(nps.score, 1),
        nps_responses=nps.responses,
        nps_goal=goals.get("nps"),
        mood=None if mood.average is None else round(mood.average, 2),
        mood_responses=mood.responses,
        mood_goal=goals.get("mood"),
    )


def alert_message(decision: Decision, evidence: list[EvidenceV1], scores: AlertScoresV1) -> AlertV1:
    """Return the message that tells what happened to an alert."""
    alert = decision.alert
    cleared = decision.event == "cleared"
    return AlertV1(
        id=alert.id,
        version=alert.version,
        customer=alert.customer,
        touchpoint=alert.touchpoint,
        rule=alert.rule,
        kind=alert.kind,
        severity=alert.severity,
        state="cleared" if cleared else "open",
        opened_at=alert.opened_at,
        cleared_at=alert.updated_at if cleared else None,
        caused_at=alert.caused_at,
        summary=decision.summary,
        reason=decision.reason,
        scores=scores,
        evidence=evidence,
        dedup_key=alert.dedup_key,
        trust=alert.trust,
        sentences=dict(decision.sentences),
    )


def without(alert: AlertV1, wanted: RespondentErasedV1) -> AlertV1:
    """Return an alert that no longer says who gave an answer, nor what they wrote."""
    return replace(alert, evidence=erasure.without(alert.evidence, wanted))
