"""A Store that keeps its promises in the nastiest way, for tests of code that uses a store."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from partyline.errors import PartylineError, StoreUnavailable
from partyline.interfaces import Committed, Durability, Found, News, Outcome, Refused, View
from partyline.models import Draft, Message, Page
from partyline.testing.records import Records


class SaboteurStore:
    """Commits late and in odd batches, refuses, fails, resurrects rows of failed commits, reads in crumbs.

    With a `source` it acts by itself on the running loop, in the same way for the same seed and calls. Without one it
    does what it is told: `commit`, `refuse`, `fail`, `recover`, each for the oldest queued calls of `append`.
    """

    refusal: PartylineError | None = None
    durability = Durability.NOTHING

    def __init__(self, source: random.Random | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.epoch = f"{(source or random.Random(0)).getrandbits(64):016x}"  # noqa: S311
        self.down = False
        self._source = source
        self._clock = clock
        self._committed: Committed | None = None
        self._queue: deque[tuple[Draft, ...]] = deque()
        self._log = Records()
        self._landed: list[Message] = []  # refused, but on the disk
        self._closed = False
        self._scheduled = False

    @property
    def head(self) -> int:
        return self._log.head

    @property
    def queued(self) -> int:
        """Calls of `append` that are not answered yet."""
        return len(self._queue)

    def start(self, committed: Committed) -> None:
        self._committed = committed

    def append(self, *drafts: Draft) -> None:
        if not drafts:
            return
        self._queue.append(drafts)
        if self.down or self._closed:
            self.refuse()
        else:
            self._schedule()

    async def newest(self, room: str, before: int, limit: int) -> Sequence[Message]:
        await self._dawdle()
        return self._log.newest(room, before, limit, self._clock())

    async def read(self, view: View, after: int, limit: int) -> Page:
        head = self._log.head
        await self._dawdle()
        if self._source is not None:
            limit = self._source.randint(1, limit)
        page = self._log.page(view, after, limit, self._clock(), head)
        if (
            self._source is not None and page.messages and self._source.random() < 0.2
        ):  # an empty page that only goes a step further
            last = (page.messages[0].offset or 0) - 1
            if last <= after:
                return await self.read(view, after, limit)
            page = Page((), last, more=True, oldest=page.oldest)
        await self._dawdle()
        return page

    async def close(self) -> None:
        self._closed = True
        await self._dawdle()
        if self.down:
            self.recover()
        while self._queue:
            self.commit(1)

    # Commands

    def commit(self, calls: int | None = None) -> None:
        """Commit the oldest `calls` calls of `append`, all by default, and hand them out as one batch."""
        outcomes: list[Outcome] = []
        for drafts in self._take(calls):
            outcomes += self._log.place(drafts, self._clock(), self._gap)
        self._hand_out(outcomes)

    def refuse(self, calls: int | None = None) -> None:
        """Refuse the oldest calls, as a full disk does, without a trace."""
        error = StoreUnavailable("the disk is full, says the saboteur")
        self._hand_out([Refused(draft, error) for drafts in self._take(calls) for draft in drafts])

    def fail(self, calls: int | None = None, *, landed: bool) -> None:
        """Fail the commit of the oldest calls and refuse everything until `recover`; `landed`: it was on the disk."""
        log = self._log.copy()
        drafts = self._take(calls)
        for group in drafts:
            log.place(group, self._clock(), self._gap)
        if landed:
            self._landed = log.messages[len(self._log.messages) :]
        self.down = True
        error = StoreUnavailable("the disk has failed, says the saboteur")
        self._hand_out([Refused(draft, error) for group in drafts for draft in group])
        self.refuse()

    def recover(self) -> None:
        """Hand out the messages that had landed, once, and accept drafts again."""
        landed, self._landed = self._landed, []
        for message in landed:
            self._log.add(message)
        self.down = False
        self._hand_out([Found(message.draft, message) for message in landed])

    # Inside

    def _take(self, calls: int | None) -> list[tuple[Draft, ...]]:
        count = len(self._queue) if calls is None else min(calls, len(self._queue))
        return [self._queue.popleft() for _ in range(count)]

    def _gap(self) -> int:
        return self._source.choice((1, 1, 1, 2, 5)) if self._source is not None else 1

    def _hand_out(self, outcomes: Sequence[Outcome | News]) -> None:
        assert self._committed is not None, "start comes before append"
        if outcomes:
            self._committed(outcomes)

    async def _dawdle(self) -> None:
        for _ in range(self._source.choice((0, 1, 1, 5)) if self._source is not None else 0):
            await asyncio.sleep(0)

    def _schedule(self) -> None:
        if self._source is not None and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._act)

    def _act(self) -> None:
        """Do one nasty thing."""
        self._scheduled = False
        source = self._source
        assert source is not None
        if self._closed:
            return
        if self.down:
            if source.random() < 0.4:
                self.recover()
        elif self._queue:
            calls = source.choice((1, 2, 3, len(self._queue)))
            match source.choices(("wait", "commit", "refuse", "fail"), (40, 40, 10, 10))[0]:
                case "commit":
                    self.commit(calls)
                case "refuse":
                    self.refuse(calls)
                case "fail":
                    self.fail(calls, landed=source.random() < 0.5)
        if self._queue or self.down:
            self._schedule()
