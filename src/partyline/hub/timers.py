"""One timing wheel per loop for every heartbeat and deadline.

An entry costs a set membership, not a timer of the loop; the loop holds one timer at most, for the next slot that has
entries. A deadline is never early, and at most one slot (8 ms) late on top of the loop's own delay.
"""

from __future__ import annotations

import heapq
import logging
from asyncio import AbstractEventLoop, TimerHandle
from typing import Final, Protocol

# Seconds; a power of two, so that a slot's number and its time turn into each other without rounding.
SLOT: Final = 1 / 128

_log = logging.getLogger("partyline.hub")


class Timed(Protocol):
    """Something with one deadline at a time. `timer_slot` belongs to the wheel; it starts as 0."""

    timer_slot: int

    def on_deadline(self, now: float) -> None:
        """The deadline has passed. `now` is the loop's time in seconds. May set the next one."""


class Timers:
    """The wheel. `loop` gives `time()` and `call_at()`: an asyncio loop, or a fake clock in tests."""

    __slots__ = ("_armed", "_handle", "_heap", "_listed", "_loop", "_slots", "now")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self.now = loop.time  # seconds
        self._slots: dict[int, set[Timed]] = {}
        self._heap: list[int] = []  # numbers of slots that have, or had, entries
        self._listed: set[int] = set()  # the same numbers: each is in the heap once
        self._handle: TimerHandle | None = None
        self._armed = 0

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def set(self, entry: Timed, when: float) -> None:
        """Call `entry.on_deadline` at `when` (the loop's time, seconds), instead of at any earlier set deadline."""
        number = int(when / SLOT) + 1
        if entry.timer_slot == number:
            return
        if entry.timer_slot:
            self.cancel(entry)
        entry.timer_slot = number
        slot = self._slots.get(number)
        if slot is None:
            self._slots[number] = {entry}
            if number not in self._listed:
                self._listed.add(number)
                heapq.heappush(self._heap, number)
            if not self._armed or number < self._armed:
                self._arm(number)
        else:
            slot.add(entry)

    def cancel(self, entry: Timed) -> None:
        """Forget the deadline of `entry`, if it has one."""
        slot = self._slots.get(entry.timer_slot)
        if slot is not None:
            slot.discard(entry)
            if not slot:
                del self._slots[entry.timer_slot]  # its number stays in the heap until its time or the next arming
        entry.timer_slot = 0

    def _arm(self, number: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed = number
        self._handle = self._loop.call_at(number * SLOT, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._armed = 0
        now = self._loop.time()
        due = int(now / SLOT)  # a loop may call a little early: only slots that are over are due
        heap = self._heap
        while heap and (heap[0] <= due or heap[0] not in self._slots):
            number = heapq.heappop(heap)
            self._listed.remove(number)
            for entry in self._slots.pop(number, ()):
                if entry.timer_slot != number:
                    continue  # cancelled or moved by another entry of this slot
                entry.timer_slot = 0
                try:
                    entry.on_deadline(now)
                except Exception:
                    _log.exception("a deadline of %r failed", type(entry).__name__)
        # A deadline set meanwhile may have armed the loop for a later slot than the next one.
        if heap and not 0 < self._armed <= heap[0]:
            self._arm(heap[0])
