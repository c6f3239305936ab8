"""The bus that the settings name, or that comes with the log: what it carries, and what it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from partyline import Settings, Socket, SocketIO, build, running
from partyline.client import socketio
from partyline.engines import BUSES, LOGS
from partyline.errors import ConfigError
from partyline.testing import MemoryLog, MemoryNetwork
from tests.adapters.nats.server import nats_server
from tests.adapters.postgres.server import postgres_server
from tests.adapters.servers import redis_server
from tests.calls import call
from tests.relay.v1.test_websocket import line
from tests.server.servers import eventually


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> MemoryNetwork:
    """What `memory://` opens as a bus; there is such a log, too."""
    network, log = MemoryNetwork(), MemoryLog()
    module = ModuleType("tests_memory_bus")
    module.open_bus = lambda url, field: network.bus()  # type: ignore[attr-defined]
    module.open_log = lambda *known: log.handle()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for known in (LOGS, BUSES):
        monkeypatch.setitem(known, "memory", (module.__name__, "memory"))
    return network


def on_bus(**settings: Any) -> Settings:
    return Settings(port=0, db=":memory:", **{"bus": "memory://here", "ephemeral_topics": (">",), **settings})


@contextlib.asynccontextmanager
async def two(settings: Settings) -> AsyncIterator[tuple[tuple[SocketIO, SocketIO], tuple[str, str]]]:
    """Two servers with a SocketIO each, which know each other."""
    one, other = SocketIO(), SocketIO()
    async with running(settings, extras=[one]) as (_, first), running(settings, extras=[other]) as (_, second):
        await eventually(lambda: one._others() and other._others(), "they know each other")
        yield (one, other), (first, second)


@contextlib.asynccontextmanager
async def engine(name: str, folder: Path) -> AsyncIterator[str]:
    """The address of an engine of this kind."""
    if name == "postgres":
        async with postgres_server() as server:
            yield server.url()
    elif name == "nats":
        async with nats_server(folder) as nats:
            yield nats.url
    else:
        async with redis_server(folder) as server:
            yield server.url


async def events_cross(settings: Settings) -> None:
    """A Socket.IO event to a room, and a message that is not kept, on one server reach clients of the other."""
    async with two(settings) as ((one, other), (first, second)):
        heard: list[str] = []

        @other.on("hello")
        async def hello(socket: object, text: str) -> None:
            one.to("lobby").emit("said", text)

        other.on_connect(_joins_lobby)
        connecting = socketio.connect(second)
        connecting.client.on("said", heard.append)
        async with connecting as client, line(second) as subscriber:
            client.emit("hello", "there")
            await eventually(lambda: heard == ["there"], "it comes from the other server")
            await subscriber.ask("subscribe", topic="cats")
            status, _ = await call(f"{first}/publish", "POST", {"topic": "cats", "message": "meow"})
            assert status == 200
            assert await subscriber.data(1) == ["meow"]
            _, health = await call(f"{first}/health")
            assert (health["nodes"], health["status"]) == (2, "ok")


def test_a_bus_carries_what_is_not_kept(network: MemoryNetwork) -> None:
    """On the bus of the settings, events to rooms and messages that are not kept reach the clients of all servers."""
    asyncio.run(events_cross(on_bus()))


@pytest.mark.check
@pytest.mark.parametrize("log", [False, True], ids=["bus", "log"])
@pytest.mark.parametrize("name", ["redis", "postgres", "nats"])
def test_an_engine_carries_it(name: str, log: bool, tmp_path: Path) -> None:
    """The bus is in Redis, NATS or PostgreSQL; a log brings the bus of its own engine."""

    async def main() -> None:
        async with engine(name, tmp_path) as url:
            await events_cross(on_bus(**({"bus": None, "log": url} if log else {"bus": url})))

    asyncio.run(main())


def test_events_that_are_kept_reach_each_server_once(network: MemoryNetwork) -> None:
    """With a shared log, `publish` of a SocketIO keeps an event, which reaches the clients of both servers once; its
    history is the same on both."""

    async def main() -> None:
        async with two(on_bus(log="memory://here", bus=None)) as (servers, urls), contextlib.AsyncExitStack() as stack:
            heard: list[list[object]] = [[], []]
            for server, url, got in zip(servers, urls, heard, strict=True):
                server.on_connect(_joins_lobby)
                connecting = socketio.connect(url)
                connecting.client.on("said", got.append)
                await stack.enter_async_context(connecting)
            await servers[0].publish("lobby", "said", 1)
            await servers[1].publish("lobby", "said", 2)
            servers[0].to("lobby").emit("said", 3)
            await eventually(lambda: all(len(got) == 3 for got in heard), "all have come")
            assert [sorted(map(str, got)) for got in heard] == [["1", "2", "3"]] * 2
            pages = [await server.history("lobby") for server in servers]
            assert [[event.arguments for event in page] for page in pages] == [[(1,), (2,)]] * 2

    asyncio.run(main())


def _joins_lobby(socket: Socket) -> None:
    socket.join("lobby")


def test_health_says_what_is_promised(network: MemoryNetwork) -> None:
    """/health names the engines and counts the servers; while the bus cannot be reached it is 503, and it heals."""

    async def main() -> None:
        async with two(on_bus(log="memory://here")) as (_, (first, _)):
            _, health = await call(f"{first}/health")
            assert health == {"status": "ok", "durability": "nothing", "log": "memory", "bus": "memory", "nodes": 2}
            for bus in network.buses:
                bus.cut = True
            status, answer = await call(f"{first}/health")
            assert (status, answer["error"]["code"]) == (503, "bus_unavailable")
            for bus in network.buses:
                bus.cut = False
            assert (await call(f"{first}/health"))[0] == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "recovers", "says"),
    [
        ({"ephemeral_topics": ()}, False, "Name a log that all of them share"),
        ({}, True, "recovery_window: on a bus without a log"),
        ({"bus": "mysql://user:secret@here/db"}, False, "bus: mysql:// is no bus that several servers can share"),
    ],
    ids=["topics that are kept", "recovery", "no such engine"],
)
def test_what_a_bus_alone_cannot_do_is_refused(
    network: MemoryNetwork, settings: dict[str, Any], recovers: bool, says: str
) -> None:
    """Without a log that all share, what has to be kept is refused at start, with the way out."""

    async def main() -> None:
        with pytest.raises(ConfigError) as caught:
            build(on_bus(**settings), extras=[SocketIO(recovery_window=60.0 if recovers else None)])
        assert says in caught.value.message
        assert "secret" not in caught.value.message

    asyncio.run(main())


def test_socketio_without_the_relay_needs_no_log(network: MemoryNetwork) -> None:
    """An application that serves its SocketIO only keeps no topics: a bus is enough for it."""

    async def main() -> None:
        partyline = build(on_bus(ephemeral_topics=()), extras=[SocketIO()], relay=False)
        await partyline.close()

    asyncio.run(main())
