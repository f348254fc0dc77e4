"""`offsets show` and `accept`: where each service stands in each log, and how to go on after a log was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import typer

from services.cli import stores
from services.cli.environment import audited, kafka_of
from services.cli.options import DATA, Data
from services.cli.terminal import DONE, FAILED, WRONG, err, out
from shared.bus import offsets
from shared.bus.cluster import LogState
from shared.bus.offsets import Loss, Place
from shared.runtime import audit
from shared.wire.events import AuditV1
from shared.wire.topics import TOPICS

app = typer.Typer(help="Where services stand in Kafka's logs; how to go on after a log was lost.")


def judged(place: Place, logs: Mapping[str, LogState | None]) -> Loss | str | None:
    """Return what is lost of a place, or why nobody knows."""
    now = logs.get(place.topic)
    if now is None:
        return "the topic does not exist"
    if place.partition not in now.ends:
        return f"the topic has only {len(now.ends)} partitions"
    return offsets.loss(place, now)


@app.command()
def show(data: Data = DATA) -> None:
    """Show each service's place in each partition, what waits there, and what is lost."""

    async def body() -> int:
        lost = 0
        kafka = kafka_of(data)
        async with stores.databases(data) as databases:
            for service, database in databases.items():
                async with database.transaction() as tx:
                    places = await offsets.all_places(tx)
                # After the places: none is past the log's end then, however fast services go on.
                logs = {topic: await kafka.log_state(topic) for topic in {place.topic for place in places}}
                for place in places:
                    verdict = judged(place, logs)
                    where = f"{service:<10} {place.topic}/{place.partition}  next {place.next}"
                    if verdict is None:
                        now = logs[place.topic]
                        assert now is not None
                        end = now.ends[place.partition]
                        out.print(f"{where}  end {end}  waiting {end - place.next}", markup=False)
                        continue
                    lost += 1
                    what = verdict if isinstance(verdict, str) else f"LOST ({verdict.kind}): {verdict.detail}"
                    out.print(f"{where}  {what}", markup=False)
        if lost:
            err.print(f"{lost} places are lost; to go on without them: python -m services offsets accept TOPIC")
        return FAILED if lost else DONE

    raise typer.Exit(asyncio.run(body()))


@app.command()
def accept(topic: str, data: Data = DATA) -> None:
    """Go on in a topic without what was lost of it, and say what is skipped. The services may be running or not."""

    async def body() -> int:
        known = [one.name for one in TOPICS if one.messages]
        if topic not in known:
            err.print(f"{topic!r}: must be one of {', '.join(known)}", style="red", markup=False)
            return WRONG
        kafka = kafka_of(data)
        count = 0
        async with stores.databases(data) as databases:
            for service, database in databases.items():
                async with database.transaction() as tx:
                    places = [place for place in await offsets.all_places(tx) if place.topic == topic]
                now = await kafka.log_state(topic)
                if now is None:
                    err.print(
                        f"{topic} does not exist in Kafka; a service that starts makes it", style="red", markup=False
                    )
                    return FAILED
                found = [loss for place in places if isinstance(loss := judged(place, {topic: now}), Loss)]
                async with database.transaction() as tx:
                    accepted = await offsets.accept(tx, found, now)
                    await audit.add(tx, [_line(service, loss) for loss in accepted])
                count += len(accepted)
                tell(service, accepted)
        out.print(
            f"{count} places accepted; see what the next stage missed: python -m services republish --dry-run"
            if count
            else f"nothing of {topic} is lost"
        )
        return DONE

    raise typer.Exit(asyncio.run(body()))


def tell(service: str, losses: Sequence[Loss]) -> None:
    """Say what is skipped."""
    for loss in losses:
        place = loss.place
        match loss.kind:
            case "retention":
                skipped = f"{loss.go_on - place.next} records that were deleted before they were handled are skipped"
            case "shortened":
                skipped = (
                    f"{max(place.log_end, place.next) - loss.go_on} records that the log no longer has are skipped"
                )
            case "other log" | "other cluster":
                unread = max(0, place.log_end - place.next)
                skipped = f"{unread} records of the old log, or more, were not handled; the new one is read whole"
        out.print(
            f"{service} {place.topic}/{place.partition}: goes on at {loss.go_on} instead of {place.next}: {skipped}",
            markup=False,
        )


def _line(service: str, loss: Loss) -> AuditV1:
    place = loss.place
    detail = {
        "service": service,
        "topic": place.topic,
        "partition": place.partition,
        "lost": loss.kind,
        "next": place.next,
        "goes_on": loss.go_on,
    }
    return audited("lost offsets accepted", detail)
