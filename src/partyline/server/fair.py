"""How much of the loop one connection may take before the others have their turn.

A connection is served when its bytes are read, up to a slice, so most connections never come here. One that has more
to do stops reading and waits. Those that wait go on in their order, for a bounded time in each turn of the loop:
nobody else waits longer than that, and no waiting connection is passed over.

Strangers together get a quarter of the loop's time, whatever else it has to do: clients that have to identify
themselves and have not, Socket.IO clients in no namespace yet, clients that send only empty frames, and connections
that come to nothing. Their addresses take turns, so that newcomers do not wait for a whole crowd.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from partyline import log
from partyline.trust.addresses import source

_log = log.get("server")

SLICE: Final = 0.002
"""Seconds of work for one connection, after which the rest waits."""

STEP: Final = 32
"""Units of work (`wire.websocket.codec`) between two readings of the clock."""

BULK: Final = 128 * 1024
"""Bytes of one read after which a connection waits, however little they cost: a transport goes on reading while it can.
"""

_ROUND: Final = 0.005  # seconds in one turn of the loop for all that wait
_SHARE: Final = 0.17  # of the loop's time, for all strangers: a quarter with the kernel's work for them
_GRACE: Final = 0.1  # seconds that strangers may be ahead of their share: a burst of logins does not wait

_MOST_ADDRESSES: Final = 10_000  # addresses whose connections came to nothing; beyond that the oldest are forgotten
_DEBT: Final = 0.5  # seconds: the longest that strangers wait for what other strangers have had


class Busy(Protocol):
    """A connection that has stopped reading, and waits for its turn."""

    def go_on(self) -> None:
        """Its turn has come: do another slice, or read again. Does nothing if the connection is gone."""


class Fair:
    """Whose turn it is, on one loop. `clock` gives seconds, precise enough for slices."""

    __slots__ = ("_clock", "_going", "_owing", "_paid", "_strangers", "_taken", "_timer", "_waiting")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._waiting: deque[tuple[Busy, float]] = deque()
        self._going = False  # a round is under way, or comes in the next turn of the loop
        self._taken = 0.0  # seconds of work in this turn
        self._strangers: OrderedDict[str, dict[Busy, None]] = OrderedDict()  # by address, in the order of their turns
        self._paid = 0.0  # the time at which the strangers' share will have paid for their work
        self._owing: OrderedDict[str, None] = OrderedDict()  # addresses whose connections came to nothing, until then
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting) + sum(map(len, self._strangers.values()))

    @property
    def crowded(self) -> bool:
        """Whether this turn of the loop has used its time: work that can wait does."""
        return self._taken > _ROUND

    def took(self, seconds: float) -> None:
        """Count `seconds` of work for a connection."""
        self._taken += seconds
        self._come_round()

    def wait(self, one: Busy, cost: float) -> None:
        """Let `one`, which has just taken `cost` seconds, go on in its turn; before the others if that is 0.

        It waits once at a time.
        """
        if cost:
            self._waiting.append((one, cost))
        else:
            self._waiting.appendleft((one, cost))
        self._come_round()

    def _come_round(self) -> None:
        if not self._going:
            self._going = True
            asyncio.get_running_loop().call_soon(self._round)

    def stranger(self, one: Busy, cost: float, address: str) -> bool:
        """Count `cost` seconds spent on a stranger. True if it must stop now; it goes on in its turn."""
        self._count(cost)
        if not self._strangers and self._paid <= self._clock() + _GRACE:
            return False
        self._line_up(one, source(address))
        return True

    def came_for_nothing(self, cost: float, address: str) -> None:
        """Count `cost` seconds spent on a connection that has ended without any use.

        Such a flood cannot be made to wait in advance, so others do not wait for its whole cost.
        """
        self._count(cost)
        self._owing[source(address)] = None
        if len(self._owing) > _MOST_ADDRESSES:
            self._owing.popitem(last=False)

    def owes(self, one: Busy, address: str) -> bool:
        """True if `one`, a new connection, must wait for its turn: others from its address came to nothing."""
        if not self._owing:
            return False
        if self._paid <= self._clock() + _GRACE:
            if self._paid <= self._clock():
                self._owing.clear()
            return False
        address = source(address)
        if address not in self._owing:
            return False
        self._line_up(one, address)
        return True

    def forget(self, one: Busy, address: str) -> bool:
        """It is gone, or no stranger any more. True if it was waiting as one."""
        address = source(address)
        line = self._strangers.get(address, {})
        if one not in line:
            return False
        del line[one]
        if not line:
            del self._strangers[address]
        return True

    def _count(self, cost: float) -> None:
        now = self._clock()
        self._paid = min(max(self._paid, now) + cost / _SHARE, now + _DEBT)

    def _line_up(self, one: Busy, address: str) -> None:
        self._strangers.setdefault(address, {})[one] = None
        if self._timer is None:
            self._arm()

    async def turn(self, cost: float, stranger: str | None = None) -> None:
        """`wait` for a task, or `stranger` for a task of that address: returns when its turn has come.

        Cancelling it loses nothing.
        """
        future = asyncio.get_running_loop().create_future()
        one = _Waiter(future)
        if stranger is None or not self.stranger(one, cost, stranger):
            self.wait(one, cost)
        try:
            await future
        finally:
            if stranger is not None:
                self.forget(one, stranger)

    def _round(self) -> None:
        """Let as many go on as one turn of the loop has time for; each is expected to cost what it cost before."""
        waiting, due, self._taken = self._waiting, 0.0, 0.0
        for _ in range(len(waiting)):
            one, cost = waiting.popleft()
            self._let(one)
            due += cost
            if max(due, self._taken) > _ROUND:
                break
        self._going = bool(waiting)
        if waiting:
            asyncio.get_running_loop().call_soon(self._round)

    def _arm(self) -> None:
        wait = max(0.0, self._paid - _GRACE - self._clock())
        self._timer = asyncio.get_running_loop().call_later(wait, self._next_stranger)

    def _next_stranger(self) -> None:
        self._timer = None
        if self._strangers:
            address, line = self._strangers.popitem(last=False)
            one = next(iter(line))
            del line[one]
            if line:
                self._strangers[address] = line  # after the other addresses
            self._let(one)
        if self._strangers and self._timer is None:
            self._arm()

    def _let(self, one: Busy) -> None:
        try:
            one.go_on()
        except Exception:  # one connection's trouble must not cost the others their turn
            _log.exception("a connection could not go on", connection=type(one).__name__)


class _Waiter:
    """A task that waits for its turn."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def go_on(self) -> None:
        if not self._future.done():
            self._future.set_result(None)
