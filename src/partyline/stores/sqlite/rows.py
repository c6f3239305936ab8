"""A message as a row of the log, and back: what is stored, what the checksum covers, statements of many rows.

sqlite3 lets go of the interpreter's lock at every step of a statement, and beside a busy loop each return costs a
switch interval (5 ms). So a statement here steps once, however many rows it writes or reads: inserts name many rows,
and a page comes back as one row of concatenated columns.
"""

from __future__ import annotations

import functools
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import msgspec

from partyline.models import Draft, Message

SIZES: Final = (512, 64, 8, 1)
COLUMNS: Final = "offset, room, identity, time, at, head, data, checksum"
WIDTH: Final = 8

_head_type = tuple[str, str | None, str | None, str | None, float | None, bool | None, str]
_head_decoder = msgspec.json.Decoder(_head_type)
_encode = msgspec.json.encode


class Damaged(Exception):
    """A row is not what was written. `offset` says which; `room` is what it says of its room, "" if unreadable."""

    def __init__(self, offset: int, room: bytes = b"") -> None:
        super().__init__(offset)
        self.offset = offset
        self.room = room.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Row:
    """A verified row: the message, and when it was committed by the log's own clock (milliseconds)."""

    message: Message
    offset: int
    at: int


def identity(draft: Draft) -> int:
    """48 bits that a retry has in common with its first try. Equality must still be looked at.

    Raises UnicodeEncodeError if a text cannot be stored (lone surrogates).
    """
    return int.from_bytes(blake2b("\0".join(draft.identity).encode(), digest_size=6).digest(), "big")


def encode_head(draft: Draft) -> str:
    """Everything of a draft that is neither its room nor its data. Raises UnicodeEncodeError, as `identity`."""
    return _encode((draft.id, draft.user, draft.key, draft.sender, draft.ttl, draft.durable, draft.publisher)).decode()


def checksum(offset: int, room: bytes, time: int, at: int, head: bytes, data: bytes) -> int:
    """CRC-32 over all of a row."""
    return zlib.crc32(data, zlib.crc32(head, zlib.crc32(b"%d %d %d %b\0" % (offset, time, at, room))))


def decode(offset: int, room: bytes, time: int, at: int, head: bytes, data: bytes, stored: int) -> Row:
    """The row's message. Raises Damaged."""
    if checksum(offset, room, time, at, head, data) != stored:
        raise Damaged(offset, room)
    message_id, user, key, sender, ttl, durable, publisher = _head_decoder.decode(head)
    return Row(
        Message(Draft(room.decode(), data, message_id, user, key, sender, ttl, durable, publisher), offset, time / 1e6),
        offset,
        at,
    )


# Writing


@functools.cache
def _insert(size: int) -> str:
    one = "(" + ",".join("?" * WIDTH) + ")"
    if size == 1:
        return f"INSERT INTO log ({COLUMNS}) VALUES {one}"  # noqa: S608
    # The last statement of a batch may have empty places: no step more than needed.
    values = ",".join([one] * size)
    return f"INSERT INTO log ({COLUMNS}) SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"  # noqa: S608


def pieces(count: int) -> Iterator[tuple[int, int, int]]:
    """`count` items as (start, end, size of the statement): few statements, few empty places."""
    start = 0
    while start < count:
        left = count - start
        size = next((size for size in SIZES if left > size // 4), 1)
        end = min(count, start + size)
        yield start, end, size
        start = end


def insert(connection: sqlite3.Connection, values: list[object]) -> None:
    """Insert rows, given flat, in the order of COLUMNS."""
    for start, end, size in pieces(len(values) // WIDTH):
        piece = values[start * WIDTH : end * WIDTH]
        if end - start < size:
            piece += [None] * ((size - (end - start)) * WIDTH)
        connection.execute(_insert(size), piece)


def padded(values: Sequence[object]) -> Iterator[tuple[str, list[object]]]:
    """`values` for `IN (...)`, in pieces of the prepared sizes; NULL, which is equal to nothing, fills them."""
    for start, end, size in pieces(len(values)):
        yield ",".join("?" * size), [*values[start:end], *([None] * (size - (end - start)))]


# Reading

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
    """The rows whose offsets the query `picks` gives, in order, and whether these are all.

    Of more than `max_bytes` of data only the first ones come, at least one. A row that is not what was written comes
    back as Damaged. The connection's text_factory must be bytes. Raises sqlite3.Error.
    """
    answer = connection.execute(_ROWS.format(picks=picks), [*values, max_bytes]).fetchall()[0]
    count, expected = answer[0], answer[-1]
    if not count:
        if expected:
            raise sqlite3.DatabaseError("an index of the log names rows that are not there")
        return [], True
    try:
        return list(_split(answer)), count == expected
    except (ValueError, AttributeError):  # a damaged length or number: the others are whole, one by one
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
