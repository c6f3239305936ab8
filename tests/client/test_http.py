"""The client against HTTP of a malicious server: heads and bodies are bounded, a broken answer does not harm the
next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from partyline.client.http import Http
from partyline.client.socket import Address
from partyline.errors import Disconnected


@contextlib.asynccontextmanager
async def answering(*answers: bytes, endless: bytes = b"") -> AsyncIterator[Http]:
    """A client of a server that gives these answers, one per connection, and then sends `endless` for ever."""
    left = list(answers)
    tasks: set[asyncio.Task[None] | None] = set()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(left.pop(0))
            while endless:
                writer.write(endless)
                await writer.drain()
        writer.close()

    listening = await asyncio.start_server(client, "127.0.0.1", 0)
    http = Http(Address.parse(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", "/"), [], None)
    try:
        yield http
    finally:
        http.close()
        listening.close()
        for task in tasks:
            assert task is not None
            task.cancel()
            await task


@pytest.mark.parametrize(
    ("answer", "endless", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 4096 + b"\r\n", "head of more than"),
        (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 4096, "head of more than"),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 500, "head of more than"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1000\r\n" + b"y" * 4096 + b"\r\n",
            "sent more than",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b"y" * 4096, "sent more than"),
    ],
    ids=["headers", "one header", "short headers", "chunks", "a length"],
)
def test_what_has_no_end_is_cut(answer: bytes, endless: bytes, words: str) -> None:
    """An endless head or body is an error at its bound, and is not held (hostile 30)."""

    async def main() -> None:
        async with answering(answer, endless=endless) as http, asyncio.timeout(20):
            with pytest.raises(Disconnected, match=words):
                await http.request("GET", "/")

    asyncio.run(main())


def test_a_broken_answer_leaves_nothing() -> None:
    """After an answer that broke off, the next request gets its own answer, with nothing of the broken one."""

    async def main() -> None:
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nb: 2\r\n\r\nyes"
        async with answering(b"HTTP/1.1 200 OK\r\na: 1\r\nContent-Length: 9\r\n\r\nno", whole) as http:
            async with asyncio.timeout(20):
                with pytest.raises(Disconnected):
                    await http.request("GET", "/")
                answer = await http.request("GET", "/")
            assert answer.body == b"yes"
            assert "a" not in answer.headers

    asyncio.run(main())
