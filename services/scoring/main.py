"""Puts scoring together."""

from __future__ import annotations

from pathlib import Path

from services.scoring.api import build_router
from services.scoring.consumer import FeedbackHandler
from services.scoring.settings import ScoringSettings
from shared.consume import Consumer
from shared.db import Database
from shared.kafka import Producer
from shared.outbox import Relay
from shared.parts import Parts, database_ready
from shared.service import Service, opened
from shared.topics import FEEDBACK

MIGRATIONS = Path(__file__).parent / "migrations"


def build(settings: ScoringSettings, parts: Parts) -> Service:
    """Return scoring, ready to run."""
    database = Database(parts.database_url, "scoring")
    producer = Producer(parts.kafka)
    handler = FeedbackHandler(
        parts.directory,
        parts.clock,
        remembered=settings.scoring_customers,
        sweep_seconds=settings.scoring_sweep_seconds,
    )
    consumer = Consumer(parts.kafka, database, FEEDBACK, handler, max_records=settings.scoring_batch)
    return Service(
        name="scoring",
        router=build_router(database, parts.access, parts.clock),
        resources=[database_ready(database, MIGRATIONS), opened(None, producer.close)],
        tasks={"feedback.v1": consumer.run, "outbox": Relay(database, producer).run},
        checks={"feedback.v1": consumer.ready},
    )
