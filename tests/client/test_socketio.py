"""The Socket.IO client, against Partyline's kitchen sink and against Node's server."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partyline import CallTimeout, ConfigError, ConnectionRefused
from partyline.client import socketio
from partyline.errors import Disconnected, InvalidValue
from tests.e2e.socketio.kitchen import Kitchen, kitchen

WAYS = {"polling": ("polling",), "websocket": ("websocket",), "upgrade": ("polling", "websocket")}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return WAYS[request.param]


@pytest.fixture(scope="module")
def base() -> Iterator[Kitchen]:
    with kitchen("base") as server:
        yield server


class Heard:
    """What a client receives, in order."""

    def __init__(self, connecting: socketio.connect) -> None:
        self._queue: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.states: list[tuple[str, str]] = []
        connecting.client.on_any(lambda event, *values: self._queue.put_nowait((event, *values)))
        connecting.client.on_state(lambda state, reason: self.states.append((state.value, reason)))

    async def next(self) -> tuple[Any, ...]:
        async with asyncio.timeout(8):
            return await self._queue.get()


async def nothing_is_left() -> None:
    """No task but the test's own."""
    for _ in range(3):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_events_and_acknowledgements(base: Kitchen, way: tuple[str, ...]) -> None:
    """Events and acknowledgements with nested binary go both ways, on each transport and across the upgrade."""

    async def main() -> None:
        connecting = socketio.connect(base.url, auth={"a": 1}, transports=way)
        heard = Heard(connecting)
        async with connecting as chat:
            assert await heard.next() == ("auth", {"a": 1})
            assert chat.id
            assert chat.emit("message", {"deep": [b"\x00\xff", None]}, "é🎉", 2.5) is True
            assert await heard.next() == ("message-back", {"deep": [b"\x00\xff", None]}, "é🎉", 2.5)
            assert await chat.call("message-with-ack", 1, b"two") == (1, b"two")
            assert await chat.call("message-with-ack") == ()
            assert await chat.call("message-with-ack", None) is None
            data = os.urandom(700_000)
            digest = {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            assert await chat.call("digest", data) == digest

            @chat.on("question")
            async def answer(*values: Any) -> tuple[Any, ...]:
                await asyncio.sleep(0)
                return values

            assert await chat.call("ask-me", 7, 8) == {"ok": True, "answer": [7, 8]}
            chat.off("question")
            assert chat.transport == way[-1]
        assert not chat.connected
        assert chat.emit("message") is False
        await nothing_is_left()

    asyncio.run(main(), debug=True)


def test_order_across_the_upgrade(base: Kitchen) -> None:
    """Everything sent while the WebSocket takes over arrives once and in order, both ways."""

    async def main() -> None:
        connecting = socketio.connect(base.url)
        heard = Heard(connecting)
        async with connecting as chat:
            assert (await heard.next())[0] == "auth"
            for number in range(500):
                chat.emit("message", number)
                if number % 20 == 0:
                    await asyncio.sleep(0.001)
            assert [(await heard.next())[1] for _ in range(500)] == list(range(500))
            assert chat.transport == "websocket"

    asyncio.run(main())


def test_namespaces(base: Kitchen, way: tuple[str, ...]) -> None:
    """Several namespaces share a connection; a refusal is raised with message and data, and the others stay
    connected."""

    async def main() -> None:
        async with socketio.connect(base.url, "/custom", transports=way) as custom:
            main_one = await custom.namespace("/", auth={"b": 2})
            with pytest.raises(ConnectionRefused, match="not authorized") as refused:
                await custom.namespace("private", auth={"token": "bad"})
            assert refused.value.data == {"code": 401}
            with pytest.raises(ConnectionRefused, match="Invalid namespace"):
                await custom.namespace("/nowhere")
            with pytest.raises(ConfigError, match="/custom"):
                await custom.namespace("/custom")
            assert await custom.call("join", "r") == "r"
            assert await main_one.call("room-size", "r") == 0
            main_one.emit("bye")
            while main_one.connected:
                await asyncio.sleep(0.01)
            assert (main_one.state, custom.state) == (socketio.State.CLOSED, socketio.State.CONNECTED)
            await main_one.open()
            assert (await main_one.call("whoami"))["id"] == main_one.id
        await nothing_is_left()

    asyncio.run(main())


def test_a_refused_client(base: Kitchen, way: tuple[str, ...]) -> None:
    """A refusal of the first namespace is raised by `connect`, and nothing is left open."""

    async def main() -> None:
        with pytest.raises(ConnectionRefused) as refused:
            await socketio.connect(base.url, "/private", auth={"token": "bad"}, transports=way)
        assert refused.value.data == {"code": 401}
        async with socketio.connect(base.url, "/private", auth=lambda: {"token": "secret"}, transports=way) as private:
            assert private.connected
        await nothing_is_left()

    asyncio.run(main())


def test_nobody_there() -> None:
    """A missing server, one that speaks something else, and an invalid address are reported in time."""

    async def main() -> None:
        with pytest.raises(Disconnected, match="cannot be reached"):
            await socketio.connect("http://127.0.0.1:9", reconnect=False)
        with pytest.raises(InvalidValue, match="url"):
            socketio.connect("localhost:8000")
        with pytest.raises(ConfigError, match="parser"):
            socketio.connect("http://localhost", parser="xml")
        await nothing_is_left()

    asyncio.run(main())


def test_calls_that_get_no_answer(base: Kitchen) -> None:
    """A call that is not answered in time times out; one that waits when the connection is lost is told so."""

    async def main() -> None:
        async with socketio.connect(base.url, reconnect=False) as chat:
            with pytest.raises(CallTimeout):
                await chat.call("nobody hears", timeout=0.05)
            waiting = asyncio.create_task(chat.call("nobody hears"))
            await asyncio.sleep(0)
            chat.emit("bye", True)
            with pytest.raises(Disconnected):
                await waiting
            with pytest.raises(Disconnected):
                await chat.call("message-with-ack")

    asyncio.run(main())


@pytest.mark.check
def test_messagepack(way: tuple[str, ...]) -> None:
    """With the MessagePack parser on both sides everything works as well."""

    async def main(url: str) -> None:
        connecting = socketio.connect(url, auth={"a": b"\x01"}, transports=way, parser="msgpack")
        heard = Heard(connecting)
        async with connecting as chat:
            assert await heard.next() == ("auth", {"a": b"\x01"})
            assert await chat.call("message-with-ack", {"deep": [b"\x00\xff"]}) == {"deep": [b"\x00\xff"]}

    with kitchen("msgpack") as server:
        asyncio.run(main(server.url))


@pytest.mark.check
def test_a_killed_server(way: tuple[str, ...], tmp_path: Path) -> None:
    """When a server is killed and restarted, the client comes back as the same socket and gets what it missed, once."""
    db = tmp_path / "partyline.db"

    async def main() -> None:
        with kitchen("recovery", db=db) as server:
            connecting = socketio.connect(server.url, transports=way, least_delay=0.05, most_delay=0.1)
            heard = Heard(connecting)
            chat = await connecting
            other = await socketio.connect(server.url, transports=way, least_delay=0.05, most_delay=0.1)
            assert await heard.next() == ("auth", {})
            first = chat.id
            await chat.call("join", "r")
            other.emit("room-send", "r", "before")
            assert await heard.next() == ("room-message", "r", "before")
            server.kill()
        with kitchen("recovery", db=db, port=server.port):
            while len(heard.states) < 3 or not other.connected:
                await asyncio.sleep(0.01)
            assert (chat.id, chat.recovered) == (first, True)
            assert [state for state, _ in heard.states] == ["connected", "waiting", "connected"]
            other.emit("room-send", "r", "after")
            assert await heard.next() == ("room-message", "r", "after")
            for one in (chat, other):
                await one.close()
        await nothing_is_left()

    asyncio.run(main())
