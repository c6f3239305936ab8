"""One cluster of a Socket.IO server of Node and one of ours: whatever either does reaches the clients of both."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from partyline import CallTimeout, InvalidValue, NodeCluster, Socket, SocketIO
from tests.adapters.servers import RedisServer, redis_server
from tests.server.servers import eventually, partyline_server
from tests.socketio.clients import WebSocketClient, looped, opened
from tests.socketio.mixed.node import CallFailed, NodeServer, installed, node_server

pytestmark = [pytest.mark.check, installed]

FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "classic": ("classic", {}, {"form": "classic"}),
    "specific": ("classic", {"publishOnSpecificResponseChannel": True}, {"form": "classic"}),
    "key": ("classic", {"key": "a*b"}, {"form": "classic", "key": "a*b"}),
    "dynamic": ("sharded", {}, {"form": "sharded"}),
    "private": ("sharded", {"subscriptionMode": "dynamic-private"}, {"form": "sharded", "mode": "dynamic-private"}),
    "static": ("sharded", {"subscriptionMode": "static"}, {"form": "sharded", "mode": "static"}),
    "streams": ("streams", {}, {"form": "streams"}),
}
"""By name: Node's adapter, its options, and what ours is told."""


class Mixed:
    """The two servers."""

    def __init__(self, io: SocketIO, url: str, node: NodeServer, redis: RedisServer, mode: str) -> None:
        self.io = io
        self.url = url
        self.node = node
        self.redis = redis
        self.mode = mode  # of the sharded form
        self.told: list[tuple[Any, ...]] = []

    @contextlib.asynccontextmanager
    async def clients(self) -> AsyncIterator[tuple[WebSocketClient, WebSocketClient]]:
        """One here, in the rooms "all" and "here", and one there, in "all" and "there"."""
        async with joined(self.url, "near", "all", "here") as near, joined(self.node.url, "far", "all", "there") as far:
            if self.mode:
                await self._subscribed(near.sid, far.sid)
            yield near, far

    async def _subscribed(self, *sids: str) -> None:
        """Wait until the rooms' own channels are subscribed: an event before that is missed, as in Node."""
        rooms = {"all": 2, "here": 1, "there": 1}
        if self.mode == "dynamic-private":
            rooms |= dict.fromkeys(sids, 1)
        if self.mode == "static":
            rooms = {}
        for room, count in rooms.items():
            async with asyncio.timeout(10):
                while (await self.redis.ask("PUBSUB", "SHARDNUMSUB", f"socket.io#/#{room}#"))[1] != count:
                    await asyncio.sleep(0.01)


def ours(cluster: Any, **options: Any) -> SocketIO:
    """A server that does what server.cjs does."""
    io = SocketIO(adapter=cluster, nodes_timeout=5.0, **options)
    for space in (io, io.namespace("/chat")):

        @space.on_connect
        def enter(socket: Socket, auth: dict[str, Any]) -> None:
            socket.data["name"] = auth["name"]
            socket.join(*auth["rooms"])
            socket.on("pass on", lambda *values: socket.broadcast.emit(*values))
            socket.emit("state", {"recovered": socket.recovered, "rooms": sorted(socket.rooms)})

    return io


def mixed(*forms: str) -> Callable[[Callable[[Mixed], Coroutine[Any, Any, None]]], Callable[..., None]]:
    """A test with both servers, for each of these forms."""

    def decorate(test: Callable[[Mixed], Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @pytest.mark.parametrize("form", forms)
        @functools.wraps(test)
        def run(form: str, tmp_path: Path) -> None:
            async def main() -> None:
                async with asyncio.timeout(25), both(form, tmp_path) as servers:
                    await test(servers)

            asyncio.run(main())

        del run.__wrapped__  # type: ignore[attr-defined]  # pytest would ask for its arguments
        return run

    return decorate


@contextlib.asynccontextmanager
async def both(form: str, folder: Path, window: float | None = None, **server: Any) -> AsyncIterator[Mixed]:
    adapter, options, here = FORMS[form]
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(folder))
        io = ours(NodeCluster(redis.url, **here), recovery_window=window)
        _, url = await stack.enter_async_context(partyline_server(extras=[io]))
        node = await stack.enter_async_context(node_server(adapter, redis.port, adapter=options, server=server))
        mode = here.get("mode", "dynamic") if adapter == "sharded" else ""
        servers = Mixed(io, url, node, redis, mode)
        for space in (io, io.namespace("/chat")):

            @space.on_server_side("tell")
            def tell(*arguments: Any) -> None:
                servers.told.append(arguments)

            @space.on_server_side("ask")
            def ask(*arguments: Any) -> Any:
                return {"ours": list(arguments)}

        async with asyncio.timeout(15):
            while await node.call("count") != 2 or await node.call("count", nsp="/chat") != 2:
                await asyncio.sleep(0.01)
        yield servers


@contextlib.asynccontextmanager
async def joined(
    url: str, name: str, *rooms: str, namespace: str = "/", **where: str
) -> AsyncIterator[WebSocketClient]:
    """A client that is in these rooms."""
    async with opened(url, **where) as client:
        auth = json.dumps({"name": name, "rooms": rooms})
        await client.say("0" + ("" if namespace == "/" else namespace + ",") + auth)
        packets = [str(await client.next()), str(await client.next())]
        packets.sort()  # the answer to the CONNECT, and "state"
        client.sid = json.loads(packets[0][packets[0].index("{") :])["sid"]
        yield client


async def event(client: WebSocketClient) -> list[Any]:
    """The next event of whatever namespace."""
    packet = str(await client.next())
    assert packet.startswith("2"), packet
    values: list[Any] = json.loads(packet[packet.index("[") :])
    return values


async def answer(client: WebSocketClient, *values: Any) -> list[Any]:
    """Acknowledge the next event."""
    packet = str(await client.next())
    number = packet[1 : packet.index("[")]
    await client.say(f"3{number}{json.dumps(values)}")
    asked: list[Any] = json.loads(packet[packet.index("[") :])
    return asked


ALL = ("classic", "specific", "key", "dynamic", "private", "static", "streams")


@mixed(*ALL)
async def test_events(servers: Mixed) -> None:
    """An event of either server to everybody, to a room, to several, with exceptions and to one socket reaches exactly
    those clients on both, each once and in order."""
    async with servers.clients() as (near, far):
        io, node = servers.io, servers.node
        io.emit("everybody", 1, "zwei", {"drei": [None, True, 1.5, "żółć"]})
        io.to("all").emit("room")
        io.to("here", "there").except_("here").emit("far only")
        io.to("there").emit("far only")
        io.to(near.sid).emit("near only")
        io.except_(near.sid).emit("far only")
        io.to(far.sid).emit("far only")
        io.emit("end")
        everybody = ["everybody", 1, "zwei", {"drei": [None, True, 1.5, "żółć"]}]
        for client, own, count in ((near, ["near only"], 1), (far, ["far only"], 4)):
            assert [await event(client) for _ in range(3 + count)] == [
                everybody, ["room"], *[own] * count, ["end"]
            ]  # fmt: skip
        await node.call("emit", event="everybody", args=everybody[1:])
        await node.call("emit", to=["all"], event="room", args=[])
        await node.call("emit", to=["here", "there"], **{"except": ["there"]}, event="near only", args=[])
        await node.call("emit", to=["here"], event="near only", args=[])
        await node.call("emit", to=[near.sid], event="near only", args=[])
        await node.call("emit", to=[], **{"except": [near.sid]}, event="far only", args=[])
        await node.call("emit", event="end", args=[])
        for client, own, count in ((near, ["near only"], 3), (far, ["far only"], 1)):
            assert [await event(client) for _ in range(3 + count)] == [
                everybody, ["room"], *[own] * count, ["end"]
            ]  # fmt: skip


@mixed(*ALL)
async def test_volatile_events(servers: Mixed) -> None:
    """A volatile event reaches clients that can take it at once, on both servers."""
    async with servers.clients() as (near, far):
        servers.io.volatile.emit("ours")
        assert [await event(near), await event(far)] == [["ours"], ["ours"]]
        await servers.node.call("volatile", event="theirs", args=[])
        assert [await event(near), await event(far)] == [["theirs"], ["theirs"]]


@mixed(*ALL)
async def test_binary_events(servers: Mixed) -> None:
    """Bytes at any depth are the same bytes on the other server's clients."""
    async with servers.clients() as (near, far):
        servers.io.to("there").emit("file", {"part": b"\x00\xff"})
        assert await far.next() == '51-["file",{"part":{"_placeholder":true,"num":0}}]'
        assert await far.next() == b"\x00\xff"
        await servers.node.call("emit", to=["here"], event="file", args=[{"part": b"\x00\xff"}])
        assert await near.next() == '51-["file",{"part":{"_placeholder":true,"num":0}}]'
        assert await near.next() == b"\x00\xff"


@mixed(*ALL)
async def test_namespaces(servers: Mixed) -> None:
    """Another namespace is a world of its own on both servers."""
    async with (
        servers.clients() as (near, far),
        joined(servers.url, "near", namespace="/chat") as chatting,
        joined(servers.node.url, "far", namespace="/chat") as chatting_far,
    ):
        servers.io.namespace("/chat").emit("ours")
        await servers.node.call("emit", nsp="/chat", event="theirs", args=[])
        assert sorted([await event(chatting), await event(chatting)]) == [["ours"], ["theirs"]]
        assert sorted([await event(chatting_far), await event(chatting_far)]) == [["ours"], ["theirs"]]
        servers.io.emit("end")
        assert await event(near) == ["end"]
        assert await event(far) == ["end"]


@mixed(*ALL)
async def test_sockets_are_fetched(servers: Mixed) -> None:
    """Each server sees the sockets of both, with rooms and data, and Node sees how ours came."""
    async with servers.clients() as (near, far):
        found = {socket.id: socket for socket in await servers.io.fetch_sockets()}
        assert found.keys() == {near.sid, far.sid}
        assert found[far.sid].data == {"name": "far"}
        assert found[far.sid].rooms == {"all", "there", far.sid}
        assert [socket.id for socket in await servers.io.fetch_sockets("there")] == [far.sid]
        assert await servers.io.in_("all").except_("here", "there").fetch_sockets() == []
        theirs = {socket["id"]: socket for socket in await servers.node.call("fetch")}
        assert theirs.keys() == {near.sid, far.sid}
        assert theirs[near.sid]["data"] == {"name": "near"}
        assert theirs[near.sid]["rooms"] == sorted(["all", "here", near.sid])
        shown = theirs[near.sid]["handshake"]
        assert shown["auth"] == {"name": "near", "rooms": ["all", "here"]}
        assert shown.keys() == theirs[far.sid]["handshake"].keys()
        assert [socket["id"] for socket in await servers.node.call("fetch", to=["here"])] == [near.sid]


@mixed(*ALL)
async def test_sockets_are_moved_and_disconnected(servers: Mixed) -> None:
    """Sockets of the other server join and leave rooms and are disconnected, and a socket that was fetched is sent
    events and disconnected."""
    async with servers.clients() as (near, far):
        servers.io.in_("there").sockets_join("new", "newer")
        servers.io.in_("new").sockets_leave("all", "newer")
        await servers.node.call("join", to=["here"], rooms=["new", "newer"])
        await servers.node.call("leave", to=["here"], rooms=["all", "newer"])
        await servers.io.fetch_sockets()  # whatever Node has said before has come
        await servers.node.call("fetch")  # and whatever we have
        servers.io.to("new").except_("all", "newer").emit("moved")
        await servers.node.call("emit", to=["new"], **{"except": ["all", "newer"]}, event="moved", args=[])
        for client in (near, far):
            assert [await event(client), await event(client)] == [["moved"], ["moved"]]
        await servers.node.call("remoteEmit", to=["here"], event="to you", args=[1])
        assert await event(near) == ["to you", 1]
        (remote,) = await servers.io.fetch_sockets("there")
        remote.emit("to you", 2)
        assert await event(far) == ["to you", 2]
        remote.disconnect()
        assert await far.next() == "1"
        await servers.node.call("disconnect", to=["here"], close=True)
        assert await near.next() == "1"
        assert (await near.closed()).code


@mixed(*ALL)
async def test_broadcasts_are_acknowledged(servers: Mixed) -> None:
    """A broadcast that wants answers gathers those of both servers' clients, as soon as all are there."""
    async with servers.clients() as (near, far):
        asking = asyncio.create_task(servers.io.call("how many?", 1, timeout=10.0))
        assert await answer(near, 1) == ["how many?", 1]
        assert await answer(far, {"two": 2}) == ["how many?", 1]
        assert sorted(await asking, key=str) == [1, {"two": 2}]
        asked = asyncio.create_task(servers.node.call("ask", event="how many?", args=[1], timeout=10_000))
        assert await answer(near, "one") == ["how many?", 1]
        assert await answer(far, "two") == ["how many?", 1]
        assert sorted(await asked) == ["one", "two"]
        assert await servers.node.call("ask", to=["nobody"], event="?", args=[], timeout=10_000) == []
        assert await servers.io.to("nobody").call("?", timeout=10.0) == []


@mixed("classic", "dynamic", "streams")
async def test_local(servers: Mixed) -> None:
    """What is local reaches the clients of one server only, whichever says it; what a client has passed on reaches all
    but itself."""
    async with servers.clients() as (near, far):
        servers.io.local.emit("ours")
        await servers.node.call("local", event="theirs", args=[])
        assert [socket.id for socket in await servers.io.local.fetch_sockets()] == [near.sid]
        assert await servers.node.call("localFetch") == [far.sid]
        await near.say('2["pass on","of near"]')
        assert [await event(near), await event(far), await event(far)] == [["ours"], ["theirs"], ["of near"]]
        await far.say('2["pass on","of far"]')
        assert await event(near) == ["of far"]
        servers.io.local.sockets_join("ours")
        servers.io.local.in_("all").disconnect_sockets()
        assert await near.next() == "1"
        servers.io.emit("end")
        assert await event(far) == ["end"]


@mixed("classic", "dynamic", "streams")
async def test_single_sockets(servers: Mixed) -> None:
    """A single socket of the other server is asked, joins, leaves and is disconnected; answers may be bytes."""
    async with servers.clients() as (near, far):
        asking = asyncio.create_task(servers.io.to(far.sid).call("?", b"\x01", timeout=10.0))
        asked = asyncio.create_task(servers.node.call("ask", to=[near.sid], event="?", args=[b"\x02"], timeout=10_000))
        for client, data in ((near, b"\x02"), (far, b"\x01")):
            packet = str(await client.next())
            assert await client.next() == data
            number = packet[packet.index("-") + 1 : packet.index("[")]
            await client.say(f"61-{number}" + '[{"_placeholder":true,"num":0}]', data)
        assert await asking == [b"\x01"]
        assert await asked == [b"\x02"]
        asked = asyncio.create_task(servers.node.call("remoteAsk", to=["here"], event="?", args=[], timeout=10_000))
        await answer(near, "one")
        assert await asked == ["one"]
        (remote,) = await servers.io.fetch_sockets("there")
        remote.join("new", "newer")
        remote.leave("there", "newer")
        await servers.node.call("remoteMove", to=["here"], into=["new", "newer"], out=["here", "newer"])
        expected = {near.sid: {near.sid, "all", "new"}, far.sid: {far.sid, "all", "new"}}
        async with asyncio.timeout(10):  # moves may come by another way than questions
            while {socket.id: socket.rooms for socket in await servers.io.fetch_sockets()} != expected:
                await asyncio.sleep(0.01)
        await servers.node.call("remoteDisconnect", to=[near.sid])
        assert await near.next() == "1"
        remote.disconnect()
        assert await far.next() == "1"


@mixed("classic", "dynamic", "streams")
async def test_clients_that_do_not_answer(servers: Mixed) -> None:
    """Clients of the other server that stay silent are missing in time, without names in ours."""
    async with servers.clients() as (near, far):
        asking = asyncio.create_task(servers.io.call("how many?", timeout=0.5))
        await answer(near, 1)
        await event_with_ack(far)
        with pytest.raises(CallTimeout) as caught:
            await asking
        assert (caught.value.answers, caught.value.missing) == ((1,), ("?",))
        asked = asyncio.create_task(servers.node.call("ask", event="how many?", args=[], timeout=500))
        await event_with_ack(near)
        await answer(far, 2)
        with pytest.raises(CallFailed, match="timed out") as failed:
            await asked
        assert failed.value.args[1] == [2]


async def event_with_ack(client: WebSocketClient) -> None:
    """Take an event that wants an answer, and give none."""
    assert str(await client.next()).startswith("2")


@mixed(*ALL)
async def test_servers_talk(servers: Mixed) -> None:
    """Servers send each other events, and wait for answers, in each namespace."""
    servers.io.server_side_emit("tell", 1, {"two": [2]})
    servers.io.namespace("/chat").server_side_emit("tell", "chat")
    assert await servers.io.server_side_call("ask", 1, 2) == [{"node": [1, 2]}]
    assert await servers.io.namespace("/chat").server_side_call("ask") == [{"node": []}]
    assert await servers.node.call("told") == [[1, {"two": [2]}], ["chat"]]
    await servers.node.call("tell", args=[1, {"two": [2]}])
    await servers.node.call("tell", args=["chat"], nsp="/chat")
    assert await servers.node.call("serverAsk", args=[3]) == [{"ours": [3]}]
    assert await servers.node.call("serverAsk", args=[], nsp="/chat") == [{"ours": []}]
    assert servers.told == [(1, {"two": [2]}), ("chat",)]


@mixed("dynamic", "streams")
async def test_servers_talk_in_bytes(servers: Mixed) -> None:
    """Bytes in what servers send each other, and in their answers, are the same bytes on the other side."""
    servers.io.server_side_emit("tell", {"part": b"\x01"})
    assert await servers.io.server_side_call("ask", b"\x02") == [{"node": [b"\x02"]}]
    assert await servers.node.call("told") == [[{"part": b"\x01"}]]
    await servers.node.call("tell", args=[{"part": b"\x03"}])
    assert await servers.node.call("serverAsk", args=[b"\x04"]) == [{"ours": [b"\x04"]}]
    assert servers.told == [({"part": b"\x03"},)]


@mixed("classic", "dynamic", "streams")
async def test_servers_that_do_not_answer(servers: Mixed) -> None:
    """A server that does not answer another one's event is missing in time."""
    with pytest.raises(CallTimeout) as caught:
        await servers.io.server_side_call("nothing", timeout=0.3)
    assert (caught.value.answers, caught.value.missing) == ((), ("?",))


@mixed("classic", "specific")
async def test_classic_questions(servers: Mixed) -> None:
    """What only the classic form asks: the rooms of all servers."""
    async with servers.clients() as (near, far):
        expected = sorted(["all", "here", "there", near.sid, far.sid])
        assert await servers.node.call("allRooms") == expected
        with pytest.raises(InvalidValue, match="send them as text"):
            servers.io.server_side_emit("tell", b"\x00")
        await servers.node.call("tell", args=[b"\x00\xff"])
        await eventually(lambda: servers.told == [(b"\x00\xff",)], "the bytes are heard")


@mixed("classic")
async def test_the_emitter(servers: Mixed) -> None:
    """The emitter's events, joins, leaves, disconnects and server-side events do the same here as there."""

    def call(how: str, *args: Any, rooms: tuple[str, ...] = (), out: tuple[str, ...] = (), **more: Any) -> Any:
        return servers.node.call("emitter", how=how, rooms=rooms, args=args, **{"except": out}, **more)

    async with servers.clients() as (near, far), joined(servers.url, "chatting", namespace="/chat") as chatting:
        await call("emit", "everybody", 1)
        await call("emit", "room", b"\x07", rooms=("here", "there"), out=("there",))
        await call("socketsJoin", "new", rooms=("all",))
        await call("emit", "new", rooms=("new",))
        await call("socketsLeave", "new", rooms=("here",))
        await call("emit", "new", rooms=("new",))
        assert [await event(far) for _ in range(3)] == [["everybody", 1], ["new"], ["new"]]
        await call("volatile", "volatile", b"\x08", rooms=("there",))  # Node drops it while it writes something else
        assert await far.next() == '51-["volatile",{"_placeholder":true,"num":0}]'
        assert await far.next() == b"\x08"
        await call("emit", "chat", nsp="/chat")
        await call("emit", "end")
        assert await event(near) == ["everybody", 1]
        assert await near.next() == '51-["room",{"_placeholder":true,"num":0}]'
        assert await near.next() == b"\x07"
        assert [await event(near), await event(near)] == [["new"], ["end"]]
        assert await event(far) == ["end"]
        assert await event(chatting) == ["chat"]
        await call("serverSideEmit", "tell", 5)
        await eventually(lambda: servers.told == [(5,)], "it is heard")
        await call("disconnectSockets", True, rooms=("here",))
        assert await near.next() == "1"
        assert (await near.closed()).code


@mixed("classic", "dynamic", "streams")
async def test_a_server_that_dies(servers: Mixed) -> None:
    """A question does not wait for a server that has died meanwhile."""
    async with servers.clients() as (near, _):
        servers.node.process.kill()
        await servers.node.process.wait()
        async with asyncio.timeout(3):
            assert [socket.id for socket in await servers.io.fetch_sockets()] == [near.sid]


@looped
async def test_nodes_clients_recover_what_we_have_said(tmp_path: Path) -> None:
    """A client of a Node server with recovery, which was away, gets the events of our server that it missed, with what
    Node needs to go on from there."""
    recovery = {"connectionStateRecovery": {"maxDisconnectionDuration": 60_000}}
    async with both("streams", tmp_path, **recovery) as servers:
        async with opened(servers.node.url) as client:
            await client.say("0" + json.dumps({"name": "far", "rooms": ["a"]}))
            session: dict[str, Any] = {}
            while "pid" not in session:
                packet = str(await client.next())
                if packet.startswith("0"):
                    session = json.loads(packet[1:])
            servers.io.to("a").emit("live", 1)
            seen = sorted([await event(client), await event(client)])  # "state" may come before it or after
            assert seen[0][:2] == ["live", 1]
            offset = max(one[-1] for one in seen)
        async with asyncio.timeout(10):
            while not await servers.redis.ask("EXISTS", f"sio:session:{session['pid']}"):
                await asyncio.sleep(0.01)
        servers.io.to("a").emit("missed", 2, b"\x01")
        servers.io.to("b").emit("of others")
        servers.io.except_("a").emit("of others")
        servers.io.emit("missed, too")
        await servers.node.call("fetch")  # whatever we have said before has come
        async with opened(servers.node.url) as client:
            await client.say("0" + json.dumps({"pid": session["pid"], "offset": offset}))
            packets = [await client.next() for _ in range(4)]
        assert str(packets[0]).startswith('51-["missed",2,{"_placeholder":true,"num":0},"')
        assert packets[1] == b"\x01"
        assert str(packets[2]).startswith('2["missed, too","')
        assert json.loads(str(packets[3])[1:])["sid"] == session["sid"]
