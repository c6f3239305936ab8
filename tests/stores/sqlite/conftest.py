"""Databases that are closed whatever happens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partyline.metrics import Counters
from partyline.stores.sqlite.database import Database

from .writer import Setback

Open = Callable[..., Database]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partyline.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Opens databases, by default at `path`; all are closed at the end."""
    databases: list[Database] = []

    def open_one(at: Path | str = path, counters: Counters | None = None, busy_timeout: float = 0.01) -> Database:
        databases.append(Database(str(at), counters or Counters(), busy_timeout=busy_timeout, retry_after=0.01))
        return databases[-1]

    yield open_one
    for database in databases:
        database.close()


@pytest.fixture
def setback() -> Iterator[Setback]:
    handler = Setback()
    logger = logging.getLogger("partyline.store")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def open_database(opened: Open) -> Open:
    """`opened`, for files that call something else by that name."""
    return opened
