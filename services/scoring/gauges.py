"""What is measured now and then: figures for Prometheus, and how the answers of the whole company are spread."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from services.scoring.domain.counting import SCORES_WINDOW, window_start
from services.scoring.domain.report import mood_score, nps_score
from services.scoring.domain.shift import Prior
from services.scoring.store import company, counting, reads
from shared.bus.client import partition_of
from shared.bus.consume import Consumer
from shared.database.pool import Database
from shared.directory.follower import Follower
from shared.directory.model import SEVERITIES
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.wire.events import Kind
from shared.wire.topics import FEEDBACK

CUSTOMERS = 1_000
"""With more of them, gauges per customer would cost Prometheus more than they tell."""


SAMPLE = 500
"""Customers; their answers of 90 days give each share within about a point."""


class Knowing(Protocol):
    """Who is told how the company's answers are spread."""

    priors: Mapping[Kind, Prior]


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
            opened = await reads.open_by_severity(tx)
            counts = await counting.window_counts(tx, customers, window_start(self._clock.now(), SCORES_WINDOW))
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


class Company:
    """Keeps how the company's answers are spread: what a customer of short history is compared to."""

    def __init__(self, database: Database, clock: Clock, handlers: Sequence[Knowing]) -> None:
        self._database = database
        self._clock = clock
        self._handlers = handlers

    async def measure(self) -> None:
        """Read it, and measure it anew once a day, over a sample, so that the cost does not grow. Raises Transient."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            measured_at = await company.levels_at(tx)
            if measured_at is None or now - measured_at >= timedelta(days=1):
                await company.measure_levels(tx, now, customers=SAMPLE, chance=now.toordinal())
            levels = await company.levels(tx)
        for handler in self._handlers:
            handler.priors = levels
