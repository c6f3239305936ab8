"""Whoever is in no namespace yet is a stranger: what it costs counts with the strangers' share of the loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

from partyline import Partyline
from partyline.server.fair import Busy, Fair
from partyline.server.http import HttpConnection
from partyline.server.websocket import WebSocket
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from tests.engineio.clients import Watched
from tests.engineio.clients import served as engine_served
from tests.server.peers import Peer, connected, request, websocket
from tests.server.servers import eventually

from .clients import looped as loops
from .clients import opened, polled, serving


class Counted(Fair):
    """Counts what is charged to strangers. While it `stalls`, they wait until `let_go`."""

    def __init__(self) -> None:
        super().__init__()
        self.charged = 0
        self.stalls = False
        self.waiting: list[Busy] = []

    def stranger(self, one: Busy, cost: float, address: str) -> bool:
        assert cost > 0
        assert address
        self.charged += 1
        if self.stalls:
            self.waiting.append(one)
        return self.stalls

    def forget(self, one: Busy, address: str) -> bool:
        assert address
        waited = one in self.waiting
        if waited:
            self.waiting.remove(one)
        return waited

    def let_go(self) -> None:
        """They go on."""
        self.stalls = False
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one.go_on()


def reset(peer: Peer) -> None:
    """Drop a connection so that the server hears of it at once."""
    peer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.transport.abort()


@contextlib.asynccontextmanager
async def counting(io: SocketIO) -> AsyncIterator[tuple[Partyline, Counted, str]]:
    """A server with this SocketIO, and what it charges to strangers."""
    async with serving(io) as (partyline, url):
        fair = partyline.site.fair = Counted()
        yield partyline, fair, url


@loops
async def test_48_before_connect_every_frame_counts() -> None:
    """hostile 48: on a WebSocket each read before the CONNECT is charged to the strangers, however small; none is from
    the CONNECT on, and one that is refused lets nobody in.
    """
    async with counting(SocketIO()) as (_, fair, url), opened(url) as client:
        for number in range(1, 6):
            await client.wire.say("3")
            await eventually(lambda number=number: fair.charged == number, "a heartbeat is charged")
        await client.sync()
        assert fair.charged == 6
        await client.enter()
        for _ in range(5):
            await client.wire.say("3")
            await client.sync()
        assert fair.charged == 6


@loops
async def test_48_a_flood_of_heartbeats_counts() -> None:
    """hostile 48: a client that was let in and sends nothing but heartbeats is charged to the strangers, until it says
    something."""
    async with counting(SocketIO()) as (partyline, fair, url), opened(url) as client:
        await client.enter()
        charged, counters = fair.charged, partyline.site.counters
        for _ in range(12):
            received = counters.received
            await client.wire.peer.send(b"\x81\x81\0\0\0\x003" * 100)
            await eventually(lambda received=received: counters.received == received + 100, "they are read")
        assert fair.charged > charged
        await client.sync()
        charged = fair.charged
        await client.wire.peer.send(b"\x81\x81\0\0\0\x003" * 2)
        await client.sync()
        assert fair.charged == charged


@loops
async def test_48_a_stranger_beyond_the_share_is_read_from_later() -> None:
    """hostile 48: what a stranger sends beyond the share waits, and nothing of it is lost; others do not wait."""
    async with counting(SocketIO()) as (_, fair, url), opened(url) as stranger, opened(url) as honest:
        fair.stalls = True
        await stranger.wire.say("3")
        await eventually(lambda: fair.waiting, "it waits")
        await stranger.say("0")
        await honest.enter()
        await honest.sync()
        assert not stranger.received
        assert fair.charged == 1
        fair.let_go()
        answer = await stranger.next()
        assert isinstance(answer, str)
        assert answer.startswith("0{")


@loops
async def test_48_before_connect_every_post_counts() -> None:
    """hostile 48: on polling each POST before the CONNECT is charged to the strangers, and answered later where they
    have had their share; none is from the CONNECT on.
    """
    async with counting(SocketIO()) as (_, fair, url), polled(url) as client:
        await client.say("0/nowhere,")
        assert fair.charged == 1
        fair.stalls = True
        posting = asyncio.ensure_future(client.say("0/nowhere,"))
        await eventually(lambda: fair.waiting, "it waits")
        assert not posting.done()
        fair.let_go()
        await posting
        assert fair.charged == 2
        assert await client.take(2) == ['4/nowhere,{"message":"Invalid namespace"}'] * 2
        await client.enter()
        for _ in range(3):
            await client.sync()
        assert fair.charged == 2


@loops
async def test_whoever_was_let_in_on_polling_stays_so_on_a_websocket() -> None:
    """A WebSocket that takes over is charged to the strangers no longer than its session: up to the CONNECT."""
    async with counting(SocketIO()) as (_, fair, url):
        for known in (True, False):
            async with polled(url) as client, connected(url) as peer:
                if known:
                    await client.enter()
                wire = await websocket(peer, f"/socket.io/?EIO=4&transport=websocket&sid={client.polling.sid}")
                await wire.say("2probe")
                assert await wire.text() == "3probe"
                await wire.say("5")
                before = fair.charged
                for _ in range(3):
                    await wire.say("40/nowhere,")
                    while not (await wire.text()).startswith("44/nowhere"):
                        pass
                assert (fair.charged - before <= 1) is known
                await wire.close()
                client.polling.gets.transport.close()


@loops
async def test_a_connect_as_large_as_it_may_be_passes_at_once() -> None:
    """An honest client's CONNECT is not charged, whatever it brings up to max_auth_bytes, while strangers wait."""
    async with counting(SocketIO()) as (_, fair, url), opened(url) as stranger, opened(url) as honest:
        fair.stalls = True
        await stranger.wire.say("3")
        await eventually(lambda: fair.waiting, "it waits")
        await honest.enter(auth={"token": "x" * 60_000})
        assert fair.charged == 1
        fair.let_go()


@loops
async def test_48_whoever_is_let_in_waits_no_more_as_a_stranger() -> None:
    """hostile 48: a client that waits as a stranger while `on_connect` does goes on as soon as it is let in, and with
    what it sent meanwhile, however long the line of strangers is."""
    io, may = SocketIO(), asyncio.Event()

    @io.on_connect
    async def connect(_: Socket) -> None:
        await may.wait()

    async with counting(io) as (_, fair, url), opened(url) as client:
        fair.stalls = True
        await client.say("0")
        await eventually(lambda: fair.waiting, "it waits")
        may.set()
        answer = await client.next()
        assert isinstance(answer, str)
        assert answer.startswith("0{")
        await client.sync()
        assert not fair.waiting


@loops
async def test_48_whoever_is_gone_waits_no_more() -> None:
    """hostile 48: nothing stays in the strangers' line of a client that goes away there: neither its POST nor its
    WebSocket."""
    io = SocketIO()
    async with (
        counting(io) as (partyline, fair, url),
        connected(url) as more,
        polled(url) as client,
        opened(url) as other,
    ):
        fair.stalls = True
        await other.wire.say("3")
        posting = asyncio.ensure_future(client.say("0/nowhere,"))
        await eventually(lambda: len(fair.waiting) == 2, "both wait")
        reset(client.polling.posts)
        await eventually(lambda: len(fair.waiting) == 1, "the POST is forgotten")
        with contextlib.suppress(Exception):
            await posting
        for one in tuple(partyline.site.live):
            if isinstance(one, WebSocket):
                one.abort()
        await eventually(lambda: not fair.waiting, "the WebSocket is forgotten")
        fair.stalls = False
        client.polling.posts = more


@loops
async def test_53_a_stranger_that_has_ended_its_side_is_answered() -> None:
    """hostile 53: a client that ends its side while its POST waits in the strangers' line gets its answer, and the end;
    a POST is taken once it is read."""
    async with counting(SocketIO()) as (partyline, fair, url), polled(url) as client, connected(url) as peer:
        fair.stalls = True
        await peer.send(
            request("POST", f"/socket.io/?EIO=4&transport=polling&sid={client.polling.sid}", b"40/nowhere,")
        )
        await eventually(lambda: fair.waiting, "it waits")
        peer.end()
        await eventually(
            lambda: any(one.ended for one in partyline.site.live if isinstance(one, HttpConnection)), "its end is read"
        )
        fair.let_go()
        answer = await peer.answer()
        assert (answer.status, answer.body) == (200, b"ok")
        assert await peer.ends_in_order()
        assert await client.take(1) == ['4/nowhere,{"message":"Invalid namespace"}']


@loops
async def test_engine_io_alone_knows_no_strangers() -> None:
    """Clients of an Engine.IO server say who they are to the application, if to anybody: nothing is charged."""
    watched = Watched()
    async with engine_served(watched) as (partyline, url):
        fair = partyline.site.fair = Counted()
        async with connected(url) as peer:
            wire = await websocket(peer, "/engine.io/?EIO=4&transport=websocket")
            assert (await wire.text()).startswith("0{")
            for _ in range(3):
                await wire.say("4hello")
                assert await wire.text() == "4hello"
        assert fair.charged == 0
