"""A Socket.IO client of one namespace, so small that a test can have thousands in its own process."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

WITHIN = 20.0  # seconds: longer than anything takes, so that a wait in vain says where
_PACKET = re.compile(r"4([0-4])(?:(/[^,]*),?)?(\d*)(.*)", re.DOTALL)


class Guest(asyncio.Protocol):
    """`heard` has all events so far, as lists: name and arguments."""

    def __init__(self, namespace: str, auth: dict[str, Any] | None = None) -> None:
        self.namespace = namespace
        self.auth = auth or {}
        self.heard: list[list[Any]] = []
        self.id = ""
        self.closed = False
        self._transport: Any = None
        self._rest = b""
        self._upgraded = False
        self._ids = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._news = asyncio.Event()

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if not self._upgraded:
            head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101"), head
            self._upgraded = True
        while len(self._rest) >= 2:
            size, start = self._rest[1], 2
            if size >= 126:
                start = 4 if size == 126 else 10
                size = int.from_bytes(self._rest[2:start], "big")
            if len(self._rest) < start + size:
                return
            opcode, text = self._rest[0] & 15, self._rest[start : start + size]
            self._rest = self._rest[start + size :]
            if opcode == 1:
                self._receive(text.decode())
            elif opcode == 8:
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._news.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the server is gone"))

    # Packets

    def _receive(self, packet: str) -> None:
        if packet == "2":
            self.send("3")
        elif packet[0] == "0":
            self.send(f"40{self.namespace}," + json.dumps(self.auth))
        elif (match := _PACKET.match(packet)) is not None:
            kind, _, number, body = match.groups()
            if kind == "0":
                self.id = json.loads(body)["sid"]
            elif kind == "2":
                self.heard.append(json.loads(body))
            elif kind == "3":
                self._answers.pop(int(number)).set_result(json.loads(body))
            self._news.set()

    def send(self, packet: str) -> None:
        """One text message, with a masking key of zeros."""
        data = packet.encode()
        size = len(data)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        if size >= 65536:
            length = b"\xff" + size.to_bytes(8, "big")
        self._transport.write(b"\x81" + length + bytes(4) + data)

    def emit(self, event: str, *arguments: Any) -> None:
        self.send(f"42{self.namespace}," + json.dumps([event, *arguments]))

    async def call(self, event: str, *arguments: Any) -> Any:
        """The first value of the acknowledgement."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self.send(f"42{self.namespace},{number}" + json.dumps([event, *arguments]))
        async with asyncio.timeout(WITHIN):
            return (await answer)[0]

    async def hears(self, event: str, count: int = 1) -> list[Any]:
        """The arguments of the `count`-th event of this name."""
        async with asyncio.timeout(WITHIN):
            while len(found := self.all(event)) < count:
                assert not self.closed, "the server is gone"
                self._news.clear()
                await self._news.wait()
        return found[count - 1]

    def all(self, event: str) -> list[list[Any]]:
        """The arguments of all events of this name so far."""
        return [arguments for name, *arguments in self.heard if name == event]

    def leave(self) -> None:
        self._transport.abort()


async def guest(url: str, namespace: str, *, source: str = "127.0.0.1", **auth: Any) -> Guest:
    """Connected, from an address."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, one = await loop.create_connection(
        lambda: Guest(namespace, auth), parts.hostname, parts.port, local_addr=(source, 0)
    )
    one._transport.write(
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        % parts.netloc.encode()
    )
    async with asyncio.timeout(WITHIN):
        while not one.id:
            one._news.clear()
            await one._news.wait()
    return one


@asynccontextmanager
async def guests(url: str, namespace: str, count: int, *keys: str) -> AsyncIterator[list[Guest]]:
    """Several connected clients, the first of them with keys; disconnected at the end."""
    found = [await guest(url, namespace, key=key) for key in keys]
    try:
        while len(found) < count:
            batch = min(100, count - len(found))
            found += await asyncio.gather(*(guest(url, namespace) for _ in range(batch)))
        yield found
    finally:
        for one in found:
            one.leave()
