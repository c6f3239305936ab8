"""The file at a path: locked by its inode while a server has it open, and watched in case it is moved or replaced.

`<db>.lock` goes by name, but a hard link or a bind mount gives one file two names: so the file itself is locked too.
The path may later lead to another file, or to none, while the server goes on writing to the one that it has opened:
after a restart, messages that it accepted would be missing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import struct
from typing import Final

from partyline import log
from partyline.errors import ConfigError
from partyline.stores.sqlite.held import Held

_log = log.get("store")

_MAGIC: Final = b"SQLite format 3\0"
_WAL_MAGIC: Final = b"\x37\x7f\x06"
_BYTE: Final = 1 << 62  # locked: far from the bytes that SQLite locks for itself (at 1 GiB)
_FLOCK: Final = "hhqqi"  # struct flock: type, whence, start, length, pid

Identity = tuple[int, int]
_open: set[Identity] = set()  # of this process


class Misplaced(sqlite3.OperationalError):
    """The path does not lead to the open file. `spoiled` is True if the open file itself was overwritten."""

    def __init__(self, text: str, *, spoiled: bool = False) -> None:
        super().__init__(text)
        self.spoiled = spoiled


class Place:
    """An open database file with its lock.

    Its descriptor must be closed last: closing any descriptor of a file drops the locks that SQLite holds in this
    process (fcntl(2)). For the same reason this process does not open the file a second time.
    """

    def __init__(self, path: str) -> None:
        """Create the file if it does not exist, readable by its owner only. Raises ConfigError if another server has
        it; OSError."""
        if _here(path):
            raise in_use(path)
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(number, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
        except BlockingIOError:
            os.close(number)
            raise in_use(path) from None
        except OSError as error:
            if error.errno != errno.EINVAL:  # a kernel without such locks (gVisor): only the lock by name is left
                os.close(number)
                raise
        self._path = path
        self._held = Held(number, lambda number: fcntl.fcntl(number, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK)))
        status = os.fstat(number)
        self._identity: Identity = (status.st_dev, status.st_ino)
        _open.add(self._identity)
        self._beside: dict[str, Identity | None] = {}
        if status.st_nlink > 1:
            _log.warning(
                "the database has more than one name (hard links): always use the same one, since the newest data "
                "is in a write-ahead log beside that name",
                names=status.st_nlink,
            )

    def note(self) -> None:
        """Remember the files that SQLite keeps beside the database, once it has opened it."""
        self._beside = {suffix: _identity(self._path + suffix) for suffix in ("-wal", "-shm")}

    def check(self) -> None:
        """Raise Misplaced if the path no longer leads to the open file; OSError."""
        number = self._held.number
        found = _identity(self._path)
        if found is None:
            status = os.fstat(number)
            what = "was moved away" if status.st_nlink else "was deleted"
            rescue = "" if status.st_nlink else f" (its content: /proc/{os.getpid()}/fd/{number})"
            raise Misplaced(f"{self._path} {what}{rescue}: put it back, or restart the server with the file to use")
        if found != self._identity:
            raise Misplaced(f"{self._path} was replaced by another file: put the old one back, or restart the server")
        if os.pread(number, len(_MAGIC), 0) != _MAGIC:
            raise Misplaced(f"{self._path} was overwritten: stop the server and restore a backup", spoiled=True)
        for suffix, identity in self._beside.items():
            if _identity(self._path + suffix) != identity:
                raise Misplaced(
                    f"{self._path}{suffix} was deleted or replaced: restart the server, nothing accepted is lost"
                )
        with open(self._path + "-wal", "rb", buffering=0) as written:  # SQLite has no locks on it that closing drops
            if not _WAL_MAGIC.startswith(written.read(len(_WAL_MAGIC))):
                raise Misplaced(f"{self._path}-wal was overwritten: stop the server and restore a backup", spoiled=True)

    def release(self) -> None:
        """Let go of the file. A second call does nothing."""
        _open.discard(self._identity)
        self._held.release()


def is_open(path: str) -> bool:
    """Whether a server has the file at `path` open, by whatever name. Raises OSError."""
    if _here(path):
        return True
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(number, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
    finally:
        os.close(number)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def _flock(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, _BYTE, 1, 0)


def _identity(path: str) -> Identity | None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (status.st_dev, status.st_ino)


def _here(path: str) -> bool:
    return _identity(path) in _open


def in_use(path: str) -> ConfigError:
    """The error if another server has the file, but not its lock file."""
    return ConfigError(
        f"db: {path} is in use by another server under another name (a hard link, a bind mount, or its lock file was "
        "deleted): stop it, or choose another file with --db",
        field="db",
    )
