"""uvicorn's server with our listeners, signals and drain."""

from __future__ import annotations

import asyncio
import errno
import signal
import ssl
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Any, cast

import uvicorn
from uvicorn.lifespan.off import LifespanOff

from partyline import log
from partyline.errors import ConfigError
from partyline.server.answers import SAFETY_HEADERS
from partyline.server.exchange import head_lines
from partyline.server.http import HttpProtocol, counted
from partyline.server.site import Live, Site

_log = log.get("server")

_DRAIN_TICK = 0.02  # seconds between looks at what is still open while draining


def tls_context(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    """A server's TLS context: TLS 1.2 and later. Raises ConfigError where the files cannot be used."""
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


class Shell(uvicorn.Server):
    """Serves one site until it is told to stop, then drains.

    SIGTERM or SIGINT stops it; a second signal does not wait any longer. `run_until_stopped` returns after the drain:
    the process exits with 0, whatever the signal was.
    """

    def __init__(self, site: Site, app: Any, *, websocket_fallback: bool = False) -> None:
        limits = site.limits
        config = uvicorn.Config(
            app,
            http=HttpProtocol,
            ws="auto" if websocket_fallback else "none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,  # the perimeter believes trusted_proxies only
            server_header=False,
            headers=SAFETY_HEADERS,
            timeout_keep_alive=cast("int", limits.keep_alive_timeout),
        )
        super().__init__(config)
        self.site = site
        self._stop = asyncio.Event()
        self._hurry = False
        self.on_drain: Callable[[], object] = lambda: None  # told when the drain begins
        self.server_state.connections = cast("Any", site.live)
        self.servers: list[asyncio.base_events.Server] = []
        self.state: dict[str, Any] = {}  # of the fallback application's lifespan

    # Starting

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> list[tuple[str, int]]:
        """Bind and accept; returns the addresses. Raises ConfigError where that is not possible."""
        if not self.config.loaded:
            self.config.load()
            if self.config.ws_protocol_class is not None:
                self.config.ws_protocol_class = counted(self.config.ws_protocol_class, self.site)
            self.lifespan = LifespanOff(self.config)
            self._tick()
        timeouts: dict[str, float] = {}
        if tls is not None:
            timeouts["ssl_handshake_timeout"] = self.site.limits.tls_handshake_timeout
            timeouts["ssl_shutdown_timeout"] = self.site.limits.close_timeout
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                self._connection, host, port, ssl=tls, backlog=self.config.backlog, **cast("Any", timeouts)
            )
        except OSError as error:
            raise ConfigError(_bind_error(error, host, port), field="port") from None
        self.servers.append(server)
        self.started = True
        return [listener.getsockname()[:2] for listener in server.sockets]

    def _connection(self) -> HttpProtocol:
        return HttpProtocol(self.config, self.server_state, self.state, self.site)

    # Running

    def stop(self) -> None:
        """End `serve`: drain and return. A second call stops waiting for the clients."""
        if self._stop.is_set():
            self._hurry = True
        self.should_exit = True
        self._stop.set()

    def stop_on_signals(self, numbers: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> None:
        """Let these signals stop the server. Called before it listens: who sees the address may signal at once."""
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
        """Once a second: the Date header of answers."""
        date = (b"date", formatdate(time.time(), usegmt=True).encode())
        headers = self.server_state.default_headers = [date, *self.config.encoded_headers]
        self.site.head = head_lines(headers)

    # Stopping

    async def drain(self) -> None:
        """Stop accepting, tell every client, finish what is in hand, and drop the rest at the drain time."""
        site = self.site
        site.draining = True
        self.on_drain()
        for server in self.servers:
            server.close()
        _log.info("draining", connections=len(site.live), seconds=site.limits.drain_time)
        for connection in tuple(site.live):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + site.limits.drain_time
        await self._until(lambda: not site.live and not self.server_state.tasks, deadline)
        left: tuple[Live, ...] = tuple(site.live)
        if left:
            site.counters.hit("drain_time")
            _log.warning("dropped at the drain time", connections=len(left))
            for connection in left:
                # uvicorn's own WebSocket, which serves an application's paths, has no abort.
                if hasattr(connection, "abort"):
                    connection.abort()
                else:
                    cast("Any", connection).transport.abort()
        for task in tuple(self.server_state.tasks):
            task.cancel()
        await self._until(lambda: not site.live and not self.server_state.tasks, loop.time() + 1.0)

    async def _until(self, done: Callable[[], bool], deadline: float) -> None:
        loop = asyncio.get_running_loop()
        # uvicorn's sets of connections and tasks have no event to wait for.
        while not done() and loop.time() < deadline and not self._hurry:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_TICK)


def _bind_error(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE or "in use" in str(error):
        return (
            f"port {port} on {host} is in use: choose another (the setting port, or --port), or stop what listens there"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} needs more rights: choose one from 1024 up (the setting port, or --port)"
    return f"cannot listen on {host}:{port}: {error.strerror or error}"
