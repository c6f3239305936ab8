"""Retention by topic pattern, the same for the log in memory and the one in SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from partyline.errors import TooManyTopics
from partyline.interfaces import Refused, View
from partyline.metrics import Counters
from partyline.stores.memory import MemoryStore
from partyline.stores.memory import Retention as MemoryRetention
from partyline.stores.retention import Bounds, Retention
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.store import SqliteStore
from partyline.testing.store import Bench
from partyline.topics import is_pattern

LONG = 20.0
_SERIAL = itertools.count()  # shared by all logs: an id used before a restart belongs to another message
HOUR = 3600.0


class Log(Bench):
    """A store with a clock that is moved by hand."""

    database: Database | None = None
    counters: Counters

    async def add(self, room: str, count: int = 1, data: bytes = b"1") -> list[int]:
        return await self.keep(*(self.draft(room, data, f"r{next(_SERIAL)}") for _ in range(count)))

    async def offsets(self, room: str) -> list[int]:
        return [message.offset or 0 for message in await self.walk(View(frozenset((room,))))]

    async def oldest(self, *rooms: str) -> int:
        patterns = tuple(filter(is_pattern, rooms))
        view = View(frozenset(rooms) - set(patterns), patterns)
        return (await self.store.read(view, self.store.head, 1)).oldest

    async def pruned(self, count: int) -> None:
        """Return when that many messages are gone in all."""
        async with asyncio.timeout(LONG):
            while True:
                if self.database is not None:
                    await self.database.flush()  # lets housekeeping do a slice
                await self.oldest("cats")
                if self.counters.pruned >= count:
                    break
        assert self.counters.pruned == count


Opened = Callable[..., contextlib.AbstractAsyncContextManager[Log]]


@contextlib.asynccontextmanager
async def memory(_path: Path, *rules: tuple[str, Bounds], now: float = 1e6, **bounds: Any) -> AsyncIterator[Log]:
    log = Log()
    log.now, log.counters = now, Counters()
    retention = MemoryRetention(rules=rules, **bounds)
    log.start(MemoryStore(retention, clock=lambda: log.now, counters=log.counters))
    yield log


@contextlib.asynccontextmanager
async def sqlite(path: Path, *rules: tuple[str, Bounds], now: float = 1e6, **bounds: Any) -> AsyncIterator[Log]:
    log = Log()
    log.now, log.counters = now, Counters()
    log.database = Database(str(path / "partyline.db"), log.counters)
    try:
        store = SqliteStore(
            log.database, Retention(rules=rules, **bounds), clock=lambda: log.now, monotonic=lambda: log.now
        )
        log.start(store)
        yield log
        await store.close()
    finally:
        await asyncio.to_thread(log.database.close)


both = pytest.mark.parametrize("opened", [memory, sqlite])


def test_the_first_rule_that_covers_a_room_holds() -> None:
    """The first rule that covers a room applies; if none does, the general bounds apply."""
    audit, logs = Bounds(max_age=10.0), Bounds(max_messages=5)
    retention = Retention(max_age=7.0, max_messages=70, rules=(("logs.audit", audit), ("logs.>", logs)))
    assert retention.of("logs.audit") is audit
    assert retention.of("logs.a.b") is logs
    assert retention.of("logs") == Bounds(7.0, 70)
    assert retention.ages == (7.0, 10.0, 7 * 86400.0)


@both
def test_by_age(opened: Opened, tmp_path: Path) -> None:
    """Each room loses what is older than its own bound, whether shorter or longer than the others', and whoever resumes
    is told; offsets go on (row max_age)."""

    async def run() -> None:
        rules = (("logs.>", Bounds(max_age=HOUR)), ("audit", Bounds(max_age=1000 * HOUR)))
        async with opened(tmp_path, *rules, max_age=10 * HOUR) as log:
            for _ in range(30):  # 1-90, mixed
                await log.add("audit")
                await log.add("logs.a")
                await log.add("cats")
            log.now += HOUR + 30
            await log.add("logs.a")  # 91
            await log.pruned(30)
            assert await log.offsets("logs.a") == [91]
            assert len(await log.offsets("cats")) == len(await log.offsets("audit")) == 30
            assert await log.oldest("logs.a") == 90, "89 is gone"
            assert await log.oldest("cats") == await log.oldest("audit") == 1
            log.now += 9 * HOUR + 30
            await log.pruned(61)
            assert await log.offsets("cats") == []
            assert len(await log.offsets("audit")) == 30
            assert await log.oldest("audit") == 1
            assert log.store.head == 91
            log.now += 1000 * HOUR
            await log.pruned(91)
            assert await log.offsets("audit") == []
            assert await log.add("audit") == [92]

    asyncio.run(run())


@both
def test_long_kept_messages_do_not_hide_others(opened: Opened, tmp_path: Path) -> None:
    """Thousands of long-lived messages at the log's beginning do not keep later ones from being pruned."""

    async def run() -> None:
        async with opened(tmp_path, ("audit", Bounds(max_age=1e9)), max_age=HOUR) as log:
            await log.add("audit", 3_500)
            await log.add("cats", 1_200)
            await log.add("audit", 1_500)
            await log.add("cats", 10)
            log.now += HOUR + 60
            await log.pruned(1_210)
            assert await log.offsets("cats") == []
            assert len(await log.walk(View(frozenset(("audit",))), 1000)) == 5_000

    asyncio.run(run())


@both
def test_by_count(opened: Opened, tmp_path: Path) -> None:
    """Each room that a rule covers keeps as many messages as the rule says; other rooms follow the general setting (row
    max_messages)."""

    async def run() -> None:
        async with opened(tmp_path, ("logs.*", Bounds(max_messages=10)), max_messages=40) as log:
            await log.add("logs.a", 30)
            await log.add("logs.b", 15)
            await log.add("cats", 60)
            await log.pruned(20 + 5 + 20)
            assert await log.offsets("logs.a") == list(range(21, 31))
            assert await log.offsets("logs.b") == list(range(36, 46))
            assert len(await log.offsets("cats")) == 40
            assert await log.oldest("logs.a") == 21
            assert await log.oldest("logs.a", "logs.b") == 36

    asyncio.run(run())


@both
def test_by_bytes(opened: Opened, tmp_path: Path) -> None:
    """A room keeps the newest messages that fit its bytes, and the newest one however large it is."""

    async def run() -> None:
        async with opened(tmp_path, ("logs.*", Bounds(max_bytes=10_000))) as log:
            await log.add("cats", 20, b"x" * 1_000)
            await log.add("logs.a", 25, b"x" * 1_000)
            await log.pruned(15)
            assert await log.offsets("logs.a") == list(range(36, 46))
            await log.add("logs.a", 1, b"x" * 50_000)
            await log.pruned(25)
            assert await log.offsets("logs.a") == [46]
            await log.add("logs.a", 1, b"x")
            await log.pruned(26)
            assert await log.offsets("logs.a") == [47]
            await log.add("logs.a", 9, b"x" * 1_000)
            assert await log.offsets("logs.a") == list(range(47, 57)), "9,001 bytes are not too many"
            assert len(await log.offsets("cats")) == 20
            assert log.counters.pruned == 26

    asyncio.run(run())


def test_bytes_are_counted_over_a_restart(tmp_path: Path) -> None:
    """The next process counts what a room holds, in slices if it is a lot, and goes on where the last one stopped."""

    async def run() -> None:
        async with sqlite(tmp_path) as log:
            for _ in range(6):
                await log.add("logs.a", 2_000, b"x" * 10)
            await log.add("cats")
        async with sqlite(tmp_path, ("logs.*", Bounds(max_bytes=20_000))) as log:
            await log.add("logs.a", 1, b"x" * 10)
            await log.pruned(10_001)
            found = await log.walk(View(frozenset(("logs.a",))), 1000)
            assert sum(len(message.draft.data) for message in found) == 20_000
            assert log.store.head == 12_002
        async with sqlite(tmp_path, ("logs.*", Bounds(max_bytes=20_000))) as log:
            assert log.store.head == 12_002
            assert len(await log.walk(View(frozenset(("logs.a",))), 1000)) == 2_000

    asyncio.run(run())


@both
def test_the_head_survives(opened: Opened, tmp_path: Path) -> None:
    """Offsets go on even when no message is left."""

    async def run() -> None:
        rules = (("logs.>", Bounds(max_age=60.0)), ("cats", Bounds(max_age=120.0)))
        async with opened(tmp_path, *rules) as log:
            await log.add("logs.a", 5)
            await log.add("cats", 5)
            log.now += 125
            await log.pruned(10)
            assert log.store.head == 10
        if opened is sqlite:
            async with sqlite(tmp_path, *rules, now=log.now) as log:
                assert log.store.head == 10
                assert await log.add("cats") == [11]

    asyncio.run(run())


@both
def test_a_rule_hides_nothing_of_others(opened: Opened, tmp_path: Path) -> None:
    """When a rule has emptied its rooms, only a reader of rooms that the rule may cover is told that something is gone:
    others resume as before, by pattern and by a topic that is not there yet (guarantee 3)."""

    async def look(log: Log) -> None:
        for view in (("orders.*",), ("orders.none",), ("orders.a", "birds"), ("orders.a", "*.b.>")):
            assert await log.oldest(*view) == 1, view
        for view in (("logs.none",), ("logs.a", "orders.a"), ("logs.>",), (">",), ("*.a",), ("orders.a", "logs.*")):
            assert await log.oldest(*view) == 3, view

    async def run() -> None:
        rules = (("logs.*", Bounds(max_age=HOUR)),)
        async with opened(tmp_path, *rules, max_age=100 * HOUR) as log:
            await log.add("orders.a")
            await log.add("logs.a")
            now = log.now = log.now + 2 * HOUR
            await log.pruned(1)
            await look(log)
            await log.add("logs.b")
            await log.add("birds")
            assert await log.oldest("logs.b") == 3
            assert await log.oldest("birds") == 1
        if opened is sqlite:
            async with sqlite(tmp_path, now=now, max_age=100 * HOUR) as log:
                await look(log)

    asyncio.run(run())


@both
def test_max_rooms(opened: Opened, tmp_path: Path) -> None:
    """A topic beyond max_rooms is refused with 507 `too_many_topics`, naming the limit that is counted; a topic that
    retention emptied makes space (row max_rooms)."""

    async def run() -> None:
        async with opened(tmp_path, ("logs.*", Bounds(max_age=60.0)), max_rooms=2) as log:
            await log.add("cats")
            await log.add("logs.a")
            (outcome,) = await log.append(log.draft("dogs"))
            assert isinstance(outcome, Refused)
            error = outcome.error
            assert isinstance(error, TooManyTopics)
            assert (error.http_status, error.code, error.limit) == (507, "too_many_topics", "max_rooms")
            log.now += 65
            await log.pruned(1)
            await log.add("dogs")

    asyncio.run(run())
