"""The log in PostgreSQL keeps every promise of a log, alone and with other nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from partyline.adapters.postgres.log import PostgresLog
from partyline.interfaces import Store
from partyline.stores.shared import SharedStore
from partyline.testing import SHARED_CHECKS, STORE_CHECKS
from partyline.testing.shared import run_shared_check
from partyline.testing.store import run_check

pytestmark = pytest.mark.check

Fresh = Callable[[], str]


@pytest.mark.parametrize("promise", STORE_CHECKS)
def test_a_node_alone_keeps(fresh: Fresh, promise: str) -> None:
    """Each promise about a log is kept."""

    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[Store]:
        store = await SharedStore.open(PostgresLog(fresh(), clock=clock))
        yield store
        await store.close()

    asyncio.run(run_check(STORE_CHECKS[promise], make))


@pytest.mark.parametrize("promise", SHARED_CHECKS)
def test_two_nodes_keep(fresh: Fresh, promise: str) -> None:
    """Each promise about two nodes on one log is kept."""

    @contextlib.asynccontextmanager
    async def make(clock: Callable[[], float]) -> AsyncIterator[tuple[Store, Store]]:
        address = fresh()
        here, there = [await SharedStore.open(PostgresLog(address, clock=clock)) for _ in range(2)]
        yield here, there
        await asyncio.gather(here.close(), there.close())

    asyncio.run(run_shared_check(SHARED_CHECKS[promise], make))
