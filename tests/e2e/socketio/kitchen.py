"""The kitchen sink of examples/conformance.py, as a process.

With `SUITE_SERVER=node` in the environment it is Node's own Socket.IO server with the same handlers: what the tests
expect holds there, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


class Kitchen:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """As the kernel does it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def _command(mode: str, port: int, db: Path | None) -> list[str]:
    if ON_NODE:
        return [program("node"), str(HERE / "kitchen.cjs"), str(node_packages("socketio", PACKAGES)), mode, str(port)]
    return [sys.executable, str(APP), "--mode", mode, "--port", str(port), *(["--db", str(db)] if db else [])]


@contextmanager
def kitchen(mode: str, *, port: int = 0, db: Path | None = None) -> Iterator[Kitchen]:
    """The server in a mode; it ends in order, if it was not killed."""
    process = subprocess.Popen(_command(mode, port, db), stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
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


class Client:
    """A client in Node that does what it is told, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, url: str, version: str, transports: list[str], parser: str | None = None) -> Client:
        """Start one; it is not connected yet."""
        modules = node_packages("socketio", PACKAGES)
        asked = {"url": url, "transports": transports, **({"parser": parser} if parser else {})}
        command = [program("node"), str(HERE / "client.cjs"), str(modules), version, json.dumps(asked)]
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))

    def tell(self, do: str, **more: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")

    async def hears(self) -> dict[str, Any]:
        """What it says next."""
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            said: dict[str, Any] = json.loads(await self._process.stdout.readline())
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
