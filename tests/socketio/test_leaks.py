"""Nothing is left of clients, however they connect and leave."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import pytest

from partyline import Partyline
from partyline.engineio.connection import EngineConnection
from partyline.errors import PeerGone
from partyline.server.websocket import WebSocket
from partyline.socketio.connection import Multiplexer
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from tests.engineio.clients import Polling
from tests.server.peers import connected, websocket
from tests.server.servers import eventually, nothing_is_held

from .clients import BASE, WebSocketClient, entered, looped, opened, polled, remains, serving

pytestmark = pytest.mark.check

_OURS = (Socket, Multiplexer, EngineConnection, WebSocket)


def alive() -> list[Any]:
    """The objects of clients that are still in memory."""
    gc.collect()
    return [one for one in gc.get_objects() if type(one) in _OURS]


async def nothing_is_left(io: SocketIO, partyline: Partyline) -> None:
    """Nothing of clients is left in tables, or as a task, a deadline or an object."""
    await eventually(lambda: not remains(io), f"tables are empty: {remains(io)}")
    await nothing_is_held(partyline)
    assert io.engine._sessions._polling == {}
    this = asyncio.current_task()
    await eventually(
        lambda: not any("socketio" in repr(task.get_coro()) for task in asyncio.all_tasks() if task is not this),
        "no task is left",
    )
    await eventually(lambda: alive() == [], "no object is left")


def joining(**rules: Any) -> SocketIO:
    """A server whose sockets are in three rooms, with handlers of every kind."""
    io = SocketIO(disconnect_grace=0.02, **rules)

    @io.on_connect
    async def connect(socket: Socket) -> None:
        await asyncio.sleep(0)
        socket.join("a", "b", f"own-{socket.id}")
        socket.on("own", lambda: None)
        socket.once("own", lambda: None)
        socket.on_any_outgoing(lambda *arguments: None)

    @io.on("hang")
    async def hang(socket: Socket) -> None:
        await asyncio.Event().wait()

    @io.on("ask")
    async def ask(socket: Socket) -> None:
        with contextlib.suppress(PeerGone):  # a logged exception would keep the socket alive
            await socket.call("question")

    return io


@looped
async def test_an_upgrade_that_is_never_finished() -> None:
    """Nothing is left of a WebSocket that should take over and does not, neither before nor after its probe."""
    io = joining(upgrade_timeout=0.1)
    async with serving(io) as (partyline, url):
        for probes in (False, True):
            async with polled(url) as client, connected(url) as peer:
                await client.enter()
                wire = await websocket(peer, f"{BASE}?EIO=4&transport=websocket&sid={client.polling.sid}")
                if probes:
                    await wire.say("2probe")
                    assert await wire.text() == "3probe"
                await wire.until_close()
                await peer.close()
                io.emit("x")
                assert await client.next() == '2["x"]', "polling goes on"
        assert partyline.counters.limits == {"upgrade_timeout": 2}
        del client, wire, peer
        await nothing_is_left(io, partyline)


@looped
async def test_an_upgrade_in_the_middle_of_events() -> None:
    """Events before, during and after an upgrade arrive in order, and the socket is the same."""
    io = joining()
    async with serving(io) as (partyline, url):
        async with polled(url) as client, connected(url) as peer:
            await client.enter()
            io.emit("x", 1)
            wire = await websocket(peer, f"{BASE}?EIO=4&transport=websocket&sid={client.polling.sid}")
            await wire.say("2probe")
            assert await wire.text() == "3probe"
            io.emit("x", 2)
            assert await client.take(2) == ['2["x",1]', '2["x",2]']
            io.emit("x", 3)
            await wire.say("5")
            after = WebSocketClient(wire, 4)
            io.emit("x", 4)
            assert await after.take(2) == ['2["x",3]', '2["x",4]']
            await after.leave()
            client.polling.gets.transport.abort()
        del client, wire, peer, after
        await nothing_is_left(io, partyline)


@looped
async def test_a_poll_that_is_aborted() -> None:
    """A GET that is aborted ends its session at once."""
    io = joining()
    async with serving(io) as (partyline, url):
        async with polled(url) as client:
            await client.enter()
            await client.polling.ask()
            await eventually(lambda: any(one._session.hanging for one in io.engine.connections.values()), "it hangs")
            client.polling.gets.transport.abort()
            await eventually(lambda: not io.connections, "it is gone")
        del client
        await nothing_is_left(io, partyline)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@looped
async def test_a_client_that_vanishes_before_connect(transport: str) -> None:
    """Neither a deadline nor an object is left of a client that is lost between the handshake and CONNECT."""
    io = joining(ping_interval=0.1, ping_timeout=0.05)
    async with serving(io) as (partyline, url):
        if transport == "websocket":
            async with opened(url) as client:
                client.wire.peer.transport.abort()
                del client
        else:
            async with Polling.at(url, 4, "", BASE):
                pass  # gone without a word: its heartbeat ends it
        await nothing_is_left(io, partyline)


@looped
async def test_a_client_that_vanishes_while_it_enters() -> None:
    """Nothing is left of a client that is lost in a middleware or in on_connect."""
    io = SocketIO(disconnect_grace=0.01)
    other = io.namespace("/other-{n}")
    never = asyncio.Event()
    io.use(lambda socket: never.wait())
    other.on_connect(lambda socket: never.wait())
    async with serving(io) as (partyline, url):
        async with opened(url) as client:
            await client.say("0", "0/other-1,")
            await eventually(lambda: "/other-1" in io.namespaces(), "it is on its way")
            client.wire.peer.transport.abort()
            del client
        await nothing_is_left(io, partyline)


@looped
async def test_clients_that_vanish_in_handlers() -> None:
    """Nothing is left of clients that are lost while a handler hangs or waits for their answer, with more events
    waiting."""
    io = joining()
    async with serving(io) as (partyline, url):
        for event in ("hang", "ask"):
            async with entered(url) as client:
                await client.say(*[f'20["{event}"]'] * 10)
                await eventually(lambda: any(socket._queue for socket in io.sockets.values()), "events wait")
                call = asyncio.ensure_future(io.call("question"))
                await asyncio.sleep(0)
                client.wire.peer.transport.abort()
                with pytest.raises(TimeoutError):
                    await call
                del client, call
        await nothing_is_left(io, partyline)


@pytest.mark.alone
@pytest.mark.parametrize("recovery", [None, 0.2])
@looped
async def test_many_come_and_go(recovery: float | None) -> None:
    """After a thousand sockets have connected, joined three rooms and left, each in one of four ways, five times,
    tables, tasks, deadlines and memory are as before, with recovery once the window is over."""
    io = joining(recovery_window=recovery)
    async with serving(io) as (partyline, url):
        for _ in range(5):
            await asyncio.gather(*(come_and_go(io, url, part) for part in range(20)))
            await eventually(lambda: not io.connections, "they are gone")
        if io._recovery is not None:
            await eventually(lambda: len(io._recovery) == 0, "their sessions are over")  # type: ignore[arg-type]
            assert io._recovery._live == {}
        await nothing_is_left(io, partyline)


async def come_and_go(io: SocketIO, url: str, part: int) -> None:
    """Fifty clients, one after another."""
    for n in range(50):
        async with opened(url) as client:
            await client.enter()
            await client.say('2["own"]', '20["unknown"]')
            match (part + n) % 4:
                case 0:
                    await client.say("1")
                    await client.sync()
                case 1:
                    io.sockets[client.sid].disconnect(True)
                    await client.next()
                case 2:
                    await client.leave()
                case _:
                    await client.say('2["hang"]')
