"""nginx and HAProxy, as Debian ships them, before the server, as docs/howto/behind-a-proxy.md configures them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from partyline.client import socketio
from partyline.trust.keys import key_hash
from tests import tools
from tests.calls import call
from tests.process import Server, serving
from tests.server.peers import WITHIN, connected, request

KEY = "pl_" + "k" * 30
AS_ADMIN = {"Authorization": f"Bearer {KEY}"}
PAGE = (tools.ROOT / "docs" / "howto" / "behind-a-proxy.md").read_text("utf-8")
PROXIES = ["nginx", "haproxy"]


def documented(name: str) -> str:
    """The configuration on the page."""
    found = re.search(rf"```{name}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def nginx(folder: Path, port: int, server: int) -> list[str]:
    """nginx's command. TLS is left out, and upstream connections are kept, so that a mistake of one request meets the
    next."""
    text = documented("nginx")
    text = re.sub(r" *ssl_certificate.*\n| *server_name.*\n", "", text)
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port}").replace("/var/log/nginx", str(folder))
    text = text.replace("http://127.0.0.1:8000", "http://partyline")
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    kept = f"upstream partyline {{ server 127.0.0.1:{server}; keepalive 1; }}"
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;"
        f"events {{}} http {{ {places} {kept}\n{text} }}\n"
    )
    return [
        tools.program("nginx"),
        "-p",
        str(folder),
        "-e",
        str(folder / "error.log"),
        "-c",
        str(folder / "nginx.conf"),
    ]


def haproxy(folder: Path, port: int, server: int) -> list[str]:
    """HAProxy's command."""
    text = documented("haproxy")
    text = re.sub(r"bind \*:443.*", f"bind 127.0.0.1:{port}", text).replace("127.0.0.1:8000", f"127.0.0.1:{server}")
    (folder / "haproxy.cfg").write_text(f"global\n    stats socket {folder}/stats\n{text}")
    return [tools.program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


@contextlib.asynccontextmanager
async def behind(name: str, folder: Path, *arguments: str) -> AsyncIterator[tuple[Server, str]]:
    """A server with a key behind a proxy; the proxy's URL."""
    keys = ("--api-key", key_hash(KEY), "--trusted-proxy", "127.0.0.1", "--set", "drain_time=5s")
    async with serving(*keys, *arguments) as server:
        port = free_port()
        command = {"nginx": nginx, "haproxy": haproxy}[name](folder, port, server.port)
        proxy = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        url = f"http://127.0.0.1:{port}"
        try:
            async with asyncio.timeout(WITHIN):
                while not await answers(url):
                    assert proxy.returncode is None, await proxy.communicate()
                    await asyncio.sleep(0.05)
            yield server, url
        finally:
            with contextlib.suppress(ProcessLookupError):
                proxy.terminate()
            await proxy.communicate()


async def answers(url: str) -> bool:
    try:
        return (await call(url + "/health"))[0] == 200
    except (OSError, ValueError):
        return False


async def publish(url: str, data: Any) -> None:
    status, answer = await call(url + "/publish", "POST", {"topic": "cats", "message": data}, headers=AS_ADMIN)
    assert status == 200, answer


@pytest.mark.parametrize("proxy", PROXIES)
def test_every_transport(proxy: str, tmp_path: Path) -> None:
    """A classic WebSocket, v1, server-sent events and Socket.IO by polling and its upgrade work through the proxy, and
    what is published arrives at once."""

    async def main() -> None:
        async with behind(proxy, tmp_path) as (_, url):
            _, body = await call(url + "/register", "POST", {"user_id": 1, "topics": ["cats"]}, headers=AS_ADMIN)
            ws = url.replace("http", "ws", 1)
            v1 = connect(f"{ws}/v1/ws", subprotocols=["partyline.v1", f"bearer.{KEY}"])  # type: ignore[list-item]
            async with (
                connect(f"{ws}/ws/{body['url'].rpartition('/')[2]}") as classic,
                v1 as line,
                socketio.connect(url, auth={"token": KEY}, namespace="/relay") as relay,
            ):
                await line.send(json.dumps({"type": "subscribe", "topic": "cats", "id": 1}))
                assert json.loads(await line.recv())["type"] == "welcome"
                assert json.loads(await line.recv())["type"] == "reply"
                assert (await relay.call("subscribe", {"topic": "cats"}))["recovered"] is True
                heard: asyncio.Queue[Any] = asyncio.Queue()
                relay.on("message", heard.put_nowait)
                await publish(url, "hello")
                async with asyncio.timeout(WITHIN):
                    assert await classic.recv() == "hello"
                    assert json.loads(await line.recv())["data"] == "hello"
                    assert (await heard.get())["data"] == "hello"

    asyncio.run(main())


@pytest.mark.parametrize("proxy", PROXIES)
def test_the_client_is_known(proxy: str, tmp_path: Path) -> None:
    """Failed authentications count for the client's own address: one that fails too often locks no other out, and
    nobody makes an address up (hostile 36, 59)."""

    async def main() -> None:
        async with behind(proxy, tmp_path, "--set", "auth_failures_per_minute=2") as (_, url):

            async def ask(key: str, **headers: str) -> int:
                asked = {"Authorization": f"Bearer {key}"} | {n.replace("_", "-"): v for n, v in headers.items()}
                return (await call(url + "/v1/topics/cats/messages", headers=asked))[0]

            # What a client writes stands left of what the proxy adds: 127.0.0.1, which is a trusted proxy here.
            assert [await ask("wrong", x_forwarded_for="198.51.100.1") for _ in range(3)] == [401, 401, 429]
            assert await ask(KEY, x_forwarded_for="198.51.100.2") == 200
            assert await ask(KEY, x_forwarded_for="198.51.100.1") == 429
            assert await ask(KEY, x_forwarded_for="198.51.100.1", forwarded="for=198.51.100.3") == 429
            assert await ask(KEY, x_forwarded_for="198.51.100.9, 198.51.100.1") == 429

    asyncio.run(main())


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_drain(proxy: str, tmp_path: Path) -> None:
    """When the server stops, its clients behind the proxy are told to come back, and it does not wait for the proxy."""

    async def main() -> None:
        async with behind(proxy, tmp_path) as (server, url):
            v1 = connect(f"{url.replace('http', 'ws', 1)}/v1/ws", subprotocols=["partyline.v1", f"bearer.{KEY}"])  # type: ignore[list-item]
            async with v1 as line:
                await line.recv()
                began = time.monotonic()
                assert await server.end(signal.SIGTERM) == 0
                assert time.monotonic() - began < 4.0
                await line.wait_closed()
                assert line.close_code == 1012
            async with asyncio.timeout(WITHIN):
                while await answers(url):
                    await asyncio.sleep(0.05)

    asyncio.run(main())


@pytest.mark.parametrize("proxy", PROXIES)
def test_events_and_head(proxy: str, tmp_path: Path) -> None:
    """Server-sent events arrive one by one. HEAD of a stream is a head and no more, and the next request on the same
    connection to the server, which may be another client's, has its own answer (hostile 53)."""

    async def main() -> None:
        async with behind(proxy, tmp_path) as (_, url):
            path = "/v1/topics/cats/events"
            for _ in range(3):
                async with connected(url) as peer, connected(url) as other:
                    await peer.send(request("HEAD", path, None, f"Authorization: Bearer {KEY}"))
                    assert (await peer.head()).startswith("HTTP/1.1 200 ")
                    await other.send(request("GET", "/health"))
                    assert (await other.answer()).json == {"status": "ok"}
            await publish(url, "early")
            async with connected(url) as peer:
                await peer.send(request("GET", f"{path}?after=earliest", None, f"Authorization: Bearer {KEY}"))
                assert (await peer.head()).startswith("HTTP/1.1 200 ")
                await publish(url, "late")
                heard = b""
                async with asyncio.timeout(WITHIN):
                    while b"late" not in heard:
                        heard += await peer._reader.read(65536)
                assert heard.index(b"early") < heard.index(b"late")

    asyncio.run(main())


def test_haproxys_own_health_check(tmp_path: Path) -> None:
    """HAProxy's `option httpchk` as it ships, `OPTIONS /` in HTTP/1.0 without a Host, finds the server up, and then
    down when it stops."""

    async def main() -> None:
        async with behind("haproxy", tmp_path) as (server, _):

            async def checked() -> list[str]:
                reader, writer = await asyncio.open_unix_connection(tmp_path / "stats")
                writer.write(b"show stat\n")
                lines = (await reader.read()).decode().splitlines()
                writer.close()
                names = lines[0].removeprefix("# ").split(",")
                row = next(line.split(",") for line in lines if ",partyline," in line)
                return [row[names.index(name)] for name in ("status", "check_status", "check_code")]

            async with asyncio.timeout(WITHIN):
                while (await checked())[1] in ("", "INI"):
                    await asyncio.sleep(0.05)
                status, how, code = await checked()
                assert (status, how.strip("* ")) == ("UP", "L7OK"), code
                assert await server.end(signal.SIGTERM) == 0
                while (await checked())[0] != "DOWN":
                    await asyncio.sleep(0.05)

    asyncio.run(main())
