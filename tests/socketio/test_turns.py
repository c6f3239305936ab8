"""What a namespace sends: large audiences in slices, to one socket and no other, from one server and no other, whatever
it contains."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from partyline.errors import InvalidValue, Overloaded
from partyline.models import Audience, Draft, Message
from partyline.socketio.journal import Record, read_record
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from partyline.testing.saboteur import SaboteurStore
from partyline.wire.socketio.msgpack import MSGPACK
from partyline.wire.socketio.packets import JSON
from tests.server.peers import connected, websocket
from tests.server.servers import eventually, partyline_server

from .clients import entered, looped, only, opened, served, serving


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> SaboteurStore:
    """The log of the next server, which commits when told."""
    store = SaboteurStore()
    monkeypatch.setattr("partyline.parts.store", lambda *arguments, **named: store)
    return store


# Slices


@looped
async def test_a_broadcast_is_sliced_and_keeps_its_order() -> None:
    """An event for more sockets than one turn serves is written in slices, and whatever is sent to its sockets later -
    events, answers, a disconnect - follows it."""
    io = SocketIO()

    @io.on("ask")
    def ask(socket: Socket) -> str:
        io.emit("many", 1)
        socket.emit("one", 2)
        return "answer"

    async with served(io) as url, entered(url) as first, entered(url) as second, entered(url) as third:
        hub = io.engine.site.hub
        assert hub is not None
        hub.delivery._small, hub.delivery._slice = 1, 1
        await third.say('20["ask"]')
        assert await third.take(3) == ['2["many",1]', '2["one",2]', '30["answer"]']
        assert await first.next() == await second.next() == '2["many",1]'
        io.emit("bye")
        io.disconnect_sockets()
        for client in (first, second, third):
            assert await client.take(2) == ['2["bye"]', "1"]


@looped
async def test_who_goes_while_a_broadcast_is_served_gets_nothing_more() -> None:
    """A socket that left before its slice does not get the event; the others do."""
    io = SocketIO()
    async with served(io) as url, entered(url) as first, entered(url) as second, entered(url) as third:
        hub = io.engine.site.hub
        assert hub is not None
        hub.delivery._small, hub.delivery._slice = 1, 1
        gone = io.sockets[third.sid]
        io.emit("many")
        gone._connection.disconnected("transport close")
        assert await first.next() == await second.next() == '2["many"]'
        await eventually(lambda: not io._lane.parcels, "all are served")
        assert third.sid not in io.sockets


@pytest.mark.parametrize("close", [False, True])
@looped
async def test_a_dynamic_namespace_goes_when_the_last_thing_has_left(store: SaboteurStore, close: bool) -> None:
    """A namespace of a pattern whose last socket is disconnected while the log is stalled lasts until everything is
    sent."""
    io = SocketIO(recovery_window=60.0)
    io.namespace("/game-{id:int}")
    async with served(io) as url, entered(url, "/game-1") as client:
        socket = only(io, "/game-1")
        socket.emit("bye")
        socket.disconnect(close)
        assert "/game-1" in io.namespaces()
        store.commit()
        assert str(await client.next()).startswith('2/game-1,["bye"')
        assert await client.next() == "1/game-1,"
        assert "/game-1" not in io.namespaces()


# One socket


@pytest.mark.parametrize("recovery", [None, 60.0])
@looped
async def test_to_one_socket_and_to_nobody_else(recovery: float | None) -> None:
    """`emit` and `volatile.emit` of a socket reach it even if it left the room of its id, and nobody else in that
    room."""
    io = SocketIO(recovery_window=recovery)
    async with served(io) as url, entered(url) as client, entered(url) as other:
        socket = io.sockets[client.sid]
        io.sockets[other.sid].join(socket.id)
        for leave in (False, True):
            if leave:
                socket.leave(socket.id)
            socket.emit("plain")
            socket.volatile.emit("volatile")
            assert {(await client.event())[0] for _ in range(2)} == {"plain", "volatile"}
        await other.sync()


@pytest.mark.parametrize("recovery", [None, 60.0])
@looped
async def test_from_one_socket_to_everybody_else(recovery: float | None) -> None:
    """`broadcast`, `to` and `except_` of a socket leave that socket out, though it left the room of its id, and nobody
    who joined that room."""
    io = SocketIO(recovery_window=recovery)
    async with served(io) as url, entered(url) as client, entered(url) as other:
        socket = io.sockets[client.sid]
        io.sockets[other.sid].join(socket.id, "a")
        socket.join("a")
        for leave in (False, True):
            if leave:
                socket.leave(socket.id)
            socket.broadcast.emit("all")
            socket.to("a").emit("room")
            socket.except_("nobody").emit("except")
            assert [one.id for one in await socket.broadcast.fetch_sockets()] == [other.sid]
            assert [(await other.event())[0] for _ in range(3)] == ["all", "room", "except"]
        await client.sync()


@pytest.mark.parametrize("recovery", [None, 60.0])
@looped
async def test_a_socket_that_was_fetched_is_that_socket(recovery: float | None) -> None:
    """What is done to one that `fetch_sockets` found is done to it, though it left the room of its id, and to nobody
    who joined that room."""
    io = SocketIO(recovery_window=recovery)
    async with served(io) as url, entered(url) as client, entered(url) as other:
        io.sockets[other.sid].join(client.sid)
        io.sockets[client.sid].leave(client.sid)
        (found,) = [one for one in await io.fetch_sockets() if one.id == client.sid]
        found.emit("plain")
        assert (await client.event())[0] == "plain"
        found.join("new", "newer")
        found.leave("new")
        assert set(io.sockets[client.sid].rooms) == {"newer"}
        assert set(io.sockets[other.sid].rooms) == {other.sid, client.sid}
        found.disconnect()
        assert await client.next() == "1"
        await other.sync()
        for act in (found.disconnect, lambda: found.emit("gone"), lambda: found.join("gone")):
            act()  # nobody has this id any more
        await other.sync()
        assert set(io.sockets[other.sid].rooms) == {other.sid, client.sid}


@looped
async def test_broadcasts_over_a_recovery() -> None:
    """What a socket said to everybody else is, after a recovery, for those in a room of its name, and not for its own
    session."""
    io = SocketIO(recovery_window=60.0)
    async with served(io) as url:
        async with entered(url) as client, entered(url) as other:
            tickets = [client.answer["pid"], other.answer["pid"]]
            io.sockets[other.sid].join(client.sid)
            away = io.sockets[client.sid]
        await eventually(lambda: not io.connections, "both are away")
        away.broadcast.emit("missed")
        for pid, expected in zip(tickets, (False, True), strict=True):
            async with opened(url) as client:
                await client.say("0" + json.dumps({"pid": pid}))
                packet = str(await client.next())
                assert packet.startswith('2["missed"') is expected
                if expected:
                    packet = str(await client.next())
                assert json.loads(packet[1:])["pid"] == pid


@looped
async def test_one_socket_over_a_recovery() -> None:
    """What was emitted to a socket while it was away is for its session, and not for others in a room of that name."""
    io = SocketIO(recovery_window=60.0)
    async with served(io) as url:
        async with entered(url) as client, entered(url) as other:
            sid, tickets = client.sid, [client.answer["pid"], other.answer["pid"]]
            io.sockets[other.sid].join(sid)
            away = io.sockets[sid]
        await eventually(lambda: not io.connections, "both are away")
        away.emit("missed")
        for pid, expected in zip(tickets, (True, False), strict=True):
            async with opened(url) as client:
                await client.say("0" + json.dumps({"pid": pid}))
                packet = str(await client.next())
                assert packet.startswith('2["missed"') is expected
                if expected:
                    packet = str(await client.next())
                assert json.loads(packet[1:])["pid"] == pid


# Two servers


@pytest.mark.parametrize("recovery", [None, 60.0])
@looped
async def test_hostile_52_two_servers_share_nothing_by_name(recovery: float | None) -> None:
    """hostile 52: of two servers on one port, with namespaces of the same names, each reaches only its own sockets with
    what it publishes or emits, and has its own history and sessions."""
    a, b = SocketIO("/a/", recovery_window=recovery), SocketIO("/b/", recovery_window=recovery)
    for io in (a, b):
        for name in ("/", "/side"):
            io.namespace(name).on_connect(lambda socket: socket.join("room"))
    async with partyline_server(extras=[a, b]) as (_, url), connected(url) as one, connected(url) as two:
        peers = []
        for peer, path in ((one, "/a/"), (two, "/b/")):
            socket = await websocket(peer, f"{path}?EIO=4&transport=websocket")
            await socket.text()
            for head in ("40", "40/side,"):
                await socket.say(head)
                await socket.text()
            peers.append(socket)
        for name in ("/", "/side"):
            head = "42" if name == "/" else "42/side,"
            await a.namespace(name).publish("room", "published", 1)
            a.namespace(name).to("room").emit("emitted", 2)
            heard = [await peers[0].text(), await peers[0].text()]
            assert [text.removeprefix(head)[:12] for text in heard] == ['["published"', '["emitted",2']
            b.namespace(name).emit("own")
            assert (await peers[1].text()).startswith(f'{head}["own"')
            assert [entry.event for entry in await a.namespace(name).history("room")] == ["published"]
            assert await b.namespace(name).history("room") == []
    if recovery is not None:
        assert a._recovery is not None
        assert {kept.row.namespace for kept in a._recovery._waiting.values()} == {"/,/a/", "/side,/a/"}


@looped
async def test_hostile_52_sessions_of_another_server_are_left_alone(tmp_path: Any) -> None:
    """hostile 52: of the sessions in one database a server takes its own, and leaves the others alone."""
    db = str(tmp_path / "log.db")
    a, b = SocketIO("/a/", recovery_window=60.0), SocketIO("/socket.io/", recovery_window=60.0)
    async with partyline_server(extras=[a, b], db=db) as (_, url), entered(url) as client:
        pid = client.answer["pid"]
    a, b = SocketIO("/a/", recovery_window=0.05), SocketIO("/socket.io/", recovery_window=60.0)
    async with partyline_server(extras=[a, b], db=db) as (_, url):
        assert a._recovery is not None
        assert b._recovery is not None
        assert (len(a._recovery), len(b._recovery)) == (0, 1)
        async with opened(url) as client:
            await client.say("0" + json.dumps({"pid": pid}))
            assert json.loads(str(await client.next())[1:])["pid"] == pid


# What an event contains

LOOKALIKE = {"_placeholder": True, "num": 9}


@pytest.mark.parametrize("recovery", [None, 60.0])
@pytest.mark.parametrize("number", [0, 9, None, "x"])
@looped
async def test_hostile_51_what_looks_like_a_placeholder(recovery: float | None, number: Any) -> None:
    """hostile 51: an object that looks like a placeholder is refused beside binary values, sent unchanged without any,
    and in neither case keeps anything else from being sent, or from being read later."""
    io = SocketIO(recovery_window=recovery)
    lookalike = {"_placeholder": True, "num": number}
    async with served(io) as url, entered(url) as client:
        only(io).join("room")
        for arguments in ((b"x", lookalike), ({"deep": [lookalike, {"x": b"x"}]},)):
            with pytest.raises(InvalidValue, match="_placeholder"):
                io.emit("x", *arguments)
            with pytest.raises(InvalidValue, match="_placeholder"):
                await io.publish("room", "x", *arguments)
        io.emit("x", lookalike)
        await io.publish("room", "y", lookalike, "text")
        assert (await client.event())[:2] == ["x", lookalike]
        assert (await client.event())[:3] == ["y", lookalike, "text"]
        assert [entry.arguments for entry in await io.history("room")] == [(lookalike, "text")]


@looped
async def test_a_lookalike_in_messagepack() -> None:
    """MessagePack has no placeholders for binary values: both are sent, kept and found again."""
    io = SocketIO(parser="msgpack", recovery_window=60.0)
    async with served(io):
        await io.publish("room", "x", b"x", LOOKALIKE)
        assert [entry.arguments for entry in await io.history("room")] == [(b"x", LOOKALIKE)]


@pytest.mark.parametrize(
    ("values", "attachments", "expected"),
    [
        (["x", 1, {"a": None}], [], ["x", 1, {"a": None}]),
        (["x", {"_placeholder": True, "num": 0}], [b"\x00"], ["x", b"\x00"]),
        (["x", LOOKALIKE, {"_placeholder": True, "num": 0}], [b"x"], None),  # what older versions could write
    ],
)
def test_records_of_older_versions(values: list[Any], attachments: list[bytes], expected: list[Any] | None) -> None:
    """What an older version kept as JSON is read, even if it could be mistaken for a placeholder."""
    old = {"values": values, "rooms": ["a"], "excluded": ["b"]}
    if attachments:
        old["attachments"] = [base64.b64encode(data).decode() for data in attachments]
    record = read_record(Message(Draft("x", json.dumps(old).encode(), "id"), 1, 0.0))
    assert record.audience.reaches("id", {"a"})
    assert not record.audience.reaches("id", {"a", "b"})
    assert JSON.values(record.body) == (values if expected is None else expected)
    assert len(JSON.packet("/", record.body)) == (1 if expected is None else 1 + len(attachments))


@looped
async def test_another_parser_than_the_one_that_kept_it(tmp_path: Any) -> None:
    """Events that a server kept with one parser are read, and sent again, by a server with another parser."""
    db = str(tmp_path / "log.db")
    for parser, expected in (("msgpack", []), ("json", [(1, b"x")]), ("msgpack", [(1, b"x"), (1, b"x")])):
        io = SocketIO(parser=parser)
        async with serving(io, db=db):
            assert [entry.arguments for entry in await io.history("room")] == expected
            await io.publish("room", "x", 1, b"x")
            assert io._journal is not None
            newest = (await io.engine.site.store.newest(io._journal.room("room"), 1 << 50, 1))[0]  # type: ignore[union-attr]
            other = SocketIO(parser="json" if parser == "msgpack" else "msgpack")
            io.parser = other.parser
            body = io._journal.body(read_record(newest))
            assert other.parser.values(body) == ["x", 1, b"x"]


def test_a_record_is_for_rooms_or_for_one_socket() -> None:
    """A record names its audience: rooms, with exceptions, one socket by its id, or all but one."""

    def reaches(audience: Audience, id: str, *rooms: str) -> bool:  # noqa: A002
        record = Record.of(JSON.body("x", ()), audience)
        assert record.audience == audience
        return record.audience.reaches(id, set(rooms))

    assert reaches(Audience(frozenset("a"), frozenset("b")), "id", "a")
    assert not reaches(Audience(frozenset("a"), frozenset("b")), "id", "a", "b")
    assert not reaches(Audience(frozenset("a")), "a")
    assert reaches(Audience(only="id"), "id")
    assert not reaches(Audience(only="id"), "other", "id")
    assert not reaches(Audience(besides="id"), "id")
    assert reaches(Audience(besides="id"), "other", "id")
    assert not reaches(Audience(frozenset("a"), besides="id"), "id", "a")
    assert MSGPACK.text is not JSON.text


# Bounds


@pytest.mark.parametrize("kind", ["events", "packets"])
@looped
async def test_hostile_49_what_is_held_before_connect_is_bounded(kind: str) -> None:
    """hostile 49: what is sent to a socket with a slow on_connect is held up to outbox_bytes; then its connection is
    closed with 4008, and nothing is held."""
    io = SocketIO()
    go, inside = asyncio.Event(), asyncio.Event()

    @io.on_connect
    async def enter(socket: Socket) -> None:
        inside.set()
        await go.wait()

    async with served(io) as url, opened(url) as client:
        await client.say("0")
        await inside.wait()
        socket = only(io)
        for _ in range(2_000):
            if kind == "events":
                io.emit("x", "x" * 1_000)
            else:
                socket._send_event("x", ("x" * 1_000,))
            assert socket._held is None or socket._held.size <= io._outbox_bytes + 2_000
        await eventually(lambda: not io.connections, "it is closed")
        assert io.counters.limits["outbox_bytes"] == 1
        go.set()


@looped
async def test_hostile_49_answers_that_wait_for_the_log(store: SaboteurStore) -> None:
    """hostile 49: while answers wait for a stalled log, no more is read from their client than may wait for handlers;
    when the log goes on they are sent, and reading goes on."""
    io = SocketIO(recovery_window=60.0, max_pending_events=4)

    @io.on("ask")
    def ask(socket: Socket, number: int) -> int:
        if number == 0:
            io.emit("event")
        return number

    async with served(io) as url, entered(url) as client:
        for number in range(12):
            await client.say(f'2{number}["ask",{number}]')
        (connection,) = io.connections
        await eventually(lambda: connection._held, "reading stops")
        assert len(io._lane.parcels) <= 13
        assert io.counters.limits["max_pending_events"] >= 1
        store.commit()
        assert (await client.event())[0] == "event"
        assert await client.take(12) == [f"3{number}[{number}]" for number in range(12)]
        await eventually(lambda: not connection._held, "reading goes on")


@looped
async def test_hostile_49_events_that_wait_for_the_log(store: SaboteurStore) -> None:
    """hostile 49: beyond what may wait for the log, events are sent without it; beyond as much again, `emit` raises."""
    io = SocketIO(recovery_window=60.0)
    async with served(io) as url, entered(url) as client:
        hub = io.engine.site.hub
        assert hub is not None
        hub.delivery.most_waiting = 2
        for number in range(4):
            io.emit("x", number)
        with pytest.raises(Overloaded):
            io.emit("x", 4)
        store.commit()
        assert [(await client.event())[1] for _ in range(4)] == [0, 1, 2, 3]
        io.emit("x", 5)
        store.commit()
        assert (await client.event())[1] == 5
