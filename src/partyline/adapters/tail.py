"""Reads what is added to a Redis stream after the server's start, across every loss of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from partyline import log
from partyline.adapters.redis import GONE, SLICE, Redis
from partyline.wire.cluster.streams import offset_number

if TYPE_CHECKING:
    from partyline.adapters.redis_servers import Server, Servers

_log = log.get("cluster")

Entry = Callable[[str, Sequence[bytes]], None]
"""Called with each entry: its id and its fields, names and values in turn."""

_COUNT: Final = 100  # entries in one reply
_BLOCK: Final = 5.0  # seconds that Redis waits for an entry
_AGAIN: Final = 1.0  # seconds after which a refused reading is tried again
_PATIENCE: Final = 3.0  # seconds beyond these until the connection counts as dead


class Tail:
    """A reader of one stream, on a connection of its own: reading blocks it."""

    def __init__(
        self, server: Server | Servers, stream: str, entry: Entry, overrun: Callable[[], None] = lambda: None
    ) -> None:
        """`overrun` is called if entries were trimmed before they were read."""
        self._redis = Redis(server, at=stream, probe="")
        self._redis.when_up = self._up
        self._stream = stream
        self._entry = entry
        self._overrun = overrun
        self.last = ""  # id of the newest entry that has been handled
        self._entries: Iterator[tuple[bytes, Sequence[bytes] | None]] = iter(())  # of the last reply, to be handled
        self._found = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Find the end of the stream, or go on trying. Everything added after that is read."""
        await self._redis.start()
        if self._redis.connected:
            await asyncio.wait([asyncio.ensure_future(self._found.wait())], timeout=_PATIENCE)

    async def close(self) -> None:
        """Stop reading."""
        if self._watch is not None:
            self._watch.cancel()
        await self._redis.close()

    def _up(self) -> None:
        if self.last:
            # Node trims a stream to about 10,000 entries, whether or not everybody has read them.
            self._redis.ask(self._oldest, "XRANGE", self._stream, "-", "+", "COUNT", "1")
            self._read()
        else:
            self._redis.ask(self._newest, "XREVRANGE", self._stream, "+", "-", "COUNT", "1")

    def _newest(self, reply: Any) -> None:
        if isinstance(reply, list):
            self.last = reply[0][0].decode() if reply else "0-0"
            self._found.set()
            self._read()
        elif reply is not GONE:
            _log.error("Redis does not let a stream be read", stream=self._stream, error=str(reply))

    def _oldest(self, reply: Any) -> None:
        if isinstance(reply, list) and reply and offset_number(reply[0][0].decode()) > offset_number(self.last):
            _log.error("a stream was trimmed before it was read: events of other servers are lost", stream=self._stream)
            self._overrun()

    def _read(self) -> None:
        self._entries = iter(())  # after a loss those that were not handled are read again
        block = str(int(_BLOCK * 1000))
        self._redis.ask(
            self._answered, "XREAD", "COUNT", str(_COUNT), "BLOCK", block, "STREAMS", self._stream, self.last
        )
        self._watch = asyncio.get_running_loop().call_later(_BLOCK + _PATIENCE, self._redis.give_up)

    def _answered(self, reply: Any) -> None:
        if reply is GONE:
            return
        if self._watch is not None:
            self._watch.cancel()
        if isinstance(reply, Exception):
            _log.error("a stream cannot be read", stream=self._stream, error=str(reply))
            asyncio.get_running_loop().call_later(_AGAIN, self._handle, self._entries)
            return
        if isinstance(reply, dict):
            self._entries = iter(next(iter(reply.values())))
        self._handle(self._entries)

    def _handle(self, entries: Iterator[tuple[bytes, Sequence[bytes] | None]]) -> None:
        """Handle what has been read, for a slice of time in each turn of the loop; then read on."""
        if entries is not self._entries:
            return
        until = monotonic() + SLICE
        for identifier, fields in entries:
            self.last = identifier.decode()
            try:
                self._entry(self.last, fields or ())
            except Exception:
                _log.exception("an entry of a stream could not be handled", stream=self._stream, id=self.last)
            if monotonic() > until:
                asyncio.get_running_loop().call_soon(self._handle, entries)
                return
        self._read()
