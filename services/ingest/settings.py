"""Every setting that ingest has besides the common ones."""

from __future__ import annotations

from pydantic import Field

from services.ingest.limits import Limits
from shared.directory.model import KeyLimits
from shared.runtime.settings import Environment


class IngestSettings(Environment):
    """What ingest alone is told."""

    ingest_wait_seconds: float = Field(default=5.0, gt=0)
    """How long a request waits for Kafka, and then for PostgreSQL, before it is told 503; Kafka's own time-outs came
    after 24 s. While Kafka is known to be away nobody waits for it."""
    ingest_connections: int = Field(default=2, ge=1, le=8)
    """Connections to Kafka that share the partitions; each has one request under way per broker."""
    ingest_waiting: int = Field(default=20_000, ge=1)
    """Answers that may wait for Kafka at once, and as many for PostgreSQL; beyond both a request is told 503."""
    key_per_minute: int = Field(default=3_000, ge=1)
    key_burst: int = Field(default=3_000, ge=1)
    """Answers with one publishable key, in this process; a key's own `limits` in the directory come first."""
    address_per_minute: int = Field(default=600, ge=1)
    address_burst: int = Field(default=600, ge=1)
    """Answers with publishable keys from one address: an office of 500 people answers at the same moment."""
    respondent_per_minute: int = Field(default=10, ge=1)
    respondent_burst: int = Field(default=20, ge=1)
    """Answers with respondent tokens of one person."""

    @property
    def speakers(self) -> Limits:
        """How much public speakers may post."""
        return Limits(
            KeyLimits(self.key_per_minute, self.key_burst),
            KeyLimits(self.address_per_minute, self.address_burst),
            KeyLimits(self.respondent_per_minute, self.respondent_burst),
        )
