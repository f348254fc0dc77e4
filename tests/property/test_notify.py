"""A page finds somebody, whoever is missing, and does not stop before a person answers."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notify.domain.chain import Presence, chain, customer_of, full_chain
from services.notify.domain.page import (
    Finds,
    Outcome,
    Page,
    acknowledge,
    delivered,
    escalate,
    follow_ticket,
    forgotten,
    message,
    next_turn,
    resolve,
    start,
    undeliverable,
    wants_page,
)
from shared.directory.model import SEVERITIES, Customer, Directory, Step
from shared.wire.events import PageState, TicketState
from tests.support.build import NOW, customer, directory, escalation, page, person, ticket, turn

PEOPLE = ("architect-1", "architect-2", "night-1", "duty-manager")

named = st.sampled_from(("architect", "deputy", "catch_all", "person:night-1", "person:gone", "schedule:night-watch"))
directories = st.builds(
    lambda steps, repeat, architect, deputy: directory(
        people={name: person(name) for name in PEOPLE},
        customers={"acme": customer(architect=architect, deputy=deputy)},
        escalations={"standard": escalation(steps=tuple(steps), repeat=repeat)},
    ),
    st.lists(st.builds(Step, named, st.floats(1, 3600)), max_size=5),
    st.integers(1, 4),
    st.sampled_from(("architect-1", "gone")),
    st.sampled_from(("architect-2", "architect-1", "gone", None)),
)
reachables = st.sets(st.sampled_from(PEOPLE))


def started(known: Directory) -> Page:
    return start(ticket(), known, known.customers["acme"], NOW)


def finder(reachable: Collection[str]) -> Finds:
    """Find whom a step names, if they can be reached."""
    return lambda step: step.person if step.person in reachable else None


def turns(running: Page, reachable: Collection[str], count: int) -> list[Outcome]:
    """Let so many turns pass with nobody answering."""
    found: list[Outcome] = []
    for _ in range(count):
        assert running.due_at is not None
        found.append(next_turn(running, finder(reachable), running.due_at))
        running = found[-1].page
    return found


def expected_pages(known: Directory, reachable: Collection[str]) -> list[tuple[int, int, str]]:
    """Round, level and person of each page before the catch-all."""
    acme, standard = known.customers["acme"], known.escalations["standard"]
    finds = {
        "architect": acme.architect,
        "deputy": acme.deputy or "nobody",
        "catch_all": standard.catch_all,
        "person:night-1": "night-1",
    }
    return [
        (round_, level, who)
        for round_ in range(1, standard.repeat + 1)
        for level, step in enumerate(standard.steps, 1)
        if (who := finds.get(step.page, "nobody")) in known.people and who in reachable
    ]


@given(directories)
def test_the_chain_is_never_empty(known: Directory) -> None:
    """Whoever asks who is responsible for a customer gets a person who exists; the catch-all is always the last."""
    links = full_chain(known, known.customers["acme"], Presence(known, {}, NOW))
    assert links
    assert links[-1].person == "duty-manager"
    assert all(link.person in known.people for link in links)


@given(directories, reachables, st.integers(1, 40))
def test_somebody_is_paged_at_every_turn(known: Directory, reachable: set[str], count: int) -> None:
    """No turn pages nobody, none is due in the past, and every one is a delivery of its own."""
    running = started(known)
    assert running.due_at == NOW
    for number, outcome in enumerate(turns(running, reachable, count), 1):
        after = outcome.page
        assert outcome.pages is not None
        assert after.person == outcome.pages
        assert after.turn == number
        assert after.version == running.version + 1
        assert after.due_at is not None
        assert running.due_at is not None
        assert after.due_at > running.due_at
        running = after


@given(directories, reachables)
def test_all_rounds_then_the_catch_all_until_somebody_answers(known: Directory, reachable: set[str]) -> None:
    """Every reachable step in every round, who cannot be reached skipped at once, then the alarm, told once."""
    steps, expected = known.escalations["standard"].steps, expected_pages(known, reachable)
    found = turns(started(known), reachable, len(expected) + 4)
    before, after = found[: len(expected)], found[len(expected) :]
    assert [(o.page.round, o.page.level, o.pages) for o in before] == expected
    assert all(o.page.state == "pending" for o in before)
    assert [o.event for o in before] == [None, *["page.escalated"] * len(before)][: len(before)]
    assert [o.event for o in after] == ["page.exhausted", *["page.escalated"] * 3]
    assert {(o.pages, o.page.state, o.page.level) for o in after} == {("duty-manager", "exhausted", len(steps) + 1)}
    waits = [step.ack_within for step in steps]
    due = NOW
    for outcome in before:
        due += timedelta(seconds=waits[outcome.page.level - 1])
        assert outcome.page.due_at == due
    for outcome in after:
        due += timedelta(seconds=waits[-1] if waits else 300)
        assert outcome.page.due_at == due


@given(directories, reachables, st.integers(0, 12))
def test_an_edit_of_the_directory_does_not_change_a_running_page(
    known: Directory, reachable: set[str], count: int
) -> None:
    """Whom a page goes to is what was agreed when it started; the next page follows the new plan."""
    running = started(known)
    # As it is kept between turns: nothing of the directory is asked for again.
    kept = msgspec.json.decode(msgspec.json.encode(running), type=Page)
    assert kept == running
    edited = msgspec.structs.replace(
        known,
        customers={"acme": customer(architect="night-1", deputy=None)},
        escalations={"standard": escalation(steps=(Step("architect", 7.0),), repeat=9, catch_all="night-1")},
    )
    everywhere = [(o.pages, o.page.due_at) for o in turns(running, reachable, count)]
    assert [(o.pages, o.page.due_at) for o in turns(kept, reachable, count)] == everywhere
    assert started(edited).catch_all == "night-1"
    assert running.catch_all == "duty-manager"


def test_a_page_carries_what_its_ticket_says() -> None:
    """The person who is woken reads who the customer is and what happened, without asking back."""
    of = ticket(opening=2, number=7)
    found = start(of, directory(), customer(), NOW)
    assert (found.ticket, found.ticket_number, found.opening, found.severity) == (of.id, 7, 2, "critical")
    assert (found.customer, found.customer_name, found.title, found.summary) == (
        "acme",
        "Acme Oy",
        of.title,
        of.summary,
    )
    assert (found.state, found.version, found.turn, found.due_at) == ("pending", 1, 0, NOW)


# ---- the end of it

WAITING: tuple[PageState, ...] = ("pending", "sent", "exhausted")


@pytest.mark.parametrize("state", WAITING)
def test_an_acknowledgement_stops_a_page_once(state: PageState) -> None:
    """The first who answers has it; a second press of the button, or a late one, changes nothing."""
    outcome = acknowledge(page(state=state, version=4), "architect-2", NOW)
    assert outcome is not None
    after = outcome.page
    assert (after.state, after.acknowledged_by, after.acknowledged_at) == ("acknowledged", "architect-2", NOW)
    assert after.due_at == NOW + timedelta(hours=4), "then it counts as forgotten"
    assert (outcome.event, outcome.pages, after.version) == ("page.acknowledged", None, 5)
    assert acknowledge(after, "architect-1", NOW) is None


@pytest.mark.parametrize("state", [*WAITING, "acknowledged"])
def test_a_ticket_that_needs_nobody_stops_its_page(state: PageState) -> None:
    outcome = resolve(page(state=state))
    assert outcome is not None
    assert (outcome.page.state, outcome.page.due_at, outcome.event) == ("resolved", None, "page.resolved")
    assert resolve(outcome.page) is None
    assert acknowledge(outcome.page, "architect-1", NOW) is None


@given(
    st.sampled_from(("pending", "sent", "exhausted", "acknowledged", "resolved")),
    st.sampled_from(("open", "acknowledged", "in_progress", "waiting", "resolved", "closed", "cancelled")),
    st.integers(1, 2),
)
def test_a_page_follows_its_ticket_once(state: PageState, of_ticket: TicketState, opening: int) -> None:
    """Who works on it in the desk is not paged any more; an earlier opening's page is over; a repeat does nothing."""
    before = page(state=state, due_at=NOW if state in WAITING else None)
    told = ticket(state=of_ticket, opening=opening, assignee="architect-2")
    outcomes = follow_ticket(before, told, NOW)
    after = outcomes[-1].page if outcomes else before
    if opening != before.opening or of_ticket in {"resolved", "closed", "cancelled"}:
        assert after.state == "resolved"
    elif of_ticket == "open" or state not in WAITING:
        assert after.state == state
    else:
        assert (after.state, after.acknowledged_by) == ("acknowledged", "architect-2")
    assert (after.due_at is not None) if after.state in WAITING else after.state == "acknowledged" or not after.due_at
    assert not follow_ticket(after, told, NOW + timedelta(seconds=1))


HAPPENINGS = ("turn", "delivered", "failed", "ack", "forgotten", "escalate", "resolve", "ticket")


@given(st.lists(st.sampled_from(HAPPENINGS), max_size=20), reachables)
def test_a_page_that_waits_is_always_due_and_one_that_is_over_never_is(told: list[str], reachable: set[str]) -> None:
    """Whatever order the world chooses: paging goes on until it is stopped, and stopped means stopped."""
    running, now = page(), NOW
    for happening in told:
        now += timedelta(seconds=10)
        stopped = running.state == "resolved"
        after = after_happening(running, happening, reachable, now)
        assert after.version >= running.version
        assert (after.due_at is None) == (after.state == "resolved")
        assert not stopped or after == running
        assert running.state != "exhausted" or after.state != "sent"
        running = after
        assert message(running).version == running.version


def after_happening(running: Page, happening: str, reachable: set[str], now: datetime) -> Page:
    found: Outcome | list[Outcome] | None = None
    match happening:
        case "turn" if running.state in WAITING:
            found = next_turn(running, finder(reachable), now)
        case "delivered" if running.state != "resolved":
            found = delivered(running, now)
        case "failed":
            found = undeliverable(running, running.turn, now)
        case "ack":
            found = acknowledge(running, "architect-1", now)
        case "forgotten" if running.state == "acknowledged":
            found = forgotten(running, now)
        case "escalate":
            found = escalate(running, now, "sla")
        case "resolve":
            found = resolve(running)
        case "ticket":
            found = follow_ticket(running, ticket(state="acknowledged"), now)
        case _:
            pass
    if isinstance(found, list):
        return found[-1].page if found else running
    return running if found is None else found.page


def test_who_has_no_working_contact_is_passed_over_at_once() -> None:
    """Waiting for a person whose every contact failed helps nobody; behind the catch-all there is no other."""
    later = NOW + timedelta(minutes=1)
    running = next_turn(page(), finder(PEOPLE), NOW).page
    skipped = undeliverable(running, running.turn, later)
    assert skipped is not None
    assert skipped.page.due_at == later
    assert undeliverable(running, running.turn - 1, later) is None
    assert undeliverable(page(state="exhausted", turn=9), 9, later) is None
    assert undeliverable(page(state="acknowledged", turn=1, due_at=None), 1, later) is None


def test_delivery_is_told_and_answers_nothing() -> None:
    """A page that reached a device is `sent`; it still waits for a person, and the alarm stays an alarm."""
    outcome = delivered(page(), NOW)
    assert (outcome.page.state, outcome.page.sent_at, outcome.event) == ("sent", NOW, "page.sent")
    again = delivered(outcome.page, NOW + timedelta(minutes=5))
    assert again.page.sent_at == NOW
    assert delivered(page(state="exhausted"), NOW).page.state == "exhausted"
    late = delivered(page(state="acknowledged", due_at=None), NOW)
    assert (late.page.state, late.event) == ("acknowledged", None)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_which_tickets_page(severity: str) -> None:
    """Critical and high wake somebody; the others can wait for the digest."""
    assert wants_page(ticket(severity=severity)) is (severity in {"critical", "high"})
    assert not wants_page(ticket(severity=severity, state="acknowledged"))


def test_a_customer_that_left_with_a_ticket_open_is_the_catch_alls() -> None:
    """Nobody is forgotten because a line was deleted from a file."""
    known = directory(customers={})
    found = customer_of(known, ticket())
    assert isinstance(found, Customer)
    assert [link.person for link in full_chain(known, found, Presence(known, {}, NOW))] == [
        "duty-manager",
        "duty-manager",
    ]
    assert customer_of(directory(), ticket()) == customer()
    assert customer_of(directory(customers={}, escalations={}), ticket()) is None


def test_a_step_names_who_it_found() -> None:
    """`via` says why this person: architect, deputy, or the night's schedule."""
    found = chain(directory(), customer(deputy=None))
    assert [(t.person, t.via) for t in found] == [("architect-1", "architect"), (None, "deputy")]
    assert turn().person == "architect-1"
