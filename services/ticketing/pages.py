"""The page of a respondent: what changes to their feedback, and nothing that is internal."""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo

from services.ticketing.domain.status import Status
from services.ticketing.domain.texts import words_in
from shared.directory.model import Person
from shared.http.html import templates

_templates = templates(__file__)


def page(status: Status, *, company: str, customer_zone: str, person: Person | None, language: str) -> str:
    """Return the page as HTML. `person`: who is assigned; named once the ticket is taken."""
    words, zone = words_in(language), ZoneInfo(customer_zone)
    titles = {"received": words.page.received, "handled": words.page.handled, "done": words.page.done}
    shown = [
        {
            "title": titles[step.name],
            "current": step.name == status.current,
            "reached": step.reached,
            "moment": None if step.at is None else step.at.isoformat(),
            "at": None if step.at is None else f"{words.at(step.at.astimezone(zone))} ({customer_zone})",
            "by": person.name if step.name == "handled" and status.assignee is not None and person else None,
        }
        for step in status.steps
    ]
    lead = {None: words.page.on_the_way, "received": words.page.noted}.get(status.current)
    template = _templates.get_template("status.html")
    return template.render(code=words.code, words=words.page, company=company, lead=lead, steps=shown)


def refusal(why: Literal["expired", "unknown"], *, company: str, language: str) -> str:
    """Return the page for a link that shows nothing."""
    words = words_in(language)
    template = _templates.get_template("status.html")
    refused = words.page.expired if why == "expired" else words.page.unknown
    return template.render(code=words.code, words=words.page, company=company, steps=[], refused=refused)
