"""One connection between a worker and its keeper: frames in, and what one turn of the loop says in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec

from partyline import log
from partyline.errors import PartylineError
from partyline.wire.keeper import Frames, frame

_log = log.get("workers")


class Line(asyncio.Protocol):
    """Either end of it. `received` gets each frame, `lost` is called once when it is gone."""

    def __init__(self, received: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self._received = received
        self._lost = lost
        self._frames = Frames()
        self._out: list[bytes] = []
        self._waiting = 0  # bytes in it
        self._transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._out.clear()
        self._lost()

    def data_received(self, data: bytes) -> None:
        try:
            for content in self._frames.feed(data):
                self._received(content)
        except (PartylineError, msgspec.MsgspecError) as error:
            _log.error("what came is not what workers say to each other: the line ends", error=str(error))
            self._transport.abort()

    @property
    def unsent(self) -> int:
        """Bytes that the other end has not read."""
        return self._waiting + self._transport.get_write_buffer_size()

    def send(self, content: bytes) -> None:
        """Write a frame at the end of this turn of the loop."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self.flush)
        self._out.append(frame(content))
        self._waiting += len(content)

    def flush(self) -> None:
        """Write what was sent, now."""
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()
        self._waiting = 0

    def close(self) -> None:
        """Write what was sent, and end it."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """End it, whatever has not been written."""
        self._transport.abort()
