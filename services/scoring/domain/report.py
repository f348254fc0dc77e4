"""What scoring tells others: alert messages, and scores as the contract has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from services.scoring.domain.counting import Series
from services.scoring.domain.decide import Decision
from services.scoring.domain.figures import RELIABLE_RESPONSES, Mood, Nps, mood_of, nps_of
from services.scoring.domain.windows import tally
from shared.events import AlertScoresV1, AlertV1, Audience, EvidenceV1, Kind

Counts = Mapping[Series, Sequence[int]]


class NpsScore(msgspec.Struct, frozen=True, kw_only=True):
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


class MoodScore(msgspec.Struct, frozen=True, kw_only=True):
    """The mood meter, 1 (worst) to 4."""

    average: float | None
    responses: int
    counts: dict[str, int]
    unhappy_share: float | None
    goal: float | None
    gap: float | None
    """Goal - average."""


class TouchpointScore(msgspec.Struct, frozen=True, kw_only=True):
    """One touchpoint; `touchpoint` is null for answers that named none."""

    touchpoint: str | None
    nps: NpsScore
    mood: MoodScore


def nps_score(
    counts: Counts, audience: Audience, touchpoints: Sequence[str | None] | None, goal: float | None
) -> NpsScore:
    """Return the NPS of some counts."""
    nps = nps_of(_total(counts, "nps", audience, touchpoints))
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
    )


def mood_score(
    counts: Counts, audience: Audience, touchpoints: Sequence[str | None] | None, goal: float | None
) -> MoodScore:
    """Return the mood of some counts."""
    mood = mood_of(_total(counts, "mood", audience, touchpoints))
    average = None if mood.average is None else round(mood.average, 2)
    return MoodScore(
        average=average,
        responses=mood.responses,
        counts={str(face): count for face, count in enumerate(mood.counts, 1)},
        unhappy_share=None if mood.unhappy_share is None else round(mood.unhappy_share, 2),
        goal=goal,
        gap=_gap(goal, average, 2),
    )


def touchpoint_scores(counts: Counts, audience: Audience) -> list[TouchpointScore]:
    """Return every touchpoint that has answers, the weakest first."""
    touchpoints = {series.touchpoint for series in counts if series.audience == audience}
    scores = [
        TouchpointScore(
            touchpoint=touchpoint,
            nps=nps_score(counts, audience, [touchpoint], None),
            mood=mood_score(counts, audience, [touchpoint], None),
        )
        for touchpoint in touchpoints
    ]
    return sorted(scores, key=_strength)


def _strength(score: TouchpointScore) -> tuple[float, str]:
    """Both scales brought to 0..1; of a touchpoint that has both, the worse one counts."""
    parts: list[float] = []
    if score.nps.score is not None:
        parts.append((score.nps.score + 100) / 200)
    if score.mood.average is not None:
        parts.append((score.mood.average - 1) / 3)
    return min(parts, default=2.0), score.touchpoint or ""


def _total(counts: Counts, kind: Kind, audience: Audience, touchpoints: Sequence[str | None] | None) -> list[int]:
    return tally(counts, kind=kind, audience=audience, touchpoints=touchpoints).total


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
    cleared = decision.happening == "cleared"
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
    )
