"""The figures that Prometheus is told: open alerts, and each customer's score where this process owns it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from services.scoring import store
from services.scoring.domain.counting import DAY, window_start
from services.scoring.domain.report import mood_score, nps_score
from shared import metrics
from shared.clock import Clock
from shared.consume import Consumer
from shared.db import Database
from shared.directory.follower import Follower
from shared.directory.model import SEVERITIES
from shared.kafka import partition_of
from shared.topics import FEEDBACK

CUSTOMERS = 1_000
"""With more of them, gauges per customer would cost Prometheus more than they tell."""


class Gauges:
    """Measures; call `measure` every so often."""

    def __init__(self, database: Database, directory: Follower, clock: Clock, consumers: Sequence[Consumer]) -> None:
        self._database = database
        self._directory = directory
        self._clock = clock
        self._consumers = consumers
        self._shown: set[str] = set()

    async def measure(self) -> None:
        """Set every gauge. Raises Transient."""
        customers = self._owned()
        async with self._database.transaction() as tx:
            opened = await store.open_by_severity(tx)
            counts = await store.window_counts(tx, customers, window_start(self._clock.now(), 30 * DAY))
        for severity in SEVERITIES:
            metrics.ALERTS_OPEN.labels(severity).set(opened.get(severity, 0))
        for customer in customers:
            nps, mood = (
                nps_score(counts[customer], "customer", None, None),
                mood_score(counts[customer], "customer", None, None),
            )
            metrics.NPS_RESPONSES.labels(customer).set(nps.responses)
            if nps.score is not None:
                metrics.NPS.labels(customer).set(nps.score)
            if mood.average is not None:
                metrics.MOOD.labels(customer).set(mood.average)
        for gone in self._shown - set(customers):
            for gauge in (metrics.NPS, metrics.NPS_RESPONSES, metrics.MOOD):
                with contextlib.suppress(KeyError):  # it never had a score
                    gauge.remove(gone)
        self._shown = set(customers)

    def _owned(self) -> list[str]:
        revision = self._directory.current
        if revision is None or len(revision.directory.customers) > CUSTOMERS:
            return []
        owned = {partition for consumer in self._consumers for partition in consumer.owned()}
        return [
            customer
            for customer in revision.directory.customers
            if partition_of(customer.encode(), FEEDBACK.partitions) in owned
        ]
