"""Profiles for the property tests (few examples by default, many for `make fuzz`), and which tests run when.

Every test is in one of two suites: `make test` runs those without the mark `check`, `make check` those with it.
"""

from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.socketio.mixed.node import PACKAGES
from tests.tools import node_packages

_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("default", deadline=None, suppress_health_check=_CHECKS)
settings.register_profile("fuzz", deadline=None, max_examples=10_000, suppress_health_check=_CHECKS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Whole folders that `make check` runs; elsewhere a test or a file carries the mark.
CHECKED = ("tests/e2e/", "tests/crash/")

# Any two files do for the locks.
_DOOR = Path(__file__)
_ROOM = _DOOR.with_name("__init__.py")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: tests wait more than they compute."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make check` runs, and put those that run alone at the end, so that the others wait only once.

    A test that runs alone is for `make check`: it needs a quiet machine, and a quick test must not."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: workers need one name for it; give its parameters ids")
        if item.nodeid.startswith(CHECKED) or item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.check)
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


def pytest_collection_finish() -> None:
    """Thousands of tests are in memory until the end: no collection of garbage needs to look at them."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that is marked `alone` has the machine for itself; its timeout does not count the wait for that."""
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


@pytest.fixture(scope="session")
def cluster_packages() -> None:
    """The npm packages of a Node server in a cluster are installed."""
    node_packages("cluster", PACKAGES)
