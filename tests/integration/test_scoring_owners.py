"""Owning a partition is not owning a customer: whoever else counts for one, no answer is missing from what is known."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from services.scoring.consumer import FeedbackHandler
from services.scoring.domain.customer import CustomerState, Memory
from services.scoring.erasing import Erasing
from services.scoring.store import alerts, answers, counting
from shared.bus.client import Kafka, Outgoing, Producer, event_headers
from shared.bus.consume import Consumer
from shared.bus.handler import Record
from shared.bus.provisioning import ensure_topics
from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.directory.follower import Follower, revision_of
from shared.directory.model import NpsBelow, NpsDrop
from shared.errors import Transient
from shared.rules.sequence import NoFeedbackFor, Shift
from shared.wire.events import FeedbackReceivedV1, RespondentErasedV1
from shared.wire.ids import uuid7
from shared.wire.topics import ERASED, FEEDBACK
from tests.support import build
from tests.support.services import MIGRATIONS
from tests.support.wait import until

DAY = 86400
RULES = (
    build.rule(Shift(), name="shift", severity="high"),
    build.rule(NoFeedbackFor("auto"), name="silent", severity="low"),
    build.rule(
        NpsBelow(0, 7 * DAY, min_responses=10, certainty="simple"), name="nps-low", severity="high", per_touchpoint=True
    ),
    build.rule(NpsDrop(20, 2 * DAY, min_responses=5), name="nps-drop", severity="medium"),
    build.rule(NpsBelow(0, 900, min_responses=3, certainty="simple"), name="burst", severity="medium"),
)
OURS, THEIRS = 3, 9
"""Partitions that the answers of one customer come by: the one of 8, and the one of 12."""
_offsets = iter(range(1_000_000))


class Still:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at = build.NOW

    def now(self) -> datetime:
        return self.at


@dataclass(slots=True)
class Owner:
    """Who counts what comes by one partition, with a memory of its own; as the consume loop does it."""

    database: Database
    handler: FeedbackHandler
    partition: int
    again: int = 0
    """How many times something was done again, because somebody else had gone on."""

    async def tell(self, *said: FeedbackReceivedV1 | RespondentErasedV1) -> None:
        records: list[Any] = [
            Record(
                m, ERASED if isinstance(m, RespondentErasedV1) else "feedback.received", self.partition, next(_offsets)
            )
            for m in said
        ]
        while not await self._try(lambda tx: self.handler.handle(tx, records)):
            self.again += 1

    async def sweep(self) -> None:
        while not await self._try(lambda tx: self.handler.sweep(tx, [self.partition])):
            self.again += 1

    async def _try(self, work: Any) -> bool:
        try:
            async with self.database.transaction() as tx:
                after = await work(tx)
        except Transient:
            self.handler.forget([self.partition])
            return False
        if after is not None:
            after()
        return True

    async def state(self, customer: str = "acme") -> CustomerState:
        """Return what it remembers, moved to now."""
        async with self.database.transaction() as tx:
            found = await self.handler.states.of(tx, {customer: self.partition}, self.handler._clock.now())
        return found[customer]


@dataclass(slots=True)
class Place:
    """A database, and who counts into it."""

    database: Database
    follower: Follower
    clock: Still = field(default_factory=Still)

    def owner(self, partition: int, *, keeps_counts: bool = False) -> Owner:
        erasing = Erasing(lambda respondent: [f"digest of {respondent}"], keeps_counts=keeps_counts)
        handler = FeedbackHandler(self.follower, self.clock, erasing, remembered=100, sweep_seconds=1)
        return Owner(self.database, handler, partition)

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        async with self.database.transaction() as tx:
            return [tuple(row) for row in await tx.fetch(statement, *arguments)]

    async def memory(self, customer: str = "acme") -> Memory:
        (row,) = await self.fetch(
            "SELECT body FROM memory JOIN customer ON customer.number = memory.customer WHERE name = $1", customer
        )
        return msgspec.msgpack.decode(row[0], type=Memory)

    async def alerts(self) -> list[Any]:
        """Return what others were told of each alert, but the ids."""
        rows = await self.fetch("SELECT body, due_at, pending FROM alert ORDER BY opened_at, dedup_key, version")
        return [(_but_ids(msgspec.json.decode(body)), *of) for body, *of in rows]


def _but_ids(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "id"}


@pytest.fixture
async def places(database_url: str, kafka: Kafka) -> AsyncIterator[list[Place]]:
    """Two of them: one for two owners, and one for the only owner that they are compared with."""
    customers = {name: build.customer(name) for name in ("acme", "borealis", "cetus", "draco")}
    async with AsyncExitStack() as stack:
        made: list[Place] = []
        for schema in ("scoring", "alone"):
            database = Database(database_url, schema, pool=6)
            stack.push_async_callback(database.close)
            await migrate(database, MIGRATIONS["scoring"])
            follower = Follower(kafka, ("scoring",))
            follower.current = revision_of(1, build.directory(customers=customers, rules=RULES))
            made.append(Place(database, follower))
        yield made


@pytest.fixture
def at(places: list[Place]) -> Place:
    return places[0]


def _life(*, days: int, seed: int = 1) -> list[list[FeedbackReceivedV1]]:
    """Return batches of answers over some days: good at first, bad in the last third, and some late."""
    chance = random.Random(seed)
    batches: list[list[FeedbackReceivedV1]] = []
    for hour in range(0, days * 24, 5):
        now = build.NOW + timedelta(hours=hour, minutes=chance.randrange(50))
        scores = (0, 3, 6, 8) if hour > days * 16 else (9, 10, 10, 8, 7)
        batches.append(
            [
                build.answer(
                    chance.choice(scores),
                    occurred_at=now - timedelta(minutes=chance.choice((0, 0, 1, 90))),
                    received_at=now,
                    respondent=chance.choice((None, f"r-{chance.randrange(30)}")),
                    touchpoint=chance.choice(("support", "billing", "sales") if hour > 200 else ("support",)),
                    trust=chance.choice(("verified", "verified", "anonymous")),
                )
                for _ in range(chance.randrange(1, 5))
            ]
        )
    return batches


async def test_two_owners_know_what_one_would_know(places: list[Place]) -> None:
    """Each answer is in the counts and in each rule's memory, and each alert opens, is told and clears as it would."""
    both, alone = places
    owners = (both.owner(OURS), both.owner(THEIRS))
    one = alone.owner(OURS)
    batches = _life(days=30)
    for turn, batch in enumerate(batches):
        both.clock.at = alone.clock.at = max(a.received_at for a in batch)
        await owners[turn % 2].tell(*batch)
        await one.tell(*batch)
        for owner in (*owners, one):
            await owner.sweep()
    assert owners[0].again > 10
    assert one.again == 0
    assert await both.memory() == await alone.memory()
    told = await both.alerts()
    assert told == await alone.alerts()
    assert {alert[0]["rule"] for alert in told} >= {"shift", "nps-low", "nps-drop", "burst"}
    for table in ("bucket", "replaced", "daily"):
        counted = f"SELECT * FROM {table} ORDER BY 1, 2, 3"
        assert await both.fetch(counted) == await alone.fetch(counted)
    assert await both.fetch("SELECT count(*) FROM answer") == [(sum(map(len, batches)),)]
    outbox = "SELECT count(*) FROM outbox"
    assert await both.fetch(outbox) == await alone.fetch(outbox)


async def test_what_one_remembers_of_alerts_is_what_is_stored(at: Place) -> None:
    """Also of one that opened and got worse in the same batch: more of it is told later."""
    owner, chance = at.owner(OURS), random.Random(3)
    deferred = False
    for batch in _life(days=25, seed=4):
        at.clock.at = max(a.received_at for a in batch)
        many = [replace(batch[0], id=uuid7(), score=chance.choice((0, 10)), respondent=None) for _ in range(6)]
        await owner.tell(*batch, *many)
        await owner.sweep()
        async with at.database.transaction() as tx:
            stored = {alert.dedup_key: alert for alert in await alerts.open_alerts(tx, ["acme"])}
        assert (await owner.state()).alerts == stored
        deferred = deferred or any(alert.pending for alert in stored.values())
    assert deferred
    assert owner.again == 0, "its own memory is never stale"


async def test_who_counts_at_the_same_time_counts_each_answer_once(at: Place) -> None:
    """Batches of the same customers run into each other, with answers that came twice, by either partition."""
    owners = (at.owner(OURS), at.owner(THEIRS))
    chance = random.Random(5)
    said = [
        build.answer(
            10 if number % 2 else 4,
            kind="nps" if number % 2 else "mood",
            customer=chance.choice(("acme", "borealis", "cetus", "draco")),
            occurred_at=build.NOW - timedelta(minutes=chance.randrange(60)),
            touchpoint=chance.choice(("support", "billing", None)),
            respondent=None if number % 2 else chance.choice(("r-1", "r-2")),
        )
        for number in range(400)
    ]
    halves = (said[:250], said[150:])

    async def tell(owner: Owner, some: Sequence[FeedbackReceivedV1]) -> None:
        for first in range(0, len(some), 10):
            await owner.tell(*some[first : first + 10])

    async with asyncio.timeout(120):
        await asyncio.gather(*(tell(owner, half) for owner, half in zip(owners, halves, strict=True)))
    assert sum(owner.again for owner in owners) > 0
    assert await at.fetch("SELECT count(*), count(DISTINCT id) FROM answer") == [(400, 400)]
    for name in ("acme", "borealis", "cetus", "draco"):
        (detector,) = (await at.memory(name)).detectors.values()
        assert sum(_unpacked(detector)) == sum(a.customer == name and a.kind == "nps" for a in said)
        newest = max([await owner.state(name) for owner in owners], key=lambda state: state.version)
        assert await at.fetch("SELECT version FROM customer WHERE name = $1", name) == [(newest.version,)]
        assert _views(newest) == _views(await at.owner(5).state(name))
    async with at.database.transaction() as tx:
        assert not any([await counting.recount(tx, number) for number in await counting.every_customer(tx)])


def _unpacked(detector: Any) -> tuple[int, ...]:
    return tuple(detector.counts >> 21 * place & (1 << 21) - 1 for place in range(3))


def _views(state: CustomerState) -> list[Any]:
    return [
        (length, sorted((str(key), view.all) for key, view in window._views.items() if any(view.all)))
        for windows in (state.hours, state.before)
        for length, window in sorted(windows.items())
    ]


async def test_both_take_turns(at: Place) -> None:
    """Who lost once has the customer the next time that it tries: neither waits for the other to be done with all."""
    owners = (at.owner(OURS), at.owner(THEIRS))

    async def tell(owner: Owner) -> None:
        for _ in range(40):
            await owner.tell(*(build.answer(9) for _ in range(5)))

    async with asyncio.timeout(120):
        await asyncio.gather(*map(tell, owners))
    assert all(owner.again <= 45 for owner in owners), [owner.again for owner in owners]
    assert await at.fetch("SELECT count(*) FROM answer") == [(400,)]


async def test_a_fault_of_old_memory_is_no_fault_of_an_answer(at: Place) -> None:
    """Somebody else has counted a touchpoint that it does not know: it reads again, and no answer is refused."""
    owner, other = at.owner(OURS), at.owner(THEIRS)
    await owner.tell(build.answer(9))
    await other.tell(build.answer(9, touchpoint="billing"))
    at.clock.at += timedelta(days=3)
    records: list[Any] = [Record(build.answer(9, occurred_at=at.clock.at), "feedback.received", OURS, 1)]
    with pytest.raises(answers.StaleCustomer, match="1 of 1 customers were changed by another owner"):
        async with at.database.transaction() as tx:
            await owner.handler.handle(tx, records)
    owner.handler.forget([OURS])
    await owner.tell(build.answer(9, occurred_at=at.clock.at))
    assert _views(await owner.state()) == _views(await at.owner(5).state())


async def test_what_came_by_another_partition_is_forgotten_by_it(at: Place) -> None:
    """One owner of both: a batch of the one that did not commit leaves nothing in memory of what came by the other."""
    owner = at.owner(OURS)
    await owner.tell(build.answer(9))
    lost: list[Any] = [Record(build.answer(0), "feedback.received", THEIRS, 1)]

    async def fail() -> None:
        async with at.database.transaction() as tx:
            await owner.handler.handle(tx, lost)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    owner.handler.forget([THEIRS])
    assert owner.handler.states.kept("acme") is None
    await owner.tell(build.answer(9))
    assert owner.again == 0
    assert await at.fetch("SELECT version, partition FROM customer") == [(2, OURS)]


async def test_the_last_that_counted_sweeps(at: Place) -> None:
    owner, other = at.owner(OURS), at.owner(THEIRS)
    await owner.tell(build.answer(9))
    await other.tell(build.answer(9))
    at.clock.at += timedelta(days=1)
    async with at.database.transaction() as tx:
        assert await answers.due_customers(tx, at.clock.at, [OURS], 9) == {}
        assert await answers.due_customers(tx, at.clock.at, [THEIRS], 9) == {"acme": THEIRS}


@pytest.mark.parametrize("keeps_counts", [True, False])
async def test_an_erasure_reaches_what_others_remember(at: Place, keeps_counts: bool) -> None:
    """What another owner remembers is from before it: late answers of the person are not counted by it either."""
    owner, other = at.owner(OURS, keeps_counts=keeps_counts), at.owner(THEIRS, keeps_counts=keeps_counts)
    await owner.tell(build.answer(0, respondent="r-1"), build.answer(9, respondent="r-2"))
    before = at.clock.at + timedelta(minutes=1)
    await other.tell(RespondentErasedV1(erasure=uuid7(), customer="acme", respondent="r-1", before=before))
    await owner.tell(build.answer(1, respondent="r-1"), build.answer(10, respondent="r-2"))
    assert owner.again == 1
    left = [("r-2",), ("r-2",)]
    rows = await at.fetch("SELECT respondent FROM answer ORDER BY respondent")
    assert [row for row in rows if not row[0].startswith("erased-")] == left
    assert len(rows) == (3 if keeps_counts else 2)
    assert _views(await owner.state()) == _views(await at.owner(5).state())


@pytest.mark.parametrize("keeps_counts", [True, False])
async def test_one_answer_is_erased(at: Place, keeps_counts: bool) -> None:
    """Nobody knows whose it is: its id does. Sent again, or come late, it stays forgotten; the others stay."""
    owner = at.owner(OURS, keeps_counts=keeps_counts)
    said, late, other = (build.answer(2, comment=f"My number is {n}", contact="a@example.test") for n in range(3))
    await owner.tell(said, other)
    for answer in (said.id, late.id):
        before = at.clock.at + timedelta(minutes=1)
        await owner.tell(
            RespondentErasedV1(erasure=uuid7(), customer="acme", respondent="", before=before, answer=answer)
        )
    await owner.tell(replace(said, received_at=at.clock.at + timedelta(days=1)), late)
    rows = await at.fetch("SELECT id, comment, contact FROM answer ORDER BY id")
    assert {(UUID(int=id_.int), *rest) for id_, *rest in rows} == {
        (other.id, other.comment, other.contact),
        *([(said.id, None, None)] if keeps_counts else []),
    }
    assert _views(await owner.state()) == _views(await at.owner(5).state())


async def test_a_person_is_erased_however_they_are_written(at: Place) -> None:
    """As a form, a mail and another computer write them; also an answer that is dated ahead, as a clock may be."""
    owner = at.owner(OURS)
    now = at.clock.at
    ahead = {"occurred_at": now + timedelta(minutes=4), "received_at": now}
    await owner.tell(
        build.answer(0, respondent="\u00c4nn@Example.test"),
        build.answer(0, respondent="a\u0308nn@example.test ", **ahead),
        build.answer(9, respondent="anna@example.test"),
    )
    asked = RespondentErasedV1(
        erasure=uuid7(), customer="acme", respondent="\u00e4nn@example.test", before=now + timedelta(minutes=1)
    )
    await owner.tell(asked)
    rows = await at.fetch("SELECT respondent FROM answer WHERE respondent NOT LIKE 'erased-%'")
    assert [row[0] for row in rows] == ["anna@example.test"]
    (told,) = await at.fetch("SELECT value FROM outbox")
    passed_on = msgspec.json.decode(told[0], type=RespondentErasedV1)
    assert passed_on.done[0].removed == 2
    assert set(passed_on.spellings) == {"\u00c4nn@Example.test", "a\u0308nn@example.test "}
    assert _views(await owner.state()) == _views(await at.owner(5).state())


async def test_counting_afresh_reaches_what_is_remembered(at: Place) -> None:
    """`python -m services rebuild` needs no restart."""
    owner = at.owner(OURS)
    await owner.tell(*(build.answer(9) for _ in range(3)))
    async with at.database.transaction() as tx:
        await tx.execute("UPDATE bucket SET c3 = 77")
        assert await counting.recount(tx, 1)
    await owner.tell(build.answer(9))
    assert owner.again == 1
    assert _views(await owner.state()) == _views(await at.owner(5).state())


async def test_what_one_deletes_the_other_forgets(at: Place) -> None:
    """What is too old goes by the hand of one owner; the other one's windows do not take it away once more."""
    owner, other = at.owner(OURS), at.owner(THEIRS)
    old = [build.answer(3, occurred_at=build.NOW - timedelta(days=day), backfill=True) for day in range(0, 800, 7)]
    await owner.tell(*old)
    await other.tell(build.answer(9))
    await other.sweep()
    (count,) = (await at.fetch("SELECT count(*) FROM answer"))[0]
    assert 50 < count < 110
    await other.tell(build.answer(9))
    assert other.again <= 1, "it goes along with what it deleted itself"
    await owner.tell(build.answer(9))
    assert owner.again == 1
    at.clock.at += timedelta(days=3)
    for one in (owner, other):
        await one.tell(build.answer(9, occurred_at=at.clock.at, received_at=at.clock.at))
        assert _views(await one.state()) == _views(await at.owner(5).state())


async def test_a_sweep_of_what_went_on_is_done_again(at: Place) -> None:
    """An alert that somebody else has told more of since is not told as it was."""
    owner, other = at.owner(OURS), at.owner(THEIRS)
    await owner.tell(*(build.answer(0) for _ in range(12)))
    await other.tell(*(build.answer(0) for _ in range(4)))
    at.clock.at += timedelta(days=40)
    await owner.sweep()
    await other.sweep()
    assert owner.again + other.again >= 1
    rows = await at.fetch("SELECT state, count(*) FROM alert WHERE rule IN ('nps-low', 'burst') GROUP BY 1")
    assert dict(rows).keys() == {"cleared"}


async def test_two_consumers_of_one_customer_miss_nothing(at: Place, kafka: Kafka) -> None:
    """On Kafka: an old producer and a new one put one customer's answers into partitions of two processes."""
    await ensure_topics(kafka, [FEEDBACK])
    now, count = build.NOW, 600
    owners = [at.owner(OURS), at.owner(THEIRS)]
    consumers = [Consumer(kafka, at.database, FEEDBACK, owner.handler, max_records=7) for owner in owners]
    running = [asyncio.create_task(consumer.run()) for consumer in consumers]

    async def shared() -> bool:
        for task in running:
            if task.done():
                task.result()
        return all(len(consumer.owned()) == FEEDBACK.partitions // 2 for consumer in consumers)

    async def counted() -> bool:
        return await shared() and await at.fetch("SELECT count(*) FROM answer") == [(count,)]

    try:
        await until(shared, seconds=60)
        producer = Producer(kafka)
        headers = event_headers("feedback.received", "1", "test", now.isoformat(), None)
        for first in range(0, count, 60):
            await producer.send_all(
                [
                    Outgoing(FEEDBACK.name, f"key-{n}".encode(), msgspec.json.encode(build.answer(10)), headers)
                    for n in range(first, first + 60)
                ]
            )
        await producer.close()
        await until(counted, seconds=90)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    (detector,) = (await at.memory()).detectors.values()
    assert sum(_unpacked(detector)) == count
    assert await at.fetch("SELECT sum(c3) FROM bucket") == [(count,)]
    assert await at.fetch("SELECT count(*) FROM quarantine") == [(0,)]
