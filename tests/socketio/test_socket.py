"""One socket: what it sends, what it awaits, its own listeners, its end, and how much may wait for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from partyline.errors import CallTimeout, ConnectionRefused, InvalidValue, PeerGone
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from tests.server.peers import close_frame, connected, websocket
from tests.server.servers import eventually, small_send_buffers

from .clients import BASE, Client, Notes, WebSocketClient, entered, looped, only, opened, polled, served, serving

# Out


@looped
async def test_emit() -> None:
    """Events are sent compact, in order, with their attachments and nothing in between."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        socket = only(io)
        socket.emit("x")
        socket.emit("x", 1, None, "é", {"a": [1.5, True]})
        socket.emit("x", b"a", {"b": [bytearray(b"b"), memoryview(b"c")]})
        socket.send("hello")
        assert await client.take(7) == [
            '2["x"]',
            '2["x",1,null,"é",{"a":[1.5,true]}]',
            '53-["x",{"_placeholder":true,"num":0},{"b":[{"_placeholder":true,"num":1},{"_placeholder":true,"num":2}]}]',
            b"a",
            b"b",
            b"c",
            '2["message","hello"]',
        ]


@pytest.mark.parametrize("name", ["connect", "connect_error", "disconnect", "disconnecting", "newListener"])
@looped
async def test_reserved_names(name: str) -> None:
    """An event with a name that clients raise themselves cannot be sent, to anybody or in any way."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        socket = only(io)
        for emit in (socket.emit, socket.volatile.emit, io.emit, io.to("nowhere").emit, socket.broadcast.emit):
            with pytest.raises(InvalidValue, match=name):
                emit(name)
        for call in (socket.call, io.call):
            with pytest.raises(InvalidValue, match=name):
                await call(name)
        await client.sync()


@looped
async def test_what_cannot_be_sent() -> None:
    """An argument that cannot be encoded is the caller's error; nothing is sent, and everybody stays connected."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client, polled(url) as other:
        await other.enter()
        first, _ = io.sockets.values()
        for emit in (first.emit, first.volatile.emit, io.emit, io.volatile.emit, first.broadcast.emit):
            with pytest.raises(InvalidValue, match="cannot be sent"):
                emit("x", object())
        for call in (first.call, io.call):
            with pytest.raises(InvalidValue, match="cannot be sent"):
                await call("x", object())
        assert not first._acks
        io.emit("y")
        assert await client.event() == ["y"]
        assert await other.event() == ["y"]


# Calls


@pytest.mark.parametrize(
    ("answer", "value"),
    [("[]", ()), ("[1]", 1), ("[null]", None), ('["a",[2]]', ("a", [2])), ("[[]]", [])],
)
@looped
async def test_call(answer: str, value: Any) -> None:
    """A call returns the client's answer: its only value, or all of them; no value and null are different."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        call = asyncio.ensure_future(only(io).call("question", {"n": 1}))
        assert await client.next() == '21["question",{"n":1}]'
        await client.say(f"31{answer}")
        got = await call
        assert got == value


@looped
async def test_a_binary_answer() -> None:
    """Attachments pass both ways with a call."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        call = asyncio.ensure_future(only(io).call("question", b"\x01"))
        assert await client.take(2) == ['51-1["question",{"_placeholder":true,"num":0}]', b"\x01"]
        await client.say('61-1[{"_placeholder":true,"num":0}]', b"\x02")
        assert await call == b"\x02"


@looped
async def test_calls_at_once() -> None:
    """Each of several calls gets its own answer, in whatever order they arrive; a second answer is ignored."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        calls = [asyncio.ensure_future(only(io).call("question", n)) for n in range(3)]
        await client.take(3)
        await client.say('33["c"]', '31["a"]', '31["again"]', '32["b"]', '399["nobody asked"]')
        assert await asyncio.gather(*calls) == ["a", "b", "c"]
        await client.sync()


@looped
async def test_call_timeout() -> None:
    """A call without an answer in time fails; a late answer is dropped."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        socket = only(io)
        for call in (socket.call("question", timeout=0.01), socket.timeout(0.01).call("question")):
            with pytest.raises(CallTimeout, match="no acknowledgement"):
                await call
        assert not socket._acks
        await client.take(2)
        await client.say("31[1]", "32[1]")
        await client.sync()
        (connection,) = io.connections
        assert connection.calls == 0


@looped
async def test_a_cancelled_call() -> None:
    """Nothing is left of a cancelled call."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        socket = only(io)
        call = asyncio.ensure_future(socket.call("question"))
        await client.next()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not socket._acks
        (connection,) = io.connections
        assert connection.calls == 0
        await client.say("31[1]")
        await client.sync()


@pytest.mark.parametrize("how", ["leave", "lost", "expelled"])
@looped
async def test_a_call_whose_socket_goes(how: str) -> None:
    """A pending call is settled when the socket disconnects, and a call to a disconnected one fails at once."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        socket = only(io)
        call = asyncio.ensure_future(socket.call("question"))
        await client.next()
        match how:
            case "leave":
                await client.say("1")
            case "lost":
                client.wire.peer.transport.abort()
            case _:
                socket.disconnect()
        for one in (call, socket.call("question")):
            with pytest.raises(PeerGone):
                await one


@looped
async def test_a_call_before_the_client_is_connected() -> None:
    """on_connect cannot call its client, which is not connected yet: that fails at once instead of deadlocking."""
    io = SocketIO()

    @io.on_connect
    async def connect(socket: Socket) -> None:
        try:
            await socket.call("question")
        except PeerGone as error:
            raise ConnectionRefused(error.message) from None

    async with served(io) as url, opened(url) as client:
        await client.say("0")
        assert "when on_connect has returned" in str(await client.next())


@looped
async def test_the_answer_to_connect_has_a_read_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a WebSocket, what on_connect emits arrives in a later read than the answer to CONNECT: a program that awaits
    one message after another would lose it if its library passes on everything from one read at once."""
    monkeypatch.setattr("partyline.socketio.socket.OWN_READ", 0.2)
    io = SocketIO()
    io.on_connect(lambda socket: socket.emit("first"))

    @io.on("ask")
    async def ask(socket: Socket) -> Any:
        socket.emit("second")
        return await socket.call("question")

    async with served(io) as url, opened(url) as client:
        await client.say("0")
        (answer,) = client.wire.wire.receive(await client.wire.peer.some())
        assert str(answer).startswith('40{"sid"')
        # What follows meanwhile stays in order, and the client can already be called.
        await client.say('27["ask"]')
        assert await client.take(2) == ['2["first"]', '2["second"]']
        assert await client.event_with_id(1) == ["question"]
        await client.say('31["yes"]')
        assert await client.next() == '37["yes"]'


@pytest.mark.parametrize(
    ("header", "waits"),
    [
        (None, True),
        ("User-Agent: node", True),
        ("User-Agent: undici", True),
        ("Origin: {url}", False),
        ("User-Agent: Mozilla/5.0", False),
        ("User-Agent: Python/3.12 websockets/13.1", False),
        ("User-Agent: okhttp/4.12.0", False),
    ],
)
@looped
async def test_who_waits_for_a_read_of_its_own(
    monkeypatch: pytest.MonkeyPatch, header: str | None, waits: bool
) -> None:
    """Only clients that may lose messages of one read wait for a second one: Node's `ws` does not identify itself,
    browsers send Origin, other languages' libraries User-Agent."""
    monkeypatch.setattr("partyline.socketio.socket.OWN_READ", 600.0)
    io = SocketIO()
    io.on_connect(lambda socket: socket.emit("first"))
    async with served(io) as url, opened(url, headers=() if header is None else (header.format(url=url),)) as client:
        await client.enter()
        if waits:
            await client.sync()
        else:
            assert await client.event() == ["first"]


@looped
async def test_a_client_that_came_by_polling_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that upgrades from polling is an Engine.IO client, and those take every message of a read."""
    monkeypatch.setattr("partyline.socketio.socket.OWN_READ", 600.0)
    io = SocketIO()
    io.namespace("/late").on_connect(lambda socket: socket.emit("first"))
    async with served(io) as url, polled(url) as client, connected(url) as peer:
        wire = await websocket(peer, f"{BASE}?EIO=4&transport=websocket&sid={client.polling.sid}")
        await wire.say("2probe")
        assert await wire.text() == "3probe"
        await wire.say("5", "40/late,")
        assert (await wire.text()).startswith("40/late,")
        assert await wire.text() == '42/late,["first"]'
        await peer.send(close_frame(1000))
        client.polling.gets.transport.close()


@pytest.mark.parametrize("close", [False, True])
@looped
async def test_disconnected_before_that_read(monkeypatch: pytest.MonkeyPatch, close: bool) -> None:
    """A socket that is disconnected at that moment gets what was emitted before, and then the disconnect."""
    monkeypatch.setattr("partyline.socketio.socket.OWN_READ", 600.0)
    io = SocketIO()
    io.on_connect(lambda socket: socket.emit("first"))
    io.on("bye", lambda socket: socket.disconnect(close))
    async with served(io) as url, opened(url) as client:
        await client.enter()
        await client.say('2["bye"]')
        assert await client.take(2) == ['2["first"]', "1"]
        if close:
            assert (await client.closed()).code == 1000


@looped
async def test_an_answer_that_is_no_value() -> None:
    """An answer that cannot be decoded closes the connection, and the call is settled with it."""
    io = SocketIO()
    async with served(io) as url, entered(url) as client:
        call = asyncio.ensure_future(only(io).call("question"))
        await client.next()
        await client.say("31[1e999]")
        await client.closed()
        with pytest.raises(PeerGone):
            await call


# Volatile


@looped
async def test_volatile() -> None:
    """A volatile event is sent to clients that can take it at once: not to a poller without a GET, and not before
    CONNECT's answer."""
    io = SocketIO()
    io.on_connect(lambda socket: socket.volatile.emit("too early"))
    async with served(io) as url, entered(url) as client, polled(url) as other:
        await other.enter()
        await other.sync()
        io.volatile.emit("x", 1)
        for socket in io.sockets.values():
            socket.volatile.emit("y", 2)
            socket.volatile.timeout(1).compress(True).emit("z")
        assert await client.take(3) == ['2["x",1]', '2["y",2]', '2["z"]']
        await other.sync()


@looped
async def test_volatile_where_the_client_does_not_read() -> None:
    """Volatile events to a client that does not read are dropped; others wait for it."""
    io = SocketIO()
    async with serving(io) as (partyline, url):
        small_send_buffers(partyline)
        async with entered(url) as client:
            client.wire.peer.stop_reading()
            socket = only(io)
            while socket.writable:
                socket.emit("fill", "x" * 60_000)
                await asyncio.sleep(0)
            for n in range(100):
                socket.volatile.emit("volatile", n)
                io.volatile.emit("volatile", n)
            socket.emit("last")
            client.wire.peer.read_again()
            while (event := await client.event())[0] == "fill":
                pass
            assert event == ["last"]


# Its own listeners


@looped
async def test_own_listeners() -> None:
    """A socket has its own listeners, without the socket as an argument, typed like all others; they can be removed."""
    io = SocketIO()
    notes = Notes()

    def own(n: int) -> str:
        notes.append(("own", n))
        return "own"

    io.on("x", lambda socket, n: notes.append(("all", n)))
    async with served(io) as url, entered(url) as client, entered(url) as other:
        socket, _ = io.sockets.values()
        assert socket.on("x", own) is own
        socket.on("y")(own)
        assert await client.ask("x", 1) == ["own"]
        assert await other.ask("x", 2) == []
        assert notes == [("all", 1), ("own", 1), ("all", 2)]
        (answer,) = await client.ask("x", "no number")
        assert answer["error"] == "invalid_arguments"
        socket.off("x", own)
        assert await client.ask("x", 3) == []
        assert await client.ask("y", 4) == ["own"]
        socket.on("x", own)
        socket.off("x")
        assert await client.ask("x", 5) == []
        socket.off()
        await client.say('20["y",6]')
        await client.sync()
        socket.off("y")
        assert socket._listeners is None


@looped
async def test_once() -> None:
    """A listener for one event gets one, even if two have already arrived; `off` removes it by its function."""
    io = SocketIO()
    notes = Notes()
    gate = asyncio.Event()
    io.on("wait", lambda socket: gate.wait())
    async with served(io) as url, entered(url) as client:
        socket = only(io)
        socket.once("x", notes.append)
        await client.say('2["wait"]', '2["x",1]', '2["x",2]')
        gate.set()
        await client.sync()
        await notes.sync(1)
        await client.sync()
        assert notes == [1]
        socket.once("x", notes.append)
        socket.off("x", notes.append)
        await client.say('2["x",3]')
        await client.sync()
        assert notes == [1]
        assert socket._listeners is None


@looped
async def test_socket_middlewares() -> None:
    """A socket's middlewares see every event before its handlers; what they raise stops the event and is the answer,
    with its message if it is one of our errors."""
    io = SocketIO()
    notes = Notes()
    io.on("x", lambda socket, *arguments: notes.append(arguments) or "ok")

    async def check(event: str, arguments: list[Any]) -> None:
        await asyncio.sleep(0)
        if arguments == ["refuse"]:
            raise ConnectionRefused("not here")
        if arguments == ["fail"]:
            raise KeyError("secret")

    async with served(io) as url, entered(url) as client:
        assert only(io).use(check) is check
        assert await client.ask("x", 1) == ["ok"]
        assert await client.ask("x", "refuse") == [{"error": "refused", "message": "not here"}]
        assert await client.ask("x", "fail") == [{"error": "internal"}]
        assert notes == [(1,)]


@looped
async def test_on_any_outgoing() -> None:
    """on_any_outgoing is called for every event to the socket, however it was emitted, and can stop it."""
    io = SocketIO()
    notes = Notes()

    def outgoing(*values: Any) -> None:
        notes.append(values)

    def broken(*values: Any) -> None:
        raise KeyError

    async with served(io) as url, entered(url) as client, entered(url):
        socket, other = io.sockets.values()
        socket.on_any_outgoing(broken)
        assert socket.on_any_outgoing(outgoing) is outgoing
        socket.emit("a", 1)
        io.emit("b", 2)
        socket.volatile.emit("c")
        other.emit("not for it")
        other.broadcast.emit("d")
        call = asyncio.ensure_future(socket.call("e"))
        await client.take(5)
        assert notes == [("a", 1), ("b", 2), ("c",), ("d",), ("e",)]
        call.cancel()
        socket.off_any_outgoing(outgoing)
        socket.emit("f")
        assert len(notes) == 5
        assert io._watched == {socket}
        socket.off_any_outgoing()
        assert io._watched == set()


# The end


@looped
async def test_disconnecting_and_disconnect() -> None:
    """on_disconnecting sees the rooms, on_disconnect does not; both are called once, and can still send to others."""
    io = SocketIO()
    notes = Notes()
    io.on_connect(lambda socket: socket.join("room"))
    io.on_disconnecting(lambda socket, reason: notes.append(sorted(socket.rooms)))

    @io.on_disconnect
    async def disconnect(socket: Socket, reason: str) -> None:
        notes.append((list(socket.rooms), socket.connected, reason))
        await asyncio.sleep(0)
        socket.join("again")
        socket.to("room").emit("left", socket.id)

    async with served(io) as url, entered(url) as client, entered(url) as other:
        await other.leave()
        assert await client.event() == ["left", other.sid]
        assert notes == [sorted(["room", other.sid]), ([], False, "transport close")]
        assert "again" not in io.rooms()


@looped
async def test_end_handlers_that_raise() -> None:
    """A handler that raises at the end of a socket is logged; all others are still called, and nothing is left."""
    io = SocketIO()
    notes = Notes()

    def fail(socket: Socket, reason: str) -> None:
        raise KeyError

    async def fail_later(socket: Socket, reason: str) -> None:
        await asyncio.sleep(0)
        raise KeyError

    io.on_disconnecting(fail)
    io.on_disconnect(fail)
    io.on_disconnect(fail_later)
    io.on_disconnecting(lambda socket, reason: notes.append("disconnecting"))
    io.on_disconnect(lambda socket, reason: notes.append("disconnect"))
    async with serving(io) as (partyline, url), entered(url) as client:
        await client.say("1")
        await client.sync()
        await eventually(lambda: partyline.counters.errors == 3, "three errors")
        assert notes == ["disconnecting", "disconnect"]


@looped
async def test_on_disconnect_waits_for_handlers() -> None:
    """on_disconnect runs after the handlers of everything that had arrived before the end."""
    io = SocketIO()
    notes, go = Notes(), asyncio.Event()

    @io.on("x")
    async def x(socket: Socket, n: int) -> None:
        await go.wait()
        notes.append((n, socket.connected))

    io.on("y", lambda socket, n: notes.append((n, socket.connected)))
    io.on("z", x, concurrent=True)
    io.on_disconnect(lambda socket, reason: notes.append(reason))
    async with served(io) as url, entered(url) as client:
        await client.say('2["x",1]', '2["y",2]', '2["z",3]', '20["x",4]', "1")
        await client.sync()
        assert notes == []
        go.set()
        await notes.sync(5)
        assert notes[-1] == "client namespace disconnect"
        assert sorted(notes[:-1]) == [(1, False), (2, False), (3, False), (4, False)]


@pytest.mark.parametrize("concurrent", [False, True])
@looped
async def test_on_disconnect_behind_a_hung_handler(concurrent: bool) -> None:
    """A handler that hangs is cancelled after disconnect_grace, what waited is dropped, and on_disconnect runs."""
    io = SocketIO(disconnect_grace=0.02)
    notes = Notes()

    @io.on("hang", concurrent=concurrent)
    async def hang(socket: Socket) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            notes.append("cancelled")

    @io.on("behind")
    async def behind(socket: Socket) -> None:
        await asyncio.Event().wait()

    io.on_disconnect(lambda socket, reason: notes.append(reason))
    async with served(io) as url, entered(url) as client:
        await client.say('2["hang"]', '2["behind"]', '2["behind"]', "1")
        await notes.sync(2)
        assert notes == ["cancelled", "client namespace disconnect"]
        (connection,) = io.connections
        await eventually(lambda: (connection._waiting, connection._waiting_bytes) == (0, 0), "nothing waits")


@looped
async def test_on_disconnect_behind_a_deaf_handler() -> None:
    """A handler that ignores its cancellation does not keep on_disconnect from running."""
    io = SocketIO(disconnect_grace=0.02)
    notes, go = Notes(), asyncio.Event()

    @io.on("deaf")
    async def deaf(socket: Socket) -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                notes.append("told")

    io.on_disconnect(lambda socket, reason: notes.append(reason))
    async with served(io) as url, entered(url) as client:
        await client.say('2["deaf"]', "1")
        await notes.sync(2)
        assert notes == ["told", "client namespace disconnect"]
        go.set()


@looped
async def test_a_handler_that_disconnects_its_socket() -> None:
    """A handler that disconnects its own socket runs to its end; later events are handled, but not answered."""
    io = SocketIO()
    notes = Notes()

    @io.on("bye")
    async def bye(socket: Socket) -> str:
        await asyncio.sleep(0)
        socket.disconnect()
        await asyncio.sleep(0)
        notes.append("bye")
        return "nobody hears it"

    io.on("x", lambda socket: notes.append("x"))
    io.on_disconnect(lambda socket, reason: notes.append(reason))
    async with served(io) as url, entered(url) as client:
        await client.say('20["bye"]', '21["x"]')
        assert await client.next() == "1"
        await client.sync()
        await notes.sync(3)
        assert notes == ["bye", "x", "server namespace disconnect"]


# How much may wait


def gated(io: SocketIO) -> tuple[Notes, asyncio.Event]:
    """A handler that waits at a gate."""
    notes, gate = Notes(), asyncio.Event()

    @io.on("x")
    async def x(socket: Socket, *arguments: Any) -> None:
        await gate.wait()
        notes.append(len(notes))

    return notes, gate


async def fill(client: Client, io: SocketIO, most: int) -> None:
    """Send events until reading stops."""
    (connection,) = io.connections
    for _ in range(most):
        if connection._held:
            return
        await client.say('2["x"]')
        await asyncio.sleep(0)
    await eventually(lambda: connection._held, "reading stops")


@pytest.mark.alone
@looped
async def test_too_many_events_wait() -> None:
    """With max_pending_events waiting, a WebSocket is no longer read. It is still pinged, and is not lost although its
    answers are not read. Reading goes on when half of them are handled, and nothing is lost."""
    io = SocketIO(max_pending_events=8, ping_interval=0.3, ping_timeout=0.2)
    notes, gate = gated(io)
    async with serving(io) as (partyline, url), entered(url) as client:
        await client.say(*['2["x"]'] * 9)  # one runs, eight wait
        (connection,) = io.connections
        await eventually(lambda: connection._held, "reading stops")
        assert partyline.counters.limits == {"max_pending_events": 1}
        await client.say(*['2["x"]'] * 20)
        for _ in range(3):
            assert await client.wire.next() == "2"
            await client.wire.say("3")
        assert connection._waiting == 8
        gate.set()
        await notes.sync(29)
        assert not connection._held
        assert (connection._waiting, connection._waiting_bytes) == (0, 0)
        assert await client.wire.next() == "2"


@pytest.mark.parametrize("how", ["websocket", "polling"])
@looped
async def test_a_client_that_goes_while_too_many_events_wait(how: str) -> None:
    """A client that has gone is noticed although it is not read: its handlers are cancelled, and on_disconnect is
    called."""
    io = SocketIO(max_pending_events=4, ping_interval=0.2, ping_timeout=0.1, disconnect_grace=0.01)
    notes, never = Notes(), asyncio.Event()
    io.on("x", lambda socket: never.wait())
    io.on_disconnect(lambda socket, reason: notes.append(reason))
    async with served(io) as url, (entered if how == "websocket" else polled)(url) as client:
        if how == "polling":
            await client.enter()
            posting = asyncio.ensure_future(client.say(*['2["x"]'] * 10))
            (connection,) = io.connections
            await eventually(lambda: connection._held, "reading stops")
            posting.cancel()
        else:
            await client.say(*['2["x"]'] * 10)
            (connection,) = io.connections
            await eventually(lambda: connection._held, "reading stops")
            client.wire.peer.transport.close()
        await notes.sync(1)
        await eventually(lambda: not io.sockets and not io.engine.connections, "all is gone")


@looped
async def test_reading_goes_on_at_the_half() -> None:
    """Reading does not go on before half of max_pending_events are handled."""
    io = SocketIO(max_pending_events=4)
    gate = asyncio.Semaphore(0)
    io.on("x", lambda socket: gate.acquire())
    async with served(io) as url, entered(url) as client:
        await client.say(*['2["x"]'] * 5)
        (connection,) = io.connections
        seen = []
        for waiting in (4, 3, 2, 1):
            await eventually(lambda waiting=waiting: connection._waiting == waiting, f"{waiting} wait")  # type: ignore[misc]
            seen.append(connection._held)
            gate.release()
        assert seen == [True, True, False, False]
        gate.release()


@looped
async def test_many_events_wait_by_polling() -> None:
    """A poller's POSTs are answered at once, however many of its events wait; they are handled in order, and the client
    upgrades to a WebSocket meanwhile (hostile 58)."""
    io = SocketIO(max_pending_events=4)
    notes, gate = gated(io)
    async with served(io) as url, polled(url) as client, connected(url) as peer:
        await client.enter()
        for _ in range(5):
            await client.say(*['2["x"]'] * 20)
        (connection,) = io.connections
        assert connection._waiting == 99
        wire = await websocket(peer, f"{BASE}?EIO=4&transport=websocket&sid={client.polling.sid}")
        await wire.say("2probe")
        assert await wire.text() == "3probe"
        await wire.say("5")
        await wire.say('42["x"]')
        gate.set()
        await notes.sync(101)
        await wire.say("41")
        await peer.send(close_frame(1000))
        client.polling.gets.transport.close()


@looped
async def test_too_many_bytes_wait_by_polling() -> None:
    """Beyond `max_pending_bytes` of events, each counted with its overhead, the connection ends and is counted."""
    io = SocketIO(max_pending_events=4, max_pending_bytes=100_000, disconnect_grace=0.01)
    _, gate = gated(io)
    reasons = Notes()
    io.on_disconnect(lambda socket, reason: reasons.append(reason))
    async with serving(io) as (partyline, url), polled(url) as client:
        await client.enter()
        for _ in range(3):
            await client.say(*['2["x"]'] * 100)
        assert io.connections
        await client.say(*['2["x"]'] * 100)
        await reasons.sync(1)
        assert reasons == ["forced close"]
        assert partyline.counters.limits["max_pending_bytes"] == 1
        gate.set()


@looped
async def test_concurrent_events_by_polling() -> None:
    """At most `max_pending_events` concurrent handlers run at a time; further events wait for their turn."""
    io = SocketIO(max_pending_events=4)
    gate, running, most = asyncio.Event(), 0, 0

    @io.on("x", concurrent=True)
    async def handler(socket: Socket) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        notes.append("x")

    notes = Notes()
    async with served(io) as url, polled(url) as client:
        await client.enter()
        await client.say(*['2["x"]'] * 50)
        await eventually(lambda: running == 5, "four run, and one in its turn")
        gate.set()
        await notes.sync(50)
        assert most <= 5


@looped
async def test_a_call_goes_on_where_reading_would_stop() -> None:
    """While a handler waits for an answer of the client, the client is still read, so a call never deadlocks: neither
    one that begins when reading has already stopped, nor one during which more events arrive."""
    io = SocketIO(max_pending_events=4)
    notes, gate = Notes(), asyncio.Event()

    @io.on("ask")
    async def ask(socket: Socket) -> Any:
        await gate.wait()
        return await socket.call("question")

    io.on("x", lambda socket: notes.append("x"))
    async with served(io) as url, entered(url) as client:
        await client.say('20["ask"]', *['2["x"]'] * 10)
        (connection,) = io.connections
        await eventually(lambda: connection._held, "reading stops")
        gate.set()
        assert await client.next() == '21["question"]'
        assert not connection._held
        for _ in range(20):
            await client.say('2["x"]')
        await client.say("31[7]")
        assert await client.next() == "30[7]"
        await notes.sync(30)
        assert connection.calls == 0


@pytest.mark.parametrize("operator", ["call", "room"])
@looped
async def test_a_broadcast_call_goes_on_where_reading_would_stop(operator: str) -> None:
    """A call to many clients, including this one, never deadlocks, either."""
    io = SocketIO(max_pending_events=4)

    @io.on("ask")
    async def ask(socket: Socket) -> Any:
        return await (io.to(socket.id) if operator == "room" else io).call("question", timeout=5)

    io.on("x", lambda socket: None)
    async with served(io) as url, entered(url) as client:
        await client.say('20["ask"]')
        assert await client.next() == '21["question"]'
        for _ in range(10):
            await client.say('2["x"]')
        await client.say("31[7]")
        assert await client.next() == "30[[7]]"
        (connection,) = io.connections
        assert connection.calls == 0


@looped
async def test_too_many_bytes_wait() -> None:
    """Beyond max_pending_bytes reading stops, too; attachments count, and so does an event's overhead."""
    io = SocketIO(max_pending_bytes=10_000)
    notes, gate = gated(io)
    async with serving(io) as (partyline, url), entered(url) as client:
        packet = '52-["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
        await client.say('2["x"]', packet, bytes(9_000), b"\x00")
        await client.sync()
        (connection,) = io.connections
        assert connection._waiting_bytes == 9_000 + 1 + len(packet) + 256
        await client.say(*['2["x",1]'] * 5)
        await eventually(lambda: connection._held, "reading stops")
        assert partyline.counters.limits == {"max_pending_bytes": 1}
        gate.set()
        await notes.sync(7)
        await client.sync()


@looped
async def test_too_many_bytes_wait_behind_a_call() -> None:
    """A client that sends more than max_pending_bytes while it is asked for an answer is closed with 4008."""
    io = SocketIO(max_pending_bytes=10_000)

    @io.on("ask")
    async def ask(socket: Socket) -> Any:
        return await socket.call("question")

    async with serving(io) as (partyline, url), entered(url) as client:
        await client.say('20["ask"]')
        await client.next()
        await client.say(*["2" + json.dumps(["x", "y" * 900])] * 12)
        assert (await client.closed()).code == 4008
        assert partyline.counters.limits == {"max_pending_bytes": 1}


@looped
async def test_who_is_held_can_still_be_disconnected() -> None:
    """A client that is not read gets events and its DISCONNECT all the same, and nothing is left of it."""
    io = SocketIO(max_pending_events=4, disconnect_grace=0.01)
    gated(io)
    async with served(io) as url, entered(url) as client:
        assert isinstance(client, WebSocketClient)
        await fill(client, io, 10)
        only(io).emit("hello")
        only(io).disconnect()
        assert await client.take(2) == ['2["hello"]', "1"]
        (connection,) = io.connections
        await eventually(lambda: not connection._held, "it is read again")
        await client.sync()
