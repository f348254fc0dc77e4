"""How a person answers a page, whichever way: a link, an API call, an SMS, a key press, a button."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID, uuid5

from msgspec.structs import replace

from services.notify.channels import Channel
from services.notify.contact_selection import Reach, tell_at
from services.notify.domain.contacts import listed
from services.notify.domain.page import WAITING, Page, delivered, escalate
from services.notify.domain.texts import link_words
from services.notify.ledger import PageChange, call_next, save, take
from services.notify.store import audit, contacts, deliveries, notices, pages
from services.notify.store.contacts import Key
from services.notify.store.deliveries import Delivery
from services.notify.store.notices import StoredNotice
from shared.database.pool import Connection
from shared.errors import FieldError, Problem, Transient, not_found
from shared.runtime import metrics
from shared.runtime.audit import Actor
from shared.runtime.logs import Log
from shared.runtime.runtime import Runtime
from shared.wire.signing import Signer

log = Log("notify")

_TRIES = 3
_STOP = frozenset({"stop", "stopall", "unsubscribe", "cancel", "end", "quit"})
_START = frozenset({"start", "unstop"})
_YES = frozenset({"ok", "1", "yes"})


class NotInDirectory(Problem):
    """The 422 for whoever the directory does not have, or not any more."""

    def __init__(self, person: str) -> None:
        named = FieldError("person", f"the directory has no person {person[:63]!r}")
        detail = "You are no longer in the directory; the page goes on to the next person."
        super().__init__(422, "invalid", "No such person in the directory", detail, errors=(named,))


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a provider tells later of a message or a call that it had accepted."""

    page: UUID
    delivery: UUID
    channel: str
    name: str | None
    """The provider's own name for the message."""
    result: Literal["delivered", "permanent"]
    detail: str


class Acknowledgements:
    """Takes answers."""

    def __init__(self, runtime: Runtime, channels: Mapping[str, Channel], signer: Signer, *, link_days: float) -> None:
        self._database = runtime.database
        self._directory = runtime.directory
        self._channels = channels
        self._clock = runtime.clock
        self._signer = signer
        self._link = timedelta(days=link_days)

    async def take(self, page: UUID, person: str, *, by: Actor, delivery: UUID | None = None) -> Page:
        """Acknowledge a page; `delivery`: what the person answers to. Every door comes here.

        Raises the 404, 409 when it is over, and 422 for whom the directory does not have (any more).
        """
        revision = self._directory.current
        if revision is None or person not in revision.directory.people:
            raise NotInDirectory(person)
        for _ in range(_TRIES - 1):
            # Nobody says it again: an SMS that met a lock, or a moment without the database, must not be lost.
            with suppress(Transient):
                return await self._take(page, person, by=by, delivery=delivery)
        return await self._take(page, person, by=by, delivery=delivery)

    async def _take(self, page: UUID, person: str, *, by: Actor, delivery: UUID | None) -> Page:
        async with self._database.transaction() as tx:
            now = self._clock.now()
            asked = await pages.with_followers_locked(tx, page)
            if not asked or asked[0].page.id != page:
                raise not_found("page", str(page))
            kept = asked[0]
            happened = await take(tx, asked, person, now, actor=by)
            if delivery is not None:
                await self._reached(tx, person, delivery)
            if not happened:
                if kept.page.state == "acknowledged":
                    return kept.page
                raise Problem(409, "resolved", "The page is over", "Its ticket was resolved; nobody needs to answer.")
        for one in happened:
            metrics.PAGE_TO_ACKNOWLEDGE.observe((now - one.outcome.page.opened_at).total_seconds())
        return happened[0].outcome.page

    async def take_and_say(self, page: UUID, person: str, delivery: UUID | None) -> str:
        """Acknowledge a page by the person that it was sent to; return in a sentence what came of it."""
        try:
            taken = await self.take(page, person, by=Actor(person), delivery=delivery)
        except Problem as refused:
            return refused.detail or refused.title
        revision = self._directory.current
        id_ = taken.acknowledged_by or ""
        known = None if revision is None else revision.directory.people.get(id_)
        name = (id_ or "Somebody") if known is None else known.name
        return f"{name} takes it: {taken.customer_name}, ticket {taken.ticket_number}. Nobody else is paged."

    async def _reached(self, tx: Connection, person: str, delivery: UUID) -> None:
        """Who answers what was sent to a contact has shown that it is theirs."""
        called = await deliveries.called(tx, delivery)
        keys = [(person, channel, address) for channel, address in called]
        now = self._clock.now()
        if keys and await contacts.verify(tx, keys, now):
            lines = [audit.line(now, person, "contact verified", person=person, channel=key[1]) for key in keys]
            await audit.add(tx, lines)

    async def escalate(self, page: UUID, *, by: Actor) -> Page:
        """Page the next person at once. Raises the 404, and 409 when it is over."""
        async with self._database.transaction() as tx:
            now = self._clock.now()
            kept = await pages.one_locked(tx, page)
            if kept is None:
                raise not_found("page", str(page))
            outcome = escalate(replace(kept.page, lead=None, held=None), now, "escalated by hand")
            if outcome is None:
                raise Problem(409, "resolved", "The page is over", "Its ticket was resolved; nobody needs to answer.")
            await save(tx, [PageChange(outcome, kept.traceparent, by)], now)
        return outcome.page

    async def mail_fresh_link(self, page: UUID, person: str, base: str) -> bool:
        """Mail a link that works to the person's own address, once an hour; tell whether there is one."""
        revision = self._directory.current
        known = None if revision is None else revision.directory.people.get(person)
        mails = [] if known is None else [one for one in listed(known) if one.way.channel == "email"]
        if known is None or not mails:
            return False
        async with self._database.transaction() as tx:
            now = self._clock.now()
            found = await pages.one(tx, page)
            if found is None:
                return False
            facts = {"page": str(page), "person": person}
            url = f"{base}/a/{self._signer.sign('acknowledge', facts, expires=now + self._link)}"
            told = StoredNotice(uuid5(page, f"{person} {now:%Y-%m-%dT%H}"), person, "link", link_words(found, url), now)
            if await notices.claim(tx, told.id) and not await notices.some(tx, [told.id]):
                await tell_at(tx, [(told, mails[0])], now)
        return True

    # ---- what providers tell

    async def take_receipt(self, receipt: Receipt) -> bool:
        """Store what became of a call; who was not reached is called at the next contact at once, or the next person.

        A receipt that came before, or is of none of our calls, changes nothing: False.
        """
        revision = self._directory.current
        if revision is None:
            return False
        async with self._database.transaction() as tx:
            now = self._clock.now()
            kept = await pages.one_locked(tx, receipt.page)
            delivery = await deliveries.one(tx, receipt.delivery)
            if kept is None or delivery is None:
                return False
            if not await deliveries.received(tx, delivery.id, receipt.name, receipt.result, receipt.detail, now):
                return False
            await audit.add(tx, [_receipt_line(receipt, kept.page, delivery, now)])
            if receipt.result == "delivered":
                if await deliveries.settle(tx, delivery.id, "delivered"):  # nobody knew: it is not sent again
                    await save(tx, [PageChange(delivered(kept.page, now), kept.traceparent)], now)
            elif await deliveries.settle(tx, delivery.id, "failed") and _waits(kept.page, delivery):
                reach = Reach(revision.directory, self._channels, await contacts.stopped(tx))
                await save(tx, await call_next(tx, [delivery], {kept.page.id: kept}, reach, now), now)
        log.info(f"receipt {receipt.result}", page=receipt.page, channel=receipt.channel, detail=receipt.detail)
        return True

    # ---- what is answered by SMS

    async def take_sms(self, number: str, text: str) -> str | None:
        """Do what an SMS from a number says; return what to answer. None: nothing, so that no two programs chat."""
        revision = self._directory.current
        people = () if revision is None else revision.directory.people.values()
        keys: list[Key] = [
            (person.id, contact.channel, contact.address)
            for person in people
            for contact in person.contacts
            if (contact.channel, contact.address) == ("sms", number)
        ]
        if not keys:
            return None
        word, now = text.strip().rstrip(".!").casefold(), self._clock.now()
        if word in _STOP:
            await self._stop(keys, now, stops=True)
            return "No more messages come here. Answer START to get them again."
        async with self._database.transaction() as tx:
            stopped = not (await contacts.stopped(tx)).isdisjoint(keys)
            sent = await deliveries.by_sms(tx, number, now - self._link)
        if word in _START or (stopped and word == "yes"):
            if stopped:
                await self._stop(keys, now, stops=False)
            return "Messages come here again. Answer STOP to end them."
        found = _meant(word, sent)
        if isinstance(found, Delivery):
            assert found.page is not None
            return await self.take_and_say(found.page, found.person, found.id)
        return found

    async def _stop(self, keys: Sequence[Key], now: datetime, *, stops: bool) -> None:
        what = "contact stopped" if stops else "contact started"
        async with self._database.transaction() as tx:
            await contacts.stop(tx, keys, now if stops else None)
            await audit.add(tx, [audit.line(now, key[0], what, person=key[0], channel=key[1]) for key in keys])
        for person, channel, _ in keys:
            log.warning(what, person=person, channel=channel)


def _waits(page: Page, delivery: Delivery) -> bool:
    """Tell whether a page still waits for the person of a delivery: it may have gone on, or been taken."""
    return page.state in WAITING and page.turn == delivery.turn


def _receipt_line(receipt: Receipt, page: Page, delivery: Delivery, now: datetime) -> audit.Line:
    return audit.line(
        now,
        receipt.channel,
        f"receipt {receipt.result}",
        page=page.id,
        customer=page.customer,
        person=delivery.person,
        channel=receipt.channel,
        detail=receipt.detail,
        receipt=receipt.name,
    )


def _meant(word: str, sent: Sequence[tuple[Delivery, bool]]) -> Delivery | str | None:
    """Return what an SMS answers to, or what to answer to it."""
    waiting = [delivery for delivery, waits in sent if waits]
    open_pages = len({delivery.page for delivery in waiting})
    if re.fullmatch("[0-9]{4}", word):
        return next((delivery for delivery, _ in sent if delivery.code == word), "No page has this code.")
    if word in _YES and open_pages == 1:
        return waiting[0]
    if open_pages == 0:
        return "No page waits for you." if word in _YES else None
    if open_pages == 1:
        return f"Reply {waiting[0].code} to take it."
    return f"{open_pages} pages wait for you. Reply the code of the one that you take."
