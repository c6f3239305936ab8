"""Copies of a database: a backup beside a running server, and a restore that is atomic under a crash.

Both write to a file of another name, check it, and rename it once it is on the disk.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from partyline.errors import ConfigError
from partyline.stores.sqlite import lock, opening, place
from partyline.stores.sqlite.database import SCHEMA_VERSION
from partyline.stores.sqlite.placing import Damaged
from partyline.stores.sqlite.reading import walk

_STEP: Final = 1_024  # pages (4 MiB) between two fsyncs of the copy: the most that a server's commits wait for
_REVOCATIONS: Final = 3  # the schema version that added them
_NEWEST: Final = 10_000  # rows whose checksums a backup verifies, as a server's start does; a restore verifies all
_BEAT: Final = 1_000_000  # SQLite's instructions between two progress calls of a check whose extent is unknown

Progress = Callable[[str, int, int], None]
"""Called with the current step, how much of it is done, and of how much; 0 and 0 if unknown."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A finished copy: where it is, its bytes, and the epoch and the head of its log ("" and 0 before version 2).

    `kept` is the path of the database that a restore replaced.
    """

    file: str
    bytes: int
    epoch: str
    head: int
    kept: str | None = None


def back_up(path: str, target: str, *, replace: bool = False, progress: Progress | None = None) -> Copy:
    """Copy the database at `path` to the new file `target`, beside a running server or without one.

    The copy is a snapshot in one file, readable only by its owner. An existing file is replaced only with `replace`.
    Raises ConfigError; whatever is raised, no partial copy is left.
    """
    path, target = os.path.realpath(path), os.path.realpath(target)
    try:
        if not os.path.exists(path):
            raise ConfigError(f"db: {path} does not exist: name the database with --db", field="db")
        opening.check_file(path)
        _check_target(path, target, replace=replace)
        with closing(opening.look(path)) as source, _partial(target) as (partial, handle):
            opening.recognize(source, path, SCHEMA_VERSION)
            _copy(source, partial, handle, progress)
            copy = _checked(partial, target, path, progress, newest=_NEWEST)
            os.fsync(handle)
            _check_target(path, target, replace=replace)  # again: checking took a while
            os.rename(partial, target)
            opening.sync_folder(target)
            return copy
    except (OSError, *opening.UNREADABLE) as error:
        raise _explain(path, target, error) from None


def restore(backup: str, path: str, *, replace: bool = False, progress: Progress | None = None) -> Copy:
    """Put a copy of `backup` in the place of the database at `path`, with a new epoch.

    No server may be running on it. An existing database is moved aside with `replace`, otherwise it is an error.
    Everything in the backup is checked first. Raises ConfigError; then, and after a crash at any moment, either the
    old database or the new one is in place.
    """
    backup, path = os.path.realpath(backup), os.path.realpath(path)
    try:
        if not os.path.isfile(backup):
            raise ConfigError(f"backup: {backup} is not there, or not a file", field="backup")
        if not os.path.exists(path + opening.RESTORED):
            _check_free(backup, path, replace=replace)  # now, so that a refusal leaves no lock
        with closing(opening.look(backup, still=not os.path.exists(backup + "-wal"))) as source:
            version = opening.recognize(source, backup, SCHEMA_VERSION)
            if version == 0:
                raise ConfigError(f"backup: {backup} is empty", field="backup")
            held = lock.take(path)
            try:
                if place.is_open(path):
                    raise place.in_use(path)
                opening.finish_restore(path)
                _check_free(backup, path, replace=replace)
                return _restore(source, version, backup, path, progress)
            finally:
                held.release()
    except (OSError, *opening.UNREADABLE) as error:
        raise _explain(backup, path, error) from None


def _check_free(backup: str, path: str, *, replace: bool) -> None:
    opening.check_file(path)
    if os.path.exists(path):
        if os.path.samefile(backup, path):
            raise ConfigError(f"backup: {backup} is the database itself", field="backup")
        if not replace:
            raise ConfigError(f"db: {path} exists: --force puts it aside and the backup in its place", field="db")


def _restore(source: sqlite3.Connection, version: int, backup: str, path: str, progress: Progress | None) -> Copy:
    with _partial(path) as (partial, handle):
        _copy(source, partial, handle, progress)
        if version >= 2:
            with closing(sqlite3.connect(partial, isolation_level=None)) as connection:
                opening.renew_epoch(connection)
                if version >= _REVOCATIONS:
                    _keep_revoked(connection, path)
        copy = _checked(partial, path, backup, progress)
        os.fsync(handle)
        os.rename(partial, path + opening.RESTORED)
        opening.sync_folder(path)
        # From here on it is done: if it is interrupted, the next opening of the database completes it.
        kept = opening.finish_restore(path)
        return Copy(path, copy.bytes, copy.epoch, copy.head, kept)


def _keep_revoked(connection: sqlite3.Connection, path: str) -> None:
    """Carry over the revocations of the database that is put aside: a backup must not revive a token."""
    if not os.path.exists(path):
        return
    beside = [path + suffix for suffix in ("-wal", "-shm") if not os.path.exists(path + suffix)]
    try:
        with closing(opening.look(path)) as old:
            if opening.recognize(old, path, SCHEMA_VERSION) < _REVOCATIONS:
                return
            rows = old.execute("SELECT kind, name, at FROM revocations").fetchall()
    except (ConfigError, *opening.UNREADABLE):
        return  # damaged, hence the restore: docs/howto/backup.md has the consequences
    finally:
        for file in beside:  # created by reading
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
    connection.executemany(
        "INSERT INTO revocations VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)", rows
    )


def _check_target(path: str, target: str, *, replace: bool) -> None:
    if target in (path, path + "-wal", path + "-shm", path + ".lock", path + opening.RESTORED):
        raise ConfigError(f"backup: {target} belongs to the database itself: choose another file", field="backup")
    if os.path.isdir(target):
        raise ConfigError(f"backup: {target} is a folder: name a file in it", field="backup")
    if os.path.exists(target):
        if os.path.samefile(path, target):
            raise ConfigError(f"backup: {target} is the database itself: choose another file", field="backup")
        if not replace:
            raise ConfigError(f"backup: {target} exists: choose another file, or --force", field="backup")


@contextlib.contextmanager
def _partial(target: str) -> Iterator[tuple[str, int]]:
    """A new private file beside `target` and a descriptor of it; gone at the end if it still has that name."""
    folder, name = os.path.split(target)
    handle, partial = tempfile.mkstemp(prefix=f".{name}.", suffix=".partial", dir=folder)
    try:
        yield partial, handle
    finally:
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def _copy(source: sqlite3.Connection, partial: str, handle: int, progress: Progress | None) -> None:
    def step(_status: int, remaining: int, total: int) -> None:
        os.fdatasync(handle)
        if progress is not None:
            progress("copying", total - remaining, total)

    with closing(sqlite3.connect(partial, isolation_level=None)) as target:
        target.execute("PRAGMA journal_mode=OFF").fetchall()  # a failed copy is thrown away
        target.execute("PRAGMA synchronous=OFF").fetchall()
        # In one read transaction: otherwise each commit of the server would make the copy begin again.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        source.backup(target, pages=_STEP, progress=step)
        source.execute("COMMIT")
        target.execute("PRAGMA journal_mode=DELETE").fetchall()  # one file, and no other beside it


def _checked(partial: str, name: str, source: str, progress: Progress | None, newest: int | None = None) -> Copy:
    """The finished copy, once its structure and the checksums of its rows (all, or the newest) are verified."""
    with closing(opening.look(partial)) as connection:
        if progress is not None:
            connection.set_progress_handler(lambda: progress("checking", 0, 0), _BEAT)
        check = "integrity_check" if newest is None else "quick_check"
        (answer,) = connection.execute(f"PRAGMA {check}(1)").fetchone()
        if answer != "ok":
            raise opening.damaged(source, answer.replace("\n", " "))
        connection.set_progress_handler(None, 0)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        epoch, head = "", 0
        if version >= 2:
            epoch, head = connection.execute(opening.EPOCH_AND_HEAD).fetchone()
            first = 0 if newest is None else max(0, head - newest)
            for number, row in enumerate(walk(connection, first)):
                if isinstance(row, Damaged):
                    raise opening.damaged(source, f"the message at offset {row.offset} is not what was written")
                if progress is not None and number % 1_000 == 0:
                    progress("checking", row.offset - first, head - first)
    return Copy(name, os.stat(partial).st_size, epoch, head)


def _explain(source: str, target: str, error: Exception) -> ConfigError:
    if isinstance(error, FileNotFoundError):
        folder = Path(target).parent
        return ConfigError(f"backup: the folder {folder} does not exist: create it, or choose another", field="backup")
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return ConfigError(f"backup: there is no room for {target}", field="backup")
    if isinstance(error, OSError):
        return ConfigError(f"backup: {target} cannot be written: {error.strerror or error}", field="backup")
    return opening.explain(source, error)
