"""Every setting of ingest."""

from __future__ import annotations

from pydantic import Field

from shared.service import Settings


class IngestSettings(Settings):
    """Environment variables `FIILIS_...`."""

    ingest_wait_seconds: float = Field(default=5.0, gt=0)
    """How long a request waits for Kafka, and then for PostgreSQL, before it is told 503; Kafka's own time-outs came
    after 24 s. While Kafka is known to be away nobody waits for it."""
    ingest_connections: int = Field(default=2, ge=1, le=8)
    """Connections to Kafka that share the partitions; each has one request under way per broker."""
    ingest_waiting: int = Field(default=20_000, ge=1)
    """Answers that may wait for Kafka at once, and as many for PostgreSQL; beyond both a request is told 503."""
