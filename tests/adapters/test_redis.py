"""The connection to Redis, against a real server that goes, hangs, comes back and refuses."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partyline import ConfigError
from partyline.adapters import redis as adapter
from partyline.adapters.redis import GONE, Redis
from tests import tools
from tests.adapters.servers import RedisServer, Turns, redis_server
from tests.server.servers import eventually
from tests.socketio.clients import looped

pytestmark = pytest.mark.check


@contextlib.asynccontextmanager
async def connection(url: str) -> AsyncIterator[tuple[Redis, list[bytes]]]:
    """A connection that hears the channel "news"."""
    tools.redis()
    heard: list[bytes] = []
    redis = Redis(url)
    redis.listen("news", heard.append)
    await redis.start()
    try:
        yield redis, heard
    finally:
        await redis.close()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.__dict__) for record in caplog.records if "Redis" in str(record.__dict__)]


async def asked(redis: Redis, *parts: str) -> Any:
    """The reply to a command."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    redis.ask(future.set_result, *parts)
    return await future


@looped
async def test_publications_and_replies(tmp_path: Path) -> None:
    """What is published is heard in order on channels and patterns, and replies come in the order of the commands."""
    async with redis_server(tmp_path) as server, connection(server.url) as (redis, heard):
        patterned: list[bytes] = []
        redis.listen_pattern("n[e]w*", patterned.append)
        for number in range(1000):
            redis.publish("news", b"%d" % number)
        assert await asked(redis, "PUBSUB", "NUMSUB", "news") == [b"news", 1]
        assert isinstance(await asked(redis, "NO-SUCH-COMMAND"), Exception)
        await eventually(lambda: len(heard) == 1000, "all is heard")
        assert heard == patterned == [b"%d" % number for number in range(1000)]
        redis.unlisten("news")
        redis.unlisten_pattern("n[e]w*")
        redis.publish("news", b"more")
        assert await asked(redis, "PUBSUB", "NUMSUB", "news") == [b"news", 0]
        assert len(heard) == len(patterned) == 1000
        assert redis.counters.unsent == 0


@looped
async def test_what_a_turn_publishes_leaves_together(tmp_path: Path) -> None:
    """What is published in one turn of the loop is one write."""
    async with redis_server(tmp_path) as server, connection(server.url) as (redis, heard):
        assert redis._line is not None
        written: list[bytes] = []
        transport = redis._line.transport
        redis._line.transport = Recording(transport, written)  # type: ignore[assignment]
        for _ in range(50):
            redis.publish("news", b"x")
        await eventually(lambda: len(heard) == 50, "all is heard")
        assert len(written) == 1


class Recording:
    """A transport that notes what is written."""

    def __init__(self, transport: asyncio.Transport, written: list[bytes]) -> None:
        self._transport = transport
        self._written = written

    def write(self, data: bytes) -> None:
        self._written.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@looped
async def test_messages_that_take_long(tmp_path: Path) -> None:
    """Between messages that come together and take long to handle others have their turn; meanwhile nothing more is
    read, and all are heard in order."""
    turns, heard = Turns(), list[bytes]()

    def hear(data: bytes) -> None:
        turns.work()
        heard.append(data)

    async with redis_server(tmp_path) as server, connection(server.url) as (redis, _):
        redis.listen("slow", hear)
        for number in range(300):
            redis.publish("slow", b"%d" % number)
        await eventually(lambda: heard, "they come")
        assert redis._line is not None
        assert redis._line._paused
        await eventually(lambda: len(heard) == 300, "all are heard")
        assert heard == [b"%d" % number for number in range(300)]
        assert await asked(redis, "PING") == b"PONG"
    assert turns.most <= 5


@looped
async def test_redis_restarts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that goes and comes back is heard again; what was published meanwhile is counted, and the log has one
    line for each."""
    async with redis_server(tmp_path) as server, connection(server.url) as (redis, heard):
        await server.stop()
        await eventually(lambda: not redis.connected, "the loss is noticed")
        redis.publish("news", b"lost")
        assert redis.counters.unsent == 1
        assert await asked(redis, "PING") is GONE
        await server.start()
        await eventually(lambda: any("connected again" in line for line in lines(caplog)), "it is back", within=10)
        redis.publish("news", b"heard")
        await eventually(lambda: heard == [b"heard"], "it is heard")
        told = lines(caplog)
        assert len(told) in (2, 3), told  # the loss, perhaps why it cannot be reached, the return


@looped
async def test_redis_is_down_at_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server starts without Redis, says so once, and is connected when Redis comes."""
    server = RedisServer(tmp_path)
    async with connection(server.url) as (redis, heard):
        assert not redis.connected
        await asyncio.sleep(0.5)  # some attempts
        assert len(lines(caplog)) == 1
        await server.start()
        try:
            await eventually(lambda: redis.connected, "it is connected", within=10)
            redis.publish("news", b"heard")
            await eventually(lambda: heard == [b"heard"], "it is heard")
        finally:
            await server.stop()


@looped
async def test_a_password_that_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that wants another password is one line in the log with the reason, and nothing ends."""
    async with redis_server(tmp_path, "--requirepass", "secret") as server:
        wrong = server.url.replace("//", "//:wrong@")
        async with connection(wrong) as (redis, _):
            await asyncio.sleep(0.3)
            assert not redis.connected
        (line,) = lines(caplog)
        assert "invalid username-password pair" in line
        async with connection(server.url.replace("//", "//:secret@")) as (redis, _):
            assert redis.connected


@looped
async def test_redis_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that does not hear itself is made anew, and the old one is not counted beside it."""
    monkeypatch.setattr(adapter, "_PROBE", 0.2)
    async with redis_server(tmp_path) as server, connection(server.url) as (redis, heard):
        server.hang()
        await eventually(lambda: any("deaf" in line for line in lines(caplog)), "it is noticed", within=10)
        monkeypatch.setattr(adapter, "_PROBE", 5.0)
        server.go_on()
        await eventually(lambda: any("connected again" in line for line in lines(caplog)), "it is back", within=10)
        assert await asked(redis, "PUBSUB", "NUMSUB", "news") == [b"news", 1]
        redis.publish("news", b"heard")
        await eventually(lambda: b"heard" in heard, "it is heard")


@looped
async def test_too_much_waits(tmp_path: Path) -> None:
    """Where Redis does not read, what is beyond 8 MiB is lost and counted."""
    async with redis_server(tmp_path) as server, connection(server.url) as (redis, _):
        server.hang()
        for _ in range(40):
            redis.publish("news", b"x" * 1_000_000)
            await asyncio.sleep(0)
        server.go_on()
        assert redis.counters.limits["max_redis_bytes"] == redis.counters.unsent > 10


@looped
async def test_a_subscriber_that_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever fails at a message fails alone."""

    def fail(data: bytes) -> None:
        raise RuntimeError("no")

    async with redis_server(tmp_path) as server, connection(server.url) as (redis, heard):
        redis.listen("bad", fail)
        redis.publish("bad", b"")
        redis.publish("news", b"good")
        await eventually(lambda: heard == [b"good"], "it is heard")
        assert redis.counters.errors == 1


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1", "redis://127.0.0.1:x", "redis://127.0.0.1?cluster=yes", "redis://a,,b/0?sentinel=x"],
)
def test_addresses(address: str) -> None:
    """What is not an address of Redis is refused at once, by name."""
    tools.redis()
    with pytest.raises(ConfigError, match="is not an address of Redis"):
        Redis(address)


def test_clients_of_redis_py() -> None:
    """A client that does not speak the protocol in which publications come beside replies is refused."""
    cluster = importlib.import_module("redis.asyncio.cluster").RedisCluster(host="127.0.0.1", port=1, protocol=2)
    for client in (tools.redis().Redis(protocol=2), cluster):
        with pytest.raises(ConfigError, match="protocol=3"):
            Redis(client)


@looped
async def test_tls(tmp_path: Path) -> None:
    """With `rediss://` everything goes over TLS, and a certificate that nobody vouches for is refused."""
    tools.redis()
    certificate, key = await asyncio.to_thread(certified, tmp_path)
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate)]
    server = RedisServer(tmp_path)
    tls = RedisServer(tmp_path)
    server._options += ["--tls-port", str(tls.port), "--tls-auth-clients", "no", *files]
    await server.start()
    try:
        url = tls.url.replace("redis://", "rediss://")
        async with connection(f"{url}?ssl_ca_certs={certificate}") as (redis, heard):
            redis.publish("news", b"x" * 1_000_000)
            await eventually(lambda: [len(data) for data in heard] == [1_000_000], "it is heard")
        async with connection(url) as (redis, _):
            assert not redis.connected
    finally:
        await server.stop()


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that vouches for itself, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [tools.program("openssl"), *command, *names, "-out", certificate, "-keyout", key],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return certificate, key


@looped
async def test_sentinel(tmp_path: Path) -> None:
    """A Sentinel's client, or an address that names Sentinels, follows the master: after a failover what is published
    goes over the new one."""
    first, second, watching = RedisServer(tmp_path), RedisServer(tmp_path), RedisServer(tmp_path)
    second._options += ["--replicaof", "127.0.0.1", str(first.port)]
    file = tmp_path / "sentinel.conf"
    lines = [
        f"sentinel monitor party 127.0.0.1 {first.port} 1",
        "sentinel down-after-milliseconds party 300",
        "sentinel failover-timeout party 3000",
    ]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    port, bind = ["--port", str(watching.port)], ["--bind", "127.0.0.1"]
    watching._options = [str(file), "--sentinel", *port, *bind]
    await first.start()
    await second.start()
    await watching.start()
    redis: Redis | None = None
    try:
        async with asyncio.timeout(10):
            while not await watching.ask("SENTINEL", "REPLICAS", "party"):
                await asyncio.sleep(0.05)
        tools.redis()
        sentinel = importlib.import_module("redis.asyncio.sentinel").Sentinel([("127.0.0.1", watching.port)])
        client = sentinel.master_for("party", protocol=3)
        redis = Redis(client)
        named = Redis(f"redis://127.0.0.1:1,127.0.0.1:{watching.port}/0?sentinel=party")
        heard: list[bytes] = []
        named.listen("news", heard.append)
        await redis.start()
        await named.start()
        assert redis.connected
        assert named.connected
        await first.stop()
        await eventually(lambda: not redis.connected and not named.connected, "the loss is noticed")
        await eventually(lambda: redis.connected and named.connected, "they are connected to the other one", within=15)
        assert await asked(named, "PING") == b"PONG"
        redis.publish("news", b"over the other one")
        await eventually(lambda: heard == [b"over the other one"], "it is heard")
        assert (await second.ask("ROLE"))[0] in (b"master", "master")
    finally:
        if redis is not None:
            await redis.close()
            await named.close()
            await client.aclose()
            for other in sentinel.sentinels:
                await other.aclose()
        for server in (first, second, watching):
            await server.stop()
