"""Connection state recovery: a client that comes back gets what it missed, or is told that it does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partyline.errors import ConnectionRefused
from partyline.interfaces import View
from partyline.models import Page, Position
from partyline.socketio import recovery
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from partyline.stores.memory import MemoryStore
from partyline.testing.saboteur import SaboteurStore
from tests.process import environment
from tests.server.peers import connected
from tests.server.servers import eventually, small_send_buffers

from .clients import Client, Notes, entered, looped, on, only, opened, polled, served, serving


def recovering(**rules: Any) -> SocketIO:
    return SocketIO(**{"recovery_window": 60.0, **rules})


class Session:
    """What a client remembers: its private id, and the offset of the last event."""

    def __init__(self, client: Client) -> None:
        self.sid = client.sid
        self.pid = client.answer["pid"]
        self.offset: Any = None

    def heard(self, event: list[Any]) -> list[Any]:
        """An event has arrived: keep its offset."""
        self.offset = event[-1]
        return event[:-1]


@contextlib.asynccontextmanager
async def session(url: str, io: SocketIO, namespace: str = "/") -> AsyncIterator[tuple[Client, Session]]:
    """A client in a namespace; after this block it has lost its connection, and the server knows."""
    async with connected(url) as peer:
        client = await on(peer)
        await client.enter(namespace)
        yield client, Session(client)
        peer.transport.abort()
        sockets = io.namespace(namespace).sockets if namespace in io.namespaces() else {}
        await eventually(lambda: client.sid not in sockets, "the server knows")


async def back(client: Client, auth: dict[str, Any], namespace: str = "/") -> list[Any]:
    """CONNECT with what is remembered; the events that arrive before the answer, without offsets."""
    name = "" if namespace == "/" else f"{namespace},"
    await client.say(f"0{name}{json.dumps(auth)}")
    missed = []
    while not str(packet := await client.next()).startswith(f"0{name}{{"):
        assert isinstance(packet, str)
        assert packet.startswith(f"2{name}["), packet
        missed.append(json.loads(packet.removeprefix(f"2{name}"))[:-1])
    client.answer = json.loads(str(packet).removeprefix(f"0{name}"))
    client.sid = client.answer["sid"]
    return missed


def ticket(one: Session, **changed: Any) -> dict[str, Any]:
    """The auth of a client that comes back."""
    auth = {"pid": one.pid} if one.offset is None else {"pid": one.pid, "offset": one.offset}
    return {**auth, **changed}


async def fresh(client: Client, one: Session, auth: dict[str, Any], io: SocketIO, namespace: str = "/") -> None:
    """Come back in vain: a new session without anything of the old one, and nothing missed is sent."""
    assert await back(client, auth, namespace) == []
    assert client.sid != one.sid
    assert client.answer["pid"] != one.pid
    socket = io.namespace(namespace).sockets[client.sid]
    assert (socket.recovered, socket.data, tuple(socket.rooms)) == (False, {}, (client.sid,))


# Coming back


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@looped
async def test_coming_back(transport: str) -> None:
    """A client that comes back in time has the same id, private id, rooms and data, and gets what it missed, in order,
    before the answer to CONNECT; then the stream goes on."""
    io = recovering()
    seen = Notes()
    io.on_connect(lambda socket: seen.append((socket.id, socket.recovered)))
    async with served(io) as url:
        async with session(url, io) as (client, one):
            socket = only(io)
            socket.join("a")
            socket.data["n"] = {"deep": [1]}
            io.emit("first")
            assert one.heard(await client.event()) == ["first"]
        io.emit("missed", 1)
        io.to("a").emit("missed", 2)
        io.to(one.sid).emit("missed", 3)
        io.to("b").emit("not its room")
        io.to("a").except_(one.sid).emit("not for it")
        io.except_("a").emit("not for its room")
        io.volatile.emit("volatile")
        io.to("a", "b").emit("missed", 4)
        async with opened(url) if transport == "websocket" else polled(url) as client:
            assert await back(client, ticket(one)) == [["missed", n] for n in (1, 2, 3, 4)]
            assert client.answer == {"sid": one.sid, "pid": one.pid}
            socket = only(io)
            assert (socket.recovered, socket.data, set(socket.rooms)) == (True, {"n": {"deep": [1]}}, {one.sid, "a"})
            assert seen == [(one.sid, False), (one.sid, True)]
            io.to("a").emit("again")
            *again, offset = await client.event()
            assert again == ["again"]
            assert Position.parse(offset).offset > Position.parse(one.offset).offset


@looped
async def test_coming_back_with_attachments() -> None:
    """Missed events arrive with their attachments, and include what was published to the client's rooms."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (_, one):
            only(io).join("a")
        io.emit("x", {"deep": [b"\x00"]}, b"\x01")
        await io.publish("a", "published", b"\x02")
        await io.publish("b", "not its room")
        async with opened(url) as client:
            await client.say("0" + json.dumps(ticket(one)))
            epoch = io.engine.site.store.epoch if io.engine.site.store else ""
            holes = '{"deep":[{"_placeholder":true,"num":0}]},{"_placeholder":true,"num":1}'
            assert await client.take(5) == [
                f'52-["x",{holes},"{epoch}-1"]',
                b"\x00",
                b"\x01",
                f'51-["published",{{"_placeholder":true,"num":0}},"{epoch}-2"]',
                b"\x02",
            ]
            assert str(await client.next()).startswith('0{"sid"')


@looped
async def test_again_and_again() -> None:
    """A session can be lost and recovered many times; each time what was missed arrives once."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (_, one):
            pass
        for n in range(5):
            io.emit("x", n)
            async with connected(url) as peer:
                client = await on(peer)
                await client.say("0" + json.dumps(ticket(one)))
                assert one.heard(await client.event()) == ["x", n]
                assert str(await client.next()).startswith('0{"sid"')
                assert client.sid != one.sid
                peer.transport.abort()
                await eventually(lambda: not io.sockets, "the server knows")
        assert io._recovery is not None
        assert len(io._recovery) == 1


@pytest.mark.parametrize("offset", [None, ""], ids=["none", "empty"])
@looped
async def test_a_session_without_an_event(offset: Any) -> None:
    """A session that has not received an event yet recovers, too, from where it began or was last heard from."""
    io = recovering()
    async with served(io) as url:
        io.emit("before it came")
        async with session(url, io) as (_, one):
            pass
        io.emit("missed")
        async with opened(url) as client:
            assert await back(client, {"pid": one.pid, "offset": offset}) == [["missed"]]
            assert client.sid == one.sid


@looped
async def test_namespaces_recover_each_for_itself() -> None:
    """Each namespace has its own session; a private id is valid only in its namespace (hostile 41)."""
    io = recovering()
    other = io.namespace("/other")
    async with served(io) as url:
        async with session(url, io) as (_, one):
            pass
        async with session(url, io, "/other") as (_, two):
            pass
        io.emit("main")
        other.emit("other")
        async with opened(url) as client:
            await fresh(client, one, ticket(one), io, "/other")
            assert await back(client, ticket(one)) == [["main"]]
        async with opened(url) as client:
            assert await back(client, ticket(two), "/other") == [["other"]]


@looped
async def test_a_dynamic_namespace_recovers() -> None:
    """A namespace of a pattern may vanish meanwhile: its sessions and what they missed are still there."""
    io = recovering()
    io.namespace("/game-{id:int}")
    async with served(io) as url:
        async with session(url, io, "/game-1") as (_, one):
            io.namespace("/game-1").emit("x")
        assert io.namespaces() == ["/", "/relay"]
        async with opened(url) as client:
            assert await back(client, ticket(one), "/game-1") == [["x"]]
            assert client.sid == one.sid


# In vain


@looped
async def test_recovery_is_off() -> None:
    """Without a recovery_window there is no private id, no offset, and nothing is kept."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        assert set(client.answer) == {"sid"}
        io.emit("x")
        assert await client.event() == ["x"]
        assert io.engine.site.store is not None
        assert io.engine.site.store.head == 0
        async with opened(url) as other:
            await other.enter("/", {"pid": "x", "offset": "y"})


NOBODY = [
    {"pid": "unknown"},
    {"pid": ""},
    {"pid": 5},
    {"pid": None},
    {"pid": ["x"]},
    {"offset": "0123456789abcdef-1"},
    {"pid": "\ud800"},
]


@pytest.mark.parametrize("auth", NOBODY, ids=str)
@looped
async def test_unknown_sessions(auth: dict[str, Any]) -> None:
    """A client that does not name a waiting session is a new client, whatever it sends."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (_, one):
            pass
        async with opened(url) as client:
            await fresh(client, one, auth, io)


OFFSETS = ["x", "-1", "0123456789abcdef-1", "0123456789abcdef", 5, ["x"], {"a": 1}, True, "\x00", "1" * 5_000]


@pytest.mark.parametrize("offset", OFFSETS, ids=lambda offset: str(offset)[:20])
@looped
async def test_unreadable_offsets(offset: Any) -> None:
    """A session with an unreadable offset, or one of another log, is not recovered, and not later either."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (client, one):
            io.emit("x")
            one.heard(await client.event())
        for auth in (ticket(one, offset=offset), ticket(one)):
            async with opened(url) as client:
                await fresh(client, one, auth, io)


@looped
async def test_an_offset_ahead_of_the_log() -> None:
    """An offset that the log has not reached means that the log was rolled back: the session is not recovered."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (client, one):
            io.emit("x")
            one.heard(await client.event())
        ahead = str(Position(Position.parse(one.offset).epoch, 99))
        async with opened(url) as client:
            await fresh(client, one, ticket(one, offset=ahead), io)


@looped
async def test_the_window() -> None:
    """After recovery_window a session is gone, with everything that was kept of it."""
    io = recovering(recovery_window=0.5)
    async with serving(io) as (partyline, url):
        async with session(url, io) as (_, one):
            pass
        assert io._recovery is not None
        assert len(io._recovery) == 1
        await eventually(lambda: io._recovery is not None and not len(io._recovery), "it is gone")
        assert len(partyline.site.timers) == 0
        async with opened(url) as client:
            await fresh(client, one, ticket(one), io)


@looped
async def test_many_sessions_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more sessions than may wait, the one whose client has been away the longest is forgotten, and counted."""
    monkeypatch.setattr(recovery, "MOST_WAITING", 2)
    io = recovering()
    async with serving(io) as (partyline, url):
        left = []
        for _ in range(3):
            async with session(url, io) as (_, one):
                left.append(one)
        assert io._recovery is not None
        await eventually(lambda: io._recovery is not None and len(io._recovery) == 2, "two wait")
        assert partyline.counters.limits == {"max_waiting_sessions": 1}
        async with opened(url) as client:
            await fresh(client, left[0], ticket(left[0]), io)


@pytest.mark.parametrize("how", ["client", "server", "connection", "broken"])
@looped
async def test_who_means_to_go(how: str) -> None:
    """A session ends for good if the client leaves the namespace, the server disconnects it, or the client breaks the
    protocol."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (client, one):
            match how:
                case "client":
                    await client.say("1")
                case "server":
                    only(io).disconnect()
                case "connection":
                    only(io).disconnect(close=True)
                case _:
                    await client.say("4abc")
            await eventually(lambda: not io.sockets, "it is gone")
        assert io._recovery is not None
        assert len(io._recovery) == 0
        async with opened(url) as client:
            await fresh(client, one, ticket(one), io)


@looped
async def test_a_session_in_use() -> None:
    """A session is never used twice: a client that comes back while it is in use takes it over, and the old connection
    ends; of two that come at once one gets it."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (before, one), opened(url) as after:
            assert await back(after, ticket(one)) == []
            assert after.sid == one.sid
            assert len(io.sockets) == 1
            await before.closed()
        async with opened(url) as first, opened(url) as second:
            await asyncio.gather(back(first, ticket(one)), back(second, ticket(one)))
            assert one.sid in (first.sid, second.sid)
            await eventually(lambda: sum(socket.recovered for socket in io.sockets.values()) == 1, "one of them has it")


@looped
async def test_two_at_once_on_a_slow_log(tmp_path: Path) -> None:
    """Of two clients that come back at once only one gets the session, also on a slow log."""
    io = recovering()
    async with served(io, db=str(tmp_path / "log.db")) as url:
        async with session(url, io) as (_, one):
            pass
        io.emit("x")
        hub = io.engine.site.hub
        assert hub is not None
        await eventually(lambda: hub.fanned_out == 1, "it is kept")
        async with opened(url) as first, opened(url) as second:
            missed = await asyncio.gather(back(first, ticket(one)), back(second, ticket(one)))
            assert sorted(missed) == [[], [["x"]]]
            assert sorted((first.sid == one.sid, second.sid == one.sid)) == [False, True]


@looped
async def test_data_that_cannot_be_kept() -> None:
    """A socket whose data is not JSON cannot recover; apart from a warning it is like all others."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (_, one):
            only(io).data["x"] = object()
        async with opened(url) as client:
            await fresh(client, one, ticket(one), io)


# Middlewares


@pytest.mark.parametrize("skip", [True, False])
@looped
async def test_skip_middlewares(skip: bool) -> None:
    """A client that recovers skips the middlewares, unless skip_middlewares is off; one that does not recover never
    skips them."""
    io = recovering(skip_middlewares=skip)
    seen = Notes()

    @io.use
    async def middleware(socket: Socket) -> None:
        await asyncio.sleep(0)
        seen.append(socket.recovered)

    async with served(io) as url:
        async with session(url, io) as (_, one):
            pass
        async with opened(url) as client:
            await back(client, ticket(one))
            assert client.sid == one.sid
        assert seen == ([False] if skip else [False, True])
        async with opened(url) as client:
            await back(client, {"pid": "unknown"})
        assert seen[-1] is False


@looped
async def test_a_middleware_that_refuses() -> None:
    """If a middleware refuses a returning client, the session stays, and the client may try again."""
    io = recovering(skip_middlewares=False)

    @io.use
    def middleware(socket: Socket) -> None:
        if socket.handshake.auth.get("bad"):
            raise ConnectionRefused("no")

    async with served(io) as url:
        async with session(url, io) as (_, one):
            pass
        io.emit("x")
        async with opened(url) as client:
            await client.say("0" + json.dumps(ticket(one, bad=True)))
            assert await client.next() == '4{"message":"no"}'
            assert await back(client, ticket(one)) == [["x"]]


@looped
async def test_on_connect_that_refuses() -> None:
    """An on_connect that refuses a returning client ends the session."""
    io = recovering()

    @io.on_connect
    def connect(socket: Socket) -> None:
        if socket.recovered:
            raise ConnectionRefused("no")

    async with served(io) as url:
        async with session(url, io) as (_, one):
            pass
        async with opened(url) as client:
            await client.say("0" + json.dumps(ticket(one)))
            assert await client.next() == '4{"message":"no"}'
            await fresh(client, one, ticket(one), io)


class _Pruning(MemoryStore):
    """A log from which retention takes everything after the first look at it."""

    looks = 0

    async def read(self, view: View, after: int, limit: int) -> Page:
        self.looks += 1
        page = await super().read(view, after, limit)
        return page if self.looks < 2 else Page((), page.next, False, self.head + 1)


@looped
async def test_pruned_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """If retention takes what was missed while it is read, the client is a new one, and middlewares see it."""
    monkeypatch.setattr("partyline.parts.store", lambda *arguments, **named: _Pruning())
    io = recovering()
    seen = Notes()
    io.use(lambda socket: seen.append((socket.id, socket.recovered, dict(socket.data))))
    async with served(io) as url:
        async with session(url, io) as (_, one):
            only(io).data["n"] = 1
        io.emit("x")
        async with opened(url) as client:
            await fresh(client, one, ticket(one), io)
            assert seen == [(one.sid, False, {}), (client.sid, False, {})]


# The log


@looped
async def test_pruned() -> None:
    """A session of which retention has taken missed events is not recovered."""
    io = recovering()
    async with served(io, max_messages=5) as url:
        async with session(url, io) as (client, one):
            io.emit("x")
            one.heard(await client.event())
        for n in range(10):
            io.emit("missed", n)
        async with opened(url) as client:
            await fresh(client, one, ticket(one), io)


@looped
async def test_an_idle_session_is_not_overtaken() -> None:
    """A connected client that gets no events is advanced by its heartbeats, so retention does not end its session."""
    io = recovering(ping_interval=0.05, ping_timeout=5.0)
    async with served(io, max_messages=5) as url:
        async with session(url, io) as (client, one):
            io.emit("x")
            one.heard(await client.event())
            for n in range(20):
                io.to("elsewhere").emit("y", n)
            live = io._recovery._live[only(io)] if io._recovery is not None else None
            assert live is not None
            while live.confirmed < 21:
                assert await client.wire.next() == "2"  # type: ignore[attr-defined]
                await client.wire.say("3")  # type: ignore[attr-defined]
                await asyncio.sleep(0)
        io.emit("missed")
        async with opened(url) as client:
            assert await back(client, ticket(one)) == [["missed"]]
            assert client.sid == one.sid


@looped
async def test_what_was_sent_and_never_arrived() -> None:
    """What was sent to a dead connection is sent again: only heartbeats confirm."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (client, one):
            io.emit("first")
            one.heard(await client.event())
            io.emit("second")
            io.emit("third")
            await client.take(2)  # its application never saw them
        async with opened(url) as client:
            assert await back(client, ticket(one)) == [["second"], ["third"]]


@looped
async def test_a_heartbeat_confirms_what_was_sent_before_it() -> None:
    """The answer to a ping confirms what was sent before the ping, not what was sent since."""
    io = recovering(ping_interval=0.05, ping_timeout=5.0)
    async with served(io) as url:
        async with session(url, io) as (client, one):
            assert await client.wire.next() == "2"  # type: ignore[attr-defined]
            io.emit("x")  # the client's connection breaks before it arrives
            await client.wire.say("3")  # type: ignore[attr-defined]
            assert io._recovery is not None
            live = io._recovery._live[only(io)]
            await eventually(lambda: live.seen == 1, "the answer has arrived")
        async with opened(url) as client:
            assert await back(client, ticket(one)) == [["x"]]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> SaboteurStore:
    """The log of the next server, which commits when told."""
    store = SaboteurStore()
    monkeypatch.setattr("partyline.parts.store", lambda *arguments, **named: store)
    return store


@looped
async def test_an_event_that_the_log_refused(store: SaboteurStore) -> None:
    """No session is recovered across an event that the log refused, neither a waiting one nor a connected one until
    that has got a later event. Clients that came after the event are not affected."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (_, away), entered(url) as staying:
            here = Session(staying)
            io.emit("first")
            store.commit()
            here.heard(await staying.event())
        io.emit("refused")
        store.refuse()
        await eventually(lambda: len(io.sockets) == 0, "all are away")
        async with opened(url) as client:
            await fresh(client, away, ticket(away), io)
        async with opened(url) as client:
            await fresh(client, here, ticket(here), io)


@looped
async def test_a_connected_session_over_a_refused_event(store: SaboteurStore) -> None:
    """A connected client that lost the refused event with its connection is not told that it has everything; one that
    got a later event is."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (client, one):
            io.emit("first")
            store.commit()
            one.heard(await client.event())
            io.emit("refused")
            store.refuse()
        async with opened(url) as client:
            await fresh(client, one, ticket(one), io)
        async with session(url, io) as (client, one):
            io.emit("refused")
            store.refuse()
            io.emit("later")
            store.commit()
            assert await client.event() == ["refused"]
            one.heard(await client.event())
        io.emit("missed")
        store.commit()
        async with opened(url) as client:
            assert await back(client, ticket(one)) == [["missed"]]
        async with session(url, io) as (_, one):
            pass
        async with opened(url) as client:
            assert await back(client, ticket(one)) == [], "it came after all that"
            assert client.sid == one.sid


@looped
async def test_refused_behind_a_kept_one(store: SaboteurStore) -> None:
    """A client that has a kept event, but not the refused one sent after it, is not recovered across that."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (client, one):
            io.emit("kept")
            io.emit("refused")
            store.commit(1)
            store.refuse()
            one.heard(await client.event())
        async with opened(url) as client:
            await fresh(client, one, ticket(one), io)


@looped
async def test_refused_while_a_kept_one_waits(store: SaboteurStore) -> None:
    """The same holds if the refusal is known before the kept event is: what counts is when the refused one is sent."""
    io = recovering()
    async with served(io) as url:
        hub = io.engine.site.hub
        assert hub is not None
        hub.delivery.most_waiting = 1
        async with session(url, io) as (client, one):
            io.emit("kept")
            io.emit("refused")
            store.commit()
            one.heard(await client.event())
        async with opened(url) as client:
            await fresh(client, one, ticket(one), io)


class _Gated(SaboteurStore):
    """A log whose pages wait at a gate."""

    gate: asyncio.Event | None = None
    waits = 0

    async def read(self, view: View, after: int, limit: int) -> Page:
        if self.gate is not None and limit > 1:
            self.waits += 1
            await self.gate.wait()
        return await super().read(view, after, limit)


@looped
async def test_refused_while_it_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that the log refuses while a session catches up would be a silent gap, so the session is new instead."""
    store = _Gated()
    monkeypatch.setattr("partyline.parts.store", lambda *arguments, **named: store)
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (_, one):
            pass
        io.emit("missed")
        store.commit()
        store.gate = asyncio.Event()
        async with opened(url) as client:
            coming = asyncio.ensure_future(back(client, ticket(one)))
            await eventually(lambda: store.waits, "it catches up")
            io.emit("refused")
            store.refuse()
            store.gate.set()
            assert await coming == []
            assert client.sid != one.sid
            assert not only(io).recovered


@looped
async def test_events_in_flight(store: SaboteurStore) -> None:
    """Events that are emitted but not committed when a session comes back reach it, too, once, after what it missed."""
    io = recovering()
    async with served(io) as url:
        async with session(url, io) as (_, one):
            only(io).join("a")
        io.emit("missed")
        store.commit()
        io.to("a").emit("in flight", 1)
        io.to("b").emit("not for it")
        io.emit("in flight", 2)
        async with opened(url) as client:
            assert await back(client, ticket(one)) == [["missed"]]
            store.commit()
            assert [(await client.event())[:-1] for _ in range(2)] == [["in flight", 1], ["in flight", 2]]
            await client.sync()


@looped
async def test_lost_while_it_comes_back(tmp_path: Path) -> None:
    """If a connection is lost while missed events are sent, the session is left for the next one."""
    io = recovering()
    async with serving(io, db=str(tmp_path / "log.db")) as (partyline, url):
        small_send_buffers(partyline)
        async with session(url, io) as (_, one):
            pass
        for n in range(2_000):
            io.emit("missed", n, "x" * 1_000)
        hub = io.engine.site.hub
        assert hub is not None
        await eventually(lambda: hub.fanned_out == 2_000, "all is kept")
        async with connected(url, buffer=4_096) as peer:
            client = await on(peer)
            peer.stop_reading()
            await client.say("0" + json.dumps(ticket(one)))
            await eventually(lambda: not any(one.writable for one in io.connections), "it is being sent")
            peer.transport.abort()
            await eventually(lambda: not io.connections, "it is lost")
        assert io.sockets == {}
        async with opened(url) as client:
            missed = await back(client, ticket(one))
            assert [event[1] for event in missed] == list(range(2_000))
            assert client.sid == one.sid


@looped
async def test_the_stream_goes_on_while_it_comes_back(tmp_path: Path) -> None:
    """While missed events are sent and new ones emitted, nothing is lost and nothing arrives twice."""
    io = recovering()
    go_on = True

    async def emitting() -> int:
        n = 0
        while go_on or n < 300:
            io.emit("x", n)
            n += 1
            await asyncio.sleep(0)
        return n

    async with served(io, db=str(tmp_path / "log.db")) as url:
        async with session(url, io) as (_, one):
            pass
        task = asyncio.ensure_future(emitting())
        hub = io.engine.site.hub
        assert hub is not None
        await eventually(lambda: hub.fanned_out > 50, "there is something to miss")
        async with opened(url) as client:
            numbers = [event[1] for event in await back(client, ticket(one))]
            go_on = False
            count = await task
            while len(numbers) < count:
                numbers.append((await client.event())[1])
            assert numbers == list(range(count))
            await client.sync()


# Restarts


@looped
async def test_a_restart(tmp_path: Path) -> None:
    """A session outlives the server: a new one on the same database knows rooms, data and what was missed."""
    db = str(tmp_path / "log.db")
    io = recovering()
    async with serving(io, db=db) as (_, url):
        async with session(url, io) as (client, one):
            socket = only(io)
            socket.join("a")
            io.emit("first")
            one.heard(await client.event())
            socket.data["n"] = 1
        await io.publish("a", "missed", 1)
        io.emit("missed", 2)
        hub = io.engine.site.hub
        assert hub is not None
        await eventually(lambda: hub.fanned_out == 3, "it is kept")
    io = recovering()
    async with served(io, db=db) as url, opened(url) as client:
        assert await back(client, ticket(one)) == [["missed", 1], ["missed", 2]]
        assert client.sid == one.sid
        socket = only(io)
        assert (socket.recovered, socket.data, set(socket.rooms)) == (True, {"n": 1}, {one.sid, "a"})
    io = recovering()
    async with served(io, db=db) as url, opened(url) as client:
        assert await back(client, {"pid": one.pid, "offset": one.offset}) != []
        assert client.sid == one.sid


@looped
async def test_a_new_epoch(tmp_path: Path) -> None:
    """On another log a session is not recovered."""
    io = recovering()
    async with serving(io, db=str(tmp_path / "one.db")) as (_, url), session(url, io) as (client, one):
        io.emit("x")
        one.heard(await client.event())
    io = recovering()
    async with served(io, db=str(tmp_path / "two.db")) as url, opened(url) as client:
        await fresh(client, one, ticket(one), io)


@contextlib.asynccontextmanager
async def process(db: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The server of recovering.py, and its address; it is killed at the end."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.socketio.recovering", str(db)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=environment(),
    )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(15):
            url = (await server.stdout.readline()).decode().strip()
        assert url
        yield server, url
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()


def rows(db: Path) -> str:
    """What is kept of sessions."""
    with contextlib.closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as connection:
        return str(connection.execute("SELECT rooms, data FROM sessions").fetchall())


@pytest.mark.check
@looped
async def test_kill(tmp_path: Path) -> None:
    """A server killed with -9 has kept what it sent: its clients come back to the next one with the same id, rooms and
    data, and get what they had not seen."""
    db = tmp_path / "log.db"
    async with process(db) as (server, url), entered(url) as client, entered(url) as other:
        one = Session(client)
        assert await client.ask("join", "a") == []
        assert await client.ask("remember", [1, {"x": 2}]) == []
        await other.say('2["emit","a",0]')
        assert one.heard(await client.event()) == ["x", 0]
        for n in range(1, 20):
            await other.say(f'2["emit","a",{n}]')
        while (await client.event())[1] < 19:  # they were sent, so they are kept; the client never saw them
            pass
        await eventually(lambda: "value" in rows(db), "sessions are written in the background")
        server.kill()
        await server.wait()
    async with process(db) as (_, url), opened(url) as client:
        missed = await back(client, ticket(one))
        assert missed == [["x", n] for n in range(1, 20)]
        assert client.answer == {"sid": one.sid, "pid": one.pid}
        assert await client.ask("whoami") == [one.sid, sorted([one.sid, "a"]), {"value": [1, {"x": 2}]}, True]
