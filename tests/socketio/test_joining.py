"""Servers of ours alone in a cluster of Node's form: what Redis does to them, and strangers on its channels."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partyline import CallTimeout, ConfigError, NodeCluster, SocketIO
from tests import tools
from tests.adapters.servers import RedisServer, redis_server
from tests.server.servers import eventually, partyline_server
from tests.socketio.clients import entered, looped

pytestmark = pytest.mark.check


@contextlib.asynccontextmanager
async def member(redis: RedisServer, **how: Any) -> AsyncIterator[tuple[SocketIO, str]]:
    """A server in the cluster, and its address."""
    io = SocketIO(adapter=NodeCluster(redis.url, **how), nodes_timeout=1.0)
    async with partyline_server(extras=[io]) as (_, url):
        yield io, url


FORMS: list[dict[str, Any]] = [
    {"form": "classic"},
    {"form": "sharded"},
    {"form": "sharded", "mode": "static"},
    {"form": "streams"},
    {"form": "python-socketio"},
]


@pytest.mark.parametrize("how", FORMS, ids=lambda how: "-".join(how.values()))
def test_two_of_ours(how: dict[str, Any], tmp_path: Path) -> None:
    """Two servers of ours reach each other's clients in every form."""

    @looped
    async def main() -> None:
        async with (
            redis_server(tmp_path) as redis,
            member(redis, **how) as (one, _),
            member(redis, **how) as (_, url),
            entered(url) as client,
        ):
            one.emit("all", b"\x01", {"n": 1})
            assert await client.next() == '51-["all",{"_placeholder":true,"num":0},{"n":1}]'
            assert await client.next() == b"\x01"
            if how["form"] != "python-socketio":
                (there,) = await one.fetch_sockets()
                there.emit("you")
                assert await client.event() == ["you"]

    main()


@looped
async def test_without_redis(tmp_path: Path) -> None:
    """While Redis is away clients of this server are served, questions end in time, and what others miss is counted;
    when it comes everything works."""
    tools.redis()
    redis = RedisServer(tmp_path)
    async with member(redis, form="classic") as (io, url), entered(url) as client:
        io.emit("here")
        assert await client.event() == ["here"]
        assert io.counters.unsent == 1
        with pytest.raises(CallTimeout) as caught:
            await io.fetch_sockets()
        assert caught.value.missing == ("?",)
        assert io.counters.unsent == 2
        await redis.start()
        try:
            async with member(redis, form="classic") as (other, _):
                await eventually(lambda: io._nodes is not None and io._nodes._cluster._redis.connected, "it is back")  # type: ignore[attr-defined]
                async with asyncio.timeout(10):
                    while (await redis.ask("PUBSUB", "NUMSUB", "socket.io-request#/#"))[1] != 2:
                        await asyncio.sleep(0.01)
                other.emit("there")
                assert await client.event() == ["there"]
                assert len(await other.fetch_sockets()) == 1
        finally:
            await redis.stop()


@looped
async def test_strangers_on_the_channels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is published on the channels is ignored and counted, with one line in the log, and the next event is
    heard."""
    garbage = ["", "\u00ff", "{", "[" * 5000, '{"type":6,"uid":"x","data":[7]}', '{"type":8}', "x" * 100_000]
    async with redis_server(tmp_path) as redis, member(redis) as (io, url), entered(url) as client:
        for channel in ("socket.io#/#", "socket.io-request#/#", "socket.io-response#/#"):
            for text in garbage:
                await redis.ask("PUBLISH", channel, text)
        reserved = b"\x93\xa1x\x82\xa4data\x91\xaadisconnect\xa3nsp\xa1/\x80"  # an event that nobody may send
        await redis.ask("PUBLISH", "socket.io#/#", reserved)
        async with member(redis) as (other, _):
            other.emit("still")
            assert await client.event() == ["still"]
        assert io.counters.unreadable > 15
        assert io.counters.errors == 0
        assert sum("cannot be read" in str(record.__dict__) for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"form": "redis"}, "form: 'redis' must be one of classic, sharded, streams, python-socketio"),
        ({"form": "sharded", "mode": "x"}, "mode: 'x' must be one of dynamic, dynamic-private, static"),
    ],
)
def test_what_is_refused(how: dict[str, Any], reason: str) -> None:
    """Forms and modes that there are not are refused at once."""
    with pytest.raises(ConfigError, match=reason):
        NodeCluster("redis://127.0.0.1", **how)


def test_recovery_is_refused() -> None:
    """Node's servers have no log for all: recovery with them is refused, not half done."""
    tools.redis()
    with pytest.raises(ConfigError, match="recovery_window"):
        SocketIO(adapter=NodeCluster("redis://127.0.0.1"), recovery_window=60.0)
