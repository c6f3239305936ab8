"""The shell around a site: listeners, signals, drain."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from functools import partial
from typing import Any, Final

from starlette.types import ASGIApp

from partyline import log
from partyline.errors import ConfigError
from partyline.server.answers import SAFETY_HEADERS
from partyline.server.asgi import AsgiWebSocket
from partyline.server.exchange import head_lines
from partyline.server.http import HttpConnection
from partyline.server.securing import Securing
from partyline.server.served import Served
from partyline.server.site import Site
from partyline.server.sockets import reap_dead_peers
from partyline.server.websocket import WebSocket

_log = log.get("server")

BACKLOG: Final = 2048  # connections that the system keeps for us to accept
_DRAIN_TICK: Final = 0.02  # seconds between checks of what is still open while draining


def tls_context(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    """A server's TLS context: TLS 1.2 and later. Raises ConfigError if the files cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certfile, keyfile)
    except FileNotFoundError as error:
        missing = certfile if error.filename in (certfile, None) else keyfile
        raise ConfigError(f"certfile/keyfile: {missing!r} does not exist", field="certfile") from None
    except PermissionError:
        raise ConfigError(f"certfile/keyfile: {certfile!r} or {keyfile!r} cannot be read", field="certfile") from None
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"certfile/keyfile: {certfile!r} and {keyfile or certfile!r} are not a certificate and its key in PEM form "
            f"({error})",
            field="certfile",
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


class Shell:
    """Serves one site until it is told to stop, then drains.

    SIGTERM or SIGINT stops it; a second signal does not wait any longer. `run_until_stopped` returns after the drain:
    the process exits with 0, whatever the signal was.
    """

    def __init__(self, site: Site, app: ASGIApp, *, websocket_fallback: bool = False) -> None:
        self.site = site
        self.served = Served(site, app, foreign=websocket_fallback)
        self.on_drain: Callable[[], object] = lambda: None  # called when the drain begins
        self.servers: list[asyncio.Server] = []
        self._stop = asyncio.Event()
        self._hurry = False
        self._tick()

    @property
    def state(self) -> dict[str, Any]:
        """The lifespan state of the fallback application, for the scopes of its requests."""
        return self.served.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self.served.state = state

    # Starting

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> list[tuple[str, int]]:
        """Bind and accept; returns the addresses. Raises ConfigError if that is not possible."""
        limits = self.site.limits
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(self._connections(tls), host, port, backlog=BACKLOG)
        except OSError as error:
            raise ConfigError(bind_error(error, host, port), field="port") from None
        for listener in server.sockets:
            reap_dead_peers(listener, limits.ping_interval + limits.ping_timeout)
        self.servers.append(server)
        return [listener.getsockname()[:2] for listener in server.sockets]

    async def listen_on(self, listeners: Sequence[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """Accept on sockets that were bound before."""
        limits, loop = self.site.limits, asyncio.get_running_loop()
        for listener in listeners:
            reap_dead_peers(listener, limits.ping_interval + limits.ping_timeout)
            server = await loop.create_server(self._connections(tls), sock=listener, backlog=BACKLOG)
            self.servers.append(server)

    def _connections(self, tls: ssl.SSLContext | None) -> Callable[[], asyncio.Protocol]:
        """What makes the reader of each further connection."""
        return self.connection if tls is None else partial(Securing, self.served, tls)

    def connection(self) -> HttpConnection:
        """What reads one more connection."""
        return HttpConnection(self.served)

    # Running

    def stop(self) -> None:
        """End `run_until_stopped`: drain and return. A second call stops waiting for the clients."""
        if self._stop.is_set():
            self._hurry = True
        self._stop.set()

    def stop_on_signals(self, numbers: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> None:
        """Let these signals stop the server. Call it before `listen`: a signal may come as soon as the address is
        out."""
        loop = asyncio.get_running_loop()
        for number in numbers:
            loop.add_signal_handler(number, self.stop)

    async def run_until_stopped(self) -> None:
        """Serve until `stop` is called, then drain. Cancelling it drains nothing."""
        while not self._stop.is_set():
            self._tick()
            try:
                async with asyncio.timeout(1.0):
                    await self._stop.wait()
            except TimeoutError:
                pass
        await self.drain()

    def _tick(self) -> None:
        """Once a second: the headers of all answers, with the time in them."""
        date = (b"date", formatdate(time.time(), usegmt=True).encode())
        site = self.site
        site.headers = [date, *SAFETY_HEADERS]
        site.head = head_lines(site.headers)

    # Stopping

    async def drain(self) -> None:
        """Stop accepting, finish requests in hand, tell every client, and drop the rest at the drain time."""
        site, tasks = self.site, self.served.tasks
        site.draining = True
        self.on_drain()
        for server in self.servers:
            server.close()
        _log.info("draining", connections=len(site.live), seconds=site.limits.drain_time)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + site.limits.drain_time
        await self._settle(min(deadline, loop.time() + site.limits.close_timeout))
        for connection in tuple(site.live):
            connection.shutdown()
        await self._until(lambda: not site.live and not tasks, deadline)
        left = tuple(site.live)
        if left:
            site.counters.hit("drain_time")
            _log.warning("dropped at the drain time", connections=len(left))
            for connection in left:
                connection.abort()
        for task in tuple(tasks):
            task.cancel()
        await self._until(lambda: not site.live and not tasks, loop.time() + 1.0)

    async def _settle(self, deadline: float) -> None:
        """Take no more from WebSockets, and let their publishes be answered: nothing may follow a close."""
        hub = self.site.hub
        for connection in self.site.live:
            if isinstance(connection, WebSocket | AsgiWebSocket):
                connection.hold()
        if hub is not None:
            await self._until(lambda: not hub.delivery.unsettled, deadline)

    async def _until(self, done: Callable[[], bool], deadline: float) -> None:
        loop = asyncio.get_running_loop()
        # Polled: connections end in many places, and an event would have to be set in all of them.
        while not done() and loop.time() < deadline and not self._hurry:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_TICK)


def bind_error(error: OSError, host: str, port: int) -> str:
    """Why it cannot listen there, and what to do about it."""
    if error.errno == errno.EADDRINUSE or "in use" in str(error):
        return (
            f"port {port} on {host} is in use: choose another (the setting port, or --port), or stop what listens there"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} needs more rights: choose one from 1024 up (the setting port, or --port)"
    return f"cannot listen on {host}:{port}: {error.strerror or error}"
