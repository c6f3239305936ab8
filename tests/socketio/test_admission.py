"""Admission to a namespace: what refuses a client, what it may bring along, and what is seen of it meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from partyline.errors import ConnectionRefused
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from tests.server.servers import eventually
from tests.socketio.clients import Notes, entered, looped, opened, served, serving

both_ways = pytest.mark.parametrize("way", ["use", "on_connect"])


def answering(answer: Any, *, later: bool) -> Callable[..., Any]:
    """A handler that returns something, at once or after an await."""

    async def handler(socket: Socket) -> Any:
        await asyncio.sleep(0)
        return answer

    return handler if later else lambda socket: answer


def raising(error: BaseException, *, later: bool) -> Callable[..., Any]:
    """A handler that raises something, at once or after an await."""

    def handler(socket: Socket) -> None:
        raise error

    async def handler_later(socket: Socket) -> None:
        await asyncio.sleep(0)
        raise error

    return handler_later if later else handler


@both_ways
@pytest.mark.parametrize("later", [False, True])
@looped
async def test_false_refuses(way: str, later: bool) -> None:
    """A handler on the way in that returns False refuses the client, and those after it are not called."""
    io = SocketIO()
    notes = Notes()
    getattr(io, way)(answering(False, later=later))
    getattr(io, way)(lambda socket: notes.append("asked"))
    async with served(io) as url, opened(url) as client:
        await client.say("0")
        assert await client.next() == '4{"message":"connection refused"}'
        assert (io.sockets, io.rooms(), notes) == ({}, [], [])


@both_ways
@pytest.mark.parametrize("answer", [None, True, 0, "", [], {}, "no"])
@looped
async def test_nothing_but_false_refuses(way: str, answer: Any) -> None:
    """Any other value that a handler on the way in returns lets the client in."""
    io = SocketIO()
    getattr(io, way)(answering(answer, later=False))
    async with served(io) as url, entered(url):
        assert len(io.sockets) == 1


@both_ways
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (ConnectionRefusedError("banned"), {"message": "banned"}),
        (ConnectionRefusedError("banned", {"until": 5}), {"message": "banned", "data": {"until": 5}}),
        (ConnectionRefusedError(), {"message": "connection refused"}),
        (ConnectionRefused("banned", 5), {"message": "banned", "data": 5}),
        (
            ConnectionRefusedError(111, "Connect call failed ('10.0.0.5', 6379)"),
            {"message": "internal error", "data": {"code": "internal"}},
        ),
        (SystemExit(1), {"message": "internal error", "data": {"code": "internal"}}),
        (KeyboardInterrupt(), {"message": "internal error", "data": {"code": "internal"}}),
    ],
    ids=repr,
)
@looped
async def test_errors_that_refuse(way: str, later: bool, error: BaseException, answer: Any) -> None:
    """A ConnectionRefusedError raised by the application takes its text and data to the client, but one of the network,
    which names hosts behind the server, does not; `sys.exit` refuses one client and ends nothing (hostile 57)."""
    io = SocketIO()
    getattr(io, way)(raising(error, later=later))
    async with served(io) as url, opened(url) as client:
        await client.say("0")
        assert json.loads(str(await client.next())[1:]) == answer
        await client.sync()


@looped
async def test_whoever_is_on_the_way_in_is_shown_to_nobody() -> None:
    """While `on_connect` runs, a client is not in `fetch_sockets` and is not asked by `call`; what is emitted to it
    arrives once it has been admitted."""
    io = SocketIO()
    gate = asyncio.Event()

    @io.on_connect
    async def enter(socket: Socket, auth: dict[str, Any]) -> None:
        socket.join("lobby")
        if auth.get("slow"):
            await gate.wait()

    async with served(io) as url, entered(url) as inside, opened(url) as outside:
        await outside.say('0{"slow":true}')
        await eventually(lambda: len(io.sockets) == 2, "the second one is on its way in")
        assert [one.id for one in await io.fetch_sockets()] == [inside.sid]
        assert [one.id for one in await io.fetch_sockets("lobby")] == [inside.sid]
        for asked in (io, io.to("lobby")):
            call = asyncio.ensure_future(asked.call("question", timeout=5.0))
            number = str(await inside.next())[1]
            await inside.say(f'3{number}["yes"]')
            assert await call == ["yes"]
        io.to("lobby").emit("news")
        assert await inside.event() == ["news"]
        gate.set()
        assert str(await outside.next()).startswith('0{"sid"')
        assert await outside.event() == ["news"]
        assert len(await io.fetch_sockets("lobby")) == 2


@looped
async def test_a_stranger_holds_no_call_up() -> None:
    """A client that is refused while a `call` to everybody runs does not count as missing."""
    io = SocketIO()

    @io.on_connect
    async def enter(socket: Socket, auth: dict[str, Any]) -> None:
        if auth.get("token") != "good":
            await asyncio.sleep(0.01)
            raise ConnectionRefused("who are you?")

    async with served(io) as url, entered(url, auth={"token": "good"}) as inside, opened(url) as stranger:
        await stranger.say("0")
        await eventually(lambda: len(io.sockets) == 2, "the stranger is on its way in")
        call = asyncio.ensure_future(io.call("question", timeout=5.0))
        assert await inside.event_with_id(1) == ["question"]
        assert await stranger.next() == '4{"message":"who are you?"}'
        await inside.say("31[5]")
        assert await call == [5]


# What a client may bring along


@looped
async def test_auth_has_a_bound() -> None:
    """A CONNECT with more than `max_auth_bytes` is refused with that name and counted; the connection stays (hostile
    49)."""
    io = SocketIO(max_auth_bytes=100)
    async with serving(io) as (partyline, url), opened(url) as client:
        await client.say('0{"token":"' + "x" * 100 + '"}')
        assert await client.next() == (
            '4{"message":"auth is larger than 100 bytes (max_auth_bytes)","data":{"code":"too_large"}}'
        )
        assert partyline.counters.limits["max_auth_bytes"] == 1
        assert io.sockets == {}
        await client.enter("/", {"token": "x" * 80})


@looped
async def test_all_auth_of_a_connection_has_a_bound() -> None:
    """The namespaces of a connection hold 16 times as much and no more; leaving one makes room."""
    io = SocketIO(max_auth_bytes=100)
    for number in range(20):
        io.namespace(f"/{number}")
    auth = {"token": "x" * 80}
    async with serving(io) as (_, url), opened(url) as client:
        for number in range(16):
            await client.enter(f"/{number}", auth)
        await client.say("0/16," + json.dumps(auth))
        assert str(await client.next()).startswith('4/16,{"message":"auth is larger')
        await client.say("1/3,")
        await client.enter("/16", auth)


@pytest.mark.parametrize("version", [3, 4])
@looped
async def test_auth_of_every_size_that_tokens_have(version: int) -> None:
    """With the default a client may bring 64 kB, more than any HTTP header could."""
    io = SocketIO(version_3=True)
    seen = Notes()
    io.namespace("/a").on_connect(lambda socket, auth: seen.append(len(auth["token"])))
    async with served(io) as url, opened(url, version=version) as client:
        token = "x" * 1_000 if version == 3 else "x" * 60_000
        if version == 3:
            await client.next()
            await client.say(f"0/a?token={token},")
        else:
            await client.say("0/a," + json.dumps({"token": token}))
        assert str(await client.next()).startswith("0/a")
        assert seen == [len(token)]


@looped
async def test_namespaces_that_end_one_after_the_other() -> None:
    """A client whose namespaces the server ends one after another never reaches `namespaces_per_connection`."""
    io = SocketIO(namespaces_per_connection=5)
    games = io.namespace("/game-{id:int}")
    games.on("over", lambda socket: socket.namespace.disconnect_sockets())
    async with served(io) as url, entered(url) as client:
        for number in range(30):
            await client.enter(f"/game-{number}")
            await client.say(f'2/game-{number},["over"]')
            assert await client.next() == f"1/game-{number},"
            await client.say(f'2/game-{number},["under way"]')
        await client.sync()
        assert not any(name.startswith("/game") for name in io.namespaces())
