"""`republish`: tells again every open alert, ticket and page that the next stage does not know.

What was lost on the way (a topic that was deleted, a retention that passed a stage by) is found by comparing what each
stage keeps with what the next one has taken in, and left in the outbox of the stage that owns it. Whatever comes twice
is known by its version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from services.cli import stores
from services.cli.environment import audited
from services.cli.terminal import DONE, out, printable
from services.notify.domain.page import message
from services.notify.store import pages
from services.scoring.store import alerts
from services.ticketing.store import tickets
from shared.bus import outbox
from shared.bus.client import Outgoing, cloud_event
from shared.database.pool import Database
from shared.runtime import audit
from shared.wire.events import AlertV1, AuditV1, PageV1, TicketV1
from shared.wire.topics import ALERTS, PAGES, TICKETS, Topic

app = typer.Typer()
_PAGE_EVENTS = {"sent": "page.sent", "exhausted": "page.exhausted", "acknowledged": "page.acknowledged"}


class Untold(NamedTuple):
    """What the next stage does not know, as it is told again."""

    what: str
    message: Outgoing


@app.command()
def republish(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the next stage does not know.")] = False,
    data: Annotated[Path, typer.Option(help="Where embedded PostgreSQL keeps its data.")] = Path(".data"),
) -> None:
    """Tell again every open alert, ticket and page that the next stage does not know. The services may be running."""

    async def body() -> int:
        count = 0
        async with stores.databases(data) as databases:
            for service, next_one, find in (
                ("scoring", "ticketing", _alerts),
                ("ticketing", "notify", _tickets),
                ("notify", "ticketing", _pages),
            ):
                owner, reader = databases.get(service), databases.get(next_one)
                if owner is None or reader is None:
                    continue
                untold = await find(owner, reader)
                for one in untold:
                    out.print(printable(f"{next_one} does not know {one.what}"), markup=False)
                if not dry_run:
                    async with owner.transaction() as tx:
                        await outbox.add(tx, [one.message for one in untold])
                        await audit.add(tx, [_line(service, len(untold))] if untold else [])
                count += len(untold)
        if not count:
            out.print("every open alert, ticket and page is known to the next stage")
        elif dry_run:
            out.print(f"{count} would be told again")
        else:
            out.print(f"{count} are told again as soon as the services run")
        return DONE

    raise typer.Exit(asyncio.run(body()))


def _line(service: str, count: int) -> AuditV1:
    detail = {"service": service, "messages": count}
    return audited("republished", detail)


async def _alerts(scoring: Database, ticketing: Database) -> Sequence[Untold]:
    async with scoring.snapshot() as tx:
        open_ones = await alerts.open_messages(tx)
    async with ticketing.snapshot() as tx:
        known = await tickets.merged(tx, [alert.id for alert in open_ones])
    return [
        Untold(f"alert {alert.id} of {alert.customer}: {alert.summary}", _again(ALERTS, "alert.updated", alert))
        for alert in open_ones
        if alert.id not in known or known[alert.id][0] < alert.version
    ]


async def _tickets(ticketing: Database, notify: Database) -> Sequence[Untold]:
    async with ticketing.snapshot() as tx:
        open_ones = await tickets.active(tx)
    async with notify.snapshot() as tx:
        known = await pages.seen(tx, [ticket.id for ticket in open_ones])
    return [
        Untold(
            f"ticket {ticket.number} of {ticket.customer}: {ticket.title}", _again(TICKETS, "ticket.updated", ticket)
        )
        for ticket in open_ones
        if ticket.id not in known or known[ticket.id].version < ticket.version
    ]


async def _pages(notify: Database, ticketing: Database) -> Sequence[Untold]:
    async with notify.snapshot() as tx:
        open_ones = [message(page) for page in await pages.active(tx)]
    async with ticketing.snapshot() as tx:
        known = await tickets.seen_pages(tx, [page.id for page in open_ones])
        # A page for a source that is silent has no ticket, and no stage that would know it.
        its = await tickets.that_exist(tx, [page.ticket for page in open_ones])
    return [
        Untold(f"page {page.id} of {page.customer}, {page.state}", _again(PAGES, _PAGE_EVENTS[page.state], page))
        for page in open_ones
        if page.ticket in its and known.get(page.id, 0) < page.version
    ]


def _again(topic: Topic, type: str, told: AlertV1 | TicketV1 | PageV1) -> Outgoing:
    """Return a message as it was, or would have been, sent before."""
    id_ = f"{told.id}:{told.version}"
    return cloud_event(topic, type, key=told.customer, id=id_, at=datetime.now(UTC), message=told)
