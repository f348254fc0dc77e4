"""A ticket takes in whatever is told of its problem, once; it moves by the rules; every change leaves a line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import get_args
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ticketing.domain.ticket import (
    ACTIVE,
    Missing,
    NotAllowed,
    Opening,
    Outcome,
    Patch,
    by_hand,
    change,
    may_reopen,
    merge,
    merged_evidence,
    open_ticket,
    opens_nothing,
    take_page,
    together,
)
from shared.directory.model import SEVERITIES, severity_rank
from shared.wire.events import AlertV1, EvidenceV1, Severity, TicketState, TicketV1
from shared.wire.topics import PAGES
from tests.support.build import NOW, ago, alert, evidence, page_message, ticket

STATES: tuple[TicketState, ...] = get_args(TicketState)
CAUSES = ("process", "people")
DONE = {"root_cause": "process", "resolution": "Called back and apologised."}

TABLE: dict[TicketState, set[TicketState]] = {
    "open": {"acknowledged", "in_progress", "waiting", "resolved", "cancelled"},
    "acknowledged": {"in_progress", "waiting", "resolved", "cancelled"},
    "in_progress": {"acknowledged", "waiting", "resolved", "cancelled"},
    "waiting": {"acknowledged", "in_progress", "resolved", "cancelled"},
    "resolved": {"closed", "open"},
    "closed": set(),
    "cancelled": set(),
}
"""The contract's moves, of a person."""

HANDLED = ("acknowledged", "in_progress", "waiting")

said = [evidence(1, id=UUID(int=n), occurred_at=ago(minutes=n // 2)) for n in range(1, 61)]


def newest_first(answers: Sequence[EvidenceV1]) -> list[EvidenceV1]:
    return sorted(answers, key=lambda a: (a.occurred_at, a.id), reverse=True)


proofs = st.lists(st.sampled_from(said), max_size=20, unique_by=lambda a: a.id).map(newest_first)
severities = st.sampled_from(SEVERITIES[1:])
alerts = st.builds(
    lambda n, severity, proof, state: alert(
        id=UUID(int=n), severity=severity, evidence=proof, state=state, summary=f"Mood 1 of 4, {n}"
    ),
    st.integers(1, 3),
    severities,
    proofs,
    st.sampled_from(("open", "open", "open", "cleared")),
)
patches = st.builds(
    Patch,
    state=st.none() | st.sampled_from(STATES),
    assignee=st.none() | st.sampled_from(("architect-1", "architect-2")),
    severity=st.none() | severities,
    root_cause=st.none() | st.sampled_from(CAUSES),
    resolution=st.none() | st.just("Called back."),
)
acknowledgements = st.builds(
    lambda opening, person, severity, event: (
        event,
        page_message(opening=opening, acknowledged_by=person, acknowledged_at=NOW, severity=severity),
    ),
    st.integers(1, 3),
    st.sampled_from(("architect-1", "architect-2")),
    severities,
    st.sampled_from(("page.sent", "page.acknowledged", "page.acknowledged", "page.escalated", "page.exhausted")),
)


def in_state(state: TicketState, **fields: object) -> TicketV1:
    done = {**DONE, "acknowledged_at": NOW, "resolved_at": NOW} if state in {"resolved", "closed"} else {}
    return ticket(state=state, **{**done, **fields})


def opened(of: AlertV1) -> TicketV1:
    return open_ticket(of, Opening(1042, "architect-1", ()), NOW).ticket


# ---- alerts


def test_a_title_says_the_customers_name() -> None:
    """People know Acme Oy, not the slug; a customer that has left the directory keeps the slug."""
    told = alert(customer="acme", summary="Mood 1 of 4")
    assert open_ticket(told, Opening(1, None, (), "Acme Oy"), NOW).ticket.title == "Acme Oy: Mood 1 of 4"
    assert open_ticket(told, Opening(1, None), NOW).ticket.title == "acme: Mood 1 of 4"


def test_a_new_problem_is_a_ticket_for_the_architect() -> None:
    """Who is responsible for the customer sees what was said, and where the customer stands."""
    told = alert(evidence=[evidence(language="fi", channel="widget", contact="r17@example.test")])
    earlier = in_state("resolved", number=3)
    outcome = open_ticket(told, Opening(7, "architect-1", [earlier]), NOW)
    found = outcome.ticket
    assert outcome.event == "ticket.opened"
    assert (found.number, found.version, found.opening, found.state) == (7, 1, 1, "open")
    assert (found.assignee, found.alert, found.dedup_key) == ("architect-1", told.id, told.dedup_key)
    assert (found.evidence, found.severity, found.caused_at) == (told.evidence, "critical", told.caused_at)
    assert (found.context.nps, found.context.mood, found.context.goal) == (-12.5, 2.9, 3.2)
    assert found.context.previous_tickets == ["3"]
    assert [before.resolution for before in found.context.previous] == [earlier.resolution]
    assert found.context.contact == "r17@example.test"
    assert (found.context.respondent_channel, found.context.language) == ("widget", "fi")
    assert outcome.entries


@pytest.mark.parametrize(
    ("told", "nothing"),
    [(alert(), False), (alert(severity="low"), False), (alert(severity="info"), True), (alert(state="cleared"), True)],
)
def test_good_news_opens_no_ticket(told: AlertV1, nothing: bool) -> None:
    assert opens_nothing(told) is nothing


@given(alerts, alerts)
def test_the_same_message_twice_is_once(first: AlertV1, again: AlertV1) -> None:
    """Kafka may bring a message again; a ticket that has it is left as it is."""
    for before in (opened(first), in_state("resolved", evidence=first.evidence)):
        outcome = merge(before, again, first=True, now=NOW)
        after = before if outcome is None else outcome.ticket
        if again.state == "open":
            repeated = merge(after, again, first=False, now=NOW)
            assert repeated is None or (repeated.ticket, repeated.event, repeated.entries) == (after, None, ())
        else:
            assert after == before


@given(st.lists(st.sampled_from(said), max_size=40), st.lists(st.sampled_from(said), max_size=40))
def test_evidence_is_each_answer_once_the_newest_twenty(before: list[EvidenceV1], more: list[EvidenceV1]) -> None:
    found = merged_evidence(before, more, None)
    assert found == newest_first({a.id: a for a in (*before, *more)}.values())[:20]  # pyright: ignore[reportArgumentType]
    assert merged_evidence(found, more, None) == found


@given(st.integers(0, 15), st.integers(0, 200))
def test_a_flood_pushes_out_neither_the_opener_nor_who_is_known(known: int, flood: int) -> None:
    """Anybody can post with a widget's key; what known people said, and what began it, stays to be seen."""
    opener = evidence(1, id=UUID(int=1), trust="anonymous", occurred_at=ago(days=2))
    theirs = [evidence(2, id=UUID(int=100 + n), occurred_at=ago(days=1, minutes=n)) for n in range(known)]
    public = [evidence(1, id=UUID(int=1000 + n), trust="anonymous", occurred_at=ago(minutes=n)) for n in range(flood)]
    shown = merged_evidence([opener, *theirs], public, opener.id)
    assert {opener.id, *(one.id for one in theirs)} <= {one.id for one in shown}
    assert shown == newest_first(shown)
    assert len(shown) == min(20, 1 + known + flood)


def test_who_is_not_shown_is_known_all_the_same() -> None:
    """A ticket that is full has no place for a late answer of somebody known: whoever gave it is asked afterwards."""
    full = opened(alert(evidence=[evidence(n, id=UUID(int=n), occurred_at=ago(minutes=n)) for n in range(1, 21)]))
    late = evidence(2, id=UUID(int=99), occurred_at=ago(days=3))
    outcome = merge(full, alert(evidence=[late], severity=full.severity), first=True, now=NOW)
    assert outcome is not None
    assert (outcome.ticket, outcome.event, outcome.entries, outcome.answers) == (full, None, (), (late,))


@given(st.lists(alerts.filter(lambda a: a.state == "open"), min_size=2, max_size=12), alerts)
def test_what_comes_in_one_batch_is_one_change(told: list[AlertV1], first: AlertV1) -> None:
    """One version, whatever came; the newest state, a line for a flood, and every answer that led there is known."""
    before = opened(first)
    one_by_one, whole, seen, counted = before, None, set[UUID](), set[UUID]()
    for message in told:
        outcome = merge(one_by_one, message, first=message.id not in seen, now=NOW)
        seen.add(message.id)
        if outcome is None:
            continue
        one_by_one = outcome.ticket
        counted |= set() if outcome.event is None else {a.id for a in message.evidence}
        whole = outcome if whole is None else together(whole, outcome)
    if whole is None:
        return
    assert whole.ticket == msgspec.structs.replace(one_by_one, version=whole.ticket.version)
    assert whole.ticket.version == before.version + (whole.event is not None)
    lines = [line for line in whole.entries if line.what == "evidence added"]
    assert not any(one.what == two.what == "evidence added" for one, two in pairwise(whole.entries))
    assert len(lines) <= len(told)
    known = {a.id for a in (*whole.ticket.evidence, *whole.answers)}
    assert counted <= known


@given(st.lists(alerts | patches | acknowledgements, max_size=12), alerts.filter(lambda a: a.state == "open"))
def test_whatever_happens_a_ticket_stays_sound(
    told: list[AlertV1 | Patch | tuple[str, object]], first: AlertV1
) -> None:
    """Any mix of alerts, pages and people: moves by the table, rising versions, a line for each change."""
    current, now, known = opened(first), NOW, {first.id}
    for happening in told:
        now += timedelta(minutes=1)
        if isinstance(happening, AlertV1):
            outcome = merge(current, happening, first=happening.id not in known, now=now)
            assert_merged(current, happening, outcome, happening.id not in known)
            known.add(happening.id)
        elif isinstance(happening, Patch):
            try:
                outcome = change(current, happening, root_causes=CAUSES, actor="architect-2", now=now)
            except NotAllowed:
                assert happening.state not in {current.state, *TABLE[current.state]}
                continue
            except Missing:
                assert happening.state == "resolved"
                continue
            if outcome is not None:
                asked_again = happening.state is None and rose(current, happening.severity)
                moves = {"open"} if asked_again else {current.state, *TABLE[current.state]}
                assert outcome.ticket.state in moves
        else:
            event, page = happening
            outcome = take_page(current, event, page, now)  # pyright: ignore[reportArgumentType]
            assert outcome.ticket.state in {current.state, "acknowledged"}
        current = assert_sound(current, outcome)


def rose(before: TicketV1, severity: Severity | None) -> bool:
    """Tell whether a severity is above the one at which somebody took a ticket and still has it."""
    taken_at = before.acknowledged_severity or before.severity
    return before.state in HANDLED and severity is not None and severity_rank(severity) > severity_rank(taken_at)


def assert_merged(before: TicketV1, told: AlertV1, outcome: Outcome | None, first: bool) -> None:
    after = before if outcome is None else outcome.ticket
    if told.state == "cleared":
        assert after == before
        assert outcome is not None
        assert outcome.entries
    elif before.state in ACTIVE:
        assert after.opening == before.opening
        assert after.state == ("open" if rose(before, told.severity) else before.state)
        assert after.severity == max(before.severity, told.severity, key=severity_rank)
    elif first:
        assert (after.state, after.opening, after.severity) == ("open", before.opening + 1, told.severity)
    else:
        assert (after.state, after.opening, after.severity) == (before.state, before.opening, before.severity)


def assert_sound(before: TicketV1, outcome: Outcome | None) -> TicketV1:
    if outcome is None:
        return before
    after = outcome.ticket
    assert outcome.entries or (outcome.event is None and outcome.answers)
    assert all(line.ticket == after.id for line in outcome.entries)
    assert (after != before) == (outcome.event is not None)
    assert after.version == before.version + (outcome.event is not None)
    assert after.opening - before.opening == (outcome.event == "ticket.opened")
    assert len(after.evidence) <= 20
    assert len({a.id for a in after.evidence}) == len(after.evidence)
    assert all((a.occurred_at, a.id) > (b.occurred_at, b.id) for a, b in pairwise(after.evidence))
    assert (after.state in {"resolved", "closed"}) == (after.resolved_at is not None)
    assert after.state not in {"acknowledged", "in_progress", "waiting", "resolved", "closed"} or after.acknowledged_at
    assert after.state != "open" or after.acknowledged_at is None
    assert after.state not in HANDLED or after.acknowledged_severity is not None
    if after.state in {"resolved", "closed"}:
        assert after.root_cause
        assert after.resolution
    return after


@pytest.mark.parametrize("state", ["resolved", "closed"])
def test_a_reopened_ticket_is_answered_afresh(state: TicketState) -> None:
    """It takes the new alert's severity, lower or not; its clocks, cause and resolution start anew."""
    before = in_state(state, severity="critical", opening=2, evidence=[said[9]])
    told = alert(severity="medium", evidence=[said[1]], summary="NPS -20", caused_at=ago(minutes=1))
    outcome = merge(before, told, first=True, now=NOW)
    assert outcome is not None
    after = outcome.ticket
    assert (outcome.event, after.state, after.opening, after.version) == ("ticket.opened", "open", 3, 2)
    assert (after.severity, after.alert, after.summary, after.caused_at) == (
        "medium",
        told.id,
        told.summary,
        told.caused_at,
    )
    assert (after.acknowledged_at, after.resolved_at, after.root_cause, after.resolution) == (None, None, None, None)
    assert after.evidence == [said[1], said[9]]
    assert (after.id, after.number, after.dedup_key) == (before.id, before.number, before.dedup_key)


@pytest.mark.parametrize("state", ["resolved", "closed"])
def test_an_alert_that_was_taken_in_before_reopens_nothing(state: TicketState) -> None:
    """What trickles in of an alert that was dealt with is evidence; only a new alert asks for a person again."""
    outcome = merge(in_state(state), alert(severity="critical"), first=False, now=NOW)
    assert outcome is not None
    assert (outcome.ticket.state, outcome.ticket.opening, outcome.event) == (state, 1, "ticket.updated")


def test_good_news_reopens_no_ticket() -> None:
    """`info` records; a compliment about a problem that was solved pages nobody."""
    outcome = merge(in_state("resolved"), alert(severity="info"), first=True, now=NOW)
    assert outcome is None or outcome.ticket.state == "resolved"


@pytest.mark.parametrize(
    ("state", "resolved_at", "may"),
    [
        ("resolved", NOW, True),
        ("resolved", ago(days=7), True),
        ("resolved", ago(days=7, seconds=1), False),
        ("closed", ago(days=1), True),
        ("closed", ago(days=8), False),
        ("open", None, False),
        ("cancelled", None, False),
    ],
)
def test_the_window_in_which_an_alert_reopens(state: TicketState, resolved_at: datetime | None, may: bool) -> None:
    """Within seven days it is the same problem; later, or when it was cancelled, it is another ticket."""
    assert may_reopen(ticket(state=state, resolved_at=resolved_at), NOW, timedelta(days=7)) is may


# ---- pages


@given(
    st.sampled_from(STATES),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(
        [event for event in PAGES.messages if event.startswith("page.") and event != "page.unacknowledged"]
    ),
)
def test_a_late_acknowledgement_moves_nothing_back(state: TicketState, opening: int, of_page: int, event: str) -> None:
    """It acknowledges an open ticket's own opening, names the person, and is written down in any case."""
    before = in_state(state, opening=opening)
    acknowledged = page_message(opening=of_page, acknowledged_by="architect-2", acknowledged_at=ago(minutes=1))
    outcome = take_page(before, event, acknowledged, NOW)
    after = outcome.ticket
    assert len(outcome.entries) == 1
    if event == "page.acknowledged" and state == "open" and opening == of_page:
        assert (after.state, after.assignee, after.acknowledged_at) == ("acknowledged", "architect-2", ago(minutes=1))
        assert (outcome.event, after.version) == ("ticket.updated", before.version + 1)
    else:
        assert (after, outcome.event) == (before, None)


# ---- a ticket that rises since somebody took it


@given(
    st.sampled_from(HANDLED),
    severities,
    st.sampled_from(SEVERITIES[1:]),
    st.sampled_from(("alert", "by hand", "remembered by nobody")),
)
def test_what_rises_above_what_was_taken_is_open_again(
    state: TicketState, taken_at: Severity, becomes: Severity, by: str
) -> None:
    """Who took a problem of the week has not taken the emergency that it becomes; they keep it until somebody does."""
    remembered = None if by == "remembered by nobody" else taken_at
    before = in_state(state, severity=taken_at, acknowledged_at=ago(hours=1), acknowledged_severity=remembered)
    if by == "by hand":
        outcome = change(before, Patch(severity=becomes), root_causes=CAUSES, actor="ops", now=NOW)
    else:
        told = alert(severity=becomes, evidence=[evidence()])
        outcome = merge(before, told, first=True, now=NOW)
    after = before if outcome is None else outcome.ticket
    if severity_rank(becomes) > severity_rank(taken_at):
        assert outcome is not None
        assert (after.state, after.severity, after.assignee) == ("open", becomes, before.assignee)
        assert (after.acknowledged_at, after.acknowledged_severity) == (None, taken_at)
        assert (outcome.event, after.opening, after.version) == ("ticket.updated", before.opening, before.version + 1)
        (line,) = (line for line in outcome.entries if line.what == "state")
        assert (line.detail["before"], line.detail["after"]) == (state, "open")
    else:
        assert (after.state, after.acknowledged_at) == (state, before.acknowledged_at)


@given(st.sampled_from(HANDLED), severities, severities, severities)
def test_what_falls_and_rises_again_is_what_was_taken(
    state: TicketState, taken_at: Severity, falls: Severity, rises: Severity
) -> None:
    """It is compared with what somebody said yes to, not with what it was last."""
    before = in_state(state, severity=taken_at, acknowledged_at=NOW, acknowledged_severity=taken_at)
    fell = msgspec.structs.replace(before, severity=min(falls, taken_at, key=severity_rank))
    outcome = change(fell, Patch(severity=rises), root_causes=CAUSES, actor="ops", now=NOW)
    after = fell if outcome is None else outcome.ticket
    assert (after.state == "open") == (severity_rank(rises) > severity_rank(taken_at))


@pytest.mark.parametrize("state", HANDLED)
def test_who_raises_a_ticket_and_says_where_it_stands_takes_it(state: TicketState) -> None:
    """Whoever works on it and calls it critical need not be asked whether they know."""
    before = in_state(state, severity="medium", acknowledged_at=NOW, acknowledged_severity="medium")
    outcome = change(before, Patch(severity="critical", state=state), root_causes=CAUSES, actor="architect-1", now=NOW)
    assert outcome is not None
    assert (outcome.ticket.state, outcome.ticket.acknowledged_severity) == (state, "critical")
    worse = merge(outcome.ticket, alert(severity="critical"), first=True, now=NOW)
    assert worse is not None
    assert worse.ticket.state == state


@given(severities, severities)
def test_an_answer_to_what_it_was_does_not_take_what_it_has_become(asked: Severity, is_now: Severity) -> None:
    """The page said medium when the person said yes; who says yes to it as it is takes it."""
    said_yes = page_message(acknowledged_by="architect-2", acknowledged_at=NOW, severity=asked)
    outcome = take_page(ticket(severity=is_now), "page.acknowledged", said_yes, NOW)
    after = outcome.ticket
    rises = severity_rank(is_now) > severity_rank(asked)
    assert (after.state, after.assignee) == ("open" if rises else "acknowledged", "architect-2")
    assert after.acknowledged_severity == asked
    assert (outcome.event, after.version) == ("ticket.updated", 2)


def test_a_forgotten_ticket_has_no_taker() -> None:
    """It rises as one that nobody took: the chain's first is asked, as for any."""
    before = in_state("acknowledged", acknowledged_at=NOW, acknowledged_severity="high")
    after = take_page(before, "page.unacknowledged", page_message(), NOW).ticket
    assert (after.state, after.acknowledged_severity) == ("open", None)


# ---- people


@pytest.mark.parametrize("wanted", STATES)
@pytest.mark.parametrize("state", STATES)
def test_every_move_is_the_contracts(state: TicketState, wanted: TicketState) -> None:
    """A move that the states do not allow is refused with those that they do."""
    before = in_state(state)
    patch = Patch(state=wanted, **(DONE if wanted == "resolved" else {}))  # pyright: ignore[reportArgumentType]
    if wanted == state:
        outcome = change(before, Patch(state=wanted), root_causes=CAUSES, actor="ops", now=NOW)
        assert outcome is None
    elif wanted in TABLE[state]:
        outcome = change(before, patch, root_causes=CAUSES, actor="ops", now=NOW)
        assert outcome is not None
        assert outcome.ticket.state == wanted
        events = {"resolved": "ticket.resolved", "closed": "ticket.closed", "cancelled": "ticket.closed"}
        assert outcome.event == events.get(wanted, "ticket.opened" if wanted == "open" else "ticket.updated")
        assert any(line.what == "state" and line.actor == "ops" for line in outcome.entries)
        assert assert_sound(before, outcome)
    else:
        with pytest.raises(NotAllowed) as refused:
            _ = change(before, patch, root_causes=CAUSES, actor="ops", now=NOW)
        assert set(refused.value.allowed) == TABLE[state]


def test_a_closed_ticket_is_opened_by_an_alert_only() -> None:
    outcome = merge(in_state("closed"), alert(), first=True, now=NOW)
    assert outcome is not None
    assert outcome.ticket.state == "open"


@pytest.mark.parametrize("state", sorted(ACTIVE))
@pytest.mark.parametrize(
    ("given_", "missing"),
    [
        ({}, {"root_cause", "resolution"}),
        ({"root_cause": "process"}, {"resolution"}),
        ({"resolution": "Called back."}, {"root_cause"}),
        ({"root_cause": "", "resolution": ""}, {"root_cause", "resolution"}),
        ({"root_cause": "weather", "resolution": "It passed."}, {"root_cause"}),
    ],
)
def test_to_resolve_needs_a_cause_and_what_was_done(
    state: TicketState, given_: dict[str, str], missing: set[str]
) -> None:
    """Without them nobody learns from a ticket; the refusal names each field that lacks."""
    with pytest.raises(Missing) as refused:
        _ = change(in_state(state), Patch(state="resolved", **given_), root_causes=CAUSES, actor="ops", now=NOW)  # pyright: ignore[reportArgumentType]
    assert {path for path, _ in refused.value.errors} == missing


def test_the_cause_may_be_any_text_where_the_directory_has_none_and_may_come_before() -> None:
    before = in_state("in_progress", root_cause="weather")
    outcome = change(before, Patch(state="resolved", resolution="It passed."), root_causes=(), actor="ops", now=NOW)
    assert outcome is not None
    assert (outcome.ticket.root_cause, outcome.ticket.resolved_at) == ("weather", NOW)


@given(st.sampled_from(STATES), patches)
def test_each_changed_field_leaves_a_line(state: TicketState, patch: Patch) -> None:
    """The timeline tells who changed what, from what, to what."""
    before = in_state(state)
    try:
        outcome = change(before, patch, root_causes=CAUSES, actor="architect-2", now=NOW)
    except (NotAllowed, Missing):
        return
    fields = ("state", "assignee", "severity", "root_cause", "resolution")
    if outcome is None:
        assert all(getattr(patch, f) in {None, getattr(before, f)} for f in fields)
        return
    after = outcome.ticket
    changed = {f.replace("_", " "): (getattr(before, f), getattr(after, f)) for f in fields}
    expected = {what: values for what, values in changed.items() if values[0] != values[1]}
    lines = {line.what: (line.detail["before"], line.detail["after"]) for line in outcome.entries}
    assert lines == expected
    assert {(line.actor, line.at) for line in outcome.entries} == {("architect-2", NOW)}
    assert after.version == before.version + 1


def test_a_ticket_by_hand_is_a_problem_of_its_own() -> None:
    """Two that look alike are two: nothing merges into what a person asked for."""
    one, other = (
        by_hand(
            number=n,
            customer="acme",
            touchpoint=None,
            title="Called twice",
            severity="high",
            architect="architect-1",
            actor="ops",
            now=NOW,
        )
        for n in (1, 2)
    )
    assert one.ticket.dedup_key != other.ticket.dedup_key
    assert (one.event, one.ticket.state, one.ticket.assignee, one.ticket.version) == (
        "ticket.opened",
        "open",
        "architect-1",
        1,
    )
    assert one.entries[0].actor == "ops"
