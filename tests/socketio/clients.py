"""Socket.IO clients that send exactly what they are told, and a server that must be empty after them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, ParamSpec

from partyline import Partyline
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from partyline.wire.websocket.codec import Close
from tests.engineio.clients import Polling
from tests.server.peers import Peer, WebSocketPeer, close_frame, connected, websocket
from tests.server.servers import eventually, partyline_server

BASE = "/socket.io/"
_P = ParamSpec("_P")


def looped(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """A test that is a coroutine, on a loop of its own."""

    @functools.wraps(test)
    def run(*arguments: _P.args, **named: _P.kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(20):
                await test(*arguments, **named)

        asyncio.run(limited())

    return run


@contextlib.asynccontextmanager
async def served(io: SocketIO, **settings: Any) -> AsyncIterator[str]:
    """The address of a server with this SocketIO; at the end nothing of its clients may be left."""
    async with serving(io, **settings) as (_, url):
        yield url


@contextlib.asynccontextmanager
async def serving(io: SocketIO, **settings: Any) -> AsyncIterator[tuple[Partyline, str]]:
    """The same, with the server itself."""
    async with partyline_server(extras=[io], **settings) as (partyline, url):
        yield partyline, url
        await eventually(lambda: not remains(io), f"nothing is left of the clients: {remains(io)}", within=12.0)


def remains(io: SocketIO) -> list[Any]:
    """What is held for clients."""
    left: list[Any] = [*io.connections, *io.engine.connections.values(), *io._tasks]
    for name in io.namespaces():
        namespace = io.namespace(name)
        left += [*namespace.sockets, *namespace.rooms(), *namespace._watched, *namespace._gatherings]
        left += [name] if namespace._is_dynamic and namespace._shares else []
    return left


def only(io: SocketIO, name: str = "/") -> Socket:
    """The one socket of a namespace."""
    (socket,) = io.namespace(name).sockets.values()
    return socket


class Client:
    """A connection to `/socket.io/`. Heartbeats are answered; everything else is up to the test."""

    def __init__(self, version: int = 4) -> None:
        self.version = version
        self.sid = ""  # of the last namespace entered
        self.answer: dict[str, Any] = {}  # to its CONNECT
        self.received: deque[str | bytes] = deque()

    async def say(self, *packets: str | bytes) -> None:
        """Send packets, all in one write."""
        raise NotImplementedError

    async def more(self) -> None:
        """Receive at least one Engine.IO packet."""
        raise NotImplementedError

    async def leave(self) -> None:
        """End the connection properly."""
        raise NotImplementedError

    async def next(self) -> str | bytes:
        """The next packet, or attachment."""
        while not self.received:
            await self.more()
        return self.received.popleft()

    async def take(self, count: int) -> list[str | bytes]:
        return [await self.next() for _ in range(count)]

    async def enter(self, namespace: str = "/", auth: Any = None) -> Client:
        """CONNECT, and its answer."""
        name = "" if namespace == "/" else f"{namespace},"
        await self.say(f"0{name}" + ("" if auth is None else json.dumps(auth)))
        answer = await self.next()
        assert isinstance(answer, str)
        assert answer.startswith(f"0{name}"), answer
        self.answer = json.loads(answer.removeprefix(f"0{name}"))
        self.sid = self.answer["sid"]
        return self

    async def event(self) -> list[Any]:
        """The next event of the main namespace, name and arguments."""
        packet = await self.next()
        assert isinstance(packet, str)
        assert packet.startswith("2["), packet
        values = json.loads(packet[1:])
        assert isinstance(values, list)
        return values

    async def event_with_id(self, number: int) -> list[Any]:
        """The next event, which has to want an acknowledgement with this id."""
        packet = await self.next()
        assert isinstance(packet, str)
        assert packet.startswith(f"2{number}["), packet
        values = json.loads(packet.removeprefix(f"2{number}"))
        assert isinstance(values, list)
        return values

    async def ask(self, *values: Any, number: int = 0) -> Any:
        """Send an event of the main namespace with an id; the next packet has to be its acknowledgement."""
        await self.say(f"2{number}" + json.dumps(values))
        packet = await self.next()
        assert isinstance(packet, str)
        assert packet.startswith(f"3{number}["), packet
        return json.loads(packet.removeprefix(f"3{number}"))

    async def sync(self) -> None:
        """Return when the server has handled everything before: an unknown namespace is refused in order."""
        await self.say("0/nowhere,")
        assert await self.next() == '4/nowhere,{"message":"Invalid namespace"}'


class WebSocketClient(Client):
    def __init__(self, wire: WebSocketPeer, version: int) -> None:
        super().__init__(version)
        self.wire = wire

    async def say(self, *packets: str | bytes) -> None:
        await self.wire.peer.send(b"".join(self._frame(packet) for packet in packets))

    def _frame(self, packet: str | bytes) -> bytes:
        if isinstance(packet, str):
            return self.wire.wire.text(b"4" + packet.encode())
        return self.wire.wire.binary(packet if self.version == 4 else b"\x04" + packet)

    async def more(self) -> None:
        event = await self.wire.next()
        if isinstance(event, str) and event.startswith("4"):
            self.received.append(event[1:])
        elif isinstance(event, bytes):
            self.received.append(event if self.version == 4 else event[1:])
        elif event == "2" and self.version == 4:
            await self.wire.say("3")
        else:
            assert event == "3", event

    async def closed(self) -> Close:
        """The server's close frame; only heartbeats may precede it."""
        before, close = await self.wire.until_close()
        assert [event for event in before if event not in ("2", "3")] == [], before
        return close

    async def leave(self) -> None:
        await self.wire.peer.send(close_frame(1000))
        while await self.wire.next() is not None:
            pass
        await self.wire.peer.close()


class PollingClient(Client):
    def __init__(self, polling: Polling, version: int) -> None:
        super().__init__(version)
        self.polling = polling

    async def say(self, *packets: str | bytes) -> None:
        written = [
            f"4{packet}" if isinstance(packet, str) else self._prefix + base64.b64encode(packet).decode()
            for packet in packets
        ]
        await self.polling.say("\x1e".join(written) if self.version == 4 else "".join(f"{len(w)}:{w}" for w in written))

    @property
    def _prefix(self) -> str:
        return "b" if self.version == 4 else "b4"

    async def more(self) -> None:
        body = await self.polling.fetch()
        if self.version == 4:
            packets = body.split("\x1e")
        else:
            packets = []
            while body:
                size, _, body = body.partition(":")
                packets.append(body[: int(size)])
                body = body[int(size) :]
        for packet in packets:
            if packet.startswith("b"):
                self.received.append(base64.b64decode(packet.removeprefix(self._prefix)))
            elif packet.startswith("4"):
                self.received.append(packet[1:])
            elif packet == "2":
                await self.polling.say("3")

    async def leave(self) -> None:
        await self.polling.post("1" if self.version == 4 else "1:1")
        while (await self.polling.get()).status == 200:
            pass  # the rest, and the end


@contextlib.asynccontextmanager
async def opened(
    url: str, *, version: int = 4, query: str = "", headers: tuple[str, ...] = (), base: str = BASE
) -> AsyncIterator[WebSocketClient]:
    """A WebSocket client that has not sent CONNECT yet; dropped at the end, if it is still there."""
    async with connected(url) as peer:
        yield await on(peer, version=version, query=query, headers=headers, base=base)


async def on(
    peer: Peer, *, version: int = 4, query: str = "", headers: tuple[str, ...] = (), base: str = BASE
) -> WebSocketClient:
    """A WebSocket client on a connection."""
    wire = await websocket(peer, f"{base}?EIO={version}&transport=websocket{query}", *headers)
    assert (await wire.text()).startswith("0{")
    return WebSocketClient(wire, version)


@contextlib.asynccontextmanager
async def polled(url: str, *, version: int = 4, query: str = "") -> AsyncIterator[PollingClient]:
    """A client that polls and has not sent CONNECT yet."""
    extra = query if version == 4 else f"{query}&b64=1"
    async with Polling.at(url, version, extra, BASE) as polling:
        client = PollingClient(polling, version)
        yield client
        if not polling.gets.transport.is_closing():
            await client.leave()


@contextlib.asynccontextmanager
async def entered(url: str, namespace: str = "/", auth: Any = None) -> AsyncIterator[WebSocketClient]:
    """A client that is in a namespace."""
    async with opened(url) as client:
        await client.enter(namespace, auth)
        yield client


class Notes(list[Any]):
    """What an application has heard. `sync(count)` waits for that much."""

    async def sync(self, count: int) -> Notes:
        await eventually(lambda: len(self) >= count, f"{count} things are heard: {self}")
        return self
