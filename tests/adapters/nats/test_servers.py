"""Servers that share a log in JetStream, over real sockets; tables when NATS goes and comes back."""

from __future__ import annotations

import asyncio
import base64
import builtins
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from partyline import running
from partyline.adapters.nats.address import parse
from partyline.adapters.nats.tables import NatsTables
from partyline.engines import open_store
from partyline.errors import ConfigError, StoreUnavailable
from partyline.testing.tables import Watching
from tests.adapters.nats.server import ALWAYS, NatsServer, nats_process, nats_server
from tests.adapters.servers import Forwarder
from tests.calls import call
from tests.cli.test_doctor import findings, free_port
from tests.relay.v1.test_websocket import line, offset, settings
from tests.server.servers import eventually
from tests.socketio.clients import looped


async def reached(url: str) -> None:
    """Return when a server has its log."""
    until = asyncio.get_running_loop().time() + 10
    while (await call(f"{url}/health"))[0] != 200:
        assert asyncio.get_running_loop().time() < until
        await asyncio.sleep(0.01)


@pytest.mark.check
@looped
async def test_two_servers_are_one(tmp_path: Path) -> None:
    """Subscribers on both servers get the messages of both in one order, and a position of one is resumed on the other
    one, each message once."""
    async with nats_server(tmp_path, ALWAYS) as nats:
        shared = settings(log=f"{nats.url}?monitor={nats.monitor}")
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


@pytest.mark.check
@looped
async def test_a_server_whose_nats_goes(tmp_path: Path) -> None:
    """While NATS is away, /health and publishes are 503 and connections stay; what is published after it is back comes
    on the same connections."""
    async with (
        nats_server(tmp_path, ALWAYS) as nats,
        running(settings(log=f"{nats.url}?monitor={nats.monitor}")) as (_, url),
        line(url) as client,
    ):
        await client.ask("subscribe", topic="cats")
        await nats.kill()
        status, error = await call(f"{url}/v1/topics/cats/messages", "POST", {"data": 1})
        assert status == 503
        assert "the log cannot take a message now" in str(error)
        assert (await call(f"{url}/health"))[0] == 503
        await nats.start()
        await reached(url)
        await client.ask("publish", topic="cats", data=2)
        assert (await client.data(1))[-1] == 2


@pytest.mark.check
@looped
async def test_a_server_whose_nats_is_down_at_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server whose NATS is down at start says so once for the log and once for the bus, and listens; publishes are
    503 until NATS is there."""
    nats = NatsServer(tmp_path, ALWAYS)
    async with running(settings(log=nats.url)) as (_, url):
        assert (await call(f"{url}/v1/topics/cats/messages", "POST", {"data": 1}))[0] == 503
        await nats.start()
        await reached(url)
        assert (await call(f"{url}/v1/topics/cats/messages", "POST", {"data": 1}))[0] == 200
    await nats.stop()
    log, bus = [str(record.__dict__) for record in caplog.records if record.levelno >= logging.ERROR]
    assert "the log cannot be reached" in log
    assert "NATS cannot be reached" in bus


@pytest.mark.check
def test_doctor_looks_at_the_log(tmp_path: Path) -> None:
    """`partyline doctor` says what a shared log keeps, and that one cannot be reached."""
    with nats_process(tmp_path) as nats:
        url = f"{nats.url}?monitor={nats.monitor}"
        found = findings("--db", ":memory:", "--set", f"port={free_port()}", "--set", f"log={url}")
        assert found["log"]["text"].startswith("NATS 2.")
        assert found["positions"]["text"].startswith("there is no log yet")

        async def begin() -> None:
            store = await open_store(settings(log=url))
            assert store is not None
            store.start(lambda batch: None)
            await store.close()

        asyncio.run(begin())
        found = findings("--db", ":memory:", "--set", f"port={free_port()}", "--set", f"log={url}")
        assert found["positions"]["text"].startswith("epoch ")
        assert "a power cut" in found["durability"]["text"]
        assert "settings" not in found
        found = findings("--db", ":memory:", "--set", f"port={free_port()}", "--set", f"log={nats.url}")
        assert "sync_interval: always" in found["settings"]["advice"]
    found = findings("--db", ":memory:", "--set", f"port={free_port()}", "--set", f"log={url}", code=1)
    assert "NATS at 127.0.0.1" in found["log"]["text"]


@pytest.mark.check
@looped
async def test_tables_whose_nats_goes(tmp_path: Path) -> None:
    """While NATS is away a table says so at once; a watcher hears then what was put and taken while it was away."""
    async with nats_server(tmp_path, ALWAYS) as nats, Forwarder().open(nats.port) as way:
        here, there = NatsTables(way.url.replace("redis", "nats")), NatsTables(nats.url)
        await asyncio.gather(here.start(), there.start())
        watching = Watching()
        for key in ("old", "stays"):
            await here.sessions.put(key, b"1", 60.0)
        await here.sessions.watch(watching)
        assert sorted(await watching.until(2)) == [("old", b"1"), ("stays", b"1")]
        way.port = 1  # nobody is there
        way.cut()
        await eventually(lambda: not here._nats.connected, "it is noticed")
        with pytest.raises(StoreUnavailable):
            await here.sessions.get("old")
        with pytest.raises(StoreUnavailable):
            await here.sessions.watch(Watching())
        await there.sessions.take("old")
        await there.sessions.put("new", b"1", 60.0)
        way.port = nats.port
        told = await watching.until(5)
        assert dict(told) == {"old": None, "stays": b"1", "new": b"1"}
        before = len(told)
        await there.sessions.put("stays", b"2", 60.0)
        assert (await watching.until(before + 1))[-1] == ("stays", b"2")
        await asyncio.gather(here.close(), there.close())


@pytest.mark.check
@looped
async def test_lives_by_the_clock_of_nats(tmp_path: Path) -> None:
    """A value is gone when its life is over, by the clock that all nodes share, and JetStream removes it."""
    async with nats_server(tmp_path) as nats:
        tables = NatsTables(nats.url)
        await tables.start()
        await tables.sessions.put("short", b"1", 0.05)
        await tables.sessions.put("long", b"1", 60.0)
        await asyncio.sleep(0.1)
        assert await tables.sessions.get("short") is None
        watching = Watching()
        await tables.sessions.watch(watching)
        assert watching.told == [("long", b"1")]
        until = asyncio.get_running_loop().time() + 10
        while (await nats.ask("STREAM.INFO.KV_partyline"))["state"]["messages"] != 1:
            assert asyncio.get_running_loop().time() < until
            await asyncio.sleep(0.05)
        await tables.close()


# Signing in


def test_credentials(tmp_path: Path) -> None:
    """A file of credentials signs the server's nonce with its seed, as Ed25519 says, and names the public key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from partyline.adapters.nats.address import _checksum

    key = Ed25519PrivateKey.generate()
    kind = 20 << 3  # a user's
    raw = bytes([18 << 3 | kind >> 5, (kind & 31) << 3]) + key.private_bytes_raw()
    seed = base64.b32encode(raw + _checksum(raw).to_bytes(2, "little")).rstrip(b"=").decode()
    file = tmp_path / "user.creds"
    file.write_text(f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n")
    said = parse(f"nats://h?credentials={file}", "log").signed("nonce")
    assert said["nkey"].startswith("U")
    public = base64.b32decode(said["nkey"])[1:33]
    signature = base64.urlsafe_b64decode(said["sig"] + "==")
    Ed25519PublicKey.from_public_bytes(public).verify(signature, b"nonce")
    assert public == key.public_key().public_bytes_raw()


@pytest.mark.check
def test_a_server_that_asks_for_a_key(tmp_path: Path) -> None:
    """A NATS that knows users by their public keys lets in whoever has the seed, and nobody else."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from partyline.adapters.nats.address import _checksum

    kind = 20 << 3
    files = []
    for name in ("one", "two"):
        raw = bytes([18 << 3 | kind >> 5, (kind & 31) << 3]) + Ed25519PrivateKey.generate().private_bytes_raw()
        seed = base64.b32encode(raw + _checksum(raw).to_bytes(2, "little")).rstrip(b"=").decode()
        files.append(tmp_path / name)
        files[-1].write_text(seed)
    public = parse(f"nats://h?credentials={files[0]}", "log").signed("")["nkey"]

    @looped
    async def test() -> None:
        async with nats_server(tmp_path / "nats", ALWAYS, authorization={"users": [{"nkey": public}]}) as nats:
            store = await open_store(settings(log=f"{nats.url}?credentials={files[0]}"))
            assert store is not None
            store.start(lambda batch: None)
            await store.close()
            tables = NatsTables(f"{nats.url}?credentials={files[1]}")
            await tables.start()
            assert not tables._nats.connected
            await tables.close()

    test()


def test_credentials_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package that signs is missing, the error says how to get it."""
    file = tmp_path / "user.creds"
    file.write_text("S" + "A" * 57)
    real = builtins.__import__

    def missing(name: str, *rest: Any, **named: Mapping[str, Any] | Sequence[str]) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install 'partyline-server\[nats\]'"):
        parse(f"nats://h?credentials={file}", "log").signed("nonce")
