"""The scores of a day that ended: stored once, and published."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.scoring.domain.counting import DAY, HOUR, SCORES_WINDOW
from services.scoring.domain.customer import CustomerState
from services.scoring.domain.trend import daily, day_of
from services.scoring.store import counting
from shared.bus import outbox
from shared.bus.client import cloud_event
from shared.database.pool import Connection
from shared.directory.model import Directory
from shared.wire.events import ScoreDailyV1
from shared.wire.topics import ALERTS


async def end_day(tx: Connection, states: Sequence[CustomerState], directory: Directory, now: datetime) -> None:
    """Store and publish the scores of the UTC day that ended, for customers of which nobody did."""
    better = {name: metric.better for name, metric in directory.metrics.items()}
    day = day_of(now) - 1
    after = (day + 1) * DAY // HOUR
    first = after - SCORES_WINDOW // HOUR
    sums = await counting.sum_hours(tx, [(state.number, first, after) for state in states], replaced=True)
    points: dict[int, ScoreDailyV1] = {}
    for state, of in zip(states, sums, strict=True):
        known = directory.customers.get(state.name)
        if of and known is not None:
            points[state.number] = daily(known, better, counting.by_series(state, of), day)
    new = await counting.add_points(tx, [(number, day, point) for number, point in points.items()])
    told = [points[number] for number in sorted(new)]
    await outbox.add(
        tx,
        [
            cloud_event(ALERTS, "score.daily", key=p.customer, id=f"{p.customer}:{p.day}", at=now, message=p)
            for p in told
        ],
    )
