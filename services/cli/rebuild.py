"""`rebuild`: all stored answers counted afresh, customer by customer."""

from __future__ import annotations

import asyncio

import typer

from services.cli.environment import audited, settings
from services.cli.terminal import DONE, out, progress
from services.scoring.store import counting
from shared.database.pool import Database
from shared.runtime import audit

app = typer.Typer()


@app.command()
def rebuild() -> None:
    """Count all stored answers afresh (needs FIILIS_DATABASE_URL); tells where the kept counts were different."""
    url = settings().named_database

    async def body() -> int:
        database = Database(url, "scoring", pool=1)
        differed = 0
        try:
            async with database.transaction() as tx:
                customers = await counting.every_customer(tx)
                await audit.add(tx, [audited("counted afresh", {"customers": len(customers)})])
            with progress() as bars:
                for customer in bars.track(customers, description="counting"):
                    async with database.transaction(within=600) as tx:
                        differed += await counting.recount(tx, customer)
        finally:
            await database.close()
        out.print(f"{len(customers)} customers counted afresh; the counts of {differed} were different")
        return DONE

    raise typer.Exit(asyncio.run(body()))
