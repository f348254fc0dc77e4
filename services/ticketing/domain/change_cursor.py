"""How to see all tickets of a desk that changed since a moment, of which one answer shows only a part."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

Changed = tuple[str, datetime | None]
"""A ticket's reference, and when it changed."""


class ChangeCursor:
    """What was looked at since a moment.

    The next look begins where the last of an answer changed. Where a whole answer is of one second there is no such
    place: then the next ones are asked for, and all of them again until nobody new is among them, because one that
    changes meanwhile moves to the end, and another slips onto a page that was looked at.
    """

    def __init__(self, since: datetime) -> None:
        self.since = since
        self.skip = 0
        """How many are to be left out now."""
        self.is_over = False
        """That was all."""
        self._began = since
        self._seen: set[str] = set()
        self._grew = False

    def look(self, changed: Sequence[Changed], most: int, now: datetime) -> datetime | None:
        """Return where the next look begins; None: not known yet, look again with `skip`.

        `most`: how many an answer has that may not be all. After all of it the next look begins where this one began:
        what changed meanwhile may have moved behind a page that was looked at.
        """
        if not self.skip:
            self._began, self._grew = now, False
        here = {reference for reference, at in changed if at is not None and at.replace(microsecond=0) <= self.since}
        self._grew = self._grew or not here <= self._seen
        self._seen |= here
        # A desk's clock can be wrong by years: the next look would begin there, and see nothing until then.
        times = [min(at, now) for _, at in changed if at is not None]
        ends = len(changed) < most or not times
        last = self._began if ends else max(times).replace(microsecond=0)
        if not ends and last <= self.since:
            self.skip += most
            return None
        if self._grew and self.skip:
            self.skip = 0  # one that moved away let another slip onto a page before this one
            return None
        self.is_over = ends
        return last
