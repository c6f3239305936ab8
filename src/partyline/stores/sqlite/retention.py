"""What the log forgets: old messages and the oldest of crowded rooms, in slices between two commits.

Age is measured on the log's own clock, which goes on while the process runs and never goes back: a wall clock that is
set right, or wrong, neither deletes messages early nor keeps them for ever.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

_SLICE: Final = 1_000  # rows deleted in one transaction (measured: 2-5 ms)
_SLACK: Final = 50  # a crowded room is cut back to its bound when it is a 50th above it: not one row per commit
_LONGEST: Final = 60.0  # seconds between two looks at the oldest message


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept: seconds, messages per room (cut back when a 50th above), rooms."""

    max_age: float = 7 * 86400.0
    max_messages: int = 100_000
    max_rooms: int = 1_000_000


class LogClock:
    """Milliseconds that never go back, for retention, retries and lives.

    Beside a wall clock that is set while the process runs, they go on with the monotonic one. Across a restart they
    advance by what the wall clock did since the newest message.
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


class Pruner:
    """Counts what rooms hold and deletes what is too much. On the writer's thread."""

    def __init__(self, retention: Retention, clock: LogClock) -> None:
        self._retention = retention
        self._clock = clock
        self._slack = retention.max_messages // _SLACK
        self._counts: dict[str, int] = {}  # of rooms that were counted; others when something comes to them
        self._uncounted: dict[str, None] = {}
        self._crowded: dict[str, None] = {}
        self._next_look = float("-inf")  # monotonic: when the oldest message may be too old
        self.slices = 0

    def added(self, room: str, count: int) -> None:
        """A commit brought `count` messages to `room`."""
        known = self._counts.get(room)
        if known is None:
            self._uncounted[room] = None
            return
        self._counts[room] = known = known + count
        if known > self._retention.max_messages + self._slack:
            self._crowded[room] = None

    def forget(self) -> None:
        """A commit failed: what was counted may not be so."""
        self._counts.clear()
        self._uncounted.clear()
        self._crowded.clear()
        self._next_look = float("-inf")

    def postpone(self, seconds: float) -> None:
        """Leave everything as it is for a while."""
        self.forget()
        self._next_look = self._clock.monotonic() + seconds

    def maintain(self, connection: sqlite3.Connection, head: int) -> tuple[float, list[str]]:
        """Do one slice if one is due: (seconds until the next, rooms of which nothing is left)."""
        if self._crowded:
            room = next(iter(self._crowded))
            self._cut(connection, room, head)
            return 0.0, []
        if self._uncounted:
            room = next(iter(self._uncounted))
            del self._uncounted[room]
            (count,) = connection.execute("SELECT count(*) FROM log WHERE room = ?", (room,)).fetchone()
            if len(self._counts) > 100_000:
                self._counts.clear()
            self._counts[room] = count
            self.added(room, 0)
            return 0.0, []
        wait = self._next_look - self._clock.monotonic()
        if wait > 0:
            return wait, []
        return self._age(connection, head)

    def _cut(self, connection: sqlite3.Connection, room: str, head: int) -> None:
        excess = self._counts[room] - self._retention.max_messages
        connection.execute("BEGIN IMMEDIATE")
        query = "SELECT count(*), max(offset) FROM (SELECT offset FROM log WHERE room = ? ORDER BY offset LIMIT ?)"
        count, last = connection.execute(query, (room, min(excess, _SLICE))).fetchone()
        connection.execute("DELETE FROM log WHERE room = ? AND offset <= ?", (room, last))
        connection.execute("UPDATE rooms SET pruned = max(pruned, ?) WHERE name = ?", (last, room))
        connection.execute("UPDATE store SET head = ?", (head,))
        connection.execute("COMMIT")
        self.slices += 1
        self._counts[room] -= count
        if excess <= count:
            del self._crowded[room]

    def _age(self, connection: sqlite3.Connection, head: int) -> tuple[float, list[str]]:
        # Offsets and the log's clock grow together: what is too old is a piece of the log's beginning.
        oldest = connection.execute("SELECT at FROM log ORDER BY offset LIMIT 1").fetchone()
        limit = self._retention.max_age * 1000
        now = self._clock.now()
        if oldest is None or now - oldest[0] <= limit:
            left = limit if oldest is None else oldest[0] + limit - now
            # A hundredth late, so that what grows old message by message goes in slices.
            wait = min(_LONGEST, max(0.001, left / 1000) + min(1.0, limit / 100_000))
            self._next_look = self._clock.monotonic() + wait
            return wait, []
        connection.execute("BEGIN IMMEDIATE")
        query = "SELECT max(offset) FROM (SELECT offset, at FROM log ORDER BY offset LIMIT ?) WHERE at < ?"
        (last,) = connection.execute(query, (_SLICE, now - limit)).fetchone()
        query = """
SELECT json_group_array(json_array(room, count, last))
FROM (SELECT room, count(*) AS count, max(offset) AS last FROM log WHERE offset <= ? GROUP BY room)
"""
        (listed,) = connection.execute(query, (last,)).fetchone()
        touched = msgspec.json.decode(listed, type=list[tuple[str, int, int]])
        connection.execute("DELETE FROM log WHERE offset <= ?", (last,))
        query = """
UPDATE rooms SET pruned = max(pruned, touched.last)
FROM (SELECT json_extract(value, '$[0]') AS name, json_extract(value, '$[2]') AS last FROM json_each(?)) AS touched
WHERE rooms.name = touched.name
"""
        connection.execute(query, (listed,))
        query = """
SELECT json_group_array(name) FROM rooms
WHERE name IN (SELECT json_extract(value, '$[0]') FROM json_each(?))
  AND NOT EXISTS (SELECT 1 FROM log WHERE room = name)
"""
        (empty,) = connection.execute(query, (listed,)).fetchone()
        gone = msgspec.json.decode(empty, type=list[str])
        if gone:
            connection.execute("DELETE FROM rooms WHERE name IN (SELECT value FROM json_each(?))", (empty,))
        lost = max((last for room, _, last in touched if room in set(gone)), default=0)
        connection.execute("UPDATE store SET head = ?, forgotten = max(forgotten, ?)", (head, lost))
        connection.execute("COMMIT")
        self.slices += 1
        for room, count, _ in touched:
            if room in self._counts:
                self._counts[room] -= count
        for room in gone:
            self._counts.pop(room, None)
            self._crowded.pop(room, None)
        return 0.0, gone
