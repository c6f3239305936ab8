"""`partyline chat`: processes that talk to each other in a room and as strangers, even when the server is killed."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.process import command, environment, serving

pytestmark = pytest.mark.check


class Terminal:
    """A running `partyline chat`, with what it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._printed = ""

    def type(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def sees(self, wanted: str) -> str:
        """Wait for a line that contains this, and return it; everything before it is dropped."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(20):
                while (found := re.search(f"^.*{re.escape(wanted)}.*$", self._printed, re.MULTILINE)) is None:
                    piece = await self._process.stdout.read(4096)
                    assert piece, f"it ended without {wanted!r}: {self._printed}"
                    self._printed += piece.decode()
        except TimeoutError:
            raise AssertionError(f"{wanted!r} did not come: {self._printed}") from None
        self._printed = self._printed[found.end() :]
        return found[0]

    async def ends(self) -> int:
        async with asyncio.timeout(10):
            await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode


@asynccontextmanager
async def chatting(url: str, *arguments: str) -> AsyncIterator[Terminal]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command("chat", url, *arguments),
        stdin=pipe,
        stdout=pipe,
        stderr=asyncio.subprocess.STDOUT,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        yield Terminal(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def test_a_room(tmp_path: Path) -> None:
    """Two terminals in a room see who is there and what is said, once and in order; whoever joins later sees it too.
    Control characters never reach a terminal, and nothing typed while the server is down is lost."""

    async def main() -> None:
        db = tmp_path / "partyline.db"
        async with serving(db=db) as server:
            port, url = server.port, server.url
            async with chatting(url, "--room", "kitchen", "--name", "ann") as ann:
                await ann.sees("kitchen: 1 here")
                async with chatting(url, "--room", "kitchen", "--name", "bob") as bob:
                    await bob.sees("kitchen: 2 here")
                    await ann.sees("bob is here: 2 in all")
                    ann.type("hello \x1b[31mbob")
                    assert "\x1b" not in await ann.sees("ann: hello")
                    assert "\x1b" not in await bob.sees("ann: hello")
                    bob.type("/who")
                    await bob.sees("ann, bob")
                    await server.end(signal.SIGKILL)
                    await ann.sees("the connection is lost")
                    ann.type("typed meanwhile")
                    async with serving("--port", str(port), db=db) as again:
                        await bob.sees("ann: typed meanwhile")
                        await ann.sees("ann: typed meanwhile")
                        async with chatting(url, "--room", "kitchen", "--name", "cid") as cid:
                            await cid.sees("ann: hello")
                            await cid.sees("ann: typed meanwhile")
                            cid.type("/quit")
                            assert await cid.ends() == 0
                        await ann.sees("cid has left")
                        bob.type("/quit")
                        assert await bob.ends() == 0
                        await ann.sees("bob has left")
                        ann.type("/quit")
                        assert await ann.ends() == 0
                        assert await again.end() == 0

    asyncio.run(main())


def test_strangers() -> None:
    """Two terminals are paired, talk, and are told when the other one leaves."""

    async def main() -> None:
        async with serving() as server, chatting(server.url, "--stranger") as one:
            await one.sees("looking for somebody")
            one.type("hello?")
            await one.sees("nobody is there yet")
            async with chatting(server.url, "--stranger") as two:
                await one.sees("there is somebody")
                await two.sees("there is somebody")
                one.type("hello")
                await two.sees("stranger: hello")
                await one.sees("you: hello")
                two.type("/stop")
                await one.sees("the stranger has left")
                await two.sees("the talk is over")
            one.type("/quit")
            assert await one.ends() == 0

    asyncio.run(main())


def test_no_server() -> None:
    """Without a server the command says so in one line and exits with code 1."""

    async def main() -> None:
        async with chatting("http://127.0.0.1:9") as nobody:
            line = await nobody.sees("partyline: http://127.0.0.1:9")
            assert "is `partyline serve` running there?" in line
            assert await nobody.ends() == 1

    asyncio.run(main())


async def refused(*arguments: str) -> tuple[int | None, str]:
    """The exit code and the whole output of a `partyline chat` that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        *command("chat", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(),
    )
    async with asyncio.timeout(20):
        printed, _ = await process.communicate()
    return process.returncode, printed.decode()


def test_a_chat_that_cannot_begin() -> None:
    """Whatever keeps a chat from starting is told in one line: the server's own words if it refuses, never the
    page of some other server."""

    async def another(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\n\r\n<html>no</html>")
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with serving() as server, await asyncio.start_server(another, "127.0.0.1", 0) as other:
            elsewhere = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
            for arguments, words in (
                ((server.url, "--name", "x" * 60), "a name has at most 40 characters, and this one has 60"),
                ((elsewhere,), f"{elsewhere}: {elsewhere[7:]} answered 404; is `partyline serve` running there?"),
                (("http://127.0.0.1:9",), "http://127.0.0.1:9: 127.0.0.1:9 cannot be reached: "),
            ):
                code, printed = await refused(*arguments)
                assert (code, printed.count("\n")) == (1, 1), printed
                assert printed.startswith(f"partyline: {words}")

    asyncio.run(main())


def test_strangers_have_no_rooms() -> None:
    """--room and --name are refused together with --stranger."""

    async def main() -> None:
        for option in ("--room", "--name"):
            code, printed = await refused("--stranger", option, "kitchen")
            assert code == 2
            assert "strangers have no rooms and no names" in printed

    asyncio.run(main())
