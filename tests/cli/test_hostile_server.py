"""The commands against a malicious server: nothing that it says controls the terminal (hostile 32, 50)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable

import pytest

from partyline.cli.chat import _News, _Room, _Screen
from partyline.topics import is_printable
from partyline.wire.websocket.codec import Codec, Limits
from tests.tools import one_in

from .commands import run

EVIL = "\x1b]0;owned\x07\x1b[2J\rgone\u202e\u200b\x9b31m\x00\x7f\nforged"
"""An escape sequence, a title, a return, a direction override, a zero-width character, a line break."""

Talk = Callable[[Codec, list[str]], list[bytes]]
"""What a server answers to texts, given everything that arrived in one read."""


def refusing(body: bytes) -> bytes:
    first = f"HTTP/1.1 403 {EVIL[:20]}\r\nx: {EVIL[:8]}\r\n"
    return f"{first}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def server(talk: Talk | bytes) -> AsyncIterator[str]:
    """A server that upgrades and talks, or answers every request with these bytes."""

    tasks: set[asyncio.Task[None] | None] = set()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            key = re.search(r"Sec-WebSocket-Key: (\S+)", head, re.IGNORECASE)
            if isinstance(talk, bytes) or key is None:
                writer.write(talk if isinstance(talk, bytes) else refusing(b"{}"))
            else:
                accept = base64.b64encode(
                    hashlib.sha1(f"{key[1]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
                )
                protocol = "Sec-WebSocket-Protocol: partyline.v1\r\n" if "partyline.v1" in head else ""
                writer.write(
                    f"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{protocol}"
                    f"Sec-WebSocket-Accept: {accept.decode()}\r\n\r\n".encode()
                )
                wire = Codec(Limits(1_000_000, 1_000_000))
                writer.writelines(talk(wire, []))
                while data := await reader.read(65_536):
                    texts = [event for event in wire.receive(data) if isinstance(event, str)]
                    if texts:
                        writer.writelines(talk(wire, texts))
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(client, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        for task in tasks:
            assert task is not None
            task.cancel()
            await task


def text(wire: Codec, value: object) -> bytes:
    return wire.text((value if isinstance(value, str) else json.dumps(value)).encode())


def v1(*frames: dict[str, object], close: tuple[int, str] | None = None) -> Talk:
    """Send a welcome, and answer the first command with these frames, their `id` set to that of the command."""

    def talk(wire: Codec, texts: list[str]) -> list[bytes]:
        if not texts:
            return [text(wire, {"type": "welcome", "connection": EVIL, "server": EVIL, "heartbeat": -1e300})]
        number = json.loads(texts[0])["id"]
        said = [text(wire, {**frame, **({"id": number} if frame["type"] != "message" else {})}) for frame in frames]
        return [*said, *([] if close is None else [wire.close(*close)])]

    return talk


def chatting(answer: object, *events: object) -> Talk:
    """Socket.IO: answer the first event with this, and send these events."""

    def talk(wire: Codec, texts: list[str]) -> list[bytes]:
        opened = '0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}'
        said = [] if texts else [text(wire, opened)]
        for one in texts:
            if one.startswith("40"):
                said.append(text(wire, '40/chat,{"sid":"y"}' if answer != "refuse" else refusal()))
            elif found := re.match(r"42/chat,([0-9]+)", one):
                said += [text(wire, "42/chat," + json.dumps(event)) for event in events]
                said.append(text(wire, f"43/chat,{found[1]}" + json.dumps([answer])))
        return said

    def refusal() -> str:
        return "44/chat," + json.dumps({"message": EVIL, "data": {"code": EVIL}})

    return talk


ERROR = {"error": {"code": EVIL, "message": EVIL}}
SAID = {"id": EVIL, "by": EVIL, "name": EVIL, "text": EVIL, "time": 1e300}
ENTERED = {"me": EVIL, "people": [{"by": EVIL, "name": EVIL}], "messages": [SAID], "before": None, "count": 10**30}
RECEIPT = {"type": "reply", "position": "5eed5eed5eed5eed-1", "message_id": EVIL, "topic": EVIL}
POSITION = {"type": "reply", "position": "5eed5eed5eed5eed-1"}
numbers = itertools.count(1)


def message(data: object, **fields: object) -> dict[str, object]:
    position = f"5eed5eed5eed5eed-{next(numbers) + 1}"
    return {
        "type": "message",
        "topic": "cats",
        "position": position,
        "time": 1e300,
        "data": data,
        "from": EVIL,
        **fields,
    }


PUBLISH = ("publish", "cats", "hello")
TAIL = ("tail", "cats", "--count", "2")
CHAT = ("chat", "URL", "--room", "x", "--name", "n")
SERVERS: dict[str, tuple[tuple[str, ...], Talk | bytes]] = {
    **{
        f"{command[0]}: {name}": (command, talk)
        for command in (PUBLISH, TAIL, CHAT)
        for name, talk in (
            ("refused with JSON", refusing(json.dumps(ERROR).encode())),
            ("refused with text", refusing(EVIL.encode())),
            ("no HTTP", EVIL.encode() + b"\r\n\r\n"),
            ("a close", v1(close=(4403, EVIL[:15]))),
            ("a close of its own", v1(close=(4000, EVIL[:15]))),
            ("an error", v1({"type": "error", "code": EVIL, "message": EVIL})),
            ("no frame", lambda wire, texts: [text(wire, EVIL)]),
        )
    },
    "publish: a receipt": (PUBLISH, v1(RECEIPT)),
    "publish: a receipt as JSON": ((*PUBLISH, "--json"), v1(RECEIPT)),
    "tail: messages": (TAIL, v1(POSITION, message(EVIL), message({EVIL: [EVIL]}, key=EVIL, user_id=EVIL))),
    "tail: as JSON": ((*TAIL, "--json"), v1(POSITION, message(EVIL), message({EVIL: [EVIL]}, key=EVIL))),
    "tail: half a character": (TAIL, v1(POSITION, message("\ud800"))),
    "tail: a gap": (TAIL, v1({**POSITION, "recovered": False, "oldest": EVIL})),
    "chat: refused": (CHAT, chatting("refuse")),
    "chat: an error": (CHAT, chatting({"error": EVIL, "message": EVIL, "field": EVIL})),
    "chat: messages": (CHAT, chatting(ENTERED, ["said", SAID], ["came", SAID], ["left", SAID], ["typing", SAID])),
    "chat: other shapes": (CHAT, chatting({**ENTERED, "messages": [1]}, ["said", 1], ["came"], ["left", EVIL, 2])),
    "chat: not a chat at all": (CHAT, chatting([EVIL])),
    "chat: asked to wait": (CHAT, chatting({**ENTERED, "wait": EVIL})),
}


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
@pytest.mark.parametrize("name", one_in(4, SERVERS))
def test_nothing_drives_the_terminal(name: str, terminal: bool) -> None:
    """Whatever a server answers, in an error, a close, a message or a receipt, each character of it that could control
    a terminal or forge a line is escaped; a command that fails does so in one line, without a stack trace."""
    arguments, talk = SERVERS[name]

    async def main() -> tuple[int, str, str]:
        async with server(talk) as url:
            whole = [one.replace("URL", url) for one in arguments]
            if "URL" not in arguments:
                whole += ["--url", url]
            async with asyncio.timeout(20):
                done = await asyncio.to_thread(run, *whole, terminal=terminal, TERM="xterm")
            return done.returncode, done.stdout, done.stderr

    code, out, err = asyncio.run(main())
    for shown in (out, err):
        own = re.sub(r"\x1b\[[0-9;]*m", "", shown) if terminal else shown  # our colours
        assert all(is_printable(line) for line in own.split("\n")), ascii(own)
        assert "\nforged" not in own
    assert "Traceback" not in err
    assert code in (0, 1), err
    if code:
        assert err.count("\n") == 1, err


class Quiet(_Screen):
    """Counts what would be printed."""

    said_here = 0

    def said(self, who: str, words: str, time: float, *, own: bool = False) -> None:
        self.said_here += 1

    def news(self, text: str, style: str = "dim") -> None:
        pass


class Endless(_Room):
    """A room whose server always has an older page of `size` messages, none of which was shown before."""

    size = 0
    asked = 0

    async def ask(self, event: str, *values: object) -> dict[str, object]:
        self.asked += 1
        await asyncio.sleep(0)  # as any server takes its time
        messages = [{**SAID, "id": f"{self.asked}-{number}"} for number in range(self.size)]
        return {**ENTERED, "messages": messages, "before": str(self.asked)}


@pytest.mark.parametrize("size", [0, 1, 900])
def test_a_log_without_a_beginning(size: int) -> None:
    """After a pause `chat` looks for what it has missed, 10,000 messages and as many pages back at most."""

    async def main() -> None:
        screen = Quiet()
        room = Endless("http://127.0.0.1:9", screen, "x", "n")
        room.size = size
        room._shown["the last one before"] = None
        async with asyncio.timeout(10):
            await room.again()
        assert room.asked <= 10_001
        assert screen.said_here <= 10_000 + size

    asyncio.run(main())


def test_a_crowd_without_end() -> None:
    """`chat` remembers 10,000 people of a room, whoever else is said to have come."""

    async def main() -> None:
        room = Endless("http://127.0.0.1:9", Quiet(), "x", "n")
        for number in range(10_100):
            room._came(_News(by=str(number), name="n"))
        assert len(room._people) == 10_000

    asyncio.run(main())


def test_numbers_that_nothing_holds() -> None:
    """`tail` prints a number that Python cannot represent as it was written (hostile 50)."""

    async def main() -> str:
        def talk(wire: Codec, texts: list[str]) -> list[bytes]:
            frames = v1(POSITION)(wire, texts)
            if texts:
                for place, number in (("2", "1e400"), ("3", "9" * 5_000)):
                    head = f'{{"type":"message","topic":"cats","position":"5eed5eed5eed5eed-{place}","time":1'
                    frames.append(text(wire, f'{head},"data":{number}}}'))
            return frames

        async with server(talk) as url:
            done = await asyncio.to_thread(run, "tail", "cats", "--count", "2", "--url", url)
            assert done.returncode == 0, done.stderr
            return done.stdout

    first, second = asyncio.run(main()).splitlines()
    assert first.endswith(" 1e400")
    assert second.endswith(" " + "9" * 5_000)
