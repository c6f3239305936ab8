"""Lean clients for tests with whole processes: an HTTP connection, a line of /v1/ws, a stream of events.

All of them raise or report `ConnectionError` at once when the server goes away, and never try again by themselves: what
a client does then is the subject of the tests.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import resource
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar, cast

import msgspec
import uvloop

from partyline.wire.websocket.codec import Close, Codec, Limits, Ping, Violation

LONG = 30.0  # seconds nothing here should ever take
TRIALS = bool(os.environ.get("PARTYLINE_TRIALS"))

_T = TypeVar("_T")
_LIMITS = Limits(max_message=16_000_000, max_inflated=16_000_000)


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run on uvloop, which many clients in one process need."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def seeded() -> tuple[int, random.Random]:
    """A seed, printed, and its generator. PARTYLINE_SEED repeats one."""
    seed = int(os.environ.get("PARTYLINE_SEED") or random.randrange(1 << 32))
    print(f"seed {seed} (PARTYLINE_SEED={seed} repeats it)")
    return seed, random.Random(seed)


def raise_descriptors() -> int:
    """Raise the limit of descriptors as far as possible; the new limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def offset_of(position: str) -> int:
    """The second half of a position."""
    return int(position.rpartition("-")[2])


class Frame(msgspec.Struct):
    """Anything that the server says on a line or in the data of an event."""

    type: str = "message"
    id: int | str | None = None
    topic: str | None = None
    position: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    message_id: str | None = None
    duplicate: bool = False
    recovered: bool | None = None
    code: str | None = None


decode = msgspec.json.Decoder(Frame).decode
encode = msgspec.json.encode


class WebSocket(asyncio.Protocol):
    """One WebSocket. `heard` gets every text; `closed` is set when the connection has ended."""

    __slots__ = ("_codec", "_head", "_opened", "_target", "_transport", "close_code", "closed", "heard")

    def __init__(self, target: str, heard: Callable[[str], None]) -> None:
        self.heard = heard
        self._target = target
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.close_code: int | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._codec = Codec(_LIMITS, client=True)
        self._head = b""
        self._transport: asyncio.Transport | None = None

    async def connect(self, port: int) -> Self:
        """Connect and shake hands. Raises ConnectionError where the server is not there, or goes meanwhile."""
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        await self._opened
        return self

    @property
    def transport(self) -> asyncio.Transport:
        """The transport, once it is connected."""
        assert self._transport is not None
        return self._transport

    def say(self, text: bytes) -> None:
        """Send a text. Nothing happens if the connection has ended."""
        if not self.transport.is_closing():
            self.transport.write(self._codec.text(text))

    def drop(self) -> None:
        """Cut the connection."""
        assert self._transport is not None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET {self._target} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if not self._opened.done():
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._opened.set_exception(ConnectionError(head.decode()))
                return
            self._opened.set_result(None)
        try:
            self._receive(data)
        except Exception as error:  # a failed check is raised for whoever waits for the end of this line
            if not self.closed.done():
                self.closed.set_exception(error)
            self.drop()

    def _receive(self, data: bytes) -> None:
        assert self._transport is not None
        for event in self._codec.receive(data):
            if isinstance(event, str):
                self.heard(event)
            elif isinstance(event, Ping):
                self._transport.write(self._codec.pong(event.payload))
            elif isinstance(event, Close):
                self.close_code = event.code
                self._transport.write(self._codec.close(1000))
                self._transport.close()
            else:
                assert not isinstance(event, Violation), event

    def connection_lost(self, error: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(ConnectionError("the server went away during the handshake"))
        if not self.closed.done():
            self.closed.set_result(None)


class Line(WebSocket):
    """One connection of /v1/ws. `hear` gets every frame."""

    __slots__ = ()

    def __init__(self, hear: Callable[[Frame], None]) -> None:
        super().__init__("/v1/ws", lambda text: hear(decode(text)))

    @classmethod
    async def open(cls, port: int, hear: Callable[[Frame], None]) -> Line:
        """Connect and shake hands. Raises ConnectionError where the server is not there, or goes meanwhile."""
        return await cls(hear).connect(port)

    def send(self, **command: Any) -> None:
        """Send a command. Nothing happens if the connection has ended."""
        self.say(encode(command))


class Http:
    """One kept connection for HTTP calls, one after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.retry: int | None = None  # when a stream said to come back, in milliseconds

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int) -> AsyncIterator[Http]:
        """Connect; closed at the end. Raises ConnectionError."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One call: its status and its JSON. Raises ConnectionError if the server goes away before the answer's end."""
        payload = b"" if body is None else encode(body)
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        try:
            status, headers = await self._answer()
            data = await self._reader.readexactly(int(headers.get(b"content-length", b"0")))
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the server went") from None
        return status, msgspec.json.decode(data) if data else None

    async def events(self, topic: str, after: str) -> AsyncIterator[tuple[str, bytes]]:
        """The events of a stream as (id, data), for ever. Raises ConnectionError when it ends."""
        head = f"GET /v1/topics/{topic}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nLast-Event-ID: {after}\r\n\r\n"
        self._writer.write(head.encode())
        text = b""
        try:
            status, _ = await self._answer()
            assert status == 200, status
            while size := int(await self._reader.readline() or b"0", 16):
                text += (await self._reader.readexactly(size + 2))[:-2]
                *events, text = text.split(b"\n\n")
                for event in events:
                    fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
                    assert b"event" not in fields, event  # a gap
                    if b"retry" in fields:
                        self.retry = int(fields[b"retry"])
                    if b"id" in fields:
                        yield fields[b"id"].decode(), fields.get(b"data", b"")
        except asyncio.IncompleteReadError:
            pass
        raise ConnectionResetError("the stream ended")

    async def _answer(self) -> tuple[int, dict[bytes, bytes]]:
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        pairs = (line.partition(b":") for line in lines)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def history(port: int, topic: str) -> list[dict[str, Any]]:
    """All messages of a topic, page by page, each with the topic, which a page names only once."""
    found: list[dict[str, Any]] = []
    after = "earliest"
    async with Http.open(port) as http:
        while True:
            status, page = await http.call("GET", f"/v1/topics/{topic}/messages?limit=1000&after={after}")
            assert status == 200, page
            found += ({"topic": page["topic"], **message} for message in page["messages"])
            after = page["next"]
            if not page["more"]:
                return found
