"""Who is in which room, both ways, as plain functions."""

from __future__ import annotations

from collections.abc import Collection

from partyline.interfaces import Member

# Most members are in a few rooms, and a tuple of a few names takes a quarter of the memory of a set.
_FEW = 8

_NOBODY: dict[Member, None] = {}


class Rooms:
    """Rooms by name. A room exists while it has members; a member's `rooms` is the way back."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        # A dict per room and not a set: members are written to in the order in which they came.
        self._members: dict[str, dict[Member, None]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, room: str) -> bool:
        return room in self._members

    def names(self) -> list[str]:
        """The rooms that have members, sorted."""
        return sorted(self._members)

    def join(self, member: Member, room: str) -> bool:
        """Add `member`; False if it was there already."""
        rooms = member.rooms
        if room in rooms:
            return False
        if isinstance(rooms, set):
            rooms.add(room)
        else:
            member.rooms = (*rooms, room) if len(rooms) < _FEW else {*rooms, room}
        members = self._members.get(room)
        if members is None:
            self._members[room] = {member: None}
        else:
            members[member] = None
        return True

    def leave(self, member: Member, room: str) -> bool:
        """Take `member` out; False if it was not in."""
        rooms = member.rooms
        if room not in rooms:
            return False
        if isinstance(rooms, set):
            rooms.remove(room)
        else:
            member.rooms = tuple(name for name in rooms if name != room)
        members = self._members[room]
        del members[member]
        if not members:
            del self._members[room]
        return True

    def members(self, room: str) -> Collection[Member]:
        """The members of `room`, oldest first: a live view, not to be kept over a join or leave."""
        return self._members.get(room, _NOBODY)
