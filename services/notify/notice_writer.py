"""What a delivery says to whom: the notice of a page, with its link and code, or of what is no page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from services.notify.channels import Notice
from services.notify.domain.contacts import contact_of
from services.notify.domain.texts import AnswerOptions, page_words
from services.notify.store.deliveries import Delivery
from services.notify.store.notices import StoredNotice
from services.notify.store.pages import StoredPage
from shared.directory.model import Contact, Directory, Person
from shared.wire.signing import Signer


class NoticeWriter:
    """Writes notices in the directory of the moment."""

    def __init__(self, signer: Signer, public_url: Callable[[], str], link: timedelta) -> None:
        """Let an acknowledge link work for `link`."""
        self._signer = signer
        self._public_url = public_url
        self._link = link

    def of_page(
        self, delivery: Delivery, kept: StoredPage, followers: int, directory: Directory, now: datetime
    ) -> Notice | None:
        """Return a page for a person; None where they have no such contact any more. `followers`: see a storm."""
        reached = _reached(delivery, directory)
        if reached is None:
            return None
        person, contact = reached
        page, base = kept.page, self._public_url()
        facts = {"page": str(page.id), "person": person.id, "delivery": str(delivery.id)}
        expires = now + self._link
        url = f"{base}/a/{self._signer.sign('acknowledge', facts, expires=expires)}"
        asked = AnswerOptions(
            url=url,
            code=delivery.code,
            level=delivery.level,
            person=person.id,
            followers=followers,
            comments_in_short=directory.comments_in_sms,
        )
        callback = self._signer.sign("callback", facts, expires=expires)
        return Notice(
            key=str(delivery.id),
            kind="page",
            words=page_words(page, asked),
            person=person,
            contact=contact,
            directory=directory,
            at=now,
            page=page,
            acknowledge_url=url,
            code=delivery.code,
            callback_url=f"{base}/v1/callbacks/{callback}",
        )

    def of_notice(self, delivery: Delivery, stored: StoredNotice, directory: Directory, now: datetime) -> Notice | None:
        """Return what a person is told that is no page; None where they have no such contact any more."""
        reached = _reached(delivery, directory)
        if reached is None:
            return None
        person, contact = reached
        return Notice(
            key=str(delivery.id),
            kind=stored.kind,
            words=stored.words,
            person=person,
            contact=contact,
            directory=directory,
            at=now,
        )


def _reached(delivery: Delivery, directory: Directory) -> tuple[Person, Contact] | None:
    person = directory.people.get(delivery.person)
    contact = None if person is None else contact_of(person, delivery.way, delivery.contact)
    return None if person is None or contact is None else (person, contact)
