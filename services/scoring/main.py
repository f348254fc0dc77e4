"""Puts scoring together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from services.scoring.api import router
from services.scoring.consumer import FeedbackHandler
from services.scoring.dependencies import Dependencies
from services.scoring.erasing import Erasing
from services.scoring.gauges import Company, Gauges
from services.scoring.settings import ScoringSettings
from services.scoring.store import alerts
from shared.bus.client import Producer
from shared.bus.consume import Consumer
from shared.bus.outbox import Relay
from shared.database.erasure_keys import ErasureKeys
from shared.database.pool import Database
from shared.runtime.comparison import telling
from shared.runtime.due import Periodic
from shared.runtime.process import Parts, database_ready, patiently
from shared.runtime.quarantine import Quarantine
from shared.runtime.service import Service, opened
from shared.runtime.settings import Settings
from shared.wire.topics import ALERTS, FEEDBACK

MIGRATIONS = Path(__file__).parent / "migrations"
_FIGURES_SECONDS = 15
_COMPANY_SECONDS = 3600


def build(
    settings: Settings, parts: Parts, _public_url: Callable[[], str], own: ScoringSettings | None = None
) -> Service:
    """Return scoring, ready to run. `own`: without it the environment says."""
    own = ScoringSettings() if own is None else own
    database = Database(parts.database_url, "scoring", pool=settings.database_pool)
    producer = Producer(parts.kafka)
    keys = ErasureKeys(database, settings.secrets)
    handlers = [_handler(own, parts, keys) for _ in range(own.scoring_workers)]
    consumers = [_consumer(own, parts, database, handler, n) for n, handler in enumerate(handlers, 1)]
    quarantine = Quarantine(database)
    company = Company(database, parts.clock, handlers)
    gauges = Gauges(database, parts.directory, parts.clock, consumers)
    return Service(
        name="scoring",
        router=router,
        provides=[Dependencies(database, parts.clock)],
        resources=[
            database_ready(database, MIGRATIONS, parts.migration_url),
            opened(lambda: patiently("PostgreSQL", keys.load), producer.close),
        ],
        workers=[
            *(consumer.worker for consumer in consumers),
            Relay(database, producer).worker,
            Periodic("scoring", "company", _COMPANY_SECONDS, company.measure).worker,
            Periodic("scoring", "gauges", _FIGURES_SECONDS, gauges.measure).worker,
            telling(database, parts.clock, ALERTS, "alerts.open", alerts.open_ids, settings.compare_seconds).worker,
            Periodic("scoring", "quarantine", _FIGURES_SECONDS, quarantine.measure).worker,
        ],
        checks={f"feedback.v1 {n}": consumer.ready for n, consumer in enumerate(consumers, 1)},
        notes=quarantine.notes,
    )


def _handler(own: ScoringSettings, parts: Parts, keys: ErasureKeys) -> FeedbackHandler:
    return FeedbackHandler(
        parts.directory,
        parts.clock,
        Erasing(keys.digests, keeps_counts=own.scoring_erasure == "keep-counts"),
        remembered=own.scoring_customers // own.scoring_workers,
        sweep_seconds=own.scoring_sweep_seconds,
    )


def _consumer(
    own: ScoringSettings, parts: Parts, database: Database, handler: FeedbackHandler, number: int
) -> Consumer:
    name = f"{FEEDBACK.name} {number}"
    return Consumer(parts.kafka, database, FEEDBACK, handler, max_records=own.scoring_batch, worker=name)
