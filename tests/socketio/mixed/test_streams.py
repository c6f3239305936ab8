"""Recovery over the stream of a cluster: clients of either server come back on either, with npm's packages."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partyline import ConnectionRefused, NodeCluster, Socket, SocketIO
from partyline.wire.cluster.streams import Session, offset_number, offset_text, write_session
from tests.adapters.servers import Forwarder, RedisServer, redis_server
from tests.server.servers import eventually, partyline_server
from tests.socketio.clients import WebSocketClient, looped, opened
from tests.socketio.mixed.node import installed
from tests.socketio.mixed.test_mixed import Mixed, both, ours

pytestmark = pytest.mark.check

NODES = {"connectionStateRecovery": {"maxDisconnectionDuration": 60_000}}
DIRECTIONS = [("ours", "ours"), ("ours", "node"), ("node", "ours"), ("node", "node")]


@contextlib.asynccontextmanager
async def recovering(folder: Path) -> AsyncIterator[Mixed]:
    """Both servers; clients of both may come back within a minute."""
    async with both("streams", folder, 60.0, **NODES) as servers:
        yield servers


def address(servers: Mixed, name: str) -> str:
    return servers.url if name == "ours" else servers.node.url


class Visit:
    """One connection of a client that may come back: what it got, and how it was let in."""

    def __init__(self, client: WebSocketClient) -> None:
        self.client = client
        self.events: list[list[Any]] = []  # but for "state"
        self.state: dict[str, Any] = {}  # what the server says of it
        self.session: dict[str, Any] = {}  # the answer to CONNECT
        self.offset = ""  # of the last event

    async def more(self) -> None:
        """Take one packet."""
        packet = str(await self.client.next())
        if packet.startswith("0"):
            self.session = json.loads(packet[1:])
            return
        assert packet.startswith(("2", "51-")), packet
        values = json.loads(packet[packet.index("[") :])
        for at, value in enumerate(values):
            if isinstance(value, dict) and "_placeholder" in value:
                values[at] = await self.client.next()
        if isinstance(values[-1], str) and values[-1].count("-") == 1:
            self.offset = values.pop()
        if values[0] == "state":
            self.state = values[1]
        else:
            self.events.append(values)

    async def until(self, name: str) -> list[list[Any]]:
        """All events up to one of this name."""
        while not self.events or self.events[-1][0] != name:
            await self.more()
        return self.events


@contextlib.asynccontextmanager
async def visit(url: str, before: Visit | None = None, **auth: Any) -> AsyncIterator[Visit]:
    """A client that is in the room "a"; with `before` it comes back."""
    async with opened(url) as client:
        made = Visit(client)
        if before is not None:
            auth = {"pid": before.session["pid"], "offset": before.offset} | auth
        await client.say("0" + json.dumps({"name": "one", "rooms": ["a"], **auth}))
        while not made.session or not made.state:
            await made.more()
        yield made


async def gone(servers: Mixed, visited: Visit) -> None:
    """Wait until its server has noticed that a client has gone, and kept its session."""
    async with asyncio.timeout(10):
        while not await servers.redis.ask("EXISTS", f"sio:session:{visited.session['pid']}"):
            await asyncio.sleep(0.01)


async def read(servers: Mixed) -> None:
    """Wait until our server has read everything that Node's has said."""
    await servers.node.call("fetch")  # on the connection on which it adds to the stream
    (newest,) = await servers.redis.ask("XREVRANGE", "socket.io", "+", "-", "COUNT", "1")
    tail: Any = servers.io._nodes._cluster._tail  # type: ignore[union-attr]
    await eventually(lambda: tail.last == newest[0].decode(), "it has read all")


@installed
@pytest.mark.parametrize(("left", "back"), DIRECTIONS)
@looped
async def test_a_client_comes_back(left: str, back: str, tmp_path: Path) -> None:
    """A client that leaves either server and comes back to either has its id, rooms and data, and gets what both
    servers have said meanwhile and was for it, each once and in the order of the stream, with offsets."""
    async with recovering(tmp_path) as servers:
        io, node = servers.io, servers.node
        async with visit(address(servers, left)) as first:
            io.to("a").emit("live", 1)
            await first.until("live")
        await gone(servers, first)
        io.to("a").emit("missed", 1, {"bytes": [1]}, b"\x01")
        io.to("b").emit("of others")
        io.except_("a").emit("of others")
        io.namespace("/chat").emit("of others")
        io.to(first.session["sid"]).emit("missed", 2)
        await node.call("fetch")  # whatever we have said before has come
        await node.call("emit", to=["a"], event="missed", args=[3, b"\x03"])
        await node.call("emit", to=["b"], event="of others", args=[])
        await node.call("emit", event="missed", args=[4])
        async with visit(address(servers, back), first) as second:
            await io.fetch_sockets()  # whatever Node has said before has come
            io.to("a").emit("live", 2)
            events = await second.until("live")
        missed = [["missed", 1, {"bytes": [1]}, b"\x01"], ["missed", 2], ["missed", 3, b"\x03"], ["missed", 4]]
        assert events == [*missed, ["live", 2]]
        assert second.state == {"recovered": True, "rooms": sorted(["a", first.session["sid"]])}
        assert second.session == first.session
        await gone(servers, second)
        async with visit(servers.url, second) as third, visit(servers.url, third) as fourth:
            assert third.state["recovered"]
            assert fourth.state["recovered"]  # back before its server has noticed that it had gone
            assert list(io.sockets) == [first.session["sid"]]


@installed
@pytest.mark.parametrize("by", ["ours", "node"])
@looped
async def test_what_is_done_to_those_who_are_away(by: str, tmp_path: Path) -> None:
    """A client of ours that was moved while it was away comes back to the rooms that it has now, and gets what was said
    there; one that was disconnected comes anew."""
    async with recovering(tmp_path) as servers:
        io, node = servers.io, servers.node
        async with visit(servers.url) as first:
            io.emit("live")
            await first.until("live")
            (socket,) = io.sockets.values()
            io.in_("a").sockets_join("old")
            socket.leave("old")  # only here: the stream does not say it
            io.emit("here")
        await gone(servers, first)
        if by == "ours":
            io.in_("a").sockets_join("new")
            io.in_("new").sockets_leave("a")
        else:
            await node.call("join", to=["a"], rooms=["new"])
            await node.call("leave", to=["new"], rooms=["a"])
            await read(servers)
        io.to("a").emit("of others")
        io.to("new").emit("missed")
        async with visit(servers.url, first) as second:
            await second.until("missed")
            assert second.state == {"recovered": True, "rooms": sorted(["a", "new", first.session["sid"]])}  # "a" anew
            assert second.events == [["here"], ["missed"]]
        await gone(servers, second)
        if by == "ours":
            io.in_("new").disconnect_sockets()
        else:
            await node.call("disconnect", to=["new"], close=False)
            await read(servers)
        async with visit(servers.url, second) as third:
            assert not third.state["recovered"]
            assert third.session["sid"] != first.session["sid"]


@installed
@looped
async def test_one_order(tmp_path: Path) -> None:
    """While both servers talk at once, a client of ours gets everything in the order of the stream; whoever comes back
    from any place in between gets exactly the rest."""
    async with recovering(tmp_path) as servers:
        async with visit(servers.url) as first:
            for number in range(100):
                servers.io.to("a").emit("n", "ours", number)
                await servers.node.call("emit", to=["a"], event="n", args=["theirs", number])
            places = []
            while len(first.events) < 200:
                await first.more()
                places.append(offset_number(first.offset))
        assert places == sorted(set(places))
        entries = [offset_number(one[0].decode()) for one in await servers.redis.ask("XRANGE", "socket.io", "-", "+")]
        assert [place for place in entries if place >= places[0]] == places
        for at in (0, 57, 198):
            await gone(servers, first)
            first.offset = offset_text(places[at])
            servers.io.to("a").emit("end")
            events = first.events[at + 1 :]
            async with visit(servers.url, first) as first_again:
                got = await first_again.until("end")
                while len(got) < len(events) + 1:
                    await first_again.more()
            assert got[: len(events)] == events
            first.events = [*first.events, ["end"]]


@installed
@looped
async def test_what_has_no_offset(tmp_path: Path) -> None:
    """Volatile and local events, and those that want an answer, carry no offset and are not kept for those who are
    away; an event before a disconnect comes before it."""
    async with recovering(tmp_path) as servers:
        io = servers.io
        async with visit(servers.url) as first:
            offset = first.offset
            io.volatile.emit("volatile")
            io.local.emit("local")
            await servers.node.call("volatile", event="volatile", args=["theirs"])
            while len(first.events) < 3:
                await first.more()
            assert sorted(first.events) == [["local"], ["volatile"], ["volatile", "theirs"]]
            assert first.offset == offset
            asking = asyncio.create_task(io.call("ask", timeout=5.0))
            asked = str(await first.client.next())
            assert asked.endswith('["ask"]')
            await first.client.say("3" + asked[1 : asked.index("[")] + "[1]")
            assert await asking == [1]
        await gone(servers, first)
        io.volatile.emit("volatile")
        await servers.node.call("volatile", event="volatile", args=[])
        async with visit(servers.url, first) as second:
            (socket,) = io.sockets.values()
            socket.emit("bye", 1)
            socket.disconnect()
            assert await second.until("bye") == [["bye", 1]]
            assert await second.client.next() == "1"
        assert second.state["recovered"]


@contextlib.asynccontextmanager
async def alone(redis: RedisServer, url: str = "") -> AsyncIterator[tuple[SocketIO, str]]:
    """A server of ours in the cluster, perhaps by a way of its own to Redis."""
    io = ours(NodeCluster(url or redis.url, form="streams"), recovery_window=60.0)
    async with partyline_server(extras=[io]) as (_, address):
        yield io, address


@looped
async def test_redis_is_out_of_reach(tmp_path: Path) -> None:
    """While Redis is out of reach clients get our events without an offset, in order, and cannot go on over these
    afterwards; then everything works again."""
    async with redis_server(tmp_path) as redis, Forwarder().open(redis.port) as way, alone(redis, way.url) as (io, url):
        async with visit(url) as first, visit(url) as other:
            io.emit("live")
            for one in (first, other):
                await one.until("live")
            offset = first.offset
            way.port = 1  # nobody is there
            way.stalled = True
            io.emit("unsure")  # for all that the server knows Redis may have it
            await asyncio.sleep(0)
            way.cut()
            await eventually(lambda: io.counters.unsent == 1, "it is noticed")
            io.emit("without")
            assert (await first.until("without"))[1:] == [["unsure"], ["without"]]
            assert first.offset == offset
            way.port, way.stalled = redis.port, False
            joined: Any = io._nodes._cluster  # type: ignore[union-attr]
            await eventually(lambda: joined._redis.connected and joined._tail._redis.connected, "it is back")
            io.emit("with")
            for one in (first, other):
                await one.until("with")
            assert first.offset != offset
        await eventually(lambda: not io.sockets, "both are gone")
        async with visit(url, other) as again:
            assert again.state["recovered"]
        first.offset = offset
        async with visit(url, first) as again:
            assert not again.state["recovered"]


@looped
async def test_redis_does_not_answer(tmp_path: Path) -> None:
    """An event that does not come back from the stream goes out after two seconds, without an offset; what came after
    it in its namespace has waited for it. If it comes back later nobody gets it twice."""
    async with redis_server(tmp_path) as redis, alone(redis) as (io, url), visit(url) as first:
        redis.hang()
        io.emit("late")
        (socket,) = io.sockets.values()
        asking = asyncio.create_task(socket.call("ask"))
        assert await first.until("late") == [["late"]]
        assert first.offset
        assert str(await first.client.next()).endswith('["ask"]')
        redis.go_on()
        asking.cancel()
        io.emit("next")
        assert await first.until("next") == [["late"], ["next"]]


@looped
async def test_a_stream_that_was_trimmed_too_soon(tmp_path: Path) -> None:
    """A server that has missed entries of the stream ends its connections: their clients come anew, and nobody goes on
    over the hole."""
    async with redis_server(tmp_path) as redis, Forwarder().open(redis.port) as way, alone(redis, way.url) as (io, url):
        async with visit(url) as first:
            io.emit("live")
            await first.until("live")
            way.port = 1
            way.cut()
            async with alone(redis) as (other, _):
                other.emit("missed")
                await asyncio.sleep(0)
                await other.fetch_sockets()
            await redis.ask("XADD", "socket.io", "*", "n", "0")
            await redis.ask("XTRIM", "socket.io", "MAXLEN", "1")
            way.port = redis.port
            assert (await first.client.closed()).code == 1012
        async with visit(url, first) as second:
            assert not second.state["recovered"]


@installed
@looped
async def test_who_cannot_come_back(tmp_path: Path) -> None:
    """A session is for one client, once, in its namespace; an offset that the stream does not have, or has no more,
    recovers nothing; and a session that does not say its namespace passes the middlewares."""
    passed: list[str] = []
    async with recovering(tmp_path) as servers:
        for space in (servers.io, servers.io.namespace("/chat")):

            @space.use
            async def middleware(socket: Socket) -> None:
                passed.append(socket.namespace.name)
                if socket.handshake.auth.get("refused"):
                    raise ConnectionRefused("no")

        async with visit(servers.url) as first:
            servers.io.emit("live")
            await first.until("live")
        await gone(servers, first)
        kept = await servers.redis.ask("GET", f"sio:session:{first.session['pid']}")
        refused: list[dict[str, Any]] = [
            {"offset": "x"},
            {"offset": "1-1"},
            {"offset": first.offset + "1"},
            {"offset": "9" * 19 + "-0"},
            {"pid": "x" * 20},
            {"pid": 7},
        ]
        for auth in refused:
            await servers.redis.ask("SET", f"sio:session:{first.session['pid']}", kept)
            async with visit(servers.url, first, **auth) as second:
                assert not second.state["recovered"], auth
                assert second.events == []
        await servers.redis.ask("SET", f"sio:session:{first.session['pid']}", kept)
        async with opened(servers.url) as client:
            auth = {"name": "x", "rooms": [], "pid": first.session["pid"], "offset": first.offset}
            await client.say("0/chat," + json.dumps(auth))
            assert first.session["sid"] not in str(await client.next())
        passed.clear()
        session = Session(first.session["sid"], first.session["pid"], ["a"], {})
        await servers.redis.ask("SET", f"sio:session:{first.session['pid']}", write_session(session))
        async with opened(servers.url) as client:
            await client.say("0" + json.dumps(auth | {"refused": True}))
            assert await client.next() == '44{"message":"no"}'[1:]
        assert passed == ["/"]
        assert await servers.redis.ask("GET", f"sio:session:{first.session['pid']}")  # it waits for its client again
        await servers.redis.ask("XTRIM", "socket.io", "MAXLEN", "0")
        async with visit(servers.url, first) as second:
            assert not second.state["recovered"]


@looped
async def test_ours_alone(tmp_path: Path) -> None:
    """Clients of a server of ours that stops come back on another one of ours; one that has got nothing yet, too."""
    async with redis_server(tmp_path) as redis:
        await redis.ask("XADD", "socket.io", "*", "n", "0")

        async with alone(redis) as (two, there), contextlib.AsyncExitStack() as stack:
            async with alone(redis) as (one, here):
                first = await stack.enter_async_context(visit(here))
                (socket,) = one.sockets.values()
                socket.data["more"] = {"n": 1}
            two.to("a").emit("missed")
            async with visit(there, first, offset="") as second:
                assert await second.until("missed") == [["missed"]]
                while not second.state["recovered"]:  # the first "state" is what it was sent before
                    await second.more()
                assert two.sockets[first.session["sid"]].data == {"name": "one", "more": {"n": 1}}
