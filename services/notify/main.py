"""Puts notify together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from services.notify import store
from services.notify.api import build_router
from services.notify.channels import Channel
from services.notify.channels.email import EmailChannel, Mailer
from services.notify.channels.webhook import WebhookChannel
from services.notify.consumer import TicketHandler
from services.notify.escalator import Escalator, Sender, reachable
from services.notify.letters import Letters
from services.notify.settings import NotifySettings
from shared import metrics
from shared.consume import Consumer
from shared.db import Database
from shared.due import periodically
from shared.kafka import Producer
from shared.outbox import Relay
from shared.parts import Parts, database_ready, outbound, signer
from shared.service import Service, opened
from shared.topics import TICKETS

MIGRATIONS = Path(__file__).parent / "migrations"
_FIGURES_SECONDS = 5
_FORGET_SECONDS = 600


def build(settings: NotifySettings, parts: Parts, public_url: Callable[[], str]) -> Service:
    """Return notify, ready to run. `public_url` starts every link; it is known once the port is."""
    database = Database(parts.database_url, "notify")
    producer = Producer(parts.kafka)
    client, signs = outbound(settings), signer(settings)
    mailer = Mailer(settings.notify_call_seconds)
    channels: dict[str, Channel] = {
        "email": EmailChannel(mailer),
        "webhook": WebhookChannel(client, signs, settings.notify_call_seconds),
    }
    sender = Sender(
        database,
        parts.directory,
        channels,
        parts.clock,
        signs,
        public_url=public_url,
        call_seconds=settings.notify_call_seconds,
        attempts=settings.notify_attempts,
        calls=settings.notify_calls,
        link_days=settings.notify_link_days,
        escalate=lambda: escalator.loop.wake(),
    )
    escalator = Escalator(database, parts.directory, channels, parts.clock, sender.loop.wake)
    letters = Letters(database, parts.directory, mailer, parts.clock, call_seconds=settings.notify_call_seconds)
    handler = TicketHandler(parts.directory, parts.clock, escalator.loop.wake, letters.loop.wake)
    tickets = Consumer(parts.kafka, database, TICKETS, handler)

    async def figures() -> None:
        async with database.transaction() as tx:
            oldest = await store.oldest_waiting(tx)
        age = timedelta() if oldest is None else parts.clock.now() - oldest
        metrics.PAGE_OLDEST.set(max(0.0, age.total_seconds()))
        revision = parts.directory.current
        if revision is not None:
            metrics.UNREACHABLE.set(len(revision.directory.people.keys() - reachable(revision.directory, channels)))

    return Service(
        name="notify",
        router=build_router(database, parts.access, parts.clock, signs),
        resources=[database_ready(database, MIGRATIONS), opened(None, producer.close), opened(None, client.close)],
        tasks={
            "tickets.v1": tickets.run,
            "escalator": escalator.loop.run,
            "sender": sender.run,
            "letters": letters.loop.run,
            "outbox": Relay(database, producer).run,
            "retention": partial(periodically, _FORGET_SECONDS, letters.forget),
            "figures": partial(periodically, _FIGURES_SECONDS, figures),
        },
        checks={"tickets.v1": tickets.ready},
    )
