"""The log in memory: real offsets and positions, gone with the process."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import secrets
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from partyline.errors import PartylineError, StoreUnavailable, TooManyTopics
from partyline.interfaces import Committed, Durability, Outcome, Refused, Stored, Stretch, View
from partyline.metrics import Counters
from partyline.models import Draft, Message, Page
from partyline.stores import retention as kept
from partyline.topics import matcher

_LOOK = 2_000  # rooms that are compared with a pattern in one turn of the loop
_FEW = 64  # rooms whose offsets are merged; with more the log is walked
_OVERHEAD = 600  # bytes a kept message costs besides its data: two dict entries, a draft, ids (measured: 520-550)


@dataclass(frozen=True, slots=True)
class Retention(kept.Retention):
    """The same with a bound for all rooms: `max_bytes` of data and overhead."""

    max_bytes: int = 64 * 1024 * 1024


@dataclass(slots=True)
class _Room:
    """The offsets of a room, the bytes of their data, and the highest offset that is gone."""

    bounds: kept.Bounds
    offsets: deque[int] = field(default_factory=deque)
    size: int = 0
    pruned: int = 0


class MemoryStore:
    """A Store that keeps its promises while the process lives."""

    refusal: PartylineError | None = None
    durability = Durability.NOTHING

    def __init__(
        self,
        retention: Retention | None = None,
        *,
        idempotency_window: float = 86400.0,
        clock: Callable[[], float] = time.time,
        counters: Counters | None = None,
    ) -> None:
        self.epoch = secrets.token_hex(8)
        self._retention = retention or Retention()
        self._window = idempotency_window
        self._clock = clock
        self._head = 0
        self._log: OrderedDict[int, Message] = OrderedDict()
        self._rooms: dict[str, _Room] = {}
        self._forgotten: dict[str, int] = {}  # the highest offset lost by rooms that are empty now, by rule
        ages = self._retention.ages
        # By age, the messages that expire at it, oldest first. With one age for all rooms that is the log itself.
        self._aging = {age: OrderedDict[int, Message]() for age in ages} if len(ages) > 1 else {ages[0]: self._log}
        self._counters = counters or Counters()
        self._ids: OrderedDict[tuple[str, str, str], Message] = OrderedDict()
        self._bytes = 0
        self._committed: Committed | None = None
        self._closed = False

    @property
    def head(self) -> int:
        return self._head

    def start(self, committed: Committed) -> None:
        self._committed = committed

    def append(self, *drafts: Draft) -> None:
        assert self._committed is not None, "start comes before append"
        self._committed(self._take_all(drafts))

    async def read(self, view: View, after: int, limit: int) -> Page:
        self._prune()
        names = await self._covered(view)
        now = self._clock()
        rooms = [self._rooms[name] for name in names]
        found: list[Message] = []
        last = self._head
        for offset in self._in_any(names, after):
            message = self._log[offset]
            if len(found) == limit:
                last = offset - 1
                break
            if message.draft.user in (None, view.user) and not message.expired(now):
                found.append(message)
        pruned = max((room.pruned for room in rooms), default=0)
        pruned = max(pruned, kept.lost(self._forgotten, view.rooms - self._rooms.keys(), view.patterns))
        return Page(tuple(found), last, last < self._head, pruned + 1)

    async def _covered(self, view: View) -> Collection[str]:
        """The rooms of a view. Of many rooms some are looked at in one turn of the loop; what is there when this
        returns is complete."""
        names = {name: None for name in view.rooms if name in self._rooms}
        if not view.patterns:
            return names
        covers, before, all_names = matcher(view.patterns), self._head, list(self._rooms)
        for at in range(0, len(all_names), _LOOK):
            if at:
                await asyncio.sleep(0)
            names.update((name, None) for name in all_names[at : at + _LOOK] if covers(name))
        for offset in range(before + 1, self._head + 1):  # what came meanwhile may have made rooms
            message = self._log.get(offset)
            if message is not None and covers(message.room):
                names[message.room] = None
        return [name for name in names if name in self._rooms]

    def _in_any(self, names: Collection[str], after: int) -> Iterable[int]:
        """The offsets above `after` in these rooms, in order."""
        if len(names) <= _FEW:
            return heapq.merge(*(self._above(name, after) for name in names))
        within = set(names)
        offsets = range(max(after + 1, next(iter(self._log), 0)), self._head + 1)
        return (offset for offset in offsets if offset in self._log and self._log[offset].room in within)

    async def newest(self, room: str, before: int, limit: int) -> Sequence[Message]:
        self._prune()
        now = self._clock()
        found: list[Message] = []
        offsets = self._rooms[room].offsets if room in self._rooms else ()
        for offset in itertools.islice(reversed(offsets), len(offsets) - bisect_left(offsets, before), None):
            if len(found) == limit:
                break
            message = self._log[offset]
            if not message.expired(now):
                found.append(message)
        found.reverse()
        return found

    def _above(self, room: str, after: int) -> Iterator[int]:
        offsets = self._rooms[room].offsets
        skip = bisect_right(offsets, after)
        return itertools.islice(offsets, skip, None)

    async def stretch(self, after: int, limit: int) -> Stretch:
        """At most `limit` messages of all rooms above an offset, expired ones too."""
        self._prune()
        found = tuple(itertools.islice((one for offset, one in self._log.items() if offset > after), limit))
        pruned = max((room.pruned for room in self._rooms.values()), default=0)
        return Stretch(found, max(pruned, *self._forgotten.values(), 0) + 1)

    async def renew(self) -> None:
        """Take a new epoch."""
        self.epoch = secrets.token_hex(8)

    async def close(self) -> None:
        self._closed = True

    def _take_all(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Take all or none: every draft is checked before the first is taken."""
        self._prune()
        if len(drafts) > 1:
            refusal = self._batch_refusal(drafts)
            if refusal is not None:
                return [Refused(draft, refusal) for draft in drafts]
        return [self._take(draft) for draft in drafts]

    def _batch_refusal(self, drafts: Sequence[Draft]) -> PartylineError | None:
        rooms: set[str] = set()  # those that the batch would add
        taken: dict[tuple[str, str, str], Draft] = {}
        for draft in drafts:
            if draft.room not in self._rooms:
                rooms.add(draft.room)
            refusal = self._refusal(draft, len(self._rooms) + len(rooms) - 1)
            if refusal is not None:
                return refusal
            refusal = draft.conflict(taken.setdefault(draft.identity, draft))
            if refusal is not None:
                return refusal
        return None

    def _take(self, draft: Draft) -> Outcome:
        refusal = self._refusal(draft, len(self._rooms))
        if refusal is not None:
            return Refused(draft, refusal)
        identity = draft.identity
        known = self._ids.get(identity)
        if known is not None:
            return Stored(draft, known, duplicate=True)
        self._head += 1
        message = Message(draft, self._head, self._clock())
        if draft.chosen_id:
            self._ids[identity] = message
        self._bytes += len(draft.data) + _OVERHEAD
        room = self._rooms.get(draft.room)
        if room is None:
            # The room may have existed before, and lost everything.
            room = _Room(self._retention.of(draft.room), pruned=kept.lost(self._forgotten, (draft.room,)))
            self._rooms[draft.room] = room
        self._log[self._head] = self._aging[room.bounds.max_age][self._head] = message
        room.offsets.append(self._head)
        room.size += len(draft.data)
        while room.bounds.exceeded(len(room.offsets), room.size):
            self._forget(room.offsets[0])
        return Stored(draft, message)

    def _refusal(self, draft: Draft, rooms: int) -> PartylineError | None:
        """Why the draft cannot be taken if there are `rooms` rooms already; None if it can."""
        if self._closed:
            return StoreUnavailable("the server is shutting down: publish again in a moment")
        known = self._ids.get(draft.identity)
        if known is not None:
            return draft.conflict(known.draft)
        if draft.room not in self._rooms and rooms >= self._retention.max_rooms:
            return TooManyTopics(f"the log keeps {self._retention.max_rooms} topics (max_rooms)", limit="max_rooms")
        return None

    def _prune(self) -> None:
        now = self._clock()
        while self._bytes > self._retention.max_bytes:
            self._forget(next(iter(self._log)))
        for age, aging in self._aging.items():
            while aging:
                offset, message = next(iter(aging.items()))
                if now - message.time <= age:
                    break
                self._forget(offset)
        while self._ids:
            identity, message = next(iter(self._ids.items()))
            if now - message.time <= self._window:
                break
            del self._ids[identity]

    def _forget(self, offset: int) -> None:
        message = self._log.pop(offset)
        draft = message.draft
        room = self._rooms[draft.room]
        self._aging[room.bounds.max_age].pop(offset, None)
        if draft.chosen_id and self._ids.get(draft.identity) is message:
            del self._ids[draft.identity]
        self._bytes -= len(draft.data) + _OVERHEAD
        self._counters.pruned += 1
        room.size -= len(draft.data)
        room.offsets.popleft()  # it is always the oldest of its room
        room.pruned = offset
        if not room.offsets:
            del self._rooms[draft.room]
            rule, _ = self._retention.rule(draft.room)
            self._forgotten[rule] = max(self._forgotten.get(rule, 0), offset)
