"""The phases of a connection that carries HTTP requests, one after the other (RFC 9112 9.3).

One request is in hand at a time. Requests that a client sends ahead wait unread until the answer before them is out, so
a pipeline costs its bytes and nothing more. A new connection is in the phase HEAD: it waits for its first request.
"""

from __future__ import annotations

from typing import Final

from partyline.wire.transitions import Key


class Phase(Key):
    IDLE = "idle"
    HEAD = "reading a head"
    BODY = "reading a body"
    ANSWER = "answering"
    LINGER = "lingering"
    CLOSING = "closing"
    SWITCHED = "switched"


class Step(Key):
    BEGIN = "the first byte of a head arrives"
    HEAD = "the head is whole, and a body follows"
    HEAD_ALONE = "the head is whole, and no body follows"
    BODY = "the body is whole"
    ANSWERED = "the answer is out"
    LAST = "the answer is out, and was the last"
    REFUSE = "what was sent is refused"
    SWITCH = "a WebSocket takes the connection over"
    LATE = "the deadline passes"
    DRAIN = "the server stops"


# A missing pair changes nothing, for example an answer for a client that has gone, or a second refusal.
# After an answer or a refusal in the middle of a request, the rest of that request could not be told from the next one.
# Closing at once would reset the connection, and the client might never see the answer: so it lingers.
TRANSITIONS: Final[dict[tuple[Phase, Step], Phase]] = {
    (Phase.IDLE, Step.BEGIN): Phase.HEAD,
    (Phase.IDLE, Step.LATE): Phase.CLOSING,
    (Phase.IDLE, Step.DRAIN): Phase.CLOSING,
    (Phase.HEAD, Step.HEAD): Phase.BODY,
    (Phase.HEAD, Step.HEAD_ALONE): Phase.ANSWER,
    (Phase.HEAD, Step.REFUSE): Phase.LINGER,
    (Phase.HEAD, Step.LATE): Phase.CLOSING,
    (Phase.HEAD, Step.DRAIN): Phase.CLOSING,
    (Phase.BODY, Step.BODY): Phase.ANSWER,
    (Phase.BODY, Step.ANSWERED): Phase.LINGER,
    (Phase.BODY, Step.LAST): Phase.LINGER,
    (Phase.BODY, Step.REFUSE): Phase.LINGER,
    (Phase.ANSWER, Step.ANSWERED): Phase.IDLE,
    (Phase.ANSWER, Step.LAST): Phase.CLOSING,
    (Phase.ANSWER, Step.REFUSE): Phase.LINGER,
    (Phase.ANSWER, Step.SWITCH): Phase.SWITCHED,
    (Phase.LINGER, Step.LATE): Phase.CLOSING,
}
