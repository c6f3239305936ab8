"""Which server has the database: an flock on `<db>.lock`, held while a server runs and gone with its process.

The file says for people, and for the next server, which process holds it and whether that one is on its way out.
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
from partyline.stores.sqlite.opening import check_file, explain

_log = log.get("store")

_GLANCE: Final = 0.01  # seconds between tries: `doctor` holds a shared lock for a moment to see whether it can
_GLANCES: Final = 10
_POLL: Final = 0.05  # seconds between tries while a server finishes


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock, as far as it said so. `draining` is True once it stops and will let go."""

    pid: int | None = None
    draining: bool = False

    def __str__(self) -> str:
        process = "" if self.pid is None else f" (process {self.pid}{', which is finishing' if self.draining else ''})"
        return f"another server{process}"


class Lock:
    """A held lock, made by `take`. The lock file stays when it is let go: another process may be waiting for it."""

    def __init__(self, handle: int) -> None:
        self._held = Held(handle, lambda number: fcntl.flock(number, fcntl.LOCK_UN))
        self._say(Holder(os.getpid()))

    def draining(self) -> None:
        """Tell whoever wants it next that it is worth waiting."""
        self._say(Holder(os.getpid(), draining=True))

    def release(self) -> None:
        """Let go. A second call does nothing."""
        self._held.release()

    def _say(self, who: Holder) -> None:
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.pwrite(self._held.number, msgspec.json.encode(who).ljust(64) + b"\n", 0)


def take(path: str) -> Lock:
    """Take the lock of the database at `path`. Raises ConfigError if it is in use, naming by whom; OSError."""
    for _ in range(_GLANCES):
        handle = _try(path)
        if handle is not None:
            return Lock(handle)
        time.sleep(_GLANCE)
    raise _in_use(path, holder(path))


async def take_over(path: str, seconds: float, *, whoever: bool = False) -> Lock:
    """The lock of the database at `path`, waited for up to `seconds` while the server that holds it finishes.

    Where that server goes on, this one is refused at once, unless `whoever` says that it is about to be stopped.
    Cancelling it takes nothing. Raises ConfigError.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    told = False
    try:
        while (handle := _try(path)) is None:
            who = holder(path) or Holder()
            if not whoever and not who.draining:
                return take(path)  # refuses, or finds that it is free by now
            if loop.time() >= deadline:
                raise _in_use(path, who, f" and was not let go of within {seconds:g} s")
            if not told:
                told = True
                _log.info("waiting for another server to let go of the database", holder=who.pid, at_most=seconds)
            await asyncio.sleep(_POLL)
        return Lock(handle)
    except OSError as error:
        raise explain(path, error) from None


def holder(path: str) -> Holder | None:
    """Who holds the lock of the database at `path`, None if nobody does. Raises OSError."""
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
