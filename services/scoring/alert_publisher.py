"""What was decided about alerts: stored with what it shows, and published in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from services.scoring.domain.counting import SCORES_WINDOW, window_start
from services.scoring.domain.customer import CustomerState
from services.scoring.domain.decide import Decision
from services.scoring.domain.report import alert_message, alert_scores
from services.scoring.plans import Plans
from services.scoring.store import alerts, counting
from shared.bus import outbox
from shared.bus.client import Outgoing, cloud_event
from shared.bus.handler import AfterCommit
from shared.database.pool import Connection
from shared.rules.base import OnWindow
from shared.runtime import metrics
from shared.runtime.logs import Log, tracing
from shared.wire.events import AlertV1
from shared.wire.topics import ALERTS

log = Log("scoring")

TracedDecision = tuple[Decision, str | None]
"""A decision and the trace of the answer that led to it."""


class AlertPublisher:
    """Stores decisions and leaves the messages that tell of them in the outbox."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans

    async def publish(
        self, tx: Connection, decisions: Sequence[TracedDecision], states: dict[str, CustomerState], now: datetime
    ) -> AfterCommit | None:
        """Store what was decided and leave the messages that tell it."""
        last = {d.alert.id: d for d, _ in decisions}
        later = [d.alert for d in last.values() if d.event == "deferred"]
        published = [(d, trace) for d, trace in decisions if d.event != "deferred"]
        if not published:
            await alerts.defer(tx, later)
            return None
        evidence = await alerts.evidence(
            tx, [self._evidence_of(d, states[d.alert.customer], now) for d, _ in published]
        )
        customers = sorted({d.alert.customer for d, _ in published})
        counts = await counting.window_counts(tx, customers, window_start(now, SCORES_WINDOW))
        stored: list[alerts.PublishedDecision] = []
        sent: list[Outgoing] = []
        for (decision, trace), shown in zip(published, evidence, strict=True):
            customer = decision.alert.customer
            scores = alert_scores(counts[customer], decision.alert.touchpoint, self._plans.goals(customer))
            message = alert_message(decision, shown, scores)
            stored.append(alerts.PublishedDecision(decision, message, states[customer].partition, trace))
            with tracing(trace):
                sent.append(_outgoing(decision, message, now))
                log.info(
                    f"alert {decision.event}",
                    alert=message.id,
                    problem=message.dedup_key,
                    severity=message.severity,
                    trust=message.trust,
                )
        await alerts.save(tx, stored)
        await alerts.defer(tx, later)  # after it: one that was told and has more to tell is in both
        await outbox.add(tx, sent)
        return lambda: _measure([d for d, _ in published])

    def _evidence_of(self, decision: Decision, state: CustomerState, now: datetime) -> alerts.EvidenceOf:
        alert = decision.alert
        rule = self._plans.of(state).rules.get(alert.rule)
        when = None if rule is None else rule.when
        length = when.seconds if isinstance(when, OnWindow) else SCORES_WINDOW
        return alerts.EvidenceOf(
            customer=alert.customer,
            audience="customer" if rule is None else rule.audience,
            kind=None if when is None else when.kind,
            metric=None if when is None else when.metric,
            touchpoint=alert.touchpoint,
            since=now - timedelta(seconds=length),
            answer=alert.answer,
        )


def _outgoing(decision: Decision, message: AlertV1, now: datetime) -> Outgoing:
    return cloud_event(
        ALERTS,
        f"alert.{decision.event}",
        key=message.customer,
        id=f"{message.id}:{message.version}",
        at=now,
        message=message,
    )


def _measure(decisions: Sequence[Decision]) -> None:
    for decision in decisions:
        if decision.event == "opened":
            metrics.ALERTS.labels(decision.alert.rule, decision.alert.severity).inc()
