"""Whom we can call, by which contacts, and how they are told what is no page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta

from services.notify.channels import Channel
from services.notify.domain.contacts import Listed, Way, contact_of, contacts_of, listed
from services.notify.store import deliveries, notices
from services.notify.store.contacts import Key
from services.notify.store.deliveries import Delivery, NewDelivery
from services.notify.store.notices import StoredNotice
from shared.database.pool import Connection
from shared.directory.model import Contact, Directory, Person
from shared.runtime.logs import Log
from shared.wire.events import Severity

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
        return [self._can_be_called(person, contact) for contact in person.contacts]

    def _can_be_called(self, person: Person, contact: Contact) -> bool:
        return contact.channel in self._ready and (person.id, contact.channel, contact.address) not in self._stopped

    def people(self) -> set[str]:
        """Return the people who have a contact that can be called."""
        return {person.id for person in self._directory.people.values() if any(self.usable(person))}

    def way(self, delivery: Delivery) -> Way | None:
        """Return what the contact of a delivery is known by; None: nobody knows any more."""
        known = self._directory.people.get(delivery.person)
        if delivery.way is not None or known is None:
            return delivery.way
        return next((one.way for one in listed(known) if one.place == delivery.contact), None)

    def leads_somewhere(self, delivery: Delivery) -> bool:
        """Tell whether the contact of a delivery is still the person's, and can be called."""
        known = self._directory.people.get(delivery.person)
        contact = None if known is None else contact_of(known, delivery.way, delivery.contact)
        return known is not None and contact is not None and self._can_be_called(known, contact)

    def order(self, person: str, severity: Severity | None) -> list[Listed]:
        """Return the contacts of a person that can be called, in the order to try; a notice has no severity."""
        known = self._directory.people.get(person)
        if known is None:
            return []
        found = contacts_of(known, severity, self.usable(known))
        if severity is not None:
            return found
        return [one for one in found if one.contact.channel not in _LOUD] or found

    def wanted(self, person: str, severity: Severity, now: datetime) -> list[tuple[Listed, datetime]]:
        """Return the contacts to call from the start, and when; the others follow when one fails."""
        return [
            # Whoever has only this one is not called later than others.
            (one, now + timedelta(seconds=one.contact.after or 0) if number else now)
            for number, one in enumerate(self.order(person, severity))
            if number == 0 or one.contact.after is not None
        ]

    async def tell(self, tx: Connection, told: Sequence[StoredNotice], now: datetime) -> None:
        """Have people told, by the first contact that does not wake them, then by the next."""
        sent: list[tuple[StoredNotice, Listed]] = []
        for one in told:
            order = self.order(one.person, None)
            if order:
                sent.append((one, order[0]))
            else:
                log.error("nobody to tell", person=one.person, kind=one.kind, subject=one.words.subject)
        await tell_at(tx, sent, now)


async def tell_at(tx: Connection, told: Sequence[tuple[StoredNotice, Listed]], now: datetime) -> None:
    """Have people told at certain contacts."""
    await notices.add(tx, [one for one, _ in told], now)
    wanted = [
        NewDelivery(None, one.person, contact.place, now, way=contact.way, notice=one.id) for one, contact in told
    ]
    await deliveries.add(tx, wanted, now)
