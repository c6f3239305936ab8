"""`partyline.asgi:app` as a process under the ASGI servers that people have: their logs, and how they stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from partyline.trust.keys import key_hash
from tests.calls import call
from tests.e2e.test_mounting import events
from tests.process import environment
from tests.server.peers import WITHIN, connected, request, websocket
from tests.tokens import SECRET, token

UVICORN = ["uvicorn", "--port", "0"]
HYPERCORN = ["hypercorn", "--bind", "127.0.0.1:0", "--graceful-timeout", "30"]
KEY = "pl_" + "k" * 30
CONFIG = f"""
db = ":memory:"
[[api_keys]]
hash = "{key_hash(KEY)}"
admin = true
[[jwt_keys]]
algorithm = "HS256"
secret = "{SECRET}"
"""
AS_ADMIN = {"Authorization": f"Bearer {KEY}"}


@contextlib.asynccontextmanager
async def hosted(
    command: list[str], folder: Path, app: str = "partyline.asgi:app", **variables: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, Callable[[], str]]]:
    """A server as its users start it, its URL, and what it has printed so far."""
    output = folder / "output"
    with output.open("wb") as file:
        running = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *command,
            app,
            cwd=folder,
            env=environment() | {"PARTYLINE_DB": ":memory:"} | variables,
            stdout=file,
            stderr=file,
            start_new_session=True,  # hypercorn's worker is a child of its own
        )
    try:
        async with asyncio.timeout(30):
            while (found := re.search(r"http://127\.0\.0\.1:[1-9][0-9]*", output.read_text())) is None:
                assert running.returncode is None, output.read_text()
                await asyncio.sleep(0.05)
        yield running, found[0], output.read_text
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        await running.wait()


@pytest.mark.parametrize(
    "command",
    [
        UVICORN,
        [*UVICORN, "--http", "h11", "--ws", "wsproto"],
        [*UVICORN, "--log-level", "trace"],
        [*HYPERCORN, "--access-logfile", "-", "--access-logformat", '"%(R)s" %({authorization}i)s %(s)s'],
    ],
    ids=" ".join,
)
def test_hostile_60_a_hosts_log_holds_no_credential(command: list[str], tmp_path: Path) -> None:
    """Ids, session ids, tokens and keys of requests and upgrades do not get into the log of the host (hostile 60)."""
    (tmp_path / "partyline.toml").write_text(CONFIG)

    async def main() -> None:
        own = token("ann", 200.0)
        async with hosted(command, tmp_path, PARTYLINE_CONFIG="partyline.toml") as (_, url, printed):
            _, body = await call(url + "/register", "POST", {"user_id": "ann"}, headers=AS_ADMIN)
            connection_id = body["url"].rpartition("/")[2]
            async with connect(body["url"]) as line:
                await line.send("ping")
                assert await line.recv() == "pong"
            address = f"{url.replace('http', 'ws', 1)}/v1/ws?token={own}"
            async with connect(address, subprotocols=["partyline.v1"]) as line:  # type: ignore[list-item]
                await line.recv()
            async with connected(url) as peer:
                await peer.send(request("GET", "/socket.io/?EIO=4&transport=polling"))
                sid = re.search(r'"sid":"([^"]+)', (await peer.answer()).body.decode())[1]  # type: ignore[index]
                await peer.send(request("GET", f"/socket.io/?EIO=4&transport=polling&sid={sid}x"))
                assert (await peer.answer()).status == 400
            assert (await call(f"{url}/register/{connection_id}", "DELETE", headers=AS_ADMIN))[0] == 200
            assert (await call(f"{url}/cats-and-dogs", headers=AS_ADMIN))[0] == 404
            async with asyncio.timeout(WITHIN):
                while "cats-and-dogs" not in printed():
                    await asyncio.sleep(0.05)
            for name, secret in {"id": connection_id, "token": own, "sid": sid, "key": KEY}.items():
                assert secret not in printed(), f"{name} in {printed()}"

    asyncio.run(main())


@pytest.mark.alone
@pytest.mark.parametrize(
    "command", [UVICORN, [*UVICORN, "--loop", "uvloop"], HYPERCORN, [*HYPERCORN, "-k", "uvloop"]], ids=" ".join
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_open_connections_keep_no_host_from_stopping(
    command: list[str], number: signal.Signals, tmp_path: Path
) -> None:
    """A host that is told to stop, as by `--reload`, ends within a second or two, whatever is open: streams of events
    end with a `retry:`, GETs that hang are answered, WebSockets are told to come back (1012)."""

    async def main() -> None:
        async with (
            hosted(command, tmp_path) as (running, url, printed),
            events(f"{url}/v1/topics/cats/events") as stream,
            connected(url) as hanging,
            connect(f"{url.replace('http', 'ws', 1)}/v1/ws", subprotocols=["partyline.v1"]) as line,  # type: ignore[list-item]
            connect(f"{url.replace('http', 'ws', 1)}/socket.io/?EIO=4&transport=websocket"),
        ):
            await line.recv()
            await hanging.send(request("GET", "/socket.io/?EIO=4&transport=polling"))
            sid = re.search(r'"sid":"([^"]+)', (await hanging.answer()).body.decode())[1]  # type: ignore[index]
            await hanging.send(request("GET", f"/socket.io/?EIO=4&transport=polling&sid={sid}"))
            began = time.monotonic()
            running.send_signal(number)
            async with asyncio.timeout(WITHIN):
                assert b"retry:" in await stream.read()
                assert (await hanging.answer()).body == b"1"
                await line.wait_closed()
                assert line.close_code == 1012
                await running.wait()
            assert time.monotonic() - began < 4.0, printed()

    asyncio.run(main())


@pytest.mark.alone
@pytest.mark.parametrize(
    "command",
    [UVICORN, [*UVICORN, "--ws", "wsproto"], [*UVICORN, "--ws", "websockets-sansio"], HYPERCORN],
    ids=" ".join,
)
def test_dead_peers_keep_no_host_from_stopping(command: list[str], tmp_path: Path) -> None:
    """A WebSocket whose client does not answer a close frame is given up after `close_timeout`."""

    async def main() -> None:
        async with (
            hosted(command, tmp_path, PARTYLINE_CLOSE_TIMEOUT="500ms") as (running, url, printed),
            connected(url) as peer,
        ):
            socket = await websocket(peer, "/socket.io/?EIO=4&transport=websocket")
            await socket.text()
            began = time.monotonic()
            running.send_signal(signal.SIGTERM)
            async with asyncio.timeout(WITHIN):
                await running.wait()
            assert time.monotonic() - began < 4.0, printed()

    asyncio.run(main())


@pytest.mark.parametrize("command", [UVICORN, HYPERCORN], ids=" ".join)
def test_a_handler_that_fails_is_seen(command: list[str], tmp_path: Path) -> None:
    """An exception of a handler is printed by a host in which nobody has configured any logs."""
    (tmp_path / "main.py").write_text(
        "import partyline\n"
        "io = partyline.SocketIO()\n"
        "@io.on('boom')\n"
        "def boom(socket):\n"
        "    raise ValueError('my bug')\n"
        "app = partyline.Application(extras=[io])\n"
    )

    async def main() -> None:
        async with hosted(command, tmp_path, "main:app") as (_, url, printed), connected(url) as peer:
            socket = await websocket(peer, "/socket.io/?EIO=4&transport=websocket")
            await socket.text()
            await socket.say("40")
            await socket.text()
            await socket.say('421["boom"]')
            assert await socket.text() == '431[{"error":"internal"}]'
            async with asyncio.timeout(WITHIN):
                while "ValueError: my bug" not in printed():
                    await asyncio.sleep(0.05)
            assert printed().count("ValueError: my bug") == 1

    asyncio.run(main())
