"""What a service does with the records of a topic, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from shared.database.pool import Connection
from shared.runtime.logs import parse_traceparent

M_co = TypeVar("M_co", covariant=True)

AfterCommit = Callable[[], None]
"""What a handler does to its memory once the transaction has committed."""


class Record(msgspec.Struct, Generic[M_co], frozen=True, gc=False):
    """One decoded message and where it stood."""

    message: M_co
    type: str
    partition: int
    offset: int
    trace: bytes | None = None

    @property
    def traceparent(self) -> str | None:
        """The trace that it belongs to."""
        return None if self.trace is None else parse_traceparent(self.trace.decode("utf-8", "replace"))


class Handler(Protocol):
    """What a service does with the records of a topic."""

    sweep_seconds: float | None
    """How often `sweep` runs, in real seconds; None: never."""
    takes: Collection[str] | None
    """The `ce_type`s that concern it; it passes the others by. None: all of the topic's."""

    async def handle(self, tx: Connection, records: Sequence[Record[Any]]) -> AfterCommit | None:
        """Do the work of these records inside the transaction. Raises Invalid for a record that can never succeed."""
        ...

    async def sweep(self, tx: Connection, partitions: Sequence[int], limit: int | None = None) -> AfterCommit | None:
        """Do what is due by time alone for partitions that this process owns and has caught up with.

        Raises Undecidable, naming the rows; then it is asked again with a `limit` of one row.
        """
        ...

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop what memory holds of these partitions: they went elsewhere, or a transaction did not commit."""
        ...


class Memoryless:
    """What a handler is that remembers nothing and has nothing due by time."""

    sweep_seconds: float | None = None
    takes: Collection[str] | None = None

    async def sweep(self, tx: Connection, partitions: Sequence[int], limit: int | None = None) -> AfterCommit | None:
        """Nothing is due by time."""

    def forget(self, partitions: Sequence[int]) -> None:
        """Nothing is remembered."""
