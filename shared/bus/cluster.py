"""What a Kafka cluster says of itself: its topics by their ids, partitions, replicas, and what we may do with them.

The client library stops at version 5 of the metadata request; ids of topics came with version 10, rights with 8. This
is version 12 on the library's own types, and version 5, without them, for brokers that know no newer one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from uuid import UUID

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

_NO_ID = UUID(int=0)
_UNKNOWN_TOPIC = 3


class _Uuid(AbstractType[UUID]):
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


class _MetadataResponse_v12(Response):
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataRequest_v12(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _MetadataResponse_v12
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[MetadataRequest_v5 | _MetadataRequest_v12]):
    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is MetadataRequest_v5:
            return MetadataRequest_v5(list(self._topics), False)
        return _MetadataRequest_v12([(_NO_ID, name, {}) for name in self._topics], False, True, {})


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the cluster has it."""

    name: str
    id: str
    """Another for a topic that was deleted and made anew; "" where the broker does not tell."""
    partitions: int
    replication: int
    in_sync: int
    """Of the partition that has the fewest replicas in sync."""
    leaderless: int
    """Partitions that nobody leads."""
    operations: int | None
    """Bits of what we may do with it, by the number of Kafka's AclOperation; None where the broker does not tell."""

    def may(self, operation: int) -> bool:
        """Tell whether we may do something with it, as far as the broker says so."""
        return self.operations is None or bool(self.operations >> operation & 1)


OPERATIONS = {
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Delete": 6,
    "Alter": 7,
    "Describe": 8,
    "DescribeConfigs": 10,
    "AlterConfigs": 11,
}
"""Numbers of Kafka's AclOperation, by the names that its tools have for them."""
READ, WRITE, CREATE, DESCRIBE = (OPERATIONS[name] for name in ("Read", "Write", "Create", "Describe"))


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster and those of the topics asked for that it has."""

    id: str
    brokers: tuple[str, ...]
    """Their advertised addresses, `host:port`."""
    topics: Mapping[str, TopicState] = field(default_factory=dict[str, TopicState])


@dataclass(frozen=True, slots=True)
class LogState:
    """A topic's log as the cluster has it now."""

    cluster: str
    log: str
    """The topic's id; "" where the broker does not tell."""
    starts: Mapping[int, int]
    """First offset of each partition."""
    ends: Mapping[int, int]
    """Offset after the last of each partition."""


async def ask(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> Cluster:
    """Return what the cluster says of itself and these topics. Raises KafkaError."""
    client: Any = admin._client  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    answer: Any = await client.send(client.get_random_node(), _MetadataRequest(topics))
    told: dict[str, Any] = answer.to_object()
    found: dict[str, TopicState] = {}
    for topic in told["topics"]:
        code: int = topic["error_code"]
        if code == _UNKNOWN_TOPIC:
            continue
        if code and not topic["partitions"]:
            raise for_code(code)(f"topic {topic['topic']}")
        found[topic["topic"]] = _state(topic)
    brokers = tuple(f"{broker['host']}:{broker['port']}" for broker in told["brokers"])
    return Cluster(told["cluster_id"] or "", brokers, found)


def _state(topic: Mapping[str, Any]) -> TopicState:
    partitions: list[dict[str, Any]] = topic["partitions"]
    operations: int = topic.get("authorized_operations", -(2**31))
    id_: UUID = topic.get("topic_id", _NO_ID)
    return TopicState(
        name=topic["topic"],
        id="" if id_ == _NO_ID else str(id_),
        partitions=len(partitions),
        replication=min((len(p["replicas"]) for p in partitions), default=0),
        in_sync=min((len(p["isr"]) for p in partitions), default=0),
        leaderless=sum(p["leader"] < 0 for p in partitions),
        operations=None if operations == -(2**31) else operations,
    )
