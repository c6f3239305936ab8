"""One of the tables that workers share, as the keeper has it: in memory, and in the database before it is answered."""

from __future__ import annotations

import heapq
import sqlite3
import time
from collections.abc import Callable
from typing import cast

from partyline.stores.sqlite.database import Database


class Shelf:
    """Values by key, each with a life in seconds."""

    def __init__(self, name: str, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._name = name
        self._database = database
        self._clock = clock
        rows = database.rows("SELECT key, value, until FROM shared WHERE name = ?", (name,))
        self._values = {key: (value, until) for key, value, until in cast("list[tuple[str, bytes, float]]", rows)}
        self._ends = [(until, key) for key, (_, until) in self._values.items()]
        heapq.heapify(self._ends)

    def get(self, key: str) -> bytes | None:
        """The value while it lives."""
        found = self._values.get(key)
        return found[0] if found is not None and found[1] > self._clock() else None

    def keys(self) -> list[str]:
        """The keys, sorted."""
        return sorted(self._values)

    async def put(self, key: str, value: bytes, life: float) -> None:
        """Set it. Returns when it is in the database; whoever asks gets it at once."""
        until = self._clock() + life
        self._values[key] = value, until
        heapq.heappush(self._ends, (until, key))
        gone = self._ended()

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM shared WHERE name = ? AND key = ?", [(self._name, one) for one in gone])
            connection.execute("INSERT OR REPLACE INTO shared VALUES (?, ?, ?, ?)", (self._name, key, value, until))

        await self._database.commit(write)

    async def take(self, key: str) -> bytes | None:
        """Remove it. Returns when it is gone from the database; nobody else gets it meanwhile."""
        value = self.get(key)
        if self._values.pop(key, None) is not None:
            row = (self._name, key)
            await self._database.commit(lambda connection: _delete(connection, row))
        return value

    def _ended(self) -> list[str]:
        """Forget those whose life is over."""
        now, gone = self._clock(), []
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            found = self._values.get(key)
            if found is not None and found[1] <= now:
                del self._values[key]
                gone.append(key)
        return gone


def _delete(connection: sqlite3.Connection, row: tuple[str, str]) -> None:
    connection.execute("DELETE FROM shared WHERE name = ? AND key = ?", row)
