"""Which namespaces one connection is in: CONNECT, its answer, DISCONNECT; sans-IO.

Clients of Socket.IO 4 send no CONNECT for the main namespace: the server calls `ask("/")` when the connection opens.
"""

from __future__ import annotations

from typing import Final

from partyline.errors import InvalidPacket
from partyline.wire.socketio.packets import Ack, Connect, Disconnect, Event, Packet
from partyline.wire.transitions import Key


class NamespaceState(Key):
    ABSENT = "absent"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DROPPED = "dropped"


class Step(Key):
    ASK = "CONNECT arrives"
    ACCEPT = "we accept"
    REFUSE = "we refuse"
    TALK = "an event or an acknowledgement arrives"
    LEAVE = "DISCONNECT arrives"
    DROP = "we disconnect it"


# For one namespace on one connection. A missing key is the error path: a packet ends the connection, a step of ours
# does nothing.
TRANSITIONS: Final[dict[tuple[NamespaceState, Step], NamespaceState]] = {
    (NamespaceState.ABSENT, Step.ASK): NamespaceState.CONNECTING,
    (
        NamespaceState.CONNECTING,
        Step.ASK,
    ): NamespaceState.CONNECTING,  # asked twice: one answer for both
    (NamespaceState.CONNECTING, Step.ACCEPT): NamespaceState.CONNECTED,
    (NamespaceState.CONNECTING, Step.REFUSE): NamespaceState.ABSENT,
    (NamespaceState.CONNECTED, Step.TALK): NamespaceState.CONNECTED,
    (NamespaceState.CONNECTED, Step.LEAVE): NamespaceState.ABSENT,
    (NamespaceState.CONNECTED, Step.DROP): NamespaceState.DROPPED,
    (NamespaceState.DROPPED, Step.ASK): NamespaceState.CONNECTING,
    (NamespaceState.DROPPED, Step.TALK): NamespaceState.DROPPED,  # sent before it knew that we disconnected it: ignored
    (NamespaceState.DROPPED, Step.LEAVE): NamespaceState.ABSENT,
}

_NEVER: Final = float("inf")
# Looked up for each packet: in an Enum that takes ten times as long on Python 3.11.
_ABSENT: Final = NamespaceState.ABSENT
_CONNECTING: Final = NamespaceState.CONNECTING
_CONNECTED: Final = NamespaceState.CONNECTED
_DROPPED: Final = NamespaceState.DROPPED
_ASK: Final = Step.ASK
_ACCEPT: Final = Step.ACCEPT


class Namespaces:
    """The namespaces of one connection: at most `most`, and the first of them within `connect_timeout` seconds.

    A namespace that we disconnected is remembered, since packets of its client may be under way. It counts until
    another namespace needs its place.
    """

    __slots__ = ("_dropped", "_due", "_most", "_states")

    def __init__(self, now: float, *, connect_timeout: float = 45.0, most: int = 1_000) -> None:
        self._states: dict[str, NamespaceState] = {}
        self._dropped: dict[str, None] = {}  # those that are DROPPED, the earliest first
        self._due = now + connect_timeout
        self._most = most

    # The client

    def receive(self, packet: Packet) -> bool:
        """Whether to handle a packet; False if it was under way when we disconnected its namespace, or is a second
        CONNECT before the first one is answered.

        Each CONNECT must be followed by `accept` or `refuse`. Raises InvalidPacket if the packet is not allowed here:
        the connection has to be closed.
        """
        kind = type(packet)
        state = self._states.get(packet.namespace, _ABSENT)
        if kind is Event or kind is Ack:
            if state is _CONNECTED:
                return True
            step = Step.TALK
        elif kind is Connect:
            step = _ASK
        elif kind is Disconnect:
            step = Step.LEAVE
        else:
            raise InvalidPacket("only servers refuse a namespace")
        if not self._step(packet.namespace, step):
            raise InvalidPacket(f"this packet has no place where a namespace is {state.value}")
        return state is not (_CONNECTING if step is _ASK else _DROPPED)

    def ask(self, namespace: str) -> None:
        """Act as if a CONNECT had arrived."""
        self.receive(Connect(namespace, None))

    # The server

    def accept(self, namespace: str) -> bool:
        """Connect it; False if its client has left."""
        if not self._step(namespace, _ACCEPT):
            return False
        self._due = _NEVER
        return True

    def refuse(self, namespace: str) -> bool:
        """Do not connect it; False if no CONNECT was waiting."""
        return self._step(namespace, Step.REFUSE)

    def drop(self, namespace: str) -> bool:
        """Disconnect it; False if it was not connected."""
        return self._step(namespace, Step.DROP)

    # Time

    def next_deadline(self) -> float:
        """When the client must have connected to some namespace; infinity once it has."""
        return self._due

    def on_deadline(self, now: float) -> bool:
        """Whether the connection has to be closed."""
        return now >= self._due

    def _step(self, namespace: str, step: Step) -> bool:
        before = self._states.get(namespace, _ABSENT)
        after = TRANSITIONS.get((before, step))
        if after is None:
            return False
        if before is _ABSENT and len(self._states) >= self._most:
            self._make_room()
        self._dropped.pop(namespace, None)
        if after is _ABSENT:
            del self._states[namespace]
            return True
        self._states[namespace] = after
        if after is _DROPPED:
            self._dropped[namespace] = None
        return True

    def _make_room(self) -> None:
        """Forget the namespace that was dropped first. Raises InvalidPacket if none was dropped."""
        if not self._dropped:
            raise InvalidPacket(
                f"a connection may be in {self._most} namespaces (namespaces_per_connection)",
                limit="namespaces_per_connection",
            )
        oldest = next(iter(self._dropped))
        del self._dropped[oldest], self._states[oldest]
