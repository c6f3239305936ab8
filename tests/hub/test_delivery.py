"""The order of delivery: lanes, turns, bounds, and how a failure of one thing affects the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.errors import Overloaded, StoreUnavailable
from partyline.hub.delivery import Delivery, Lane, Parcel
from partyline.interfaces import Connection, Found, Refused, Renewed, Stored
from partyline.metrics import Counters
from partyline.models import Draft, Message

from .members import Member


class Table:
    """A delivery that serves two members per turn, the turns it has asked for, and what has been served."""

    def __init__(self, **serving: Any) -> None:
        self.turns: deque[Callable[[], None]] = deque()
        self.counters = Counters()
        self.served: list[str] = []
        self.told: list[str] = []
        self.delivery = Delivery(self.counters, self.found, small=2, slice_size=2, later=self.turns.append, **serving)
        self.offset = 0

    def found(self, outcome: Any) -> Parcel:
        if isinstance(outcome, Renewed):
            return Thing(self, outcome.epoch)
        return Thing(self, outcome.draft.id, message=outcome.message)

    def stored(self, name: str) -> Stored:
        self.offset += 1
        draft = Draft("cats", name.encode(), name)
        return Stored(draft, Message(draft, self.offset, 0.0))

    def refused(self, name: str) -> Refused:
        return Refused(Draft("cats", b"", name), StoreUnavailable("no"))

    def rest(self) -> None:
        while self.turns:
            self.turns.popleft()()


class Thing(Parcel):
    """Something that records when it is served."""

    def __init__(
        self,
        table: Table,
        name: str,
        lane: Lane | None = None,
        *,
        members: Collection[Connection] = (),
        message: Message | None = None,
        then: Callable[[], object] = lambda: None,
        size: int = 0,
    ) -> None:
        super().__init__(lane, message or Message(Draft("cats", name.encode(), name), None, 0.0), size)
        self.table, self.name, self.audience, self.follow = table, name, members, then

    def answered(self, outcome: Any) -> bool:
        if isinstance(outcome, Stored):
            self.message = outcome.message
        return True

    def members(self) -> Collection[Connection]:
        return self.audience

    def served(self) -> None:
        self.table.served.append(self.name)
        self.follow()

    def tell(self, outcome: Any) -> None:
        self.table.told.append(self.name)


def test_a_lane_keeps_its_order() -> None:
    """In one lane, what is said after something that waits for the log waits for it; another lane goes on."""
    table, lane, other = Table(), Lane(), Lane()
    post, reserve = table.delivery.post, table.delivery.reserve
    post(Thing(table, "first", lane))
    assert reserve([Thing(table, "kept", lane)])
    post(Thing(table, "after", lane))
    post(Thing(table, "elsewhere", other))
    post(Thing(table, "nowhere"))
    assert table.served == ["first", "elsewhere", "nowhere"]
    assert [one.name for one in lane.parcels] == ["kept", "after"]  # type: ignore[attr-defined]
    table.delivery.committed([table.stored("kept")])
    assert table.served[3:] == ["kept", "after"]
    assert not lane.parcels
    assert lane.reserved is None


def test_each_thing_waits_for_the_one_before_it() -> None:
    """When several things wait for the log, each is followed by what was said between it and the next one."""
    table, lane = Table(), Lane()
    for name in "abc":
        table.delivery.reserve([Thing(table, name, lane)])
        table.delivery.post(Thing(table, f"after {name}", lane))
    table.delivery.committed([table.stored("a"), table.refused("b")])
    assert table.served == ["a", "after a", "b", "after b"]
    table.delivery.committed([table.stored("c")])
    assert table.served[4:] == ["c", "after c"]
    assert table.told == ["a", "b", "c"]


def test_a_large_audience_holds_up_its_lane() -> None:
    """While an audience is served in slices, everything said later waits, whether it has members or not."""
    table, lane = Table(), Lane()
    crowd = [Member() for _ in range(5)]
    table.delivery.post(Thing(table, "large", lane, members=crowd))
    table.delivery.post(Thing(table, "after", lane, members=crowd[:1]))
    assert table.served == []
    assert [len(member.got) for member in crowd] == [1, 1, 0, 0, 0]
    table.rest()
    assert table.served == ["large", "after"]
    assert [member.got for member in crowd] == [[b"large", b"after"], *[[b"large"]] * 4]


def test_what_is_said_while_something_is_served_has_its_turn_after_it() -> None:
    """A thing that says another one is not interrupted by it."""
    table, lane = Table(), Lane()
    inner = Thing(table, "inner", lane)
    table.delivery.post(
        Thing(table, "outer", lane, then=lambda: table.delivery.post(inner) or table.served.append("end"))
    )
    assert table.served == ["outer", "end", "inner"]


def test_hostile_51_an_exception_never_stops_the_next() -> None:
    """hostile 51: whatever raises - the audience, a member, the answer or a publisher - the next thing is served."""

    def fail() -> None:
        raise SystemExit("handlers do that")

    class Broken(Member):
        def offer(self, payload: Any) -> None:
            raise ValueError("no")

    class Nobody(Thing):
        def members(self) -> Collection[Connection]:
            raise RuntimeError("who?")

        def tell(self, outcome: Any) -> None:
            raise RuntimeError("nobody listens")

    table, lane = Table(), Lane()
    broken, healthy = Broken(), Member()
    table.delivery.reserve([Nobody(table, "a", lane)])
    table.delivery.reserve([Thing(table, "b", lane, members=[broken, healthy], then=fail)])
    table.delivery.post(Thing(table, "c", lane, members=[healthy]))
    table.delivery.committed([table.stored("a"), table.stored("b")])
    assert healthy.got == [b"b", b"c"]
    assert broken.closed == [1011]
    assert table.served == ["a", "b", "c"]
    assert table.delivery.reached == 2
    assert table.counters.errors == 4
    assert not lane.parcels


def test_hostile_49_what_waits_for_the_log_is_bounded() -> None:
    """hostile 49: only a bounded number of things wait for the log, or after what does; what must wait still does."""
    table, lane = Table(most_waiting=2), Lane()
    assert table.delivery.reserve([Thing(table, "a", lane)])
    assert not table.delivery.reserve([Thing(table, "b", lane), Thing(table, "c", lane)])
    for name in "de":
        table.delivery.post(Thing(table, name, lane))
    with pytest.raises(Overloaded):
        table.delivery.post(Thing(table, "f", lane))
    table.delivery.post(Thing(table, "must", lane), must=True)
    assert table.counters.limits == {"max_waiting_publishes": 2}
    table.delivery.committed([table.stored("a")])
    assert table.served == ["a", "d", "e", "must"]
    table.delivery.reserve([Thing(table, "g", lane)])
    table.delivery.post(Thing(table, "h", lane))
    assert [one.name for one in lane.parcels] == ["g", "h"]  # type: ignore[attr-defined]


def test_hostile_49_the_bytes_that_wait_are_bounded() -> None:
    """hostile 49: the same holds for more than 64 MiB of them."""
    table, lane, half = Table(), Lane(), 40 * 1024 * 1024
    assert table.delivery.reserve([Thing(table, "a", lane, size=half)])
    assert not table.delivery.reserve([Thing(table, "b", lane, size=half)])
    table.delivery.post(Thing(table, "c", lane, size=half))
    with pytest.raises(Overloaded):
        table.delivery.post(Thing(table, "d", lane, size=half))
    table.delivery.committed([table.stored("a")])
    assert table.delivery.reserve([Thing(table, "e", lane, size=half)])


def test_what_nobody_waits_for_has_its_turn() -> None:
    """A message that is found in the log is served in the order of offsets, and nobody is answered for it."""
    table, lane = Table(), Lane()
    table.delivery.reserve([Thing(table, "a", lane)])
    found = table.stored("found")
    table.delivery.committed([Found(found.draft, found.message), table.stored("a")])
    assert table.served == ["found", "a"]
    assert table.told == ["a"]
    assert table.delivery.reached == 2


@given(st.lists(st.tuples(st.sampled_from(["say", "ask", "answer", "turn"]), st.integers(0, 1), st.integers(0, 4))))
@settings(deadline=None)
def test_any_order_of_events_keeps_the_order_of_each_lane(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is said, kept and served in whatever order, each lane is served in its own order, and nothing is
    left."""
    table, lanes = Table(), (Lane(), Lane())
    spoken: tuple[list[str], list[str]] = ([], [])
    asked: deque[str] = deque()
    for number, (step, which, size) in enumerate(steps):
        name = f"{which} {number}"
        if step in ("say", "ask"):
            thing = Thing(table, name, lanes[which], members=[Member() for _ in range(size)])
            spoken[which].append(name)
            if step == "say":
                table.delivery.post(thing)
            else:
                table.delivery.reserve([thing])
                asked.append(name)
        elif step == "answer" and asked:
            table.delivery.committed([table.stored(asked.popleft())])
        elif step == "turn" and table.turns:
            table.turns.popleft()()
    table.delivery.committed([table.stored(name) for name in asked])
    table.rest()
    for which, names in enumerate(spoken):
        assert [name for name in table.served if name.startswith(str(which))] == names
        assert not lanes[which].parcels
    assert table.delivery.reached == table.offset


def test_a_new_epoch_waits_for_nobody() -> None:
    """When a new epoch is told, everything that was due before has been served: no position mixes the two."""
    table = Table()
    crowd = [Member() for _ in range(7)]
    big = Thing(table, "big", members=crowd)
    table.delivery.post(big)
    table.delivery.post(Thing(table, "small"))
    assert table.served == []
    table.delivery.committed([Renewed("new", 3)])
    assert table.served == ["big", "small", "new"]
    assert all(len(member.inbox) == 1 for member in crowd)
    table.rest()
    assert table.served == ["big", "small", "new"]
