"""The loop that a server runs on, for calls that come from other threads.

A plain FastAPI endpoint or a Django view runs in a thread. Its calls have to be carried out on the loop, which owns the
rooms, the queues and the transports.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import Any, Self, TypeVar

from partyline import log
from partyline.errors import CONTAINED

_log = log.get("server")

_T = TypeVar("_T")


class Home:
    """A loop and its thread; `thread` is 0 while there is no loop yet.

    Callers compare `thread` with `get_ident()` themselves, so that a call on the loop costs nothing more.
    """

    __slots__ = ("_loop", "thread")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self.thread = 0 if loop is None else get_ident()

    @classmethod
    def here(cls) -> Self:
        """The running loop as a home; outside a coroutine, a home without a loop."""
        try:
            return cls(asyncio.get_running_loop())
        except RuntimeError:
            return cls()

    def call(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Let the loop call a function soon, in the order of these calls; an exception is logged.

        False if there is no loop yet: then the caller does it itself. Nothing happens if the loop has ended.
        """
        if self._loop is None:
            return False
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_call, function, arguments)
        return True

    async def wait(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine on this loop, and await it on another. Cancelling this cancels it there, too."""
        if self._loop is None:
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))


def _call(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    try:
        function(*arguments)
    except CONTAINED:
        _log.exception("a call from another thread failed", function=getattr(function, "__qualname__", repr(function)))
