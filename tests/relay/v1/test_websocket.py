"""/v1/ws over real sockets: every command, its answers, and what a subscriber is promised."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from partyline import Partyline, Settings, running
from partyline.entries import ApiKey
from partyline.errors import StoreUnavailable
from partyline.interfaces import View
from partyline.models import Draft, Page
from partyline.trust.keys import Principal, key_hash
from tests.calls import call, register
from tests.server.servers import eventually

WITHIN = 30.0  # seconds: longer than anything here takes
UNKNOWN = "f" * 16

Frame = dict[str, Any]


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def settings(**fields: Any) -> Settings:
    return Settings(port=0, db=":memory:", **fields)


def api_key(name: str, **rights: Any) -> ApiKey:
    return ApiKey(key_hash(name), **rights)


def let_in(partyline: Partyline, **principals: Principal) -> None:
    """Accept these names as tokens, because keys have no user, and tokens with one are made elsewhere."""
    ring = partyline.relay._services.access._keys
    ring._keys = (*ring._keys, *((key_hash(name).encode(), who) for name, who in principals.items()))


def person(user: str, **rights: Any) -> Principal:
    return Principal(**{"publish": (">",), "subscribe": (">",), **rights}, user=user)


class Line:
    """A v1 client. Whatever arrives while it waits for something else stays in `heard`, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: deque[Frame] = deque()
        self._ids = itertools.count(1000)

    async def next(self) -> Frame:
        """The next frame, whatever it is."""
        if self.heard:
            return self.heard.popleft()
        return await self._read()

    async def _read(self) -> Frame:
        async with asyncio.timeout(WITHIN):
            frame: Frame = json.loads(await self.socket.recv())
        return frame

    async def say(self, *commands: Frame) -> None:
        for command in commands:
            await self.socket.send(json.dumps(command))

    async def ask(self, kind: str, **fields: Any) -> Frame:
        """Send a command; the frame that answers it, without its `id`."""
        number = next(self._ids)
        await self.say({"type": kind, "id": number, **fields})
        return await self.answer(number)

    async def answer(self, number: int | str) -> Frame:
        """The frame that answers the command with this id, without the id."""
        for position, frame in enumerate(self.heard):
            if frame.get("id") == number and frame["type"] in ("reply", "error"):
                del self.heard[position]
                break
        else:
            while (frame := await self._read()).get("id") != number or frame["type"] not in ("reply", "error"):
                self.heard.append(frame)
        del frame["id"]
        return frame

    async def settle(self) -> list[Frame]:
        """All that was on its way when this is called."""
        assert await self.ask("ping") == {"type": "reply"}
        frames = list(self.heard)
        self.heard.clear()
        return frames

    async def messages(self, count: int) -> list[Frame]:
        """The next frames, which must be this many messages."""
        frames = [await self.next() for _ in range(count)]
        assert {frame["type"] for frame in frames} <= {"message"}, frames
        return frames

    async def data(self, count: int) -> list[Any]:
        return [frame["data"] for frame in await self.messages(count)]

    async def position(self) -> str:
        """The head of the log."""
        name = f"head.{secrets.token_hex(4)}"
        reply = await self.ask("subscribe", topic=name)
        await self.ask("unsubscribe", topic=name)
        return str(reply["position"])

    async def ended(self) -> tuple[int | None, str | None]:
        async with asyncio.timeout(WITHIN):
            await self.socket.wait_closed()
        return self.socket.close_code, self.socket.close_reason


@contextlib.asynccontextmanager
async def line(url: str, token: str | None = None, *, welcome: bool = True, **options: Any) -> AsyncIterator[Line]:
    """A connection to /v1/ws; a token is sent beside the subprotocol."""
    address = url.replace("http", "ws", 1) + "/v1/ws"
    offered = ["partyline.v1", *([] if token is None else [f"bearer.{token}"])]
    async with connect(address, **{"subprotocols": offered, "max_size": None, **options}) as socket:
        client = Line(socket)
        if welcome:
            assert (await client.next())["type"] == "welcome"
        yield client


def offset(position: str) -> int:
    return int(position.rpartition("-")[2])


def behind(position: str, count: int) -> str:
    """The position `count` further on."""
    epoch, _, number = position.rpartition("-")
    return f"{epoch}-{int(number) + count}"


def slow_reads(partyline: Partyline) -> None:
    """Let every read of the log take some turns of the loop, as with a file."""
    read = partyline.store.read

    async def slow(view: View, after: int, limit: int) -> Page:
        await asyncio.sleep(0)
        page = await read(view, after, min(limit, 7))
        await asyncio.sleep(0)
        return page

    partyline.store.read = slow  # type: ignore[method-assign]


def reads(partyline: Partyline, *before: Callable[[], Awaitable[None]]) -> None:
    """Call each of `before` ahead of one read of the log, the first one before the first read."""
    read, queue = partyline.store.read, deque(before)

    async def counted(view: View, after: int, limit: int) -> Page:
        if queue:
            await queue.popleft()()
        return await read(view, after, limit)

    partyline.store.read = counted  # type: ignore[method-assign]


async def nothing() -> None:
    pass


# Opening


def test_welcome_comes_first() -> None:
    """The first frame is `welcome` with the public id, the server and the heartbeat; the subprotocol is agreed."""

    async def main() -> None:
        async with running(settings(ping_interval=7.5)) as (_, url), line(url, welcome=False) as client:
            welcome = await client.next()
            assert client.socket.subprotocol == "partyline.v1"
            assert set(welcome) == {"type", "connection", "server", "heartbeat"}
            assert welcome["server"].startswith("partyline/")
            assert welcome["heartbeat"] == 7.5
            status, listed = await call(f"{url}/v1/connections")
            assert status == 200
            assert [one["id"] for one in listed["connections"]] == [welcome["connection"]]

    run(main())


def test_welcome_has_a_read_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """`welcome` is not sent with the 101, because a library that passes on what one read brings would lose it while the
    caller still waits for the opening; but it precedes any answer."""
    monkeypatch.setattr("partyline.relay.v1.websocket.OWN_READ", 600.0)

    async def main() -> None:
        async with running(settings()) as (_, url), line(url, welcome=False, user_agent_header=None) as client:
            await client.socket.send('{"type":"ping","id":1}')
            assert [(await client.next())["type"] for _ in range(2)] == ["welcome", "reply"]
        async with running(settings()) as (_, url), line(url, welcome=False, user_agent_header=None):
            pass  # closed before its welcome

    run(main())


@pytest.mark.parametrize(
    ("agent", "options", "waits"),
    [
        (None, {}, True),
        ("node", {}, True),
        ("undici", {}, True),
        ("Mozilla/5.0", {}, False),
        ("Python/3.12 websockets/13.1", {}, False),
        (None, {"origin": "{url}"}, False),
    ],
)
def test_who_waits_for_the_welcome(
    monkeypatch: pytest.MonkeyPatch, agent: str | None, options: dict[str, str], waits: bool
) -> None:
    """Only clients that may lose what arrives in one read with the 101 wait for `welcome`."""
    monkeypatch.setattr("partyline.relay.v1.websocket.OWN_READ", 600.0)

    async def main() -> None:
        async with running(settings()) as (_, url):
            told = {name: value.format(url=url) for name, value in options.items()}
            async with line(url, welcome=False, user_agent_header=agent, **told) as client:
                if waits:
                    assert len((await call(f"{url}/v1/connections"))[1]["connections"]) == 1
                    with pytest.raises(TimeoutError):  # what came with the 101 would be here by now
                        async with asyncio.timeout(0):
                            await client.socket.recv()
                else:
                    assert (await client.next())["type"] == "welcome"

    run(main())


def test_ids_and_users_are_numbers_as_json_has_them() -> None:
    """An id may be any number, and 7.0 is the user 7, as everywhere else."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            await client.socket.send('{"type":"ping","id":1.5}')
            assert (await client.next())["id"] == 1.5
            await client.socket.send('{"type":"publish","id":2,"topic":"cats","data":1,"user_id":7.0}')
            assert (await client.next())["type"] == "reply"
            await client.socket.send('{"type":"publish","id":3,"topic":"cats","data":1,"user_id":7.5}')
            assert (await client.next())["code"] == "invalid_user_id"

    run(main())


def test_a_client_without_subprotocols_is_served() -> None:
    """A client that offers no subprotocol gets none in the answer, and is served."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url, subprotocols=None) as client:
            assert client.socket.subprotocol is None
            assert await client.ask("ping") == {"type": "reply"}

    run(main())


# Commands


def test_every_answer_repeats_the_id() -> None:
    """Each command is answered with its `id`, number or text, and without one if it had none."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            commands: list[Frame] = [
                {"type": "subscribe", "topic": "cats"},
                {"type": "publish", "topic": "dogs", "data": 1},
                {"type": "history", "topic": "dogs"},
                {"type": "presence", "topic": "cats"},
                {"type": "unsubscribe", "topic": "cats"},
                {"type": "ping"},
                {"type": "subscribe", "topic": "no topic"},  # errors have an id, too
                {"type": "unsubscribe", "topic": "birds"},
                {"type": "auth", "token": "x"},
                {"type": "nonsense"},
                {"type": "ping", "topic": {}},
                {"type": "publish", "topic": "dogs"},
            ]
            for command in commands:
                for command_id in (0, 7, "seven", "", 2**53 - 1):
                    await client.say({**command, "id": command_id})
                    answer = await client.next()
                    assert (answer["type"] in ("reply", "error"), answer.get("id")) == (True, command_id), command
                    if command["type"] == "subscribe" and answer["type"] == "reply":
                        await client.ask("unsubscribe", topic="cats")
                    if command["type"] == "unsubscribe" and answer["type"] == "reply":
                        await client.ask("subscribe", topic="cats")
                    if command["type"] == "presence":
                        await client.ask("subscribe", topic="cats")
                await client.say(command)
                assert "id" not in await client.next(), command

    run(main())


def test_publish_is_answered_with_its_place() -> None:
    """A publish is answered with topic, position, message id and whether it is a duplicate; a subscriber gets it."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as client, line(url) as other:
            start = await other.ask("subscribe", topic="cats")
            assert set(start) == {"type", "position", "recovered"}
            first = await client.ask("publish", topic="cats", data={"a": [1, 2.50]}, message_id="m1", key="k")
            position = behind(start["position"], 1)
            assert first == {
                "type": "reply",
                "topic": "cats",
                "position": position,
                "message_id": "m1",
                "duplicate": False,
            }
            assert position == f"{partyline.store.epoch}-1"
            (message,) = await other.messages(1)
            assert abs(message.pop("time") - time.time()) < 60
            assert message == {
                "type": "message",
                "topic": "cats",
                "position": position,
                "id": "m1",
                "data": {"a": [1, 2.5]},
                "key": "k",
            }
            again = await client.ask("publish", topic="cats", data={"a": [1, 2.50]}, message_id="m1", key="k")
            assert again == {**first, "duplicate": True}
            conflict = await client.ask("publish", topic="cats", data=2, message_id="m1", key="k")
            assert (conflict["type"], conflict["code"]) == ("error", "id_conflict")
            assert await other.settle() == []

    run(main())


def test_ephemeral_messages_have_no_position() -> None:
    """With `durable: false`, or in an ephemeral topic, a message has the position null and is in no history."""

    async def main() -> None:
        async with running(settings(ephemeral_topics=("typing.>",))) as (_, url), line(url) as client:
            for topic, durable in (("cats", False), ("typing.cats", None), ("typing.cats", True)):
                await client.ask("subscribe", topic=topic)
                reply = await client.ask("publish", topic=topic, data=1, durable=durable)
                (message,) = await client.messages(1)
                assert (reply["position"] is None) == (message["position"] is None) == (durable is not True)
                history = await client.ask("history", topic=topic)
                assert len(history["messages"]) == (durable is True)
                await client.ask("unsubscribe", topic=topic)

    run(main())


def test_history_pages_follow_each_other() -> None:
    """Pages of `history`, each read after the last one's `next`, give every message once, in order."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            for number in range(25):
                await client.ask("publish", topic=("cats", "dogs")[number % 2], data=number)
            got: list[Any] = []
            after = None
            for page_number in range(5):
                fields = {} if after is None else {"after": after}
                page = await client.ask("history", topic="cats", limit=3, **fields)
                assert set(page) == {"type", "topic", "messages", "next", "more", "recovered"}
                assert (page["topic"], page["recovered"], page["more"]) == ("cats", True, page_number < 4)
                for message in page["messages"]:
                    assert set(message) == {"position", "id", "time", "data"}
                got += [message["data"] for message in page["messages"]]
                after = page["next"]
            assert got == list(range(0, 25, 2))
            assert after == await client.position()

    run(main())


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"type": "history", "topic": "cats", "limit": 0}, "invalid"),
        ({"type": "history", "topic": "cats", "limit": 1001}, "invalid"),
        ({"type": "history", "topic": "cats", "limit": -(2**70)}, "invalid"),
        ({"type": "history", "topic": "cats", "limit": "5"}, "invalid"),
        ({"type": "history", "topic": "cats.*"}, "invalid_topic"),
        ({"type": "history", "topic": "cats", "after": ""}, "invalid_position"),
        ({"type": "subscribe", "topic": "cats", "after": "soon"}, "invalid_position"),
        ({"type": "subscribe", "topic": "cats", "after": f"{UNKNOWN}-01"}, "invalid_position"),
        ({"type": "subscribe", "topic": "cats", "after": f"{UNKNOWN}--1"}, "invalid_position"),
        ({"type": "subscribe", "topic": "cats", "after": f"{UNKNOWN}-{2**53}"}, "invalid_position"),
        ({"type": "subscribe", "topic": "cats", "after": f"{UNKNOWN}-1\n"}, "invalid_position"),
        ({"type": "subscribe", "topic": "cats", "after": f"{UNKNOWN}-\u0661"}, "invalid_position"),
        ({"type": "subscribe", "topic": "cats", "after": 5}, "invalid"),
        ({"type": "subscribe", "topic": "cats", "presence": "yes"}, "invalid"),
        ({"type": "subscribe", "topic": "cats.*", "presence": True}, "invalid"),
        ({"type": "subscribe"}, "invalid"),
        ({"type": "subscribe", "topic": None}, "invalid"),
        ({"type": "subscribe", "topic": ["cats"]}, "invalid"),
        ({"type": "unsubscribe", "topic": "cats"}, "not_subscribed"),
        ({"type": "unsubscribe", "topic": "\r\n" * 500}, "not_subscribed"),
        ({"type": "unsubscribe", "topic": "\r\n" * 100_000}, "invalid"),
        ({"type": "publish", "topic": "cats"}, "invalid"),
        ({"type": "publish", "topic": "cats", "data": 1, "ttl": 0}, "invalid"),
        ({"type": "publish", "topic": "cats", "data": 1, "ttl": -1}, "invalid"),
        ({"type": "publish", "topic": "cats", "data": 1, "ttl": 10**300}, "invalid"),
        ({"type": "publish", "topic": "cats", "data": 1, "ttl": True}, "invalid"),
        ({"type": "publish", "topic": "cats", "data": 1, "durable": 1}, "invalid"),
        ({"type": "publish", "topic": "cats", "data": 1, "message_id": ""}, "invalid"),
        ({"type": "publish", "topic": "cats", "data": 1, "message_id": "x" * 129}, "invalid"),
        ({"type": "publish", "topic": "cats", "data": 1, "message_id": "a\nb"}, "invalid"),
        ({"type": "publish", "topic": "cats", "data": 1, "key": "a\0b"}, "invalid"),
        ({"type": "publish", "topic": "cats", "data": 1, "key": 1}, "invalid"),
        ({"type": "publish", "topic": "cats", "data": 1, "user_id": -1}, "invalid_user_id"),
        ({"type": "publish", "topic": "cats", "data": 1, "user_id": 2**63}, "invalid_user_id"),
        ({"type": "publish", "topic": "cats", "data": 1, "user_id": ""}, "invalid_user_id"),
        ({"type": "publish", "topic": "cats", "data": 1, "user_id": "a\u2028b"}, "invalid_user_id"),
        ({"type": "publish", "topic": "cats", "data": 1, "user_id": 1.5}, "invalid_user_id"),
        ({"type": "presence", "topic": "cats.*"}, "invalid_topic"),
        ({"type": "presence"}, "invalid"),
        ({"type": "auth"}, "invalid"),
        ({"type": "auth", "token": 1}, "invalid"),
        ({"type": "auth", "token": "x"}, "already_authenticated"),
        ({"type": "SUBSCRIBE", "topic": "cats"}, "invalid"),
        ({"type": None}, "invalid"),
        ({"type": 1}, "invalid"),
        ({"topic": "cats"}, "invalid"),
        ({}, "invalid"),
    ],
)
def test_wrong_commands_cost_nothing_but_an_error(command: Frame, code: str) -> None:
    """A malformed command is answered with an error and its id; the connection stays."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as client:
            answer = await client.ask(
                **{"kind": command.get("type"), **{k: v for k, v in command.items() if k != "type"}}
            )
            assert (answer["type"], answer["code"]) == ("error", code), answer
            assert set(answer) == {"type", "code", "message"}
            assert len(answer["message"]) < 1_000
            assert await client.settle() == []
            assert partyline.counters.errors == 0
            assert not partyline.hub.rooms.names()

    run(main())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("null", "invalid"),
        ("[]", "invalid"),
        ("7", "invalid"),
        ('"ping"', "invalid"),
        ("ping", "malformed_json"),
        ("", "malformed_json"),
        (" \r\n", "malformed_json"),
        ("{", "malformed_json"),
        ('{"type":"ping"}x', "malformed_json"),
        ('{"type":"ping"}{"type":"ping"}', "malformed_json"),
        ('{"type":"ping","x":NaN}', "malformed_json"),
        ("{'type':'ping'}", "malformed_json"),
        ('{"type":"ping","x":"\x00"}', "malformed_json"),
        ('{"type":"publish","topic":"cats","data":"a\nb"}', "malformed_json"),
        ('{"type":"publish","topic":"cats","data":01}', "malformed_json"),
        ('{"type":"publish","topic":"cats","data":tru}', "malformed_json"),
        ('{"type":"publish","topic":"cats","data":[1,]}', "malformed_json"),
        ('{"type":"publish","topic":"cats","data":"\\x"}', "malformed_json"),
        ('{"type":"publish","topic":"cats","data":1,"user_id":' + "9" * 30 + "}", "invalid_user_id"),
        ('{"type":"publish","topic":"cats","data":1,"user_id":' + "9" * 100_000 + "}", "invalid"),
        ('{"type":"publish","topic":"cats","data":1,"ttl":1e999}', "invalid"),
        ('{"type":"ping","id":[1]}', "invalid"),
        ('{"type":"ping","id":{}}', "invalid"),
        ('{"type":"ping","id":true}', "invalid"),
        ('{"type":"ping","id":' + "9" * 100_000 + "}", "invalid"),
        ('{"type":"ping","x":' + "[" * 64 + "]" * 64 + "}", "too_deep"),
        ('{"type":"ping","x":' + "[" * 10_000 + "]" * 10_000 + "}", "too_deep"),
        ("[" * 100_000, "too_deep"),
        ('{"a":' * 100_000, "too_deep"),
        (b"\x00\x01", "unknown_command"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_hostile_29_json_of_every_shape(text: str | bytes, code: str) -> None:
    """Null, endless nesting, huge numbers and half JSON each get an error, and none counts as the server's."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as client:
            await client.socket.send(text)
            answer = await client.next()
            assert (answer["type"], answer["code"]) == ("error", code), answer
            assert len(answer["message"]) < 1_000
            assert await client.settle() == []
            assert partyline.counters.errors == 0

    run(main())


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"type":"ping","id":1,"id":2}', {"type": "reply", "id": 2}),
        ('\t{ "id" : 3 ,\r\n "type" : "ping" , "more" : {} }\n', {"type": "reply", "id": 3}),
        ('{"id":"\\ud83d\\ude00\\ud800","type":"ping"}', {"type": "reply", "id": "\U0001f600\ufffd"}),
        ('{"id":' + "9" * 30 + ',"type":"ping"}', {"type": "reply", "id": int("9" * 30)}),
        ('{"id":null,"type":"ping"}', {"type": "reply"}),
        ('{"type":"ping","x":' + "[" * 63 + "]" * 63 + "}", {"type": "reply"}),
        ('{"type":"ping","x":"' + "[" * 1_000 + '"}', {"type": "reply"}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_odd_json_is_read(text: str, answer: Frame) -> None:
    """Repeated keys (the last one counts), spaces, unknown fields, lone surrogates and large ids are not errors."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            await client.socket.send(text)
            assert await client.next() == answer

    run(main())


@pytest.mark.parametrize(
    "data",
    ["null", "0", "-1.5e300", "1e999", '""', '"\\u0000\\r\\n\\u2028"', "[]", '{"a":1,"a":2}', "9" * 5_000, '"\\ud800"'],
    ids=lambda value: value[:20],
)
def test_any_json_travels_as_it_was_written(data: str) -> None:
    """Any JSON value reaches subscriber and history with the same text; a lone surrogate becomes U+FFFD."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            await client.ask("subscribe", topic="cats")
            await client.socket.send('{"type":"publish","topic":"cats","data": ' + data + " }")
            async with asyncio.timeout(WITHIN):
                frames = [str(await client.socket.recv()) for _ in range(2)]
                await client.socket.send('{"type":"history","topic":"cats"}')
                frames.append(str(await client.socket.recv()))
            message = next(frame for frame in frames if '"message"' in frame)
            for text in (message, frames[2]):
                assert f'"data":{data.replace("ud800", "ufffd")}' in text

    run(main())


@pytest.mark.parametrize(
    "topic",
    [
        *("", " ", "a b", "a..b", ".a", "a.", "a\nb", "a\0b", "a\x7fb", "a\u00a0b", "\u202e", "\u2028", "x" * 201),
        *("a/b", "a?b", "a#b", "a%b", "a\\b", "$a", "$SYS.x"),
    ],
    ids=ascii,
)
def test_hostile_32_and_38_names_that_are_none(topic: str) -> None:
    """Control characters, spaces, reserved and overlong names are `invalid_topic` for every command that names one."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as client:
            for kind in ("subscribe", "publish", "history", "presence"):
                answer = await client.ask(kind, topic=topic, data=1)
                assert (answer["type"], answer["code"]) == ("error", "invalid_topic")
                assert answer["message"].isprintable()
            for pattern in (f"{topic}.*", f"{topic}.>"):
                answer = await client.ask("subscribe", topic=pattern)
                assert (answer["type"], answer["code"]) == ("error", "invalid_topic"), pattern
            assert await client.settle() == []
            assert partyline.counters.errors == 0

    run(main())


def test_a_publish_names_one_exact_topic() -> None:
    """A pattern can be subscribed to, and not be published to."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            for pattern in ("*", ">", "a.*", "a.>", "*.b"):
                assert (await client.ask("publish", topic=pattern, data=1))["code"] == "invalid_topic"
                assert (await client.ask("subscribe", topic=pattern))["type"] == "reply"
            for pattern in ("a*", "a.>.b", ">.a", "a.b>", "**", "a.*b"):
                assert (await client.ask("subscribe", topic=pattern))["code"] == "invalid_topic"

    run(main())


def test_a_topic_may_be_any_language() -> None:
    """Printable Unicode up to 200 characters is a topic."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            for topic in ("чат.общий", "猫", "\U0001f600", "x" * 200, "a$b", "a-b_c:d@e,f;g=h+i!"):
                await client.ask("subscribe", topic=topic)
                await client.ask("publish", topic=topic, data=topic)
                assert await client.data(1) == [topic]

    run(main())


def test_one_name_is_subscribed_once() -> None:
    """A second subscription to the same name gets `already_subscribed`; after unsubscribing it begins anew."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client, line(url) as publisher:
            for name in ("cats", "cats.*"):
                assert (await client.ask("subscribe", topic=name))["type"] == "reply"
                assert (await client.ask("subscribe", topic=name, after="earliest"))["code"] == "already_subscribed"
                assert await client.ask("unsubscribe", topic=name) == {"type": "reply"}
                assert (await client.ask("unsubscribe", topic=name))["code"] == "not_subscribed"
            await publisher.ask("publish", topic="cats", data=1)
            assert await client.settle() == []
            await client.ask("subscribe", topic="cats", after="earliest")
            assert await client.data(1) == [1]

    run(main())


def test_commands_take_effect_in_their_order() -> None:
    """Commands sent without waiting for answers take effect in the order in which they were sent."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            await client.ask("publish", topic="cats", data=1)
            await client.ask("subscribe", topic="cats")
            await client.say(
                {"type": "subscribe", "topic": "dogs", "after": "earliest", "id": "a"},
                {"type": "unsubscribe", "topic": "cats", "id": "b"},
                {"type": "subscribe", "topic": "cats", "after": "earliest", "id": "c"},
                {"type": "history", "topic": "cats", "id": "d"},
            )
            for command_id in "abcd":
                answer = await client.answer(command_id)
                assert answer["type"] == "reply", (command_id, answer)
            await client.ask("publish", topic="cats", data=2)
            assert [frame["data"] for frame in await client.settle()] == [1, 2]

    run(main())


# Who


def test_a_token_comes_by_header_subprotocol_or_command() -> None:
    """A key is accepted in Authorization, beside the subprotocol and in the first command, and may then subscribe."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("k1"),))) as (_, url):
            async with line(url, additional_headers={"Authorization": "Bearer k1"}) as client:
                assert (await client.ask("subscribe", topic="cats"))["type"] == "reply"
            async with line(url, "k1") as client:
                assert client.socket.subprotocol == "partyline.v1"
                assert (await client.ask("subscribe", topic="cats"))["type"] == "reply"
            async with line(url) as client:
                refused = await client.ask("subscribe", topic="cats")
                assert (refused["type"], refused["code"]) == ("error", "unauthenticated")
                assert await client.ask("ping") == {"type": "reply"}
                assert await client.ask("auth", token="k1") == {"type": "reply"}
                assert (await client.ask("subscribe", topic="cats"))["type"] == "reply"
                assert (await client.ask("auth", token="k1"))["code"] == "already_authenticated"

    run(main())


def test_nothing_is_told_to_the_unidentified() -> None:
    """Before it has authenticated, a connection can neither publish nor read, and receives nothing."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("k1"),))) as (partyline, url), line(url) as client:
            for kind in ("subscribe", "unsubscribe", "publish", "history", "presence"):
                answer = await client.ask(kind, topic="cats", data=1)
                assert answer["code"] == "unauthenticated", kind
            async with line(url, "k1") as publisher:
                await publisher.ask("publish", topic="cats", data=1)
            assert await client.settle() == []
            assert not partyline.hub.rooms.names()
            assert partyline.store.head == 1

    run(main())


def test_a_wrong_token_is_told_and_closed() -> None:
    """A wrong token gets 401 before the upgrade, and in the first command an error and the close code 4401."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("k1"),))) as (partyline, url):
            for options in ({"token": "wrong"}, {"additional_headers": {"Authorization": "Bearer wrong"}}):
                with pytest.raises(websockets.InvalidStatus) as refused:
                    async with line(url, **options):  # type: ignore[arg-type]
                        pass
                assert refused.value.response.status_code == 401
                assert refused.value.response.headers["WWW-Authenticate"] == "Bearer"
                assert b"wrong" not in (refused.value.response.body or b"")
            async with line(url) as client:
                answer = await client.ask("auth", token="wrong")
                assert (answer["type"], answer["code"]) == ("error", "unauthenticated")
                assert await client.ended() == (4401, "unauthenticated")
            await eventually(lambda: not partyline.site.live, "the connection is let go of")

    run(main())


@pytest.mark.alone
def test_too_slow_to_identify() -> None:
    """Without a valid `auth` a connection is closed with 4408 after first_command_timeout, whatever else it says."""

    async def main() -> None:
        keys = (api_key("k1"),)
        async with running(settings(api_keys=keys, first_command_timeout=1.0)) as (_, url):
            loop = asyncio.get_running_loop()
            async with line(url) as quick:
                await quick.ask("auth", token="k1")
                began = loop.time()
                async with line(url) as silent, line(url) as busy:
                    for _ in range(10):  # well below what a stranger may send
                        await busy.ask("ping")
                    for client in (silent, busy):
                        assert await client.ended() == (4408, "too slow to identify")
                    assert 1.0 <= loop.time() - began < 4.0
                assert await quick.ask("ping") == {"type": "reply"}

    run(main())


def test_a_token_ends_with_4401() -> None:
    """When its token expires, a connection is closed with 4401."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("k1"),))) as (partyline, url):
            let_in(partyline, ann=Principal((">",), (">",), user="ann", expires=time.time() + 0.15))
            async with line(url, "ann") as client:
                await client.ask("subscribe", topic="cats")
                assert (await client.ended())[0] == 4401

    run(main())


def test_rights_go_by_pattern() -> None:
    """Publish, subscribe, history and presence each need a grant that covers the topic, or the whole of a pattern."""

    async def main() -> None:
        keys = (
            api_key("reader", publish=(), subscribe=("orders.*.eu", "open")),
            api_key("writer", publish=("orders.>",), subscribe=()),
        )
        async with running(settings(api_keys=keys)) as (partyline, url):
            async with line(url, "reader") as reader, line(url, "writer") as writer:
                for name in ("orders.*.eu", "orders.7.eu", "open"):
                    assert (await reader.ask("subscribe", topic=name))["type"] == "reply", name
                for name in ("orders.7.us", "orders.>", "orders.*.*", "orders.eu", ">", "*", "open.more", "closed"):
                    for after in ("latest", "earliest"):
                        answer = await reader.ask("subscribe", topic=name, after=after)
                        assert (answer["type"], answer["code"]) == ("error", "forbidden"), name
                for kind in ("history", "presence"):
                    assert (await reader.ask(kind, topic="orders.7.eu"))["type"] == "reply"
                    assert (await reader.ask(kind, topic="orders.7.us"))["code"] == "forbidden"
                    assert (await writer.ask(kind, topic="orders.7.eu"))["code"] == "forbidden"
                assert (await reader.ask("publish", topic="orders.7.eu", data=1))["code"] == "forbidden"
                assert (await writer.ask("publish", topic="orders", data=1))["code"] == "forbidden"
                assert (await writer.ask("publish", topic="open", data=1))["code"] == "forbidden"
                assert (await writer.ask("subscribe", topic="orders.7.eu"))["code"] == "forbidden"
                assert (await writer.ask("publish", topic="orders.7.us", data=1))["type"] == "reply"
                assert (await writer.ask("publish", topic="orders.7.eu", data=2))["type"] == "reply"
                assert await reader.data(1) == [2]
                assert await reader.settle() == []
            assert partyline.store.head == 2

    run(main())


def test_hostile_40_direct_messages_reach_their_user_alone() -> None:
    """A message for one user reaches that user's connections, live, resumed and in history, and nobody else's."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("admin", admin=True),))) as (partyline, url):
            let_in(partyline, ann=person("ann"), bob=person("7"), eve=person("eve", admin=True))
            async with (
                line(url, "ann") as phone,
                line(url, "ann") as laptop,
                line(url, "bob") as bob,
                line(url, "eve") as eve,
                line(url, "admin") as admin,
            ):
                everybody = (phone, laptop, bob, eve, admin)
                for client in everybody:
                    await client.ask("subscribe", topic="cats")
                    await client.ask("subscribe", topic=">")
                reply = await bob.ask("publish", topic="cats", data="psst", user_id="ann")
                await admin.ask("publish", topic="cats", data="for seven", user_id=7)
                await admin.ask("publish", topic="cats", data="for all")
                for client in (phone, laptop):
                    frames = await client.settle()
                    assert [frame["data"] for frame in frames] == ["psst", "for all"]
                    assert (frames[0]["from"], frames[0]["user_id"]) == ("7", "ann")
                    assert "from" not in frames[1]
                assert [frame["data"] for frame in await bob.settle()] == ["for seven", "for all"]
                for client in (eve, admin):
                    assert [frame["data"] for frame in await client.settle()] == ["for all"]
                expected = {"ann": ["psst", "for all"], "bob": ["for seven", "for all"], "eve": ["for all"]}
                for token, data in expected.items():
                    async with line(url, token) as again:
                        page = await again.ask("history", topic="cats")
                        assert [message["data"] for message in page["messages"]] == data
                        for name in (">", "cats"):  # the second time there is nothing left to send
                            await again.ask("subscribe", topic=name, after="earliest")
                        assert [frame["data"] for frame in await again.settle()] == data
                assert offset(reply["position"]) == 1

    run(main())


def test_the_sender_is_the_authenticated_one() -> None:
    """`from` is the publisher's user, whatever it claims."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("admin"),))) as (partyline, url):
            let_in(partyline, ann=person("ann"))
            async with line(url, "ann") as ann:
                await ann.ask("subscribe", topic="cats")
                await ann.say({"type": "publish", "topic": "cats", "data": 1, "from": "bob", "sender": "bob"})
                frame = await ann.next()
                assert (frame["type"], frame["from"]) == ("message", "ann")

    run(main())


def test_message_ids_are_each_publishers_own() -> None:
    """The same message id from two users makes two messages, and from one user one."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("admin"),))) as (partyline, url):
            let_in(partyline, ann=person("ann"), bob=person("bob"))
            async with line(url, "ann") as ann, line(url, "bob") as bob:
                replies = [
                    await client.ask("publish", topic="cats", data=data, message_id="m")
                    for client, data in ((ann, 1), (bob, 2), (ann, 1), (bob, 2))
                ]
                assert [reply["duplicate"] for reply in replies] == [False, False, True, True]
                assert len({reply["position"] for reply in replies}) == 2

    run(main())


def test_message_ids_of_two_keys_do_not_meet() -> None:
    """Two API keys are two publishers: the message id of one is free for the other (guarantee 4)."""

    async def main() -> None:
        keys = (api_key("k1"), api_key("k2"))
        async with running(settings(api_keys=keys)) as (_, url), line(url, "k1") as one, line(url, "k2") as two:
            first = await one.ask("publish", topic="cats", data=1, message_id="m")
            second = await two.ask("publish", topic="cats", data=2, message_id="m")
            assert second["type"] == "reply", second
            assert second["position"] == behind(first["position"], 1)

    run(main())


# Where a subscription begins


def test_subscribe_after_earliest_latest_and_a_position() -> None:
    """`after` is exclusive; `earliest` gives everything kept, `latest` (the default) only later messages."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as publisher:
            start = await publisher.position()
            for number in range(1, 6):
                await publisher.ask("publish", topic="cats", data=number)
            cases: list[tuple[Frame, list[int], int]] = [
                ({"after": "earliest"}, [1, 2, 3, 4, 5], 0),
                ({"after": start}, [1, 2, 3, 4, 5], 0),
                ({"after": behind(start, 2)}, [3, 4, 5], 2),
                ({"after": behind(start, 5)}, [], 5),
                ({"after": "latest"}, [], 5),
                ({"after": None}, [], 5),
                ({}, [], 5),
            ]
            for name in ("cats", ">"):
                for fields, expected, begins in cases:
                    async with line(url) as client:
                        reply = await client.ask("subscribe", topic=name, **fields)
                        assert reply == {"type": "reply", "position": behind(start, begins), "recovered": True}
                        frames = await client.settle()
                        assert [frame["data"] for frame in frames] == expected, (name, fields)
                        assert [offset(frame["position"]) for frame in frames] == [
                            begins + n for n in range(1, 6 - begins)
                        ]
            async with line(url) as client:
                await client.ask("subscribe", topic="cats", after=behind(start, 4))
                await publisher.ask("publish", topic="cats", data=6)
                assert await client.data(2) == [5, 6]

    run(main())


def test_hostile_14_positions_that_cannot_be_resumed() -> None:
    """An unknown epoch, a pruned position and one ahead of the log are `recovered: false` with the oldest kept. After a
    pruned one the kept messages are sent; the others have no place in this log and go on from now."""

    async def main() -> None:
        async with running(settings(max_messages=5)) as (_, url), line(url) as publisher:
            start = await publisher.position()
            for number in range(1, 11):
                await publisher.ask("publish", topic="cats", data=number)
            oldest, head = behind(start, 5), behind(start, 10)
            for after in (
                f"{UNKNOWN}-7",
                f"{UNKNOWN}-0",
                start,
                behind(start, 4),
                behind(start, 11),
                behind(start, 2**50),
            ):
                pruned = after in (start, behind(start, 4))
                place, left = (oldest, [6, 7, 8, 9, 10]) if pruned else (head, [])
                for name in ("cats", "*", ">"):
                    async with line(url) as client:
                        reply = await client.ask("subscribe", topic=name, after=after)
                        assert reply == {"type": "reply", "position": place, "recovered": False, "oldest": oldest}
                        assert await client.data(len(left)) == left
                        assert await client.settle() == []
                        await publisher.ask("publish", topic="cats", data="what follows", durable=False)
                        assert await client.data(1) == ["what follows"]
                page = await publisher.ask("history", topic="cats", after=after)
                assert page["recovered"] is False
                assert [message["data"] for message in page["messages"]] == [6, 7, 8, 9, 10]
            async with line(url) as client:
                reply = await client.ask("subscribe", topic="cats", after=oldest)
                assert reply == {"type": "reply", "position": oldest, "recovered": True}
                assert await client.data(5) == [6, 7, 8, 9, 10]
                assert (await client.ask("unsubscribe", topic="cats")) == {"type": "reply"}
                reply = await client.ask("subscribe", topic="cats", after="earliest")
                assert reply == {"type": "reply", "position": oldest, "recovered": True}

    run(main())


def test_patterns_cover_tokens() -> None:
    """`*` is exactly one token and a last `>` one or more, live and from the log alike."""

    async def main() -> None:
        topics = ["orders", "orders.1", "orders.1.eu", "orders.2.eu", "orders.1.us", "orders.1.eu.x", "sensors"]
        expected = {
            "orders.*.eu": ["orders.1.eu", "orders.2.eu"],
            "orders.>": ["orders.1", "orders.1.eu", "orders.2.eu", "orders.1.us", "orders.1.eu.x"],
            "orders.*": ["orders.1"],
            "*": ["orders", "sensors"],
            "*.1.*": ["orders.1.eu", "orders.1.us"],
            "*.*.>": ["orders.1.eu", "orders.2.eu", "orders.1.us", "orders.1.eu.x"],
            ">": topics,
        }
        async with running(settings()) as (partyline, url), line(url) as publisher:
            async with contextlib.AsyncExitStack() as stack:
                clients = {name: await stack.enter_async_context(line(url)) for name in expected}
                for name, client in clients.items():
                    await client.ask("subscribe", topic=name)
                for topic in topics:
                    await publisher.ask("publish", topic=topic, data=topic)
                for name, client in clients.items():
                    assert [frame["topic"] for frame in await client.settle()] == expected[name], name
            for name in expected:
                async with line(url) as client:
                    await client.ask("subscribe", topic=name, after="earliest")
                    assert [frame["data"] for frame in await client.settle()] == expected[name], name
            await publisher.settle()
            assert not partyline.hub.rooms.names()

    run(main())


# No hole, no double


def test_overlapping_subscriptions_bring_each_message_once() -> None:
    """Overlapping subscriptions of one connection, live, catching up or both, deliver no offset twice and miss none."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as publisher:
            slow_reads(partyline)
            start = await publisher.position()
            for number in range(1, 41):
                await publisher.ask("publish", topic=("a.b", "a.c", "x")[number % 3], data=number)
            orders = itertools.permutations(["a.b", "a.*", ">"])
            for order in orders:
                async with line(url) as client:
                    afters = (behind(start, 30), "latest", behind(start, 10))
                    for number, (name, after) in enumerate(zip(order, afters, strict=True)):
                        await client.say({"type": "subscribe", "topic": name, "after": after, "id": f"s{number}"})
                    for number in range(1, 11):
                        await publisher.ask("publish", topic=("a.b", "a.c", "x")[number % 3], data=f"more {number}")
                    begins: dict[str, int] = {}
                    for number, name in enumerate(order):
                        reply = await client.answer(f"s{number}")
                        assert reply["recovered"] is True
                        begins[name] = offset(reply["position"])
                    expected, got = wanted(partyline, begins), list[int]()
                    async with asyncio.timeout(WITHIN):
                        while not expected <= set(got):  # catching up may still go on
                            got += [offset(frame["position"]) for frame in await client.settle()]
                    got += [offset(frame["position"]) for frame in await client.settle()]
                    assert len(got) == len(set(got)), order

    def wanted(partyline: Partyline, begins: dict[str, int]) -> set[int]:
        """The offsets that subscriptions with these names and beginnings must deliver."""
        log = partyline.store._log.items()
        return {
            number
            for number, message in log
            for name, start in begins.items()
            if number > start and View(patterns=(name,)).sees(message.draft)
        }

    run(main())


def test_catching_up_costs_the_same_beside_many_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is replayed is not compared with each of the client's other subscriptions, of which there may be a
    thousand, and comes once all the same."""
    compared: list[str] = []
    sees = View.sees

    def counting(view: View, draft: Draft) -> bool:
        compared.append(draft.room)
        return sees(view, draft)

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            for number in range(100):
                await client.ask("publish", topic="cats", data=number)
            for number in range(30):
                await client.ask("subscribe", topic=f"t{number}", after="earliest")
                await client.ask("subscribe", topic=f"p{number}.>", after="earliest")
            monkeypatch.setattr(View, "sees", counting)
            await client.ask("subscribe", topic="cats", after="earliest")
            await client.ask("subscribe", topic="*", after="earliest")
            await client.ask("publish", topic="cats", data=100)
            assert [frame["data"] for frame in await client.settle()] == list(range(101))
            assert len(compared) <= 2 * 101

    run(main())


def test_unsubscribing_leaves_what_overlaps() -> None:
    """After one of two overlapping subscriptions is gone, the other delivers all it covers, also while it catches
    up."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as publisher, line(url) as client:
            slow_reads(partyline)
            for number in range(1, 31):
                await publisher.ask("publish", topic="a.b", data=number)
            await client.ask("subscribe", topic="a.b")
            await client.say(
                {"type": "subscribe", "topic": "a.*", "after": "earliest"},
                {"type": "unsubscribe", "topic": "a.b", "id": "u"},
            )
            for number in range(31, 41):
                await publisher.ask("publish", topic="a.b", data=number)
            assert await client.answer("u") == {"type": "reply"}
            await publisher.ask("publish", topic="a.b", data=41)
            got = [frame["data"] for frame in await client.settle() if frame["type"] == "message"]
            assert sorted(got) == list(range(1, 42))

    run(main())


def test_hostile_13_resuming_while_publishing_goes_on() -> None:
    """However often clients resume while others publish, each gets every message once, in order, without a gap."""

    async def main() -> None:
        total = 400
        async with running(settings()) as (partyline, url), line(url) as publisher:
            slow_reads(partyline)
            start = await publisher.position()

            async def publish() -> None:
                for number in range(1, total + 1):
                    await publisher.ask("publish", topic=f"t.{number % 3}", data=number)

            async def follow(name: str, expected: list[int], every: int) -> None:
                got: list[int] = []
                after = start
                while len(got) < len(expected):
                    # If the client bounded what waits to be read, it would sometimes not read the end of its close.
                    async with line(url, max_queue=None) as client:
                        await client.say({"type": "subscribe", "topic": name, "after": after})
                        assert (await client.next())["recovered"] is True
                        for frame in await client.messages(min(every, len(expected) - len(got))):
                            got.append(frame["data"])
                            after = frame["position"]
                assert got == expected

            everything = list(range(1, total + 1))
            await asyncio.gather(
                publish(),
                *(follow("t.>", everything, every) for every in (1000, 40, 17)),
                follow("t.1", [number for number in everything if number % 3 == 1], 11),
            )
            assert len(partyline.store._log) == total

    run(main())


def test_catching_up_waits_for_the_outbox() -> None:
    """A history far larger than the outbox reaches a client whole, and does not end its connection."""

    async def main() -> None:
        count, size = 300, 20_000
        async with running(settings(outbox_bytes=64 * 1024)) as (partyline, url), line(url) as publisher:
            for number in range(count):
                await publisher.ask("publish", topic="cats", data=f"{number}:" + "x" * size)
            async with line(url, compression=None) as client:
                assert (await client.ask("subscribe", topic="cats", after="earliest"))["recovered"] is True
                await publisher.ask("publish", topic="cats", data=f"{count}:")
                got = [int(text.partition(":")[0]) for text in await client.data(count + 1)]
                assert got == list(range(count + 1))
            assert "outbox_bytes" not in partyline.counters.limits

    run(main())


def test_an_overtaken_reader_is_told() -> None:
    """A subscriber that retention overtakes while it catches up is told of the gap, and goes on from the oldest
    kept."""

    async def main() -> None:
        async with running(settings(max_messages=5)) as (partyline, url), line(url) as publisher, line(url) as client:
            start = await publisher.position()
            for number in range(1, 6):
                await publisher.ask("publish", topic="cats", data=number)

            async def overtake() -> None:
                for number in range(6, 16):
                    await publisher.ask("publish", topic="cats", data=number)

            reads(partyline, nothing, overtake)
            assert (await client.ask("subscribe", topic="cats", after=start))["recovered"] is True
            gap = await client.next()
            assert gap == {
                "type": "position",
                "topic": "cats",
                "position": behind(start, 10),
                "recovered": False,
                "oldest": behind(start, 10),
            }
            await publisher.ask("publish", topic="cats", data="live")
            assert await client.data(6) == [11, 12, 13, 14, 15, "live"]

    run(main())


def test_what_comes_after_a_gap_comes_once() -> None:
    """What one subscription delivered after a gap is not delivered again by one that overlaps it."""

    async def main() -> None:
        async with running(settings(max_messages=5)) as (partyline, url), line(url) as publisher, line(url) as client:
            start = await publisher.position()
            for number in range(1, 6):
                await publisher.ask("publish", topic="a.b", data=number)

            async def overtake() -> None:
                for number in range(6, 16):
                    await publisher.ask("publish", topic="a.b", data=number)

            reads(partyline, nothing, overtake)
            await client.ask("subscribe", topic="a.b", after=start)
            assert (await client.next())["recovered"] is False
            assert await client.data(5) == [11, 12, 13, 14, 15]
            reply = await client.ask("subscribe", topic="a.*", after=behind(start, 10))
            assert reply["recovered"] is True
            await publisher.ask("publish", topic="a.c", data="other")
            assert await client.data(1) == ["other"]

    run(main())


def test_a_log_that_cannot_be_read_is_no_silent_hole() -> None:
    """If the log fails while a subscription catches up, the client is told and can subscribe again for all of it."""

    async def main() -> None:
        for failing in (0, 1):
            async with running(settings()) as (partyline, url), line(url) as publisher, line(url) as client:
                for number in range(1, 4):
                    await publisher.ask("publish", topic="cats", data=number)

                async def fail() -> None:
                    raise StoreUnavailable("the disk is gone for a moment")

                reads(partyline, *[nothing] * failing, fail)
                await client.say({"type": "subscribe", "topic": "cats", "after": "earliest", "id": 1})
                frames = []
                while not frames or frames[-1]["type"] != "error":
                    frames.append(await client.next())
                assert frames[-1]["code"] == "store_unavailable"
                again = await client.ask("subscribe", topic="cats", after="earliest")
                assert again["type"] == "reply", again
                assert await client.data(3) == [1, 2, 3]

    run(main())


def test_a_quiet_subscriber_is_advanced() -> None:
    """A subscriber whose topics are quiet gets `position` at most once per heartbeat, and can resume from there."""

    async def main() -> None:
        rules = settings(ping_interval=0.15, max_messages=3)
        async with running(rules) as (_, url), line(url) as publisher, line(url) as client:
            start = (await client.ask("subscribe", topic="cats"))["position"]
            loop = asyncio.get_running_loop()
            began = loop.time()
            for number in range(10):
                await publisher.ask("publish", topic="dogs", data=number)
            advanced = await client.next()
            assert advanced == {"type": "position", "position": behind(start, 10)}
            await publisher.ask("publish", topic="dogs", data=11)
            assert await client.next() == {"type": "position", "position": behind(start, 11)}
            assert loop.time() - began >= 0.15
            resumed = await client.ask("subscribe", topic="dogs", after=advanced["position"])
            assert resumed["recovered"] is True
            assert await client.data(1) == [11]

    run(main())


def test_a_subscriber_that_resumed_and_found_nothing_is_advanced() -> None:
    """A client that resumes a quiet topic from an old position is advanced, too, so that retention does not overtake
    it."""

    async def main() -> None:
        async with running(settings(ping_interval=0.1)) as (_, url), line(url) as publisher:
            start = await publisher.position()
            for number in range(5):
                await publisher.ask("publish", topic="dogs", data=number)
            async with line(url) as client:
                reply = await client.ask("subscribe", topic="cats", after=start)
                assert reply["position"] == start
                assert await client.next() == {"type": "position", "position": behind(start, 5)}

    run(main())


def test_no_position_while_something_is_missing() -> None:
    """While one of its subscriptions catches up, a client is not advanced, or it would lose what is in between."""

    async def main() -> None:
        async with (
            running(settings(ping_interval=0.02)) as (partyline, url),
            line(url) as publisher,
            line(url) as client,
        ):
            start = await publisher.position()
            for number in range(3):
                await publisher.ask("publish", topic="cats", data=number)
            go_on, heartbeats = asyncio.Event(), 0
            beat = partyline.site.timers.now()

            async def wait() -> None:
                await go_on.wait()

            await client.ask("subscribe", topic="dogs")
            reads(partyline, nothing, wait)
            assert (await client.ask("subscribe", topic="cats", after=start))["recovered"] is True
            client.heard.clear()
            while heartbeats < 5:  # each time `position` has something new to say
                await publisher.ask("publish", topic="birds", data=heartbeats)
                while partyline.site.timers.now() < beat + 0.03:
                    assert await client.settle() == []
                beat, heartbeats = partyline.site.timers.now(), heartbeats + 1
            go_on.set()
            assert await client.data(3) == [0, 1, 2]
            assert (await client.next())["type"] == "position"

    run(main())


# Presence


def test_presence_is_told() -> None:
    """`presence` lists a topic's users; a client that asked to watch hears each user's first join and last leave."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("k1"),))) as (partyline, url):
            let_in(partyline, ann=person("ann"), bob=person("bob"))
            async with line(url, "k1") as watcher:
                assert (await watcher.ask("subscribe", topic="cats", presence=True))["type"] == "reply"
                assert await watcher.ask("presence", topic="cats") == {"type": "reply", "users": []}
                async with line(url, "ann") as phone, line(url, "ann") as laptop, line(url, "bob") as bob:
                    await bob.ask("subscribe", topic="cats.*")  # patterns do not count for presence
                    await phone.ask("subscribe", topic="cats")
                    await laptop.ask("subscribe", topic="cats", after="earliest")
                    assert await watcher.next() == {"type": "join", "topic": "cats", "user": "ann"}
                    await bob.ask("subscribe", topic="cats")
                    assert await watcher.next() == {"type": "join", "topic": "cats", "user": "bob"}
                    assert (await bob.ask("presence", topic="cats"))["users"] == ["ann", "bob"]
                    await bob.ask("unsubscribe", topic="cats")
                    assert await watcher.next() == {"type": "leave", "topic": "cats", "user": "bob"}
                    await phone.socket.close()
                    assert (await bob.ask("presence", topic="cats"))["users"] == ["ann"]
                    assert await watcher.settle() == []
                assert await watcher.next() == {"type": "leave", "topic": "cats", "user": "ann"}
                await watcher.ask("unsubscribe", topic="cats")
                async with line(url, "ann") as phone:
                    await phone.ask("subscribe", topic="cats")
                assert await watcher.settle() == []
            assert not partyline.hub.presence._watchers

    run(main())


def test_presence_does_not_tell_of_a_replaced_connection() -> None:
    """When a second connection of a registration replaces the first, its user has neither left nor joined."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as watcher:
            address = await register(url, 7, topics=["cats"])
            await watcher.ask("subscribe", topic="cats", presence=True)
            async with connect(address) as first:
                assert await watcher.next() == {"type": "join", "topic": "cats", "user": "7"}
                async with connect(address) as second:
                    await first.wait_closed()
                    assert first.close_code == 4000
                    assert await watcher.settle() == []
                    await second.send("ping")
                    assert await second.recv() == "pong"
            assert await watcher.next() == {"type": "leave", "topic": "cats", "user": "7"}

    run(main())


# Limits and ends


def test_topics_per_connection() -> None:
    """One subscription too many gets `too_many_rooms`; ending one makes space."""

    async def main() -> None:
        async with running(settings(topics_per_connection=2)) as (_, url), line(url) as client:
            for name in ("a", "b.*"):
                assert (await client.ask("subscribe", topic=name))["type"] == "reply"
            assert (await client.ask("subscribe", topic="c"))["code"] == "too_many_rooms"
            await client.ask("unsubscribe", topic="b.*")
            assert (await client.ask("subscribe", topic="c"))["type"] == "reply"

    run(main())


def test_too_many_commands_that_wait() -> None:
    """With 64 commands waiting for the log further ones are refused, and can be sent again later."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as client:
            await client.ask("publish", topic="t.99", data="kept")
            go_on = asyncio.Event()

            async def wait() -> None:
                await go_on.wait()

            reads(partyline, wait)
            for number in range(100):
                await client.say({"type": "subscribe", "topic": f"t.{number}", "after": "earliest", "id": f"{number}"})
            first = await client.next()  # the waiting ones are answered later
            assert (first["type"], first["code"]) == ("error", "too_many_pending")
            client.heard.append(first)
            go_on.set()
            answers = [await client.answer(f"{number}") for number in range(100)]
            kinds = [answer["type"] for answer in answers]
            assert kinds.count("reply") in (64, 65)  # one is being worked on
            assert {answer.get("code") for answer in answers if answer["type"] == "error"} == {"too_many_pending"}
            again = await client.ask("subscribe", topic="t.99", after="earliest")
            assert again["type"] == "reply", again
            assert await client.data(1) == ["kept"]

    run(main())


def test_commands_that_wait_are_small() -> None:
    """A command that could wait for the log with a long id, topic or position is refused at once, however many wait."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as client:
            go_on = asyncio.Event()

            async def wait() -> None:
                await go_on.wait()

            reads(partyline, wait)
            await client.say({"type": "subscribe", "topic": "cats", "after": "earliest", "id": 1})
            long = "x" * 1_025
            for command, field in (
                ({"type": "unsubscribe", "topic": "cats", "id": long}, "id"),
                ({"type": "unsubscribe", "topic": long}, "topic"),
                ({"type": "subscribe", "topic": long}, "topic"),
                ({"type": "subscribe", "topic": "dogs", "after": long}, "after"),
                ({"type": "history", "topic": long}, "topic"),
                ({"type": "history", "topic": "dogs", "after": long}, "after"),
            ):
                await client.say(command)
                error = await client.next()
                assert (error["type"], error["code"], error.get("id")) == ("error", "invalid", None), command
                assert error["message"].startswith(f"{field}: "), error
            await client.say({"type": "unsubscribe", "topic": "cats", "id": long[1:]})
            go_on.set()
            assert (await client.answer(1))["type"] == "reply"
            assert (await client.answer(long[1:]))["type"] == "reply"

    run(main())


def test_a_refused_unsubscribe_leaves_the_subscription_as_it_was() -> None:
    """An unsubscribe that is refused with `too_many_pending` does not stop its subscription, which is still catching
    up: it brings what was kept, and what comes later."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as client:
            await client.ask("publish", topic="cats", data="kept")
            go_on = asyncio.Event()

            async def wait() -> None:
                await go_on.wait()

            reads(partyline, wait)
            await client.say({"type": "subscribe", "topic": "cats", "after": "earliest", "id": "subscribe"})
            for _ in range(64):
                await client.say({"type": "unsubscribe", "topic": "dogs"})
            await client.say({"type": "unsubscribe", "topic": "cats", "id": "unsubscribe"})
            assert (await client.answer("unsubscribe"))["code"] == "too_many_pending"
            go_on.set()
            assert (await client.answer("subscribe"))["type"] == "reply"
            await client.ask("publish", topic="cats", data="live")
            come = [await client.next() for _ in range(66)]
            assert [frame["code"] for frame in come if frame["type"] == "error"] == ["not_subscribed"] * 64
            assert [frame["data"] for frame in come if frame["type"] == "message"] == ["kept", "live"]

    run(main())


def test_too_many_commands_a_second() -> None:
    """Beyond events_per_second a command gets `rate_limited`, with its own id; a client that goes on is closed with
    4429."""

    async def main() -> None:
        async with running(settings(events_per_second=0.001, events_burst=3)) as (_, url), line(url) as client:
            await client.say(*({"type": "ping", "id": number} for number in range(5)))
            frames = [await client.next() for _ in range(5)]
            assert [frame["type"] for frame in frames] == ["reply"] * 3 + ["error"] * 2
            assert [frame.get("code") for frame in frames[3:]] == ["rate_limited"] * 2
            assert [frame.get("id") for frame in frames] == [0, 1, 2, 3, 4]
            with contextlib.suppress(websockets.ConnectionClosed):
                await client.say(*({"type": "ping", "id": number} for number in range(5)))
            assert (await client.ended())[0] == 4429

    run(main())


def test_long_messages_are_compressed_where_that_is_agreed() -> None:
    """A subscriber with compression and one without get the same message, live and from the log."""

    async def main() -> None:
        data = {"text": "word " * 2_000}
        async with running(settings()) as (_, url), line(url) as squeezed, line(url, compression=None) as plain:
            assert squeezed.socket.protocol.extensions
            for client in (squeezed, plain):
                await client.ask("subscribe", topic="cats")
            await plain.ask("publish", topic="cats", data=data)
            assert await squeezed.data(1) == await plain.data(1) == [data]
            for client in (squeezed, plain):
                await client.ask("unsubscribe", topic="cats")
                await client.ask("subscribe", topic="cats", after="earliest")
                assert await client.data(1) == [data]

    run(main())


def test_nothing_is_left_of_a_connection() -> None:
    """A connection that ends, even in the middle of catching up, leaves no room, pattern, watcher or timer."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            hub, timers = partyline.hub, partyline.site.timers
            stuck, begun = asyncio.Event(), asyncio.Event()

            async def wait() -> None:
                begun.set()
                await stuck.wait()

            async with line(url) as client:
                await client.ask("publish", topic="cats", data=1)
                await client.ask("subscribe", topic="cats", presence=True)
                await client.ask("subscribe", topic="dogs.>")
                reads(partyline, wait)
                await client.say({"type": "subscribe", "topic": "cats.*", "after": "earliest"})
                await begun.wait()
                client.socket.transport.abort()
            async with asyncio.timeout(WITHIN):
                while partyline.site.live or len(asyncio.all_tasks()) > 2:  # this one and the server's
                    await asyncio.sleep(0)
            assert not hub.rooms.names()
            assert len(hub._patterns) == 0
            assert not hub._users
            assert not hub.presence._watchers
            assert len(timers) == 0

    run(main())


def test_drain_tells_the_lines() -> None:
    """A server that stops closes its connections with 1012."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack, running(settings()) as (partyline, url):
            client = await stack.enter_async_context(line(url))
            await client.ask("subscribe", topic="cats")
            partyline.shell.stop()
            assert await client.ended() == (1012, "server restarting")

    run(main())


def test_a_publish_in_hand_is_answered_before_the_drain_closes() -> None:
    """What is being committed when the server stops is answered, then comes 1012; a later command is not executed."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack, running(settings()) as (partyline, url):
            client = await stack.enter_async_context(line(url))
            store = partyline.store
            committing = asyncio.Event()
            queued: list[Draft] = []
            append = store.append

            def late(*drafts: Draft) -> None:
                queued.extend(drafts)
                committing.set()

            store.append = late  # type: ignore[method-assign]
            await client.socket.send(json.dumps({"type": "publish", "id": 1, "topic": "cats", "data": "kept"}))
            async with asyncio.timeout(WITHIN):
                await committing.wait()
            partyline.shell.stop()
            await client.socket.send(json.dumps({"type": "publish", "id": 2, "topic": "cats", "data": "too late"}))
            while not partyline.site.draining:
                await asyncio.sleep(0)
            append(*queued)
            answer = await client.next()
            assert (answer["type"], answer["id"], answer["duplicate"]) == ("reply", 1, False)
            assert await client.ended() == (1012, "server restarting")

    run(main())


def test_one_publish_reaches_every_kind_of_client() -> None:
    """A message published over v1, HTTP or the classic call reaches v1 and classic subscribers alike."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            address = await register(url, 1)
            async with connect(address) as classic:
                await client.ask("subscribe", topic="cats")
                await client.ask("publish", topic="cats", data={"by": "line"})
                await call(f"{url}/v1/topics/cats/messages", "POST", {"data": "by http"})
                await call(f"{url}/publish", "POST", {"topic": "cats", "message": "by classic"})
                assert await client.data(3) == [{"by": "line"}, "by http", "by classic"]
                async with asyncio.timeout(WITHIN):
                    assert [await classic.recv() for _ in range(3)] == ['{"by":"line"}', "by http", "by classic"]

    run(main())


def test_unsubscribing_ends_catching_up() -> None:
    """A client that unsubscribes while a long log is sent gets what was already sent and the reply, and can go on from
    there."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as client:
            for number in range(2_000):
                partyline.hub.publish(Draft("cats", b"%d" % number, f"{number}"))
            await client.position()
            slow_reads(partyline)
            for command in ("subscribe", "unsubscribe"):
                assert (await client.ask(command, topic="cats", after="earliest"))["type"] == "reply"
            early = [frame for frame in client.heard if frame["type"] == "message"]
            assert len(early) < 1_000
            client.heard.clear()
            after = early[-1]["position"] if early else behind(await client.position(), -2_000)
            await client.ask("subscribe", topic="cats", after=after)
            assert await client.data(2_000 - len(early)) == list(range(len(early), 2_000))
            assert [frame["data"] for frame in early] == list(range(len(early)))
            await client.ask("unsubscribe", topic="cats")
            assert (await client.ask("unsubscribe", topic="cats"))["code"] == "not_subscribed"

    run(main())
