"""What each type of rule makes of the answers it looks at. One function per type; adding one touches its condition in
the directory's model and this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.scoring.domain.figures import mood_of, nps_of
from shared.directory.model import Condition, MoodAtMost, NpsBelow, Rule, UnhappyShareAbove
from shared.events import Kind

Reason = dict[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of some answers. Between firing and clearing lies a band in which nothing changes."""

    fires: bool
    clears: bool
    reason: Reason
    summary: str


def kind_of(condition: Condition) -> Kind:
    """Return the kind of answers that a condition looks at."""
    match condition:
        case NpsBelow():
            return "nps"
        case MoodAtMost() | UnhappyShareAbove():
            return "mood"


def type_of(condition: Condition) -> str:
    """Return the type's name, as `when` has it."""
    return str(condition.__struct_config__.tag)


def window_of(condition: Condition) -> int | None:
    """Return the window in seconds, or None for a rule on a single answer."""
    match condition:
        case MoodAtMost():
            return None
        case NpsBelow(window=window) | UnhappyShareAbove(window=window):
            return window


def answer_fires(condition: Condition, score: float) -> Verdict | None:
    """Judge a single answer, for rules that look at one; None when the rule does not fire."""
    match condition:
        case MoodAtMost(threshold=threshold) if score <= threshold:
            return Verdict(True, False, {"score": int(score), "threshold": threshold}, f"Mood {int(score)} of 4")
        case _:
            return None


def judge(condition: Condition, counts: Sequence[int]) -> Verdict:
    """Judge the counts of a window per category."""
    match condition:
        case NpsBelow():
            return _nps_below(condition, counts)
        case UnhappyShareAbove():
            return _unhappy_share_above(condition, counts)
        case MoodAtMost():
            raise ValueError("mood_at_most has no window")


def worsens(condition: Condition, category: int, before: Sequence[int]) -> bool:
    """Tell whether an answer of this category makes the value worse than the answers before it had it."""
    match condition:
        case NpsBelow():
            score = nps_of(before).score
            worst = category == 0
            return worst or (score is not None and (category - 1) * 100 < score)
        case UnhappyShareAbove():
            return category <= 1
        case MoodAtMost():
            return True


def _nps_below(rule: NpsBelow, counts: Sequence[int]) -> Verdict:
    nps = nps_of(counts)
    reason: Reason = {
        "responses": nps.responses,
        "promoters": nps.promoters,
        "passives": nps.passives,
        "detractors": nps.detractors,
        "threshold": rule.threshold,
        "certainty": rule.certainty,
        "min_responses": rule.min_responses,
        "window_seconds": rule.window,
    }
    score, interval = nps.score, nps.interval()
    if score is None or interval is None:
        return Verdict(False, True, {**reason, "nps": None}, "No NPS answers in the window")
    _, low, high = interval
    reason |= {"nps": round(score, 1), "low": round(low, 1), "high": round(high, 1)}
    value = high if rule.certainty == "strict" else score
    days = f"{rule.window // 86400} days" if rule.window >= 86400 else f"{rule.window // 60} minutes"
    summary = f"NPS {score:+.0f} from {nps.responses} answers in {days}, under {rule.threshold:+g}"
    return Verdict(
        fires=nps.responses >= rule.min_responses and value < rule.threshold,
        clears=value > rule.threshold + rule.clear_margin,
        reason=reason,
        summary=summary,
    )


def _unhappy_share_above(rule: UnhappyShareAbove, counts: Sequence[int]) -> Verdict:
    mood = mood_of(counts)
    share = mood.unhappy_share
    reason: Reason = {
        "responses": mood.responses,
        "unhappy": mood.counts[0] + mood.counts[1],
        "unhappy_share": None if share is None else round(share, 3),
        "threshold": rule.threshold,
        "min_responses": rule.min_responses,
        "window_seconds": rule.window,
    }
    if share is None:
        return Verdict(False, True, reason, "No mood answers in the window")
    return Verdict(
        fires=mood.responses >= rule.min_responses and share > rule.threshold,
        clears=share < rule.threshold - rule.clear_margin,
        reason=reason,
        summary=f"{share:.0%} of {mood.responses} answers unhappy in {rule.window // 60} minutes",
    )


def applies(rule: Rule, *, touchpoint: str | None, audience: str, kind: Kind) -> bool:
    """Tell whether a rule looks at answers like these."""
    return (
        rule.enabled
        and kind_of(rule.when) == kind
        and rule.audience == audience
        and (rule.touchpoint is None or rule.touchpoint == touchpoint)
    )
