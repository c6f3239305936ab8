"""Retention, by one node at a time, in short transactions.

No message is deleted in its first minute, so that every node has read it by then. The counts of messages and bytes in
each room are brought up to date here and not by the appends, which stay cheap; `rooms.due` says when a room has to be
looked at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from partyline import log
from partyline.adapters.postgres.connecting import Address, Connection, Line
from partyline.adapters.postgres.placing import regex
from partyline.errors import StoreUnavailable
from partyline.metrics import Counters
from partyline.stores.retention import Retention

_log = log.get("store")

GRACE: Final = 60.0  # seconds in which nothing goes
_PAUSE: Final = 10.0  # seconds between rounds
_COUNTED: Final = 20_000  # messages that one transaction counts
_ROOMS: Final = 100  # rooms of one transaction
_MESSAGES: Final = 2_000  # messages of one room that go in one transaction

_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('partyline.', 0))"
_STANDING: Final = """
SELECT counted, bounds, (SELECT head FROM partyline.store), coalesce($1, extract(epoch FROM clock_timestamp())::float8)
FROM partyline.pruning
"""
_CHANGED: Final = "UPDATE partyline.pruning SET bounds = $1"
_ALL_DUE: Final = "UPDATE partyline.rooms SET due = 0"
_COUNT: Final = """
SELECT room, count(*), sum(octet_length(data))::bigint, min(time) FROM partyline.log
WHERE "offset" > $1 AND "offset" <= $2 GROUP BY room
"""
_COUNT_IN: Final = """
UPDATE partyline.rooms r SET messages = messages + c.count, bytes = r.bytes + c.bytes, due = least(r.due, c.due)
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::float8[]) AS c(name, count, bytes, due) WHERE r.name = c.name
RETURNING r.name, r.messages, r.bytes
"""
_DUE_AT: Final = "UPDATE partyline.rooms SET due = least(due, $2) WHERE name = ANY ($1)"
_DUE: Final = "SELECT name, messages, bytes FROM partyline.rooms WHERE due <= $1 ORDER BY due LIMIT $2"
# The oldest of a room go as long as they are too old, or the room has too many, or too much and more than one.
_PRUNE: Final = f"""
WITH old AS (
  SELECT "offset", time, octet_length(data) AS size, row_number() OVER w - 1 AS gone,
    sum(octet_length(data)) OVER w - octet_length(data) AS gone_bytes
  FROM (
    SELECT * FROM partyline.log WHERE room = $1 AND "offset" <= $2 AND time < $3 ORDER BY "offset" LIMIT {_MESSAGES}
  ) AS oldest WINDOW w AS (ORDER BY "offset")
), deleted AS (
  DELETE FROM partyline.log USING old WHERE log."offset" = old."offset" AND (
    old.time < $4 OR $5 - gone > $6 OR ($7::bigint - gone_bytes > $8 AND $5 - gone > 1)
  ) RETURNING log."offset", size
)
SELECT count(*), coalesce(sum(size), 0)::bigint, max("offset") FROM deleted
"""
_PRUNED: Final = """
UPDATE partyline.rooms SET messages = messages - $2, bytes = bytes - $3, pruned = greatest(pruned, $4), due = $5
WHERE name = $1
"""
_NEXT: Final = 'SELECT time FROM partyline.log WHERE room = $1 ORDER BY "offset" LIMIT 1'
_UP_TO: Final = "UPDATE partyline.pruning SET pruned = greatest(pruned, $1)"
_COUNTED_TO: Final = "UPDATE partyline.pruning SET counted = $1"
# Nobody appends meanwhile: a room that a message is just put into does not go.
_LOCK_STORE: Final = "SELECT FROM partyline.store FOR UPDATE"
_EMPTY: Final = """
DELETE FROM partyline.rooms r WHERE name = ANY ($1)
  AND NOT EXISTS (SELECT FROM partyline.log l WHERE l.room = r.name) RETURNING name, pruned
"""
_SUBTRACT_ROOMS: Final = "UPDATE partyline.store SET rooms = rooms - $1"
_FORGET: Final = """
INSERT INTO partyline.forgotten AS f VALUES ($1, $2, $3)
ON CONFLICT (rule) DO UPDATE SET "offset" = greatest(f."offset", excluded."offset")
"""


class Pruner:
    """One node's share: a round every ten seconds, unless another node is pruning."""

    def __init__(
        self, address: Address, retention: Retention, counters: Counters, clock: Callable[[], float] | None
    ) -> None:
        self._retention = retention
        self._counters = counters
        self._clock = clock
        self._line = Line(address)
        self._sql = address.sql

    async def run(self) -> None:
        """Prune until it is cancelled."""
        try:
            while True:
                await asyncio.sleep(_PAUSE)
                try:
                    while await self.round():
                        pass
                except StoreUnavailable as error:
                    _log.debug("nothing is pruned while the log cannot be reached", error=error.message)
                except Exception:
                    _log.exception("the log cannot be pruned")
        finally:
            self._line.drop()

    async def round(self) -> bool:
        """One transaction's worth. Whether there is more to do at once."""
        async with self._line.use() as connection, connection.transaction():
            if not await connection.fetchval(self._sql(_TRY_LOCK)):
                return False
            clock = None if self._clock is None else self._clock()
            counted, bounds, head, now = await connection.fetchrow(self._sql(_STANDING), clock)
            if bounds != (ours := repr(self._retention)):
                await connection.execute(self._sql(_CHANGED), ours)
                await connection.execute(self._sql(_ALL_DUE))
            until = min(head, counted + _COUNTED)
            if until > counted:
                await self._count(connection, counted, until, now)
            return await self._prune(connection, until, now) or until < head

    async def _count(self, connection: Connection, counted: int, until: int, now: float) -> None:
        """Count what was appended."""
        rows = await connection.fetch(self._sql(_COUNT), counted, until)
        columns: list[list[Any]] = [[], [], [], []]
        for room, count, size, oldest in rows:
            for column, value in zip(
                columns, (room, count, size, oldest + self._retention.of(room).max_age), strict=True
            ):
                column.append(value)
        over = [
            room
            for room, count, size in await connection.fetch(self._sql(_COUNT_IN), *columns)
            if self._retention.of(room).exceeded(count, size)
        ]
        if over:
            await connection.execute(self._sql(_DUE_AT), over, now)
        await connection.execute(self._sql(_COUNTED_TO), until)

    async def _prune(self, connection: Connection, counted: int, now: float) -> bool:
        """Delete what may go. Whether there are more rooms to look at."""
        due = await connection.fetch(self._sql(_DUE), now, _ROOMS)
        empty: list[str] = []
        highest = total = 0
        for room, messages, size in due:
            bounds = self._retention.of(room)
            gone, gone_bytes, last = await connection.fetchrow(
                self._sql(_PRUNE),
                room,
                counted,
                now - GRACE,
                now - bounds.max_age,
                messages,
                bounds.max_messages,
                size,
                bounds.max_bytes if bounds.max_bytes is not None else size,
            )
            oldest = await connection.fetchval(self._sql(_NEXT), room)
            if oldest is None:
                empty.append(room)
                again = now
            elif gone == _MESSAGES:
                again = now
            elif bounds.exceeded(messages - gone, size - gone_bytes):
                again = now + _PAUSE  # they are too young
            else:
                again = max(oldest + bounds.max_age, now + _PAUSE)
            await connection.execute(self._sql(_PRUNED), room, gone, gone_bytes, last or 0, again)
            highest, total = max(highest, last or 0), total + gone
        if highest:
            await connection.execute(self._sql(_UP_TO), highest)
        if empty:
            await self._forget(connection, empty)
        self._counters.pruned += total
        return len(due) == _ROOMS

    async def _forget(self, connection: Connection, rooms: list[str]) -> None:
        """These rooms are empty now, unless something has come meanwhile."""
        await connection.execute(self._sql(_LOCK_STORE))
        forgotten: dict[str, int] = {}
        gone = await connection.fetch(self._sql(_EMPTY), rooms)
        for room, pruned in gone:
            rule, _ = self._retention.rule(room)
            forgotten[rule] = max(pruned, forgotten.get(rule, 0))
        for rule, offset in forgotten.items():
            await connection.execute(self._sql(_FORGET), rule, regex(rule) if rule else "", offset)
        if gone:
            await connection.execute(self._sql(_SUBTRACT_ROOMS), len(gone))
