"""The README's session, unchanged: the blocks are typed into a shell, the outputs are waited for."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tools
from tests.calls import call
from tests.e2e.test_clients import pages
from tests.process import environment, serving

pytestmark = pytest.mark.check

README = tools.ROOT / "README.md"
_BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    language: str
    words: str
    text: str

    @property
    def file(self) -> str | None:
        return self.words.strip().removeprefix("file=") if "file=" in self.words else None


def blocks(page: Path = README) -> Iterator[Block]:
    for match in _BLOCK.finditer(page.read_text("utf-8")):
        yield Block(match[1], match[2], match[3])


class Shell:
    """A shell that is typed into, with what it and its children print."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._printed = ""

    def type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._printed = ""
        self._process.stdin.write(text.encode())

    async def expect(self, wanted: list[str]) -> None:
        """Wait until each wanted text, in which ... stands for anything, has been printed since the last typing.

        Not line by line: several programs print here at once.
        """
        assert self._process.stdout is not None
        patterns = [re.compile(r"[^\n]*?".join(map(re.escape, line.split("...")))) for line in wanted]
        try:
            async with asyncio.timeout(20):
                while not all(one.search(self._printed) for one in patterns):
                    piece = await self._process.stdout.read(4096)
                    assert piece, "the shell ended"
                    self._printed += piece.decode()
        except TimeoutError:
            raise AssertionError(f"not all of {wanted} came: {self._printed}") from None


def test_session(tmp_path: Path) -> None:
    """Every command of the README's thirty seconds prints what the README says it prints."""
    tools.program("curl")
    tools.program("node")
    package = tools.node_package("ws", "8.23.0")
    listed = list(blocks())
    assert sum("run" in block.words for block in listed) >= 6
    (tmp_path / "node_modules").symlink_to(package.parent)

    async def main() -> None:
        db = tmp_path / "partyline.db"
        async with AsyncExitStack() as servers:
            server = await servers.enter_async_context(serving(db=db))

            def here(text: str) -> str:
                return text.replace("localhost:8000", f"localhost:{server.port}")

            for block in listed:
                if block.file:
                    (tmp_path / block.file).write_text(here(block.text))
            process = await asyncio.create_subprocess_exec(
                "bash",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=tmp_path,
                env={
                    **environment(),
                    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                    "PARTYLINE_URL": server.url,
                    "PYTHONUNBUFFERED": "",  # print writes a line at once, not in pieces among other programs' lines
                },
            )
            shell = Shell(process)
            for block, after in zip(listed, [*listed[1:], Block("", "", "")], strict=True):
                if block.language == "bash" and "restart" in block.words:
                    await server.end(signal.SIGKILL)  # the harder of the two ways that are named there
                    server = await servers.enter_async_context(serving("--port", str(server.port), db=db))
                if block.language == "bash" and "run" in block.words:
                    shell.type(here(block.text))
                    if after.language == "text":
                        await shell.expect(here(after.text).splitlines())
            shell.type("kill $(jobs -p) 2>/dev/null; wait; exit\n")
            async with asyncio.timeout(10):
                await process.communicate()
            assert await server.end() == 0

    asyncio.run(main())


def test_application(tmp_path: Path) -> None:
    """The README's application publishes what it is told over HTTP, served as the README says."""
    (tmp_path / "main.py").write_text(next(block.text for block in blocks() if block.file == "main.py"))

    async def main() -> None:
        async with serving("main:app", cwd=tmp_path, db=tmp_path / "partyline.db") as server:
            assert (await call(f"{server.url}/cats?name=Tom", "POST", {}))[0] == 200
            status, page = await call(f"{server.url}/v1/topics/cats/messages")
            assert (status, [message["data"] for message in page["messages"]]) == (200, [{"name": "Tom"}])
            assert await server.end() == 0

    asyncio.run(main())


def test_page(tmp_path: Path) -> None:
    """The README's page, served from another port of this machine, shows what is published."""
    tools.playwright()
    chromium = tools.program("chromium")
    from playwright.async_api import async_playwright

    page_text = next(block.text for block in blocks() if block.file == "cats.html")

    async def main() -> None:
        async with serving() as server, async_playwright() as play:
            (tmp_path / "cats.html").write_text(page_text.replace("localhost:8000", f"localhost:{server.port}"))
            with pages(tmp_path) as origin:
                browser = await play.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
                )
                page = await browser.new_page()
                await page.goto(f"{origin.replace('127.0.0.1', 'localhost')}/cats.html")
                await page.locator("li", has_text="pong").wait_for(timeout=20_000)
                status, _ = await call(f"{server.url}/publish", "POST", {"topic": "cats", "message": "<b>miau</b>"})
                assert status == 200
                await page.locator("li", has_text="<b>miau</b>").wait_for(timeout=20_000)
                await browser.close()
            assert await server.end() == 0

    asyncio.run(main())


def test_make_targets() -> None:
    """Every make target that the README names exists, and `make help` lists each target once."""
    makefile = (tools.ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):.*##", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README.read_text("utf-8"), re.MULTILINE))
    assert {"serve", "test"} <= named <= targets
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    assert phony == targets
