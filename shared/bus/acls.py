"""The least rights on Kafka that each service works with, as the registry of topics has it.

Nothing of the cluster itself: topics are made by whoever applies the directory, and a producer that may write needs no
right of its own to be idempotent (since Kafka 2.8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from shared.wire.topics import DEAD_LETTERS_GROUP, DIRECTORY, TOPICS, Topic, group_of

OPERATOR = "operator"
"""Who runs commands: apply, import, dead-letters, offsets, doctor."""


@dataclass(frozen=True, slots=True)
class Right:
    """What may be done with some topics or consumer groups, named without the installation's prefix."""

    on: Literal["topic", "group"]
    names: tuple[str, ...]
    operations: tuple[str, ...]
    """As Kafka's own tool names them; to read or to write includes to describe."""
    by_prefix: bool = False


def rights() -> dict[str, list[Right]]:
    """Return the rights of each service, and of the operator."""
    services = sorted({service for topic in TOPICS for service in (*topic.writers, *topic.readers)} - {DIRECTORY.owner})
    return {**{service: list(_service(service)) for service in services}, OPERATOR: list(_operator())}


def _service(service: str) -> Iterator[Right]:
    # A start looks at every topic: whether it is there, and as it has to be.
    yield Right("topic", _everything(), ("Describe", "DescribeConfigs"))
    read = [topic for topic in TOPICS if service in topic.readers]
    write = [topic.name for topic in TOPICS if service in topic.writers]
    write += [topic.dead for topic in read if topic.messages]
    yield Right("topic", tuple(topic.name for topic in read), ("Read",))
    yield Right("topic", tuple(write), ("Write",))
    groups = tuple(group_of(service, topic) for topic in read if topic.messages)
    if groups:
        yield Right("group", groups, ("Read",))


def _operator() -> Iterator[Right]:
    yield Right("topic", _everything(), ("Create", "Describe", "DescribeConfigs", "AlterConfigs"))
    yield Right("topic", (DIRECTORY.name,), ("Read", "Write"))
    yield Right("topic", tuple(topic.name for topic in _keyed()), ("Write",))  # dead letters again; import; audit
    yield Right("topic", tuple(topic.dead for topic in _keyed()), ("Read",))
    yield Right("group", (DEAD_LETTERS_GROUP,), ("Read",), by_prefix=True)


def _everything() -> tuple[str, ...]:
    return tuple(name for topic in TOPICS for name in ((topic.name, topic.dead) if topic.messages else (topic.name,)))


def _keyed() -> tuple[Topic, ...]:
    return tuple(topic for topic in TOPICS if topic.messages)
