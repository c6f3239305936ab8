"""The index of patterns finds what a scan over them would, and holds nothing of those that went."""

from __future__ import annotations

import gc

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from partyline.hub import patterns as module
from partyline.hub.patterns import Patterns
from partyline.topics import covers

TOPICS = ["a", "b", "a.a", "a.b", "b.a", "a.a.a", "a.b.a", "a.b.c", "b.b.b.b"]
tokens = st.sampled_from(("a", "b", "*"))
some_patterns = st.tuples(st.lists(tokens, max_size=3), st.sampled_from(("a", "b", "*", ">"))).map(
    lambda parts: ".".join([*parts[0], parts[1]])
)


class Index(RuleBasedStateMachine):
    """Whatever patterns come and go, the index finds for each topic exactly those that cover it."""

    def __init__(self) -> None:
        super().__init__()
        self.patterns = Patterns()
        self.model: set[str] = set()

    @rule(pattern=some_patterns)
    def add(self, pattern: str) -> None:
        self.patterns.add(pattern)
        self.model.add(pattern)

    @rule(pattern=some_patterns)
    def remove(self, pattern: str) -> None:
        self.patterns.remove(pattern)
        self.model.discard(pattern)

    @rule(number=st.integers(0, 20))
    def remove_one_that_is_there(self, number: int) -> None:
        if self.model:
            self.remove(sorted(self.model)[number % len(self.model)])

    @invariant()
    def finds_what_a_scan_finds(self) -> None:
        assert len(self.patterns) == len(self.model)
        assert all(pattern in self.patterns for pattern in self.model)
        for topic in TOPICS:
            found = self.patterns.matching(topic)
            assert len(found) == len(set(found))
            assert set(found) == {pattern for pattern in self.model if covers(pattern, topic)}


TestIndex = Index.TestCase
TestIndex.settings = settings(stateful_step_count=25, deadline=None)


def nodes() -> int:
    return sum(type(thing) is module._Node for thing in gc.get_objects())


def test_patterns_that_went_leave_nothing_behind() -> None:
    """When all patterns are gone, so are the branches that led to them, whatever the order."""
    patterns = Patterns()
    gc.collect()
    before = nodes()
    several = [f"a{number}.*.b.>" for number in range(50)] + [f"a{number}.*.b" for number in range(50)] + [">", "*"]
    for pattern in several:
        patterns.add(pattern)
    for pattern in several[::3] + several[1::3] + several[2::3]:
        patterns.remove(pattern)
    gc.collect()
    assert len(patterns) == 0
    assert nodes() == before
    assert patterns.matching("a1.x.b") == ()


def test_what_is_remembered_is_bounded() -> None:
    """Topics that are asked for once each, however many, are answered rightly."""
    patterns = Patterns()
    patterns.add("a.*")
    for number in range(10_050):
        assert patterns.matching(f"a.{number}") == ("a.*",)
    patterns.remove("a.*")
    assert patterns.matching("a.1") == ()
