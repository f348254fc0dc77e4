"""What each type of rule makes of the answers it looks at.

Adding a type touches its condition in the directory's `model` and `rule_document`, and this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from services.scoring.domain.figures import mood_of, nps_of
from shared.directory.model import Condition, MoodAtMost, NpsBelow, UnhappyShareAbove
from shared.events import Kind

Reason = dict[str, str | int | float | None]


class Verdict(NamedTuple):
    """What a rule says of a window. Between firing and clearing lies a band in which nothing changes."""

    fires: bool
    clears: bool


class Explanation(NamedTuple):
    """The numbers that a decision was made on, and one sentence."""

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


def answer_fires(condition: Condition, score: float) -> bool:
    """Judge a single answer; a rule on a window never fires on one."""
    match condition:
        case MoodAtMost(threshold=threshold):
            return score <= threshold
        case _:
            return False


def explain_answer(condition: Condition, score: float) -> Explanation:
    """Return why a single answer fired."""
    match condition:
        case MoodAtMost(threshold=threshold):
            return Explanation({"score": int(score), "threshold": threshold}, f"Mood {int(score)} of 4")
        case _:
            raise ValueError("a rule on a window")


def judge(condition: Condition, counts: Sequence[int]) -> Verdict:
    """Judge the counts of a window per category."""
    match condition:
        case NpsBelow():
            nps = nps_of(counts)
            value = nps.score
            if value is None:
                return Verdict(fires=False, clears=True)
            if condition.certainty == "strict":
                value = nps.high
            enough = nps.responses >= condition.min_responses
            limit = condition.threshold
            return Verdict(enough and value < limit, value > limit + condition.clear_margin)
        case UnhappyShareAbove():
            mood = mood_of(counts)
            share = mood.unhappy_share
            if share is None:
                return Verdict(fires=False, clears=True)
            enough = mood.responses >= condition.min_responses
            limit = condition.threshold
            return Verdict(enough and share > limit, share < limit - condition.clear_margin)
        case MoodAtMost():
            raise ValueError("mood_at_most has no window")


def is_best(condition: Condition, category: int) -> bool:
    """Tell whether an answer of this category can only make the value better, whatever was before it."""
    match condition:
        case NpsBelow():
            return category == 2
        case UnhappyShareAbove():
            return category >= 2
        case MoodAtMost():
            return False


def worsens(condition: Condition, category: int, before: Sequence[int], after: Sequence[int]) -> bool:
    """Tell whether an answer of this category made the value worse: counts before and after it.

    At the scale's end the value cannot fall: there one more of the worst answers counts as worse.
    """
    match condition:
        case NpsBelow():
            if category == 0 and after[0] > before[0] == sum(before):
                return True
            was, now = nps_of(before).score, nps_of(after).score
            return now is not None and (category < 2 if was is None else now < was)
        case UnhappyShareAbove():
            unhappy = before[0] + before[1]
            if category <= 1 and after[0] + after[1] > unhappy == sum(before):
                return True
            was, now = mood_of(before).unhappy_share, mood_of(after).unhappy_share
            return was is not None and now is not None and now > was
        case MoodAtMost():
            return True


def explain(condition: Condition, counts: Sequence[int]) -> Explanation:
    """Return the numbers that a judgement of a window was made on."""
    match condition:
        case NpsBelow():
            return _explain_nps(condition, counts)
        case UnhappyShareAbove():
            return _explain_share(condition, counts)
        case MoodAtMost():
            raise ValueError("mood_at_most has no window")


def _explain_nps(rule: NpsBelow, counts: Sequence[int]) -> Explanation:
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
        return Explanation({**reason, "nps": None}, "No NPS answers in the window")
    _, low, high = interval
    reason |= {"nps": round(score, 1), "low": round(low, 1), "high": round(high, 1)}
    length = f"{rule.window // 86400} days" if rule.window >= 86400 else f"{rule.window // 60} minutes"
    side = "under" if score < rule.threshold else "over"
    return Explanation(reason, f"NPS {score:+.0f} from {nps.responses} answers in {length}, {side} {rule.threshold:g}")


def _explain_share(rule: UnhappyShareAbove, counts: Sequence[int]) -> Explanation:
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
        return Explanation(reason, "No mood answers in the window")
    return Explanation(reason, f"{share:.0%} of {mood.responses} answers unhappy in {rule.window // 60} minutes")
