"""A handler that writes each record's effect once per call, so that SQL can count effects; and a process around it.

Run as `python -m tests.support.effects BOOTSTRAP PREFIX DATABASE_URL MILLISECONDS` it consumes `feedback.v1` until it
is killed, and says on standard output when it is in the middle of a batch.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from shared.bus.client import Kafka
from shared.bus.consume import Consumer
from shared.bus.handler import AfterCommit, Record
from shared.database.migrate import migrate
from shared.database.pool import Connection, Database
from shared.wire.events import FeedbackReceivedV1
from shared.wire.topics import FEEDBACK

MIGRATIONS = Path(__file__).parent / "migrations"
SCHEMA = "effects"


class Effects:
    """Writes (partition, offset) for each record it handles; `effect` has no key, so a second effect would show."""

    sweep_seconds: float | None = None
    takes: Collection[str] | None = None

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.forgotten: list[int] = []
        self.remembered: dict[int, int] = {}
        self.fail: list[Exception] = []
        self.poison: str | None = None
        """A customer whose records no handler can decide."""

    async def handle(self, tx: Connection, records: Sequence[Record[FeedbackReceivedV1]]) -> AfterCommit | None:
        await tx.executemany(
            "INSERT INTO effect (partition, record) VALUES ($1, $2)", [(r.partition, r.offset) for r in records]
        )
        if self.pause:
            print("middle", flush=True)
            await asyncio.sleep(self.pause)
        if self.fail:
            raise self.fail.pop(0)
        if any(record.message.customer == self.poison for record in records):
            raise OverflowError("date value out of range")

        def after() -> None:
            for record in records:
                self.remembered[record.partition] = record.offset

        return after

    async def sweep(self, tx: Connection, partitions: Sequence[int], limit: int | None = None) -> AfterCommit | None:
        return None

    def forget(self, partitions: Sequence[int]) -> None:
        self.forgotten += partitions


async def prepare(database: Database) -> None:
    """Make the tables."""
    await migrate(database, MIGRATIONS)


async def main(bootstrap: str, prefix: str, url: str, pause: str) -> None:
    database = Database(url, SCHEMA)
    await prepare(database)
    handler: Any = Effects(int(pause) / 1000)
    await Consumer(Kafka(bootstrap, prefix), database, FEEDBACK, handler, max_records=20).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
