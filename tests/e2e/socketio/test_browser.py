"""A page with the npm client, in headless Chromium."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

from tests import tools
from tests.e2e.test_clients import pages
from tests.process import environment

from .kitchen import APP, PACKAGES, clients, kitchen

HERE = Path(__file__).parent


def test_a_page_chats_through_a_room(tmp_path: Path) -> None:
    """What is typed into a page reaches a client of another kind in its room, and the other way round."""
    tools.playwright()
    chromium = tools.program("chromium")
    modules = tools.node_packages("socketio", PACKAGES)
    from playwright.async_api import async_playwright

    shutil.copy(HERE / "page.html", tmp_path)
    shutil.copy(modules / "socket.io-client-4" / "dist" / "socket.io.esm.min.js", tmp_path)

    async def main() -> None:
        with kitchen("base") as server, pages(tmp_path) as origin:
            async with clients(server.url, "3 websocket") as (other,), async_playwright() as play:
                await other.ask("join", "r")
                browser = await play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = await browser.new_page()
                address = origin.replace("127.0.0.1", "localhost")
                await page.goto(f"{address}/page.html?server={server.url.replace('127.0.0.1', 'localhost')}")
                await page.locator("li", has_text="in r by").wait_for(timeout=20_000)
                await page.locator("#text").fill("<b>from the page</b>")
                await page.locator("#text").press("Enter")
                assert (await other.hears())["values"] == ["r", "<b>from the page</b>"]
                other.emit("room-send", "r", "from the other")
                await page.locator("li", has_text="from the other").wait_for(timeout=20_000)
                assert await page.locator("li", has_text="<b>from the page</b>").count() == 1
                await browser.close()

    asyncio.run(main())


def test_the_kitchen_explains_itself() -> None:
    """`--help` of the conformance server names its modes; an unknown one ends with 2."""
    done = subprocess.run([sys.executable, str(APP), "--help"], capture_output=True, text=True, env=environment())
    assert done.returncode == 0
    for mode in ("base", "official", "official3", "recovery", "msgpack"):
        assert mode in done.stdout
    wrong = subprocess.run([sys.executable, str(APP), "--mode", "x"], capture_output=True, text=True, env=environment())
    assert wrong.returncode == 2
