"""One transaction for a batch: claim the places, do the work, write the outbox, commit.

What is refused goes to the dead letters in the same transaction. A failure that may be one record's is looked for by
halves: what fails alone is refused, the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shared.bus import outbox
from shared.bus.batch import Batch, Refusal, halves, records_of, refusals_of
from shared.bus.client import Headers, Outgoing
from shared.bus.handler import AfterCommit, Handler, Record
from shared.bus.offsets import Offsets
from shared.database.pool import Database, TooSlow
from shared.errors import Invalid
from shared.runtime import metrics
from shared.runtime.logs import Log, tracing
from shared.runtime.quarantine import is_one_rows
from shared.wire.topics import Topic

log = Log("shared.bus.consume")


class TooManyInvalid(Exception):
    """So many records in a row were refused that the fault is ours."""


class Fenced(Exception):
    """Somebody else went on with these partitions."""

    def __init__(self, partitions: Sequence[int]) -> None:
        super().__init__(f"fenced: {partitions}")
        self.partitions = partitions


class Transactions:
    """Does batches for one service."""

    def __init__(
        self,
        database: Database,
        topic: Topic,
        offsets: Offsets,
        handler: Handler,
        committed: Callable[[Batch], None],
        *,
        invalid_limit: int,
    ) -> None:
        """Tell `committed` of each part of a batch that was done; stop after `invalid_limit` refusals in a row."""
        self._database = database
        self._topic = topic
        self._offsets = offsets
        self._handler = handler
        self._committed = committed
        self._invalid_limit = invalid_limit
        self._invalid_in_a_row = 0
        self._service = database.schema
        labels = (self._service, topic.name)
        self._handled = metrics.RECORDS.labels(*labels, "handled")
        self._dead = metrics.RECORDS.labels(*labels, "dead")

    async def do(self, batch: Batch) -> None:
        """Do a batch. Raises Fenced, Transient, and TooManyInvalid."""
        while True:
            records = records_of(batch)
            try:
                after = await self._attempt(batch, records)
            except Invalid as invalid:
                self._handler.forget(list(batch))
                record = records[invalid.index]
                batch[record.partition].refuse(record, invalid.reason, invalid.detail)
                continue
            except BaseException as error:
                self._handler.forget(list(batch))  # the handler may have changed its memory before it failed
                too_slow = isinstance(error, TooSlow) and len(records) > 1  # together; each may be done in time
                if not records or isinstance(error, Fenced) or not (too_slow or is_one_rows(error)):
                    raise
                if len(records) > 1:
                    for half in halves(batch):
                        await self.do(half)
                    return
                log.error("record failed", failure=error, topic=self._topic.name, offset=records[0].offset)
                record = records[0]
                batch[record.partition].refuse(record, "undecidable", f"{type(error).__name__}: {error}")
                continue
            if after is not None:
                after()
            self._committed(batch)
            self._count(records, refusals_of(batch))
            return

    async def _attempt(self, batch: Batch, records: list[Record[Any]]) -> AfterCommit | None:
        after: AfterCommit | None = None
        async with self._database.transaction() as tx:
            lost = await self._offsets.claim(tx, {p: (s.first, s.after) for p, s in batch.items()})
            if lost:
                raise Fenced(lost)
            if records:
                with tracing(records[0].traceparent if len(records) == 1 else None):
                    after = await self._handler.handle(tx, records)
            await outbox.add(tx, [self._dead_letter(refusal) for refusal in refusals_of(batch)])
        return after

    def _count(self, records: list[Record[Any]], refusals: list[Refusal]) -> None:
        self._handled.inc(len(records))
        for refusal in refusals:
            self._dead.inc()
            metrics.DEAD_LETTERS.labels(self._service, self._topic.name, refusal.reason).inc()
            where = f"{self._topic.name}/{refusal.record.partition}/{refusal.record.offset}"
            log.error("dead letter", record=where, reason=refusal.reason, detail=refusal.detail)
        self._invalid_in_a_row = 0 if records else self._invalid_in_a_row + len(refusals)
        if self._invalid_in_a_row > self._invalid_limit:
            raise TooManyInvalid(
                f"{self._invalid_in_a_row} records of {self._topic.name} in a row were refused; the last one: "
                f"{refusals[-1].detail}. They are in {self._topic.dead}."
            )

    def _dead_letter(self, refusal: Refusal) -> Outgoing:
        record = refusal.record
        headers: Headers = [
            *((name, value or b"") for name, value in record.headers),  # Kafka knows headers without a value
            ("dead_reason", f"{refusal.reason}: {refusal.detail}"[:500].encode()),
            ("dead_topic", self._topic.name.encode()),
            ("dead_partition", str(record.partition).encode()),
            ("dead_offset", str(record.offset).encode()),
            ("dead_service", self._service.encode()),
        ]
        return Outgoing(self._topic.dead, record.key, record.value, headers)
