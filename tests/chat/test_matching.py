"""The pairing of strangers: its rules under any order of calls, its cost, and its randomness."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from partyline.chat.matching import MOST_BLOCKED, MOST_BLOCKERS, Matching

PEOPLE = [f"page {number}" for number in range(8)]
PERSON = {who: f"person {max(number, 2)}" for number, who in enumerate(PEOPLE)}  # three pages belong to one person
SOMEBODY = st.sampled_from(PEOPLE)


class Crowd(RuleBasedStateMachine):
    """A few people who press every button in any order, compared with a model of sets."""

    def __init__(self) -> None:
        super().__init__()
        self.matching = Matching(Random(0))
        self.pairs: dict[str, str] = {}
        self.waiting: set[str] = set()
        self.last: dict[str, str] = {}
        self.blocks: set[tuple[str, str]] = set()
        self.known: set[str] = set()

    def may_meet(self, one: str, other: str) -> bool:
        a, b = PERSON[one], PERSON[other]
        return a != b and (a, b) not in self.blocks and (b, a) not in self.blocks

    def part(self, who: str) -> str | None:
        self.waiting.discard(who)
        left = self.pairs.pop(who, None)
        if left is not None:
            del self.pairs[left]
            self.last[who], self.last[left] = PERSON[left], PERSON[who]
        return left

    @rule(who=SOMEBODY)
    def start(self, who: str) -> None:
        got = self.matching.start(who, PERSON[who])
        self.known.add(who)
        if who in self.pairs or who in self.waiting:
            assert got == self.pairs.get(who)
            return
        others = {other for other in self.waiting if self.may_meet(who, other)}
        fresh = {
            other for other in others if self.last.get(who) != PERSON[other] and self.last.get(other) != PERSON[who]
        }
        if got is None:
            assert not others
            self.waiting.add(who)
        else:
            assert got != who
            assert got in (fresh or others)
            self.waiting.remove(got)
            self.pairs[who], self.pairs[got] = got, who

    @rule(who=SOMEBODY)
    def stop(self, who: str) -> None:
        assert self.matching.stop(who) == self.part(who)

    @rule(who=SOMEBODY)
    def next(self, who: str) -> None:
        self.stop(who)
        self.start(who)

    @rule(who=SOMEBODY)
    def block(self, who: str) -> None:
        assert self.matching.block(who) == self.part(who)
        if who in self.last:
            self.blocks.add((PERSON[who], self.last[who]))

    @rule(who=SOMEBODY)
    def leave(self, who: str) -> None:
        assert self.matching.leave(who) == self.part(who)
        self.last.pop(who, None)
        self.known.discard(who)

    @invariant()
    def nobody_has_two(self) -> None:
        assert {who: self.matching.partner(who) for who in PEOPLE} == {who: self.pairs.get(who) for who in PEOPLE}
        assert all(self.pairs[other] == who and other != who for who, other in self.pairs.items())

    @invariant()
    def those_who_wait_are_those_who_asked(self) -> None:
        assert sorted(self.matching.waiting) == sorted(self.waiting)
        assert not self.waiting & self.pairs.keys()
        assert len(self.matching) == len(self.known)
        for person in PERSON.values():
            found = self.matching.waits(person)
            assert (found is None) == (not any(PERSON[who] == person for who in self.waiting))
            assert found is None or PERSON[found] == person

    @invariant()
    def no_two_wait_who_may_meet(self) -> None:
        waiting = sorted(self.waiting)
        assert not any(self.may_meet(one, other) for one in waiting for other in waiting if one < other)


TestCrowd = Crowd.TestCase


class Counted(Matching):
    """Counts how many others were looked at."""

    looks = 0

    def may_meet(self, one: str, other: str) -> bool:
        self.looks += 1
        return super().may_meet(one, other)


@pytest.mark.parametrize("people", [200, 2_000, 20_000])
def test_the_cost_of_a_pairing_is_constant(people: int) -> None:
    """However many wait, a start looks at three others or fewer on average, even if many are blocked."""
    matching, random = Counted(Random(1)), Random(2)
    starts = 0
    for _ in range(max(5_000, 3 * people)):
        who = str(random.randrange(people))
        if random.random() < 0.3:
            matching.block(who)
        else:
            matching.stop(who)
        matching.start(who)
        starts += 1
    assert matching.looks <= 3 * starts


def test_the_pool_is_bounded() -> None:
    """If everybody has blocked as many as they may, at most twice as many plus one wait."""
    matching = Matching(Random(3))
    people = [str(number) for number in range(300)]
    for step in range(1, MOST_BLOCKED + 1):  # everybody blocks the next hundred in the circle
        for number, who in enumerate(people):
            other = people[(number + step) % len(people)]
            assert matching.start(who) is None
            assert matching.start(other) == who
            assert matching.block(who) == other
    assert matching.waiting == []
    for who in people:
        matching.start(who)
    assert 1 <= len(matching.waiting) <= 2 * MOST_BLOCKED + 1
    assert all(
        not matching.may_meet(one, other) for one in matching.waiting for other in matching.waiting if one != other
    )


def test_a_block_list_holds_a_hundred() -> None:
    """The last hundred blocked are never met again, whoever starts; the one before them is."""
    matching = Matching()
    for number in range(MOST_BLOCKED + 1):
        matching.start("me")
        matching.start(f"other {number}")
        matching.block("me")
    matching.start("me")
    for number in range(1, MOST_BLOCKED + 1):
        assert matching.start(f"other {number}") is None
        matching.leave(f"other {number}")
    assert matching.start("other 0") == "me"


def test_blocks_outlive_a_page() -> None:
    """Whoever comes back with another id as the same person finds their blocks unchanged, and those of the others; of
    all people who block, the last ones are remembered."""
    matching = Matching()
    matching.start("ada 1", "ada")
    matching.start("bob 1", "bob")
    matching.block("ada 1")
    for who in ("ada 1", "bob 1"):
        matching.leave(who)
    for number in range(MOST_BLOCKERS):
        assert matching.start("bob 2", "bob") is None
        assert matching.start("ada 2", "ada") is None
        for who in ("bob 2", "ada 2"):
            matching.leave(who)
        assert matching.start(f"blocked {number}") is None
        assert matching.start(f"blocker {number}") is not None
        assert matching.block(f"blocker {number}") is not None
        for who in (f"blocked {number}", f"blocker {number}"):
            matching.leave(who)
    assert matching.start("bob 3", "bob") is None
    assert matching.start("ada 3", "ada") == "bob 3"


def test_the_one_just_left_comes_last() -> None:
    """Whoever presses next meets anybody else who waits, and the same one again only if there is nobody else."""
    matching = Matching()
    matching.start("ada")
    assert matching.start("bob") == "ada"
    assert matching.stop("ada") == "bob"
    assert matching.start("bob") is None
    assert matching.start("ada") == "bob"  # nobody else
    matching.stop("ada")
    matching.start("eve")
    matching.start("dan")  # eve and dan talk
    matching.block("eve")
    matching.start("eve")
    matching.start("dan")  # both wait: they may not meet
    for _ in range(20):
        assert matching.start("ada") != "bob"
        matching.stop("ada")
        for who in ("eve", "dan"):
            matching.start(who)


def test_chance_decides() -> None:
    """Everybody who waits is met about equally often."""
    met: Counter[str | None] = Counter()
    random = Random(5)
    for _ in range(900):
        matching = Matching(random)
        for one, other in (("a", "b"), ("b", "c"), ("c", "a")):  # three who may not meet each other
            matching.start(one)
            matching.start(other)
            matching.block(one)
        for who in "abc":
            assert matching.start(who) is None
        met[matching.start("me")] += 1
    assert sorted(met) == ["a", "b", "c"]
    assert min(met.values()) > 240
