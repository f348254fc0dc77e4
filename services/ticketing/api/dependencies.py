"""What ticketing's doors work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from services.ticketing.desk_sync.supervisor import DeskSync
from services.ticketing.ledger import Ledger
from shared.database.pool import Database
from shared.directory.access import Access, Caller
from shared.http.keys import caller_with, provided
from shared.runtime.clock import Clock
from shared.wire.signing import Signer


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Made once per process; a route asks for them by `Deps`."""

    database: Database
    access: Access
    clock: Clock
    ledger: Ledger
    desk_sync: DeskSync
    signer: Signer


Deps = Annotated[Dependencies, provided(Dependencies)]
Reader = Annotated[Caller, caller_with("tickets", limited=True)]
