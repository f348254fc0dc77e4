"""A contact is known by what it is: whatever the list becomes meanwhile, each is called once."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.notify.domain.contacts import Listed, Way, contact_of, contacts_of, free_place, listed, next_contact
from shared.directory.model import SEVERITIES, Contact, Person
from shared.wire.events import Severity
from tests.support.build import person

contacts = st.builds(
    lambda channel, number, severities: Contact(channel, f"{channel}-{number}", severities=tuple(severities)),
    st.sampled_from(("sms", "email", "webhook")),
    st.integers(1, 3),
    st.sets(st.sampled_from(SEVERITIES), max_size=2),
)
lists = st.lists(contacts, max_size=6).map(tuple)


def order_of(who: Person, severity: Severity | None = None) -> list[Listed]:
    return contacts_of(who, severity, [True] * len(who.contacts))


@given(st.lists(lists, min_size=1, max_size=6))
def test_each_contact_is_called_once_however_the_list_is_edited(edits: Sequence[tuple[Contact, ...]]) -> None:
    """Before each call the list may have become another one: nothing rings twice, and nothing that stays is missed."""
    called: list[Way] = []
    for at, edit in enumerate(edits):
        found = next_contact(order_of(person(contacts=edit)), called)
        if found is not None:
            assert found.way not in called
            called.append(found.way)
        for later in edits[at:]:
            known = {one.way for one in listed(person(contacts=later))}
            assert all((contact_of(person(contacts=later), way, 0) is not None) == (way in known) for way in called)
    last = person(contacts=edits[-1])
    while (found := next_contact(order_of(last), called)) is not None:
        called.append(found.way)
    assert len(set(called)) == len(called)
    assert {one.way for one in listed(last)} <= set(called)


@given(lists, st.data())
def test_a_contact_is_the_one_that_it_was(edit: tuple[Contact, ...], data: st.DataObject) -> None:
    """What is looked up is what was meant, with what the list now says of it; by its place only where that is all."""
    who = person(contacts=edit)
    for one in listed(who):
        assert contact_of(who, one.way, data.draw(st.integers(0, 9))) is one.contact
        assert contact_of(who, None, one.place) is one.contact
        assert (one.contact.channel, one.contact.address) == one.way[:2]
    assert contact_of(who, None, len(edit)) is None
    assert contact_of(who, Way("sms", "of nobody"), 0) is None
    assert len({one.way for one in listed(who)}) == len(edit)


@given(lists, st.sampled_from((None, *SEVERITIES)), st.data())
def test_contacts_of_a_severity_or_else_all(
    edit: tuple[Contact, ...], severity: Severity | None, data: st.DataObject
) -> None:
    """A page that reaches nobody helps nobody; what cannot be called is never in the order."""
    usable = data.draw(st.lists(st.booleans(), min_size=len(edit), max_size=len(edit)))
    found = contacts_of(person(contacts=edit), severity, usable)
    assert [one.place for one in found] == sorted(one.place for one in found)
    assert all(usable[one.place] for one in found)
    meant = [n for n, one in enumerate(edit) if usable[n] and (not one.severities or severity in one.severities)]
    expected = [n for n, good in enumerate(usable) if good] if severity is None or not meant else meant
    assert [one.place for one in found] == expected


@given(st.sets(st.integers(0, 5)), st.integers(0, 7))
def test_a_number_in_a_turn_is_free(taken: set[int], wanted: int) -> None:
    assert free_place(wanted, taken) not in taken
    assert wanted in taken or free_place(wanted, taken) == wanted
