"""The durable log in SQLite: group commit on the writer's thread, pages from separate readers.

`append` queues. The writer takes whatever queued up during the last commit, numbers and inserts it in one transaction,
and after the commit hands all of it to the loop in one call. If a commit fails, its drafts are refused, though their
rows may be on the disk: when the disk takes commits again, rows after the last message handed out are handed out as
Found, once, before anything new is accepted.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, cast

from partyline import log
from partyline.errors import ConfigError, PartylineError, StoreUnavailable
from partyline.interfaces import Committed, Durability, Found, News, Outcome, Refused, Stretch, View
from partyline.models import Draft, Message, Page
from partyline.stores.retention import Retention
from partyline.stores.sqlite import reading
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.opening import UNREADABLE, damaged, renew_epoch
from partyline.stores.sqlite.placing import Batch, Damaged, Group, Placer, Row
from partyline.stores.sqlite.reading import Reader, walk
from partyline.stores.sqlite.retention import LogClock, Pruner

_log = log.get("store")

_CHECKED: Final = 10_000  # newest rows whose checksums are verified at start
_MAX_DRAFTS: Final = 2_048  # in one commit; the others wait for the next
_MAX_BYTES: Final = 8 * 1024 * 1024
_MOST_ALARMS: Final = 10_000  # damaged messages that are counted and logged, each once
_POSTPONED: Final = 60.0  # seconds until the next try after housekeeping failed


class SqliteStore:
    """A Store in a Database, which it shares with other tables and leaves open."""

    epoch: str
    durability = Durability.POWER_CUT

    def __init__(
        self,
        database: Database,
        retention: Retention | None = None,
        *,
        idempotency_window: float = 86400.0,
        new_epoch: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check the newest messages and take part in the database's commits; blocks for some milliseconds.

        `clock` is the wall clock, `monotonic` one that is never set, both in seconds; `idempotency_window` is how long
        an id is remembered, in seconds; `new_epoch` makes every position handed out before invalid. Raises
        ConfigError if the log is damaged, or the database is not a file.
        """
        if database.path == ":memory:":
            raise ConfigError("db: the log in SQLite needs a file; :memory: is for the log in memory", field="db")
        self._database = database
        self.epoch = cast("str", database.rows("SELECT epoch FROM store")[0][0])
        newest = database.rows("SELECT time, at FROM log ORDER BY offset DESC LIMIT 1")
        self._time = LogClock(cast("tuple[int, int]", newest[0]) if newest else None, clock, monotonic)
        retention = retention or Retention()
        self._pruner = Pruner(retention, self._time, database.counters)
        self._placer = Placer(retention, self._pruner, self._time, clock, idempotency_window, self._alarm_later)
        self._reader = Reader(database.path, database.check_place)
        self.queue: deque[tuple[Group, StoreUnavailable | None]] = deque()
        self._gathered: list[tuple[Group, StoreUnavailable | None]] = []  # in this turn of the loop
        self._taken: list[Group] = []
        self._batch: Batch | None = None
        self._down: StoreUnavailable | None = None  # set by the writer while commits fail
        self._loop: asyncio.AbstractEventLoop | None = None
        self._committed: Committed | None = None
        self._outstanding = 0  # calls of append that are not answered yet; used on the loop only
        self._idle: asyncio.Future[None] | None = None
        self._closed = False
        self._damaged: dict[str, int] = {}  # by room, the highest offset found damaged since the start
        self._alarmed: set[int] = set()  # offsets that were reported already
        database.inspect(self._inspect)
        if new_epoch:
            database.inspect(self._renew)
        self._head = self._handed_out = self._placer.head

    @property
    def head(self) -> int:
        return self._head

    @property
    def refusal(self) -> PartylineError | None:
        return self._down

    def start(self, committed: Committed) -> None:
        self._loop = asyncio.get_running_loop()
        self._committed = committed
        self._database.attach(self)

    def append(self, *drafts: Draft) -> None:
        if not drafts:
            return
        refusal = _closed() if self._closed else self._down
        self._outstanding += 1
        if refusal is not None and self._outstanding == 1:  # no earlier call waits for an answer
            assert self._loop is not None, "start comes before append"
            self._loop.call_soon(self._hand_out, [Refused(draft, refusal) for draft in drafts], 1)
            return
        if not self._gathered:
            # Passed to the writer at the end of this turn of the loop: otherwise it would take the message of the first
            # of many ready sockets, and the others would wait for another commit.
            assert self._loop is not None, "start comes before append"
            self._loop.call_soon(self._pass_on)
        self._gathered.append((drafts, refusal if self._closed else None))

    async def read(self, view: View, after: int, limit: int) -> Page:
        head = self._head
        found = await self._off_the_loop(lambda: self._reader.read(view, after, limit, head, self._time.now))
        page = found.page
        for room, offset in found.damaged:
            self._alarm(room, offset)
        if self._damaged:
            behind = max((offset for room, offset in self._damaged.items() if not room or view.covers(room)), default=0)
            if behind >= page.oldest:
                page = Page(page.messages, page.next, page.more, behind + 1)
        return page

    async def newest(self, room: str, before: int, limit: int) -> Sequence[Message]:
        before = min(before, self._head + 1)
        found = await self._off_the_loop(lambda: self._reader.newest(room, before, limit, self._time.now))
        for where, offset in found.damaged:
            self._alarm(where, offset)
        return found.page.messages

    async def stretch(self, after: int, limit: int) -> Stretch:
        """At most `limit` messages of all rooms above an offset, expired ones too. Raises StoreUnavailable."""
        head = self._head
        found = await self._off_the_loop(lambda: self._reader.above(after, limit, head))
        for room, offset in found.damaged:
            self._alarm(room, offset)
        return Stretch(found.page.messages, found.page.oldest)

    async def renew(self) -> None:
        """Take a new epoch, as `new_epoch` does at start."""
        renewed: list[str] = []
        await self._database.commit(lambda connection: renewed.append(renew_epoch(connection)))
        self.epoch = renewed[-1]
        _log.warning("the log has a new epoch: positions of the one before are answered with recovered: false")

    async def _off_the_loop(self, read: Callable[[], reading.Found]) -> reading.Found:
        """A page, read by one of the reader's threads. Raises StoreUnavailable."""
        if self._closed:
            raise _closed()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader.pool, read)
        except UNREADABLE as error:
            self._database.counters.errors += 1
            _log.error("the log cannot be read", error=str(error))
            raise StoreUnavailable("the log cannot be read now: try again in a moment") from None

    async def close(self) -> None:
        self._closed = True
        if self._outstanding:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        await asyncio.get_running_loop().run_in_executor(None, self._reader.close)

    # On the loop

    def _pass_on(self) -> None:
        gathered, self._gathered = self._gathered, []
        self.queue.extend(gathered)
        if not self._database.wake():
            self.stopped()

    def _hand_out(self, outcomes: Sequence[Outcome | News], answered: int) -> None:
        self._outstanding -= answered
        assert self._committed is not None
        try:
            self._committed(outcomes)
        finally:
            if self._idle is not None and not self._outstanding and not self._idle.done():
                self._idle.set_result(None)

    def _alarm(self, room: str, offset: int) -> None:
        """A row is damaged: log it, and tell every later reader of the room (of all rooms if it is unknown)."""
        if offset > self._damaged.get(room, 0):
            self._damaged[room] = offset
        if offset in self._alarmed or len(self._alarmed) >= _MOST_ALARMS:
            return
        self._alarmed.add(offset)
        self._database.counters.damaged += 1
        _log.error("a message in the log is damaged and not served", position=f"{self.epoch}-{offset}", topic=room)

    def _alarm_later(self, room: str, offset: int) -> None:
        self._post(self._alarm, room, offset)

    # On the writer's thread: Participant

    def write(self, connection: sqlite3.Connection) -> None:
        groups: list[Group] = []
        drafts = size = 0
        queue = self.queue
        while queue and drafts < _MAX_DRAFTS and size < _MAX_BYTES:
            if queue[0][1] is not None:
                break
            group, _ = queue.popleft()
            groups.append(group)
            drafts += len(group)
            for draft in group:
                size += len(draft.data)
        self._taken = groups
        self._batch = self._placer.place(connection, groups) if groups else None

    def committed(self) -> None:
        batch, self._batch, self._taken = self._batch, None, []
        if batch is not None:
            self._head = self._handed_out = batch.head
            self._post(self._hand_out, batch.outcomes, batch.answered)
        if self.queue and self.queue[0][1] is not None:
            self._refuse_queued()

    def failed(self, error: Exception) -> None:
        refusal = StoreUnavailable("the log cannot take a message now: publish again in a moment")
        self._down = refusal
        groups, self._taken, self._batch = self._taken, [], None
        if groups:
            self._post(self._hand_out, [Refused(draft, refusal) for group in groups for draft in group], len(groups))
        self._refuse_queued()

    def refuse(self) -> None:
        self._refuse_queued()

    def reopened(self, connection: sqlite3.Connection) -> None:
        found: list[News] = []
        for row in walk(connection, self._handed_out):
            if isinstance(row, Row):
                found.append(Found(row.message.draft, row.message))
            else:
                self._alarm_later(row.room, row.offset)
        self._placer.load(connection)
        self._head = self._handed_out = self._placer.head
        if found:
            _log.warning("messages of a commit that had failed are in the log", count=len(found))
            self._post(self._hand_out, found, 0)
        self._down = None

    def maintain(self, connection: sqlite3.Connection) -> float | None:
        try:
            wait, gone = self._pruner.maintain(connection, self._placer.head)
        except (sqlite3.Error, ValueError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (0, sqlite3.SQLITE_CORRUPT):
                raise
            # Damage in messages that are due for deletion: publishing goes on.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._pruner.postpone(_POSTPONED)
            _log.error("the log cannot be pruned", error=str(error))
            return _POSTPONED
        if gone:
            self._placer.gone(gone)
        return wait

    def stopped(self) -> None:
        self._down = _closed()
        self._refuse_queued()

    def _refuse_queued(self) -> None:
        refusal = self._down or _closed()
        outcomes: list[Outcome] = []
        groups = 0
        while self.queue:
            group, _ = self.queue.popleft()
            outcomes += [Refused(draft, refusal) for draft in group]
            groups += 1
        if groups:
            self._post(self._hand_out, outcomes, groups)

    def _post(self, callback: Callable[..., None], *values: object) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(callback, *values)
        except RuntimeError:  # the loop is closed: nobody waits for it
            _log.warning("the server ended before it was told of a commit")

    def _inspect(self, connection: sqlite3.Connection) -> None:
        """At start: load the state of the log, and verify its newest messages."""
        self._placer.load(connection)
        for row in walk(connection, self._placer.head - _CHECKED):
            if isinstance(row, Damaged):
                raise damaged(self._database.path, f"the message at offset {row.offset} is not what was written")

    def _renew(self, connection: sqlite3.Connection) -> None:
        self.epoch = renew_epoch(connection)
        _log.info("the log has a new epoch: positions of the old one are answered with recovered: false")


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the server is shutting down: publish again in a moment")
