"""Clients that send exactly the bytes they are told to, and see exactly what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from partyline.wire.websocket.codec import Close, Codec, Event, Limits
from partyline.wire.websocket.deflate import Deflate
from partyline.wire.websocket.frames import CLOSE, close_payload, frame

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
WITHIN = 30.0  # seconds: longer than anything here takes, so that a test that waits in vain says where


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error in our form."""
        assert self.headers["content-type"] == "application/json"
        assert set(self.json) == {"error"}
        error = self.json["error"]
        assert set(error) - {"field"} == {"code", "message"}
        return str(error["code"])


class Peer:
    """One TCP (or TLS) connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self._writer.transport

    async def send(self, *pieces: bytes) -> None:
        """Write each piece on its own. What a server no longer reads is lost without an error."""
        for number, piece in enumerate(pieces):
            for _ in range(3 if number else 0):
                await asyncio.sleep(0)  # a server on this loop has then read the last one
            with contextlib.suppress(ConnectionError):
                self._writer.write(piece)
                await self._writer.drain()

    async def answer(self) -> Answer:
        """The next HTTP answer. 100 Continue is an answer, too."""
        async with asyncio.timeout(WITHIN):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head[:-4].split("\r\n")
            version, status, *_ = line.split(" ")
            assert version == "HTTP/1.1"
            headers: dict[str, str] = {}
            for name, _, value in (item.partition(":") for item in lines):
                known = headers.get(name.lower())
                assert known is None or name.lower() == "vary", f"a header that is no list appears twice: {lines}"
                headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
            body = b""
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await self._reader.readline(), 16):
                    body += (await self._reader.readexactly(size + 2))[:-2]
                await self._reader.readline()
            elif int(status) >= 200:
                body = await self._reader.readexactly(int(headers["content-length"]))
            return Answer(int(status), headers, body)

    async def head(self) -> str:
        """The head of an answer with an endless body."""
        async with asyncio.timeout(WITHIN):
            return (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")

    async def some(self) -> bytes:
        """The next bytes; empty when the server ended the connection in whatever way."""
        try:
            async with asyncio.timeout(WITHIN):
                return await self._reader.read(1 << 18)
        except ConnectionError:
            return b""

    async def rest(self) -> bytes:
        """Everything until the server ends the connection."""
        data = b""
        while piece := await self.some():
            data += piece
        return data

    async def ends_in_order(self) -> bool:
        """Whether the connection ends now with a FIN, not with a reset."""
        try:
            async with asyncio.timeout(WITHIN):
                return await self._reader.read(1) == b""
        except ConnectionError:
            return False

    async def hears_nothing(self, seconds: float) -> bool:
        """Whether neither data nor an end arrives for this long."""
        try:
            async with asyncio.timeout(seconds):
                await self._reader.read(1)
        except TimeoutError:
            return True
        except ConnectionError:
            pass
        return False

    def stop_reading(self) -> None:
        """Leave arriving data in the kernel's buffers."""
        self.transport.pause_reading()  # type: ignore[attr-defined]

    def read_again(self) -> None:
        self.transport.resume_reading()  # type: ignore[attr-defined]

    def end(self) -> None:
        """Send nothing more (FIN), but go on reading."""
        self._writer.write_eof()

    async def close(self) -> None:
        self.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(
    url: str, *, tls: ssl.SSLContext | None = None, source: str | None = None, buffer: int = 0
) -> AsyncIterator[Peer]:
    """A connection to the server at `url`, from the address `source`, with a receive buffer of `buffer` bytes."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        if source:
            sock.bind((source, 0))
        async with asyncio.timeout(WITHIN):
            await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
            name = parts.hostname if tls else None
            reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name, limit=1 << 20)
    except BaseException:
        sock.close()
        raise
    peer = Peer(reader, writer)
    try:
        yield peer
    finally:
        await peer.close()


def request(method: str, path: str, body: bytes | None = None, *headers: str, host: str = "127.0.0.1") -> bytes:
    """A request's bytes. A body is sent as JSON with its length."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def close_frame(code: int) -> bytes:
    """A client's close frame. `Connection.close` would drop what the server still sends before its own."""
    return frame(CLOSE, b"" if code == 1005 else close_payload(code), key=b"\x09\x0a\x0b\x0c")


def upgrade(path: str, *headers: str, host: str = "127.0.0.1") -> bytes:
    """The bytes of a WebSocket handshake."""
    wanted = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
    )
    return request("GET", path, None, *wanted, *headers, host=host)


class WebSocketPeer:
    """A WebSocket client that does nothing by itself: it sends no pong and does not answer a close."""

    def __init__(self, peer: Peer, answer: Answer) -> None:
        self.peer = peer
        self.answer = answer
        extension = answer.headers.get("sec-websocket-extensions")
        self.wire = Codec(
            Limits(1 << 26, 1 << 26, 1 << 20), client=True, deflate=None if extension is None else Deflate()
        )
        self._events: deque[Event] = deque()

    async def say(self, *texts: str) -> None:
        """Send text messages, all in one write."""
        await self.peer.send(b"".join(self.wire.text(text.encode()) for text in texts))

    async def say_bytes(self, data: bytes) -> None:
        """Send a binary message."""
        await self.peer.send(self.wire.binary(data))

    async def next(self) -> Event | None:
        """The next message or control frame; None at the end of the connection."""
        while not self._events:
            data = await self.peer.some()
            if not data:
                return None
            self._events += self.wire.receive(data)
        return self._events.popleft()

    async def text(self) -> str:
        event = await self.next()
        assert isinstance(event, str), event
        return event

    async def bytes(self) -> bytes:
        event = await self.next()
        assert isinstance(event, bytes), event
        return event

    async def until_close(self) -> tuple[list[Event], Close]:
        """The server's close frame, and what preceded it."""
        before: list[Event] = []
        while not isinstance(event := await self.next(), Close):
            assert event is not None, f"the connection ended without a close frame, after {before[-3:]}"
            before.append(event)
        return before, event

    async def close(self, code: int = 1000) -> Close:
        """Do the whole close handshake, begun by us; the server's answer."""
        await self.peer.send(close_frame(code))
        _, answer = await self.until_close()
        assert await self.next() is None
        return answer


async def websocket(
    peer: Peer, path: str, *headers: str, behind: bytes = b"", host: str = "127.0.0.1"
) -> WebSocketPeer:
    """Upgrade a connection. `behind` is sent in the same segment as the request."""
    await peer.send(upgrade(path, *headers) + behind)
    answer = await peer.answer()
    assert answer.status == 101, answer
    return WebSocketPeer(peer, answer)
