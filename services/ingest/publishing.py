"""Accepted answers into Kafka, or while it is away into the spool: durable, or the 503 that says that they are not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from services.ingest.spool import Spool
from shared.bus.client import MessageTooLarge, Outgoing, Publisher, event_headers
from shared.errors import Problem, Transient
from shared.runtime import metrics
from shared.runtime.logs import Log, new_traceparent
from shared.wire.events import FeedbackReceivedV1
from shared.wire.topics import FEEDBACK

log = Log("ingest")

_RETRY_AFTER = "2"
_ASK_EVERY = 1.0
"""Seconds before Kafka is asked again whether it is back; nobody waits for it meanwhile."""
_RECEIVED = {kind: metrics.FEEDBACK.labels(kind, "accepted") for kind in ("nps", "mood", "csat", "ces", "kpi")}
_UNAVAILABLE = metrics.FEEDBACK.labels("unknown", "unavailable")
_NONE: Mapping[int, Problem] = {}
_encoder = msgspec.json.Encoder()


class Publishing:
    """Takes answers, and erasures, to feedback.v1."""

    def __init__(self, publisher: Publisher, spool: Spool) -> None:
        self._publisher = publisher
        self._spool = spool
        self._ask_at: float | None = None
        """While Kafka is away: when to ask it again, in the loop's time."""
        self._asking: asyncio.Task[object] | None = None

    async def publish(self, answers: Sequence[FeedbackReceivedV1], traceparent: str | None) -> Mapping[int, Problem]:
        """Return when all are durable but those that Kafka does not take: their 413, by place. Raises the 503."""
        try:
            refused = await self._send([message_of(answer, traceparent) for answer in answers])
        except Problem:
            _UNAVAILABLE.inc(len(answers))
            raise
        for place, answer in enumerate(answers):
            if place not in refused:
                _RECEIVED[answer.kind].inc()
        return refused

    async def publish_one(self, answer: FeedbackReceivedV1, traceparent: str | None) -> None:
        """Return when it is durable. Raises the 413 and the 503."""
        for problem in (await self.publish([answer], traceparent)).values():
            raise problem

    async def send(self, message: Outgoing) -> None:
        """Return when it is durable. Raises the 413 and the 503."""
        for problem in (await self._send([message])).values():
            raise problem

    async def _send(self, messages: Sequence[Outgoing]) -> Mapping[int, Problem]:
        left, refused = messages, _NONE
        if self._ask_at is None:
            left, refused = await self._to_kafka(messages)
        elif self._ask_at <= asyncio.get_running_loop().time() and (self._asking is None or self._asking.done()):
            # Whether it is back tells a message that goes to the spool too: it counts once, and nobody waits for it.
            self._asking = asyncio.create_task(self._to_kafka(messages[:1]))
        if not left:
            return refused
        try:
            await self._spool.add(left)
        except Transient as error:
            log.warning("refused", why=str(error), messages=len(left))
            raise Problem(
                503,
                "not-durable",
                "It could not be made durable",
                "Neither Kafka nor PostgreSQL confirmed it in time. Send it again with the same id: it counts once.",
                headers={"Retry-After": _RETRY_AFTER},
            ) from None
        return refused

    async def _to_kafka(self, messages: Sequence[Outgoing]) -> tuple[Sequence[Outgoing], Mapping[int, Problem]]:
        """Return what Kafka did not confirm, and what it does not take."""
        waiting = [self._publisher.publish(m.key or b"", m.value or b"", m.headers) for m in messages]
        left: list[Outgoing] = []
        refused: dict[int, Problem] = {}
        why: Transient | None = None
        confirmed = False
        for place, acknowledged in enumerate(waiting):
            try:
                await acknowledged
                confirmed = True
            except Transient as error:
                left.append(messages[place])
                why = error
            except MessageTooLarge as error:
                # Not into the spool, out of which it could never come.
                refused[place] = Problem(413, "too-large", "The answer is too large", str(error))
        if confirmed or why is not None:  # what is refused before it was sent says nothing of Kafka
            self._know(why)
        return left, refused

    def _know(self, why: Transient | None) -> None:
        if why is None:
            if self._ask_at is not None:
                log.info("Kafka takes answers again")
            self._ask_at = None
            return
        if self._ask_at is None:
            log.warning("Kafka takes no answers: they go to the spool", why=str(why))
        self._ask_at = asyncio.get_running_loop().time() + _ASK_EVERY


def message_of(answer: FeedbackReceivedV1, traceparent: str | None) -> Outgoing:
    """Return an accepted answer as it goes to Kafka."""
    headers = event_headers(
        "feedback.received",
        str(answer.id),
        FEEDBACK.owner,
        answer.received_at.isoformat(),
        traceparent or new_traceparent(answer.id.hex),
    )
    return Outgoing(FEEDBACK.name, answer.customer.encode(), _encoder.encode(answer), headers)
