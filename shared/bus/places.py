"""The partitions that this process was given, and where each goes on. Truth is in PostgreSQL.

A place that somebody else has moved, that was fetched past, or that belongs to a log which is gone, is read again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError

from shared.bus.batch import Batch
from shared.bus.client import Kafka
from shared.bus.handler import Handler
from shared.bus.offsets import OffsetLost, Offsets
from shared.errors import Transient
from shared.runtime.logs import Log
from shared.runtime.progress import Progress
from shared.runtime.retry import Backoff
from shared.wire.topics import Topic

log = Log("shared.bus.consume")

_GAP_TRIES = 3
_SHORTENED_TRIES = 3
"""A new leader may for a moment know less of the log than the old one told."""
_ANSWER_SECONDS = 12.0
"""A little over the client's own limit on a request."""


@dataclass(slots=True)
class _Place:
    generation: int = 0
    """Never one that this partition had before."""
    ready: bool = False
    next: int = 0
    """Offset of the record after the last that is done."""
    gap_tries: int = 0


class Places(ConsumerRebalanceListener):
    """Follows what the group assigns to this process."""

    def __init__(self, kafka: Kafka, topic: Topic, offsets: Offsets, handler: Handler, progress: Progress) -> None:
        """Have `handler` forget what it holds of partitions that move; tell `progress` why a place is waited for."""
        self.busy = asyncio.Lock()
        """Held while a transaction is under way, and while places change."""
        self._kafka = kafka
        self._topic = topic
        self._name = kafka.prefix + topic.name
        self._offsets = offsets
        self._handler = handler
        self._progress = progress
        self._places: dict[int, _Place] = {}
        self._generations = itertools.count(1)
        self._assigned = False
        self._member: AIOKafkaConsumer | None = None
        self._log_id = ""
        """The topic that the places were adopted from."""
        self._ends: dict[int, int] = {}
        """Of the partitions, when they were last asked for; what was fetched may know of later ones."""
        self._failure: asyncio.Future[NoReturn] | None = None

    async def failed(self) -> None:
        """Wait until a place cannot be taken. Raises why."""
        self._failure = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._failure)

    def join(self, member: AIOKafkaConsumer) -> None:
        """Have a member of the group be assigned partitions."""
        self._member = member
        member.subscribe([self._name], listener=self)

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        assert self._member is not None
        return self._member

    # ---- what is known

    def missing(self) -> str | None:
        """Return what is missing until records flow, or None."""
        if self._member is None or not self._assigned:
            return f"{self._topic.name}: no place in the consumer group yet"
        waiting = [p for p, place in self._places.items() if not place.ready]
        return f"{self._topic.name}: partitions {waiting} wait for their offsets" if waiting else None

    def owned(self) -> set[int]:
        """Return the partitions that this process handles now."""
        return {partition for partition, place in self._places.items() if place.ready}

    def generation(self, partition: int) -> int | None:
        """Return the generation of a place; None where it is not handled now."""
        place = self._places.get(partition)
        return place.generation if place is not None and place.ready else None

    def drop_old(self, batch: Batch) -> bool:
        """Take out of a batch what was fetched before its place moved; tell whether anything was."""
        old = [partition for partition, share in batch.items() if self.generation(partition) != share.generation]
        for partition in old:
            del batch[partition]
        return bool(old)

    def next_offsets(self) -> dict[TopicPartition, int]:
        """Return where each partition goes on."""
        return {TopicPartition(self._name, p): place.next for p, place in self._places.items() if place.ready}

    def caught_up(self) -> dict[int, int]:
        """Return where the partitions go on of which all records are done."""
        return {p: place.next for p, place in self._places.items() if place.ready and self._behind(p, place) == 0}

    def lag(self) -> int:
        """Return how many records wait, by what was asked and what was fetched."""
        return sum(self._behind(p, place) or self._lag_of(p, place) for p, place in self._places.items())

    @property
    def at_the_end(self) -> bool:
        """Whether nothing waits, as far as the log was asked."""
        return self._assigned and not any(self._lag_of(p, place) for p, place in self._places.items())

    def _behind(self, partition: int, place: _Place) -> int | None:
        try:
            fetched = self._consumer.highwater(TopicPartition(self._name, partition))
        except (IllegalStateError, AssertionError):  # revoked meanwhile; the library asserts it
            return None
        if fetched is None:
            return None
        return max(0, max(fetched, self._ends.get(partition, 0)) - place.next)

    def _lag_of(self, partition: int, place: _Place) -> int:
        return max(0, self._ends.get(partition, 0) - place.next)

    async def ask_ends(self) -> None:
        """Ask how far the log goes. Raises Transient, and IllegalStateError when partitions were revoked meanwhile."""
        partitions = [TopicPartition(self._name, p) for p in self.owned()]
        with self._kafka.errors():
            async with asyncio.timeout(_ANSWER_SECONDS):
                ends = await self._consumer.end_offsets(partitions) if partitions else {}
        self._ends = {tp.partition: end for tp, end in ends.items()}

    # ---- what happens to them

    def done(self, batch: Batch) -> None:
        """Go on after a batch that was committed."""
        for partition, share in batch.items():
            if self.generation(partition) == share.generation:
                place = self._places[partition]
                place.next, place.gap_tries = share.after, 0

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Stop handling at once, wait for the transaction under way, forget."""
        self._assigned = False
        partitions = [tp.partition for tp in revoked]
        for partition in partitions:
            place = self._places.get(partition)
            if place is not None:
                place.ready = False
        async with self.busy:
            self._handler.forget(partitions)
            for partition in partitions:
                self._places.pop(partition, None)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Read the offsets from PostgreSQL and go there."""
        # aiokafka only logs what a listener raises and would go on from the group's offset: our loop raises it instead.
        try:
            await self._adopt([tp.partition for tp in assigned], assigned=True)
            self._assigned = True
        except Exception as error:  # noqa: BLE001 (handed to the loop, which ends the process)
            if self._failure is not None and not self._failure.done():
                self._failure.set_exception(error)

    async def _adopt(self, partitions: list[int], *, assigned: bool = False) -> None:
        """Read the places and go there; `assigned`: they are ours from now on, else only as far as they still are."""
        if not partitions:
            return
        backoff, attempt, shortened = Backoff(0.2, 5), 0, 0
        while True:
            try:
                places = await self._offsets.places(partitions)
                now = await self._kafka.log_state(self._topic.name)
                if now is None:
                    raise Transient(f"{self._kafka.bootstrap}: topic {self._name} does not exist", of="Kafka")
                nexts = await self._offsets.taken(partitions, places, now)
                break
            except Transient as error:
                attempt += 1
                self._progress.waits(error)
                await asyncio.sleep(backoff.delay(attempt))
            except OffsetLost:
                shortened += 1
                if shortened >= _SHORTENED_TRIES:
                    raise
                await asyncio.sleep(1)
        self._log_id = now.log
        self._ends |= now.ends
        async with self.busy:
            self._handler.forget(partitions)
            for partition, offset in nexts.items():
                if assigned:
                    self._places.setdefault(partition, _Place())
                place = self._places.get(partition)
                if place is not None:  # not revoked while we asked
                    self._go_to(partition, place, offset)
        log.info("partitions adopted", topic=self._topic.name, partitions=partitions)

    def _go_to(self, partition: int, place: _Place, offset: int) -> None:
        """Seek, then open a new generation: what was fetched before belongs to the old one and is dropped."""
        try:
            self._consumer.seek(TopicPartition(self._name, partition), offset)
        except IllegalStateError:  # revoked meanwhile
            return
        # Never one that this partition had before: what was fetched in an earlier life of it must not pass for new.
        place.generation = next(self._generations)
        place.next = offset
        place.ready = True

    async def check_log(self) -> None:
        """Look at the places again when the cluster has been seen to have another topic of this name.

        While there was none, we may have lost our partitions and with them the reason to look. Raises OffsetLost.
        """
        seen = self._kafka.topics.get(self._topic.name)
        if seen is None or not seen.id or not self._log_id or seen.id == self._log_id:
            return
        every = list(range(seen.partitions))
        try:
            places = await self._offsets.places(every)
            now = await self._kafka.log_state(self._topic.name)
            if now is None:
                return
            await self._offsets.taken(list(now.starts), places, now)
        except Transient as error:
            self._progress.waits(error)
            return
        self._log_id = now.log
        await self.check("another log")

    async def check(self, why: str) -> None:
        """Read every place again."""
        partitions = [p for p, place in self._places.items() if place.ready]
        if partitions:
            log.warning("place is checked", topic=self._topic.name, why=why)
            await self._reposition(partitions)

    async def fenced(self, firsts: Mapping[int, int]) -> None:
        """Read places again at which somebody else went on. `firsts`: the offsets that we would have done next."""
        for partition, first in firsts.items():
            place = self._places[partition]
            place.gap_tries += 1
            if place.gap_tries > _GAP_TRIES and first > place.next:
                raise self._offsets.gap(partition, place.next, first)
        await self._reposition(list(firsts))

    async def _reposition(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._places[partition].ready = False
        await self._adopt([p for p in partitions if p in self._places])
