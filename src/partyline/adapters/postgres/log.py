"""The log of several nodes in PostgreSQL: what `interfaces.SharedLog` asks of an engine.

An append is one call of a function there, which takes the row of the store, numbers, keeps, and rings: so the order of
offsets is the order of commits, and no node that hangs or is cut off holds anything. NOTIFY is a doorbell without
content; where it is not heard, as through a pooler, nodes look by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from partyline import log
from partyline.adapters.postgres import connecting, reading
from partyline.adapters.postgres.connecting import Address, Bell, Line
from partyline.adapters.postgres.placing import ROW, Placing, message
from partyline.adapters.postgres.pruning import Pruner
from partyline.errors import StoreUnavailable
from partyline.interfaces import Fenced, Outcome, SharedLog, Standing, Stretch, View
from partyline.metrics import Counters
from partyline.models import Draft, Message, Page
from partyline.stores.retention import Retention

_log = log.get("store")

_READERS: Final = 2  # connections for pages of history
_MAX_BYTES: Final = 4 * 1024 * 1024  # of one stretch

_APPEND: Final = "SELECT told, head, at FROM partyline.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
_KNOWN: Final = f"""
SELECT {ROW} FROM partyline.log WHERE identity = ANY ($1)
  AND time >= coalesce($2, extract(epoch FROM clock_timestamp())::float8) - $3
ORDER BY "offset"
"""
_ROOMS: Final = """
SELECT rooms, ARRAY(SELECT name FROM partyline.rooms WHERE name = ANY ($1)) FROM partyline.store
"""
_TAIL: Final = f"SELECT pruned, {ROW} FROM partyline.tail($1, $2, $3, $4)"
_STANDING: Final = f"""
SELECT s.epoch, s.head, l.* FROM partyline.store s
LEFT JOIN (SELECT {ROW} FROM partyline.log) AS l ON l."offset" = $1
"""
_PROMOTED: Final = """
UPDATE partyline.store SET epoch = $1, origin = partyline.origin() WHERE origin <> partyline.origin() RETURNING 1
"""
_WAITS: Final = """
SELECT set_config('synchronous_commit', 'on', true)
WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
"""
_RENEW: Final = "UPDATE partyline.store SET epoch = $2 WHERE epoch = $1"


def open_log(url: str, retention: Retention, idempotency_window: float) -> SharedLog:
    """The log at `url`, not connected yet. Raises ConfigError."""
    return PostgresLog(url, retention, idempotency_window=idempotency_window)


class PostgresLog:
    """One node's access to a log in PostgreSQL.

    `address` is a URL, `postgres://user:password@host:port/database`, with `?schema=` for another schema than
    partyline; `clock` takes the place of PostgreSQL's. Raises ConfigError where the address cannot be used.
    """

    def __init__(
        self,
        address: str,
        retention: Retention | None = None,
        *,
        idempotency_window: float = 86400.0,
        clock: Callable[[], float] | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._retention = retention or Retention()
        self._window = idempotency_window
        self._clock = clock
        self._address = Address(address)
        self._appending = Line(self._address)
        self._bell = Bell()
        self._following = Line(self._address, self._bell.ring)
        self._reading = [Line(self._address) for _ in range(_READERS)]
        self._seen: tuple[str, int] | None = None  # nothing came after this place, unless the bell has rung since
        self._pruner = Pruner(self._address, self._retention, counters or Counters(), clock)
        self._pruning: asyncio.Task[None] | None = None
        sql = self._address.sql
        self._append, self._known, self._rooms, self._tail = sql(_APPEND), sql(_KNOWN), sql(_ROOMS), sql(_TAIL)

    @property
    def _lines(self) -> list[Line]:
        return [self._appending, self._following, *self._reading]

    @property
    def _now(self) -> float | None:
        return None if self._clock is None else self._clock()

    async def connect(self, offset: int) -> Standing:
        for line in self._lines:
            if not line.busy:
                line.drop()
        self._seen = None
        sql = self._address.sql
        async with self._appending.use() as connection:
            await connecting.prepare(self._address, connection)
            if await connection.fetchval(sql(_PROMOTED), connecting.new_epoch()):
                _log.error("PostgreSQL was promoted or restored: the log may have lost its end, and has a new epoch")
            epoch, head, *row = await connection.fetchrow(sql(_STANDING), offset)
            last = None if row[0] is None else message(*row).draft.identity
            standing = Standing(epoch, head, await connecting.durability(connection), last)
        if self._pruning is None:
            self._pruning = asyncio.get_running_loop().create_task(self._pruner.run())
        return standing

    async def append(self, epoch: str, groups: Sequence[Sequence[Draft]]) -> Sequence[Outcome]:
        placing = Placing(groups)
        most = self._retention.max_rooms
        async with self._appending.use() as connection:
            while placing.fresh:
                now = self._now
                told, head, at = await connection.fetchrow(
                    self._append, epoch, now, self._window, most, *placing.columns
                )
                if told == "stored":
                    return placing.outcomes(head, at)
                if told == "known":
                    rows = await connection.fetch(self._known, placing.columns[3], now, self._window)
                    placing.learn(message(*row) for row in rows)
                elif told == "full":
                    count, there = await connection.fetchrow(self._rooms, placing.rooms)
                    placing.learn_rooms(there, most - count, most)
                else:
                    break
            else:
                return placing.outcomes(0, 0.0)
        raise Fenced

    async def tail(self, epoch: str, after: int, limit: int, wait: float) -> Stretch:
        clock = time.monotonic
        until = clock() + wait
        while True:
            rung = self._seen != (epoch, after) or await self._bell.rings(until - clock())
            self._bell.answered()
            async with self._following.use() as connection:
                rows = await connection.fetch(self._tail, epoch, after, limit, _MAX_BYTES)
            if not rows:
                raise Fenced
            pruned = rows[0][0]
            if rows[0][1] is None:
                self._seen = epoch, after
                if clock() < until:
                    continue
                return Stretch((), pruned + 1)
            if not rung:
                self._bell.not_heard()
            messages = [message(*row) for _, *row in rows]
            return Stretch(messages, pruned + 1)

    async def head(self) -> int:
        async with self._reader().use() as connection:
            found: int = await connection.fetchval(self._address.sql("SELECT head FROM partyline.store"))
            return found

    async def renew(self, epoch: str) -> None:
        async with self._appending.use() as connection, connection.transaction():
            await connection.execute(_WAITS)
            await connection.execute(self._address.sql(_RENEW), epoch, connecting.new_epoch())
            await connection.execute("SELECT pg_notify($1, '')", self._address.channel)

    async def read(self, epoch: str, view: View, after: int, limit: int) -> Page:
        async with self._reader().use() as connection:
            return await reading.read(self._address, connection, epoch, view, after, limit, self._now)

    async def newest(self, epoch: str, room: str, before: int, limit: int) -> Sequence[Message]:
        async with self._reader().use() as connection:
            return await reading.newest(self._address, connection, epoch, room, before, limit, self._now)

    async def close(self) -> None:
        if self._pruning is not None:
            self._pruning.cancel()
            await asyncio.wait([self._pruning])
        for line in self._lines:
            with suppress(StoreUnavailable):
                await line.close()

    def _reader(self) -> Line:
        return next((line for line in self._reading if not line.busy), self._reading[0])
