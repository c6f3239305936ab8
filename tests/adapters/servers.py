"""A real redis-server of a test's own, which may be stopped, killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket as sockets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from tests import tools


class RedisServer:
    """One redis-server on a free port of loopback."""

    def __init__(self, folder: Path, *options: str, program: str = "") -> None:
        self._program = program or tools.program("redis-server")
        tools.redis()
        with sockets.create_server(("127.0.0.1", 0)) as one:
            self.port: int = one.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        base = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self._options = [*base, "--appendonly", "no", *options]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; returns when it answers."""
        self._process = await asyncio.create_subprocess_exec(
            self._program, *self._options, stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(60):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                    continue
                writer.write(b"PING\r\n")
                answer = await reader.readline()
                writer.close()
                if answer.startswith((b"+PONG", b"-NOAUTH")):
                    return

    async def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            await self._process.wait()
            self._process = None

    async def kill(self) -> None:
        """End it at once, as a crash does."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        self._process = None

    def hang(self) -> None:
        """Let it answer nothing until `go_on`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def ask(self, *parts: Any) -> Any:
        """One command, on a connection of its own."""
        client = tools.redis().Redis(port=self.port, socket_timeout=5)
        try:
            return await client.execute_command(*parts)
        finally:
            await client.aclose()


@contextlib.contextmanager
def redis_process(program: str, folder: Path, *options: str) -> Iterator[str]:
    """The address of a running server that no loop looks after, so that several tests can share it."""
    tools.redis()
    with sockets.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    base = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen([program, *base, *options], stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 15
            while True:
                try:
                    sockets.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < until, f"{program} does not start"
                    time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def redis_server(folder: Path, *options: str, program: str = "") -> AsyncIterator[RedisServer]:
    """A running server."""
    server = RedisServer(folder, *options, program=program)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Turns:
    """Counts how much is done in one turn of the loop."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0

    def work(self) -> None:
        """Half a millisecond of work."""
        if not self._now:
            asyncio.get_running_loop().call_soon(self._turn)
        self._now += 1
        self.most = max(self.most, self._now)
        until = time.monotonic() + 0.0005
        while time.monotonic() < until:
            pass

    def _turn(self) -> None:
        self._now = 0


class Forwarder:
    """A port of loopback that leads to a server, which may be cut, stalled, or led elsewhere."""

    def __init__(self) -> None:
        self.port = 0  # of the server
        self.stalled = False  # True: bytes are taken and not passed on, new connections too
        self.url = ""
        self._writers: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def open(self, port: int) -> AsyncIterator[Forwarder]:
        """Lead to `port` until the end."""
        self.port = port
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not self.stalled:
                    writer.write(data)
        writer.transport.abort()
