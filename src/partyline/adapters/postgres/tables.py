"""Tables in PostgreSQL: what there is, and the changes of the last hour in order.

A watcher reads the changes after those that it knows, when the bell rings and every second. One that was away longer
is told again of all that there is, and of what is not there any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from partyline import log
from partyline.adapters.postgres import connecting
from partyline.adapters.postgres.connecting import Address, Connection, Line
from partyline.errors import StoreUnavailable
from partyline.interfaces import Changed

_log = log.get("store")

_PATIENCE: Final = 2.0  # seconds until a PostgreSQL that does not answer is taken to be gone
_LOOK: Final = 1.0  # seconds until it is looked whether something has changed, though nobody has rung
_PIECE: Final = 500  # changes that are read at a time

_NOW: Final = "coalesce({}, extract(epoch FROM clock_timestamp())::float8)"
_GET: Final = f"SELECT value FROM partyline.shelf WHERE name = $1 AND key = $2 AND until > {_NOW.format('$3')}"
_CHANGE: Final = "SELECT partyline.change($1, $2, $3, $4, $5)"
_ALL: Final = f"""
SELECT changed, key, value, until FROM partyline.shelves
LEFT JOIN partyline.shelf ON name = $1 AND until > {_NOW.format("$2")}
"""
_CHANGES: Final = """
SELECT (SELECT min(number) FROM partyline.changes), number, at, name, key, value, until FROM partyline.shelves
LEFT JOIN (SELECT * FROM partyline.changes WHERE number > $1 ORDER BY number LIMIT $2) AS c ON true ORDER BY number
"""


def open_tables(url: str) -> PostgresTables:
    """The tables beside the log at `url`, not connected yet. Raises ConfigError."""
    return PostgresTables(url)


class PostgresTables:
    """Tables in the database of an address, beside the log with the same address.

    `clock` None counts lives by PostgreSQL's clock. Raises ConfigError.
    """

    def __init__(self, address: str, *, clock: Callable[[], float] | None = None) -> None:
        self._address = Address(address)
        self._asking = Line(self._address)
        self._following = Line(self._address, self._ring, "shelves")
        self._clock = clock
        self._bell = asyncio.Event()
        self._seen: int | None = None  # every watcher knows the changes up to here
        self._follower: asyncio.Task[None] | None = None
        self._watching = asyncio.Lock()
        self.registrations, self.sessions, self.revocations = self._tables = tuple(
            PostgresTable(self, name) for name in ("registrations", "sessions", "revocations")
        )

    async def start(self) -> None:
        """Make the schema, if there is none. Raises StoreUnavailable."""
        async with self._asking.use() as connection:
            await connecting.prepare(self._address, connection)

    async def close(self) -> None:
        for table in self._tables:
            table.watchers.clear()
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])
        self._asking.drop()
        self._following.drop()

    # For its tables

    @property
    def now(self) -> float | None:
        """The time, if it is not PostgreSQL's."""
        return None if self._clock is None else self._clock()

    async def ask(self, statement: str, *values: object) -> bytes | None:
        """The one value that a statement gives."""
        async with _patient(), self._asking.use() as connection:
            found: bytes | None = await connection.fetchval(self._address.sql(statement), *values)
            return found

    async def watch(self, table: PostgresTable, changed: Changed) -> None:
        """Tell everything in a table, and from then on its changes."""
        async with self._watching, _patient(), self._following.use() as connection:
            if self._seen is not None:
                await self._catch_up(connection)
            rows = await connection.fetch(self._address.sql(_ALL), table.name, self.now)
            if self._seen is None:
                self._seen = rows[0][0]
            watcher = Watcher(changed, rows[0][0])
            watcher.tell_all(_values(rows))
            table.watchers.append(watcher)
        if self._follower is None:
            self._follower = asyncio.get_running_loop().create_task(self._follow())

    # Following

    def _ring(self) -> None:
        self._bell.set()

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK):
                    await self._bell.wait()
            except TimeoutError:
                pass
            self._bell.clear()
            try:
                async with self._watching, _patient(), self._following.use() as connection:
                    await self._catch_up(connection)
            except StoreUnavailable as error:
                _log.debug("the tables cannot be read", error=error.message)
            except Exception:
                _log.exception("the tables cannot be followed")

    async def _catch_up(self, connection: Connection) -> None:
        """Tell the watchers what has changed."""
        assert self._seen is not None
        while True:
            rows = await connection.fetch(self._address.sql(_CHANGES), self._seen, _PIECE)
            oldest = rows[0][0]
            if oldest is not None and oldest > self._seen + 1:
                await self._begin_again(connection)
                continue
            for _, number, at, name, key, value, until in rows:
                if number is not None:
                    self._seen = number
                    table: PostgresTable = getattr(self, name)
                    for watcher in table.watchers:
                        if number > watcher.since:
                            watcher.tell(_text(key), value, until)
                            watcher.forget(at)
            if len(rows) < _PIECE:
                return

    async def _begin_again(self, connection: Connection) -> None:
        known: list[int] = []
        for table in self._tables:
            rows = await connection.fetch(self._address.sql(_ALL), table.name, self.now)
            there = _values(rows)
            known.append(rows[0][0])
            for watcher in table.watchers:
                watcher.since = rows[0][0]
                watcher.tell_all(there)
        self._seen = min(known)


@dataclass(slots=True)
class Watcher:
    """One watcher, and what it was told. It knows everything up to the change `since`."""

    changed: Changed
    since: int
    known: dict[str, float] = field(default_factory=dict)  # until when each key lives
    most: int = 1_000  # of them, until those that are over are forgotten

    def tell(self, key: str, value: bytes | None, until: float) -> None:
        """Tell one change."""
        if value is None:
            self.known.pop(key, None)
        else:
            self.known[key] = until
        try:
            self.changed(key, value)
        except Exception:
            _log.exception("a change of a table could not be taken in")

    def tell_all(self, there: dict[str, tuple[bytes, float]]) -> None:
        """Tell everything that is there, and what is not there any more."""
        for key in self.known.keys() - there.keys():
            self.tell(key, None, 0.0)
        for key, (value, until) in there.items():
            self.tell(key, value, until)

    def forget(self, now: float) -> None:
        """Forget keys whose life is over, without telling."""
        if len(self.known) > self.most:
            self.known = {key: until for key, until in self.known.items() if until > now}
            self.most = 2 * len(self.known) + 1_000


def _values(rows: Sequence[tuple[int, bytes | None, bytes, float]]) -> dict[str, tuple[bytes, float]]:
    return {_text(key): (value, until) for _, key, value, until in rows if key is not None}


class PostgresTable:
    """One of them."""

    def __init__(self, tables: PostgresTables, name: str) -> None:
        self._tables = tables
        self.name = name
        self.watchers: list[Watcher] = []

    async def get(self, key: str) -> bytes | None:
        return await self._tables.ask(_GET, self.name, _bytes(key), self._tables.now)

    async def put(self, key: str, value: bytes, life: float) -> None:
        await self._tables.ask(_CHANGE, self.name, _bytes(key), value, life, self._tables.now)

    async def take(self, key: str) -> bytes | None:
        return await self._tables.ask(_CHANGE, self.name, _bytes(key), None, 0.0, self._tables.now)

    async def watch(self, changed: Changed) -> None:
        await self._tables.watch(self, changed)


@asynccontextmanager
async def _patient() -> AsyncIterator[None]:
    """Raises StoreUnavailable if the block takes too long."""
    try:
        async with asyncio.timeout(_PATIENCE):
            yield
    except TimeoutError:
        raise StoreUnavailable("PostgreSQL does not answer: try again in a moment") from None


def _bytes(key: str) -> bytes:
    """Any text, lone surrogates included."""
    return key.encode("utf-8", "surrogatepass")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
