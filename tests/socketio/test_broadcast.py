"""Rooms and broadcasts over real sockets: which clients get an event, and in what form."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from partyline.errors import CallTimeout, InvalidValue
from partyline.models import Audience
from partyline.socketio.broadcast import Broadcast
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from tests.server.servers import eventually

from .clients import Client, Notes, WebSocketClient, entered, looped, opened, polled, served, serving


@contextlib.asynccontextmanager
async def four(io: SocketIO, rooms: str = "a,ab,b,", **settings: Any) -> AsyncIterator[list[WebSocketClient]]:
    """Four clients, each with a letter for each of its rooms."""
    async with served(io, **settings) as url, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(entered(url)) for _ in range(4)]
        for client, letters in zip(clients, rooms.split(","), strict=True):
            io.sockets[client.sid].join(*letters)
        yield clients


async def heard(io: SocketIO, clients: list[WebSocketClient]) -> list[int]:
    """The clients that have got the event `x` once, and nothing else."""
    io.emit("end")
    got = []
    for number, client in enumerate(clients):
        event = await client.event()
        if event != ["end"]:
            assert event == ["x", 1]
            assert await client.event() == ["end"]
            got.append(number)
    return got


OPERATORS: list[tuple[str, Any, list[int]]] = [
    ("everybody", lambda io, socket: io, [0, 1, 2, 3]),
    ("room", lambda io, socket: io.to("a"), [0, 1]),
    ("in_", lambda io, socket: io.in_("a"), [0, 1]),
    ("two rooms, each once", lambda io, socket: io.to("a").to("b"), [0, 1, 2]),
    ("two rooms at once", lambda io, socket: io.to("a", "b"), [0, 1, 2]),
    ("a list of rooms", lambda io, socket: io.to(["a", "b"]), [0, 1, 2]),
    ("nowhere", lambda io, socket: io.to("nowhere"), []),
    ("except", lambda io, socket: io.except_("a"), [2, 3]),
    ("except two", lambda io, socket: io.except_("a", "b"), [3]),
    ("except twice", lambda io, socket: io.except_("a").except_("b"), [3]),
    ("room except", lambda io, socket: io.to("a").except_("b"), [0]),
    ("except an id", lambda io, socket: io.except_(socket.id), [1, 2, 3]),
    ("an id", lambda io, socket: io.to(socket.id), [0]),
    ("local", lambda io, socket: io.local, [0, 1, 2, 3]),
    ("local room", lambda io, socket: io.local.to("a"), [0, 1]),
    ("room local", lambda io, socket: io.to("a").local, [0, 1]),
    ("volatile room", lambda io, socket: io.volatile.to("a"), [0, 1]),
    ("room volatile", lambda io, socket: io.to("a").volatile, [0, 1]),
    ("compress", lambda io, socket: io.to("a").compress(False), [0, 1]),
    ("timeout", lambda io, socket: io.to("a").timeout(5), [0, 1]),
    ("all of them", lambda io, socket: io.local.volatile.compress(True).timeout(1).to("a").except_("b"), [0]),
    ("others", lambda io, socket: socket.broadcast, [1, 2, 3]),
    ("others of a room", lambda io, socket: socket.to("a"), [1]),
    ("others of a room, in_", lambda io, socket: socket.in_("a"), [1]),
    ("others without a room", lambda io, socket: socket.except_("b"), [3]),
    ("others, local", lambda io, socket: socket.local.to("a"), [1]),
    ("others, volatile", lambda io, socket: socket.volatile.broadcast, [1, 2, 3]),
    ("others of a room, volatile", lambda io, socket: socket.volatile.to("a"), [1]),
    ("others, volatile, without a room", lambda io, socket: socket.volatile.except_("b"), [3]),
    ("others, volatile, local", lambda io, socket: socket.volatile.local, [1, 2, 3]),
    ("others, compressed, without a room", lambda io, socket: socket.compress(False).except_("b"), [3]),
    ("itself", lambda io, socket: socket, [0]),
    ("itself, compressed", lambda io, socket: socket.compress(True), [0]),
    ("itself, timeout", lambda io, socket: socket.timeout(1), [0]),
]


@pytest.mark.parametrize(("choose", "expected"), [case[1:] for case in OPERATORS], ids=[case[0] for case in OPERATORS])
@looped
async def test_operators(choose: Any, expected: list[int]) -> None:
    """Each operator reaches exactly the clients that it names, each once."""
    io = SocketIO()
    async with four(io) as clients:
        choose(io, io.sockets[clients[0].sid]).emit("x", 1)
        assert await heard(io, clients) == expected


@looped
async def test_operators_change_nothing_in_place() -> None:
    """Each operator returns a new one, so an earlier choice can be used again unchanged."""
    io = SocketIO()
    async with four(io) as clients:
        room = io.to("a")
        chosen = [
            room.to("b"),
            room.except_("b"),
            room.local,
            room.volatile,
            room.timeout(1),
            room.compress(True),
            io.volatile,
        ]
        assert all(isinstance(one, Broadcast) for one in chosen)
        assert len({id(one) for one in (room, io, *chosen)}) == len(chosen) + 2
        assert (room._audience, room._local, room._volatile, room._timeout) == (
            Audience(frozenset("a")),
            False,
            False,
            None,
        )
        kept = (chosen[3].local, chosen[3].timeout(3).to("b"))
        assert all(one._volatile for one in kept)
        assert (kept[0]._local, kept[1]._timeout) == (True, 3)
        room.emit("x", 1)
        assert await heard(io, clients) == [0, 1]
        room.emit("x", 1)
        assert await heard(io, clients) == [0, 1]


# Rooms


@looped
async def test_join_and_leave() -> None:
    """A socket is once in its own room and in those it joins; leaving removes it, and leaving twice does nothing."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        socket = io.sockets[client.sid]
        socket.join("a", ["b", "c"])
        socket.join("a")
        assert sorted(socket.rooms) == sorted([client.sid, "a", "b", "c"])
        assert io.rooms() == sorted(socket.rooms)
        socket.leave("a", "never")
        socket.leave("a")
        assert sorted(socket.rooms) == sorted([client.sid, "b", "c"])
        with pytest.raises(TypeError, match="strings"):
            socket.join([5])  # type: ignore[list-item]


@looped
async def test_rooms_are_of_a_namespace() -> None:
    """Rooms of the same name in two namespaces are independent."""
    io = SocketIO()
    other = io.namespace("/other")
    async with served(io) as url, entered(url) as client:
        await client.enter("/other")
        (first,), (second,) = io.sockets.values(), other.sockets.values()
        first.join("room")
        other.to("room").emit("x")
        second.join("room")
        io.to("room").emit("y")
        other.to("room").emit("z")
        assert await client.take(2) == ['2["y"]', '2/other,["z"]']


@looped
async def test_rooms_per_connection() -> None:
    """A socket may be in rooms_per_connection rooms besides its own; the next one is refused and counted."""
    io = SocketIO(rooms_per_connection=2)
    async with serving(io) as (partyline, url), entered(url) as client, entered(url) as other:
        socket = io.sockets[client.sid]
        socket.join("a", "b")
        socket.join("a")
        with pytest.raises(InvalidValue, match="rooms_per_connection") as caught:
            socket.join("c")
        assert caught.value.code == "too_many_rooms"
        assert partyline.counters.limits == {"rooms_per_connection": 1}
        with pytest.raises(InvalidValue):
            io.sockets_join("c")
        assert "c" in io.sockets[other.sid].rooms, "a socket in too many rooms does not keep the others out"
        socket.leave("a")
        socket.join("c")


@looped
async def test_a_handler_that_joins_too_many_rooms() -> None:
    """A too_many_rooms error that a handler does not catch is answered like any other exception."""
    io = SocketIO(rooms_per_connection=1)
    io.on("join", lambda socket, room: socket.join(room))
    async with served(io) as url, entered(url) as client:
        assert await client.ask("join", "a") == []
        assert await client.ask("join", "b") == [{"error": "internal"}]


# Many at once


@looped
async def test_fetch_sockets() -> None:
    """fetch_sockets gives id, rooms and data of an audience; a socket found like this can be sent to, moved and
    expelled."""
    io = SocketIO()
    async with four(io) as clients:
        io.sockets[clients[0].sid].data["n"] = 7
        assert {one.id for one in await io.fetch_sockets()} == {client.sid for client in clients}
        assert {one.id for one in await io.to("a").fetch_sockets()} == {clients[0].sid, clients[1].sid}
        assert {one.id for one in await io.fetch_sockets("b")} == {clients[1].sid, clients[2].sid}
        assert {one.id for one in await io.local.except_("a", "b").fetch_sockets()} == {clients[3].sid}
        (remote,) = await io.to(clients[0].sid).fetch_sockets()
        assert (remote.rooms, remote.data) == ({clients[0].sid, "a"}, {"n": 7})
        remote.emit("x", 1)
        assert await heard(io, clients) == [0]
        remote.join("new")
        remote.leave("a")
        assert set(io.sockets[remote.id].rooms) == {remote.id, "new"}
        remote.disconnect()
        assert await clients[0].next() == "1"


@looped
async def test_moving_many() -> None:
    """sockets_join and sockets_leave move an audience."""
    io = SocketIO()
    async with four(io) as clients:
        io.to("a").sockets_join("new", ["newer"])
        io.except_("a", "b").sockets_join("new")
        io.to("a").sockets_leave("newer", "b")
        rooms = [sorted(set(io.sockets[client.sid].rooms) - {client.sid}) for client in clients]
        assert rooms == [["a", "new"], ["a", "new"], ["b"], ["new"]]


@pytest.mark.parametrize("close", [False, True])
@looped
async def test_disconnecting_many(close: bool) -> None:
    """disconnect_sockets ends an audience, with `close` their connections, too."""
    io = SocketIO()
    async with four(io) as clients:
        io.to("a").disconnect_sockets(close)
        for client in clients[:2]:
            assert await client.next() == "1"
            if close:
                assert (await client.closed()).code == 1000
                await client.leave()
        await eventually(lambda: len(io.connections) == (2 if close else 4), "they end")
        io.emit("x", 1)
        assert await heard(io, clients[2:]) == [0, 1]


# Calls


@looped
async def test_a_call_to_many() -> None:
    """A broadcast with an acknowledgement collects each client's answer once, in the order of arrival."""
    io = SocketIO()
    async with four(io) as clients:
        call = asyncio.ensure_future(io.to("a").to("b").call("question", b"\x01"))
        for client in clients[:3]:
            assert await client.take(2) == ['51-1["question",{"_placeholder":true,"num":0}]', b"\x01"]
        await clients[3].say('31["not asked"]')
        await clients[3].sync()
        for number in (2, 0, 1):
            await clients[number].say(f"31[{number}]", '31["again"]')
            await clients[number].sync()
        assert await call == [2, 0, 1]
        assert await io.to("nowhere").call("question") == []


@looped
async def test_who_does_not_answer() -> None:
    """Clients that do not answer in time are named beside the answers of the others; late answers are dropped."""
    io = SocketIO()
    async with four(io) as clients:
        call = asyncio.ensure_future(io.timeout(0.05).call("question"))
        for client in clients:
            assert await client.next() == '21["question"]'
        await clients[0].say("31[1]")
        await clients[3].say("31[]")
        with pytest.raises(CallTimeout, match="2 of 4") as caught:
            await call
        assert caught.value.answers == (1, ())
        assert set(caught.value.missing) == {clients[1].sid, clients[2].sid}
        await clients[1].say("31[1]")
        await clients[1].sync()
        assert [connection.calls for connection in io.connections] == [0] * 4
        with pytest.raises(CallTimeout):
            await io.call("question", timeout=0.01)


@looped
async def test_how_long_is_said_first() -> None:
    """A timeout set on the socket applies to a broadcast from it, too."""
    io = SocketIO()
    async with four(io) as clients:
        socket = io.sockets[str(clients[0].sid)]
        for others in (socket.timeout(0.01).to("a"), socket.timeout(0.01).broadcast, socket.timeout(0.01).local):
            with pytest.raises(CallTimeout):
                await others.call("question")


@looped
async def test_who_goes_is_not_waited_for() -> None:
    """A client that leaves while answers are collected is missing, and nobody waits for it."""
    io = SocketIO()
    async with four(io) as clients:
        call = asyncio.ensure_future(io.call("question"))
        for client in clients:
            await client.next()
        for client in clients[:2]:
            await client.say("31[1]")
        await clients[2].say("1")
        clients[3].wire.peer.transport.abort()
        with pytest.raises(CallTimeout) as caught:
            await call
        assert caught.value.answers == (1, 1)
        assert set(caught.value.missing) == {clients[2].sid, clients[3].sid}
        assert [connection.calls for connection in io.connections] == [0] * 3


# The form


@contextlib.asynccontextmanager
async def all_kinds(url: str) -> AsyncIterator[list[Client]]:
    """A client of each kind: protocol 5 and 4, WebSocket and polling."""
    async with (
        opened(url) as first,
        polled(url) as second,
        opened(url, version=3) as third,
        polled(url, version=3) as fourth,
    ):
        for client in (first, second):
            await client.enter()
        for client in (third, fourth):
            assert await client.next() == "0"
        yield [first, second, third, fourth]


@looped
async def test_all_kinds_of_clients() -> None:
    """Members of both protocols and both transports get the same events, with their attachments, in order."""
    io = SocketIO(version_3=True)
    io.on_connect(lambda socket: socket.join("room"))
    async with served(io) as url, all_kinds(url) as clients:
        for n in range(3):
            io.to("room").emit("x", n)
            io.to("room").emit("y", {"deep": [b"\x00" * n, b"\xff"]})
        expected = []
        for n in range(3):
            holes = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'
            expected += [f'2["x",{n}]', f'52-["y",{{"deep":[{holes}]}}]', b"\x00" * n, b"\xff"]
        for client in clients:
            assert await client.take(len(expected)) == expected


@looped
async def test_binary_from_all_kinds_of_clients() -> None:
    """Binary events from each kind of client arrive whole and in order, and are echoed like that."""
    io = SocketIO(version_3=True)
    notes = Notes()

    @io.on("x")
    async def x(socket: Socket, n: int, first: bytes, second: dict[str, bytes]) -> Any:
        await asyncio.sleep(0)
        notes.append(n)
        return [second["data"], first]

    hole = '{{"_placeholder":true,"num":{}}}'.format
    async with served(io) as url, all_kinds(url) as clients:
        for client in clients:
            for n in range(3):
                packet = f'52-{n}["x",{n},{hole(1)},{{"data":{hole(0)}}}]'
                await client.say(packet, bytes([n]), b"second")
            for n in range(3):
                assert await client.take(3) == [f"62-{n}[[{hole(0)},{hole(1)}]]", bytes([n]), b"second"]
        assert notes == [0, 1, 2] * 4


@looped
async def test_encoded_once_for_all_that_speak_alike() -> None:
    """Members that speak alike share one dialect."""
    io = SocketIO(version_3=True)
    async with served(io) as url, all_kinds(url):
        dialects = [socket.dialect for socket in io.sockets.values()]
        assert dialects[0] is dialects[1]
        assert dialects[2] is dialects[3]
        assert dialects[0] is not dialects[2]


@looped
async def test_a_poller_that_does_not_fetch() -> None:
    """A poller for which too many events wait is closed; the others of the room get every event."""
    io = SocketIO()
    notes = Notes()
    io.on_disconnect(lambda socket, reason: notes.append(reason))
    async with served(io, outbox_bytes=10_000) as url, polled(url) as slow, entered(url) as client:
        await slow.enter()
        for n in range(20):
            io.emit("x", n, "y" * 1_000)
        for n in range(20):
            assert (await client.event())[1] == n
        await notes.sync(1)
        assert notes == ["forced close"]
        assert len(io.sockets) == 1
