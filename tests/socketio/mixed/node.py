"""A Socket.IO server of Node in a process of its own, beside ours in one cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests import tools

PACKAGES: Final = {
    "socket.io": "socket.io@4.8.4",
    "@socket.io/redis-adapter": "@socket.io/redis-adapter@8.3.0",
    "@socket.io/redis-streams-adapter": "@socket.io/redis-streams-adapter@0.3.1",
    "@socket.io/redis-emitter": "@socket.io/redis-emitter@5.1.0",
    "redis": "redis@6.3.1",
}

installed = pytest.mark.usefixtures("cluster_packages")
"""For tests that run a Node server: npm, which may also have to wait for other tests' packages, is done before a test's
time begins."""


class CallFailed(Exception):
    """A call on the Node server was rejected."""


class NodeServer:
    """What a test says to it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self._calls = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.create_task(self._read())

    async def call(self, call: str, **arguments: Any) -> Any:
        """The outcome of a call; see server.cjs. Raises CallFailed."""
        self._calls += 1
        future = self._waiting[self._calls] = asyncio.get_running_loop().create_future()
        assert self.process.stdin is not None
        line = {"id": self._calls, "call": call, **arguments}
        self.process.stdin.write(json.dumps(line, default=lambda data: {"$bytes": data.hex()}).encode() + b"\n")
        async with asyncio.timeout(15):
            return await future

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            said = json.loads(line, object_hook=lambda one: bytes.fromhex(one["$bytes"]) if "$bytes" in one else one)
            future = self._waiting.pop(said["id"])
            if "error" in said:
                future.set_exception(CallFailed(said["error"], said.get("responses")))
            else:
                future.set_result(said["result"])

    async def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()
        await self._reader


@contextlib.asynccontextmanager
async def node_server(form: str, redis: int, **options: Any) -> AsyncIterator[NodeServer]:
    """A running Node server in the cluster on this port of Redis."""
    folder = await asyncio.to_thread(tools.node_packages, "cluster", PACKAGES)
    command = [tools.program("node"), str(Path(__file__).parent / "server.cjs"), str(folder), form, str(redis)]
    process = await asyncio.create_subprocess_exec(
        *command, json.dumps(options), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        first = await process.stdout.readline()
    server = NodeServer(process, json.loads(first)["port"])
    try:
        yield server
    finally:
        await server.close()
