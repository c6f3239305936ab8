"""HTTP long-polling on one path: GETs fetch, POSTs send. Answers exchanges, and is an ASGI application besides."""

from __future__ import annotations

import asyncio
import gzip
from time import monotonic

from msgspec import Struct
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from partyline.engineio.connection import EngineConnection
from partyline.engineio.receiver import Request
from partyline.engineio.sessions import Sessions
from partyline.errors import HandshakeRefused, InvalidPacket
from partyline.server.exchange import Exchange, too_large
from partyline.server.turn import OWN_READ
from partyline.wire.engineio import payloads
from partyline.wire.engineio.handshake import POLLING, Asked
from partyline.wire.engineio.packets import Packet
from partyline.wire.http.head import content_length

_OCTETS = payloads.OCTETS.encode("ascii")


class _Answer(Struct, frozen=True):
    headers: list[tuple[bytes, bytes]]
    body: bytes
    stranger: bool = False  # it is for somebody who has not been let in yet


class _Later(Struct, frozen=True):
    """An answer that waits for its turn (`server.fair.Busy`): its client asks for nothing more meanwhile."""

    exchange: Exchange
    answer: _Answer

    def go_on(self) -> None:
        self.exchange.answer(self.answer.headers, self.answer.body)


class _Waiting(Struct, frozen=True):
    """A GET that hangs."""

    handshake: Request
    asked: Asked
    connection: EngineConnection
    poll: asyncio.Future[tuple[Packet, ...]]


class Polling:
    """Serves the polling requests of one sessions."""

    body_setting = "max_message"

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.max_body = sessions.max_payload

    # server.exchange.Direct

    def begin(self, exchange: Exchange) -> None:
        """Nothing is looked at before the body is there."""

    def respond(self, exchange: Exchange) -> None:
        handshake = Request(POLLING, exchange.query, exchange.headers, exchange.peer)
        began = monotonic()
        found = self._take(handshake, exchange.method, exchange.body)
        if isinstance(found, _Answer):
            later = _Later(exchange, found)
            if not found.stranger or not self._sessions.site.fair.stranger(later, monotonic() - began):
                later.go_on()
            return
        waiting = found

        def answered(poll: asyncio.Future[tuple[Packet, ...]]) -> None:
            if poll.cancelled() or exchange.disconnected:
                return
            try:
                answer = self._fetched(waiting, poll.result())
            except Exception:  # a hook of the application
                exchange.fail()
            else:
                exchange.answer(answer.headers, answer.body)

        exchange.gone = lambda: waiting.connection.let_go(waiting.poll)
        waiting.poll.add_done_callback(answered)

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handshake = Request(POLLING, scope["query_string"], scope["headers"], scope["partyline.peer"])
        body = await self._read(scope, receive)
        if scope["method"] == "GET" and self._is_probing(handshake):
            # What the WebSocket has brought before may still be on its way through an ASGI server's queues.
            await asyncio.sleep(OWN_READ)
        answer = self._take(handshake, scope["method"], body)
        if isinstance(answer, _Waiting):
            answer = self._fetched(answer, await _wait(answer, receive))
        headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """The body. Raises PayloadTooLarge, before reading it if its length is known."""
        for name, value in scope["headers"]:
            if name == b"content-length" and content_length(value) > self.max_body:
                raise too_large(self)
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self.max_body:
                raise too_large(self)
            more = message.get("more_body", False)
        return b"".join(pieces)

    def _is_probing(self, handshake: Request) -> bool:
        """Whether a WebSocket is about to take the session of this GET over."""
        try:
            asked = self._sessions.read(handshake.query, "GET", upgrade=False)
        except HandshakeRefused:
            return False  # `_take` says so
        connection = self._sessions.connections.get(asked.sid or "")
        return connection is not None and connection.is_probing

    # Both

    def _take(self, handshake: Request, method: str, body: bytes) -> _Answer | _Waiting:
        """Handle a whole request. Raises PartylineError."""
        sessions = self._sessions
        with sessions.watched(handshake):
            asked = sessions.read(handshake.query, method, upgrade=False)
            if asked.sid is None:
                return self._open(handshake, asked)
            connection = sessions.find(asked)
            if method == "POST":
                connection.post(self._posted(handshake, asked, body))
                answer = self._answer(handshake, b"ok", "text/html")
                return _Answer(answer.headers, answer.body, connection.stranger)
            fetched = connection.get()
        waiting = _Waiting(handshake, asked, connection, fetched) if isinstance(fetched, asyncio.Future) else None
        if waiting is not None:
            return waiting
        assert isinstance(fetched, tuple)
        return self._written(handshake, asked, connection, fetched)

    def _open(self, handshake: Request, asked: Asked) -> _Answer:
        sessions = self._sessions
        sessions.check(handshake)
        sid = sessions.free_id(handshake)
        text, connection = sessions.open(asked, handshake, sid, None)
        try:
            answer = self._written(handshake, asked, connection, (text,), sid)
        except BaseException:  # a hook of the application
            sessions.forget(connection)
            raise
        # Before the answer is out: the client's next request must find a receiver there.
        sessions.begin(connection, handshake)
        return answer

    def _posted(self, handshake: Request, asked: Asked, body: bytes) -> list[Packet] | None:
        try:
            if asked.script is not None:
                return payloads.read_form(body, asked.protocol)
            octets = next((value for name, value in handshake.headers if name == b"content-type"), b"") == _OCTETS
            return payloads.read(body, asked.protocol, octets=octets)
        except InvalidPacket:
            return None

    def _fetched(self, waiting: _Waiting, packets: tuple[Packet, ...]) -> _Answer:
        return self._written(waiting.handshake, waiting.asked, waiting.connection, packets)

    def _written(
        self,
        handshake: Request,
        asked: Asked,
        connection: EngineConnection,
        packets: tuple[Packet, ...],
        sid: str | None = None,
    ) -> _Answer:
        if asked.script is not None:
            body, kind = payloads.write_script(packets, asked.protocol, asked.script)
        else:
            body, kind = payloads.write(packets, asked.protocol, base64=connection.base64)
        return self._answer(handshake, body, kind, sid)

    def _answer(self, handshake: Request, body: bytes, kind: str, sid: str | None = None) -> _Answer:
        headers = [(b"content-type", kind.encode("ascii"))]
        least = self._sessions.compress_from
        if least and len(body) >= least and _takes_gzip(handshake.headers):
            body = gzip.compress(body, 6 if len(body) < 65536 else 1)  # the loop waits for it: 8 ms a megabyte
            headers += [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]
        for name, value in self._sessions.answer_headers(handshake, sid):
            headers.append((name.encode("latin-1"), value.encode("latin-1")))
        return _Answer(headers, body)


async def _wait(waiting: _Waiting, receive: Receive) -> tuple[Packet, ...]:
    """What answers the GET; nothing once its client has gone."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not waiting.poll.done():
            waiting.poll.set_result(())

    watching = asyncio.create_task(watch())
    try:
        return await waiting.poll
    finally:
        watching.cancel()
        waiting.connection.let_go(waiting.poll)


def _takes_gzip(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the client named gzip, not with `q=0` (RFC 9110 12.5.3)."""
    for name, value in headers:
        if name == b"accept-encoding":
            for item in value.lower().split(b","):
                coding, _, weight = item.partition(b";")
                if coding.strip() == b"gzip" and weight.strip() not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"):
                    return True
    return False
