"""All Tables keep the same promises."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from partyline.interfaces import Changed, Tables
from partyline.testing import TABLE_CHECKS, MemoryTables, check_tables
from partyline.testing.tables import MemoryTable, MemoryTablesHandle, run_tables_check


@contextlib.asynccontextmanager
async def memory(clock: Callable[[], float]) -> AsyncIterator[tuple[Tables, Tables]]:
    shared = MemoryTables(clock=clock)
    here, there = shared.handle(), shared.handle()
    yield here, there
    await asyncio.gather(here.close(), there.close())


@pytest.mark.parametrize("promise", TABLE_CHECKS)
def test_all_tables_keep(promise: str) -> None:
    """Each promise of the interface is kept by the tables in memory."""
    asyncio.run(run_tables_check(TABLE_CHECKS[promise], memory))


class TakesTwice(MemoryTable):
    async def take(self, key: str) -> bytes | None:
        value = await self.get(key)
        await asyncio.sleep(0)
        await super().take(key)
        return value


class LivesForEver(MemoryTable):
    async def put(self, key: str, value: bytes, life: float) -> None:
        await super().put(key, value, 1e9)


class BeginsNow(MemoryTable):
    async def watch(self, changed: Changed) -> None:
        self._own.append(changed)
        self._watchers.append(changed)


class TellsLate(MemoryTable):
    """A watcher is told what was there before a change."""

    before: bytes | None = None

    def _tell(self, key: str, value: bytes | None) -> None:
        super()._tell(key, self.before)
        self.before = value


class Remembers(MemoryTable):
    def close(self) -> None:
        pass


@pytest.mark.parametrize("mutant", [TakesTwice, LivesForEver, BeginsNow, TellsLate, Remembers])
def test_broken_tables_are_found(mutant: type[MemoryTable]) -> None:
    """The suite finds tables that give a value to two, keep it for ever, or tell a watcher too little or too much."""

    class Handle(MemoryTablesHandle):
        def __init__(self, shared: MemoryTables) -> None:
            self._tables = [mutant(shared, name) for name in ("registrations", "sessions", "revocations")]
            self.registrations, self.sessions, self.revocations = self._tables

    @contextlib.asynccontextmanager
    async def broken(clock: Callable[[], float]) -> AsyncIterator[tuple[Tables, Tables]]:
        shared = MemoryTables(clock=clock)
        yield Handle(shared), Handle(shared)

    with pytest.raises(AssertionError) as caught:
        asyncio.run(check_tables(broken))
    assert any("the promise: " in note for note in caught.value.__notes__)
