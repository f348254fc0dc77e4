"""The registry of topics: who writes each, which messages it carries, how long they stay.

A message is found by its `ce_type`; its JSON Schema is in `docs/schemas`, an example of it in `tests/examples`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from shared.wire.events import (
    AlertV1,
    AuditV1,
    FeedbackReceivedV1,
    FollowUpDueV1,
    PageV1,
    RespondentErasedV1,
    ScoreDailyV1,
    StillOpenV1,
    TicketV1,
)

DAY_MS = 86_400_000
PARTITIONS = 8
DEAD = ".dead"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic and its messages by `ce_type`."""

    name: str
    owner: str
    """The only service that writes it, unless `shared_by` names several."""
    readers: tuple[str, ...]
    """The services that read it."""
    messages: dict[str, type[msgspec.Struct]]
    retention_ms: int
    partitions: int = PARTITIONS
    settings: dict[str, str] = field(default_factory=dict[str, str])
    shared_by: tuple[str, ...] = ()
    """The services that write it, where several do: no order holds among what they say."""

    @property
    def writers(self) -> tuple[str, ...]:
        """The services that write it."""
        return self.shared_by or (self.owner,)

    @property
    def dead(self) -> str:
        """The topic of what was refused."""
        return self.name + DEAD


ERASED = "respondent.erased"
"""Goes the way of the answers, through every service."""
ERASED_ANSWER = "answer.erased"
"""The same of one answer: a reader who knows only people must not take it for nobody's erasure."""
ERASURES = frozenset({ERASED, ERASED_ANSWER})
FEEDBACK = Topic(
    "feedback.v1",
    "ingest",
    ("scoring",),
    {"feedback.received": FeedbackReceivedV1, ERASED: RespondentErasedV1, ERASED_ANSWER: RespondentErasedV1},
    7 * DAY_MS,
)
ALERTS = Topic(
    "alerts.v1",
    "scoring",
    ("ticketing", "notify"),
    {
        "alert.opened": AlertV1,
        "alert.updated": AlertV1,
        "alert.cleared": AlertV1,
        "alerts.open": StillOpenV1,
        "score.daily": ScoreDailyV1,
        ERASED: RespondentErasedV1,
        ERASED_ANSWER: RespondentErasedV1,
    },
    30 * DAY_MS,
)
TICKETS = Topic(
    "tickets.v1",
    "ticketing",
    ("notify",),
    {
        "ticket.opened": TicketV1,
        "ticket.updated": TicketV1,
        "ticket.resolved": TicketV1,
        "ticket.closed": TicketV1,
        "tickets.open": StillOpenV1,
        "follow-up.due": FollowUpDueV1,
        ERASED: RespondentErasedV1,
        ERASED_ANSWER: RespondentErasedV1,
    },
    30 * DAY_MS,
)
PAGES = Topic(
    "pages.v1",
    "notify",
    ("ticketing",),
    {
        "page.sent": PageV1,
        "page.acknowledged": PageV1,
        "page.unacknowledged": PageV1,
        "page.escalated": PageV1,
        "page.exhausted": PageV1,
        "page.resolved": PageV1,
        ERASED: RespondentErasedV1,
        ERASED_ANSWER: RespondentErasedV1,
    },
    30 * DAY_MS,
)
AUDIT = Topic(
    "audit.v1",
    "audit",
    ("notify",),
    {"audit.line": AuditV1},
    30 * DAY_MS,
    partitions=1,
    shared_by=("ingest", "scoring", "ticketing", "notify"),
)
"""Who changed what in which service; commands write it, too. Its key is the service."""
DIRECTORY_LIMIT = 16 * 1024 * 1024
"""Bytes of the compressed record."""
DIRECTORY = Topic(
    "directory.v1",
    "apply",
    ("ingest", "scoring", "ticketing", "notify"),
    {},
    -1,
    partitions=1,
    settings={"cleanup.policy": "compact", "max.message.bytes": str(DIRECTORY_LIMIT + 64 * 1024)},
)

TOPICS: tuple[Topic, ...] = (FEEDBACK, ALERTS, TICKETS, PAGES, AUDIT, DIRECTORY)


DEAD_LETTERS_GROUP = "fiilis.dead-letters."
"""Starts the consumer groups that remember how far dead letters were sent again."""


def group_of(service: str, topic: Topic) -> str:
    """Return the consumer group in which a service reads a topic, without the installation's prefix."""
    return f"fiilis.{service}.{topic.name}"


class Undecodable(Exception):
    """A record that is not one of its topic's messages."""


class Decoder:
    """Turns a record's `ce_type` and value into its message. So readers are deployed before a writer's new type."""

    def __init__(self, topic: Topic) -> None:
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {
            name: msgspec.json.Decoder(message) for name, message in topic.messages.items()
        }

    def decode(self, ce_type: str, value: bytes | None) -> Any:
        """Return the message. Raises Undecodable with what is wrong."""
        decoder = self._decoders.get(ce_type)
        if decoder is None:
            raise Undecodable(f"unknown ce_type {ce_type!r}")
        if value is None:
            raise Undecodable("no value")
        try:
            return decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Undecodable(str(error)) from None
