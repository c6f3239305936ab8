"""A real nats-server of a test's own, alone or in a cluster, which may be stopped, killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket as sockets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from partyline.adapters.nats.address import parse
from partyline.adapters.nats.line import Line
from tests import tools

ALWAYS = {"sync_interval": "always"}


def free_port() -> int:
    with sockets.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


class NatsServer:
    """One server on free ports of loopback; `jetstream` are settings of JetStream, `options` of the server."""

    def __init__(self, folder: Path, jetstream: dict[str, Any] | None = None, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self._program = tools.nats_server()
        self.port = free_port()
        self.monitor = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._file = folder / "server.conf"
        self.options = {
            "host": "127.0.0.1",
            "port": self.port,
            "http": f"127.0.0.1:{self.monitor}",
            "jetstream": {"store_dir": str(folder / "data"), **(jetstream or {})},
            "log_file": str(folder / "log"),
            **options,
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return str(self.options.get("server_name", ""))

    async def start(self) -> None:
        """Start it; returns when it answers."""
        await asyncio.to_thread(self.start_now)

    def start_now(self) -> None:
        """The same without a loop."""
        self._file.write_text(json.dumps(self.options))
        self.process = subprocess.Popen([self._program, "-c", str(self._file)], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 15
        while True:
            try:
                with sockets.create_connection(("127.0.0.1", self.port), 1) as one:
                    if one.recv(4) == b"INFO":
                        return
            except OSError:
                pass
            assert time.monotonic() < until, Path(self.options["log_file"]).read_text()[-2000:]
            time.sleep(0.01)

    def configure(self, **options: Any) -> None:
        """Change settings of a running server."""
        assert self.process is not None
        self.options |= options
        self._file.write_text(json.dumps(self.options))
        self.process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            await asyncio.to_thread(self.process.wait)
            self.process = None

    async def kill(self) -> None:
        """End it at once, as a crash does."""
        assert self.process is not None
        self.process.kill()
        await asyncio.to_thread(self.process.wait)
        self.process = None

    def hang(self) -> None:
        """Let it answer nothing until `go_on`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def ask(self, subject: str, **request: Any) -> Any:
        """An answer of JetStream, on a connection of its own."""
        line = await Line.open(parse(self.url, "log"), lambda line: None)
        try:
            answer = await line.ask(f"$JS.API.{subject}".encode(), json.dumps(request).encode() if request else b"")
            return json.loads(answer.data)
        finally:
            await line.close()

    async def publish(self, subject: str, data: bytes) -> None:
        """A message of somebody else's."""
        line = await Line.open(parse(self.url, "log"), lambda line: None)
        line.publish(subject.encode(), data)
        await line.settled()
        await line.close()


@contextlib.contextmanager
def nats_process(folder: Path, **options: Any) -> Iterator[NatsServer]:
    """A running server that no loop looks after, so that several tests can share it."""
    server = NatsServer(folder, ALWAYS, **options)
    server.start_now()
    try:
        yield server
    finally:
        assert server.process is not None
        server.process.kill()
        server.process.wait()


@contextlib.asynccontextmanager
async def nats_server(
    folder: Path, jetstream: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[NatsServer]:
    """A running server."""
    server = NatsServer(folder, jetstream, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def nats_cluster(folder: Path, jetstream: dict[str, Any] | None = None) -> AsyncIterator[Sequence[NatsServer]]:
    """Three running servers that are one cluster."""
    ports = [free_port() for _ in range(3)]
    servers = [
        NatsServer(
            folder / f"n{number}",
            jetstream,
            server_name=f"n{number}",
            cluster={
                "name": "test",
                "host": "127.0.0.1",
                "port": port,
                "routes": [f"nats://127.0.0.1:{other}" for other in ports if other != port],
            },
        )
        for number, port in enumerate(ports)
    ]
    await asyncio.gather(*(server.start() for server in servers))
    try:
        yield servers
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


def together(servers: Sequence[NatsServer]) -> str:
    """The address that names all of them."""
    return "nats://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
