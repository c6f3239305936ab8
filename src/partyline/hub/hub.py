"""The hub: number, store, fan out. Every door (HTTP, WebSocket, Socket.IO) publishes here, and nowhere else.

All of it is plain functions on the loop's thread: between `publish` and the members' `transport.write` nothing awaits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from partyline.errors import Overloaded, PartylineError
from partyline.hub.crowd import Crowd
from partyline.hub.fanout import fan_out
from partyline.hub.patterns import Patterns
from partyline.hub.presence import Presence
from partyline.hub.rooms import Rooms
from partyline.interfaces import Connection, Found, Outcome, Refused, Store
from partyline.metrics import Counters
from partyline.models import Draft, Message, Policy, Position, Receipt
from partyline.topics import PRIVATE, any_covers

_log = logging.getLogger("partyline.hub")

Done = Callable[[Receipt | PartylineError], None]

_SMALL: Final = 512  # members of an audience that is served at once
_SLICE: Final = 64  # members of a larger one that are served in one turn of the loop
# What waits behind a large audience; beyond, it is served without a pause.
_MOST_BEHIND: Final = 16_384  # messages
_MOST_BYTES_BEHIND: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RoomRules:
    """Which rooms are not as the others, by topic patterns. The default: durable, a slow consumer is closed."""

    ephemeral: tuple[str, ...] = ()
    drop_oldest: tuple[str, ...] = ()
    conflate: tuple[str, ...] = ()

    def durable(self, room: str) -> bool:
        return not (self.ephemeral and any_covers(self.ephemeral, room))

    def policy(self, room: str) -> Policy:
        if self.drop_oldest and any_covers(self.drop_oldest, room):
            return Policy.DROP_OLDEST
        if self.conflate and any_covers(self.conflate, room):
            return Policy.CONFLATE
        return Policy.CLOSE


class Hub:
    """Rooms, users and the way of a message. One per process."""

    def __init__(
        self,
        store: Store,
        counters: Counters,
        rules: RoomRules | None = None,
        *,
        clock: Callable[[], float] = time.time,
        most_waiting: int = 50_000,
        small: int = _SMALL,
        slice_size: int = _SLICE,
        later: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """`clock` is the wall clock in seconds; at most `most_waiting` publishes wait for the store.

        An audience of more than `small` members is served `slice_size` of them a turn of the loop. `later` calls a
        function in the next turn: the running loop's `call_soon`, unless a simulator has another one.
        """
        self.rooms = Rooms()
        self.presence = Presence(self.rooms)
        self._patterns = Patterns()
        self._users: dict[str, tuple[Connection, ...]] = {}
        self._store = store
        self.counters = counters
        self._rules = rules or RoomRules()
        self._clock = clock
        self._most_waiting = most_waiting  # publishes that wait for the store: beyond it, it is slower than its users
        self._waiting: deque[Done | None] = deque()  # publishers, in the order in which the store answers
        self._small = small
        self._slice = slice_size
        self._later = later or _call_soon
        self._crowd: Crowd | None = None  # the large audience that is being served
        self._behind: deque[tuple[Message, Done | None]] = deque()  # that one, and what waits until it is
        self._behind_bytes = 0
        self._private: dict[str, Callable[[Message], None]] = {}
        self.fanned_out = store.head  # every offset up to this one has been offered to its audience
        store.start(self._committed)

    # Members

    def add(self, member: Connection) -> None:
        """A connection of a user has come; it is in no room yet."""
        user = member.user
        if user is not None:
            others = self._users.get(user)
            self._users[user] = (member,) if others is None else (*others, member)

    def remove(self, member: Connection) -> None:
        """It has gone: out of all rooms."""
        for room in tuple(member.rooms):
            self.leave(member, room)
        if member.user is not None and (connections := self._users.get(member.user)) is not None:
            left = tuple(other for other in connections if other is not member)
            if left:
                self._users[member.user] = left
            else:
                del self._users[member.user]

    def join(self, member: Connection, room: str) -> None:
        if self.rooms.join(member, room):
            self.presence.joined(room, member)
            self._crowd_changed(member)

    def join_pattern(self, member: Connection, pattern: str) -> None:
        """Into all rooms that `pattern` covers, now and later."""
        if self.rooms.join(member, pattern):
            self._patterns.add(pattern)
            self._crowd_changed(member)

    def leave(self, member: Connection, room: str) -> None:
        """Out of a room, or of a pattern."""
        if self.rooms.leave(member, room):
            if room in self._patterns:
                if room not in self.rooms:
                    self._patterns.remove(room)
            else:
                self.presence.left(room, member)
            self._crowd_changed(member)

    def _crowd_changed(self, member: Connection) -> None:
        """Its rooms have changed: it may belong to the audience that is being served, or not any more."""
        if self._crowd is None:
            return
        draft = self._crowd.message.draft
        rooms = (draft.room, *self._patterns.matching(draft.room))
        if (draft.user is None or draft.user == member.user) and any(name in member.rooms for name in rooms):
            self._crowd.joined(member)
        else:
            self._crowd.left(member)

    def audience(self, room: str, user: str | None = None) -> Collection[Connection]:
        """The members of `room`, or those of one user, each once: O(receivers), never a scan over all connections."""
        patterns = self._patterns.matching(room)
        if user is not None:
            rooms = (room, *patterns)
            return [member for member in self._users.get(user, ()) if any(name in member.rooms for name in rooms)]
        members = self.rooms.members(room)
        if not patterns:
            return members
        everybody = dict.fromkeys(members)
        for pattern in patterns:
            everybody.update(dict.fromkeys(self.rooms.members(pattern)))
        return everybody

    def attend(self, name: str, deliver: Callable[[Message], None] | None) -> None:
        """Let `deliver` have the messages of private rooms, instead of their members; None: nobody.

        These are the rooms called PRIVATE, `name`, and perhaps PRIVATE and more.
        """
        if deliver is None:
            self._private.pop(name, None)
        else:
            self._private[name] = deliver

    # Messages

    def publish(self, draft: Draft, done: Done | None = None) -> None:
        """Publish `draft`. `done` gets the receipt once the message is kept, or the error if it is not.

        An ephemeral message fans out now; a durable one when the store has committed it. `done` may be called before
        this returns. The room's name has been checked by the caller.
        """
        if not self._durable(draft):
            self.counters.published += 1
            self._pass_on(((draft, done),))
        elif len(self._waiting) < self._most_waiting:
            self.counters.published += 1
            self._waiting.append(done)
            self._store.append(draft)
        else:
            self.publish_all(((draft, done),))

    def publish_all(self, drafts: Sequence[tuple[Draft, Done | None]]) -> None:
        """Publish several, each with its `done`: the durable ones of them all or none."""
        self.counters.published += len(drafts)
        kept = [pair for pair in drafts if self._durable(pair[0])]
        passing = [pair for pair in drafts if not self._durable(pair[0])] if len(kept) < len(drafts) else []
        if not kept:
            self._pass_on(passing)
            return
        if len(self._waiting) + len(kept) > self._most_waiting:
            self.counters.hit("max_waiting_publishes")
            for _, done in drafts:
                if done is not None:
                    done(Overloaded("more messages wait for the log than it can take: publish again in a moment"))
            return
        self._waiting.extend(done for _, done in kept)
        if passing:
            # All or nothing for these, too: they go once the last of the others is kept.
            last = self._waiting.pop()
            self._waiting.append(lambda outcome: self._settle(outcome, last, passing))
        self._store.append(*(draft for draft, _ in kept))

    def _settle(
        self, outcome: Receipt | PartylineError, last: Done | None, passing: Sequence[tuple[Draft, Done | None]]
    ) -> None:
        try:
            if last is not None:
                last(outcome)
        finally:
            if isinstance(outcome, Receipt):
                self._pass_on(passing)
            else:
                for _, done in passing:
                    if done is not None:
                        done(outcome)

    def _pass_on(self, ephemeral: Sequence[tuple[Draft, Done | None]]) -> None:
        for draft, done in ephemeral:
            self._send(Message(draft, None, self._clock()), done)

    def conflates(self, room: str) -> bool:
        """Whether only the newest message of each key of `room` has to reach who is behind."""
        return self._rules.policy(room) is Policy.CONFLATE

    def _durable(self, draft: Draft) -> bool:
        return self._rules.durable(draft.room) if draft.durable is None else draft.durable

    def _committed(self, batch: Sequence[Outcome]) -> None:
        """The store's one callback per batch: fan out in offset order, then tell the publishers."""
        for outcome in batch:
            if isinstance(outcome, Found):
                self._send(outcome.message)
                continue
            done = self._waiting.popleft()
            answer: Receipt | PartylineError
            if isinstance(outcome, Refused):
                answer = outcome.error
            else:
                message = outcome.message
                assert message.offset is not None
                if not outcome.duplicate:
                    self._send(message)
                position = Position(self._store.epoch, message.offset)
                answer = Receipt(message.room, message.draft.id, position, outcome.duplicate)
            if done is not None:
                try:
                    done(answer)
                except Exception:  # one publisher's trouble must not reach the next one's message
                    _log.exception("telling a publisher of its message failed")

    def _send(self, message: Message, done: Done | None = None) -> None:
        """Deliver a message, behind a large audience that is still being served. `done` is told of an ephemeral one."""
        if self._crowd is not None or self._behind:
            self._behind.append((message, done))
            self._behind_bytes += len(message.draft.data)
            if len(self._behind) > _MOST_BEHIND or self._behind_bytes > _MOST_BYTES_BEHIND:
                while self._serve():
                    pass
        elif not self._begin(message, done):
            self._later(self._go_on)

    def _begin(self, message: Message, done: Done | None) -> bool:
        """Deliver it; False where that takes more than this turn."""
        self._deliver(message)
        if self._crowd is not None:
            self._behind.appendleft((message, done))  # told when all of its audience is served
            self._behind_bytes += len(message.draft.data)
            return False
        self._delivered(message, done)
        return True

    def _delivered(self, message: Message, done: Done | None) -> None:
        if message.offset is not None:
            # A store may commit at once what a member publishes when it gets this one.
            self.fanned_out = max(self.fanned_out, message.offset)
        if done is not None:
            done(Receipt(message.room, message.draft.id, None))

    def _go_on(self) -> None:
        if self._serve():
            self._later(self._go_on)

    def _serve(self) -> bool:
        """The next slice, or some of what waits, up to the next large audience. Whether there is more."""
        crowd = self._crowd
        if crowd is not None:
            self._fan_out(lambda: crowd.serve(self._slice))
            if not crowd.served:
                return True
            self._crowd = None
            self._delivered(*self._next())
        for _ in range(min(self._small, len(self._behind))):
            if not self._begin(*self._next()):
                return True
        return bool(self._behind)

    def _next(self) -> tuple[Message, Done | None]:
        message, done = self._behind.popleft()
        self._behind_bytes -= len(message.draft.data)
        return message, done

    def _deliver(self, message: Message) -> None:
        """Offer a message to its audience, or to the first slice of a large one."""
        if message.draft.room[0] == PRIVATE:
            deliver = self._private.get(message.draft.room.split(PRIVATE, 2)[1])
            if deliver is not None:
                self._fan_out(lambda: deliver(message) or 0)
            return
        members = self.audience(message.room, message.draft.user)
        if not members:
            return
        policy = self._rules.policy(message.room)
        if len(members) <= self._small:
            self._fan_out(lambda: fan_out(message, members, policy))
        else:
            crowd = self._crowd = Crowd(message, members, policy)
            self._fan_out(lambda: crowd.serve(self._slice))

    def _fan_out(self, offer: Callable[[], int]) -> None:
        try:
            self.counters.delivered += offer()
        except Exception:  # a dialect that cannot write one message must not stop the log for everybody
            self.counters.errors += 1
            _log.exception("a message could not be delivered")


def _call_soon(callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(callback)
