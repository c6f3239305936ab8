"""A write-behind table: the loop changes memory and never waits; the writer's next commit stores the changes."""

from __future__ import annotations

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from partyline.errors import InvalidValue
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.opening import damaged
from partyline.stores.sqlite.placing import insert, padded

_Row = TypeVar("_Row")


class WriteBehind(ABC, Generic[_Row]):
    """Keeps the newest state of each changed row, by its key, until it is written.

    `columns` begins with the key, which is also an attribute of a row.
    """

    table: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changed: dict[bytes, _Row | None] = {}  # None: gone
        self._scheduled = False
        self._lock = threading.Lock()  # held for a few bytecodes: the loop never waits for a commit on it

    @abstractmethod
    def read(self, *values: Any) -> _Row:
        """A row from its columns. Raises MsgspecError or InvalidValue if they are damaged."""

    @abstractmethod
    def values(self, row: _Row) -> tuple[object, ...]:
        """The columns of a row."""

    def load(self) -> Iterator[_Row]:
        for values in self._database.rows(f"SELECT {', '.join(self.columns)} FROM {self.table}"):  # noqa: S608
            try:
                yield self.read(*values)
            except (msgspec.MsgspecError, InvalidValue) as error:
                raise damaged(self._database.path, f"a row of {self.table}: {error}") from None

    def save(self, row: _Row) -> None:
        self._change(getattr(row, self.columns[0]), row)

    def delete(self, key: bytes) -> None:
        self._change(key, None)

    async def flush(self) -> None:
        """Return when all changes so far are committed. Cancelling this loses nothing."""
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
        for marks, keys in padded([key for key, row in changes.items() if row is None]):
            connection.execute(f"DELETE FROM {self.table} WHERE {self.columns[0]} IN ({marks})", keys)  # noqa: S608
        values = [value for row in changes.values() if row is not None for value in self.values(row)]
        insert(connection, f"INSERT OR REPLACE INTO {self.table}", values, len(self.columns))


class _Flush(Generic[_Row]):
    """One job: takes its changes once, so that a retried transaction writes the same."""

    def __init__(self, table: WriteBehind[_Row]) -> None:
        self._table = table
        self._changes: dict[bytes, _Row | None] | None = None

    def __call__(self, connection: sqlite3.Connection) -> None:
        if self._changes is None:
            self._changes = self._table.take()
        self._table.write(connection, self._changes)
