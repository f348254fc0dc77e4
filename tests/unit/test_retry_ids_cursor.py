"""Waiting, ids and cursors: three small things that everything rests on."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Problem
from shared.http import cursor
from shared.runtime.retry import Backoff
from shared.wire.ids import uuid7, uuid7_at
from tests.support.build import NOW

backoffs = st.builds(Backoff, st.floats(0.01, 60), st.floats(0.01, 3600), st.floats(0, 1))


# ---- retry


@given(backoffs, st.integers(1, 10_000), st.floats(0, 1))
def test_waits_grow_to_their_cap(backoff: Backoff, attempt: int, draw: float) -> None:
    """However often something failed, the next try is never sooner, and never further away than the cap and jitter."""
    wait = backoff.delay(attempt, draw=draw)
    assert 0 <= wait <= backoff.cap * (1 + backoff.jitter) * 1.000001
    assert backoff.delay(attempt + 1, draw=draw) >= wait


def test_waits_double() -> None:
    backoff = Backoff(base=1, cap=60, jitter=0.2)
    waits = [backoff.delay(n, draw=0.5) for n in range(1, 9)]
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert backoff.delay(1, draw=0) == pytest.approx(0.8)
    assert backoff.delay(1, draw=1) == pytest.approx(1.2)


def test_those_who_failed_together_do_not_return_together() -> None:
    backoff = Backoff(base=10, cap=60)
    waits = {backoff.delay(1) for _ in range(20)}
    assert len(waits) > 1
    assert all(8 <= wait <= 12 for wait in waits)


# ---- ids


@given(st.integers(0, 2**48 - 1))
def test_an_id_holds_its_moment(milliseconds: int) -> None:
    """RFC 9562: 48 bits of milliseconds, version 7, the RFC's variant; databases and desks can rely on it."""
    made = uuid7_at(milliseconds)
    assert made.int >> 80 == milliseconds
    assert made.version == 7
    assert made.variant == "specified in RFC 4122"


@given(st.integers(0, 2**48 - 2))
def test_ids_are_in_the_order_of_time(milliseconds: int) -> None:
    assert uuid7_at(milliseconds) < uuid7_at(milliseconds + 1)


def test_ids_of_one_moment_differ() -> None:
    assert len({uuid7_at(1_795_000_000_000) for _ in range(10_000)}) == 10_000


def test_a_new_id_is_of_now() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7().int >> 80
    assert before <= made <= time.time_ns() // 1_000_000


# ---- cursors

zones = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1), timezones=zones | st.just(UTC)), st.uuids())  # noqa: DTZ001
def test_a_cursor_is_the_place_it_was_made_of(at: datetime, id_: UUID) -> None:
    """The next page of a list begins where the last one ended, to the microsecond; it is safe in an address."""
    made = cursor.encode((at, id_))
    assert cursor.decode(made) == (at, id_)
    assert made.replace("-", "").replace("_", "").isalnum()


def raw(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@given(st.text(max_size=80) | st.text(max_size=40).map(lambda text: raw(text.encode("utf-8", "replace").decode())))
def test_what_is_no_cursor_is_named(text: str) -> None:
    """Anybody can write anything there: it is the 422 that names `cursor`, never an error of ours."""
    with pytest.raises(Problem) as caught:
        _ = cursor.decode(text)
    assert caught.value.status == 422
    assert [error.path for error in caught.value.errors] == ["cursor"]


@pytest.mark.parametrize("at", ["2026-11-23T10:00:00", "yesterday", "", "0001-01-01T00:00:00+23:59"])
def test_a_cursor_is_a_moment_that_a_database_can_hold(at: str) -> None:
    """Without a zone, or before the beginning of time in UTC, it would fail later, in the database."""
    with pytest.raises(Problem) as caught:
        _ = cursor.decode(raw(f"{at} {UUID(int=1)}"))
    assert caught.value.status == 422


def test_a_cursor_shows_nothing_but_its_place() -> None:
    assert cursor.decode(cursor.encode((NOW, UUID(int=7)))) == (NOW, UUID(int=7))
