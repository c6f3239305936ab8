"""A log that several nodes share, as this node's Store: it appends, and follows the log by a tail.

The log is the truth. The tail's messages are handed out in its order: as the answer to an append that waits for it, or
as Found. An append is answered when the tail has reached it, so every answered message has been fanned out here.

If the connection breaks, it is unknown whether the last append is in the log: after reconnecting it is appended again
with the same message ids, and those already there are duplicates. Meanwhile the tail does not go past its messages.
After `patience` seconds it is refused, with everything after it; if it is in the log after all, the tail finds it.

After each reconnect the last message handed out is compared with the log's at that offset. If the log has lost its
end, one of the nodes gives it a new epoch, which every append and read has to name: no node goes on with a log that it
does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from partyline import log
from partyline.errors import StoreUnavailable
from partyline.interfaces import (
    NEWS,
    Committed,
    Durability,
    Fenced,
    Found,
    News,
    Outcome,
    Overrun,
    Refused,
    Renewed,
    SharedLog,
    Standing,
    Stored,
    View,
)
from partyline.models import Draft, Message, Page

_log = log.get("store")

PATIENCE: Final = 2.0  # seconds until a log that does not answer counts as gone, and publishers are told
_STRETCH: Final = 512  # messages that the tail requests at a time
_WAIT: Final = 5.0  # seconds that the tail waits for the next message
_MAX_DRAFTS: Final = 1_000  # in one append; the others wait for the next
_MAX_BYTES: Final = 4 * 1024 * 1024
_FIRST_DELAY: Final = 0.05  # seconds before connecting again, doubled each time
_LONGEST_DELAY: Final = 0.5

_T = TypeVar("_T")


class SharedStore:
    """A Store, and `Follows`, on a SharedLog of its own."""

    def __init__(
        self,
        shared: SharedLog,
        standing: Standing,
        *,
        patience: float = PATIENCE,
        required: Durability = Durability.NOTHING,
    ) -> None:
        """`standing` is the log's state when it was connected; see `open`. A log that keeps less than is `required`
        when it is connected again is not used."""
        self.epoch = standing.epoch
        self.durability: Durability = standing.durability
        self._shared = shared
        self._patience = patience
        self._required = required
        self._known = standing.head  # the highest known offset of the log
        self._reached = standing.head  # everything up to it has been handed out
        self._last = standing.last  # the identity of the message there, if it is known
        # Unanswered appends, in this order: those the log has answered, those it has been asked, those that wait.
        self._placed: deque[Outcome] = deque()
        self._asked: list[tuple[Draft, ...]] = []
        self._ids: set[tuple[str, str, str]] = set()  # of the drafts it has been asked to append
        self._queue: deque[tuple[Draft, ...]] = deque()
        self._late: list[Draft] = []  # appended after `close`: refused once the others are answered
        self._again = False  # the drafts it has been asked to append may be in the log already
        self._down: StoreUnavailable | None = None
        self._refusing: StoreUnavailable | None = None  # the log is there, and takes nothing
        self._told = ""  # why it cannot be reached, as the operator was told
        self._giving_up: asyncio.TimerHandle | None = None
        self._wanted = asyncio.Event()
        self._settled = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[bool]]] = []
        self._idle: asyncio.Future[None] | None = None
        self._committed: Committed | None = None
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, shared: SharedLog, **known: Any) -> SharedStore:
        """A store that goes on after the newest message. Raises StoreUnavailable."""
        head = (await shared.connect(0)).head
        standing = await shared.connect(head)
        return cls(shared, replace(standing, head=min(head, standing.head)), **known)

    @classmethod
    def unreached(cls, shared: SharedLog, why: str, *, required: Durability) -> SharedStore:
        """A store whose log cannot be reached yet, and why not. It refuses everything until it can.

        Until then it has an epoch that no log has: with the first connection everybody resumes, as after a rollback.
        """
        store = cls(shared, Standing(secrets.token_hex(8), 0, required), required=required)
        store._down, store._told = _down(), why
        return store

    # interfaces.Store

    @property
    def head(self) -> int:
        return self._known

    @property
    def refusal(self) -> StoreUnavailable | None:
        return self._down or self._refusing

    def start(self, committed: Committed) -> None:
        self._committed = committed
        self._running = asyncio.get_running_loop().create_task(self._run())

    def append(self, *drafts: Draft) -> None:
        if not drafts:
            return
        if self._closed:
            self._late += drafts
            asyncio.get_running_loop().call_soon(self._refuse_late)
        elif self._down is not None:  # nothing waits: everything was refused
            refused = [Refused(draft, self._down) for draft in drafts]
            asyncio.get_running_loop().call_soon(self._hand_out, refused)
        else:
            self._queue.append(drafts)
            self._wanted.set()

    async def read(self, view: View, after: int, limit: int) -> Page:
        return await self._of_one_epoch(self._shared.read(self.epoch, view, after, limit))

    async def newest(self, room: str, before: int, limit: int) -> Sequence[Message]:
        return await self._of_one_epoch(self._shared.newest(self.epoch, room, before, limit))

    async def close(self) -> None:
        self._closed = True
        if self._outstanding:
            self._idle = asyncio.get_running_loop().create_future()
            self._lose_patience()
            await self._idle
        self._refuse_late()
        self._stay_patient()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        await self._shared.close()

    # interfaces.Follows

    async def reach(self, offset: int) -> bool:
        if offset <= self._reached:
            return True
        try:
            self._known = max(self._known, await self._in_time(self._shared.head()))
        except StoreUnavailable:
            return False
        if offset > self._known or offset <= self._reached:
            return offset <= self._reached
        reached: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((offset, reached))
        await asyncio.wait([reached], timeout=self._patience)
        self._waiting = [one for one in self._waiting if one[1] is not reached]
        return reached.done()

    # Connecting

    async def _run(self) -> None:
        """Append and follow, and connect again whenever either fails."""
        delay = _FIRST_DELAY
        while True:
            work: list[asyncio.Task[None]] = []
            try:
                await self._connect()
                delay = _FIRST_DELAY
                work = [asyncio.ensure_future(self._append_all()), asyncio.ensure_future(self._follow())]
                done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    one.result()
            except Fenced:
                _log.warning("the log has another epoch")
            except StoreUnavailable as error:
                if self._down is None:
                    self._lose_patience()
                if self._told != error.message:
                    self._told = error.message
                    _log.warning("the log cannot be reached", error=error.message)
            except Exception:  # a fault in the engine's client, or in a subscriber, must not end delivery
                _log.exception("the log cannot be followed")
                self._lose_patience()
            finally:
                for one in work:
                    one.cancel()
                await asyncio.gather(*work, return_exceptions=True)
            self._again = bool(self._asked)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    async def _connect(self) -> None:
        """Connect, and check that this is the log that we know."""
        standing = await self._in_time(self._shared.connect(self._reached))
        if standing.durability < self._required:
            raise StoreUnavailable(
                f"{self._required} is required (require_durability), and what the log accepts survives "
                f"{standing.durability.survived}"
            )
        other = standing.last is not None and self._last is not None and standing.last != self._last
        if (other or standing.head < self._reached) and standing.epoch == self.epoch:
            _log.error("the log was rolled back: it gets a new epoch", position=f"{self.epoch}-{self._reached}")
            await self._in_time(self._shared.renew(self.epoch))
            standing = await self._in_time(self._shared.connect(0))
        if standing.epoch != self.epoch:
            self._adopt(standing)
        self._known = max(self._known, standing.head)
        if standing.durability < self.durability:
            _log.warning("the log keeps less than before", survives=standing.durability.survived)
        self.durability = standing.durability
        if not self._outstanding:
            self._stay_patient()
        self._down = None
        if self._told:
            self._told = ""
            _log.info("the log is there again")

    def _adopt(self, standing: Standing) -> None:
        """Go on with a log that has lost its end: unanswered drafts may or may not be there."""
        self._refuse_all(StoreUnavailable("the log was rolled back: publish again in a moment"))
        self.epoch = standing.epoch
        self._known = self._reached = standing.head
        self._last = None
        self._hand_out([Renewed(standing.epoch, standing.head)])

    async def _in_time(self, call: Coroutine[Any, Any, _T], longer: float = 0.0) -> _T:
        """The log's answer. Raises StoreUnavailable if that takes too long."""
        try:
            async with asyncio.timeout(self._patience + longer):
                return await call
        except TimeoutError:
            raise StoreUnavailable("the log does not answer: try again in a moment") from None

    async def _of_one_epoch(self, reading: Coroutine[Any, Any, _T]) -> _T:
        """The result of a read, if the epoch did not change meanwhile. Raises StoreUnavailable."""
        epoch = self.epoch
        with contextlib.suppress(Fenced):
            found = await self._in_time(reading)
            if epoch == self.epoch:
                return found
        raise StoreUnavailable("the log was rolled back: try again in a moment")

    # Giving up

    @property
    def _outstanding(self) -> bool:
        return bool(self._placed or self._asked or self._queue)

    def _lose_patience(self) -> None:
        if self._giving_up is None:
            self._giving_up = asyncio.get_running_loop().call_later(self._patience, self._give_up)

    def _stay_patient(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _give_up(self) -> None:
        self._giving_up = None
        self._down = _down()
        self._refuse_all(self._down)

    def _refuse_all(self, refusal: StoreUnavailable) -> None:
        """Refuse everything that waits, in order. The tail finds whatever is in the log all the same."""
        groups = [*self._asked, *self._queue]
        refused = [
            outcome if isinstance(outcome, Refused) else Refused(outcome.draft, refusal) for outcome in self._placed
        ]
        refused += [Refused(draft, refusal) for group in groups for draft in group]
        self._placed.clear()
        self._queue.clear()
        self._settle()
        self._hand_out(refused)

    def _refuse_late(self) -> None:
        if self._late and not self._outstanding:
            late, self._late = self._late, []
            refusal = StoreUnavailable("the server is shutting down: publish again in a moment")
            self._hand_out([Refused(draft, refusal) for draft in late])

    # Appending

    async def _append_all(self) -> None:
        while True:
            if not self._asked:
                while not self._queue:
                    self._wanted.clear()
                    await self._wanted.wait()
                self._take()
            outcomes = await self._in_time(self._shared.append(self.epoch, self._asked))
            if not self._asked:
                continue  # refused meanwhile: the tail finds what is there
            for outcome in outcomes:
                if isinstance(outcome, Refused):
                    if isinstance(outcome.error, StoreUnavailable):
                        self._refusing = outcome.error
                elif isinstance(outcome, Stored):
                    self._refusing = None
                    self._known = max(self._known, outcome.message.offset or 0)
                    if self._again and outcome.duplicate:  # of our own first try, as far as we know
                        outcome = Stored(outcome.draft, outcome.message)
                self._placed.append(outcome)
            self._settle()
            self._hand_out(self._answers())

    def _take(self) -> None:
        drafts = size = 0
        while self._queue and drafts < _MAX_DRAFTS and size < _MAX_BYTES:
            group = self._queue.popleft()
            self._asked.append(group)
            for draft in group:
                drafts += 1
                size += len(draft.data)
                self._ids.add(draft.identity)

    def _settle(self) -> None:
        """The drafts that the log was asked to append are answered, or given up."""
        self._asked, self._again = [], False
        self._ids.clear()
        self._settled.set()

    # Following

    async def _follow(self) -> None:
        while True:
            stretch = await self._in_time(self._shared.tail(self.epoch, self._reached, _STRETCH, _WAIT), _WAIT)
            self._refusing = StoreUnavailable(stretch.refusal) if stretch.refusal else None
            if stretch.oldest > self._reached + 1:
                _log.error("retention has overtaken this node", position=f"{self.epoch}-{self._reached}")
                self._reached, self._last = stretch.oldest - 1, None
                self._hand_out([Overrun(stretch.oldest), *self._answers()])
            messages = [message for message in stretch.messages if (message.offset or 0) > self._reached]
            while messages:
                count = len(messages)
                if self._ids:
                    count = next((at for at, one in enumerate(messages) if one.draft.identity in self._ids), count)
                if count:
                    self._pass_on(messages[:count])
                    del messages[:count]
                else:  # probably ours: its append will say so soon
                    self._settled.clear()
                    await self._settled.wait()

    def _pass_on(self, messages: Sequence[Message]) -> None:
        """Hand out the tail's messages."""
        batch: list[Outcome | News] = []
        for message in messages:
            assert message.offset is not None
            first = self._placed[0] if self._placed else None
            if isinstance(first, Stored) and not first.duplicate and first.message.offset == message.offset:
                batch.append(first)
                self._placed.popleft()
            else:
                batch.append(Found(message.draft, message))
            self._reached = message.offset
            batch += self._answers()
        self._last = messages[-1].draft.identity
        self._known = max(self._known, self._reached)
        self._hand_out(batch)
        for offset, reached in self._waiting:
            if offset <= self._reached and not reached.done():
                reached.set_result(True)

    def _answers(self) -> list[Outcome]:
        """The next answers that do not depend on the tail."""
        ready: list[Outcome] = []
        while self._placed:
            first = self._placed[0]
            if isinstance(first, Stored):
                if (first.message.offset or 0) > self._reached:
                    break
                first = Stored(first.draft, first.message, duplicate=True)
            ready.append(first)
            self._placed.popleft()
        return ready

    def _hand_out(self, batch: Sequence[Outcome | News]) -> None:
        assert self._committed is not None, "start comes before append"
        if batch:
            self._committed(batch)
        if self._giving_up is not None and not (self._outstanding and all(isinstance(one, NEWS) for one in batch)):
            self._stay_patient()
        if not self._outstanding:
            self._refuse_late()
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)


def _down() -> StoreUnavailable:
    return StoreUnavailable("the log cannot take a message now: publish again in a moment")
