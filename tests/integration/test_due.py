"""Due rows: a batch with a row that cannot be decided is done again one by one, and that row alone is set aside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

import asyncpg
import pytest

from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.errors import Transient
from shared.runtime.due import DueLoop
from shared.runtime.quarantine import Quarantine, TooManySetAside, held, items, judging, release


class Queue:
    """Rows of a table, some of which nobody can decide."""

    def __init__(self, database: Database, bad: Collection[int], *, together: int = 1) -> None:
        """`together`: how many of them are decided as one."""
        self.database = database
        self.bad = bad
        self.together = together
        self.waiting = list(range(40))
        self.done: list[int] = []
        self.quarantine = Quarantine(database)
        self.loop = DueLoop("notify", "rows", self._work, self.quarantine, at_once=10)

    async def _work(self, limit: int) -> int:
        async with self.database.transaction() as tx:
            aside = await held(tx, "rows")
            claimed = [row for row in self.waiting if str(row) not in aside][: limit * self.together]
            with judging("rows", claimed):
                for row in claimed:
                    await tx.fetchval("SELECT 1 / $1::int", 0 if row in self.bad else 1)
        self.done += claimed
        self.waiting = [row for row in self.waiting if row not in claimed]
        return len(claimed)

    async def drain(self) -> None:
        while await self.loop.once():
            pass


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url, "notify", pool=3)
    await migrate(made, None)
    yield made
    await made.close()


async def aside(database: Database) -> list[str]:
    async with database.transaction() as tx:
        return [one.key for one in await items(tx) if one.queue == "rows"]


async def test_the_row_at_fault_is_set_aside_and_all_others_are_done(database: Database) -> None:
    """It is counted and told until somebody releases it; then it is done like any other."""
    queue = Queue(database, {3, 17, 18})
    await queue.drain()
    assert await aside(database) == ["3", "17", "18"]
    assert sorted(queue.done) == [row for row in range(40) if row not in queue.bad]
    await queue.quarantine.measure()
    assert queue.quarantine.notes() == {"quarantine": "3 set aside: python -m services quarantine list"}
    queue.bad = ()
    async with database.transaction() as tx:
        (first, *_) = await items(tx)
        assert await release(tx, first.id) == ("rows", "3")
        assert first.reason == "DivisionByZeroError"
    await queue.drain()
    assert 3 in queue.done


async def test_what_is_decided_as_one_is_set_aside_together(database: Database) -> None:
    """It would be tried for ever otherwise."""
    queue = Queue(database, {5}, together=2)
    await queue.drain()
    assert await aside(database) == ["4", "5"]
    assert len(queue.done) == 38


async def test_when_all_are_at_fault_it_is_ours(database: Database) -> None:
    """A hundred in a row end the process; good ones between them show that it is not so."""
    queue = Queue(database, range(300))
    queue.waiting = list(range(300))
    with pytest.raises(TooManySetAside):
        await queue.drain()
    async with database.transaction() as tx:
        await tx.execute("DELETE FROM quarantine")
    mixed = Queue(database, range(0, 300, 2))
    mixed.waiting = list(range(300))
    await mixed.drain()
    assert len(await aside(database)) == 150


async def test_a_database_that_goes_away_is_no_rows_fault(database: Database) -> None:
    """Within a transaction the driver says it in its own words."""

    async def judged(statement: str) -> None:
        async with database.transaction() as tx:
            with judging("rows", [1]):
                await tx.execute(statement)

    with pytest.raises(Transient):
        await judged("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(asyncpg.UndefinedTableError):
        await judged("SELECT * FROM nothing_of_the_sort")
    assert await aside(database) == []
