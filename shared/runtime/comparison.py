"""The stages compare what they hold: each tells the next one once an hour what is open.

It goes the way of the messages that it is about, behind them in the same partition: what the next stage does not know
by then was lost on the way (a topic that was deleted, a retention that passed it by). `fiilis_missed` is zero while
nothing is; `python -m services republish` tells it again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from shared.bus import outbox
from shared.bus.client import cloud_event
from shared.database.pool import Connection, Database
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.due import Periodic
from shared.runtime.logs import Log
from shared.wire.events import StillOpenV1
from shared.wire.ids import uuid7
from shared.wire.topics import Topic

log = Log("shared.runtime.comparison")

_IDS = 500
"""In one message."""
_FORGOTTEN_AFTER = 2.5
"""Turns: what is told of no longer is open no longer."""

_MISSED = """
INSERT INTO missed (id, customer, told_at) SELECT id, $2, $3 FROM unnest($1::uuid[]) AS told(id)
ON CONFLICT (id) DO UPDATE SET told_at = excluded.told_at
"""
_KNOWN = "DELETE FROM missed WHERE id = ANY($1::uuid[])"
_FORGET = "DELETE FROM missed WHERE told_at < $1"
_COUNT = "SELECT count(*) FROM missed"

OpenOnes = Callable[[Connection], Awaitable[Sequence[tuple[str, UUID]]]]
"""Returns what is open, by customer."""


def telling(database: Database, clock: Clock, topic: Topic, type: str, read: OpenOnes, seconds: float) -> Periodic:
    """Return the job that tells the next stage what this one holds open."""

    async def tell() -> None:
        now = clock.now()
        async with database.transaction() as tx:
            of_customer: defaultdict[str, list[UUID]] = defaultdict(list)
            for customer, id_ in await read(tx):
                of_customer[customer].append(id_)
            messages = [
                StillOpenV1(customer=customer, at=now, ids=ids[start : start + _IDS])
                for customer, ids in of_customer.items()
                for start in range(0, len(ids), _IDS)
            ]
            events = [
                cloud_event(topic, type, key=one.customer, id=str(uuid7()), at=now, message=one) for one in messages
            ]
            await outbox.add(tx, events)

    return Periodic(database.schema, type, seconds, tell)


async def compare(tx: Connection, told: StillOpenV1, known: Collection[UUID]) -> None:
    """Keep what the stage before holds open and this one does not know."""
    await tx.execute(_KNOWN, [id_ for id_ in told.ids if id_ in known])
    missed = [id_ for id_ in told.ids if id_ not in known]
    if missed:
        await tx.execute(_MISSED, missed, told.customer, told.at)
        log.error(
            "missed", customer=told.customer, ids=[str(id_) for id_ in missed], remedy="python -m services republish"
        )


def looking(database: Database, clock: Clock, seconds: float) -> Periodic:
    """Return the job that counts what this stage has missed."""

    async def look() -> None:
        before: datetime = clock.now() - timedelta(seconds=_FORGOTTEN_AFTER * seconds)
        async with database.transaction() as tx:
            await tx.execute(_FORGET, before)
            metrics.MISSED.labels(database.schema).set(await tx.fetchval(_COUNT) or 0)

    return Periodic(database.schema, "missed", min(seconds, 60.0), look)
