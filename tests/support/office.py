"""Ticketing's tables, a fake desk, and processes that keep them alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from fastapi import Request

from services.ticketing.api.dependencies import Dependencies
from services.ticketing.api.desks import take_desk_event
from services.ticketing.desk_sync.supervisor import DeskSync
from services.ticketing.domain.ticket import Opening, Outcome, Patch, change, entry, merge, open_ticket
from services.ticketing.ledger import Ledger, TicketChange
from services.ticketing.store import desks, tickets
from shared.bus.client import Kafka
from shared.database.pool import Database
from shared.directory.access import Access
from shared.directory.follower import Follower, revision_of
from shared.directory.model import Customer, Desk, Directory, Escalation, Person, Step
from shared.http.client import Guard, Outbound
from shared.runtime.clock import MovableClock
from shared.runtime.quarantine import Quarantine
from shared.runtime.runtime import Runtime
from shared.wire.events import DeskV1, EvidenceV1, TicketV1
from shared.wire.signing import Signer
from tests.support import build
from tests.support.desks import FakeDesk
from tests.support.desks.freshservice import fake_freshservice
from tests.support.desks.glpi import fake_glpi
from tests.support.desks.jira import fake_jira
from tests.support.desks.redmine import fake_redmine
from tests.support.desks.rt import fake_rt
from tests.support.desks.servicenow import fake_servicenow
from tests.support.desks.webhook import fake_webhook
from tests.support.desks.zammad import fake_zammad
from tests.support.desks.zendesk import fake_zendesk
from tests.support.wait import until

FAKES: dict[str, Callable[[], FakeDesk]] = {
    "jira": fake_jira,
    "servicenow": fake_servicenow,
    "zendesk": fake_zendesk,
    "zammad": fake_zammad,
    "rt": fake_rt,
    "redmine": fake_redmine,
    "glpi": fake_glpi,
    "freshservice": fake_freshservice,
    "webhook": fake_webhook,
}
SEARCHABLE = [name for name in FAKES if name != "webhook"]


@dataclass(slots=True)
class Office:
    """Ticketing's tables, a desk, and processes that come and go."""

    desk: FakeDesk
    database: Database
    follower: Follower
    clock: MovableClock
    ledger: Ledger
    running: asyncio.Task[None] | None = None
    opened: list[TicketV1] = field(default_factory=list[TicketV1])

    def run(self, outbound: Outbound | None = None) -> DeskSync:
        """Start a process."""
        quarantine, client = Quarantine(self.database), outbound or Outbound(Guard("true"))
        made = DeskSync(Runtime(self.database, self.follower, self.clock, quarantine), self.ledger, client)
        self.ledger.wake = made.wake
        self.running = asyncio.create_task(made.run())
        return made

    async def end(self) -> None:
        """Kill the process that runs; its connections die with it, whatever they were at."""
        if self.running is not None:
            self.running.cancel()
            with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
                await self.running
            await self.database.close()  # the next one opens its own

    async def open(self, customer: str = "acme", **more: Any) -> TicketV1:
        """Open a ticket."""
        alert = build.alert(customer=customer, dedup_key=f"{customer}/mood-one/{len(self.opened)}", **more)
        now = self.clock.now()
        async with self.database.transaction() as tx:
            (number,) = await tickets.numbers(tx, 1)
            outcome = self.ledger.timed(None, open_ticket(alert, Opening(number, "architect-1"), now))
            await self.ledger.save(tx, [TicketChange(outcome, None)], now)
        self.opened.append(outcome.ticket)
        self.ledger.wake()
        return outcome.ticket

    async def change(self, ticket: TicketV1, **patch: Any) -> TicketV1:
        """Change the newest version of a ticket."""
        now = self.clock.now()
        async with self.database.transaction() as tx:
            current = await tickets.one_locked(tx, ticket.id)
            assert current is not None
            outcome = change(current, Patch(**patch), root_causes=(), actor="architect-1", now=now)
            outcome = self.ledger.timed(current, cast("Outcome", outcome))
            await self.ledger.save(tx, [TicketChange(outcome, None)], now)
        self.ledger.wake()
        return outcome.ticket

    async def answer(self, ticket: TicketV1, *evidence: EvidenceV1) -> TicketV1:
        """Add answers to the newest version of a ticket, told at once."""
        now = self.clock.now()
        async with self.database.transaction() as tx:
            current = await tickets.one_locked(tx, ticket.id)
            assert current is not None
            alert = build.alert(id=current.alert, version=2, evidence=list(evidence), dedup_key=current.dedup_key)
            outcome = merge(current, alert, first=False, now=now)
            assert outcome is not None
            outcome = self.ledger.timed(current, outcome)
            await self.ledger.save(tx, [TicketChange(outcome, None)], now)
            await self.ledger.tell_later(tx, [outcome.ticket], now)
        self.ledger.wake()
        return outcome.ticket

    async def say(self, ticket: TicketV1, text: str) -> None:
        """Append a comment to the timeline."""
        async with self.database.transaction() as tx:
            await tickets.append(tx, [entry(ticket.id, self.clock.now(), "key:ops", "comment", text=text)])
            await desks.settle(tx, [ticket.id], self.clock.now())
        self.ledger.wake()

    async def fails(self, ticket: TicketV1, why: str) -> str:
        """Wait until a ticket tells why its desk lacks something."""

        async def told() -> str | None:
            error = (await self.shown(ticket)).error
            return error if error is not None and why in error else None

        return cast("str", await until(told))

    async def hear(self, desk_sync: DeskSync, headers: Mapping[str, str], body: bytes) -> bool:
        """Post what a desk tells of itself; return whether the ticket is known. Raises Problem."""
        access = Access(self.follower, self.clock, cast("Any", None))
        deps = Dependencies(self.database, access, self.clock, self.ledger, desk_sync, Signer(["a-test-secret"]))
        sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        answer = await take_desk_event(
            deps, "main", Request({"type": "http", "method": "POST", "headers": sent}, receive)
        )
        assert answer.status_code == 202
        return json.loads(bytes(answer.body))["known"]

    async def ticket(self, ticket: TicketV1) -> TicketV1:
        """Return a ticket as it is now."""
        async with self.database.transaction() as tx:
            found = await tickets.one(tx, ticket.id)
        assert found is not None
        return found

    async def shown(self, ticket: TicketV1) -> DeskV1:
        """Return where a ticket stands in its desk."""
        async with self.database.transaction() as tx:
            return (await desks.shown(tx, [ticket.id]))[ticket.id][1]

    async def mirrored(self, ticket: TicketV1, step: timedelta = timedelta()) -> str:
        """Wait until the desk has a ticket, whole; return its reference.

        `step`: how far the clock goes between two looks, where the desk is tried again later. Moves that were counted
        beforehand would all be over before a slow process has made its call, and none would be left for what it waits.
        """

        async def there() -> str | None:
            async with self.database.transaction() as tx:
                mirror = await desks.one(tx, ticket.id)
            done = mirror is not None and mirror.reference is not None and mirror.due_at is None
            if not done and step:
                self.clock.move(step)
                self.ledger.wake()
            return mirror.reference if done and mirror is not None else None

        return cast("str", await until(there))

    async def turned(self) -> None:
        """Wait until the desk's loop has looked at what is due, from beginning to end, after this moment."""
        for _ in range(2):  # the second look begins when the first has ended
            self.clock.move(timedelta(milliseconds=1))
            begun = self.clock.now() + timedelta(seconds=30)

            async def looked(begun: datetime = begun) -> bool:
                self.ledger.wake()
                async with self.database.transaction() as tx:
                    leased = await tx.fetchval("SELECT leased_until FROM desk")
                return leased is not None and leased >= begun

            await until(looked)

    async def polled(self, ahead: timedelta = timedelta(minutes=3), rounds: int = 1) -> None:
        """Let so many polls pass, and wait until what each of them brought is done."""
        for _ in range(rounds):
            self.clock.move(ahead)
            moved = self.clock.now()

            async def done(moved: datetime = moved) -> bool:
                self.ledger.wake()
                async with self.database.transaction() as tx:
                    looked = await tx.fetchval("SELECT polled_until FROM desk")
                    waits = await tx.fetchval("SELECT count(*) FROM desk_ticket WHERE due_at IS NOT NULL")
                return looked is not None and looked >= moved and not waits

            await until(done)

    async def becomes(self, ticket: TicketV1, state: str) -> TicketV1:
        """Wait until a ticket is in a state."""

        async def there() -> TicketV1 | None:
            found = await self.ticket(ticket)
            return found if found.state == state else None

        return cast("TicketV1", await until(there))

    async def timeline(self, ticket: TicketV1, what: str) -> list[dict[str, Any]]:
        """Return the details of a ticket's lines of a sort."""
        async with self.database.transaction() as tx:
            return [cast("Any", e.detail) for _, e in await tickets.timeline(tx, ticket.id, 0, 200) if e.what == what]


def directory(desk: Desk) -> Directory:
    """Return a company whose customers use one desk."""
    person = Person("architect-1", "First Architect", "UTC", "en")
    other = Person("architect-2", "Second Architect", "UTC", "en")
    return Directory(
        company="Example",
        timezone="UTC",
        language="en",
        people={person.id: person, other.id: other},
        escalations={"standard": Escalation("standard", (Step("architect", 300),), person.id)},
        customers={
            name: Customer(name, name.title(), person.id, "standard", "UTC", "fi", desk="main")
            for name in ("acme", "borealis")
        },
        desks={"main": desk},
    )


@contextlib.asynccontextmanager
async def office(
    fake: FakeDesk, database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> AsyncIterator[Office]:
    async with fake as desk:
        for name, value in desk.environ.items():
            monkeypatch.setenv(name, value)
        database = Database(database_url, "ticketing", pool=6)
        follower = Follower(kafka, ("ticketing",))
        entry = {"calls_per_minute": 6_000, "poll": 1, **desk.directory_entry(), **settings}
        follower.current = revision_of(1, directory(Desk(**entry)))
        clock = MovableClock()
        desk.now = clock.now
        ledger = Ledger(follower, clock, Signer(["a-test-secret"]), lambda: "https://fiilis.example.test")
        made = Office(desk, database, follower, clock, ledger)
        try:
            yield made
        finally:
            await made.end()
            await database.close()
