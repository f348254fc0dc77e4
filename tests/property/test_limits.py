"""How much one speaker may post: the bucket is worked out once more, naively, and nobody else pays for a flood."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.limits import Bucket, Buckets, Limits
from shared.directory.model import Key, KeyLimits
from shared.errors import Problem
from shared.http.proxies import network_of
from tests.support.build import NOW

SMALL = KeyLimits(per_minute=60, burst=5)


def takes(buckets: Buckets, who: str, count: int, seconds: float, limits: KeyLimits = SMALL) -> Problem | None:
    try:
        buckets.take([Bucket("key", who, limits)], count, NOW + timedelta(seconds=seconds))
    except Problem as problem:
        return problem
    return None


@given(st.lists(st.tuples(st.integers(0, 4_000), st.integers(1, 5)), max_size=40))
def test_a_bucket_holds_so_many_and_fills_by_the_second(steps: list[tuple[int, int]]) -> None:
    buckets, left, at = Buckets(), 5.0, 0.0
    for pause, count in steps:
        at += pause / 1000
        left = min(5.0, left + pause / 1000)
        refused = takes(buckets, "one", count, at)
        if abs(left - count) < 1e-3:
            return  # at the edge the two may round differently
        assert (refused is None) == (left >= count)
        if refused is None:
            left -= count
        else:
            assert refused.status == 429
            wait = int(refused.headers["Retry-After"])
            assert count - left <= wait < count - left + 1.001 or wait == 1
            assert refused.headers["RateLimit-Policy"] == '"key";q=5;w=5'
            assert refused.headers["RateLimit"].startswith(f'"key";r={int(left + 1e-3)};')


def test_more_than_a_bucket_holds_is_let_in_once_and_paid_off() -> None:
    """An array of 1,000 with a small limit is not refused for ever."""
    buckets = Buckets()
    assert takes(buckets, "one", 20, 0) is None
    assert takes(buckets, "one", 1, 10) is not None
    assert takes(buckets, "one", 20, 19.9) is not None
    assert takes(buckets, "one", 20, 20.1) is None


def test_a_request_is_refused_before_its_body_is_read() -> None:
    buckets = Buckets()
    assert takes(buckets, "one", 0, 0) is None
    assert takes(buckets, "one", 5, 0) is None
    assert takes(buckets, "one", 0, 0) is not None


def test_nothing_is_taken_where_one_bucket_refuses() -> None:
    """And one speaker's flood is not another's."""
    buckets = Buckets()
    assert takes(buckets, "full", 5, 0) is None
    with pytest.raises(Problem):
        buckets.take([Bucket("key", "shared", SMALL), Bucket("key", "full", SMALL)], 5, NOW)
    assert takes(buckets, "shared", 5, 0) is None


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    buckets = Buckets()
    assert takes(buckets, "one", 5, 864_000) is None
    assert takes(buckets, "one", 5, 0) is not None
    assert takes(buckets, "one", 5, 5.1) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.ingest.limits._MOST", 10)
    buckets = Buckets()
    for number in range(100):
        assert takes(buckets, f"n-{number}", 1, 0) is None
    assert sum(len(kept) for kept in buckets._full_at.values()) == 10  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", None),
        (None, None),
    ],
)
def test_what_counts_as_one_address(address: str | None, network: str | None) -> None:
    assert network_of(address) == network


def test_who_is_limited() -> None:
    """Secret keys only where they say so; public ones always, with their own limits before the installation's."""
    limits = Limits(SMALL, SMALL, SMALL)
    own = KeyLimits(1, 1)
    assert limits.of(Key("s", "secret", ""), "192.0.2.7") == []
    assert limits.of(Key("s", "secret", "", limits=own), "192.0.2.7") == [Bucket("key", "s", own)]
    assert [one.by for one in limits.of(Key("p", "publishable", ""), "192.0.2.7")] == ["key", "address"]
    assert limits.of(Key("p", "publishable", "", limits=own), None) == [Bucket("key", "p", own)]
