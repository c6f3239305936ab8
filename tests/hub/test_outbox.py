"""The bounded queue of a slow consumer: its bound, its order, and what is dropped first (guarantee 5)."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import partyline
from partyline.hub.outbox import SLOW, Outbox, end_slow
from partyline.metrics import Counters
from partyline.models import Payload, Policy


def kept(data: bytes) -> Payload:
    """A payload that is never dropped."""
    return Payload(data, "orders")


def drop(data: bytes, room: str = "news") -> Payload:
    return Payload(data, room, Policy.DROP_OLDEST)


def conflate(data: bytes, key: str | None = None, room: str = "prices") -> Payload:
    return Payload(data, room, Policy.CONFLATE, key)


def drained(outbox: Outbox) -> list[bytes]:
    return [outbox.pop().data for _ in range(len(outbox))]


def test_payloads_leave_in_the_order_they_came() -> None:
    """Payloads come out oldest first, and the size in bytes follows."""
    outbox = Outbox(100)
    for data in (b"one", b"three", b"five5"):
        assert outbox.push(kept(data))
    assert (len(outbox), outbox.size) == (3, 13)
    assert drained(outbox) == [b"one", b"three", b"five5"]
    assert (len(outbox), outbox.size) == (0, 0)
    with pytest.raises(IndexError):
        outbox.pop()


def test_the_bound_counts_bytes_to_the_last_one() -> None:
    """An outbox takes exactly its limit in bytes; one byte more does not fit and changes nothing."""
    outbox = Outbox(10)
    assert outbox.push(kept(b"123456"))
    assert outbox.push(kept(b"7890"))
    assert not outbox.push(kept(b"x"))
    assert outbox.dropped == 0
    assert drained(outbox) == [b"123456", b"7890"]


def test_drop_oldest_goes_first() -> None:
    """At the bound the payloads of drop_oldest rooms are dropped, oldest first, before anything else is touched."""
    outbox = Outbox(8)
    outbox.push(conflate(b"p1", "a"))
    outbox.push(drop(b"n1"))
    outbox.push(conflate(b"p2", "a"))
    outbox.push(drop(b"n2"))
    assert outbox.push(kept(b"k"))
    assert outbox.dropped == 1
    assert drained(outbox) == [b"p1", b"p2", b"n2", b"k"]


def test_conflating_comes_second() -> None:
    """When drop_oldest rooms have nothing left, a newer payload of a room and key replaces the older ones."""
    outbox = Outbox(10)
    for payload in (conflate(b"p1", "a"), conflate(b"q1", "b"), drop(b"n1"), conflate(b"p2", "a"), kept(b"k1")):
        outbox.push(payload)
    assert outbox.push(kept(b"k2k2"))
    assert drained(outbox) == [b"q1", b"p2", b"k1", b"k2k2"]
    assert outbox.dropped == 2


def test_a_conflated_payload_stands_at_the_tail() -> None:
    """The newest payload of a key stays at its own place, after everything queued before it, and supersedes older
    ones."""
    outbox = Outbox(6)
    outbox.push(conflate(b"p1", "a"))
    outbox.push(kept(b"k1"))
    outbox.push(conflate(b"q1", "b"))
    assert outbox.push(conflate(b"p2", "a"))
    assert drained(outbox) == [b"k1", b"q1", b"p2"]


def test_keys_are_of_their_room() -> None:
    """The same key in two rooms is two keys, and messages without a key share one key of their room."""
    outbox = Outbox(8)
    outbox.push(conflate(b"a1", "x", room="a"))
    outbox.push(conflate(b"b1", "x", room="b"))
    outbox.push(conflate(b"a2", None, room="a"))
    outbox.push(conflate(b"a3", None, room="a"))
    assert outbox.push(kept(b"kk"))
    assert drained(outbox) == [b"a1", b"b1", b"a3", b"kk"]


def test_the_connection_goes_last() -> None:
    """A payload is refused only if it does not fit when everything expendable is gone: the connection must then be
    closed."""
    outbox = Outbox(10)
    outbox.push(kept(b"kkkk"))
    outbox.push(drop(b"nn"))
    outbox.push(conflate(b"pp", "a"))
    outbox.push(conflate(b"qq", "a"))
    assert not outbox.push(kept(b"12345"))
    assert drained(outbox) == [b"kkkk", b"qq"]


def test_a_payload_above_the_limit_never_fits() -> None:
    """A payload larger than the whole outbox is refused, whatever its policy."""
    for payload in (kept(b"x" * 11), drop(b"x" * 11), conflate(b"x" * 11)):
        outbox = Outbox(10)
        assert not outbox.push(payload)
        assert len(outbox) == 0


def test_one_pass_frees_room_for_several() -> None:
    """An outbox full of droppable payloads is not searched from end to end for every new one."""
    outbox = Outbox(800)
    for _ in range(800):
        outbox.push(drop(b"x"))
    dropped = []
    for _ in range(100):
        assert outbox.push(drop(b"y"))
        dropped.append(outbox.dropped)
    assert dropped == [101] * 100


def test_force_ignores_the_bound() -> None:
    """A close frame follows the last message, even if the outbox is full."""
    outbox = Outbox(4)
    outbox.push(kept(b"1234"))
    outbox.force(Payload(b"bye"))
    assert outbox.size == 7
    assert drained(outbox) == [b"1234", b"bye"]


def test_a_cleared_box_starts_anew() -> None:
    """After `clear` nothing waits, and the outbox takes its whole limit again."""
    outbox = Outbox(4)
    outbox.push(drop(b"1234"))
    outbox.clear()
    assert (len(outbox), outbox.size) == (0, 0)
    assert outbox.push(kept(b"5678"))
    assert not outbox.push(kept(b"9"))


payloads = st.builds(
    Payload,
    data=st.binary(min_size=1, max_size=12),  # a frame has bytes
    room=st.sampled_from(("a", "b")),
    policy=st.sampled_from(Policy),
    key=st.sampled_from((None, "x", "y")),
)


@given(st.integers(1, 64), st.lists(st.one_of(payloads, st.none()), max_size=60))
@settings(deadline=None)
def test_never_above_its_limit_and_in_order(limit: int, steps: list[Payload | None]) -> None:
    """Whatever is pushed and popped (None), the bytes stay within the limit, the order is kept, and only what the
    policies allow is missing, all of it counted."""
    outbox = Outbox(limit)
    taken: list[Payload] = []
    out: list[Payload] = []
    refused: Payload | None = None
    for step in steps:
        if step is None:
            if outbox:
                out.append(outbox.pop())
        elif outbox.push(step):
            taken.append(step)
        else:
            refused = step
            break
        assert outbox.size <= limit
    left = [outbox.pop() for _ in range(len(outbox))]
    out += left

    remaining = iter(taken)
    assert all(any(payload is other for other in remaining) for payload in out), "a subsequence of what was pushed"
    survivors = set(map(id, out))
    lost = [(at, payload) for at, payload in enumerate(taken) if id(payload) not in survivors]
    assert outbox.dropped == len(lost)
    newer = [*taken, *([refused] if refused else [])]
    for at, payload in lost:
        assert payload.policy is not Policy.CLOSE
        if payload.policy is Policy.CONFLATE:
            heirs = [other for other in newer[at + 1 :] if (other.room, other.key) == (payload.room, payload.key)]
            assert any(heir.policy is Policy.CONFLATE for heir in heirs), "only a newer one supersedes"
    if refused is not None:
        assert sum(len(payload.data) for payload in left) + len(refused.data) > limit
        keys = [(payload.room, payload.key) for payload in left if payload.policy is Policy.CONFLATE]
        if refused.policy is Policy.CONFLATE:
            keys.append((refused.room, refused.key))
        assert len(keys) == len(set(keys)), "everything superseded was dropped before the connection was"
        assert not any(payload.policy is Policy.DROP_OLDEST for payload in left)


@given(st.lists(payloads, max_size=40))
@settings(deadline=None)
def test_below_the_bound_nothing_is_touched(pushed: list[Payload]) -> None:
    """While everything fits, no policy takes anything: a consumer that keeps up gets every message."""
    outbox = Outbox(12 * 40)
    for payload in pushed:
        assert outbox.push(payload)
    assert outbox.dropped == 0
    assert outbox.size == sum(len(payload.data) for payload in pushed)
    assert drained(outbox) == [payload.data for payload in pushed]


def test_what_is_unwanted_is_dropped() -> None:
    """`discard` drops what it is told, counts it, and keeps the order, the size and the policies of the rest."""
    outbox = Outbox(20)
    for payload in (kept(b"one"), drop(b"two2"), kept(b"three"), drop(b"four4")):
        assert outbox.push(payload)
    outbox.discard(lambda payload: payload.data in (b"one", b"two2"))
    assert (len(outbox), outbox.size, outbox.dropped) == (2, 10, 2)
    assert outbox.push(kept(b"x" * 15))  # takes the place of what may be dropped
    assert drained(outbox) == [b"three", b"x" * 15]


class Consumer:
    """Records how it is closed."""

    def __init__(self) -> None:
        self.closed: list[tuple[int, str]] = []

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


def test_a_slow_consumer_is_counted_logged_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    """Each end of a slow consumer is one close with 4008, one count of outbox_bytes and one line of the log."""
    consumer, counters = Consumer(), Counters()
    with caplog.at_level(logging.INFO, "partyline.hub"):
        end_slow(consumer, counters)
    assert consumer.closed == [(SLOW, "slow consumer")]
    assert counters.limits == {"outbox_bytes": 1}
    assert ["a slow consumer is closed" in str(record.msg) for record in caplog.records] == [True]


def test_slow_consumers_end_in_one_place() -> None:
    """No other file of the package counts a full outbox, so every queue for a client ends it through `end_slow`."""
    root = Path(partyline.__file__).parent
    counting = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"hit\(\s*\"outbox_bytes\"", path.read_text("utf-8"))
    ]
    assert counting == ["hub/outbox.py"]
