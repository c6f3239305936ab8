"""An engine that records what happens to it, and clients that send exactly what they are told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from partyline import EngineIO, Partyline
from partyline.engineio.connection import EngineConnection
from tests.server.conftest import Run
from tests.server.peers import Answer, Peer, WebSocketPeer, connected, request, websocket
from tests.server.servers import partyline_server

__all__ = ["Polling", "Run", "Watched", "served", "upgraded"]


class Watched:
    """An echo. `seen` has what happened, in order."""

    def __init__(self, **rules: Any) -> None:
        rules = {"ping_interval": 0.3, "ping_timeout": 0.2, "upgrade_timeout": 0.5, **rules}
        self.engine = EngineIO(**rules)
        self.seen: list[Any] = []
        self.last: EngineConnection | None = None
        self.engine.on_connect(self.connect)
        self.engine.on_message(self.message)
        self.engine.on_disconnect(self.disconnect)

    def connect(self, connection: EngineConnection) -> None:
        self.seen.append("connect")
        self.last = connection

    def message(self, connection: EngineConnection, data: str | bytes) -> None:
        self.seen.append(data)
        if data == "fail":
            raise RuntimeError("as asked")
        connection.send(data)

    def disconnect(self, connection: EngineConnection, reason: str) -> None:
        self.seen.append(reason)


@contextlib.asynccontextmanager
async def served(watched: Watched, **settings: Any) -> AsyncIterator[tuple[Partyline, str]]:
    async with partyline_server(extras=[watched.engine], **settings) as (partyline, url):
        yield partyline, url


class Polling:
    """A polling client: one connection for its GETs, and another one for everything else."""

    def __init__(self, gets: Peer, posts: Peer, version: int = 4, extra: str = "", base: str = "/engine.io/") -> None:
        self.gets = gets
        self.posts = posts
        self.path = f"{base}?EIO={version}&transport=polling{extra}"
        self.sid = ""
        self.opened: dict[str, Any] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, url: str, version: int = 4, extra: str = "", base: str = "/engine.io/") -> AsyncIterator[Polling]:
        """Connected, with a session."""
        async with connected(url) as gets, connected(url) as posts:
            one = cls(gets, posts, version, extra, base)
            answer = await one.get()
            assert answer.status == 200, answer
            text = answer.body.decode()
            one.opened = json.loads(text[1:] if version == 4 else text.partition(":0")[2])
            one.sid = one.opened["sid"]
            one.path += f"&sid={one.sid}"
            yield one

    async def ask(self, *headers: str) -> None:
        """Send a GET, without waiting for its answer."""
        await self.gets.send(request("GET", self.path, None, *headers))

    async def get(self, *headers: str) -> Answer:
        await self.ask(*headers)
        return await self.gets.answer()

    async def fetch(self) -> str:
        """The body that a GET gets."""
        answer = await self.get()
        assert answer.status == 200, answer
        return answer.body.decode()

    async def post(self, body: str | bytes, kind: str = "text/plain;charset=UTF-8") -> Answer:
        data = body.encode() if isinstance(body, str) else body
        head = request("POST", self.path, None, f"Content-Type: {kind}", f"Content-Length: {len(data)}")
        await self.posts.send(head + data)
        return await self.posts.answer()

    async def say(self, body: str) -> None:
        answer = await self.post(body)
        assert (answer.status, answer.body) == (200, b"ok"), answer


async def upgraded(peer: Peer, sid: str, version: int = 4) -> WebSocketPeer:
    """A WebSocket for a session; not yet probed."""
    return await websocket(peer, f"/engine.io/?EIO={version}&transport=websocket&sid={sid}")
