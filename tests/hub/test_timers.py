"""The timing wheel on a fake clock: never early, at most a slot late, one timer of the loop."""

from __future__ import annotations

import logging
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.hub.timers import SLOT, Timers
from partyline.testing import Clock

ROUNDING = 1e-9  # seconds: what adding and dividing such numbers may lose


class Loop(Clock):
    """A clock that knows which timers are armed, and fails if the wheel spins in place."""

    def __init__(self, now: float = 1000.0, early: float = 0.0) -> None:
        super().__init__(now)
        self.pending: list[Any] = []
        self._early = early  # uvloop rounds to milliseconds and may call too early
        self._spins = 0
        self._spinning_at = -1.0

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Any:
        self._spins = self._spins + 1 if self.time() == self._spinning_at else 0
        self._spinning_at = self.time()
        assert self._spins < 500, "the wheel keeps arming itself for a time that has passed"

        def run() -> None:
            self.pending.remove(handle)
            callback(*args)

        early = max(when - self._early, self.time() + self._early / 4) if when > self.time() else when
        handle = super().call_at(early, run)
        self.pending.append(handle)
        return handle

    def armed(self) -> int:
        """How many timers this loop holds."""
        return sum(not handle.cancelled for handle in self.pending)


class Entry:
    """Records when its deadline was called, and then does what it was told."""

    def __init__(self, act: Callable[[float], None] | None = None) -> None:
        self.timer_slot = 0
        self.fired: list[float] = []
        self._act = act

    def on_deadline(self, now: float) -> None:
        self.fired.append(now)
        if self._act is not None:
            self._act(now)


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What the wheel logs as errors."""
    lines: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("partyline.hub")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def in_time(fired: float, deadline: float) -> bool:
    return -ROUNDING <= fired - deadline <= SLOT + ROUNDING


starts = st.sampled_from((0.0, 0.27, 1000.0, 1024.0, 123_456.789, 5_000_000.0))
delays = st.one_of(st.floats(0, 60), st.integers(0, 600).map(lambda slots: slots * SLOT))


@given(starts, st.lists(delays, min_size=1, max_size=30))
@settings(deadline=None)
def test_never_early_and_at_most_a_slot_late(start: float, after: list[float]) -> None:
    """Every deadline is called once, not before its time and at most a slot after it, and then nothing is armed."""
    loop = Loop(start)
    timers = Timers(loop)
    entries = [(Entry(), start + delay) for delay in after]
    for entry, deadline in entries:
        timers.set(entry, deadline)
        assert loop.armed() == 1
    loop.advance(61)
    for entry, deadline in entries:
        assert len(entry.fired) == 1
        assert in_time(entry.fired[0], deadline)
    assert loop.armed() == 0
    assert len(timers) == 0


@given(starts, st.lists(delays, min_size=1, max_size=20))
@settings(deadline=None)
def test_a_loop_that_calls_early_makes_nothing_early(start: float, after: list[float]) -> None:
    """On a loop that rounds timers to milliseconds, and so calls too early, deadlines are still not early."""
    loop = Loop(start, early=0.001)
    timers = Timers(loop)
    entries = [(Entry(), start + delay) for delay in after]
    for entry, deadline in entries:
        timers.set(entry, deadline)
    loop.advance(61)
    for entry, deadline in entries:
        assert len(entry.fired) == 1
        assert -ROUNDING <= entry.fired[0] - deadline <= SLOT + 0.002


operations = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 4), delays),
        st.tuples(st.just("cancel"), st.integers(0, 4), st.just(0.0)),
        st.tuples(st.just("advance"), st.just(0), st.floats(0, 20)),
    ),
    max_size=40,
)


@given(starts, operations, st.lists(delays, max_size=10))
@settings(deadline=None)
def test_the_wheel_agrees_with_a_list_of_deadlines(
    start: float, taken: list[tuple[str, int, float]], again: list[float]
) -> None:
    """Deadlines that are set, moved, cancelled and set again from within their own call are called as a plain list
    would have it, and the loop never holds more than one timer."""
    loop = Loop(start)
    timers = Timers(loop)
    due: dict[int, float] = {}
    wrong: list[tuple[float, float | None]] = []
    left = list(again)

    def acting(number: int) -> Callable[[float], None]:
        def act(now: float) -> None:
            deadline = due.pop(number, None)
            if deadline is None or not in_time(now, deadline):
                wrong.append((now, deadline))  # an assertion in here would only be logged
            if left:
                due[number] = now + left.pop()
                timers.set(entries[number], due[number])

        return act

    entries = [Entry(acting(number)) for number in range(5)]
    for operation, number, seconds in taken:
        if operation == "set":
            due[number] = loop.time() + seconds
            timers.set(entries[number], due[number])
        elif operation == "cancel":
            due.pop(number, None)
            timers.cancel(entries[number])
        else:
            loop.advance(seconds)
            assert all(deadline + SLOT + ROUNDING >= loop.time() for deadline in due.values()), "a deadline is overdue"
        assert wrong == []
        assert len(timers) == len(due)
        assert loop.armed() <= 1
        assert loop.armed() == 1 or not due
    loop.advance(61 * 12)
    assert not due
    assert wrong == []
    assert loop.armed() == 0


def test_a_deadline_set_in_a_call_does_not_hold_up_the_others() -> None:
    """An entry that sets a distant next deadline while it is called does not hold up one that is due earlier."""
    loop = Loop()
    timers = Timers(loop)
    heartbeat = Entry(lambda now: timers.set(heartbeat, now + 25.0))
    waiting = Entry()
    timers.set(heartbeat, loop.time() + 1.0)
    timers.set(waiting, loop.time() + 2.0)
    loop.advance(3.0)
    assert len(waiting.fired) == 1


def test_a_slot_is_short() -> None:
    """A deadline is at most 20 ms late on an idle machine, so a slot is well below that."""
    assert 0 < SLOT <= 0.010


def test_a_slot_is_over_at_its_own_end() -> None:
    """At the end of each slot its entries are called on the first try, however times are rounded."""
    for number in (29, 57, 58, 59, 113, 1_001, 102_500, 131_071):
        loop = Loop(number * SLOT - SLOT / 2)
        timers, entry = Timers(loop), Entry()
        timers.set(entry, loop.time())
        loop.advance(1.0)
        assert len(entry.fired) == 1
        assert loop.wakeups == 1


def test_entries_of_a_slot_share_one_wakeup() -> None:
    """A thousand deadlines within one slot cost one wake-up, and an empty wheel costs no wake-up."""
    loop = Loop()
    timers = Timers(loop)
    entries = [Entry() for _ in range(1000)]
    for number, entry in enumerate(entries):
        timers.set(entry, 1005.0 + SLOT * number / 1001)
    loop.advance(4.9)
    assert loop.wakeups == 0
    loop.advance(60.0)
    assert loop.wakeups == 1
    assert all(len(entry.fired) == 1 for entry in entries)


def test_only_the_next_slot_is_armed() -> None:
    """The loop holds one timer, for the earliest deadline, whatever the order in which they are set."""
    loop = Loop()
    timers = Timers(loop)
    for delay in (9.0, 3.0, 6.0, 1.0, 12.0):
        timers.set(Entry(), loop.time() + delay)
        assert loop.armed() == 1
    for wakeups, seconds in enumerate((1.5, 2.0, 3.0, 3.0, 3.0), 1):
        loop.advance(seconds)
        assert loop.wakeups == wakeups
    assert loop.armed() == 0


def test_a_later_deadline_replaces_the_earlier_one() -> None:
    """Setting a deadline again moves it: the first one is not called any more."""
    loop = Loop()
    timers, entry = Timers(loop), Entry()
    timers.set(entry, 1001.0)
    timers.set(entry, 1005.0)
    assert len(timers) == 1
    loop.advance(4.9)
    assert entry.fired == []
    loop.advance(1.0)
    assert len(entry.fired) == 1


def test_an_earlier_deadline_replaces_the_later_one() -> None:
    """Setting a deadline again to an earlier time brings it forward, and the later one is not called any more."""
    loop = Loop()
    timers, entry = Timers(loop), Entry()
    timers.set(entry, 1005.0)
    timers.set(entry, 1001.0)
    loop.advance(1.1)
    assert len(entry.fired) == 1
    loop.advance(10.0)
    assert len(entry.fired) == 1


def test_a_cancelled_deadline_does_not_come() -> None:
    """After `cancel` nothing is called, cancelling again does nothing, and the entry can be set again."""
    loop = Loop()
    timers, entry, other = Timers(loop), Entry(), Entry()
    timers.set(entry, 1001.0)
    timers.set(other, 1001.0)
    timers.cancel(entry)
    timers.cancel(entry)
    loop.advance(2.0)
    assert (len(entry.fired), len(other.fired)) == (0, 1)
    timers.set(entry, 1003.0)
    loop.advance(2.0)
    assert len(entry.fired) == 1


def test_cancelled_by_another_of_the_same_slot() -> None:
    """If two entries of one slot cancel each other, only the first is called."""
    loop = Loop()
    timers = Timers(loop)
    one = Entry(lambda now: timers.cancel(two))
    two = Entry(lambda now: timers.cancel(one))
    timers.set(one, 1001.0)
    timers.set(two, 1001.0)
    loop.advance(5.0)
    assert len(one.fired) + len(two.fired) == 1


def test_moved_by_another_of_the_same_slot() -> None:
    """If two entries of one slot move each other, the second one is called at its new time and not before."""
    loop = Loop()
    timers = Timers(loop)
    one = Entry(lambda now: timers.set(two, now + 3.0) if not two.fired else None)
    two = Entry(lambda now: timers.set(one, now + 3.0) if not one.fired else None)
    timers.set(one, 1001.0)
    timers.set(two, 1001.0)
    loop.advance(2.0)
    assert len(one.fired) + len(two.fired) == 1
    loop.advance(3.0)
    assert (len(one.fired), len(two.fired)) == (1, 1)


def test_a_deadline_that_has_passed_comes_at_once() -> None:
    """A deadline in the past is called within a slot."""
    loop = Loop()
    timers, entry = Timers(loop), Entry()
    timers.set(entry, 990.0)
    loop.advance(SLOT)
    assert len(entry.fired) == 1


def test_an_entry_that_fails_costs_nobody_else(complaints: list[str]) -> None:
    """An exception in a deadline is logged; the others of the slot and later ones are still called."""
    loop = Loop()
    timers = Timers(loop)

    def fail(now: float) -> None:
        raise RuntimeError("broken")

    broken, same_slot, later = [Entry(fail) for _ in range(3)], [Entry() for _ in range(3)], Entry()
    for entry in (*broken, *same_slot):
        timers.set(entry, 1001.0)
    timers.set(later, 1002.0)
    loop.advance(3.0)
    assert all(len(entry.fired) == 1 for entry in (*broken, *same_slot, later))
    assert len(complaints) == 3


def test_heartbeats_cost_a_wakeup_per_slot_in_use() -> None:
    """A thousand connections that arrived within one slot share one wake-up per heartbeat interval."""
    loop = Loop()
    timers = Timers(loop)

    class Beat(Entry):
        def on_deadline(self, now: float) -> None:
            super().on_deadline(now)
            timers.set(self, now + 25.0)

    beats = [Beat() for _ in range(1000)]
    for beat in beats:
        timers.set(beat, 1025.0 + SLOT / 2)
    loop.advance(25.1 * 10)
    assert {len(beat.fired) for beat in beats} == {10}
    assert loop.wakeups == 10
    assert loop.armed() == 1


def test_moving_to_and_fro_leaves_nothing_behind() -> None:
    """An entry that is moved back and forth between two deadlines takes no more memory than one that was set once."""
    loop = Loop()
    timers, entry = Timers(loop), Entry()
    loop.pending = deque(maxlen=4)  # type: ignore[assignment] - the fake's own records are not measured
    timers.set(entry, 1010.0)
    timers.set(entry, 1015.0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2_000):
            timers.set(entry, 1010.0)
            timers.set(entry, 1015.0)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 10_000


def test_the_wheel_tells_the_time_of_its_loop() -> None:
    """`now` is the loop's time, from which deadlines are computed."""
    loop = Loop(77.0)
    timers = Timers(loop)
    loop.advance(0.5)
    assert timers.now() == 77.5
