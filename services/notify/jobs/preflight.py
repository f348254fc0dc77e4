"""Looks ahead: who is on call in the next 30 days and can be reached, as figures and in the day's digest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import get_args
from uuid import UUID, uuid5

from services.notify.channels import Channel
from services.notify.contact_selection import Reach
from services.notify.domain.digest import behind_everybody, due_at
from services.notify.domain.preflight import (
    AHEAD,
    Code,
    Finding,
    SettingCode,
    gap_seconds,
    preflight,
    secrets_named,
)
from services.notify.domain.texts import Entry
from services.notify.store import contacts, notices, rota
from services.notify.store.notices import DigestLine
from shared.directory.model import Directory
from shared.runtime import metrics
from shared.runtime.runtime import Runtime

_NAMESPACE = UUID("0d9c2d86-6f0d-58a7-8f0f-55d7f4a1f0c4")
EVERY = 5.0
"""Seconds between two looks whether there is a new directory."""
_SILENCES = 1_000
"""That are looked at; more than these nobody reads of."""
_AGAIN = 600.0
"""Seconds after which an old one is looked at again: time alone changes what is ahead."""


class PreflightJob:
    """Runs the pre-flight check."""

    def __init__(self, runtime: Runtime, channels: Mapping[str, Channel]) -> None:
        self._database = runtime.database
        self._directory = runtime.directory
        self._channels = channels
        self._clock = runtime.clock
        self._seen: tuple[str, int] | None = None
        self._looked_at = float("-inf")

    async def look(self) -> None:
        """Set the figures, and put what was found into the next digest of those behind everybody."""
        revision, elapsed = self._directory.current, asyncio.get_running_loop().time()
        if revision is None:
            return
        seen = (revision.log, revision.number)
        if seen == self._seen and elapsed - self._looked_at < _AGAIN:
            return
        directory, now = revision.directory, self._clock.now()
        found = await self.findings(directory)
        async with self._database.transaction() as tx:
            lines = [
                DigestLine(
                    uuid5(_NAMESPACE, f"{person.id} {due_at(person, 'low', now)} {number}"),
                    person.id,
                    "preflight",
                    "",
                    due_at(person, "low", now),
                    Entry(customer="", customer_name=finding.subject, text=finding.detail, at=finding.start or now),
                    role="behind everybody",
                )
                for person in behind_everybody(directory)
                for number, finding in enumerate(found[:50])
            ]
            await notices.replace_lines(tx, "preflight", lines)
        for code in (*get_args(Code), *get_args(SettingCode)):
            metrics.PREFLIGHT.labels(code).set(sum(1 for one in found if one.code == code))
        metrics.UNREACHABLE.set(sum(1 for one in found if one.code == "unreachable"))
        for schedule in directory.schedules:
            metrics.ONCALL_GAP.labels(schedule).set(gap_seconds(found, schedule))
        self._seen, self._looked_at = seen, elapsed

    async def findings(self, directory: Directory) -> list[Finding]:
        """Return everything that should be mended."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            known = await contacts.known(tx)
            overrides = await rota.overrides(tx, now, now + AHEAD)
            silences = await rota.list_silences(tx, None, now, None, _SILENCES)
        stopped = {key for key, state in known.items() if state.stopped_at is not None}
        verified = {key[0] for key, state in known.items() if state.verified_at is not None and key not in stopped}
        reachable = Reach(directory, self._channels, stopped).people()
        # In a thread: a year of many schedules takes long enough to delay an acknowledgement.
        return await asyncio.to_thread(
            preflight,
            directory,
            overrides,
            reachable=reachable,
            verified=verified,
            now=now,
            unset={name for _, name in secrets_named(directory) if not os.environ.get(name)},
            silences=silences,
        )
