"""Each store's SQL against the schema that its migrations make, and what must hold as constraints of PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import re
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import combinations
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from alembic.script import ScriptDirectory
from msgspec.structs import replace

import services
import shared
from services.notify.store import deliveries, pages
from services.notify.store.deliveries import Wanted
from services.run import MIGRATIONS
from services.scoring.domain.counting import (
    WIDTH,
    Said,
    Series,
    arrival,
    category_of,
    changes,
    hour_of,
    hour_time,
    neighbours,
    series_of,
)
from services.scoring.domain.customer import CustomerState, Plan, plan
from services.scoring.domain.decide import Alert, Decision
from services.scoring.domain.silence import Pulse
from services.scoring.domain.windows import Measure
from services.scoring.store import alerts, answers, counting, reads
from services.ticketing.domain.ticket import Outcome
from services.ticketing.store import tickets
from shared.db import SHARED_MIGRATIONS, Connection, Database
from shared.directory.model import MoodBelow, NpsBelow, NpsDrop
from shared.directory.rules.base import SUM
from shared.events import RATINGS, FeedbackReceivedV1
from shared.ids import uuid7
from tests.support import build

NPS = Measure("nps", None, "customer")
_STATEMENT = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_SHARED = [
    importlib.import_module(f"shared.{name}")
    for _, name, package in pkgutil.iter_modules(shared.__path__)
    if not package
]


def _statements() -> Iterator[tuple[str, ModuleType, str]]:
    """Find every module-level statement, with the service in whose schema it runs."""
    for service in MIGRATIONS:
        store = importlib.import_module(f"services.{service}.store")
        rooms = [f"{store.__name__}.{room.name}" for room in pkgutil.iter_modules(getattr(store, "__path__", ()))]
        for module in (store, *map(importlib.import_module, rooms), *_SHARED):
            for name, value in vars(module).items():
                if name.isupper() and isinstance(value, str) and _STATEMENT.match(value.strip()):
                    yield service, module, name


STATEMENTS = list(_statements())


@pytest.fixture(params=list(MIGRATIONS))
async def database(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Database]:
    """A service's schema, freshly migrated."""
    made = Database(database_url, request.param, pool=3)
    await made.migrate(MIGRATIONS[request.param])
    yield made
    await made.close()


@pytest.fixture
async def of(database_url: str) -> AsyncIterator[Callable[[Any], Awaitable[Database]]]:
    """Migrate the schema of a named service."""
    made: list[Database] = []

    async def migrated(service: Any) -> Database:
        made.append(Database(database_url, service, pool=3))
        await made[-1].migrate(MIGRATIONS[service])
        return made[-1]

    yield migrated
    for one in made:
        await one.close()


async def test_statements_and_migrations_do_not_drift_apart(database: Database) -> None:
    """PostgreSQL can plan each statement of the service's store, and of what every service runs in its schema."""
    mine = [(module, name) for service, module, name in STATEMENTS if service == database.schema]
    assert len(mine) > 15, "the statements were not found"
    wrong: list[str] = []
    async with database.dedicated() as connection:
        for module, name in mine:
            try:
                await connection.prepare(getattr(module, name))
            except asyncpg.PostgresError as error:
                wrong.append(f"{module.__name__}.{name}: {error}")
    assert wrong == []


async def test_the_columns_that_are_copied_are_there(of: Any) -> None:
    """COPY names its columns apart from any statement."""
    async with (await of("scoring")).transaction() as tx:
        rows = await tx.fetch("SELECT attname FROM pg_attribute WHERE attrelid = 'answer'::regclass AND attnum > 0")
    assert {row[0] for row in rows} == set(answers._ANSWER_COLUMNS)


@pytest.mark.parametrize("folder", [SHARED_MIGRATIONS, *MIGRATIONS.values()], ids=["shared", *MIGRATIONS])
def test_a_chain_of_migrations_has_one_end(folder: Path) -> None:
    """Two people who add a migration at once find out here, not at a customer's."""
    script = ScriptDirectory(str(folder), version_locations=[str(folder)])
    assert len(script.get_heads()) == 1
    assert len(script.get_bases()) == 1


def test_every_folder_of_migrations_is_run() -> None:
    """A service with migrations that `migrate` does not know would have no tables."""
    root = Path(services.__path__[0])
    found = {name for _, name, package in pkgutil.iter_modules(services.__path__) if package}
    assert {name for name in found if (root / name / "migrations").exists()} == set(MIGRATIONS)


async def test_migrating_again_changes_nothing(database: Database) -> None:
    """Every start migrates."""
    assert await database.migrate(MIGRATIONS[database.schema]) == []  # type: ignore[index]


async def test_migrating_at_the_same_time_is_safe(database_url: str) -> None:
    """Every replica of every service migrates when it starts: each revision is applied once."""
    databases = [Database(database_url, service, pool=1) for service in MIGRATIONS for _ in range(3)]
    try:
        applied = await asyncio.gather(*(d.migrate(MIGRATIONS[d.schema]) for d in databases))  # type: ignore[index]
    finally:
        await asyncio.gather(*(d.close() for d in databases))
    revisions = [revision for one in applied for revision in one]
    assert len(revisions) == len(set(revisions))
    assert {revision.split()[0] for revision in revisions} == set(MIGRATIONS)


# ---- what must hold, whatever the code does


async def _refuses(database: Database, constraint: str, write: Callable[[Connection], Awaitable[Any]]) -> None:
    with pytest.raises(asyncpg.UniqueViolationError) as refused:
        async with database.transaction() as tx:
            await write(tx)
    assert refused.value.constraint_name == constraint


async def test_a_problem_has_one_open_ticket(of: Any) -> None:
    """Two consumers that see the same problem at once cannot open two tickets; over is over."""
    database = await of("ticketing")
    first = build.ticket(number=1)

    async def save(tx: Connection, *of_them: Any) -> None:
        outcomes = [Outcome(ticket, "ticket.opened", ()) for ticket in of_them]
        await tickets.save(tx, outcomes, {ticket.id: None for ticket in of_them})

    async with database.transaction() as tx:
        await save(tx, first)
    for state in ("open", "acknowledged", "in_progress", "waiting"):
        second = build.ticket(number=2, state=state)
        await _refuses(database, "one_open_ticket", lambda tx, second=second: save(tx, second))
    async with database.transaction() as tx:
        await save(
            tx,
            build.ticket(number=2, state="resolved", resolved_at=build.NOW),
            build.ticket(number=3, state="cancelled"),
        )
        await save(tx, build.ticket(number=4, dedup_key="acme/mood-one/billing"))


async def test_a_number_is_given_once(of: Any) -> None:
    """People say the number on the phone."""
    database = await of("ticketing")
    both = [Outcome(build.ticket(number=7, dedup_key=key), "ticket.opened", ()) for key in ("a", "b")]
    looks = dict.fromkeys(one.ticket.id for one in both)
    await _refuses(database, "ticket_number_key", lambda tx: tickets.save(tx, both, looks))


async def test_an_opening_has_one_page(of: Any) -> None:
    """A ticket that is told twice pages nobody twice; a reopened one has a page of its own."""
    database = await of("notify")
    first = build.page()
    async with database.transaction() as tx:
        await pages.save(tx, [pages.Kept(first, None)])
    again = build.page(ticket=first.ticket)
    await _refuses(database, "one_page_per_opening", lambda tx: pages.save(tx, [pages.Kept(again, None)]))
    async with database.transaction() as tx:
        await pages.save(tx, [pages.Kept(build.page(ticket=first.ticket, opening=2), None)])


async def test_a_page_that_waits_has_a_moment(of: Any) -> None:
    """A page without a due moment would be forgotten for ever."""
    database = await of("notify")
    for wrong in (build.page(due_at=None), build.page(state="resolved")):
        with pytest.raises(asyncpg.CheckViolationError, match="waiting_page_has_a_due_moment"):
            async with database.transaction() as tx:
                await pages.save(tx, [pages.Kept(wrong, None)])


async def test_a_contact_is_called_once_in_a_turn(of: Any) -> None:
    """A turn that is taken twice adds no second delivery."""
    database = await of("notify")
    page = build.page(turn=1, level=1)
    async with database.transaction() as tx:
        await pages.save(tx, [pages.Kept(page, None)])
        for _ in range(2):
            await deliveries.add(tx, [Wanted(page.id, "architect-1", 0, build.NOW, turn=1, level=1)], build.NOW)
        assert await tx.fetchval("SELECT count(*) FROM delivery") == 1


async def test_an_answer_counts_once(of: Any) -> None:
    """The same id of the same customer is one answer; another customer may have chosen the same id."""
    database = await of("scoring")
    answer = build.answer()
    async with database.transaction() as tx:
        other = build.answer(id=answer.id, customer="borealis")
        await answers.store_answers(
            tx, [arrival(answer), arrival(other)], [answers.place_of(1, 0), answers.place_of(2, 0)]
        )
        assert await answers.known_ids(tx, [answer.id, uuid7()]) == {(answer.id, 1), (answer.id, 2)}
    again = build.answer(id=answer.id, score=0)
    await _refuses(
        database, "answer_counts_once", lambda tx: answers.store_answers(tx, [arrival(again)], [answers.place_of(1, 5)])
    )


def _telling(**fields: Any) -> alerts.Telling:
    message = build.alert(kind="nps_below", rule="nps-low", dedup_key="acme/nps-low/*", **fields)
    alert = Alert(
        id=message.id,
        version=1,
        customer="acme",
        rule=message.rule,
        kind=message.kind,
        touchpoint=None,
        dedup_key=message.dedup_key,
        severity="high",
        trust="verified",
        opened_at=build.NOW,
        updated_at=build.NOW,
        caused_at=build.NOW,
        due_at=build.NOW,
    )
    return alerts.Telling(Decision("opened", alert, {}, ""), message, 0, None)


async def test_a_window_has_one_open_alert(of: Any) -> None:
    """A rule on a window opens again only after it has cleared."""
    database = await of("scoring")
    first = _telling(id=uuid7())
    async with database.transaction() as tx:
        await alerts.save(tx, [first])
    await _refuses(database, "one_open_alert", lambda tx: alerts.save(tx, [_telling(id=uuid7())]))
    async with database.transaction() as tx:
        await alerts.save(tx, [_telling(id=first.message.id, state="cleared", cleared_at=build.NOW)])
        await alerts.save(tx, [_telling(id=uuid7())])


async def test_a_series_is_one_even_without_a_touchpoint(of: Any) -> None:
    """No touchpoint is a bucket of its own, and only one."""
    database = await of("scoring")
    wanted = Series(None, "customer", "nps", "verified")
    async with database.transaction() as tx:
        await answers.add_series(tx, [(1, 0, wanted), (2, 0, wanted)])
    await _refuses(database, "one_series", lambda tx: answers.add_series(tx, [(1, 1, wanted)]))
    with pytest.raises(asyncpg.UniqueViolationError, match="series_is_numbered"):
        async with database.transaction() as tx:
            await answers.add_series(tx, [(1, 0, wanted._replace(kind="mood"))])


async def test_only_a_key_metric_has_a_name(of: Any) -> None:
    """Seconds and euros are never summed up in one series, and NPS has no metric."""
    database = await of("scoring")
    for wrong in (Series(None, "customer", "kpi", "verified"), Series(None, "customer", "nps", "verified", "speed")):
        with pytest.raises(asyncpg.CheckViolationError, match="metrics_are_kpi"):
            async with database.transaction() as tx:
                await answers.add_series(tx, [(1, 0, wrong)])
    async with database.transaction() as tx:
        speed = Series(None, "customer", "kpi", "verified", "speed")
        await answers.add_series(tx, [(1, 0, speed), (1, 1, speed._replace(metric="price"))])


# ---- customers


async def test_what_is_remembered_of_a_customer_is_read_again(of: Any) -> None:
    """Who takes over a partition knows when somebody answered last, and when to look again."""
    database = await of("scoring")
    due, later = build.NOW + timedelta(hours=3), build.NOW + timedelta(days=1)
    async with database.transaction() as tx:
        first, second = await answers.customers(tx, {"acme": 3, "borealis": 5}, due)
        assert {(s.name, s.partition, s.due_at) for s in (first, second)} == {("acme", 3, due), ("borealis", 5, due)}
        await answers.add_series(tx, [(first.number, 0, Series(None, "customer", "nps", "verified"))])
        first.pulses["acme/silence/*"] = Pulse(1e9, 7.5, 3.25, 1.5)
        first.due_at = later
        await answers.save_customers(tx, [first])
    async with database.transaction() as tx:
        assert await answers.known_customer(tx, "cetus") is None
        read = await answers.known_customer(tx, "acme")
        assert read is not None
        assert read.pulses == first.pulses
        assert (read.number, read.partition, read.due_at) == (first.number, 3, later)
        assert read.series == {Series(None, "customer", "nps", "verified"): 0}
        again = await answers.customers(tx, {"acme": 4, "cetus": 4, "borealis": 5}, later)
        assert {(s.name, s.partition, s.due_at) for s in again} == {
            ("acme", 4, later),
            ("cetus", 4, later),
            ("borealis", 5, due),
        }
        assert len({s.number for s in again}) == 3
        assert await answers.due_customers(tx, due, [3, 4, 5], 9) == {"borealis": 5}
        assert await answers.due_customers(tx, later, [3, 5], 1) == {"borealis": 5}
        assert await answers.due_customers(tx, later, [3, 5], 9) == {"borealis": 5, "acme": 3}


# ---- what is counted

START = build.NOW.replace(hour=4, minute=0, second=0)
FIRST = hour_of(START)
HOURS = 7
"""From START on, in which answers are given here."""

_RECOUNT = """
SELECT series, score, kind FROM (
    SELECT DISTINCT ON (answer.series, coalesce(respondent, answer.id::text)) answer.series, score, kind
    FROM answer JOIN series ON series.customer = answer.customer AND series.number = answer.series
    WHERE answer.customer = $1 AND occurred_at >= $2 AND occurred_at < $3
    ORDER BY answer.series, coalesce(respondent, answer.id::text), occurred_at DESC, received_at DESC, answer.id DESC
) AS latest
"""


async def _tell(tx: Connection, state: CustomerState, told: Sequence[FeedbackReceivedV1]) -> None:
    """Count answers one by one, as their consumer does."""
    for answer in told:
        new = arrival(answer)
        series = new.series
        if series not in state.series:
            state.series[series] = len(state.series)
            await answers.add_series(tx, [(state.number, state.series[series], series)])
        place = answers.place_of(state.number, state.series[series])
        others: list[Said] = []
        if answer.respondent is not None:
            others = [said for _, said in await answers.neighbours(tx, [((place, answer.respondent), new.said)])]
        made = changes(new, *neighbours(new.said, others))
        await counting.count(tx, [(place, change) for change in made])
        await answers.store_answers(tx, [new], [place])


def _said(answer: FeedbackReceivedV1) -> Said:
    return Said(answer.occurred_at, answer.received_at, answer.id, answer.score)


def _answers(seed: int, count: int) -> list[FeedbackReceivedV1]:
    """Return answers of few respondents in a few hours, in the order in which they arrive."""
    random = Random(seed)
    told: list[FeedbackReceivedV1] = []
    for _ in range(count):
        kind = random.choice(("nps", "nps", "kpi", "mood"))
        low, high = RATINGS.get(kind, (-8, 8))
        respondent = random.choice((None, "r-1", "r-1", "r-2"))
        told.append(
            build.answer(
                random.randint(low, high) / (4 if kind == "kpi" else 1),
                kind=kind,
                metric=random.choice(("speed", "price")) if kind == "kpi" else None,
                occurred_at=_moment(random),
                respondent=respondent,
                trust="verified" if respondent else random.choice(("verified", "anonymous")),
                touchpoint=random.choice(("support", None)),
            )
        )
    return told


def _moment(random: Random) -> datetime:
    """Return a moment of those hours; often the first of one, or the last microsecond, which no rounding may move."""
    if random.random() < 0.3:
        return START + timedelta(hours=random.randint(1, HOURS - 1), microseconds=random.choice((0, -1)))
    return START + timedelta(microseconds=random.randrange(HOURS * 3600 * 10**6))


async def _counted(tx: Connection, number: int, first: int, after: int) -> dict[int, list[float]]:
    """Return the counts of a window that ended, per series that has any."""
    (sums,) = await counting.sum_hours(tx, [(number, first, after)], replaced=True)
    found: dict[int, list[float]] = {}
    for series, counts in sums:
        into = found.setdefault(series, [0.0] * WIDTH)
        found[series] = [a + b for a, b in zip(into, counts, strict=True)]
    return {series: counts for series, counts in found.items() if any(counts)}


async def _recounted(tx: Connection, number: int, first: int, after: int) -> dict[int, list[float]]:
    """Count the stored answers themselves: of a respondent the latest within the window."""
    found: dict[int, list[float]] = {}
    for series, score, kind in await tx.fetch(_RECOUNT, number, hour_time(first), hour_time(after)):
        counts = found.setdefault(series, [0.0] * WIDTH)
        counts[category_of(kind, score)] += 1
        counts[SUM] += score if kind == "kpi" else 0
    return {series: counts for series, counts in found.items() if any(counts)}


async def _tables(tx: Connection, number: int) -> tuple[list[Any], list[Any]]:
    """Return buckets and what was replaced, without rows that have come back to nothing."""
    buckets = await tx.fetch("SELECT * FROM bucket WHERE customer = $1 ORDER BY hour, series", number)
    replaced = await tx.fetch(
        "SELECT hour, until, series, category, count, total FROM replaced WHERE customer = $1 ORDER BY 1, 2, 3, 4",
        number,
    )
    return [tuple(row) for row in buckets if any(row[3:])], [tuple(row) for row in replaced if any(row[4:])]


async def test_each_window_that_ended_is_what_its_answers_say(of: Any) -> None:
    """Of one respondent with answers in three hours each window holds the latest within it, whenever that came in."""
    database = await of("scoring")
    at = [START + timedelta(minutes=minutes) for minutes in (10, 130, 70, 75)]
    told = [build.answer(score, respondent="r-1", occurred_at=a) for score, a in zip((0, 10, 7, 3), at, strict=True)]
    async with database.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await _tell(tx, state, told)
        detractor, promoter = [1.0, *[0.0] * 7], [0.0, 0.0, 1.0, *[0.0] * 5]
        for first, after, wanted in (
            (0, 1, detractor),
            (1, 2, detractor),  # the seven of that hour was replaced within it
            (0, 2, detractor),
            (2, 3, promoter),
            (0, 3, promoter),
            (1, 9, promoter),
        ):
            assert await _counted(tx, state.number, FIRST + first, FIRST + after) == {0: wanted}
            assert await _recounted(tx, state.number, FIRST + first, FIRST + after) == {0: wanted}
        assert await _counted(tx, state.number, FIRST + 3, FIRST + 9) == {}
        (now,) = await counting.sum_hours(tx, [(state.number, FIRST, FIRST + 9)])
        assert [counts for _, counts in now if any(counts)] == [promoter], "a window that ends now holds the latest"


@pytest.mark.parametrize("seed", range(3))
async def test_the_tables_are_a_recount_of_the_answers(of: Any, seed: int) -> None:
    """In whatever order answers arrive, every window is a sum over two tables; and a rebuild finds the same ones."""
    database = await of("scoring")
    async with database.transaction() as tx:
        state, other = await answers.customers(tx, {"acme": 0, "borealis": 0}, build.NOW)
        await _tell(tx, other, _answers(seed + 100, 10))
        await _tell(tx, state, _answers(seed, 70))
        for first, after in combinations(range(FIRST, FIRST + HOURS + 1), 2):
            counted = await _counted(tx, state.number, first, after)
            assert counted == await _recounted(tx, state.number, first, after), (first - FIRST, after - FIRST)
        tables = [await _tables(tx, one.number) for one in (state, other)]
        await counting.rebuild(tx, state.number)
        assert [await _tables(tx, one.number) for one in (state, other)] == tables
        await counting.rebuild(tx, other.number)
        assert [await _tables(tx, one.number) for one in (state, other)] == tables


async def test_sums_come_in_the_order_in_which_they_are_asked(of: Any) -> None:
    """A batch asks for many customers at once: none is given another's counts."""
    database = await of("scoring")
    async with database.transaction() as tx:
        states = await answers.customers(tx, {"acme": 0, "borealis": 0}, build.NOW)
        for n, state in enumerate(states):
            await _tell(tx, state, [build.answer(10, occurred_at=START)])
            for _ in range(n):
                await _tell(tx, state, [build.answer(0, occurred_at=START)])
        asked = [(state.number, FIRST, FIRST + after) for state in (*states, *reversed(states)) for after in (0, 1)]
        found = [sum(sum(counts) for _, counts in sums) for sums in await counting.sum_hours(tx, asked, replaced=True)]
        assert found == [0, 1, 0, 2, 0, 2, 0, 1]
        assert await counting.sum_hours(tx, []) == []


async def test_neighbours_are_those_of_the_same_respondent_and_series(of: Any) -> None:
    """Right before and right after, by when it occurred, was received, then by id."""
    database = await of("scoring")
    told = _answers(7, 60)
    async with database.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await _tell(tx, state, told)
        same = [build.answer(n, respondent="r-9", occurred_at=START, id=UUID(int=n)) for n in (1, 2, 4)]
        later = build.answer(5, respondent="r-9", occurred_at=START, received_at=build.NOW + timedelta(seconds=1))
        await _tell(tx, state, [*same, later])
        told += [*same, later]
        asked = [a for a in told if a.respondent is not None]
        asked += [build.answer(3, respondent="r-9", occurred_at=START, id=UUID(int=3))]
        last: dict[answers.Voice, Said] = {}
        for answer in asked:
            voice = (answers.place_of(state.number, state.series[series_of(answer)]), str(answer.respondent))
            found = [said for of, said in await answers.neighbours(tx, [(voice, _said(answer))]) if of == voice]
            who = (series_of(answer), answer.respondent)
            others = [_said(a) for a in told if (series_of(a), a.respondent) == who and a.id != answer.id]
            assert neighbours(_said(answer), found) == neighbours(_said(answer), others)
            assert len(found) == sum(one is not None for one in neighbours(_said(answer), others))
            last[voice] = max([_said(a) for a in told if (series_of(a), a.respondent) == who])
        assert await answers.latest(tx, [*last, (answers.place_of(state.number, 0), "nobody")]) == last


# ---- windows in memory


def _plan(*, per_touchpoint: bool) -> Plan:
    when = NpsDrop(20, 24 * 3600), NpsBelow(0, 3 * 3600)
    of = (False, True) if per_touchpoint else (False,)
    return plan([build.rule(w, name=f"r-{n}-{own}", per_touchpoint=own) for n, w in enumerate(when) for own in of])


async def test_windows_are_read_and_moved(of: Any) -> None:
    """Windows that were moved along hold what those hold that are read afresh, and the exact ones what is stored."""
    database = await of("scoring")
    rules, now = _plan(per_touchpoint=True), START + timedelta(hours=HOURS)
    async with database.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await counting.move_windows(tx, [(state, rules)], now)
        await _tell(tx, state, _answers(1, 70))
        state.hours.clear()
        state.before.clear()
        state.exact.clear()
        seen: list[float] = []
        for hours in range(58):
            await counting.move_windows(tx, [(state, rules)], now + timedelta(hours=hours))
            fresh = await answers.known_customer(tx, "acme")
            assert fresh is not None
            await counting.move_windows(tx, [(fresh, rules)], now + timedelta(hours=hours))
            one, other = _views(state), _views(fresh)
            assert one == other
            start = hour_of(now + timedelta(hours=hours)) - 24
            for window, range_ in ((state.hours, (start, start + 999)), (state.before, (start - 24, start))):
                each = await _recounted(tx, state.number, *range_)
                mine = [each[n] for series, n in state.series.items() if series.kind == "nps" and n in each]
                wanted = [sum(column) for column in zip([0.0] * WIDTH, *mine, strict=True)]
                assert window[24 * 3600].view(NPS, None, of_touchpoint=False).all == wanted[:3]
            seen.append(sum(sum(counts) for counts in one))
        assert len(set(seen)) > 5, "they did move"
        assert sum(state.hours[24 * 3600].view(NPS, None, of_touchpoint=False).all) == 0, "all have left by now"


def _views(state: CustomerState) -> list[list[float]]:
    """Return the counts of every window, of all answers and of verified ones alone."""
    windows = (state.hours[24 * 3600], state.before[24 * 3600], state.exact[3 * 3600])
    measures = (NPS, Measure("mood", None, "customer"), Measure("kpi", "speed", "customer"))
    views = [
        window.view(measure, touchpoint, of_touchpoint=of_touchpoint)
        for window in windows
        for measure in measures
        for touchpoint, of_touchpoint in ((None, False), (None, True), ("support", True))
    ]
    return [list(counts) for view in views for counts in (view.all, view.verified)]


async def test_a_rule_that_comes_to_judge_touchpoints_finds_them_counted(of: Any) -> None:
    """Who adds `per: touchpoint` to a rule has it from the next answer on, not from the next restart."""
    database = await of("scoring")
    async with database.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await _tell(tx, state, [build.answer(0)])
        await counting.move_windows(tx, [(state, _plan(per_touchpoint=False))], build.NOW)
        await counting.move_windows(tx, [(state, _plan(per_touchpoint=True))], build.NOW)
    assert state.hours[24 * 3600].view(NPS, "support", of_touchpoint=True).all == [1, 0, 0]


async def test_a_rule_that_comes_to_judge_another_kind_finds_it_counted(of: Any) -> None:
    """A window holds what rules look at; a rule that is added finds what was said before it."""
    database = await of("scoring")
    mood = build.rule(MoodBelow(2.5, 24 * 3600), name="mood")
    async with database.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await _tell(tx, state, [build.answer(0), build.answer(1, kind="mood")])
        for rules in (_plan(per_touchpoint=False), plan([*_plan(per_touchpoint=False).rules.values(), mood])):
            await counting.move_windows(tx, [(state, rules)], build.NOW)
    view = state.hours[24 * 3600].view(Measure("mood", None, "customer"), None, of_touchpoint=False)
    assert view.all == [1, 0, 0, 0]


# ---- from revision 0001


@pytest.fixture
async def old(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """Scoring's schema as its first revision left it."""
    shutil.copy(MIGRATIONS["scoring"] / "0001_answers_and_alerts.py", tmp_path)
    made = Database(database_url, "scoring", pool=3)
    assert [step for step in await made.migrate(tmp_path) if step == "scoring 0001"]
    yield made
    await made.close()


_OLD_SERIES = (
    "INSERT INTO series (customer, touchpoint, audience, kind, trust) VALUES ($1, $2, $3, $4, $5) RETURNING id"
)
_OLD_ANSWER = """
INSERT INTO answer (id, customer, series, score, occurred_at, received_at, respondent, metric, comment, channel,
    language, contact, context, backfill)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""
_HOURS = "SELECT hour, c1, c2, c3, c4, c5, c6, c7 FROM bucket WHERE customer = $1 AND series = $2 ORDER BY hour"
_OLD_ALERT = """
INSERT INTO alert (id, version, customer, partition, rule, kind, dedup_key, state, severity, trust,
    opened_at, updated_at, caused_at, due_at, pending, body)
VALUES ($1, 1, 'acme', 0, 'nps-low', 'nps_below', 'acme/nps-low/*', 'open', 'high', 'verified',
    $2, $2, $2, $2, false, $3)
"""
_OLD_BUCKET = (
    "INSERT INTO bucket (series, hour, c1, c2, c3, c4, c5, c6, c7) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
)


async def _tell_old(tx: Connection, told: Sequence[FeedbackReceivedV1]) -> dict[tuple[str, Series], list[Any]]:
    """Store answers as revision 0001 did, with their buckets; return those of ratings, by customer and series."""
    numbers: dict[tuple[str, Series], int] = {}
    latest: dict[object, FeedbackReceivedV1] = {}
    for a in told:
        key = (a.customer, series_of(a)._replace(metric=None))
        if key not in numbers:
            numbers[key] = await tx.fetchval(_OLD_SERIES, a.customer, a.touchpoint, a.audience, a.kind, a.trust)
        facts = (a.score, a.occurred_at, a.received_at, a.respondent, a.metric, a.comment, a.channel, a.language)
        await tx.execute(_OLD_ANSWER, a.id, a.customer, numbers[key], *facts, a.contact, None, a.backfill)
        who = (key, a.respondent or a.id)
        if who not in latest or _said(latest[who]) < _said(a):
            latest[who] = a
    buckets: dict[tuple[str, Series], dict[int, list[int]]] = {}
    for a in latest.values():
        if a.kind != "kpi":
            hours = buckets.setdefault((a.customer, series_of(a)), {})
            hours.setdefault(hour_of(a.occurred_at), [0] * 7)[category_of(a.kind, a.score)] += 1
    for key, hours in buckets.items():
        for hour, counts in hours.items():
            await tx.execute(_OLD_BUCKET, numbers[key], hour, *counts)
    return {key: sorted((hour, *counts) for hour, counts in hours.items()) for key, hours in buckets.items()}


NEWER = [f"scoring {number:04}" for number in range(2, 6)]


async def test_the_upgrade_keeps_what_was_answered_and_counted(old: Database) -> None:
    """Who upgrades loses no answer and no point: the buckets are the same, those of key metrics are there now too.

    What a respondent said before counts in windows that ended before they answered again.
    """
    told = [*_answers(1, 60), *(replace(a, customer="borealis") for a in _answers(2, 20))]
    more = {"comment": "Slow", "contact": "r@example.test", "language": "fi"}
    told.append(build.answer(1, kind="csat", audience="employee", **more))
    open_alert = _telling(id=uuid7()).message
    async with old.transaction() as tx:
        buckets = await _tell_old(tx, told)
        await tx.execute(_OLD_ALERT, open_alert.id, build.NOW, msgspec.json.encode(open_alert).decode())
    assert await old.migrate(MIGRATIONS["scoring"]) == NEWER
    async with old.transaction() as tx:
        assert [one.id for one in await alerts.open_alerts(tx, ["acme"])] == [open_alert.id]
        shown = await reads.alert(tx, open_alert.id)
        assert shown is not None
        assert (shown.id, shown.opened) == (open_alert.id, None)
        for state in await answers.customers(tx, {"acme": 3, "borealis": 5}, build.NOW):
            mine = [a for a in told if a.customer == state.name]
            assert set(state.series) == {series_of(a) for a in mine}
            assert sorted(state.series.values()) == list(range(len(state.series)))
            rows = await tx.fetch(
                "SELECT id, series, score, occurred_at, received_at, respondent, comment, channel, language, contact,"
                " backfill, follow_up FROM answer WHERE customer = $1 ORDER BY id",
                state.number,
            )
            kept = [(UUID(int=row[0].int), *row[1:]) for row in map(tuple, rows)]
            assert kept == [
                (
                    a.id,
                    state.series[series_of(a)],
                    a.score,
                    a.occurred_at,
                    a.received_at,
                    a.respondent,
                    a.comment,
                    a.channel,
                    a.language,
                    a.contact,
                    False,
                    None,
                )
                for a in sorted(mine, key=lambda a: a.id)
            ]
            for series, number in state.series.items():
                hours = await tx.fetch(_HOURS, state.number, number)
                if series.kind != "kpi":
                    assert [tuple(row) for row in hours] == buckets[state.name, series]
                else:
                    assert sum(row["c1"] for row in hours) > 0
            for first, after in combinations(range(FIRST, FIRST + HOURS + 2), 2):
                counted = await _counted(tx, state.number, first, after)
                assert counted == await _recounted(tx, state.number, first, after)
            tables = await _tables(tx, state.number)
            assert all(tables), "some were replaced"
            await counting.rebuild(tx, state.number)
            assert await _tables(tx, state.number) == tables


async def test_after_the_upgrade_counting_goes_on(old: Database) -> None:
    """The next answer of a respondent takes the place of one from before the upgrade."""
    first, second = _answers(3, 40), _answers(4, 40)
    async with old.transaction() as tx:
        _ = await _tell_old(tx, first)
    _ = await old.migrate(MIGRATIONS["scoring"])
    async with old.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await _tell(tx, state, second)
        for start, after in combinations(range(FIRST, FIRST + HOURS + 2), 2):
            counted = await _counted(tx, state.number, start, after)
            assert counted == await _recounted(tx, state.number, start, after)


async def test_an_empty_installation_upgrades_too(old: Database) -> None:
    assert await old.migrate(MIGRATIONS["scoring"]) == NEWER
    assert await old.migrate(MIGRATIONS["scoring"]) == []


async def test_the_upgrade_puts_the_last_half_second_into_its_hour(old: Database) -> None:
    """Else it would be taken out of another hour than the one that it is counted in, and stay counted for ever."""
    last = build.answer(0, respondent="r-1", occurred_at=START + timedelta(hours=1, microseconds=-300_000))
    async with old.transaction() as tx:
        _ = await _tell_old(tx, [last])
    _ = await old.migrate(MIGRATIONS["scoring"])
    async with old.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        assert await _counted(tx, state.number, FIRST, FIRST + 1) == {0: [1, *[0] * 7]}


async def test_a_transaction_that_is_broken_off_is_not_another_ones(database_url: str) -> None:
    """Cancelled within BEGIN, a connection must not go back to the pool: all later work on it would be lost."""
    database = Database(database_url, "notify", pool=1)
    await database.migrate(MIGRATIONS["notify"])

    async def work() -> int:
        async with database.transaction() as tx:
            await tx.execute(
                "INSERT INTO standing (customer, day, body) VALUES ('acme', '', '') ON CONFLICT DO NOTHING"
            )
            return await tx.fetchval("SELECT pg_backend_pid()")

    async with database.transaction() as tx:
        backend = await tx.fetchval("SELECT pg_backend_pid()")
    os.kill(backend, signal.SIGSTOP)
    try:
        task = asyncio.create_task(work())
        await asyncio.sleep(0.1)  # it waits for the answer to BEGIN
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        os.kill(backend, signal.SIGCONT)
    await work()
    looker = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    assert await looker.fetchval("SELECT count(*) FROM notify.standing") == 1
    await looker.close()
    await database.close()
