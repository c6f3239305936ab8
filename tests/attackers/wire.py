"""What hostile peers write, made by hand: a client's handshakes and frames, right and wrong."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from typing import Any

from partyline.wire.websocket.frames import frame

KEY = b"\0\0\0\0"  # masks nothing, so that a flood is cheap for its sender


def frames(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """One frame of a client."""
    return frame(opcode, payload, fin=fin, rsv1=rsv1, key=KEY)


def text(value: Any) -> bytes:
    """A text frame with a value as JSON, or with an unchanged string."""
    return frames(1, (value if isinstance(value, str) else json.dumps(value)).encode())


def handshake(path: str, *headers: str) -> bytes:
    """An upgrade request."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Peer:
    """A connection on which anything may be written; what arrives is discarded or waited for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, tls: bool = False) -> Peer:
        context = None
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=1 << 24))

    async def upgrade(self, path: str, headers: Sequence[str] = ()) -> None:
        self.writer.write(handshake(path, *headers))
        await self.reader.readuntil(b"\r\n\r\n")

    async def until(self, mark: bytes) -> None:
        """Read up to and including `mark`."""
        await self.reader.readuntil(mark)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def flood(self, data: bytes) -> None:
        """Write `data` again and again, and read whatever arrives, until the connection ends."""
        eating = asyncio.ensure_future(self._eat())
        try:
            while not eating.done():
                await self.write(data)
        finally:
            eating.cancel()
            self.close()

    async def _eat(self) -> None:
        while await self.reader.read(1 << 18):
            pass

    def close(self) -> None:
        self.writer.transport.abort()
