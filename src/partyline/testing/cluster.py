"""Several nodes in one process, for tests across nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class MemoryCluster:
    """Joins the adapters that it makes: bytes go to all others, each time in the next turn of the loop."""

    def __init__(self) -> None:
        self._adapters: list[MemoryAdapter] = []

    def adapter(self) -> MemoryAdapter:
        """An adapter for one more node."""
        adapter = MemoryAdapter(self)
        self._adapters.append(adapter)
        return adapter

    def carry(self, data: bytes) -> None:
        """Hand bytes to every started node."""
        for adapter in self._adapters:
            adapter.receive(data)


class MemoryAdapter:
    """An `interfaces.Adapter` without a network."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster
        self._received: Callable[[bytes], None] | None = None
        self.cut = False  # True: as if the network were gone

    async def start(self, received: Callable[[bytes], None]) -> None:
        self._received = received

    def publish(self, data: bytes) -> None:
        if not self.cut:
            asyncio.get_running_loop().call_soon(self._cluster.carry, data)

    async def close(self) -> None:
        await asyncio.sleep(0)  # earlier messages are under way
        self._received = None

    def receive(self, data: bytes) -> None:
        """Bytes have arrived."""
        if self._received is not None and not self.cut:
            self._received(data)
