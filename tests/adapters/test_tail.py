"""The reader of a stream, against a real Redis that goes and comes back."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from partyline.adapters.tail import Tail
from tests.adapters.servers import Turns, redis_server
from tests.server.servers import eventually
from tests.socketio.clients import looped

pytestmark = pytest.mark.check


@contextlib.asynccontextmanager
async def reading(url: str, took: Callable[[], None] = lambda: None) -> AsyncIterator[tuple[Tail, list[bytes]]]:
    """A reader of the stream "news", and the values of what it has read; `took` is called for each."""
    read: list[bytes] = []

    def entry(identifier: str, fields: Sequence[bytes]) -> None:
        read.append(fields[1])
        took()
        if fields[1] == b"bad":
            raise RuntimeError("no")

    tail = Tail(url, "news", entry)
    await tail.start()
    try:
        yield tail, read
    finally:
        await tail.close()


@looped
async def test_what_is_added(tmp_path: Path) -> None:
    """Entries are read from the start of the reader on, each once and in order, whoever fails at one."""
    async with redis_server(tmp_path) as redis:
        await redis.ask("XADD", "news", "*", "n", "old")
        async with reading(redis.url) as (_, read):
            await redis.ask("XADD", "news", "*", "n", "bad")
            many = "for n = 0, 249 do redis.call('XADD', 'news', '*', 'n', n) end"
            await redis.ask("EVAL", many, "0")
            await eventually(lambda: len(read) == 251, "all is read")
            assert read == [b"bad", *(str(number).encode() for number in range(250))]


@looped
async def test_entries_that_take_long(tmp_path: Path) -> None:
    """Between entries of one reply that take long to handle others have their turn; if the connection is lost
    meanwhile, each is handled once."""
    turns = Turns()
    async with redis_server(tmp_path) as redis, reading(redis.url, turns.work) as (tail, read):
        await redis.ask("EVAL", "for n = 0, 99 do redis.call('XADD', 'news', '*', 'n', n) end", "0")
        await eventually(lambda: len(read) > 20, "some are handled")
        assert tail._redis._line is not None
        tail._redis._line.transport.abort()
        await eventually(lambda: len(read) >= 100, "all are handled")
        assert read == [str(number).encode() for number in range(100)]
    assert turns.most <= 5


@looped
async def test_a_stream_that_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key that becomes something else is a line in the log a second, and the stream that comes then is read."""
    async with redis_server(tmp_path) as redis, reading(redis.url) as (_, read):
        await redis.ask("SET", "news", "x")
        await eventually(lambda: any("cannot be read" in str(one.__dict__) for one in caplog.records), "it is told")
        await redis.ask("DEL", "news")
        await redis.ask("XADD", "news", "*", "n", "1")
        await eventually(lambda: read == [b"1"], "it is read")
        assert sum("cannot be read" in str(one.__dict__) for one in caplog.records) <= 2


@looped
async def test_a_lost_connection(tmp_path: Path) -> None:
    """What is added while the connection is away is read when it is back."""
    async with redis_server(tmp_path) as redis, reading(redis.url) as (_, read):
        await redis.ask("XADD", "news", "*", "n", "1")
        await eventually(lambda: read == [b"1"], "it is read")
        await redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await redis.ask("XADD", "news", "*", "n", "2")
        await eventually(lambda: read == [b"1", b"2"], "it is read")


@looped
async def test_a_stream_that_was_trimmed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Entries that are gone before they were read are a line in the log."""
    async with redis_server(tmp_path) as redis, reading(redis.url) as (tail, read):
        await redis.ask("XADD", "news", "*", "n", "1")
        await eventually(lambda: read == [b"1"], "it is read")
        assert tail._redis._line is not None
        tail._redis._line.transport.abort()
        # Without the loop, which would connect again meanwhile.
        with importlib.import_module("redis").Redis(port=redis.port) as client:
            client.xadd("news", {"n": "2"})
            client.xadd("news", {"n": "3"})
            client.xtrim("news", maxlen=1, approximate=False)
        await eventually(lambda: read == [b"1", b"3"], "what is left is read")
        assert any("trimmed before it was read" in str(record.__dict__) for record in caplog.records)
