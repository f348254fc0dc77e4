"""How well a customer's problems are taken care of, over the tickets of a period."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from shared.events import TicketV1


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """Rates are shares, 0 to 1; null where nothing was there to count."""

    tickets: int
    """Opened in the period."""
    resolved: int
    """Of them, those that were resolved at least once."""
    first_contact_resolution: float | None
    """Of the resolved: never waited for somebody, and were not opened again."""
    first_response_seconds: float | None
    """Median from opening to the first answer; of a ticket that was opened again, of its last opening."""
    recovery_rate: float | None
    """Of the resolved that respondents stand behind: those who were asked have not said that it was not put right."""
    reopen_rate: float | None
    """Of the resolved: opened again."""


def service_of(found: Sequence[tuple[TicketV1, bool]]) -> Service:
    """Return the figures of some tickets, each with whether it ever waited."""
    resolved = [(ticket, waited) for ticket, waited in found if ticket.resolved_at is not None or ticket.opening > 1]
    asked = [ticket for ticket, _ in resolved if any(answer.respondent for answer in ticket.evidence)]
    answered = [
        (ticket.acknowledged_at - ticket.opened_at).total_seconds()
        for ticket, _ in found
        if ticket.acknowledged_at is not None
    ]
    return Service(
        tickets=len(found),
        resolved=len(resolved),
        first_contact_resolution=_share([ticket.opening == 1 and not waited for ticket, waited in resolved]),
        first_response_seconds=statistics.median(answered) if answered else None,
        recovery_rate=_share([ticket.opening == 1 for ticket in asked]),
        reopen_rate=_share([ticket.opening > 1 for ticket, _ in resolved]),
    )


def _share(found: Sequence[bool]) -> float | None:
    return round(sum(found) / len(found), 4) if found else None
