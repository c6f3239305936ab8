"""One database file: its lock, its schema, and the one thread that writes to it.

The loop never waits for the disk: work is queued as jobs, the writer takes whatever queued up during the last commit,
runs it in one transaction, and calls the loop back once. WAL, `synchronous=FULL`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from partyline import log
from partyline.errors import ConfigError
from partyline.metrics import Counters

_log = log.get("store")

APPLICATION_ID = 0x506C696E  # "Plin" in the file's head: tells our databases from those of other programs
SCHEMA_VERSION = 1
MIGRATIONS: dict[int, str] = {}
"""SQL that brings a database from a version to the next one, by the version it starts from."""

_RETRY_AFTER = 1.0  # seconds between tries while the disk refuses

Job = Callable[[sqlite3.Connection], None]
"""Runs on the writer's thread inside a transaction. It may run again if the transaction fails."""


class Database:
    """An open database. `:memory:` is one that is gone with the process."""

    def __init__(self, path: str, counters: Counters, *, busy_timeout: float = 5.0) -> None:
        """Open or create `path`, take its lock, bring the schema up to date, start the writer.

        Raises ConfigError where the file cannot be used: unreadable, not a database, damaged, newer than this program,
        or in use by another server.
        """
        self.path = path
        self._counters = counters
        self._lock_file: int | None = None
        try:
            if path != ":memory:":
                self._create_private(path)
                self._lock(path)
            self._connection = self._open(path, busy_timeout)
        except (OSError, sqlite3.Error) as error:
            self._unlock()
            raise ConfigError(_explain(path, error), field="db") from None
        except ConfigError:
            self._unlock()
            raise
        self._jobs: list[tuple[Job, Callable[[], object] | None]] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="partyline-writer", daemon=True)
        self._thread.start()

    @property
    def sync_mode(self) -> str:
        """How commits reach the disk, for people."""
        return "kept nowhere" if self.path == ":memory:" else "WAL, synchronous=FULL"

    # From the loop

    def submit(self, job: Job, committed: Callable[[], object] | None = None) -> None:
        """Queue a job. Returns at once. `committed` is called on the writer's thread after its commit."""
        with self._wake:
            self._jobs.append((job, committed))
            self._wake.notify()

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Read at start, before jobs are queued. Raises ConfigError where the file is damaged."""
        with self._wake:
            try:
                return self._connection.execute(query).fetchall()
            except sqlite3.Error as error:
                raise damaged(self.path, str(error)) from None

    async def flush(self) -> None:
        """Return when everything submitted before is committed. Cancelling it loses nothing."""
        loop = asyncio.get_running_loop()
        committed = asyncio.Event()
        self.submit(_nothing, lambda: loop.call_soon_threadsafe(committed.set))
        await committed.wait()

    def close(self) -> None:
        """Commit what is queued (one try), end the writer, let go of file and lock. Blocks: for a process's end."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join()
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._unlock()

    # The writer's thread

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._jobs or self._stopping)
                jobs, self._jobs = self._jobs, []
                if not jobs:
                    return
            while not self._commit([job for job, _ in jobs]):
                with self._wake:
                    if self._wake.wait_for(lambda: self._stopping, _RETRY_AFTER):
                        return
            for _, committed in jobs:
                if committed is not None:
                    try:
                        committed()
                    except Exception:  # a caller that has gone, its loop with it: the next one's work goes on
                        _log.exception("telling of a commit failed")

    def _commit(self, jobs: list[Job]) -> bool:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                job(connection)
            connection.execute("COMMIT")
        except Exception as error:
            self._counters.write_errors += 1
            _log.warning("writing to the database failed; it is tried again", error=str(error))
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return False
        return True

    # Opening

    def _create_private(self, path: str) -> None:
        # Ids in it are hashed, messages are not: nobody else on this machine is to read them.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _lock(self, path: str) -> None:
        handle = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock_file = handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"db: {path} is in use by another server: stop it, or choose another file with --db", field="db"
            ) from None

    def _unlock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _open(self, path: str, busy_timeout: float) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
        try:
            self._check_ours(connection)  # before the first write: another program's file stays as it is
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_ours(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION_ID and (version or tables or application):
            raise ConfigError(
                f"db: {self.path} is a database of another program: choose another file with --db", field="db"
            )
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"db: {self.path} was written by a newer Partyline (schema {version}, "
                f"this one knows {SCHEMA_VERSION}): upgrade Partyline, or choose another file with --db",
                field="db",
            )

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION:
            return
        if version == 0:
            steps = [resources.files("partyline.stores").joinpath("sqlite.sql").read_text("utf-8")]
        else:
            steps = [MIGRATIONS[step] for step in range(version, SCHEMA_VERSION)]
        # executescript would commit between statements: a half-made schema must not survive a crash.
        script = "\n".join(["BEGIN IMMEDIATE;", *steps, f"PRAGMA application_id={APPLICATION_ID};"])
        script += f"PRAGMA user_version={SCHEMA_VERSION};"
        try:
            connection.executescript(script)
            if version == 0:
                connection.execute("INSERT INTO store (id, created) VALUES (1, ?)", (time.time(),))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _nothing(_connection: sqlite3.Connection) -> None:
    """A job that only waits for its turn."""


def damaged(path: str, reason: str) -> ConfigError:
    """A database that is not what was written to it."""
    return ConfigError(
        f"db: {path} is damaged ({reason}): restore a backup of it, or choose another file with --db", field="db"
    )


def _explain(path: str, error: Exception) -> str:
    folder = str(Path(path).absolute().parent)
    if isinstance(error, FileNotFoundError):
        return f"db: the folder {folder} does not exist: create it, or choose another file with --db"
    if isinstance(error, PermissionError):
        return f"db: {path} cannot be read and written by this user: mend its rights, or choose another file with --db"
    if isinstance(error, IsADirectoryError):
        return f"db: {path} is a folder: name a file in it with --db"
    if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
        return f"db: {path} is not an SQLite database: choose another file with --db"
    if isinstance(error, sqlite3.DatabaseError) and "malformed" in str(error):
        return damaged(path, str(error)).message
    return f"db: {path} cannot be opened: {error}"
