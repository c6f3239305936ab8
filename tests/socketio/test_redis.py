"""Handlers that use redis-py, as applications do: its timeouts and cancel scopes need a task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partyline import Socket, SocketIO
from tests import tools
from tests.adapters.servers import redis_server

from .clients import entered, looped, served

pytestmark = pytest.mark.check


@contextlib.asynccontextmanager
async def redis_client(folder: Path) -> AsyncIterator[Any]:
    """A client of a real server."""
    redis = tools.redis()
    async with redis_server(folder) as server:
        client = redis.Redis(port=server.port, socket_timeout=5, socket_connect_timeout=5)
        try:
            yield client
        finally:
            await client.aclose()


@looped
async def test_redis_in_a_handler(tmp_path: Path) -> None:
    """A handler may use Redis with its own timeout, in a pipeline, and while it waits for a message; later events keep
    their order."""
    io = SocketIO()
    async with redis_client(tmp_path) as redis:

        @io.on("count")
        async def count(socket: Socket, by: int) -> int:
            async with asyncio.timeout(20), redis.pipeline() as pipe:
                pipe.incrby("counter", by)
                pipe.expire("counter", 60)
                counted, _ = await pipe.execute()
            return int(counted)

        @io.on("wait")
        async def wait(socket: Socket, channel: str) -> str:
            async with redis.pubsub() as listener:
                await listener.subscribe(channel)
                await listener.get_message(timeout=5)  # that it listens
                await redis.publish(channel, "there")
                message = await listener.get_message(ignore_subscribe_messages=True, timeout=5)
                return str(message["data"].decode())

        async with served(io) as url, entered(url) as client:
            for number in range(1, 21):
                await client.say(f'2{number}["count",{number}]')
            answers = [await client.next() for _ in range(20)]
            assert answers == [f"3{n}[{n * (n + 1) // 2}]" for n in range(1, 21)]
            assert await client.ask("wait", "news") == ["there"]
