"""A request's body, read as it arrives (RFC 9112 6.2, 7.1)."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, TypeAlias

from partyline.errors import HeadTooLarge, MalformedRequest
from partyline.wire.http.head import CHUNKED

_AT_ONCE: Final = 64 * 1024  # bytes of a body that are handed over in one piece
_LINES_AT_ONCE: Final = 4 * 1024  # bytes of chunks that are read in one piece: each may hold a single byte
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(;[^\x00-\x08\x0a-\x1f\x7f]*)?\Z")
_FIELD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*\Z")


class Sized:
    """A body of a known length."""

    __slots__ = ("_left",)

    rest = b""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def wants(self) -> int:
        """Most bytes that `take` may be given."""
        return min(self._left, _AT_ONCE)

    @property
    def done(self) -> bool:
        return not self._left

    def take(self, data: bytes) -> bytes:
        """The content in `data`, the next bytes of the body: all of it."""
        self._left -= len(data)
        return data


class _At(Enum):
    SIZE = "a chunk's size"
    DATA = "a chunk's data"
    AFTER = "the line's end after it"
    TRAILER = "the trailer"
    DONE = "after the body"


class Chunked:
    """A body in chunks. Its trailer is checked and dropped: trailers are not headers (RFC 9110 6.5.1)."""

    __slots__ = ("_at", "_extra", "_left", "_line", "_max_extra", "rest")

    def __init__(self, max_extra: int) -> None:
        """`max_extra` bounds the bytes of extensions and trailers."""
        self._at = _At.SIZE
        self._left = 0
        self._line = b""  # the beginning of a line
        self._extra = 0
        self._max_extra = max_extra
        self.rest = b""  # what followed the body in the data it was given

    @property
    def wants(self) -> int:
        """Most bytes that `take` may be given."""
        return min(self._left, _AT_ONCE) if self._at is _At.DATA else _LINES_AT_ONCE

    @property
    def done(self) -> bool:
        return self._at is _At.DONE

    def take(self, data: bytes) -> bytes:
        """The content in `data`. Raises MalformedRequest, or HeadTooLarge for the trailer."""
        content: list[bytes] = []
        at, end = 0, len(data)
        while at < end and self._at is not _At.DONE:
            if self._at is _At.DATA:
                piece = data[at : at + self._left]
                content.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._at = _At.AFTER
                continue
            newline = data.find(b"\n", at)
            stop = end if newline < 0 else newline + 1
            line = self._line + data[at:stop]
            at = stop
            if newline >= 0:
                self._line = b""
                self._take_line(line)
            else:
                self._line = line
                self._check_extra(len(line))
        self.rest = data[at:]
        return content[0] if len(content) == 1 else b"".join(content)

    def _take_line(self, line: bytes) -> None:
        if line[-2:] != b"\r\n":
            raise MalformedRequest("a line of a chunked body does not end with CR LF")
        line = line[:-2]
        if self._at is _At.SIZE:
            match = _SIZE.match(line)
            if match is None:
                raise MalformedRequest("a chunk's size is not a hexadecimal number of at most 8 digits")
            self._left = int(match[1], 16)
            if match[2]:
                self._count_extra(len(match[2]))
            self._at = _At.DATA if self._left else _At.TRAILER
        elif self._at is _At.AFTER:
            if line:
                raise MalformedRequest("a chunk is longer than its size")
            self._at = _At.SIZE
        elif not line:
            self._at = _At.DONE
        elif _FIELD.match(line) is None:
            raise MalformedRequest("a trailer is not a header field")
        else:
            self._count_extra(len(line))

    def _count_extra(self, size: int) -> None:
        self._extra += size
        self._check_extra(0)

    def _check_extra(self, unfinished: int) -> None:
        if self._extra + unfinished > self._max_extra:
            raise HeadTooLarge(
                f"extensions and trailers of a chunked body are larger than {self._max_extra} bytes",
                limit="max_head_bytes",
            )


Body: TypeAlias = Sized | Chunked


def body_of(length: int, max_extra: int) -> Body:
    """The reader for a body of this length, which may be CHUNKED."""
    return Chunked(max_extra) if length == CHUNKED else Sized(length)
