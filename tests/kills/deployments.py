"""What is killed: three servers that are one, and the engine or the keeper that has their log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol

from tests import tools
from tests.adapters.nats.server import NatsServer, nats_server
from tests.adapters.postgres.server import PostgresServer, postgres_server
from tests.adapters.servers import RedisServer, redis_server
from tests.process import command, environment

NODES: Final = 3
KEEPS: Final = ("--set", "max_messages=100000000")  # or retention takes what the long form acknowledges
ALWAYS: Final = ("--appendonly", "yes", "--appendfsync", "always")


class Deployment(Protocol):
    """Servers that clients may use one for another."""

    urls: Sequence[str]

    async def kill_node(self, number: int) -> None:
        """Kill a server at once; returns when there is another one in its place."""

    async def kill_engine(self, pause: float) -> None:
        """Kill what has the log; it is there again `pause` seconds later, or as soon as it can be. Returns then."""

    def signal_node(self, number: int, what: signal.Signals) -> None:
        """Send a signal to a server."""


class Engine(Protocol):
    """A real engine that can be killed."""

    def url(self) -> str: ...

    async def kill(self) -> None: ...

    async def start(self) -> None: ...


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


class Node:
    """A `partyline serve` on a port that it keeps."""

    def __init__(self, *arguments: str, cwd: Path | None = None) -> None:
        self.port = _free_port()
        self.process: asyncio.subprocess.Process | None = None
        self._arguments = arguments
        self._cwd = cwd

    async def start(self) -> None:
        """Returns when it listens."""
        line = command("serve", "--port", str(self.port), "--log-format", "json", *self._arguments)
        self.process = await asyncio.create_subprocess_exec(
            *line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=environment(), cwd=self._cwd
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(120):
            said = await self.process.stdout.readline()
        assert json.loads(said)["listening"], said

    async def kill(self) -> None:
        """As kill -9 does."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


class Servers:
    """Servers with a log in an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._nodes = [Node("--db", ":memory:", "--log", engine.url(), *KEEPS) for _ in range(NODES)]
        self.urls = [f"http://127.0.0.1:{node.port}" for node in self._nodes]

    async def start(self) -> None:
        await asyncio.gather(*(node.start() for node in self._nodes))

    async def stop(self) -> None:
        await asyncio.gather(*(node.kill() for node in self._nodes))

    async def kill_node(self, number: int) -> None:
        await self._nodes[number].kill()
        await self._nodes[number].start()

    def signal_node(self, number: int, what: signal.Signals) -> None:
        process = self._nodes[number].process
        assert process is not None
        process.send_signal(what)

    async def kill_engine(self, pause: float) -> None:
        await self._engine.kill()
        await asyncio.sleep(pause)
        await self._engine.start()


class Workers:
    """The workers of one machine, and their keeper."""

    def __init__(self, folder: Path) -> None:
        self._parent = Node("--db", str(folder / "partyline.db"), "--workers", str(NODES), *KEEPS)
        self.urls = [f"http://127.0.0.1:{self._parent.port}"]

    async def start(self) -> None:
        await self._parent.start()

    async def stop(self) -> None:
        process = self._parent.process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()

    async def kill_node(self, number: int) -> None:
        await self._kill(f"worker-{number}")

    async def kill_engine(self, pause: float) -> None:
        await self._kill("keeper")

    def signal_node(self, number: int, what: signal.Signals) -> None:
        os.kill(self._children()[f"worker-{number}"], what)

    async def _kill(self, name: str) -> None:
        async with asyncio.timeout(30):
            while (pid := self._children().get(name)) is None:
                await asyncio.sleep(0.02)
            os.kill(pid, signal.SIGKILL)
            while self._children().get(name, pid) == pid:
                await asyncio.sleep(0.02)

    def _children(self) -> dict[str, int]:
        assert self._parent.process is not None
        parent = self._parent.process.pid
        found: dict[str, int] = {}
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(OSError):
                found[Path(f"/proc/{pid}/comm").read_text().strip()] = int(pid)
        return found


class Redis:
    """An `Engine`."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def url(self) -> str:
        return self._server.url

    async def kill(self) -> None:
        await self._server.kill()

    async def start(self) -> None:
        await self._server.start()


class Nats:
    """An `Engine`."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server

    def url(self) -> str:
        return f"{self._server.url}?monitor={self._server.monitor}"

    async def kill(self) -> None:
        await self._server.kill()

    async def start(self) -> None:
        await self._server.start()


class Postgres:
    """An `Engine`."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    def url(self) -> str:
        return self._server.url()

    async def kill(self) -> None:
        await asyncio.to_thread(self._server.kill)

    async def start(self) -> None:
        await self._server.start()


@contextlib.asynccontextmanager
async def redis(folder: Path) -> AsyncIterator[Deployment]:
    async with redis_server(folder, *ALWAYS) as server, _running(Servers(Redis(server))) as servers:
        yield servers


@contextlib.asynccontextmanager
async def valkey(folder: Path) -> AsyncIterator[Deployment]:
    program = tools.valkey()
    async with redis_server(folder, *ALWAYS, program=program) as server, _running(Servers(Redis(server))) as servers:
        yield servers


@contextlib.asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[Deployment]:
    async with postgres_server() as server, _running(Servers(Postgres(server))) as servers:
        yield servers


@contextlib.asynccontextmanager
async def nats(folder: Path) -> AsyncIterator[Deployment]:
    async with nats_server(folder, {"sync_interval": "always"}) as server, _running(Servers(Nats(server))) as servers:
        yield servers


@contextlib.asynccontextmanager
async def keeper(folder: Path) -> AsyncIterator[Deployment]:
    async with _running(Workers(folder)) as workers:
        yield workers


@contextlib.asynccontextmanager
async def _running(servers: Servers | Workers) -> AsyncIterator[Deployment]:
    try:
        await servers.start()
        yield servers
    finally:
        await servers.stop()


DEPLOYMENTS: Final[dict[str, Callable[[Path], AbstractAsyncContextManager[Deployment]]]] = {
    "keeper": keeper,
    "nats": nats,
    "postgres": postgres,
    "redis": redis,
    "valkey": valkey,
}
"""By the name of what has the log."""
