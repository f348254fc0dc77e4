"""Puts scoring together."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from services.scoring.api import build_router
from services.scoring.consumer import FeedbackHandler
from services.scoring.gauges import Gauges
from services.scoring.settings import ScoringSettings
from shared.consume import Consumer
from shared.db import Database
from shared.due import periodically
from shared.kafka import Producer
from shared.outbox import Relay
from shared.parts import Parts, database_ready
from shared.service import Service, opened
from shared.topics import FEEDBACK

MIGRATIONS = Path(__file__).parent / "migrations"
_FIGURES_SECONDS = 15


def build(settings: ScoringSettings, parts: Parts) -> Service:
    """Return scoring, ready to run."""
    database = Database(parts.database_url, "scoring")
    producer = Producer(parts.kafka)
    consumers = [_consumer(settings, parts, database) for _ in range(settings.scoring_workers)]
    gauges = Gauges(database, parts.directory, parts.clock, consumers)
    return Service(
        name="scoring",
        router=build_router(database, parts.access, parts.clock),
        resources=[database_ready(database, MIGRATIONS), opened(None, producer.close)],
        tasks={
            **{f"feedback.v1 {n}": consumer.run for n, consumer in enumerate(consumers, 1)},
            "outbox": Relay(database, producer).run,
            "gauges": partial(periodically, _FIGURES_SECONDS, gauges.measure),
        },
        checks={f"feedback.v1 {n}": consumer.ready for n, consumer in enumerate(consumers, 1)},
    )


def _consumer(settings: ScoringSettings, parts: Parts, database: Database) -> Consumer:
    handler = FeedbackHandler(
        parts.directory,
        parts.clock,
        remembered=settings.scoring_customers // settings.scoring_workers,
        sweep_seconds=settings.scoring_sweep_seconds,
    )
    return Consumer(parts.kafka, database, FEEDBACK, handler, max_records=settings.scoring_batch)
