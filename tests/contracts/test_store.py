"""Every Store keeps the same promises: the suite of `partyline.testing` on each implementation."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from partyline.interfaces import Store
from partyline.metrics import Counters
from partyline.stores.memory import MemoryStore
from partyline.stores.shared import SharedStore
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.store import SqliteStore
from partyline.testing import STORE_CHECKS, MemoryLog, SaboteurStore, check_store
from partyline.testing.store import Make, run_check
from tests.tools import one_in


@contextlib.asynccontextmanager
async def memory(clock: Callable[[], float]) -> AsyncIterator[Store]:
    yield MemoryStore(clock=clock)


@contextlib.asynccontextmanager
async def sqlite(clock: Callable[[], float]) -> AsyncIterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(str(Path(folder, "partyline.db")), Counters())
        try:
            store = SqliteStore(database, clock=clock, monotonic=clock)
            yield store
            await store.close()
        finally:
            await asyncio.to_thread(database.close)


@contextlib.asynccontextmanager
async def shared(clock: Callable[[], float]) -> AsyncIterator[Store]:
    """A node alone on a shared log."""
    store = await SharedStore.open(MemoryLog(clock=clock).handle())
    yield store
    await store.close()


def saboteur(seed: int) -> Make:
    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[Store]:
        yield SaboteurStore(random.Random(seed), clock=clock)

    return make


@contextlib.asynccontextmanager
async def prompt_saboteur(clock: Callable[[], float]) -> AsyncIterator[Store]:
    """A saboteur that is not nasty: it commits in each turn of the loop."""
    store = SaboteurStore(clock=clock)
    loop = asyncio.get_running_loop()
    append = store.append

    def append_and_commit(*drafts: object) -> None:
        append(*drafts)  # type: ignore[arg-type]
        loop.call_soon(store.commit)

    store.append = append_and_commit  # type: ignore[method-assign]
    yield store


@pytest.mark.parametrize("promise", STORE_CHECKS)
@pytest.mark.parametrize("make", [memory, sqlite, shared, prompt_saboteur])
def test_every_store_keeps(make: Make, promise: str) -> None:
    """Each promise is kept by the logs in memory and in SQLite, by a node on a shared log, and by the tests' own."""
    asyncio.run(run_check(STORE_CHECKS[promise], make))


@pytest.mark.parametrize("seed", one_in(5, range(20)))
def test_the_saboteur_keeps_them_too(seed: int) -> None:
    """However nasty, the saboteur breaks no promise: what fails on it is the fault of its user."""
    asyncio.run(check_store(saboteur(seed)))


def test_a_broken_store_is_found() -> None:
    """The suite finds a store that hands out what it did not keep, and names the broken promise."""

    class Forgetful(MemoryStore):
        async def read(self, *_wanted: object) -> object:  # type: ignore[override]
            return await super().read(*_wanted[:1], self.head, 1)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[Store]:
        yield Forgetful(clock=clock)  # type: ignore[misc]

    with pytest.raises(AssertionError) as caught:
        asyncio.run(check_store(make))
    assert any("the promise: " in note for note in caught.value.__notes__)
