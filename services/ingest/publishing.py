"""Accepted answers into Kafka: durable, or the 503 that says that they are not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from shared import metrics
from shared.errors import Problem, Transient
from shared.events import FeedbackReceivedV1
from shared.kafka import Headers, Publisher, event_headers
from shared.logs import Log, new_traceparent
from shared.topics import FEEDBACK

log = Log("ingest")

_RETRY_AFTER = "2"
_RECEIVED = {kind: metrics.FEEDBACK.labels(kind, "accepted") for kind in ("nps", "mood", "csat", "ces", "kpi")}
_UNAVAILABLE = metrics.FEEDBACK.labels("unknown", "unavailable")
_encoder = msgspec.json.Encoder()


class Publishing:
    """Takes answers to feedback.v1."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def publish(self, answers: Sequence[FeedbackReceivedV1], traceparent: str | None) -> None:
        """Return when all are durable. Raises the 503."""
        try:
            waiting = [
                self._publisher.publish(a.customer.encode(), _encoder.encode(a), _headers(a, traceparent))
                for a in answers
            ]
            if len(waiting) == 1:
                await waiting[0]
            else:
                failures = [f for f in await asyncio.gather(*waiting, return_exceptions=True) if f is not None]
                for failure in failures:
                    raise failure
        except Transient as error:
            _UNAVAILABLE.inc(len(answers))
            log.warning("answers refused", why=str(error), answers=len(answers))
            raise Problem(
                503,
                "not-durable",
                "The answer could not be made durable",
                "Kafka did not confirm it in time. Send it again with the same id; it is counted once.",
                headers={"Retry-After": _RETRY_AFTER},
            ) from None
        for answer in answers:
            _RECEIVED[answer.kind].inc()


def _headers(answer: FeedbackReceivedV1, traceparent: str | None) -> Headers:
    return event_headers(
        "feedback.received",
        str(answer.id),
        FEEDBACK.owner,
        answer.received_at.isoformat(),
        traceparent or new_traceparent(answer.id.hex),
    )
