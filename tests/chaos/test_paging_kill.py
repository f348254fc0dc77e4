"""A notify process is killed at every step of sending: no page is lost, none comes more than once too often."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from msgspec.structs import replace

from shared.bus.client import Kafka
from shared.bus.provisioning import ensure_topics
from shared.directory.follower import publish
from shared.directory.model import Step
from shared.runtime.clock import SystemClock
from shared.wire.events import TicketV1
from shared.wire.ids import uuid7
from shared.wire.topics import TICKETS, TOPICS
from tests.support import build
from tests.support.house import House, company
from tests.support.phone import Phone, Received
from tests.support.processes import ServiceProcess
from tests.support.wait import until

LOCK = 4711
"""Holding it stops a process at the statement that the test chose."""

BLOCK = f"""
CREATE FUNCTION notify.block() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock({LOCK}); RETURN NEW; END $$
"""
POINTS = {
    "before the intent": "BEFORE INSERT ON notify.attempt",
    "in the call": None,
    "after the call, before the result": "BEFORE UPDATE ON notify.attempt",
    "the result stored, not committed": "BEFORE UPDATE ON notify.delivery FOR EACH ROW WHEN (NEW.state = 'delivered')",
}


@dataclass(slots=True)
class Night:
    """One company, its phone, and notify processes that die."""

    kafka: Kafka
    sql: Any
    phone: Phone
    house: House
    environment: dict[str, str]
    folder: Path

    async def process(self, name: str) -> ServiceProcess:
        logs = self.folder / name
        logs.mkdir()
        return await ServiceProcess("notify", self.environment, logs).start()

    async def open_ticket(self, customer: str = "acme") -> TicketV1:
        now = SystemClock().now()
        ticket = build.ticket(id=uuid7(), customer=customer, opened_at=now, dedup_key=f"{customer}/mood-one/{uuid7()}")
        await self.house.tell(TICKETS, "ticket.opened", ticket)
        return ticket

    def heard(self, ticket: TicketV1, path: str = "/architect-1") -> list[Received]:
        return [one for one in self.phone.received if one.path == path and one.data["ticket"] == str(ticket.id)]

    async def stands(self) -> int | None:
        """Return the id of the process whose session waits at the step that the test chose."""
        return await self.sql.fetchval(
            "SELECT substring(application_name FROM 'notify ([0-9]+)@')::int FROM pg_locks JOIN pg_stat_activity "
            "USING (pid) WHERE locktype = 'advisory' AND objid = $1 AND NOT granted",
            LOCK,
        )

    def calls(self, processes: list[ServiceProcess]) -> int | None:
        """Return the id of the process that is in the middle of a call: the one with a connection to the phone."""
        for process in processes:
            connections = psutil.Process(process.pid).net_connections("tcp")
            if any(c.raddr and c.raddr.port == self.phone.port and c.status == "ESTABLISHED" for c in connections):
                return process.pid
        return None


@pytest.fixture
async def night(kafka: Kafka, database_url: str, tmp_path: Path) -> AsyncIterator[Night]:
    phone = await Phone().start()
    await ensure_topics(kafka, TOPICS)
    small = company(phone)
    steps = (Step("architect", 60), Step("deputy", 2))
    escalations = {"standard": replace(small.escalations["standard"], steps=steps)}
    customers = {f"c{n}": replace(small.customers["acme"], id=f"c{n}") for n in range(16)}
    await publish(kafka, replace(small, escalations=escalations, customers={**small.customers, **customers}))
    sql = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    environment = {
        "FIILIS_KAFKA": kafka.bootstrap,
        "FIILIS_TOPIC_PREFIX": kafka.prefix,
        "FIILIS_DATABASE_URL": database_url,
        "FIILIS_SECRET": "a-secret-of-a-town-for-tests-only",
        "FIILIS_ALLOW_PRIVATE_TARGETS": "true",
        "FIILIS_NOTIFY_CALL_SECONDS": "1",
    }
    house = House(kafka, database_url, None, phone, small)  # pyright: ignore[reportArgumentType]
    house.clock = SystemClock()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield Night(kafka, sql, phone, house, environment, tmp_path)
    finally:
        await sql.close()
        await phone.close()


@contextlib.asynccontextmanager
async def stopped_at(night: Night, trigger: str | None) -> AsyncIterator[None]:
    """Let whoever comes to a step wait there."""
    if trigger is None:
        night.phone.delay = 30
        yield
        night.phone.delay = 0
        return
    each = "" if "FOR EACH" in trigger else "FOR EACH ROW"
    await night.sql.execute("SELECT pg_advisory_lock($1)", LOCK)
    await night.sql.execute(f"CREATE TRIGGER block {trigger} {each} EXECUTE FUNCTION notify.block()")
    try:
        yield
    finally:
        table = "attempt" if "attempt" in trigger else "delivery"
        await night.sql.execute("SELECT pg_advisory_unlock($1)", LOCK)
        await night.sql.execute(f"DROP TRIGGER block ON notify.{table}")


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("two", [False, True], ids=["one process", "two processes"])
async def test_killed_at_every_step_of_sending(night: Night, two: bool) -> None:
    """Never no delivery, never more than one too many, and always under the same key."""
    processes = [await night.process(name) for name in (("one", "two") if two else ("one",))]
    try:
        await night.sql.execute(BLOCK)
        for point, trigger in POINTS.items():
            begun = len(night.phone.received)
            async with stopped_at(night, trigger):
                ticket = await night.open_ticket()

                async def there(begun: int = begun, trigger: str | None = trigger) -> int | None:
                    if trigger is not None:
                        return await night.stands()
                    return night.calls(processes) if len(night.phone.received) > begun else None

                # The one that stands there dies; the other one, if there is one, goes on.
                owner = await until(there, seconds=30, every=0.01)
                victim = next(process for process in processes if process.pid == owner)
                await victim.kill()
            if not two:
                await victim.start()

            async def delivered(ticket: TicketV1 = ticket) -> bool:
                return await night.sql.fetchval("SELECT state FROM notify.page WHERE ticket = $1", ticket.id) == "sent"

            await until(delivered, seconds=30)
            heard = night.heard(ticket)
            assert len(heard) == (1 if point == "before the intent" else 2), point
            assert len({one.headers["webhook-id"] for one in heard}) == 1, point
            results = await night.sql.fetch(
                "SELECT result FROM notify.attempt JOIN notify.page ON page.id = attempt.page WHERE ticket = $1",
                ticket.id,
            )
            assert [row["result"] for row in results].count("delivered") == 1, point
            assert len(results) == len(heard), "each call had its intent"
            if two:
                await victim.start()
        assert not [one for one in night.phone.received if one.path != "/architect-1"]
    finally:
        for process in processes:
            if process.alive:
                await process.kill()


@pytest.mark.heavy
@pytest.mark.timeout(200)
async def test_one_of_two_dies(night: Night) -> None:
    """Pages that run go on within three seconds; what only the dead one would have heard of, within thirty."""
    processes = [await night.process("one"), await night.process("two")]
    try:
        running = await night.open_ticket()
        await until(lambda: _sent(night, running, "/architect-1"))
        await night.sql.execute(
            "UPDATE notify.page SET due_at = now() + interval '1 second', "
            "body = jsonb_set(body::jsonb, '{due_at}', to_jsonb(now() + interval '1 second'))::text"
        )
        await processes[0].kill()
        killed = time.monotonic()
        tickets = [await night.open_ticket(f"c{n}") for n in range(16)]
        await until(lambda: _sent(night, running, "/deputy-1"), seconds=10)
        assert time.monotonic() - killed < 1 + 3, "an active page went on late"
        await until(lambda: _all_sent(night, tickets), seconds=40)
        assert time.monotonic() - killed < 30, "the share of the dead one was taken over late"
        assert all(len(night.heard(ticket)) == 1 for ticket in tickets)
    finally:
        for process in processes:
            if process.alive:
                await process.kill()


async def _sent(night: Night, ticket: TicketV1, path: str) -> bool:
    return bool(night.heard(ticket, path))


async def _all_sent(night: Night, tickets: list[TicketV1]) -> bool:
    return all(night.heard(ticket) for ticket in tickets)


@pytest.mark.heavy
@pytest.mark.timeout(200)
async def test_a_process_that_is_told_to_stop_in_a_call(night: Night) -> None:
    """An ordered end in the middle of a call is no worse than a kill."""
    process = await night.process("one")
    try:
        night.phone.delay = 0.7
        ticket = await night.open_ticket()
        await until(lambda: _sent(night, ticket, "/architect-1"), every=0.01)
        assert await process.stop() == 0
        night.phone.delay = 0
        await process.start()

        async def delivered() -> bool:
            return await night.sql.fetchval("SELECT state FROM notify.page WHERE ticket = $1", ticket.id) == "sent"

        await until(delivered, seconds=30)
        assert 1 <= len(night.heard(ticket)) <= 2
        assert len({one.headers["webhook-id"] for one in night.heard(ticket)}) == 1
    finally:
        await asyncio.shield(process.kill())
