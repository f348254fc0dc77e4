"""The audit: who changed what, and from where. Every service leaves its lines, notify keeps them.

A line is left in the transaction that makes the change, so that there is none without the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from shared.bus import outbox
from shared.bus.client import Outgoing, event_headers
from shared.database.pool import Connection
from shared.runtime.logs import current_traceparent
from shared.wire.events import AuditV1
from shared.wire.ids import uuid7
from shared.wire.topics import AUDIT

What = Literal[
    "key refused",
    "ticket opened",
    "ticket changed",
    "action opened",
    "action changed",
    "webhook replayed",
    "dead letters replayed",
    "quarantine released",
    "lost offsets accepted",
    "republished",
    "answers imported",
    "counted afresh",
    "desk retried",
    "desk ticket synced",
]
"""What reaches the audit by its topic; notify writes down itself what it does."""

COMMAND = "command"
"""Where a command line does something; starts the name of who uses it."""
UNKNOWN = "unknown"
"""Who has no key that we know."""


Value = str | int | float | bool | None


class Actor(NamedTuple):
    """Who does something, and from where."""

    id: str
    """`key:ID`, a person, `command:USER`, or `fiilis` itself."""
    address: str | None = None


def line(
    service: str,
    at: datetime,
    by: Actor,
    what: What,
    detail: Mapping[str, Value],
    *,
    customer: str | None = None,
) -> AuditV1:
    """Return a line."""
    return AuditV1(
        id=uuid7(),
        at=at,
        service=service,
        actor=by.id,
        what=what,
        address=by.address,
        customer=customer,
        detail=dict(detail),
    )


def changes(before: msgspec.Struct | None, after: msgspec.Struct, *fields: str) -> dict[str, Value]:
    """Return what became of some fields: of a new object those that are set, else those that are different."""
    now = {field: getattr(after, field) for field in fields}
    if before is None:
        return {field: str(value) for field, value in now.items() if value is not None}
    was = {field: getattr(before, field) for field in fields}
    return {field: f"{was[field]} -> {now[field]}" for field in fields if was[field] != now[field]}


def message(told: AuditV1) -> Outgoing:
    """Return a line as it goes to Kafka."""
    ce_type = next(iter(AUDIT.messages))
    headers = event_headers(ce_type, str(told.id), told.service, told.at.isoformat(), current_traceparent())
    return Outgoing(AUDIT.name, told.service.encode(), msgspec.json.encode(told), headers)


async def add(tx: Connection, lines: Sequence[AuditV1]) -> None:
    """Leave lines to be sent once the transaction commits."""
    await outbox.add(tx, [message(told) for told in lines])
