"""Socket.IO sessions of several servers with one log: a client comes back to any of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from partyline import SocketIO
from partyline.models import Position
from tests.server.peers import connected
from tests.server.servers import eventually
from tests.socketio.clients import Client, looped, on, only, opened
from tests.socketio.test_recovery import Session, back, recovering, ticket

from .companies import Node, companies


@contextlib.asynccontextmanager
async def session(node: Node) -> AsyncIterator[tuple[Client, Session]]:
    """A client on a node; after this block it has lost its connection, and the node knows."""
    async with connected(node.url) as peer:
        client = await on(peer)
        await client.enter()
        yield client, Session(client)
        peer.transport.abort()
        await eventually(lambda: client.sid not in node.io.sockets, "the server knows")


async def reached(offset: int, *nodes: Node) -> None:
    """Return when these nodes have handed out so much of the log."""
    await eventually(lambda: all(node.partyline.hub.fanned_out >= offset for node in nodes), "they have everything")


@looped
async def test_an_event_reaches_all_nodes_once_and_in_one_order() -> None:
    """What is emitted on either node reaches the clients of both, each event once, in the order of the offsets."""
    async with companies(2, recovering) as (one, two), opened(one.url) as here, opened(two.url) as there:
        await here.enter()
        await there.enter()
        for number in range(10):
            one.io.emit("x", "one", number)
            two.io.emit("x", "two", number)
        seen = [[(await client.event()) for _ in range(20)] for client in (here, there)]
        assert seen[0] == seen[1]
        offsets = [Position.parse(event[-1]).offset for event in seen[0]]
        assert offsets == sorted(set(offsets))
        for client in (here, there):
            await client.sync()  # nothing more came


@looped
async def test_who_an_event_is_for_is_the_same_on_all_nodes() -> None:
    """Rooms, exceptions, single sockets, `local` and volatile events select on each node as on one."""
    async with companies(2, recovering) as (one, two), opened(one.url) as here, opened(two.url) as there:
        await here.enter()
        await there.enter()
        only(two.io).join("a")
        one.io.to("a").emit("x", "room")
        one.io.except_("a").emit("x", "not the room")
        one.io.to(there.sid).emit("x", "socket")
        one.io.local.emit("x", "local")
        two.io.local.emit("x", "local there")
        only(one.io).broadcast.emit("x", "others")
        await reached(6, one, two)
        one.io.volatile.emit("x", "volatile")
        assert {(await here.event())[1] for _ in range(3)} == {"not the room", "local", "volatile"}
        assert {(await there.event())[1] for _ in range(5)} == {"room", "socket", "local there", "others", "volatile"}
        for client in (here, there):
            await client.sync()


@looped
async def test_coming_back_to_another_node() -> None:
    """A client that comes back to another node has its id, rooms and data, and gets what either node has emitted, in
    order, before the answer; then the stream goes on."""
    async with companies(2, recovering) as (one, two):
        async with session(one) as (client, own):
            only(one.io).join("a")
            only(one.io).data["n"] = {"deep": [1]}
            one.io.emit("first")
            assert own.heard(await client.event()) == ["first"]
        one.io.emit("missed", 1)
        await reached(2, one, two)
        two.io.to("a").emit("missed", 2)
        two.io.to("b").emit("not its room")
        await reached(4, one, two)
        one.io.to(own.sid).emit("missed", 3)
        one.io.local.emit("only for those who are there")
        async with opened(two.url) as client:
            assert await back(client, ticket(own)) == [["missed", n] for n in (1, 2, 3)]
            assert client.answer == {"sid": own.sid, "pid": own.pid}
            socket = only(two.io)
            assert (socket.recovered, socket.data, set(socket.rooms)) == (True, {"n": {"deep": [1]}}, {own.sid, "a"})
            one.io.to("a").emit("again")
            assert (await client.event())[0] == "again"
            assert len(one.io._recovery or ()) == 0


@looped
async def test_coming_back_before_the_other_node_has_noticed() -> None:
    """If the node of before still has the connection, it ends it, and hands over what the session is now."""
    async with companies(2, recovering) as (one, two), opened(one.url) as client:
        await client.enter()
        own = Session(client)
        await client.say('2["nothing"]')
        only(one.io).join("late")
        only(one.io).data["late"] = True
        async with opened(two.url) as again:
            assert await back(again, ticket(own)) == []
            assert again.sid == own.sid
            assert only(two.io).data == {"late": True}
            assert "late" in only(two.io).rooms
            await eventually(lambda: not one.io.sockets, "the old connection is gone")
            one.io.to("late").emit("x")
            assert (await again.event())[0] == "x"
            await again.sync()


@looped
async def test_coming_back_after_the_node_has_gone() -> None:
    """A session outlives its node, whether that has left or is only silent: what was written is taken over."""
    async with companies(3, recovering) as (one, two, three):
        async with session(two) as (client, own):
            two.io.emit("first")
            own.heard(await client.event())
        await two.seat.sessions.flush()
        two.bus.cut = True  # it is dead, and nobody has said so
        for node in (one, three):
            node.seat.company.cluster.lose(two.seat.company.node)
        three.io.emit("missed", 1)
        await reached(2, one, three)
        async with opened(one.url) as client:
            assert await back(client, ticket(own)) == [["missed", 1]]
            assert client.sid == own.sid


@looped
async def test_a_session_is_restored_once() -> None:
    """Of several connections that name one session at the same time, on several nodes, one at most goes on."""
    async with companies(3, recovering) as nodes:
        async with session(nodes[0]) as (_, own):
            pass
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(opened(node.url)) for node in nodes for _ in range(2)]
            await asyncio.gather(*(back(client, ticket(own)) for client in clients))
            living = [socket for node in nodes for socket in node.io.sockets if socket == own.sid]
            assert len(living) <= 1
            assert len({client.sid for client in clients} - {own.sid}) >= len(clients) - len(nodes)


@looped
async def test_a_session_that_was_ended_is_not_taken_over() -> None:
    """A client that was disconnected by the server starts anew on any node."""
    async with companies(2, recovering) as (one, two):
        async with session(one) as (_, own):
            only(one.io).disconnect()
            await eventually(lambda: not one.io.sockets, "it is disconnected")
        async with opened(two.url) as client:
            await back(client, ticket(own))
            assert client.sid != own.sid


@looped
async def test_an_event_without_a_place_in_the_log_ends_the_session_everywhere() -> None:
    """If a node has sent an event without the log, a session of it that may lack the event does not go on elsewhere."""
    async with companies(2, recovering) as (one, two):
        async with session(one) as (_, own):
            pass
        assert one.io._journal is not None
        one.io._journal.beside()
        async with opened(two.url) as client:
            await back(client, ticket(own))
            assert client.sid != own.sid


@looped
async def test_publish_and_history_are_of_all_nodes() -> None:
    """What is published on one node is in the history of the other, and reaches its clients once."""

    def make() -> SocketIO:
        return SocketIO()

    async with companies(2, make) as (one, two), opened(two.url) as there:
        await there.enter()
        only(two.io).join("a")
        position = await one.io.publish("a", "kept", 1)
        assert (await there.event())[:2] == ["kept", 1]
        await there.sync()
        (entry,) = await two.io.history("a")
        assert (entry.position, entry.event, entry.arguments) == (position, "kept", (1,))
