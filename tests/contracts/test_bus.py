"""Every Bus keeps the same promises; how losses are counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.hub import envelopes
from partyline.hub.envelopes import Envelopes, node_name
from partyline.interfaces import Bus
from partyline.testing import BUS_CHECKS, MemoryNetwork, check_bus
from partyline.testing.bus import MemoryBus, run_bus_check


@contextlib.asynccontextmanager
async def memory(count: int) -> AsyncIterator[Sequence[Bus]]:
    network = MemoryNetwork()
    yield [network.bus() for _ in range(count)]


@pytest.mark.parametrize("promise", BUS_CHECKS)
def test_every_bus_keeps(promise: str) -> None:
    """Each promise of the interface is kept by the bus in memory."""
    asyncio.run(run_bus_check(BUS_CHECKS[promise], memory))


def test_a_listener_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The bus in memory logs what a listener raises in the words that the hub has for it."""
    (promise,) = (name for name in BUS_CHECKS if "listener raises" in name)
    asyncio.run(run_bus_check(BUS_CHECKS[promise], memory))
    assert [one.getMessage() for one in caplog.records] == ["a message from another node could not be handled"]


class Echoing(MemoryBus):
    def publish(self, subject: str, data: bytes) -> None:
        super().publish(subject, data)
        asyncio.get_running_loop().call_soon(self._listeners.get(subject, print), self.node, data)


class Immediate(MemoryBus):
    def publish(self, subject: str, data: bytes) -> None:
        self._network.carry(subject, self._envelopes.wrap(subject, data))


class Lifo(MemoryBus):
    def publish(self, subject: str, data: bytes) -> None:
        asyncio.get_running_loop().call_soon(super().publish, subject, data)
        if data.endswith(b"7"):
            super().publish(subject, data)


class Shouting(MemoryBus):
    def send(self, node: str, data: bytes) -> None:
        for bus in self._network.buses:
            super().send(bus.node, data)


@pytest.mark.parametrize("mutant", [Echoing, Immediate, Lifo, Shouting])
def test_a_broken_bus_is_found(mutant: type[MemoryBus]) -> None:
    """The suite finds a bus that echoes, calls back at once, reorders or tells everybody, and names the promise."""

    @contextlib.asynccontextmanager
    async def broken(count: int) -> AsyncIterator[Sequence[Bus]]:
        network = MemoryNetwork()
        network.buses = [mutant(network) for _ in range(count)]
        yield network.buses

    with pytest.raises(AssertionError) as caught:
        asyncio.run(check_bus(broken))
    assert any("the promise: " in note for note in caught.value.__notes__)


def test_what_is_lost_is_counted() -> None:
    """What was said while a node was cut off is counted when the next message on that subject comes, by each node that
    listens."""

    async def main() -> None:
        network = MemoryNetwork()
        here, there = network.bus(), network.bus()
        heard: list[bytes] = []
        for bus in (here, there):
            await bus.start(lambda sender, data: None)
        there.listen("s", lambda sender, data: heard.append(data))

        async def say(*messages: bytes) -> None:
            for data in messages:
                here.publish("s", data)
            await there.ready()

        await say(b"1")
        there.cut = True
        assert not there.connected
        await say(b"2", b"3")
        there.cut = False
        assert there.lost() == 0  # nobody can know yet
        await say(b"4")
        assert (heard, there.lost()) == ([b"1", b"4"], 2)
        here.cut = True
        await say(b"5")
        here.cut = False
        await say(b"6")
        assert (heard, there.lost()) == ([b"1", b"4", b"6"], 3)

    asyncio.run(main())


# Envelopes


@given(st.binary(max_size=60), st.text(max_size=20))
def test_an_envelope_is_read_back(data: bytes, subject: str) -> None:
    """What was wrapped is what is unwrapped, with the name of the sender, once; at the sender it is nothing."""
    here, there = Envelopes(name := node_name()), Envelopes(node_name())
    message = here.wrap(subject, data)
    assert here.unwrap(subject, message) is None
    assert there.unwrap(subject, message) == (name, data)
    assert there.unwrap(subject, message) is None
    assert (there.lost, there.unreadable) == (0, 0)


@given(st.binary(max_size=60))
def test_strangers_bytes_are_counted(data: bytes) -> None:
    """Bytes that are no envelope of this version are ignored and counted, and nothing is raised."""
    there = Envelopes(node_name())
    found: Any = there.unwrap("s", b"\x00" + data)
    assert found is None
    assert there.unwrap("s", data[:16]) is None
    assert there.unreadable == 2


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60))
def test_every_gap_is_counted_once(fates: list[int]) -> None:
    """Of numbered messages of which some are lost and some come twice, each is heard at most once, in order, and the
    lost ones before the last one heard are counted."""
    here, there = Envelopes(node_name()), Envelopes(node_name())
    heard: list[int] = []
    lost = waiting = 0
    for number, fate in enumerate(fates):
        message = here.wrap("s", b"%d" % number)
        found = [there.unwrap("s", message) for _ in range(fate)]
        heard += [int(one[1]) for one in found if one is not None]
        if fate == 0:
            waiting += bool(heard)
        else:
            lost, waiting = lost + waiting, 0
    assert heard == [number for number, fate in enumerate(fates) if fate]
    assert there.lost == lost


def test_subjects_that_go_leave_nothing() -> None:
    """After a subject is not listened to any more, its numbers are forgotten."""
    here, there = Envelopes(node_name()), Envelopes(node_name())
    for _ in range(2):
        there.unwrap("s", here.wrap("s", b""))
    there.unlisten("s")
    here.wrap("s", b"")
    there.unwrap("s", here.wrap("s", b""))
    assert there.lost == 0


def test_what_envelopes_remember_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many subjects and nodes there are, the same few are remembered, and when they begin anew no message is
    taken for one seen before, or for a sign of a loss."""
    monkeypatch.setattr(envelopes, "_MOST_SUBJECTS", 10)
    monkeypatch.setattr(envelopes, "_MOST_NODES", 10)
    here, there = Envelopes(node_name()), Envelopes(node_name())
    for number in range(100):
        here.wrap(f"other {number}", b"")
        assert there.unwrap("s", message := here.wrap("s", b"")) is not None
        assert there.unwrap("s", message) is None
        if number % 5 == 0:
            assert there.unwrap("s", Envelopes(node_name()).wrap("s", b"")) is not None
    assert there.lost == 0
    assert len(here._said) <= 10
    assert len(there._heard["s"]) <= 10
    here.wrap("s", b"lost")
    assert there.unwrap("s", here.wrap("s", b"")) is not None
    assert there.lost == 1
