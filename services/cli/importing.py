"""`import`: a CSV file of past answers, counted where they belong in time, and never a reason to page."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from msgspec.structs import replace

from services.cli.answers_csv import Cells, Map, Take, WrongFile, posted, read_csv, read_map
from services.cli.environment import audited, kafka_of
from services.cli.options import DATA, Data
from services.cli.terminal import DONE, FAILED, WRONG, Faults, bar, err, out, progress
from services.ingest.domain import PostingRights, accept
from services.ingest.publishing import message_of
from shared.bus.client import Kafka, Producer
from shared.bus.provisioning import ensure_topics
from shared.directory.follower import read_newest
from shared.directory.model import Directory, Key
from shared.errors import FieldError, invalid_fields
from shared.runtime import audit
from shared.runtime.clock import SystemClock
from shared.wire.events import FeedbackReceivedV1
from shared.wire.ids import uuid7_of
from shared.wire.topics import AUDIT

app = typer.Typer()
_KEY = Key("import", "secret", "", scopes=("feedback",))
_BATCH = 2_000
"""Answers that are sent together."""


@app.command("import")
def import_answers(
    file: Path,
    mapped: Annotated[
        str | None, typer.Option("--map", help="Another tool's columns: a YAML file, or the name of a known one.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE where a row says nothing; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be refused.")] = False,
    data: Data = DATA,
) -> None:
    """Import past answers from a CSV file: counted where they belong in time, and nobody is paged.

    Columns are the fields of an answer. A file that is imported again counts once.
    """
    kafka = kafka_of(data)
    newest = asyncio.run(read_newest(kafka))
    if newest is None:
        err.print("no directory was applied yet: python -m services apply FILE", style="red")
        raise typer.Exit(WRONG)
    faults = Faults()
    try:
        columns = Map() if mapped is None else read_map(mapped)
        columns = columns.with_given(given or [])
        with progress() as bars:
            take = taking(newest.directory, SystemClock().now())
            moved = bar(bars, "checking" if dry_run else "importing")
            answers = faults.without(read_csv(file, take, columns, moved))
            count = sum(1 for _ in answers) if dry_run else asyncio.run(_send(kafka, answers, file.name))
    except (OSError, WrongFile) as error:
        err.print(str(error), style="red", markup=False)
        raise typer.Exit(WRONG) from None
    faults.rest()
    out.print(f"{count} answers {'could be imported' if dry_run else 'imported'}, {faults.count} rows refused")
    if faults.count:
        out.print("mend them where they stand and import the file again, with the same map: each row counts once")
    raise typer.Exit(FAILED if faults.count else DONE)


def taking(directory: Directory, now: datetime) -> Take:
    """Return what makes an answer of a row."""
    let = PostingRights(_KEY, directory, now)

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


async def _send(kafka: Kafka, answers: Iterator[FeedbackReceivedV1], file: str) -> int:
    """Send answers, and first that somebody does; return how many.

    Raises Transient; begun again, what was sent before counts once.
    """
    await ensure_topics(kafka, [AUDIT])
    producer = Producer(kafka)
    sent = 0
    try:
        await producer.start()
        await producer.send_all([audit.message(audited("answers imported", {"file": file}))])
        while batch := list(islice(answers, _BATCH)):
            await producer.send_all([message_of(answer, None) for answer in batch])
            sent += len(batch)
    finally:
        await producer.close()
    return sent
