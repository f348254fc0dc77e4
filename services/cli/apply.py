"""`apply`: a directory is validated, what changes is printed, and it is published."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from services.cli.check import read_directory
from services.cli.environment import kafka_of, newest_revision, user
from services.cli.on_call import who_is_on_call
from services.cli.options import DATA, Data
from services.cli.terminal import DONE, WRONG, err, out
from shared.bus.provisioning import ensure_topics
from shared.directory.difference import difference, render
from shared.directory.follower import publish
from shared.directory.record import RecordTooLarge
from shared.runtime.clock import SystemClock
from shared.wire.topics import TOPICS

app = typer.Typer()


@app.command()
def apply(
    file: Path,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would change.")] = False,
    by: Annotated[str | None, typer.Option(help="Who changes it, for the audit; default: this shell's user.")] = None,
    repartition: Annotated[
        bool, typer.Option("--repartition", help="Use all partitions that topics have now (docs/operations.md).")
    ] = False,
    data: Data = DATA,
) -> None:
    """Validate a directory, print what changes, and publish it."""
    directory = read_directory(file)
    kafka = kafka_of(data)

    async def body() -> int:
        newest = await newest_revision(kafka)
        if repartition:
            kafka.partitions = {}
        await ensure_topics(kafka, TOPICS)
        before = None if newest is None else newest.directory
        changes = difference(before, directory)
        if dry_run:
            out.print("\n".join(who_is_on_call(before, directory, SystemClock().now())), markup=False)
        if not changes and newest is not None and not repartition:
            out.print(f"nothing to change; revision {newest.number} is in use")
            return DONE
        out.print(render(changes), markup=False)
        if dry_run:
            out.print("dry run: nothing was published")
            return DONE
        try:
            number = await publish(kafka, directory, by or user(), repartition=repartition)
            out.print(f"revision {number} published")
        except RecordTooLarge as error:
            err.print(str(error), style="red", markup=False)
            return WRONG
        return DONE

    raise typer.Exit(asyncio.run(body()))
