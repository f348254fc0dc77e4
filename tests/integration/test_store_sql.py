"""Each store's SQL against the schema that its migrations make, and what must hold as constraints of PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import pytest
from alembic.script import ScriptDirectory

import services
import shared
from services.notify.store import deliveries, pages
from services.notify.store.deliveries import NewDelivery
from services.scoring.domain.counting import (
    Series,
    new_answer,
)
from services.scoring.domain.decide import Alert, Decision
from services.scoring.domain.silence import Pulse
from services.scoring.domain.windows import Measure
from services.scoring.store import alerts, answers
from services.ticketing.domain.ticket import Outcome
from services.ticketing.store import tickets
from shared.database.migrate import Migrations, folders, migrate
from shared.database.pool import Connection, Database
from shared.wire.ids import uuid7
from tests.support import build
from tests.support.services import MIGRATIONS

NPS = Measure("nps", None, "customer")
_STATEMENT = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_SHARED = [
    importlib.import_module(f"shared.{name}")
    for _, name, package in pkgutil.iter_modules(shared.__path__)
    if not package
]
_ONLY = {"shared.database.erasure_keys": {"scoring", "ticketing"}}
"""In whose schemas what is shared by some services runs."""


def _statements() -> Iterator[tuple[str, ModuleType, str]]:
    """Find every module-level statement, with the service in whose schema it runs."""
    for service in MIGRATIONS:
        store = importlib.import_module(f"services.{service}.store")
        rooms = [f"{store.__name__}.{room.name}" for room in pkgutil.iter_modules(getattr(store, "__path__", ()))]
        for module in (store, *map(importlib.import_module, rooms), *_SHARED):
            if service not in _ONLY.get(module.__name__, MIGRATIONS):
                continue
            for name, value in vars(module).items():
                if name.isupper() and isinstance(value, str) and _STATEMENT.match(value.strip()):
                    yield service, module, name


STATEMENTS = list(_statements())


@pytest.fixture(params=list(MIGRATIONS))
async def database(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Database]:
    """A service's schema, freshly migrated."""
    made = Database(database_url, request.param, pool=3)
    await migrate(made, MIGRATIONS[request.param])
    yield made
    await made.close()


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


CHAINS = {"shared": folders(None)[0], **{name: folders(folder)[1] for name, folder in MIGRATIONS.items()}}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_chain_of_migrations_has_one_end(chain: Migrations) -> None:
    """Two people who add a migration at once find out here, not at a customer's; names of files are in its order."""
    script = ScriptDirectory(str(chain.folder), version_locations=[str(chain.folder)])
    assert len(script.get_heads()) == 1
    assert len(script.get_bases()) == 1
    assert tuple(reversed([step.revision for step in script.walk_revisions()])) == chain.revisions


def test_every_folder_of_migrations_is_run() -> None:
    """A service with migrations that `migrate` does not know would have no tables."""
    root = Path(services.__path__[0])
    found = {name for _, name, package in pkgutil.iter_modules(services.__path__) if package}
    assert {name for name in found if (root / name / "migrations").exists()} == set(MIGRATIONS)


async def test_migrating_again_changes_nothing(database: Database) -> None:
    """Every start migrates."""
    assert await migrate(database, MIGRATIONS[database.schema]) == []  # type: ignore[index]


async def test_migrating_at_the_same_time_is_safe(empty_database_url: str) -> None:
    """Every replica of every service migrates when it starts: each revision is applied once."""
    databases = [Database(empty_database_url, service, pool=1) for service in MIGRATIONS for _ in range(3)]
    try:
        applied = await asyncio.gather(*(migrate(d, MIGRATIONS[d.schema]) for d in databases))  # type: ignore[index]
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
        with pytest.raises(tickets.AlreadyOpen):
            async with database.transaction() as tx:
                await save(tx, second)
    # The same number for another problem is another fault, and is not taken for this one.
    another = build.ticket(number=1, dedup_key="acme/another/*")
    await _refuses(database, "ticket_number_key", lambda tx: save(tx, another))
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
        await pages.save(tx, [pages.StoredPage(first, None)])
    again = build.page(ticket=first.ticket)
    await _refuses(database, "one_page_per_opening", lambda tx: pages.save(tx, [pages.StoredPage(again, None)]))
    async with database.transaction() as tx:
        await pages.save(tx, [pages.StoredPage(build.page(ticket=first.ticket, opening=2), None)])


async def test_a_page_that_waits_has_a_moment(of: Any) -> None:
    """A page without a due moment would be forgotten for ever."""
    database = await of("notify")
    for wrong in (build.page(due_at=None), build.page(state="resolved")):
        with pytest.raises(asyncpg.CheckViolationError, match="waiting_page_has_a_due_moment"):
            async with database.transaction() as tx:
                await pages.save(tx, [pages.StoredPage(wrong, None)])


async def test_a_contact_is_called_once_in_a_turn(of: Any) -> None:
    """A turn that is taken twice adds no second delivery."""
    database = await of("notify")
    page = build.page(turn=1, level=1)
    async with database.transaction() as tx:
        await pages.save(tx, [pages.StoredPage(page, None)])
        for _ in range(2):
            await deliveries.add(tx, [NewDelivery(page.id, "architect-1", 0, build.NOW, turn=1, level=1)], build.NOW)
        assert await tx.fetchval("SELECT count(*) FROM delivery") == 1


async def test_an_answer_counts_once(of: Any) -> None:
    """The same id of the same customer is one answer; another customer may have chosen the same id."""
    database = await of("scoring")
    answer = build.answer()
    async with database.transaction() as tx:
        other = build.answer(id=answer.id, customer="borealis")
        await answers.store_answers(
            tx, [new_answer(answer), new_answer(other)], [answers.place_of(1, 0), answers.place_of(2, 0)]
        )
        assert await answers.known_ids(tx, [answer.id, uuid7()]) == {(answer.id, 1), (answer.id, 2)}
    again = build.answer(id=answer.id, score=0)
    await _refuses(
        database,
        "answer_counts_once",
        lambda tx: answers.store_answers(tx, [new_answer(again)], [answers.place_of(1, 5)]),
    )


def telling(**fields: Any) -> alerts.PublishedDecision:
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
    return alerts.PublishedDecision(Decision("opened", alert, {}, ""), message, 0, None)


async def test_a_window_has_one_open_alert(of: Any) -> None:
    """A rule on a window opens again only after it has cleared."""
    database = await of("scoring")
    first = telling(id=uuid7())
    async with database.transaction() as tx:
        await alerts.save(tx, [first])
    await _refuses(database, "one_open_alert", lambda tx: alerts.save(tx, [telling(id=uuid7())]))
    async with database.transaction() as tx:
        await alerts.save(tx, [telling(id=first.message.id, state="cleared", cleared_at=build.NOW)])
        await alerts.save(tx, [telling(id=uuid7())])


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
