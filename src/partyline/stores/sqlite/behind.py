"""A table that is written behind: the loop changes memory and never waits; the writer's next commit has the rest."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from partyline.stores.sqlite.database import Database

_T = TypeVar("_T")
_Row = TypeVar("_Row")

# A statement with many rows steps once: sqlite3 lets go of the GIL at every step, and beside a busy loop each return
# costs a switch interval.
_SIZES: Final = (512, 64, 8, 1)


class WriteBehind(Generic[_Row]):
    """Keeps the newest state of each changed row, by its key, until it is written.

    `key` is the column of the key and `columns` how many there are; `values` is a row as they want it.
    """

    def __init__(
        self, database: Database, table: str, key: str, columns: int, values: Callable[[_Row], tuple[object, ...]]
    ) -> None:
        self._database = database
        self._delete = f"DELETE FROM {table} WHERE {key} IN "  # noqa: S608
        self._insert = f"INSERT OR REPLACE INTO {table} VALUES "  # noqa: S608
        self._mark = "(" + ",".join("?" * columns) + ")"
        self._values = values
        self._changed: dict[bytes, _Row | None] = {}  # None: gone
        self._scheduled = False
        self._lock = threading.Lock()  # held for a few bytecodes: the loop does not wait for a commit on it

    def put(self, key: bytes, row: _Row) -> None:
        """Insert or replace."""
        self._change(key, row)

    def delete(self, key: bytes) -> None:
        """Remove, if it is there."""
        self._change(key, None)

    async def flush(self) -> None:
        """Return when everything so far is committed. Cancelling it loses nothing."""
        await self._database.flush()

    def _change(self, key: bytes, row: _Row | None) -> None:
        with self._lock:
            self._changed[key] = row
            scheduled, self._scheduled = self._scheduled, True
        if not scheduled:
            self._database.submit(_Flush(self))

    def take(self) -> dict[bytes, _Row | None]:
        """The changes so far. Called by the writer's thread."""
        with self._lock:
            self._scheduled = False
            changed, self._changed = self._changed, {}
        return changed

    def write(self, connection: sqlite3.Connection, changes: dict[bytes, _Row | None]) -> None:
        """In the writer's transaction. Raises sqlite3.Error."""
        for keys in _batches([key for key, row in changes.items() if row is None]):
            connection.execute(f"{self._delete} ({','.join('?' * len(keys))})", keys)
        for rows in _batches([row for row in changes.values() if row is not None]):
            values = [value for row in rows for value in self._values(row)]
            connection.execute(self._insert + ",".join([self._mark] * len(rows)), values)


class _Flush(Generic[_Row]):
    """One job: takes its changes once, so that a transaction that is tried again writes the same."""

    def __init__(self, table: WriteBehind[_Row]) -> None:
        self._table = table
        self._changes: dict[bytes, _Row | None] | None = None

    def __call__(self, connection: sqlite3.Connection) -> None:
        if self._changes is None:
            self._changes = self._table.take()
        self._table.write(connection, self._changes)


def _batches(items: list[_T]) -> Iterator[list[_T]]:
    """Pieces of the prepared sizes, the largest first."""
    start = 0
    for size in _SIZES:
        while len(items) - start >= size:
            yield items[start : start + size]
            start += size
