"""The loop that a server runs on, for calls that come from other threads.

A plain endpoint of FastAPI or a view of Django runs in a thread. What it calls here has to happen on the loop: the
rooms, the queues and the transports belong to it.
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
    """A loop and the thread it runs in; `thread` is 0 where there is no loop yet.

    Callers compare `thread` with `get_ident()` themselves: on the loop that is all that it costs.
    """

    __slots__ = ("_loop", "thread")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self.thread = 0 if loop is None else get_ident()

    @classmethod
    def here(cls) -> Self:
        """The home of what is built in a coroutine; none yet elsewhere."""
        try:
            return cls(asyncio.get_running_loop())
        except RuntimeError:
            return cls()

    def call(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Let the loop call a function soon, in the order of these calls; what it raises is logged.

        False where there is no loop yet: then the caller does it itself. Nothing happens where the loop has ended.
        """
        if self._loop is None:
            return False
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_call, function, arguments)
        return True

    async def wait(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Await on another loop what runs on this one. Cancelled, it is cancelled there, too."""
        if self._loop is None:
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))


def _call(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    try:
        function(*arguments)
    except CONTAINED:
        _log.exception("a call from another thread failed", function=getattr(function, "__qualname__", repr(function)))
