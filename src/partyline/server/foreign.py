"""A WebSocket of our own server that an ASGI application serves (ASGI 3.0, WebSocket 2.4).

The application's task reads from a queue that this session fills, and writes to the `WebSocket` beneath.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from typing import Any, Final, Protocol

from starlette.types import ASGIApp, Message

from partyline import log
from partyline.errors import Forbidden, PartylineError
from partyline.interfaces import Connection
from partyline.server.answers import checked
from partyline.server.exchange import head_lines, status_line
from partyline.server.site import Endpoint, Site
from partyline.server.websocket import WebSocket
from partyline.wire.http.head import Head, Headers
from partyline.wire.websocket import handshake

_log = log.get("server")

_MOST_WAITING: Final = 64  # messages that the application has not taken, before reading pauses
_MOST_BYTES: Final = 1024 * 1024


class Owner(Protocol):
    """What it needs of its HTTP connection until there is a WebSocket."""

    @property
    def site(self) -> Site: ...

    @property
    def blocked(self) -> bool: ...

    def become_websocket(self, endpoint: Endpoint, accepted: handshake.Accepted) -> WebSocket: ...

    def refuse(self, error: PartylineError) -> None: ...

    def write(self, data: bytes) -> None: ...

    def answered(self, in_hand: Any) -> None: ...

    def abort(self) -> None: ...


class _State(Enum):
    CONNECTING = "the application has not answered"
    REFUSING = "it sends an answer over HTTP"
    OPEN = "it is a WebSocket"
    CLOSED = "it is over"


class ForeignSocket:
    """One handshake, and the WebSocket that it may become. A `server.http.InHand`, and then an `interfaces.Session`."""

    keep_alive = False
    watched = True
    failed = True  # an answer over HTTP is always a refusal
    backlog = 0

    def __init__(self, connection: Owner, head: Head, scope: dict[str, Any]) -> None:
        offered = [value for name, value in head.headers if name == b"sec-websocket-protocol"]
        scope["subprotocols"] = handshake.offered_subprotocols(offered)
        scope["extensions"] = {"websocket.http.response": {}}
        self._owner: Owner | None = connection  # until it is a WebSocket: then the HTTP connection is freed
        self._site = connection.site
        self._head = head
        self._scope = scope
        self._state = _State.CONNECTING
        self._socket: WebSocket | None = None
        self._waiting: deque[Message] = deque(({"type": "websocket.connect"},))
        self._size = 0
        self._wake = asyncio.Event()
        self.writable = asyncio.Event()
        self._farewell: tuple[int, str] = (1006, "")

    # server.http.InHand

    @property
    def headers(self) -> Headers:
        return self._head.headers

    @property
    def answered(self) -> bool:
        return self._state is _State.REFUSING

    def take(self, piece: bytes) -> None:
        """A handshake has no body."""

    def respond(self) -> None:
        """A handshake has no body."""

    def lost(self) -> None:
        """The client has gone, or gets another answer."""
        self.closed()

    # interfaces.Session

    def opened(self, connection: Connection) -> None:
        """The 101 is out."""

    def text(self, text: str) -> None:
        self._put({"type": "websocket.receive", "text": text}, len(text))

    def binary(self, data: bytes) -> None:
        self._put({"type": "websocket.receive", "bytes": data}, len(data))

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        """Drop the message: its client speaks a protocol that we do not know, so it cannot be told."""

    def peer_closed(self, code: int, reason: str) -> None:
        """The client's close frame (`interfaces.HearsClose`)."""
        self._farewell = (code, reason)

    def closed(self) -> None:
        """The connection is gone."""
        if self._state is not _State.CLOSED:
            self._state = _State.CLOSED
            self._socket = None
            self.writable.set()
            code, reason = self._farewell
            self._waiting.append({"type": "websocket.disconnect", "code": code, "reason": reason})
            self._wake.set()

    def _put(self, message: Message, size: int) -> None:
        self._waiting.append(message)
        self._size += size
        self._wake.set()
        if (len(self._waiting) > _MOST_WAITING or self._size > _MOST_BYTES) and self._socket is not None:
            self._socket.hold()

    # The application

    async def run(self, app: ASGIApp) -> None:
        """Let the application serve it. An exception is logged, and closes the WebSocket with 1011."""
        try:
            await app(self._scope, self._receive, self._send)
        except asyncio.CancelledError:
            self._abort()
            raise
        except (Exception, SystemExit):
            if self._state is not _State.CLOSED:
                self._site.counters.errors += 1
                _log.exception("an application failed")
            self._end(1011, "internal error")
        else:
            self._end(1000, "")

    def _end(self, code: int, reason: str) -> None:
        """The application has ended."""
        if self._socket is not None:
            self._socket.close(code, reason)
        elif self._state is _State.CONNECTING and self._owner is not None:
            self._owner.refuse(
                PartylineError("the server failed; its log says why, and the request may be tried again")
            )
        elif self._state is _State.REFUSING:
            self._abort()

    def _abort(self) -> None:
        below = self._socket or self._owner
        if below is not None:
            below.abort()

    async def _receive(self) -> Message:
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        message = self._waiting.popleft()
        if message["type"] == "websocket.receive":
            content = message.get("text")
            self._size -= len(message["bytes"] if content is None else content)
            if not self._waiting and self._socket is not None:
                self._socket.release()
        return message

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._state is _State.CLOSED:
            raise OSError("the WebSocket is closed")  # ASGI, WebSocket: send after the end
        if self._owner is not None:
            if self._state is _State.CONNECTING:
                self._answer(self._owner, kind, message)
            else:
                await self._go_on_refusing(self._owner, kind, message)
        elif kind == "websocket.send":
            await self._write(message)
        elif kind == "websocket.close":
            assert self._socket is not None
            self._socket.close(message.get("code", 1000), message.get("reason") or "")
        else:
            raise RuntimeError(f"websocket.send or websocket.close was expected, not {kind}")

    def _answer(self, owner: Owner, kind: str, message: Message) -> None:
        if kind == "websocket.accept":
            self._accept(owner, message)
        elif kind == "websocket.close":
            owner.refuse(Forbidden("the application does not let this WebSocket in"))
        elif kind == "websocket.http.response.start":
            headers = [pair for pair in checked(message.get("headers", ())) if pair[0] != b"connection"]
            ours = self._site.head_beside({name for name, _ in headers})
            self._state = _State.REFUSING
            lines = (status_line(message["status"]), ours, head_lines(headers), b"connection: close\r\n\r\n")
            owner.write(b"".join(lines))
        else:
            raise RuntimeError(f"websocket.accept, websocket.close or websocket.http.response was expected, not {kind}")

    def _accept(self, owner: Owner, message: Message) -> None:
        chosen = message.get("subprotocol")
        accepted = handshake.accept(
            self._head.method,
            self._head.version,
            self._head.headers,
            subprotocols=() if chosen is None else (chosen,),
            deflate=True,
            extra=checked(message.get("headers", ())),
        )
        self._state = _State.OPEN
        self._owner = None
        self._socket = owner.become_websocket(Endpoint(self), accepted)

    async def _go_on_refusing(self, owner: Owner, kind: str, message: Message) -> None:
        if kind != "websocket.http.response.body":
            raise RuntimeError(f"websocket.http.response.body was expected, not {kind}")
        while owner.blocked:
            self.writable.clear()
            await self.writable.wait()
            if self._state is _State.CLOSED:
                raise OSError("the client has gone")
        owner.write(message.get("body", b""))
        if not message.get("more_body", False):
            self._state = _State.CLOSED
            owner.answered(self)

    async def _write(self, message: Message) -> None:
        socket = self._socket
        assert socket is not None
        await socket.drained()
        if self._socket is None:
            raise OSError("the WebSocket is closed")
        text = message.get("text")
        if text is not None:
            socket.send_text(text)
        else:
            socket.send_binary(bytes(message["bytes"]))
