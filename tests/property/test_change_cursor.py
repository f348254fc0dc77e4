"""All that changed in a desk is seen, however many changed in one second and whatever changes meanwhile."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.ticketing.domain.change_cursor import ChangeCursor
from tests.support.build import NOW

MOST = 4
seconds = st.lists(st.integers(0, 3), max_size=30)
moves = st.lists(st.integers(0, 29) | st.none(), max_size=1)


def at(second: int) -> datetime:
    return NOW.replace(microsecond=0) + timedelta(seconds=second)


@given(seconds, moves)
def test_every_ticket_is_seen_at_its_last_change(changed: list[int], moved: list[int | None]) -> None:
    """`moved`: which ticket changes again after a look, and so moves to the end of the list."""
    tickets = {str(number): at(second) for number, second in enumerate(changed)}
    seen: dict[str, datetime] = {}
    cursor, now, looks = ChangeCursor(at(0)), at(60), 0
    while True:
        looks += 1
        assert looks < 500, "it never ends"
        listed = sorted((moment, name) for name, moment in tickets.items() if moment >= cursor.since)
        shown = [(name, moment) for moment, name in listed[cursor.skip : cursor.skip + MOST]]
        seen.update(shown)
        now += timedelta(seconds=1)
        begin = cursor.look(shown, MOST, now)
        if cursor.is_over:
            assert begin is not None
            break
        if begin is not None:
            assert begin > cursor.since
            cursor = ChangeCursor(begin)
        now += timedelta(seconds=1)
        if moved:
            name = str(moved.pop())
            if name in tickets:
                tickets[name] = now
    news = {name for name, moment in tickets.items() if moment >= begin}
    assert {name: seen[name] for name in tickets.keys() - news} == {
        name: tickets[name] for name in tickets.keys() - news
    }, "the others are seen the next time"
