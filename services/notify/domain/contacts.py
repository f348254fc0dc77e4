"""A person's contacts, told apart by what they are: where one stands in the list changes with the next edit. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from shared.directory.model import Contact, Person
from shared.wire.events import Severity


class Way(NamedTuple):
    """What a contact is known by."""

    channel: str
    address: str
    nth: int = 0
    """How many of the same stand before it: what is listed twice is called twice."""


class Listed(NamedTuple):
    """A contact in its person's list."""

    place: int
    way: Way
    contact: Contact


def listed(person: Person) -> list[Listed]:
    """Return a person's contacts, in the order to try."""
    found: list[Listed] = []
    times: dict[tuple[str, str], int] = {}
    for place, contact in enumerate(person.contacts):
        same = (contact.channel, contact.address)
        found.append(Listed(place, Way(*same, times.get(same, 0)), contact))
        times[same] = times.get(same, 0) + 1
    return found


def contact_of(person: Person, way: Way | None, place: int) -> Contact | None:
    """Return a contact that was to be called; None: the person has it no more.

    `place` counts only without a way: it was stored by the version that knew no other.
    """
    known = listed(person)
    if way is None:
        return known[place].contact if place < len(known) else None
    return next((one.contact for one in known if one.way == way), None)


def contacts_of(person: Person, severity: Severity | None, usable: Sequence[bool]) -> list[Listed]:
    """Return the contacts to try for a severity (None: for any), in order; `usable` is by place.

    Where none is meant for the severity, all are: a page that reaches nobody helps nobody.
    """
    known = [one for one in listed(person) if usable[one.place]]
    if severity is None:
        return known
    return [one for one in known if not one.contact.severities or severity in one.contact.severities] or known


def next_contact(order: Sequence[Listed], called: Collection[Way]) -> Listed | None:
    """Return the contact to call when one failed: the first that was not called yet, wherever it stands now."""
    return next((one for one in order if one.way not in called), None)


def free_place(wanted: int, taken: Collection[int]) -> int:
    """Return a number for a contact that no other of the same turn has: its place, where that is free."""
    return wanted if wanted not in taken else max(taken) + 1
