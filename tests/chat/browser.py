"""Headless Chromium through Playwright."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests import tools


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """A browser; each test makes its own pages and contexts in it."""
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
