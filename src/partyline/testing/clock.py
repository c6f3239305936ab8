"""A clock that stands still until it is told to move."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class _Handle:
    __slots__ = ("_callback", "cancelled")

    def __init__(self, callback: Callable[[], Any]) -> None:
        self._callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def run(self) -> None:
        if not self.cancelled:
            self._callback()


class Clock:
    """Stands in for a loop of which only `time` and `call_at` are needed (`hub.timers.Timers`), in seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._calls: list[tuple[float, int, _Handle]] = []
        self._order = itertools.count()
        self.wakeups = 0

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> _Handle:
        handle = _Handle(lambda: callback(*args))
        heapq.heappush(self._calls, (when, next(self._order), handle))
        return handle

    def advance(self, seconds: float) -> None:
        """Move the clock; everything due on the way runs at its own time."""
        end = self._now + seconds
        while self._calls and self._calls[0][0] <= end:
            when, _, handle = heapq.heappop(self._calls)
            self._now = max(self._now, when)
            if not handle.cancelled:
                self.wakeups += 1
                handle.run()
        self._now = end
