"""Which answers of one device are one vote. Pure."""

from __future__ import annotations

from collections.abc import Callable

from services.scoring.domain.counting import DatedScore, NewAnswer


def candidates(new: NewAnswer, revote_after: int) -> tuple[str, str]:
    """Return the votes that an answer of a device may be part of: that of its period, and that of the one before."""
    period = int(new.at // revote_after)
    return f"{new.answer.device}@{period}", f"{new.answer.device}@{period - 1}"


def vote_of(new: NewAnswer, revote_after: int, last: Callable[[str], DatedScore | None]) -> str:
    """Return the vote that an answer of a device is part of.

    Periods of `revote_after` seconds are counted from 1970 on, so that the same answers are the same votes in whichever
    order they come. One that begins a period soon after the device's last answer goes on with that one's vote, so that
    nobody counts twice at midnight. `last`: the newest answer of a vote, if there is one.
    """
    own, before = candidates(new, revote_after)
    earlier = last(before) if last(own) is None else None
    is_soon = earlier is not None and new.at - earlier.occurred_at.timestamp() < revote_after
    return before if is_soon else own
