"""Nodes among themselves: who is there, which version they speak, what is not understood."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from partyline.hub.cluster import VERSION, Cluster
from partyline.hub.questions import Collected
from partyline.hub.timers import Timers
from partyline.metrics import Counters
from partyline.testing import Clock, MemoryCluster
from partyline.testing.cluster import MemoryAdapter
from partyline.wire.cluster.messages import Fetch


class Table:
    """Nodes on one network, with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.timers = Timers(self.clock)  # type: ignore[arg-type]
        self.network = MemoryCluster()
        self.counters = Counters()
        self.adapters: list[MemoryAdapter] = []

    async def node(self, heard: Callable[[str, Any], None] = lambda node, message: None) -> Cluster:
        """One more node, known to the others."""
        self.adapters.append(self.network.adapter())
        cluster = Cluster(self.adapters[-1], self.timers, self.counters)
        await cluster.start(heard)
        await settle()
        return cluster

    async def seconds(self, count: float) -> None:
        """Let time pass."""
        for _ in range(round(4 * count)):
            self.clock.advance(0.25)
            await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def on_table(test: Callable[[Table], Awaitable[None]]) -> None:
    async def run() -> None:
        await test(Table())

    asyncio.run(run())


def test_a_node_that_falls_silent_is_gone_after_six_seconds() -> None:
    """A node counts as gone within 6 s of its last word, its questions are settled, and it may come back."""

    async def test(table: Table) -> None:
        here, there = await table.node(), await table.node()
        assert (here.others, there.others) == ([there.node], [here.node])
        await table.seconds(30)
        assert here.others == [there.node]
        question = Collected()
        here.ask(question, "/")
        assert question.expected.pending
        table.adapters[1].cut = True
        await table.seconds(3.5)
        assert here.others == [there.node]
        await table.seconds(2.75)
        assert here.others == []
        assert not question.expected.pending
        table.adapters[1].cut = False
        await table.seconds(2)
        assert here.others == [there.node]

    on_table(test)


def test_a_kind_that_is_not_known_is_ignored_and_counted() -> None:
    """What a newer version says besides is counted, heard by nobody, and a sign of life all the same."""

    async def test(table: Table) -> None:
        heard: list[Any] = []
        here = await table.node(lambda node, message: heard.append(message))
        table.network.carry(msgspec.msgpack.encode(["newer", "", [99, "/", {"what": "ever"}]]))
        assert (heard, table.counters.unreadable, here.others) == ([], 1, ["newer"])

    on_table(test)


def test_another_programs_bytes_are_counted() -> None:
    """What no node has sent is counted, and whoever sent it is not a node."""

    async def test(table: Table) -> None:
        here = await table.node()
        for data in (b"", b"\xc1", b"hello", msgspec.msgpack.encode({"a": 1}), msgspec.msgpack.encode([1, 2])):
            table.network.carry(data)
        assert (table.counters.unreadable, here.others) == (5, [])

    on_table(test)


def test_what_a_newer_version_adds_to_a_message_is_ignored() -> None:
    """A message with further fields, of a node of the next version, is understood without them."""

    async def test(table: Table) -> None:
        heard: list[Any] = []
        here = await table.node(lambda node, message: heard.append(message))
        table.network.carry(msgspec.msgpack.encode(["newer", "", [11, "", False, VERSION + 1, "more"], "and more"]))
        table.network.carry(msgspec.msgpack.encode(["newer", "", [5, "/", 1, [], [], "", "more"]]))
        assert heard == [Fetch("/", 1, [], [])]
        assert (table.counters.unreadable, here.others) == (0, ["newer"])

    on_table(test)


@pytest.mark.parametrize(("version", "told"), [(VERSION - 1, 0), (VERSION, 0), (VERSION + 1, 0), (VERSION + 2, 1)])
def test_a_version_that_is_too_far_away_is_told_once(version: int, told: int, caplog: pytest.LogCaptureFixture) -> None:
    """Neighbouring versions work together, the one before that said no version among them; others are an error in the
    log, once for each node."""

    async def test(table: Table) -> None:
        await table.node()
        here = [11, "", False, version] if version else [11, "", False]
        for _ in range(3):
            table.network.carry(msgspec.msgpack.encode(["other", "", here]))

    on_table(test)
    assert caplog.text.count("upgrade in smaller steps") == told
