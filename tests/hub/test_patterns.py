"""Patterns of subscriptions: which of them cover a topic."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from partyline.hub import rooms as module
from partyline.hub.hub import Hub
from partyline.hub.rooms import Patterns
from partyline.metrics import Counters
from partyline.models import Draft
from partyline.stores.memory import MemoryStore
from partyline.topics import check_pattern, check_topic, covers

from .members import Member

_TOKEN = st.sampled_from(["a", "b", "c"])
_TOPIC = st.lists(_TOKEN, min_size=1, max_size=4).map(".".join)


@st.composite
def a_pattern(draw: st.DrawFn) -> str:
    tokens = draw(st.lists(_TOKEN | st.just("*"), max_size=3))
    last = draw(_TOKEN | st.sampled_from(["*", ">"]))
    return check_pattern(".".join([*tokens, last]))


def holding(*names: str) -> Patterns:
    patterns = Patterns()
    for name in names:
        patterns.add(name)
    return patterns


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("orders.*.eu", ["orders.1.eu", "orders.x.eu"], ["orders.eu", "orders.1.2.eu", "orders.1.us"]),
        ("sensors.>", ["sensors.1", "sensors.1.2.3"], ["sensors", "sensorsx.1", "x.sensors.1"]),
        ("*", ["a", "b"], ["a.b"]),
        (">", ["a", "a.b", "a.b.c"], []),
        ("*.>", ["a.b", "a.b.c"], ["a"]),
        ("*.b", ["a.b", "b.b"], ["b", "a.b.c", "a.c"]),
        ("a.*.*", ["a.b.c"], ["a.b", "a.b.c.d"]),
        ("a.b", ["a.b"], ["a", "a.b.c", "a.c"]),
    ],
)  # fmt: skip
def test_what_a_pattern_covers(pattern: str, yes: list[str], no: list[str]) -> None:
    """`*` matches exactly one token, a last `>` one or more, and anything else itself."""
    patterns = holding(pattern)
    for topic in yes:
        assert patterns.matching(check_topic(topic)) == (pattern,), topic
    for topic in no:
        assert patterns.matching(check_topic(topic)) == (), topic


@given(st.sets(a_pattern(), max_size=12), _TOPIC)
def test_the_walk_finds_what_a_scan_finds(names: set[str], topic: str) -> None:
    """The patterns found are exactly those that cover the topic, each once."""
    found = holding(*names).matching(topic)
    assert sorted(found) == sorted(name for name in names if covers(name, topic))


class Model(RuleBasedStateMachine):
    """Patterns against a plain set of names."""

    def __init__(self) -> None:
        super().__init__()
        self.patterns = Patterns()
        self.names: set[str] = set()

    @rule(name=a_pattern())
    def add(self, name: str) -> None:
        self.patterns.add(name)
        self.names.add(name)

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.names)))
        self.patterns.remove(name)
        self.names.remove(name)

    @rule(name=a_pattern())
    def remove_another(self, name: str) -> None:
        self.patterns.remove(name)
        self.names.discard(name)

    @rule(topic=_TOPIC)
    def match(self, topic: str) -> None:
        assert sorted(self.patterns.matching(topic)) == sorted(n for n in self.names if covers(n, topic))

    @invariant()
    def counted(self) -> None:
        assert len(self.patterns) == len(self.names)
        assert all(name in self.patterns for name in self.names)

    @invariant()
    def no_branch_leads_nowhere(self) -> None:
        def check(node: module._Node) -> None:
            for child in node.children.values():
                assert child.children or child.here or child.rest
                check(child)

        check(self.patterns._root)


def test_patterns_come_and_go() -> None:
    """However patterns are added and removed, matching, length and membership are those of a set, and no dead branch is
    left."""
    run_state_machine_as_test(Model, settings=settings(stateful_step_count=25, max_examples=40, deadline=None))  # type: ignore[no-untyped-call]


def test_nothing_is_left_of_patterns_that_are_gone() -> None:
    """Removing a pattern removes the branches that led only to it, and no branch that leads elsewhere."""
    names = ["a.*.c", "a.*.c.>", "a.*", "a.>", ">", "*.b", "a.b.c.d.e"]
    patterns = holding(*names)
    while names:
        gone = names.pop(0)
        patterns.remove(gone)
        assert gone not in patterns
        for topic in ("a.b.c", "a.b.c.d", "a.b", "x", "a.b.c.d.e"):
            assert sorted(patterns.matching(topic)) == sorted(name for name in names if covers(name, topic))
    assert not patterns._root.children
    assert patterns._root.rest is None


def test_what_matched_is_remembered_and_forgotten() -> None:
    """hostile 33: a match is remembered until a pattern is added or removed, and topics without end do not make the
    memory grow.
    """
    patterns = holding("a.*")
    assert patterns.matching("a.b") is patterns.matching("a.b")
    patterns.add("*.b")
    assert set(patterns.matching("a.b")) == {"a.*", "*.b"}
    patterns.remove("a.*")
    assert patterns.matching("a.b") == ("*.b",)
    for number in range(module._MOST_REMEMBERED * 2 + 10):
        patterns.matching(f"x.{number}")
    assert len(patterns._matched) <= module._MOST_REMEMBERED
    assert patterns.matching("a.b") == ("*.b",)


def test_without_patterns_nothing_is_remembered() -> None:
    """While nobody subscribes to a pattern, a publish costs no look-up and no memory."""
    patterns = Patterns()
    assert patterns.matching("a.b") == ()
    assert not patterns._matched


def test_a_member_behind_several_patterns_is_offered_a_message_once() -> None:
    """A member in a room and in patterns that cover it is in the audience once, also as one user."""
    hub = Hub(MemoryStore(), Counters())
    both, wide, other = Member("ann"), Member(), Member("ann")
    for member in (both, wide, other):
        hub.add(member)
    hub.join(both, "a.b")
    for name in ("a.*", ">", "*.b"):
        hub.join_pattern(both, name)
    hub.join_pattern(wide, ">")
    hub.join_pattern(other, "c.>")
    assert list(hub.audience("a.b")) == [both, wide]
    assert list(hub.audience("a.b", "ann")) == [both]
    hub.publish(Draft("a.b", b"1", "m1"))
    hub.publish(Draft("a.b", b"2", "m2", user="ann"))
    assert (both.got, wide.got, other.got) == ([b"1", b"2"], [b"1"], [])


def test_a_pattern_lives_as_long_as_its_last_member() -> None:
    """A pattern is removed with the last member that leaves it or disappears, and not before."""
    hub = Hub(MemoryStore(), Counters())
    one, two = Member(), Member()
    for member in (one, two):
        hub.add(member)
        hub.join_pattern(member, "a.*")
    hub.leave(one, "a.*")
    hub.leave(one, "a.*")  # again: nothing
    assert list(hub.audience("a.b")) == [two]
    hub.remove(two)
    assert list(hub.audience("a.b")) == []
    assert len(hub._patterns) == 0
    assert not hub.rooms.names()


def test_a_pattern_makes_nobody_present() -> None:
    """A member that subscribes to a pattern is not in any room's presence."""
    hub = Hub(MemoryStore(), Counters())
    member = Member("ann")
    hub.add(member)
    hub.join_pattern(member, "a.*")
    assert hub.presence.users("a.b") == []
