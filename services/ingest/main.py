"""Puts ingest together."""

from __future__ import annotations

from services.ingest.api import FeedbackEndpoint, build_router, described
from services.ingest.settings import IngestSettings
from shared.kafka import Producer, Publisher
from shared.parts import Parts, patiently
from shared.service import Service, opened
from shared.topics import FEEDBACK


def build(settings: IngestSettings, parts: Parts) -> Service:
    """Return ingest, ready to run."""
    # A broker answers one request of a connection at a time: while one waits for Kafka, another takes the next round.
    producers = [Producer(parts.kafka) for _ in range(settings.ingest_connections)]
    publisher = Publisher(producers, FEEDBACK, wait=settings.ingest_wait_seconds, limit=settings.ingest_waiting)
    return Service(
        name="ingest",
        router=build_router(parts.access, publisher, parts.clock),
        hot={"/v1/feedback": FeedbackEndpoint(parts.access, publisher, parts.clock)},
        described={"/v1/feedback": described()},
        resources=[
            *(opened(None, producer.close) for producer in producers),
            opened(lambda: patiently("Kafka", publisher.prepare), publisher.close),
        ],
        tasks={"publisher": publisher.run},
    )
