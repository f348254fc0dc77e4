"""Ticketing: alerts a second into tickets, from alert to ticket, and 1,000 tickets into a desk with a limit of calls.

Run: python -m bench.ticketing
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from bench.room import Room
from bench.servers import Place, directory, place
from services.ticketing.main import build
from shared.bus.client import Kafka, Outgoing, Producer, cloud_event
from shared.directory.model import Desk, severity_rank
from shared.rules.document import built_in_rules
from shared.runtime.memory import tune_memory
from shared.runtime.settings import Settings
from shared.wire.events import AlertScoresV1, AlertV1, EvidenceV1
from shared.wire.ids import uuid7
from shared.wire.topics import ALERTS
from tests.support.desks import Call, Reply, Trouble
from tests.support.desks.zammad import FakeZammad

SHORT = bool(os.environ.get("BENCH_SHORT"))
ALERTS_IN_ALL, PROBLEMS = (1_000, 200) if SHORT else (10_000, 2_000)
PACED, PER_SECOND = (100, 200) if SHORT else (2_000, 400)
TICKETS, CUSTOMERS = (20, 4) if SHORT else (1_000, 10)
LIMIT = 100
"""Calls a minute that the desk allows."""
MISSED, CRITICAL = (50, 5) if SHORT else (5_000, 10)
"""Tickets while the desk was down, and the critical ones of them."""
WATCHED = 2.0 if SHORT else 90.0
"""Seconds of the desk with a limit."""


def alert(problem: int, customer: int, chance: random.Random) -> AlertV1:
    """Return a breach."""
    now = datetime.now(UTC)
    said = EvidenceV1(
        id=uuid7(),
        kind="mood",
        score=1,
        occurred_at=now,
        trust="verified",
        comment="It took too long to get an answer",
        respondent=f"r-{chance.randrange(10_000)}",
        channel="email",
        language="en",
    )
    return AlertV1(
        id=uuid7(),
        version=1,
        customer=f"c{customer}",
        touchpoint="support",
        rule="mood-one",
        kind="mood_at_most",
        severity="critical",
        state="open",
        opened_at=now,
        cleared_at=None,
        caused_at=now,
        summary="Mood 1 of 4 at support",
        reason={"score": 1, "threshold": 1},
        scores=AlertScoresV1(mood=2.1, mood_responses=40, mood_goal=3.2),
        evidence=[said],
        dedup_key=f"c{customer}/mood-one/{problem}",
        trust="verified",
    )


def _event(one: AlertV1) -> Outgoing:
    return cloud_event(ALERTS, "alert.opened", key=one.customer, id=str(one.id), at=one.opened_at, message=one)


async def _send(kafka: Kafka, alerts: Sequence[AlertV1]) -> None:
    producer = Producer(kafka)
    await producer.send_all([_event(one) for one in alerts])
    await producer.close()


def office_at(at: Place, prefix: str, customers: int, desk: Desk | None = None) -> Room:
    """Return ticketing in this process."""
    settings = Settings(
        kafka=at.kafka,
        database_url=at.database_url,
        topic_prefix=prefix,
        secret="a-secret-of-the-benchmark-of-32-letters",
        allow_private_targets="true",
    )
    known = directory(customers, tuple(built_in_rules()))
    if desk is not None:
        named = {id_: replace(customer, desk="main") for id_, customer in known.customers.items()}
        known = replace(known, desks={"main": desk}, customers=named)
    return Room("ticketing", settings, known, build)


async def storm(at: Place) -> None:
    """Print how fast a preloaded storm of alerts becomes tickets."""
    chance, office = random.Random(7), office_at(at, "storm.", PROBLEMS // 10)
    await office.open()
    await _send(office.kafka, [alert(n % PROBLEMS, n % PROBLEMS // 10, chance) for n in range(ALERTS_IN_ALL)])
    begun = time.perf_counter()
    office.start()
    while await office.ask("SELECT coalesce(sum(next), 0)::bigint FROM consumer_offset") < ALERTS_IN_ALL:
        await asyncio.sleep(0.02)
    seconds = time.perf_counter() - begun
    opened = await office.ask("SELECT count(*) FROM ticket")
    assert opened == PROBLEMS, opened
    print(
        f"  {ALERTS_IN_ALL:,} alerts over {PROBLEMS:,} problems: {ALERTS_IN_ALL / seconds:,.0f} alerts/s, "
        f"{opened / seconds:,.0f} new tickets/s"
    )
    await office.close()


async def paced(at: Place) -> None:
    """Print the time from an alert to its ticket while alerts flow."""
    chance, office = random.Random(8), office_at(at, "paced.", PACED // 10)
    await office.open()
    office.start()
    producer = Producer(office.kafka)
    await asyncio.sleep(2)
    begun = time.perf_counter()
    for n in range(PACED):
        await asyncio.sleep(max(0.0, begun + n / PER_SECOND - time.perf_counter()))
        await producer.send_all([_event(alert(n, n // 10, chance))])
    while await office.ask("SELECT count(*) FROM ticket") < PACED:
        await asyncio.sleep(0.02)
    # The alert was opened when it was caused; the ticket, when its transaction began to decide.
    lag = "SELECT percentile_cont({share}) WITHIN GROUP (ORDER BY extract(epoch FROM opened_at - {alert})) FROM ticket"
    caused = "(body::jsonb ->> 'caused_at')::timestamptz"
    p50, p99 = [1000 * float(await office.ask(lag.format(share=share, alert=caused))) for share in (0.5, 0.99)]
    print(f"  alert to ticket at {PER_SECOND} alerts/s: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    await producer.close()
    await office.close()


class Limited(FakeZammad):
    """A desk that counts, and says 429 beyond its limit in any minute."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.delay = 0.2
        self.refused = 0
        self._limit = limit
        self._times: list[float] = []

    def answer(self, call: Call) -> Reply:
        """Do what a call wants, within the limit."""
        now = time.monotonic()
        self._times = [at for at in self._times if now - at < 60]
        if len(self._times) >= self._limit:
            self.refused += 1
            return Reply(429, {"error": "too many requests"}, {"retry-after": "10"})
        self._times.append(now)
        return super().answer(call)


async def desk(at: Place, limit: int, seconds: float) -> None:
    """Print how tickets get into a desk that answers in 200 ms."""
    async with Limited(limit) as fake:
        os.environ.update(fake.environ)
        entry = fake.directory_entry(calls_per_minute=limit, poll=60)
        chance, office = random.Random(9), office_at(at, f"desk{limit}.", CUSTOMERS, Desk(**entry))
        await office.open()
        await _send(office.kafka, [alert(n, n % CUSTOMERS, chance) for n in range(TICKETS)])
        office.start()
        while await office.ask("SELECT count(*) FROM ticket") < TICKETS:
            await asyncio.sleep(0.05)
        begun = time.perf_counter()
        there = 0
        while there < TICKETS and time.perf_counter() - begun < seconds:
            await asyncio.sleep(0.1)
            there = await office.ask("SELECT count(*) FROM desk_ticket WHERE reference IS NOT NULL")
        took = time.perf_counter() - begun
        each = Counter(row["customer"] for row in await _customers(office))
        print(
            f"  {TICKETS:,} tickets of {CUSTOMERS} customers into a desk (200 ms a call, {limit:,} calls a minute): "
            f"{there:,} in {took:.0f} s, {fake.refused} refused (429), per customer "
            f"{min(each[f'c{n}'] for n in range(CUSTOMERS))} to {max(each.values(), default=0)}"
        )
        assert len(fake.tickets) <= TICKETS
        await office.close()


async def back(at: Place, limit: int, seconds: float) -> None:
    """Print how a desk that was down is caught up with: within its budget, what is critical first."""
    async with Limited(limit) as fake:
        os.environ.update(fake.environ)
        fake.trouble = Trouble("before")
        entry = fake.directory_entry(calls_per_minute=limit, poll=60)
        chance, office = random.Random(9), office_at(at, f"back{limit}.", CUSTOMERS, Desk(**entry))
        await office.open()
        alerts = [
            replace(alert(n, n % CUSTOMERS, chance), severity="critical" if n % (MISSED // CRITICAL) == 0 else "low")
            for n in range(MISSED)
        ]
        await _send(office.kafka, alerts)
        office.start()
        while await office.ask("SELECT count(*) FROM ticket") < MISSED:
            await asyncio.sleep(0.05)
        while await office.ask("SELECT count(*) FROM desk WHERE closed_until > now()") == 0:
            await asyncio.sleep(0.05)
        fake.trouble = None
        begun = time.perf_counter()
        rank = severity_rank("critical")
        critical = f"SELECT count(*) FROM desk_ticket WHERE reference IS NOT NULL AND severity = {rank}"
        while await office.ask(critical) < CRITICAL and time.perf_counter() - begun < seconds:
            await asyncio.sleep(0.05)
        first = time.perf_counter() - begun
        others = len(fake.tickets) - CRITICAL
        await asyncio.sleep(max(0.0, WATCHED - first))
        print(
            f"  a desk that was down meanwhile ({limit:,} calls a minute): {CRITICAL} critical of {MISSED:,} tickets "
            f"after {first:.0f} s with {others} others, {len(fake.tickets)} in {time.perf_counter() - begun:.0f} s, "
            f"{fake.refused} refused (429)"
        )
        await office.close()


async def _customers(office: Room) -> list[Any]:
    async with office.admin.transaction() as tx:
        return await tx.fetch("SELECT customer FROM desk_ticket WHERE reference IS NOT NULL")


async def run() -> None:
    """Print all of it."""
    print("ticketing, one process:")
    async with place() as at:
        await storm(at)
        await paced(at)
        await desk(at, LIMIT, WATCHED)
        await desk(at, 60 * LIMIT, 300)
        await back(at, LIMIT, 300)


def main() -> None:
    """Run on fresh servers."""
    tune_memory()
    asyncio.run(run())


if __name__ == "__main__":
    main()
