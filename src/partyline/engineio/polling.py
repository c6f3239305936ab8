"""HTTP long-polling on one path: GETs fetch, POSTs send. Answers exchanges; under other ASGI servers, `OverAsgi`'s."""

from __future__ import annotations

import asyncio
import gzip
from time import monotonic

from msgspec import Struct
from starlette.types import Receive, Scope, Send

from partyline.engineio.connection import EngineConnection
from partyline.engineio.receiver import Request
from partyline.engineio.sessions import Sessions
from partyline.errors import HandshakeRefused, InvalidPacket
from partyline.server.exchange import Exchange, OverAsgi
from partyline.server.fair import Fair
from partyline.server.writing import OWN_READ
from partyline.wire.engineio import payloads
from partyline.wire.engineio.handshake import POLLING, Asked
from partyline.wire.engineio.packets import Packet
from partyline.wire.http.head import Headers

_OCTETS = (b"content-type", payloads.OCTETS.encode("ascii"))


class _Later(Struct, frozen=True, eq=False):
    """An answer that waits for its turn (`server.fair.Busy`): meanwhile its client asks for nothing more."""

    fair: Fair
    exchange: Exchange
    headers: Headers
    body: bytes

    def go_on(self) -> None:
        self.exchange.answer(self.headers, self.body)

    def gone(self) -> None:
        """Its client has gone."""
        self.fair.forget(self, self.exchange.peer.address)


class _Get(Struct, frozen=True):
    """A GET that waits for packets. An `engineio.connection.Poll`."""

    polling: Polling
    exchange: Exchange
    handshake: Request
    asked: Asked
    connection: EngineConnection

    def fetched(self, packets: tuple[Packet, ...]) -> None:
        try:
            answer = self.polling.written(self.handshake, self.asked, self.connection, packets)
        except Exception:  # a hook of the application
            self.exchange.fail()
        else:
            self.exchange.answer(*answer)

    def gone(self) -> None:
        """Its client has gone."""
        self.connection.let_go(self)


class Polling:
    """Serves the polling requests of one server's sessions."""

    body_setting = "max_message"

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._over_asgi = OverAsgi(self, sessions.site.counters)
        self.max_body = sessions.max_payload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application, for requests that did not come to a server of ours."""
        if scope["method"] == "GET" and self._is_probing(scope["query_string"]):
            # Earlier messages of the WebSocket may still be in an ASGI server's queues.
            await asyncio.sleep(OWN_READ)
        await self._over_asgi(scope, receive, send)

    def _is_probing(self, query: bytes) -> bool:
        """Whether a WebSocket is about to take over the session of this GET."""
        try:
            asked = self._sessions.read(query, "GET", upgrade=False)
        except HandshakeRefused:
            return False  # `respond` reports it
        connection = self._sessions.connections.get(asked.sid or "")
        return connection is not None and connection.is_probing

    # server.exchange.Direct

    def begin(self, exchange: Exchange) -> None:
        """Nothing is checked before the body has come."""

    def respond(self, exchange: Exchange) -> None:
        handshake = Request(POLLING, exchange.query, exchange.headers, exchange.peer)
        try:
            self._take(exchange, handshake)
        except HandshakeRefused as error:
            self._sessions.report(error, handshake)
            raise

    def _take(self, exchange: Exchange, handshake: Request) -> None:
        """Handle a whole request. Raises PartylineError."""
        sessions, method = self._sessions, exchange.method
        began = monotonic()
        asked = sessions.read(exchange.query, method, upgrade=False)
        if asked.sid is None:
            exchange.answer(*self._open(handshake, asked))
            return
        connection = sessions.find(asked)
        if method == "POST":
            connection.post(self._posted(asked, exchange))
            headers, body = self._answer(handshake, b"ok", "text/html")
            if connection.stranger:
                later = _Later(sessions.site.fair, exchange, headers, body)
                if later.fair.stranger(later, monotonic() - began, exchange.peer.address):
                    exchange.gone, exchange.due = later.gone, True
                    return
            exchange.answer(headers, body)
            return
        get = _Get(self, exchange, handshake, asked, connection)
        connection.get(get)
        if not exchange.answered:
            exchange.gone = get.gone

    def _open(self, handshake: Request, asked: Asked) -> tuple[Headers, bytes]:
        sessions = self._sessions
        sessions.check(handshake)
        sid = sessions.free_id(handshake)
        text, connection = sessions.open(asked, handshake, sid, None)
        try:
            answer = self.written(handshake, asked, connection, (text,), sid)
        except BaseException:  # a hook of the application
            sessions.forget(connection)
            raise
        # Before the answer is out: the client's next request must find a receiver there.
        sessions.begin(connection, handshake)
        return answer

    def _posted(self, asked: Asked, exchange: Exchange) -> list[Packet] | None:
        try:
            if asked.script is not None:
                return payloads.read_form(exchange.body, asked.protocol)
            return payloads.read(exchange.body, asked.protocol, octets=_OCTETS in exchange.headers)
        except InvalidPacket:
            return None

    def written(
        self,
        handshake: Request,
        asked: Asked,
        connection: EngineConnection,
        packets: tuple[Packet, ...],
        sid: str | None = None,
    ) -> tuple[Headers, bytes]:
        """The answer that brings these packets; with `sid`, to a handshake."""
        if asked.script is not None:
            body, kind = payloads.write_script(packets, asked.protocol, asked.script)
        else:
            body, kind = payloads.write(packets, asked.protocol, base64=connection.base64)
        return self._answer(handshake, body, kind, sid)

    def _answer(self, handshake: Request, body: bytes, kind: str, sid: str | None = None) -> tuple[Headers, bytes]:
        headers = [(b"content-type", kind.encode("ascii"))]
        least = self._sessions.compress_from
        if least and len(body) >= least and _takes_gzip(handshake.headers):
            body = gzip.compress(body, 6 if len(body) < 65536 else 1)  # blocks the loop: 8 ms a megabyte
            headers += [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]
        for name, value in self._sessions.answer_headers(handshake, sid):
            headers.append((name.encode("latin-1"), value.encode("latin-1")))
        return headers, body


def _takes_gzip(headers: Headers) -> bool:
    """Whether the client named gzip, not with `q=0` (RFC 9110 12.5.3)."""
    for name, value in headers:
        if name == b"accept-encoding":
            for item in value.lower().split(b","):
                coding, _, weight = item.partition(b";")
                if coding.strip() == b"gzip" and weight.strip() not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"):
                    return True
    return False
