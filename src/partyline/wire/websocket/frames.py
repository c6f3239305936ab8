"""WebSocket frames as bytes (RFC 6455 5.2) and the closing codes they may carry (RFC 6455 7.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, Self

from partyline.wire.websocket.deflate import inflate
from partyline.wire.websocket.masking import mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
RSV1: Final = 0x40
MASKED: Final = 0x80

EMPTY_PING: Final = b"\x89\x00"

_two = Struct("!BBH").pack
_eight = Struct("!BBQ").pack
SHORT_TEXT_HEADS: Final = [bytes((FIN | TEXT, size)) for size in range(126)]


def frame(opcode: int, payload: bytes, *, fin: bool = True, rsv1: bool = False, key: bytes | None = None) -> bytes:
    """One frame. `key` is the 4-byte masking key: required of clients, forbidden to servers (RFC 6455 5.1).

    Lengths are written in the shortest form (RFC 6455 5.2). The caller makes sure that a control frame's
    payload is at most 125 bytes.
    """
    first = opcode | (FIN if fin else 0) | (RSV1 if rsv1 else 0)
    masked = 0 if key is None else MASKED
    size = len(payload)
    if size < 126:
        head = bytes((first, masked | size))
    elif size < 65536:
        head = _two(first, masked | 126, size)
    else:
        head = _eight(first, masked | 127, size)
    if key is None:
        return head + payload
    return b"".join((head, key, mask(payload, key)))


def utf8(text: str) -> bytes:
    """An application's text as any transport sends it: half a surrogate pair becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def text_frame(payload: bytes) -> bytes:
    """An unmasked text frame: a server's most frequent one, so it skips the general way."""
    size = len(payload)
    if size < 126:
        return SHORT_TEXT_HEADS[size] + payload
    return frame(TEXT, payload)


class Frames(bytes):
    """Unmasked frames that remember the messages in them, for members on other transports."""

    messages: tuple[str | bytes, ...]

    @classmethod
    def of(cls, messages: Iterable[str | bytes], before: bytes = b"") -> Self:
        """One frame for each message, as one piece, so nothing can get in between. `before` precedes binary ones."""
        messages = tuple(messages)
        written = [text_frame(utf8(one)) if isinstance(one, str) else frame(BINARY, before + one) for one in messages]
        frames = cls(b"".join(written))
        frames.messages = messages
        return frames


def messages(data: bytes, *, compressed: bool = False) -> Iterator[str | bytes]:
    """The messages in frames of our own: whole, unmasked, one after the other. Control frames are left out.

    For transports that frame by themselves, and for looking at what is queued. Raises ValueError for a compressed frame
    unless `compressed`.
    """
    at = 0
    while at < len(data):
        first, size = data[at], data[at + 1]
        at += 2
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        payload = data[at : at + size]
        at += size
        if first & RSV1:
            if not compressed:
                raise ValueError("a compressed frame is for a connection that agreed on compression")
            payload = inflate(payload)
        opcode = first & 0x0F
        if opcode == TEXT:
            yield payload.decode()
        elif opcode == BINARY:
            yield payload


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a close frame. A reason beyond 123 bytes is cut at a character (RFC 6455 5.5)."""
    return code.to_bytes(2, "big") + reason.encode()[:123].decode(errors="ignore").encode()


def valid_close_code(code: int) -> bool:
    """Whether a peer may put `code` on the wire: RFC 6455 7.4.2 and the IANA registry (1012-1014 are registered).

    1004 is reserved; 1005, 1006 and 1015 are for programs only, never for the wire.
    """
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
