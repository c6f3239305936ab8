"""Where a WebSocket connection is between its 101 and its end, and the one table of how it gets there."""

from __future__ import annotations

from typing import Final

from partyline.wire.transitions import Key


class WebSocketState(Key):
    """Where a connection is between its 101 and its end."""

    OPEN = "open"
    PINGED = "pinged"
    CLOSING = "closing"
    LINGERING = "lingering"
    GONE = "gone"


class Step(Key):
    PING = "our ping leaves"
    HEARD = "something was heard since"
    CLOSE = "our close frame is written or queued"
    FAIL = "the peer broke a rule"
    END = "both close frames are out"
    LOST = "the transport is gone"


# A missing key changes nothing: a second close finds it closed.
TRANSITIONS: Final[dict[tuple[WebSocketState, Step], WebSocketState]] = {
    (WebSocketState.OPEN, Step.PING): WebSocketState.PINGED,
    (WebSocketState.PINGED, Step.HEARD): WebSocketState.OPEN,
    (WebSocketState.OPEN, Step.CLOSE): WebSocketState.CLOSING,
    (WebSocketState.PINGED, Step.CLOSE): WebSocketState.CLOSING,
    (WebSocketState.OPEN, Step.FAIL): WebSocketState.LINGERING,
    (WebSocketState.PINGED, Step.FAIL): WebSocketState.LINGERING,
    (WebSocketState.CLOSING, Step.FAIL): WebSocketState.LINGERING,
    (WebSocketState.CLOSING, Step.END): WebSocketState.LINGERING,
    (WebSocketState.OPEN, Step.LOST): WebSocketState.GONE,
    (WebSocketState.PINGED, Step.LOST): WebSocketState.GONE,
    (WebSocketState.CLOSING, Step.LOST): WebSocketState.GONE,
    (WebSocketState.LINGERING, Step.LOST): WebSocketState.GONE,
}
