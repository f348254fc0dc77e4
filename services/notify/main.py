"""Puts notify together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from services.notify.acknowledgements import Acknowledgements
from services.notify.api import router
from services.notify.api.dependencies import Dependencies
from services.notify.channels.email import Mailer
from services.notify.channels.registry import build_channels
from services.notify.consumer import AlertHandler, AuditHandler, TicketHandler
from services.notify.escalator import Escalator
from services.notify.follow_up_mail import FollowUpMail
from services.notify.history import History
from services.notify.jobs.check_ins import CheckIns
from services.notify.jobs.digests import Digests
from services.notify.jobs.heartbeats import Heartbeats
from services.notify.jobs.overdue_check import EVERY as OVERDUE_SECONDS
from services.notify.jobs.overdue_check import OverdueCheck
from services.notify.jobs.preflight import EVERY as PREFLIGHT_SECONDS
from services.notify.jobs.preflight import PreflightJob
from services.notify.jobs.revisions import Revisions
from services.notify.sender import Sender, SenderLimits
from services.notify.settings import NotifySettings
from services.notify.store import pages
from shared.bus.client import Producer
from shared.bus.consume import Consumer
from shared.bus.outbox import Relay
from shared.database.pool import Database
from shared.runtime import metrics
from shared.runtime.comparison import looking
from shared.runtime.due import Periodic
from shared.runtime.process import Parts, database_ready, outbound, signer
from shared.runtime.progress import Worker
from shared.runtime.quarantine import Quarantine
from shared.runtime.runtime import Runtime, Signal
from shared.runtime.service import Service, opened
from shared.runtime.settings import Settings
from shared.wire.topics import ALERTS, AUDIT, TICKETS

MIGRATIONS = Path(__file__).parent / "migrations"
_FIGURES_SECONDS = 5
_FORGET_SECONDS = 600
_QUARANTINE_SECONDS = 15


def build(
    settings: Settings, parts: Parts, public_url: Callable[[], str], own: NotifySettings | None = None
) -> Service:
    """Return notify, ready to run. `public_url` starts every link; it is known once the port is.

    `own`: without it the environment says.
    """
    own = NotifySettings() if own is None else own
    database = Database(parts.database_url, "notify", pool=settings.database_pool)
    producer = Producer(parts.kafka)
    client, signs, clock, directory = outbound(settings), signer(settings), parts.clock, parts.directory
    mailer = Mailer(own.notify_call_seconds)
    channels = build_channels(mailer, client, signs, own.notify_call_seconds)
    quarantine = Quarantine(database)
    runtime = Runtime(database, directory, clock, quarantine)
    page_due, message_due = Signal(), Signal()
    limits = SenderLimits(own.notify_call_seconds, own.notify_attempts, own.notify_calls, own.notify_link_days)
    sender = Sender(runtime, channels, signs, limits, public_url=public_url, escalate=page_due)
    escalator = Escalator(runtime, channels, message_due)
    page_due.listen(escalator.loop.wake)
    message_due.listen(sender.loop.wake)
    follow_up_mail = FollowUpMail(runtime, mailer, call_seconds=own.notify_call_seconds)
    digests = Digests(runtime, channels, message_due)
    check_ins = CheckIns(runtime, channels, message_due)
    heartbeats = Heartbeats(runtime, page_due)
    plans = {"check-ins": check_ins.plan, "heartbeats": heartbeats.plan}
    revisions = Revisions(runtime, plans)
    preflight = PreflightJob(runtime, channels)
    acknowledgements = Acknowledgements(runtime, channels, signs, link_days=own.notify_link_days)

    handler = TicketHandler(directory, clock, page_due, follow_up_mail.loop.wake)
    tickets = Consumer(parts.kafka, database, TICKETS, handler)
    overdue_check = OverdueCheck(runtime, client, repair=escalator.loop.once, missing=tickets.ready)
    alerts = Consumer(parts.kafka, database, ALERTS, AlertHandler(directory, clock))
    audited = Consumer(parts.kafka, database, AUDIT, AuditHandler())

    async def figures() -> None:
        async with database.transaction() as tx:
            oldest = await pages.oldest_waiting(tx)
        age = timedelta() if oldest is None else clock.now() - oldest
        metrics.PAGE_OLDEST.set(max(0.0, age.total_seconds()))

    async def forget() -> None:
        await follow_up_mail.forget()
        await digests.forget()
        await revisions.forget()

    return Service(
        name="notify",
        router=router,
        provides=[
            Dependencies(
                database,
                parts.access,
                clock,
                signs,
                acknowledgements,
                preflight,
                client,
                History(database),
                public_url=public_url,
                escalate=page_due,
                sent=message_due,
            )
        ],
        resources=[
            database_ready(database, MIGRATIONS, parts.migration_url),
            opened(None, producer.close),
            opened(None, client.close),
        ],
        workers=[
            tickets.worker,
            alerts.worker,
            audited.worker,
            Relay(database, producer).worker,
            looking(database, clock, settings.compare_seconds).worker,
            *(one.loop.worker for one in (escalator, follow_up_mail, digests, check_ins, heartbeats, revisions)),
            Worker(sender.run, sender.loop.progress),
            Periodic("notify", "overdue check", OVERDUE_SECONDS, overdue_check.run_once).worker,
            Periodic("notify", "preflight", PREFLIGHT_SECONDS, preflight.look).worker,
            Periodic("notify", "retention", _FORGET_SECONDS, forget).worker,
            Periodic("notify", "figures", _FIGURES_SECONDS, figures).worker,
            Periodic("notify", "quarantine", _QUARANTINE_SECONDS, quarantine.measure).worker,
        ],
        checks={"tickets.v1": tickets.ready, "alerts.v1": alerts.ready, "audit.v1": audited.ready},
        notes=quarantine.notes,
    )
