"""The hub: which members get a message, when it leaves, and what its publisher is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.errors import Conflict, Overloaded, PartylineError, StoreUnavailable
from partyline.hub.hub import Hub, RoomRules
from partyline.interfaces import Committed, Outcome, Refused, Stored, View
from partyline.metrics import Counters
from partyline.models import Draft, Message, Page, Policy, Position, Receipt
from partyline.stores.memory import MemoryStore
from partyline.topics import any_covers

from .members import Member

EPOCH = "0123456789abcdef"


class LateStore:
    """A store that answers when it is told to, like one with a slow disk."""

    epoch = EPOCH
    refusal: PartylineError | None = None

    def __init__(self) -> None:
        self.head = 0
        self.queued: list[Draft] = []
        self._committed: Committed | None = None

    def start(self, committed: Committed) -> None:
        self._committed = committed

    def append(self, *drafts: Draft) -> None:
        self.queued.extend(drafts)

    def commit(self, *, refuse: PartylineError | None = None, only: str | None = None) -> None:
        """Answer all that is queued in one batch; with `refuse`, the draft with the id `only` or all are refused."""
        outcomes: list[Outcome] = []
        for draft in self.queued:
            if refuse is not None and only in (None, draft.id):
                outcomes.append(Refused(draft, refuse))
            else:
                self.head += 1
                outcomes.append(Stored(draft, Message(draft, self.head, 0.0)))
        self.queued = []
        assert self._committed is not None
        self._committed(outcomes)

    async def read(self, view: View, after: int, limit: int) -> Page:
        return Page((), self.head, False, 1)

    async def close(self) -> None:
        self.commit(refuse=StoreUnavailable("closed"))


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What the hub logs as errors."""
    lines: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("partyline.hub")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def draft(data: bytes = b"1", room: str = "cats", **rest: object) -> Draft:
    return Draft(room, data, **{"id": data.decode(), **rest})  # type: ignore[arg-type]


def joined(hub: Hub, *rooms: str, user: str | None = None) -> Member:
    member = Member(user)
    hub.add(member)
    for room in rooms:
        hub.join(member, room)
    return member


# Publishing


def test_an_ephemeral_message_leaves_at_once() -> None:
    """An ephemeral message is offered and its publisher told before `publish` returns, without a position."""
    store = LateStore()
    hub = Hub(store, Counters())
    member = joined(hub, "cats")
    told: list[Receipt | PartylineError] = []
    hub.publish(draft(durable=False), told.append)
    assert member.got == [b"1"]
    assert told == [Receipt("cats", "1", None)]
    assert store.queued == []


def test_a_durable_message_waits_for_its_commit() -> None:
    """A durable message is not sent, and its publisher is not answered, before the store has committed it."""
    store = LateStore()
    hub = Hub(store, Counters())
    member = joined(hub, "cats")
    told: list[Receipt | PartylineError] = []
    hub.publish(draft(), told.append)
    assert (member.got, told) == ([], [])
    store.commit()
    assert member.got == [b"1"]
    assert told == [Receipt("cats", "1", Position(EPOCH, 1))]


def test_a_batch_fans_out_in_the_order_of_its_offsets() -> None:
    """The messages of one commit reach a member in offset order, and each publisher gets its own position."""
    store = LateStore()
    hub = Hub(store, Counters())
    member = joined(hub, "cats", "dogs")
    told: list[Receipt | PartylineError] = []
    for number in range(5):
        hub.publish(draft(b"%d" % number, ("cats", "dogs")[number % 2]), told.append)
    store.commit()
    assert member.got == [b"0", b"1", b"2", b"3", b"4"]
    assert [answer.position.offset for answer in told if isinstance(answer, Receipt) and answer.position] == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert [answer.id for answer in told if isinstance(answer, Receipt)] == ["0", "1", "2", "3", "4"]


def test_a_message_is_out_when_its_publisher_hears_of_it() -> None:
    """When a publisher is answered, every member has been offered its message."""
    store = LateStore()
    hub = Hub(store, Counters())
    member = joined(hub, "cats")
    seen: list[list[bytes]] = []
    hub.publish(draft(), lambda answer: seen.append(list(member.got)))
    store.commit()
    assert seen == [[b"1"]]


def test_a_refused_message_reaches_nobody() -> None:
    """A message that the store refuses is not offered to anybody; its publisher gets the error, and the others get
    receipts."""
    store = LateStore()
    hub = Hub(store, Counters())
    member = joined(hub, "cats")
    told: dict[str, Receipt | PartylineError] = {}
    for name in ("a", "b", "c"):
        hub.publish(draft(name.encode()), lambda answer, name=name: told.update({name: answer}))  # type: ignore[misc]
    error = StoreUnavailable("the disk is full")
    store.commit(refuse=error, only="b")
    assert member.got == [b"a", b"c"]
    assert told["b"] is error
    assert [told[name].id for name in ("a", "c")] == ["a", "c"]  # type: ignore[union-attr]


def test_a_publisher_that_does_not_listen_keeps_the_order() -> None:
    """Publishes without a callback do not shift the answers of those with one."""
    store = LateStore()
    hub = Hub(store, Counters())
    told: list[Receipt | PartylineError] = []
    hub.publish(draft(b"a"))
    hub.publish(draft(b"b"), told.append)
    hub.publish(draft(b"c"))
    store.commit()
    assert [answer.id for answer in told if isinstance(answer, Receipt)] == ["b"]


def test_one_publishers_trouble_stays_its_own(complaints: list[str]) -> None:
    """When a callback raises, only its publisher loses the answer, and the error is logged."""
    store = LateStore()
    hub = Hub(store, Counters())
    member = joined(hub, "cats")
    told: list[Receipt | PartylineError] = []

    def broken(answer: Receipt | PartylineError) -> None:
        raise RuntimeError("gone")

    hub.publish(draft(b"a"), broken)
    hub.publish(draft(b"b"), told.append)
    store.commit()
    assert member.got == [b"a", b"b"]
    assert [answer.id for answer in told if isinstance(answer, Receipt)] == ["b"]
    assert len(complaints) == 1


def test_a_retry_is_not_delivered_again() -> None:
    """A publish retried with its id is answered with the first position, and no member gets it twice."""
    hub = Hub(MemoryStore(), Counters())
    member = joined(hub, "cats")
    told: list[Receipt | PartylineError] = []
    for _ in range(2):
        hub.publish(draft(id="same"), told.append)
    first, second = told
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert member.got == [b"1"]
    assert first.position == second.position
    assert (first.duplicate, second.duplicate) == (False, True)


def test_a_conflicting_retry_is_an_error() -> None:
    """The same id with another body is answered with Conflict and not offered to anybody."""
    hub = Hub(MemoryStore(), Counters())
    member = joined(hub, "cats")
    told: list[Receipt | PartylineError] = []
    hub.publish(draft(b"1", id="same"), told.append)
    hub.publish(draft(b"2", id="same"), told.append)
    assert isinstance(told[1], Conflict)
    assert member.got == [b"1"]


def test_what_was_handed_in_is_answered_when_the_store_closes() -> None:
    """A message that still waits when the store closes is answered all the same."""
    store = LateStore()
    hub = Hub(store, Counters())
    told: list[Receipt | PartylineError] = []
    hub.publish(draft(), told.append)
    asyncio.run(store.close())
    assert isinstance(told[0], StoreUnavailable)


def test_several_are_kept_together() -> None:
    """Messages published in one call reach the store in one call, in order, and each is answered."""
    store = LateStore()
    hub = Hub(store, Counters())
    member = joined(hub, "cats")
    told: list[Receipt | PartylineError] = []
    hub.publish_all([(draft(data), told.append) for data in (b"a", b"b", b"c")])
    assert (member.got, told) == ([], [])
    store.commit()
    assert member.got == [b"a", b"b", b"c"]
    assert [answer.id for answer in told if isinstance(answer, Receipt)] == ["a", "b", "c"]


def test_several_of_both_kinds_are_all_answered() -> None:
    """Messages published in one call are sent together once the durable ones are kept; each gets its own answer."""
    store = LateStore()
    hub = Hub(store, Counters(), RoomRules(ephemeral=("tick",)))
    member = joined(hub, "cats", "tick")
    told: dict[str, object] = {}

    def done(answer: Receipt | PartylineError) -> None:
        assert isinstance(answer, Receipt)
        told[answer.id] = answer.position

    hub.publish_all([(draft(b"a"), done), (draft(b"b", "tick"), done), (draft(b"c"), done)])
    assert (member.got, told) == ([], {})
    store.commit()
    assert member.got == [b"a", b"c", b"b"]
    assert told == {"b": None, "a": Position(EPOCH, 1), "c": Position(EPOCH, 2)}


def test_what_the_store_cannot_take_is_refused() -> None:
    """A publish beyond those that may wait for the store is refused at once as temporary and counted; when the store
    has caught up, publishing goes on."""
    store, counters = LateStore(), Counters()
    hub = Hub(store, counters, most_waiting=3)
    told: list[Receipt | PartylineError] = []
    for number in range(3):
        hub.publish(draft(b"%d" % number))
    assert len(store.queued) == 3
    hub.publish(draft(b"x"), told.append)
    hub.publish(draft(b"y", durable=False), told.append)
    assert isinstance(told[0], Overloaded)
    assert told[0].temporary
    assert told[1] == Receipt("cats", "y", None)
    assert len(counters.limits) == 1
    store.commit()
    hub.publish_all([(draft(b"a"), told.append), (draft(b"b"), told.append)])
    hub.publish_all([(draft(b"c"), told.append), (draft(b"d"), told.append)])
    assert [type(answer) for answer in told[2:]] == [Overloaded, Overloaded]
    store.commit()
    assert [answer.id for answer in told[4:] if isinstance(answer, Receipt)] == ["a", "b"]


def test_fanned_out_follows_the_fan_out() -> None:
    """`fanned_out` is the last offset that was offered, not the last one committed; retries and refusals do not change
    it."""
    store = LateStore()
    store.head = 7
    hub = Hub(store, Counters())
    assert hub.fanned_out == 7
    seen: list[int] = []
    for number in range(3):
        hub.publish(draft(b"%d" % number), lambda answer: seen.append(hub.fanned_out))
    assert hub.fanned_out == 7
    store.commit(refuse=StoreUnavailable("full"), only="1")
    assert seen == [8, 8, 9]
    assert hub.fanned_out == 9


# Rules


def test_a_room_is_durable_unless_a_rule_says_otherwise() -> None:
    """A pattern of the rules or the publish itself makes a message ephemeral; the publish has the last word (guarantee
    6)."""
    store = LateStore()
    hub = Hub(store, Counters(), RoomRules(ephemeral=("tick.*",)))
    for room, durable in (("cats", None), ("tick.a", None), ("tick.a", True), ("cats", False), ("tick.a.b", None)):
        hub.publish(draft(b"%s %s" % (room.encode(), str(durable).encode()), room, durable=durable))
    assert [item.data for item in store.queued] == [b"cats None", b"tick.a True", b"tick.a.b None"]


def test_a_rooms_policy_travels_with_its_messages() -> None:
    """A payload carries the policy of its room; if two rules cover the room, drop_oldest wins."""
    hub = Hub(MemoryStore(), Counters(), RoomRules(drop_oldest=("news.>",), conflate=("price.*", "news.x")))
    member = joined(hub, "cats", "news.a", "news.x", "price.a")
    for room in ("cats", "news.a", "news.x", "price.a"):
        hub.publish(draft(room.encode(), room))
    assert [payload.policy for payload in member.inbox] == [
        Policy.CLOSE,
        Policy.DROP_OLDEST,
        Policy.DROP_OLDEST,
        Policy.CONFLATE,
    ]


def test_the_time_of_a_message_is_the_clocks() -> None:
    """An ephemeral message carries the time of the hub's clock."""
    times: list[float] = []

    class Timing(Member):
        class dialect:
            @staticmethod
            def encode(message: Message) -> bytes:
                times.append(message.time)
                return b""

        def __init__(self) -> None:
            super().__init__(dialect=self.dialect)  # type: ignore[arg-type]

    hub = Hub(LateStore(), Counters(), clock=lambda: 1234.5)
    hub.join(Timing(), "cats")
    hub.publish(draft(durable=False))
    assert times == [1234.5]


# Members


def test_a_message_reaches_its_room_only() -> None:
    """Members of the room get a message, members of other rooms do not."""
    hub = Hub(MemoryStore(), Counters())
    cat, dog, both = joined(hub, "cats"), joined(hub, "dogs"), joined(hub, "cats", "dogs")
    hub.publish(draft(room="cats"))
    assert (cat.got, dog.got, both.got) == ([b"1"], [], [b"1"])


def test_a_direct_message_reaches_one_user_only() -> None:
    """A message for a user reaches every connection of that user in the room, and no other's (hostile 40)."""
    hub = Hub(MemoryStore(), Counters())
    phone, browser = joined(hub, "cats", user="1"), joined(hub, "cats", user="1")
    elsewhere = joined(hub, "dogs", user="1")
    other, nobody = joined(hub, "cats", user="2"), joined(hub, "cats")
    hub.publish(draft(user="1"))
    assert (phone.got, browser.got) == ([b"1"], [b"1"])
    assert (elsewhere.got, other.got, nobody.got) == ([], [], [])


def test_a_direct_message_to_nobody_is_no_error() -> None:
    """A message for an absent user is kept and answered, and not offered to anybody."""
    hub = Hub(MemoryStore(), Counters())
    other = joined(hub, "cats", user="2")
    told: list[Receipt | PartylineError] = []
    hub.publish(draft(user="1"), told.append)
    assert isinstance(told[0], Receipt)
    assert other.got == []


def test_who_left_gets_nothing_more() -> None:
    """After a leave the room's messages no longer arrive, those of other rooms still do."""
    hub = Hub(MemoryStore(), Counters())
    member = joined(hub, "cats", "dogs")
    hub.leave(member, "cats")
    hub.publish(draft(b"c", "cats"))
    hub.publish(draft(b"d", "dogs"))
    assert member.got == [b"d"]


def test_a_removed_connection_is_nowhere() -> None:
    """A removed connection is in no room and in no audience; another connection of its user stays."""
    hub = Hub(MemoryStore(), Counters())
    gone, stays = joined(hub, "cats", "dogs", user="1"), joined(hub, "cats", user="1")
    hub.remove(gone)
    assert len(gone.rooms) == 0
    assert list(hub.audience("cats", "1")) == [stays]
    hub.publish(draft(b"a", user="1"))
    hub.publish(draft(b"b"))
    assert (gone.got, stays.got) == ([], [b"a", b"b"])
    hub.remove(stays)
    assert len(hub.rooms) == 0


def test_removing_twice_does_nothing() -> None:
    """A replaced connection is removed when it is replaced and again when its socket ends; the second removal does
    nothing."""
    hub = Hub(MemoryStore(), Counters())
    old, new = joined(hub, "cats", user="1"), joined(hub, "cats", user="1")
    hub.remove(old)
    hub.remove(old)
    assert list(hub.audience("cats", "1")) == [new]
    hub.remove(new)
    hub.remove(new)
    assert list(hub.audience("cats", "1")) == []


def test_joins_and_leaves_are_seen_by_presence() -> None:
    """Watchers of a room hear once of each user that joins, leaves or is removed."""
    hub = Hub(MemoryStore(), Counters())
    heard: list[tuple[str, bool]] = []
    hub.presence.watch("cats", lambda room, user, joined: heard.append((user, joined)))
    ann, bob = joined(hub, "cats", user="ann"), joined(hub, "cats", user="bob")
    hub.join(ann, "cats")
    hub.leave(ann, "cats")
    hub.leave(ann, "cats")
    hub.remove(bob)
    assert heard == [("ann", True), ("bob", True), ("ann", False), ("bob", False)]


def test_messages_are_counted() -> None:
    """`published` counts publishes, `delivered` each offer to a member."""
    counters = Counters()
    hub = Hub(MemoryStore(), counters)
    for _ in range(3):
        joined(hub, "cats")
    hub.publish(draft(b"1"))
    hub.publish(draft(b"2", durable=False))
    hub.publish(draft(b"3", "nobody"))
    assert (counters.published, counters.delivered) == (3, 6)


# Patterns


def test_a_pattern_is_all_the_rooms_it_covers() -> None:
    """A member of a pattern gets the messages of every room it covers, now and later, and of no other."""
    hub = Hub(MemoryStore(), Counters())
    member = Member()
    hub.join_pattern(member, "news.*")
    for room in ("news.eu", "news.us", "news", "news.eu.de", "cats"):
        hub.publish(draft(room.encode(), room))
    assert member.got == [b"news.eu", b"news.us"]


def test_overlapping_subscriptions_give_a_message_once() -> None:
    """Whoever is in a room and in patterns that cover it gets each of its messages once (guarantee 4)."""
    hub = Hub(MemoryStore(), Counters())
    member = joined(hub, "news.eu", user="1")
    for pattern in ("news.*", "news.>", ">"):
        hub.join_pattern(member, pattern)
    hub.publish(draft(b"all", "news.eu"))
    hub.publish(draft(b"direct", "news.eu", user="1"))
    hub.publish(draft(b"other", "news.eu", user="2"))
    assert member.got == [b"all", b"direct"]


def test_leaving_a_pattern_leaves_what_it_covered() -> None:
    """A member that leaves a pattern gets nothing more through it; others of the pattern, and the room itself, go
    on."""
    hub = Hub(MemoryStore(), Counters())
    one, two, three = Member(), Member(), joined(hub, "news.eu")
    for member in (one, two, three):
        hub.join_pattern(member, "news.*")
    hub.leave(one, "news.*")
    hub.leave(three, "news.*")
    hub.publish(draft(b"a", "news.eu"))
    hub.remove(two)
    hub.publish(draft(b"b", "news.eu"))
    assert (one.got, two.got, three.got) == ([], [b"a"], [b"a", b"b"])
    assert len(hub.rooms) == 1


def test_patterns_are_not_present() -> None:
    """Presence belongs to rooms: a user that listens through a pattern is not announced in the rooms it covers."""
    hub = Hub(MemoryStore(), Counters())
    heard: list[tuple[str, bool]] = []
    hub.presence.watch("news.eu", lambda room, user, joined: heard.append((user, joined)))
    member = joined(hub, user="ann")
    hub.join_pattern(member, "news.*")
    hub.remove(member)
    assert heard == []


moves = st.lists(
    st.tuples(
        st.sampled_from(("join", "leave", "remove")),
        st.integers(0, 5),
        st.sampled_from(("cats", "news.eu", "news.us", "news.*", "*.eu", ">")),
    ),
    max_size=40,
)


@given(moves)
@settings(deadline=None)
def test_the_index_finds_what_a_scan_would(taken: list[tuple[str, int, str]]) -> None:
    """In whatever order connections come and go, the audience of a room or of a user in it is what a scan over all
    connections finds."""
    hub = Hub(MemoryStore(), Counters())
    members = [Member(user) for user in ("1", "1", "2", "2", "3", None)]
    present: set[int] = set()
    for move, number, room in taken:
        member = members[number]
        if move == "remove":
            hub.remove(member)
            present.discard(number)
        else:
            if number not in present:
                present.add(number)
                hub.add(member)
            if move == "leave":
                hub.leave(member, room)
            elif ">" in room or "*" in room:
                hub.join_pattern(member, room)
            else:
                hub.join(member, room)
    for room in ("cats", "news.eu", "news.us", "x.eu", "x"):
        scan = [member for member in members if any_covers(member.rooms, room)]
        for user in (None, "1", "2", "3", "4"):
            found = list(hub.audience(room, user))
            assert len(found) == len(set(found))
            assert set(found) == {member for member in scan if user in (None, member.user)}
