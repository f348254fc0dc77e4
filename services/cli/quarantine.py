"""`quarantine list` and `release`: rows and results that could not be stored or decided."""

from __future__ import annotations

import asyncio

import typer

from services.cli import stores
from services.cli.environment import audited
from services.cli.options import DATA, Data
from services.cli.terminal import DONE, FAILED, WRONG, err, out, printable
from shared.runtime import audit, quarantine
from shared.wire.events import AuditV1

app = typer.Typer(help="What could not be stored or decided was set aside here; everything else went on.")


@app.command("list")
def show(data: Data = DATA) -> None:
    """Show what was set aside, the oldest of each service first, and why."""

    async def body() -> int:
        count = 0
        async with stores.databases(data) as databases:
            for service, database in databases.items():
                async with database.transaction() as tx:
                    held = await quarantine.items(tx)
                for item in held:
                    count += 1
                    at = item.at.isoformat(timespec="seconds")
                    line = f"{service}-{item.id}  {at}  {item.queue} {item.key}: {item.detail}"
                    out.print(printable(line), markup=False)
        out.print(
            f"{count} set aside" + ("; mend the cause, then: python -m services quarantine release ID" if count else "")
        )
        return DONE

    raise typer.Exit(asyncio.run(body()))


@app.command()
def release(id: str, data: Data = DATA) -> None:
    """Let a row be tried again, by the id that `list` shows; `SERVICE-all` for all of a service."""
    service, _, number = id.rpartition("-")

    async def body() -> int:
        async with stores.databases(data) as databases:
            database = databases.get(service)
            if database is None or not (number.isdecimal() or number == "all"):
                err.print(f"{id!r}: must be an id such as notify-12, or notify-all", style="red", markup=False)
                return WRONG
            async with database.transaction() as tx:
                wanted = [item.id for item in await quarantine.items(tx)] if number == "all" else [int(number)]
                released = [found for one in wanted if (found := await quarantine.release(tx, one)) is not None]
                await audit.add(tx, [_line(service, queue, key) for queue, key in released])
        for queue, key in released:
            out.print(printable(f"released: {queue} {key} is tried again"), markup=False)
        if not released and number != "all":
            err.print(f"nothing is set aside as {id}", style="red", markup=False)
            return FAILED
        return DONE

    raise typer.Exit(asyncio.run(body()))


def _line(service: str, queue: str, key: str) -> AuditV1:
    detail = {"service": service, "queue": queue, "key": key}
    return audited("quarantine released", detail)
