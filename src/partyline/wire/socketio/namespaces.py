"""Which namespaces one connection is in: CONNECT, its answer, DISCONNECT; sans-IO.

Socket.IO 4 has no CONNECT for the main namespace: its server asks itself, with `ask("/")`, when the connection opens.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from partyline.errors import InvalidPacket
from partyline.wire.socketio.packets import Ack, Connect, Disconnect, Event, Packet


class State(Enum):
    ABSENT = "absent"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DROPPED = "dropped"


class Step(Enum):
    ASK = "CONNECT arrives"
    ACCEPT = "we accept"
    REFUSE = "we refuse"
    TALK = "an event or an acknowledgement arrives"
    LEAVE = "DISCONNECT arrives"
    DROP = "we disconnect it"


# Of one namespace on one connection. A missing key is the error path: for a packet the end of the connection, for what
# we do nothing at all.
TRANSITIONS: Final[dict[tuple[State, Step], State]] = {
    (State.ABSENT, Step.ASK): State.CONNECTING,
    (State.CONNECTING, Step.ASK): State.CONNECTING,  # asked twice in one breath: one answer is for both
    (State.CONNECTING, Step.ACCEPT): State.CONNECTED,
    (State.CONNECTING, Step.REFUSE): State.ABSENT,
    (State.CONNECTED, Step.TALK): State.CONNECTED,
    (State.CONNECTED, Step.LEAVE): State.ABSENT,
    (State.CONNECTED, Step.DROP): State.DROPPED,
    (State.DROPPED, Step.ASK): State.CONNECTING,
    (State.DROPPED, Step.TALK): State.DROPPED,  # it was under way when we disconnected it: dropped
    (State.DROPPED, Step.LEAVE): State.ABSENT,
}

_NEVER: Final = float("inf")


class Namespaces:
    """The namespaces of one connection; at most `most`, and one of them within `connect_timeout` seconds."""

    __slots__ = ("_due", "_most", "_states")

    def __init__(self, now: float, *, connect_timeout: float = 45.0, most: int = 1_000) -> None:
        self._states: dict[str, State] = {}
        self._due = now + connect_timeout
        self._most = most

    def state(self, namespace: str) -> State:
        return self._states.get(namespace, State.ABSENT)

    def connected(self) -> list[str]:
        """The namespaces it is in."""
        return [name for name, state in self._states.items() if state is State.CONNECTED]

    # The client

    def receive(self, packet: Packet) -> bool:
        """Whether a packet is to be handled; False for one that was under way when we disconnected its namespace, and
        for a CONNECT behind one that is not answered yet.

        A CONNECT wants `accept` or `refuse` in turn. Raises InvalidPacket where the packet has no place: the
        connection has to be closed.
        """
        kind = type(packet)
        state = self._states.get(packet.namespace, State.ABSENT)
        if kind is Event or kind is Ack:
            if state is State.CONNECTED:
                return True
            step = Step.TALK
        elif kind is Connect:
            step = Step.ASK
        elif kind is Disconnect:
            step = Step.LEAVE
        else:
            raise InvalidPacket("only servers refuse a namespace")
        if not self._step(packet.namespace, step):
            raise InvalidPacket(f"this packet has no place where a namespace is {state.value}")
        return state is not State.CONNECTING if step is Step.ASK else state is not State.DROPPED

    def ask(self, namespace: str) -> None:
        """As if a CONNECT had come."""
        self.receive(Connect(namespace, None))

    # The server

    def accept(self, namespace: str) -> bool:
        """It is connected, unless it is gone: then False."""
        if not self._step(namespace, Step.ACCEPT):
            return False
        self._due = _NEVER
        return True

    def refuse(self, namespace: str) -> bool:
        """It is not connected; False where nothing had asked."""
        return self._step(namespace, Step.REFUSE)

    def drop(self, namespace: str) -> bool:
        """We disconnect it; False where it was not connected."""
        return self._step(namespace, Step.DROP)

    # Time

    def next_deadline(self) -> float:
        """When it must have connected to some namespace; infinity once it has."""
        return self._due

    def on_deadline(self, now: float) -> bool:
        """Whether the connection has to be closed."""
        return now >= self._due

    def _step(self, namespace: str, step: Step) -> bool:
        after = TRANSITIONS.get((self._states.get(namespace, State.ABSENT), step))
        if after is None:
            return False
        if after is State.ABSENT:
            del self._states[namespace]
        else:
            if step is Step.ASK and namespace not in self._states and len(self._states) >= self._most:
                raise InvalidPacket(f"a connection may be in {self._most} namespaces")
            self._states[namespace] = after
        return True
