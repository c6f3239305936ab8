"""Which users are in a room, and what its watchers are told."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.hub.presence import Presence
from partyline.hub.rooms import Rooms

from .members import Member


class Floor:
    """Rooms and their presence, which hears of joins and leaves as from the hub."""

    def __init__(self) -> None:
        self.rooms = Rooms()
        self.presence = Presence(self.rooms)
        self.heard: list[tuple[str, str, bool]] = []

    def hear(self, room: str, user: str, joined: bool) -> None:
        self.heard.append((room, user, joined))

    def join(self, member: Member, room: str) -> None:
        if self.rooms.join(member, room):
            self.presence.joined(room, member)

    def leave(self, member: Member, room: str) -> None:
        if self.rooms.leave(member, room):
            self.presence.left(room, member)


def test_users_are_listed_once_and_sorted() -> None:
    """A user with several connections is listed once, a connection without a user is not listed, and the list is
    sorted."""
    floor = Floor()
    for user in ("bob", "ann", "bob", None):
        floor.join(Member(user), "cats")
    assert floor.presence.users("cats") == ["ann", "bob"]
    assert floor.presence.users("dogs") == []


def test_watching_does_not_change_the_list() -> None:
    """A watched room lists the same users as an unwatched one, also those that joined before the watch."""
    floor = Floor()
    ann, bob = Member("ann"), Member("bob")
    floor.join(ann, "cats")
    floor.presence.watch("cats", floor.hear)
    assert floor.presence.users("cats") == ["ann"]
    floor.join(bob, "cats")
    floor.leave(ann, "cats")
    assert floor.presence.users("cats") == ["bob"]
    floor.leave(bob, "cats")
    assert floor.presence.users("cats") == []


def test_only_the_first_and_the_last_connection_are_told() -> None:
    """A watcher hears of a user's first connection to join and the last one to leave, not of those between."""
    floor = Floor()
    phone, browser = Member("ann"), Member("ann")
    floor.presence.watch("cats", floor.hear)
    floor.join(phone, "cats")
    floor.join(browser, "cats")
    floor.leave(phone, "cats")
    assert floor.heard == [("cats", "ann", True)]
    floor.leave(browser, "cats")
    assert floor.heard == [("cats", "ann", True), ("cats", "ann", False)]


def test_those_present_before_are_counted() -> None:
    """A watcher hears when the last connection leaves of a user who was there when the watch began."""
    floor = Floor()
    phone, browser = Member("ann"), Member("ann")
    floor.join(phone, "cats")
    floor.presence.watch("cats", floor.hear)
    floor.join(browser, "cats")
    floor.leave(phone, "cats")
    assert floor.heard == []
    floor.leave(browser, "cats")
    assert floor.heard == [("cats", "ann", False)]


def test_connections_without_a_user_are_not_told() -> None:
    """A connection without a user joins and leaves unannounced."""
    floor = Floor()
    floor.presence.watch("cats", floor.hear)
    nobody = Member()
    floor.join(nobody, "cats")
    floor.leave(nobody, "cats")
    assert floor.heard == []


def test_rooms_are_watched_one_by_one() -> None:
    """A watcher hears only of its own room."""
    floor = Floor()
    floor.presence.watch("cats", floor.hear)
    ann = Member("ann")
    floor.join(ann, "dogs")
    floor.join(ann, "cats")
    assert floor.heard == [("cats", "ann", True)]


def test_unwatching_one_leaves_the_other() -> None:
    """A stopped watcher hears nothing more, and another one of the same room goes on; stopping twice does nothing."""
    floor = Floor()
    others: list[str] = []

    def other(room: str, user: str, joined: bool) -> None:
        others.append(user)

    floor.presence.watch("cats", floor.hear)
    floor.presence.watch("cats", other)
    floor.presence.unwatch("cats", floor.hear)
    floor.presence.unwatch("cats", floor.hear)
    floor.presence.unwatch("dogs", floor.hear)
    floor.join(Member("ann"), "cats")
    assert (floor.heard, others) == ([], ["ann"])


def test_a_watcher_may_stop_while_it_is_told() -> None:
    """A watcher that stops from within its own call is not called again, and the others are still called."""
    floor = Floor()
    once: list[str] = []

    def only_once(room: str, user: str, joined: bool) -> None:
        once.append(user)
        floor.presence.unwatch(room, only_once)

    floor.presence.watch("cats", only_once)
    floor.presence.watch("cats", floor.hear)
    floor.join(Member("ann"), "cats")
    floor.join(Member("bob"), "cats")
    assert once == ["ann"]
    assert [user for _, user, _ in floor.heard] == ["ann", "bob"]


steps = st.lists(st.tuples(st.sampled_from(("join", "leave", "watch", "unwatch")), st.integers(0, 5)), max_size=40)


@given(steps)
@settings(deadline=None)
def test_the_list_is_the_members(taken: list[tuple[str, int]]) -> None:
    """Whatever happens, watched or not, the users of a room are those of its members, and what watchers were told adds
    up."""
    floor = Floor()
    members = [Member(user) for user in ("ann", "ann", "bob", "bob", "cid", None)]
    watching = False
    seen: set[str] = set()
    for step, number in taken:
        if step == "join":
            floor.join(members[number], "cats")
        elif step == "leave":
            floor.leave(members[number], "cats")
        elif step == "watch" and not watching:
            floor.presence.watch("cats", floor.hear)
            watching, seen = True, set(floor.presence.users("cats"))
            floor.heard.clear()
        elif step == "unwatch" and watching:
            floor.presence.unwatch("cats", floor.hear)
            watching = False
        present = {member.user for member in floor.rooms.members("cats") if member.user is not None}
        assert floor.presence.users("cats") == sorted(present)
        if watching:
            for _, user, joined in floor.heard:
                assert (user in seen) is not joined, "a user joins once and leaves once"
                (seen.add if joined else seen.remove)(user)
            floor.heard.clear()
            assert seen == present
