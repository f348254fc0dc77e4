"""What clocks on walls show, and days off: correct where clocks jump. Pure."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from holidays import country_holidays

ALWAYS = datetime.min.replace(tzinfo=UTC)
"""Before every moment."""
NEVER = datetime.max.replace(tzinfo=UTC)
"""After every moment."""


@lru_cache(maxsize=4096)
def moment(zone: str, wall: datetime) -> datetime:
    """Return the first moment, in UTC, at which the clock of a zone shows a time or a later one."""
    try:
        shown = wall.replace(tzinfo=ZoneInfo(zone))
        found = shown.astimezone(UTC)
    except OverflowError:  # in the year 1 or 9999, as people write "since ever" and "for good"
        return ALWAYS if wall.year == 1 else NEVER
    skipped = (shown.replace(fold=1).utcoffset() or timedelta()) - (shown.utcoffset() or timedelta())
    if skipped <= timedelta():
        return found

    # The clock jumps over it within the `skipped` seconds before `found`.
    def has_jumped(second: int) -> bool:
        at = found - skipped + timedelta(seconds=second)
        return at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) >= wall

    seconds = range(int(skipped.total_seconds()))
    return found - skipped + timedelta(seconds=bisect_left(seconds, True, key=has_jumped))


@lru_cache(maxsize=1024)
def public_holidays(code: str, year: int) -> frozenset[date]:
    """Return a year's public holidays; none for a country that the library does not have."""
    country, _, subdivision = code.partition("-")
    for part in (subdivision, None) if subdivision else (None,):
        try:
            return frozenset(country_holidays(country, subdiv=part, years=year, expand=False))
        except NotImplementedError:
            continue
    return frozenset()
