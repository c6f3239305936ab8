"""permessage-deflate (RFC 7692), always without context takeover, in both directions.

Without context takeover no window is kept between messages: an idle connection costs nothing, and a broadcast is
compressed once for all with the same window size.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

TAIL: Final = b"\x00\x00\xff\xff"  # RFC 7692 7.2.1: cut from what is sent, added to what is received
LEVEL: Final = 1  # zlib's fastest: for a live message speed matters more than size
_MAX_RESTARTS: Final = 8


class InflateError(Exception):
    """The compressed data is not DEFLATE."""


class InflatedTooLarge(Exception):
    """The message grew beyond its limit; inflating stopped there."""


def deflate(payload: bytes, window_bits: int = 15) -> bytes:
    """Compress one whole message (RFC 7692 7.2.1)."""
    squeezer = zlib.compressobj(LEVEL, zlib.DEFLATED, -window_bits, 8 if window_bits > 9 else 5)
    return (squeezer.compress(payload) + squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflate(payload: bytes) -> bytes:
    """Undo `deflate`. Only for what we compressed ourselves, since it has no limit."""
    return zlib.decompressobj(-15).decompress(payload + TAIL)


class Inflater:
    """Decompresses one message piece by piece, never beyond `limit` bytes in all."""

    __slots__ = ("_left", "_restarts", "_zlib")

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._restarts = 0
        self._zlib = zlib.decompressobj(-15)

    def inflate(self, data: bytes, *, final: bool) -> bytes:
        """The bytes that `data` stands for.

        Raises InflatedTooLarge as soon as the limit is passed (at most one byte beyond it is produced), and
        InflateError if the data is not DEFLATE.
        """
        if final:
            data += TAIL
        pieces: list[bytes] = []
        while data:
            try:
                # One byte more than allowed tells "exactly the limit" from "too large".
                piece = self._zlib.decompress(data, self._left + 1)
            except zlib.error as error:
                raise InflateError(str(error)) from None
            self._left -= len(piece)
            if self._left < 0:
                raise InflatedTooLarge
            pieces.append(piece)
            if self._zlib.eof:
                # RFC 7692 7.2.3.4: a block with BFINAL set ends this DEFLATE stream, and another begins. Each start
                # costs far more than the two bytes that a hostile peer needs for it, so starts are counted.
                self._restarts += 1
                if self._restarts > _MAX_RESTARTS:
                    raise InflateError("too many final blocks in one message")
                data = self._zlib.unused_data
                self._zlib = zlib.decompressobj(-15)
            else:
                data = self._zlib.unconsumed_tail
        return b"".join(pieces)


@dataclass(frozen=True, slots=True)
class Deflate:
    """What was agreed in the handshake: the window our compressor may use, 9 to 15 bits."""

    window_bits: int = 15

    @property
    def response(self) -> str:
        """The extension as the handshake's answer states it (RFC 7692 7.1)."""
        answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        return answer if self.window_bits == 15 else f"{answer}; server_max_window_bits={self.window_bits}"
