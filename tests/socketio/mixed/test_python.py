"""python-socketio beside a server of ours: a writer, as in a task of Celery, and a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partyline import NodeCluster
from tests import tools
from tests.adapters.servers import redis_server
from tests.server.servers import partyline_server
from tests.socketio.clients import looped
from tests.socketio.mixed.test_mixed import answer, event, joined, ours

pytestmark = pytest.mark.check


@contextlib.asynccontextmanager
async def beside(folder: Path, *, write_only: bool) -> AsyncIterator[tuple[Any, Any, str]]:
    """A manager of python-socketio, and a server of ours, with its address."""
    package = tools.python_socketio()
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(folder))
        io = ours(NodeCluster(redis.url, form="python-socketio"))
        _, url = await stack.enter_async_context(partyline_server(extras=[io]))
        manager = package.AsyncRedisManager(redis.url, write_only=write_only)
        if not write_only:
            theirs = package.AsyncServer(client_manager=manager, async_mode="asgi")
            theirs.manager_initialized = True  # its first client would begin it again
            manager.initialize()
        yield manager, io, url
        for task in asyncio.all_tasks():
            if "_thread" in repr(task.get_coro()):  # that listens; it has no end of its own
                task.cancel()
        await manager.redis.aclose()


@looped
async def test_a_writer(tmp_path: Path) -> None:
    """What a write-only manager emits reaches our clients by namespace and room, and it can move and disconnect
    them."""
    async with (
        beside(tmp_path, write_only=True) as (manager, _, url),
        joined(url, "one", "a") as one,
        joined(url, "two", "b") as two,
        joined(url, "chatting", namespace="/chat") as chatting,
    ):
        await manager.emit("all", {"n": 1}, namespace="/")
        await manager.emit("a", (1, "two"), namespace="/", room="a")
        await manager.emit("not two", None, namespace="/", skip_sid=two.sid)
        await manager.emit("chat", "x", namespace="/chat")
        await manager.emit("file", {"part": b"\x00\xff"}, namespace="/", room="b")
        await manager.enter_room(two.sid, "/", "a")
        await manager.emit("a", 3, namespace="/", room="a")
        assert [await event(one) for _ in range(4)] == [["all", {"n": 1}], ["a", 1, "two"], ["not two", None], ["a", 3]]
        assert await event(chatting) == ["chat", "x"]
        assert await event(two) == ["all", {"n": 1}]
        assert await two.next() == '51-["file",{"part":{"_placeholder":true,"num":0}}]'
        assert await two.next() == b"\x00\xff"
        assert await event(two) == ["a", 3]
        await manager.close_room("a", "/")
        await manager.emit("a", 4, namespace="/", room="a")
        await manager.emit("end", 5, namespace="/")
        assert await event(one) == ["end", 5]
        assert await event(two) == ["end", 5]
        await manager.can_disconnect(one.sid, "/")  # what a server of theirs calls for a socket that is not its own
        assert await one.next() == "1"


@looped
async def test_a_server(tmp_path: Path) -> None:
    """A server of python-socketio hears our events, and gets the acknowledgement of a client of ours."""
    async with beside(tmp_path, write_only=False) as (manager, io, url), joined(url, "one", "a") as one:
        async with asyncio.timeout(10):
            while (await manager.redis.execute_command("PUBSUB", "NUMSUB", "socketio"))[1] != 2:
                await asyncio.sleep(0.01)
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await manager.emit("ask", 1, namespace="/", room=one.sid, callback=lambda *args: answered.set_result(args))
        assert await answer(one, "ack", {"x": 1}) == ["ask", 1]
        assert await answered == ("ack", {"x": 1})
        monitor = manager.redis.pubsub()
        await monitor.subscribe("socketio")
        await monitor.get_message(timeout=5)
        io.to("a").emit("ours", {"n": 1}, b"\x01")
        said = json.loads((await monitor.get_message(ignore_subscribe_messages=True, timeout=5))["data"])
        assert said["data"] == [[{"n": 1}, {"_placeholder": True, "num": 0}], "AQ=="]
        assert said["room"] == "a"
        await monitor.aclose()


@looped
async def test_two_servers(tmp_path: Path) -> None:
    """Whatever python-socketio can say between servers reaches the clients of both: events with all their audiences,
    acknowledgements of one socket, joins, leaves and disconnects of a socket, and the end of a room."""
    async with beside(tmp_path, write_only=False) as (manager, io, url), contextlib.AsyncExitStack() as stack:
        theirs = manager.server

        async def connect(sid: str, environ: Any, auth: dict[str, Any]) -> None:
            for room in auth["rooms"]:
                await theirs.enter_room(sid, room)
            await theirs.emit("state", {}, to=sid)

        theirs.on("connect", connect)
        application = tools.python_socketio().ASGIApp(theirs, socketio_path="theirs")
        _, there = await stack.enter_async_context(partyline_server(fallback=application))
        near = await stack.enter_async_context(joined(url, "near", "all", "here"))
        far = await stack.enter_async_context(joined(there, "far", "all", "there", base="/theirs/"))
        async with asyncio.timeout(10):
            while (await manager.redis.execute_command("PUBSUB", "NUMSUB", "socketio"))[1] != 2:
                await asyncio.sleep(0.01)
        io.emit("everybody", 1, {"two": [None]})
        io.to("there").emit("far", b"\x01")
        io.to("here", "there").emit("both")
        io.except_(far.sid).emit("near")
        io.to(far.sid).emit("far")
        io.in_(far.sid).sockets_join("new")
        io.in_(far.sid).sockets_leave("all")
        io.to("new").emit("new")
        io.to("all").emit("near")
        assert await event(far) == ["everybody", 1, {"two": [None]}]
        assert [await far.next(), await far.next()] == ['51-["far",{"_placeholder":true,"num":0}]', b"\x01"]
        assert [await event(far) for _ in range(3)] == [["both"], ["far"], ["new"]]
        assert [await event(near) for _ in range(4)] == [
            ["everybody", 1, {"two": [None]}],
            ["both"],
            ["near"],
            ["near"],
        ]
        await theirs.emit("everybody", (1, {"two": [None]}))
        await theirs.emit("near", b"\x02", room="here")
        await theirs.emit("both", 1, room=["here", "there"])
        await theirs.emit("far", 1, skip_sid=near.sid)
        await theirs.enter_room(near.sid, "new")
        await theirs.leave_room(near.sid, "all")
        await theirs.emit("new", 1, room="new")
        await theirs.emit("near", 1, to=near.sid)
        assert await event(near) == ["everybody", 1, {"two": [None]}]
        assert [await near.next(), await near.next()] == ['51-["near",{"_placeholder":true,"num":0}]', b"\x02"]
        assert [await event(near) for _ in range(3)] == [["both", 1], ["new", 1], ["near", 1]]
        assert [await event(far) for _ in range(4)] == [
            ["everybody", 1, {"two": [None]}],
            ["both", 1],
            ["far", 1],
            ["new", 1],
        ]
        asking = asyncio.create_task(theirs.call("ask", b"\x03", to=near.sid, timeout=10))
        packet = str(await near.next())
        assert await near.next() == b"\x03"
        await near.say(f'3{packet[3 : packet.index("[")]}["answer",1]')
        assert await asking == ("answer", 1)
        io.in_("new").sockets_leave("new")
        io.to("new").emit("nobody")
        await theirs.close_room("there")
        io.to("there").emit("nobody")
        io.emit("end")
        assert [await event(near), await event(far)] == [["end"], ["end"]]
        io.in_(far.sid).disconnect_sockets()
        await theirs.disconnect(near.sid)
        assert [await near.next(), await far.next()] == ["1", "1"]
