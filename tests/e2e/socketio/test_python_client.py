"""python-socketio's AsyncClient, over each transport, against the kitchen sink."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, Self

import pytest

from tests import tools

from .kitchen import ON_NODE, WAYS, clients, kitchen

every_way = pytest.mark.parametrize("way", WAYS)
SOON: dict[str, Any] = {
    "reconnection": True,
    "reconnection_delay": 0.05,
    "reconnection_delay_max": 0.1,
    "randomization_factor": 0,
}


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """The address of a server in mode `base`."""
    with kitchen("base") as server:
        yield server.url


class Heard:
    """A client that queues what it hears, and the reason of its end."""

    def __init__(self, **options: Any) -> None:
        socketio = tools.python_socketio()
        from aiohttp import ClientSession

        self._http = ClientSession()  # it does not close its own each time
        self.client = socketio.AsyncClient(http_session=self._http, **{"reconnection": False, **options})
        self.events: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        for namespace in ("/", "/custom", "/private"):
            self.client.on("*", self._hearing(namespace), namespace=namespace)
            self.client.on("question", lambda *values: values, namespace=namespace)
        self.client.on("disconnect", lambda reason: self.events.put_nowait(("disconnect", reason)))

    def _hearing(self, namespace: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def hear(event: str, *values: Any) -> None:
            self.events.put_nowait((event, *values))

        return hear

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.disconnect()
        await self._http.close()

    async def enter(self, url: str, way: str, auth: dict[str, Any] | None = None) -> None:
        """Connect to the main namespace."""
        await self.client.connect(url, namespaces=["/"], auth=auth, transports=WAYS[way])
        assert await self.next() == ("auth", auth or {})

    async def next(self) -> tuple[Any, ...]:
        async with asyncio.timeout(8):
            return await self.events.get()


@every_way
def test_the_kitchen_sink(way: str, base: str) -> None:
    """Auth, a namespace of one's own, echo, acknowledgements both ways, binary by digest, rooms, broadcast, the end."""
    tools.python_socketio()

    async def main(url: str) -> None:
        async with Heard() as one, Heard() as two:
            await one.client.connect(url, namespaces=["/", "/custom"], auth={"a": 1}, transports=WAYS[way])
            await two.client.connect(url, namespaces=["/"], transports=WAYS[way])
            assert [await one.next(), await one.next()] == [("auth", {"a": 1})] * 2
            assert await two.next() == ("auth", {})
            assert one.client.transport() == ("polling" if way == "polling" else "websocket")

            await one.client.emit("message", ({"deep": [b"\x00\xff", {"x": None}]}, "é🎉", 2.5))
            assert await one.next() == ("message-back", {"deep": [b"\x00\xff", {"x": None}]}, "é🎉", 2.5)
            assert await one.client.call("message-with-ack", (1, b"two"), namespace="/custom") == (1, b"two")
            assert await one.client.call("ask-me", (7, 8)) == {"ok": True, "answer": [7, 8]}
            data = os.urandom(700_000)
            digest = {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            assert await one.client.call("digest", data) == digest

            assert await one.client.call("join", "r") == "r"
            assert await two.client.call("join", "r") == "r"
            await one.client.emit("room-send-others", ("r", "hello"))
            assert await two.next() == ("room-message", "r", "hello")
            assert await two.client.call("room-size", "r") == 2
            await two.client.emit("broadcast", "all")
            assert await one.next() == ("broadcast-message", "all")

            await one.client.emit("bye", True)
            assert await one.next() == ("disconnect", "server disconnect")
            assert await two.client.call("room-size", "r") == 1

    asyncio.run(main(base))


@every_way
def test_a_refusal(way: str, base: str) -> None:
    """A refused client is told why, with the data."""
    socketio = tools.python_socketio()

    async def main(url: str) -> None:
        client = socketio.AsyncClient(reconnection=False)
        refusals: list[Any] = []
        client.on("connect_error", refusals.append, namespace="/private")
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.connect(url, namespaces=["/private"], auth={"token": "bad"}, transports=WAYS[way])
        assert refusals == [{"message": "not authorized", "data": {"code": 401}}]
        await client.disconnect()

    asyncio.run(main(base))


@every_way
def test_order(way: str, base: str) -> None:
    """Of 300 events in one turn, some with binary, each comes back once and in order: in polls of at most 16 packets,
    which is all that this client takes."""
    tools.python_socketio()
    if ON_NODE and way == "polling":
        pytest.skip("Node's server sends more than this client takes")

    async def main(url: str) -> None:
        async with Heard() as one:
            await one.enter(url, way)
            sent = [(number, b"x" * number) if number % 7 == 0 else (number,) for number in range(300)]
            for values in sent:
                await one.client.emit("message", values)
            assert [await one.next() for _ in sent] == [("message-back", *values) for values in sent]

    asyncio.run(main(base))


@pytest.mark.alone
@every_way
def test_a_silent_client(way: str, base: str) -> None:
    """A client that answers no ping is ended by the server when interval and timeout are over."""
    tools.python_socketio()

    async def main(url: str) -> None:
        async with Heard() as one:
            before = time.monotonic()
            await one.enter(url, way)
            after, send = time.monotonic(), one.client.eio._send_packet  # the server's clock began between the two

            async def send_no_pong(packet: Any) -> None:
                if packet.packet_type != 3:
                    await send(packet)

            one.client.eio._send_packet = send_no_pong
            what, _ = await one.next()
            assert what == "disconnect"
            assert time.monotonic() - before > 1.5
            assert time.monotonic() - after < 2.9  # by itself it would wait for 3 s

    asyncio.run(main(base))


@every_way
def test_the_server_is_killed_and_comes_back(way: str) -> None:
    """After a lost connection the client comes back by itself, with its auth."""
    tools.python_socketio()

    async def main() -> None:
        async with Heard(**SOON) as one:
            with kitchen("base") as server:
                await one.enter(server.url, way, {"a": 1})
                before = one.client.get_sid()
                server.kill()
                assert (await one.next())[0] == "disconnect"
                with kitchen("base", port=server.port):
                    assert await one.next() == ("auth", {"a": 1})
                    assert one.client.get_sid() != before
                    assert await one.client.call("message-with-ack", "hello") == "hello"
                    await one.client.disconnect()

    asyncio.run(main())


@every_way
def test_msgpack(way: str) -> None:
    """With its own MessagePack parser: values, binary at depth, acknowledgements and the end."""
    tools.python_socketio()

    async def main(url: str) -> None:
        async with Heard(serializer="msgpack") as one:
            await one.enter(url, way, {"a": 1})
            values = (-1, 2.5, "é🎉", None, {"deep": [b"\x00\xff", {"x": True}]})
            await one.client.emit("message", values)
            assert await one.next() == ("message-back", *values)
            assert await one.client.call("message-with-ack", values) == values
            assert await one.client.call("ask-me", (7, b"8")) == {"ok": True, "answer": [7, b"8"]}
            await one.client.emit("bye", False)
            assert await one.next() == ("disconnect", "server disconnect")

    with kitchen("msgpack") as server:
        asyncio.run(main(server.url))


def test_a_room_with_other_clients(base: str) -> None:
    """In one room with npm's clients of versions 2 and 4 all get the same events."""
    tools.python_socketio()
    tools.program("node")

    async def main(url: str) -> None:
        async with clients(url, "2 polling", "4 upgrade") as others, AsyncExitStack() as stack:
            ours = [await stack.enter_async_context(Heard()) for _ in WAYS]
            for one, way in zip(ours, WAYS, strict=True):
                await one.enter(url, way)
                await one.client.call("join", "r")
            for other in others:
                await other.ask("join", "r")
            await ours[0].client.emit("room-send", ("r", {"deep": b"\x00\xff"}))
            others[0].emit("room-send", "r", {"deep": {"bytes": "00ff"}})
            for one in ours:
                assert [await one.next(), await one.next()] == [("room-message", "r", {"deep": b"\x00\xff"})] * 2
            for other in others:
                for _ in range(2):
                    assert (await other.hears())["values"] == ["r", {"deep": {"bytes": "00ff"}}]

    asyncio.run(main(base))
