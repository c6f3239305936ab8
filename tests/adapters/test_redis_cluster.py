"""A real Redis Cluster of three servers on loopback: what has keys goes where they are, also after a failover."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partyline import NodeCluster, RedisBus, SocketIO
from partyline.engines import open_store
from partyline.models import Draft
from tests import tools
from tests.adapters.servers import RedisServer
from tests.cli.test_doctor import free_port
from tests.relay.v1.test_websocket import settings
from tests.server.servers import eventually, partyline_server
from tests.socketio.clients import entered, looped
from tests.socketio.mixed.node import installed, node_server
from tests.socketio.mixed.test_mixed import answer, event, joined, ours
from tests.socketio.mixed.test_streams import visit

pytestmark = pytest.mark.check

SLOTS = 16_384


@contextlib.asynccontextmanager
async def redis_cluster(folder: Path, *, replicas: bool = False) -> AsyncIterator[list[RedisServer]]:
    """Three masters, and perhaps a replica of each."""
    tools.redis()
    servers: list[RedisServer] = []
    for number in range(6 if replicas else 3):
        own = folder / str(number)
        own.mkdir()
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--repl-diskless-sync-delay", "0")
        server = RedisServer(own, *options, "--cluster-port", str(free_port()))
        servers.append(server)
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        for number, server in enumerate(servers[:3]):
            await server.ask("CLUSTER", "ADDSLOTSRANGE", number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1)
            await server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            await server.ask("CLUSTER", "MEET", "127.0.0.1", servers[0].port, servers[0]._options[-1])
        for number, replica in enumerate(servers[3:]):
            name = (await servers[number].ask("CLUSTER", "MYID")).decode()
            async with asyncio.timeout(15):
                while name not in (await replica.ask("CLUSTER", "NODES")).decode():
                    await asyncio.sleep(0.02)
            await replica.ask("CLUSTER", "REPLICATE", name)
        async with asyncio.timeout(15):
            for server in servers:
                while not await settled(server, len(servers)):
                    await asyncio.sleep(0.02)
        yield servers


async def settled(server: RedisServer, count: int) -> bool:
    """Whether a server knows all the others, and a replica has what its master has."""
    info = (await server.ask("CLUSTER", "INFO")).decode()
    replicas = (await server.ask("CLUSTER", "NODES")).decode().count("slave")
    role = await server.ask("ROLE")
    known = "cluster_state:ok" in info and f"cluster_known_nodes:{count}" in info and replicas == count - 3
    return known and (role[0] != b"slave" or role[3] == b"connected")


def address(servers: list[RedisServer]) -> str:
    return servers[0].url + "?cluster=true"


@contextlib.asynccontextmanager
async def member(servers: list[RedisServer], **how: Any) -> AsyncIterator[tuple[SocketIO, str]]:
    """A server of ours in a Node cluster over it."""
    io = ours(NodeCluster(address(servers), **how))
    async with partyline_server(extras=[io]) as (_, url):
        yield io, url


@looped
async def test_the_forms_of_node(tmp_path: Path) -> None:
    """Over a Redis Cluster servers of ours reach each other's clients, and ask each other, in every form of Node's;
    with recovery, too."""
    async with redis_cluster(tmp_path) as servers:
        for form in ("classic", "sharded", "streams"):
            async with (
                member(servers, form=form) as (one, here),
                member(servers, form=form) as (two, there),
                joined(here, "near", "all", "here") as near,
                joined(there, "far", "all", "there") as far,
            ):
                io: Any = one._nodes
                await eventually(lambda io=io: io._cluster._redis.connected, "all are connected")
                async with asyncio.timeout(10):
                    while len(await one.fetch_sockets()) != 2 or len(await two.fetch_sockets()) != 2:
                        await asyncio.sleep(0.01)
                for room in ("all", "there", *map(str, range(20))):
                    one.in_(far.sid).sockets_join(room)
                await two.fetch_sockets()
                await asyncio.sleep(0.2 if form == "sharded" else 0)  # until the rooms' own channels are subscribed
                for room in map(str, range(20)):
                    one.to(room).emit("room", room)
                said = [(await event(far))[1] for _ in range(20)]
                assert sorted(said, key=int) == list(map(str, range(20)))
                assert form == "sharded" or said == sorted(said, key=int)  # each channel is somewhere else
                asking = asyncio.create_task(two.call("ask", timeout=10.0))
                await answer(near, 1)
                await answer(far, 2)
                assert sorted(await asking) == [1, 2]
        io_1 = ours(NodeCluster(address(servers), form="streams"), recovery_window=60.0)
        io_2 = ours(NodeCluster(address(servers), form="streams"), recovery_window=60.0)
        async with partyline_server(extras=[io_1]) as (_, here), partyline_server(extras=[io_2]) as (_, there):
            async with visit(here) as first:
                io_2.emit("live")
                await first.until("live")
            await eventually(lambda: not io_1.sockets, "it is gone")
            io_1.emit("missed")
            async with visit(there, first) as second:
                assert await second.until("missed") == [["missed"]]
                assert second.state["recovered"]


@installed
@pytest.mark.parametrize("form", ["classic", "sharded", "streams"])
@looped
async def test_beside_node(form: str, tmp_path: Path) -> None:
    """Over a Redis Cluster a server of ours and one of Node are one, in both directions."""
    async with (
        redis_cluster(tmp_path) as servers,
        member(servers, form=form) as (io, url),
        node_server(form, servers[0].port, cluster=[server.port for server in servers]) as node,
        joined(url, "near", "here") as near,
        joined(node.url, "far", "there") as far,
    ):
        async with asyncio.timeout(10):
            while await node.call("count") != 2:
                await asyncio.sleep(0.01)
        assert {socket.id for socket in await io.fetch_sockets()} == {near.sid, far.sid}
        assert {socket["id"] for socket in await node.call("fetch")} == {near.sid, far.sid}
        io.emit("ours", 1)
        assert [await event(near), await event(far)] == [["ours", 1], ["ours", 1]]
        await node.call("emit", event="theirs", args=[2])
        assert [await event(near), await event(far)] == [["theirs", 2], ["theirs", 2]]
        asking = asyncio.create_task(io.call("ask", timeout=10.0))
        await answer(near, 1)
        await answer(far, 2)
        assert sorted(await asking) == [1, 2]


@looped
async def test_a_master_dies(tmp_path: Path) -> None:
    """When a master dies and its replica takes over, rooms whose channels it had, the bus and the log go on there."""
    async with redis_cluster(tmp_path, replicas=True) as servers:
        shared = settings(log=address(servers))
        store = await open_store(shared)
        assert store is not None
        store.start(lambda batch: None)
        store.append(Draft("cats", b"1", "x"))
        await eventually(lambda: store.head == 1, "it is kept")
        here, there = RedisBus(address(servers)), RedisBus(address(servers))
        heard: list[bytes] = []
        for bus in (here, there):
            await bus.start(lambda sender, data: heard.append(data))
        there.listen("s", lambda sender, data: heard.append(data))
        await there.ready()
        here.publish("s", b"1")
        await eventually(lambda: heard == [b"1"], "it is heard")
        auth = {"name": "x", "rooms": [str(number) for number in range(30)]}
        async with (
            member(servers, form="sharded") as (one, _),
            member(servers, form="sharded") as (two, url),
            entered(url, auth=auth) as client,
        ):
            (socket,) = two.sockets.values()
            await eventually(lambda: len(socket.rooms) == 31, "it is in its rooms")
            slot = await servers[0].ask("CLUSTER", "KEYSLOT", "{partyline}")
            victim = servers[int(slot) * 3 // SLOTS]
            epoch = store.epoch
            await victim.kill()

            async def works() -> bool:
                here.publish("s", b"2")
                await asyncio.sleep(0.05)
                return b"2" in heard

            async with asyncio.timeout(15):
                while not await works():
                    pass
                got: set[str] = set()
                while len(got) < 30:
                    for room in range(30):
                        one.to(str(room)).emit("room", str(room))
                    await asyncio.sleep(0.05)
                    client.received.clear()
                    one.emit("end")
                    async with asyncio.timeout(10):
                        while not (packet := str(await client.next())).startswith('2["end"'):
                            if packet.startswith('2["room"'):
                                got.add(json.loads(packet[1:])[1])
            store.append(Draft("cats", b"2", "y"))
            await eventually(lambda: store.epoch != epoch or store.head > 1, "the log goes on", within=10)
        await asyncio.gather(here.close(), there.close())
        await store.close()
