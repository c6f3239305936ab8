"""The log in memory: real offsets and positions, gone with the process."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from partyline.errors import Conflict, StoreUnavailable, TooManyTopics
from partyline.interfaces import Committed, Outcome, Refused, Stored
from partyline.models import Draft, Message, Page

_OVERHEAD = 600  # bytes a kept message costs beside its data: two dict entries, a draft, ids (measured: 520-550)


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept: seconds, messages per room, rooms, and bytes in all (with what a message costs beside its data)."""

    max_age: float = 7 * 86400.0
    max_messages: int = 100_000
    max_rooms: int = 1_000_000
    max_bytes: int = 64 * 1024 * 1024


class MemoryStore:
    """A Store that keeps its promises while the process lives."""

    def __init__(
        self,
        retention: Retention | None = None,
        *,
        idempotency_window: float = 86400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.epoch = secrets.token_hex(8)
        self._retention = retention or Retention()
        self._window = idempotency_window
        self._clock = clock
        self._head = 0
        self._log: OrderedDict[int, Message] = OrderedDict()
        self._rooms: dict[str, deque[int]] = {}
        self._pruned: dict[str, int] = {}  # the highest offset of a living room that is gone
        self._pruned_everywhere = 0  # the same for rooms of which nothing is left
        self._ids: OrderedDict[tuple[str | None, str, str], Message] = OrderedDict()
        self._bytes = 0
        self._committed: Committed | None = None
        self._closed = False

    @property
    def head(self) -> int:
        return self._head

    def start(self, committed: Committed) -> None:
        self._committed = committed

    def append(self, draft: Draft) -> None:
        assert self._committed is not None, "start comes before append"
        self._committed((self._take(draft),))

    async def read(self, room: str, after: int, limit: int) -> Page:
        self._prune()
        offsets = [offset for offset in self._rooms.get(room, ()) if offset > after]
        found = tuple(self._log[offset] for offset in offsets[:limit])
        more = len(offsets) > limit
        last = offsets[limit - 1] if more else self._head
        return Page(found, last, more, self._pruned.get(room, self._pruned_everywhere) + 1)

    async def close(self) -> None:
        self._closed = True

    def _take(self, draft: Draft) -> Outcome:
        if self._closed:
            return Refused(draft, StoreUnavailable("the server is shutting down: publish again in a moment"))
        self._prune()
        identity = (draft.sender, draft.room, draft.id)
        known = self._ids.get(identity)
        if known is not None:
            if (known.draft.data, known.draft.user, known.draft.key) != (draft.data, draft.user, draft.key):
                return Refused(draft, _conflict(draft.id))
            return Stored(draft, known, duplicate=True)
        if draft.room not in self._rooms and len(self._rooms) >= self._retention.max_rooms:
            return Refused(
                draft, TooManyTopics(f"the log keeps {self._retention.max_rooms} topics (setting max_rooms)")
            )
        self._head += 1
        message = Message(draft, self._head, self._clock())
        self._log[self._head] = message
        self._ids[identity] = message
        self._bytes += len(draft.data) + _OVERHEAD
        offsets = self._rooms.setdefault(draft.room, deque())
        offsets.append(self._head)
        if len(offsets) > self._retention.max_messages:
            self._forget(offsets[0])
        return Stored(draft, message)

    def _prune(self) -> None:
        now = self._clock()
        while self._log:
            offset, message = next(iter(self._log.items()))
            if self._bytes <= self._retention.max_bytes and now - message.time <= self._retention.max_age:
                break
            self._forget(offset)
        while self._ids:
            identity, message = next(iter(self._ids.items()))
            if now - message.time <= self._window and message.offset in self._log:
                break
            del self._ids[identity]

    def _forget(self, offset: int) -> None:
        message = self._log.pop(offset)
        self._bytes -= len(message.draft.data) + _OVERHEAD
        offsets = self._rooms[message.room]
        offsets.popleft()  # the oldest message is the oldest of its room
        if offsets:
            self._pruned[message.room] = offset
        else:
            del self._rooms[message.room]
            self._pruned.pop(message.room, None)
            self._pruned_everywhere = offset


def _conflict(message_id: str) -> Conflict:
    return Conflict(
        f"message id {message_id[:60]!r} was used for another message: a retry repeats the body, a new message needs "
        "a new id",
        code="id_conflict",
        field="id",
    )
