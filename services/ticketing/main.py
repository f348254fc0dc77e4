"""Puts ticketing together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from services.ticketing.api import router
from services.ticketing.api.dependencies import Dependencies
from services.ticketing.consumer import AlertHandler, PageHandler
from services.ticketing.desk_sync.supervisor import DeskSync
from services.ticketing.ledger import Ledger
from services.ticketing.settings import TicketingSettings
from services.ticketing.sla_timer import SlaTimer
from services.ticketing.store import tickets
from services.ticketing.webhook_sender import WebhookSender
from shared.bus.client import Producer
from shared.bus.consume import Consumer
from shared.bus.outbox import Relay
from shared.database.erasure_keys import ErasureKeys
from shared.database.pool import Database
from shared.directory.model import SEVERITIES
from shared.runtime import metrics
from shared.runtime.comparison import looking, telling
from shared.runtime.due import Periodic
from shared.runtime.process import Parts, database_ready, outbound, patiently, signer
from shared.runtime.progress import Worker
from shared.runtime.quarantine import Quarantine
from shared.runtime.runtime import Runtime
from shared.runtime.service import Service, opened
from shared.runtime.settings import Settings
from shared.wire.topics import ALERTS, PAGES, TICKETS

MIGRATIONS = Path(__file__).parent / "migrations"
_FIGURES_SECONDS = 15
_FORGET_SECONDS = 600
_QUARANTINE_SECONDS = 15


def build(
    settings: Settings, parts: Parts, public_url: Callable[[], str], own: TicketingSettings | None = None
) -> Service:
    """Return ticketing, ready to run. `public_url` starts every link; it is known once the port is.

    `own`: without it the environment says.
    """
    own = TicketingSettings() if own is None else own
    database = Database(parts.database_url, "ticketing", pool=settings.database_pool)
    producer = Producer(parts.kafka)
    client, signs = outbound(settings), signer(settings)
    directory, clock = parts.directory, parts.clock
    interval = timedelta(seconds=own.group_interval_seconds)
    ledger = Ledger(directory, clock, signs, public_url, group_interval=interval)
    keys = ErasureKeys(database, settings.secrets)
    quarantine = Quarantine(database)
    desk_sync = DeskSync(Runtime(database, directory, clock, quarantine), ledger, client)
    webhook_sender = WebhookSender(database, directory, clock, signs, client, quarantine)
    sla_timer = SlaTimer(database, directory, clock, ledger, quarantine)
    alert_handler = AlertHandler(
        directory,
        clock,
        ledger,
        keys.digests,
        reopen_within=timedelta(days=own.reopen_within_days),
    )
    alerts = Consumer(parts.kafka, database, ALERTS, alert_handler)
    pages = Consumer(parts.kafka, database, PAGES, PageHandler(clock, ledger))

    def wake() -> None:
        desk_sync.wake()
        webhook_sender.loop.wake()

    ledger.wake = wake

    async def figures() -> None:
        async with database.transaction() as tx:
            open_now = await tickets.open_by_severity(tx)
        for severity in SEVERITIES:
            metrics.TICKETS_OPEN.labels(severity).set(open_now.get(severity, 0))
        await desk_sync.figures()

    return Service(
        name="ticketing",
        router=router,
        provides=[Dependencies(database, parts.access, clock, ledger, desk_sync, signs)],
        resources=[
            database_ready(database, MIGRATIONS, parts.migration_url),
            opened(lambda: patiently("PostgreSQL", keys.load), producer.close),
            opened(None, client.close),
        ],
        workers=[
            alerts.worker,
            pages.worker,
            Relay(database, producer).worker,
            telling(database, clock, TICKETS, "tickets.open", tickets.to_be_paged, settings.compare_seconds).worker,
            looking(database, clock, settings.compare_seconds).worker,
            Worker(desk_sync.run, desk_sync.progress),
            Worker(webhook_sender.run, webhook_sender.loop.progress),
            sla_timer.loop.worker,
            sla_timer.news.worker,
            Periodic("ticketing", "retention", _FORGET_SECONDS, sla_timer.forget).worker,
            Periodic("ticketing", "figures", _FIGURES_SECONDS, figures).worker,
            Periodic("ticketing", "quarantine", _QUARANTINE_SECONDS, quarantine.measure).worker,
        ],
        checks={"alerts.v1": alerts.ready, "pages.v1": pages.ready},
        notes=lambda: {**{f"desk {name}": why for name, why in desk_sync.troubles.items()}, **quarantine.notes()},
    )
