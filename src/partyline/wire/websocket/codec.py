"""One WebSocket connection after its handshake, sans-IO (RFC 6455 5-7, RFC 7692 6-7).

`receive(data)` turns bytes into events, in order:

- `str` and `bytes`: a whole text or binary message
- `Packed`: a whole compressed message, if the caller unpacks by itself; see `unpack`
- `Ping`, `Pong`: a control frame; answer a Ping with `pong(payload)`
- `Close`: the peer's close frame; answer it with `close(code)` unless we closed first
- `Violation`: the peer broke the protocol or a limit; send `close(code, reason)` and drop the connection

`receive(data, units)` stops after that much work; then `unread` is not 0, and a call without data goes on. A unit is a
frame, or 128 bytes of one.

Events before a Violation are valid and must be answered before the close. No event follows a Close or a Violation.
`text`, `binary`, `ping`, `pong` and `close` return the bytes to send.
"""

from __future__ import annotations

import codecs
import os
import sys
from typing import Final, cast

from partyline.wire.websocket import frames
from partyline.wire.websocket.deflate import Deflate, InflatedTooLarge, InflateError, Inflater, deflate
from partyline.wire.websocket.events import (
    TRANSITIONS,
    Close,
    CloseState,
    Event,
    Limits,
    Packed,
    Ping,
    Pong,
    Step,
    Violation,
)
from partyline.wire.websocket.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, text_frame
from partyline.wire.websocket.masking import mask, rotate

_integer = int.from_bytes
_new_decoder = codecs.getincrementaldecoder("utf-8")

_OPEN: Final = CloseState.OPEN  # looked up for each read: in an Enum that takes ten times as long on Python 3.11


class _Message:
    """A message that is still arriving, and its frame that is being read."""

    __slots__ = ("buffer", "count", "decoder", "fin", "key", "left", "opcode", "packed", "size")

    def __init__(self, opcode: int, *, packed: bool) -> None:
        self.opcode = opcode
        self.packed = packed
        self.decoder = _new_decoder("strict") if opcode == TEXT and not packed else None
        # A buffer instead of a list of pieces: a message that drips in byte by byte must not cost forty bytes for each.
        self.buffer = bytearray()
        self.size = 0  # payload bytes announced so far, over all frames
        self.count = 0  # frames begun
        self.left = 0  # payload bytes of the current frame still to come
        self.key: bytes | None = None  # rotated so that it begins at the next payload byte
        self.fin = False

    def feed(self, payload: bytes, *, final: bool) -> str | bytes | None:
        """Take unmasked payload; returns the whole message at its end.

        Raises UnicodeDecodeError at the first bad byte.
        """
        text = None if self.decoder is None else self.decoder.decode(payload, final)
        if not final and self.decoder is not None and _begins_surrogate(self.decoder.getstate()[0]):
            raise UnicodeDecodeError("utf-8", payload, 0, 1, "a surrogate")
        if final and not self.buffer:
            return payload if text is None else text
        self.buffer += payload
        if not final:
            return None
        return bytes(self.buffer) if text is None else self.buffer.decode()


def _begins_surrogate(pending: bytes) -> bool:
    """Whether an unfinished character must be a surrogate. Python's decoder notices only at the third byte."""
    return len(pending) == 2 and pending[0] == 0xED and pending[1] >= 0xA0


class _Broken(Exception):
    def __init__(self, code: int, reason: str, limit: str | None = None) -> None:
        self.violation = Violation(code, reason, limit)


class Codec:
    """The protocol of one connection; holds only what is unfinished.

    A `client` masks what it sends and expects unmasked frames (RFC 6455 5.1); a server the other way round. `deflate`
    is what the handshake agreed on; with `unpacks` compressed messages are handed out as they are. `limits` may be
    replaced between two messages. `fragments` counts frames below 126 bytes that ended no message.
    """

    __slots__ = (
        "_at",
        "_client",
        "_message",
        "_ready",
        "_tail",
        "_units",
        "_unpacks",
        "deflate",
        "fragments",
        "limits",
        "state",
    )

    def __init__(
        self, limits: Limits, *, deflate: Deflate | None = None, client: bool = False, unpacks: bool = False
    ) -> None:
        self.state = _OPEN
        self.limits = limits
        self.deflate = deflate
        self.fragments = 0
        self._client = client
        self._unpacks = unpacks
        self._message: _Message | None = None
        self._tail = b""  # an incomplete frame head or control frame, at most 138 bytes; or unread data
        self._at = -1  # where in `_tail` the unread data begins; -1: all has been read
        self._units = 0  # of work that `receive` may still do
        self._ready = not client  # a server's connection, open, with nothing unfinished

    # Out

    def text(self, payload: bytes) -> bytes:
        """A text message in one frame. `payload` must be UTF-8; the caller has encoded it from str."""
        if self._client:
            return frame(TEXT, payload, key=os.urandom(4))
        return text_frame(payload)

    def binary(self, payload: bytes) -> bytes:
        """A binary message in one frame."""
        return frame(BINARY, payload, key=self._key())

    def compressed(self, opcode: int, payload: bytes) -> bytes:
        """A message in one frame, compressed if the handshake agreed on it."""
        if self.deflate is None:
            return frame(opcode, payload, key=self._key())
        return frame(opcode, deflate(payload, self.deflate.window_bits), rsv1=True, key=self._key())

    def ping(self, payload: bytes = b"") -> bytes:
        """A ping of at most 125 payload bytes."""
        return frame(PING, payload[:125], key=self._key())

    def pong(self, payload: bytes = b"") -> bytes:
        return frame(PONG, payload[:125], key=self._key())

    def close(self, code: int = 1000, reason: str = "") -> bytes:
        """Our close frame; empty if we sent one before. 1005 stands for a close frame without a code."""
        after = TRANSITIONS.get((self.state, Step.SEND_CLOSE))
        if after is None:
            return b""
        self.state = after
        self._ready = False
        payload = b"" if code == 1005 else frames.close_payload(code, reason)
        return frame(CLOSE, payload, key=self._key())

    def _key(self) -> bytes | None:
        return os.urandom(4) if self._client else None

    # In

    def short_text(self, data: bytes) -> str | None:
        """The message, if `data` is one whole, short, masked text frame and nothing else is unfinished.

        Interactive clients send such frames. `receive` returns the same in a list, but takes three times as long by the
        general way; None means that it must be called.
        """
        if self._ready:
            size = len(data) - 6
            if 0 < size < 126 and data[0] == 0x81 and data[1] == size + 128:
                repeated = (data[2:6] * ((size + 3) >> 2))[:size]
                unmasked = _integer(data[6:], "little") ^ _integer(repeated, "little")
                try:
                    return unmasked.to_bytes(size, "little").decode()
                except UnicodeDecodeError:
                    pass  # `receive` says what is wrong
        return None

    @property
    def unread(self) -> int:
        """Bytes that `receive` was given and has not looked at."""
        return len(self._tail) - self._at if self._at >= 0 else 0

    def keep(self, data: bytes) -> None:
        """Keep `data` unread for the next `receive`."""
        if self.state is _OPEN or self.state is CloseState.CLOSE_SENT:
            self._tail, self._at = self._tail[max(0, self._at) :] + data, 0
            self._ready = False

    def receive(self, data: bytes, units: int = sys.maxsize) -> list[Event]:
        """The events that `data` completes, in order. Nothing that a peer sends makes it raise."""
        text = self.short_text(data)
        if text is not None:
            return [text]
        if self.state is CloseState.CLOSE_RECEIVED or self.state is CloseState.CLOSED:
            return []
        at, self._at = max(0, self._at), -1
        if data and self._tail:
            data, at = self._tail[at:] + data, 0
        events: list[Event] = []
        try:
            self._units = units
            self._read(data or self._tail, at, events)
        except _Broken as broken:
            self.fail()
            events.append(broken.violation)
        self._ready = self._message is None and not self._tail and self.state is _OPEN and not self._client
        return events

    def unpack(self, packed: Packed) -> str | bytes | Violation:
        """Inflate a message, never beyond `max_inflated`. No event follows a Violation."""
        try:
            return self._inflate(packed.opcode, packed.data)
        except _Broken as broken:
            self.fail()
            return broken.violation

    def _inflate(self, opcode: int, data: bytes) -> str | bytes:
        try:
            payload = Inflater(self.limits.max_inflated).inflate(data, final=True)
            return payload.decode() if opcode == TEXT else payload
        except UnicodeDecodeError:
            raise _Broken(1007, "a text message is not UTF-8") from None
        except InflateError:
            raise _Broken(1007, "a message is not compressed as agreed") from None
        except InflatedTooLarge:
            reason = f"a message inflates to more than {self.limits.max_inflated} bytes"
            raise _Broken(1009, reason, "max_inflated") from None

    def fail(self) -> None:
        """Read nothing more: the peer broke the protocol or a rule of ours. Our close frame may still be sent."""
        if (after := TRANSITIONS.get((self.state, Step.FAIL))) is not None:
            self._end(after)

    def _end(self, state: CloseState) -> None:
        """Nothing more is read."""
        self.state = state
        self._tail = b""
        self._at = -1
        self._message = None
        self._ready = False

    def _read(self, data: bytes, at: int, events: list[Event]) -> None:
        self._tail = b""
        end, began = len(data), at
        while at < end:
            self._units -= 1 + (at - began >> 7)
            if self._units < 0:
                self._tail, self._at = data, at
                return
            began = at
            message = self._message
            if message is None:
                stop = self._whole(data, at, end, events)
                if stop:
                    at = stop
                    continue
            elif message.left:
                at = self._payload(message, data, at, events)
                continue
            head = self._head(data, at, end)
            if head is None:
                self._tail = data[at:]
                return
            opcode, fin, rsv1, key, size, start = head
            if opcode >= CLOSE:
                if end - start < size:
                    self._tail = data[at:]
                    return
                at = start + size
                payload = data[start:at]
                if self._control(opcode, mask(payload, key) if key else payload, events):
                    return
                continue
            at = start
            self._begin(opcode, fin, rsv1, key, size)
            if not size:
                self._end_frame(b"", events)

    def _whole(self, data: bytes, at: int, end: int, events: list[Event]) -> int:
        """Read the message at `at` if it is one whole, masked, uncompressed frame below 64 KiB; where it ends, or 0.

        Busy clients send such frames, several in one read; 0 means that the general way must be taken.
        """
        first = data[at]
        if first not in (0x81, 0x82) or end - at < 8 or self._client:
            return 0
        size = data[at + 1] - 0x80
        start = at + 6
        if size == 126:
            size = data[at + 2] << 8 | data[at + 3]
            start += 2
            if size < 126:
                return 0
        stop = start + size
        if not 0 < size < 65536 or stop > end or size > self.limits.max_message or data[at + 1] == 255:
            return 0
        payload = mask(data[start:stop], data[start - 4 : start])
        message: str | bytes = payload
        if first == 0x81:
            try:
                message = payload.decode()
            except UnicodeDecodeError:
                return 0
        if self.state is _OPEN:  # after our close, messages are read and dropped
            events.append(message)
        return stop

    def _head(self, data: bytes, at: int, end: int) -> tuple[int, bool, bool, bytes | None, int, int] | None:
        """Read and check a frame's head: (opcode, fin, rsv1, key, payload size, where the payload starts)."""
        first = data[at]
        opcode = first & 0x0F
        fin = first >= 0x80
        rsv1 = first & frames.RSV1 != 0
        if first & 0x30 or (rsv1 and (self.deflate is None or opcode not in (TEXT, BINARY))):
            raise _Broken(1002, "reserved bits are set")
        if 0x2 < opcode < 0x8 or opcode > PONG:
            raise _Broken(1002, f"opcode {opcode:#x} is reserved")
        if end - at < 2:
            return None
        second = data[at + 1]
        masked = second >= 0x80
        if masked is self._client:
            raise _Broken(1002, "frames from a server must not be masked" if masked else "frames must be masked")
        size = second & 0x7F
        start = at + 2
        if opcode >= CLOSE:
            if not fin:
                raise _Broken(1002, "a control frame is fragmented")
            if size > 125:
                raise _Broken(1002, "a control frame is longer than 125 bytes")
        elif size == 126:
            start += 2
            if end < start:
                return None
            size = int.from_bytes(data[at + 2 : start], "big")
            if size < 126:
                raise _Broken(1002, "a length is not in its shortest form")
        elif size == 127:
            start += 8
            if end < start:
                return None
            size = int.from_bytes(data[at + 2 : start], "big")
            if size < 65536 or size >= 1 << 63:
                raise _Broken(1002, "a length is not in its shortest form, or has its top bit set")
        if not masked:
            return opcode, fin, rsv1, None, size, start
        if end < start + 4:
            return None
        return opcode, fin, rsv1, data[start : start + 4], size, start + 4

    def _begin(self, opcode: int, fin: bool, rsv1: bool, key: bytes | None, size: int) -> None:
        message = self._message
        if opcode == CONTINUATION:
            if message is None:
                raise _Broken(1002, "a continuation without a message to continue")
        elif message is not None:
            raise _Broken(1002, "a new message before the last one ended")
        else:
            message = self._message = _Message(opcode, packed=rsv1)
        message.count += 1
        message.size += size
        if message.size > self.limits.max_message:
            raise _Broken(1009, f"a message is larger than {self.limits.max_message} bytes", "max_message")
        if message.count > self.limits.max_fragments:
            raise _Broken(1009, f"a message has more than {self.limits.max_fragments} frames", "max_fragments")
        if size < 126 and not fin:
            self.fragments += 1
        message.fin = fin
        message.key = key
        message.left = size

    def _payload(self, message: _Message, data: bytes, at: int, events: list[Event]) -> int:
        """Take the part of the current frame's payload that is in `data`; returns where it ends."""
        piece = data[at : at + message.left]
        size = len(piece)
        message.left -= size
        if message.key is not None:
            key = message.key
            if message.left:
                message.key = rotate(key, size)
            piece = mask(piece, key)
        if message.left:
            self._feed(message, piece, final=False)
        else:
            self._end_frame(piece, events)
        return at + size

    def _end_frame(self, piece: bytes, events: list[Event]) -> None:
        message = self._message
        assert message is not None
        whole = self._feed(message, piece, final=message.fin)
        if whole is None:
            return
        self._message = None
        if self.state is not _OPEN:
            return  # after our close, messages are read and dropped
        if not message.packed:
            events.append(whole)
        elif self._unpacks:
            events.append(Packed(message.opcode, cast("bytes", whole)))
            self._units = 0  # its cost is known only when it is unpacked
        else:
            events.append(self._inflate(message.opcode, cast("bytes", whole)))

    def _feed(self, message: _Message, piece: bytes, *, final: bool) -> str | bytes | None:
        try:
            return message.feed(piece, final=final)
        except UnicodeDecodeError:
            raise _Broken(1007, "a text message is not UTF-8") from None

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> bool:
        """Handle a control frame; True if we read nothing after it."""
        if opcode == CLOSE:
            code, reason = _parse_close(payload)
            self._end(TRANSITIONS[self.state, Step.RECEIVE_CLOSE])
            events.append(Close(code, reason))
            return True
        if self.state is _OPEN:
            events.append(Ping(payload) if opcode == PING else Pong(payload))
        return False


def _parse_close(payload: bytes) -> tuple[int, str]:
    """RFC 6455 5.5.1 and 7.4: no payload, or a code and a UTF-8 reason."""
    if not payload:
        return 1005, ""
    if len(payload) == 1:
        raise _Broken(1002, "a close frame's payload is one byte long")
    code = int.from_bytes(payload[:2], "big")
    if not frames.valid_close_code(code):
        raise _Broken(1002, f"close code {code} is not for the wire")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise _Broken(1007, "a close reason is not UTF-8") from None


__all__ = [
    "TRANSITIONS",
    "Close",
    "CloseState",
    "Codec",
    "Event",
    "Limits",
    "Packed",
    "Ping",
    "Pong",
    "Step",
    "Violation",
]
