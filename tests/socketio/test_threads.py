"""Calls from other threads: they are executed on the loop, in order, and touch nothing before that."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from partyline.errors import InvalidValue
from partyline.models import Position
from partyline.socketio.acks import Acknowledge
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from tests.server.servers import eventually, partyline_server
from tests.socketio.clients import Notes, entered, looped, only, polled, served, serving

Ways = dict[str, Callable[[SocketIO, Socket], object]]

EMITS: Ways = {
    "to everybody": lambda io, socket: io.emit("news", 1),
    "send": lambda io, socket: io.send(1),
    "to a room": lambda io, socket: io.to(socket.id).emit("news", 1),
    "to everybody, volatile": lambda io, socket: io.volatile.emit("news", 1),
    "on this node": lambda io, socket: io.local.emit("news", 1),
    "to one": lambda io, socket: socket.emit("news", 1),
    "to one, volatile": lambda io, socket: socket.volatile.emit("news", 1),
    "to one by its operators": lambda io, socket: socket.timeout(1).emit("news", 1),
    "on its connection": lambda io, socket: socket.engine.send_message('2["news",1]'),
    "on its connection, several": lambda io, socket: socket.engine.send_messages(['2["news",1]']),
}


async def in_a_thread(function: Callable[[], Any]) -> Any:
    """What a function returns or raises in a thread without a loop."""
    return await asyncio.to_thread(function)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("recovery", [None, 60.0])
@pytest.mark.parametrize("way", EMITS)
@looped
async def test_emit(way: str, recovery: float | None, transport: str) -> None:
    """However an event is emitted from a thread, it arrives, and so does what the loop emits after it (hostile 57)."""
    io = SocketIO(recovery_window=recovery)
    async with served(io) as url, (entered if transport == "websocket" else polled)(url) as client:
        if transport == "polling":
            await client.enter()
            asked = asyncio.ensure_future(client.more())  # a GET hangs, so that volatile events find one
            await eventually(lambda: only(io).writable, "a GET hangs")
        socket = only(io)
        await in_a_thread(lambda: EMITS[way](io, socket))
        if transport == "polling":
            await asked
        assert '"news",1' in str(await client.next()).replace("message", "news")
        io.emit("from the loop")
        assert "from the loop" in str(await client.next())


@looped
async def test_the_order_of_one_thread() -> None:
    """What one thread emits arrives in order, with its changes of rooms in between."""
    io = SocketIO()

    def work() -> None:
        socket = only(io)
        for number in range(100):
            io.emit("all", number)
            socket.join("room")
            io.to("room").emit("room", number)
            socket.leave("room")
            io.to("room").emit("nobody", number)
            socket.emit("one", number)

    async with served(io) as url, entered(url) as client:
        await in_a_thread(work)
        for number in range(100):
            for name in ("all", "room", "one"):
                assert await client.event() == [name, number]


@looped
async def test_what_is_wrong_is_said_at_once() -> None:
    """A reserved name and a value that cannot be encoded raise in the thread, and nothing is sent."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        socket = only(io)
        for target in (io, io.to("room"), socket, socket.volatile):
            with pytest.raises(InvalidValue, match="disconnect"):
                await in_a_thread(lambda target=target: target.emit("disconnect"))  # type: ignore[misc]
            with pytest.raises(InvalidValue, match="argument 2"):
                await in_a_thread(lambda target=target: target.emit("x", 1, object()))  # type: ignore[misc]
        for name in (5, object()):
            with pytest.raises(TypeError):
                await in_a_thread(lambda name=name: socket.join(name))  # type: ignore[misc]
        await client.sync()


@looped
async def test_arguments_are_as_they_were() -> None:
    """A thread may change its arguments after emitting them."""
    io = SocketIO()

    def work() -> None:
        values = {"list": [1], "data": bytearray(b"a")}
        io.emit("x", values)
        values["list"].append(2)
        values["data"][0] = 0
        values["late"] = True

    async with served(io) as url, entered(url) as client:
        await in_a_thread(work)
        assert await client.take(2) == ['51-["x",{"list":[1],"data":{"_placeholder":true,"num":0}}]', b"a"]


ENDS: Ways = {
    "disconnect": lambda io, socket: socket.disconnect(),
    "disconnect and close": lambda io, socket: socket.disconnect(True),
    "disconnect_sockets": lambda io, socket: io.disconnect_sockets(),
    "disconnect_sockets of a room": lambda io, socket: io.in_(socket.id).disconnect_sockets(True),
    "close": lambda io, socket: socket.close(4001, "no"),
    "close of its connection": lambda io, socket: socket.engine.close(),
}


@pytest.mark.parametrize("way", ENDS)
@looped
async def test_ends(way: str) -> None:
    """However a socket is ended from a thread, it ends on the loop, after what was emitted before."""
    io = SocketIO()
    notes = Notes()
    io.on_disconnect(lambda socket, reason: notes.append(threading.current_thread()))

    def work() -> None:
        socket = only(io)
        socket.emit("last")
        ENDS[way](io, socket)

    async with served(io) as url, entered(url) as client:
        await in_a_thread(work)
        assert await client.event() == ["last"]
        await notes.sync(1)
        assert notes == [threading.current_thread()]
        await eventually(lambda: not io.sockets, "it has gone")


@looped
async def test_rooms() -> None:
    """Rooms are joined and left on the loop, by one or by many; an error there is logged and harms nobody."""
    io = SocketIO(rooms_per_connection=3)
    async with served(io) as url, entered(url) as client:
        socket = only(io)
        await in_a_thread(lambda: (socket.join("a", ["b"]), io.sockets_join("c"), socket.leave("a")))
        await eventually(lambda: set(socket.rooms) == {socket.id, "b", "c"}, "joined and left")
        await in_a_thread(lambda: (io.in_("b").sockets_leave("c"), socket.join("d", "e", "f")))
        await eventually(lambda: "c" not in socket.rooms, "left")
        await client.sync()
        assert len(socket.rooms) == 4


@looped
async def test_acknowledge() -> None:
    """An event may be acknowledged from a thread, once."""
    io = SocketIO()

    @io.on("ask")
    def ask(socket: Socket, acknowledge: Acknowledge) -> None:
        threading.Thread(target=lambda: (acknowledge(1, [2]), acknowledge(3))).start()

    async with served(io) as url, entered(url) as client:
        assert await client.ask("ask") == [1, [2]]
        await client.sync()


@looped
async def test_what_is_awaited() -> None:
    """Awaitable calls may be awaited on another loop, in another thread."""
    io = SocketIO()

    async def work() -> tuple[Any, ...]:
        socket = only(io)
        return (
            await socket.call("question"),
            await io.call("question", timeout=5.0),
            [one.id for one in await io.fetch_sockets()],
            await io.publish("room", "kept", 1),
            [(one.event, one.arguments) for one in await io.history("room")],
            await io.server_side_call("x"),
        )

    async with serving(io) as (partyline, url), entered(url) as client:
        asking = asyncio.ensure_future(in_a_thread(lambda: asyncio.run(work())))
        for answer in (["one"], ["many"]):
            number = str(await client.next())[1]
            await client.say(f"3{number}" + str(answer).replace("'", '"'))
        one, many, found, position, kept, others = await asking
        assert (one, many, found) == ("one", ["many"], [client.sid])
        assert isinstance(position, Position)
        assert (kept, others) == ([("kept", (1,))], [])
        published = await in_a_thread(lambda: asyncio.run(partyline.publish("cats", "hello")))
        assert isinstance(published, Position)


@looped
async def test_before_and_after_the_server() -> None:
    """Before a server runs and after it has ended, a call from a thread does nothing, as on the loop."""
    io = SocketIO()
    await in_a_thread(lambda: io.emit("early"))
    async with partyline_server(extras=[io]) as (_, url), entered(url):
        socket = only(io)
    await in_a_thread(lambda: (io.emit("late"), socket.emit("late"), socket.join("room"), socket.disconnect(True)))


def test_after_the_loop() -> None:
    """A call from a thread does not raise if the loop has ended, either."""
    io = SocketIO()

    async def main() -> None:
        async with partyline_server(extras=[io]):
            pass

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    io.emit("late")
    io.disconnect_sockets()
