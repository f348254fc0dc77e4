"""What was fetched of a topic at once: decoded, with what is refused; in halves, to find the record at fault."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from aiokafka import ConsumerRecord

from shared.bus.handler import Record
from shared.wire.topics import Decoder, Topic, Undecodable


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that goes to the dead letters, and why."""

    record: ConsumerRecord[bytes, bytes]
    reason: str
    detail: str


@dataclass(slots=True)
class Share:
    """A batch's records of one partition."""

    generation: int
    """Of the partition's place when they were fetched."""
    first: int
    """Offset of the first."""
    after: int
    """Offset after the last."""
    raw: list[ConsumerRecord[bytes, bytes]]
    records: list[Record[Any]] = field(default_factory=list[Record[Any]])
    refusals: list[Refusal] = field(default_factory=list[Refusal])

    def refuse(self, record: Record[Any], reason: str, detail: str) -> None:
        """Take a record out of the work."""
        self.records.remove(record)
        raw = next(r for r in self.raw if r.offset == record.offset)
        self.refusals.append(Refusal(raw, reason, detail))


Batch = dict[int, Share]
"""By partition."""


def records_of(batch: Batch) -> list[Record[Any]]:
    """Return what is to be done."""
    return [record for share in batch.values() for record in share.records]


def refusals_of(batch: Batch) -> list[Refusal]:
    """Return what is refused."""
    return [refusal for share in batch.values() for refusal in share.refusals]


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Return a batch of several records as two."""
    if len(batch) > 1:
        shares = list(batch.items())
        middle = len(shares) // 2
        return dict(shares[:middle]), dict(shares[middle:])
    ((partition, share),) = batch.items()
    # Where the first half ends the other begins, whatever offsets the log has skipped there.
    middle = share.records[len(share.records) // 2].offset
    first = Share(share.generation, share.first, middle, [r for r in share.raw if r.offset < middle])
    second = Share(share.generation, middle, share.after, [r for r in share.raw if r.offset >= middle])
    for half in (first, second):
        offsets = {record.offset for record in half.raw}
        half.records = [record for record in share.records if record.offset in offsets]
        half.refusals = [refusal for refusal in share.refusals if refusal.record.offset in offsets]
    return {partition: first}, {partition: second}


class BatchDecoder:
    """Decodes what a service takes of a topic."""

    def __init__(self, topic: Topic, takes: Collection[str] | None) -> None:
        """Take the `ce_type`s that concern the service, or all of the topic's."""
        self._decode = Decoder(topic).decode
        self._others = topic.messages.keys() - (topic.messages if takes is None else takes)

    def share(self, generation: int, raw: list[Any]) -> Share:
        """Return the records of one partition, decoded; what cannot be is refused."""
        share = Share(generation, raw[0].offset, raw[-1].offset + 1, raw)
        decode, others = self._decode, self._others
        for record in raw:
            headers = dict(record.headers)
            ce_type = (headers.get("ce_type") or b"").decode("utf-8", "replace")
            if ce_type in others:
                continue
            try:
                message = decode(ce_type, record.value)
            except Undecodable as error:
                share.refusals.append(Refusal(record, "undecodable", str(error)))
                continue
            trace = headers.get("traceparent")
            share.records.append(Record(message, ce_type, record.partition, record.offset, trace))
        return share
