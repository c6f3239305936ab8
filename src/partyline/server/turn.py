"""What is written in one turn of the loop leaves together at its end.

A write is a system call, and it is what a message costs most: many messages for one connection become one write, and
the writes for many connections follow each other at once, so that their readers need not be woken up one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

from partyline import log

_log = log.get("server")

# Seconds after which what is written comes in a read of its own (docs/decisions/0015-reads-of-their-own.md). Clients of
# Engine.IO 3 lose an open packet that comes with the 101, and programs that await one message after the other lose what
# comes with the end of a handshake.
OWN_READ: Final = 0.01
# User agents that hand over at once whatever one read brought.
_BUNDLING: Final = (b"node", b"undici")


def takes_bundles(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a WebSocket client surely takes each message of a read by itself, so that nothing need wait for it.

    Browsers do, which send Origin, and clients of other languages, which send User-Agent. Node's `ws` sends neither
    (docs/decisions/0026-who-waits.md).
    """
    for name, value in headers:
        if name == b"origin" or (name == b"user-agent" and not value.lower().startswith(_BUNDLING)):
            return True
    return False


class Leaving(Protocol):
    """Something with bytes that are to leave."""

    def leave(self) -> None:
        """Write them. Called once for each `Turn.add`; there may be nothing left to write by then."""
        ...


class Turn:
    """The turn of one loop."""

    __slots__ = ("_leaving",)

    def __init__(self) -> None:
        self._leaving: list[Leaving] = []

    def add(self, one: Leaving) -> None:
        """Let `one` leave at the end of this turn."""
        if not self._leaving:
            asyncio.get_running_loop().call_soon(self._end)
        self._leaving.append(one)

    def _end(self) -> None:
        for one in self._leaving:  # and those that are added meanwhile
            try:
                one.leave()
            except Exception:  # one connection's trouble must not cost the others their bytes
                _log.exception("bytes could not be written", to=type(one).__name__)
        self._leaving.clear()
