"""The measurement of tests/linear.py finds what is not linear, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.linear import is_linear


@pytest.mark.parametrize(("power", "linear"), [(0.0, True), (1.0, True), (2.0, False), (3.0, False)])
@pytest.mark.parametrize("noisy", [False, True], ids=["quiet", "disturbed"])
def test_the_power_is_found(power: float, linear: bool, noisy: bool) -> None:
    """What is quadratic is found by its cost, and what is linear is not, though half of all runs are disturbed."""
    noise = random.Random(7)
    now = 0.0

    def read(value: bytes) -> None:
        nonlocal now
        now += 1e-6 * len(value) ** power * (noise.choice((1, 1, 5, 40)) if noisy else 1)

    assert is_linear(read, b"x", 64_000, 128_000, 256_000, clock=lambda: now) is linear


def quadratic(value: bytes) -> list[int]:
    return [value.count(b"x", 0, end) for end in range(0, len(value), 256)]


@pytest.mark.parametrize(("read", "linear"), [(quadratic, False), (bytes.split, True)], ids=["quadratic", "linear"])
def test_real_readers(read: Callable[[bytes], object], linear: bool) -> None:
    """The same with the time of this machine."""
    assert is_linear(read, b"a ", 64_000) is linear
