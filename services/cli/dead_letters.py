"""`dead-letters list` and `replay`: what services refused for ever, and sending it again."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from services.cli.environment import at_the_command_line, kafka_of, newest_revision
from services.cli.options import DATA, Data
from services.cli.terminal import DONE, WRONG, bar, err, out, printable, progress
from shared.bus.dead_letters import DeadLetters
from shared.bus.provisioning import ensure_topics
from shared.wire.topics import AUDIT, DEAD, TOPICS, Topic

app = typer.Typer(help="What services refused for ever: `<topic>.dead`.")


@app.command("list")
def list_letters(
    topic: str,
    again: Annotated[bool, typer.Option("--all", help="Also those that were sent again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line each, with the record itself.")] = False,
    data: Data = DATA,
) -> None:
    """Show what was refused and not sent again, the oldest first, and why."""
    kafka, of = kafka_of(data), _with_dead_letters(topic)

    async def body() -> int:
        await ensure_topics(kafka, [of])
        count = 0
        async for letter in DeadLetters(kafka, of).letters(again=again):
            count += 1
            if as_json:
                out.print(msgspec.json.encode(letter._asdict()).decode(), markup=False)
            else:
                at = letter.refused_at.isoformat(timespec="seconds")
                what = f"{at}  {letter.service}  {letter.source}  {letter.type}  {letter.key}: {letter.reason}"
                out.print(printable(f"{letter.offset}  {what}"), markup=False)
        if not as_json:
            out.print(f"{count} dead letters of {of.name}" + ("" if again else " that were not sent again"))
        return DONE

    raise typer.Exit(asyncio.run(body()))


@app.command()
def replay(topic: str, data: Data = DATA) -> None:
    """Send again what was refused, as it was; records that had their effect have none again.

    Mend the fault first: a service that refuses more than 100 records in a row stops.
    """
    kafka, of = kafka_of(data), _with_dead_letters(topic)

    async def body() -> int:
        await newest_revision(kafka)  # it says over how many partitions keys are spread
        await ensure_topics(kafka, [of, AUDIT])
        with progress() as bars:
            sent = await DeadLetters(kafka, of).replay(bar(bars, "sending"), at_the_command_line())
        out.print(f"{sent} sent again to {of.name}; what is refused again is in {of.dead} again")
        return DONE

    raise typer.Exit(asyncio.run(body()))


def _with_dead_letters(name: str) -> Topic:
    """Return a topic by its name, with or without `.dead`; another name ends the command."""
    known = {topic.name: topic for topic in TOPICS if topic.messages}
    found = known.get(name.removesuffix(DEAD))
    if found is None:
        err.print(f"{name!r}: must be one of {', '.join(known)}", style="red", markup=False)
        raise typer.Exit(WRONG)
    return found
