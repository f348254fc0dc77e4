"""Puts ticketing together."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path

from services.ticketing import store
from services.ticketing.api import build_router
from services.ticketing.consumer import AlertHandler, PageHandler
from services.ticketing.settings import TicketingSettings
from shared import metrics
from shared.consume import Consumer
from shared.db import Database
from shared.directory.model import SEVERITIES
from shared.due import periodically
from shared.kafka import Producer
from shared.outbox import Relay
from shared.parts import Parts, database_ready
from shared.service import Service, opened
from shared.topics import ALERTS, PAGES

MIGRATIONS = Path(__file__).parent / "migrations"
_FIGURES_SECONDS = 15


def build(settings: TicketingSettings, parts: Parts) -> Service:
    """Return ticketing, ready to run."""
    database = Database(parts.database_url, "ticketing")
    producer = Producer(parts.kafka)
    reopen_within = timedelta(days=settings.reopen_within_days)
    alert_handler = AlertHandler(parts.directory, parts.clock, reopen_within=reopen_within)
    alerts = Consumer(parts.kafka, database, ALERTS, alert_handler)
    pages = Consumer(parts.kafka, database, PAGES, PageHandler(parts.clock))

    async def figures() -> None:
        async with database.transaction() as tx:
            opened = await store.open_by_severity(tx)
        for severity in SEVERITIES:
            metrics.TICKETS_OPEN.labels(severity).set(opened.get(severity, 0))

    return Service(
        name="ticketing",
        router=build_router(database, parts.access, parts.clock),
        resources=[database_ready(database, MIGRATIONS), opened(None, producer.close)],
        tasks={
            "alerts.v1": alerts.run,
            "pages.v1": pages.run,
            "outbox": Relay(database, producer).run,
            "figures": partial(periodically, _FIGURES_SECONDS, figures),
        },
        checks={"alerts.v1": alerts.ready, "pages.v1": pages.ready},
    )
