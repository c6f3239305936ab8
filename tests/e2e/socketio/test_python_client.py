"""python-socketio's AsyncClient, over each transport, against the kitchen sink."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests import tools

from .kitchen import kitchen

WAYS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}


class Heard:
    """A client that queues what it hears."""

    def __init__(self) -> None:
        socketio = tools.python_socketio()
        self.client = socketio.AsyncClient(reconnection=False)
        self.events: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        for namespace in ("/", "/custom", "/private"):
            self.client.on("*", self._hearing(namespace), namespace=namespace)
            self.client.on("question", lambda *values: values, namespace=namespace)

    def _hearing(self, namespace: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def hear(event: str, *values: Any) -> None:
            self.events.put_nowait((event, *values))

        return hear

    async def next(self) -> tuple[Any, ...]:
        async with asyncio.timeout(8):
            return await self.events.get()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of sessions that the client leaves
@pytest.mark.parametrize("way", WAYS)
def test_the_kitchen_sink(way: str) -> None:
    """Auth, a namespace of one's own, echo, acknowledgements both ways, binary by digest, rooms, broadcast, the end."""
    tools.python_socketio()

    async def main(url: str) -> None:
        one, two = Heard(), Heard()
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
        await asyncio.wait_for(one.client.wait(), 8)
        assert not one.client.connected
        assert await two.client.call("room-size", "r") == 1
        for one_of_them in (one, two):
            await one_of_them.client.disconnect()

    with kitchen("base") as server:
        asyncio.run(main(server.url))
    gc.collect()


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal(way: str) -> None:
    """A refused client hears why, with the data."""
    socketio = tools.python_socketio()

    async def main(url: str) -> None:
        client = socketio.AsyncClient(reconnection=False)
        refusals: list[Any] = []
        client.on("connect_error", refusals.append, namespace="/private")
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.connect(url, namespaces=["/private"], auth={"token": "bad"}, transports=WAYS[way])
        assert refusals == [{"message": "not authorized", "data": {"code": 401}}]
        await client.disconnect()

    with kitchen("base") as server:
        asyncio.run(main(server.url))
