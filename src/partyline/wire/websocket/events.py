"""What happens on a WebSocket connection: its events, its states, and the limits of what one peer may send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from partyline.wire.transitions import Key
from partyline.wire.websocket.deflate import InflatedTooLarge, InflateError, Inflater
from partyline.wire.websocket.frames import TEXT

_SHORT: Final = 1_024  # bytes


@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The peer's close frame. `code` is 1005 if it carried none (RFC 6455 7.1.5)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Violation:
    """Why the connection must be failed (RFC 6455 7.1.7), and the close code for it.

    `limit` names the one of the Limits that was passed, if any.
    """

    code: int
    reason: str
    limit: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Packed:
    """A compressed message as it came: the caller decides when to pay for inflating it."""

    opcode: int
    data: bytes

    def short_text(self) -> str:
        """The text if it is short, and so cheap to inflate; empty otherwise."""
        if self.opcode != TEXT or len(self.data) > _SHORT:
            return ""
        try:
            return Inflater(_SHORT).inflate(self.data, final=True).decode()
        except (InflateError, InflatedTooLarge, UnicodeDecodeError):
            return ""


Event: TypeAlias = str | bytes | Packed | Ping | Pong | Close | Violation


class CloseState(Key):
    OPEN = "open"
    CLOSE_SENT = "close sent"
    CLOSE_RECEIVED = "close received"
    CLOSED = "closed"


class Step(Key):
    SEND_CLOSE = "we send a close frame"
    RECEIVE_CLOSE = "the peer's close frame arrives"
    FAIL = "the peer breaks the protocol or a limit"


# The close handshake (RFC 6455 7). A missing key is an error of the caller; a close may begin on both sides at once.
TRANSITIONS: Final[dict[tuple[CloseState, Step], CloseState]] = {
    (CloseState.OPEN, Step.SEND_CLOSE): CloseState.CLOSE_SENT,
    (CloseState.OPEN, Step.RECEIVE_CLOSE): CloseState.CLOSE_RECEIVED,
    (CloseState.OPEN, Step.FAIL): CloseState.CLOSE_RECEIVED,  # nothing more is read; our close frame still says why
    (CloseState.CLOSE_SENT, Step.RECEIVE_CLOSE): CloseState.CLOSED,
    (CloseState.CLOSE_SENT, Step.FAIL): CloseState.CLOSED,
    (CloseState.CLOSE_RECEIVED, Step.SEND_CLOSE): CloseState.CLOSED,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may make us hold: bytes of a message as received and as inflated, frames per message."""

    max_message: int = 1_000_000
    max_inflated: int = 1_000_000
    max_fragments: int = 1_024

    def __post_init__(self) -> None:
        if self.max_message < 125:
            raise ValueError("max_message must be at least 125 bytes: a frame that short is never counted")
