"""`migrate`: every service's schema brought to the newest revision."""

from __future__ import annotations

import asyncio

import typer

from services.cli.environment import settings
from services.cli.terminal import DONE, out
from services.registry import SERVICES
from shared.database.migrate import migrate as bring_up
from shared.database.pool import Database

app = typer.Typer()


@app.command()
def migrate() -> None:
    """Bring the database to the current schema (services also do it when they start)."""
    given = settings()
    url = given.named_database

    async def body() -> int:
        for name, service in SERVICES.items():
            database = Database(url, name)
            try:
                await bring_up(database, service.migrations, url=given.migration_url, say=_print)
            finally:
                await database.close()
        out.print("the database is at the current schema")
        return DONE

    raise typer.Exit(asyncio.run(body()))


def _print(line: str) -> None:
    out.print(line, markup=False)
