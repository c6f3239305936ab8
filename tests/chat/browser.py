"""Headless Chromium through Playwright."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from tests import tools

# A violation of the policy is not visible, so the page reports it.
_WATCH = """addEventListener("securitypolicyviolation", event =>
    console.error("policy", event.violatedDirective, event.blockedURI));"""


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """A browser; each test creates its own pages and contexts in it."""
    tools.playwright()
    path = tools.program("chromium")
    from playwright.async_api import async_playwright

    async with async_playwright() as play:
        browser = await play.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-background-networking"]
        )
        try:
            yield browser
        finally:
            await browser.close()


class Visitor:
    """A page of the chat in its own context. `problems` has whatever a correct page never does."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.problems: list[str] = []
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self.problems.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: self._asked(request.url))

    def _said(self, kind: str, text: str) -> None:
        # The browser itself reports that a WebSocket cannot connect: the test has stopped the server.
        if kind in ("error", "warning") and "WebSocket connection to" not in text:
            self.problems.append(text)

    def _asked(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme != "data" and parts.netloc != urlsplit(self.url).netloc:
            self.problems.append(f"a request to {address}")

    async def enter(self, name: str, room: str) -> None:
        """Enter a room through the form."""
        await self.page.goto(f"{self.url}/#")
        await self.page.fill("#name", name)
        await self.page.fill("#room", room)
        await self.page.press("#room", "Enter")
        await self.here()

    async def follow(self, room: str) -> None:
        """Enter a room by its address."""
        await self.page.goto(f"{self.url}/#room/{quote(room, safe='')}")
        await self.here()

    async def here(self) -> None:
        """Wait until the room is shown."""
        await self.page.locator("#subtitle", has_text="here").wait_for()

    async def stranger(self) -> None:
        """Go to the button that starts a talk."""
        await self.page.goto(f"{self.url}/#stranger")
        await self.page.wait_for_selector("#start:enabled")

    async def reads(self, text: str) -> None:
        """Wait until the view before a talk shows this."""
        await self.page.locator("#meet", has_text=text).wait_for()

    async def say(self, text: str) -> None:
        """Type a text at once, and Enter."""
        await self.page.fill("#text", text)
        await self.page.press("#text", "Enter")

    async def sees(self, text: str) -> None:
        """Wait until a message or a notice has this text; our own messages are then sent."""
        await self.until(
            """text => [...document.querySelectorAll(".message:not(.pending) .bubble, .notice")]
                .some(one => one.textContent === text)""",
            text,
        )

    async def until(self, condition: str, argument: Any = None) -> None:
        """Wait until a function of this argument is true. Playwright's own way needs what the page's policy forbids."""
        async with asyncio.timeout(20):
            while not await self.page.evaluate(condition, argument):
                await asyncio.sleep(0.02)

    async def texts(self) -> list[str]:
        """The texts of all messages, in order."""
        found: list[str] = await self.page.locator(".bubble").all_text_contents()
        return found


@asynccontextmanager
async def visitors(browser: Any, url: str, count: int, **context: Any) -> AsyncIterator[list[Visitor]]:
    """Pages of different people. At the end nothing forbidden may have happened in any of them."""
    contexts = [await browser.new_context(**context) for _ in range(count)]
    try:
        found = []
        for one in contexts:
            await one.add_init_script(_WATCH)
            found.append(Visitor(await one.new_page(), url))
        yield found
        for one in found:
            assert one.problems == []
    finally:
        for one in contexts:
            await one.close()
