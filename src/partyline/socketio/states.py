"""Where a socket is between its CONNECT and its end, and the one table of how it gets there."""

from __future__ import annotations

from typing import Final

from partyline.wire.transitions import Key


class SocketState(Key):
    ENTERING = "entering"
    DOOMED = "doomed"
    DOOMED_WHOLE = "doomed with its connection"
    CONNECTED = "connected"
    LEAVING = "leaving"
    GONE = "gone"


class Step(Key):
    WELCOME = "its CONNECT is answered"
    DISCONNECT = "we disconnect it"
    CLOSE = "we close its connection"
    LOST = "its client has gone, or is refused"


# A missing pair changes nothing. A socket that is disconnected before its CONNECT is answered gets the answer first.
# Packets sent to a socket before we disconnected it are still for it, even if they wait for the log: it is leaving.
TRANSITIONS: Final[dict[tuple[SocketState, Step], SocketState]] = {
    (SocketState.ENTERING, Step.WELCOME): SocketState.CONNECTED,
    (SocketState.ENTERING, Step.DISCONNECT): SocketState.DOOMED,
    (SocketState.ENTERING, Step.CLOSE): SocketState.DOOMED_WHOLE,
    (SocketState.ENTERING, Step.LOST): SocketState.GONE,
    (SocketState.DOOMED, Step.WELCOME): SocketState.CONNECTED,
    (SocketState.DOOMED, Step.CLOSE): SocketState.DOOMED_WHOLE,
    (SocketState.DOOMED, Step.LOST): SocketState.GONE,
    (SocketState.DOOMED_WHOLE, Step.WELCOME): SocketState.CONNECTED,
    (SocketState.DOOMED_WHOLE, Step.LOST): SocketState.GONE,
    (SocketState.CONNECTED, Step.DISCONNECT): SocketState.LEAVING,
    (SocketState.CONNECTED, Step.LOST): SocketState.GONE,
}

OVER: Final = frozenset((SocketState.LEAVING, SocketState.GONE))
ANSWERED: Final = frozenset((SocketState.CONNECTED, *OVER))
