"""Rooms and members, looked up both ways, against a model that is too simple to be wrong."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from partyline.hub.rooms import Rooms

from .members import Member

MEMBERS = 4
NAMES = [f"room{number}" for number in range(12)]  # more than a member keeps in a tuple

members = st.integers(0, MEMBERS - 1)
names = st.sampled_from(NAMES)


class BothWays(RuleBasedStateMachine):
    """After any joins and leaves a room knows its members in the order of joining, and a member knows its rooms."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms = Rooms()
        self.members = [Member() for _ in range(MEMBERS)]
        self.model: dict[str, list[int]] = {}

    def _join(self, number: int, room: str) -> None:
        present = self.model.setdefault(room, [])
        new = number not in present
        if new:
            present.append(number)
        assert self.rooms.join(self.members[number], room) is new

    @rule(number=members, room=names)
    def join(self, number: int, room: str) -> None:
        self._join(number, room)

    @rule(number=members)
    def join_all(self, number: int) -> None:
        for room in NAMES:
            self._join(number, room)

    @rule(number=members, room=names)
    def leave(self, number: int, room: str) -> None:
        present = self.model.get(room, [])
        there = number in present
        if there:
            present.remove(number)
            if not present:
                del self.model[room]
        assert self.rooms.leave(self.members[number], room) is there

    @rule(number=members)
    def leave_all(self, number: int) -> None:
        for room in tuple(self.members[number].rooms):
            self.leave(number, room)

    @invariant()
    def rooms_know_their_members(self) -> None:
        assert len(self.rooms) == len(self.model)
        for room in NAMES:
            expected = [self.members[number] for number in self.model.get(room, [])]
            assert list(self.rooms.members(room)) == expected
            assert (room in self.rooms) is bool(expected)

    @invariant()
    def members_know_their_rooms(self) -> None:
        for number, member in enumerate(self.members):
            assert sorted(member.rooms) == sorted(room for room, present in self.model.items() if number in present)


TestBothWays = BothWays.TestCase
TestBothWays.settings = settings(stateful_step_count=30, deadline=None)


def test_asking_for_members_makes_no_room() -> None:
    """An empty room has no members, and asking for them does not create it."""
    rooms = Rooms()
    assert list(rooms.members("cats")) == []
    assert "cats" not in rooms
    assert len(rooms) == 0


def test_an_empty_room_is_gone() -> None:
    """A room exists while it has members: names that were used once do not pile up."""
    rooms, member = Rooms(), Member()
    for number in range(1000):
        rooms.join(member, f"room{number}")
        rooms.leave(member, f"room{number}")
    assert len(rooms) == 0
    assert len(member.rooms) == 0


def test_joining_again_keeps_the_place() -> None:
    """A member that joins a room twice is in it once, at its first place, and leaves it with one leave."""
    rooms, first, second = Rooms(), Member(), Member()
    assert rooms.join(first, "cats")
    assert rooms.join(second, "cats")
    assert not rooms.join(first, "cats")
    assert list(rooms.members("cats")) == [first, second]
    assert rooms.leave(first, "cats")
    assert not rooms.leave(first, "cats")
    assert list(rooms.members("cats")) == [second]


def test_whoever_is_told_of_rooms() -> None:
    """Whoever wants to know hears of each room when its first member comes and when its last one goes."""
    rooms, first, second = Rooms(), Member(), Member()
    told: list[tuple[str, bool]] = []
    rooms.told = lambda room, there: told.append((room, there))
    rooms.join(first, "cats")
    rooms.join(second, "cats")
    rooms.join(first, "cats")
    assert told == [("cats", True)]
    rooms.leave(first, "cats")
    rooms.leave(first, "cats")
    rooms.leave(second, "cats")
    assert told == [("cats", True), ("cats", False)]
