"""What an installation of the first revision has counted is the same after every later one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from msgspec.structs import replace

from services.scoring.domain.counting import (
    Series,
    category_of,
    hour_of,
    series_of,
)
from services.scoring.store import alerts, answers, counting, reads
from shared.database.migrate import migrate
from shared.database.pool import Connection, Database
from shared.wire.events import FeedbackReceivedV1
from shared.wire.ids import uuid7
from tests.integration.test_scoring_counts_sql import (
    FIRST,
    HOURS,
    START,
    counted_hours,
    made_answers,
    recounted_hours,
    tables_of,
    tell,
)
from tests.integration.test_store_sql import telling
from tests.support import build
from tests.support.services import MIGRATIONS

# ---- from revision 0001


@pytest.fixture
async def old(empty_database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """Scoring's schema as its first revision left it."""
    shutil.copy(MIGRATIONS["scoring"] / "0001_answers_and_alerts.py", tmp_path)
    made = Database(empty_database_url, "scoring", pool=3)
    assert [step for step in await migrate(made, tmp_path) if step == "scoring 0001"]
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
        if who not in latest or build.dated_score(latest[who]) < build.dated_score(a):
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


NEWER = [f"scoring {step.stem[:4]}" for step in sorted(MIGRATIONS["scoring"].glob("0*.py"))[1:]]


async def test_the_upgrade_keeps_what_was_answered_and_counted(old: Database) -> None:
    """Who upgrades loses no answer and no point: the buckets are the same, those of key metrics are there now too.

    What a respondent said before counts in windows that ended before they answered again.
    """
    told = [*made_answers(1, 60), *(replace(a, customer="borealis") for a in made_answers(2, 20))]
    more = {"comment": "Slow", "contact": "r@example.test", "language": "fi"}
    told.append(build.answer(1, kind="csat", audience="employee", **more))
    open_alert = telling(id=uuid7()).message
    async with old.transaction() as tx:
        buckets = await _tell_old(tx, told)
        await tx.execute(_OLD_ALERT, open_alert.id, build.NOW, msgspec.json.encode(open_alert).decode())
    assert await migrate(old, MIGRATIONS["scoring"]) == NEWER
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
                counted = await counted_hours(tx, state.number, first, after)
                assert counted == await recounted_hours(tx, state.number, first, after)
            tables = await tables_of(tx, state.number)
            assert all(tables), "some were replaced"
            await counting.rebuild(tx, state.number)
            assert await tables_of(tx, state.number) == tables


async def test_after_the_upgrade_counting_goes_on(old: Database) -> None:
    """The next answer of a respondent takes the place of one from before the upgrade."""
    first, second = made_answers(3, 40), made_answers(4, 40)
    async with old.transaction() as tx:
        _ = await _tell_old(tx, first)
    _ = await migrate(old, MIGRATIONS["scoring"])
    async with old.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await tell(tx, state, second)
        for start, after in combinations(range(FIRST, FIRST + HOURS + 2), 2):
            counted = await counted_hours(tx, state.number, start, after)
            assert counted == await recounted_hours(tx, state.number, start, after)


async def test_an_empty_installation_upgrades_too(old: Database) -> None:
    assert await migrate(old, MIGRATIONS["scoring"]) == NEWER
    assert await migrate(old, MIGRATIONS["scoring"]) == []


async def test_the_upgrade_puts_the_last_half_second_into_its_hour(old: Database) -> None:
    """Else it would be taken out of another hour than the one that it is counted in, and stay counted for ever."""
    last = build.answer(0, respondent="r-1", occurred_at=START + timedelta(hours=1, microseconds=-300_000))
    async with old.transaction() as tx:
        _ = await _tell_old(tx, [last])
    _ = await migrate(old, MIGRATIONS["scoring"])
    async with old.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        assert await counted_hours(tx, state.number, FIRST, FIRST + 1) == {0: [1, *[0] * 7]}


async def test_a_transaction_that_is_broken_off_is_not_another_ones(database_url: str) -> None:
    """Cancelled within BEGIN, a connection must not go back to the pool: all later work on it would be lost."""
    database = Database(database_url, "notify", pool=1)
    await migrate(database, MIGRATIONS["notify"])

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
