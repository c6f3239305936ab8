"""A session and its client in any order, over a polling transport and a WebSocket, while time passes."""

from __future__ import annotations

import functools
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from partyline.wire.engineio.payloads import MOST_PACKETS
from partyline.wire.engineio.session import (
    Channel,
    Effect,
    HangUp,
    Over,
    Refuse,
    Rules,
    Send,
    Session,
)
from partyline.wire.engineio.states import TRANSITIONS, SessionState

RULES = Rules(ping_interval=3.0, ping_timeout=2.0, upgrade_timeout=1.5, last_poll=1.0, stall=0.1)
OPEN = {SessionState.POLLING, SessionState.PROBING, SessionState.UPGRADING, SessionState.WEBSOCKET}
anything = st.sampled_from(["0", "1", "2", "2probe", "3", "3probe", "4x", "5", "6", b"", b"x"])


class Life(RuleBasedStateMachine):
    """What the transports would see. The server's messages are numbered, so that loss and disorder show."""

    @initialize(protocol=st.sampled_from([3, 4]), websocket=st.booleans())
    def begin(self, protocol: int, websocket: bool) -> None:
        self.now = 0.0
        self.session = Session(protocol, RULES, 0.0, websocket=websocket)
        self.sent = 0
        self.got: list[int] = []
        self.over = 0
        self.candidate = False
        self.websocket = websocket

    # What the transports do with effects

    def do(self, call: Callable[..., list[Effect]], *arguments: object) -> list[Effect]:
        state = self.session.state
        effects = call(*arguments)
        if state is SessionState.UPGRADING and self.session.state is SessionState.WEBSOCKET:
            self.candidate, self.websocket = False, True
        for effect in effects:
            match effect:
                case Send(Channel.POLL, packets):
                    assert 0 < len(packets) <= MOST_PACKETS
                    self.arrive(packets)
                case Send(Channel.WEBSOCKET, packets):
                    assert self.websocket
                    self.arrive(packets)
                case Send(Channel.CANDIDATE, packets):
                    assert self.candidate
                    if self.session.state is SessionState.CLOSED:
                        self.arrive(packets)
                    else:
                        assert packets == ("3probe",)
                case HangUp(Channel.WEBSOCKET, reason):
                    assert self.websocket
                    assert reason is not None
                    self.websocket = False
                case HangUp(Channel.CANDIDATE):
                    assert self.candidate
                    self.candidate = False
                case Over():
                    self.over += 1
                    assert state in OPEN
                case Refuse(number):
                    assert number in (1, 3)
                    assert effect is effects[-1]
                case str() | bytes():
                    assert self.over == 0, "a message after the end"
        assert (self.over > 0) == (self.session.state not in OPEN)
        return effects

    def arrive(self, packets: tuple[str | bytes, ...]) -> None:
        numbers = [int(packet[1:]) for packet in packets if isinstance(packet, str) and packet[0] == "4"]
        self.got += numbers

    # The server

    @rule(count=st.integers(1, 20))
    def send(self, count: int) -> None:
        packets = [f"4{self.sent + number}" for number in range(count)]
        if self.session.state in OPEN:
            self.sent += count
        self.do(self.session.send, *packets)

    @rule()
    def flush(self) -> None:
        self.do(self.session.flush)

    @rule(cut=st.booleans())
    @precondition(lambda self: self.sent > 30)
    def close(self, cut: bool) -> None:
        self.do(functools.partial(self.session.close, cut=cut), self.now)

    @rule(hold=st.booleans())
    def hold(self, hold: bool) -> None:
        if hold:
            self.session.hold(self.now)
        else:
            self.session.resume(self.now)

    # The client

    @rule()
    def get(self) -> None:
        hanging = self.session.hanging
        effects = self.do(self.session.get, self.now)
        answered = any(isinstance(effect, Send) and effect.channel is Channel.POLL for effect in effects)
        refused = any(isinstance(effect, Refuse) for effect in effects)
        assert hanging or refused + answered + self.session.hanging == 1, "a GET is answered, refused, or hangs"

    @rule()
    def abort(self) -> None:
        self.do(self.session.abort, self.now)

    @rule(packets=st.none() | st.lists(anything, max_size=3))
    def post(self, packets: list[str | bytes] | None) -> None:
        self.do(self.session.post, packets, self.now)

    @rule()
    def beat(self) -> None:
        """What a live client sends, on any transport."""
        packet = "3" if self.session.protocol == 4 else "2"
        if self.session.state is SessionState.WEBSOCKET:
            self.do(self.session.receive, packet, self.now)
        else:
            self.do(self.session.post, [packet], self.now)

    @rule(packet=anything)
    def receive(self, packet: str | bytes) -> None:
        self.do(self.session.receive, packet, self.now)

    @rule()
    def break_off(self) -> None:
        self.do(self.session.broken, self.now)

    @rule()
    @precondition(lambda self: self.websocket)
    def lose(self) -> None:
        self.websocket = False
        self.do(self.session.lose, self.now)

    @rule()
    def attach(self) -> None:
        effects = self.do(self.session.attach, self.now)
        if not any(isinstance(effect, Refuse) for effect in effects):
            assert not self.candidate
            self.candidate = True

    @rule(packet=st.sampled_from(["2probe", "5", "5", "2probe", "4x", None]))
    @precondition(lambda self: self.candidate)
    def probe(self, packet: str | None) -> None:
        self.do(self.session.probe, packet, self.now)

    @rule()
    @precondition(lambda self: self.candidate)
    def detach(self) -> None:
        self.do(self.session.detach)
        assert not self.candidate

    # Time

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 2.0]))
    def wait(self, seconds: float) -> None:
        """Time passes as a timer sees it: no deadline is skipped."""
        until = self.now + seconds
        while self.session.next_deadline() <= until:
            self.now = max(self.now, self.session.next_deadline())
            self.do(self.session.on_deadline, self.now)
        self.now = until

    @rule(seconds=st.sampled_from([0.05, 1.0, 10.0]))
    def stall(self, seconds: float) -> None:
        self.now += seconds

    # What always holds

    @invariant()
    def nothing_is_lost_or_changes_places(self) -> None:
        assert self.got == list(range(len(self.got)))
        if self.session.state is SessionState.WEBSOCKET:
            assert len(self.got) == self.sent, "something waits although there is a WebSocket"

    @invariant()
    def the_end_comes_once_and_leaves_nothing(self) -> None:
        assert self.over <= 1
        if self.session.state is SessionState.CLOSED:
            assert not self.candidate
            assert not self.websocket
            assert not self.session.hanging
            assert self.session.queued == 0
            assert self.session.next_deadline() == float("inf")
        else:
            assert self.session.queued == 0 or self.session.state is not SessionState.WEBSOCKET

    @invariant()
    def a_candidate_is_there_only_while_it_may_take_over(self) -> None:
        states = (SessionState.PROBING, SessionState.UPGRADING, SessionState.PARTING)
        assert self.candidate == (self.session.state in states)

    def teardown(self) -> None:
        """A client that finishes its upgrade, or fetches until the end, gets everything; without its client no session
        lives for ever."""
        if not hasattr(self, "session"):
            return
        if self.session.state in OPEN:
            self.do(self.session.close, self.now)
            if self.session.state is SessionState.PARTING:
                self.do(self.session.probe, "5", self.now)
            while self.session.state is SessionState.CLOSING:
                self.do(self.session.get, self.now)
            assert len(self.got) == self.sent
        self.session.resume(self.now)
        for _ in range(10):
            self.wait(2.0)
        assert self.session.state is SessionState.CLOSED


TestLife = Life.TestCase
TestLife.settings = settings(stateful_step_count=40, deadline=None)


def test_every_transition_can_be_taken() -> None:
    """Each row of the table is used by some scene."""
    taken: set[tuple[SessionState, object]] = set()

    class Watched(Session):
        __slots__ = ()

        def _step(self, step: object) -> bool:
            before = self.state
            if super()._step(step):  # type: ignore[arg-type]
                taken.add((before, step))
                return True
            return False

    def at(state: SessionState) -> Watched:
        one = Watched(4, RULES, 0.0, websocket=state is SessionState.WEBSOCKET)
        if state in (SessionState.PROBING, SessionState.UPGRADING, SessionState.PARTING):
            one.attach(0.0)
        if state in (SessionState.UPGRADING, SessionState.PARTING):
            one.probe("2probe", 0.0)
        if state in (SessionState.CLOSING, SessionState.PARTING):
            one.close(0.0)
        if state is SessionState.REFUSING:
            one.post(["1"], 0.0)
        return one

    for state in set(SessionState) - {SessionState.CLOSED}:
        for scene in range(14):
            one = at(state)
            match scene:
                case 0:
                    one.get(0.0)
                    one.get(0.0)
                case 1:
                    one.get(0.0)
                    one.abort(0.0)
                case 2:
                    one.post(["4x"], 0.0)
                case 3:
                    one.attach(0.0)
                case 4:
                    one.probe("2probe", 0.0)
                case 5:
                    one.probe("5", 0.0)
                case 6:
                    one.detach()
                case 7:
                    one.lose(0.0)
                case 8:
                    one.post(["1"], 0.0)
                    one.receive("1", 0.0)
                case 9:
                    one.post(None, 0.0)
                    one.broken(0.0)
                case 10:
                    one.on_deadline(1.5)
                    one = at(state)
                    one._attached = float("inf")
                    one.on_deadline(3.0)
                    one.on_deadline(5.0)
                case 11:
                    one.close(0.0)
                case 12:
                    one.on_deadline(10.0)
                case 13:
                    one.close(0.0, cut=True)
    assert taken == set(TRANSITIONS)
