"""The newest messages of the log, encoded once for all workers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from typing import Final

import msgspec

from partyline.models import Message
from partyline.wire.keeper import encode

_MOST: Final = 16 * 1024 * 1024  # bytes kept; a worker that is further back reads from the database
_PIECE: Final = 4 * 1024 * 1024  # bytes of one answer; one message may be more
_RAW: Final = 128  # bytes that a message costs besides its own


class Recent:
    """Everything that was handed out above `since`."""

    def __init__(self, head: int) -> None:
        self.since = self.head = head
        self._offsets: list[int] = []
        self._messages: list[Message] = []
        self._encoded: list[msgspec.Raw] = []
        self._sizes: list[int] = []
        self._size = 0

    def add(self, message: Message) -> None:
        """The next message."""
        assert message.offset is not None
        data = encode(message)
        self.head = message.offset
        self._offsets.append(message.offset)
        self._messages.append(message)
        self._encoded.append(msgspec.Raw(data))
        self._sizes.append(len(data) + _RAW)
        self._size += len(data) + _RAW
        if self._size > 2 * _MOST:
            self._shorten()

    def after(self, offset: int, limit: int) -> list[msgspec.Raw]:
        """The next messages above an offset that is not below `since`."""
        at = bisect_right(self._offsets, offset)
        end, size = at, 0
        while end < len(self._sizes) and end - at < limit and size < _PIECE:
            size += self._sizes[end]
            end += 1
        return self._encoded[at:end]

    def at(self, offset: int) -> Message | None:
        """The message at an offset."""
        place = bisect_right(self._offsets, offset) - 1
        return self._messages[place] if place >= 0 and self._offsets[place] == offset else None

    def find(self, offset: int, identities: Collection[tuple[str, str, str]]) -> list[Message]:
        """Those of these messages that are above an offset."""
        at = bisect_right(self._offsets, offset)
        return [message for message in self._messages[at:] if message.draft.identity in identities]

    def _shorten(self) -> None:
        """Forget the older half in one go, which costs little for each message."""
        gone = 0
        while self._size > _MOST and gone < len(self._sizes) - 1:
            self._size -= self._sizes[gone]
            gone += 1
        self.since = self._offsets[gone - 1]
        for part in (self._offsets, self._messages, self._encoded, self._sizes):
            del part[:gone]
