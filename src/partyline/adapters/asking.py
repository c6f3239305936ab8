"""A connection to Redis for questions and answers. It does not reconnect: its owner makes the next one.

What is asked in one turn of the loop leaves in one write, and answers come in the order of the questions.
"""

from __future__ import annotations

import asyncio
from typing import Any

from partyline.adapters.redis import GONE, Line, packer
from partyline.adapters.redis_servers import Servers
from partyline.errors import StoreUnavailable


class Asking:
    """One connection, once `open` has made it."""

    def __init__(self) -> None:
        self._pack = packer()
        self._connection: Any = None  # redis-py's
        self._line: Line | None = None
        self._out: list[bytes] = []

    @classmethod
    async def open(cls, servers: Servers, key: str) -> Asking:
        """Connect to the server that has `key`. Raises StoreUnavailable. Cancelled, nothing stays open."""
        asking = cls()
        try:
            connection = await servers.connect(key)
        except Exception as error:
            raise StoreUnavailable(f"Redis cannot be reached: {error}") from None
        asking._connection = connection
        asking._line = Line(asking, connection)
        return asking

    async def ask(self, *parts: str | bytes | int) -> Any:
        """The answer of Redis, perhaps an Exception of hiredis. Raises StoreUnavailable if no answer will come."""
        answer = await self.question(*parts)
        if answer is GONE:
            raise StoreUnavailable("the connection to Redis is lost")
        return answer

    def question(self, *parts: str | bytes | int) -> asyncio.Future[Any]:
        """A future for the answer; GONE if none will come."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self._line is None:
            answer.set_result(GONE)
            return answer

        def replied(reply: Any) -> None:
            if not answer.done():
                answer.set_result(reply)

        self._line.replies.append(replied)
        if not self._out:
            loop.call_soon(self._flush)
        self._out.append(self._pack(parts))
        return answer

    async def close(self) -> None:
        """Close at once; Redis may still do what was asked."""
        connection, self._connection = self._connection, None
        if self._line is not None:
            self._line.transport.abort()
            self.down(self._line)
        if connection is not None:
            await connection.disconnect(nowait=True)

    def _flush(self) -> None:
        if self._line is not None:
            self._line.transport.write(b"".join(self._out))
        self._out.clear()

    # adapters.redis.Talks

    def push(self, kind: bytes, values: list[bytes]) -> bool:
        return False

    def down(self, line: Line) -> None:
        if self._line is line:
            self._line = None
        replies = tuple(line.replies)
        line.replies.clear()
        for replied in replies:
            replied(GONE)
