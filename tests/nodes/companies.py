"""Several servers in this process that share a log, a bus and tables in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from partyline import Partyline, Settings, SocketIO, running
from partyline.nodes.seat import Seat
from partyline.stores.shared import SharedStore
from partyline.testing.bus import MemoryBus, MemoryNetwork
from partyline.testing.memory_log import MemoryLog
from partyline.testing.tables import MemoryTables
from tests.server.servers import eventually


class Node:
    """One server."""

    def __init__(self, partyline: Partyline, url: str, seat: Seat, io: SocketIO) -> None:
        self.partyline, self.url, self.seat, self.io = partyline, url, seat, io

    @property
    def bus(self) -> MemoryBus:
        bus = self.seat.bus
        assert isinstance(bus, MemoryBus)
        return bus


def plain() -> SocketIO:
    return SocketIO()


@contextlib.asynccontextmanager
async def companies(count: int = 2, make: Callable[[], SocketIO] = plain, **settings: Any) -> AsyncIterator[list[Node]]:
    """So many servers that know each other, each with its own SocketIO."""
    log, network, tables = MemoryLog(), MemoryNetwork(), MemoryTables()
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for _ in range(count):
            store = await SharedStore.open(log.handle())
            seat, io = Seat(store, network.bus(), tables.handle(), max_body=1_000_000, life=3600.0), make()
            chosen = Settings(**{"port": 0, "db": ":memory:", "drain_time": 1.0, **settings})
            partyline, url = await stack.enter_async_context(running(chosen, extras=[io], seat=seat))
            nodes.append(Node(partyline, url, seat, io))
        for node in nodes:
            await eventually(lambda node=node: len(node.seat.company.others) == count - 1, "they know each other")
            await eventually(lambda node=node: len(node.io._others()) == count - 1, "their namespaces, too")
        yield nodes
        await asyncio.sleep(0)
