"""Alerts of every rule on a window: over time, how near each is, and how long it keeps still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise, product
from typing import Any, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.domain.counting import DAY, HOUR
from services.scoring.domain.decide import Alert
from services.scoring.domain.nearness import nearness
from services.scoring.domain.plan import plan
from shared.directory.model import (
    Audience,
    DetractorsAtLeast,
    MetricMean,
    MoodAtMost,
    MoodBelow,
    NpsBelow,
    NpsDrop,
    Rule,
    UnhappyShareAbove,
)
from shared.rules.base import OnWindow
from shared.rules.document import built_in_rules
from shared.wire.events import FeedbackReceivedV1, Kind
from tests.property.test_scoring_decide import Watched, pages
from tests.property.test_scoring_rules import (
    LANGUAGES,
    METRIC,
    SECOND,
    counted,
    judged,
    made_worse,
    on_windows,
    renders,
)
from tests.support.build import NOW, answer, rule
from tests.support.examples import examples

# ---- alerts of every rule on a window, over time

DatedScore = tuple[int, int, Mapping[str, object]]
pauses = st.sampled_from((0, 0, 0, 1, 20, 600, 2 * HOUR, DAY // 2, DAY, 2 * DAY))
whose = st.sampled_from(({}, {}, {}, {"trust": "anonymous"}, {"respondent": "r-1"}, {"respondent": "r-2"}))
ways = st.sampled_from(({},) * 12 + ({"backfill": True}, {"channel": "import"}, {"age": DAY + 1}, {"age": 3 * HOUR}))
events = st.lists(
    st.tuples(pauses, st.integers(0, 5), st.builds(lambda a, b: {**a, **b}, whose, ways)), min_size=8, max_size=40
)


def given_to(
    when: OnWindow, mark: int, rest: Mapping[str, object], now: datetime, watched: Watched
) -> FeedbackReceivedV1:
    """Return an answer from bad (0) to good (5)."""
    kind = cast("Kind", when.kind)
    scores = {"nps": (0, 3, 6, 8, 9, 10), "mood": (1, 1, 2, 3, 4, 4)}.get(kind, (-8, 0, 0.5, 1, 2, 9))
    fields: dict[str, object] = {"kind": kind, **{name: value for name, value in rest.items() if name != "age"}}
    if kind == "kpi":
        fields["metric"] = "speed"
    occurred = now - timedelta(seconds=cast("int", rest.get("age", 0)))
    return answer(scores[mark], id=watched.next_id, occurred_at=occurred, received_at=now, **fields)


def seen_by(watched: Watched, when: OnWindow, now: datetime) -> tuple[list[float], list[float]]:
    """Return the scores that count in the window, and in the one before."""
    before = watched.inside_before(when.seconds, now) if when.compares else []
    return [a.score for a in watched.inside(when.seconds, now)], [a.score for a in before]


def phase(marks: Sequence[int], length: int) -> st.SearchStrategy[list[DatedScore]]:
    some = st.tuples(st.sampled_from((0, 1, 600)), st.sampled_from(marks), whose)
    return st.lists(some, min_size=length, max_size=3 * length)


falling = st.builds(
    lambda good, pause, bad, rest: [*good, (pause, 1, {}), *bad, *rest],
    phase((3, 5, 5, 5), 3),
    st.sampled_from((DAY, DAY + HOUR, 2 * DAY)),
    phase((0, 0, 0, 4), 3),
    events,
)
"""From good to bad within the windows of a drop, which chance alone hardly finds."""


@examples(400)
@given(st.tuples(on_windows, events) | st.tuples(on_windows.filter(lambda when: when.compares), falling))
def test_alerts_live_by_the_contracts_sentence(of: tuple[OnWindow, list[DatedScore]]) -> None:
    """Judged on all answers and on the verified ones alone: opened by a live answer that made it worse while either
    fires; open through the band; over when neither does.
    """
    when, told = of
    watched, now = Watched([rule(when, name="one", severity="high")]), NOW

    def known() -> Watched:
        return Watched([], stored=[a for a in watched.stored if a.trust == "verified"])

    def ends(alert: Alert) -> bool:
        (_, clears), (fires, over) = (judged(when, *seen_by(some, when, now)) for some in (watched, known()))
        return clears and (over if alert.trust == "verified" else not fires)

    for pause, mark, rest in told:
        now += timedelta(seconds=pause)
        if when.compares and any(not side for side in seen_by(watched, when, now)) and watched.alerts:
            return  # see the test of a drop whose windows have emptied
        for decision in watched.review(now):
            assert (decision.event == "cleared") == ends(decision.alert)
        open_one = next(iter(watched.alerts.values()), None)
        before, before_known = watched.inside(when.seconds, now), known().inside(when.seconds, now)
        said = given_to(when, mark, rest, now, watched)
        decisions = watched.take(said, now)
        after = watched.inside(when.seconds, now)
        happened = {d.event for d in decisions}
        if {a.id for a in before} == {a.id for a in after}:
            assert not decisions, "an answer that does not count decides nothing"
            continue
        if open_one is not None:
            assert ("cleared" in happened) == ends(open_one)
            assert "opened" not in happened
            continue
        live = not said.backfill and said.channel != "import" and now - said.occurred_at <= timedelta(days=1)
        fires = judged(when, *seen_by(watched, when, now))[0]
        verified = judged(when, *seen_by(known(), when, now))[0]
        after_known = known().inside(when.seconds, now)
        worse = made_worse(when, [a.score for a in before], [a.score for a in after], said.score)
        worse_known = said.trust == "verified" and made_worse(
            when, [a.score for a in before_known], [a.score for a in after_known], said.score
        )
        assert ("opened" in happened) == (live and ((fires and worse) or (verified and worse_known)))
        for decision in pages(decisions, "opened"):
            assert decision.alert.trust == ("verified" if verified else "anonymous")
            assert decision.alert.severity == ("high" if verified else "medium")
    told_of = [d for d in watched.told if d.event in {"opened", "cleared"}]
    assert [d.event for d in told_of] == ["opened", "cleared"] * (len(told_of) // 2) + ["opened"] * (len(told_of) % 2)
    for decision in watched.told:
        if decision.event != "deferred":
            renders(decision.summary)


SCENES: Mapping[str, tuple[OnWindow, float, float]] = {
    "nps_below": (NpsBelow(0, DAY, 5), 0, 10),
    "nps_drop": (NpsDrop(20, DAY, min_responses=5), 0, 10),
    "detractors_at_least": (DetractorsAtLeast(4, DAY), 0, 10),
    "mood_below": (MoodBelow(2.5, DAY, 5), 1, 4),
    "unhappy_share_above": (UnhappyShareAbove(0.5, 900), 1, 4),
    "metric": (MetricMean("speed", DAY, mean_below=90), 50, 95),
}


def scene(when: OnWindow, score: float, now: datetime, **more: object) -> FeedbackReceivedV1:
    """Return an answer of the rule's own kind, given just now."""
    fields = METRIC if when.kind == "kpi" else {"kind": when.kind}
    return answer(score, occurred_at=now, received_at=now, **fields, **more)


def worked_up(of: Rule, bad: float, good: float, *, count: int = 12, **more: Any) -> tuple[Watched, datetime]:
    """Return a customer of whom yesterday's answers were good and today's are bad."""
    when = cast("OnWindow", of.when)
    watched, now = Watched([of]), NOW
    for _ in range(count):
        _ = watched.take(scene(when, good, now, **more), now)
    now += timedelta(seconds=DAY + HOUR) if when.seconds >= DAY else timedelta(hours=1)
    for _ in range(count):
        now += SECOND
        _ = watched.take(scene(when, bad, now, **more), now)
    return watched, now


@pytest.mark.parametrize("word", SCENES)
def test_a_problem_comes_once_and_goes(word: str) -> None:
    """From good answers to bad ones and on into silence: one alert, with sentences, and in the end it is over."""
    when, bad, good = SCENES[word]
    watched, now = worked_up(rule(when, name="one"), bad, good)
    (opened,) = pages(watched.told, "opened")
    assert (opened.alert.kind, opened.alert.dedup_key) == (word, "acme/one/*")
    for _ in range(3):
        now += timedelta(seconds=3 * when.seconds)
        _ = watched.review(now)
    assert [d.event for d in watched.told if d.event != "updated"][-1] == "cleared"
    assert len(pages(watched.told, "opened")) == 1
    assert not watched.alerts
    for decision in watched.told:
        if decision.event != "deferred":
            assert set(decision.sentences) == set(LANGUAGES)
            for text in decision.sentences.values():
                renders(text)


@pytest.mark.parametrize("word", SCENES)
def test_a_rule_for_each_touchpoint_judges_each_by_itself(word: str) -> None:
    """Billing is not hidden by a support that is well, and not blamed for one that is not."""
    when, bad, good = SCENES[word]
    watched, now = worked_up(rule(when, name="one", per_touchpoint=True), bad, good, touchpoint="billing")
    for n in range(24):
        _ = watched.take(scene(when, good, now, touchpoint="support", id=watched.next_id), now)
        if n < 3:
            _ = watched.take(scene(when, bad, now, touchpoint=None), now)
    (opened,) = pages(watched.told, "opened")
    assert (opened.alert.touchpoint, opened.alert.dedup_key) == ("billing", "acme/one/billing")
    assert all(text.count("billing") == 1 for text in opened.sentences.values())


@pytest.mark.parametrize("word", SCENES)
@pytest.mark.parametrize("audience", get_args(Audience))
def test_customers_and_employees_are_judged_apart(word: str, audience: Audience) -> None:
    """An unhappy works council pages nobody for the customer, nor the other way round."""
    when, bad, good = SCENES[word]
    of = rule(when, name="one", audience=audience)
    other = "employee" if audience == "customer" else "customer"
    watched, _ = worked_up(of, bad, good, audience=other)
    assert watched.told == []
    watched, _ = worked_up(of, bad, good, audience=audience)
    assert len(pages(watched.told, "opened")) == 1


@pytest.mark.parametrize("word", SCENES)
def test_strangers_alone_open_a_medium_alert(word: str) -> None:
    """Anybody can post with a widget's key; `trust: any` is for who wants to hear them all the same."""
    when, bad, good = SCENES[word]
    for of_rule, severity in (("verified", "medium"), ("any", "critical")):
        watched, now = worked_up(rule(when, name="one", trust=of_rule), bad, good, trust="anonymous")
        (opened,) = pages(watched.told, "opened")
        assert (opened.alert.trust, opened.alert.severity) == ("anonymous", severity)
        if when.compares:
            continue  # what known people said yesterday would be missing
        for _ in range(40):
            now += SECOND
            _ = watched.take(scene(when, bad, now), now)
        (alert,) = watched.alerts.values()
        assert (alert.trust, alert.severity) == ("verified", "critical")


@pytest.mark.parametrize("word", SCENES)
@pytest.mark.parametrize("way", [{"backfill": True}, {"channel": "import"}])
def test_what_is_imported_opens_nothing(word: str, way: dict[str, Any]) -> None:
    when, bad, good = SCENES[word]
    watched, now = worked_up(rule(when, name="one"), bad, good, **way)
    assert watched.told == []
    now += SECOND
    assert pages(watched.take(scene(when, bad, now), now), "opened"), "the next live one does"


@pytest.mark.parametrize("word", [*SCENES, "mood_at_most"])
def test_an_answer_older_than_max_age_opens_nothing(word: str) -> None:
    """Who was offline for an hour is heard; what is older than the rule allows changes the scores alone."""
    when, bad, good = SCENES.get(word, (MoodAtMost(1), 1, 4))
    of = rule(when, name="one", max_age=HOUR)
    fields = METRIC if when.kind == "kpi" else {"kind": when.kind}
    for age, opens in ((HOUR + 1, False), (HOUR - 1, True)):
        if isinstance(when, OnWindow):
            if when.seconds < DAY:
                when = UnhappyShareAbove(0.5, 3 * HOUR)
                of = rule(when, name="one", max_age=HOUR)
            watched, now = worked_up(of, bad, good, count=24, backfill=True)
        else:
            watched, now = Watched([of]), NOW
        said = answer(bad, occurred_at=now - timedelta(seconds=age), received_at=now, **fields)
        assert bool(pages(watched.take(said, now), "opened")) == opens


# ---- how near each rule is


@pytest.mark.parametrize("word", SCENES)
def test_a_customers_rules_say_how_near_they_are(word: str) -> None:
    """Missing answers first, then how far it is; while its alert is open there is nothing to ask."""
    when, bad, good = SCENES[word]
    of = rule(when, name="one", severity="high")
    watched = Watched([of])
    _ = watched.take(scene(when, good, NOW), NOW)
    (near,) = nearness(watched.state, plan([of]), NOW)
    assert (near.rule, near.kind, near.severity, near.alert) == ("one", word, "high", None)
    assert near.why_not == when.nearness(*counted(when, [good], []))
    assert near.why_not
    watched, now = worked_up(of, bad, good)
    (near,) = nearness(watched.state, plan([of]), now)
    (alert,) = watched.alerts.values()
    assert (near.alert, near.why_not) == (alert.id, None)
    assert near.reason["responses"] == 12


def test_the_built_in_rules_of_a_customer_without_answers_say_what_they_wait_for() -> None:
    rules = built_in_rules()
    told = nearness(Watched(rules).state, plan(rules), NOW)
    assert {near.rule: near.why_not for near in told} == {
        "mood-one": "fires on a single answer",
        "nps-low": "needs 10 more answers",
        "shift": "waits for the first live answer",
        "silence": "waits for the first live answer",
        "good-experience": "fires on a single answer",
        "follow-up": "fires on a single answer",
    }


# ---- cooldown


@pytest.mark.parametrize(("pause", "opens"), [(2 * HOUR - 1, False), (2 * HOUR, True)])
@pytest.mark.parametrize("per_touchpoint", [False, True])
def test_a_rule_cools_down_before_it_opens_again(pause: int, opens: bool, per_touchpoint: bool) -> None:
    """Who has just closed a problem is not paged for its echo; another problem is not kept back."""
    of = rule(UnhappyShareAbove(0.5, 900), name="one", cooldown=2 * HOUR, per_touchpoint=per_touchpoint)
    watched, now = worked_up(of, 1, 4)
    now += timedelta(minutes=20)
    (cleared,) = pages(watched.review(now), "cleared")
    now += timedelta(seconds=pause)
    for _ in range(6):
        _ = watched.take(scene(cast("OnWindow", of.when), 1, now, touchpoint="support"), now)
    assert len(pages(watched.told, "opened")) == 1 + opens
    for _ in range(6):
        _ = watched.take(scene(cast("OnWindow", of.when), 1, now, touchpoint="billing"), now)
    assert len(pages(watched.told, "opened")) == 1 + opens + per_touchpoint
    assert cleared.alert.dedup_key == ("acme/one/support" if per_touchpoint else "acme/one/*")


@given(st.lists(st.tuples(st.sampled_from((0, 60, HOUR, 3 * HOUR)), st.integers(0, 2)), min_size=4, max_size=40))
def test_no_alert_opens_within_the_cooldown(told: list[tuple[int, int]]) -> None:
    """Whatever happens: between the end of a problem's alert and the next one lie two hours."""
    of = rule(UnhappyShareAbove(0.5, 900, 2), name="one", cooldown=2 * HOUR)
    watched, now = Watched([of]), NOW
    for pause, mark in told:
        now += timedelta(seconds=pause)
        _ = watched.review(now)
        _ = watched.take(answer((1, 1, 4)[mark], kind="mood", occurred_at=now, received_at=now), now)
    marks = [d for d in watched.told if d.event in {"opened", "cleared"}]
    for earlier, later in pairwise(marks):
        if later.event == "opened":
            assert later.alert.opened_at - earlier.alert.updated_at >= timedelta(hours=2)


def test_a_single_answer_cools_down_too() -> None:
    of = rule(MoodAtMost(1), cooldown=HOUR, max_age=60)
    watched = Watched([of])
    (opened,) = watched.take(answer(1, kind="mood"), NOW)
    over = NOW + timedelta(seconds=60)
    assert [d.event for d in watched.review(over, opened.alert)] == ["cleared"]
    for seconds, opens in ((HOUR - 1, False), (HOUR, True)):
        now = over + timedelta(seconds=seconds)
        said = answer(1, kind="mood", occurred_at=now, received_at=now)
        assert bool(watched.take(said, now)) == opens


@pytest.mark.parametrize(("first", "then"), list(product(("verified", "anonymous"), repeat=2)))
@pytest.mark.parametrize("trust", ["verified", "any"])
@pytest.mark.parametrize("when", [UnhappyShareAbove(0.5, 900), MoodAtMost(1)])
def test_what_strangers_said_quiets_nobody_who_is_known(
    when: OnWindow | MoodAtMost, trust: str, first: str, then: str
) -> None:
    """An alert of strangers that cleared is no reason to keep back one of known people, where they differ."""
    of = rule(when, cooldown=2 * HOUR, max_age=60, trust=trust)
    watched = Watched([of])
    for _ in range(6):
        _ = watched.take(answer(1, kind="mood", trust=first), NOW)
    over = NOW + timedelta(minutes=20)
    for alert in [one.alert for one in pages(watched.told, "opened")]:
        assert [d.event for d in watched.review(over, alert)] == ["cleared"]
    count = len(pages(watched.told, "opened"))
    for _ in range(6):
        _ = watched.take(answer(1, kind="mood", trust=then, occurred_at=over, received_at=over), over)
    opens = (first, then, trust) == ("anonymous", "verified", "verified")
    assert (len(pages(watched.told, "opened")) > count) == opens


@pytest.mark.parametrize(
    ("first", "minutes", "cooldown", "wakes"),
    [
        (1, 5, 0, False),
        (4, 5, 0, True),
        (1, 65, 0, True),
        (1, 65, 6 * HOUR, False),
        (1, 6 * 60 + 5, 6 * HOUR, True),
    ],
)
def test_a_person_with_a_token_wakes_nobody_twice_by_the_same(
    first: int, minutes: int, cooldown: int, wakes: bool
) -> None:
    """What they say again within the hour, or the rule's cooldown, is written down; that it got worse is news."""
    watched, begun = Watched([rule(MoodAtMost(1), cooldown=cooldown)]), NOW.replace(hour=6, minute=0)
    of_them = {"respondent": "r-1", "by_token": True}
    _ = watched.take(answer(first, kind="mood", occurred_at=begun, received_at=begun, **of_them), begun)
    now = begun + timedelta(minutes=minutes)
    said = answer(1, kind="mood", id=watched.next_id, occurred_at=now, received_at=now, **of_them)
    (again,) = pages(watched.take(said, now), "opened")
    assert again.alert.severity == ("critical" if wakes else "medium")


def test_a_company_may_say_the_same_twice() -> None:
    """By its own key it speaks for whom it knows; a browser that says it again is no news even where anybody wakes."""
    tablet = {"device": "tablet-1"}
    for fields, wakes in (
        ({"respondent": "r-1"}, True),
        (tablet, True),
        ({**tablet, "trust": "anonymous"}, False),
        ({}, True),
    ):
        watched = Watched([rule(MoodAtMost(1), trust="any")])
        for minute in range(2):
            now = NOW + timedelta(minutes=minute)
            said = answer(1, kind="mood", id=watched.next_id, occurred_at=now, received_at=now, **fields)
            _ = watched.take(said, now)
        assert [one.alert.severity for one in watched.told] == ["critical", "critical" if wakes else "medium"]
