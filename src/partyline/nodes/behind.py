"""Values of a shared table that are written later: the loop changes memory, and never waits for the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from partyline.errors import StoreUnavailable
from partyline.interfaces import Table

_Row = TypeVar("_Row")

_AGAIN: Final = 0.2  # seconds between tries while the engine is away
_AT_ONCE: Final = 64  # values on their way


class Behind(Generic[_Row]):
    """Keeps the newest state of each changed row, by its key, until the table has it."""

    def __init__(self, table: Table, encode: Callable[[_Row], bytes]) -> None:
        self._table = table
        self._encode = encode
        self._changed: dict[str, tuple[_Row, float] | None] = {}  # with its life; None: gone
        self._writing: asyncio.Task[None] | None = None
        self._under_way: dict[str, asyncio.Task[bool]] = {}

    def put(self, key: str, row: _Row, life: float) -> None:
        """Set it, for `life` seconds from when it is written."""
        self._change(key, (row, life))

    def take(self, key: str) -> None:
        """Remove it, if it is there."""
        self._change(key, None)

    async def leave(self, key: str) -> None:
        """Write nothing of this key any more: another node has it. Returns when nothing is under way either."""
        self._changed.pop(key, None)
        if (writing := self._under_way.get(key)) is not None:
            await asyncio.wait((writing,))
            self._changed.pop(key, None)  # it would be tried again

    async def flush(self) -> None:
        """Return when everything so far is in the table."""
        while self._writing is not None:
            await asyncio.wait((self._writing,))

    def _change(self, key: str, change: tuple[_Row, float] | None) -> None:
        self._changed[key] = change
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._changed:
                for key in list(self._changed)[:_AT_ONCE]:
                    change = self._changed.pop(key)
                    self._under_way[key] = asyncio.get_running_loop().create_task(self._put(key, change))
                await asyncio.wait(self._under_way.values())
                done = [task.result() for task in self._under_way.values()]
                self._under_way.clear()
                if not all(done):
                    await asyncio.sleep(_AGAIN)
        finally:
            self._writing = None

    async def _put(self, key: str, change: tuple[_Row, float] | None) -> bool:
        try:
            if change is None:
                await self._table.take(key)
            else:
                await self._table.put(key, self._encode(change[0]), change[1])
        except StoreUnavailable:
            self._changed.setdefault(key, change)  # unless it has changed since
            return False
        return True
