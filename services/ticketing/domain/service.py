"""How well a customer's problems are taken care of, over the tickets of a period."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of a period's tickets."""

    tickets: int
    resolved: int
    """At least once."""
    at_first_contact: int
    """Of the resolved: never waited for somebody, and were not opened again."""
    first_response_seconds: float | None
    """The median."""
    named: int
    """Of the resolved: a respondent who said who they are stands behind it."""
    recovered: int
    """Of those: nobody said that it was not put right."""
    reopened: int


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


def service_of(tally: Tally) -> Service:
    """Return the figures of a period."""
    return Service(
        tickets=tally.tickets,
        resolved=tally.resolved,
        first_contact_resolution=_share(tally.at_first_contact, tally.resolved),
        first_response_seconds=tally.first_response_seconds,
        recovery_rate=_share(tally.recovered, tally.named),
        reopen_rate=_share(tally.reopened, tally.resolved),
    )


def _share(some: int, of: int) -> float | None:
    return round(some / of, 4) if of else None
