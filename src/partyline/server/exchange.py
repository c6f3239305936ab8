"""One HTTP request that is answered without ASGI: no task, no queue, one write.

For paths whose requests are many and small (Engine.IO's polling). Anything out of the ordinary goes the usual way: a
pipelined request, one that expects 100 Continue, one that is to be refused.

A client's next request mostly has the same head, but for the query and the length of its body. `Known` is what is
remembered of such a head, so that nothing else of it is looked at again. What the requests of one turn of the loop are
answered leaves together at its end: clients that wake up one by one cost the system more than twice as much.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol, Self

from msgspec import Struct

from partyline.errors import PartylineError, PayloadTooLarge
from partyline.server.answers import error_body, error_headers

if TYPE_CHECKING:
    from partyline.server.http import HttpProtocol
    from partyline.trust.perimeter import Peer

_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}

# A query of what RFC 3986 lets stand in one; anything else is for the parser to judge.
_REQUEST: Final = re.compile(rb"((?:GET|POST) /[^\s?#]*\?)([A-Za-z0-9\-._~!$&'()*+,;=:@/?%]*) HTTP/1\.1\r\n")
_LENGTH: Final = re.compile(rb"(?i)(?:\A|\r\n)content-length:[ \t]*([0-9]{1,9})(?=\r\n)")
_END_OF_HEAD: Final = b"\r\n\r\n"

Headers = list[tuple[bytes, bytes]]


class Direct(Protocol):
    """What answers exchanges of one path."""

    max_body: int

    def respond(self, exchange: Exchange) -> None:
        """The whole request is there. Answers it now or later; raises a PartylineError to refuse it."""
        ...


class Request(Struct, frozen=True):
    """A whole request in one read, cut but not looked at."""

    target: bytes  # method, path and `?`
    query: bytes
    head: bytes  # what stands behind the request line
    body: bytes

    @classmethod
    def of(cls, data: bytes) -> Self | None:
        """None for what does not look like one."""
        line = _REQUEST.match(data)
        end = data.find(_END_OF_HEAD)
        if line is None or end < 0:
            return None
        target, query = line.groups()
        return cls(target, query, data[line.end() : end + 2], data[end + 4 :])


class Known(Struct, frozen=True):
    """A head that was read and admitted: all of it that does not change with the body's length."""

    direct: Direct
    method: str
    before: bytes
    after: bytes  # with `before`, what stands around the length; empty where there is no body
    headers: Headers
    length_at: int  # the place of Content-Length among the headers; -1: there is none
    peer: Peer
    cors: bytes

    @classmethod
    def of(cls, request: Request, exchange: Exchange) -> Self | None:
        """What is to be remembered of a request that was read the usual way; None where that does not tell its body."""
        names = [name for name, _ in exchange.headers]
        lengths = _LENGTH.findall(request.head)
        if b"transfer-encoding" in names or not exchange.keep_alive or names.count(b"content-length") != len(lengths):
            return None
        before, after, at = request.head, b"", -1
        if lengths:
            found = _LENGTH.search(request.head)
            if len(lengths) > 1 or found is None or int(lengths[0]) != len(request.body):
                return None
            before, after = request.head[: found.start(1)], request.head[found.end(1) :]
            at = names.index(b"content-length")
        elif request.body:
            return None
        return cls(exchange.direct, exchange.method, before, after, exchange.headers, at, exchange.peer, exchange.cors)

    def headers_of(self, request: Request) -> Headers | None:
        """The headers of another request to the same target; None where anything else in them has changed."""
        head, before, after = request.head, self.before, self.after
        if self.length_at < 0:
            return self.headers if head == before and not request.body else None
        length = head[len(before) : len(head) - len(after)]
        if not (head.startswith(before) and head.endswith(after) and length.isdigit() and len(length) < 10):
            return None
        if int(length) != len(request.body):
            return None
        headers = self.headers.copy()
        headers[self.length_at] = (b"content-length", length)
        return headers


class Exchange:
    """A request and its answer.

    `gone` is called if the client goes away before it is answered; `cors` are lines of the answer's head. The rest of
    what is public here is what uvicorn and server/http.py look at in a request of theirs.
    """

    __slots__ = (
        "_answer",
        "_body",
        "_protocol",
        "_size",
        "cors",
        "direct",
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
        headers: Headers,
        peer: Peer,
        cors: bytes = b"",
        *,
        keep_alive: bool,
    ) -> None:
        self._protocol = protocol
        self._body: list[bytes] = []
        self._size = 0
        self.direct = direct
        self.method = method
        self.query = query
        self.headers = headers
        self.peer = peer
        self.cors = cors
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
        if self._size > self.direct.max_body:
            raise too_large(self.direct.max_body)
        self._body.append(piece)

    def respond(self) -> None:
        """All of it has come. Raises PartylineError."""
        self.direct.respond(self)

    def answer(self, headers: Headers, body: bytes, status: int = 200) -> None:
        """Answer, at the end of this turn of the loop. Does nothing if the client has gone, or has an answer."""
        if self.disconnected or self.response_started:
            return
        self.response_started = True
        self.gone = None
        protocol = self._protocol
        parts = [_LINES[status], protocol.site.head, self.cors, head_lines(headers)]
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts += (b"content-length: %d\r\n\r\n" % len(body), body)
        self._answer = b"".join(parts)
        protocol.site.turn.add(self)

    def leave(self) -> None:
        """The answer leaves."""
        protocol = self._protocol
        if self.disconnected or protocol.transport.is_closing():
            return
        self.response_complete = True
        protocol.transport.write(self._answer)
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


def head_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they stand in an answer."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit} bytes", limit="max_message")
