"""The revocations table: a row is stored before it is answered, the earliest first, and kept only as long as it
matters."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from partyline.errors import StoreUnavailable
from partyline.metrics import Counters
from partyline.stores.sqlite import revocations as module
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.revocations import RevocationTable

from .conftest import Open
from .writer import Gate, query


async def save(database: Database, *rows: tuple[str, str, float], oldest: float = 0.0) -> None:
    table = RevocationTable(database)
    for kind, name, at in rows:
        await table.save(kind, name, at, oldest=oldest)


def test_what_is_saved_is_committed_when_that_is_said(path: Path, opened: Open) -> None:
    """Another connection sees a row as soon as `save` returns, and so does the next process."""
    database = opened()
    asyncio.run(save(database, ("sub", "ann", 2.5), ("jti", "ann", 1.5)))
    assert sorted(query(path, "SELECT kind, name, at FROM revocations")) == [("jti", "ann", 1.5), ("sub", "ann", 2.5)]
    database.close()
    assert RevocationTable(opened()).load() == [("jti", "ann", 1.5), ("sub", "ann", 2.5)]


def test_a_second_revocation_replaces_the_first(opened: Open) -> None:
    """There is one row for each user and each id."""
    database = opened()
    asyncio.run(save(database, ("sub", "ann", 1.0), ("sub", "bob", 2.0), ("sub", "ann", 3.0)))
    database.close()
    assert RevocationTable(opened()).load() == [("sub", "bob", 2.0), ("sub", "ann", 3.0)]


def test_what_is_over_goes(path: Path, opened: Open) -> None:
    """Rows that no longer matter are removed when the next one is saved."""
    database = opened()
    asyncio.run(save(database, ("sub", "ann", 1.0), ("sub", "bob", 2.0), ("sub", "eve", 3.0)))
    asyncio.run(save(database, ("jti", "t", 4.0), oldest=2.0))
    assert sorted(query(path, "SELECT name FROM revocations")) == [("bob",), ("eve",), ("t",)]


def test_in_memory_it_works_too() -> None:
    """A database in memory takes revocations like any other."""
    database = Database(":memory:", Counters())
    asyncio.run(save(database, ("sub", "ann", 1.0)))
    database.close()


def test_a_disk_that_hangs_is_told(path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that does not happen in time raises StoreUnavailable, and the row is stored as soon as the disk takes
    it."""
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    database, gate = opened(), Gate()
    database.submit(gate)
    gate.reached()
    with pytest.raises(StoreUnavailable, match="send it again"):
        asyncio.run(save(database, ("sub", "ann", 1.0)))
    gate.let_go()
    database.close()
    assert query(path, "SELECT name FROM revocations") == [("ann",)]
