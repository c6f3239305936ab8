"""Presence: the users of a room, and a call to its watchers when a user comes or goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from partyline.hub.rooms import Rooms
from partyline.interfaces import Member

Watcher = Callable[[str, str, bool], None]
"""Called as `watcher(room, user, joined)` when a user's first connection joins or the last one leaves."""


class Presence:
    """Counts are kept for watched rooms only: an unwatched room costs nothing beyond its members."""

    __slots__ = ("_counts", "_rooms", "_watchers")

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._counts: dict[str, Counter[str]] = {}
        self._watchers: dict[str, list[Watcher]] = {}

    def users(self, room: str) -> list[str]:
        """The users with a connection in `room`, each once, sorted. Costs O(members) unless the room is watched."""
        return sorted(self._counts.get(room) or self._count(room))

    def watch(self, room: str, watcher: Watcher) -> None:
        """Call `watcher` for every user that comes or goes from now on."""
        if room not in self._counts:
            self._counts[room] = self._count(room)
        self._watchers.setdefault(room, []).append(watcher)

    def unwatch(self, room: str, watcher: Watcher) -> None:
        """Stop that. A watcher that is not watching is ignored."""
        watchers = self._watchers.get(room, [])
        if watcher in watchers:
            watchers.remove(watcher)
        if not watchers:
            self._watchers.pop(room, None)
            self._counts.pop(room, None)

    def joined(self, room: str, member: Member) -> None:
        """Called by the hub after every join."""
        counts = self._counts.get(room)
        if counts is not None and member.user is not None:
            counts[member.user] += 1
            if counts[member.user] == 1:
                self._tell(room, member.user, joined=True)

    def left(self, room: str, member: Member) -> None:
        """Called by the hub after every leave."""
        counts = self._counts.get(room)
        if counts is not None and member.user is not None:
            counts[member.user] -= 1
            if not counts[member.user]:
                del counts[member.user]
                self._tell(room, member.user, joined=False)

    def _count(self, room: str) -> Counter[str]:
        return Counter(member.user for member in self._rooms.members(room) if member.user is not None)

    def _tell(self, room: str, user: str, *, joined: bool) -> None:
        for watcher in tuple(self._watchers.get(room, ())):
            watcher(room, user, joined)
