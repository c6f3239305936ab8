"""The log, the bus and the tables in Redis and in Valkey keep what the suites of `partyline.testing` ask of each."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest

from partyline.adapters.redis_bus import RedisBus
from partyline.adapters.redis_log import RedisLog
from partyline.adapters.redis_tables import RedisTables
from partyline.interfaces import Bus, Store, Tables
from partyline.stores.shared import SharedStore
from partyline.testing import BUS_CHECKS, SHARED_CHECKS, STORE_CHECKS, TABLE_CHECKS
from partyline.testing.bus import run_bus_check
from partyline.testing.shared import run_shared_check
from partyline.testing.store import run_check
from partyline.testing.tables import run_tables_check
from tests import tools
from tests.adapters.servers import redis_process

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture(scope="module", params=["redis", pytest.param("valkey", marks=pytest.mark.check)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An engine that keeps everything, for all tests here; each has a prefix of its own."""
    program = tools.program("redis-server") if request.param == "redis" else tools.valkey()
    with redis_process(program, tmp_path_factory.mktemp("engine"), *ALWAYS) as url:
        yield url


@pytest.mark.check
@pytest.mark.parametrize("promise", STORE_CHECKS)
def test_a_node_alone_keeps(url: str, promise: str) -> None:
    """Each promise of a store is kept by a node alone on a log in Redis."""

    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[Store]:
        store = await SharedStore.open(RedisLog(url, prefix=secrets.token_hex(4), clock=clock))
        yield store
        await store.close()

    asyncio.run(run_check(STORE_CHECKS[promise], make))


@pytest.mark.parametrize("promise", SHARED_CHECKS)
def test_two_nodes_keep(url: str, promise: str) -> None:
    """Each promise about two nodes is kept on a log in Redis."""

    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[tuple[Store, Store]]:
        prefix = secrets.token_hex(4)
        here, there = [await SharedStore.open(RedisLog(url, prefix=prefix, clock=clock)) for _ in range(2)]
        yield here, there
        await asyncio.gather(here.close(), there.close())

    asyncio.run(run_shared_check(SHARED_CHECKS[promise], make))


@pytest.mark.parametrize("promise", BUS_CHECKS)
def test_a_bus_keeps(url: str, promise: str) -> None:
    """Each promise of a bus is kept on channels of Redis."""

    @contextlib.asynccontextmanager
    async def make(count: int) -> AsyncIterator[Sequence[Bus]]:
        prefix = secrets.token_hex(4)
        yield [RedisBus(url, prefix=prefix) for _ in range(count)]

    asyncio.run(run_bus_check(BUS_CHECKS[promise], make))


@pytest.mark.parametrize("promise", TABLE_CHECKS)
def test_tables_keep(url: str, promise: str) -> None:
    """Each promise of tables is kept by those in Redis."""

    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[tuple[Tables, Tables]]:
        prefix = secrets.token_hex(4)
        here, there = [RedisTables(url, prefix=prefix, clock=clock) for _ in range(2)]
        await asyncio.gather(here.start(), there.start())
        yield here, there
        await asyncio.gather(here.close(), there.close())

    asyncio.run(run_tables_check(TABLE_CHECKS[promise], make))
