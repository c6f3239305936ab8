"""The lock of a database: an flock on `<db>.lock`, held while a server runs and gone with its process.

The file tells people and the next server which process holds it, and whether that process is about to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from typing import Final

import msgspec

from partyline import log
from partyline.errors import ConfigError
from partyline.stores.sqlite.held import Held
from partyline.stores.sqlite.opening import check_file, check_ours, explain

_log = log.get("store")

_GLANCE: Final = 0.01  # seconds between tries: `doctor` takes a shared lock for a moment
_GLANCES: Final = 10
_POLL: Final = 0.05  # seconds between tries while a server finishes


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock, as far as it is known. `draining` is True once it is stopping."""

    pid: int | None = None
    draining: bool = False

    def __str__(self) -> str:
        process = "" if self.pid is None else f" (process {self.pid}{', which is finishing' if self.draining else ''})"
        return f"another server{process}"


class Lock:
    """A held lock, made by `take`. The lock file stays after a release: another process may be waiting for it."""

    def __init__(self, handle: int) -> None:
        self._held = Held(handle, lambda number: fcntl.flock(number, fcntl.LOCK_UN))
        self._say(Holder(os.getpid()))

    def draining(self) -> None:
        """Tell the next server that it is worth waiting."""
        self._say(Holder(os.getpid(), draining=True))

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        self._held.release()

    def _say(self, who: Holder) -> None:
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.pwrite(self._held.number, msgspec.json.encode(who).ljust(64) + b"\n", 0)


def take(path: str) -> Lock:
    """Take the lock of the database at `path`. Raises ConfigError, naming the holder, if it is in use; OSError."""
    for _ in range(_GLANCES):
        handle = _try(path)
        if handle is not None:
            return Lock(handle)
        time.sleep(_GLANCE)
    raise _in_use(path, holder(path))


async def take_over(path: str, seconds: float, *, whoever: bool = False) -> Lock:
    """Take the lock of the database at `path`, waiting up to `seconds` for the server that holds it to finish.

    If that server is not stopping, raises ConfigError at once, unless `whoever` says that it is about to be stopped.
    Cancelled, nothing is taken.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    told = False
    try:
        check_ours(path)
        while (handle := _try(path)) is None:
            who = holder(path) or Holder()
            if not whoever and not who.draining:
                return take(path)  # raises, or finds it free by now
            if loop.time() >= deadline:
                raise _in_use(path, who, f" and was not released within {seconds:g} s")
            if not told:
                told = True
                _log.info("waiting for another server to release the database", holder=who.pid, at_most=seconds)
            await asyncio.sleep(_POLL)
        return Lock(handle)
    except OSError as error:
        raise explain(path, error) from None


def holder(path: str) -> Holder | None:
    """The holder of the lock of the database at `path`, None if nobody holds it. Raises OSError."""
    try:
        handle = os.open(_file(path), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return msgspec.json.decode(os.pread(handle, 200, 0), type=Holder)
        except msgspec.MsgspecError:
            return Holder()
    finally:
        os.close(handle)
    return None


def _file(path: str) -> str:
    return os.path.realpath(path) + ".lock"


def _try(path: str) -> int | None:
    check_file(path)  # first, or a lock would be left beside a device
    handle = os.open(_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _in_use(path: str, who: Holder | None, more: str = "") -> ConfigError:
    return ConfigError(
        f"db: {path} is in use by {who or Holder()}{more}: stop it, or choose another file with --db", field="db"
    )
