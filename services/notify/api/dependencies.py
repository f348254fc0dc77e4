"""What notify's doors work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from services.notify.acknowledgements import Acknowledgements
from services.notify.calendar_cache import CalendarCache
from services.notify.history import History
from services.notify.jobs.preflight import PreflightJob
from shared.database.pool import Database
from shared.directory.access import Access, Caller
from shared.http.client import Outbound
from shared.http.keys import caller_with, provided
from shared.runtime.clock import Clock
from shared.wire.signing import Signer


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Made once per process; a route asks for them by `Deps`."""

    database: Database
    access: Access
    clock: Clock
    signer: Signer
    acknowledgements: Acknowledgements
    preflight: PreflightJob
    outbound: Outbound
    history: History
    public_url: Callable[[], str]
    """Starts every link."""
    escalate: Callable[[], None]
    """Called when a page may be due."""
    sent: Callable[[], None]
    """Called when a message may be due."""
    calendars: CalendarCache = field(default_factory=CalendarCache)


Deps = Annotated[Dependencies, provided(Dependencies)]
Reader = Annotated[Caller, caller_with("oncall", limited=True)]
WholeReader = Annotated[Caller, caller_with("oncall")]
"""A key that is good for all customers: people and schedules are there for all of them."""
