"""Every setting that ticketing has besides the common ones."""

from __future__ import annotations

from pydantic import Field

from shared.runtime.settings import Environment


class TicketingSettings(Environment):
    """What ticketing alone is told."""

    reopen_within_days: float = Field(default=7, ge=0)
    """An alert of the same problem reopens a ticket resolved so lately; later it opens a new one."""
    group_interval_seconds: float = Field(default=30.0, ge=0)
    """Desks, webhooks and tickets.v1 hear of added evidence at most so often; of everything else at once."""
