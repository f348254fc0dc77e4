"""Puts ingest together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta

from services.ingest import respondents, survey
from services.ingest.api import FeedbackEndpoint, described
from services.ingest.dependencies import Dependencies
from services.ingest.limits import Buckets
from services.ingest.publishing import Publishing
from services.ingest.settings import IngestSettings
from services.ingest.spool import Spool
from services.ingest.widget import pages
from shared.bus.client import Producer, Publisher
from shared.database.pool import Database
from shared.errors import Transient
from shared.http.keys import new_router
from shared.runtime.process import Parts
from shared.runtime.service import Service, opened
from shared.runtime.settings import Settings
from shared.wire.events import FeedbackReceivedV1
from shared.wire.signing import Signer
from shared.wire.topics import FEEDBACK


def build(
    settings: Settings, parts: Parts, public_url: Callable[[], str], own: IngestSettings | None = None
) -> Service:
    """Return ingest, ready to run. `public_url` starts every link; it is known once the port is.

    `own`: without it the environment says.
    """
    own = IngestSettings() if own is None else own
    # A broker answers one request of a connection at a time: while one waits for Kafka, another takes the next round.
    producers = [Producer(parts.kafka) for _ in range(own.ingest_connections)]
    publisher = Publisher(producers, FEEDBACK, wait=own.ingest_wait_seconds, limit=own.ingest_waiting)
    forwarder = Producer(parts.kafka)
    database = Database(parts.database_url, "ingest", pool=2)
    spool = Spool(
        database,
        forwarder,
        wait=own.ingest_wait_seconds,
        limit=own.ingest_waiting,
        migration_url=parts.migration_url,
    )
    publishing = Publishing(publisher, spool)
    signs = Signer(settings.secrets) if settings.secrets else None

    def status_url(answer: FeedbackReceivedV1) -> str | None:
        """Return the page of an answer's respondent; without a secret there is none."""
        if signs is None:
            return None
        facts = {
            "answer": str(answer.id),
            "customer": answer.customer,
            "at": int(answer.received_at.timestamp()),
            # Whoever posts an id that is there already, as anybody can, does not know when that answer was given.
            "given": answer.occurred_at.isoformat(),
        }
        expires = answer.received_at + timedelta(seconds=parts.access.revision.directory.retention)
        return f"{public_url()}/t/{signs.sign('status', facts, expires=expires)}"

    async def reach_kafka() -> None:
        """Have Kafka take answers from the first on; where it is away they go to the spool."""
        with contextlib.suppress(Transient):
            await publisher.prepare()

    deps = Dependencies(parts.access, publishing, parts.clock, signs, status_url, own.speakers, Buckets())
    router = new_router()
    for room in (respondents, pages, *(() if signs is None else (survey,))):
        router.include_router(room.router)
    return Service(
        name="ingest",
        router=router,
        provides=[deps],
        hot={"/v1/feedback": FeedbackEndpoint(deps)},
        described={"/v1/feedback": described()},
        resources=[
            *(opened(None, close) for close in (database.close, forwarder.close, *(p.close for p in producers))),
            opened(reach_kafka, publisher.close),
        ],
        tasks={"publisher": publisher.run},
        # While Kafka is there nobody needs the spool: its trouble is told, and no reason to send answers elsewhere.
        workers=[spool.worker],
        notes=spool.notes,
    )
