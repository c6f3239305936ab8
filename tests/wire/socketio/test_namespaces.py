"""The namespaces of a connection, as scenes and in any order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from partyline.errors import InvalidPacket
from partyline.wire.socketio.namespaces import TRANSITIONS, Namespaces, NamespaceState, Step
from partyline.wire.socketio.packets import Ack, Connect, ConnectError, Disconnect, Event, Packet


def event(namespace: str) -> Packet:
    return Event(namespace, "say", None, [])


def connected(*names: str) -> Namespaces:
    one = Namespaces(0.0)
    for name in names:
        one.receive(Connect(name, None))
        assert one.accept(name)
    return one


def test_connect_talk_and_leave() -> None:
    """A namespace that was requested and accepted takes events until it is left."""
    one = connected("/", "/a")
    assert one.receive(event("/"))
    assert one.receive(Ack("/a", 1, []))
    assert one.receive(Disconnect("/"))
    assert one.receive(event("/a"))
    with pytest.raises(InvalidPacket):
        one.receive(event("/"))
    assert one.receive(Connect("/", None))


@pytest.mark.parametrize(
    "packet", [event("/x"), Ack("/x", 1, []), Disconnect("/x"), ConnectError("/x", "no"), ConnectError("/", "no")]
)
def test_packets_out_of_place(packet: Packet) -> None:
    """A packet for a namespace that is not connected, or one that only servers send, ends the connection."""
    with pytest.raises(InvalidPacket):
        connected("/").receive(packet)


def test_a_client_waits_for_its_answer() -> None:
    """Before the answer to CONNECT nothing else may arrive; after it no second CONNECT may."""
    for packet in (event("/"), Disconnect("/")):
        one = Namespaces(0.0)
        one.receive(Connect("/", None))
        with pytest.raises(InvalidPacket):
            one.receive(packet)
    with pytest.raises(InvalidPacket):
        connected("/").receive(Connect("/", None))


def test_asked_twice_at_once() -> None:
    """A CONNECT after one that is not answered yet gets the same answer."""
    one = Namespaces(0.0)
    assert one.receive(Connect("/", None))
    assert not one.receive(Connect("/", None))
    assert one.accept("/")
    assert one.receive(event("/"))


def test_a_refusal() -> None:
    """A client that was refused may ask again."""
    one = Namespaces(0.0)
    one.receive(Connect("/a", None))
    assert one.refuse("/a")
    assert not one.accept("/a")
    with pytest.raises(InvalidPacket):
        one.receive(event("/a"))
    assert one.receive(Connect("/a", None))
    assert one.accept("/a")


def test_what_was_under_way_when_we_disconnected_it() -> None:
    """Events, acknowledgements and the client's own DISCONNECT that crossed ours are dropped, and it may come back."""
    one = connected("/a", "/b")
    assert one.drop("/a")
    assert not one.receive(event("/a"))
    assert not one.receive(Ack("/a", 1, []))
    assert one.receive(Connect("/a", None))
    assert one.accept("/a")
    assert one.receive(event("/a"))
    one.drop("/a")
    assert not one.receive(Disconnect("/a"))
    with pytest.raises(InvalidPacket):
        one.receive(event("/a"))
    assert one.receive(event("/b"))


def test_socketio_4_is_in_the_main_namespace_at_once() -> None:
    """With Socket.IO protocol 4 the server itself connects the main namespace."""
    one = Namespaces(0.0)
    one.ask("/")
    assert one.accept("/")
    assert one.receive(event("/"))


def test_connect_timeout() -> None:
    """A client that is not in a namespace in time is closed; a refusal does not count."""
    one = Namespaces(5.0, connect_timeout=45.0)
    one.receive(Connect("/", None))
    one.refuse("/")
    assert one.next_deadline() == 50.0
    assert not one.on_deadline(49.9)
    assert one.on_deadline(50.0)
    one.receive(Connect("/", None))
    one.accept("/")
    assert one.next_deadline() == float("inf")
    one.drop("/")
    assert not one.on_deadline(99.0)


def test_at_most_so_many_namespaces() -> None:
    """A client can be in a limited number of namespaces, including those that it waits for; leaving one makes room."""
    one = Namespaces(0.0, most=2)
    for name in ("/a", "/b"):
        one.receive(Connect(name, None))
    one.accept("/b")
    with pytest.raises(InvalidPacket, match="namespaces_per_connection") as caught:
        one.receive(Connect("/c", None))
    assert caught.value.limit == "namespaces_per_connection"
    one.receive(Disconnect("/b"))
    assert one.receive(Connect("/c", None))


def test_a_namespace_that_we_disconnected_gives_its_place_up() -> None:
    """A client that is disconnected from one namespace after another never reaches the limit, and we remember only as
    many as the limit, the newest (hostile 49)."""
    one = Namespaces(0.0, most=3)
    for number in range(100):
        assert one.receive(Connect(f"/game-{number}", None))
        assert one.accept(f"/game-{number}")
        assert one.drop(f"/game-{number}")
    for number in (97, 98, 99):
        assert not one.receive(event(f"/game-{number}"))
    with pytest.raises(InvalidPacket):
        one.receive(event("/game-96"))


def test_a_place_is_given_up_by_the_one_disconnected_the_longest_ago() -> None:
    """A namespace to which the client came back keeps its place."""
    one = Namespaces(0.0, most=3)
    for name in ("/a", "/b", "/c"):
        one.receive(Connect(name, None))
        one.accept(name)
    one.drop("/b")
    one.drop("/a")
    one.receive(Connect("/b", None))
    assert one.receive(Connect("/d", None))
    assert one.accept("/b")
    assert one.receive(event("/b"))
    assert one.receive(event("/c"))
    with pytest.raises(InvalidPacket):
        one.receive(event("/a"))


def test_transitions() -> None:
    """Every state is reached and left, and every step taken somewhere."""
    assert {state for state, _ in TRANSITIONS} == set(TRANSITIONS.values()) == set(NamespaceState)
    assert {step for _, step in TRANSITIONS} == set(Step)


some = st.sampled_from(["/", "/a", "/b"])


class Connection(RuleBasedStateMachine):
    """Three namespaces in any order: each follows the table, whatever happens to the others."""

    def __init__(self) -> None:
        super().__init__()
        self.namespaces = Namespaces(0.0)
        self.states = {"/": NamespaceState.ABSENT, "/a": NamespaceState.ABSENT, "/b": NamespaceState.ABSENT}

    def step(self, name: str, step: Step) -> bool:
        after = TRANSITIONS.get((self.states[name], step))
        if after is not None:
            self.states[name] = after
        return after is not None

    @rule(name=some, step=st.sampled_from([Step.ASK, Step.TALK, Step.LEAVE]))
    def receive(self, name: str, step: Step) -> None:
        before = self.states[name]
        packet = {Step.ASK: Connect(name, None), Step.TALK: event(name), Step.LEAVE: Disconnect(name)}[step]
        if self.step(name, step):
            assert self.namespaces.receive(packet) is (
                before is not NamespaceState.CONNECTING if step is Step.ASK else before is not NamespaceState.DROPPED
            )
        else:
            with pytest.raises(InvalidPacket):
                self.namespaces.receive(packet)

    @rule(name=some, step=st.sampled_from([Step.ACCEPT, Step.REFUSE, Step.DROP]))
    def answer(self, name: str, step: Step) -> None:
        namespaces = self.namespaces
        call = {Step.ACCEPT: namespaces.accept, Step.REFUSE: namespaces.refuse, Step.DROP: namespaces.drop}[step]
        assert call(name) is self.step(name, step)

    @invariant()
    def events_are_taken_where_it_is_connected(self) -> None:
        for name, state in self.states.items():
            if state is NamespaceState.CONNECTED:
                assert self.namespaces.receive(event(name))


TestConnection = Connection.TestCase
TestConnection.settings = settings(stateful_step_count=20, deadline=None)
