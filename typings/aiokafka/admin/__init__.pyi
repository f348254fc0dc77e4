from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete

class NewTopic:
    replication_factor: int
    def __init__(
        self,
        name: str,
        num_partitions: int,
        replication_factor: int,
        replica_assignments: Mapping[int, Sequence[int]] | None = None,
        topic_configs: Mapping[str, str] | None = None,
    ) -> None: ...

class AIOKafkaAdminClient:
    def __init__(self, *, bootstrap_servers: str = ..., request_timeout_ms: int = ...) -> None: ...
    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def create_topics(self, new_topics: list[NewTopic]) -> Any: ...
    async def describe_cluster(self) -> dict[str, Any]: ...
    async def delete_records(self, records_to_delete: Mapping[TopicPartition, RecordsToDelete]) -> Any: ...
