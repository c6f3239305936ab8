"""Opening a database file: whether it is ours, is intact, and has the newest schema."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sqlite3
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from partyline.errors import ConfigError

WAL_PAGES: Final = 4_000  # 16 MB of log before SQLite moves it into the database

CHECKED_PAGES: Final = 4_096  # 16 MB: up to this size the whole structure is checked at start (measured: 55 ms)
APPLICATION_ID: Final = 0x506C696E  # "Plin" in the file's head: tells our databases from those of other programs

RESTORED: Final = ".restored"
"""The suffix of a restored database's name until it takes the place of the old one."""

EPOCH_AND_HEAD: Final = "SELECT epoch, max(head, coalesce((SELECT max(offset) FROM log), 0)) FROM store"
"""The log's epoch and its highest offset."""

_ANY: Final = 2**31  # a newer version than any: it is ours all the same

SYNC_MODE: Final = "WAL, synchronous=FULL"

UNREADABLE: Final = (sqlite3.Error, UnicodeDecodeError)
"""Raised by reading a database; the second if SQLite's message quotes damaged text."""

FROM_1: Final = """
ALTER TABLE store RENAME TO store_1;
CREATE TABLE store (
  id         INTEGER PRIMARY KEY CHECK (id = 1),
  created    REAL NOT NULL,
  epoch      TEXT NOT NULL,
  head       INTEGER NOT NULL DEFAULT 0,
  forgotten  INTEGER NOT NULL DEFAULT 0,
  probes     INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO store (id, created, epoch) SELECT id, created, lower(hex(randomblob(8))) FROM store_1;
DROP TABLE store_1;
CREATE TABLE log (
  offset    INTEGER PRIMARY KEY,
  room      TEXT NOT NULL,
  identity  INTEGER,
  time      INTEGER NOT NULL,
  at        INTEGER NOT NULL,
  head      TEXT NOT NULL,
  data      BLOB NOT NULL,
  checksum  INTEGER NOT NULL
) STRICT;
CREATE INDEX log_by_room ON log (room);
CREATE INDEX log_by_identity ON log (identity) WHERE identity IS NOT NULL;
CREATE TABLE rooms (
  name    TEXT PRIMARY KEY,
  pruned  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
"""Version 1 had only registrations: this adds the log."""

FROM_2: Final = """
ALTER TABLE registrations ADD COLUMN confirmed TEXT;
ALTER TABLE registrations ADD COLUMN token TEXT;
CREATE TABLE revocations (
  kind  TEXT NOT NULL,
  name  TEXT NOT NULL,
  at    REAL NOT NULL,
  PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE forgotten (
  topic   TEXT PRIMARY KEY,
  offset  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
"""Version 2 had no tokens, no registrations that resume, and one retention for all topics."""


FROM_3: Final = """
CREATE TABLE sessions (
  pid_hash   BLOB PRIMARY KEY,
  namespace  TEXT NOT NULL,
  sid        TEXT NOT NULL,
  rooms      TEXT NOT NULL,
  data       TEXT NOT NULL,
  start      TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""
"""Version 3 had no Socket.IO sessions."""

FROM_4: Final = """
CREATE TABLE shared (
  name   TEXT NOT NULL,
  key    TEXT NOT NULL,
  value  BLOB NOT NULL,
  until  REAL NOT NULL,
  PRIMARY KEY (name, key)
) STRICT, WITHOUT ROWID;
"""
"""Version 4 knew no workers."""


def connect(
    path: str, busy_timeout: float, factory: type[sqlite3.Connection], *, create: bool = True
) -> sqlite3.Connection:
    """A connection without implicit transactions. `busy_timeout` is in seconds. Raises sqlite3.Error."""
    if path == ":memory:":
        where, uri = path, False
    else:
        where, uri = Path(path).absolute().as_uri() + ("?mode=rwc" if create else "?mode=rw"), True
    return sqlite3.connect(
        where, timeout=busy_timeout, isolation_level=None, check_same_thread=False, factory=factory, uri=uri
    )


def prepare(connection: sqlite3.Connection) -> None:
    """Set up the writer's connection, once the database is known to be ours. Raises sqlite3.Error."""
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # in WAL: fsync before a COMMIT returns
        f"wal_autocheckpoint={WAL_PAGES}",
        f"journal_size_limit={2 * WAL_PAGES * 4096}",
        "cache_size=-16384",  # KiB
        "secure_delete=FAST",  # overwrite deleted content with zeros if that writes no extra page
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def look(path: str, *, still: bool = False) -> sqlite3.Connection:
    """A read-only connection, whether or not a server is running. Raises sqlite3.Error.

    With `still` the file is read as it is, without its write-ahead log, and nothing is made beside it; so it is where
    there is no such log, and this process can make nothing there.
    """
    folder = os.path.dirname(os.path.realpath(path))
    still = still or not (os.path.exists(path + "-wal") or os.access(folder, os.W_OK, effective_ids=True))
    uri = Path(path).absolute().as_uri() + ("?immutable=1" if still else "?mode=ro")
    return sqlite3.connect(uri, timeout=5.0, isolation_level=None, check_same_thread=False, uri=True)


def check_file(path: str) -> None:
    """Raises ConfigError if the path leads to something other than a file: a folder, a device, a pipe."""
    if os.path.exists(path) and not os.path.isfile(path):
        found = "a folder: name a file in it" if os.path.isdir(path) else "not a file: name one"
        raise ConfigError(f"db: {path} is {found} with --db", field="db")


def check_ours(path: str) -> None:
    """Raises ConfigError if the file is certainly not ours to open: it has no lock of ours, and gets none.

    Only the file itself is read, as it is on the disk. What its write-ahead log says is seen when it is opened.
    """
    check_file(path)
    path = os.path.realpath(path)
    if os.path.exists(path + RESTORED) or not os.path.exists(path):
        return
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        raise explain(path, OSError(errno.EROFS if read_only else errno.EACCES, ""))
    try:
        with contextlib.closing(look(path, still=True)) as connection:
            recognize(connection, path, newest=_ANY)
    except UNREADABLE as error:
        if "not a database" in str(error):  # other damage may be that of a half-finished checkpoint
            raise explain(path, error) from None


def recognize(connection: sqlite3.Connection, path: str, newest: int) -> int:
    """The version of the database's schema; 0 if it is empty.

    Raises ConfigError for a database of another program or of a newer Partyline; sqlite3.Error.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (version or tables or application):
        raise ConfigError(f"db: {path} is a database of another program: choose another file with --db", field="db")
    if version > newest:
        raise ConfigError(
            f"db: {path} was written by a newer Partyline (schema {version}, "
            f"this one knows {newest}): upgrade Partyline, or choose another file with --db",
            field="db",
        )
    return int(version)


def renew_epoch(connection: sqlite3.Connection) -> str:
    """Give the log a new epoch, and return it: positions handed out before are no longer valid.

    Offsets are not reset: the rows' checksums cover them. Raises sqlite3.Error.
    """
    epoch = secrets.token_hex(8)
    connection.execute("UPDATE store SET epoch = ?", (epoch,))
    return epoch


def finish_restore(path: str) -> str | None:
    """Put a restored database in its place, if a restore got as far as leaving one at `<path>.restored`.

    Called with the lock. If the process ends in the middle, the next call goes on. The old database is kept with its
    write-ahead log; returns its new name, or None if there was no old one. Raises OSError.
    """
    restored = path + RESTORED
    try:
        microseconds = os.stat(restored).st_mtime_ns // 1000
    except FileNotFoundError:
        return None
    # One name for one restore, however often it is resumed.
    when = time.strftime("%Y%m%dT%H%M%S", time.gmtime(microseconds // 1_000_000))
    aside = f"{path}.before-{when}.{microseconds % 1_000_000:06}"
    for suffix in ("", "-wal"):  # a write-ahead log must never meet any database but its own
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + suffix, aside + suffix)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + "-shm")
    sync_folder(path)
    os.rename(restored, path)
    sync_folder(path)
    return aside if os.path.exists(aside) else None


def sync_folder(path: str) -> None:
    """Flush the folder of `path` to the disk. Raises OSError."""
    handle = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def bring_up_to_date(connection: sqlite3.Connection, path: str, newest: int, migrations: Mapping[int, str]) -> None:
    """Bring a database to the `newest` schema in one transaction; a new one gets it from sqlite.sql.

    Raises ConfigError for a database of another program or of a newer Partyline, which stays unchanged; sqlite3.Error.
    """
    version = recognize(connection, path, newest)
    prepare(connection)
    if version:
        _check_structure(connection, path)
    if version == newest:
        return
    if version == 0:
        steps = [resources.files("partyline.stores").joinpath("sqlite.sql").read_text("utf-8")]
    else:
        steps = [migrations[step] for step in range(version, newest)]
    # executescript would commit between statements: a half-made schema must not survive a crash.
    marks = [f"PRAGMA application_id={APPLICATION_ID};", f"PRAGMA user_version={newest};"]
    script = "\n".join(["BEGIN IMMEDIATE;", *steps, *marks])
    try:
        connection.executescript(script)
        if version == 0:
            values = (time.time(), secrets.token_hex(8))
            connection.execute("INSERT INTO store (id, created, epoch) VALUES (1, ?, ?)", values)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check_structure(connection: sqlite3.Connection, path: str) -> None:
    """Check all pages and indexes of a small database: a message missing in an index would be a silent hole. A large
    database would take minutes."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if pages <= CHECKED_PAGES:
        (answer,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if answer != "ok":
            raise damaged(path, answer.replace("\n", " "))


def damaged(path: str, reason: str) -> ConfigError:
    """The error for a database that is not what was written to it."""
    return ConfigError(
        f"db: {path} is damaged ({reason}): restore a backup of it, or choose another file with --db", field="db"
    )


def explain(path: str, error: Exception) -> ConfigError:
    """The error that says why the file cannot be used, and what to do."""
    if isinstance(error, UnicodeDecodeError):  # sqlite3 raises it for an error that quotes a damaged schema
        return damaged(path, "its schema cannot be read")
    if isinstance(error, sqlite3.DatabaseError) and "malformed" in str(error):
        return damaged(path, str(error))
    return ConfigError(_explanation(path, error), field="db")


def _explanation(path: str, error: Exception) -> str:
    folder = os.path.dirname(os.path.realpath(path))
    if isinstance(error, FileNotFoundError):
        return f"db: the folder {folder} does not exist: create it, or choose another file with --db"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in str(error):
        return f"db: there is no room for {path}: make room on its disk, or choose another file with --db"
    if getattr(error, "errno", None) == errno.EROFS or "readonly" in str(error):
        return f"db: {path} is on a disk that is read-only, or may not be written: choose another file with --db"
    if isinstance(error, PermissionError):
        what = path if os.path.exists(path) and os.access(folder, os.W_OK) else f"the folder {folder}"
        return f"db: {what} cannot be read and written by this user: fix its rights, or choose another file with --db"
    if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
        return f"db: {path} is not an SQLite database: choose another file with --db"
    if "unable to open" in str(error) and not os.access(folder, os.W_OK, effective_ids=True):
        return (
            f"db: {path} cannot be read without writing beside it, and the folder {folder} cannot be written: copy it, "
            "with its -wal file, to another one, and name that with --db"
        )
    return f"db: {path} cannot be opened: {error}"
