"""Which namespaces one connection is in: CONNECT, its answer, DISCONNECT; sans-IO.

Clients of Socket.IO 4 send no CONNECT for the main namespace: the server calls `ask("/")` when the connection opens.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from partyline.errors import InvalidPacket
from partyline.wire.socketio.packets import Ack, Connect, Disconnect, Event, Packet


class NamespaceState(Enum):
    ABSENT = "absent"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DROPPED = "dropped"

    __hash__ = object.__hash__


class Step(Enum):
    ASK = "CONNECT arrives"
    ACCEPT = "we accept"
    REFUSE = "we refuse"
    TALK = "an event or an acknowledgement arrives"
    LEAVE = "DISCONNECT arrives"
    DROP = "we disconnect it"

    __hash__ = object.__hash__


# Of one namespace on one connection. A missing key is the error path: for a packet the end of the connection, for what
# we do nothing at all.
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
    (NamespaceState.DROPPED, Step.TALK): NamespaceState.DROPPED,  # it was under way when we disconnected it: dropped
    (NamespaceState.DROPPED, Step.LEAVE): NamespaceState.ABSENT,
}

_NEVER: Final = float("inf")


class Namespaces:
    """The namespaces of one connection: at most `most`, and the first of them within `connect_timeout` seconds.

    A namespace that we disconnected is remembered for what was under way from its client. It counts until another one
    needs its place.
    """

    __slots__ = ("_dropped", "_due", "_most", "_states")

    def __init__(self, now: float, *, connect_timeout: float = 45.0, most: int = 1_000) -> None:
        self._states: dict[str, NamespaceState] = {}
        self._dropped: dict[str, None] = {}  # those of them that are DROPPED, the longest first
        self._due = now + connect_timeout
        self._most = most

    # The client

    def receive(self, packet: Packet) -> bool:
        """Whether a packet is to be handled; False for one that was under way when we disconnected its namespace, and
        for a second CONNECT before the first one is answered.

        A CONNECT wants `accept` or `refuse` in turn. Raises InvalidPacket if the packet has no place: the
        connection has to be closed.
        """
        kind = type(packet)
        state = self._states.get(packet.namespace, NamespaceState.ABSENT)
        if kind is Event or kind is Ack:
            if state is NamespaceState.CONNECTED:
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
        return state is not (NamespaceState.CONNECTING if step is Step.ASK else NamespaceState.DROPPED)

    def ask(self, namespace: str) -> None:
        """Act as if a CONNECT had come."""
        self.receive(Connect(namespace, None))

    # The server

    def accept(self, namespace: str) -> bool:
        """Connect it; False where its client has gone."""
        if not self._step(namespace, Step.ACCEPT):
            return False
        self._due = _NEVER
        return True

    def refuse(self, namespace: str) -> bool:
        """Do not connect it; False where nothing had asked."""
        return self._step(namespace, Step.REFUSE)

    def drop(self, namespace: str) -> bool:
        """Disconnect it; False where it was not connected."""
        return self._step(namespace, Step.DROP)

    # Time

    def next_deadline(self) -> float:
        """When the client must have connected to some namespace; infinity once it has."""
        return self._due

    def on_deadline(self, now: float) -> bool:
        """Whether the connection has to be closed."""
        return now >= self._due

    def _step(self, namespace: str, step: Step) -> bool:
        before = self._states.get(namespace, NamespaceState.ABSENT)
        after = TRANSITIONS.get((before, step))
        if after is None:
            return False
        if before is NamespaceState.ABSENT and len(self._states) >= self._most:
            self._make_room()
        self._dropped.pop(namespace, None)
        if after is NamespaceState.ABSENT:
            del self._states[namespace]
            return True
        self._states[namespace] = after
        if after is NamespaceState.DROPPED:
            self._dropped[namespace] = None
        return True

    def _make_room(self) -> None:
        """Forget the namespace that was dropped the longest ago. Raises InvalidPacket if the client is in all."""
        if not self._dropped:
            raise InvalidPacket(
                f"a connection may be in {self._most} namespaces (namespaces_per_connection)",
                limit="namespaces_per_connection",
            )
        oldest = next(iter(self._dropped))
        del self._dropped[oldest], self._states[oldest]
