"""One bad row stops itself alone: what cannot be stored or decided is set aside, and everything else goes on.

A row that is set aside stays where it is. Claims pass it by (`not_held`), it is counted, told at `/readyz` and listed
by `python -m services quarantine list`, until a person has mended the cause and releases it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection, Generator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from shared.database.pool import Connection, Database, transient_errors
from shared.errors import Misconfigured, Transient
from shared.runtime import metrics
from shared.runtime.logs import Log

log = Log("shared.runtime.quarantine")

_LIMIT = 100
"""Rows set aside in a row, in one queue, after which the fault is ours."""

_SET_ASIDE = """
INSERT INTO quarantine (queue, key, reason, detail) VALUES ($1, $2, $3, $4)
ON CONFLICT (queue, key) DO UPDATE SET reason = excluded.reason, detail = excluded.detail, at = now()
"""
_HELD = "SELECT key FROM quarantine WHERE queue = $1"
_COUNT = "SELECT count(*) FROM quarantine"
_ITEMS = "SELECT id, queue, key, reason, detail, at FROM quarantine ORDER BY id"
_RELEASE = "DELETE FROM quarantine WHERE id = $1 RETURNING queue, key"


class Undecidable(Exception):
    """The work on some rows failed for a reason of theirs: of one of them, where there are several."""

    def __init__(self, queue: str, keys: Sequence[str]) -> None:
        super().__init__(f"{queue}: {len(keys)} rows")
        self.queue = queue
        self.keys = keys


class TooManySetAside(Exception):
    """So many rows in a row were set aside that the fault is ours."""


class Held(NamedTuple):
    """What lies in the quarantine."""

    id: int
    queue: str
    """Which of the service's queues it is of."""
    key: str
    """Of its row there."""
    reason: str
    detail: str
    at: datetime


def is_one_rows(error: BaseException) -> bool:
    """Tell whether an error may come from one row's, record's or answer's content.

    Not so: what is away, a setting, and what would fail for every row (a table or a right that is missing).
    """
    ours = (Transient, Misconfigured, TooManySetAside, asyncpg.SyntaxOrAccessError, MemoryError)
    return isinstance(error, Exception) and not isinstance(error, ours)


def _is_away(error: Exception) -> bool:
    """Tell whether an error of the driver means that the database is away; a transaction says so only at its end."""
    if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError)):
        return False  # no socket's: such as what is kept compressed and cannot be unpacked
    try:
        with transient_errors():
            raise error
    except Exception as told:  # noqa: BLE001 (it is the one that was asked about)
        return isinstance(told, (Transient, Misconfigured))


def not_held(queue: str, key: str) -> str:
    """Return the SQL condition that passes by what is set aside; `key` is the column that says which row it is."""
    return f"NOT EXISTS (SELECT FROM quarantine WHERE quarantine.queue = '{queue}' AND quarantine.key = {key}::text)"


@contextlib.contextmanager
def judging(queue: str, keys: Collection[object]) -> Generator[None]:
    """Name the rows whose work this block is. Raises Undecidable for what is wrong with one of them.

    An inner block knows better which one it is.
    """
    try:
        yield
    except Undecidable:
        raise
    except Exception as error:
        if not keys or not is_one_rows(error) or _is_away(error):
            raise
        raise Undecidable(queue, [str(key) for key in keys]) from error


class Quarantine:
    """What one service has set aside."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._in_a_row: dict[str, int] = {}
        self._count = 0
        """When it was last measured."""

    async def set_aside(self, queue: str, key: object, error: BaseException) -> None:
        """Set a row aside. Raises Transient, and TooManySetAside."""
        reason, detail = type(error).__name__, _text(error)
        async with self._database.transaction() as tx:
            await tx.execute(_SET_ASIDE, queue, str(key), reason, detail)
        log.error("set aside", failure=error, service=self._database.schema, queue=queue, key=key, reason=reason)
        self._in_a_row[queue] = self._in_a_row.get(queue, 0) + 1
        if self._in_a_row[queue] > _LIMIT:
            count = self._in_a_row[queue]
            raise TooManySetAside(f"{count} rows of {queue} in a row were set aside; the last: {detail}")

    def went_well(self, queue: str | None = None) -> None:
        """Note that a row of a queue, or of any, was done: what is set aside is not so for a reason that all share."""
        if queue is None:
            self._in_a_row.clear()
        else:
            self._in_a_row.pop(queue, None)

    @contextlib.asynccontextmanager
    async def containing(self, queue: str, key: object) -> AsyncGenerator[None]:
        """Set a row aside when the work on it, this block, fails for a reason of its own."""
        try:
            yield
        except Exception as error:
            if not is_one_rows(error):
                raise
            await self.set_aside(queue, key, error)
        else:
            self.went_well(queue)

    async def measure(self) -> None:
        """Tell how much lies here."""
        async with self._database.transaction() as tx:
            self._count = int(await tx.fetchval(_COUNT) or 0)
        metrics.QUARANTINED.labels(self._database.schema).set(self._count)

    def notes(self) -> dict[str, str]:
        """Return what readiness tells of it."""
        return {"quarantine": f"{self._count} set aside: python -m services quarantine list"} if self._count else {}


async def held(tx: Connection, queue: str) -> set[str]:
    """Return the keys of a queue's rows that are set aside."""
    return {row[0] for row in await tx.fetch(_HELD, queue)}


async def items(tx: Connection) -> list[Held]:
    """Return what lies in a service's quarantine, the oldest first."""
    return [Held(*row) for row in await tx.fetch(_ITEMS)]


async def release(tx: Connection, id: int) -> tuple[str, str] | None:
    """Let a row be tried again; return its queue and key, None where there is no such."""
    row: Any = await tx.fetchrow(_RELEASE, id)
    return None if row is None else (row["queue"], row["key"])


def _text(error: BaseException) -> str:
    """Return what an error says, as it can be stored."""
    return f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode().replace("\0", " ")[:500]
