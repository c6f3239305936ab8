"""The oldest and the newest servers of the last two years that Partyline is mounted into, as processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tools
from tests.process import environment
from tests.server.peers import WITHIN, connected, request, websocket

pytestmark = pytest.mark.check

# The first release of the last two years; None: the one that the tests are run with, which is the newest.
HOSTS = [("uvicorn", "0.32.0"), ("uvicorn", None), ("hypercorn", "0.17.3"), ("hypercorn", None)]
Install = Callable[[str, str | None], str]


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Gives the PYTHONPATH for a release of a package; each is installed once, without what it depends on."""
    made: dict[str, str] = {}

    def path(package: str, version: str | None) -> str:
        wanted = f"{package}=={version}"
        if version is not None and wanted not in made:
            folder = tmp_path_factory.mktemp(package)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), wanted]
            done = subprocess.run(pip, capture_output=True, text=True, timeout=100)
            if done.returncode:
                tools.missing(wanted, f"{' '.join(pip[1:])} failed: {done.stderr.strip()[-300:]}")
            made[wanted] = str(folder)
        return os.pathsep.join((*([] if version is None else [made[wanted]]), str(tools.ROOT / "src")))

    return path


def command(package: str, listener: socket.socket) -> list[str]:
    target, number = "partyline.asgi:app", str(listener.fileno())
    if package == "uvicorn":
        return [sys.executable, "-m", package, "--fd", number, "--ws", "wsproto", "--http", "httptools", target]
    return [sys.executable, "-m", package, "--bind", f"fd://{number}", target]


async def version_of(package: str, path: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env={**environment(), "PYTHONPATH": path}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode().strip()


@pytest.mark.parametrize(("package", "version"), HOSTS, ids=lambda one: one or "newest")
def test_a_host(package: str, version: str | None, install: Install, tmp_path: Path) -> None:
    """It serves the calls, a WebSocket, a stream of events and polling, and ends at a SIGTERM with all of them open."""
    path = install(package, version)

    async def main() -> None:
        if version is not None:
            assert await version_of(package, path) == version
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            *command(package, listener),
            env={**environment(), "PYTHONPATH": path, "PARTYLINE_DB": ":memory:"},
            cwd=tmp_path,
            pass_fds=(listener.fileno(),),
            stderr=asyncio.subprocess.PIPE,
        )
        listener.close()
        try:
            async with connected(url) as http, connected(url) as line, connected(url) as events, connected(url) as poll:
                await http.send(request("GET", "/health"))
                assert (await http.answer()).json == {"status": "ok"}
                socket_ = await websocket(line, "/v1/ws", "Sec-WebSocket-Protocol: partyline.v1")
                assert json.loads(await socket_.text())["type"] == "welcome"
                await socket_.say('{"type": "subscribe", "topic": "cats", "id": 1}')
                assert json.loads(await socket_.text())["type"] == "reply"
                await events.send(request("GET", "/v1/topics/cats/events"))
                assert " 200 " in await events.head()
                await poll.send(request("GET", "/socket.io/?EIO=4&transport=polling"))
                assert (await poll.answer()).body.startswith(b'0{"sid"')
                await http.send(request("POST", "/publish", b'{"topic": "cats", "message": "hello"}'))
                assert (await http.answer()).status == 200
                assert json.loads(await socket_.text())["data"] == "hello"
                heard = b""
                while b"hello" not in heard:
                    heard += await events.some()
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(WITHIN):
                    await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                _, errors = await process.communicate()
                print(errors.decode())

    asyncio.run(main())
