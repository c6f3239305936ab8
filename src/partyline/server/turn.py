"""What is written in one turn of the loop leaves together at its end.

A write is a system call, and it is what a message costs most: many messages for one connection become one write, and
the writes for many connections follow each other at once, so that their readers need not be woken up one by one.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from partyline import log

_log = log.get("server")

# Seconds after which what is written comes in a read of its own (docs/decisions/0015-reads-of-their-own.md). Clients of
# Engine.IO 3 lose an open packet that comes with the 101, and programs that await one message after the other lose what
# comes with the end of a handshake.
OWN_READ: Final = 0.01


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
        leaving, self._leaving = self._leaving, []
        for one in leaving:
            try:
                one.leave()
            except Exception:  # one connection's trouble must not cost the others their bytes
                _log.exception("bytes could not be written", to=type(one).__name__)
