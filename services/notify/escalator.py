"""Decides who is paged next. Works from due rows: whatever dies is taken up again by the next process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from msgspec.structs import replace

from services.notify.channels import Channel
from services.notify.contact_selection import Reach
from services.notify.domain import storm
from services.notify.domain.chain import EscalationStep, Presence, stand_in
from services.notify.domain.hold import Silence, held_back, turn
from services.notify.domain.page import Finds, Outcome, Page, to_catch_all
from services.notify.domain.rota import REACH
from services.notify.ledger import PageChange, save
from services.notify.store import audit, contacts, deliveries, pages, rota
from services.notify.store.deliveries import NewDelivery
from services.notify.store.pages import StoredPage
from shared.database.pool import Connection
from shared.directory.model import Directory
from shared.runtime import metrics
from shared.runtime.due import DueLoop
from shared.runtime.logs import Log
from shared.runtime.quarantine import judging
from shared.runtime.runtime import Runtime

log = Log("notify")

_PAGES_AT_ONCE = 500
_LOAD = timedelta(hours=1)
_STORM = timedelta(days=30)
"""How old a page can be that others follow."""


class Escalator:
    """Pages the next person of every page that is due."""

    def __init__(self, runtime: Runtime, channels: Mapping[str, Channel], sent: Callable[[], None]) -> None:
        """`sent` is called when there is something for the sender."""
        self._database = runtime.database
        self._directory = runtime.directory
        self._channels = channels
        self._clock = runtime.clock
        self._sent = sent
        self.loop = DueLoop("notify", "escalator", self._work, runtime.quarantine, at_once=_PAGES_AT_ONCE)

    async def _work(self, limit: int) -> int:
        """Do what is due, so many pages at the most; return how many that were."""
        revision = self._directory.current
        if revision is None:
            return 0
        async with self._database.transaction() as tx:
            now = self._clock.now()
            due = await pages.due(tx, now, limit)
            if not due:
                return 0
            with judging(pages.QUEUE, [kept.page.id for kept in due]):
                happened, wanted = await self._decide(tx, due, revision.directory, now)
                await save(tx, happened, now)
                await deliveries.supersede(tx, wanted)
                await deliveries.add(tx, wanted, now)
        for one in happened:
            if one.outcome.event == "page.exhausted":
                page = one.outcome.page
                metrics.PAGES_EXHAUSTED.inc()
                log.error("nobody answers", page=page.id, ticket=page.ticket, customer=page.customer)
        if wanted:
            self._sent()
        return len(due)

    async def _decide(
        self, tx: Connection, due: Sequence[StoredPage], directory: Directory, now: datetime
    ) -> tuple[list[PageChange], list[NewDelivery]]:
        reach = Reach(directory, self._channels, await contacts.stopped(tx))
        people = reach.people()
        presence = Presence(directory, await rota.overrides(tx, now - REACH, now + REACH), now)
        silences = await rota.silences(tx, now)

        def finds(step: EscalationStep) -> str | None:
            person = presence.finds(step)
            return person if person in people else None

        happened = await self._storms(tx, due, silences, now)
        for kept in due:
            if not storm.follows(kept.page):
                happened.append(PageChange(_turned(kept.page, finds, silences, directory, now), kept.traceparent))
        paged = [(one, one.outcome.pages) for one in happened if one.outcome.pages is not None]
        before = {kept.page.id: kept.page for kept in due}
        load = await deliveries.load(tx, sorted(_repeated(paged, before)), now - _LOAD)
        wanted: list[NewDelivery] = []
        lines: list[audit.Line] = []
        for one, person in paged:
            page = one.outcome.page
            if held_back(before[page.id], person, load):
                lines.append(
                    audit.line(now, audit.SYSTEM, "held back", page=page.id, customer=page.customer, person=person)
                )
                continue
            of_page = NewDelivery(page.id, person, 0, now, turn=page.turn, level=page.level, round=page.round)
            # Where there is no contact that can be called, the sender says so, and the page goes on.
            wanted += [
                dataclasses.replace(of_page, contact=one.place, way=one.way, due_at=at)
                for one, at in reach.wanted(person, page.severity, now)
            ] or [of_page]
        await audit.add(tx, lines)
        return happened, wanted

    async def _storms(
        self, tx: Connection, due: Sequence[StoredPage], silences: Sequence[Silence], now: datetime
    ) -> list[PageChange]:
        """Look after pages that others are sent for; where theirs is over, one of them leads the rest."""
        following = [kept for kept in due if storm.follows(kept.page)]
        leads = await pages.leading(tx, sorted({kept.page.lead for kept in following if kept.page.lead is not None}))
        customers = sorted({kept.page.customer for kept in following})
        leading = await pages.leads(tx, customers, now - _STORM) if customers else {}
        outcomes = storm.review([kept.page for kept in following], leads, leading, silences, now)
        traces = {kept.page.id: kept.traceparent for kept in following}
        return [PageChange(outcome, traces[page]) for page, outcome in outcomes.items()]


def _behind(page: Page, directory: Directory) -> Page:
    """Return a page with somebody behind everybody: who was may have left the directory since it began."""
    if page.catch_all in directory.people:
        return page
    customer = stand_in(directory, page.customer)
    if customer is None:
        return page
    catch_all = directory.escalations[customer.escalation].catch_all
    log.error("the catch-all has left", page=page.id, was=page.catch_all, now=catch_all)
    return replace(page, catch_all=catch_all)


def _turned(page: Page, finds: Finds, silences: Sequence[Silence], directory: Directory, now: datetime) -> Outcome:
    try:
        page = _behind(page, directory)
        return turn(page, finds, silences, directory.people, now)
    except Exception as error:  # noqa: BLE001
        # A bug that one page or one schedule brings out must not keep the page from a person, as setting it aside
        # would: it is told as loudly, and whoever is behind everybody is paged.
        log.error("page failed", failure=error, page=page.id, customer=page.customer)
        return to_catch_all(page, now)


def _repeated(paged: Sequence[tuple[PageChange, str]], before: Mapping[UUID, Page]) -> set[str]:
    """Return who is paged again for what they were paged for before."""
    return {person for one, person in paged if person in before[one.outcome.page.id].paged}
