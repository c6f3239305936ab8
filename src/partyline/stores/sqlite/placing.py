"""Where the drafts of a commit go: which are retries, which cannot be taken, which get the next offsets."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from partyline.errors import Conflict, InvalidValue, PartylineError, StoreUnavailable, TooManyTopics
from partyline.interfaces import Outcome, Refused, Stored
from partyline.models import MAX_OFFSET, Draft, Message
from partyline.stores.retention import Retention, lost
from partyline.stores.sqlite.retention import FORGOTTEN, LogClock, Pruner, read_forgotten
from partyline.stores.sqlite.rows import Damaged, checksum, decode, encode_head, identity, insert, padded

_KNOWN_ROOMS: Final = 100_000  # names kept in memory; beyond, all are looked up again

_ROW: Final = "offset, CAST(room AS BLOB), time, at, CAST(head AS BLOB), data, checksum"

Group = tuple[Draft, ...]
_Key = tuple[str, str, str]


@dataclass(slots=True)
class Batch:
    """What one commit does. `head` is the log's highest offset after it, `answered` the number of groups."""

    outcomes: list[Outcome]
    head: int
    answered: int


class Placer:
    """Decides and writes, inside the writer's transaction. What it knows of the log is dropped when one fails."""

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
        """Take the log as it is in the file."""
        self._rooms.clear()
        self._pruner.forget()
        (self._count,) = connection.execute("SELECT count(*) FROM rooms").fetchone()
        (self.head,) = connection.execute(
            "SELECT max(head, coalesce((SELECT max(offset) FROM log), 0)) FROM store"
        ).fetchone()

    def gone(self, rooms: Sequence[str]) -> None:
        """Retention left nothing of these rooms."""
        self._rooms.difference_update(rooms)
        self._count -= len(rooms)

    def place(self, connection: sqlite3.Connection, groups: Sequence[Group]) -> Batch:
        """Write the drafts of `groups`, each group whole or not at all. Raises sqlite3.Error: then nothing is known."""
        keys: dict[_Key, int] = {}
        unfit: dict[int, PartylineError] = {}
        for number, group in enumerate(groups):
            try:
                for draft in group:
                    if draft.chosen_id:
                        keys[draft.identity] = identity(draft)
            except UnicodeEncodeError:
                unfit[number] = _unfit()
        known = self._look_up(connection, keys) if keys else {}
        self._look_up_rooms(connection, {draft.room for group in groups for draft in group})

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
                key = draft.identity
                message = known.get(key)
                if message is not None:
                    outcomes.append(Stored(draft, message, duplicate=True))
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
                values += (head, room, keys.get(key), wall, at, text, draft.data, total)
                known[key] = message = Message(draft, head, time)
                outcomes.append(Stored(draft, message))
        if fresh:
            self._count += len(fresh)
            _insert_rooms(connection, fresh)
        insert(connection, values)
        for room, (count, size) in added.items():
            self._pruner.added(room, count, size)
        self.head = head
        return Batch(outcomes, head, len(groups))

    def _check(self, group: Group, known: dict[_Key, Message], fresh: int, head: int) -> list[str]:
        """The heads of the group's rows. Raises what speaks against one of its drafts, before any is taken."""
        heads = []
        own: dict[_Key, Draft] = {}
        rooms: set[str] = set()
        for draft in group:
            key = draft.identity
            message = known.get(key)
            earlier = message.draft if message is not None else own.get(key)
            if earlier is not None:
                if (earlier.data, earlier.user, earlier.key) != (draft.data, draft.user, draft.key):
                    raise _conflict(draft.id)
            else:
                own[key] = draft
                if draft.room not in self._rooms:
                    rooms.add(draft.room)
            try:
                heads.append(encode_head(draft))
            except (UnicodeEncodeError, msgspec.MsgspecError):
                raise _unfit() from None
        if rooms and self._count + fresh + len(rooms) > self._retention.max_rooms:
            raise TooManyTopics(f"the log keeps {self._retention.max_rooms} topics (max_rooms)", limit="max_rooms")
        if head + len(own) > MAX_OFFSET:
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
                    self._alarm(damage.room, offset)  # and what repeats it is stored anew
                    continue
                draft = row.message.draft
                key = draft.identity
                other = known.get(key)
                if at >= since and (other is None or (other.offset or 0) < offset):
                    known[key] = row.message
        return known

    def _look_up_rooms(self, connection: sqlite3.Connection, rooms: set[str]) -> None:
        unknown = [room for room in rooms if room not in self._rooms]
        if len(self._rooms) + len(unknown) > _KNOWN_ROOMS:
            self._rooms.clear()
            unknown = list(rooms)
        for marks, values in padded(unknown):
            query = f"SELECT json_group_array(name) FROM rooms WHERE name IN ({marks})"  # noqa: S608
            (listed,) = connection.execute(query, values).fetchone()
            self._rooms.update(msgspec.json.decode(listed, type=list[str]))


def _insert_rooms(connection: sqlite3.Connection, names: list[str]) -> None:
    (listed,) = connection.execute(FORGOTTEN).fetchone()
    forgotten = read_forgotten(listed)
    # It may have been here before, and lost all it had.
    rooms = msgspec.json.encode([(name, lost(forgotten, (name,))) for name in names]).decode()
    query = "INSERT INTO rooms SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)"
    connection.execute(query, (rooms,))


def _conflict(message_id: str) -> Conflict:
    return Conflict(
        f"message id {message_id[:60]!r} was used for another message: a retry repeats the body, a new message needs "
        "a new id",
        code="id_conflict",
        field="id",
    )


def _unfit() -> InvalidValue:
    return InvalidValue("a topic, id, user, key or sender holds half a character (a lone surrogate)")
