"""ASGI servers in this process, with Partyline as their application."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import uvicorn

from partyline import Application, Partyline, Settings
from partyline.server.site import Extra
from tests.server.peers import WITHIN
from tests.server.servers import eventually

# Each has its own idea of ASGI: uvicorn with each of its WebSocket implementations, and hypercorn.
SERVERS = ["uvicorn websockets-sansio", "uvicorn wsproto", "hypercorn"]


@contextlib.asynccontextmanager
async def asgi_server(name: str, app: Any, *, lifespan: bool = True, **options: Any) -> AsyncIterator[str]:
    """`app` served by one of SERVERS on a free port; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    kind, _, ws = name.partition(" ")
    with listener:
        async with _uvicorn(app, listener, ws, lifespan, options) if kind == "uvicorn" else _hypercorn(app, listener):
            yield url


@contextlib.asynccontextmanager
async def _uvicorn(
    app: Any, listener: socket.socket, ws: Any, lifespan: bool, options: dict[str, Any]
) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        ws=ws,
        lifespan="on" if lifespan else "off",
        log_config=None,
        timeout_graceful_shutdown=2,
        **options,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await eventually(lambda: server.started or serving.done(), "uvicorn starts")
        yield
    finally:
        server.should_exit = True
        async with asyncio.timeout(WITHIN):
            await serving


@contextlib.asynccontextmanager
async def _hypercorn(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = 0.5
    config.errorlog = None
    stop = asyncio.Event()
    trigger: Any = stop.wait
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=trigger))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(WITHIN):
            await serving


def running_under(name: str) -> Callable[..., AbstractAsyncContextManager[tuple[Partyline, str]]]:
    """The counterpart of `partyline.running`: a server with these settings, and its URL."""

    @contextlib.asynccontextmanager
    async def running(settings: Settings, *, extras: Sequence[Extra] = ()) -> AsyncIterator[tuple[Partyline, str]]:
        app = Application(settings, extras=extras)
        async with asgi_server(name, app) as url:
            yield await app.start(), url

    return running
