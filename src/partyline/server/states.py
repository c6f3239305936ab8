"""Where a WebSocket connection is between its 101 and its end, and the one table of how it gets there."""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """Where a connection is between its 101 and its end."""

    __hash__ = object.__hash__

    OPEN = "open"
    PINGED = "pinged"
    CLOSING = "closing"
    LINGERING = "lingering"
    GONE = "gone"


class Step(Enum):
    PING = "our ping leaves"
    HEARD = "something was heard since"
    CLOSE = "our close frame is written or queued"
    FAIL = "the peer broke a rule"
    END = "both close frames are out"
    LOST = "the transport is gone"

    __hash__ = object.__hash__


# A missing key changes nothing: a second close finds it closed.
TRANSITIONS: Final[dict[tuple[State, Step], State]] = {
    (State.OPEN, Step.PING): State.PINGED,
    (State.PINGED, Step.HEARD): State.OPEN,
    (State.OPEN, Step.CLOSE): State.CLOSING,
    (State.PINGED, Step.CLOSE): State.CLOSING,
    (State.OPEN, Step.FAIL): State.LINGERING,
    (State.PINGED, Step.FAIL): State.LINGERING,
    (State.CLOSING, Step.FAIL): State.LINGERING,
    (State.CLOSING, Step.END): State.LINGERING,
    (State.OPEN, Step.LOST): State.GONE,
    (State.PINGED, Step.LOST): State.GONE,
    (State.CLOSING, Step.LOST): State.GONE,
    (State.LINGERING, Step.LOST): State.GONE,
}
