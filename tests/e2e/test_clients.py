"""Clients that people really have: Node's ws, a page in a browser, curl and the command line."""

from __future__ import annotations

import asyncio
import functools
import http.server
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import tools
from tests.calls import call, register
from tests.process import command, environment, serving

HERE = Path(__file__).parent


def test_node_ws() -> None:
    """Node's ws connects, offers compression as by default, gets its messages and the close code."""
    node, package = tools.program("node"), tools.node_package("ws", "8.23.0")

    async def main() -> None:
        async with serving() as server:
            address = await register(server.url, "node")
            client = await asyncio.create_subprocess_exec(
                node, str(HERE / "client.mjs"), address, str(package), stdout=asyncio.subprocess.PIPE
            )
            assert client.stdout is not None

            async def heard() -> dict[str, Any]:
                assert client.stdout is not None
                async with asyncio.timeout(20):
                    event: dict[str, Any] = json.loads(await client.stdout.readline())
                return event

            pong = await heard()
            assert (pong["message"], pong["binary"]) == ("pong", False)
            assert "permessage-deflate" in pong["extensions"]
            for message in ("miau", "long " * 2000):
                await call(f"{server.url}/publish", "POST", {"topic": "dogs", "message": message})
                assert (await heard())["message"] == message
            assert (await call(f"{server.url}/register/{address[-32:]}", "DELETE"))[0] == 200
            assert await heard() == {"code": 4001, "reason": "unregistered"}
            await client.wait()
            assert await server.end() == 0

    asyncio.run(main())


@contextmanager
def pages(folder: Path = HERE) -> Iterator[str]:
    """Serve a folder on another port of loopback: another origin."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_browser_page() -> None:
    """A page on another port of loopback registers, talks and publishes (CORS included), in headless Chromium."""
    tools.playwright()
    chromium = tools.program("chromium")
    from playwright.async_api import async_playwright

    async def main() -> None:
        with pages() as origin:
            async with serving() as server, async_playwright() as play:
                browser = await play.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
                )
                page = await browser.new_page()
                await page.goto(f"{origin}/page.html?server={server.url}")
                await page.wait_for_function("document.title === 'done'", timeout=20_000)
                said = await page.locator("#log li").all_text_contents()
                assert said == [
                    "pong",
                    "wuff 🐕",
                    json.dumps({"long": "x" * 5000}, separators=(",", ":")),
                    "closed 4001",
                ]
                await browser.close()
                assert await server.end() == 0

    asyncio.run(main())


def test_event_source_across_a_restart(tmp_path: Path) -> None:
    """A browser's EventSource gets every message once and in order, over `kill -9` and a restart of the server."""
    tools.playwright()
    chromium = tools.program("chromium")
    from playwright.async_api import async_playwright

    async def main() -> None:
        db = tmp_path / "party.db"
        with pages() as origin:
            async with async_playwright() as play:
                browser = await play.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
                )
                page = await browser.new_page()

                async def shows(count: int) -> None:
                    await page.wait_for_function(f"document.querySelectorAll('li').length >= {count}", timeout=20_000)
                    said = await page.locator("li").all_text_contents()
                    assert said == [f"message {number}" for number in range(count)]

                async def publish(url: str, *numbers: int) -> None:
                    for number in numbers:
                        body = {"data": f"message {number}"}
                        assert (await call(f"{url}/v1/topics/cats/messages", "POST", body))[0] == 200

                async with serving(db=db) as server:
                    await publish(server.url, 0, 1)
                    await page.goto(f"{origin}/events.html?server={server.url}")
                    await shows(2)
                    await publish(server.url, 2)
                    await shows(3)
                    await server.end(signal.SIGKILL)
                async with serving("--port", str(server.port), db=db) as server:
                    await publish(server.url, 3, 4)
                    await shows(5)
                    await publish(server.url, 5)
                    await shows(6)
                await browser.close()

    asyncio.run(main())


def test_browser_of_a_foreign_site() -> None:
    """A page of another site (a name that only resolves here) can neither register nor connect."""
    tools.playwright()
    chromium = tools.program("chromium")
    from playwright.async_api import async_playwright

    async def main() -> None:
        with pages() as origin:
            async with serving() as server, async_playwright() as play:
                browser = await play.chromium.launch(
                    executable_path=chromium,
                    args=[
                        "--no-sandbox",
                        "--disable-background-networking",
                        "--host-resolver-rules=MAP evil.example 127.0.0.1",
                    ],
                )
                address = await register(server.url, 1)
                page = await browser.new_page()
                await page.goto(f"{origin.replace('127.0.0.1', 'evil.example')}/page.html?server={server.url}")
                await page.wait_for_function("document.title === 'done'", timeout=20_000)
                assert "failed" in (await page.locator("#log li").all_text_contents())[0]
                outcome = await page.evaluate(
                    """address => new Promise(done => {
                        const socket = new WebSocket(address);
                        socket.onopen = () => done("open");
                        socket.onclose = ({ code }) => done("closed " + code);
                    })""",
                    address,
                )
                assert outcome == "closed 1006"
                # DNS rebinding: the page's own name now leads to our port.
                rebound = await page.goto(server.url.replace("127.0.0.1", "evil.example") + "/health")
                assert rebound is not None
                assert rebound.status == 421
                await browser.close()
                assert await server.end() == 0

    asyncio.run(main())


def test_command_line_publishes() -> None:
    """`partyline publish` reaches a WebSocket client, says where the message stands, and fails in one line."""
    from websockets.asyncio.client import connect

    async def run(*arguments: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *command("publish", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        out, error = await process.communicate()
        return process.returncode, out.decode(), error.decode()

    async def main() -> None:
        async with serving() as server:
            async with connect(await register(server.url, 5)) as socket:
                code, out, _ = await run("cats", "hello", "--url", server.url)
                assert (code, await socket.recv()) == (0, "hello")
                assert out.startswith("published to cats at ")
                code, out, _ = await run("cats", '{"a": 1}', "--data", "--user", "5", "--json", "--url", server.url)
                assert (code, await socket.recv()) == (0, '{"a":1}')
                assert json.loads(out)["position"].endswith("-2")
                code, out, error = await run("no spaces", "hello", "--url", server.url)
                assert (code, out) == (1, "")
                assert error.count("\n") == 1
                assert "not a topic name" in error
            assert await server.end() == 0
            code, out, error = await run("cats", "hello", "--url", server.url)
            assert code == 1
            assert "cannot be reached" in error

    asyncio.run(main())
