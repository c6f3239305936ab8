"""partyline.js: its size, its types, and each case of client.mjs against Node's Socket.IO server."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tools
from tests.e2e.test_clients import pages

from .browser import chromium
from .node import HERE, STATIC, modules, node_server

pytestmark = [pytest.mark.check, pytest.mark.alone]

CLIENT = STATIC / "partyline.js"
CASES = re.findall(r'^test\("([^"]+)"', (HERE / "client.mjs").read_text("utf-8"), re.MULTILINE)


def test_size() -> None:
    """The client stays below 8,000 bytes before compression."""
    assert len(CLIENT.read_bytes()) < 8_000


def test_types(tmp_path: Path) -> None:
    """TypeScript finds nothing wrong with the client's JSDoc types under --strict."""
    folder = tools.node_packages("typescript", {"typescript": "typescript@5.9.3"})
    options = ["--noEmit", "--allowJs", "--checkJs", "--strict", "--target", "es2022", "--module", "es2022"]
    compiler = [tools.program("node"), str(folder / "typescript" / "bin" / "tsc"), *options, "--lib", "es2022,dom"]
    done = subprocess.run([*compiler, str(CLIENT)], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture(scope="module")
def kitchen() -> Iterator[str]:
    with node_server(HERE / "kitchen.cjs") as url:
        yield url


@pytest.mark.parametrize("case", CASES)
def test_against_node(case: str, kitchen: str) -> None:
    """The case holds in Node with npm's ws, and nothing is left that would keep the process alive."""
    environment = {**os.environ, "MODULES": str(modules()), "CLIENT": CLIENT.as_uri(), "SERVER": kitchen}
    command = [tools.program("node"), "--test", "--test-name-pattern", f"^{re.escape(case)}$", str(HERE / "client.mjs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^# pass 1$", done.stdout, re.MULTILINE), done.stdout


IN_A_PAGE = """async url => {
    const { Socket } = await import("/partyline.js");
    const socket = new Socket("/custom", { url, base: 20, auth: { token: 7 } });
    const told = [];
    const connected = () => new Promise(done => socket.addEventListener("state", ({ detail }) => {
        told.push(detail.state);
        if (detail.state === "connected") done();
    }));
    socket.on("auth", auth => told.push(auth.token));
    await connected();
    const id = socket.id;
    told.push(await socket.call("message-with-ack", "hello"));
    socket.emit("drop");
    await connected();
    told.push(socket.recovered && socket.id === id);
    socket.close();
    return told.filter((state, index) => state !== told[index - 1]);
}"""


def test_in_a_browser(kitchen: str) -> None:
    """A page in Chromium imports the client, connects, is answered, loses its connection and recovers."""

    async def main() -> None:
        with pages(STATIC) as origin:
            async with chromium() as browser:
                page = await browser.new_page()
                await page.goto(f"{origin}/partyline.js")
                told = await page.evaluate(IN_A_PAGE, f"{kitchen}/socket.io/")
                states = ["waiting", "connecting", "connected"]
                assert told == ["connected", 7, "hello", *states, True, "closed"]

    asyncio.run(main())
