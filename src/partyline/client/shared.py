"""The connection that the namespaces of a Socket.IO client share: it comes back, and enters them again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, Final

from partyline import log
from partyline.client.engine import Engine, Route
from partyline.client.namespace import Auth, Client, State
from partyline.errors import ConfigError, ConnectionRefused, Disconnected, PartylineError
from partyline.wire.socketio.packets import Messages, Parser

_log = log.get("client")

_PROTOCOL: Final = 5
_FAR: Final = 10.0  # seconds after which a connection counts as good: delays start anew
_jitter = random.random


class SharedConnection:
    """The connection of some namespaces, which comes back."""

    def __init__(
        self, route: Route, parser: Parser, *, reconnect: bool, least_delay: float, most_delay: float, patience: float
    ) -> None:
        self.parser = parser
        self.patience = patience or route.timeout
        self._tries_once = patience == 0
        self._route = route
        self._reconnect = reconnect
        self._least = least_delay
        self._most = most_delay
        self._clients: dict[str, Client] = {}
        self._engine: Engine | None = None
        self._was_there = False  # a connection, at least once
        self._reader = parser.reader(_PROTOCOL, max_attachments=1_000, max_total=route.max_message)
        self._over: asyncio.Future[str] | None = None  # of the engine that is there
        self._running: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def transport(self) -> str | None:
        return None if self._engine is None else self._engine.transport

    def add(self, name: str, auth: Auth) -> Client:
        """Raises ConfigError if the namespace is there already."""
        name = name if name.startswith("/") else "/" + name
        if name in self._clients:
            raise ConfigError(f"namespace: this connection is in {name} already")
        client = self._clients[name] = Client(self, name, auth)
        return client

    def enter(self, client: Client) -> None:
        """Ask for a namespace, as soon as there is a connection."""
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())
        elif self._engine is not None:
            self.keep(self._ask(client, self._engine))

    def keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that ends with the connection."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def send(self, messages: Messages) -> bool:
        if self._engine is None:
            return False
        self._engine.send(messages)
        return True

    async def drained(self) -> None:
        if self._engine is not None:
            await self._engine.drained()

    async def close(self) -> None:
        """Leave all namespaces and end the connection. Returns when it is gone."""
        for client in self._clients.values():
            if client.state is not State.CLOSED:
                client.disconnect()
            client._fail(Disconnected("the connection was closed"))
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.farewell()
        tasks = [task for task in (self._running, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if engine is not None:
            engine.close()
            await engine.ended()

    # A connection, and the next one

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        tries = 0
        while True:
            engine = Engine(self._route, self._heard, self._lost)
            self._over = loop.create_future()
            self._reader = self.parser.reader(_PROTOCOL, max_attachments=1_000, max_total=self._route.max_message)
            began = loop.time()
            try:
                await engine.open()
                self._engine, self._was_there = engine, True
                for client in tuple(self._clients.values()):
                    if client.state in (State.CONNECTING, State.WAITING):
                        await self._ask(client, engine)
                reason = await self._over
            except PartylineError as error:
                reason = error.message
                if not self._reconnect or (self._tries_once and not self._was_there):
                    for client in self._clients.values():
                        client._fail(error)
                        client._lost(State.CLOSED, reason)
                    return
            finally:
                self._engine = None
                engine.close()
            if loop.time() - began > _FAR:
                tries = 0
            wanted = [
                client
                for client in self._clients.values()
                if client.state in (State.CONNECTED, State.CONNECTING, State.WAITING)
            ]
            for client in wanted:
                client._lost(State.WAITING if self._reconnect else State.CLOSED, reason)
            if not wanted or not self._reconnect:
                return
            # Full jitter: a crowd that lost its server at one moment comes back spread over the whole delay.
            await asyncio.sleep(_jitter() * min(self._most, self._least * 2.0**tries))
            tries = min(tries + 1, 30)

    async def _ask(self, client: Client, engine: Engine) -> None:
        try:
            messages = await client._connect()
        except PartylineError as error:
            client._fail(error)
            client._lost(State.REFUSED, error.message)
        except Exception as error:
            _log.exception("the auth function failed")
            client._fail(ConnectionRefused(f"the auth function failed: {error}"))
            client._lost(State.REFUSED, str(error))
        else:
            engine.send(messages)

    def _heard(self, message: str | bytes) -> None:
        try:
            packet = self._reader.receive(message)
            client = None if packet is None else self._clients.get(packet.namespace)
            if packet is not None and client is not None:
                client._receive(packet)
        except PartylineError as error:
            if self._engine is not None:
                self._engine.close()
            self._lost(f"parse error ({error.message})")

    def _lost(self, reason: str) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(reason)
