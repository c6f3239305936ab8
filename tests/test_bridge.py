"""The relay as a Socket.IO namespace: its topics for Socket.IO clients."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from partyline import Socket, SocketIO
from partyline.entries import ApiKey
from partyline.trust.keys import key_hash
from tests.server.conftest import Run, run
from tests.server.peers import WebSocketPeer, connected, request, websocket
from tests.server.servers import nothing_is_held, partyline_server, registered

__all__ = ["run"]

PATH = "/socket.io/?EIO=4&transport=websocket"


class Client:
    """A Socket.IO client in `/relay`."""

    def __init__(self, socket: WebSocketPeer) -> None:
        self._socket = socket
        self._asked = 0
        self._early: list[str] = []  # events that came before an acknowledgement

    async def call(self, command: str, **fields: Any) -> dict[str, Any]:
        """Ask, and return the acknowledgement, which nothing else may precede."""
        self._asked += 1
        await self._socket.say(f"42/relay,{self._asked}{json.dumps([command, fields])}")
        text = await self._socket.text()
        head = f"43/relay,{self._asked}"
        assert text.startswith(head), text
        (answer,) = json.loads(text[len(head) :])
        assert isinstance(answer, dict)
        return answer

    async def command(self, command: str, fields: str) -> str:
        """Ask with fields as JSON text, and return the acknowledgement as text. Events may come before it."""
        self._asked += 1
        await self._socket.say(f'42/relay,{self._asked}["{command}",{fields}]')
        while not (text := await self._socket.text()).startswith(f"43/relay,{self._asked}"):
            self._early.append(text)
        return text

    async def event(self) -> Any:
        text = await self._socket.text()
        assert text.startswith("42/relay,"), text
        return json.loads(text[9:])

    async def text(self) -> str:
        return self._early.pop(0) if self._early else await self._socket.text()


@contextlib.asynccontextmanager
async def client(url: str, auth: dict[str, Any] | None = None) -> AsyncIterator[Client]:
    async with connected(url) as peer:
        socket = await websocket(peer, PATH)
        await socket.text()
        await socket.say("40/relay," + ("" if auth is None else json.dumps(auth)))
        assert (await socket.text()).startswith("40/relay,")
        yield Client(socket)


async def publish(url: str, topic: str, data: Any) -> dict[str, Any]:
    return await publish_raw(url, topic, json.dumps(data))


async def publish_raw(url: str, topic: str, data: str) -> dict[str, Any]:
    async with connected(url) as peer:
        await peer.send(request("POST", f"/v1/topics/{topic}/messages", b'{"data":%b}' % data.encode()))
        answer = (await peer.answer()).json
        assert isinstance(answer, dict)
        return answer


def test_one_publish_reaches_every_kind_of_client(run: Run) -> None:
    """A message published over HTTP, by a Socket.IO client or on v1 reaches Socket.IO and plain WebSocket subscribers,
    each once, with the same position; the server has it without any Socket.IO of the application's."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            ws = await registered(url, 1, "cats")
            async with client(url) as one, client(url) as two, connected(url) as peer:
                plain = await websocket(peer, ws)
                assert (await one.call("subscribe", topic="cats"))["recovered"] is True
                await two.call("subscribe", topic="*")
                position = (await publish(url, "cats", {"n": 1}))["position"]
                for member in (one, two):
                    name, message = await member.event()
                    assert name == "message"
                    assert (message["topic"], message["position"], message["data"]) == ("cats", position, {"n": 1})
                assert json.loads(await plain.text()) == {"n": 1}
                await one.call("unsubscribe", topic="cats")
                answer = await one.call("publish", topic="cats", data="hi", message_id="x")
                assert answer["position"] > position
                assert (await two.event())[1]["data"] == "hi"
                assert await plain.text() == "hi"
            await nothing_is_held(partyline)

    run(main())


def test_a_subscription_resumes_from_a_position(run: Run) -> None:
    """`subscribe` with `after` delivers what was missed, after its acknowledgement, and then what is new."""

    async def main() -> None:
        async with partyline_server() as (_, url), client(url) as one:
            first = (await publish(url, "cats", 1))["position"]
            await publish(url, "cats", 2)
            assert await one.call("subscribe", topic="cats", after=first) == {"position": first, "recovered": True}
            assert (await one.event())[1]["data"] == 2
            await publish(url, "cats", 3)
            assert (await one.event())[1]["data"] == 3
            page = await one.call("history", topic="cats", limit=2)
            assert [message["data"] for message in page["messages"]] == [1, 2]

    run(main())


def test_what_is_wrong_is_answered(run: Run) -> None:
    """A command that fails is acknowledged with an error that names it; the connection stays."""

    async def main() -> None:
        async with partyline_server() as (_, url), client(url) as one:
            assert (await one.call("subscribe", topic="a b"))["error"] == "invalid_topic"
            assert (await one.call("unsubscribe", topic="cats"))["error"] == "not_subscribed"
            assert "data" in (await one.call("publish", topic="cats"))["message"]
            assert (await one.call("presence", topic="cats")) == {"users": []}

    run(main())


def test_keys_count_here_too(run: Run) -> None:
    """A server with keys refuses clients without one, and lets a key do only what it may."""
    keys = (ApiKey(key_hash("secret-key"), ("cats",), ("cats",), admin=False),)

    async def main() -> None:
        async with partyline_server(api_keys=keys) as (_, url):
            async with connected(url) as peer:
                socket = await websocket(peer, PATH)
                await socket.text()
                await socket.say("40/relay,")
                assert json.loads((await socket.text())[len("44/relay,") :])["data"] == {"code": "unauthenticated"}
            async with client(url, {"token": "secret-key"}) as one:
                assert (await one.call("subscribe", topic="cats"))["recovered"] is True
                assert (await one.call("subscribe", topic="dogs"))["error"] == "forbidden"

    run(main())


def test_an_application_may_have_the_name(run: Run) -> None:
    """The application's own namespace `/relay` is not replaced."""
    io = SocketIO()

    @io.namespace("/relay").on("mine")
    def mine(socket: Socket) -> dict[str, bool]:
        return {"mine": True}

    async def main() -> None:
        async with partyline_server(extras=[io]) as (_, url), client(url):
            assert io.namespace("/relay")._handlers.events.keys() == {"mine"}

    run(main())


NUMBERS = (
    "1e400",
    "-1e400",
    "9" * 4_400,
    "18446744073709551616",
    "0.1000000000000000055",
    '"\\ud83d"',
    "[1e-400,-0.0]",
)


def kept(data: str) -> str:
    """How a published value is kept: half a character is U+FFFD."""
    return data.replace("\\ud83d", "\\ufffd")


def test_every_door_passes_every_number_on(run: Run) -> None:
    """A number outside what a double or 64 bits hold reaches the Socket.IO, v1, classic and event-stream subscribers of
    its topic as it was written, whichever door it came through, live, resumed and in history (hostile 50)."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            ws = await registered(url, 1, "cats")
            async with client(url) as one, connected(url) as peer, connected(url) as other, connected(url) as stream:
                await one.call("subscribe", topic="cats")
                plain = await websocket(peer, ws)
                line = await websocket(other, "/v1/ws")
                await line.text()
                await line.say('{"type":"subscribe","topic":"cats"}')
                await line.text()
                await stream.send(request("GET", "/v1/topics/cats/events"))
                await stream.head()
                for number, data in enumerate(NUMBERS):
                    if number % 2:
                        await publish_raw(url, "cats", data)
                    else:
                        answer = await one.command("publish", f'{{"topic":"cats","data":{data}}}')
                        assert '"duplicate":false' in answer
                got = b""
                for data in map(kept, NUMBERS):
                    assert f'"data":{data}' in await one.text()
                    assert f'"data":{data}' in await line.text()
                    assert await plain.text() == ("\N{REPLACEMENT CHARACTER}" if data[0] == '"' else data)
                    while b'"data":' + data.encode() not in got:
                        got += await stream.some()
                async with client(url) as late:
                    await late.command("subscribe", '{"topic":"cats","after":"earliest"}')
                    for data in map(kept, NUMBERS):
                        assert f'"data":{data}' in await late.text()
                    page = await late.command("history", '{"topic":"cats"}')
                    assert all(f'"data":{kept(data)}' in page for data in NUMBERS)
            await nothing_is_held(partyline)

    run(main())


def test_numbers_in_messagepack_are_what_javascript_reads(run: Run) -> None:
    """With the MessagePack parser a number that MessagePack has not is the nearest double; the member stays, and gets
    what comes next (hostile 50)."""
    pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode

    async def main() -> None:
        async with partyline_server(extras=[SocketIO(parser="msgpack")]) as (_, url), connected(url) as peer:
            socket = await websocket(peer, PATH)
            await socket.text()
            await socket.say_bytes(pack({"type": 0, "nsp": "/relay"}))
            await socket.bytes()

            async def call(command: str, **fields: Any) -> Any:
                await socket.say_bytes(pack({"type": 2, "nsp": "/relay", "id": 1, "data": [command, fields]}))
                return unpack(await socket.bytes())["data"][0]

            assert (await call("subscribe", topic="cats"))["recovered"] is True
            assert (await call("publish", topic="dogs", data={"a": [1]}))["topic"] == "dogs"
            assert (await call("publish", topic="dogs", data=b"x"))["error"] == "invalid_arguments"
            wanted = [math.inf, -math.inf, math.inf, 2.0**64, 0.1, "\N{REPLACEMENT CHARACTER}", [0.0, -0.0]]
            for data in NUMBERS:
                await publish_raw(url, "cats", data)
            got = [unpack(await socket.bytes())["data"][1]["data"] for _ in NUMBERS]
            assert got == wanted
            await publish_raw(url, "cats", str(2**64 - 1))
            assert unpack(await socket.bytes())["data"][1]["data"] == 2**64 - 1
            page = await call("history", topic="cats")
            assert [message["data"] for message in page["messages"]] == [*wanted, 2**64 - 1]

    run(main())
