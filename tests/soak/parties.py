"""Participants of the soak: publishers, subscribers of every kind that come and go, and malicious peers.

A publisher numbers the messages of its topic and repeats each until it is answered. So a subscriber of any dialect sees
at once that a message is missing by a gap in the numbers.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.crash.clients import Frame, Http, Line, WebSocket, encode

STAY = 60.0  # seconds that a connection lasts, on average
AWAY = 3.0  # seconds until its client is back at the latest


@dataclass(slots=True)
class Topic:
    """A topic and what was accepted in it."""

    name: str
    filler: int = 20
    accepted: int = 0


@dataclass(slots=True)
class Soak:
    """What all of them share."""

    port: int
    chance: random.Random
    epoch: str = ""
    calm: bool = False  # nobody leaves, is slow or misbehaves any more
    tally: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def fault(self, what: str) -> None:
        """Something that must not happen. All faults are counted, the first ones kept."""
        self.tally["faults"] += 1
        if len(self.wrong) < 20:
            self.wrong.append(what)


class Subscriber:
    """A client that stays for a while, leaves without a close, and comes back for what it missed."""

    kind = ""
    repeats = False  # a message may arrive twice

    def __init__(self, soak: Soak, topic: Topic) -> None:
        self.soak, self.topic = soak, topic
        self.last = 0
        self.entered = False

    @property
    def complete(self) -> bool:
        """Whether it has everything that was accepted."""
        return self.last >= self.topic.accepted

    async def live(self) -> None:
        """Connect, again and again."""
        soak = self.soak
        while True:
            try:
                await self.once(self._drop_in())
            except (ConnectionError, asyncio.IncompleteReadError):
                soak.tally["connections refused or cut"] += 1
            soak.tally["connections ended"] += 1
            await asyncio.sleep(soak.chance.uniform(0, AWAY))

    async def once(self, stay: float) -> None:
        """One connection, of `stay` seconds unless all is calm by then."""
        raise NotImplementedError

    def _drop_in(self) -> float:
        return self.soak.chance.expovariate(1 / STAY)

    async def until_gone(self, line: WebSocket, stay: float) -> None:
        """Wait until the connection ends, or end it in time."""
        try:
            done, _ = await asyncio.wait([line.closed], timeout=stay)
            if not done and self.soak.calm:
                await line.closed
        finally:
            line.drop()
        if line.close_code is not None:
            self.soak.tally[f"closed with {line.close_code}"] += 1
        if done:
            line.closed.result()  # a check that failed

    def got(self, number: int) -> None:
        """Message `number` of the topic has arrived."""
        self.soak.tally["received"] += 1
        if number == self.last + 1:
            self.last = number
        elif number > self.last:
            self.soak.fault(f"{self.kind} of {self.topic.name} has {self.last} and gets {number}")
            self.last = number
        elif not self.repeats:
            self.soak.fault(f"{self.kind} of {self.topic.name} has {self.last} and gets {number} again")


class LineSubscriber(Subscriber):
    """v1 over WebSocket."""

    kind = "v1"
    position = ""

    async def once(self, stay: float) -> None:
        line = await Line.open(self.soak.port, self.hear)
        after = self.position or f"{self.soak.epoch}-0"
        line.send(type="subscribe", id="in", topic=self.topic.name, after=after)
        await self.stay(line, stay)

    async def stay(self, line: Line, stay: float) -> None:
        await self.until_gone(line, stay)

    def hear(self, frame: Frame) -> None:
        if frame.type == "message":
            assert frame.position is not None
            self.position = frame.position
            self.got(json.loads(bytes(frame.data))["n"])
        elif frame.type == "reply":
            self.entered = True
            if not frame.recovered:
                self.soak.fault(f"v1 of {self.topic.name} was not recovered from {self.position}")
        elif frame.type == "error":
            self.soak.fault(f"v1 of {self.topic.name} is refused: {frame.code}")


class SlowSubscriber(LineSubscriber):
    """v1 that does not read for a while, so that an overflow ends its connection."""

    kind = "slow v1"

    async def stay(self, line: Line, stay: float) -> None:
        # Or the kernel would take megabytes for it before the server has to queue anything.
        line.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        stopping = asyncio.create_task(self._stop_now_and_then(line))
        try:
            await self.until_gone(line, stay)
        finally:
            stopping.cancel()

    async def _stop_now_and_then(self, line: Line) -> None:
        chance = self.soak.chance
        while not self.soak.calm:
            await asyncio.sleep(chance.uniform(1, 5))
            line.transport.pause_reading()
            await asyncio.sleep(chance.uniform(10, 25))
            line.transport.resume_reading()


class ClassicSubscriber(Subscriber):
    """The classic relay with `resume`: at least once, confirmed by a ping now and then."""

    kind = "classic"
    repeats = True
    path = ""

    async def once(self, stay: float) -> None:
        soak = self.soak
        if not self.path:
            async with Http.open(soak.port) as http:
                user = soak.chance.randrange(1 << 50)
                body = {"user_id": user, "topics": [self.topic.name], "resume": True}
                status, answer = await http.call("POST", "/register", body)
            if status != 200:
                raise ConnectionError(answer)
            self.path = urlsplit(answer["url"]).path
        line = await WebSocket(self.path, self.heard).connect(soak.port)
        self.entered = True
        pinging = asyncio.create_task(self._ping(line))
        try:
            await self.until_gone(line, stay)
        finally:
            pinging.cancel()

    async def _ping(self, line: WebSocket) -> None:
        while True:
            await asyncio.sleep(self.soak.chance.uniform(2, 8))
            line.say(b"ping")

    def heard(self, text: str) -> None:
        if text != "pong":
            self.got(json.loads(text)["n"])

    async def leave(self) -> None:
        """Unregister."""
        if self.path:
            async with Http.open(self.soak.port) as http:
                await http.call("DELETE", f"/register/{self.path.rpartition('/')[2]}")


class EventSubscriber(Subscriber):
    """Server-sent events."""

    kind = "events"
    position = ""

    async def once(self, stay: float) -> None:
        listening = asyncio.create_task(self._listen())
        try:
            done, _ = await asyncio.wait([listening], timeout=stay)
            if not done and self.soak.calm:
                await listening
            elif done:
                listening.result()
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def _listen(self) -> None:
        async with Http.open(self.soak.port) as http:
            self.entered = True
            async for position, data in http.events(self.topic.name, self.position or f"{self.soak.epoch}-0"):
                if data:
                    self.got(json.loads(data)["data"]["n"])
                self.position = position


class SocketIOSubscriber(Subscriber):
    """Socket.IO over WebSocket, in one namespace."""

    head = ""  # the start of packets in the namespace

    async def once(self, stay: float) -> None:
        self.line = WebSocket("/socket.io/?EIO=4&transport=websocket", self.heard)
        await self.line.connect(self.soak.port)
        await self.until_gone(self.line, stay)

    def heard(self, text: str) -> None:
        if text == "2":
            self.line.say(b"3")
        elif text.startswith("0{"):
            self.line.say(f"40{self.head}".encode() + encode(self.auth()))
        elif text.startswith(f"40{self.head}"):
            self.connected(json.loads(text.removeprefix(f"40{self.head}")))
        elif text.startswith((f"42{self.head}[", f"43{self.head}")):
            self.event(json.loads(text[text.index("[") :]))

    def auth(self) -> dict[str, Any]:
        return {}

    def connected(self, answer: dict[str, Any]) -> None:
        raise NotImplementedError

    def event(self, values: list[Any]) -> None:
        raise NotImplementedError


class RelaySubscriber(SocketIOSubscriber):
    """A topic in the namespace `/relay`."""

    kind = "/relay"
    head = "/relay,"
    position = ""

    def connected(self, answer: dict[str, Any]) -> None:
        asked = {"topic": self.topic.name, "after": self.position or f"{self.soak.epoch}-0"}
        self.line.say(b'42/relay,1["subscribe",' + encode(asked) + b"]")

    def event(self, values: list[Any]) -> None:
        match values:
            case ["message", envelope]:
                self.position = envelope["position"]
                self.got(envelope["data"]["n"])
            case [{"error": _}]:
                self.soak.fault(f"/relay: {values}")
            case [{"recovered": recovered}]:
                self.entered = True
                if not recovered:
                    self.soak.fault(f"/relay of {self.topic.name} was not recovered from {self.position}")


class TickSubscriber(SocketIOSubscriber):
    """The main namespace with recovery: it counts the server's own events."""

    kind = "recovery"
    session: str | None = None
    offset: Any = None

    def auth(self) -> dict[str, Any]:
        return {"pid": self.session, "offset": self.offset} if self.offset else {}

    def connected(self, answer: dict[str, Any]) -> None:
        self.entered = True
        if self.offset and answer["pid"] != self.session:
            self.soak.fault(f"a session of the main namespace is not recovered from {self.offset}")
        self.session = answer["pid"]

    def event(self, values: list[Any]) -> None:
        _, number, self.offset = values
        if not self.last:
            self.last = number - 1
        self.got(number)
        self.topic.accepted = max(self.topic.accepted, number)


# Publishers


async def publish(soak: Soak, topic: Topic, interval: float, *, by_line: bool, stopped: asyncio.Event) -> None:
    """Number and publish messages until `stopped`, repeating each until it is answered."""
    once = _publish_by_line if by_line else _publish_by_http
    while not stopped.is_set():
        try:
            await once(soak, topic, interval, stopped)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            soak.tally["publishers cut"] += 1


def _draft(topic: Topic) -> dict[str, Any]:
    number = topic.accepted + 1
    return {"data": {"n": number, "filler": "x" * topic.filler}}


async def _publish_by_http(soak: Soak, topic: Topic, interval: float, stopped: asyncio.Event) -> None:
    async with Http.open(soak.port) as http:
        while not stopped.is_set():
            body = _draft(topic) | {"id": f"{topic.name}-{topic.accepted + 1}"}
            async with asyncio.timeout(10):
                status, answer = await http.call("POST", f"/v1/topics/{topic.name}/messages", body)
            if status != 200:
                soak.fault(f"a publish is answered {status}: {answer}")
            else:
                topic.accepted += 1
                soak.tally["published"] += 1
            await asyncio.sleep(soak.chance.uniform(0, 2 * interval))


async def _publish_by_line(soak: Soak, topic: Topic, interval: float, stopped: asyncio.Event) -> None:
    answers: asyncio.Queue[Frame] = asyncio.Queue()
    line = await Line.open(soak.port, answers.put_nowait)
    try:
        while not stopped.is_set():
            number = topic.accepted + 1
            line.send(type="publish", id=number, topic=topic.name, message_id=f"{topic.name}-{number}", **_draft(topic))
            if not soak.calm and soak.chance.random() < 0.01:
                return  # disconnected before the answer: the message is repeated
            async with asyncio.timeout(10):
                while (answer := await answers.get()).id != number:
                    pass
            if answer.type != "reply":
                soak.fault(f"a publish is answered {answer}")
            else:
                topic.accepted += 1
                soak.tally["published"] += 1
            await asyncio.sleep(soak.chance.uniform(0, 2 * interval))
    finally:
        line.drop()


# Malicious peers

_UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_V1, _ENGINE = _UPGRADE % b"/v1/ws", _UPGRADE % b"/socket.io/?EIO=4&transport=websocket"


def _frame(payload: bytes, first: int = 0x81) -> bytes:
    assert len(payload) < 126
    return bytes([first, 0x80 | len(payload), 0, 0, 0, 0]) + payload


MALFORMED: tuple[bytes, ...] = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000,
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    + b"[" * 8,
    b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n{",
    b"POST /socket.io/?EIO=4&transport=polling&sid=nobody HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n40",
    _V1 + b"\x81\x05hello",
    _V1 + b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    _V1 + b"\xf3\x80\0\0\0\0",
    _V1 + _frame(b"\xff\xfe"),
    _V1 + _frame(b"{" * 100),
    _V1 + _frame(b'{"type":"subscribe","topic":"a..b"}'),
    _V1 + _frame(b"\x03", 0x88),
    _V1 + b"\x09\x80\0\0\0\0",
    _ENGINE + _frame(b"9"),
    _ENGINE + _frame(b"40{"),
    _ENGINE + _frame(b"40") + _frame(b'451-["x",{"_placeholder":true,"num":7}]') + _frame(b"\0", 0x82),
    _ENGINE + _frame(b"40/nowhere,") + _frame(b"42[]") + _frame(b"3probe"),
    _ENGINE,  # never sends CONNECT
)
FLOODS: tuple[bytes, ...] = (
    _V1 + _frame(b"", 0x8A) * 20_000,
    _V1 + _frame(b"", 0x89) * 20_000,
    _V1 + _frame(b"x", 0x01) + _frame(b"", 0x00) * 5_000,
    _V1 + _frame(b'{"type":"ping","id":1}') * 5_000,
    _ENGINE + _frame(b"40") + _frame(b'42["x",1]') * 5_000,
    _ENGINE + _frame(b"3") * 20_000,
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2_000,
)


async def misbehave(soak: Soak, name: str, payloads: tuple[bytes, ...], interval: float, patience: float) -> None:
    """Send one of these, look at the answer for a while, and go; again and again until all is calm."""
    while not soak.calm:
        await asyncio.sleep(soak.chance.uniform(0, 2 * interval))
        payload = soak.chance.choice(payloads)
        soak.tally[name] += 1
        try:
            async with asyncio.timeout(soak.chance.uniform(0, 2 * patience)):
                reader, writer = await asyncio.open_connection("127.0.0.1", soak.port)
                try:
                    writer.write(payload)
                    await writer.drain()
                    while await reader.read(65536):
                        pass
                finally:
                    writer.transport.abort()
        except (ConnectionError, TimeoutError):
            pass


KINDS: dict[str, tuple[Callable[[Soak, Topic], Subscriber], float]] = {
    "v1": (LineSubscriber, 0.35),
    "slow v1": (SlowSubscriber, 0.01),
    "classic": (ClassicSubscriber, 0.2),
    "events": (EventSubscriber, 0.19),
    "/relay": (RelaySubscriber, 0.15),
    "recovery": (TickSubscriber, 0.1),
}
