"""What a desk, a day's scores and an erasure make of a ticket or an action."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.ticketing.domain.action import MEASURED_FOR, Action, measured
from services.ticketing.domain.erase import without
from services.ticketing.domain.service import Tally, service_of
from services.ticketing.domain.ticket import ACTIVE, MOVES, take_desk
from shared.wire.events import RespondentErasedV1, ScoreDailyV1, TicketState, TicketV1
from shared.wire.ids import uuid7
from tests.support.build import NOW, evidence, ticket

STATES: tuple[TicketState, ...] = (*MOVES,)
states = st.sampled_from(STATES)


def in_state(state: TicketState, **fields: Any) -> TicketV1:
    ended = {"acknowledged_at": NOW, "resolved_at": NOW} if state in {"resolved", "closed"} else {}
    return ticket(state=state, **{**ended, **fields})


# ---- desks


@given(states, st.none() | states, st.none() | st.sampled_from(("architect-1", "architect-2")))
def test_a_desk_moves_a_ticket_only_where_it_may_go(
    before: TicketState, said: TicketState | None, assignee: str | None
) -> None:
    """Acknowledged stays acknowledged, closed stays closed, and what it says twice is said once."""
    current = in_state(before, acknowledged_at=None if before == "open" else NOW)
    outcome = take_desk(current, "main", said, assignee=assignee, resolution=None, now=NOW)
    after = current if outcome is None else outcome.ticket
    if after.state != before:
        assert after.state in MOVES[before]
    if before in {"closed", "cancelled"}:
        assert outcome is None
    if current.acknowledged_at is not None and after.opening == current.opening:
        assert after.acknowledged_at == current.acknowledged_at
        assert after.state != "open"
    if before in ACTIVE and after.state != "open":
        assert after.acknowledged_at is not None or after.state == "cancelled"
    assert (after.state in {"resolved", "closed"}) <= (after.resolved_at is not None and after.state != "open")
    if outcome is not None:
        assert after.version == current.version + 1
        assert all(line.actor == "desk:main" for line in outcome.entries)
        assert outcome.entries
    if before in ACTIVE or said not in ACTIVE:
        assert take_desk(after, "main", said, assignee=assignee, resolution=None, now=NOW) is None or said == "closed"


def test_a_desk_resolves_with_what_was_written_there() -> None:
    outcome = take_desk(in_state("open"), "main", "resolved", assignee=None, resolution="Refunded", now=NOW)
    assert outcome is not None
    assert (outcome.event, outcome.ticket.resolution) == ("ticket.resolved", "Refunded")


def test_reopened_in_the_desk_it_is_to_be_answered_afresh() -> None:
    outcome = take_desk(in_state("resolved"), "main", "in_progress", assignee=None, resolution=None, now=NOW)
    assert outcome is not None
    assert (outcome.event, outcome.ticket.opening) == ("ticket.opened", 2)
    assert outcome.ticket.acknowledged_at is None


# ---- actions


def action(**fields: Any) -> Action:
    facts: dict[str, Any] = {
        "id": uuid7(),
        "customer": "acme",
        "ticket": None,
        "step": "Call back within the hour",
        "owner": "architect-1",
        "due_on": date(2026, 12, 24),
        "metric": "nps",
        "state": "open",
        "opened_at": NOW,
    }
    return Action(**{**facts, **fields})


def scored(on: datetime, nps: float | None) -> ScoreDailyV1:
    return ScoreDailyV1(customer="acme", day=on.date().isoformat(), nps=nps, nps_responses=10)


@given(st.lists(st.tuples(st.integers(-30, 150), st.none() | st.floats(-100, 100)), max_size=30))
def test_an_action_is_measured_by_the_newest_day_of_ninety(days: list[tuple[int, float | None]]) -> None:
    """Restated: before is the first figure while it was open, after the last of the 90 days since it was done."""
    done_at = NOW
    days.sort(key=lambda one: one[0])
    current, first = action(opened_at=NOW - timedelta(days=30)), None
    for day, nps in (one for one in days if one[0] <= 0):
        current = measured(current, scored(NOW + timedelta(days=day), nps))
        first = nps if first is None else first
    current = replace(current, state="done", done_at=done_at)
    last = None
    for day, nps in (one for one in days if one[0] > 0):
        current = measured(current, scored(NOW + timedelta(days=day), nps))
        last = nps if nps is not None and timedelta(days=day) <= MEASURED_FOR else last
    assert (None if current.before is None else current.before.value) == first
    assert (None if current.after is None else current.after.value) == last
    assert current.effect == (None if first is None or last is None else round(last - first, 4))


def test_a_dropped_action_is_measured_no_more() -> None:
    dropped = action(state="dropped")
    assert measured(dropped, scored(NOW, 10)) is dropped


# ---- service


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4))
def test_rates_are_shares_of_what_was_resolved(counts: list[int]) -> None:
    """Of nothing there is no share."""
    resolved, named = sum(counts), counts[0] + counts[1]
    service = service_of(Tally(resolved + 3, resolved, counts[0], 60.0, named, counts[1], counts[2]))
    assert (service.tickets, service.resolved) == (resolved + 3, resolved)
    for share, some, of in (
        (service.first_contact_resolution, counts[0], resolved),
        (service.recovery_rate, counts[1], named),
        (service.reopen_rate, counts[2], resolved),
    ):
        assert share == (pytest.approx(some / of, abs=1e-4) if of else None)


# ---- erasure


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("Änn", "a\u0308NN ", "r-2", None)), st.integers(-5, 5), st.none() | st.integers(-5, 5)
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_an_erased_person_is_in_no_ticket(said: list[tuple[str | None, int, int | None]], one: bool) -> None:
    """What they said, or we received, before a moment is nobody's, however they are written; the rest stays.

    Of one answer that is erased, nothing else is touched.
    """
    answers = [
        evidence(
            respondent=who,
            contact=f"{who}@example.test",
            occurred_at=NOW + timedelta(days=day),
            received_at=None if came is None else NOW + timedelta(days=came),
        )
        for who, day, came in said
    ]
    before = ticket(evidence=answers)
    answer = answers[0].id if one and answers else None
    wanted = RespondentErasedV1(erasure=uuid7(), customer="acme", respondent="änn", before=NOW, answer=answer)
    after = without(before, wanted)
    for was, now in zip(answers, after.evidence, strict=True):
        theirs = was.respondent in {"Änn", "a\u0308NN "} and (
            was.occurred_at < NOW or (was.received_at is not None and was.received_at < NOW)
        )
        if was.id == answer if answer is not None else theirs:
            assert (now.respondent, now.comment, now.contact) == (None, None, None)
            assert replace(now, respondent=was.respondent, comment=was.comment, contact=was.contact) == was
        else:
            assert now == was
    assert (after is before) == (after == before)
