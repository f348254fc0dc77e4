"""Where a consumer goes on: offsets in PostgreSQL, beside the state that they belong to.

Kafka's cluster id is stored with them, so that a log that is not the one they were counted in stops the service loudly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.db import Connection, Database
from shared.errors import Misconfigured
from shared.topics import Topic

_STORED = "SELECT partition, next, cluster FROM consumer_offset WHERE topic = $1 AND partition = ANY($2::int[])"
_START = """
INSERT INTO consumer_offset (topic, partition, next, cluster)
SELECT $1, partition, next, $4 FROM unnest($2::int[], $3::bigint[]) AS first(partition, next)
ON CONFLICT DO NOTHING
"""
_CLAIM = """
UPDATE consumer_offset AS held SET next = batch.after
FROM unnest($2::int[], $3::bigint[], $4::bigint[]) AS batch(partition, first, after)
WHERE held.topic = $1 AND held.partition = batch.partition AND held.next = batch.first
RETURNING held.partition
"""


class OffsetLost(Misconfigured):
    """The log no longer holds the place where this service has to go on."""


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

    async def stored(self, partitions: Sequence[int], cluster: str, log_starts: Mapping[int, int]) -> dict[int, int]:
        """Return where each partition goes on; one that was never read starts at the log's beginning.

        Raises OffsetLost when the log is another one, or has lost records that were not handled.
        """
        async with self._database.transaction() as tx:
            rows = await tx.fetch(_STORED, self._topic, partitions)
            missing = sorted(set(partitions) - {row["partition"] for row in rows})
            if missing:
                await tx.execute(_START, self._topic, missing, [log_starts[p] for p in missing], cluster)
                rows = await tx.fetch(_STORED, self._topic, partitions)
        for row in rows:
            if row["cluster"] != cluster:
                raise OffsetLost(
                    f"the offsets of {self._topic} belong to Kafka cluster {row['cluster']}, FIILIS_KAFKA is cluster "
                    f"{cluster}: point FIILIS_KAFKA at the old cluster, or, if its records are truly gone, delete the "
                    f"rows of {self._table} to start at the new log's beginning"
                )
        nexts: dict[int, int] = {row["partition"]: row["next"] for row in rows}
        for partition, offset in nexts.items():
            if offset < log_starts[partition]:
                raise self.gap(partition, offset, log_starts[partition])
        return nexts

    def gap(self, partition: int, last: int, first: int) -> OffsetLost:
        """Return what says that records were deleted before they were handled, and how to go on without them."""
        return OffsetLost(
            f"{self._topic}/{partition} goes on at {last}, but the log starts at {first}: records were deleted before "
            f"they were handled (retention). To go on without them, set that row of {self._table} to {first}"
        )

    @property
    def _table(self) -> str:
        return f"{self._database.schema}.consumer_offset"
