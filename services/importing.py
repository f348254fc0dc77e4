"""A CSV file of past answers, into feedback.v1: counted where they belong in time, and never a reason to page."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from uuid import UUID

from msgspec.structs import replace

from services.answers_csv import Cells, Take, posted
from services.ingest.domain import Let, accept
from services.ingest.publishing import message_of
from shared.bus.client import Kafka, Producer
from shared.directory.model import Directory, Key
from shared.errors import FieldError, invalid_fields
from shared.runtime import audit
from shared.wire.events import AuditV1, FeedbackReceivedV1
from shared.wire.ids import uuid7_of

_KEY = Key("import", "secret", "", scopes=("feedback",))
_BATCH = 2_000
"""Answers that are sent together."""


def taking(directory: Directory, now: datetime) -> Take:
    """Return what makes an answer of a row."""
    let = Let(_KEY, directory, now)

    def take(cells: Cells, line: int) -> FeedbackReceivedV1:
        said = repr((line, sorted(cells.items())))
        cells["backfill"] = "true"
        cells.setdefault("channel", "import")
        item, anonymous = posted(cells)
        at = item.occurred_at
        if at is None or at.tzinfo is None:
            raise invalid_fields(FieldError("occurred_at", "is required, with a time zone such as Z"))
        accepted = accept(item, let)
        return replace(accepted, id=item.id or _id(at, said), trust="anonymous" if anonymous else accepted.trust)

    return take


def _id(at: datetime, said: str) -> UUID:
    """Return the id of a row that has none: the same when the file is imported again, so that it counts once."""
    return uuid7_of(max(0, int(at.timestamp() * 1000)), hashlib.sha256(said.encode()).digest())


async def send(kafka: Kafka, answers: Iterator[FeedbackReceivedV1], begun: AuditV1) -> int:
    """Send answers, and first that somebody does; return how many.

    Raises Transient; begun again, what was sent before counts once.
    """
    producer = Producer(kafka)
    sent = 0
    try:
        await producer.start()
        await producer.send_all([audit.message(begun)])
        while batch := list(islice(answers, _BATCH)):
            await producer.send_all([message_of(answer, None) for answer in batch])
            sent += len(batch)
    finally:
        await producer.close()
    return sent
