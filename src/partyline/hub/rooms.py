"""Who is in which room, both ways, and which patterns cover a room, as plain functions.

Patterns are found by a walk along the tokens of the topic, not by a scan over all patterns. Each has few wildcards
(`topics.check_subscription`), so the walk for a topic of n tokens takes at most 2^n steps and never more than a few
thousand, whatever others have subscribed to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from partyline.interfaces import Member

# Most members are in a few rooms, and a tuple of a few names takes a quarter of the memory of a set.
_FEW = 8
_MOST_REMEMBERED: Final = 10_000

_NOBODY: dict[Member, None] = {}


class Rooms:
    """Rooms by name. A room exists while it has members; a member's `rooms` is the way back."""

    __slots__ = ("_members", "told")

    def __init__(self) -> None:
        self.told: Callable[[str, bool], None] | None = None  # called when a room appears or goes
        # A dict per room, not a set: members are written to in the order in which they came.
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
            if self.told is not None:
                self.told(room, True)
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
            if self.told is not None:
                self.told(room, False)
        return True

    def members(self, room: str) -> Collection[Member]:
        """The members of `room`, oldest first: a live view, not to be kept across a join or leave."""
        return self._members.get(room, _NOBODY)


class _Node:
    __slots__ = ("children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.here: str | None = None  # the pattern that ends here
        self.rest: str | None = None  # the pattern that ends here with >


class Patterns:
    """A trie of patterns by token. The matches of a topic are remembered until a pattern comes or goes."""

    __slots__ = ("_matched", "_patterns", "_root")

    def __init__(self) -> None:
        self._root = _Node()
        self._patterns: set[str] = set()
        self._matched: dict[str, tuple[str, ...]] = {}

    def __contains__(self, pattern: str) -> bool:
        return pattern in self._patterns

    def __len__(self) -> int:
        return len(self._patterns)

    def add(self, pattern: str) -> None:
        """Add a pattern, unless it is there already."""
        if pattern in self._patterns:
            return
        self._patterns.add(pattern)
        self._matched.clear()
        *tokens, last = pattern.split(".")
        node = self._root
        for token in tokens:
            node = node.children.setdefault(token, _Node())
        if last == ">":
            node.rest = pattern
        else:
            node.children.setdefault(last, _Node()).here = pattern

    def remove(self, pattern: str) -> None:
        """Take a pattern out, with the branches that lead only to it."""
        self._patterns.discard(pattern)
        self._matched.clear()
        tokens = pattern.split(".")
        _remove(self._root, tokens, 0)

    def matching(self, topic: str) -> tuple[str, ...]:
        """The patterns that cover `topic`."""
        if not self._patterns:
            return ()
        known = self._matched.get(topic)
        if known is None:
            found: list[str] = []
            _match(self._root, topic.split("."), 0, found)
            if len(self._matched) >= _MOST_REMEMBERED:
                self._matched.clear()
            known = self._matched[topic] = tuple(found)
        return known


def _match(node: _Node, tokens: list[str], at: int, found: list[str]) -> None:
    if at == len(tokens):
        if node.here is not None:
            found.append(node.here)
        return
    if node.rest is not None:
        found.append(node.rest)
    for token in (tokens[at], "*"):
        child = node.children.get(token)
        if child is not None:
            _match(child, tokens, at + 1, found)


def _remove(node: _Node, tokens: list[str], at: int) -> bool:
    """True if `node` leads nowhere any more."""
    name = tokens[at]
    if name == ">":
        node.rest = None
    elif (child := node.children.get(name)) is not None:
        if at + 1 == len(tokens):
            child.here = None
            empty = child.rest is None and not child.children
        else:
            empty = _remove(child, tokens, at + 1)
        if empty:
            del node.children[name]
    return node.here is None and node.rest is None and not node.children
