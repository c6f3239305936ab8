"""Profiles for the property tests (few examples by default, many for `make fuzz`), and who may run beside whom."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("default", deadline=None, suppress_health_check=_CHECKS)
settings.register_profile("fuzz", deadline=None, max_examples=10_000, suppress_health_check=_CHECKS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Any two files do for the locks.
_DOOR = Path(__file__)
_ROOM = _DOOR.with_name("__init__.py")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: tests wait more than they compute."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that is marked `alone` has the machine for itself; the time it waits for that is none of its timeout."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with _inside(fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH):
        return (yield)


@contextmanager
def _inside(mode: int) -> Iterator[None]:
    with _DOOR.open() as door, _ROOM.open() as room:
        # Whoever waits for the room keeps the door, so that nobody goes past.
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, mode)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
