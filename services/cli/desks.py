"""`desks test`, `retry` and `sync`: does a desk's workflow do what tickets need, and what to do when it did not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import stores
from services.cli.environment import audited, kafka_of, settings
from services.cli.options import DATA, Data
from services.cli.terminal import DONE, FAILED, WRONG, err, out, printable
from services.ticketing.desks import Desk, Draft, Failed, Gone, Remote
from services.ticketing.desks.guarded import Guarded
from services.ticketing.desks.registry import build
from services.ticketing.domain.story import Heading, Items, Paragraph
from services.ticketing.store import desks
from services.ticketing.token_bucket import TokenBucket
from shared.database.pool import Database
from shared.directory import model
from shared.directory.follower import read_newest
from shared.errors import Misconfigured
from shared.http.client import Guard, Outbound
from shared.runtime import audit
from shared.runtime.retry import Backoff
from shared.wire.events import TicketState
from shared.wire.ids import uuid7

app = typer.Typer(help="Service desks that tickets are mirrored to.")

_WAY: tuple[TicketState, ...] = (
    "acknowledged",
    "in_progress",
    "waiting",
    "in_progress",
    "resolved",
    "open",
    "resolved",
)
"""What becomes of a ticket that is taken, waits, is resolved, comes back and is resolved again."""
_AGAIN = Backoff(1, 10)


@app.command("test")
def try_out(
    name: str,
    keep: Annotated[bool, typer.Option("--keep", help="Do not remove the ticket afterwards.")] = False,
    data: Data = DATA,
) -> None:
    """Take a ticket of its own through every step of a desk: create, comment, each state, reopen, resolve, remove.

    What the desk refuses is printed with its reason, before a real ticket finds out. Services may be running.
    """

    async def body() -> int:
        desk_settings = await _named(name, data)
        if desk_settings is None:
            return WRONG
        outbound = Outbound(Guard(settings().allow_private_targets))
        try:
            driver = build(name, desk_settings, outbound, TokenBucket(desk_settings.calls_per_minute), os.environ)
            refused = await _Trial(Guarded(name, driver)).run(keep=keep)
        except Failed as failed:
            err.print(printable(f"{name}: {failed.detail}"), style="red", markup=False)
            return FAILED
        finally:
            await outbound.close()
        if refused:
            out.print(f"{name} refuses {refused} of the steps: tickets that need them will wait and say why")
            return FAILED
        out.print(f"{name} takes every step")
        return DONE

    raise typer.Exit(asyncio.run(body()))


class _Trial:
    """One ticket's way through a desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._refused = 0
        story = (Heading("A trial of Fiilis"), Paragraph("Nobody needs to do anything."), Items(("one", "two")))
        self._draft = Draft(
            ticket=uuid7(),
            number=0,
            title="A trial of Fiilis, which removes it again",
            story=story,
            opening=story,
            severity="low",
            state="open",
            customer="trial",
            root_cause="trial",
            resolution="This was a trial of Fiilis",
        )

    async def run(self, *, keep: bool) -> int:
        """Take every step; return how many the desk refused. Raises Failed where nothing could be created."""
        desk, draft = self._desk, self._draft
        me = await desk.who_am_i()
        _tell("who we are", me or "the desk does not say")
        made = await desk.create(draft)
        _tell("create", f"{made.label} {made.url}")
        reference = made.reference
        try:
            await self._step("title and severity", lambda: desk.describe(reference, replace(draft, severity="high")))
            await self._step("story", lambda: desk.tell(reference, draft, draft.story))
            await self._step("comment", lambda: desk.remark(reference, draft, "A comment of the trial"))
            for state in _WAY:
                await self._step(f"move to {state}", lambda state=state: self._moved(reference, state))
            await self._step("read comments", lambda: desk.remarks(reference, None))
            await self._step("find by our id", lambda: self._found(reference))
        finally:
            await self._end(made, keep=keep)
        return self._refused

    async def _step(self, what: str, call: Callable[[], Awaitable[object]]) -> None:
        for attempt in range(1, 4):
            try:
                said = await call()
            except (Failed, Gone) as error:
                if isinstance(error, Failed) and error.kind in {"limited", "temporary"} and attempt < 3:
                    await asyncio.sleep(max(error.retry_after or 0, _AGAIN.delay(attempt)))
                    continue
                self._refused += 1
                err.print(printable(f"{what}: {error}"), style="red", markup=False)
            else:
                _tell(what, said if isinstance(said, str) else "ok")
            return

    async def _moved(self, reference: str, state: TicketState) -> str:
        moved = await self._desk.move(reference, replace(self._draft, state=state), state)
        if not self._desk.readable:
            return "told"
        shown = (await self._desk.read(reference)).state or "a state that is none of ours"
        return f"shows as {shown}" if moved else f"shows as {shown}: nothing nearer is offered"

    async def _found(self, reference: str) -> str:
        found = [one.reference for one in await self._desk.find(self._draft.ticket)]
        if reference not in found and self._desk.readable:
            return f"not yet: its search lags, up to {self._desk.settles:.0f} s are waited for"
        return "ok"

    async def _end(self, made: Remote, *, keep: bool) -> None:
        if keep:
            _tell("kept", made.url)
            return
        try:
            removed = await self._desk.remove(made.reference)
        except (Failed, Gone) as error:
            removed = False
            err.print(printable(f"remove: {error}"), style="yellow", markup=False)
        if removed:
            _tell("remove", "ok")
            return
        await self._step("cancel", lambda: self._moved(made.reference, "cancelled"))
        _tell("remove", f"the account may not delete: {made.url or made.label} remains, cancelled")


def _tell(what: str, said: str) -> None:
    out.print(printable(f"{what}: {said}"), markup=False)


async def _named(name: str, data: Path) -> model.Desk | None:
    """Return a desk of the newest directory; None: there is none of the name, which is said."""
    revision = await read_newest(kafka_of(data))
    known: Mapping[str, model.Desk] = {} if revision is None else revision.directory.desks
    if name not in known:
        there = ", ".join(known) or "none"
        err.print(printable(f"{name!r}: no desk of the directory; it has {there}"), style="red", markup=False)
        return None
    return known[name]


@app.command()
def retry(name: str, data: Data = DATA) -> None:
    """Try again at once what a desk has refused or failed of tickets, instead of within ten minutes."""

    async def body() -> int:
        if await _named(name, data) is None:
            return WRONG
        now = datetime.now(UTC)
        async with _ticketing(data) as database, database.transaction() as tx:
            count = await desks.try_again(tx, name, now)
            turn = (await desks.healths(tx)).get(name)
            if turn is not None and turn.closed_until is not None:
                await desks.health(tx, name, turn.failures, now, turn.error)
            await audit.add(tx, [audited("desk retried", {"desk": name, "tickets": str(count)})])
        out.print(f"{count} tickets of {name} are tried again as soon as ticketing runs")
        return DONE

    raise typer.Exit(asyncio.run(body()))


@app.command()
def sync(ticket: str, data: Data = DATA) -> None:
    """Read one ticket from its desk, and write it there anew: by its number or id."""

    async def body() -> int:
        now = datetime.now(UTC)
        async with _ticketing(data) as database, database.transaction() as tx:
            found = await desks.of_ticket(tx, ticket)
            if found is None:
                why = "no ticket of a desk has this number or id"
                err.print(printable(f"{ticket!r}: {why}"), style="red", markup=False)
                return WRONG
            facts: dict[str, Any] = {"heard": True, "unread": True, "fields": None, "refused": [], "rests": False}
            # Another story than any: written anew where it can be replaced, and not appended once more elsewhere.
            facts |= {"held_until": None, "story": None if found.story is None else ""}
            await desks.note(tx, found.ticket, now, **facts)
            await audit.add(tx, [audited("desk ticket synced", {"desk": found.desk, "ticket": str(found.ticket)})])
        out.print(
            printable(f"{found.label or 'the ticket'} in {found.desk} is read and written as soon as ticketing runs")
        )
        return DONE

    raise typer.Exit(asyncio.run(body()))


@asynccontextmanager
async def _ticketing(data: Path) -> AsyncGenerator[Database]:
    async with stores.databases(data) as databases:
        database = databases.get("ticketing")
        if database is None:
            raise Misconfigured("ticketing has no tables yet: python -m services migrate")
        yield database
