"""Forgetting people: their answers, those that come late, and what alerts show of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from msgspec.structs import replace

from services.scoring.domain.customer import CustomerState
from services.scoring.domain.report import without
from services.scoring.states import CustomerStates
from services.scoring.store import erasures
from shared.bus import outbox
from shared.bus.client import cloud_event
from shared.bus.handler import Record
from shared.database.pool import Connection
from shared.runtime.clock import Clock
from shared.runtime.logs import Log, tracing
from shared.wire.erasure import known_by, names, normalised, said_before, type_of
from shared.wire.events import ErasedV1, FeedbackReceivedV1, RespondentErasedV1
from shared.wire.topics import ALERTS

log = Log("scoring")


@dataclass(frozen=True, slots=True)
class Erasing:
    """How people are forgotten."""

    digests: Callable[[str], Sequence[str]]
    """What is kept of a respondent's name, the newest first. Raises Misconfigured without a secret."""
    keeps_counts: bool
    """Their answers stay counted, as somebody's."""


class Eraser:
    """Forgets people in the stored answers, and passes the word on."""

    def __init__(self, states: CustomerStates, clock: Clock, erasing: Erasing) -> None:
        self._states = states
        self._clock = clock
        self._erasing = erasing

    async def erase_all(self, tx: Connection, records: Sequence[Record[RespondentErasedV1]]) -> None:
        """Forget some people, in the order in which we were told."""
        written = await self._spellings(tx, records)
        for record in records:
            await self._erase(tx, record, written)

    async def late(
        self, tx: Connection, records: Sequence[Record[FeedbackReceivedV1]], states: Mapping[str, CustomerState]
    ) -> set[tuple[UUID, int]]:
        """Return those of some answers that come late, of who was to be forgotten, each with its customer's number."""
        asked: list[tuple[int, str, FeedbackReceivedV1]] = []
        for answer in (record.message for record in records):
            state = states[answer.customer]
            if not state.forgets:
                continue
            asked.append((state.number, known_by(answer.id), answer))
            if answer.respondent is not None:
                asked += [(state.number, digest, answer) for digest in self._erasing.digests(answer.respondent)]
        befores = await erasures.tombstones(tx, [(number, known) for number, known, _ in asked])
        return {
            (answer.id, number)
            for number, known, answer in asked
            if (before := befores.get((number, known))) is not None
            and (known == known_by(answer.id) or said_before(answer.occurred_at, answer.received_at, before))
        }

    async def _spellings(
        self, tx: Connection, records: Sequence[Record[RespondentErasedV1]]
    ) -> Mapping[tuple[int, str], Sequence[str]]:
        """Return how those are written who are to be forgotten, by customer's number and normalised name."""
        people_of = [record for record in records if record.message.answer is None]
        if not people_of:
            return {}
        partitions = {record.message.customer: record.partition for record in people_of}
        states = await self._states.of(tx, partitions, self._clock.now())
        asked = [(states[r.message.customer].number, r.message.respondent) for r in people_of]
        return await erasures.spellings(tx, asked)

    async def _erase(
        self,
        tx: Connection,
        record: Record[RespondentErasedV1],
        written: Mapping[tuple[int, str], Sequence[str]],
    ) -> None:
        """Forget a person's answers up to a moment, or one, also in what alerts show, and pass the word on."""
        wanted, now = record.message, self._clock.now()
        states = await self._states.of(tx, {wanted.customer: record.partition}, now)
        number, keeps = states[wanted.customer].number, self._erasing.keeps_counts
        if wanted.answer is None:
            wanted = replace(wanted, spellings=list(written.get((number, normalised(wanted.respondent)), ())))
            said = names(wanted)
            digest = self._erasing.digests(wanted.respondent)[0]
            removed = await erasures.erase(tx, number, said, before=wanted.before, digest=digest, keeps_counts=keeps)
            left = "scores, without the person" if keeps else ""
        else:
            said = [str(wanted.answer)]
            removed, named = await erasures.erase_answer(
                tx, number, wanted.answer, before=wanted.before, keeps_counts=keeps
            )
            left = "the score, and the respondent's name" if named else "the score" if keeps and removed else ""
        shown = await erasures.alerts_that_say(tx, wanted.customer, said)
        await erasures.scrub(tx, [without(alert, wanted) for alert in shown])
        self._states.drop(wanted.customer)  # its windows and answers may have changed
        line = ErasedV1(service="scoring", removed=removed, left=left)
        passed_on = replace(wanted, done=[*wanted.done, line])
        id_ = f"{wanted.erasure}:scoring"
        with tracing(record.traceparent):
            event = cloud_event(ALERTS, type_of(wanted), key=wanted.customer, id=id_, at=now, message=passed_on)
            log.info("respondent erased", erasure=wanted.erasure, removed=removed)
        await outbox.add(tx, [event])
