"""What scoring's doors work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from shared.database.pool import Database
from shared.http.keys import provided
from shared.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Made once per process; a route asks for them by `Deps`."""

    database: Database
    clock: Clock


Deps = Annotated[Dependencies, provided(Dependencies)]
