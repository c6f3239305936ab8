"""The promises of every Bus, as checks to run on three nodes, and a network in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from partyline import log
from partyline.hub.envelopes import Envelopes, node_name
from partyline.interfaces import Bus, Heard
from partyline.testing.promises import promises, run_all

_log = log.get("cluster")

_LONG: Final = 20.0  # seconds: nothing here takes so long
_OWN: Final = "to "  # with a node's name: the subject of messages to that node alone

MakeBuses = Callable[[int], AbstractAsyncContextManager[Sequence[Bus]]]
"""Makes the buses of this many nodes for one check, not started, and closes them afterwards."""

Check = Callable[["Three"], Awaitable[None]]


class MemoryNetwork:
    """Joins the buses that it makes: a message arrives in the next turn of the loop."""

    def __init__(self) -> None:
        self.buses: list[MemoryBus] = []

    def bus(self) -> MemoryBus:
        """The bus of one more node."""
        bus = MemoryBus(self)
        self.buses.append(bus)
        return bus

    def carry(self, subject: str, message: bytes) -> None:
        """Bring a message to every node."""
        for bus in self.buses:
            bus.arrive(subject, message)


class MemoryBus:
    """A Bus without a network. `cut` True: as if the network were gone."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.node = node_name()
        self.cut = False
        self._network = network
        self._envelopes = Envelopes(self.node)
        self._listeners: dict[str, Heard] = {}
        self._started = False

    @property
    def connected(self) -> bool:
        return self._started and not self.cut

    async def start(self, received: Heard) -> None:
        self._listeners[_OWN + self.node] = received
        self._started = True

    def publish(self, subject: str, data: bytes) -> None:
        if self._started:
            message = self._envelopes.wrap(subject, data)
            if not self.cut:
                asyncio.get_running_loop().call_soon(self._network.carry, subject, message)

    def send(self, node: str, data: bytes) -> None:
        self.publish(_OWN + node, data)

    def listen(self, subject: str, heard: Heard) -> None:
        self._listeners[subject] = heard

    def unlisten(self, subject: str) -> None:
        self._listeners.pop(subject, None)
        self._envelopes.unlisten(subject)

    async def ready(self) -> None:
        await asyncio.sleep(0)

    def lost(self) -> int:
        return self._envelopes.lost

    async def close(self) -> None:
        await asyncio.sleep(0)  # earlier messages are under way
        self._started = False

    def arrive(self, subject: str, message: bytes) -> None:
        """A message has arrived."""
        heard = self._listeners.get(subject)
        if heard is None or not self.connected:
            return
        if (found := self._envelopes.unwrap(subject, message)) is not None:
            try:
                heard(*found)
            except Exception:
                _log.exception("a message from another node could not be handled", subject=subject)


class Three:
    """Three started nodes, and what each has heard: subject, sender and data."""

    def __init__(self, buses: Sequence[Bus]) -> None:
        self.buses = buses
        self.heard: list[list[tuple[str, str, bytes]]] = [[] for _ in buses]
        self._news = asyncio.Event()
        self._serial = 0

    async def start(self) -> None:
        for number, bus in enumerate(self.buses):
            await bus.start(self.listener(number, ""))

    def listener(self, number: int, subject: str) -> Heard:
        """A listener that records what a node hears on a subject; "" stands for messages to the node itself."""

        def heard(sender: str, data: bytes) -> None:
            self.heard[number].append((subject, sender, data))
            self._news.set()

        return heard

    async def listen(self, subject: str, *numbers: int) -> None:
        """Have nodes listen, and wait until they do."""
        for number in numbers:
            self.buses[number].listen(subject, self.listener(number, subject))
        for number in numbers:
            await self.buses[number].ready()

    async def until(self, number: int, count: int) -> list[tuple[str, str, bytes]]:
        """What a node has heard, once there are `count`."""
        async with asyncio.timeout(_LONG):
            while len(self.heard[number]) < count:
                self._news.clear()
                await self._news.wait()
        return self.heard[number]

    async def quiet(self, sender: int) -> None:
        """Return when everything that a node has sent so far has arrived, or never will."""
        self._serial += 1
        for number, bus in enumerate(self.buses):
            if number != sender:
                data = b"quiet %d" % self._serial
                self.buses[sender].send(bus.node, data)
                async with asyncio.timeout(_LONG):
                    while not any(item[2] == data for item in self.heard[number]):
                        self._news.clear()
                        await self._news.wait()
                self.heard[number] = [item for item in self.heard[number] if item[2] != data]


async def check_bus(make: MakeBuses) -> None:
    """Run every check of BUS_CHECKS on nodes of its own. Raises AssertionError, naming the check that failed."""
    await run_all(BUS_CHECKS, lambda check: run_bus_check(check, make))


async def run_bus_check(check: Check, make: MakeBuses) -> None:
    """Run one check on fresh nodes."""
    async with make(3) as buses:
        three = Three(buses)
        await three.start()
        await check(three)
        for bus in buses:
            assert bus.lost() == 0, "nothing is lost where nothing breaks"
            await bus.close()


# The checks


async def _names(three: Three) -> None:
    """Every node has a name of its own, and is connected when it has started."""
    assert len({bus.node for bus in three.buses}) == 3
    assert all(bus.connected for bus in three.buses)


async def _everybody_who_listens(three: Three) -> None:
    """What is published reaches each node that listens once, with the name of the one that says it, and nobody else."""
    await three.listen("s", 0, 1)
    three.buses[0].publish("s", b"1")
    assert await three.until(1, 1) == [("s", three.buses[0].node, b"1")]
    await three.quiet(0)
    assert three.heard[1] == [("s", three.buses[0].node, b"1")]
    assert three.heard[2] == []


async def _not_to_oneself(three: Three) -> None:
    """What a node says does not come back to it."""
    await three.listen("s", 0, 1)
    three.buses[0].publish("s", b"1")
    three.buses[1].publish("s", b"2")
    assert await three.until(0, 1) == [("s", three.buses[1].node, b"2")]
    await three.quiet(1)
    await three.quiet(0)
    assert [data for _, _, data in three.heard[0]] == [b"2"]


async def _in_order(three: Three) -> None:
    """What one node says on one subject comes in the order in which it was said, whatever others say meanwhile."""
    await three.listen("s", 2)
    for number in range(500):
        three.buses[0].publish("s", b"a%d" % number)
        three.buses[1].publish("s", b"b%d" % number)
        if number % 50 == 0:
            await asyncio.sleep(0)
    heard = await three.until(2, 1000)
    for bus, letter in ((three.buses[0], b"a"), (three.buses[1], b"b")):
        assert [data for _, sender, data in heard if sender == bus.node] == [letter + b"%d" % n for n in range(500)]


async def _to_one(three: Three) -> None:
    """What is sent to a node reaches that one only, in order."""
    for number in range(20):
        three.buses[0].send(three.buses[1].node, b"%d" % number)
    heard = await three.until(1, 20)
    assert heard == [("", three.buses[0].node, b"%d" % number) for number in range(20)]
    await three.quiet(0)
    assert three.heard[2] == []


async def _as_it_was(three: Three) -> None:
    """Any bytes come as they were: none, all values, a hundred thousand."""
    await three.listen("s", 1)
    wanted = [b"", bytes(range(256)), b"\r\n", b"x" * 100_000]
    for data in wanted:
        three.buses[0].publish("s", data)
    assert [data for _, _, data in await three.until(1, 4)] == wanted


async def _any_subject(three: Three) -> None:
    """A subject is any text, and stands for itself only: what means something to an engine means nothing here."""
    subjects = ["a", "a.b", "a.*", "*", ">", "a b", "日本\u2028", "[ab]", "?", "$SYS.x", "a\r\nPUB b 0", "x" * 200]
    for subject in subjects:
        await three.listen(subject, 1)
    for subject in subjects:
        three.buses[0].publish(subject, subject.encode())
    heard = await three.until(1, len(subjects))
    assert sorted((subject, data) for subject, _, data in heard) == sorted((one, one.encode()) for one in subjects)
    three.buses[0].publish("b", b"nobody listens")
    await three.quiet(0)
    assert len(three.heard[1]) == len(subjects)


async def _no_longer(three: Three) -> None:
    """After `unlisten` nothing is heard, not even what is on its way; to listen again starts anew, without a loss."""
    await three.listen("s", 1, 2)
    three.buses[0].publish("s", b"1")
    await three.until(1, 1)
    three.buses[0].publish("s", b"2")
    three.buses[1].unlisten("s")
    await three.until(2, 2)
    await three.quiet(0)
    assert [data for _, _, data in three.heard[1]] == [b"1"]
    await three.listen("s", 1)
    three.buses[0].publish("s", b"3")
    assert [data for _, _, data in await three.until(1, 2)] == [b"1", b"3"]


async def _later(three: Three) -> None:
    """No listener is called from within a method."""
    calling = False

    def heard(sender: str, data: bytes) -> None:
        assert not calling
        three.heard[1].append(("s", sender, data))

    three.buses[1].listen("s", heard)
    await three.buses[1].ready()
    calling = True
    three.buses[0].publish("s", b"1")
    three.buses[0].send(three.buses[1].node, b"2")
    calling = False
    await three.quiet(0)
    assert len(three.heard[1]) == 2


async def _a_listener_that_fails(three: Three) -> None:
    """What a listener raises costs nobody anything, not even itself the next message."""
    fails = True

    def heard(sender: str, data: bytes) -> None:
        if fails:
            raise ValueError(data)
        three.heard[1].append(("s", sender, data))

    three.buses[1].listen("s", heard)
    await three.listen("s", 2)
    three.buses[0].publish("s", b"1")
    await three.until(2, 1)
    await three.quiet(0)
    fails = False
    three.buses[0].publish("s", b"2")
    await three.until(2, 2)
    await three.quiet(0)
    assert [data for _, _, data in three.heard[1]] == [b"2"]


async def _closed(three: Three) -> None:
    """What was said before `close` goes out; afterwards nothing is heard or goes out, and nothing raises, not even a
    second `close`."""
    await three.listen("s", 0, 1)
    three.buses[0].publish("s", b"1")
    await three.buses[0].close()
    three.buses[0].publish("s", b"2")
    three.buses[0].send(three.buses[1].node, b"3")
    three.buses[1].publish("s", b"4")
    await three.until(1, 1)
    three.buses[2].send(three.buses[1].node, b"the end")
    assert [data for _, _, data in await three.until(1, 2)] == [b"1", b"the end"]
    assert three.heard[0] == []
    assert not three.buses[0].connected
    await three.buses[0].close()


BUS_CHECKS: Final[dict[str, Check]] = promises(
    _names,
    _everybody_who_listens,
    _not_to_oneself,
    _in_order,
    _to_one,
    _as_it_was,
    _any_subject,
    _no_longer,
    _later,
    _a_listener_that_fails,
    _closed,
)
"""Every promise of a Bus as a sentence, with its check."""
