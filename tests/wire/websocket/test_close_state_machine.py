"""The close handshake in every order, alone against its table and between two peers (RFC 6455 7)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from partyline.wire.websocket import frames
from partyline.wire.websocket.codec import (
    TRANSITIONS,
    Close,
    CloseState,
    Codec,
    Event,
    Limits,
    Ping,
    Step,
    Violation,
)

from .strategies import chopped, read, roles

LIMITS = Limits(max_message=5_000, max_inflated=5_000, max_fragments=8)


def test_transitions_send_one_close_and_read_one_end() -> None:
    """On every path through the table we send at most one close, read at most one end, and stop in CLOSED."""
    paths = [(CloseState.OPEN, ())]
    finished = []
    while paths:
        state, steps = paths.pop()
        assert steps.count(Step.SEND_CLOSE) <= 1
        assert sum(step is not Step.SEND_CLOSE for step in steps) <= 1
        onward = [(after, (*steps, step)) for (at, step), after in TRANSITIONS.items() if at is state]
        paths += onward
        if not onward:
            finished.append((state, len(steps)))
    assert {state for state, _ in finished} == {CloseState.CLOSED}
    assert {length for _, length in finished} == {2}, "each side's end is seen before it is over"
    assert {state for state, _ in TRANSITIONS} | {CloseState.CLOSED} == set(CloseState)


class CloseHandshake(RuleBasedStateMachine):
    """One connection and its peer, in any order: a step does what the table says, and nothing if the table has no
    key."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = Codec(LIMITS)
        self.state = CloseState.OPEN
        self.sent = self.ended = False

    def step(self, step: Step) -> bool:
        """Take a step of the table; False if it has none."""
        after = TRANSITIONS.get((self.state, step))
        if after is None:
            return False
        self.state = after
        return True

    @rule(code=st.sampled_from((1000, 1001, 1005, 4000)), reason=st.sampled_from(("", "bye", "é" * 80)))
    def we_close(self, code: int, reason: str) -> None:
        written = self.connection.close(code, reason)
        if self.step(Step.SEND_CLOSE):
            assert not self.sent
            self.sent = True
            (event,) = Codec(LIMITS, client=True).receive(written)
            assert isinstance(event, Close)
            assert event.code == code
        else:
            assert written == b""

    @rule(code=st.sampled_from((None, 1000, 4999)), pieces=st.booleans())
    def the_peer_closes(self, code: int | None, pieces: bool) -> None:
        payload = b"" if code is None else frames.close_payload(code, "x")
        wire = frames.frame(frames.CLOSE, payload, key=b"abcd")
        events = read(self.connection, chopped(wire, [1 if pieces else len(wire)]))
        if self.step(Step.RECEIVE_CLOSE):
            self.ended = True
            assert events == [Close(1005, "") if code is None else Close(code, "x")]
        else:
            assert events == []

    @rule(
        wire=st.sampled_from(("83", "c1", "8105", "888100000000ff", "818100000000ff", "81ff7fffffffffffffff00000000"))
    )
    def the_peer_breaks_the_protocol(self, wire: str) -> None:
        events = self.connection.receive(bytes.fromhex(wire))
        if self.step(Step.FAIL):
            self.ended = True
            (event,) = events
            assert isinstance(event, Violation)
        else:
            assert events == []

    @rule(wire=st.sampled_from((("8180abcdabcd", ""), ("8980abcdabcd", Ping(b"")), ("8280abcdabcd", b""))))
    def the_peer_goes_on(self, wire: tuple[str, Event]) -> None:
        events = self.connection.receive(bytes.fromhex(wire[0]))
        assert events == ([wire[1]] if self.state is CloseState.OPEN else [])

    @invariant()
    def the_state_is_the_tables(self) -> None:
        assert self.connection.state is self.state
        assert (self.connection.state in (CloseState.CLOSE_SENT, CloseState.CLOSED)) == self.sent
        assert (self.connection.state in (CloseState.CLOSE_RECEIVED, CloseState.CLOSED)) == self.ended


TestCloseHandshake = CloseHandshake.TestCase
TestCloseHandshake.settings = settings(stateful_step_count=12, deadline=None)


class TwoPeers(RuleBasedStateMachine):
    """A client and a server with bytes in flight between them: however they close, both end closed."""

    def __init__(self) -> None:
        super().__init__()
        self.peers = {"client": Codec(LIMITS, client=True), "server": Codec(LIMITS)}
        self.under_way = {"client": b"", "server": b""}  # by recipient
        self.got: dict[str, list[Event]] = {"client": [], "server": []}
        self.first_code: dict[str, int] = {}

    def other(self, name: str) -> str:
        return "server" if name == "client" else "client"

    def deliver(self, name: str, size: int) -> None:
        data, self.under_way[name] = self.under_way[name][:size], self.under_way[name][size:]
        for event in self.peers[name].receive(data):
            self.got[name].append(event)
            if isinstance(event, Close):
                self.under_way[self.other(name)] += self.peers[name].close(event.code)

    @rule(name=roles, code=st.sampled_from((1000, 1001, 3000)))
    def close(self, name: str, code: int) -> None:
        if written := self.peers[name].close(code):
            self.first_code[name] = code
            self.under_way[self.other(name)] += written

    @rule(name=roles, text=st.text(max_size=5))
    @precondition(lambda self: any(peer.state is CloseState.OPEN for peer in self.peers.values()))
    def say(self, name: str, text: str) -> None:
        if self.peers[name].state is CloseState.OPEN:
            self.under_way[self.other(name)] += self.peers[name].text(text.encode())

    @rule(name=roles, size=st.integers(1, 30))
    def arrive(self, name: str, size: int) -> None:
        self.deliver(name, size)

    @invariant()
    def nobody_sees_a_violation(self) -> None:
        for events in self.got.values():
            assert not any(isinstance(event, Violation) for event in events)
            assert sum(isinstance(event, Close) for event in events) <= 1

    def teardown(self) -> None:
        while any(self.under_way.values()):
            self.deliver("client", 1_000)
            self.deliver("server", 1_000)
        states = {peer.state for peer in self.peers.values()}
        assert states == ({CloseState.CLOSED} if self.first_code else {CloseState.OPEN})
        for name, code in self.first_code.items():
            assert Close(code, "") in self.got[self.other(name)]


TestTwoPeers = TwoPeers.TestCase
TestTwoPeers.settings = settings(stateful_step_count=20, deadline=None)
