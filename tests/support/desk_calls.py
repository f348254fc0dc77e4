"""Several steps of a driver at once, in the order in which they are taken."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from services.ticketing.desks import Desk, Draft, Failed, Remark
from services.ticketing.desks.api import over
from services.ticketing.domain.story import Heading, Items, Link, Paragraph
from services.ticketing.domain.ticket import ACTIVE
from shared.wire.events import TicketState


def draft(**more: Any) -> Draft:
    """Return what a ticket is to say."""
    story = (
        Heading("What happened"),
        Paragraph("NPS fell to -12."),
        Items(("9 of 10 <were> unhappy", 'Mäkinen & Söhne: "it\'s broken"')),
        Link("The customer", "https://fiilis.example/c/acme?a=1&b=2"),
    )
    made = Draft(
        uuid4(), 42, "NPS of Acme fell to -12", story, (Paragraph("We are looking into it."),), "high", "open", "acme"
    )
    return replace(made, **more)


async def updated(desk: Desk, reference: str, draft: Draft, state: TicketState | None, remark: str | None) -> None:
    """Move to a state unless None, bring title, severity and story to the draft's, append a remark unless None."""
    if state in ACTIVE:
        await desk.move(reference, draft, state)
    await _unless_over(desk.describe(reference, draft), desk, reference, state)
    if desk.rewrites:
        await _unless_over(desk.tell(reference, draft, draft.story), desk, reference, state)
    if remark is not None:
        await _unless_over(desk.remark(reference, draft, remark), desk, reference, state)
    if state is not None and state not in ACTIVE:
        await desk.move(reference, draft, state)


async def _unless_over(call: Awaitable[None], desk: Desk, reference: str, state: TicketState | None) -> None:
    try:
        await call
    except Failed as failed:
        if failed.kind != "permanent" or not over((await desk.read(reference)).state, state):
            raise


async def erase(desk: Desk, reference: str, draft: Draft) -> str:
    """Take a person's words away and say anew what is left; return what the desk keeps."""
    left = await desk.redact(reference, draft)
    await desk.describe(reference, draft)
    await desk.tell(reference, draft, draft.story)
    return left


async def remarks_of(desk: Desk, reference: str) -> list[Remark]:
    """Return all comments of a ticket that are not our story."""
    return list((await desk.remarks(reference, None)).items)
