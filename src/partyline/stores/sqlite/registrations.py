"""The registrations table, written behind: the loop changes memory and never waits for this."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import msgspec

from partyline.errors import InvalidValue
from partyline.models import Position
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.opening import damaged

_T = TypeVar("_T")
_Values = tuple[bytes, str, str, str, int, float, str | None, str | None]

# A statement with many rows steps once: sqlite3 lets go of the GIL at every step, and beside a busy loop each return
# costs a switch interval.
_SIZES = (512, 64, 8, 1)


@dataclass(frozen=True, slots=True)
class Row:
    """One registration as it is stored. `id_hash` is the SHA-256 of the id; `created` is seconds since 1970.

    `confirmed` is the position that its client has surely got; None if it does not resume. `token` is the id of the
    token that made it and when that was issued; None where a key made it.
    """

    id_hash: bytes
    user: str
    topics: tuple[str, ...]
    grants: tuple[str, ...]
    used: bool
    created: float
    confirmed: Position | None = None
    token: tuple[str | None, float | None] | None = None


class RegistrationTable:
    """Keeps the newest state of each changed registration and writes it with the next commit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changed: dict[bytes, Row | None] = {}  # None: gone
        self._scheduled = False
        self._lock = threading.Lock()  # held for a few bytecodes: the loop does not wait for a commit on it

    def load(self) -> Iterator[Row]:
        """What an earlier process left. Raises ConfigError where the file is damaged."""
        query = "SELECT id_hash, user, topics, grants, used, created, confirmed, token FROM registrations"
        for row in self._database.rows(query):
            id_hash, user, topics, grants, used, created, confirmed, made_by = cast("_Values", row)
            try:
                names, patterns = (tuple(msgspec.json.decode(text, type=list[str])) for text in (topics, grants))
                position = None if confirmed is None else Position.parse(confirmed)
                token = None if made_by is None else msgspec.json.decode(made_by, type=tuple[str | None, float | None])
            except (msgspec.MsgspecError, InvalidValue) as error:
                raise damaged(self._database.path, f"a registration: {error}") from None
            yield Row(id_hash, user, names, patterns, bool(used), created, position, token)

    def save(self, row: Row) -> None:
        """Insert or replace."""
        self._change(row.id_hash, row)

    def delete(self, id_hash: bytes) -> None:
        """Remove, if it is there."""
        self._change(id_hash, None)

    async def flush(self) -> None:
        """Return when everything so far is committed. Cancelling it loses nothing."""
        await self._database.flush()

    def _change(self, id_hash: bytes, row: Row | None) -> None:
        with self._lock:
            self._changed[id_hash] = row
            scheduled, self._scheduled = self._scheduled, True
        if not scheduled:
            self._database.submit(_Flush(self))

    def take(self) -> dict[bytes, Row | None]:
        """The changes so far. Called by the writer's thread."""
        with self._lock:
            self._scheduled = False
            changed, self._changed = self._changed, {}
        return changed


class _Flush:
    """One job: takes its changes once, so that a transaction that is tried again writes the same."""

    def __init__(self, table: RegistrationTable) -> None:
        self._table = table
        self._changes: dict[bytes, Row | None] | None = None

    def __call__(self, connection: sqlite3.Connection) -> None:
        if self._changes is None:
            self._changes = self._table.take()
        gone = [id_hash for id_hash, row in self._changes.items() if row is None]
        rows = [row for row in self._changes.values() if row is not None]
        for hashes in _batches(gone):
            marks = ",".join("?" * len(hashes))
            connection.execute(f"DELETE FROM registrations WHERE id_hash IN ({marks})", hashes)  # noqa: S608
        for batch in _batches(rows):
            marks = ",".join(["(?,?,?,?,?,?,?,?)"] * len(batch))
            values = [value for row in batch for value in _values(row)]
            connection.execute(f"INSERT OR REPLACE INTO registrations VALUES {marks}", values)  # noqa: S608


def _values(row: Row) -> _Values:
    topics, grants = (json.dumps(names, ensure_ascii=False) for names in (row.topics, row.grants))
    return (
        row.id_hash,
        row.user,
        topics,
        grants,
        int(row.used),
        row.created,
        None if row.confirmed is None else str(row.confirmed),
        None if row.token is None else json.dumps(row.token, ensure_ascii=False),
    )


def _batches(items: list[_T]) -> Iterator[list[_T]]:
    """Pieces of the prepared sizes, the largest first."""
    start = 0
    for size in _SIZES:
        while len(items) - start >= size:
            yield items[start : start + size]
            start += size
