"""Tables in PostgreSQL keep every promise of tables."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from partyline.adapters.postgres.tables import PostgresTables
from partyline.interfaces import Tables
from partyline.testing import TABLE_CHECKS
from partyline.testing.tables import Watching, run_tables_check

pytestmark = pytest.mark.check

Fresh = Callable[[], str]


@pytest.mark.parametrize("promise", TABLE_CHECKS)
def test_two_nodes_keep(fresh: Fresh, promise: str) -> None:
    """Each promise of the interface is kept."""

    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[tuple[Tables, Tables]]:
        address = fresh()
        here, there = PostgresTables(address, clock=clock), PostgresTables(address, clock=clock)
        await asyncio.gather(here.start(), there.start())
        yield here, there
        await asyncio.gather(here.close(), there.close())

    asyncio.run(run_tables_check(TABLE_CHECKS[promise], make))


def test_a_watcher_that_was_away_for_long_is_told_of_what_there_is(fresh: Fresh) -> None:
    """Where the changes that a watcher missed are not kept any more, it is told of all that there is, and of what has
    gone; what is over is not kept."""

    async def main() -> None:
        address = fresh()
        now = 1_000_000.0
        here, there = [PostgresTables(address, clock=lambda: now) for _ in range(2)]
        await here.start()
        await here.sessions.put("gone", b"1", 1e6)
        await here.sessions.put("short", b"1", 10.0)
        watching = Watching()
        await there.sessions.watch(watching)
        async with there._watching:  # it reads nothing meanwhile
            await here.sessions.take("gone")
            now += 4000.0
            for number in range(10):
                await here.sessions.put(f"k{number}", b"1", 1e6)
        told = (await watching.until(14))[2:]
        assert sorted(told, key=str)[:2] == [("gone", None), ("k0", b"1")]
        assert ("short", None) in told
        async with there._following.use() as connection:
            sql = there._address.sql
            assert await connection.fetchval(sql("SELECT count(*) FROM partyline.shelf")) == 10
            assert await connection.fetchval(sql("SELECT count(*) FROM partyline.changes")) == 10
        await asyncio.gather(here.close(), there.close())

    asyncio.run(main())


def test_a_watcher_forgets_what_is_over(fresh: Fresh) -> None:
    """A watcher does not keep in mind all keys that there ever were."""

    async def main() -> None:
        address = fresh()
        now = 1_000_000.0
        tables = PostgresTables(address, clock=lambda: now)
        await tables.start()
        watching = Watching()
        await tables.sessions.watch(watching)
        (watcher,) = tables.sessions.watchers
        watcher.most = 10
        for number in range(50):
            await tables.sessions.put(f"k{number}", b"1", 5.0)
            now += 1.0
        await watching.until(50)
        assert "k0" not in watcher.known
        await tables.close()

    asyncio.run(main())
