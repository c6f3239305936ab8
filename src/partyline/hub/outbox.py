"""The bounded queue of one connection that cannot be written to right now, what is dropped when it is full, and how a
slow consumer ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from partyline import log
from partyline.metrics import Counters
from partyline.models import Payload, Policy

_log = log.get("hub")

SLOW: Final = 4008
"""The close code of a slow consumer."""


class Consumer(Protocol):
    """Something that messages are sent to."""

    def close(self, code: int, reason: str) -> None:
        """End its connection."""


def end_slow(consumer: Consumer, counters: Counters, reason: str = "slow consumer") -> None:
    """End a consumer for which more waits than `outbox_bytes`. Whatever fills its queue comes here (guarantee 5)."""
    counters.hit("outbox_bytes")
    _log.info("a slow consumer is closed", consumer=type(consumer).__name__, reason=reason)
    consumer.close(SLOW, reason)


class Outbox:
    """Payloads in order, at most `limit` bytes of them (guarantee 5).

    A connection makes one when its transport pushes back and drops it when it is empty again, so an idle connection
    has none.
    """

    __slots__ = ("_expendable", "_queue", "dropped", "limit", "size")

    def __init__(self, limit: int) -> None:
        self._queue: deque[Payload] = deque()
        self._expendable = 0  # queued payloads whose policy is not CLOSE: without any, a full box is full
        self.limit = limit
        self.size = 0  # bytes queued
        self.dropped = 0  # payloads dropped or superseded so far

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, payload: Payload) -> bool:
        """Queue `payload`. False if it does not fit even after the policies made room: close the connection."""
        size = len(payload.data)
        if self.size + size > self.limit and not self._make_room(payload):
            return False
        self._queue.append(payload)
        self.size += size
        if payload.policy is not Policy.CLOSE:
            self._expendable += 1
        return True

    def force(self, payload: Payload) -> None:
        """Queue `payload` whatever the limit: a close frame after the last message."""
        self._queue.append(payload)
        self.size += len(payload.data)

    def pop(self) -> Payload:
        """The oldest payload. Raises IndexError when empty."""
        payload = self._queue.popleft()
        self.size -= len(payload.data)
        if payload.policy is not Policy.CLOSE:
            self._expendable -= 1
        return payload

    def discard(self, unwanted: Callable[[Payload], bool]) -> None:
        """Drop the payloads that are `unwanted`."""
        for _ in range(len(self._queue)):
            payload = self.pop()
            if unwanted(payload):
                self.dropped += 1
            else:
                self._queue.append(payload)
                self.size += len(payload.data)
                self._expendable += payload.policy is not Policy.CLOSE

    def clear(self) -> None:
        self._queue.clear()
        self.size = self._expendable = 0

    def _make_room(self, payload: Payload) -> bool:
        """Apply the policies, in their order. One pass frees an eighth beyond need, so that a full box is not
        searched from end to end for every payload that comes."""
        if not self._expendable:
            return False
        wanted = self.limit - len(payload.data)
        goal = max(0, wanted - self.limit // 8)
        if self.size > goal:
            self._drop_oldest(goal)
        if self.size > wanted:
            self._conflate(payload)
        return self.size <= wanted

    def _drop_oldest(self, goal: int) -> None:
        kept: deque[Payload] = deque()
        for payload in self._queue:
            if payload.policy is Policy.DROP_OLDEST and self.size > goal:
                self._lose(payload)
            else:
                kept.append(payload)
        self._queue = kept

    def _conflate(self, newest: Payload) -> None:
        """Keep only the newest payload of each room and key, in its own, later place."""
        seen: set[tuple[str, str | None]] = set()
        if newest.policy is Policy.CONFLATE:
            seen.add((newest.room, newest.key))
        kept: deque[Payload] = deque()
        for payload in reversed(self._queue):
            if payload.policy is Policy.CONFLATE:
                if (payload.room, payload.key) in seen:
                    self._lose(payload)
                    continue
                seen.add((payload.room, payload.key))
            kept.appendleft(payload)
        self._queue = kept

    def _lose(self, payload: Payload) -> None:
        self.size -= len(payload.data)
        self._expendable -= 1
        self.dropped += 1
