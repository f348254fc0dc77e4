"""Due rows of a real table: a claim with a lease that passes by what is set aside, and the loop around it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection

import pytest

from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.errors import Transient
from shared.runtime.due import DueLoop
from shared.runtime.quarantine import Quarantine, TooManySetAside, items, judging, not_held, release
from tests.support.wait import until, until_true

_CLAIM = f"""
UPDATE work SET due_at = now() + interval '1 minute' WHERE id IN (
    SELECT id FROM work WHERE due_at <= now() AND {not_held("work", "work.id")}
    ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED
) RETURNING id
"""


class Work:
    """Rows that fall due; deciding those of `bad` fails for a reason of theirs."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.bad: Collection[int] = ()
        self.before: Callable[[], None] = lambda: None
        """Called before each claim."""
        self.loop = DueLoop("notify", "work", self._do, Quarantine(database), at_once=10, poll=0.02)

    async def _do(self, limit: int) -> int:
        self.before()
        async with self.database.transaction() as tx:
            claimed = [row["id"] for row in await tx.fetch(_CLAIM, limit)]
            with judging("work", claimed):
                for row in claimed:
                    if row in self.bad:
                        raise OverflowError("date value out of range")
                    await tx.execute("DELETE FROM work WHERE id = $1", row)
        return len(claimed)

    async def add(self, first: int, count: int) -> None:
        """Let rows fall due."""
        async with self.database.transaction() as tx:
            await tx.execute("INSERT INTO work SELECT generate_series($1::int, $2::int)", first, first + count - 1)

    async def left(self) -> list[int]:
        """Return the rows that are not done."""
        async with self.database.transaction() as tx:
            return [row[0] for row in await tx.fetch("SELECT id FROM work ORDER BY id")]

    async def aside(self) -> list[int]:
        """Return those that are set aside."""
        async with self.database.transaction() as tx:
            return [int(one.key) for one in await items(tx) if one.queue == "work"]


@pytest.fixture
async def work(database_url: str) -> AsyncIterator[Work]:
    database = Database(database_url, "notify", pool=3)
    await migrate(database, None)
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE work (id int PRIMARY KEY, due_at timestamptz NOT NULL DEFAULT now())")
    yield Work(database)
    await database.close()


@contextlib.asynccontextmanager
async def running(work: Work) -> AsyncIterator[asyncio.Task[None]]:
    """Run the loop until the block ends."""
    task = asyncio.create_task(work.loop.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_one_row_of_ten_is_at_fault(work: Work) -> None:
    """It alone is set aside, the loop goes on; released once its cause is mended, it is done like any other."""
    work.bad = {4}
    await work.add(1, 10)
    async with running(work) as task:

        async def only_it() -> bool:
            return await work.left() == [4] and await work.aside() == [4]

        await until(only_it)
        await work.add(11, 5)
        await until(only_it)
        work.bad = ()
        async with work.database.transaction() as tx:
            (held,) = await items(tx)
            assert (held.reason, held.detail) == ("OverflowError", "OverflowError: date value out of range")
            await release(tx, held.id)
        await until(lambda: _done(work))
        assert not task.done()


async def _done(work: Work) -> bool:
    return not await work.left()


async def test_a_row_that_is_held_is_not_touched(work: Work) -> None:
    """Its lease stands still too: released, it is due at once."""
    work.bad = {1}
    await work.add(1, 3)
    while await work.loop.once():
        pass
    async with work.database.transaction() as tx:
        assert await tx.fetchval("SELECT due_at <= now() FROM work WHERE id = 1")
        assert await tx.fetch(_CLAIM, 10) == []


async def test_more_than_a_hundred_in_a_row_are_our_fault(work: Work) -> None:
    """Setting aside one after the other what we cannot do would hide it."""
    work.bad = range(1, 200)
    await work.add(1, 150)
    with pytest.raises(TooManySetAside, match="101 rows of work in a row"):
        await asyncio.wait_for(work.loop.run(), 30)
    assert len(await work.aside()) == 101


async def test_what_is_away_is_waited_for(work: Work) -> None:
    """No row is to blame, and none is lost."""
    away, asked = True, 0

    def before() -> None:
        nonlocal asked
        asked += 1
        if away:
            raise Transient("refused", of="PostgreSQL")

    work.before = before
    await work.add(1, 3)
    async with running(work) as task:
        await until_true(lambda: asked > 2)
        assert await work.left() == [1, 2, 3]
        away = False
        await until(lambda: _done(work))
        assert await work.aside() == []
        assert not task.done()
