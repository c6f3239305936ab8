"""The server as an ASGI application, to mount in another application or to run under any ASGI server."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from partyline import log
from partyline.app import Partyline, build, take_over
from partyline.config import Settings, load
from partyline.engines import open_store
from partyline.errors import ConfigError, PartylineError
from partyline.models import Position
from partyline.server.answers import answer_error
from partyline.server.asgi import Cut, refuse_websocket, serve_websocket
from partyline.server.hosting import another_worker, find_host, redact_logs
from partyline.server.site import Extra

_log = log.get("asgi")

_LOOK_EVERY: Final = 0.1  # seconds between checks whether the server begins to stop

_made: weakref.WeakSet[Application] = weakref.WeakSet()


def applications() -> list[Application]:
    """The applications of this process that still exist."""
    return list(_made)


class Application:
    """The relay, and what is served beside it, as an ASGI application.

    `app.mount("/", partyline.Application(settings))` in FastAPI or Starlette, or any ASGI server by itself. `settings`
    None reads them from the environment and the file that PARTYLINE_CONFIG names, at start; `host` and `port` are the
    ASGI server's business. `extras` are as for `build`, such as an EngineIO. With `relay` False only they are served.

    It starts on the loop of its first request, or before that by its lifespan, and serves this one loop. When that is
    closed and another one asks, as in tests, it starts anew. Nothing that was acknowledged depends on an orderly end.
    """

    def __init__(self, settings: Settings | None = None, *, extras: Sequence[Extra] = (), relay: bool = True) -> None:
        self.settings = settings
        self.extras = tuple(extras)
        self.relay = relay
        self._partyline: Partyline | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[Partyline] | None = None
        self._adopted = False
        self._watching: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        _made.add(self)

    # For programs

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        user: int | str | None = None,
        id: str | None = None,  # noqa: A002 - the contract's word
        key: str | None = None,
        ttl: float | None = None,
        durable: bool | None = None,
    ) -> Position | None:
        """Publish from this process, as `Partyline.publish` does, and start the server if that has not happened yet.

        May be awaited on any loop, in any thread. Also raises ConfigError, if it cannot start.
        """
        loop = self._loop
        if loop is not None and loop is not asyncio.get_running_loop() and self._serving and loop.is_running():
            again = self.publish(topic, data, user=user, id=id, key=key, ttl=ttl, durable=durable)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(again, loop))
        partyline = await self.start()
        return await partyline.publish(topic, data, user=user, id=id, key=key, ttl=ttl, durable=durable)

    async def start(self) -> Partyline:
        """Start on this loop, unless that has happened already, and return the server. Raises ConfigError.

        Cancelling it does not stop the start.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            await self._leave_loop()
            self._loop = loop
        if self._partyline is not None:
            return self._partyline
        if self._starting is None:
            self._starting = loop.create_task(self._build())
            self._starting.add_done_callback(self._built)
        return await asyncio.shield(self._starting)

    async def close(self) -> None:
        """Drain, flush, and close the database. The next request starts it anew.

        Clients are told to come back (1012); those that have not left after `drain_time` are dropped.
        """
        if self._starting is not None:
            with contextlib.suppress(PartylineError):
                await asyncio.shield(self._starting)
        partyline = self._partyline
        if partyline is None or self._adopted:
            return
        self._drain(partyline)
        assert self._draining is not None
        await asyncio.shield(self._draining)
        self._forget()
        await partyline.close()

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """Start at the beginning of the block, and close at its end. Raises ConfigError.

        For applications that mount this one, since mounts are told of no lifespan: `FastAPI(lifespan=relay.lifespan)`,
        or `async with relay.lifespan():` inside a lifespan of their own.
        """
        return self._running()

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        await self.start()
        try:
            yield
        finally:
            await self.close()

    def adopt(self, partyline: Partyline) -> None:
        """Stand for a server that already runs on this loop and is closed by its builder (`partyline serve`)."""
        self._partyline, self._loop, self._adopted = partyline, asyncio.get_running_loop(), True

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(receive, send)
            return
        if kind not in ("http", "websocket"):
            raise ValueError(f"a scope of type {kind!r} is not supported")
        partyline = self._partyline
        if partyline is None or asyncio.get_running_loop() is not self._loop:
            try:
                partyline = await self.start()
            except ConfigError as error:
                _log.exception(f"cannot start: {error.message}")  # an exception: others are silent without any set-up
                refusal = PartylineError("the server cannot start: its log says why")
                if kind == "http":
                    await answer_error(refusal, send)
                else:
                    await receive()  # websocket.connect
                    await refuse_websocket(refusal, scope, send)
                return
        if self._watching is None and not self._adopted:
            self._watching = asyncio.create_task(self._watch(partyline))
        if kind == "websocket":
            await serve_websocket(partyline.site, scope, receive, send, counted=self._adopted)
            return
        with Cut() as cut:
            await partyline.asgi({"partyline.abort": cut, **scope, "partyline.mounted": True}, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        try:
            await self.start()
        except ConfigError as error:
            await send({"type": "lifespan.startup.failed", "message": error.message})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    # Starting

    async def _build(self) -> Partyline:
        settings = load().settings if self.settings is None else self.settings
        redact_logs()
        if await another_worker():
            raise ConfigError(
                "workers: another worker of this server has this application already, and one process has all of its "
                "connections: run one worker (--workers 1), or `partyline serve MODULE:NAME --workers N`"
            )
        store = await open_store(settings)
        try:
            held = await take_over(settings)
            partyline = build(settings, extras=self.extras, held=held, store=store, native=False, relay=self.relay)
        except BaseException:
            if store is not None:
                await store.close()
            raise
        try:
            await partyline.start_extras()
        except BaseException:
            await partyline.close()
            raise
        self._partyline = partyline
        return partyline

    async def _watch(self, partyline: Partyline) -> None:
        """Drain as soon as the server begins to stop, since it would wait for the connections that a drain ends."""
        stops = find_host()
        if stops is None:
            return
        while not stops():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(_LOOK_EVERY)
        self._drain(partyline)

    def _drain(self, partyline: Partyline) -> None:
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(partyline.shell.drain())

    def _forget(self) -> None:
        """Be as new."""
        if self._watching is not None and self._loop is not None and not self._loop.is_closed():
            self._watching.cancel()
        self._partyline = self._starting = self._watching = self._draining = None
        self._adopted = False

    def _built(self, task: asyncio.Task[Partyline]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # those that wait have it; if nobody does, the next request tries again

    @property
    def _serving(self) -> bool:
        """Whether it has started, or is about to."""
        return self._partyline is not None or self._starting is not None

    async def _leave_loop(self) -> None:
        """Drop the server built on an earlier loop. Raises ConfigError if that loop is still open and served."""
        earlier, partyline = self._loop, self._partyline
        if earlier is None:
            return
        if not earlier.is_closed() and self._serving:
            raise ConfigError(
                "this application serves another event loop, and one serves one: make an application for each loop"
            )
        self._forget()
        if partyline is not None:
            await asyncio.get_running_loop().run_in_executor(None, partyline.database.close)
