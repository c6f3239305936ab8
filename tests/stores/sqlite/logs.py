"""A log in a real file for tests: what it handed out, a disk that fails on command, and what is in the file."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from partyline.errors import PartylineError
from partyline.hub.hub import Hub, RoomRules
from partyline.interfaces import Found, Outcome, Refused, Stored, View
from partyline.metrics import Counters
from partyline.models import Draft, Message, Receipt
from partyline.stores.retention import Retention
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.store import SqliteStore

_SERIAL = itertools.count(1)  # shared by all logs: an id used before a restart belongs to another message
LOOK_AFTER = 0.01  # seconds between two checks that the file is in its place
LONG = 20.0  # seconds nothing here should ever take


class Disk:
    """What happens at a COMMIT of the writer: by default nothing unusual."""

    def __init__(self) -> None:
        self.failing = False  # refuse every commit
        self.uncertain = 0  # how many commits reach the file and fail all the same
        self.code = sqlite3.SQLITE_IOERR
        self.max_pages = 0  # bound of the database, 0 for none
        self.statements: list[str] = []
        self.commits = 0
        self._hold = threading.Event()
        self._hold.set()
        self._held = threading.Event()

    def hold(self) -> None:
        """Stop the writer at its next commit."""
        self._held.clear()
        self._hold.clear()

    async def held(self) -> None:
        """Return when the writer has stopped there."""
        assert await asyncio.to_thread(self._held.wait, LONG)

    def let_go(self) -> None:
        self._hold.set()

    def factory(self) -> type[sqlite3.Connection]:
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, values: object = ()) -> sqlite3.Cursor:  # type: ignore[override]
                disk.statements.append(sql)
                if sql == "PRAGMA temp_store=MEMORY" and disk.max_pages:
                    super().execute(f"PRAGMA max_page_count={disk.max_pages}")
                if sql != "COMMIT":
                    return super().execute(sql, values)  # type: ignore[arg-type]
                disk._held.set()
                assert disk._hold.wait(LONG)
                if disk.failing:
                    raise disk.error()
                done = super().execute(sql)
                disk.commits += 1
                if disk.uncertain:
                    disk.uncertain -= 1
                    raise disk.error()
                return done

        return Connection

    def error(self) -> sqlite3.Error:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = self.code
        return error


class Log:
    """A started store and everything it handed out."""

    def __init__(self, database: Database, store: SqliteStore) -> None:
        self.database = database
        self.store = store
        self.batches: list[list[Outcome]] = []
        self._news = asyncio.Event()
        store.start(self._committed)

    def _committed(self, batch: Sequence[Outcome]) -> None:
        self.batches.append(list(batch))
        self._news.set()

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for batch in self.batches for outcome in batch]

    @property
    def handed_out(self) -> list[int]:
        """The offsets that were fanned out, in that order."""
        return [
            outcome.message.offset or 0
            for outcome in self.outcomes
            if isinstance(outcome, Stored) and not outcome.duplicate
        ]

    def draft(self, room: str = "cats", data: bytes = b"1", message_id: str | None = None, **rest: object) -> Draft:
        return Draft(room, data, message_id or f"id{next(_SERIAL)}", **rest)  # type: ignore[arg-type]

    async def until(self, reached: Callable[[], bool]) -> None:
        """Return when something that was handed out makes `reached` true."""
        async with asyncio.timeout(LONG):
            while not reached():
                self._news.clear()
                await self._news.wait()

    async def answered(self, count: int) -> None:
        """Return when `count` drafts have been answered."""
        await self.until(lambda: len(self._answers()) >= count)

    async def append(self, *drafts: Draft) -> list[Outcome]:
        """Append together; the answers."""
        before = len(self._answers())
        self.store.append(*drafts)
        await self.answered(before + len(drafts))
        return self._answers()[before : before + len(drafts)]

    def _answers(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not isinstance(outcome, Found)]

    async def keep(self, count: int = 1, room: str = "cats", data: bytes = b"1") -> list[int]:
        """Append messages without waiting for each other; their offsets."""
        before = len(self._answers())
        for _ in range(count):
            self.store.append(self.draft(room, data))
        await self.answered(before + count)
        kept = self._answers()[before:]
        assert all(isinstance(outcome, Stored) for outcome in kept), kept[:3]
        return [outcome.message.offset or 0 for outcome in kept if isinstance(outcome, Stored)]

    async def accepted(self) -> int:
        """Append until the store takes it, as a patient publisher does; the offset."""
        draft = self.draft("again")
        async with asyncio.timeout(LONG):
            while True:
                (outcome,) = await self.append(draft)
                if isinstance(outcome, Stored):
                    return outcome.message.offset or 0
                assert isinstance(outcome, Refused)
                await asyncio.sleep(0.001)  # the store says "in a moment"

    async def all(self, room: str = "cats", after: int = 0, limit: int = 1000) -> list[Message]:
        found: list[Message] = []
        while True:
            page = await self.store.read(View(frozenset((room,))), after, limit)
            found += page.messages
            after = page.next
            if not page.more:
                return found

    async def offsets(self, room: str = "cats", after: int = 0) -> list[int]:
        return [message.offset or 0 for message in await self.all(room, after)]

    async def oldest(self, room: str = "cats") -> int:
        return (await self.store.read(View(frozenset((room,))), self.store.head, 1)).oldest

    async def settled(self, reached: Callable[[], bool] = lambda: True) -> None:
        """Return when housekeeping has brought about `reached`: each flush lets it do a slice."""
        async with asyncio.timeout(LONG):
            await self.database.flush()
            await self.database.flush()
            while not reached():
                await self.database.flush()


@contextlib.asynccontextmanager
async def opened(
    path: Path,
    retention: Retention | None = None,
    *,
    disk: Disk | None = None,
    counters: Counters | None = None,
    wal_large: int = 64 * 1024 * 1024,
    **settings: object,
) -> AsyncIterator[Log]:
    """A log at `path`, closed in the order in which the server does it."""
    database = Database(
        str(path),
        counters or Counters(),
        busy_timeout=0.05,
        retry_after=0.01,
        wal_large=wal_large,
        look_after=LOOK_AFTER,
        factory=disk.factory() if disk else sqlite3.Connection,
    )
    try:
        store = SqliteStore(database, retention, **settings)  # type: ignore[arg-type]
        yield Log(database, store)
        await asyncio.wait_for(store.close(), LONG)
    finally:
        if disk:
            disk.let_go()
        await asyncio.to_thread(database.close)


def rows(path: Path, sql: str, *values: object) -> list[tuple[object, ...]]:
    """What another program sees in the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql, values).fetchall()


def change(path: Path, sql: str, *values: object) -> None:
    """What another program does to the file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql, values)


@contextlib.asynccontextmanager
async def hubbed(
    path: Path, retention: Retention | None = None, *, rules: RoomRules | None = None, **settings: object
) -> AsyncIterator[tuple[Hub, SqliteStore]]:
    """A hub on a log at `path`."""
    database = Database(str(path), Counters())
    try:
        store = SqliteStore(database, retention, **settings)  # type: ignore[arg-type]
        yield Hub(store, database.counters, rules), store
        await asyncio.wait_for(store.close(), LONG)
    finally:
        await asyncio.to_thread(database.close)


async def published(hub: Hub, *drafts: Draft) -> list[int]:
    """Publish each message when the one before it is kept; the offsets."""
    offsets: list[int] = []
    for draft in drafts:
        answer: asyncio.Future[Receipt | PartylineError] = asyncio.get_running_loop().create_future()
        hub.publish(draft, answer.set_result)
        receipt = await asyncio.wait_for(answer, LONG)
        assert isinstance(receipt, Receipt), receipt
        assert receipt.position is not None
        offsets.append(receipt.position.offset)
    return offsets
