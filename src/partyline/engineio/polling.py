"""HTTP long-polling as an ASGI application on one path: GETs fetch, POSTs send."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from partyline.engineio.connection import Connection, Handshake
from partyline.errors import InvalidPacket, PayloadTooLarge
from partyline.wire.engineio import payloads
from partyline.wire.engineio.handshake import POLLING, Asked
from partyline.wire.engineio.packets import Packet

if TYPE_CHECKING:
    from partyline.engineio.engine import EngineIO, Headers


class Polling:
    """Serves the polling requests of one engine."""

    def __init__(self, engine: EngineIO) -> None:
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        engine = self._engine
        handshake = Handshake(POLLING, scope["query_string"], scope["headers"], scope["partyline.peer"])
        sid = None
        with engine.watched(handshake):
            asked = engine.read(handshake.query, scope["method"], upgrade=False)
            if asked.sid is None:
                engine.check(handshake)
                sid = engine.new_id(handshake)
                text, connection = engine.open(asked, handshake, sid, None)
                body, kind = self._written(asked, connection, (text,))
            else:
                connection = engine.find(asked)
                if scope["method"] == "POST":
                    body, kind = await self._post(connection, asked, scope, receive)
                else:
                    body, kind = self._written(asked, connection, await self._get(connection, receive))
        headers = engine.answer_headers(handshake, sid)
        if sid is not None:
            # Before the answer is out: the client's next request must find somebody behind the connection.
            engine.begin(connection, handshake)
        await self._answer(scope, send, body, kind, headers)

    async def _get(self, connection: Connection, receive: Receive) -> tuple[Packet, ...]:
        answer = connection.get()
        if isinstance(answer, tuple):
            return answer
        watching = asyncio.create_task(_watch(receive, answer))
        try:
            return await answer
        finally:
            watching.cancel()
            connection.let_go(answer)

    async def _post(self, connection: Connection, asked: Asked, scope: Scope, receive: Receive) -> tuple[bytes, str]:
        types = [value for name, value in scope["headers"] if name == b"content-type"]
        body = await self._read(scope, receive)
        posted: list[Packet] | None
        try:
            if asked.script is not None:
                posted = payloads.read_form(body, asked.protocol)
            else:
                octets = types[:1] == [payloads.OCTETS.encode()]
                posted = payloads.read(body, asked.protocol, octets=octets)
        except InvalidPacket:
            posted = None
        connection.post(posted)
        return b"ok", "text/html"

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """The body. Raises PayloadTooLarge, before reading it where its length is known."""
        limit = self._engine.max_payload
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > limit:
                raise _too_large(limit)
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > limit:
                raise _too_large(limit)
            more = message.get("more_body", False)
        return b"".join(pieces)

    def _written(self, asked: Asked, connection: Connection, packets: tuple[Packet, ...]) -> tuple[bytes, str]:
        if asked.script is not None:
            return payloads.write_script(packets, asked.protocol, asked.script)
        return payloads.write(packets, asked.protocol, base64=connection.base64)

    async def _answer(self, scope: Scope, send: Send, body: bytes, kind: str, extra: Headers) -> None:
        headers = [(b"content-type", kind.encode("ascii"))]
        least = self._engine.compress_from
        if least and len(body) >= least and _takes_gzip(scope):
            body = await asyncio.to_thread(gzip.compress, body, 6) if len(body) > 65536 else gzip.compress(body, 6)
            headers += [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]
        headers.append((b"content-length", str(len(body)).encode("ascii")))
        headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in extra]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _watch(receive: Receive, answer: asyncio.Future[tuple[Packet, ...]]) -> None:
    """End the wait for an answer when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not answer.done():
        answer.set_result(())


def _takes_gzip(scope: Scope) -> bool:
    """Whether the client named gzip, not with `q=0` (RFC 9110 12.5.3)."""
    for name, value in scope["headers"]:
        if name == b"accept-encoding":
            for item in value.lower().split(b","):
                coding, _, weight = item.partition(b";")
                if coding.strip() == b"gzip" and weight.strip() not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"):
                    return True
    return False


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit} bytes (max_payload)", limit="max_message")
