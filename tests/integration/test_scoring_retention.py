"""What is older than the directory keeps goes, some at a time, and no window's figure changes by it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.scoring import retention
from services.scoring.consumer import FeedbackHandler
from services.scoring.domain.counting import hour_of, window_start
from services.scoring.domain.customer import CustomerState
from services.scoring.erasing import Erasing
from services.scoring.store import counting, reads
from shared.bus.client import Kafka
from shared.bus.handler import Record
from shared.database.migrate import migrate
from shared.database.pool import Connection, Database
from shared.directory.follower import Follower, revision_of
from shared.directory.model import Customer, Directory, Escalation, MoodAtMost, NpsBelow, NpsDrop, Person, Rule, Step
from shared.runtime.clock import MovableClock
from shared.wire.events import FeedbackReceivedV1
from tests.support import build
from tests.support.services import MIGRATIONS

DAY = 86400
_offsets = iter(range(1_000_000))


@dataclass(slots=True)
class Office:
    """Scoring's tables and the owner of partition 0."""

    database: Database
    clock: MovableClock
    follower: Follower
    handler: FeedbackHandler

    def know(self, *rules: Rule, retention: int) -> None:
        person = Person("architect-1", "First Architect", "UTC", "en")
        self.follower.current = revision_of(
            1,
            Directory(
                company="Example",
                timezone="UTC",
                language="en",
                people={person.id: person},
                escalations={"standard": Escalation("standard", (Step("architect", 300),), person.id)},
                customers={
                    name: Customer(name, name, person.id, "standard", "UTC", "fi") for name in ("acme", "borealis")
                },
                rules=rules,
                retention=retention,
            ),
        )

    async def tell(self, *said: FeedbackReceivedV1) -> None:
        records: list[Any] = [Record(one, "feedback.received", 0, next(_offsets)) for one in said]
        async with self.database.transaction() as tx:
            await self.handler.handle(tx, records)

    async def sweep(self, times: int = 1) -> None:
        for _ in range(times):
            async with self.database.transaction() as tx:
                after = await self.handler.sweep(tx, [0])
            if after is not None:
                after()

    async def oldest(self) -> datetime | None:
        async with self.database.transaction() as tx:
            return await tx.fetchval("SELECT min(occurred_at) FROM answer")

    async def count(self, table: str = "answer") -> int:
        async with self.database.transaction() as tx:
            return await tx.fetchval(f"SELECT count(*) FROM {table}")

    async def views(self, customer: str) -> list[Any]:
        """Return what the windows in memory hold, moved to now."""
        async with self.database.transaction() as tx:
            states = await self.handler.states.of(tx, {customer: 0}, self.clock.now())
        return _views(states[customer])

    async def afresh(self, customer: str) -> list[Any]:
        """Return the same of an owner who has just read the buckets."""
        other = _handler(self.follower, self.clock)
        async with self.database.transaction() as tx:
            return _views((await other.states.of(tx, {customer: 0}, self.clock.now()))[customer])

    async def recounted(self, tx: Connection) -> bool:
        """Tell whether counting afresh changes anything."""
        return any([await counting.recount(tx, number) for number in await counting.every_customer(tx)])


def _views(state: CustomerState) -> list[Any]:
    return [
        (length, window.start, sorted((str(key), view.all) for key, view in window._views.items() if any(view.all)))
        for windows in (state.hours, state.before)
        for length, window in sorted(windows.items())
    ]


def _handler(follower: Follower, clock: MovableClock) -> FeedbackHandler:
    erasing = Erasing(lambda respondent: [f"digest of {respondent}"], keeps_counts=True)
    return FeedbackHandler(follower, clock, erasing, remembered=100, sweep_seconds=1)


@pytest.fixture
async def at(database_url: str, kafka: Kafka) -> AsyncIterator[Office]:
    database = Database(database_url, "scoring", pool=3)
    await migrate(database, MIGRATIONS["scoring"])
    follower, clock = Follower(kafka, ("scoring",)), MovableClock()
    made = Office(database, clock, follower, _handler(follower, clock))
    yield made
    await database.close()


def _answers(clock: MovableClock, days: Sequence[float], *, seed: int = 1) -> list[FeedbackReceivedV1]:
    chance, now = random.Random(seed), clock.now()
    return [
        build.answer(
            chance.randrange(11),
            customer=chance.choice(("acme", "borealis")),
            respondent=chance.choice(("r-1", "r-2", "r-3", None)),
            occurred_at=now - timedelta(days=day),
            received_at=now,
            backfill=True,
        )
        for day in days
    ]


LOW = Rule("nps-low", NpsBelow(0, window=30 * DAY, min_responses=10), "high")
DROP = Rule("nps-drop", NpsDrop(20, window=30 * DAY, min_responses=10), "high")


async def test_what_is_too_old_goes_with_all_that_was_counted_of_it(at: Office) -> None:
    at.know(LOW, retention=90 * DAY)
    chance = random.Random(5)
    await at.tell(*_answers(at.clock, [chance.uniform(0, 200) for _ in range(400)]))
    before = {customer: await at.views(customer) for customer in ("acme", "borealis")}
    async with at.database.transaction() as tx:
        await tx.execute(
            "INSERT INTO daily SELECT number, day, '{}' FROM customer, generate_series($1::int, $2::int) AS day",
            int(at.clock.now().timestamp()) // DAY - 200,
            int(at.clock.now().timestamp()) // DAY - 1,
        )
    await at.sweep()
    first = window_start(at.clock.now(), 90 * DAY)
    oldest = await at.oldest()
    assert oldest is not None
    assert hour_of(oldest) >= first
    async with at.database.transaction() as tx:
        assert await tx.fetchval("SELECT min(hour) FROM bucket") >= first
        assert await tx.fetchval("SELECT min(hour) FROM replaced") >= first
        assert await tx.fetchval("SELECT min(day) FROM daily") == first // 24
        assert not await at.recounted(tx)
    for customer, views in before.items():
        assert await at.views(customer) == views == await at.afresh(customer)


async def test_a_window_that_needs_more_than_is_kept_gets_it(at: Office) -> None:
    """Twice 30 days for a rule that compares them, though only a week is to be kept."""
    at.know(DROP, retention=7 * DAY)
    await at.tell(*_answers(at.clock, [day / 2 for day in range(200)]))
    before = [await at.views(customer) for customer in ("acme", "borealis")]
    await at.sweep()
    assert [await at.views(customer) for customer in ("acme", "borealis")] == before
    oldest = await at.oldest()
    assert oldest is not None
    assert timedelta(days=59) < at.clock.now() - oldest < timedelta(days=60, hours=1)


async def test_much_goes_some_at_a_time(at: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is what is kept after each step, and each step ends."""
    monkeypatch.setattr(retention, "_OLD", 50)
    at.know(LOW, retention=90 * DAY)
    await at.tell(*_answers(at.clock, [100 + number / 24 for number in range(500)], seed=3))
    left = await at.count()
    for _ in range(30):
        await at.sweep()
        async with at.database.transaction() as tx:
            assert not await at.recounted(tx)
        after = await at.count()
        assert left - after <= 60
        left = after
    assert (left, await at.count("bucket"), await at.count("replaced")) == (0, 0, 0)


async def test_a_customer_that_was_quiet_for_long_has_its_figures_right(at: Office) -> None:
    """Its windows were not moved for weeks: what they would take away when they move is no longer counted anywhere."""
    at.know(LOW, retention=30 * DAY)
    await at.tell(*_answers(at.clock, [day / 4 for day in range(100)]))
    for _ in range(4):
        at.clock.move(timedelta(days=9))
        at.handler.retention.old_at = at.clock.now()
        async with at.database.transaction() as tx:
            await at.handler.retention.delete_old(tx, [0], at.clock.now())
        for customer in ("acme", "borealis"):
            assert await at.views(customer) == await at.afresh(customer)


async def test_alerts_go_once_they_have_been_over_for_so_long(at: Office) -> None:
    """What an alert shows are people's words: kept as long after its end as answers after they were given."""
    at.know(Rule("mood-one", MoodAtMost(1), "critical"), retention=40 * DAY)
    for _ in range(2):
        now = at.clock.now()
        await at.tell(build.answer(1, kind="mood", customer="acme", occurred_at=now, received_at=now))
        at.clock.move(timedelta(days=25))
        await at.sweep(2)
    assert await at.count("alert WHERE state = 'cleared'") == 2
    async with at.database.transaction() as tx:
        alert = await reads.alert(tx, UUID(int=(await tx.fetchval("SELECT id FROM alert LIMIT 1")).int))
    assert alert is not None
    assert alert.opened is not None
    assert (alert.summary, alert.opened.summary) == ("Its time is over", "Mood 1 of 4 at support")
    at.clock.move(timedelta(days=20))
    await at.sweep()
    assert await at.count("alert") == 1


async def test_only_the_owner_deletes(at: Office) -> None:
    at.know(LOW, retention=30 * DAY)
    await at.tell(*_answers(at.clock, [100, 101]))
    async with at.database.transaction() as tx:
        await at.handler.sweep(tx, [1, 2])
    assert await at.count() == 2
