"""Decides for each draft of a commit: it is a retry, it is refused, or it gets the next offset. Also how a message is a
row of the log: what is stored, what the checksum covers, statements for many rows.

sqlite3 releases the interpreter's lock at every step of a statement, and while the loop is busy, getting it back takes
a switch interval (5 ms). So a statement here and in reading.py steps once, however many rows it writes or reads: one
insert has many rows, and a page comes back as one row of concatenated columns.
"""

from __future__ import annotations

import functools
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgspec

from partyline.errors import InvalidValue, PartylineError, StoreUnavailable, TooManyTopics
from partyline.interfaces import Outcome, Refused, Stored
from partyline.models import MAX_OFFSET, Draft, Message
from partyline.stores.retention import Retention, lost
from partyline.stores.sqlite.opening import EPOCH_AND_HEAD
from partyline.stores.sqlite.retention import FORGOTTEN, LogClock, Pruner, read_forgotten

SIZES: Final = (512, 64, 8, 1)
INTO_LOG: Final = "INSERT INTO log (offset, room, identity, time, at, head, data, checksum)"
WIDTH: Final = 8

_KNOWN_ROOMS: Final = 100_000  # names kept in memory; above that, all are looked up again
_ROW: Final = "offset, CAST(room AS BLOB), time, at, CAST(head AS BLOB), data, checksum"

Group = tuple[Draft, ...]
_Key = tuple[str, str, str]

_head_type = tuple[str, str | None, str | None, str | None, float | None, bool | None, str]
_head_decoder = msgspec.json.Decoder(_head_type)
_encode = msgspec.json.encode


@dataclass(slots=True)
class Batch:
    """The result of one commit. `head` is the log's highest offset after it, `answered` the number of groups."""

    outcomes: list[Outcome]
    head: int
    answered: int


class Placer:
    """Decides and writes, inside the writer's transaction. If one fails, what it knows of the log is reloaded."""

    def __init__(
        self,
        retention: Retention,
        pruner: Pruner,
        clock: LogClock,
        wall: Callable[[], float],
        window: float,
        alarm: Callable[[str, int], None],
    ) -> None:
        """`window` is how long an id is remembered, in seconds; `alarm(room, offset)` reports a damaged row."""
        self._retention = retention
        self._pruner = pruner
        self._clock = clock
        self._wall = wall
        self._window = int(window * 1000)
        self._alarm = alarm
        self._rooms: set[str] = set()  # some of those in the log
        self._count = 0  # of all rooms in the log
        self.head = 0

    def load(self, connection: sqlite3.Connection) -> None:
        """Read the state of the log from the file."""
        self._rooms.clear()
        self._pruner.forget()
        (self._count,) = connection.execute("SELECT count(*) FROM rooms").fetchone()
        _, self.head = connection.execute(EPOCH_AND_HEAD).fetchone()

    def gone(self, rooms: Sequence[str]) -> None:
        """Retention has emptied these rooms."""
        self._rooms.difference_update(rooms)
        self._count -= len(rooms)

    def place(self, connection: sqlite3.Connection, groups: Sequence[Group]) -> Batch:
        """Write the drafts of `groups`, each group whole or not at all. Raises sqlite3.Error: then `load` is needed."""
        keys: dict[_Key, int] = {}
        unfit: dict[int, PartylineError] = {}
        unknown: set[str] = set()  # rooms
        for number, group in enumerate(groups):
            try:
                for draft in group:
                    if draft.room not in self._rooms:
                        unknown.add(draft.room)
                    if draft.chosen_id:
                        keys[draft.identity] = identity(draft)
            except UnicodeEncodeError:
                unfit[number] = _unfit()
        known = self._look_up(connection, keys) if keys else {}
        if unknown:
            self._look_up_rooms(connection, groups, unknown)

        wall = round(self._wall() * 1e6)
        time, at = wall / 1e6, self._clock.now()
        outcomes: list[Outcome] = []
        values: list[object] = []
        added: dict[str, list[int]] = {}  # messages and bytes of data by room
        fresh: list[str] = []
        head = self.head
        for number, group in enumerate(groups):
            error = unfit.get(number)
            try:
                if error is not None:
                    raise error
                heads = self._check(group, known, len(fresh), head)
            except PartylineError as refusal:
                outcomes += [Refused(draft, refusal) for draft in group]
                continue
            for draft, text in zip(group, heads, strict=True):
                key = draft.identity if draft.chosen_id else None
                if key is not None and (earlier := known.get(key)) is not None:
                    outcomes.append(Stored(draft, earlier, duplicate=True))
                    continue
                head += 1
                room = draft.room
                if room not in self._rooms:
                    self._rooms.add(room)
                    fresh.append(room)
                if (tally := added.get(room)) is None:
                    tally = added[room] = [0, 0]
                tally[0] += 1
                tally[1] += len(draft.data)
                total = checksum(head, room.encode(), wall, at, text.encode(), draft.data)
                values += (head, room, None if key is None else keys[key], wall, at, text, draft.data, total)
                message = Message(draft, head, time)
                if key is not None:
                    known[key] = message
                outcomes.append(Stored(draft, message))
        if fresh:
            self._count += len(fresh)
            _insert_rooms(connection, fresh)
        insert(connection, INTO_LOG, values, WIDTH)
        self._pruner.added(added)
        self.head = head
        return Batch(outcomes, head, len(groups))

    def _check(self, group: Group, known: dict[_Key, Message], fresh: int, head: int) -> list[str]:
        """The heads of the group's rows. Raises the reason to refuse one of its drafts, before any is taken."""
        heads = []
        own: dict[_Key, Draft] = {}
        rooms: set[str] = set()
        new = 0
        for draft in group:
            earlier: Draft | None = None
            if draft.chosen_id:
                key = draft.identity
                message = known.get(key)
                earlier = message.draft if message is not None else own.get(key)
                own[key] = draft
            if earlier is not None:
                if (conflict := draft.conflict(earlier)) is not None:
                    raise conflict
            else:
                new += 1
                if draft.room not in self._rooms:
                    rooms.add(draft.room)
            try:
                heads.append(encode_head(draft))
            except (UnicodeEncodeError, msgspec.MsgspecError):
                raise _unfit() from None
        if rooms and self._count + fresh + len(rooms) > self._retention.max_rooms:
            raise TooManyTopics(f"the log keeps {self._retention.max_rooms} topics (max_rooms)", limit="max_rooms")
        if head + new > MAX_OFFSET:
            raise StoreUnavailable("the log has given its last offset, 2^53 - 1: begin a new database")
        return heads

    def _look_up(self, connection: sqlite3.Connection, keys: dict[_Key, int]) -> dict[_Key, Message]:
        """The messages in the log that drafts with these keys repeat."""
        known: dict[_Key, Message] = {}
        since = self._clock.now() - self._window
        for marks, values in padded(list(keys.values())):
            query = f"SELECT {_ROW} FROM log WHERE identity IN ({marks})"  # noqa: S608
            for offset, room, time, at, head, data, stored in connection.execute(query, values).fetchall():
                try:
                    row = decode(offset, room, time, at, head, data, stored)
                except Damaged as damage:
                    self._alarm(damage.room, offset)  # a retry of it is stored anew
                    continue
                draft = row.message.draft
                key = draft.identity
                other = known.get(key)
                if at >= since and (other is None or (other.offset or 0) < offset):
                    known[key] = row.message
        return known

    def _look_up_rooms(self, connection: sqlite3.Connection, groups: Sequence[Group], unknown: set[str]) -> None:
        if len(self._rooms) + len(unknown) > _KNOWN_ROOMS:
            self._rooms.clear()
            unknown = {draft.room for group in groups for draft in group}
        for marks, values in padded(list(unknown)):
            query = f"SELECT json_group_array(name) FROM rooms WHERE name IN ({marks})"  # noqa: S608
            (listed,) = connection.execute(query, values).fetchone()
            self._rooms.update(msgspec.json.decode(listed, type=list[str]))


def _insert_rooms(connection: sqlite3.Connection, names: list[str]) -> None:
    (listed,) = connection.execute(FORGOTTEN).fetchone()
    forgotten = read_forgotten(listed)
    # A room may have existed before, and lost all its messages.
    rooms = msgspec.json.encode([(name, lost(forgotten, (name,))) for name in names]).decode()
    query = "INSERT INTO rooms SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)"
    connection.execute(query, (rooms,))


def _unfit() -> InvalidValue:
    return InvalidValue("a topic, id, user, key or sender holds half a character (a lone surrogate)")


# Rows


class Damaged(Exception):
    """The row at `offset` is not what was written. `room` is the room it names, "" if unreadable."""

    def __init__(self, offset: int, room: bytes = b"") -> None:
        super().__init__(offset)
        self.offset = offset
        self.room = room.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Row:
    """A verified row: the message, and the time of its commit on the log's own clock (milliseconds)."""

    message: Message
    offset: int
    at: int


def identity(draft: Draft) -> int:
    """48 bits that a retry shares with its first try. Equal bits do not prove that it is one.

    Raises UnicodeEncodeError if a text cannot be stored (lone surrogates).
    """
    return int.from_bytes(blake2b("\0".join(draft.identity).encode(), digest_size=6).digest(), "big")


def encode_head(draft: Draft) -> str:
    """Everything in a draft except its room and its data. Raises UnicodeEncodeError, as `identity`."""
    return _encode((draft.id, draft.user, draft.key, draft.sender, draft.ttl, draft.durable, draft.publisher)).decode()


def checksum(offset: int, room: bytes, time: int, at: int, head: bytes, data: bytes) -> int:
    """CRC-32 over the whole row."""
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
def _insert(into: str, width: int, size: int) -> str:
    one = "(" + ",".join("?" * width) + ")"
    if size == 1:
        return f"{into} VALUES {one}"
    # The last statement of a batch may have empty places, so that few sizes are enough.
    return f"{into} SELECT * FROM (VALUES {','.join([one] * size)}) WHERE column1 IS NOT NULL"  # noqa: S608


def pieces(count: int) -> list[tuple[int, int, int]]:
    """`count` items as (start, end, size of the statement): few statements, few empty places."""
    found = []
    start = 0
    for size in SIZES:
        while count - start > size // 4:
            end = min(count, start + size)
            found.append((start, end, size))
            start = end
    return found


def insert(connection: sqlite3.Connection, into: str, values: list[object], width: int) -> None:
    """Insert rows of `width` columns, given flat; the first is never NULL. `into` is the statement's beginning."""
    for start, end, size in pieces(len(values) // width):
        piece = values[start * width : end * width]
        if end - start < size:
            piece += [None] * ((size - (end - start)) * width)
        connection.execute(_insert(into, width, size), piece)


def padded(values: Sequence[object]) -> Iterator[tuple[str, list[object]]]:
    """`values` for `IN (...)`, in pieces of the prepared sizes; NULL, which is equal to nothing, fills them."""
    for start, end, size in pieces(len(values)):
        yield ",".join("?" * size), [*values[start:end], *([None] * (size - (end - start)))]
