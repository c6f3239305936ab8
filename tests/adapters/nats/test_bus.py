"""The bus on subjects of NATS: what every bus promises, and NATS that goes, hangs, refuses and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from partyline import SocketIO
from partyline.adapters.nats import client
from partyline.adapters.nats.bus import NatsBus
from partyline.errors import ConfigError
from partyline.interfaces import Bus
from partyline.testing import BUS_CHECKS
from partyline.testing.bus import check_bus, run_bus_check
from tests.adapters.nats.server import NatsServer, nats_process, nats_server
from tests.adapters.servers import Forwarder
from tests.server.conftest import Certificate, Run
from tests.server.servers import eventually, partyline_server
from tests.socketio.clients import entered, looped


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server for all tests here; each has a prefix of its own."""
    with nats_process(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.mark.parametrize("promise", BUS_CHECKS)
def test_a_bus_keeps(server: NatsServer, promise: str) -> None:
    """Each promise of a bus is kept on subjects of NATS."""

    @contextlib.asynccontextmanager
    async def make(count: int) -> AsyncIterator[Sequence[Bus]]:
        prefix = secrets.token_hex(4)
        yield [NatsBus(f"{server.url}?prefix={prefix}") for _ in range(count)]

    asyncio.run(run_bus_check(BUS_CHECKS[promise], make))


@contextlib.asynccontextmanager
async def two(first: str, second: str = "") -> AsyncIterator[tuple[NatsBus, NatsBus, list[bytes]]]:
    """Two started buses, and what the second one hears on `s` and for itself."""
    here, there = NatsBus(first), NatsBus(second or first)
    heard: list[bytes] = []
    for bus in (here, there):
        await bus.start(lambda sender, data: heard.append(data))
    there.listen("s", lambda sender, data: heard.append(data))
    if there.connected:
        await there.ready()
    try:
        yield here, there, heard
    finally:
        await asyncio.gather(here.close(), there.close())


@pytest.mark.check
@looped
async def test_a_nats_that_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While NATS is away a bus says that it is not connected, and what is said is counted, where it is said and where
    it would have been heard; when it is back all listeners hear again."""
    async with nats_server(tmp_path) as nats, two(nats.url) as (here, there, heard):
        here.publish("s", b"1")
        await eventually(lambda: heard == [b"1"], "it is heard")
        await nats.kill()
        await eventually(lambda: not here.connected and not there.connected, "both notice")
        here.publish("s", b"2")
        here.publish("s", b"3")
        assert here.counters.unsent == 2
        await nats.start()
        await asyncio.gather(here.ready(), there.ready())
        here.publish("s", b"4")
        here.send(there.node, b"5")
        await eventually(lambda: heard == [b"1", b"4", b"5"], "they are heard")
        assert there.lost() == 2
    told = [str(record.__dict__) for record in caplog.records if record.levelno >= logging.ERROR]
    assert 2 <= len(told) <= 4, told  # of each bus: that it is lost, and at most once why


@pytest.mark.check
@looped
async def test_a_nats_that_is_down_at_start(tmp_path: Path) -> None:
    """A bus starts without NATS, and hears when NATS is there."""
    nats = NatsServer(tmp_path)
    async with two(nats.url) as (here, there, heard):
        assert not here.connected
        await nats.start()
        await asyncio.gather(here.ready(), there.ready())
        here.publish("s", b"1")
        await eventually(lambda: heard == [b"1"], "it is heard")
    await nats.stop()


@pytest.mark.check
@pytest.mark.parametrize("how", ["deaf", "half-open", "hanging"])
def test_a_line_that_hears_nothing(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that does not hear itself is made anew, whether its subscription, the way or NATS is at fault."""
    monkeypatch.setattr(client, "_PROBE", 0.2)

    @looped
    async def test() -> None:
        async with (
            nats_server(tmp_path) as nats,
            Forwarder().open(nats.port) as way,
            two(nats.url, way.url.replace("redis", "nats")) as (here, there, heard),
        ):
            old = there._nats.line()
            if how == "deaf":
                for number in list(old._listeners):
                    old._write(b"UNSUB %b\r\n" % number)
            elif how == "half-open":
                way.stalled = True
            else:
                nats.hang()
            await eventually(lambda: not old.up, "it is given up")
            way.stalled = False
            nats.go_on()
            await asyncio.gather(here.ready(), there.ready())
            here.publish("s", b"1")
            await eventually(lambda: heard == [b"1"], "it is heard")

    test()


@pytest.mark.check
@looped
async def test_a_password_that_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong password is one line with NATS' reason and without the password; with the right one it is there."""
    async with nats_server(tmp_path, authorization={"user": "app", "password": "one two"}) as nats:
        right = nats.url.replace("//", "//app:one%20two@")
        async with two(right, nats.url.replace("//", "//app:secret@")) as (here, there, _):
            assert here.connected
            assert not there.connected
            await eventually(lambda: caplog.records, "it is told")
            nats.configure(authorization={"user": "app", "password": "secret"})
            await there.ready()
            await eventually(lambda: not here.connected, "the other one is not welcome any more")
    told = [str(record.__dict__) for record in caplog.records if "Authorization Violation" in str(record.__dict__)]
    assert len(told) == 2  # one of each bus
    assert not any("secret" in line for line in told)


@pytest.mark.check
@looped
async def test_what_nats_does_not_take(tmp_path: Path) -> None:
    """What is larger than NATS takes, and what finds too much waiting, is not sent, and counted."""
    async with (
        nats_server(tmp_path, max_payload=1000) as nats,
        Forwarder().open(nats.port) as way,
        two(way.url.replace("redis", "nats")) as (here, _, heard),
    ):
        here.publish("s", b"x" * 2_000)
        assert here.counters.limits["max_nats_payload"] == here.counters.unsent == 1
        here.publish("s", b"1")
        await eventually(lambda: heard == [b"1"], "it is heard")
        for _ in range(10_000):
            here.publish("s", b"x" * 900)
        assert here.counters.limits["max_nats_bytes"] == here.counters.unsent - 1 > 500


@pytest.mark.check
@looped
async def test_strangers_on_the_subjects_of_a_bus(tmp_path: Path) -> None:
    """Bytes that no node has sent are not heard, whatever they are, and cost nobody anything."""
    async with nats_server(tmp_path) as nats, two(nats.url) as (here, there, heard):
        for message in (b"", b"\xff", b"\x00" * 4, b"\xff" * 40, b"\x01" + b"x" * 7):
            await nats.publish(f"partyline.node.{there.node}", message)
            await nats.publish("partyline.bus.s", message)
        here.send(there.node, b"1")
        await eventually(lambda: heard == [b"1"], "it is heard")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nats://:secret@:x", "not an address"),
        ("nats://h:99999", "not an address"),
        ("nats://h?prefix=a.b", "prefix 'a.b'"),
        ("nats://h?copies=3", "'copies' is not an option"),
    ],
)
def test_what_is_no_address_is_refused(url: str, said: str) -> None:
    """A wrong address is an error of the setting, which does not show the password."""
    with pytest.raises(ConfigError, match=said) as caught:
        NatsBus(url)
    assert caught.value.field == "bus"
    assert "secret" not in caught.value.message


@contextlib.asynccontextmanager
async def member(url: str) -> AsyncIterator[tuple[SocketIO, NatsBus, str]]:
    """A Socket.IO server of ours among others of ours."""
    bus = NatsBus(url)
    io = SocketIO(adapter=bus, nodes_timeout=5.0)
    async with partyline_server(extras=[io]) as (_, address):
        yield io, bus, address


@pytest.mark.check
@looped
async def test_socketio_over_a_bus(tmp_path: Path) -> None:
    """Socket.IO servers of ours on a bus reach each other's clients and ask each other, and a killed NATS is no more
    than a pause."""
    async with (
        nats_server(tmp_path) as nats,
        member(nats.url) as (one, first, _),
        member(nats.url) as (two, second, url),
        entered(url) as client,
    ):
        await eventually(lambda: one._nodes is not None and one._nodes.others, "they know each other")
        one.emit("all", {"n": 1})
        assert await client.event() == ["all", {"n": 1}]
        (there,) = await one.fetch_sockets()
        there.emit("you")
        assert await client.event() == ["you"]
        await nats.kill()
        await eventually(lambda: not first.connected and not second.connected, "both notice")
        one.emit("lost")
        two.emit("here")
        assert await client.event() == ["here"]
        await nats.start()
        await asyncio.gather(first.ready(), second.ready())
        one.emit("again")
        assert await client.event() == ["again"]


@pytest.mark.check
def test_both_loops_with_tls(run: Run, certificate: Certificate, tmp_path: Path) -> None:
    """On either loop, over TLS that the server asks for or the address does, all that a bus promises is kept; a
    certificate that nobody trusts is refused, and the reason is told."""

    async def test() -> None:
        tls = {"cert_file": certificate.certfile, "key_file": certificate.keyfile}
        async with nats_server(tmp_path, tls=tls) as nats:
            for url in (nats.url, nats.url.replace("nats:", "tls:")):

                @contextlib.asynccontextmanager
                async def make(count: int, url: str = url) -> AsyncIterator[Sequence[Bus]]:
                    prefix = secrets.token_hex(4)
                    yield [NatsBus(f"{url}?ca={certificate.certfile}&prefix={prefix}") for _ in range(count)]

                await check_bus(make)
            stranger = NatsBus(nats.url)
            await stranger.start(lambda sender, data: None)
            assert not stranger.connected
            assert "certificate" in stranger._nats._told
            await stranger.close()

    run(test())
