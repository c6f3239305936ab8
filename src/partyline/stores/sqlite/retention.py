"""Deletes old messages, and the oldest ones of crowded rooms, in slices between commits.

Age is measured on the log's own clock, which advances while the process runs and never goes back: setting the wall
clock neither deletes messages early nor keeps them for ever.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import msgspec

from partyline.metrics import Counters
from partyline.stores.retention import Bounds, Retention

FORGOTTEN: Final = """
SELECT json_group_array(json_array(topic, offset))
FROM (SELECT '' AS topic, forgotten AS offset FROM store UNION ALL SELECT topic, offset FROM forgotten)
"""
"""The highest offsets of rooms that are empty now, by the rule that bounded them, as JSON in one row."""

_SLICE: Final = 1_000  # rows deleted in one transaction (measured: 2-5 ms)
_COUNTED: Final = 5_000  # rows whose sizes are added up at a time
_SLACK: Final = 50  # a room is cut back to its bound when it is a 50th above it, instead of one row per commit
_LONGEST: Final = 60.0  # seconds between looks at the oldest message
_KNOWN: Final = 100_000  # rooms whose size is remembered; above that, all are counted again


class LogClock:
    """Milliseconds that never go back, for retention, retries and lifetimes.

    While the process runs, they advance with the monotonic clock, whatever is done to the wall clock. Across a restart
    they advance by what the wall clock did since the newest message.
    """

    def __init__(
        self, newest: tuple[int, int] | None, wall: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        """`newest` is (microseconds of the wall clock, milliseconds of this one) of the newest message, if any."""
        start = wall() * 1000
        if newest is not None:
            start = newest[1] + max(0.0, start - newest[0] / 1000)
        self.monotonic = monotonic
        self._base = start - monotonic() * 1000

    def now(self) -> int:
        return int(self._base + self.monotonic() * 1000)


@dataclass(slots=True)
class _Room:
    """What a room holds up to offset `after`; all of it once it is `known`."""

    bounds: Bounds
    count: int = 0
    size: int = 0
    after: int = 0
    known: bool = False

    def add(self, count: int, size: int) -> bool:
        """Count messages and bytes; returns whether the room is crowded now."""
        self.count += count
        self.size += size
        messages, most = self.bounds.max_messages, self.bounds.max_bytes
        if self.count > messages + messages // _SLACK:
            return True
        return most is not None and self.size > most + most // _SLACK and self.count > 1


@dataclass(slots=True)
class _Age:
    """An age limit of some rooms: up to offset `after` they have nothing older."""

    seconds: float
    after: int = 0
    next_look: float = float("-inf")  # monotonic


class Pruner:
    """Counts what rooms hold and deletes the excess. On the writer's thread."""

    def __init__(self, retention: Retention, clock: LogClock, counters: Counters) -> None:
        self._retention = retention
        self._clock = clock
        self._counters = counters
        self._rooms: dict[str, _Room] = {}  # counted ones; others are counted when they get a message
        self._uncounted: dict[str, None] = {}
        self._crowded: dict[str, None] = {}
        self._ages = [_Age(seconds) for seconds in retention.ages]
        self.slices = 0

    def added(self, tallies: Mapping[str, Sequence[int]]) -> None:
        """A commit added messages to rooms: a count and the bytes of data for each."""
        for room, (count, size) in tallies.items():
            held = self._rooms.get(room)
            if held is None or not held.known:
                self._uncounted[room] = None
            elif held.add(count, size):
                self._crowded[room] = None

    def forget(self) -> None:
        """A commit failed: the counts may be wrong."""
        self._rooms.clear()
        self._uncounted.clear()
        self._crowded.clear()
        self._ages = [_Age(age.seconds) for age in self._ages]

    def postpone(self, seconds: float) -> None:
        """Delete nothing for some seconds."""
        self.forget()
        for age in self._ages:
            age.next_look = self._clock.monotonic() + seconds

    def maintain(self, connection: sqlite3.Connection, head: int) -> tuple[float, list[str]]:
        """Do a slice if one is due; returns the seconds until the next and the rooms that are empty now."""
        if self._crowded:
            self._cut(connection, next(iter(self._crowded)), head)
            return 0.0, []
        if self._uncounted:
            self._count(connection, next(iter(self._uncounted)))
            return 0.0, []
        age = min(self._ages, key=attrgetter("next_look"))
        wait = age.next_look - self._clock.monotonic()
        if wait > 0:
            return wait, []
        return 0.0, self._expire(connection, age, head)

    def _count(self, connection: sqlite3.Connection, room: str) -> None:
        if len(self._rooms) > _KNOWN:
            self._rooms.clear()
        held = self._rooms.get(room) or self._rooms.setdefault(room, _Room(self._retention.of(room)))
        if held.bounds.max_bytes is None:
            (held.count,) = connection.execute("SELECT count(*) FROM log WHERE room = ?", (room,)).fetchone()
            held.known = True
        else:
            query = """
SELECT count(*), coalesce(sum(length(data)), 0), max(offset)
FROM (SELECT offset, data FROM log WHERE room = ? AND offset > ? ORDER BY offset LIMIT ?)
"""
            count, size, last = connection.execute(query, (room, held.after, _COUNTED)).fetchone()
            held.add(count, size)
            held.after = last or 0
            held.known = count < _COUNTED
        if held.known:
            del self._uncounted[room]
            self.added({room: (0, 0)})

    def _cut(self, connection: sqlite3.Connection, room: str, head: int) -> None:
        held = self._rooms[room]
        connection.execute("BEGIN IMMEDIATE")
        query = """
SELECT json_group_array(json_array(offset, length(data)))
FROM (SELECT offset, data FROM log WHERE room = ? ORDER BY offset LIMIT ?)
"""
        (listed,) = connection.execute(query, (room, _SLICE)).fetchone()
        count = size = last = 0
        for offset, length in sorted(msgspec.json.decode(listed, type=list[tuple[int, int]])):
            if not held.bounds.exceeded(held.count - count, held.size - size):
                break
            count, size, last = count + 1, size + length, offset
        connection.execute("DELETE FROM log WHERE room = ? AND offset <= ?", (room, last))
        connection.execute("UPDATE rooms SET pruned = max(pruned, ?) WHERE name = ?", (last, room))
        connection.execute("UPDATE store SET head = ?", (head,))
        connection.execute("COMMIT")
        self._pruned(count)
        held.add(-count, -size)
        if not count or not held.bounds.exceeded(held.count, held.size):
            del self._crowded[room]

    def _pruned(self, count: int) -> None:
        self.slices += 1
        self._counters.pruned += count

    def _expire(self, connection: sqlite3.Connection, age: _Age, head: int) -> list[str]:
        """Delete a slice of the messages older than `age` in its rooms; returns the rooms that are empty now."""
        # Offsets and the log's clock grow together: the messages that are too old are the first ones of the log.
        query = "SELECT at FROM log WHERE offset > ? ORDER BY offset LIMIT 1"
        oldest = connection.execute(query, (age.after,)).fetchone()
        limit = age.seconds * 1000
        now = self._clock.now()
        if oldest is None or now - oldest[0] <= limit:
            left = limit if oldest is None else oldest[0] + limit - now
            # A hundredth late, so that messages that expire one by one are deleted in slices.
            wait = min(_LONGEST, max(0.001, left / 1000) + min(1.0, limit / 100_000))
            age.next_look = self._clock.monotonic() + wait
            return []
        connection.execute("BEGIN IMMEDIATE")
        query = (
            "SELECT max(offset) FROM (SELECT offset, at FROM log WHERE offset > ? ORDER BY offset LIMIT ?) WHERE at < ?"
        )
        (last,) = connection.execute(query, (age.after, _SLICE, now - limit)).fetchone()
        query = """
SELECT json_group_array(json_array(room, count, size, last)) FROM (
  SELECT room, count(*) AS count, sum(length(data)) AS size, max(offset) AS last
  FROM log NOT INDEXED WHERE offset > ? AND offset <= ? GROUP BY room
)
"""
        (listed,) = connection.execute(query, (age.after, last)).fetchone()
        touched = msgspec.json.decode(listed, type=list[tuple[str, int, int, int]])
        if len(self._ages) > 1:
            touched = [one for one in touched if self._retention.of(one[0]).max_age == age.seconds]
        gone = _delete(connection, age.after, last, touched, head) if touched else []
        self._remember(connection, {room: upto for room, _, _, upto in touched}, gone)
        connection.execute("COMMIT")
        age.after = last
        if touched:
            self._pruned(sum(count for _, count, _, _ in touched))
        for room, count, size, _ in touched:
            if (held := self._rooms.get(room)) is not None:
                held.add(-count, -size)
        for room in gone:
            self._rooms.pop(room, None)
            self._crowded.pop(room, None)
        return gone

    def _remember(self, connection: sqlite3.Connection, upto: Mapping[str, int], gone: list[str]) -> None:
        """Record the highest offsets of rooms that are empty now, by the rule that bounded them."""
        forgotten: dict[str, int] = {}
        for room in gone:
            rule, _ = self._retention.rule(room)
            forgotten[rule] = max(forgotten.get(rule, 0), upto[room])
        for rule, offset in forgotten.items():
            if not rule:
                connection.execute("UPDATE store SET forgotten = max(forgotten, ?)", (offset,))
                continue
            query = (
                "INSERT INTO forgotten VALUES (?, ?) ON CONFLICT DO UPDATE SET offset = max(offset, excluded.offset)"
            )
            connection.execute(query, (rule, offset))


def read_forgotten(listed: str | bytes) -> dict[str, int]:
    """The result of FORGOTTEN, as `partyline.stores.retention.lost` takes it."""
    return dict(msgspec.json.decode(listed, type=list[tuple[str, int]]))


def _delete(
    connection: sqlite3.Connection, after: int, last: int, touched: list[tuple[str, int, int, int]], head: int
) -> list[str]:
    """Delete these rooms' messages between two offsets; returns the rooms that are empty now."""
    listed = msgspec.json.encode([(room, upto) for room, _, _, upto in touched]).decode()
    names = msgspec.json.encode([room for room, _, _, _ in touched]).decode()
    query = "DELETE FROM log WHERE offset > ? AND offset <= ? AND +room IN (SELECT value FROM json_each(?))"
    connection.execute(query, (after, last, names))
    query = """
UPDATE rooms SET pruned = max(pruned, touched.last)
FROM (SELECT json_extract(value, '$[0]') AS name, json_extract(value, '$[1]') AS last FROM json_each(?)) AS touched
WHERE rooms.name = touched.name
"""
    connection.execute(query, (listed,))
    query = """
SELECT json_group_array(name) FROM rooms
WHERE name IN (SELECT value FROM json_each(?)) AND NOT EXISTS (SELECT 1 FROM log WHERE room = name)
"""
    (empty,) = connection.execute(query, (names,)).fetchone()
    gone = msgspec.json.decode(empty, type=list[str])
    if gone:
        connection.execute("DELETE FROM rooms WHERE name IN (SELECT value FROM json_each(?))", (empty,))
    connection.execute("UPDATE store SET head = ?", (head,))
    return gone
