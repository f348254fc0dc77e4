"""A backtest tells what scoring itself would have told: replayed answers against windows counted afresh each time."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.scoring.domain.counting import DAY, Series
from services.scoring.domain.decide import Alert, Decision
from services.scoring.domain.plan import plan
from services.scoring.domain.replay import Replay
from services.scoring.domain.trend import Counted, windows
from shared.directory.model import (
    DetractorsAtLeast,
    MoodAtMost,
    MoodBelow,
    NoFeedbackFor,
    NpsBelow,
    NpsDrop,
    Shift,
    UnhappyShareAbove,
)
from shared.wire.events import FeedbackReceivedV1
from tests.property.test_scoring_decide import Watched
from tests.support.build import NOW, answer, rule
from tests.support.examples import examples

RULES = (
    rule(MoodAtMost(1), name="mood-one"),
    rule(NpsBelow(20, 2 * DAY, min_responses=3, certainty="simple"), name="nps-low"),
    rule(NpsBelow(50, 30 * DAY, min_responses=3), name="nps-sure", per_touchpoint=True),
    rule(NpsDrop(20, DAY, min_responses=2, confidence=0.5), name="drop"),
    rule(DetractorsAtLeast(2, 7 * DAY), name="detractors", cooldown=DAY),
    rule(MoodBelow(2.5, DAY, min_responses=2), name="mood-low"),
    rule(UnhappyShareAbove(0.5, 900, min_responses=2), name="burst"),
    rule(NoFeedbackFor(3 * DAY), name="quiet"),
    rule(Shift(12.0), name="shift"),
)
pauses = st.sampled_from((1, 30, 700, 3600, 5 * 3600, DAY, 2 * DAY, 8 * DAY, 40 * DAY))
said = st.tuples(
    pauses,
    st.sampled_from(("nps", "nps", "mood")),
    st.integers(0, 3),
    st.sampled_from(("support", "billing", None)),
    st.sampled_from((None, "r-1", "r-2")),
    st.sampled_from(("verified", "anonymous")),
    st.sampled_from((None, None, "browser-1")),
)


class Sweeping(Watched):
    """Also keeps the alerts of single answers until they are over."""

    def __init__(self) -> None:
        super().__init__(RULES)
        self.single: list[Alert] = []


def told_by(watched: Sweeping, until: datetime) -> list[tuple[object, ...]]:
    """Let time pass as the owner's sweep does: at each moment at which something is due."""
    found: list[tuple[object, ...]] = []
    while True:
        due = min([watched.state.due_at, *(alert.due_at for alert in [*watched.alerts.values(), *watched.single])])
        if due > until:
            return found
        for alert in [a for a in watched.single if a.due_at <= due]:
            watched.single.remove(alert)
            found += [shown(due, decision) for decision in watched.review(due, alert)]
        found += [shown(due, decision) for decision in watched.review(due)]
        found += [shown(due, decision) for decision in watched.review_silences(due)]


def shown(at: datetime, decision: Decision) -> tuple[object, ...]:
    alert = decision.alert
    told = (alert.dedup_key, alert.severity, alert.trust, alert.version)
    return (at, decision.event, *told, decision.reason, decision.summary)


@examples(100)
@given(st.lists(said, min_size=1, max_size=25))
def test_a_replay_tells_what_scoring_would_have_told(
    steps: list[tuple[int, str, int, str | None, str | None, str, str | None]],
) -> None:
    """Who tries a rule on last year's answers sees what it would have done, to the hour and with its numbers."""
    naive, player, now = Sweeping(), Replay("acme", plan(RULES)), NOW
    expected: list[tuple[object, ...]] = []
    found: list[tuple[object, ...]] = []
    for pause, kind, mark, touchpoint, respondent, trust, device in steps:
        now += timedelta(seconds=pause)
        given_now: FeedbackReceivedV1 = answer(
            (0, 6, 8, 10)[mark] if kind == "nps" else mark + 1,
            id=naive.next_id,
            kind=kind,
            touchpoint=touchpoint,
            respondent=respondent,
            trust="verified" if respondent else trust,
            device=device,
            occurred_at=now,
            received_at=now,
        )
        if naive.stored:
            expected += told_by(naive, now)
        decisions = naive.take(given_now, now)
        naive.single += [d.alert for d in decisions if d.alert.answer is not None]
        expected += [shown(now, decision) for decision in decisions]
        found += [shown(*told) for told in player.take(given_now)]
    later = now + timedelta(days=50)
    expected += told_by(naive, later)
    found += [shown(*told) for told in player.until(later)]
    wanted = ("opened", "updated", "cleared")
    key = repr  # at one moment, several problems may be told in any order
    assert sorted((t for t in found if t[1] in wanted), key=key) == sorted(
        (t for t in expected if t[1] in wanted), key=key
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.none() | st.integers(1, 30), st.integers(0, 2), st.integers(1, 3)), max_size=20
    ),
    st.integers(1, 20),
    st.integers(0, 30),
)
def test_a_days_window_is_what_a_recount_says(
    told: list[tuple[int, int | None, int, int]], length: int, first: int
) -> None:
    """Each point of a trend counts the answers of its window, those that were replaced later among them."""
    series = Series("support", "customer", "nps", "verified")
    counted = [
        Counted(day, None if after is None else day + after, series, [count * (c == category) for c in range(8)])
        for day, after, category, count in told
    ]
    last = first + 15
    for day, found in enumerate(windows(counted, first, last, length), first):
        expected = [0.0] * 8
        for said_on, until, _, counts in counted:
            if day - length < said_on <= day and (until is None or until > day):
                expected = [a + b for a, b in zip(expected, counts, strict=True)]
        assert found.get(series, [0.0] * 8) == expected, day
