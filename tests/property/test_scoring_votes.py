"""Answers of one browser are one vote within the time that the directory says, and no vote goes on for ever."""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby, pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.scoring.domain.counting import DatedScore, new_answer
from services.scoring.domain.votes import vote_of
from tests.support.build import NOW, answer

REVOTE = 3600


@given(st.lists(st.integers(1, 2 * REVOTE), min_size=1, max_size=30))
def test_a_browser_counts_once_for_a_while(pauses: list[int]) -> None:
    """Whatever it says soon after is the same vote, or goes on with one that has lasted for a period at the least."""
    last: dict[str, DatedScore] = {}
    votes: list[tuple[str, float]] = []
    now = NOW
    for pause in pauses:
        now += timedelta(seconds=pause)
        new = new_answer(answer(3, device="browser-1", occurred_at=now, received_at=now))
        vote = vote_of(new, REVOTE, last.get)
        last[vote] = new.dated
        votes.append((vote, new.at))
    of_votes = [[at for _, at in some] for _, some in groupby(votes, lambda one: one[0])]
    assert len(of_votes) == len({vote for vote, _ in votes}), "a vote that was left is not come back to"
    for one, following in pairwise(of_votes):
        assert one[-1] - one[0] < 2 * REVOTE
        assert following[0] - one[-1] >= REVOTE or following[0] // REVOTE > one[0] // REVOTE + 1


def test_devices_and_periods_are_apart() -> None:
    made = {
        vote_of(new_answer(answer(3, device=device, occurred_at=NOW + timedelta(hours=hours))), REVOTE, {}.get)
        for device in ("browser-1", "browser-2")
        for hours in (0, 1, 5)
    }
    assert len(made) == 6
