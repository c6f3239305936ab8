"""An event loop that turns when told: real tasks, futures and timers, one callback at a time, no clock."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any


class SteppedLoop(asyncio.AbstractEventLoop):
    """`turn` runs the oldest callback that is ready, `advance` moves the time. `errors` has what a callback raised."""

    def __init__(self) -> None:
        self.ready: deque[asyncio.Handle] = deque()
        self.errors: list[dict[str, Any]] = []
        self._now = 1000.0
        self._later: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()

    def turn(self) -> bool:
        """Run one callback; False if none is ready."""
        while self.ready:
            handle = self.ready.popleft()
            if not handle.cancelled():
                handle._run()
                return True
        return False

    def advance(self, seconds: float) -> None:
        """Move the time: what is due becomes ready."""
        self._now += seconds
        while self._later and self._later[0][0] <= self._now:
            self.ready.append(heapq.heappop(self._later)[2])

    def forget(self) -> None:
        """Drop everything that is scheduled."""
        self.ready.clear()
        self._later.clear()

    # What tasks, futures and timers need of a loop

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._later, (when, next(self._order), handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **_: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        return asyncio.Task(coro, loop=self)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it in the queue, to do nothing when its time comes."""
