"""The log and the tables in JetStream keep what the suites of `partyline.testing` ask of each."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from partyline.adapters.nats.log import NatsLog
from partyline.adapters.nats.tables import NatsTables
from partyline.interfaces import Store, Tables
from partyline.stores.shared import SharedStore
from partyline.testing import SHARED_CHECKS, STORE_CHECKS, TABLE_CHECKS
from partyline.testing.shared import run_shared_check
from partyline.testing.store import run_check
from partyline.testing.tables import run_tables_check
from tests.adapters.nats.server import NatsServer, nats_process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server for all tests here; each has a prefix of its own."""
    with nats_process(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.mark.check
@pytest.mark.parametrize("promise", STORE_CHECKS)
def test_a_node_alone_keeps(server: NatsServer, promise: str) -> None:
    """Each promise of a store is kept by a node alone on a log in JetStream."""

    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[Store]:
        store = await SharedStore.open(NatsLog(f"{server.url}?prefix={secrets.token_hex(4)}", clock=clock))
        yield store
        await store.close()

    asyncio.run(run_check(STORE_CHECKS[promise], make))


@pytest.mark.parametrize("promise", SHARED_CHECKS)
def test_two_nodes_keep(server: NatsServer, promise: str) -> None:
    """Each promise about two nodes is kept on a log in JetStream."""

    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[tuple[Store, Store]]:
        url = f"{server.url}?prefix={secrets.token_hex(4)}"
        here, there = [await SharedStore.open(NatsLog(url, clock=clock)) for _ in range(2)]
        yield here, there
        await asyncio.gather(here.close(), there.close())

    asyncio.run(run_shared_check(SHARED_CHECKS[promise], make))


@pytest.mark.parametrize("promise", TABLE_CHECKS)
def test_tables_keep(server: NatsServer, promise: str) -> None:
    """Each promise of tables is kept by those in JetStream."""

    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[tuple[Tables, Tables]]:
        url = f"{server.url}?prefix={secrets.token_hex(4)}"
        here, there = [NatsTables(url, clock=clock) for _ in range(2)]
        await asyncio.gather(here.start(), there.start())
        yield here, there
        await asyncio.gather(here.close(), there.close())

    asyncio.run(run_tables_check(TABLE_CHECKS[promise], make))
