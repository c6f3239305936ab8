"""The fan-out loop: which members are offered a message, and how often it is encoded."""

from __future__ import annotations

import pytest

from partyline.hub.delivery import fan_out
from partyline.hub.hub import Hub
from partyline.metrics import Counters
from partyline.models import Draft, Message, Payload, Policy
from partyline.stores.memory import MemoryStore

from .members import Member, Tagged

MESSAGE = Message(Draft("cats", b"1", "id", key="k"), 7, 0.0)


def test_a_message_is_encoded_once_per_dialect() -> None:
    """However members are mixed, each dialect encodes a message once and its members share one payload."""
    plain, other = Tagged(b"p"), Tagged(b"o")
    members = [Member(dialect=dialect) for dialect in (plain, other, plain, plain, other, plain)]
    assert fan_out(MESSAGE, members) == 6
    assert (plain.encoded, other.encoded) == (1, 1)
    assert [member.got for member in members] == [[b"p1"], [b"o1"], [b"p1"], [b"p1"], [b"o1"], [b"p1"]]
    assert len({id(member.inbox[0]) for member in members}) == 2


def test_dialects_are_told_apart_by_identity() -> None:
    """Two dialect objects are two dialects, even if they write alike."""
    one, two = Tagged(), Tagged()
    fan_out(MESSAGE, [Member(dialect=one), Member(dialect=two)])
    assert (one.encoded, two.encoded) == (1, 1)


def test_members_are_served_in_their_order() -> None:
    """Members are offered a message in the order in which they are given."""
    served: list[int] = []

    class Ordered(Member):
        def offer(self, payload: object) -> None:
            served.append(id(self))

    dialects = Tagged(), Tagged()
    members = [Ordered(dialect=dialects[number % 2]) for number in range(5)]
    fan_out(MESSAGE, members)
    assert served == [id(member) for member in members]


def test_nobody_costs_nothing() -> None:
    """A message without an audience is not offered to anybody and not encoded."""
    assert fan_out(MESSAGE, []) == 0


def test_a_payload_carries_what_an_outbox_needs() -> None:
    """The payload has its room, policy and key, which the slow-consumer policies use."""
    member = Member()
    fan_out(MESSAGE, [member], Policy.CONFLATE)
    payload = member.inbox[0]
    assert (payload.room, payload.policy, payload.key) == ("cats", Policy.CONFLATE, "k")


def test_each_message_is_encoded_anew() -> None:
    """Nothing of one message is reused for the next."""
    dialect = Tagged()
    member = Member(dialect=dialect)
    fan_out(MESSAGE, [member])
    fan_out(Message(Draft("cats", b"2", "id2"), 8, 0.0), [member])
    assert member.got == [b"1", b"2"]
    assert dialect.encoded == 2


class Unwritable:
    """A dialect that cannot write anything."""

    def encode(self, message: Message) -> bytes:
        raise ValueError("there is no way to write this")


def test_a_dialect_that_fails_costs_nobody_else_anything() -> None:
    """Members whose dialect cannot write a message are closed with 1011 after all others have it, and the failure is
    raised (hostile 50)."""
    before, failing, after = Member(), Member(dialect=Unwritable()), Member()
    with pytest.raises(ValueError, match="no way to write"):
        fan_out(MESSAGE, [before, failing, after])
    assert (before.got, failing.got, after.got) == ([b"1"], [], [b"1"])
    assert (before.closed, failing.closed, after.closed) == ([], [1011], [])


def test_a_member_that_leaves_as_it_is_closed_costs_nobody_else_anything() -> None:
    """A member that leaves its rooms the moment it is closed or offered something does not keep a message from those
    that joined after it (hostile 50)."""
    counters = Counters()
    hub = Hub(MemoryStore(), counters)

    class Leaving(Member):
        def close(self, code: int, reason: str = "") -> None:
            super().close(code, reason)
            hub.remove(self)

    class Full(Leaving):
        def offer(self, payload: object) -> None:
            self.close(4008)

    members = [Member(), Leaving(dialect=Unwritable()), Member(), Full(), Member()]
    for member in members:
        hub.join(member, "cats")
    for data in (b"1", b"2"):
        hub.publish(Draft("cats", data, "id", durable=False))
    assert [member.got for member in members] == [[b"1", b"2"], [], [b"1", b"2"], [], [b"1", b"2"]]
    assert [member.closed for member in members] == [[], [1011], [], [4008], []]
    assert counters.errors == 1


@pytest.mark.parametrize("trouble", ["encode", "offer", "close", "leave"])
def test_hostile_50_one_members_trouble_costs_no_other_member_anything(trouble: str) -> None:
    """hostile 50: a member whose dialect cannot write the message, or that raises when it is offered something or
    closed, or leaves its room meanwhile, does not affect the others; it is closed after all others have been served."""

    class Unable(Tagged):
        def encode(self, message: Message) -> bytes:
            raise OverflowError("a number that this dialect cannot write")

    class Troubled(Member):
        def offer(self, payload: Payload) -> None:
            if trouble == "leave":
                hub.remove(self)
            else:
                raise SystemExit

        def close(self, code: int, reason: str = "") -> None:
            super().close(code, reason)
            assert all(other.got == [b"1"] for other in others)
            hub.remove(self)
            if trouble == "close":
                raise RuntimeError("closing fails, too")

    hub = Hub(MemoryStore(), Counters())
    plain, others = Tagged(), [Member() for _ in range(4)]
    troubled = [Troubled(dialect=Unable() if trouble == "encode" else plain) for _ in range(2)]
    for member in (others[0], troubled[0], others[1], others[2], troubled[1], others[3]):
        if member in others:
            member.dialect = plain
        hub.join(member, "cats")
    hub.publish(Draft("cats", b"1", "id"))
    assert [member.got for member in others] == [[b"1"]] * 4
    assert [member.closed for member in troubled] == [[] if trouble == "leave" else [1011]] * 2
    assert list(hub.audience("cats")) == others
    hub.publish(Draft("cats", b"2", "id2"))
    assert [member.got for member in others] == [[b"1", b"2"]] * 4
