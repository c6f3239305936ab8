"""A log in memory that several nodes share, and the failures of it and of the connection to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from partyline.errors import StoreUnavailable
from partyline.interfaces import Durability, Fenced, Outcome, Standing, Stretch, View
from partyline.models import Draft, Message, Page
from partyline.testing.records import Records


class MemoryLog:
    """The log that all nodes share. Each node has a `handle`."""

    def __init__(self, *, clock: Callable[[], float] = time.time, durability: Durability = Durability.NOTHING) -> None:
        self.epoch = f"{1:016x}"
        self.records = Records()
        self.durability = durability
        self.clock = clock
        self._renewals = 1
        self._news: list[asyncio.Future[None]] = []

    def handle(self) -> MemoryHandle:
        """The handle of one more node."""
        return MemoryHandle(self)

    def append(self, epoch: str, groups: Sequence[Sequence[Draft]]) -> list[Outcome]:
        """Keep what a node appends. Raises Fenced."""
        self.check(epoch)
        now = self.clock()
        outcomes = [outcome for group in groups for outcome in self.records.place(group, now)]
        self.ring()
        return outcomes

    def check(self, epoch: str) -> None:
        """Raises Fenced for another epoch."""
        if epoch != self.epoch:
            raise Fenced

    def renew(self, epoch: str) -> None:
        """Take a new epoch in place of `epoch`."""
        if epoch == self.epoch:
            self._renewals += 1
            self.epoch = f"{self._renewals:016x}"
            self.ring()

    def ring(self) -> None:
        """Wake everybody who waits for something new."""
        news, self._news = self._news, []
        for waiting in news:
            if not waiting.done():
                waiting.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Return when there is something new, or after some seconds."""
        news = asyncio.get_running_loop().create_future()
        self._news.append(news)
        await asyncio.wait([news], timeout=seconds)


class MemoryHandle:
    """One node's SharedLog. Subclasses make trouble in `before` and `after`."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.cut = False  # True: the log cannot be reached
        self.deaf = False  # True: what is appended arrives, and its answer is lost

    async def before(self, what: str) -> None:
        """A call is on its way to the log. Raises StoreUnavailable if it is lost."""
        await asyncio.sleep(0)
        if self.cut:
            raise StoreUnavailable("the way to the log is cut")

    async def after(self, what: str) -> None:
        """The call's answer is on its way back."""
        if self.cut or (self.deaf and what == "append"):
            raise StoreUnavailable("the way back from the log is cut")
        await asyncio.sleep(0)

    async def connect(self, offset: int) -> Standing:
        await self.before("connect")
        log = self.log
        last = log.records.at(offset)
        standing = Standing(log.epoch, log.records.head, log.durability, None if last is None else last.draft.identity)
        await self.after("connect")
        return standing

    async def append(self, epoch: str, groups: Sequence[Sequence[Draft]]) -> Sequence[Outcome]:
        groups = list(groups)
        await self.before("append")
        outcomes = self.log.append(epoch, groups)
        await self.after("append")
        return outcomes

    async def tail(self, epoch: str, after: int, limit: int, wait: float) -> Stretch:
        await self.before("tail")
        log = self.log
        if epoch == log.epoch and after >= log.records.head:
            await log.wait(wait)
        log.check(epoch)
        stretch = log.records.stretch(after, limit)
        await self.after("tail")
        return stretch

    async def head(self) -> int:
        await self.before("head")
        return self.log.records.head

    async def renew(self, epoch: str) -> None:
        await self.before("renew")
        self.log.renew(epoch)

    async def read(self, epoch: str, view: View, after: int, limit: int) -> Page:
        await self.before("read")
        self.log.check(epoch)
        return self.log.records.page(view, after, limit, self.log.clock())

    async def newest(self, epoch: str, room: str, before: int, limit: int) -> Sequence[Message]:
        await self.before("read")
        self.log.check(epoch)
        return self.log.records.newest(room, before, limit, self.log.clock())

    async def close(self) -> None:
        self.cut = True
