"""One HTTP request that is answered without ASGI: no task, no queue, one write.

For paths whose requests are many and small (Engine.IO's polling). Anything out of the ordinary goes the usual way: a
pipelined request, one that expects 100 Continue, one that a page of an origin asks.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from partyline.errors import PartylineError, PayloadTooLarge
from partyline.server.answers import error_body, error_headers

if TYPE_CHECKING:
    from partyline.server.http import HttpProtocol
    from partyline.trust.perimeter import Peer

_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


class Direct(Protocol):
    """What answers exchanges of one path."""

    max_body: int

    def respond(self, exchange: Exchange) -> None:
        """The whole request is there. Answers it now or later; raises a PartylineError to refuse it."""
        ...


class Exchange:
    """A request and its answer.

    `gone` is called if the client goes away before it is answered. The rest of what is public here is what uvicorn and
    server/http.py look at in a request of theirs.
    """

    __slots__ = (
        "_body",
        "_direct",
        "_protocol",
        "_size",
        "disconnected",
        "gone",
        "headers",
        "keep_alive",
        "method",
        "peer",
        "query",
        "response_complete",
        "response_started",
    )

    def __init__(
        self,
        protocol: HttpProtocol,
        direct: Direct,
        method: str,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        peer: Peer,
        *,
        keep_alive: bool,
    ) -> None:
        self._protocol = protocol
        self._direct = direct
        self._body: list[bytes] = []
        self._size = 0
        self.method = method
        self.query = query
        self.headers = headers
        self.peer = peer
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.gone: Callable[[], None] | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self._body)

    def take(self, piece: bytes) -> None:
        """A piece of the body has come. Raises PayloadTooLarge."""
        self._size += len(piece)
        if self._size > self._direct.max_body:
            raise too_large(self._direct.max_body)
        self._body.append(piece)

    def respond(self) -> None:
        """All of it has come. Raises PartylineError."""
        self._direct.respond(self)

    def answer(self, headers: list[tuple[bytes, bytes]], body: bytes, status: int = 200) -> None:
        """Write the answer. Does nothing if the client has gone, or has one already."""
        if self.disconnected or self.response_complete:
            return
        self.response_started = self.response_complete = True
        self.gone = None
        protocol = self._protocol
        parts = [_LINES[status]]
        for name, value in protocol.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        for name, value in headers:
            if name == b"connection" and value == b"close":
                self.keep_alive = False
            parts += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts += (b"content-length: %d\r\n\r\n" % len(body), body)
        protocol.transport.write(b"".join(parts))
        if not self.keep_alive:
            protocol.hang_up()
        protocol.on_response_complete()

    def refuse(self, error: PartylineError) -> None:
        """Answer with an error in its form."""
        body = error_body(error)
        headers = [pair for pair in error_headers(error, body) if pair[0] not in (b"content-length", b"connection")]
        if dict(error.headers()).get("connection") == "close":
            self.keep_alive = False
        self.answer(headers, body, error.http_status)

    @property
    def message_event(self) -> Exchange:
        """What is told that something happened to the connection."""
        return self

    def set(self) -> None:
        """Something happened."""
        if self.disconnected:
            gone, self.gone = self.gone, None
            if gone is not None:
                gone()


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit} bytes", limit="max_message")
