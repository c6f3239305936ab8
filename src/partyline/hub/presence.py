"""Presence: the users of a room, and a call to its watchers when a user comes or goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from partyline.hub.rooms import Rooms
from partyline.interfaces import Member

Watcher = Callable[[str, str, bool], None]
"""Called as `watcher(room, user, joined)` when a user's first connection joins or the last one leaves."""


class Presence:
    """Counts are kept for watched and followed rooms only: any other room costs nothing beyond its members.

    Watchers are told of the users of all nodes; `follow` is for the other nodes, which are told of those of this one.
    """

    __slots__ = ("_counts", "_followed", "_rooms", "_there", "_watchers", "changed", "watched")

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._counts: dict[str, Counter[str]] = {}
        self._watchers: dict[str, list[Watcher]] = {}
        self._followed: set[str] = set()
        self._there: dict[str, dict[str, set[str]]] = {}  # the users of watched rooms on other nodes, by node
        self.watched: Callable[[str, bool], None] = lambda room, on: None  # a room has its first watcher, or none
        self.changed: Watcher = lambda room, user, joined: None  # a user of a followed room has come or left here

    def users(self, room: str) -> list[str]:
        """The users with a connection in `room`, each once, sorted; those on other nodes if it is watched. Costs
        O(members) unless it is."""
        return sorted(set(self.here(room)).union(*self._there.get(room, {}).values()))

    def here(self, room: str) -> list[str]:
        """The same of this node alone."""
        return sorted(self._counts.get(room) or self._count(room))

    def watch(self, room: str, watcher: Watcher) -> None:
        """Call `watcher` for every user that comes or goes from now on."""
        self._begin(room)
        first = room not in self._watchers
        self._watchers.setdefault(room, []).append(watcher)
        if first:
            self.watched(room, True)

    def unwatch(self, room: str, watcher: Watcher) -> None:
        """Stop that. A watcher that is not watching is ignored."""
        watchers = self._watchers.get(room, [])
        if watcher in watchers:
            watchers.remove(watcher)
            if not watchers:
                del self._watchers[room]
                self._there.pop(room, None)
                self._end(room)
                self.watched(room, False)

    def watched_rooms(self) -> Collection[str]:
        """The rooms with watchers."""
        return self._watchers.keys()

    def follow(self, room: str) -> None:
        """Call `changed` for every user of this node that comes to the room or leaves it from now on."""
        self._begin(room)
        self._followed.add(room)

    def unfollow(self, room: str) -> None:
        """Stop that."""
        self._followed.discard(room)
        self._end(room)

    def there(self, room: str, node: str) -> set[str]:
        """The users of a watched room on another node."""
        return self._there.get(room, {}).get(node, set())

    def elsewhere(self, room: str, node: str, users: set[str]) -> None:
        """These are the users of a watched room on another node now."""
        before = self.there(room, node)
        self._there.setdefault(room, {})[node] = users
        if not users:
            del self._there[room][node]
        for user in sorted(before ^ users):
            if not self._counts[room][user] and not self._on_other(room, user, node):
                self._tell(room, user, joined=user in users)

    def joined(self, room: str, member: Member) -> None:
        """Called by the hub after every join."""
        counts = self._counts.get(room)
        if counts is not None and member.user is not None:
            counts[member.user] += 1
            if counts[member.user] == 1:
                self._changed(room, member.user, joined=True)

    def left(self, room: str, member: Member) -> None:
        """Called by the hub after every leave."""
        counts = self._counts.get(room)
        if counts is not None and member.user is not None:
            counts[member.user] -= 1
            if not counts[member.user]:
                del counts[member.user]
                self._changed(room, member.user, joined=False)

    def _changed(self, room: str, user: str, *, joined: bool) -> None:
        if room in self._followed:
            self.changed(room, user, joined)
        if not self._on_other(room, user):
            self._tell(room, user, joined=joined)

    def _on_other(self, room: str, user: str, besides: str = "") -> bool:
        """Whether the user is in the room on another node."""
        there = self._there.get(room)
        return there is not None and any(user in users for node, users in there.items() if node != besides)

    def _begin(self, room: str) -> None:
        if room not in self._counts:
            self._counts[room] = self._count(room)

    def _end(self, room: str) -> None:
        if room not in self._watchers and room not in self._followed:
            self._counts.pop(room, None)

    def _count(self, room: str) -> Counter[str]:
        return Counter(member.user for member in self._rooms.members(room) if member.user is not None)

    def _tell(self, room: str, user: str, *, joined: bool) -> None:
        for watcher in tuple(self._watchers.get(room, ())):
            watcher(room, user, joined)
