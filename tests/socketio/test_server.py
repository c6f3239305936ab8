"""Namespaces: by name, by pattern, by function; their lives."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest

from partyline import ConfigError
from partyline.errors import CallTimeout, ConnectionRefused
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from tests.server.servers import eventually

from .clients import Notes, entered, looped, only, opened, served


@looped
async def test_static_namespaces() -> None:
    """A namespace is created by the first call, is the same at the next, and stays when nobody is in it."""
    io = SocketIO()
    assert io.namespace("/") is io
    chat = io.namespace("chat")
    assert chat.name == "/chat"
    assert io.namespace("/chat") is chat
    chat.on("x", lambda socket: socket.namespace.name)
    async with served(io) as url, entered(url, "/chat") as client:
        await client.say('2/chat,0["x"]')
        assert await client.next() == '3/chat,0["/chat"]'
        await client.say("1/chat,")
        await client.sync()
        assert io.namespaces() == ["/", "/chat", "/relay"]
        later = io.namespace("/later")  # while the server runs
        await client.enter("/later")
        assert only(io, "/later").namespace is later


PATTERNS = [
    ("/game-{id:int}", "/game-5", {"id": 5}),
    ("/game-{id:int}", "/game-x", None),
    ("/game-{id:int}", "/game-", None),
    ("/game-{id:int}", "/game-5/x", None),
    ("/game-{id:int}", "/game-\u0665", None),
    ("/game-{id:int}", "/game-" + "9" * 19, None),
    ("/{name}", "/a", {"name": "a"}),
    ("/{name}", "/a/b", None),
    ("/{name}", "/", None),
    ("/{name:str}.json", "/a.json", {"name": "a"}),
    ("/{name:str}.json", "/axjson", None),
    ("/{where:path}", "/a/b", {"where": "a/b"}),
    ("/{a}-{b}", "/x-y", {"a": "x", "b": "y"}),
    ("/{a}-{b}", "/x-y-z", {"a": "x", "b": "y-z"}),
    ("/{a}-{b}", "/xy", None),
    ("/t/{tenant}/{id:int}", "/t/é/7", {"tenant": "é", "id": 7}),
]


@pytest.mark.parametrize(("pattern", "name", "params"), PATTERNS)
@looped
async def test_patterns(pattern: str, name: str, params: dict[str, Any] | None) -> None:
    """A pattern admits clients to the namespaces that match, and gives the values of its placeholders in `params`."""
    io = SocketIO()
    seen = Notes()
    io.namespace(pattern).on_connect(lambda socket: seen.append(socket.namespace.params))
    async with served(io) as url, opened(url) as client:
        await client.say(f"0{name},")
        answer = await client.next()
        assert isinstance(answer, str)
        assert answer.startswith(f"0{name}," if params is not None else "4" if name == "/" else f"4{name},") or (
            name == "/" and answer.startswith("0")
        )
        assert seen == ([] if params is None else [params])


@pytest.mark.alone
def test_a_pattern_is_matched_in_time() -> None:
    """The longest name that a client may send is matched at once, even if it nearly fits in many ways."""
    io = SocketIO()
    pattern = io.namespace("/{a}-{b}-{c}-{d}")
    began = time.process_time()
    assert pattern.matches("/" + "-" * 1_000 + "/", {}) is None  # type: ignore[attr-defined]
    assert pattern.matches("/" + "x-" * 500 + "/", {}) is None  # type: ignore[attr-defined]
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize(
    "name", ["/a,b", "/a?b", "/{}", "/{id", "/id}", "/{id:float}", "/{1d}", "/{id}/{id}", "/{id:int}{", "/{{id}}"]
)
def test_names_that_cannot_be(name: str) -> None:
    """A name that no client could send, or an invalid pattern, is refused, and the error contains it."""
    with pytest.raises(ConfigError, match=re.escape(repr(name))):
        SocketIO().namespace(name)


@looped
async def test_namespaces_of_a_pattern() -> None:
    """The namespaces of a pattern share handlers, not members; to emit to the pattern is to emit to each of them."""
    io = SocketIO()
    games = io.namespace("/game-{id:int}")
    games.on("id", lambda socket: socket.namespace.params["id"])
    games.use(_even)
    async with served(io) as url, entered(url, "/game-2") as first, entered(url, "/game-4") as second:
        await second.enter("/game-2")
        await first.say('2/game-2,0["id"]')
        assert await first.next() == "3/game-2,0[2]"
        await first.say("0/game-3,")
        assert await first.next() == '4/game-3,{"message":"odd"}'
        io.namespace("/game-4").emit("x")
        games.emit("y")
        games.volatile.emit("z")
        games.to(first.sid).emit("first")
        assert await first.take(3) == ['2/game-2,["y"]', '2/game-2,["z"]', '2/game-2,["first"]']
        assert sorted(str(packet) for packet in await second.take(5)) == [
            '2/game-2,["y"]',
            '2/game-2,["z"]',
            '2/game-4,["x"]',
            '2/game-4,["y"]',
            '2/game-4,["z"]',
        ]
        assert len(await games.fetch_sockets()) == 3
        games.sockets_join("room")
        assert "room" in io.namespace("/game-2").rooms()
        games.sockets_leave("room")
        assert "room" not in io.namespace("/game-2").rooms()
        games.to(first.sid).disconnect_sockets()
        assert await first.next() == "1/game-2,"


def _even(socket: Socket) -> None:
    if socket.namespace.params["id"] % 2:
        raise ConnectionRefused("odd")


@looped
async def test_a_call_to_a_pattern() -> None:
    """A call to all namespaces of a pattern collects all answers and all missing clients."""
    io = SocketIO()
    games = io.namespace("/game-{id:int}")
    async with served(io) as url, entered(url, "/game-1") as first, entered(url, "/game-2") as second:
        call = asyncio.ensure_future(games.call("question", timeout=0.1))
        assert await first.next() == '2/game-1,1["question"]'
        assert await second.next() == '2/game-2,1["question"]'
        await first.say("3/game-1,1[1]")
        with pytest.raises(CallTimeout, match="1 of 2") as caught:
            await call
        assert (caught.value.answers, caught.value.missing) == ((1,), (second.sid,))
        call = asyncio.ensure_future(games.call("question"))
        await first.next()
        await second.next()
        await first.say("3/game-1,2[1]")
        await second.say("3/game-2,2[2]")
        assert await call == [1, 2]


@pytest.mark.parametrize("asynchronous", [False, True])
@looped
async def test_functions(asynchronous: bool) -> None:
    """A function decides by name and auth; its exception refuses the client, which does not see the message."""
    io = SocketIO()

    def matches(name: str, auth: dict[str, Any]) -> bool:
        if name == "/fails":
            raise KeyError("secret")
        return name.startswith("/dynamic-") and auth.get("token") == "x"

    async def matches_later(name: str, auth: dict[str, Any]) -> bool:
        await asyncio.sleep(0)
        return matches(name, auth)

    io.namespace(matches_later if asynchronous else matches)
    async with served(io) as url, opened(url) as client:
        await client.enter("/dynamic-1", {"token": "x"})
        assert only(io, "/dynamic-1").namespace.params == {}
        await client.say("0/dynamic-2,")
        assert await client.next() == '4/dynamic-2,{"message":"Invalid namespace"}'
        await client.say("0/other,")
        assert await client.next() == '4/other,{"message":"Invalid namespace"}'
        await client.say("0/fails,")
        assert await client.next() == '4/fails,{"message":"internal error","data":{"code":"internal"}}'


@looped
async def test_the_first_that_matches() -> None:
    """An existing name takes precedence over patterns, and an earlier pattern over a later one."""
    io = SocketIO()
    seen = Notes()
    io.namespace("/static").on_connect(lambda socket: seen.append("static"))
    io.namespace("/a-{n}").on_connect(lambda socket: seen.append("a-"))
    io.namespace("/{n}").on_connect(lambda socket: seen.append("any"))
    async with served(io) as url, opened(url) as client:
        for name in ("/a-1", "/b", "/static"):
            await client.enter(name)
        assert seen == ["a-", "any", "static"]


@looped
async def test_one_namespace_of_a_pattern() -> None:
    """A namespace of a pattern can have its own handlers besides those of the pattern."""
    io = SocketIO()
    seen = Notes()
    games = io.namespace("/game-{id:int}")
    games.on_connect(lambda socket: seen.append("any"))
    games.on("x", lambda socket: "any")
    async with served(io) as url, opened(url) as client:
        await client.enter("/game-1")
        await client.enter("/game-2")
        special = io.namespace("/game-1")
        special.on_connect(lambda socket: seen.append("special"))
        special.off("x")
        special.on("x", lambda socket: "special")
        await client.say('2/game-1,0["x"]', '2/game-2,0["x"]')
        assert await client.take(2) == ['3/game-1,0["special"]', '3/game-2,0["any"]']
        await client.enter("/game-3")
        assert seen == ["any"] * 3


@looped
async def test_dynamic_namespaces_vanish() -> None:
    """A namespace of a pattern exists while somebody is in it, and lasts as long as the application holds it."""
    io = SocketIO()
    games = io.namespace("/game-{id:int}")
    async with served(io) as url, entered(url, "/game-1") as client, entered(url, "/game-1") as other:
        first = only(io, "/game-1").namespace if len(io.namespace("/game-1").sockets) == 1 else io.namespace("/game-1")
        await client.say("1/game-1,")
        await client.sync()
        assert io.namespaces() == ["/", "/game-1", "/relay"]
        await other.leave()
        await eventually(lambda: io.namespaces() == ["/", "/relay"], "it vanishes")
        assert list(games.children) == ["/game-1"]  # type: ignore[attr-defined]
        assert io.engine.site.hub is not None
        assert "/game-1" not in io.engine.site.hub._owners
        await client.enter("/game-1")
        assert only(io, "/game-1").namespace is first is io.namespace("/game-1")
        first.emit("held")
        assert await client.next() == '2/game-1,["held"]'
        await client.say("1/game-1,")
        await eventually(lambda: io.namespaces() == ["/", "/relay"], "it vanishes")
        del first
        assert not games.children  # type: ignore[attr-defined]


@looped
async def test_namespaces_of_a_pattern_that_nobody_enters() -> None:
    """Nothing is left of what an application sends to namespaces in which nobody is."""
    io = SocketIO()
    games = io.namespace("/game-{id:int}")
    async with served(io):
        for number in range(100):
            one = io.namespace(f"/game-{number}")
            one.to("room").emit("x")
            await one.publish("room", "x", number)
            assert [entry.arguments for entry in await one.history("room")] == [(number,)]
        assert io.namespaces() == ["/", "/relay"]
        del one
        assert not games.children  # type: ignore[attr-defined]


@looped
async def test_a_namespace_of_a_pattern_with_handlers_of_its_own() -> None:
    """A namespace of a pattern with its own handlers stays: a client that comes after all others have left gets them,
    too."""
    io = SocketIO()
    io.namespace("/game-{id:int}")
    io.namespace("/game-1").on("x", lambda socket: "special")
    async with served(io) as url, opened(url) as client:
        for _ in range(2):
            await client.enter("/game-1")
            await client.say('2/game-1,0["x"]')
            assert await client.next() == '3/game-1,0["special"]'
            await client.say("1/game-1,")
            await client.sync()
        assert io.namespaces() == ["/", "/game-1", "/relay"]


@looped
async def test_refused_clients_leave_no_namespace() -> None:
    """Clients that are refused in a namespace of a pattern leave no namespace, however many names they try."""
    io = SocketIO()
    games = io.namespace("/game-{id:int}")
    games.use(_even)

    @games.on_connect
    async def connect(socket: Socket) -> None:
        await asyncio.sleep(0)
        raise ConnectionRefused("never")

    async with served(io) as url, opened(url) as client:
        for n in range(50):
            await client.say(f"0/game-{n},")
            assert str(await client.next()).startswith(f"4/game-{n},")
        assert io.namespaces() == ["/", "/relay"]
        assert not games.children  # type: ignore[attr-defined]


@looped
async def test_a_namespace_stays_while_somebody_is_on_the_way_in() -> None:
    """A client that is still in a middleware keeps the namespace alive, so that all that enter it meet in one."""
    io = SocketIO()
    gate, waiting = asyncio.Event(), asyncio.Event()

    @io.namespace("/game-{id:int}").use
    async def wait(socket: Socket) -> None:
        if socket.handshake.auth.get("slow"):
            waiting.set()
            await gate.wait()

    async with served(io) as url, opened(url) as client, opened(url) as other:
        await other.enter("/game-1")
        await client.say('0/game-1,{"slow":true}')
        await waiting.wait()
        await other.say("1/game-1,")
        await other.sync()
        await other.enter("/game-1")
        gate.set()
        await client.next()
        assert len(io.namespace("/game-1").sockets) == 2


def test_rules_that_cannot_be() -> None:
    """An unknown parser is refused by name; an unknown argument is Python's own error."""
    with pytest.raises(ConfigError, match="parser: 'xml'"):
        SocketIO(parser="xml")
    with pytest.raises(TypeError, match="colour"):
        SocketIO(colour="red")


@looped
async def test_settings_and_arguments() -> None:
    """Limits are those of the settings of the same names, unless the SocketIO has its own."""
    io = SocketIO(max_attachments=3)
    async with served(io, max_attachments=4, max_pending_events=5, connect_timeout=6.0, rooms_per_connection=7):
        assert (io.max_attachments, io.max_pending_events, io.connect_timeout, io.rooms_per_connection) == (
            3,
            5,
            6.0,
            7,
        )


@looped
async def test_another_path() -> None:
    """A SocketIO is served on the path that it is given, and nowhere else."""
    io = SocketIO("/chat/")
    async with served(io) as url:
        with pytest.raises(AssertionError, match="404"):
            async with opened(url):
                pass


@looped
async def test_msgpack() -> None:
    """With the MessagePack parser packets are binary messages that contain binary values directly."""
    import msgspec

    io = SocketIO(parser="msgpack")
    io.on("x", lambda socket, value: value)
    read = msgspec.msgpack.decode
    async with served(io) as url, opened(url) as client:
        await client.say(msgspec.msgpack.encode({"type": 0, "nsp": "/"}))
        answer = await client.next()
        assert isinstance(answer, bytes)
        packet = read(answer)
        assert (packet["type"], packet["nsp"], list(packet["data"])) == (0, "/", ["sid"])
        await client.say(msgspec.msgpack.encode({"type": 2, "nsp": "/", "id": 7, "data": ["x", b"\x00"]}))
        answer = await client.next()
        assert isinstance(answer, bytes)
        assert read(answer) == {"type": 3, "nsp": "/", "id": 7, "data": [b"\x00"]}
        only(io).disconnect()
        answer = await client.next()
        assert isinstance(answer, bytes)
        assert read(answer) == {"type": 1, "nsp": "/"}
