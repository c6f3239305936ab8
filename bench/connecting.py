"""Connecting as the clients of Socket.IO do unless told otherwise: polling first, then the upgrade to WebSocket.

The clients are in this process, which has the generator's core; only the server's CPU counts.
"""

from __future__ import annotations

import asyncio
import re
import time

from bench.catalog import NODE_SOCKETIO, PYTHON_SOCKETIO, SOCKETIO, Contender
from bench.process import BenchFailed
from bench.procfs import usage
from bench.rounds import Bench, Sample, rotate, rows
from bench.table import Row

AT_A_TIME = 16
SECONDS = 20.0
NAMES = (SOCKETIO, NODE_SOCKETIO, PYTHON_SOCKETIO)
BOUNDS = {NODE_SOCKETIO: 0.6}
_SID = re.compile(rb'"sid":"([^"]+)"')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def connecting(bench: Bench) -> list[Row]:
    """A handshake, CONNECT by a POST, the answer by a GET, the probe, the upgrade."""
    count = bench.counted(1_000)

    def measure(contender: Contender) -> Sample:
        with contender.start("", bench.server_core) as server:
            asyncio.run(_connect(server.port, count // 5))
            before, began = usage(server.pid), time.monotonic()
            asyncio.run(_connect(server.port, count))
            used, seconds = usage(server.pid) - before, time.monotonic() - began
            server.check()
            return Sample(used.cpu_ns / 1000 / count, count / seconds, waited_share=used.waited_ns / 1e9 / seconds)

    scenario = "Socket.IO, connecting by polling, then upgraded"
    samples, without = rotate(bench, scenario, NAMES, measure)
    return rows(scenario, "CPU us/connection", NAMES, samples, without, SOCKETIO, BOUNDS)


async def _connect(port: int, count: int) -> None:
    """`count` clients, some at a time; each leaves when it is connected."""
    numbers = iter(range(count))

    async def some() -> None:
        for _ in numbers:
            await _client(port)

    try:
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            for _ in range(AT_A_TIME):
                group.create_task(some())
    except* (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise BenchFailed(f"a client could not connect: {error.exceptions[0]!r}") from None


class _Http:
    """One connection for requests."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = f"Host: 127.0.0.1:{port}\r\n".encode()
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> _Http:
        return cls(port, *await asyncio.open_connection("127.0.0.1", port))

    def write(self, line: str, headers: str = "", body: bytes = b"") -> None:
        self.writer.write(line.encode() + b" HTTP/1.1\r\n" + self._host + headers.encode() + b"\r\n" + body)

    async def answer(self) -> bytes:
        """The body of the next answer, which must be a 200."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchFailed(f"an answer: {head[:200]!r}")
        if length := _LENGTH.search(head):
            return await self.reader.readexactly(int(length[1]))
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):  # chunks
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body


def _text(payload: bytes) -> bytes:
    """A masked text frame; the mask is 0."""
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


async def _frame(reader: asyncio.StreamReader) -> bytes:
    _, size = await reader.readexactly(2)
    return await reader.readexactly(size)  # short, and servers do not mask


async def _client(port: int) -> None:
    polls, posts, line = [await _Http.open(port) for _ in range(3)]
    polls.write("GET /socket.io/?EIO=4&transport=polling")
    opened = _SID.search(await polls.answer())
    if opened is None:
        raise BenchFailed("the handshake has no sid")
    session = f"&sid={opened[1].decode()}"
    posts.write(
        f"POST /socket.io/?EIO=4&transport=polling{session}",
        "Content-Type: text/plain;charset=UTF-8\r\nContent-Length: 2\r\n",
        b"40",
    )
    polls.write(f"GET /socket.io/?EIO=4&transport=polling{session}")
    line.write(
        f"GET /socket.io/?EIO=4&transport=websocket{session}",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    )
    head = await line.reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        raise BenchFailed(f"an upgrade was answered {head[:100]!r}")
    line.writer.write(_text(b"2probe"))
    probed = asyncio.ensure_future(_frame(line.reader))
    await posts.answer()
    connected = False
    while True:  # polls go on until the probe is answered; the one that hangs then is answered with a noop
        connected |= b"40{" in await polls.answer()
        if probed.done():
            break
        polls.write(f"GET /socket.io/?EIO=4&transport=polling{session}")
    if probed.result() != b"3probe":
        raise BenchFailed(f"the probe was answered {probed.result()!r}")
    line.writer.write(_text(b"5"))
    while not connected:
        connected = (await _frame(line.reader)).startswith(b"40{")
    for one in (polls, posts, line):
        one.writer.transport.abort()
