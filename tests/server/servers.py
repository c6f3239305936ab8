"""Real servers in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from partyline import Partyline, Settings, running
from partyline.errors import PartylineError
from partyline.interfaces import Connection
from partyline.server.site import Endpoint, Extra, Upgrade
from partyline.server.websocket import WebSocket
from tests.server.peers import WITHIN, connected, request


@contextlib.asynccontextmanager
async def partyline_server(
    *, fallback: Any = None, extras: Sequence[Extra] = (), **settings: Any
) -> AsyncIterator[tuple[Partyline, str]]:
    """Partyline on a free port, with a log in memory and a short drain."""
    chosen = Settings(**{"port": 0, "db": ":memory:", "drain_time": 1.0, **settings})
    async with running(chosen, fallback=fallback, extras=extras) as (partyline, url):
        yield partyline, url


async def eventually(condition: Callable[[], object], what: str, within: float = WITHIN) -> None:
    """Wait for a condition that has no event. Time in which this process did not get to run hardly counts."""
    loop = asyncio.get_running_loop()
    left = within
    while not condition():
        assert left > 0, f"in vain: {what}"
        began = loop.time()
        await asyncio.sleep(0.002)
        left -= min(loop.time() - began, 0.02)


async def nothing_is_held(partyline: Partyline, within: float = 4.0) -> None:
    """Wait until no connection, task or deadline is left, apart from the deadlines of registrations.

    One that waits for the end of a close, or is kept alive, would last longer than the four seconds."""
    site, shell = partyline.site, partyline.shell
    await eventually(
        lambda: not (site.connections or site.live or site._by_address or shell.served.tasks),
        "the server lets go of its connections",
        within,
    )
    waiting = sum(1 for entry in partyline.registry._by_hash.values() if entry.timer_slot)
    assert len(site.timers) == waiting, "a deadline outlives its connection"


async def registered(url: str, user: int | str = 1, *topics: str) -> str:
    """Register with the server at `url`; the path of the WebSocket."""
    names = ", ".join(f'"{topic}"' for topic in topics)
    body = f'{{"user_id": "{user}", "topics": [{names}]}}' if topics else f'{{"user_id": "{user}"}}'
    async with connected(url) as peer:
        await peer.send(request("POST", "/register", body.encode()))
        answer = await peer.answer()
    assert answer.status == 200, answer
    path: str = answer.json["url"].partition("//")[2].partition("/")[2]
    return f"/{path}"


class Echo:
    """A session that echoes every message."""

    def opened(self, connection: Connection) -> None:
        assert isinstance(connection, WebSocket)
        self._connection = connection

    def text(self, text: str) -> None:
        self._connection.send_text(text)

    def binary(self, data: bytes) -> None:
        self._connection.send_binary(data)

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        self._connection.send_text(error.code)

    def closed(self) -> None:
        del self._connection


def echo(upgrade: Upgrade) -> Endpoint:
    """A route that echoes on every WebSocket."""
    return Endpoint(Echo(), deflate=True)


def small_send_buffers(partyline: Partyline) -> None:
    """Let the kernel buffer little for each new connection, so that a slow one is noticed soon."""
    for server in partyline.shell.servers:
        for listener in server.sockets:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
