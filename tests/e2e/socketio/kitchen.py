"""The kitchen sink of examples/conformance.py, as a process.

With `SUITE_SERVER=node` in the environment it is Node's own Socket.IO server with the same handlers: what the tests
expect holds there, too. With `SUITE_SERVER=workers` it is four workers on one port.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.process import environment
from tests.tools import ROOT, node_packages, program

HERE = Path(__file__).parent
APP = ROOT / "examples" / "conformance.py"
PACKAGES = {
    "socket.io-client-2": "socket.io-client@2.5.0",
    "socket.io-client-3": "socket.io-client@3.1.3",
    "socket.io-client-4": "socket.io-client@4.8.3",
    "socket.io-msgpack-parser": "socket.io-msgpack-parser@3.0.2",
    "socket.io": "socket.io@4.8.3",
}
ON_NODE = os.environ.get("SUITE_SERVER") == "node"
ON_WORKERS = os.environ.get("SUITE_SERVER") == "workers"


class Kitchen:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """Kill the process, as the kernel does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the process for a while, as on a sleeping machine."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def _command(mode: str, port: int, db: Path | None) -> list[str]:
    if ON_NODE:
        return [program("node"), str(HERE / "kitchen.cjs"), str(node_packages("socketio", PACKAGES)), mode, str(port)]
    if ON_WORKERS:
        many = ["serve", f"tests.e2e.socketio.many:{mode}", "--workers", "4", "--log-format", "json"]
        return [sys.executable, "-m", "partyline", *many, "--port", str(port), "--db", str(db or ":memory:")]
    return [sys.executable, str(APP), "--mode", mode, "--port", str(port), *(["--db", str(db)] if db else [])]


@contextmanager
def kitchen(mode: str, *, port: int = 0, db: Path | None = None) -> Iterator[Kitchen]:
    """The server in a mode; it ends in order, if it was not killed."""
    process = subprocess.Popen(_command(mode, port, db), stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        url = json.loads(said)["listening"] if ON_WORKERS and said else said
        assert url.startswith("http"), "it did not start"
        yield Kitchen(process, url)
        if process.poll() is None:
            process.terminate()
            assert process.wait(15) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


WAYS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}


class Client:
    """A client in Node that does what it is told, line by line. `id` is that of its first connection."""

    def __init__(self, process: asyncio.subprocess.Process, kind: str) -> None:
        self._process = process
        self.kind = kind
        self.id = ""

    def tell(self, do: str, **more: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")

    def emit(self, *values: Any) -> None:
        """Emit an event; `{"bytes": hex}` stands for binary."""
        self.tell("emit", values=values)

    async def hears(self) -> dict[str, Any]:
        """What it says next."""
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            said: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return said

    async def until(self, what: str) -> list[dict[str, Any]]:
        """Everything it says up to the first line with `what` in it."""
        said = [await self.hears()]
        while what not in said[-1]:
            said.append(await self.hears())
        return said

    async def ask(self, *values: Any) -> list[Any]:
        """Emit an event of the kitchen's, and return its acknowledgement."""
        self.tell("ask", values=values)
        answer: list[Any] = (await self.hears())["answer"]
        return answer

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


@asynccontextmanager
async def clients(
    url: str, *kinds: str, namespace: str = "/", auth: dict[str, Any] | None = None
) -> AsyncIterator[list[Client]]:
    """Clients that are connected, each a process: "4 websocket" is version 4 on that way. They come back by themselves
    when their connection is lost."""
    modules, pipe = node_packages("socketio", PACKAGES), asyncio.subprocess.PIPE
    async with AsyncExitStack() as stack:
        started = []
        for kind in kinds:
            version, way = kind.split()
            asked = json.dumps({"url": url, "transports": WAYS[way]})
            command = [program("node"), str(HERE / "client.cjs"), str(modules), f"socket.io-client-{version}", asked]
            client = Client(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe), kind)
            stack.push_async_callback(client.end)
            client.tell("connect", namespace=namespace, auth=auth or {})
            started.append(client)
        for client in started:
            first = await client.hears()
            assert not first["recovered"]
            client.id = first["connected"]
        yield started
