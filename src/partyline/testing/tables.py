"""The promises of Tables, as checks to run on two nodes, and tables in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from partyline.interfaces import Changed, Table, Tables
from partyline.testing.promises import promises, run_all

_LONG: Final = 20.0  # seconds: nothing here takes so long
_NAMES: Final = ("registrations", "sessions", "revocations")

MakeTables = Callable[[Callable[[], float]], AbstractAsyncContextManager[tuple[Tables, Tables]]]
"""Opens the empty tables of two nodes for one check, with this clock in place of time.time if lives are counted in this
process, and closes them afterwards."""

Check = Callable[["Shelves"], Awaitable[None]]


class MemoryTables:
    """The tables that all nodes share. Each node has a `handle`."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.values: dict[str, dict[str, tuple[bytes, float]]] = {name: {} for name in _NAMES}
        self.watchers: dict[str, list[Changed]] = {name: [] for name in _NAMES}

    def handle(self) -> MemoryTablesHandle:
        """The handle of one more node."""
        return MemoryTablesHandle(self)


class MemoryTablesHandle:
    """One node's Tables."""

    def __init__(self, shared: MemoryTables) -> None:
        self._tables = [MemoryTable(shared, name) for name in _NAMES]
        self.registrations, self.sessions, self.revocations = self._tables

    async def close(self) -> None:
        for table in self._tables:
            table.close()


class MemoryTable:
    """One table of one node."""

    def __init__(self, shared: MemoryTables, name: str) -> None:
        self._clock = shared.clock
        self._values = shared.values[name]
        self._watchers = shared.watchers[name]
        self._own: list[Changed] = []

    async def get(self, key: str) -> bytes | None:
        await asyncio.sleep(0)
        return self._living(key)

    async def put(self, key: str, value: bytes, life: float) -> None:
        await asyncio.sleep(0)
        self._values[key] = value, self._clock() + life
        self._tell(key, value)

    async def take(self, key: str) -> bytes | None:
        await asyncio.sleep(0)
        value = self._living(key)
        if self._values.pop(key, None) is not None:
            self._tell(key, None)
        return value

    async def watch(self, changed: Changed) -> None:
        self._own.append(changed)
        self._watchers.append(changed)
        for key in list(self._values):
            if (value := self._living(key)) is not None:
                changed(key, value)

    def close(self) -> None:
        """Stop telling the watchers of this node."""
        for changed in self._own:
            self._watchers.remove(changed)
        self._own.clear()

    def _living(self, key: str) -> bytes | None:
        value, end = self._values.get(key, (None, 0.0))
        return value if self._clock() < end else None

    def _tell(self, key: str, value: bytes | None) -> None:
        for changed in tuple(self._watchers):
            changed(key, value)


class Shelves:
    """The tables of two nodes, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.here: Tables
        self.there: Tables

    def pairs(self) -> Sequence[tuple[Table, Table]]:
        """Each table as the two nodes see it."""
        return [(getattr(self.here, name), getattr(self.there, name)) for name in _NAMES]


class Watching:
    """A watcher that records what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bytes | None]] = []
        self._news = asyncio.Event()

    def __call__(self, key: str, value: bytes | None) -> None:
        self.told.append((key, value))
        self._news.set()

    async def until(self, count: int) -> list[tuple[str, bytes | None]]:
        """Everything it was told, once there are `count`."""
        async with asyncio.timeout(_LONG):
            while len(self.told) < count:
                self._news.clear()
                await self._news.wait()
        return self.told


async def check_tables(make: MakeTables) -> None:
    """Run every check of TABLE_CHECKS on tables of its own. Raises AssertionError, naming the check that failed."""
    await run_all(TABLE_CHECKS, lambda check: run_tables_check(check, make))


async def run_tables_check(check: Check, make: MakeTables) -> None:
    """Run one check on fresh tables."""
    shelves = Shelves()
    async with make(lambda: shelves.now) as (shelves.here, shelves.there):
        async with asyncio.timeout(_LONG):
            await check(shelves)


# The checks


async def _everywhere(shelves: Shelves) -> None:
    """What was put on one node is got on the other one when `put` has returned, the newest value; None without one."""
    for here, there in shelves.pairs():
        assert await there.get("k") is None
        for value in (b"1", b"2", b""):
            await here.put("k", value, 60.0)
            assert await there.get("k") == value
            assert await here.get("k") == value


async def _apart(shelves: Shelves) -> None:
    """The tables, and keys of any text, do not meet; values are any bytes."""
    keys = ["k", "K", "k:1", "a b", "日本\u2028", "*", "x" * 300, ""]
    for number, (here, _) in enumerate(shelves.pairs()):
        for key in keys:
            await here.put(key, key.encode() + bytes([number]), 60.0)
    for number, (_, there) in enumerate(shelves.pairs()):
        for key in keys:
            assert await there.get(key) == key.encode() + bytes([number])
    large = bytes(range(256)) * 400
    await shelves.here.sessions.put("large", large, 60.0)
    assert await shelves.there.sessions.get("large") == large


async def _lives(shelves: Shelves) -> None:
    """A value whose life is over is not there any more, to get or to take; to put it again begins a new life."""
    for here, there in shelves.pairs():
        await here.put("short", b"1", 10.0)
        await here.put("long", b"1", 100.0)
        await here.put("again", b"1", 10.0)
        shelves.now += 9.0
        assert await there.get("short") == b"1"
        await there.put("again", b"2", 10.0)
        shelves.now += 2.0
        assert await there.get("short") is None
        assert await there.take("short") is None
        assert await there.get("long") == b"1"
        assert await here.get("again") == b"2"


async def _taken_once(shelves: Shelves) -> None:
    """Of many that take a value at once, on both nodes, one gets it, and then it is gone."""
    for here, there in shelves.pairs():
        for turn in range(10):
            await here.put("k", b"%d" % turn, 60.0)
            taken = await asyncio.gather(*(table.take("k") for table in (here, there) for _ in range(10)))
            assert [value for value in taken if value is not None] == [b"%d" % turn]
            assert await there.get("k") is None
        assert await here.take("never there") is None


async def _watched(shelves: Shelves) -> None:
    """A watcher is told of all that there is before `watch` returns, and then of each change of both nodes, in order
    for each key."""
    for here, there in shelves.pairs():
        await here.put("a", b"1", 60.0)
        await there.put("b", b"1", 60.0)
        await here.put("gone", b"1", 60.0)
        await here.take("gone")
        watching = Watching()
        await there.watch(watching)
        assert dict(watching.told) == {"a": b"1", "b": b"1"}
        before = len(watching.told)
        for number in range(20):
            await (here, there)[number % 2].put("a", b"%d" % number, 60.0)
        await here.take("b")
        told = (await watching.until(before + 21))[before:]
        assert [value for key, value in told if key == "a"] == [b"%d" % number for number in range(20)]
        assert [value for key, value in told if key == "b"] == [None]


async def _not_watched(shelves: Shelves) -> None:
    """A watcher of one table is not told of another one, and nobody is told after `close`, of that node only."""
    mine, theirs = Watching(), Watching()
    await shelves.here.sessions.watch(mine)
    await shelves.there.sessions.watch(theirs)
    await shelves.there.registrations.put("r", b"1", 60.0)
    await shelves.there.sessions.put("s", b"1", 60.0)
    assert await mine.until(1) == [("s", b"1")]
    await shelves.here.close()
    await shelves.there.sessions.put("s", b"2", 60.0)
    assert await theirs.until(2) == [("s", b"1"), ("s", b"2")]
    assert mine.told == [("s", b"1")]


TABLE_CHECKS: Final[dict[str, Check]] = promises(_everywhere, _apart, _lives, _taken_once, _watched, _not_watched)
"""Every promise of Tables as a sentence, with its check."""
