"""The log in memory: offsets, retries, retention, and pages without holes."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.errors import Conflict, StoreUnavailable, TooManyTopics
from partyline.interfaces import Outcome, Refused, Stored, View
from partyline.models import Draft, Message, Page
from partyline.stores import memory
from partyline.stores.memory import MemoryStore, Retention


class Log:
    """A store with a clock of its own, and everything it ever answered."""

    def __init__(self, retention: Retention | None = None, *, window: float = 86400.0) -> None:
        self.now = 1_000_000.0
        self.store = MemoryStore(retention, idempotency_window=window, clock=lambda: self.now)
        self.outcomes: list[Outcome] = []
        self.store.start(self.outcomes.extend)
        self._serial = 0

    def take(self, room: str = "cats", data: bytes = b"1", **rest: object) -> Outcome:
        """Append a draft, with a new id if none is given; the outcome."""
        self._serial += 1
        self.store.append(Draft(room, data, **{"id": f"id{self._serial}", **rest}))  # type: ignore[arg-type]
        return self.outcomes[-1]

    def kept(self, room: str = "cats", data: bytes = b"1", **rest: object) -> Message:
        outcome = self.take(room, data, **rest)
        assert isinstance(outcome, Stored)
        return outcome.message

    def read(self, room: str = "cats", after: int = 0, limit: int = 100, user: str | None = None) -> Page:
        return asyncio.run(self.store.read(View(frozenset((room,)), user=user), after, limit))

    def offsets(self, room: str = "cats", after: int = 0, limit: int = 100) -> list[int | None]:
        return [message.offset for message in self.read(room, after, limit).messages]


def test_one_log_numbers_all_rooms() -> None:
    """Offsets grow by one over all rooms in the order of the appends (guarantee 2)."""
    log = Log()
    assert log.store.head == 0
    assert [log.kept(room).offset for room in ("cats", "dogs", "cats", "birds")] == [1, 2, 3, 4]
    assert log.store.head == 4
    assert (log.offsets("cats"), log.offsets("dogs")) == ([1, 3], [2])


def test_every_draft_is_answered_once_in_order() -> None:
    """Each append is answered once, in the order of the appends, refusals included."""
    log = Log(Retention(max_rooms=1))
    for room in ("cats", "dogs", "cats"):
        log.take(room)
    assert [type(outcome) for outcome in log.outcomes] == [Stored, Refused, Stored]
    assert [outcome.draft.id for outcome in log.outcomes] == ["id1", "id2", "id3"]


def test_a_refusal_takes_no_offset() -> None:
    """A refused append leaves no gap in the offsets."""
    log = Log(Retention(max_rooms=1))
    log.take("cats")
    log.take("dogs")
    assert log.kept("cats").offset == 2


def test_an_epoch_is_new_and_readable() -> None:
    """An epoch is 16 hex digits, and each store has its own."""
    epochs = {MemoryStore().epoch for _ in range(10)}
    assert len(epochs) == 10
    assert all(re.fullmatch("[0-9a-f]{16}", epoch) for epoch in epochs)


def test_messages_are_kept_as_they_came() -> None:
    """A page holds the drafts unchanged, with the time of the store's clock."""
    log = Log()
    draft = Draft("cats", b'{"a":1}', "x", user="7", key="k", sender="s")
    log.store.append(draft)
    (message,) = log.read(user="7").messages
    assert (message.draft, message.offset, message.time) == (draft, 1, 1_000_000.0)
    assert log.read().messages == log.read(user="8").messages == ()


# Retries


def test_a_retry_is_stored_once() -> None:
    """The same id with the same content is answered with the first message, marked as a duplicate."""
    log = Log()
    first = log.kept(id="x")
    again = log.take(id="x")
    assert isinstance(again, Stored)
    assert again.duplicate
    assert again.message is first
    assert log.offsets() == [1]


@pytest.mark.parametrize("change", [{"data": b"2"}, {"user": "2"}, {"key": "2"}])
def test_the_same_id_for_something_else_is_a_conflict(change: dict[str, object]) -> None:
    """The same id with another body, user or key is refused as a conflict that names the id, and not stored."""
    log = Log()
    log.kept(id="x")
    outcome = log.take(id="x", **change)  # type: ignore[arg-type]
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, Conflict)
    assert (outcome.error.http_status, outcome.error.field) == (409, "id")
    assert "'x'" in outcome.error.message
    assert log.offsets() == [1]


def test_ids_are_of_their_publisher_and_topic() -> None:
    """Two publishers, or one in two topics, may use the same id for different messages."""
    log = Log()
    log.kept("cats", b"1", id="x", publisher="a")
    log.kept("cats", b"2", id="x", publisher="b")
    log.kept("dogs", b"3", id="x", publisher="a")
    log.kept("cats", b"4", id="x")
    assert log.store.head == 4


def test_an_id_is_remembered_for_its_window() -> None:
    """Within the window the same id is a retry; after it, it is a new message."""
    log = Log(window=60.0)
    log.kept(id="x")
    log.now += 60.0
    assert log.take(id="x").duplicate  # type: ignore[union-attr]
    log.now += 0.1
    assert log.kept(id="x").offset == 2


def test_an_id_is_forgotten_with_its_message() -> None:
    """When the message is gone from the log, its id may name a new one."""
    log = Log(Retention(max_age=10.0))
    log.kept(data=b"1", id="x")
    log.now += 11.0
    assert log.kept(data=b"2", id="x").offset == 2


# Retention


def test_a_room_keeps_its_newest_messages() -> None:
    """Beyond max_messages the oldest messages of that room are pruned, and no others."""
    log = Log(Retention(max_messages=3))
    log.kept("dogs")
    for _ in range(5):
        log.kept("cats")
    assert log.offsets("cats") == [4, 5, 6]
    assert log.offsets("dogs") == [1]


def test_old_messages_go() -> None:
    """Messages older than max_age are gone, to the second, also from rooms where nothing happens any more."""
    log = Log(Retention(max_age=10.0))
    log.kept("cats")
    log.now += 5.0
    log.kept("dogs")
    log.now += 5.0
    assert log.offsets("cats") == [1]
    log.now += 0.1
    assert log.offsets("cats") == []
    assert log.offsets("dogs") == [2]


def test_bytes_are_bounded_over_all_rooms() -> None:
    """Above max_bytes of data in all, the oldest messages are pruned, whatever their room."""
    log = Log(Retention(max_bytes=100_000))
    for number in range(6):
        log.kept(f"room{number % 2}", b"x" * 30_000)
    left = log.offsets("room0") + log.offsets("room1")
    assert sorted(left) == [4, 5, 6]


def test_small_messages_are_bounded_too() -> None:
    """The overhead of a message counts as well, so empty messages cannot fill the memory."""
    log = Log(Retention(max_bytes=100_000))
    for _ in range(10_000):
        log.kept(data=b"")
    assert 10 < len(log.offsets(limit=10_000)) < 1_000


def test_the_head_survives_pruning() -> None:
    """Offsets go on from where they were even when every message is gone."""
    log = Log(Retention(max_age=10.0))
    for _ in range(3):
        log.kept()
    log.now += 20.0
    assert log.offsets() == []
    assert log.store.head == 3
    assert log.kept().offset == 4


def test_rooms_are_bounded() -> None:
    """A room beyond max_rooms is refused with the setting's name; existing rooms go on, and a room that is gone makes
    space."""
    log = Log(Retention(max_rooms=2, max_age=10.0))
    log.kept("cats")
    log.now += 5.0
    log.kept("dogs")
    outcome = log.take("birds")
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, TooManyTopics)
    assert "max_rooms" in outcome.error.message
    log.kept("dogs")
    log.now += 6.0
    log.kept("birds")


# Pages


def test_pages_are_walked_by_next() -> None:
    """Page after page, each read from the last one's `next`, every message appears once, in order; the last page says
    so."""
    log = Log()
    for number in range(25):
        log.kept(("cats", "dogs")[number % 2])
    seen, after, pages = [], 0, 0
    while True:
        page = log.read("cats", after, 4)
        pages += 1
        seen += [message.offset for message in page.messages]
        after = page.next
        if not page.more:
            break
    assert seen == list(range(1, 26, 2))
    assert pages == 4
    assert after == 25, "the last page has scanned to the head, over the other room's messages"


def test_a_full_last_page_has_no_more() -> None:
    """A page that ends exactly with the last message says that there are no more."""
    log = Log()
    for _ in range(4):
        log.kept()
    page = log.read(limit=4)
    assert (len(page.messages), page.more, page.next) == (4, False, 4)
    page = log.read(limit=3)
    assert (len(page.messages), page.more, page.next) == (3, True, 3)


def test_an_unknown_room_is_an_empty_page() -> None:
    """A room to which nobody published is empty, and nothing of it is missing."""
    log = Log()
    log.kept("dogs")
    page = log.read("cats")
    assert (page.messages, page.more, page.next, page.oldest) == ((), False, 1, 1)


def test_oldest_follows_what_is_gone() -> None:
    """`oldest` is the place right after the last message that a room has lost, also when nothing of the room is
    left."""
    log = Log(Retention(max_messages=2, max_age=10.0))
    for _ in range(2):
        log.kept("cats")
    assert log.read("cats").oldest == 1
    log.kept("cats")
    assert log.read("cats").oldest == 2
    log.now += 11.0
    assert log.read("cats").oldest == 4


class Publish:
    """A step: publish to this room."""

    def __init__(self, room: str) -> None:
        self.room = room

    def __repr__(self) -> str:
        return f"Publish({self.room!r})"


steps = st.lists(
    st.one_of(st.sampled_from(("cats", "dogs", "birds")).map(Publish), st.floats(0, 8)), min_size=1, max_size=60
)


LARGE = b"x" * 100_000  # so large that the rest of a message hardly counts


@pytest.mark.check
@given(steps, st.integers(1, 4), st.integers(1, 12))
@settings(deadline=None)
def test_no_silent_hole(taken: list[Publish | float], max_messages: int, max_kept: int) -> None:
    """Whatever retention took, a reader that resumes at or after `oldest` gets everything its room ever had after that
    place (guarantee 3)."""
    log = Log(Retention(max_age=20.0, max_messages=max_messages, max_bytes=max_kept * len(LARGE)))
    ever: dict[str, list[int]] = {"cats": [], "dogs": [], "birds": []}
    for step in taken:
        if isinstance(step, Publish):
            offset = log.kept(step.room, LARGE).offset
            assert offset is not None
            ever[step.room].append(offset)
        else:
            log.now += step
    for room, offsets in ever.items():
        oldest = log.read(room).oldest
        for after in range(log.store.head + 1):
            found = log.offsets(room, after)
            if after >= oldest - 1:
                assert found == [offset for offset in offsets if offset > after]
            assert len(found) <= max_messages


# Views

ROOMS = ("cats", "dogs", "news.eu", "news.us")
VIEWS = (
    View(frozenset(("cats",))),
    View(frozenset(("cats", "news.us")), user="1"),
    View(frozenset(ROOMS)),
    View(patterns=("news.*",), user="2"),
    View(frozenset(("cats",)), ("news.>", "*.eu"), "1"),
    View(patterns=(">",)),
    View(frozenset(("nowhere",))),
    View(),
)
drafts = st.tuples(st.sampled_from(ROOMS), st.sampled_from((None, "1", "2")), st.sampled_from((None, 5.0)))


@given(st.lists(drafts, max_size=30), st.sampled_from(VIEWS), st.integers(1, 5), st.sampled_from((0.0, 4.9, 5.0)))
@settings(deadline=None)
@pytest.mark.parametrize("many", [False, True])
def test_a_view_is_read_whole(
    many: bool, published: list[tuple[str, str | None, float | None]], view: View, limit: int, later: float
) -> None:
    """Page by page a view gives each message once, in offset order, that is in its rooms and patterns, is for everybody
    or its user, and has not expired; also of so many rooms that they are looked at in steps."""
    with pytest.MonkeyPatch.context() as patch:
        if many:
            patch.setattr(memory, "_FEW", 0)
            patch.setattr(memory, "_LOOK", 1)
        read_whole(published, view, limit, later)


def read_whole(published: list[tuple[str, str | None, float | None]], view: View, limit: int, later: float) -> None:
    log = Log()
    for room, user, ttl in published:
        log.kept(room, user=user, ttl=ttl)
    log.now += later
    expected = [
        offset
        for offset, (room, user, ttl) in enumerate(published, 1)
        if (room in view.rooms or view.patterns == (">",) or (view.patterns and room.startswith("news")))
        and user in (None, view.user)
        and (ttl is None or later < ttl)
    ]
    seen: list[int | None] = []
    after, more = 0, True
    while more:
        page = asyncio.run(log.store.read(view, after, limit))
        assert len(page.messages) <= limit
        assert page.next > after or not page.more, "every page advances"
        assert all(message.offset is not None and after < message.offset <= page.next for message in page.messages)
        seen += [message.offset for message in page.messages]
        after, more = page.next, page.more
    assert seen == expected
    assert after == log.store.head


def test_a_pattern_over_many_rooms_does_not_hold_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many rooms some are compared with a pattern in each turn of the loop. What is published and pruned meanwhile
    is in the page, or is known to be gone."""
    monkeypatch.setattr(memory, "_LOOK", 10)
    log = Log(Retention(max_messages=2))
    for number in range(100):
        log.kept(f"room{number}.a")

    async def main() -> Page:
        reading = asyncio.ensure_future(log.store.read(View(patterns=("*.a",)), 0, 1_000))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
            if turns == 5:
                log.kept("late.a")
                log.kept("late.b")
                for _ in range(2):
                    log.kept("room0.a")
        assert turns >= 10
        return await reading

    page = asyncio.run(main())
    assert [message.offset for message in page.messages] == [*range(2, 102), 103, 104]
    assert (page.oldest, page.next, page.more) == (2, 104, False)


def test_a_page_before_an_old_position_costs_as_much_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page that ends before a position looks at no message after it."""
    log = Log()
    for _ in range(1_000):
        log.kept()
    looked: list[int] = []

    class Counting(OrderedDict[int, Message]):
        def __getitem__(self, offset: int) -> Message:
            looked.append(offset)
            return super().__getitem__(offset)

    log.store._log = Counting(log.store._log)
    found = asyncio.run(log.store.newest("cats", 51, 50))
    assert [message.offset for message in found] == list(range(1, 51))
    assert len(looked) == 50


def test_another_users_messages_are_not_in_a_view() -> None:
    """A message for one user is in that user's history and in nobody else's (hostile 40)."""
    log = Log()
    log.kept(user="1")
    log.kept(user="2")
    log.kept()
    for user, offsets in (("1", [1, 3]), ("2", [2, 3]), ("3", [3]), (None, [3])):
        assert [message.offset for message in log.read(user=user).messages] == offsets


# Batches


def batch(log: Log, *wanted: Draft) -> list[Outcome]:
    before = len(log.outcomes)
    log.store.append(*wanted)
    return log.outcomes[before:]


def test_a_batch_is_answered_in_its_order() -> None:
    """The drafts of one call get offsets in turn, and a retry among them gets the offset of the first one."""
    log = Log()
    log.kept(id="known")
    outcomes = batch(log, Draft("cats", b"1", "a"), Draft("cats", b"1", "known"), Draft("dogs", b"2", "a"))
    assert [outcome.message.offset for outcome in outcomes if isinstance(outcome, Stored)] == [2, 1, 3]
    assert [outcome.duplicate for outcome in outcomes if isinstance(outcome, Stored)] == [False, True, False]


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ([Draft("cats", b"1", "a"), Draft("cats", b"2", "known"), Draft("cats", b"3", "b")], Conflict),
        ([Draft("cats", b"1", "same"), Draft("cats", b"2", "same")], Conflict),
        ([Draft("cats", b"1", "a"), Draft("dogs", b"1", "a"), Draft("birds", b"1", "a")], TooManyTopics),
        ([Draft("dogs", b"1", "a"), Draft("cats", b"1", "b"), Draft("birds", b"1", "a")], TooManyTopics),
    ],
    ids=["a known id", "one id twice in it", "one room too many at the end", "one among known ones"],
)
def test_a_batch_is_stored_whole_or_not_at_all(wanted: list[Draft], error: type[Exception]) -> None:
    """If one draft of a call cannot be taken, none is, also when the batch itself is the reason."""
    log = Log(Retention(max_rooms=2))
    log.kept("cats", b"1", id="known")
    outcomes = batch(log, *wanted)
    assert [outcome.draft for outcome in outcomes] == wanted
    assert all(isinstance(outcome, Refused) and isinstance(outcome.error, error) for outcome in outcomes)
    assert log.store.head == 1
    assert log.offsets("cats") == [1]


# The end


def test_a_closed_store_refuses() -> None:
    """After close an append is refused as temporary, and stored messages can still be read."""
    log = Log()
    log.kept()
    asyncio.run(log.store.close())
    outcome = log.take()
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, StoreUnavailable)
    assert outcome.error.temporary
    assert log.offsets() == [1]
