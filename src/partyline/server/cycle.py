"""One HTTP request that an ASGI application answers (ASGI 3.0, HTTP 2.3)."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message

from partyline import log
from partyline.errors import PartylineError
from partyline.server.answers import answer_error, checked
from partyline.server.exchange import head_lines, status_line
from partyline.server.site import Site
from partyline.wire.http.head import Head, Headers

_log = log.get("server")

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_BODY: Final = frozenset((204, 304))  # RFC 9110 6.4.1


class Owner(Protocol):
    """What a cycle needs of its connection."""

    @property
    def blocked(self) -> bool: ...

    @property
    def ended(self) -> bool: ...

    @property
    def site(self) -> Site: ...

    def write(self, data: bytes) -> None: ...

    def read_on(self) -> None: ...

    def overloaded(self, size: int) -> PartylineError | None: ...

    def answered(self, in_hand: Any) -> None: ...

    def abort(self) -> None: ...


class ClientGone(ClientDisconnect, OSError):
    """A piece of an answer was sent after its client had gone (ASGI, HTTP 2.4: an OSError)."""


class Cycle:
    """A request in the hands of an application."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_expects",
        "_handed_over",
        "_head",
        "_left",
        "_listening",
        "_lost",
        "_scope",
        "_size",
        "_start",
        "_told",
        "_wake",
        "_whole",
        "answered",
        "complete",
        "failed",
        "keep_alive",
        "writable",
    )

    def __init__(self, connection: Owner, head: Head, scope: dict[str, Any]) -> None:
        scope["partyline.abort"] = connection.abort
        self._connection = connection
        self._head = head
        self._scope = scope
        self._body: list[bytes] = []
        self._size = 0
        self._whole = not head.length  # the whole body has come
        self._handed_over = False  # the application has the whole body
        self._expects = head.expects
        self._wake = asyncio.Event()  # for `receive`
        self._listening = False
        self._lost = False
        self._told = False  # something was sent since
        self._start: tuple[int, Headers] | None = None  # of an answer: status and headers
        self._chunked = False
        self._left: int | None = None  # bytes of the body that Content-Length still promises
        self.keep_alive = head.keep_alive
        self.answered = False
        self.complete = False
        self.failed = False
        self.writable = asyncio.Event()

    # server.http.InHand

    @property
    def headers(self) -> Headers:
        return self._head.headers

    @property
    def watched(self) -> bool:
        """Whether the application waits only for its client's disconnect."""
        return self._listening and self._whole

    @property
    def backlog(self) -> int:
        """Bytes of the body that wait for the application."""
        return self._size

    def take(self, piece: bytes) -> None:
        """A piece of the body has come."""
        if not self.complete:
            self._body.append(piece)
            self._size += len(piece)
            self._wake.set()

    def respond(self) -> None:
        """The whole body has come."""
        self._whole = True
        self._wake.set()

    def lost(self) -> None:
        """The client has gone, or gets another answer."""
        self._lost = True
        self._wake.set()
        self.writable.set()

    # The application

    async def run(self, app: ASGIApp) -> None:
        """Let the application answer. An exception is logged and answered with 500."""
        try:
            await app(self._scope, self._receive, self._send)
        except asyncio.CancelledError:
            self._connection.abort()
            raise
        except (Exception, SystemExit):  # a handler ends only its own request
            if not self._lost:
                self._connection.site.counters.errors += 1
                _log.exception("an application failed", method=self._head.method)
        if self.complete or self._lost:
            return
        if self.answered:
            self._connection.abort()  # too late for another answer
        else:
            self._start = None
            failed = PartylineError("the server failed; its log says why, and the request may be tried again")
            await answer_error(failed, self._send)

    async def _receive(self) -> Message:
        if self._expects and not self.answered and not self._lost:
            self._expects = False
            self._connection.write(CONTINUE)
        while not (self._body or self._whole or self._lost or self.complete):
            self._wake.clear()
            await self._wake.wait()
        if not (self._handed_over or self._lost or self.complete):
            return self._next_piece()
        self._listening = True
        while not (self._lost or self.complete or self._connection.ended):
            self._wake.clear()
            await self._wake.wait()
        return {"type": "http.disconnect"}

    def _next_piece(self) -> Message:
        body, self._handed_over = b"".join(self._body), self._whole
        self._body.clear()
        self._size = 0
        self._connection.read_on()
        return {"type": "http.request", "body": body, "more_body": not self._handed_over}

    async def _send(self, message: Message) -> None:
        while self._connection.blocked and not self._lost:
            self.writable.clear()
            await self.writable.wait()
        kind = message["type"]
        if self._lost:
            # The first lost piece raises nothing: the application may be about to hear of it by `receive`, and to
            # end in its own way. A stream that only sends would go on for ever.
            told, self._told = self._told, True
            if told and message.get("more_body", False):
                raise ClientGone("the client has gone")
            return
        if self.complete:
            if self._head.method == "HEAD" and kind == "http.response.body":
                return  # its answer was complete with its head
            raise RuntimeError(f"{kind} was sent after the answer was complete")
        if not self.answered and self._start is None:
            if kind != "http.response.start":
                raise RuntimeError(f"http.response.start was expected, not {kind}")
            self._begin(message)
        elif kind != "http.response.body":
            raise RuntimeError(f"http.response.body was expected, not {kind}")
        else:
            await self._continue(message.get("body", b""), more=message.get("more_body", False))

    def _begin(self, message: Message) -> None:
        """Keep the head of an answer until the end of this turn, so that its body leaves in the same write."""
        self._start = message["status"], checked(message.get("headers", ()))
        if self._head.method == "HEAD":
            self._write_head(*self._start)
            self._finish()
        else:
            asyncio.get_running_loop().call_soon(self._write_start)

    def _write_start(self) -> None:
        start, self._start = self._start, None
        if start is not None and not self._lost:
            self._write_head(*start, more=True)

    async def _continue(self, body: bytes, *, more: bool) -> None:
        start, self._start = self._start, None
        if start is not None:
            refusal = self._connection.overloaded(len(body))
            if refusal is not None:
                self._connection.site.counters.refuse(refusal)
                await answer_error(refusal, self._send)
                return
            self._write_head(*start, body, more=more)
        else:
            self._write_body(body, more=more)
        if not more:
            if self._left:
                raise RuntimeError(f"the answer's body is {self._left} bytes shorter than its Content-Length")
            self._finish()

    def _finish(self) -> None:
        self.complete = True
        self._wake.set()
        self._connection.answered(self)

    def _write_head(self, status: int, headers: Headers, body: bytes = b"", *, more: bool = False) -> None:
        head, site = self._head, self._connection.site
        names = set()
        for name, value in headers:
            names.add(name)
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive = False
        headers = [pair for pair in headers if pair[0] != b"connection"]
        bodyless = status in _NO_BODY or head.method == "HEAD"
        if bodyless:
            self._left = None
        elif self._left is None:
            if head.version == "1.1":
                self._chunked = True
                headers.append((b"transfer-encoding", b"chunked"))
            else:
                self.keep_alive = False  # the end of the connection is the end of the body
        if not self.keep_alive or not self._whole or site.draining:
            self.keep_alive = False  # the rest of a body that comes later is not read (RFC 9112 9.6)
            headers.append((b"connection", b"close"))
        self.answered = True
        self.failed = status >= 400
        parts = [status_line(status), site.head_beside(names), head_lines(headers), b"\r\n"]
        if not bodyless:
            self._append_body(parts, body, more=more)
        self._connection.write(b"".join(parts))

    def _write_body(self, body: bytes, *, more: bool) -> None:
        parts: list[bytes] = []
        self._append_body(parts, body, more=more)
        if parts:
            self._connection.write(b"".join(parts) if len(parts) > 1 else parts[0])

    def _append_body(self, parts: list[bytes], body: bytes, *, more: bool) -> None:
        if self._chunked:
            if body:
                parts += (b"%x\r\n" % len(body), body, b"\r\n")
            if not more:
                parts.append(b"0\r\n\r\n")
            return
        if self._left is not None:
            if len(body) > self._left:
                raise RuntimeError("the answer's body is longer than its Content-Length")
            self._left -= len(body)
        if body:
            parts.append(body)
