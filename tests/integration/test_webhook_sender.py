"""Webhooks out: an address that does not answer, or has much waiting, keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import pytest

from services.ticketing.domain.ticket import Opening, open_ticket
from services.ticketing.ledger import Ledger, TicketChange
from services.ticketing.store import tickets, webhooks
from services.ticketing.store.webhooks import Sending
from services.ticketing.webhook_sender import WebhookSender
from shared.bus.client import Kafka
from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.directory.follower import Follower, revision_of
from shared.directory.model import Customer, Directory, Escalation, Person, Step, Webhook
from shared.http.client import Guard, Outbound
from shared.runtime.clock import MovableClock
from shared.runtime.quarantine import Held, Quarantine, items
from shared.wire.events import TicketV1
from shared.wire.ids import uuid7
from shared.wire.signing import Signer
from tests.support import build
from tests.support.phone import Phone
from tests.support.services import MIGRATIONS
from tests.support.wait import until

FIRST = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECOND = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@dataclass(slots=True)
class Office:
    """Ticketing's tables, a webhook_sender, and addresses that it knows."""

    database: Database
    follower: Follower
    clock: MovableClock
    ledger: Ledger
    phone: Phone
    ticket: TicketV1

    def know(self, *endpoints: Webhook) -> None:
        """List addresses in the directory."""
        person = Person("architect-1", "First Architect", "UTC", "en")
        known = Directory(
            company="Example",
            timezone="UTC",
            language="en",
            people={person.id: person},
            escalations={"standard": Escalation("standard", (Step("architect", 300),), person.id)},
            customers={
                name: Customer(name, name.title(), person.id, "standard", "UTC", "fi") for name in ("acme", "borealis")
            },
            webhooks=endpoints,
        )
        self.follower.current = revision_of(1, known)

    async def open(self, customer: str = "acme") -> TicketV1:
        """Open a ticket, which its addresses are to be told of."""
        now = self.clock.now()
        alert = build.alert(customer=customer, dedup_key=f"{customer}/mood-one/{uuid7()}")
        async with self.database.transaction() as tx:
            (number,) = await tickets.numbers(tx, 1)
            outcome = self.ledger.timed(None, open_ticket(alert, Opening(number, "architect-1"), now))
            await self.ledger.save(tx, [TicketChange(outcome, None)], now)
        return outcome.ticket

    async def add(self, path: str, count: int) -> None:
        """Have messages waiting for an address."""
        url, ticket = self.phone.url(path), self.ticket.id
        new = [Sending(uuid7(), url, "ticket.updated", "acme", ticket, "{}") for _ in range(count)]
        async with self.database.transaction() as tx:
            await webhooks.add(tx, new, self.clock.now())

    def got(self, path: str) -> Callable[[], Awaitable[int]]:
        """Count what arrived at an address."""

        async def count() -> int:
            return sum(one.path == path for one in self.phone.received)

        return count

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send."""
        signer, client, quarantine = Signer(["a-test-secret"]), Outbound(Guard("true")), Quarantine(self.database)
        webhook_sender = WebhookSender(self.database, self.follower, self.clock, signer, client, quarantine)
        running = asyncio.create_task(webhook_sender.run())
        try:
            yield
            assert not running.done()
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


@pytest.fixture
async def at(database_url: str, kafka: Kafka) -> AsyncIterator[Office]:
    database = Database(database_url, "ticketing", pool=6)
    await migrate(database, MIGRATIONS["ticketing"])
    follower, clock, phone = Follower(kafka, ("ticketing",)), MovableClock(), await Phone().start()
    ledger = Ledger(follower, clock, Signer(["a-test-secret"]), lambda: "https://fiilis.example.test")
    made = Office(database, follower, clock, ledger, phone, None)  # pyright: ignore[reportArgumentType]
    made.know()
    made.ticket = await made.open()
    yield made
    await phone.close()
    await database.close()


@contextlib.asynccontextmanager
async def silent(count: int) -> AsyncIterator[Sequence[str]]:
    """Addresses that take a connection and never answer."""
    held: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.read()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield [f"http://127.0.0.1:{port}/{n}" for n in range(count)]
    server.close()
    for writer in held:
        writer.close()


async def test_addresses_that_do_not_answer_delay_nobody(at: Office) -> None:
    """Each of them has more waiting than all calls at once; the others get theirs while they hang."""
    async with silent(3) as dead:
        at.know(*(Webhook(url) for url in dead), Webhook(at.phone.url("/well")))
        new = [Sending(uuid7(), url, "ticket.updated", "acme", at.ticket.id, "{}") for url in dead for _ in range(100)]
        async with at.database.transaction() as tx:
            await webhooks.add(tx, new, at.clock.now() - timedelta(hours=1))
        await at.add("/well", 40)
        async with at.running():
            await until(lambda: _all(at.got("/well"), 40), seconds=10)  # a call may take 20 s
            await at.add("/well", 1)
            await until(lambda: _all(at.got("/well"), 41), seconds=10)


async def test_a_sign_in_page_is_no_delivery(at: Office) -> None:
    """Where a proxy answers with a page for people, the address was told nothing: it is told again."""
    at.phone.answer, at.phone.body = lambda _: 200, b"<!DOCTYPE html><title>Sign in</title>"
    at.know(Webhook(at.phone.url("/behind-a-proxy")))
    await at.add("/behind-a-proxy", 1)

    async def answered() -> list[tuple[str, str]]:
        async with at.database.transaction() as tx:
            rows = await tx.fetch("SELECT state, detail FROM webhook_delivery WHERE attempts > 0 AND detail <> ''")
        return [(row[0], row[1]) for row in rows]

    async with at.running():
        assert await until(answered) == [("pending", "HTTP 200: a web page, such as to sign in")]
        at.phone.body = b""
        at.clock.move(timedelta(hours=1))
        await until(lambda: _all(at.got("/behind-a-proxy"), 2))


async def test_what_an_address_has_waiting_hides_no_other(at: Office) -> None:
    """However old and many its messages are."""
    at.know(Webhook(at.phone.url("/busy")), Webhook(at.phone.url("/well")))
    await at.add("/busy", 12_000)
    at.clock.move(timedelta(hours=1))
    await at.add("/well", 5)
    async with at.database.transaction() as tx:
        claimed = await webhooks.claim(tx, at.clock.now(), timedelta(seconds=30), limit=8, per_address=4, busy={})
    assert sorted(one.url for one in claimed) == [at.phone.url("/busy")] * 4 + [at.phone.url("/well")] * 4


async def test_an_address_has_a_few_calls_at_a_time(at: Office) -> None:
    """What it has under way counts, and what is claimed is not claimed again until its lease is over."""
    await at.add("/one", 10)
    now, lease = at.clock.now(), timedelta(seconds=30)
    async with at.database.transaction() as tx:
        first = await webhooks.claim(tx, now, lease, limit=9, per_address=4, busy={at.phone.url("/one"): 1})
        second = await webhooks.claim(tx, now, lease, limit=9, per_address=9, busy={})
        none = await webhooks.claim(tx, now, lease, limit=9, per_address=4, busy={at.phone.url("/one"): 4})
        later = await webhooks.claim(tx, now + 2 * lease, lease, limit=20, per_address=20, busy={})
    assert (len(first), len(second), len(none), len(later)) == (3, 7, 0, 10)
    assert not {one.id for one in first} & {one.id for one in second}


async def test_two_entries_of_one_address_have_each_their_secret(at: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_HOOK", FIRST)
    monkeypatch.setenv("SECOND_HOOK", SECOND)
    url = at.phone.url("/tool")
    at.know(Webhook(url, "FIRST_HOOK", customers=("acme",)), Webhook(url, "SECOND_HOOK", customers=("borealis",)))
    tickets_of = {(await at.open("acme")).id: FIRST, (await at.open("borealis")).id: SECOND}
    async with at.running():
        await until(lambda: _all(at.got("/tool"), 2))
    assert {one.data["customer"] for one in at.phone.received} == {"acme", "borealis"}
    for one in at.phone.received:
        one.verify(next(secret for id_, secret in tickets_of.items() if str(id_) == one.data["id"]))


async def test_a_secret_that_got_another_name_signs_what_waits(at: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECOND_HOOK", SECOND)
    at.know(Webhook(at.phone.url("/tool"), "FIRST_HOOK"))
    await at.open()
    at.know(Webhook(at.phone.url("/tool"), "SECOND_HOOK"))
    async with at.running():
        await until(lambda: _all(at.got("/tool"), 1))
    at.phone.received[0].verify(SECOND)


async def _all(got: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await got() >= wanted


# ---- one bad value stops one thing


@pytest.mark.parametrize("wait", ["9" * 400, "1789000000", "1789000000000", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_whatever_an_address_asks_to_wait_others_are_told(at: Office, wait: str) -> None:
    """It is believed up to an hour."""
    at.know(Webhook(at.phone.url("/busy")), Webhook(at.phone.url("/well")))
    at.phone.headers = {"retry-after": wait}
    at.phone.answer = lambda one: 429 if one.path == "/busy" else 204
    async with at.running():
        await at.open()
        await until(lambda: _all(at.got("/well"), 1))
        await until(lambda: _stored(at, "/busy", "status = 429"))
    async with at.database.transaction() as tx:
        due_at = await tx.fetchval("SELECT due_at FROM webhook_delivery WHERE url = $1", at.phone.url("/busy"))
    assert due_at - at.clock.now() <= timedelta(hours=1)


async def test_an_address_that_leads_to_nowhere_ends_nothing(at: Office) -> None:
    """An answer whose `location` nobody can read came out of the client as an error of its own kind."""
    at.know(Webhook(at.phone.url("/odd")), Webhook(at.phone.url("/well")))
    at.phone.headers = {"location": "mailto:xhttp:// #"}
    at.phone.answer = lambda one: 301 if one.path == "/odd" else 204
    async with at.running():
        await at.open()
        await until(lambda: _stored(at, "/odd", "detail LIKE 'InvalidURL%'"))
        await until(lambda: _all(at.got("/well"), 1))


async def test_a_result_that_cannot_be_stored_is_set_aside(at: Office) -> None:
    """Its message alone: it is not sent again and again, and the others of the address are sent."""
    at.know(Webhook(at.phone.url("/tool")))
    at.phone.answer = lambda one: 418 if one.data["customer"] == "borealis" else 204
    async with at.database.transaction() as tx:
        await tx.execute("ALTER TABLE webhook_delivery ADD CONSTRAINT no_teapots CHECK (status <> 418)")
    async with at.running():
        await at.open("borealis")
        await until(lambda: _held(at))
        await at.open("acme")
        await until(lambda: _stored(at, "/tool", "state = 'delivered'"))
        at.clock.move(timedelta(minutes=5))
        await at.open("acme")
        await until(lambda: _all(at.got("/tool"), 3))
    assert await at.got("/tool")() == 3
    assert len(await _held(at)) == 1


async def _stored(at: Office, path: str, what: str) -> bool:
    async with at.database.transaction() as tx:
        return bool(await tx.fetch(f"SELECT FROM webhook_delivery WHERE url = $1 AND {what}", at.phone.url(path)))


async def _held(at: Office) -> list[Held]:
    async with at.database.transaction() as tx:
        return [one for one in await items(tx) if one.queue == "webhooks"]
