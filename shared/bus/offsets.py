"""Where a consumer goes on: offsets in PostgreSQL, beside the state that they belong to.

A log is known by its identity, not by its name: the cluster's id, the topic's id and how far the log was seen to go
are stored with the offset, and looked at whenever a place is taken. A log that is another one, or shorter than it was,
stops the service loudly: by the name alone, a topic that was deleted and made anew lost 1,048 answers with every probe
green.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shared.bus.cluster import LogState
from shared.database.pool import Connection, Database
from shared.errors import Misconfigured
from shared.wire.topics import Topic

_STORED = """
SELECT partition, next, cluster, log, log_end FROM consumer_offset
WHERE topic = $1 AND partition = ANY($2::int[]) ORDER BY partition
"""
_ALL = "SELECT topic, partition, next, cluster, log, log_end FROM consumer_offset ORDER BY topic, partition"
_START = """
INSERT INTO consumer_offset (topic, partition, next, cluster, log)
SELECT $1, partition, next, $4, $5 FROM unnest($2::int[], $3::bigint[]) AS first(partition, next)
ON CONFLICT DO NOTHING
"""
_SEEN = """
UPDATE consumer_offset AS held SET log = coalesce($4, held.log), log_end = greatest(held.log_end, seen.log_end)
FROM unnest($2::int[], $3::bigint[]) AS seen(partition, log_end)
WHERE held.topic = $1 AND held.partition = seen.partition
    AND (held.log IS DISTINCT FROM coalesce($4, held.log) OR held.log_end < seen.log_end)
"""
_CLAIM = """
UPDATE consumer_offset AS held SET next = batch.after, log_end = greatest(held.log_end, batch.after)
FROM unnest($2::int[], $3::bigint[], $4::bigint[]) AS batch(partition, first, after)
WHERE held.topic = $1 AND held.partition = batch.partition AND held.next = batch.first
RETURNING held.partition
"""
_ACCEPT = """
UPDATE consumer_offset AS held SET next = new.next, cluster = $4, log = coalesce($5, held.log), log_end = new.log_end
FROM unnest($2::int[], $3::bigint[], $6::bigint[], $7::bigint[]) AS new(partition, next, log_end, judged)
WHERE held.topic = $1 AND held.partition = new.partition AND held.next = new.judged
RETURNING held.partition
"""

LossKind = Literal["other cluster", "other log", "shortened", "retention"]


class OffsetLost(Misconfigured):
    """The log no longer holds the place where this service has to go on."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service stands in one partition, and what it knows of the log."""

    topic: str
    partition: int
    next: int
    """The first offset whose record has had no effect yet."""
    cluster: str
    log: str | None
    """None: from before it was kept."""
    log_end: int
    """How far the log went when it was last looked at."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a service cannot go on where it stands, and where it would go on without what is lost."""

    kind: LossKind
    place: Place
    go_on: int
    detail: str


def loss(place: Place, now: LogState) -> Loss | None:
    """Return what is lost between a place and the log as it is now, None where nothing is."""
    start, end = now.starts[place.partition], now.ends[place.partition]
    where = f"{place.topic}/{place.partition} goes on at {place.next}"
    if place.cluster != now.cluster:
        detail = f"{where} of Kafka cluster {place.cluster}, FIILIS_KAFKA is cluster {now.cluster}"
        return Loss("other cluster", place, start, detail)
    if place.log and now.log and place.log != now.log:
        detail = f"{where} of topic id {place.log}, but the topic was deleted and made anew (id {now.log})"
        return Loss("other log", place, start, detail)
    if place.next > end or place.log_end > end:
        detail = (
            f"{where} and was seen to {max(place.log_end, place.next)}, but the log ends at {end}: it was cut short"
        )
        return Loss("shortened", place, min(place.next, end), detail)
    if place.next < start:
        detail = f"{where}, but the log starts at {start}: records were deleted before they were handled (retention)"
        return Loss("retention", place, start, detail)
    return None


class Offsets:
    """The places of one service in one topic."""

    def __init__(self, database: Database, topic: Topic) -> None:
        self._database = database
        self._topic = topic.name

    async def claim(self, tx: Connection, batch: Mapping[int, tuple[int, int]]) -> list[int]:
        """Move each partition from the first offset of a batch to the one after its last.

        Returns the partitions that stand elsewhere: somebody else went on. The first offset is taken from the batch,
        never from memory (tried: a remembered one applied records twice in 9 of 10 runs).
        """
        firsts, afters = [first for first, _ in batch.values()], [after for _, after in batch.values()]
        claimed = {row[0] for row in await tx.fetch(_CLAIM, self._topic, list(batch), firsts, afters)}
        return [partition for partition in batch if partition not in claimed]

    async def places(self, partitions: Sequence[int]) -> list[Place]:
        """Return the places that are kept. Raises Transient.

        To be asked for before the log is looked at: then none can be past the log's end, however fast others go on.
        """
        async with self._database.transaction() as tx:
            return await self._places(tx, partitions)

    async def taken(self, partitions: Sequence[int], places: Sequence[Place], now: LogState) -> dict[int, int]:
        """Return where each partition goes on; one that was never read starts at the log's beginning.

        `places`: as they were before the log was looked at. Raises OffsetLost when the log is another one, or has lost
        records that were not handled, and Transient.
        """
        lost = [found for place in places if (found := loss(place, now)) is not None]
        if lost:
            raise self.lost(lost[0])
        async with self._database.transaction() as tx:
            missing = sorted(set(partitions) - {place.partition for place in places})
            if missing:
                starts = [now.starts[p] for p in missing]
                await tx.execute(_START, self._topic, missing, starts, now.cluster, now.log or None)
            ends = [now.ends[p] for p in partitions]
            await tx.execute(_SEEN, self._topic, list(partitions), ends, now.log or None)
            return {place.partition: place.next for place in await self._places(tx, partitions)}

    def lost(self, found: Loss) -> OffsetLost:
        """Return what says that the place is lost, and how to go on without it."""
        service = self._database.schema
        return OffsetLost(
            f"offset lost: {service}: {found.detail}. See `python -m services offsets show`; if those records are "
            f"truly gone, `python -m services offsets accept {self._topic}` goes on without them, and `republish` "
            "then tells again what the next stage does not know"
        )

    def gap(self, partition: int, last: int, first: int) -> OffsetLost:
        """Return what says that records were deleted while they were waited for."""
        place = Place(self._topic, partition, last, "", None, 0)
        return self.lost(
            Loss(
                "retention",
                place,
                first,
                f"{self._topic}/{partition} goes on at {last}, but the next record is {first}",
            )
        )

    async def _places(self, tx: Connection, partitions: Sequence[int]) -> list[Place]:
        return [_place(self._topic, row) for row in await tx.fetch(_STORED, self._topic, list(partitions))]


async def all_places(tx: Connection) -> list[Place]:
    """Return every place of a service."""
    return [_place(row["topic"], row) for row in await tx.fetch(_ALL)]


async def accept(tx: Connection, losses: Sequence[Loss], now: LogState) -> list[Loss]:
    """Go on without what is lost of one topic; return what was accepted. A place that moved meanwhile is not lost."""
    if not losses:
        return []
    rows = await tx.fetch(
        _ACCEPT,
        losses[0].place.topic,
        [found.place.partition for found in losses],
        [found.go_on for found in losses],
        now.cluster,
        now.log or None,
        [now.ends[found.place.partition] for found in losses],
        [found.place.next for found in losses],
    )
    accepted = {row[0] for row in rows}
    return [found for found in losses if found.place.partition in accepted]


def _place(topic: str, row: Any) -> Place:
    return Place(topic, row["partition"], row["next"], row["cluster"], row["log"], row["log_end"])
