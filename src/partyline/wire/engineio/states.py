"""The states of an Engine.IO session, and the one table of the steps between them."""

from __future__ import annotations

from typing import Final

from partyline.wire.transitions import Key


class SessionState(Key):
    POLLING = "polling"
    PROBING = "probing"
    UPGRADING = "upgrading"
    WEBSOCKET = "websocket"
    PARTING = "parting"
    CLOSING = "closing"
    REFUSING = "refusing"
    CLOSED = "closed"


class Step(Key):
    GET = "a GET arrives"
    SECOND_GET = "a GET arrives while one hangs"
    ABORT = "the GET that hangs is aborted"
    POST = "a POST arrives"
    ATTACH = "a WebSocket arrives for it"
    PROBE = "`2probe` arrives there"
    UPGRADE = "`5` arrives there"
    DETACH = "that WebSocket is lost, misbehaves or is late"
    LOSE = "its WebSocket is lost"
    LEAVE = "a close packet arrives"
    BREAK = "a malformed or misplaced packet arrives"
    SILENCE = "the heartbeat is not answered"
    END = "we close it"
    CUT = "we close it for what its client did"
    DONE = "the rest is fetched, or not in time"


# A missing key is the error path: a request is refused, a WebSocket closed, anything else ignored; the session stays as
# it was. After we close a session, its client fetches what was sent before: by polling (closing), or on the WebSocket
# that it is switching to (parting). A client that closed the session, or was cut off, may not post (refusing).
TRANSITIONS: Final[dict[tuple[SessionState, Step], SessionState]] = {
    (SessionState.POLLING, Step.GET): SessionState.POLLING,
    (SessionState.POLLING, Step.SECOND_GET): SessionState.CLOSED,
    (SessionState.POLLING, Step.ABORT): SessionState.CLOSED,
    (SessionState.POLLING, Step.POST): SessionState.POLLING,
    (SessionState.POLLING, Step.ATTACH): SessionState.PROBING,
    (SessionState.POLLING, Step.LEAVE): SessionState.REFUSING,
    (SessionState.POLLING, Step.BREAK): SessionState.CLOSED,
    (SessionState.POLLING, Step.SILENCE): SessionState.CLOSED,
    (SessionState.POLLING, Step.END): SessionState.CLOSING,
    (SessionState.POLLING, Step.CUT): SessionState.REFUSING,
    (SessionState.PROBING, Step.GET): SessionState.PROBING,
    (SessionState.PROBING, Step.SECOND_GET): SessionState.CLOSED,
    (SessionState.PROBING, Step.ABORT): SessionState.CLOSED,
    (SessionState.PROBING, Step.POST): SessionState.PROBING,
    (SessionState.PROBING, Step.PROBE): SessionState.UPGRADING,
    (SessionState.PROBING, Step.DETACH): SessionState.POLLING,
    (SessionState.PROBING, Step.LEAVE): SessionState.REFUSING,
    (SessionState.PROBING, Step.BREAK): SessionState.CLOSED,
    (SessionState.PROBING, Step.SILENCE): SessionState.CLOSED,
    (SessionState.PROBING, Step.END): SessionState.CLOSING,
    (SessionState.PROBING, Step.CUT): SessionState.REFUSING,
    (SessionState.UPGRADING, Step.GET): SessionState.UPGRADING,
    (SessionState.UPGRADING, Step.POST): SessionState.UPGRADING,
    (SessionState.UPGRADING, Step.PROBE): SessionState.UPGRADING,
    (SessionState.UPGRADING, Step.UPGRADE): SessionState.WEBSOCKET,
    (SessionState.UPGRADING, Step.DETACH): SessionState.POLLING,
    (SessionState.UPGRADING, Step.LEAVE): SessionState.REFUSING,
    (SessionState.UPGRADING, Step.BREAK): SessionState.CLOSED,
    (SessionState.UPGRADING, Step.SILENCE): SessionState.CLOSED,
    (SessionState.UPGRADING, Step.END): SessionState.PARTING,
    (SessionState.UPGRADING, Step.CUT): SessionState.REFUSING,
    (SessionState.WEBSOCKET, Step.LOSE): SessionState.CLOSED,
    (SessionState.WEBSOCKET, Step.LEAVE): SessionState.CLOSED,
    (SessionState.WEBSOCKET, Step.BREAK): SessionState.CLOSED,
    (SessionState.WEBSOCKET, Step.SILENCE): SessionState.CLOSED,
    (SessionState.WEBSOCKET, Step.END): SessionState.CLOSED,
    (SessionState.WEBSOCKET, Step.CUT): SessionState.CLOSED,
    (SessionState.PARTING, Step.GET): SessionState.PARTING,
    (SessionState.PARTING, Step.POST): SessionState.PARTING,
    (SessionState.PARTING, Step.PROBE): SessionState.PARTING,
    (SessionState.PARTING, Step.UPGRADE): SessionState.CLOSED,
    (SessionState.PARTING, Step.DETACH): SessionState.CLOSING,
    (SessionState.PARTING, Step.DONE): SessionState.CLOSED,
    (SessionState.CLOSING, Step.GET): SessionState.CLOSING,
    (SessionState.CLOSING, Step.POST): SessionState.CLOSING,
    (SessionState.CLOSING, Step.DONE): SessionState.CLOSED,
    (SessionState.REFUSING, Step.GET): SessionState.REFUSING,
    (SessionState.REFUSING, Step.DONE): SessionState.CLOSED,
}
