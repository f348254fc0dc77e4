"""Sends what is told without haste: the lines that have gathered for a person, as one message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from services.notify.channels import Channel
from services.notify.contact_selection import Reach
from services.notify.domain.digest import BUNDLE, addressee, told_at
from services.notify.domain.texts import Entry, digest_words
from services.notify.store import contacts, notices
from services.notify.store.notices import DigestLine
from shared.directory.model import Directory
from shared.runtime.due import DueLoop
from shared.runtime.logs import Log
from shared.runtime.quarantine import judging
from shared.runtime.runtime import Runtime

log = Log("notify")

Lines = Mapping[str, list[tuple[str, Entry]]]
"""What each person is told: kinds and entries."""

_PEOPLE = 50
_KEPT = timedelta(days=7)


class Digests:
    """Turns lines that are due into messages."""

    def __init__(self, runtime: Runtime, channels: Mapping[str, Channel], sent: Callable[[], None]) -> None:
        """`sent` is called when there is something for the sender."""
        self._database = runtime.database
        self._directory = runtime.directory
        self._channels = channels
        self._clock = runtime.clock
        self._sent = sent
        self.loop = DueLoop("notify", "digests", self._work, runtime.quarantine, at_once=_PEOPLE, poll=2)

    async def _work(self, people: int) -> int:
        revision = self._directory.current
        if revision is None:
            return 0
        now = self._clock.now()
        async with self._database.transaction() as tx:
            taken = await notices.take_lines(tx, now, now + BUNDLE, people)
            if not taken:
                return 0
            with judging(notices.QUEUE, [line.id for line in taken]):
                of_person, later = _addressed(taken, revision.directory, now)
                told = [notices.new(person, "digest", digest_words(lines), now) for person, lines in of_person.items()]
                await notices.add_lines(tx, later)
                reach = Reach(revision.directory, self._channels, await contacts.stopped(tx))
                await reach.tell(tx, told, now)
        log.info("digests", people=len(told), lines=len(taken))
        self._sent()
        return len(taken)

    async def forget(self) -> None:
        """Delete what was told long ago: it holds what customers wrote."""
        async with self._database.transaction() as tx:
            await notices.forget(tx, self._clock.now() - _KEPT)


def _addressed(taken: Sequence[DigestLine], directory: Directory, now: datetime) -> tuple[Lines, list[DigestLine]]:
    """Return what is told now to whoever is responsible now, and the lines that wait until such a person wakes up."""
    told: defaultdict[str, list[tuple[str, Entry]]] = defaultdict(list)
    later: list[DigestLine] = []
    passed_on: list[tuple[str, tuple[str, Entry]]] = []
    for line in sorted(taken, key=lambda one: one.entry.at):
        person, entry = addressee(line.role, line.person, line.customer, directory, now), (line.kind, line.entry)
        if person is None:
            continue
        at = told_at(person, line.person, line.due_at, now)
        if at > now:
            later.append(replace(line, person=person.id, due_at=at))
        elif person.id == line.person:
            told[person.id].append(entry)
        else:
            passed_on.append((person.id, entry))
    # What is shared with several is told once to whoever comes after one of them.
    for person, entry in passed_on:
        if entry not in told[person]:
            told[person].append(entry)
    return told, later
