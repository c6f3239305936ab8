"""Pages of the log for views: on separate connections, off the loop, in short transactions.

For a view of few rooms the index of these rooms is read; for one of many rooms the log is scanned, and rooms outside
the view are skipped. Either way a page is bounded in messages, bytes and rows looked at, so transactions are short.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from partyline.interfaces import View
from partyline.models import Message, Page
from partyline.stores.retention import lost
from partyline.stores.sqlite.placing import Damaged, Row, decode
from partyline.stores.sqlite.retention import FORGOTTEN, read_forgotten

_READERS: Final = 2  # threads
_FEW: Final = 64  # rooms whose indexes are merged (sizes of the prepared statements: 1, 4, 16, 64)
_PIECE: Final = 256  # rows looked at by one statement, at least
_PIECES: Final = 16  # statements of one page, at most
_SCAN: Final = 20_000  # offsets that one statement scans for a view of many rooms
_MAX_BYTES: Final = 4 * 1024 * 1024  # of a page's data; one message may be more

_NEWEST: Final = "SELECT offset FROM log WHERE room = ? AND offset < ? ORDER BY offset DESC LIMIT ?"
_ROOM: Final = "SELECT offset FROM log WHERE room = ? AND offset > ? AND offset <= ?"


@dataclass(slots=True)
class Found:
    """A page, and the damaged rows found on the way: room ("" if unknown) and offset."""

    page: Page
    damaged: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to find a view's offsets. `rooms` is None if there are too many: `where` and `values` filter the log."""

    rooms: tuple[str, ...] | None
    where: str
    values: tuple[object, ...]
    pruned: int


class Reader:
    """A small pool of threads with a read-only connection each.

    `check` raises sqlite3.Error if `path` leads to a file other than the log's own.
    """

    def __init__(self, path: str, check: Callable[[], None]) -> None:
        self._uri = Path(path).absolute().as_uri() + "?mode=ro"
        self._check = check
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="partyline-reader")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    @property
    def pool(self) -> ThreadPoolExecutor:
        return self._pool

    def close(self) -> None:
        """Close the connections. Blocks until pages that are being read are done."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def read(self, view: View, after: int, limit: int, head: int, now: Callable[[], int]) -> Found:
        """A page of offsets above `after`, up to `head`. In one of the pool's threads. Raises sqlite3.Error."""
        return self._within(lambda connection: _read(connection, view, after, limit, head, now()))

    def above(self, after: int, limit: int, head: int) -> Found:
        """A page of all rooms, expired messages too. In one of the pool's threads. Raises sqlite3.Error."""
        return self._within(lambda connection: _above(connection, after, limit, head))

    def newest(self, room: str, before: int, limit: int, now: Callable[[], int]) -> Found:
        """A room's newest messages below an offset. In one of the pool's threads. Raises sqlite3.Error."""
        return self._within(lambda connection: _newest(connection, room, before, limit, now()))

    def _within(self, read: Callable[[sqlite3.Connection], Found]) -> Found:
        """Read in a transaction of this thread's connection."""
        connection = self._connection()
        try:
            connection.execute("BEGIN")
            try:
                return read(connection)
            finally:
                connection.execute("COMMIT")
        except sqlite3.Error:
            self._drop(connection)
            raise

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self._uri, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False
            )
            try:
                self._check()
            except BaseException:
                connection.close()
                raise
            connection.text_factory = bytes
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    def _drop(self, connection: sqlite3.Connection) -> None:
        self._local.connection = None
        self._connections.remove(connection)
        connection.close()


def _read(connection: sqlite3.Connection, view: View, after: int, limit: int, head: int, now: int) -> Found:
    plan = _plan(connection, view)
    messages: list[Message] = []
    found = Found(Page((), after, False, plan.pruned + 1))
    at, room_for = after, _MAX_BYTES
    for _ in range(_PIECES):
        if at >= head or room_for <= 0:
            break
        rows, at = _piece(connection, plan, at, head, max(limit + 1, _PIECE), room_for)
        for row in rows:
            if isinstance(row, Damaged):
                found.damaged.append((row.room if view.covers(row.room) else "", row.offset))
                continue
            if not view.sees(row.message.draft) or _expired(row, now):
                continue
            if len(messages) == limit:
                at = row.offset - 1
                room_for = 0
                break
            messages.append(row.message)
            room_for -= len(row.message.draft.data)
    oldest = max([plan.pruned, *(offset for _, offset in found.damaged if offset <= at)]) + 1
    found.page = Page(tuple(messages), max(at, after), at < head, oldest)
    return found


def _above(connection: sqlite3.Connection, after: int, limit: int, head: int) -> Found:
    pruned, gone = connection.execute(f"SELECT (SELECT max(pruned) FROM rooms), ({FORGOTTEN})").fetchone()  # noqa: S608
    rows, _ = picked(connection, _ABOVE, (after,), _MAX_BYTES)
    rows = [row for row in rows if row.offset <= head][:limit]
    damaged = [(row.room, row.offset) for row in rows if isinstance(row, Damaged)]
    messages = tuple(row.message for row in rows if isinstance(row, Row))
    lowest = max([pruned or 0, *read_forgotten(gone).values(), *(offset for _, offset in damaged)])
    return Found(Page(messages, rows[-1].offset if rows else after, bool(rows), lowest + 1), damaged)


def _newest(connection: sqlite3.Connection, room: str, before: int, limit: int, now: int) -> Found:
    found = Found(Page((), before, False, 0))
    messages: list[Message] = []
    for _ in range(_PIECES):
        picks = f"SELECT offset FROM ({_NEWEST}) ORDER BY offset"  # noqa: S608
        rows, complete = picked(connection, picks, (room, before, max(limit + 1, 16)), _MAX_BYTES)
        if not complete:  # too large together: one by one, from the end
            rows, _ = picked(connection, picks, (room, before, 1), _MAX_BYTES)
        whole = [row for row in rows if isinstance(row, Row)]
        found.damaged += [(row.room, row.offset) for row in rows if isinstance(row, Damaged)]
        messages[:0] = [row.message for row in whole if not _expired(row, now)]
        if not rows or len(messages) >= limit or sum(len(message.draft.data) for message in messages) > _MAX_BYTES:
            break
        before = rows[0].offset
    found.page = Page(tuple(messages[-limit:]), before, False, 0)
    return found


def _expired(row: Row, now: int) -> bool:
    ttl = row.message.draft.ttl
    return ttl is not None and now >= row.at + ttl * 1000


def _piece(
    connection: sqlite3.Connection, plan: _Plan, after: int, head: int, rows: int, max_bytes: int
) -> tuple[Sequence[Row | Damaged], int]:
    """Some rows, and the offset up to which the log was looked at."""
    if plan.rooms is None:
        end = min(head, after + _SCAN)
        picks = f"SELECT offset FROM log WHERE offset > ? AND offset <= ? AND ({plan.where}) ORDER BY offset LIMIT ?"  # noqa: S608
        values: list[object] = [after, end, *plan.values, rows]
    elif not plan.rooms:
        return (), head
    else:
        end = head
        size = next(size for size in (1, 4, 16, _FEW) if size >= len(plan.rooms))
        picks = " UNION ALL ".join([_ROOM] * size) + " ORDER BY offset LIMIT ?"
        values = [value for room in plan.rooms for value in (room, after, end)]
        values += [None] * (3 * (size - len(plan.rooms)))
        values.append(rows)
    found, complete = picked(connection, picks, values, max_bytes)
    return found, end if complete and len(found) < rows else found[-1].offset


def _plan(connection: sqlite3.Connection, view: View) -> _Plan:
    where, values = _conditions("name", view)
    query = f"""
SELECT (SELECT json_group_array(json_array(name, pruned))
        FROM (SELECT name, pruned FROM rooms WHERE {where} LIMIT {_FEW + 1})), ({FORGOTTEN})
"""  # noqa: S608
    listed, gone = connection.execute(query, values).fetchone()
    forgotten = read_forgotten(gone)
    candidates = msgspec.json.decode(listed.decode(errors="replace"), type=list[tuple[str, int]])
    rooms = {name: pruned for name, pruned in candidates if view.covers(name)}
    if len(candidates) <= _FEW:
        before = lost(
            forgotten, view.rooms - rooms.keys(), view.patterns
        )  # a room that is not there may have been before
        return _Plan(tuple(rooms), "", (), max([before, *rooms.values()]))
    (pruned,) = connection.execute(f"SELECT max(pruned) FROM rooms WHERE {where}", values).fetchone()  # noqa: S608
    absent: Collection[str] = view.rooms  # perhaps: so many rooms are not looked up one by one
    if not view.patterns:
        (count,) = connection.execute(f"SELECT count(*) FROM rooms WHERE {where}", values).fetchone()  # noqa: S608
        absent = view.rooms if count < len(view.rooms) else ()
    where, values = _conditions("room", view)
    return _Plan(None, where, values, max(lost(forgotten, absent, view.patterns), pruned or 0))


def _conditions(column: str, view: View) -> tuple[str, tuple[object, ...]]:
    """SQL that holds for every room of the view, and perhaps for a few others."""
    parts: list[str] = []
    values: list[object] = []
    if view.rooms:
        parts.append(f"{column} IN (SELECT value FROM json_each(?))")  # noqa: S608
        values.append(msgspec.json.encode(sorted(view.rooms)).decode())
    for pattern in view.patterns:
        tokens = pattern.split(".")
        rest = tokens[-1] == ">"
        if tokens == [">"]:
            return "1", ()
        dots = f"length({column}) - length(replace({column}, '.', ''))"
        parts.append(f"({column} GLOB ? AND {dots} {'>=' if rest else '='} ?)")
        values += [".".join(_glob(token) for token in tokens), len(tokens) - 1]
    return " OR ".join(parts) or "0", tuple(values)


def _glob(token: str) -> str:
    if token == "*":
        return "?*"
    return "?*" if token == ">" else token.replace("[", "[[]")


# Rows

_ROWS: Final = """
WITH picked (offset) AS MATERIALIZED ({picks}),
sized (offset, before) AS (
  SELECT picked.offset, sum(length(data)) OVER (ORDER BY picked.offset) - length(data)
  FROM picked CROSS JOIN log ON log.offset = picked.offset
)
SELECT count(*), group_concat(offset), group_concat(time), group_concat(at), group_concat(checksum),
  group_concat(length(CAST(room AS BLOB))), group_concat(length(CAST(head AS BLOB))), group_concat(length(data)),
  group_concat(room, ''), group_concat(head, ''), group_concat(CAST(data AS TEXT), ''),
  (SELECT count(*) FROM picked)
FROM (
  SELECT log.* FROM sized CROSS JOIN log ON log.offset = sized.offset WHERE before < ? ORDER BY sized.offset
)
"""


def picked(
    connection: sqlite3.Connection, picks: str, values: Sequence[object], max_bytes: int
) -> tuple[list[Row | Damaged], bool]:
    """The rows whose offsets the query `picks` returns, in order, and whether these are all.

    Stops before the data exceeds `max_bytes`, but returns at least one row. A row that is not what was written is
    returned as Damaged. The connection's text_factory must be bytes. Raises sqlite3.Error.
    """
    answer = connection.execute(_ROWS.format(picks=picks), [*values, max_bytes]).fetchall()[0]
    count, expected = answer[0], answer[-1]
    if not count:
        if expected:
            raise sqlite3.DatabaseError("an index of the log names rows that are not there")
        return [], True
    try:
        return list(_split(answer)), count == expected
    except (ValueError, AttributeError):  # a damaged length or number: read one by one, the other rows are intact
        return list(_one_by_one(connection, picks, values)), True


_ABOVE: Final = "SELECT offset FROM log WHERE offset > ? ORDER BY offset LIMIT 1000"


def walk(connection: sqlite3.Connection, after: int) -> Iterator[Row | Damaged]:
    """Every row above an offset, in order. Raises sqlite3.Error."""
    factory, connection.text_factory = connection.text_factory, bytes
    try:
        while True:
            rows, _ = picked(connection, _ABOVE, (after,), 4 * 1024 * 1024)
            if not rows:
                return
            yield from rows
            after = rows[-1].offset
    finally:
        connection.text_factory = factory


def _split(answer: tuple[Any, ...]) -> Iterator[Row | Damaged]:
    count = answer[0]
    columns = [[int(number) for number in column.split(b",")] for column in answer[1:8]]
    texts: tuple[bytes, bytes, bytes] = answer[8:11]
    if any(len(column) != count for column in columns) or any(
        sum(lengths) != len(text) for lengths, text in zip(columns[4:], texts, strict=True)
    ):
        raise ValueError("lengths and texts do not fit")
    rooms, heads, bodies = texts
    room_at = head_at = data_at = 0
    for offset, time, at, stored, room, head, data in zip(*columns, strict=True):
        try:
            yield decode(
                offset,
                rooms[room_at : room_at + room],
                time,
                at,
                heads[head_at : head_at + head],
                bodies[data_at : data_at + data],
                stored,
            )
        except Damaged as damage:
            yield damage
        room_at += room
        head_at += head
        data_at += data


def _one_by_one(connection: sqlite3.Connection, picks: str, values: Sequence[object]) -> Iterator[Row | Damaged]:
    for (offset,) in connection.execute(picks, values).fetchall():
        query = "SELECT room, time, at, head, data, checksum FROM log WHERE offset = ?"
        for room, time, at, head, data, stored in connection.execute(query, (offset,)).fetchall():
            try:
                yield decode(offset, room, time, at, head, data, stored)
            except (Damaged, TypeError, ValueError):
                yield Damaged(offset)
