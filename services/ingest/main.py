"""Puts ingest together."""

from __future__ import annotations

from services.ingest.api import FeedbackEndpoint, described
from services.ingest.settings import IngestSettings
from shared.kafka import Producer, Publisher
from shared.parts import Parts, patiently
from shared.service import Service, opened
from shared.topics import FEEDBACK


def build(settings: IngestSettings, parts: Parts) -> Service:
    """Return ingest, ready to run."""
    producer = Producer(parts.kafka)
    publisher = Publisher(producer, FEEDBACK, wait=settings.ingest_wait_seconds, limit=settings.ingest_waiting)
    return Service(
        name="ingest",
        hot={"/v1/feedback": FeedbackEndpoint(parts.access, publisher, parts.clock)},
        described={"/v1/feedback": described()},
        resources=[
            opened(lambda: patiently("Kafka", publisher.prepare), producer.close),
            opened(None, publisher.close),
        ],
        tasks={"publisher": publisher.run},
    )
