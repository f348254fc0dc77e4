"""The rota as it was, also of a directory that was applied a moment ago."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

from services.notify.history import History
from shared.database.pool import Database
from shared.directory.follower import revision_of
from shared.directory.model import Layer, Schedule
from tests.support import build


async def test_the_present_began_when_it_was_applied(database_url: str) -> None:
    """Else its shifts were other ones until it is kept, and stood twice in calendars that keep what they once read."""
    applied_at = build.NOW - timedelta(hours=3)
    schedule = Schedule("night", "UTC", (Layer("weekly", "2025-01-06T09:00", ("architect-1",)),))
    known = revision_of(2, build.directory(schedules={"night": schedule}))
    current = dataclasses.replace(known, applied_at=applied_at)
    database = Database(database_url, "notify", pool=1)
    try:
        (era,) = await History(database).eras(current, build.NOW - timedelta(days=400), build.NOW)
    finally:
        await database.close()
    assert era.since == applied_at
