"""What a log keeps: bounds for every room, and other bounds for the rooms of a pattern."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from partyline.topics import covers, overlap


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one room keeps: seconds, messages, and bytes of data (None: unbounded).

    The newest message of a room stays until its age is over, however large it is.
    """

    max_age: float = 7 * 86400.0
    max_messages: int = 100_000
    max_bytes: int | None = None

    def exceeded(self, count: int, size: int) -> bool:
        """Whether so many messages with so many bytes in all are too much."""
        if count > self.max_messages:
            return True
        return self.max_bytes is not None and size > self.max_bytes and count > 1


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept: seconds and messages per room, a number of rooms, and `rules` with other bounds for some rooms.

    A rule is a pattern and its bounds; the first that covers a room applies.
    """

    max_age: float = 7 * 86400.0
    max_messages: int = 100_000
    max_rooms: int = 1_000_000
    rules: tuple[tuple[str, Bounds], ...] = ()

    def rule(self, room: str) -> tuple[str, Bounds]:
        """The rule that applies to a room; if none does, "" and the bounds of all rooms."""
        for rule in self.rules:
            if covers(rule[0], room):
                return rule
        return "", Bounds(self.max_age, self.max_messages)

    def of(self, room: str) -> Bounds:
        """The bounds of a room."""
        return self.rule(room)[1]

    @property
    def ages(self) -> tuple[float, ...]:
        """Every age at which some room's messages expire, in seconds, each once."""
        return tuple(dict.fromkeys((self.max_age, *(bounds.max_age for _, bounds in self.rules))))


def lost(forgotten: Mapping[str, int], rooms: Collection[str], patterns: Collection[str] = ()) -> int:
    """The highest offset that `rooms`, which are empty, or any rooms of `patterns`, may have lost.

    `forgotten` has the highest offset lost by rooms that are empty now, by the pattern of their rule; "" stands for
    rooms without a rule, which may have been any.
    """
    return max(
        (
            offset
            for rule, offset in forgotten.items()
            if (not rule and (rooms or patterns))
            or any(covers(rule, room) for room in rooms)
            or any(overlap(rule, pattern) for pattern in patterns)
        ),
        default=0,
    )
