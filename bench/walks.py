"""`python -m bench.walks`: the way of one message through the source, counted.

A server and its clients run in this process, on raw sockets, with a profile function in every thread. What counts:

- calls: Python functions of partyline that begin or are resumed (a coroutine's step, a lambda, in Python 3.11 a
  comprehension), the writer thread's among them; not the standard library's, other packages', or what is written in C
- files: how many files they are in
- changes: how often the next call is in another file than the one before, within a thread
- codec passes: how often an encoder, decoder or converter of msgspec runs over a part of it

Each walk is taken several times and the shortest one counts, so that a timer which comes between adds nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any
from urllib.parse import urlsplit

import partyline
from partyline import Settings, Socket, SocketIO
from partyline.app import Partyline

PACKAGE = f"{Path(partyline.__file__).parent}{os.sep}"
PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
BEGIN, END = "<!-- walks -->\n", "<!-- /walks -->"
TIMES = 12
CODEC = ("encode", "decode", "convert", "to_builtins")


@dataclass(frozen=True, slots=True, order=True)
class Walk:
    """What one message took."""

    calls: int
    loop_calls: int  # of them, on the loop
    files: int
    loop_files: int
    changes: int
    codecs: int
    path: tuple[str, ...] = ()


# What each may take at most, all threads together: calls, files, codec passes (one to read, one to write).
BOUNDS: dict[str, tuple[int | None, int | None, int | None]] = {
    "a Socket.IO event to its handler and back": (29, None, 2),
    "an emit with recovery to one socket": (70, 12, None),
    "an HTTP publish to a subscriber": (110, 18, None),
    "a `/relay` subscribe": (None, None, 2),
}


class Tracer:
    """Records the calls of every thread while it is on."""

    def __init__(self) -> None:
        self.on = False
        self._calls: dict[int, list[str]] = {}
        self._codecs = 0

    def install(self) -> None:
        """In this thread and in all that begin from now on."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def remove(self) -> None:
        """Remove the profile function from this thread, and for those that begin later."""
        threading.setprofile(None)
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self.on:
            return
        if event == "call":
            code = frame.f_code
            if code.co_filename.startswith(PACKAGE):
                step = f"{code.co_filename.removeprefix(PACKAGE)}:{code.co_qualname}"
                self._calls.setdefault(threading.get_ident(), []).append(step)
        elif event == "c_call" and argument.__name__.endswith(CODEC):
            owner = argument.__self__  # an encoder or decoder, or the module of the function
            name = owner.__name__ if isinstance(owner, ModuleType) else type(owner).__module__
            self._codecs += name.startswith("msgspec")

    def start(self) -> None:
        """Begin a walk."""
        self._calls, self._codecs = {}, 0
        self.on = True

    def stop(self) -> Walk:
        """End it."""
        self.on = False
        changes = 0
        for steps in self._calls.values():
            changes += sum(one != other for one, other in pairwise(map(_file, steps)))
        path = tuple(step for steps in self._calls.values() for step in steps)
        loop = self._calls.get(threading.get_ident(), [])
        files, loop_files = (len(set(map(_file, steps))) for steps in (path, loop))
        return Walk(len(path), len(loop), files, loop_files, changes, self._codecs, path)


def _file(step: str) -> str:
    return step.partition(":")[0]


class Client:
    """A TCP connection on which bytes are written and waited for."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._received = b""

    @classmethod
    async def open(cls, port: int) -> Client:
        raw = socket.socket()
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        return cls(raw)

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._raw, data)

    async def until(self, mark: bytes) -> bytes:
        """Read until `mark` has arrived; what preceded it, and the mark."""
        async with asyncio.timeout(10):
            while mark not in self._received:
                data = await asyncio.get_running_loop().sock_recv(self._raw, 65536)
                if not data:
                    raise ConnectionError(f"closed before {mark!r}: {self._received!r}")
                self._received += data
        got, _, self._received = self._received.partition(mark)
        return got + mark

    async def text(self, text: str) -> None:
        """A masked text frame; the mask is 0."""
        payload = text.encode()
        assert len(payload) < 126
        await self.write(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    async def upgrade(self, target: str) -> None:
        await self.write(
            f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        await self.until(b"\r\n\r\n")

    async def post(self, path: str, body: str) -> bytes:
        """A POST of JSON; what comes up to the end of the answer's body."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        await self.write(f"{head}\r\n\r\n{body}".encode())
        return await self.until(b"}")

    def close(self) -> None:
        self._raw.close()


async def _socketio(port: int, namespace: str = "/") -> Client:
    client = await Client.open(port)
    await client.upgrade("/socket.io/?EIO=4&transport=websocket")
    await client.text("40" if namespace == "/" else f"40{namespace},")
    await client.until(b'"sid":"')  # of the open packet
    await client.until(b'"sid":"')  # of the namespace
    return client


@asynccontextmanager
async def _server(db: str, *extras: Any) -> AsyncIterator[tuple[Partyline, int]]:
    async with partyline.running(Settings(port=0, db=db), extras=extras) as (server, url):
        yield server, int(url.rpartition(":")[2])


async def _shortest(tracer: Tracer, once: Callable[[int], Awaitable[object]]) -> Walk:
    walks = []
    for number in range(TIMES):
        tracer.start()
        await once(number)
        await asyncio.sleep(0.02)  # what is done after the answer belongs to it
        walks.append(tracer.stop())
    return min(walks)


async def _event(tracer: Tracer, folder: Path) -> Walk:
    io = SocketIO()

    @io.on("m")
    def back(socket: Socket, text: str) -> None:
        socket.emit("m", text)

    async with _server(":memory:", io) as (_, port):
        client = await _socketio(port)

        async def once(number: int) -> None:
            await client.text(f'42["m","{number}"]')
            await client.until(f'42["m","{number}"]'.encode())

        walk = await _shortest(tracer, once)
        client.close()
        return walk


async def _emit(tracer: Tracer, folder: Path) -> Walk:
    io = SocketIO(recovery_window=60.0)
    async with _server(str(folder / "emit.db"), io) as (_, port):
        client = await _socketio(port)

        async def once(number: int) -> None:
            io.emit("m", f"message {number}")
            await client.until(f"message {number}".encode())

        walk = await _shortest(tracer, once)
        client.close()
        return walk


async def _publish(tracer: Tracer, folder: Path) -> Walk:
    async with _server(str(folder / "publish.db")) as (_, port):
        publisher, subscriber = await Client.open(port), await Client.open(port)
        answer = (await publisher.post("/register", '{"user_id": 1, "topics": ["cats"]}')).partition(b"\r\n\r\n")[2]
        await subscriber.upgrade(urlsplit(json.loads(answer)["url"]).path)

        async def once(number: int) -> None:
            await publisher.post("/publish", f'{{"topic": "cats", "message": "message {number}"}}')
            await subscriber.until(f"message {number}".encode())

        walk = await _shortest(tracer, once)
        publisher.close()
        subscriber.close()
        return walk


async def _subscribe(tracer: Tracer, folder: Path) -> Walk:
    io = SocketIO()
    async with _server(":memory:", io) as (_, port):
        client = await _socketio(port, "/relay")

        async def once(number: int) -> None:
            await client.text(f'42/relay,{number}["subscribe",{{"topic":"cats.{number}"}}]')
            await client.until(f"43/relay,{number}[".encode())

        walk = await _shortest(tracer, once)
        client.close()
        return walk


WALKS: dict[str, Callable[[Tracer, Path], Awaitable[Walk]]] = dict(
    zip(BOUNDS, (_event, _emit, _publish, _subscribe), strict=True)
)


def measure() -> dict[str, Walk]:
    """All walks, by name."""
    tracer = Tracer()
    tracer.install()
    try:
        with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
            return {name: runner.run(take(tracer, Path(folder))) for name, take in WALKS.items()}
    finally:
        tracer.remove()


def table(walks: dict[str, Walk]) -> str:
    """The table of docs/architecture.md."""
    lines = [
        "| one message | calls | at most | on the loop | files | at most | on the loop | changes | codecs | at most |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, walk in walks.items():
        calls, files, codecs = BOUNDS[name]
        cells = [
            walk.calls,
            calls,
            walk.loop_calls,
            walk.files,
            files,
            walk.loop_files,
            walk.changes,
            walk.codecs,
            codecs,
        ]
        lines.append(f"| {name} | {' | '.join('' if cell is None else str(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def missed(walks: dict[str, Walk]) -> list[str]:
    """The bounds that are not met, in words."""
    found = []
    for name, walk in walks.items():
        taken = (("calls", walk.calls), ("files", walk.files), ("codec passes", walk.codecs))
        for (what, count), most in zip(taken, BOUNDS[name], strict=True):
            if most is not None and count > most:
                found.append(f"{name} takes {count} {what}, and may take {most}")
    return found


def show(walk: Walk) -> None:
    """Print its steps, each file once in a row."""
    before = ""
    for step in walk.path:
        file, _, name = step.partition(":")
        print(f"{'' if file == before else file:34}{name}")
        before = file


def main() -> None:
    """Print the table; with `--save` put it into docs/architecture.md; with a number show the steps of that walk. Fails
    where a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.walks", description="The way of one message, counted.")
    parser.add_argument("--save", action="store_true", help="put the table into docs/architecture.md")
    parser.add_argument(
        "walk", nargs="?", type=int, choices=range(1, len(WALKS) + 1), help="show the steps of this one"
    )
    options = parser.parse_args()
    walks = measure()
    if options.walk:
        show(list(walks.values())[options.walk - 1])
    else:
        print(table(walks), end="")
    if options.save:
        text = PAGE.read_text("utf-8")
        above, _, rest = text.partition(BEGIN)
        PAGE.write_text(above + BEGIN + table(walks) + END + rest.partition(END)[2], "utf-8")
    sys.exit("\n".join(missed(walks)) or None)


if __name__ == "__main__":
    main()
