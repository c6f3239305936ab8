"""One database file: its lock, its schema, and the one thread that writes to it.

The loop never waits for the disk: work is queued, the writer takes whatever queued up during the last commit, runs it
in one transaction, and calls back once. WAL, `synchronous=FULL`. After any error the connection is opened anew, and a
commit that tries the disk must succeed before anything else is written. Twice a second the writer checks that the
path still leads to the file that it has open.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sized
from typing import Final, Protocol

from partyline import log
from partyline.errors import ConfigError
from partyline.metrics import Counters
from partyline.stores.sqlite import lock, opening
from partyline.stores.sqlite.place import Misplaced, Place

_log = log.get("store")

SCHEMA_VERSION = 5
MIGRATIONS: dict[int, str] = {1: opening.FROM_1, 2: opening.FROM_2, 3: opening.FROM_3, 4: opening.FROM_4}
"""SQL that brings a database from one version to the next, by the version it starts from."""

_RETRY_AFTER: Final = 0.5  # seconds between tries while the disk refuses
_QUIET: Final = 60.0  # seconds between two log lines about the same refusing disk
_WAL_LARGE: Final = 64 * 1024 * 1024  # bytes; beyond that, a reader has blocked the ordinary checkpoints
_CHECKPOINT_AFTER: Final = 1.0  # seconds between two checks of its size
_CHECKPOINT_WAIT: Final = 0.05  # seconds a try may wait for readers: commits wait with it
_LOOK_AFTER: Final = 0.5  # seconds between two checks that the file is in place

Job = Callable[[sqlite3.Connection], None]
"""Runs on the writer's thread inside a transaction. It may run again if the transaction fails."""


class Participant(Protocol):
    """Takes part in every transaction of the writer, on whose thread all of this is called."""

    @property
    def queue(self) -> Sized:
        """Whatever there is to write: always the same object, whose length the writer checks."""

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it, inside a transaction."""

    def committed(self) -> None:
        """The transaction is on the disk."""

    def failed(self, error: Exception) -> None:
        """It is not, as far as is known. Until `reopened`, only `refuse` is called for the queue."""

    def refuse(self) -> None:
        """The disk still refuses: do not keep anybody waiting."""

    def reopened(self, connection: sqlite3.Connection) -> None:
        """The connection shows what the disk holds, and a commit has just succeeded."""

    def maintain(self, connection: sqlite3.Connection) -> float | None:
        """Do a small piece of housekeeping; seconds until the next one, None if nothing is foreseen."""

    def stopped(self) -> None:
        """The writer has ended."""


class Database:
    """An open database. `:memory:` ends with the process."""

    def __init__(
        self,
        path: str,
        counters: Counters,
        *,
        busy_timeout: float = 5.0,
        retry_after: float = _RETRY_AFTER,
        wal_large: int = _WAL_LARGE,
        look_after: float = _LOOK_AFTER,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
        held: lock.Lock | None = None,
    ) -> None:
        """Open or create `path`, take its lock unless it is `held` already, bring the schema up to date, start the
        writer.

        `busy_timeout` is how long to wait for another program's lock, `retry_after` the pause between tries while the
        disk refuses, `look_after` the pause between checks that the file is in place, all in seconds; a write-ahead log
        larger than `wal_large` bytes is shortened. Raises ConfigError if the file cannot be used: unreadable, not a
        database, damaged, newer than this program, or in use by another server.
        """
        # SQLite follows symbolic links, too: whichever names the file, it has one write-ahead log.
        self.path = path = path if path == ":memory:" else os.path.realpath(path)
        self.counters = counters
        self._busy_timeout = busy_timeout
        self._retry_after = retry_after
        self._wal_large = wal_large
        self._look_after = look_after
        self._factory = factory
        self._lock = held
        self._place: Place | None = None
        try:
            if path != ":memory:":
                if held is None:
                    opening.check_ours(path)
                    self._lock = lock.take(path)
                if (aside := opening.finish_restore(path)) is not None:
                    _log.info("an interrupted restore is finished", kept=aside)
                self._place = Place(path)
            self._connection = self._open()
            if self._place is not None:
                self._place.note()
                if os.stat(path).st_uid == os.geteuid():
                    os.chmod(path, 0o600)  # someone may have widened it, and now it is known to be ours
        except (OSError, *opening.UNREADABLE) as error:
            self._unlock()
            raise opening.explain(path, error) from None
        except ConfigError:
            self._unlock()
            raise
        self._jobs: list[tuple[Job, Callable[[], object] | None]] = []
        self._participant: Participant | None = None
        self._queue: Sized = ()  # the participant's
        self._wake = threading.Condition()
        self._sleeping = False
        self._stopping = False
        self._stopped = False
        # When to check next that the file is in place, and the size of the write-ahead log.
        self._look_due = math.inf if self._place is None else time.monotonic() + look_after
        self._shorten_due = math.inf if self._place is None else 0.0
        self._warned = 0.0
        self._thread = threading.Thread(target=self._run, name="partyline-writer", daemon=True)
        self._thread.start()

    @property
    def sync_mode(self) -> str:
        """How commits reach the disk, for people."""
        return "kept nowhere" if self.path == ":memory:" else opening.SYNC_MODE

    # From the loop

    def submit(self, job: Job, committed: Callable[[], object] | None = None) -> None:
        """Queue a job and return at once. `committed` is called on the writer's thread after its commit."""
        with self._wake:
            self._jobs.append((job, committed))
            self._wake.notify()

    def attach(self, participant: Participant) -> None:
        """Let `participant` take part in every transaction from now on. There can be only one."""
        with self._wake:
            assert self._participant is None, "the log is attached once"
            self._participant, self._queue = participant, participant.queue
            self._wake.notify()

    def wake(self) -> bool:
        """The participant has something to write. False if nobody will: the writer has ended."""
        if self._sleeping:
            with self._wake:
                self._wake.notify()
        return not self._stopped

    def rows(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """Read at start, before jobs are queued. Raises ConfigError if the file is damaged."""
        with self._wake:
            try:
                return self._connection.execute(query, values).fetchall()
            except opening.UNREADABLE as error:
                raise opening.damaged(self.path, str(error)) from None

    def inspect(self, look: Job) -> None:
        """Call `look` with the writer's connection, at start, before jobs are queued. Raises ConfigError."""
        with self._wake:
            try:
                look(self._connection)
            except opening.UNREADABLE as error:
                raise opening.damaged(self.path, str(error)) from None

    def check_place(self) -> None:
        """Raise Misplaced if the path no longer leads to the open file; OSError. From any thread."""
        if self._place is not None:
            self._place.check()

    def finishing(self) -> None:
        """The server drains: tell a successor that the database will be free."""
        if self._lock is not None:
            self._lock.draining()

    async def flush(self) -> None:
        """Return when everything submitted before is committed. Cancelling it loses nothing."""
        if not self._stopped:
            await self.commit(_nothing)

    async def commit(self, job: Job) -> None:
        """Return when `job` is committed. Cancelled, it is committed all the same."""
        loop = asyncio.get_running_loop()
        committed = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone, and the waiter with it
                loop.call_soon_threadsafe(committed.set)

        self.submit(job, tell)
        await committed.wait()

    def close(self) -> None:
        """Commit what is queued (one try), end the writer, release file and lock. Blocks: for the end of a process."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join()
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._unlock()

    # The writer's thread

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            with self._wake:
                self._stopped = True
            if self._participant is not None:
                self._participant.stopped()

    def _serve(self) -> None:
        pause: float | None = None
        while True:
            with self._wake:
                self._sleeping = True  # before the check: a thread that queues later sees the flag
                if not (self._jobs or self._queue or self._stopping):
                    self._wake.wait(pause)
                self._sleeping = False
                jobs, self._jobs = self._jobs, []
                stopping = self._stopping
            if jobs or self._queue:
                if not self._write(jobs):
                    return
            elif stopping:
                return
            if not stopping:
                pause = self._maintain()

    def _write(self, jobs: list[tuple[Job, Callable[[], object] | None]]) -> bool:
        """One commit, tried until it succeeds; False if the server is stopped first."""
        while True:
            error = self._transaction(jobs)
            if error is None:
                break
            if not self._recover(error):
                return False
            if not jobs and not self._queue:
                return True
        for _, committed in jobs:
            if committed is not None:
                try:
                    committed()
                except Exception:
                    _log.exception("a commit's callback failed")
        return True

    def _transaction(self, jobs: list[tuple[Job, Callable[[], object] | None]]) -> Exception | None:
        connection, participant = self._connection, self._participant
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job, _ in jobs:
                job(connection)
            if participant is not None:
                participant.write(connection)
            connection.execute("COMMIT")
            if time.monotonic() >= self._look_due:
                self._look()
        except Exception as error:
            self._failed(error)
            return error
        if participant is not None:
            participant.committed()
        return None

    def _maintain(self) -> float | None:
        """A slice of housekeeping between two commits; seconds until the next one, None if nothing is foreseen."""
        try:
            now = time.monotonic()
            if now >= self._look_due:
                self._look()
            if now >= self._shorten_due:
                self._shorten_wal()
            wait = None if self._participant is None else self._participant.maintain(self._connection)
            if self._place is None:
                return wait
            return self._look_after if wait is None else min(wait, self._look_after)
        except Exception as error:
            self._failed(error)
            self._recover(error)
            return self._retry_after

    def _look(self) -> None:
        """Raise Misplaced if the path no longer leads to the open file; OSError. Until that is mended, the next check
        is due at once."""
        try:
            self.check_place()
        except Misplaced as found:
            self._look_due = 0.0
            if not found.spoiled:
                # Move everything accepted into the file itself, wherever it is: put back or copied, it is whole, and an
                # empty write-ahead log cannot harm a file that it does not belong to.
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            raise
        self._look_due = time.monotonic() + self._look_after

    def _shorten_wal(self) -> None:
        try:
            size = os.stat(self.path + "-wal").st_size
        except FileNotFoundError:
            size = 0
        self._shorten_due = time.monotonic() + _CHECKPOINT_AFTER
        if size < self._wal_large:
            return
        self._connection.execute(f"PRAGMA busy_timeout={int(_CHECKPOINT_WAIT * 1000)}").fetchall()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self._connection.execute(f"PRAGMA busy_timeout={int(self._busy_timeout * 1000)}").fetchall()

    # After an error

    def _failed(self, error: Exception) -> None:
        self.counters.write_errors += 1
        now = time.monotonic()
        if not self._warned or now - self._warned > _QUIET:
            self._warned = now
            _log.warning("writing to the database failed; it is tried again", error=str(error))
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        if self._participant is not None:
            self._participant.failed(error)

    def _recover(self, error: Exception) -> bool:
        """Wait and reopen, as often as it takes. False if the server is stopped meanwhile."""
        while True:
            due = time.monotonic() + self._retry_after
            while (left := due - time.monotonic()) > 0:
                with self._wake:
                    self._sleeping = True
                    self._wake.wait_for(lambda: self._stopping or bool(self._queue), left)
                    self._sleeping = False
                if self._participant is not None:
                    self._participant.refuse()
                if self._stopping:
                    return False
            try:
                self._reopen(error)
            except Exception as again:
                error = again
                self._failed(error)
            else:
                self._warned = 0.0
                _log.info("the database takes writes again")
                return True

    def _reopen(self, error: Exception) -> None:
        if self._place is not None:
            self._look()
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = opening.connect(self.path, self._busy_timeout, self._factory, create=False)
            opening.prepare(self._connection)
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # creates the other files
            self._place.note()
            if _is_io(error):
                # After a failed fsync the kernel may consider pages clean that never reached the disk: the log is
                # written once more, into the database, with its own fsync.
                (busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if busy:
                    raise sqlite3.OperationalError("readers kept the write-ahead log from being rewritten")
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE store SET probes = probes + 1")
        connection.execute("COMMIT")
        if self._participant is not None:
            self._participant.reopened(connection)

    # Opening

    def _unlock(self) -> None:
        if self._place is not None:
            self._place.release()
        if self._lock is not None:
            self._lock.release()

    def _open(self) -> sqlite3.Connection:
        connection = opening.connect(self.path, self._busy_timeout, self._factory)
        try:
            opening.bring_up_to_date(connection, self.path, SCHEMA_VERSION, MIGRATIONS)
        except BaseException:
            connection.close()
            raise
        return connection


def _nothing(_connection: sqlite3.Connection) -> None:
    """A job that only waits for its turn."""


def _is_io(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
