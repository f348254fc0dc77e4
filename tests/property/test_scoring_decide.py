"""An alert opens when something got worse, stays through noise, and goes away; it never cries twice or backwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.scoring.domain.counting import (
    DAY,
    WIDTH,
    DatedScore,
    NewAnswer,
    Series,
    category_of,
    changes,
    hour_of,
    neighbours,
    new_answer,
    series_of,
)
from services.scoring.domain.customer import CustomerState, Memory, midnight_after
from services.scoring.domain.decide import Alert, Decision, dedup_key
from services.scoring.domain.plan import plan
from services.scoring.domain.votes import vote_of
from services.scoring.domain.windows import ExactWindow, HourWindow
from shared.directory.model import (
    REVOTE_AFTER,
    SEVERITIES,
    DetractorsAtLeast,
    MoodAtMost,
    MoodBelow,
    NpsBelow,
    Rule,
    UnhappyShareAbove,
    severity_rank,
)
from shared.rules.base import SUM
from shared.rules.figures import nps_of
from shared.wire.events import FeedbackReceivedV1
from tests.support.build import NOW, answer, dated_score, rule
from tests.support.examples import examples

SECOND = timedelta(seconds=1)
SIMPLE = rule(NpsBelow(0, 30 * DAY, min_responses=5, certainty="simple"), name="nps-low", severity="high")
STRICT = rule(NpsBelow(10, 30 * DAY, min_responses=3), name="nps-low", severity="high")
SHORT = rule(NpsBelow(20, 3 * 3600, min_responses=3, certainty="simple"), name="nps-low", severity="high")
SHARE = rule(UnhappyShareAbove(0.5, 900, clear_margin=0.1), name="burst", severity="high")
AIM = rule(NpsBelow(60, 30 * DAY, min_responses=3, certainty="simple"), name="nps-low", severity="high")
ON_WINDOWS = st.sampled_from((SIMPLE, STRICT, SHORT, SHARE, AIM))


# ---- a customer whose windows are counted afresh at every step, so that only decisions carry over


@dataclass
class Watched:
    """Feeds one customer's answers to the rules, one by one, and keeps what was decided."""

    rules: Sequence[Rule]
    stored: list[FeedbackReceivedV1] = field(default_factory=list[FeedbackReceivedV1])
    state: CustomerState = field(default_factory=lambda: CustomerState("acme", 0, 1, midnight_after(NOW)))
    told: list[Decision] = field(default_factory=list[Decision])
    voters: dict[UUID, str | None] = field(default_factory=dict[UUID, str | None])

    @property
    def next_id(self) -> UUID:
        return UUID(int=len(self.stored) + 1)

    @property
    def alerts(self) -> dict[str, Alert]:
        return self.state.alerts

    def take(self, said: FeedbackReceivedV1, now: datetime) -> list[Decision]:
        self._rebuild(now)
        new = self._voted(said)
        earlier = [
            dated_score(a)
            for a in self.stored
            if new.voter is not None and (series_of(a), self.voters[a.id]) == (new.series, new.voter)
        ]
        previous, following = neighbours(new.dated, earlier)
        made = changes(new, previous, following)
        self.stored.append(said)
        self.voters[said.id] = new.voter
        return self._keep(self.state.take(plan(self.rules), new, previous, made, now))

    def _voted(self, said: FeedbackReceivedV1) -> NewAnswer:
        new = new_answer(said)
        if new.voter is not None or said.device is None:
            return new

        def last(vote: str) -> DatedScore | None:
            of_vote = [dated_score(a) for a in self.stored if (series_of(a), self.voters[a.id]) == (new.series, vote)]
            return max(of_vote, default=None)

        return msgspec.structs.replace(new, voter=vote_of(new, REVOTE_AFTER, last))

    def review(self, now: datetime, alert: Alert | None = None) -> list[Decision]:
        """Look at the alerts that are due, or at the given one."""
        self._rebuild(now)
        due = [alert] if alert else [a for a in self.alerts.values() if a.due_at <= now]
        return self._keep([self.state.review(plan(self.rules), a, now) for a in due])

    def review_silences(self, now: datetime) -> list[Decision]:
        """Ask whether the customer has fallen silent, if it is time to."""
        self._rebuild(now)
        return self._keep(self.state.review_silences(plan(self.rules), now) if self.state.due_at <= now else [])

    def _keep(self, decisions: list[Decision]) -> list[Decision]:
        self.told += decisions
        return decisions

    def _rebuild(self, now: datetime) -> None:
        """Take the state as another owner of the partition would read it, every window counted afresh."""
        old = self.state
        state = self.state = CustomerState("acme", 0, 1, old.due_at, alerts=old.alerts, cleared=old.cleared)
        state.recall(msgspec.msgpack.decode(msgspec.msgpack.encode(old.memory()), type=Memory))
        planned = plan(self.rules)
        for length, judged in planned.hour_lengths.items():
            start = hour_of(since_of(length, now))
            state.hours[length] = HourWindow(judged, start)
            for series, counts in counts_of(self.inside(length, now)).items():
                state.hours[length].add(series, counts, 1)
            if length in planned.compared:
                before = state.before[length] = HourWindow(judged, start - length // 3600, start)
                for series, counts in counts_of(self.inside_before(length, now)).items():
                    before.add(series, counts, 1)
        for length in planned.exact_lengths:
            state.exact[length] = ExactWindow(since_of(length, now))
            for said in self.stored:
                _ = state.exact[length].add(series_of(said), self.voter(said), dated_score(said))

    def voter(self, said: FeedbackReceivedV1) -> str | None:
        """Return whose answers count once."""
        return self.voters.get(said.id, said.respondent)

    def inside_before(self, length: int, now: datetime) -> list[FeedbackReceivedV1]:
        """Return the answers that count in the window before."""
        end = since_of(length, now)
        return self._within(end - timedelta(seconds=length), end)

    def inside(self, length: int, now: datetime) -> list[FeedbackReceivedV1]:
        """Return the answers that count in a window: of each respondent the latest."""
        return self._within(since_of(length, now), None)

    def _within(self, start: datetime, end: datetime | None) -> list[FeedbackReceivedV1]:
        named: dict[tuple[Series, str], FeedbackReceivedV1] = {}
        counted: list[FeedbackReceivedV1] = []
        for said in sorted(self.stored, key=dated_score):
            if said.occurred_at < start or (end is not None and said.occurred_at >= end):
                continue
            voter = self.voter(said)
            if voter is None:
                counted.append(said)
            else:
                named[series_of(said), voter] = said
        return [*counted, *named.values()]

    def value(self, now: datetime) -> float | None:
        """Return what the only rule, over all touchpoints, compares with its threshold; higher is better."""
        when = window_rule(self.rules[0])
        scores = [a.score for a in self.inside(when.window, now)]
        if not scores:
            return None
        if isinstance(when, UnhappyShareAbove):
            return -sum(score <= 2 for score in scores) / len(scores)
        nps = nps_of([sum(category_of("nps", s) == c for s in scores) for c in range(3)])
        interval = nps.interval()
        assert interval is not None
        return nps.score if when.certainty == "simple" else interval[2]

    def enough(self, now: datetime) -> bool:
        when = window_rule(self.rules[0])
        return len(self.inside(when.window, now)) >= when.min_responses


def window_rule(of: Rule) -> NpsBelow | UnhappyShareAbove:
    assert isinstance(of.when, NpsBelow | UnhappyShareAbove)
    return of.when


def band(of: Rule) -> tuple[float, float]:
    """Return where a rule fires (under the first) and where it clears (over the second); higher is better."""
    when = window_rule(of)
    if isinstance(when, NpsBelow):
        return when.threshold, when.threshold + when.clear_margin
    return -when.threshold, -(when.threshold - when.clear_margin)


def since_of(length: int, now: datetime) -> datetime:
    start = now - timedelta(seconds=length)
    return start if length < DAY else start.replace(minute=0, second=0, microsecond=0)


def counts_of(answers: Sequence[FeedbackReceivedV1]) -> dict[Series, list[float]]:
    counts: dict[Series, list[float]] = {}
    for said in answers:
        of = counts.setdefault(series_of(said), [0] * WIDTH)
        of[category_of(said.kind, said.score)] += 1
        of[SUM] += said.score if said.kind == "kpi" else 0
    return counts


# ---- what happens to it

Step = tuple[int, int, Mapping[str, object]]
"""Seconds that pass, a mark from 0 (worst) to 3, and the rest of an answer; `age` is in seconds."""

pauses = st.sampled_from((0, 0, 1, 1, 5, 5, 60, 60, 600, 600, 7200, 7200, 9 * DAY))
marks = st.sampled_from((0, 0, 0, 1, 2, 3, 3))
strangers = st.fixed_dictionaries({"trust": st.sampled_from(("verified", "anonymous"))})
anybody = strangers | st.fixed_dictionaries({"respondent": st.sampled_from(("r-1", "r-2", "r-3"))})
live: dict[str, object] = {}
ways = st.sampled_from(
    (*[live] * 12, {"backfill": True}, {"channel": "import"}, {"age": 2 * DAY}, {"age": DAY}, {"age": 20 * DAY})
)


def steps(
    who: st.SearchStrategy[Mapping[str, object]],
    how: st.SearchStrategy[Mapping[str, object]],
    marks: st.SearchStrategy[int] = marks,
) -> st.SearchStrategy[list[Step]]:
    rest = st.builds(lambda a, b: {**a, **b}, who, how)
    return st.lists(st.tuples(pauses, marks, rest), min_size=10, max_size=30)


def said_by(of: Rule, mark: int, rest: Mapping[str, object], now: datetime, id_: UUID) -> FeedbackReceivedV1:
    kind = "nps" if isinstance(of.when, NpsBelow) else "mood"
    score = (2, 6, 7, 9)[mark] if kind == "nps" else mark + 1
    fields = {name: value for name, value in rest.items() if name != "age"}
    age = rest.get("age", 0)
    assert isinstance(age, int)
    # Of two answers at one moment the id decides: a random one would make examples that cannot be played again.
    return answer(score, id=id_, kind=kind, occurred_at=now - timedelta(seconds=age), received_at=now, **fields)


def is_live(said: FeedbackReceivedV1, now: datetime) -> bool:
    return not said.backfill and said.channel != "import" and now - said.occurred_at <= timedelta(days=1)


def pages(decisions: Sequence[Decision], what: str) -> list[Decision]:
    return [d for d in decisions if d.event == what]


@given(ON_WINDOWS, steps(st.just({}), ways))
def test_alert_opens_and_clears_outside_its_band_only(of: Rule, told: list[Step]) -> None:
    """It opens as soon as the rule fires on a live answer, clears past the margin, and does not flap in between."""
    watched, now = Watched([of]), NOW
    fires, clears = band(of)
    for pause, mark, rest in told:
        now += timedelta(seconds=pause)
        for decision in watched.review(now):
            value = watched.value(now)
            assert (decision.event == "cleared") == (value is None or value > clears)
        was_open = bool(watched.alerts)
        said = said_by(of, mark, rest, now, watched.next_id)
        decisions = watched.take(said, now)
        value = watched.value(now)
        inside = said.occurred_at >= since_of(window_rule(of).window, now)
        assert len(decisions) <= 1
        if was_open:
            assert bool(pages(decisions, "cleared")) == (value is None or value > clears)
        else:
            assert not pages(decisions, "cleared")
        if pages(decisions, "opened"):
            assert value is not None
            assert value < fires
            assert watched.enough(now)
        elif not was_open and inside and is_live(said, now) and mark == 0 and value is not None:
            assert value >= fires or not watched.enough(now)
        assert bool(watched.alerts) == bool(
            pages(decisions, "opened") or (was_open and not pages(decisions, "cleared"))
        )


@given(ON_WINDOWS, st.integers(5, 12))
def test_an_alert_outlives_its_band_and_clears_once(of: Rule, unhappy: int) -> None:
    """One better answer does not end a problem; it is over when the value is past the threshold by the margin."""
    watched, now = Watched([of]), NOW
    for mark in (*[0] * unhappy, *[3] * 60):
        now += SECOND
        _ = watched.take(said_by(of, mark, live, now, watched.next_id), now)
        value = watched.value(now)
        assert value is not None
        assert bool(watched.alerts) == (watched.enough(now) and value <= band(of)[1])
    assert len(pages(watched.told, "opened")) == len(pages(watched.told, "cleared")) == 1


def test_severity_stays_when_the_known_people_become_happier() -> None:
    """Who was paged for a high alert does not find it turned into a medium one that waits for the digest."""
    watched = Watched([SIMPLE])
    for score, trust in ((0, "verified"),) * 5 + ((0, "anonymous"),) * 3 + ((10, "verified"),) * 5:
        _ = watched.take(answer(score, trust=trust), NOW)
    later = NOW + timedelta(minutes=1)
    (told,) = watched.take(answer(0, trust="anonymous", occurred_at=later, received_at=later), later)
    assert (told.event, told.alert.severity, told.alert.trust) == ("updated", "high", "verified")


@examples(200)
@given(ON_WINDOWS, steps(anybody, ways) | steps(anybody, ways, st.sampled_from((0, 2, 2, 3, 3, 3))))
def test_alert_opens_only_on_a_live_answer_that_made_it_worse(of: Rule, told: list[Step]) -> None:
    """An import, a backfill, an old answer, a promoter or somebody who became happier never wakes anyone."""
    watched, now = Watched([of]), NOW
    for pause, mark, rest in told:
        now += timedelta(seconds=pause)
        assert not pages(watched.review(now), "opened")
        said = said_by(of, mark, rest, now, watched.next_id)
        before = score_of(watched, of, now)
        if pages(watched.take(said, now), "opened"):
            after = score_of(watched, of, now)
            assert is_live(said, now)
            assert after is not None
            worst = mark <= 1  # who is unhappy adds to it, also where all the others are
            assert before is None or after < before or (worst and after == before), (before, after)


def score_of(watched: Watched, of: Rule, now: datetime) -> float | None:
    """Return the plain score or share, whichever side of its interval the rule looks at; higher is better."""
    match of.when:
        case NpsBelow(window=window):
            scores = [a.score for a in watched.inside(window, now)]
            return 100 * sum((s >= 9) - (s <= 6) for s in scores) / len(scores) if scores else None
        case _:
            return watched.value(now)


def test_who_became_less_unhappy_opens_nothing() -> None:
    """A detractor who answers again as a passive has raised the score; that is no reason to page."""
    of = rule(NpsBelow(50, 30 * DAY, min_responses=5, certainty="simple"), name="nps-low", severity="high")
    watched = Watched([of])
    for score in (10, 10, 10, 0):
        _ = watched.take(answer(score, backfill=True), NOW)
    _ = watched.take(answer(0, respondent="r-1", backfill=True), NOW)
    assert score_of(watched, of, NOW) == 20
    later = NOW + SECOND
    decisions = watched.take(answer(7, respondent="r-1", occurred_at=later, received_at=later), later)
    assert score_of(watched, of, later) == 40
    assert not pages(decisions, "opened")


def test_what_left_the_window_is_not_what_an_answer_is_measured_against() -> None:
    """A passive answer does not lower a score of zero, whatever the same person said before the window began."""
    of = rule(NpsBelow(20, 30 * DAY, min_responses=5, certainty="simple"), name="nps-low", severity="high")
    watched = Watched([of])
    long_ago = NOW - timedelta(days=40)
    _ = watched.take(answer(10, respondent="r-1", occurred_at=long_ago, received_at=long_ago), long_ago)
    for score in (0, 0, 10, 10):
        _ = watched.take(answer(score, backfill=True), NOW)
    assert score_of(watched, of, NOW) == 0
    later = NOW + SECOND
    decisions = watched.take(answer(7, respondent="r-1", occurred_at=later, received_at=later), later)
    assert score_of(watched, of, later) == 0
    assert not pages(decisions, "opened")


def test_a_late_answer_of_somebody_who_said_more_since_changes_nothing() -> None:
    """What a person thought before is not news."""
    watched = Watched([rule(NpsBelow(50, 30 * DAY, min_responses=1, certainty="simple"), name="nps-low")])
    assert watched.take(answer(10, respondent="r-1"), NOW) == []
    assert watched.take(answer(0, respondent="r-1", occurred_at=NOW - SECOND), NOW + SECOND) == []


@given(st.sampled_from((SIMPLE, STRICT, SHORT)), st.integers(0, 6), st.booleans())
def test_a_customer_with_detractors_only_alerts_at_min_responses(of: Rule, score: int, anonymous: bool) -> None:
    """A score of -100 cannot fall any further and is the worst there is."""
    watched = Watched([of])
    trust = "anonymous" if anonymous else "verified"
    happened = [watched.take(answer(score, trust=trust), NOW) for _ in range(8)]
    first = window_rule(of).min_responses - 1
    assert [bool(pages(d, "opened")) for d in happened] == [n == first for n in range(8)]


def test_a_customer_whose_faces_are_all_unhappy_alerts_at_min_responses() -> None:
    watched = Watched([SHARE])
    happened = [watched.take(answer(1, kind="mood"), NOW) for _ in range(6)]
    assert [bool(pages(d, "opened")) for d in happened] == [False, False, False, True, False, False]


@given(
    ON_WINDOWS | st.just(rule()),
    st.sampled_from(SEVERITIES),
    st.sampled_from(("verified", "any")),
    steps(st.just({"trust": "anonymous"}), st.just({})),
)
def test_anonymous_answers_alone_wake_nobody(of: Rule, severity: str, trust: str, told: list[Step]) -> None:
    """Anybody can post with a widget's key: without `trust: any` that reaches medium at most, which is no page."""
    of = rule(of.when, severity=severity, trust=trust)
    watched, now = Watched([of]), NOW
    for pause, mark, rest in told:
        now += timedelta(seconds=pause)
        for decision in watched.take(said_by(of, mark, rest, now, watched.next_id), now):
            assert decision.alert.trust == "anonymous"
            wanted = severity if trust == "any" else min(severity, "medium", key=SEVERITIES.index)
            assert decision.alert.severity == wanted


@given(ON_WINDOWS, steps(strangers, st.just({})))
def test_an_alert_is_verified_if_it_fires_on_verified_answers_alone(of: Rule, told: list[Step]) -> None:
    """Many strangers do not lift an alert to a page; enough known people do."""
    watched, now = Watched([of]), NOW
    for pause, mark, rest in told:
        now += timedelta(seconds=pause)
        if opened := pages(watched.take(said_by(of, mark, rest, now, watched.next_id), now), "opened"):
            known = Watched([of], stored=[a for a in watched.stored if a.trust == "verified"])
            value = known.value(now)
            fires = value is not None and known.enough(now) and value < band(of)[0]
            assert opened[0].alert.trust == ("verified" if fires else "anonymous")
            assert opened[0].alert.severity == ("high" if fires else "medium")


@example(  # a passive makes what known people say worse, and what everybody says better
    of=rule(NpsBelow(60, 30 * DAY, min_responses=3, certainty="simple"), name="nps-low", severity="high"),
    told=[
        (0, 0, {"trust": "verified"}),
        *[(0, 0, {"trust": "anonymous"})] * 5,
        *((0, mark, {"trust": "verified"}) for mark in (3, 3, 2, 0)),
    ],
)
@given(ON_WINDOWS, steps(strangers, ways))
def test_the_public_never_overrules_who_is_known(of: Rule, told: list[Step]) -> None:
    """Whatever anybody posts with a widget's key: what known people alone would alert of is alerted of, and stays."""
    everybody, known, now = Watched([of]), Watched([of]), NOW
    for pause, mark, rest in told:
        now += timedelta(seconds=pause)
        said = said_by(of, mark, rest, now, everybody.next_id)
        for watched in (everybody, known):
            _ = watched.review(now)
            if watched is everybody or said.trust == "verified":
                _ = watched.take(said, now)
        for key in known.alerts:
            assert everybody.alerts[key].trust == "verified"
            assert everybody.alerts[key].severity == "high"


@given(ON_WINDOWS, steps(strangers, ways))
def test_an_alert_opens_when_either_judgement_fires_and_clears_when_neither_does(of: Rule, told: list[Step]) -> None:
    everybody, now = Watched([of]), NOW
    fires, clears = band(of)
    for pause, mark, rest in told:
        now += timedelta(seconds=pause)
        _ = everybody.review(now)
        before = dict(everybody.alerts)
        decisions = everybody.take(said_by(of, mark, rest, now, everybody.next_id), now)
        known = Watched([of], stored=[said for said in everybody.stored if said.trust == "verified"])
        values = [watched.value(now) for watched in (everybody, known)]
        firing = [
            value is not None and value < fires and watched.enough(now)
            for value, watched in zip(values, (everybody, known), strict=True)
        ]
        over = [value is None or value > clears for value in values]
        if pages(decisions, "opened"):
            assert any(firing)
        for alert in before.values():
            ends = over[0] and (over[1] if alert.trust == "verified" else not firing[1])
            assert bool(pages(decisions, "cleared")) == ends


@pytest.mark.parametrize("first", [True, False])
def test_a_flood_of_tens_hides_nothing(first: bool) -> None:
    """Twelve known people say 0 and anybody 20 times 10, before or afterwards: the alert is theirs, and stays."""
    watched, now = Watched([SIMPLE]), NOW
    flood = [(10, "anonymous")] * 20
    for score, trust in [*(flood if first else []), *[(0, "verified")] * 12, *([] if first else flood)]:
        now += SECOND
        _ = watched.take(answer(score, trust=trust, id=watched.next_id, occurred_at=now, received_at=now), now)
    (alert,) = watched.alerts.values()
    assert (alert.trust, alert.severity) == ("verified", "high")
    assert not pages(watched.told, "cleared")
    opened = pages(watched.told, "opened")[0]
    if first:
        assert opened.reason["trust"] == "verified"
        assert "verified answers" in opened.summary


@given(ON_WINDOWS, steps(anybody, ways))
def test_one_alert_at_a_time_with_rising_versions_and_severity(of: Rule, told: list[Step]) -> None:
    """Each message is the next version of its alert, no alert gets milder while open, and a cleared one is gone."""
    watched, now = Watched([of]), NOW
    for pause, mark, rest in told:
        now += timedelta(seconds=pause)
        _ = watched.review(now)
        _ = watched.take(said_by(of, mark, rest, now, watched.next_id), now)
        assert len(watched.alerts) <= 1
    of_alert: dict[object, list[Decision]] = {}
    for decision in watched.told:
        of_alert.setdefault(decision.alert.id, []).append(decision)
    for decisions in of_alert.values():
        assert [d.event for d in decisions].index("opened") == 0
        assert len(pages(decisions, "opened")) == 1
        assert all(d.event != "cleared" for d in decisions[:-1])
        messages = [d for d in decisions if d.event != "deferred"]
        assert [d.alert.version for d in messages] == list(range(1, len(messages) + 1))
        for earlier, later in pairwise(decisions):
            assert severity_rank(later.alert.severity) >= severity_rank(earlier.alert.severity)
            assert later.alert.trust == "verified" or earlier.alert.trust == "anonymous"
            assert (later.alert.opened_at, later.alert.dedup_key) == (earlier.alert.opened_at, earlier.alert.dedup_key)
    open_ids = {a.id for a in watched.alerts.values()}
    assert open_ids == {id_ for id_, decisions in of_alert.items() if decisions[-1].event != "cleared"}


@given(st.lists(st.sampled_from((0.1, 1, 3, 9, 11)), min_size=5, max_size=30))
def test_further_bad_answers_are_told_together_and_all(gaps: list[float]) -> None:
    """A flood of bad answers is a message each ten seconds, and the last of them is told too."""
    watched, now = Watched([SIMPLE]), NOW
    for gap in gaps:
        now += timedelta(seconds=gap)
        _ = watched.review(now)
        _ = watched.take(answer(0, occurred_at=now, received_at=now), now)
    (alert,) = watched.alerts.values()
    if alert.pending:
        assert alert.due_at <= alert.updated_at + timedelta(seconds=10)
        _ = watched.review(alert.due_at)
    messages = [d for d in watched.told if d.event in {"opened", "updated"}]
    assert all(b.alert.updated_at - a.alert.updated_at >= timedelta(seconds=10) for a, b in pairwise(messages))
    assert messages[-1].reason["responses"] == len(gaps)
    assert not any(a.pending for a in watched.alerts.values())


@given(ON_WINDOWS, steps(anybody, ways))
def test_time_alone_clears_what_nobody_adds_to(of: Rule, told: list[Step]) -> None:
    """When the window is empty the alert is over, without an answer; and no look is due in the past."""
    watched, now = Watched([of]), NOW
    for pause, mark, rest in told:
        now += timedelta(seconds=pause)
        _ = watched.review(now)
        _ = watched.take(said_by(of, mark, rest, now, watched.next_id), now)
    for _ in range(40):
        _ = watched.take(said_by(of, 0, live, now, watched.next_id), now)
    assert watched.alerts
    for _ in range(3):
        for alert in watched.alerts.values():
            assert alert.due_at > now
        now = min((alert.due_at for alert in watched.alerts.values()), default=now)
        _ = watched.review(now)
    now += timedelta(seconds=window_rule(of).window + 3601)
    decisions = watched.review(now)
    assert all(d.event == "cleared" for d in decisions)
    assert not watched.alerts
    assert not pages(watched.told[-len(decisions) :], "opened")


def test_an_alert_of_a_rule_that_is_gone_clears() -> None:
    """Who deletes a rule is rid of its alerts; the next look takes them away."""
    watched = Watched([SIMPLE])
    for _ in range(5):
        _ = watched.take(answer(0), NOW)
    (alert,) = watched.alerts.values()
    watched.rules = []
    (decision,) = watched.review(alert.due_at)
    assert (decision.event, decision.alert.version, watched.alerts) == ("cleared", 2, {})


# ---- rules on a single answer


@given(steps(strangers, ways), st.integers(1, 4))
def test_each_bad_answer_is_an_alert_of_its_own(told: list[Step], threshold: int) -> None:
    """Everybody who is that unhappy is heard, once; each alert is over after `max_age`."""
    of = rule(MoodAtMost(threshold))
    watched, now = Watched([of]), NOW
    alerts: list[Alert] = []
    for pause, mark, rest in told:
        now += timedelta(seconds=pause)
        said = said_by(of, mark, rest, now, watched.next_id)
        decisions = watched.take(said, now)
        wanted = is_live(said, now) and said.score <= threshold
        assert [(d.event, d.alert.answer, d.alert.version) for d in decisions] == [("opened", said.id, 1)] * wanted
        alerts += [d.alert for d in decisions]
    assert len({a.id for a in alerts}) == len({a.answer for a in alerts}) == len(alerts)
    assert not watched.alerts
    for alert in alerts:
        assert alert.due_at == alert.opened_at + timedelta(days=1)
        (decision,) = watched.review(alert.due_at, alert)
        assert (decision.event, decision.alert.version) == ("cleared", 2)


@pytest.mark.parametrize("touchpoint", ["support", None])
@pytest.mark.parametrize(
    ("of", "kind", "key"),
    [
        (rule(), "mood", "acme/mood-one/{}"),
        (rule(SIMPLE.when, name="nps-low"), "nps", "acme/nps-low/*"),
        (rule(SIMPLE.when, name="nps-low", per_touchpoint=True), "nps", "acme/nps-low/{}"),
    ],
)
def test_the_name_of_a_problem(of: Rule, kind: str, key: str, touchpoint: str | None) -> None:
    """`customer/rule/touchpoint` decides what belongs to one ticket; desks outside rely on its form."""
    watched = Watched([of])
    for _ in range(5):
        _ = watched.take(answer(1, kind=kind, touchpoint=touchpoint), NOW)
    opened = pages(watched.told, "opened")
    assert {d.alert.dedup_key for d in opened} == {key.format(touchpoint or "*")}
    assert dedup_key("acme", of, touchpoint) == key.format(touchpoint or "*")


@pytest.mark.parametrize(
    ("of", "reached"),
    [
        (rule(SIMPLE.when, name="a"), {"acme/a/*"}),
        (rule(SIMPLE.when, name="a", per_touchpoint=True), {"acme/a/support"}),
        (rule(SIMPLE.when, name="a", audience="employee"), set[str]()),
    ],
)
def test_a_rule_looks_at_its_own_answers(of: Rule, reached: set[str]) -> None:
    """Each touchpoint by itself, or all together; customers and employees are never mixed."""
    watched = Watched([of])
    for touchpoint, count in (("support", 5), ("billing", 4), ("sales", 4)):
        for _ in range(count):
            _ = watched.take(answer(0, touchpoint=touchpoint), NOW)
    assert {d.alert.dedup_key for d in pages(watched.told, "opened")} == reached


def test_a_rule_for_one_touchpoint_ignores_the_others() -> None:
    watched = Watched([rule(SIMPLE.when, name="a", touchpoint="billing")])
    for _ in range(9):
        assert watched.take(answer(0, touchpoint="support"), NOW) == []
    for _ in range(5):
        _ = watched.take(answer(0, touchpoint="billing"), NOW)
    (opened,) = pages(watched.told, "opened")
    assert opened.alert.touchpoint == "billing"
    assert opened.reason["responses"] == 5


def test_a_rule_that_comes_into_force_in_the_middle_of_a_batch_waits_for_its_window() -> None:
    """The directory changes while a batch is in the database: what is new is judged from the next batch on."""
    old, new = rule(NpsBelow(0, 30 * DAY), name="old"), rule(DetractorsAtLeast(1, 60 * DAY), name="new")
    faces = rule(MoodBelow(2.5, 30 * DAY, min_responses=1), name="faces")
    watched = Watched([old])
    _ = watched.take(answer(9), NOW)
    now = NOW + SECOND
    for said in (answer(0, id=UUID(int=8)), answer(1, kind="mood", id=UUID(int=9))):
        made = changes(new_answer(said), None, None)
        assert watched.state.take(plan([old, new, faces]), new_answer(said), None, made, now) == []
    watched.rules = [old, new, faces]
    (decision,) = pages(watched.take(answer(0, id=UUID(int=10), occurred_at=now, received_at=now), now), "opened")
    assert decision.alert.rule == "new"
