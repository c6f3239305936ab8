"""CONNECT and its answers, and what closes a connection and how, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from partyline.errors import ConnectionRefused
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from tests.server.peers import connected
from tests.server.servers import eventually

from .clients import Notes, entered, looped, on, only, opened, polled, served, serving


def noted(io: SocketIO, name: str = "/") -> Notes:
    """A record of how sockets of a namespace connect and disconnect."""
    notes = Notes()
    namespace = io.namespace(name)
    namespace.on_connect(lambda socket, auth: notes.append(("connect", auth)))
    namespace.on_disconnecting(lambda socket, reason: notes.append(("disconnecting", sorted(socket.rooms), reason)))
    namespace.on_disconnect(lambda socket, reason: notes.append(("disconnect", list(socket.rooms), reason)))
    return notes


# CONNECT


@pytest.mark.parametrize(("packet", "auth"), [("0", {}), ("0{}", {}), ('0{"token":"x"}', {"token": "x"}), ("0/,", {})])
@looped
async def test_connect(packet: str, auth: dict[str, Any]) -> None:
    """CONNECT is answered with exactly a sid, which is not the session's id; auth reaches on_connect."""
    io = SocketIO()
    notes = noted(io)
    async with served(io) as url, opened(url) as client:
        await client.say(packet)
        answer = await client.next()
        assert isinstance(answer, str)
        assert list(json.loads(answer[1:])) == ["sid"]
        sid = json.loads(answer[1:])["sid"]
        assert " " not in answer
        assert len(base64.urlsafe_b64decode(sid)) == 15
        assert sid not in io.engine.connections
        assert only(io).id == sid
        assert only(io).rooms == (sid,)
        assert notes == [("connect", auth)]


@looped
async def test_a_public_id_opens_nothing() -> None:
    """A socket's id is not a session's id: requests that name it are refused."""
    io = SocketIO()
    async with served(io) as url, polled(url) as client:
        await client.enter()
        path = client.polling.path.replace(client.polling.sid, client.sid)
        client.polling.path, kept = path, client.polling.path
        assert (await client.polling.get()).json == {"code": 1, "message": "Session ID unknown"}
        client.polling.path = kept


@looped
async def test_unknown_namespace() -> None:
    """An unknown namespace is refused with Node's message, and the connection stays."""
    io = SocketIO()
    async with served(io) as url, opened(url) as client:
        await client.say("0/random,")
        assert await client.next() == '4/random,{"message":"Invalid namespace"}'
        await client.enter()
        assert "/random" not in io.namespaces()


@looped
async def test_namespace_without_a_comma() -> None:
    """`40/custom` is a CONNECT for /custom, as `40/custom,` is, and so is a DISCONNECT."""
    io = SocketIO()
    notes = noted(io, "/custom")
    async with served(io) as url, opened(url) as client:
        await client.say("0/custom")
        answer = await client.next()
        assert isinstance(answer, str)
        assert answer.startswith('0/custom,{"sid":"')
        await client.say("1/custom")
        await client.sync()
        assert notes[-1] == ("disconnect", [], "client namespace disconnect")


@looped
async def test_handshake() -> None:
    """The application sees the request's headers and query, the address, the time, and the auth of this namespace."""
    io = SocketIO()
    io.namespace("/custom")
    async with served(io) as url, opened(url, query="&a=1&b=%C3%A9", headers=("X-Own: yes",)) as client:
        await client.enter("/", {"n": 1})
        await client.enter("/custom", {"n": 2})
        first, second = only(io).handshake, only(io, "/custom").handshake
        assert first.headers["x-own"] == "yes"
        assert first.query == {"EIO": "4", "transport": "websocket", "a": "1", "b": "é"}
        assert (first.address, first.network, first.secure) == ("127.0.0.1", "127.0.0.1", False)
        first.address = "2001:db8::1:2:3:4"
        assert first.network == "2001:db8::/64"
        assert first.time == second.time > 1.7e9
        assert (first.auth, second.auth) == ({"n": 1}, {"n": 2})


@looped
async def test_connect_timeout() -> None:
    """Without a CONNECT in time the connection is closed and counted; a refused CONNECT does not count."""
    io = SocketIO(connect_timeout=0.1)
    async with serving(io) as (partyline, url), opened(url) as client:
        await client.say("0/random,")
        await client.next()
        assert (await client.closed()).code == 1000
        assert partyline.counters.limits == {"connect_timeout": 1}


@looped
async def test_connected_in_time() -> None:
    """A client that has entered a namespace has no deadline any more, even after leaving it."""
    io = SocketIO(connect_timeout=1.0)
    async with serving(io) as (partyline, url), entered(url) as client:
        (connection,) = io.connections
        assert connection.timer_slot == 0
        await client.say("1")
        await client.sync()
        assert connection.timer_slot == 0
        assert partyline.counters.limits == {}


@looped
async def test_on_connect_comes_before_the_answer() -> None:
    """CONNECT is answered when on_connect has returned; what that emitted follows the answer, in order."""
    io = SocketIO()
    go = asyncio.Event()

    @io.on_connect
    async def connect(socket: Socket) -> None:
        socket.emit("first", 1)
        socket.join("room")
        await go.wait()
        io.to("room").emit("second", b"\x01")
        socket.emit("third")

    async with served(io) as url, opened(url) as client:
        await client.say("0")
        await client.sync()
        go.set()
        answer, *rest = await client.take(5)
        assert str(answer).startswith('0{"sid"')
        assert rest == ['2["first",1]', '51-["second",{"_placeholder":true,"num":0}]', b"\x01", '2["third"]']


@looped
async def test_events_before_the_answer() -> None:
    """An event for a namespace that has not been entered yet closes the connection, as Node does."""
    io = SocketIO()
    never = asyncio.Event()

    @io.on_connect
    async def connect(socket: Socket) -> None:
        await never.wait()

    io.disconnect_grace = 0.01
    async with served(io) as url, opened(url) as client:
        await client.say("0", '2["x"]')
        await client.closed()


@looped
async def test_a_second_connect() -> None:
    """A second CONNECT for the same namespace closes the connection; after leaving it is a new socket."""
    io = SocketIO()
    notes = noted(io)
    async with served(io) as url, entered(url) as client:
        first = client.sid
        await client.say("1")
        await client.enter()
        assert client.sid != first
        await client.say("0")
        assert (await client.closed()).code == 1002
        assert notes[-1] == ("disconnect", [], "parse error")


@looped
async def test_two_connects_at_once() -> None:
    """A CONNECT after one that is not answered yet gets the same answer: there is one socket."""
    io = SocketIO()
    gate = asyncio.Event()
    io.namespace("/slow").on_connect(lambda socket: gate.wait())
    async with served(io) as url, entered(url) as client:
        await client.say("0/slow,", "0/slow,")
        await eventually(lambda: bool(io.namespace("/slow")._entering), "it is on its way")
        gate.set()
        assert str(await client.next()).startswith('0/slow,{"sid"')
        await client.sync()
        assert len(io.namespace("/slow").sockets) == 1


@looped
async def test_namespaces_per_connection() -> None:
    """A connection can be in namespaces_per_connection namespaces and no more."""
    io = SocketIO(namespaces_per_connection=2)
    io.namespace("/a")
    io.namespace("/b")
    async with served(io) as url, entered(url) as client:
        await client.enter("/a")
        await client.say("0/b,")
        await client.closed()


# Invalid packets

INVALID = [
    "",
    "abc",
    "7",
    "4abc",
    '4{"message":"x"}',
    "0abc",
    "0[]",
    "0null",
    "0/nowhere,abc",
    "2",
    "2abc",
    "2{}",
    "2[]",
    '2["x"',
    '2["x"]y',
    "2[{}]",
    "2[null]",
    "2[true]",
    "23",
    '2-1["x"]',
    '2abc["x"]',
    '299999999999999999["x"]',
    "3[]",
    '3abc["x"]',
    "3-1[]",
    "31{}",
    '2["connect"]',
    '2["connect_error"]',
    '2["disconnect"]',
    '2["disconnecting"]',
    '2["newListener"]',
    '2["removeListener"]',
    '2["dis\\u0063onnect"]',
    '2/other,["x"]',
    "1/other",
    '1"x"',
    '5["x"]',
    '50-["x"]',
    '511-["x"]',
    '5abc-["x"]',
    "6[]",
    '51-["x",{"_placeholder":true,"num":0}]|2["y"]',
    "61-[]",
]


@pytest.mark.parametrize("packet", INVALID)
@looped
async def test_invalid_packets(packet: str) -> None:
    """An invalid packet closes the connection, the application is told, and no handler runs."""
    io = SocketIO()
    notes = noted(io)
    io.on("x", lambda socket, *rest: notes.append("ran"))
    async with served(io) as url, entered(url) as client:
        await client.say(*packet.split("|"), '2["x"]')
        close = await client.closed()
        assert close.code == 1002
        await notes.sync(3)
        assert notes[1:] == [("disconnecting", [client.sid], "parse error"), ("disconnect", [], "parse error")]


@pytest.mark.parametrize(
    "number", ["1", "-1", '"0"', "null", "0.5", "1e3", "true"], ids=["1", "-1", "text", "null", "0.5", "1e3", "true"]
)
@looped
async def test_placeholders_out_of_range(number: str) -> None:
    """A placeholder for a missing attachment closes the connection."""
    io = SocketIO()
    notes = noted(io)
    async with served(io) as url, entered(url) as client:
        await client.say(f'51-["x",{{"_placeholder":true,"num":{number}}}]', b"\x00")
        assert (await client.closed()).code == 1002
        await notes.sync(3)


@looped
async def test_an_attachment_alone() -> None:
    """A binary message that no packet announced closes the connection."""
    async with served(SocketIO()) as url, entered(url) as client:
        await client.say(b"\x00")
        assert (await client.closed()).code == 1002


@looped
async def test_too_many_attachments() -> None:
    """More than max_attachments attachments close the connection and are counted; exactly that many do not."""
    io = SocketIO(max_attachments=2)
    heard = Notes()
    io.on("x", lambda socket, *rest: heard.append(rest))
    async with serving(io) as (partyline, url), entered(url) as client:
        holes = [f'{{"_placeholder":true,"num":{number}}}' for number in (1, 0)]
        await client.say(f'52-["x",{",".join(holes)}]', b"a", b"b")
        await heard.sync(1)
        assert heard == [(b"b", b"a")]
        await client.say('53-["x"]')
        assert (await client.closed()).code == 1002
        assert partyline.counters.limits == {"max_attachments": 1}


@looped
async def test_too_large_with_attachments() -> None:
    """A packet and its attachments share one limit: beyond it the connection is closed."""
    io = SocketIO(max_payload=1_000)
    async with serving(io) as (partyline, url), entered(url) as client:
        await client.say('52-["x"]', bytes(600), bytes(600))
        assert (await client.closed()).code == 1009
        assert partyline.counters.limits == {"max_message": 1}


@looped
async def test_invalid_packets_by_polling() -> None:
    """An invalid packet in a POST ends the session: the POST's other packets are ignored, and later requests get a
    400."""
    io = SocketIO()
    notes = noted(io)
    io.on("x", lambda socket: notes.append("ran"))
    async with served(io) as url, polled(url) as client:
        await client.enter()
        await client.say("4abc", '2["x"]')
        assert (await client.polling.post("42")).status == 400
        assert notes[1:] == [("disconnecting", [client.sid], "parse error"), ("disconnect", [], "parse error")]
        await client.polling.get()  # what is left to fetch: the close packet
        assert not io.engine.connections


@looped
async def test_invalid_packets_cost_their_sender_only() -> None:
    """An invalid packet does not affect the other clients of the namespace."""
    io = SocketIO()
    async with served(io) as url, entered(url) as other, entered(url) as client:
        await client.say("4abc")
        await client.closed()
        io.emit("x")
        assert await other.event() == ["x"]


# Refusals


@pytest.mark.parametrize("way", ["middleware", "on_connect"])
@pytest.mark.parametrize("asynchronous", [False, True])
@looped
async def test_refusals(way: str, asynchronous: bool) -> None:
    """A middleware or on_connect refuses with message and data; the client is in no room and may ask again."""
    io = SocketIO()
    notes = Notes()

    def refuse(socket: Socket) -> None:
        socket.join("room")
        if socket.handshake.auth.get("token") != "secret":
            raise ConnectionRefused("not authorized", {"code": 401})
        notes.append("passed")

    async def refuse_later(socket: Socket) -> None:
        await asyncio.sleep(0)
        refuse(socket)

    (io.use if way == "middleware" else io.on_connect)(refuse_later if asynchronous else refuse)
    io.on_disconnect(lambda socket, reason: notes.append("gone"))
    async with served(io) as url, opened(url) as client:
        await client.say("0")
        assert await client.next() == '4{"message":"not authorized","data":{"code":401}}'
        assert (io.sockets, io.rooms(), notes) == ({}, [], [])
        await client.enter("/", {"token": "secret"})
        assert notes == ["passed"]


@looped
async def test_a_refusal_without_data() -> None:
    """A refusal without data has none; data that cannot be sent is left out."""
    io = SocketIO()
    io.use(_refusing("no"))
    io.namespace("/odd").use(_refusing("no", object()))
    async with served(io) as url, opened(url) as client:
        await client.say("0", "0/odd,")
        assert await client.take(2) == ['4{"message":"no"}', '4/odd,{"message":"no"}']


def _refusing(message: str, data: Any = None) -> Any:
    def refuse(socket: Socket) -> None:
        raise ConnectionRefused(message, data)

    return refuse


@pytest.mark.parametrize("way", ["use", "on_connect"])
@looped
async def test_an_error_on_the_way_in(way: str) -> None:
    """Any other exception refuses the client, too, without giving its cause."""
    io = SocketIO()

    def fail(socket: Socket) -> None:
        raise KeyError("the password")

    getattr(io, way)(fail)
    async with serving(io) as (partyline, url), opened(url) as client:
        await client.say("0")
        assert await client.next() == '4{"message":"internal error","data":{"code":"internal"}}'
        assert partyline.counters.errors == 1
        assert io.sockets == {}


@looped
async def test_auth_is_checked() -> None:
    """Auth is bound to on_connect's annotation: what does not fit is refused with the reason."""
    io = SocketIO()
    seen = Notes()

    @io.on_connect
    def connect(socket: Socket, auth: dict[str, int]) -> None:
        seen.append(auth)

    async with served(io) as url, opened(url) as client:
        await client.say('0{"n":"x"}')
        answer = await client.next()
        assert isinstance(answer, str)
        refusal = json.loads(answer[1:])
        assert refusal["data"] == {"code": "invalid_arguments"}
        assert "Expected `int`" in refusal["message"]
        await client.enter("/", {"n": 1})
        assert seen == [{"n": 1}]


@looped
async def test_middlewares_in_order() -> None:
    """Middlewares run one after another before on_connect, separately for each namespace; a refusal ends the chain."""
    io = SocketIO()
    seen = Notes()

    @io.use
    async def first(socket: Socket) -> None:
        await asyncio.sleep(0)
        seen.append("first")

    io.use(lambda socket: seen.append("second"))
    io.namespace("/other").use(lambda socket: seen.append("other"))
    io.on_connect(lambda socket: seen.append("connect"))
    async with served(io) as url, opened(url) as client:
        await client.enter()
        assert seen == ["first", "second", "connect"]
        await client.enter("/other")
        assert seen[3:] == ["other"]


class _Later:
    """A function that returns an awaitable without being a coroutine function."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def __call__(self, socket: Socket) -> Any:
        return self._run()

    async def _run(self) -> None:
        async with asyncio.timeout(20):
            await asyncio.sleep(0)
        self._notes.append(asyncio.current_task() is not None)


@looped
async def test_whatever_awaits_on_the_way_in() -> None:
    """Middlewares and on_connect may return awaitables without being coroutine functions; timeouts work in them."""
    io = SocketIO()
    notes = Notes()
    io.use(_Later(notes))
    io.on_connect(_Later(notes))
    async with served(io) as url, entered(url), polled(url) as other:
        await other.enter()
        assert notes == [True] * 4


# Protocol 4


@looped
async def test_protocol_4() -> None:
    """A client of Socket.IO 2 is in the main namespace without asking; its CONNECT has no sid."""
    io = SocketIO(version_3=True)
    notes = noted(io)
    async with served(io) as url, opened(url, version=3, query="&token=x") as client:
        assert await client.next() == "0"
        assert only(io).handshake.query["token"] == "x"
        assert notes == [("connect", {})]
        io.emit("x", b"\x01")
        assert await client.take(2) == ['51-["x",{"_placeholder":true,"num":0}]', b"\x01"]


@looped
async def test_protocol_4_namespaces() -> None:
    """In protocol 4 a namespace has its own query, which is its auth; the answer is bare."""
    io = SocketIO(version_3=True)
    notes = noted(io, "/custom")
    async with served(io) as url, opened(url, version=3) as client:
        assert await client.next() == "0"
        await client.say("0/custom?token=a%20b&x=")
        assert await client.next() == "0/custom,"
        assert notes == [("connect", {"token": "a b", "x": ""})]
        await client.say("0/random?a=1,")
        assert await client.next() == '4/random,"Invalid namespace"'


@looped
async def test_protocol_4_refusals() -> None:
    """In protocol 4 a refusal is only the data, or the bare message."""
    io = SocketIO(version_3=True)
    io.use(_refusing("no", {"code": 401}))
    io.namespace("/plain").use(_refusing("no"))
    async with served(io) as url, opened(url, version=3) as client:
        assert await client.next() == '4{"code":401}'
        await client.say("0/plain")
        assert await client.next() == '4/plain,"no"'


@looped
async def test_protocol_4_by_polling() -> None:
    """With polling the implicit CONNECT is in the first body after the handshake; events go both ways."""
    io = SocketIO(version_3=True)
    io.on("echo", lambda socket, data: socket.emit("echo", data))
    async with served(io) as url, polled(url, version=3) as client:
        assert await client.next() == "0"
        await client.say('51-["echo",{"_placeholder":true,"num":0}]', b"\x00\xff")
        assert await client.take(2) == ['51-["echo",{"_placeholder":true,"num":0}]', b"\x00\xff"]


# The end


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@looped
async def test_a_client_that_leaves_a_namespace(transport: str) -> None:
    """DISCONNECT ends one socket, with Node's reason; others of the connection go on. Rooms are left between
    on_disconnecting and on_disconnect."""
    io = SocketIO()
    notes, others = noted(io), noted(io, "/other")
    async with served(io) as url, opened(url) if transport == "websocket" else polled(url) as client:
        await client.enter("/other")
        await client.enter()
        only(io).join("room")
        await client.say("1")
        await notes.sync(3)
        assert notes[1:] == [
            ("disconnecting", sorted([client.sid, "room"]), "client namespace disconnect"),
            ("disconnect", [], "client namespace disconnect"),
        ]
        assert len(others) == 1
        await client.enter()
        assert len(io.connections) == 1


REASONS = [
    ("close", "transport close"),
    ("drop", "transport close"),
    ("leave", "transport close"),
    ("silence", "ping timeout"),
    ("server", "server namespace disconnect"),
    ("broken", "parse error"),
]


@pytest.mark.parametrize(("how", "reason"), REASONS)
@looped
async def test_reasons(how: str, reason: str) -> None:
    """Each namespace of a connection is told once, in Node's words, why its socket is gone."""
    io = SocketIO(ping_interval=0.3, ping_timeout=0.2) if how == "silence" else SocketIO()
    notes = [noted(io), noted(io, "/other")]
    async with served(io) as url, connected(url) as peer:
        client = await on(peer)
        await client.enter()
        await client.enter("/other")
        match how:
            case "close":
                await client.leave()
            case "drop":
                peer.transport.abort()
            case "leave":
                await client.wire.say("1")
            case "server":
                only(io).disconnect(close=True)
            case "broken":
                await client.wire.say("x")
        for one in notes:
            await one.sync(3)
            assert [entry[2] for entry in one[1:]] == [reason, reason]


@looped
async def test_an_aborted_poll() -> None:
    """A GET that is aborted is a transport error."""
    io = SocketIO()
    notes = noted(io)
    async with served(io) as url, polled(url) as client:
        await client.enter()
        await client.polling.ask()
        (connection,) = io.engine.connections.values()
        await eventually(lambda: connection._session.hanging, "the GET hangs")
        client.polling.gets.transport.abort()
        await notes.sync(3)
        assert notes[-1] == ("disconnect", [], "transport error")


@looped
async def test_the_server_stops() -> None:
    """Sockets are told that the server shuts down, however they are connected, before it is gone."""
    io = SocketIO()
    notes = noted(io)
    async with serving(io) as (_, url), entered(url) as client, polled(url) as other:
        await other.enter()
        io.engine.site.draining = True
        for connection in tuple(io.engine.site.live):
            connection.shutdown()
        assert (await client.closed()).code == 1012
        await client.leave()
        await notes.sync(6)
        assert {entry[2] for entry in notes[2:]} == {"server shutting down"}
        other.polling.gets.transport.abort()


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("transport", ["websocket", "polling"])
@looped
async def test_disconnecting_a_socket(close: bool, transport: str) -> None:
    """The server disconnects a socket after what it has sent; with close the whole connection with all namespaces."""
    io = SocketIO()
    io.namespace("/other")
    notes = noted(io)
    async with served(io) as url, opened(url) if transport == "websocket" else polled(url) as client:
        await client.enter("/other")
        await client.enter()
        socket = only(io)
        socket.emit("bye", b"\x00")
        socket.disconnect(close)
        assert notes[-1] == ("disconnect", [], "server namespace disconnect")
        assert not socket.connected
        socket.emit("too late")
        socket.disconnect(True)  # nothing: it is gone
        expected: list[Any] = ['51-["bye",{"_placeholder":true,"num":0}]', b"\x00"]
        assert await client.take(2) == expected
        left = ["1/other,", "1"] if close else ["1"]
        assert await client.take(len(left)) == left
        if close:
            await eventually(lambda: not io.connections, "the connection ends")
        else:
            assert len(io.connections) == 1
            await client.say('2["under way"]', '2["under way"]')  # what was sent before it knew: dropped
            await client.enter()


@pytest.mark.parametrize("when", ["use", "on_connect"])
@pytest.mark.parametrize("close", [False, True])
@looped
async def test_disconnected_on_the_way_in(when: str, close: bool) -> None:
    """A socket that is disconnected before its CONNECT is answered is connected, then disconnected at once."""
    io = SocketIO()
    notes = noted(io)
    getattr(io, when)(lambda socket: socket.disconnect(close))
    async with served(io) as url, opened(url) as client:
        await client.say("0")
        assert str(await client.next()).startswith('0{"sid"')
        assert await client.next() == "1"
        await notes.sync(3)
        assert notes[-1] == ("disconnect", [], "server namespace disconnect")
        if close:
            assert (await client.closed()).code == 1000


@pytest.mark.parametrize("when", ["use", "on_connect"])
@looped
async def test_closed_on_the_way_in(when: str) -> None:
    """Nothing is left of a connection that ends while a middleware or on_connect runs."""
    io = SocketIO()
    notes = Notes()
    getattr(io, when)(lambda socket: socket.close(4001, "no"))
    io.on_disconnect(lambda socket, reason: notes.append(reason))
    async with served(io) as url, opened(url) as client:
        await client.say("0")
        assert (await client.closed()).code == 4001
        await client.leave()
        assert notes == (["forced close"] if when == "on_connect" else [])


@pytest.mark.parametrize("when", ["use", "on_connect"])
@looped
async def test_lost_on_the_way_in(when: str) -> None:
    """If a connection is lost while a middleware waits, the middleware is ended; an on_connect has its time, and
    on_disconnect runs after it."""
    io = SocketIO(disconnect_grace=0.05)
    notes = Notes()

    async def hang(socket: Socket) -> None:
        notes.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            notes.append("ended")

    getattr(io, when)(hang)
    io.on_disconnect(lambda socket, reason: notes.append(reason))
    async with served(io) as url, opened(url) as client:
        await client.say("0")
        await notes.sync(1)
        client.wire.peer.transport.abort()
        await notes.sync(2 if when == "use" else 3)
        assert notes == ["begun", "ended", "transport close"][: len(notes)]
    assert notes == ["begun", "ended", "transport close"][: 2 if when == "use" else 3]


@looped
async def test_on_connect_ends_behind_the_connection() -> None:
    """An on_connect that ends in time after its connection is not cancelled, and on_disconnect waits for it."""
    io = SocketIO()
    notes, go = Notes(), asyncio.Event()

    @io.on_connect
    async def connect(socket: Socket) -> None:
        notes.append("begun")
        await go.wait()
        socket.emit("nobody hears it")
        notes.append(("ended", socket.connected))

    io.on_disconnect(lambda socket, reason: notes.append(reason))
    async with served(io) as url, opened(url) as client:
        await client.say("0")
        await notes.sync(1)
        client.wire.peer.transport.abort()
        await eventually(lambda: not io.connections, "the server sees the end")
        assert notes == ["begun"]
        go.set()
        await notes.sync(3)
        assert notes == ["begun", ("ended", False), "transport close"]


@looped
async def test_too_many_events() -> None:
    """Beyond events_per_second an acknowledgement says so and the handler does not run, but acknowledgements, CONNECT
    and DISCONNECT are still handled."""
    io = SocketIO()
    heard = Notes()
    io.namespace("/other")
    io.on("x", lambda socket: heard.append("x"))
    io.on_disconnect(lambda socket, reason: heard.append(reason))
    async with serving(io, events_per_second=0.001, events_burst=4) as (partyline, url), entered(url) as client:
        await client.say('20["x"]', '21["x"]', '22["x"]', '23["x"]')
        assert await client.take(3) == ["30[]", "31[]", "32[]"]
        answer = await client.next()
        assert isinstance(answer, str)
        assert json.loads(answer[2:])[0]["error"] == "rate_limited"
        call = asyncio.ensure_future(only(io).call("question"))
        assert await client.next() == '21["question"]'
        await client.say("31[7]")
        assert await call == 7
        assert partyline.counters.limits == {"events_per_second": 2}
        await client.say("0/other,")
        assert str(await client.next()).startswith('0/other,{"sid"')
        await client.say("1")
        await heard.sync(4)
        assert heard == ["x", "x", "x", "client namespace disconnect"]
