"""Token buckets: what is allowed at once, in the long run, and per address."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.trust.rate import Bucket, PerAddress


def test_a_burst_is_allowed_and_then_no_more() -> None:
    """`burst` events are allowed at once, and the next one is refused."""
    bucket = Bucket(10.0, 5.0, 0.0)
    assert [bucket.allow(0.0) for _ in range(7)] == [True] * 5 + [False] * 2


def test_the_rate_fills_it_again() -> None:
    """After the burst, events are allowed at the rate, and waiting long saves up the burst and nothing above it."""
    bucket = Bucket(10.0, 5.0, 0.0)
    for _ in range(5):
        bucket.allow(0.0)
    assert not bucket.allow(0.05)
    assert bucket.allow(0.11)
    assert not bucket.allow(0.12)
    assert [bucket.allow(1_000.0) for _ in range(6)] == [True] * 5 + [False]


def test_looking_takes_nothing() -> None:
    """`empty` says what `allow` would do, and does not change the bucket."""
    bucket = Bucket(1.0, 1.0, 0.0)
    assert not bucket.empty(0.0)
    assert not bucket.empty(0.0)
    assert bucket.allow(0.0)
    assert bucket.empty(0.5)
    assert not bucket.empty(1.5)


def test_refusals_are_counted_until_one_is_allowed() -> None:
    """`refused` counts consecutive refusals, which distinguishes a persistent client from a single burst."""
    bucket = Bucket(1.0, 1.0, 0.0)
    bucket.allow(0.0)
    for _ in range(3):
        bucket.allow(0.0)
    assert bucket.refused == 3
    assert bucket.allow(2.0)
    assert bucket.refused == 0


@pytest.mark.parametrize("rate", [0.5, 2.0, 3.0, 30.0, 49.0, 100.0])
def test_after_waiting_one_is_allowed(rate: float) -> None:
    """A client that was refused and waits for `wait` seconds is allowed."""
    bucket = Bucket(rate, 1.0, 0.0)
    assert bucket.allow(0.0)
    assert not bucket.allow(0.0)
    assert bucket.allow(bucket.wait() + 1e-9)


def test_a_rate_of_zero_never_fills() -> None:
    """Without a rate only the burst is there; the wait is still a number one can send to a client."""
    bucket = Bucket(0.0, 1.0, 0.0)
    assert bucket.allow(0.0)
    assert not bucket.allow(1_000_000.0)
    assert 0 < bucket.wait() < 3600


@given(
    st.sampled_from((0.5, 1.0, 10.0, 100.0)),
    st.integers(1, 20),
    st.lists(st.one_of(st.just(0.0), st.floats(0, 3)), max_size=80),
)
@settings(deadline=None)
def test_never_more_than_burst_and_rate(rate: float, burst: int, gaps: list[float]) -> None:
    """However events come, no more than the burst and the rate's share of the time are allowed, in any window."""
    bucket = Bucket(rate, float(burst), 0.0)
    now = 0.0
    allowed: list[float] = []
    for gap in gaps:
        now += gap
        if bucket.allow(now):
            allowed.append(now)
    for at, first in enumerate(allowed):
        for count, last in enumerate(allowed[at:], 1):
            assert count <= burst + (last - first) * rate + 1e-6


@given(st.integers(1, 20), st.lists(st.floats(0.1, 3), max_size=50))
@settings(deadline=None)
def test_who_keeps_to_the_rate_is_never_refused(burst: int, gaps: list[float]) -> None:
    """Events at least 1/rate apart are all allowed."""
    bucket = Bucket(10.0 + 1e-6, float(burst), 0.0)
    now = 0.0
    for gap in gaps:
        now += gap
        assert bucket.allow(now)


def test_addresses_have_buckets_of_their_own() -> None:
    """What one address uses up does not affect another, and each keeps its bucket."""
    limits = PerAddress(1.0, 2.0)
    for _ in range(2):
        assert limits.bucket("a", 0.0).allow(0.0)
    assert not limits.bucket("a", 0.0).allow(0.0)
    assert limits.bucket("b", 0.0).allow(0.0)


def test_the_least_recently_seen_addresses_are_forgotten() -> None:
    """Beyond 10,000 addresses the one that was longest not seen is forgotten: a flood of addresses costs bounded
    memory, and those who keep coming keep their bucket."""
    limits = PerAddress(0.001, 1.0)
    limits.bucket("stays", 0.0).allow(0.0)
    limits.bucket("goes", 0.0).allow(0.0)
    for number in range(9_998):
        limits.bucket(f"flood{number}", 0.0)
    assert limits.bucket("stays", 0.0).empty(0.0)
    for number in range(5_000):
        limits.bucket(f"more{number}", 0.0)
    assert limits.bucket("stays", 0.0).empty(0.0)
    assert not limits.bucket("goes", 0.0).empty(0.0)


def test_a_network_of_ipv6_is_one_address() -> None:
    """Whoever has a /64 of IPv6 has one bucket for all of its addresses."""
    limits = PerAddress(0.001, 2.0)
    addresses = [f"2001:db8::{number:x}" for number in range(1, 5)]
    assert [limits.bucket(address, 0.0).allow(0.0) for address in addresses] == [True, True, False, False]
    assert limits.bucket("2001:db8:0:1::1", 0.0).allow(0.0)
