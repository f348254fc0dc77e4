"""One odd row stops one customer's sweep, or nothing at all: everybody else's day ends and alerts clear as ever."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from services.scoring.consumer import FeedbackHandler
from services.scoring.domain.counting import LARGEST, SCORES_WINDOW, hour_of, window_start
from services.scoring.domain.customer import Memory
from services.scoring.domain.report import metric_scores
from services.scoring.domain.shift import Detector
from services.scoring.domain.silence import Pulse
from services.scoring.domain.trend import daily, day_of, windows
from services.scoring.erasing import Erasing
from services.scoring.gauges import Company, Gauges
from services.scoring.store import counting, reads
from shared.bus.client import Kafka
from shared.bus.handler import Record
from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.directory.follower import Follower, revision_of
from shared.directory.model import Metric, NpsBelow
from shared.rules.metric import MetricMean
from shared.rules.sequence import NoFeedbackFor, Shift
from shared.runtime.quarantine import Quarantine, Undecidable, items, release
from shared.wire.events import FeedbackReceivedV1
from tests.support import build
from tests.support.services import MIGRATIONS

DAY = 86400
CUSTOMERS = ("acme", "borealis", "cetus")
RULES = (
    build.rule(),
    build.rule(NpsBelow(0, 7 * DAY, 3, "simple"), name="nps-low"),
    build.rule(NoFeedbackFor(3 * DAY), name="silent"),
    build.rule(NoFeedbackFor("auto"), name="silent-auto"),
    build.rule(Shift(), name="shift"),
    build.rule(MetricMean("cost", 30 * DAY, mean_above=5.0, min_responses=1), name="cost"),
    build.rule(MetricMean("cost", 3600, mean_above=5.0, min_responses=1), name="cost-now"),
)
_offsets = iter(range(1_000_000))


class Office:
    """Scoring's tables, and the owner of partition 0 on a clock that stands."""

    def __init__(self, database: Database, kafka: Kafka) -> None:
        self.database = database
        self.at = build.NOW
        self.follower = Follower(kafka, ("scoring",))
        self.follower.current = revision_of(
            1,
            build.directory(
                customers={name: build.customer(name) for name in CUSTOMERS},
                metrics={"cost": Metric("EUR", "down")},
                rules=RULES,
            ),
        )
        erasing = Erasing(lambda respondent: [f"digest of {respondent}"], keeps_counts=True)
        self.handler = FeedbackHandler(self.follower, self, erasing, remembered=100, sweep_seconds=1)

    def now(self) -> datetime:
        return self.at

    async def tell(self, *said: FeedbackReceivedV1) -> None:
        records: list[Any] = [Record(one, "feedback.received", 0, next(_offsets)) for one in said]
        async with self.database.transaction() as tx:
            await self.handler.handle(tx, records)

    async def sweep(self, limit: int | None = None) -> Undecidable | None:
        """Sweep as the consume loop does."""
        try:
            async with self.database.transaction() as tx:
                after = await self.handler.sweep(tx, [0], limit)
        except Undecidable as found:
            self.handler.forget([0])
            return found
        if after is not None:
            after()
        return None

    async def swept(self) -> list[tuple[str, str]]:
        """Sweep until nothing is left; set aside what is at fault, and return it."""
        quarantine, found = Quarantine(self.database), await self.sweep()
        while found is not None:
            if len(found.keys) == 1:
                (key,) = found.keys
                await quarantine.set_aside(found.queue, key, found.__cause__ or found)
                found = await self.sweep()
            else:
                one = None
                for _ in found.keys:
                    one = one or await self.sweep(1)
                found = one
        async with self.database.transaction() as tx:
            return [(held.key, held.reason) for held in await items(tx)]

    async def sql(self, statement: str, *arguments: Any) -> list[Any]:
        async with self.database.transaction() as tx:
            return [tuple(row) for row in await tx.fetch(statement, *arguments)]

    async def spoil(self, customer: str, memory: bytes) -> None:
        """Leave something in a customer's stored memory that no code of ours would."""
        await self.sql(
            "UPDATE memory SET body = $2 FROM customer WHERE customer.number = memory.customer AND name = $1",
            customer,
            memory,
        )
        self.handler.forget([0])


@pytest.fixture
async def at(database_url: str, kafka: Kafka) -> AsyncIterator[Office]:
    database = Database(database_url, "scoring", pool=3)
    await migrate(database, MIGRATIONS["scoring"])
    yield Office(database, kafka)
    await database.close()


# ---- a customer that cannot be decided


_NAN = msgspec.msgpack.encode(Memory({"acme/silent/*": Pulse(math.nan), "acme/silent-auto/*": Pulse(math.nan)}))


@pytest.mark.parametrize("memory", [b"\xc1", _NAN], ids=["unreadable", "no number"])
async def test_a_customer_that_cannot_be_decided_is_set_aside_alone(at: Office, memory: bytes) -> None:
    """Everybody else's day ends; it is passed by, counted as ever, and swept again once it is released."""
    await at.tell(*(build.answer(9, customer=name) for name in CUSTOMERS))
    (kept,) = (await at.sql("SELECT body FROM memory JOIN customer ON number = customer WHERE name = 'acme'"))[0]
    await at.spoil("acme", memory)
    at.at += timedelta(days=1)
    found = await at.sweep()
    assert found is not None
    assert (found.queue, sorted(found.keys)) == ("customers", sorted(CUSTOMERS))
    assert [key for key, _ in await at.swept()] == ["acme"]
    told = "SELECT name FROM daily JOIN customer ON number = daily.customer ORDER BY name"
    assert await at.sql(told) == [("borealis",), ("cetus",)]
    at.at += timedelta(days=1)
    assert [key for key, _ in await at.swept()] == ["acme"]
    await at.spoil("acme", kept)
    await at.tell(build.answer(9, occurred_at=at.at, received_at=at.at))
    assert await at.sql("SELECT count(*) FROM answer JOIN customer ON number = customer WHERE name = 'acme'") == [(2,)]
    async with at.database.transaction() as tx:
        (held,) = await items(tx)
        await release(tx, held.id)
    assert await at.swept() == []
    assert ("acme",) in await at.sql(told)


async def test_alerts_of_a_customer_that_is_set_aside_wait(at: Office) -> None:
    """One alert at a time names one customer, and those of the others clear."""
    await at.tell(*(build.answer(1, kind="mood", customer=name) for name in CUSTOMERS for _ in range(3)))
    await at.spoil("borealis", b"\xc1")
    at.at += timedelta(hours=1)
    await at.sql("UPDATE alert SET due_at = $1 WHERE state = 'open'", at.at)
    keys: list[list[str]] = []
    for _ in range(12):
        found = await at.sweep(1)
        if found is not None:
            keys.append(list(found.keys))
            await Quarantine(at.database).set_aside(found.queue, found.keys[0], found)  # type: ignore[index]
    assert keys == [["borealis"]]
    states = await at.sql("SELECT customer, state, count(*)::int FROM alert GROUP BY 1, 2 ORDER BY 1")
    assert states == [("acme", "cleared", 3), ("borealis", "open", 3), ("cetus", "cleared", 3)]


async def test_a_limit_of_one_is_one_customer(at: Office) -> None:
    """Of one that has an alert due and a day to end, as of others: each sweep does one, until all are done."""
    await at.tell(*(build.answer(1, kind="mood", customer=name) for name in CUSTOMERS))
    at.at += timedelta(days=1)
    left = "SELECT (SELECT count(*) FROM alert WHERE state = 'open'), (SELECT count(*) FROM daily)"
    seen = await at.sql(left)
    for _ in range(6):
        assert await at.sweep(1) is None
        seen += await at.sql(left)
    assert seen == [(3, 0), (2, 0), (1, 0), (0, 0), (0, 1), (0, 2), (0, 3)]


async def test_what_is_too_old_of_a_customer_that_is_set_aside_stays(at: Office) -> None:
    """One at whom the deletion fails is named alone, whoever else is swept; what is too old of the others goes."""
    await at.tell(*(build.answer(9, customer=n, occurred_at=build.NOW - timedelta(days=900)) for n in CUSTOMERS))
    ((number,),) = await at.sql("SELECT number FROM customer WHERE name = 'borealis'")
    await at.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'its page is torn'; END $$"
    )
    await at.sql(
        f"CREATE TRIGGER torn BEFORE DELETE ON answer FOR EACH ROW WHEN (old.customer = {number}) "
        "EXECUTE FUNCTION refuse()"
    )
    found = await at.sweep()
    assert found is not None
    assert list(found.keys) == ["borealis"]
    assert await at.swept() == [("borealis", "RaiseError")]
    assert await at.sql("SELECT customer FROM answer") == [(number,)]
    await at.sql("DROP TRIGGER torn ON answer")
    async with at.database.transaction() as tx:
        (held,) = await items(tx)
        await release(tx, held.id)
    at.at += timedelta(hours=2)
    assert await at.swept() == []
    assert await at.sql("SELECT customer FROM answer") == []


# ---- odd values


async def test_the_largest_numbers_are_counted(at: Office) -> None:
    """Ingest takes any finite number for a key metric: sums of them do not overflow, and nothing else is lost."""
    huge = (1.7e308, 1.7e308, 10**299, -1.7e308, 1.7e308)
    for hours, score in enumerate(huge):
        for respondent in ("r-1", None):
            await at.tell(
                build.answer(
                    score,
                    kind="kpi",
                    metric="cost",
                    respondent=respondent,
                    occurred_at=build.NOW - timedelta(hours=5 * hours),
                )
            )
    await at.tell(build.answer(3, kind="kpi", metric="cost"), build.answer(9, customer="borealis"))
    for _ in range(3):
        at.at += timedelta(days=12)
        await at.tell(build.answer(4, kind="kpi", metric="cost", occurred_at=at.at, received_at=at.at))
        assert await at.swept() == []
    await _is_read(at)
    async with at.database.transaction() as tx:
        assert not await counting.recount(tx, 1), "counted afresh it is the same"
    (total,) = (await at.sql("SELECT max(abs(total)) FROM bucket"))[0]
    assert total <= 3 * LARGEST


async def test_what_was_counted_before_scores_were_bounded_is_read(at: Office) -> None:
    """Sums that no longer fit, and what is no number, are in the tables already: no batch and no list stands still."""
    await at.tell(build.answer(3, kind="kpi", metric="cost"), build.answer(9, customer="borealis"))
    for hours, odd in enumerate((1.7e308, 1.7e308, math.inf, -math.inf, math.nan)):
        await at.sql(
            "INSERT INTO bucket SELECT customer, hour - 1 - $1::int, series, 1, 0, 0, 0, 0, 0, 0, $2 FROM bucket "
            "WHERE customer = 1 AND hour = $3",
            hours,
            odd,
            hour_of(build.NOW),
        )
        await at.sql(
            "INSERT INTO replaced SELECT customer, hour - 1 - $1::int, hour, series, 0, 1, $2 FROM bucket "
            "WHERE customer = 1 AND hour = $3",
            hours,
            odd,
            hour_of(build.NOW),
        )
    at.handler.forget([0])
    await at.tell(build.answer(4, kind="kpi", metric="cost"))
    at.at += timedelta(days=1)
    assert await at.swept() == []
    await _is_read(at)
    async with at.database.transaction() as tx:
        assert await counting.recount(tx, 1), "that mends it"
        assert not await counting.recount(tx, 1)


async def _is_read(at: Office) -> None:
    """Everything that reads does so, and what it tells can be sent and is finite."""
    revision = at.follower.current
    assert revision is not None
    known, first = revision.directory.customers["acme"], day_of(at.at) - 60
    await Gauges(at.database, at.follower, at, []).measure()
    async with at.database.snapshot() as tx:
        counts = await counting.window_counts(tx, CUSTOMERS, window_start(at.at, SCORES_WINDOW))
        trend = windows(await reads.days(tx, 1, first * 24), first, day_of(at.at), 30)
        points = await reads.points(tx, 1, first)
        said = await reads.feedback(tx, reads.AnswerQuery(1), after=None, limit=100)
    assert points
    found: list[Any] = [metric_scores(counts["acme"], "customer", None, {"cost": 5.0}, {"cost": "down"})]
    found += [daily(known, {"cost": "down"}, of, day) for day, of in enumerate(trend, first)]
    text = msgspec.json.encode([found, points, said])
    assert b"Infinity" not in text
    for scores in found[0].values():
        assert math.isfinite(scores.mean)
        assert math.isfinite(scores.gap)


@pytest.mark.parametrize("when", [datetime(1, 1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)])
async def test_the_first_and_last_moments_are_counted(at: Office, when: datetime) -> None:
    """A device without a clock: its answers count where they say, and the customer's next day ends as ever."""
    for score in (0, 9, 10):
        await at.tell(build.answer(score, occurred_at=when, respondent="r-1"), build.answer(score, occurred_at=when))
        await at.tell(build.answer(score), build.answer(score, customer="borealis"))
    for _ in range(6):
        at.at += timedelta(days=4)
        assert await at.swept() == []
    kept = 9 if when < build.NOW else 12  # what is older than answers are kept has gone
    assert await at.sql("SELECT count(*) FROM answer") == [(kept - 3 if when < build.NOW else kept,)]
    async with at.database.transaction() as tx:
        assert not await counting.recount(tx, 1)


async def test_an_answer_has_a_moment(at: Office) -> None:
    """The driver takes the first and the last microsecond of all for infinity, which no hour holds: refused, alone."""
    for when in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        with pytest.raises(asyncpg.CheckViolationError, match="answer_has_a_moment"):
            await at.tell(build.answer(9, occurred_at=when))
        at.handler.forget([0])


@pytest.mark.parametrize("at_", [-0.5, -1.0, -3600.0, -3600.5, 0.0, 0.5, 3599.999999, 253402300799.0, -62135596800.0])
def test_an_hour_begins_before_each_moment_in_it(at_: float) -> None:
    """Also before 1970, as PostgreSQL has it."""
    start = datetime(1970, 1, 1, tzinfo=UTC)
    when = start + timedelta(seconds=at_)
    assert (
        timedelta() <= when - (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour_of(when))) < timedelta(hours=1)
    )


@pytest.mark.parametrize("last", [-62135596800.0, 0.0, 253402300799.0, 1e300, math.inf])
def test_silence_has_a_moment_whenever_somebody_answered_last(last: float) -> None:
    for condition in (NoFeedbackFor(3 * DAY), NoFeedbackFor(10**12)):
        moment = Pulse(last).breaks_at(condition)
        assert moment is not None
        assert moment.tzinfo is UTC


NAMES = (
    "'; DROP TABLE answer; --",
    '{"a"}',
    "\\x00\\",
    "r/1#verified",
    "\U0001f648" * 40,
    "e\u0301\u202e\x7f\x01",
    "*",
    "%_",
)


@pytest.mark.parametrize("name", NAMES)
async def test_a_respondent_may_be_called_anything(at: Office, name: str) -> None:
    """Whoever it is counts once, is shown and is forgotten."""
    await at.tell(*(build.answer(score, kind="mood", respondent=name) for score in (4, 1)))
    await at.tell(build.answer(2, kind="mood", respondent=name, occurred_at=build.NOW - timedelta(days=2)))
    assert await at.sql("SELECT sum(c1 + c2 + c3 + c4) FROM bucket") == [(1,)]
    (body,) = (await at.sql("SELECT body FROM alert"))[0]
    assert msgspec.json.decode(body)["evidence"][0]["respondent"] == name
    at.at += timedelta(days=1)
    assert await at.swept() == []
    async with at.database.transaction() as tx:
        assert {
            answer.respondent for answer in await reads.feedback(tx, reads.AnswerQuery(1), after=None, limit=9)
        } == {name}


async def test_how_the_company_is_spread_is_always_shares(at: Office) -> None:
    """Counts that have come out below nothing give shares that a detector can work with."""
    await at.tell(*(build.answer(score, customer=name) for name in CUSTOMERS for score in (0, 7, 9)))
    company = Company(at.database, at, [at.handler])
    for odd in ("c1 = -3, c2 = 5, c3 = 5", "c1 = 9, c2 = -3, c3 = -3", "c1 = 5, c2 = 0, c3 = 0", "c1 = -1, c2 = -1"):
        await at.sql(f"UPDATE bucket SET {odd}")
        at.at += timedelta(days=2)
        await company.measure()
        assert at.handler.priors
        for prior in at.handler.priors.values():
            assert math.isclose(sum(prior[:3]), 1)
            assert all(0 <= share <= 1 for share in prior[:3])
            detector = Detector()
            for day in range(60):
                detector.take(0 if day > 30 else 2, "support", float(day), prior, 0.1)
                detector.review(float(day))
