"""Many subscribers of one topic in one process, each of which counts what it misses."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from .clients import LONG, Frame, Http, Line, offset_of

TOPIC = "storm.all"
NAMES = (TOPIC, "storm.*", ">")  # what members subscribe to, in turn: each sees every message
JITTER = 0.25  # seconds: the first try to come back is within this, each later one within twice as much
LONGEST = 4.0  # and never more


class Member:
    """One subscriber. All messages of the log are its view, so that each must be the next."""

    __slots__ = ("_crowd", "_line", "attempts", "last", "may", "name")

    def __init__(self, crowd: Crowd, name: str) -> None:
        self._crowd, self.name = crowd, name
        self._line: Line | None = None
        self.last = 0
        self.attempts = 0  # failed attempts to come back
        self.may = asyncio.Event()  # set while it is allowed to be connected
        self.may.set()

    async def stay(self) -> None:
        """Stay connected while allowed: after a loss, come back after full jitter."""
        crowd = self._crowd
        while True:
            await self.may.wait()
            try:
                async with crowd.doors:
                    self._line = line = await Line.open(crowd.port, self._hear)
                line.send(type="subscribe", id="in", topic=self.name, after=f"{crowd.epoch}-{self.last}")
                await line.closed
                crowd.codes[line.close_code] += 1
            except ConnectionError:
                crowd.tally["attempts that failed"] += 1
                self.attempts += 1
            if self.may.is_set():  # it was cut off; a member that leaves by itself decides when to come back
                bound = min(LONGEST, JITTER * 2**self.attempts)
                await asyncio.sleep(crowd.chance.uniform(0, bound))

    def leave(self) -> None:
        """Cut the connection, and stay away until `come`."""
        self.may.clear()
        self.drop()

    def come(self) -> None:
        self.may.set()

    def drop(self) -> None:
        if self._line is not None:
            self._line.drop()

    def _hear(self, frame: Frame) -> None:
        crowd = self._crowd
        if frame.type == "message":
            assert frame.position is not None
            offset = offset_of(frame.position)
            if offset != self.last + 1:
                crowd.tally["duplicates" if offset <= self.last else "gaps"] += 1
            self.last = max(self.last, offset)
            crowd.tally["received"] += 1
            if offset == crowd.target:
                crowd.one_arrived()
        elif frame.type == "reply":
            assert frame.recovered, "a position was not recovered"
            self.attempts = 0
            crowd.entered(self)


class Crowd:
    """Members and what happened to them."""

    def __init__(self, port: int, epoch: str, chance: random.Random, size: int) -> None:
        self.port, self.epoch, self.chance = port, epoch, chance
        self.members = [Member(self, NAMES[number % len(NAMES)]) for number in range(size)]
        self.tally: Counter[str] = Counter(gaps=0, duplicates=0)
        self.codes: Counter[int | None] = Counter()
        self.target = 0
        self.doors = asyncio.Semaphore(1_000)  # handshakes under way: fewer than the kernel queues for the server
        self.entries: list[float] = []  # when members connected, since the last `all_in`
        self._missing = 0
        self._in: set[Member] = set()
        self._complete = asyncio.Event()
        self._arrived = asyncio.Event()

    @asynccontextmanager
    async def present(self) -> AsyncIterator[None]:
        """All members connect, and stay until the end."""
        self.expect(self.members)
        tasks = [asyncio.create_task(member.stay()) for member in self.members]
        try:
            await self.all_in()
            yield
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for member in self.members:
                member.drop()
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome

    def expect(self, members: Iterable[Member]) -> None:
        """From now on count the members that connect, until all of these have."""
        self._in = set(members)
        self.entries.clear()
        self._complete.clear()

    def entered(self, member: Member) -> None:
        self.entries.append(asyncio.get_running_loop().time())
        self._in.discard(member)
        if not self._in:
            self._complete.set()

    async def all_in(self) -> None:
        """Return when every expected member is there. Raises TimeoutError."""
        async with asyncio.timeout(LONG):
            await self._complete.wait()

    async def arrive(self, offset: int) -> None:
        """Return when everybody has got everything up to `offset`. Raises TimeoutError."""
        self.target = offset
        self._missing = sum(member.last < offset for member in self.members)
        self._arrived.clear()
        if self._missing:
            async with asyncio.timeout(LONG):
                await self._arrived.wait()

    def one_arrived(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._arrived.set()


async def publish(http: Http, data: object) -> int:
    """Publish one message; its offset."""
    status, answer = await http.call("POST", f"/v1/topics/{TOPIC}/messages", {"data": data})
    assert status == 200, answer
    return offset_of(answer["position"])


async def publish_at(rate: float, seconds: float, port: int) -> int:
    """Publish `rate` messages a second for this long; the last offset."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    offset = number = 0
    async with Http.open(port) as http:
        while number < rate * seconds:
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            offset = await publish(http, number)
            number += 1
    return offset


async def publish_fast(count: int, port: int) -> int:
    """Publish this many messages as fast as five publishers can; the last offset."""

    async def part() -> int:
        async with Http.open(port) as http:
            return max([await publish(http, "x" * 300) for _ in range(count // 5)])

    return max(await asyncio.gather(*(part() for _ in range(5))))
