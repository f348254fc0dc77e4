"""What is lost between a place and the log as it is now."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bus.cluster import LogState
from shared.bus.offsets import Place, loss

PLACE = Place("feedback.v1", 0, next=50, cluster="c", log="t", log_end=60)
NOW = LogState("c", "t", {0: 10}, {0: 80})


def test_nothing_is_lost_of_a_log_that_grows() -> None:
    """Whether its id was known before, or is told at all."""
    assert loss(PLACE, NOW) is None
    assert loss(replace(PLACE, log=None), NOW) is None
    assert loss(PLACE, replace(NOW, log="")) is None


@pytest.mark.parametrize(
    ("place", "now", "kind", "go_on"),
    [
        (PLACE, replace(NOW, cluster="other"), "other cluster", 10),
        (PLACE, replace(NOW, log="other"), "other log", 10),
        (PLACE, replace(NOW, ends={0: 40}), "shortened", 40),
        (PLACE, replace(NOW, ends={0: 55}), "shortened", 50),
        (PLACE, replace(NOW, starts={0: 51}), "retention", 51),
    ],
)
def test_what_is_lost_is_told_by_its_kind(place: Place, now: LogState, kind: str, go_on: int) -> None:
    """With where the service would go on without it."""
    found = loss(place, now)
    assert found is not None
    assert (found.kind, found.go_on) == (kind, go_on)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.booleans())
def test_going_on_after_a_loss_loses_nothing_more(next_: int, seen: int, start: int, length: int, same: bool) -> None:
    """The place that is accepted is one that the log holds, and not lost itself."""
    place = Place("feedback.v1", 0, next_, "c", "t" if same else "u", seen)
    now = LogState("c", "t", {0: start}, {0: start + length})
    found = loss(place, now)
    if found is None:
        assert start <= next_ <= start + length
    else:
        accepted = Place("feedback.v1", 0, found.go_on, "c", "t", start + length)
        again = loss(accepted, now)
        assert again is None or again.kind == "retention"
