"""Servers that share a log in Redis, over real sockets; the bus and the tables when Redis goes and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from partyline import SocketIO, running
from partyline.adapters.redis_bus import RedisBus
from partyline.adapters.redis_servers import servers
from partyline.adapters.redis_tables import RedisTables
from partyline.engines import open_store
from partyline.errors import StoreUnavailable
from partyline.interfaces import Durability
from partyline.models import Draft
from partyline.testing.tables import Watching
from tests import tools
from tests.adapters.servers import Forwarder, RedisServer, redis_process, redis_server
from tests.calls import call, reached
from tests.cli.test_doctor import findings, free_port
from tests.relay.v1.test_websocket import line, offset, settings
from tests.server.servers import eventually, partyline_server
from tests.socketio.clients import entered, looped

pytestmark = pytest.mark.check

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


@looped
async def test_a_cancelled_connect(tmp_path: Path) -> None:
    """Whenever a task that connects is cancelled it ends as cancelled, and leaves no connection open."""
    async with redis_server(tmp_path) as redis:
        single = servers(redis.url)
        done, turns = False, 0
        while not done:
            connecting = asyncio.create_task(single.connect(""))
            for _ in range(turns):
                await asyncio.sleep(0)
            done = connecting.done()
            connecting.cancel()
            await asyncio.wait([connecting])
            assert connecting.cancelled() != done, turns
            turns += 1
        assert turns > 10
        await connecting.result().disconnect(nowait=True)

        async def alone() -> bool:
            return (await redis.ask("CLIENT", "LIST")).count(b"id=") == 1

        async with asyncio.timeout(5):
            while not await alone():
                await asyncio.sleep(0.01)
        await single.close()


@looped
async def test_two_servers_are_one(tmp_path: Path) -> None:
    """Subscribers on both servers get the messages of both in one order, and a position of one is resumed on the other
    one, each message once."""
    async with redis_server(tmp_path, *ALWAYS) as redis:
        shared = settings(log=redis.url)
        async with running(shared) as (_, first), running(shared) as (_, second):
            async with line(first) as here, line(second) as there:
                before = (await here.ask("subscribe", topic="cats"))["position"]
                await there.ask("subscribe", topic="cats")

                async def publish(url: str, name: str) -> None:
                    for number in range(20):
                        status, _ = await call(f"{url}/v1/topics/cats/messages", "POST", {"data": f"{name}{number}"})
                        assert status == 200

                await asyncio.gather(publish(first, "a"), publish(second, "b"))
                seen = [await client.messages(40) for client in (here, there)]
                places = [[(offset(frame["position"]), frame["data"]) for frame in frames] for frames in seen]
                assert places[0] == places[1] == sorted(places[0])
            async with line(second) as there:
                assert (await there.ask("subscribe", topic="cats", after=before))["recovered"] is True
                assert await there.data(40) == [data for _, data in places[0]]
            _, health = await call(f"{first}/health")
            assert health["durability"] == "power-cut"


@looped
async def test_a_server_whose_redis_goes(tmp_path: Path) -> None:
    """While Redis is away, /health and publishes are 503 and connections stay; what is published after it is back
    comes on the same connections."""
    async with (
        redis_server(tmp_path, *ALWAYS) as redis,
        running(settings(log=redis.url)) as (_, url),
        line(url) as client,
    ):
        await client.ask("subscribe", topic="cats")
        await redis.kill()
        status, error = await call(f"{url}/v1/topics/cats/messages", "POST", {"data": 1})
        assert status == 503
        assert "the log cannot take a message now" in str(error)
        assert (await call(f"{url}/health"))[0] == 503
        await redis.start()
        await reached(url)
        await client.ask("publish", topic="cats", data=2)
        assert (await client.data(1))[-1] == 2


@looped
async def test_a_server_whose_redis_is_down_at_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server whose Redis is down at start says so once for the log and once for the bus, and listens; publishes are
    503 until Redis is there."""
    async with redis_server(tmp_path, *ALWAYS) as redis:
        await redis.stop()
        async with running(settings(log=redis.url)) as (_, url):
            assert (await call(f"{url}/health"))[0] == 503
            assert (await call(f"{url}/v1/topics/cats/messages", "POST", {"data": 1}))[0] == 503
            await redis.start()
            await reached(url)
            assert (await call(f"{url}/v1/topics/cats/messages", "POST", {"data": 1}))[0] == 200
    log, bus = [str(record.__dict__) for record in caplog.records if record.levelno >= logging.ERROR]
    assert "the log cannot be reached" in log
    assert "Redis cannot be reached" in bus


def test_doctor_looks_at_the_log(tmp_path: Path) -> None:
    """`partyline doctor` says what a shared log keeps, and that one cannot be reached."""
    with redis_process(tools.program("redis-server"), tmp_path, *ALWAYS) as url:
        found = findings("--db", ":memory:", "--set", f"port={free_port()}", "--set", f"log={url}")
        assert found["log"]["text"].startswith("Redis ")
        assert found["durability"]["text"] == "an accepted message survives a power cut"
    found = findings("--db", ":memory:", "--set", f"port={free_port()}", "--set", f"log={url}", code=1)
    assert "Redis cannot be reached" in found["log"]["text"]


@looped
async def test_a_user_with_few_rights(tmp_path: Path) -> None:
    """A user that may use the keys and channels of one deployment, and INFO, is enough for the log, the bus and the
    tables; what a message survives is not told to it."""
    async with redis_server(tmp_path, *ALWAYS) as redis:
        rights = ("on", ">secret", "~{partyline}*", "&{partyline}*", "+@all", "-@dangerous", "+info")
        await redis.ask("ACL", "SETUSER", "app", *rights)
        url = redis.url.replace("//", "//app:secret@")
        store = await open_store(settings(log=url))
        assert store is not None
        assert store.durability is Durability.WINDOW
        store.start(lambda batch: None)
        store.append(Draft("cats", b"1", "x"))
        await eventually(lambda: store.head == 1, "it is kept")
        await store.close()
        bus, tables = RedisBus(url), RedisTables(url)
        heard: list[bytes] = []
        await bus.start(lambda sender, data: heard.append(data))
        bus.listen("s", lambda sender, data: heard.append(data))
        await bus.ready()
        assert bus.connected
        await tables.start()
        await tables.sessions.put("k", b"1", 60.0)
        assert await tables.sessions.take("k") == b"1"
        await asyncio.gather(bus.close(), tables.close())


@looped
async def test_a_bus_whose_redis_goes(tmp_path: Path) -> None:
    """While Redis is away a bus says that it is not connected, and what is said is counted, where it is said and where
    it would have been heard; when it is back all listeners hear again."""
    async with redis_server(tmp_path) as redis:
        here, there = RedisBus(redis.url), RedisBus(redis.url)
        heard: list[bytes] = []
        for bus in (here, there):
            await bus.start(lambda sender, data: heard.append(data))
        there.listen("s", lambda sender, data: heard.append(data))
        await there.ready()
        here.publish("s", b"1")
        await eventually(lambda: heard == [b"1"], "it is heard")
        await redis.kill()
        await eventually(lambda: not here.connected and not there.connected, "both notice")
        here.publish("s", b"2")
        here.publish("s", b"3")
        assert here.counters.unsent == 2
        await redis.start()
        await asyncio.gather(here.ready(), there.ready())
        here.publish("s", b"4")
        here.send(there.node, b"5")
        await eventually(lambda: heard == [b"1", b"4", b"5"], "they are heard")
        assert there.lost() == 2
        await asyncio.gather(here.close(), there.close())


@looped
async def test_strangers_on_the_channels_of_a_bus(tmp_path: Path) -> None:
    """Bytes that no node has sent are not heard, whatever they are, and cost nobody anything."""
    async with redis_server(tmp_path) as redis:
        here, there = RedisBus(redis.url), RedisBus(redis.url)
        heard: list[bytes] = []
        for bus in (here, there):
            await bus.start(lambda sender, data: heard.append(data))
        for message in (b"", b"\xff", b"\x00\x00\x00\x00", b"\xff" * 40, b"\x00\x00\x00\x01\xff", b"\x00\x00\x00\x11"):
            await redis.ask("PUBLISH", f"{{partyline}}:node:{there.node}", message)
            await redis.ask("PUBLISH", f"{{partyline}}:node:{there.node}", message + f"@{there.node}".encode())
        here.send(there.node, b"1")
        await eventually(lambda: heard == [b"1"], "it is heard")
        await asyncio.gather(here.close(), there.close())


@looped
async def test_tables_whose_redis_goes(tmp_path: Path) -> None:
    """While Redis is away a table says so at once; a watcher hears then what was put and taken while it was away."""
    async with redis_server(tmp_path, *ALWAYS) as redis, Forwarder().open(redis.port) as way:
        here, there = RedisTables(way.url), RedisTables(redis.url)
        await asyncio.gather(here.start(), there.start())
        watching = Watching()
        for key in ("old", "stays"):
            await here.sessions.put(key, b"1", 60.0)
        await here.sessions.watch(watching)
        assert sorted(await watching.until(2)) == [("old", b"1"), ("stays", b"1")]
        way.port = 1  # nobody is there
        way.cut()
        await eventually(lambda: not here._redis.connected, "it is noticed")
        with pytest.raises(StoreUnavailable):
            await here.sessions.get("old")
        with pytest.raises(StoreUnavailable):
            await here.sessions.watch(Watching())
        await there.sessions.take("old")
        await there.sessions.put("new", b"1", 60.0)
        way.port = redis.port
        told = await watching.until(5)
        assert dict(told) == {"old": None, "stays": b"1", "new": b"1"}
        before = len(told)
        await there.sessions.put("stays", b"2", 60.0)
        assert (await watching.until(before + 1))[-1] == ("stays", b"2")
        await asyncio.gather(here.close(), there.close())


@looped
async def test_lives_by_the_clock_of_redis(tmp_path: Path) -> None:
    """A value is gone when its life is over, by the clock that all nodes share."""
    async with redis_server(tmp_path) as redis:
        tables = RedisTables(redis.url)
        await tables.start()
        await tables.sessions.put("short", b"1", 0.05)
        await tables.sessions.put("long", b"1", 60.0)
        await asyncio.sleep(0.1)
        assert await tables.sessions.get("short") is None
        watching = Watching()
        await tables.sessions.watch(watching)
        assert watching.told == [("long", b"1")]
        for number in range(1_001):
            await tables.sessions.put(f"short{number}", b"1", 0.001)
        await tables.sessions.put("next", b"1", 60.0)
        await watching.until(1_003)
        assert len(tables.sessions._known) < 1_000
        await asyncio.sleep(0.01)
        for _ in range(130):
            await tables.sessions.put("next", b"1", 60.0)
        assert await redis.ask("HLEN", "{partyline}:table:sessions") == 2  # what is over is removed
        await tables.close()


@contextlib.asynccontextmanager
async def member(redis: RedisServer) -> AsyncIterator[tuple[SocketIO, str]]:
    """A Socket.IO server of ours among others of ours."""
    io = SocketIO(adapter=RedisBus(redis.url), nodes_timeout=5.0)
    async with partyline_server(extras=[io]) as (_, url):
        yield io, url


@looped
async def test_socketio_over_a_bus(tmp_path: Path) -> None:
    """Socket.IO servers of ours on a bus reach each other's clients and ask each other, and a killed Redis is no more
    than a pause."""
    async with (
        redis_server(tmp_path) as redis,
        member(redis) as (one, _),
        member(redis) as (two, url),
        entered(url) as client,
    ):
        await eventually(lambda: one._nodes is not None and one._nodes.others, "they know each other")
        one.emit("all", {"n": 1})
        assert await client.event() == ["all", {"n": 1}]
        (there,) = await one.fetch_sockets()
        there.emit("you")
        assert await client.event() == ["you"]
        one.sockets_join("room")
        one.to("room").emit("joined")
        assert await client.event() == ["joined"]
        await redis.kill()
        one.emit("lost")
        two.emit("here")
        assert await client.event() == ["here"]
        await redis.start()
        await eventually(lambda: one._adapter.connected and two._adapter.connected, "both are back")  # type: ignore[union-attr]
        await asyncio.gather(*(io._adapter.ready() for io in (one, two)))  # type: ignore[union-attr]
        one.emit("again")
        assert await client.event() == ["again"]
