"""What the loops of one service work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shared.database.pool import Database
from shared.directory.follower import Follower
from shared.runtime.clock import Clock
from shared.runtime.quarantine import Quarantine


@dataclass(frozen=True, slots=True)
class Runtime:
    """Made once per service and process."""

    database: Database
    """With the service's own schema."""
    directory: Follower
    clock: Clock
    quarantine: Quarantine


class Signal:
    """Something may be due: whoever makes it so calls this, and whoever looks after it listens.

    Made before both, so that neither needs the other.
    """

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []

    def listen(self, wake: Callable[[], None]) -> None:
        """Have `wake` called each time."""
        self._listeners.append(wake)

    def __call__(self) -> None:
        """Wake everybody who listens."""
        for wake in self._listeners:
            wake()
