"""Find what is wrong with a database, without writing to it, with or without a server running on it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from partyline.errors import ConfigError
from partyline.findings import Finding, ok, problem, warning
from partyline.stores.sqlite import lock, opening, place
from partyline.stores.sqlite.copying import Progress
from partyline.stores.sqlite.database import SCHEMA_VERSION
from partyline.stores.sqlite.placing import Damaged
from partyline.stores.sqlite.reading import walk

_NEWEST: Final = 10_000  # messages that are always verified, as at a server's start
_NAMED: Final = 20  # damaged messages named in a text; the others are counted
_LISTED: Final = 1_000  # damaged messages that a finding lists
_WAL_LARGE: Final = 256 * 1024 * 1024  # bytes
_BEAT: Final = 1_000_000  # SQLite's instructions between two progress calls of a check whose extent is unknown

_RESTORE: Final = "restore a backup: partyline restore FILE --force"


def examine(path: str, *, deep: bool = False, progress: Progress | None = None) -> Iterator[Finding]:
    """Examine the database at `path`; with `deep` all of it, which takes a while. Raises no database errors.

    It names damaged messages by position, and reveals no content.
    """
    path = os.path.realpath(path)
    if os.path.exists(path + opening.RESTORED):
        yield warning(
            "restore", "a restore was interrupted", "nothing: the next `partyline serve` or `restore` goes on with it"
        )
    if not os.path.exists(path):
        yield _absent(path)
        return
    if not os.path.isfile(path):
        yield problem("database", f"{path} is not a file", "name a file with --db")
        return
    yield _rights(path)
    yield _holder(path)
    try:
        with closing(opening.look(path)) as connection:
            yield from _content(connection, path, deep, progress)
    except (ConfigError, *opening.UNREADABLE) as error:
        reason = error if isinstance(error, ConfigError) else opening.explain(path, error)
        text, _, advice = reason.message.removeprefix("db: ").rpartition(": ")
        if not advice.endswith("--db"):  # it says what is wrong, but not what to do
            text, advice = f"{text}: {advice}", _RESTORE
        yield problem("content", text, advice)


def _absent(path: str) -> Finding:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return problem("database", f"the folder {folder} does not exist", "create it, or choose another file with --db")
    if not os.access(folder, os.W_OK | os.X_OK):
        return problem(
            "database", f"{folder} cannot be written by this user", "change its permissions, or choose another"
        )
    with contextlib.suppress(OSError):
        who = lock.holder(path)
        if who is not None and not who.draining:
            return problem(
                "database",
                f"a server runs (process {who.pid or 'unknown'}), but its database file was moved away or deleted",
                "put it back, or restart the server: it refuses every publish that is to be kept (503)",
            )
    return ok("database", f"{path} does not exist yet: serve creates it")


def _rights(path: str) -> Finding:
    status = os.stat(path)
    folder = os.path.dirname(path)
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(folder, os.W_OK | os.X_OK):
        return problem(
            "database",
            f"{path} or its folder cannot be written by this user",
            "run as its owner, or change their permissions",
        )
    size = status.st_size + _size(path + "-wal")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return warning(
            "database", f"{path} can be used by others (mode {mode:04o})", "chmod 600: it holds every message"
        )
    if _size(path + "-wal") > _WAL_LARGE:
        return warning(
            "database",
            f"its write-ahead log has {_size(path + '-wal'):,} bytes",
            "find the program that holds a read transaction on it: until that ends, it cannot be shortened",
        )
    return ok("database", f"{path}, {size:,} bytes, private")


def _holder(path: str) -> Finding:
    try:
        who, is_open = lock.holder(path), place.is_open(path)  # before SQLite opens it: see place.Place
    except OSError as error:
        return warning("lock", f"{path} or its lock cannot be read: {error.strerror}", "run as the user of the server")
    if who is None and is_open:
        return problem(
            "lock",
            "a server has this file open, but not by this name, or its lock file was deleted",
            "stop that server, remove the other name, and start it on this one",
        )
    names = os.stat(path).st_nlink
    if names > 1:
        return warning(
            "lock",
            f"the file has {names} names (hard links), and a write-ahead log that belongs to one of them",
            "remove the others: a server must always be started by the same name",
        )
    if who is None:
        return ok("lock", "free: no server runs on it")
    process = "a server" if who.pid is None else f"a server, process {who.pid}"
    if not is_open and not who.draining and who.pid is not None:  # without a pid it is a reader that only checks
        return problem(
            "lock",
            f"{process}, runs, but this is not the file that it has open: that was moved, deleted or replaced",
            "put the old file back, or restart the server: it refuses every publish that is to be kept (503)",
        )
    return ok("lock", f"held by {process}{', which is finishing' if who.draining else ''}")


def _content(connection: sqlite3.Connection, path: str, deep: bool, progress: Progress | None) -> Iterator[Finding]:
    version = opening.recognize(connection, path, SCHEMA_VERSION)
    if version == 0:
        yield ok("schema", "an empty file: serve turns it into a database")
        return
    newest = f"version {version}" if version == SCHEMA_VERSION else f"version {version}, brought up to date by serve"
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    how = opening.SYNC_MODE if mode == "wal" else f"journal mode {mode}, {opening.SYNC_MODE} once serve opens it"
    yield ok("schema", f"{newest}; {how}")
    yield _structure(connection, deep, progress)
    if version < 2:
        return
    epoch, head = connection.execute(opening.EPOCH_AND_HEAD).fetchone()
    (topics,) = connection.execute("SELECT count(*) FROM rooms").fetchone()
    yield ok("log", f"epoch {epoch}, last offset {head:,}, {topics:,} topics")
    yield _messages(connection, epoch, head, 0 if deep else max(0, head - _NEWEST), progress)


def _structure(connection: sqlite3.Connection, deep: bool, progress: Progress | None) -> Finding:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if not deep and pages > opening.CHECKED_PAGES:
        return ok("structure", "too large for a quick look: --deep takes one")
    if progress is not None:
        connection.set_progress_handler(lambda: progress("checking the structure", 0, 0), _BEAT)
    answers = [answer for (answer,) in connection.execute(f"PRAGMA integrity_check({_NAMED})")]
    connection.set_progress_handler(None, 0)
    if answers == ["ok"]:
        return ok("structure", "whole, indexes too")
    return problem("structure", "damaged: " + "; ".join(" ".join(answer.split()) for answer in answers), _RESTORE)


def _messages(connection: sqlite3.Connection, epoch: str, head: int, after: int, progress: Progress | None) -> Finding:
    positions: list[str] = []
    count = damaged = 0
    for row in walk(connection, after):
        count += 1
        if isinstance(row, Damaged):
            damaged += 1
            if damaged <= _LISTED:
                positions.append(f"{epoch}-{row.offset}")
        if progress is not None and count % 1_000 == 0:
            progress("verifying messages", row.offset - after, max(head, row.offset) - after)
    which = f"all {count:,} messages" if after == 0 else f"the newest {count:,} messages"
    if not damaged:
        return ok("messages", f"{which} are intact")
    more = f" and {damaged - _NAMED:,} more" if damaged > _NAMED else ""
    text = f"of {which} {damaged:,} are damaged and not served: {', '.join(positions[:_NAMED])}{more}"
    return problem("messages", text, _RESTORE, tuple(positions))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
