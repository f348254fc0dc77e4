"""What a desk is told of a ticket: each function does one step and stores that it is done."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from services.ticketing.desk_sync.step import DesiredTicket, Step, is_alike
from services.ticketing.desks import Desk, Draft, Failed, Gone, Remote
from services.ticketing.desks.api import over
from services.ticketing.domain.story import Story, opening, tell, tell_of
from services.ticketing.domain.ticket import ACTIVE, entry
from services.ticketing.store import desks, tickets
from services.ticketing.store.desks import Mirror
from shared.database.pool import Database
from shared.directory.model import Desk as DeskSettings
from shared.directory.model import Directory
from shared.runtime.clock import Clock
from shared.runtime.logs import Log
from shared.wire.events import TicketState, TicketV1

log = Log("ticketing")

MARK = "Fiilis, ticket {number}, entry {line}"
"""Ends each remark that we write, so that it is not read back as somebody's."""
_LINE = 4_000
"""Characters of one line of a remark."""


class Push:
    """Does the steps that write. Each raises Failed, and Gone."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, desk: Desk, mirror: Mirror, ticket: TicketV1, draft: Draft) -> bool:
        """Create the desk's ticket, unless it is found; the intent is stored before the call.

        Return whether the desk was asked: not while its search has not settled, nor for a ticket that ended before.
        """
        now = self._clock.now()
        found: list[Remote] = []
        if mirror.asked_at is not None:
            settled = mirror.asked_at + timedelta(seconds=desk.settles)
            if now < settled:
                why = mirror.error or "asked, and waits"
                async with self._database.transaction() as tx:
                    await desks.note(tx, mirror.ticket, now, held_until=settled, error=why)
                return False
            async with self._database.transaction() as tx:
                former = await desks.formers(tx, ticket.id)
            found = [one for one in await desk.find(ticket.id) if one.reference not in former]
            if not found:
                await desk.who_am_i()
        was_found = bool(found)
        if not found:
            if ticket.state in {"closed", "cancelled"}:
                async with self._database.transaction() as tx:
                    await desks.rest(tx, ticket.id, mirror.wanted, "it ended before the desk had it", now)
                return mirror.asked_at is not None
            async with self._database.transaction() as tx:
                if not await desks.ask(tx, mirror, self._clock.now()):
                    await desks.settle(tx, [ticket.id], now)  # it changed meanwhile: the next turn asks
                    return False
            found = [await desk.create(draft)]
        if not all(one.can_be_named for one in found):
            raise Failed("unknown", "the desk calls its ticket something that nobody can store")
        await self._adopt(desk, mirror, ticket, draft, found, was_found=was_found)
        return True

    async def _adopt(
        self, desk: Desk, mirror: Mirror, ticket: TicketV1, draft: Draft, found: Sequence[Remote], *, was_found: bool
    ) -> None:
        """Keep the first of the desk's tickets; the others, and all if another was kept meanwhile, are to be closed."""
        remote, now, actor = found[0], self._clock.now(), f"desk:{mirror.desk}"
        has: dict[str, Any] = {}
        if not was_found:
            # One that was found may be of an earlier version: each step is taken anew.
            has = {"fields": fields_of(draft), "told_state": None if desk.readable else ticket.state}
            if desk.opens_with_story:
                has |= {"story": digest(draft.story), "answers": [one.id for one in ticket.evidence]}
        async with self._database.transaction() as tx:
            # Always the ticket before what the desk has of it: whoever saves a ticket locks them in this order.
            if await tickets.one_locked(tx, ticket.id) is None:
                return
            named = await desks.of_reference(tx, mirror.desk, remote.reference)
            if named not in {None, ticket.id}:
                raise Failed("permanent", f"the desk calls two tickets {remote.reference}: this one, and {named}")
            kept = await desks.adopt(tx, ticket.id, remote.reference)
            if kept:
                facts = {"label": remote.label, "url": remote.url, "state": remote.state, "synced_at": now, **has}
                await desks.note(tx, ticket.id, now, **facts)
            current = await desks.one(tx, ticket.id)
            assert current is not None
            more = [(one.reference, one.label) for one in found if one.reference != current.reference]
            new = await desks.duplicated(tx, mirror.desk, ticket.id, more)
            lines = [entry(ticket.id, now, actor, "desk ticket", text=f"{mirror.desk} {remote.label}")] if kept else []
            lines += [entry(ticket.id, now, actor, "duplicate", text=label) for one, label in more if one in new]
            await tickets.append(tx, lines)
            await desks.settle(tx, [ticket.id], now)
        for reference in new:
            log.warning("duplicate in the desk", desk=mirror.desk, ticket=ticket.id, reference=reference)

    async def do(
        self, step: Step, desk: Desk, mirror: Mirror, wanted: DesiredTicket, draft: Draft, directory: Directory
    ) -> None:
        """Take a step that writes to the desk's ticket, and store that it is done."""
        assert mirror.reference is not None
        try:
            facts = await self._done(step, desk, mirror, wanted, draft, directory)
        except Failed as failed:
            await _raise_unless_over(
                failed, desk, mirror.reference, wanted.ticket.state, spares=step != "close duplicate"
            )
            facts = await self._spared(step, mirror, wanted)
        async with self._database.transaction() as tx:
            now = self._clock.now()
            refused = [one for one in mirror.refused if one != step]
            await desks.note(tx, mirror.ticket, now, refused=refused, synced_at=now, **facts)

    async def _done(
        self, step: Step, desk: Desk, mirror: Mirror, wanted: DesiredTicket, draft: Draft, directory: Directory
    ) -> dict[str, Any]:
        """Take a step; return what the desk has after it."""
        reference = mirror.reference
        assert reference is not None
        match step:
            case "close duplicate":
                await self._close_duplicates(desk, mirror, draft)
                return {}
            case "redact":
                return await self._redact(desk, mirror, draft)
            case "describe":
                await desk.describe(reference, draft)
                return {"fields": wanted.fields}
            case "tell":
                await desk.tell(reference, draft, _news(desk, mirror, wanted, draft, directory))
                return _has_story(wanted)
            case "move":
                return await self._move(desk, mirror, draft)
            case "remark":
                return await self._remark(desk, mirror, draft)
            case _:
                raise AssertionError(step)

    async def _spared(self, step: Step, mirror: Mirror, wanted: DesiredTicket) -> dict[str, Any]:
        """Return what counts as done of a ticket that is over here and there, and takes no words any more."""
        match step:
            case "describe":
                return {"fields": wanted.fields}
            case "tell":
                return _has_story(wanted)
            case "move":
                return {"told_state": wanted.ticket.state}
            case "remark":
                async with self._database.transaction() as tx:
                    lines = await desks.untold(tx, mirror.ticket, mirror.line)
                return {"line": lines[-1]["line"] if lines else mirror.line}
            case _:
                return {}

    async def _close_duplicates(self, desk: Desk, mirror: Mirror, draft: Draft) -> None:
        async with self._database.transaction() as tx:
            doubles = await desks.duplicates(tx, mirror.ticket)
        for reference, label in doubles:
            with suppress(Gone):
                await desk.remark(reference, draft, f"Duplicate of {mirror.label}")
                await desk.move(reference, draft, "cancelled")
            async with self._database.transaction() as tx:
                await desks.closed_duplicate(tx, mirror.desk, reference)
            log.info("duplicate closed", desk=mirror.desk, ticket=mirror.ticket, label=label)

    async def _redact(self, desk: Desk, mirror: Mirror, draft: Draft) -> dict[str, Any]:
        assert mirror.reference is not None
        async with self._database.transaction() as tx:
            erasures = await desks.erasing(tx, mirror.ticket)
        if mirror.followed_at is not None:
            left = "everything, as the ticket became a part of another one, which is not ours"
        else:
            left = await self._redacted(desk, mirror.reference, draft)
        now = self._clock.now()
        async with self._database.transaction() as tx:
            line = entry(mirror.ticket, now, f"desk:{mirror.desk}", "erased in the desk", text=left)
            await tickets.append(tx, [line])
            await desks.erased(tx, mirror.ticket, erasures, left)
            more = await desks.erasing(tx, mirror.ticket)
        return {"erased": bool(more), "fields": None, "story": None}

    async def _redacted(self, desk: Desk, reference: str, draft: Draft) -> str:
        try:
            left = await desk.redact(reference, draft)
            closed = ""
        except Failed as failed:
            await _raise_unless_over(failed, desk, reference, None)
            return "everything, as the ticket is closed to changes"
        try:
            await desk.describe(reference, draft)
            if desk.rewrites:
                await desk.tell(reference, draft, draft.story)
        except Failed as failed:
            await _raise_unless_over(failed, desk, reference, None)
            closed = "everything, " if desk.rewrites else "the title, "
            closed += "as the ticket is closed to changes; "
        return closed + left

    async def _move(self, desk: Desk, mirror: Mirror, draft: Draft) -> dict[str, Any]:
        assert mirror.reference is not None
        if mirror.followed_at is not None:
            await desk.remark(mirror.reference, draft, f"Ticket {draft.number} of Fiilis: {draft.state}")
            return {"told_state": draft.state}
        if not await desk.move(mirror.reference, draft, draft.state):
            return {"told_state": draft.state}
        if not desk.readable:
            return {"told_state": draft.state, "state": draft.state}
        # Read back, since desks have fewer states: what it shows now is no news the next time.
        shown = (await desk.read(mirror.reference)).state
        if shown is not None and shown == mirror.state and not is_alike(shown, draft.state):
            why = f"the desk said yes to {draft.state} and still shows {shown}: does its workflow allow that?"
            raise Failed("permanent", why, refusal=True)
        return {"told_state": draft.state, "state": shown or mirror.state, **ending(mirror, shown, self._clock)}

    async def _remark(self, desk: Desk, mirror: Mirror, draft: Draft) -> dict[str, Any]:
        assert mirror.reference is not None
        async with self._database.transaction() as tx:
            lines = await desks.untold(tx, mirror.ticket, mirror.line)
        said: list[str] = []
        last = mirror.line
        for line in lines:
            text = _sentence(line["what"], msgspec.json.decode(line["detail"]))[:_LINE]
            if said and sum(len(one.encode()) for one in (*said, text)) > desk.room // 2:
                break
            # Of answers that came since, a desk is told their words: `tell` appends or replaces them.
            if line["what"] != "evidence added" or desk.rewrites:
                said.append(text)
            last = line["line"]
        if said:
            mark = MARK.format(number=draft.number, line=last)
            await desk.remark(mirror.reference, draft, "\n".join([*said, "", mark]))
        return {"line": last}

    async def follow_up(self, mirror: Mirror) -> None:
        """Have a new ticket created in place of the desk's, which is closed for good."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            line = entry(mirror.ticket, now, f"desk:{mirror.desk}", "followed up in the desk", text=mirror.label or "")
            await tickets.append(tx, [line])
            await desks.former(tx, mirror.ticket, now, "closed")
            nothing: dict[str, Any] = dict.fromkeys(
                ("reference", "label", "url", "state", "told_state", "fields", "story", "remarks_upto", "seen_at")
            )
            more: dict[str, Any] = {
                "asked_at": None,
                "ended_at": None,
                "assignee": None,
                "followed_at": None,
                "answers": [],
            }
            await desks.note(tx, mirror.ticket, now, **nothing, **more, pushed=0, sealed=False, unread=False)


async def _raise_unless_over(
    failed: Failed, desk: Desk, reference: str, wanted: TicketState | None, *, spares: bool = True
) -> None:
    """Raise a failure to write, unless it is that the desk's ticket has ended and takes no changes any more.

    `spares`: else it is raised in any case, once it is known whose failure it is.
    """
    if failed.kind != "permanent":
        raise failed
    # Workflows and policies say no by 403 too: who may read it is not shut out.
    remote = await desk.read(reference)
    failed.refusal = True
    if not (spares and over(remote.state, wanted)):
        raise failed


def ending(mirror: Mirror, state: TicketState | None, clock: Clock) -> dict[str, Any]:
    """Return since when the desk's ticket is over, as a fact of it."""
    if state is None:
        return {}
    return {"ended_at": None if state in ACTIVE else mirror.ended_at or clock.now()}


def draft_of(
    ticket: TicketV1, directory: Directory, settings: DeskSettings, desk: Desk, former: Sequence[str]
) -> tuple[Draft, DesiredTicket]:
    """Return what the desk's ticket is to say, and what of that is compared with what it has."""
    customer = directory.customers[ticket.customer]
    draft = Draft(
        ticket=ticket.id,
        number=ticket.number,
        title=ticket.title,
        story=tell(ticket, customer, directory.people, customer.language, desk.room),
        opening=opening(ticket, customer.language),
        severity=ticket.severity,
        state=ticket.state,
        customer=ticket.customer,
        root_cause=ticket.root_cause,
        resolution=ticket.resolution,
        follows=former[-1] if former else None,
        turn=len(former),
    )
    shown = frozenset(one.id for one in ticket.evidence)
    return draft, DesiredTicket(ticket, fields_of(draft), digest(draft.story), shown, settings.reopen)


def fields_of(draft: Draft) -> str:
    """Return a digest of title and severity."""
    return _digest(f"{draft.severity} {draft.title}")


def digest(story: Story) -> str:
    """Return a digest of a story."""
    return _digest(repr(story))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def _has_story(wanted: DesiredTicket) -> dict[str, Any]:
    return {"story": wanted.story, "answers": sorted(wanted.answers)}


def _news(desk: Desk, mirror: Mirror, wanted: DesiredTicket, draft: Draft, directory: Directory) -> Story:
    """Return the whole story where the desk has none, or has one that can be replaced; else what it lacks."""
    if mirror.story is None or desk.rewrites:
        return draft.story
    known: set[UUID] = set(mirror.answers)
    answers = [one for one in wanted.ticket.evidence if one.id not in known]
    return tell_of(answers, wanted.ticket, directory.customers[wanted.ticket.customer], desk.room)


def _sentence(what: str, detail: Mapping[str, object]) -> str:
    shown = detail.get("text") or detail.get("summary") or detail.get("clock") or ""
    return f"{what}: {shown}" if shown else what
