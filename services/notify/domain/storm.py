"""Pages of a storm: one is sent for the others, and where that one is over another leads the rest. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from services.notify.domain.hold import Silence, silenced_until
from services.notify.domain.page import WAITING, Outcome, Page, follow, look_up
from shared.directory.model import severity_rank


def follows(page: Page) -> bool:
    """Tell whether another page is sent for one; what is acknowledged is forgotten by itself."""
    return page.lead is not None and page.state in WAITING


def review(
    due: Sequence[Page],
    leads: Mapping[UUID, Page],
    leading: Mapping[str, Page],
    silences: Sequence[Silence],
    now: datetime,
) -> dict[UUID, Outcome]:
    """Return what becomes of pages that follow another one and are due, by their ids.

    `leads`: the pages that they follow, by id, as far as those are there; `leading`: by customer, the page that leads a
    storm now. The most severe of them leads the rest: what may be held at night leads nothing that may not.
    """
    new: dict[UUID | None, Page] = {}
    outcomes: dict[UUID, Outcome] = {}
    for page in sorted(due, key=lambda page: -severity_rank(page.severity)):
        lead = None if page.lead is None else leads.get(page.lead)
        if lead is not None and not _can_lead(lead, page, silences, now):
            lead = None
        outcome = look_up(page, lead, now)
        if outcome.page.lead is None:
            successor = new.get(page.lead) or _successor(page, leading.get(page.customer), silences, now)
            if successor is not None:
                outcome = Outcome(follow(page, successor, now), None)
            else:
                new[page.lead] = replace(outcome.page, storm=True)
                outcome = Outcome(new[page.lead], None, why="leads the others")
        outcomes[page.id] = outcome
    return outcomes


def _successor(page: Page, lead: Page | None, silences: Sequence[Silence], now: datetime) -> Page | None:
    """Return the page that already leads a customer's storm, if it can lead this one too."""
    if lead is None or lead.id in {page.id, page.lead}:
        return None
    return lead if _can_lead(lead, page, silences, now) else None


def _can_lead(lead: Page, page: Page, silences: Sequence[Silence], now: datetime) -> bool:
    """Tell whether nothing holds a leading page that does not hold the one that follows it."""
    if severity_rank(lead.severity) < severity_rank(page.severity):
        return False  # it may sleep where the other does not
    is_silent = lead.held == "silence" or silenced_until(lead, silences, now) is not None
    return not is_silent or silenced_until(page, silences, now) is not None
