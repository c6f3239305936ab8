"""The whole session of the README against a real server process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests import tools
from tests.calls import call, register
from tests.process import serving


async def session(url: str, tls: ssl.SSLContext | None) -> None:
    """Register, connect, choose topics, publish to all and to one user, unregister."""
    http: dict[str, Any] = {"tls": tls}
    assert await call(f"{url}/health", **http) == (200, {"status": "ok"})
    first = await register(url, 1, **http)
    second = await register(url, "two", topics=["dogs"], **http)
    assert first.startswith("wss://" if tls else "ws://")
    async with connect(first, ssl=tls) as one, connect(second, ssl=tls) as two:
        await one.send("ping")
        assert await one.recv() == "pong"
        await one.send('{"topics": ["cats","dogs"]}')
        await one.send("ping\n")
        assert await one.recv() == "pong"

        status, receipt = await call(f"{url}/publish", "POST", {"topic": "dogs", "message": "to all"}, **http)
        assert status == 200
        assert receipt["topic"] == "dogs"
        assert await one.recv() == await two.recv() == "to all"

        body = {"topic": "dogs", "user_id": "two", "message": {"to": ["one", 1.50]}}
        status, later = await call(f"{url}/publish", "POST", body, **http)
        assert status == 200
        assert await two.recv() == '{"to":["one",1.5]}'
        epoch, _, offset = receipt["position"].rpartition("-")
        assert later["position"] == f"{epoch}-{int(offset) + 1}"

        change = {"topic": "birds", "client_id": first[-32:]}
        assert (await call(f"{url}/add_topic", "POST", change, **http))[0] == 200
        await call(f"{url}/publish", "POST", {"topic": "birds", "message": "tweet"}, **http)
        assert await one.recv() == "tweet"
        change["topic"] = "cats"
        assert (await call(f"{url}/remove_topic", "DELETE", change, **http))[0] == 200
        await call(f"{url}/publish", "POST", {"topic": "cats", "message": "not for anybody now"}, **http)

        assert (await call(f"{url}/register/{first[-32:]}", "DELETE", **http))[0] == 200
        await one.wait_closed()
        assert (one.close_code, one.close_reason) == (4001, "unregistered")
        await two.send("ping")
        assert await two.recv() == "pong"
    assert (await call(f"{url}/register/{first[-32:]}", "DELETE", **http))[0] == 404
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(first, ssl=tls)
    assert refused.value.response.status_code == 404
    assert b"unknown_connection" in (refused.value.response.body or b"")


def test_session_over_tcp() -> None:
    """Every call of the classic contract works against the server process, over TCP."""

    async def main() -> None:
        async with serving() as server:
            await session(server.url, None)
            assert await server.end() == 0
            assert b"Traceback" not in server.errors

    asyncio.run(main())


def test_session_over_tls(tmp_path: Path) -> None:
    """The same session works over TLS, with https and wss."""
    cert, key = make_certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(cert))

    async def main() -> None:
        async with serving("--certfile", str(cert), "--keyfile", str(key)) as server:
            assert server.url.startswith("https://")
            await session(server.url, trust)
            assert await server.end() == 0
            assert b"Traceback" not in server.errors

    asyncio.run(main())


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [tools.program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=partyline test", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


def test_restarted_server_knows_its_registrations(tmp_path: Path) -> None:
    """A registration outlives the process, kill -9 included, with its topics as they were changed last."""
    db = tmp_path / "partyline.db"

    async def main() -> None:
        async with serving(db=db) as server:
            used = await register(server.url, 1, topic="dogs")
            unused = await register(server.url, 2)
            async with connect(used) as socket:
                await socket.send('{"topics": ["birds"]}')
                await socket.send("ping")
                assert await socket.recv() == "pong"
                await flushed(db, '["birds"]')
            await server.end(signal.SIGKILL)
        async with serving(db=db) as again:
            used = used.replace(f":{server.port}/", f":{again.port}/")
            unused = unused.replace(f":{server.port}/", f":{again.port}/")
            async with connect(used) as socket, connect(unused):
                await call(f"{again.url}/publish", "POST", {"topic": "birds", "message": "still here"})
                assert await socket.recv() == "still here"
            assert await again.end() == 0

    asyncio.run(main())


async def flushed(db: Path, text: str) -> None:
    """Wait until the background writer has brought `text` to the file."""
    async with asyncio.timeout(10):
        while True:
            connection = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
            try:
                if connection.execute("SELECT 1 FROM registrations WHERE topics = ?", (text,)).fetchone():
                    return
            finally:
                connection.close()
            await asyncio.sleep(0.01)


@pytest.mark.alone
def test_sigterm_under_load() -> None:
    """After SIGTERM during traffic every client gets 1012, the process exits with 0, and nothing is raised anywhere."""
    clients, drain = 200, 5.0

    busy = asyncio.Event()

    async def listen(socket: ClientConnection) -> tuple[int | None, str | None]:
        with contextlib.suppress(websockets.ConnectionClosedError):  # 1012 is no normal end to this library
            async for _ in socket:
                busy.set()
        return socket.close_code, socket.close_reason

    async def publish(url: str, stop: asyncio.Event) -> int:
        count = 0
        while not stop.is_set():
            try:
                status, _ = await call(f"{url}/publish", "POST", {"topic": "cats", "message": "x" * 500})
            except OSError:
                break
            count += status == 200
        return count

    async def main() -> None:
        async with serving("--set", f"drain_time={drain}") as server:
            addresses = await asyncio.gather(*(register(server.url, n) for n in range(clients)))
            sockets = await asyncio.gather(*(connect(address) for address in addresses))
            listeners = [asyncio.create_task(listen(socket)) for socket in sockets]
            stop = asyncio.Event()
            publishers = [asyncio.create_task(publish(server.url, stop)) for _ in range(4)]
            await busy.wait()
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await server.end(signal.SIGTERM, within=drain + 3) == 0
            assert loop.time() - began < drain + 1
            stop.set()
            assert sum(await asyncio.gather(*publishers)) > 0
            codes = await asyncio.gather(*listeners)
            assert set(codes) == {(1012, "server restarting")}
            assert b"Traceback" not in server.errors
            assert b"rror" not in server.errors, server.errors.decode()

    asyncio.run(main())


@pytest.mark.alone
def test_idle_process_is_small_and_quiet() -> None:
    """A fresh process needs at most 60 MB and 15 wake-ups a second."""

    async def main() -> None:
        async with serving() as server:
            status = Path(f"/proc/{server.pid}/status")
            if not status.exists():
                tools.missing("/proc", "run on Linux")

            def read(name: str) -> int:
                line = next(line for line in status.read_text().splitlines() if line.startswith(name))
                return int(line.split()[1])

            before = read("voluntary_ctxt_switches")
            await asyncio.sleep(2.0)  # the measurement itself: nothing is waited for
            wakeups = (read("voluntary_ctxt_switches") - before) / 2.0
            assert wakeups <= 15
            assert read("VmRSS") <= 60 * 1024
            assert await server.end() == 0

    asyncio.run(main())


def test_facts_are_machine_readable() -> None:
    """With --log-format json the first line on standard output tells where it listens, and the log is JSON too."""

    async def main() -> None:
        async with serving() as server:
            assert server.facts["listening"].startswith("http://127.0.0.1:")
            assert server.port > 0
            assert {"database", "limits", "access", "version"} <= server.facts.keys()
            assert await server.end() == 0
            for line in server.errors.splitlines():
                json.loads(line)

    asyncio.run(main())
