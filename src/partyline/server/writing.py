"""Writing: everything from one turn of the loop leaves together at its end, or waits in an outbox while the transport
pushes back.

A write is a system call, the largest part of a message's cost: many messages for one connection become one write, and
the writes for many connections follow each other directly, so that their readers need not be woken up one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol, cast

from partyline import log
from partyline.hub.outbox import Outbox, end_slow
from partyline.metrics import Counters
from partyline.models import Payload
from partyline.wire.websocket import frames
from partyline.wire.websocket.codec import Codec
from partyline.wire.websocket.frames import SHORT_TEXT_HEADS, text_frame

_log = log.get("server")

_AT_ONCE: Final = 64 * 1024  # bytes; so much does not wait for the end of the turn, as the transport would push back


# Seconds after which a write arrives in a read of its own (docs/decisions/0015-reads-of-their-own.md). Clients of
# Engine.IO 3 lose an open packet that comes with the 101, and programs that await one message at a time lose those that
# come with the end of a handshake.
OWN_READ: Final = 0.01
# User agents that hand over everything in one read at once.
_BUNDLING: Final = (b"node", b"undici")


def takes_bundles(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a WebSocket client certainly takes each message of a read by itself, so that nothing has to wait.

    Browsers do, which send Origin, and clients of other languages, which send User-Agent. Node's `ws` sends neither
    (docs/decisions/0026-who-waits.md).
    """
    for name, value in headers:
        if name == b"origin" or (name == b"user-agent" and not value.lower().startswith(_BUNDLING)):
            return True
    return False


class Leaving(Protocol):
    """Something with bytes to write."""

    def leave(self) -> None:
        """Write them. Called once for each `Turn.add`; there may be nothing left to write by then."""


class Turn:
    """The current turn of one loop."""

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


def consists_of(unwanted: Callable[[str | bytes], bool]) -> Callable[[Payload], bool]:
    """Whether a payload consists of `unwanted` messages only; one without any, such as a close frame, does not."""

    def matches(payload: Payload) -> bool:
        messages = tuple(frames.messages(payload.data, compressed=True))
        return bool(messages) and all(map(unwanted, messages))

    return matches


class Writing:
    """The writing half of a connection. The other half decides how it ends."""

    __slots__ = (
        "_closing",
        "_compress_from",
        "_counters",
        "_drain",
        "_outbox",
        "_pending",
        "_pending_size",
        "_transport",
        "_turn",
        "_wire",
    )

    def __init__(self, turn: Turn, counters: Counters, compress_from: int, wire: Codec) -> None:
        """`compress_from` is in bytes."""
        self._turn = turn
        self._counters = counters
        self._compress_from = compress_from
        self._wire = wire
        self._transport = cast("asyncio.Transport", None)
        self._pending: list[bytes] | None = None  # written in this turn of the loop; leaves at its end
        self._pending_size = 0
        self._outbox: Outbox | None = None
        self._drain: asyncio.Future[None] | None = None
        self._closing = False  # nothing may follow our close frame

    def close(self, code: int, reason: str = "") -> None:
        raise NotImplementedError

    @property
    def writable(self) -> bool:
        """Whether a message would be handed to the transport at once."""
        return self._outbox is None and not self._closing

    def offer(self, payload: Payload) -> None:
        """Write a published message, or queue it while the transport pushes back."""
        if self._outbox is None and not self._closing:
            self._write(payload.data)
        else:
            self._queue(payload)

    def send(self, data: bytes) -> None:
        """Write an answer: framed bytes, after what is queued."""
        if self._outbox is None and not self._closing:
            self._write(data)
        else:
            self._queue(Payload(data))

    def send_text(self, text: str) -> None:
        """Write a text message, compressed if that was negotiated and is worth it."""
        try:
            payload = text.encode()  # the common case, without another call
        except UnicodeEncodeError:
            payload = frames.utf8(text)
        self.send_utf8(payload)

    def send_utf8(self, payload: bytes) -> None:
        """Write a text message that is encoded already."""
        size = len(payload)
        if size < 126 and self._outbox is None and not self._closing:
            # The common answer: short, nothing queued. `compress_from` is never as small as this.
            self._write(SHORT_TEXT_HEADS[size] + payload)
        elif self._wire.deflate is not None and size >= self._compress_from:
            self.send(self._wire.compressed(frames.TEXT, payload))
        else:
            self.send(text_frame(payload))

    def send_binary(self, data: bytes) -> None:
        """Write a binary message, compressed if that was negotiated and is worth it."""
        if self._wire.deflate is not None and len(data) >= self._compress_from:
            self.send(self._wire.compressed(frames.BINARY, data))
        else:
            self.send(self._wire.binary(data))

    async def drained(self) -> None:
        while self._outbox is not None and not self._closing:
            if self._drain is None:
                self._drain = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drain)

    def discard(self, unwanted: Callable[[str | bytes], bool]) -> None:
        if self._outbox is not None:
            self._outbox.discard(consists_of(unwanted))

    def _write_last(self, frame: bytes) -> bool:
        """Write a close frame after what is queued; False if it has to wait there."""
        if self._outbox:
            self._outbox.force(Payload(frame))
            return False
        self.leave()
        self._transport.write(frame)
        return True

    def _write(self, data: bytes) -> None:
        """Write at the end of this turn of the loop, together with everything else written until then."""
        pending = self._pending
        if pending is None:
            self._pending = [data]
            self._pending_size = len(data)
            self._turn.add(self)
        else:
            pending.append(data)
            self._pending_size += len(data)
        if self._pending_size > _AT_ONCE:
            self.leave()

    def leave(self) -> None:
        """Write what was collected in this turn."""
        pending, self._pending = self._pending, None
        if pending is not None and not self._transport.is_closing():
            self._transport.write(b"".join(pending))

    def _queue(self, payload: Payload) -> None:
        outbox = self._outbox
        if self._closing or outbox is None or outbox.push(payload):
            return
        self._discard_outbox()
        end_slow(self, self._counters)

    def _discard_outbox(self) -> None:
        if self._outbox is not None:
            self._counters.dropped += len(self._outbox)
            self._outbox.clear()

    def _drop_outbox(self, outbox: Outbox) -> None:
        self._counters.dropped += outbox.dropped
        self._outbox = None
        self._wake_drained()

    def _wake_drained(self) -> None:
        drain, self._drain = self._drain, None
        if drain is not None and not drain.done():
            drain.set_result(None)
