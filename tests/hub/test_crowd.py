"""A large audience is served one slice per turn, with everything in order, whoever joins and leaves meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from partyline.errors import PartylineError
from partyline.hub.hub import Hub, RoomRules
from partyline.metrics import Counters
from partyline.models import Draft, Message, Movement, Receipt
from partyline.stores.memory import MemoryStore

from .members import Member, Tagged


class Party:
    """A hub that serves two members per turn, and the turns that it has asked for."""

    def __init__(self, members: int) -> None:
        self.turns: deque[Callable[[], None]] = deque()
        rules = RoomRules(ephemeral=(">",))
        self.hub = Hub(MemoryStore(), Counters(), rules, small=2, slice_size=2, later=self.turns.append)
        self.members = [Member() for _ in range(members)]
        for member in self.members:
            self.hub.add(member)
            self.hub.join(member, "cats")
        self.told: list[str] = []

    def publish(self, text: str, room: str = "cats", user: str | None = None) -> None:
        def done(outcome: Receipt | PartylineError) -> None:
            assert isinstance(outcome, Receipt)
            self.told.append(text)

        self.hub.publish(Draft(room, text.encode(), text, user=user), done)

    def turn(self) -> None:
        self.turns.popleft()()

    def rest(self) -> None:
        while self.turns:
            self.turn()

    @property
    def got(self) -> list[list[bytes]]:
        return [member.got for member in self.members]


def test_a_small_audience_is_served_at_once() -> None:
    """An audience that fits in one slice gets a message before `publish` returns."""
    party = Party(2)
    party.publish("a")
    assert party.got == [[b"a"]] * 2
    assert party.told == ["a"]
    assert not party.turns


def test_a_large_audience_is_served_in_slices() -> None:
    """The first slice is served at once, then one per turn; the publisher of an ephemeral message is answered after the
    last."""
    party = Party(5)
    party.publish("a")
    assert party.got == [[b"a"], [b"a"], [], [], []]
    assert party.told == []
    party.turn()
    assert party.got == [[b"a"], [b"a"], [b"a"], [b"a"], []]
    party.turn()
    assert party.got == [[b"a"]] * 5
    assert party.told == ["a"]
    assert not party.turns
    assert party.hub.counters.delivered == 5


def test_what_is_published_meanwhile_waits() -> None:
    """Later messages, whoever they are for, follow a sliced one in order; each dialect encodes each message once."""
    party = Party(5)
    dialect = Tagged()
    for member in party.members:
        member.dialect = dialect
    other = Member()
    party.hub.join(other, "dogs")
    party.publish("a")
    party.publish("b")
    party.publish("c", "dogs")
    assert other.got == []
    party.rest()
    assert party.got == [[b"a", b"b"]] * 5
    assert other.got == [b"c"]
    assert party.told == ["a", "b", "c"]
    assert dialect.encoded == 2


def test_who_joins_meanwhile_is_served_last() -> None:
    """A member that joins, by the room or by a pattern, while a message is on its way gets it once."""
    party = Party(5)
    party.publish("a")
    late, by_pattern, elsewhere = Member(), Member(), Member()
    party.hub.join(late, "cats")
    party.hub.join_pattern(by_pattern, "*")
    party.hub.join_pattern(late, "*")
    party.hub.join(elsewhere, "dogs")
    party.hub.join_pattern(party.members[0], ">")
    party.rest()
    assert (late.got, by_pattern.got, elsewhere.got) == ([b"a"], [b"a"], [])
    assert party.got == [[b"a"]] * 5


def test_who_leaves_meanwhile_gets_nothing_more() -> None:
    """A member that leaves before its turn is skipped, and is served after all if it comes back; nobody gets a message
    twice."""
    party = Party(6)
    party.publish("a")
    first, gone, back = party.members[0], party.members[3], party.members[4]
    for member in (first, gone, back):
        party.hub.leave(member, "cats")
    party.turn()
    party.turn()
    assert party.got == [[b"a"], [b"a"], [b"a"], [], [], [b"a"]]
    party = Party(8)
    party.publish("a")
    back, skipped = party.members[3], party.members[2]
    party.hub.leave(back, "cats")
    party.hub.join(back, "cats")
    party.hub.leave(skipped, "cats")
    party.hub.leave(party.members[0], "cats")
    party.hub.join(party.members[0], "cats")
    party.turn()
    party.hub.join(skipped, "cats")
    party.rest()
    assert party.got == [[b"a"]] * 8


def test_another_users_message_stays_its_own() -> None:
    """A member that joins while a message for one user is on its way gets it only as that user (hostile 40)."""
    party = Party(0)
    party.members = [Member("ann") for _ in range(4)]
    for member in party.members:
        party.hub.add(member)
        party.hub.join(member, "cats")
    party.publish("a", user="ann")
    ann, bob = Member("ann"), Member("bob")
    for member in (ann, bob):
        party.hub.add(member)
        party.hub.join(member, "cats")
    party.rest()
    assert (ann.got, bob.got) == ([b"a"], [])


def test_a_publisher_that_answers_by_publishing_waits_its_turn() -> None:
    """A message published from within an answer follows those published before it."""
    party = Party(3)
    party.hub.publish(Draft("cats", b"a", "a"), lambda _: party.publish("late"))
    party.publish("b")
    party.rest()
    assert party.got == [[b"a", b"b", b"late"]] * 3


def test_what_waits_is_bounded() -> None:
    """When too many messages wait, all are served at once, which slows publishers down to the speed of writing."""
    party = Party(3)
    for number in range(16_386):
        party.publish(str(number))
    assert party.told == [str(number) for number in range(16_385)]
    party.rest()
    assert party.got == [[str(number).encode() for number in range(16_386)]] * 3


def test_the_bytes_of_what_waits_are_bounded() -> None:
    """The same holds when more than 16 MiB wait, however few messages that is; what has been served does not count."""
    party = Party(3)
    for _ in range(2):
        party.told.clear()
        for number in range(17):
            assert party.told == []
            party.publish(str(number).ljust(1024 * 1024))
        assert len(party.told) == 17
    assert not party.hub.delivery._due_bytes


def test_messages_that_wait_are_delivered_some_a_turn() -> None:
    """Messages that gather while a large audience is served do not hold up a turn, either, and keep their order."""
    party = Party(3)
    for number in range(8):
        party.publish(str(number), room="dogs" if number else "cats")
    party.turn()
    assert party.told == ["0", "1", "2"]
    party.publish("8", room="dogs")
    party.rest()
    assert party.told == [str(number) for number in range(9)]


def test_a_dialect_that_fails_costs_its_members_only() -> None:
    """In every slice, members whose dialect fails are closed, and the others get the message."""

    class Broken(Tagged):
        def encode(self, message: object) -> bytes:
            raise ValueError("no")

    party = Party(5)
    broken = Broken()
    for member in party.members[1::2]:
        member.dialect = broken
    party.publish("a")
    party.rest()
    assert party.got == [[b"a"], [], [b"a"], [], [b"a"]]
    assert [member.closed for member in party.members] == [[], [1011], [], [1011], []]
    assert party.hub.counters.errors == 1


class Moving(Tagged):
    """A dialect that writes movements."""

    def encode(self, message: Message) -> bytes:
        self.encoded += 1
        assert isinstance(message, Movement)
        return f"{message.kind} {message.room} {message.user}".encode()


def watching(hub: Hub, count: int) -> tuple[Moving, list[Member]]:
    """Members that watch a room, and are not in it."""
    dialect = Moving()
    watchers = [Member(dialect=dialect) for _ in range(count)]
    for watcher in watchers:
        hub.watch("cats", watcher)
    return dialect, watchers


def test_many_watchers_are_told_in_slices() -> None:
    """Who comes and goes is encoded once, and told to many watchers in slices and in order, as any message is."""
    party = Party(0)
    dialect, watchers = watching(party.hub, 5)
    ann = Member("ann")
    party.hub.join(ann, "cats")
    party.hub.leave(ann, "cats")
    assert [len(watcher.got) for watcher in watchers] == [1, 1, 0, 0, 0]
    party.rest()
    assert [watcher.got for watcher in watchers] == [[b"join cats ann", b"leave cats ann"]] * 5
    assert dialect.encoded == 2
    assert party.hub.counters.delivered == 10


def test_watchers_that_come_and_go_meanwhile() -> None:
    """Those that watched when somebody came are told, unless they have stopped since."""
    party = Party(0)
    _, watchers = watching(party.hub, 5)
    party.hub.join(Member("ann"), "cats")
    party.hub.join(Member("bob"), "cats")
    party.hub.unwatch("cats", watchers[4])
    _, late = watching(party.hub, 1)
    party.rest()
    assert [watcher.got for watcher in watchers] == [[b"join cats ann", b"join cats bob"]] * 4 + [[]]
    assert late[0].got == []
    for watcher in (*watchers[:4], *late):
        party.hub.unwatch("cats", watcher)
    assert not party.hub._watchers
    assert not party.hub.presence._watchers
    assert not party.hub.presence._counts


def test_movements_that_wait_are_bounded() -> None:
    """A movement counts with its audience while it waits, so that a few in a room with many watchers are too many."""
    party = Party(3)
    _, watchers = watching(party.hub, 1_000)
    party.publish("a")  # on its way
    for _ in range(10):
        ann = Member("ann")
        party.hub.join(ann, "cats")
        party.hub.leave(ann, "cats")
    assert party.hub.delivery._due_bytes >= 20 * 8 * len(watchers)
    party.rest()
    assert {len(watcher.got) for watcher in watchers} == {20}
    assert party.hub.delivery._due_bytes == 0
