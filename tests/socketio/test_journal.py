"""The log under a namespace: published events are kept first; with recovery everything passes one queue, in order."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from partyline import ConfigError
from partyline.errors import InvalidValue, StoreUnavailable
from partyline.models import Position
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from partyline.testing.saboteur import SaboteurStore
from tests.server.servers import eventually

from .clients import Client, Notes, entered, looped, only, opened, polled, served, serving


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> SaboteurStore:
    """The log of the next server, which commits when told."""
    store = SaboteurStore()
    monkeypatch.setattr("partyline.parts.store", lambda *arguments, **named: store)
    return store


def recovering(**rules: Any) -> SocketIO:
    return SocketIO(recovery_window=60.0, **rules)


async def offsets(client: Client, count: int) -> list[list[Any]]:
    """The next events, with their offsets as numbers."""
    events = []
    for _ in range(count):
        *values, offset = await client.event()
        events.append([*values, Position.parse(offset).offset])
    return events


# publish and history


@looped
async def test_publish() -> None:
    """An event published to a room is kept and reaches the room's members, without an offset if recovery is off."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client, entered(url) as other:
        io.sockets[client.sid].join("a")
        first = await io.publish("a", "x", 1, b"\x00")
        second = await io.publish("a", "y")
        assert second.offset > first.offset
        hole = '{"_placeholder":true,"num":0}'
        assert await client.take(3) == [f'51-["x",1,{hole}]', b"\x00", '2["y"]']
        await other.sync()
        entries = await io.history("a")
        assert [(entry.position, entry.event, entry.arguments) for entry in entries] == [
            (first, "x", (1, b"\x00")),
            (second, "y", ()),
        ]
        assert entries[0].time > 1.7e9


@looped
async def test_history() -> None:
    """History gives the newest entries of a room before a position, oldest first, of this namespace only."""
    io = SocketIO()
    other = io.namespace("/other")
    async with served(io):
        positions = [await io.publish("a", "x", n) for n in range(5)]
        await io.publish("b", "x", "b")
        await other.publish("a", "x", "other")
        newest = [entry.arguments[0] for entry in await io.history("a", limit=2)]
        assert newest == [3, 4]
        assert [entry.arguments[0] for entry in await io.history("a", before=positions[3], limit=2)] == [1, 2]
        assert [entry.arguments[0] for entry in await io.history("a")] == [0, 1, 2, 3, 4]
        assert await io.history("a", before=positions[0]) == []
        assert await io.history("never") == []
        assert await io.history("a", before=Position("0" * 16, 3)) == [], "a position of another log"
        for limit in (0, -1):
            with pytest.raises(InvalidValue, match="limit"):
                await io.history("a", limit=limit)


@looped
async def test_publish_errors(store: SaboteurStore) -> None:
    """If the log refuses an event, the publisher gets the error and nobody the event; bad values are refused before
    that."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        only(io).join("a")
        publishing = asyncio.ensure_future(io.publish("a", "x", 1))
        await eventually(lambda: store.queued, "it waits")
        store.refuse()
        with pytest.raises(StoreUnavailable):
            await publishing
        await client.sync()
        with pytest.raises(InvalidValue, match="disconnect"):
            await io.publish("a", "disconnect")
        with pytest.raises(InvalidValue, match="cannot be sent"):
            await io.publish("a", "x", object())
        assert not store.queued


@looped
async def test_a_cancelled_publish(store: SaboteurStore) -> None:
    """A publish whose caller is cancelled is done all the same."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        only(io).join("a")
        publishing = asyncio.ensure_future(io.publish("a", "x"))
        await eventually(lambda: store.queued, "it waits")
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        store.commit()
        assert await client.event() == ["x"]


@looped
async def test_publish_without_a_server() -> None:
    """Without a server there is no log, and the error says how to get one."""
    with pytest.raises(ConfigError, match="extras"):
        await SocketIO().publish("a", "x")


@looped
async def test_publish_with_recovery(store: SaboteurStore) -> None:
    """With recovery a published event has an offset, is in one order with emitted events, and reaches nobody if the log
    refuses it."""
    io = recovering()
    async with served(io) as url, entered(url) as client:
        only(io).join("a")
        io.emit("before")
        publishing = asyncio.ensure_future(io.publish("a", "x"))
        await asyncio.sleep(0)
        io.emit("behind")
        store.commit()
        assert await offsets(client, 3) == [["before", 1], ["x", 2], ["behind", 3]]
        assert (await publishing).offset == 2
        publishing = asyncio.ensure_future(io.publish("a", "refused"))
        await asyncio.sleep(0)
        io.emit("kept")
        store.refuse(1)
        store.commit()
        with pytest.raises(StoreUnavailable):
            await publishing
        assert await offsets(client, 1) == [["kept", 4]]


# The queue


@looped
async def test_nothing_leaves_before_its_commit(store: SaboteurStore) -> None:
    """emit never waits; an event is sent when it is committed, with its offset as the last argument."""
    io = recovering()
    async with served(io) as url, entered(url) as client:
        assert set(client.answer) == {"sid", "pid"}
        io.emit("x", 1)
        only(io).emit("y", b"\x00")
        await asyncio.sleep(0)
        assert store.queued == 2
        io.volatile.emit("volatile")
        assert await client.event() == ["volatile"], "volatile events pass by"
        store.commit(1)
        assert await client.event() == ["x", 1, f"{store.epoch}-1"]
        store.commit()
        assert await client.take(2) == [f'51-["y",{{"_placeholder":true,"num":0}},"{store.epoch}-2"]', b"\x00"]


@looped
async def test_one_queue_for_events_acknowledgements_and_disconnects(store: SaboteurStore) -> None:
    """Events, acknowledgements, calls and disconnects are sent in the order in which they were made, and nothing that
    follows an event is sent before it."""
    io = recovering()
    io.on("x", lambda socket: [socket.emit("first"), "answer"][1])
    async with served(io) as url, entered(url) as client:
        socket = only(io)
        await client.say('20["x"]')
        await eventually(lambda: store.queued == 1, "the event waits")
        call = asyncio.ensure_future(socket.call("question", timeout=5))
        many = asyncio.ensure_future(io.call("questions", timeout=5))
        await asyncio.sleep(0)
        socket.emit("second")
        socket.disconnect()
        assert not socket.connected
        for one in (call, many):
            with pytest.raises(Exception, match=r"disconnected|did not answer"):
                await one
        store.commit()
        epoch = store.epoch
        assert await client.take(6) == [
            f'2["first","{epoch}-1"]',
            '30["answer"]',
            '21["question"]',
            '22["questions"]',
            f'2["second","{epoch}-2"]',
            "1",
        ]
        await client.enter()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@looped
async def test_the_end_of_a_connection_waits_for_the_log(store: SaboteurStore, transport: str) -> None:
    """disconnect(close=True) ends the connection after everything that was sent to any of its namespaces."""
    io = recovering()
    other = io.namespace("/other")
    async with served(io) as url, entered(url) if transport == "websocket" else polled(url) as client:
        if transport == "polling":
            await client.enter()
        await client.enter("/other")
        io.emit("x")
        other.emit("y")
        only(io).disconnect(close=True)
        assert len(io.connections) == 1
        store.commit(1)
        assert len(io.connections) == 1
        store.commit()
        epoch = store.epoch
        assert await client.take(4) == [f'2["x","{epoch}-1"]', "1", f'2/other,["y","{epoch}-2"]', "1/other,"]
        await eventually(lambda: not io.connections, "the connection ends")


@looped
async def test_events_are_what_they_were(store: SaboteurStore) -> None:
    """An application may change its values after emit and call: what is sent is their state at that time."""
    io = recovering()
    async with served(io) as url, entered(url) as client:
        board: list[Any] = []
        for n in range(3):
            board.append(n)
            io.emit("board", board)
        call = asyncio.ensure_future(io.call("question", board, timeout=5))
        await asyncio.sleep(0)
        board.append("later")
        store.commit()
        assert await offsets(client, 3) == [["board", [0], 1], ["board", [0, 1], 2], ["board", [0, 1, 2], 3]]
        assert await client.event_with_id(1) == ["question", [0, 1, 2]]
        await client.say("31[]")
        await call


@looped
async def test_whom_an_event_goes_to(store: SaboteurStore) -> None:
    """The recipients of an event are decided when it is emitted, as if there were no log."""
    io = recovering()
    async with served(io) as url, entered(url) as client, entered(url) as other:
        io.sockets[client.sid].join("a")
        io.to("a").emit("x")
        io.sockets[client.sid].leave("a")
        io.sockets[other.sid].join("a")
        io.emit("end")
        async with entered(url) as third:
            store.commit()
            assert await offsets(client, 2) == [["x", 1], ["end", 2]]
            assert await offsets(other, 1) == [["end", 2]]
            await third.sync()


@looped
async def test_acknowledged_events_have_no_offset(store: SaboteurStore) -> None:
    """Events with an acknowledgement are not kept, because nobody could acknowledge them later."""
    io = recovering()
    async with served(io) as url, entered(url) as client:
        call = asyncio.ensure_future(only(io).call("question"))
        assert await client.next() == '21["question"]'
        await client.say("31[1]")
        assert await call == 1
        assert store.queued == 0


@looped
async def test_protocol_4_gets_no_offsets(store: SaboteurStore) -> None:
    """Clients of Socket.IO 2 do not know recovery: their events have no offset, and they have no session."""
    io = recovering(version_3=True)
    async with served(io) as url, opened(url, version=3) as client, entered(url) as other:
        assert await client.next() == "0"
        assert io._recovery is not None
        assert len(io._recovery) == 1
        io.emit("x", 1)
        store.commit()
        assert await client.event() == ["x", 1]
        assert await other.event() == ["x", 1, f"{store.epoch}-1"]


@looped
async def test_a_refusing_log(store: SaboteurStore) -> None:
    """If the log refuses, emitted events are sent all the same, in order, without an offset."""
    io = recovering()
    async with served(io) as url, entered(url) as client:
        for n in range(4):
            io.emit("x", n)
        store.commit(1)
        store.refuse(2)
        store.commit()
        assert await client.take(4) == [
            f'2["x",0,"{store.epoch}-1"]',
            '2["x",1]',
            '2["x",2]',
            f'2["x",3,"{store.epoch}-2"]',
        ]


@looped
async def test_a_failing_log(store: SaboteurStore) -> None:
    """A row that was reported as lost and is found again when the disk is back reaches nobody twice."""
    io = recovering()
    async with served(io) as url, entered(url) as client:
        io.emit("x")
        store.fail(landed=True)
        assert await client.event() == ["x"]
        io.emit("y")
        store.recover()
        io.emit("z")
        store.commit()
        assert await client.event() == ["y"]
        *z, offset = await client.event()
        assert z == ["z"]
        assert Position.parse(offset).offset > 1
        await client.sync()


@looped
async def test_listeners_of_what_leaves(store: SaboteurStore) -> None:
    """on_any_outgoing is called when an event is sent, and an event that it emits follows."""
    io = recovering()
    notes = Notes()
    async with served(io) as url, entered(url) as client:
        socket = only(io)

        def outgoing(event: str, *arguments: Any) -> None:
            notes.append(event)
            if event == "x":
                socket.emit("y")

        socket.on_any_outgoing(outgoing)
        io.emit("x")
        assert notes == []
        store.commit()
        store.commit()
        assert await offsets(client, 2) == [["x", 1], ["y", 2]]
        assert notes == ["x", "y"]


@looped
async def test_an_event_within_an_event() -> None:
    """On a log that commits at once, too, order and offsets agree, and the log's place does not go back."""
    io = recovering()
    async with served(io) as url, entered(url) as client:
        socket = only(io)
        socket.on_any_outgoing(lambda event, *arguments: socket.emit("y") if event == "x" else None)
        io.emit("x")
        assert await offsets(client, 2) == [["x", 1], ["y", 2]]
        assert io.engine.site.hub is not None
        assert io.engine.site.hub.fanned_out == 2


@looped
async def test_a_dynamic_namespace_waits_for_its_log(store: SaboteurStore) -> None:
    """A namespace of a pattern does not vanish before everything to its last member has been sent."""
    io = recovering()
    io.namespace("/game-{id:int}")
    async with served(io) as url, entered(url, "/game-1") as client:
        socket = only(io, "/game-1")
        socket.emit("bye")
        socket.disconnect()
        assert io.namespaces() == ["/", "/game-1", "/relay"]
        store.commit()
        assert await client.take(2) == [f'2/game-1,["bye","{store.epoch}-1"]', "1/game-1,"]
        assert io.namespaces() == ["/", "/relay"]


@looped
async def test_a_slow_disk_holds_up_nobody(tmp_path: Path) -> None:
    """On a real log everything arrives complete and in order, whatever is mixed."""
    io = recovering()

    @io.on("x")
    async def x(socket: Socket, n: int) -> int:
        io.emit("told", n)
        await asyncio.sleep(0)
        socket.emit("you", n)
        return n

    async with serving(io, db=str(tmp_path / "log.db")) as (_, url), entered(url) as client:
        await client.say(*(f'2{n}["x",{n}]' for n in range(50)))
        last = 0
        for n in range(50):
            packets = [str(packet) for packet in await client.take(3)]
            told, you = json.loads(packets[0][1:]), json.loads(packets[1][1:])
            assert (told[:2], you[:2], packets[2]) == (["told", n], ["you", n], f"3{n}[{n}]")
            first, second = (Position.parse(event[2]).offset for event in (told, you))
            assert last < first < second
            last = second
