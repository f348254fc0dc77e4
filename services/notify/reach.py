"""Whom we can call, by which contacts, and how they are told what is no page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta

from services.notify.channels import Channel
from services.notify.domain.hold import contacts_of
from services.notify.store import deliveries, notices
from services.notify.store.contacts import Key
from services.notify.store.deliveries import Wanted
from services.notify.store.notices import Told
from shared.db import Connection
from shared.directory.model import Directory, Person
from shared.events import Severity
from shared.logs import Log

log = Log("notify")

_LOUD = frozenset({"sms", "voice", "pagerduty"})
"""Ways that wake: what is no page takes another, where the person has one."""


class Reach:
    """Contacts whose channel is set up, and who did not ask to be left alone."""

    def __init__(self, directory: Directory, channels: Mapping[str, Channel], stopped: AbstractSet[Key]) -> None:
        self._directory = directory
        self._ready = {name for name, channel in channels.items() if channel.ready(directory)}
        self._stopped = stopped

    def usable(self, person: Person) -> list[bool]:
        """Tell of each contact whether it can be called."""
        return [
            contact.channel in self._ready and (person.id, contact.channel, contact.address) not in self._stopped
            for contact in person.contacts
        ]

    def people(self) -> set[str]:
        """Return the people who have a contact that can be called."""
        return {person.id for person in self._directory.people.values() if any(self.usable(person))}

    def wanted(self, person: str, severity: Severity, now: datetime) -> list[tuple[int, datetime]]:
        """Return the places of the contacts to call from the start, and when; the others follow when one fails."""
        known = self._directory.people.get(person)
        found = [] if known is None else contacts_of(known, severity, self.usable(known))
        return [
            # Whoever has only this one is not called later than others.
            (place, now + timedelta(seconds=contact.after or 0) if number else now)
            for number, (place, contact) in enumerate(found)
            if number == 0 or contact.after is not None
        ] or [(0, now)]  # nobody: the sender says so, and the page goes on

    def next_place(self, person: str, severity: Severity | None, place: int) -> int | None:
        """Return the contact to call after one that failed; a notice has no severity."""
        known = self._directory.people.get(person)
        if known is None:
            return None
        places = self._quiet(known) if severity is None else self._places(known, severity)
        return next((later for later in places if later > place), None)

    def _places(self, person: Person, severity: Severity) -> list[int]:
        return [place for place, _ in contacts_of(person, severity, self.usable(person))]

    def _quiet(self, person: Person) -> list[int]:
        usable = [place for place, good in enumerate(self.usable(person)) if good]
        return [place for place in usable if person.contacts[place].channel not in _LOUD] or usable

    async def tell(self, tx: Connection, told: Sequence[Told], now: datetime) -> None:
        """Have people told, by the first contact that does not wake them, then by the next."""
        sent: list[tuple[Told, int]] = []
        for one in told:
            person = self._directory.people.get(one.person)
            places = [] if person is None else self._quiet(person)
            if places:
                sent.append((one, places[0]))
            else:
                log.error("nobody to tell", person=one.person, kind=one.kind, subject=one.words.subject)
        await tell_at(tx, sent, now)


async def tell_at(tx: Connection, told: Sequence[tuple[Told, int]], now: datetime) -> None:
    """Have people told at certain contacts."""
    await notices.add(tx, [one for one, _ in told], now)
    await deliveries.add(tx, [Wanted(None, one.person, place, now, notice=one.id) for one, place in told], now)
