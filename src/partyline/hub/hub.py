"""The hub: store, then fan out. Every publish on the relay, and every event that a namespace keeps, passes here.

A Socket.IO event that is not kept goes straight to delivery.py, which decides who is served when; namespaces have their
own rooms. All of it is plain functions on the loop's thread that never await. The store numbers a message and
reports its commit by a callback.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from partyline.errors import ConfigError, Overloaded, PartylineError
from partyline.hub.delivery import Delivery, Parcel
from partyline.hub.presence import Presence
from partyline.hub.rooms import Patterns, Rooms
from partyline.interfaces import Bus, Found, Member, News, Outcome, Overrun, Refused, Store
from partyline.metrics import Counters
from partyline.models import Draft, Message, Movement, Policy, Position, Receipt
from partyline.topics import PRIVATE, any_covers

Done = Callable[[Receipt | PartylineError], None]

_MOVEMENT: Final = 256  # bytes that one counts for while it waits, besides its audience


@dataclass(frozen=True, slots=True)
class RoomRules:
    """Which rooms differ from the default (durable, a slow consumer is closed), by topic patterns."""

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
    """Rooms, users and the path of a message. One per process."""

    def __init__(
        self,
        store: Store,
        counters: Counters,
        rules: RoomRules | None = None,
        *,
        clock: Callable[[], float] = time.time,
        **serving: Any,
    ) -> None:
        """`clock` is the wall clock in seconds; `serving` are arguments of `Delivery`."""
        self.rooms = Rooms()
        self.presence = Presence(self.rooms)
        self._patterns = Patterns()
        self._users: dict[str, tuple[Member, ...]] = {}
        self._watchers: dict[str, dict[Member, None]] = {}  # of presence, by room
        self._store = store
        self.counters = counters
        self._rules = rules or RoomRules()
        self._clock = clock
        self._owners: dict[str, Callable[[Message], Parcel]] = {}  # of private rooms
        # Called when members may have missed something that cannot be given to them here: all of them have to resume.
        self.displaced: Callable[[], None] = lambda: None
        self.carry: Callable[[Draft], None] | None = None  # brings what is not kept to the other nodes
        self.bus: Bus | None = None  # between servers, if there is one
        self.others: Callable[[], Sequence[str]] = lambda: ()  # the other servers on it, as far as they are known
        self.delivery = Delivery(counters, self._news, store, **serving)
        store.start(self.delivery.committed)

    # Members

    def add(self, member: Member) -> None:
        """Add a user's connection; it is in no room yet."""
        user = member.user
        if user is not None:
            others = self._users.get(user)
            self._users[user] = (member,) if others is None else (*others, member)

    def remove(self, member: Member) -> None:
        """It is gone: take it out of all rooms."""
        for room in tuple(member.rooms):
            self.leave(member, room)
        if member.user is not None and (connections := self._users.get(member.user)) is not None:
            left = tuple(other for other in connections if other is not member)
            if left:
                self._users[member.user] = left
            else:
                del self._users[member.user]

    def join(self, member: Member, room: str) -> None:
        if self.rooms.join(member, room):
            self.presence.joined(room, member)
            self._crowd_changed(member)

    def join_pattern(self, member: Member, pattern: str) -> None:
        """Add it to all rooms that `pattern` covers, now and later."""
        if self.rooms.join(member, pattern):
            self._patterns.add(pattern)
            self._crowd_changed(member)

    def leave(self, member: Member, room: str) -> None:
        """Take it out of a room or a pattern."""
        if self.rooms.leave(member, room):
            if room in self._patterns:
                if room not in self.rooms:
                    self._patterns.remove(room)
            else:
                self.presence.left(room, member)
            self._crowd_changed(member)

    def watch(self, room: str, member: Member) -> None:
        """Offer a member from now on a `Movement` for each user that comes to a room or leaves it."""
        watchers = self._watchers.get(room)
        if watchers is None:
            watchers = self._watchers[room] = {}
            self.presence.watch(room, self._moved)
        watchers[member] = None

    def unwatch(self, room: str, member: Member) -> None:
        """Stop that."""
        watchers = self._watchers[room]
        del watchers[member]
        if not watchers:
            del self._watchers[room]
            self.presence.unwatch(room, self._moved)

    def _moved(self, room: str, user: str, joined: bool) -> None:
        movement = Movement(Draft(room, b"", ""), None, self._clock(), user=user, joined=joined)
        self.delivery.post(_Moved(movement, self._watchers[room]))

    def _crowd_changed(self, member: Member) -> None:
        """Its rooms have changed: it may have joined or left the audience that is being served."""
        crowd = self.delivery.crowd
        if crowd is None or not crowd.open:
            return
        draft = crowd.message.draft
        rooms = (draft.room, *self._patterns.matching(draft.room))
        if (draft.user is None or draft.user == member.user) and any(name in member.rooms for name in rooms):
            crowd.joined(member)
        else:
            crowd.left(member)

    def audience(self, room: str, user: str | None = None) -> Collection[Member]:
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

    # Messages

    @property
    def fanned_out(self) -> int:
        """Every offset up to this one has been offered to its audience."""
        return self.delivery.reached

    def publish(self, draft: Draft, done: Done | None = None) -> None:
        """Publish `draft`. `done` gets the receipt once the message is kept, or the error if it is not.

        An ephemeral message fans out now; a durable one when the store has committed it. `done` may be called before
        this returns. The room's name has been checked by the caller.
        """
        self.counters.published += 1
        parcel = _Published(self, draft, done)
        if not self._durable(draft):
            self.pass_on(parcel)
        elif not self.delivery.keep((draft,), (parcel,)):
            parcel.refused(_full())

    def publish_all(self, drafts: Sequence[tuple[Draft, Done | None]]) -> None:
        """Publish several, each with its `done`: the durable ones of them all or none."""
        if len(drafts) == 1:
            self.publish(*drafts[0])
            return
        self.counters.published += len(drafts)
        parcels = [_Published(self, draft, done) for draft, done in drafts]
        kept = [one for one in parcels if self._durable(one.draft)]
        passing = [one for one in parcels if not self._durable(one.draft)] if len(kept) < len(parcels) else []
        if not kept:
            for one in passing:
                self.pass_on(one)
            return
        kept[-1].passing = passing  # all or nothing for these, too: they go out once the last durable one is kept
        if not self.delivery.keep([one.draft for one in kept], kept):
            for one in parcels:
                one.refused(_full())

    def pass_on(self, parcel: _Published) -> None:
        """An ephemeral message is due."""
        if self.carry is not None:
            self.carry(parcel.draft)
        self._post(parcel)

    def hear(self, draft: Draft) -> None:
        """An ephemeral message of another node."""
        self._post(_Published(self, draft, None))

    def _post(self, parcel: _Published) -> None:
        parcel.message = Message(parcel.draft, None, self._clock())
        self.delivery.post(parcel)

    def own(self, key: str, found: Callable[[Message], Parcel] | None) -> None:
        """Let the owner of private rooms make parcels of those of their messages that nobody waits for; None ends that.

        These rooms are called PRIVATE, `key`, and perhaps PRIVATE and more. Raises ConfigError if somebody else owns
        them.
        """
        if found is None:
            self._owners.pop(key, None)
        elif key in self._owners:
            raise ConfigError(f"{key!r} is the name of two servers in one log: give one of them another path")
        else:
            self._owners[key] = found

    async def passed(self) -> None:
        """Return when everything that is due now has been served."""
        turn = _Turn()
        self.delivery.post(turn)
        while not turn.came:  # noqa: ASYNC110 - a large audience takes a few turns of the loop
            await asyncio.sleep(0)

    def _news(self, news: News) -> Parcel:
        if not isinstance(news, Found):
            return _Displaced(self, news.oldest - 1 if isinstance(news, Overrun) else news.head)
        message = news.message
        if message.room[0] != PRIVATE:
            return _Published(self, message.draft, None, message)
        owner = self._owners.get(message.room.split(PRIVATE, 2)[1])
        return Parcel(None, message) if owner is None else owner(message)

    def conflates(self, room: str) -> bool:
        """Whether a consumer of `room` that lags needs only the newest message of each key."""
        return self._rules.policy(room) is Policy.CONFLATE

    def _durable(self, draft: Draft) -> bool:
        return self._rules.durable(draft.room) if draft.durable is None else draft.durable

    def policy(self, room: str) -> Policy:
        """What happens to its messages when a consumer is slow."""
        return self._rules.policy(room)

    def receipt(self, draft: Draft, message: Message, *, duplicate: bool = False) -> Receipt:
        """The answer to a publisher."""
        position = None if message.offset is None else Position(self._store.epoch, message.offset)
        return Receipt(draft.room, draft.id, position, duplicate)


class _Published(Parcel):
    """A message of the relay."""

    __slots__ = ("_done", "_hub", "draft", "passing")

    open = True

    def __init__(self, hub: Hub, draft: Draft, done: Done | None, message: Message | None = None) -> None:
        self.lane, self.message, self.size = None, message, len(draft.data)
        self.policy, self.waited, self.then = Policy.CLOSE, False, None
        self.draft = draft
        self.passing: Sequence[_Published] = ()  # ephemeral ones that were published together with it
        self._hub = hub
        self._done = done

    def answered(self, outcome: Outcome) -> bool:
        if isinstance(outcome, Refused) or outcome.duplicate:
            return False
        self.message = outcome.message
        return True

    def members(self) -> Collection[Member]:
        self.policy = self._hub.policy(self.draft.room)
        return self._hub.audience(self.draft.room, self.draft.user)

    def served(self) -> None:
        if self._done is not None and self.message is not None and self.message.offset is None:
            self._done(self._hub.receipt(self.draft, self.message))

    def tell(self, outcome: Outcome) -> None:
        if isinstance(outcome, Refused):
            self.refused(outcome.error)
            for other in self.passing:
                other.refused(outcome.error)
            return
        try:
            if self._done is not None:
                self._done(self._hub.receipt(self.draft, outcome.message, duplicate=outcome.duplicate))
        finally:
            for other in self.passing:
                self._hub.pass_on(other)

    def refused(self, error: PartylineError) -> None:
        if self._done is not None:
            self._done(error)


class _Moved(Parcel):
    """A user has come or gone, for those that watched the room at that moment and still do."""

    __slots__ = ("_members", "_watchers")

    def __init__(self, message: Movement, watchers: dict[Member, None]) -> None:
        super().__init__(None, message, _MOVEMENT + 8 * len(watchers))
        self._watchers = watchers
        self._members: Collection[Member] = watchers

    def waits(self) -> None:
        if not self.waited:
            self.waited = True
            self._members = list(self._watchers)

    def members(self) -> Collection[Member]:
        return self.still(self._members) if self.waited else self._members

    def still(self, members: Collection[Member]) -> Collection[Member]:
        return [member for member in members if member in self._watchers]


class _Turn(Parcel):
    """A parcel that only waits for its turn."""

    __slots__ = ("came",)

    def __init__(self) -> None:
        super().__init__()
        self.came = False

    def served(self) -> None:
        self.came = True


class _Displaced(Parcel):
    """The log goes on after `offset`, not from where this node was."""

    __slots__ = ("_hub", "_offset")

    def __init__(self, hub: Hub, offset: int) -> None:
        super().__init__()
        self._hub = hub
        self._offset = offset

    def served(self) -> None:
        self._hub.delivery.reached = self._offset
        self._hub.displaced()


def _full() -> Overloaded:
    return Overloaded("more messages wait for the log than it can take: publish again in a moment")
