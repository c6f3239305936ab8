"""A Socket.IO client: `async with socketio.connect(url, "/chat", auth=...) as chat`.

Protocol 5 over Engine.IO 4, as clients of Socket.IO 3 and 4 speak it, on polling and WebSocket. It reconnects with full
jitter, and recovers what was missed where the server keeps it.

Long because a namespace and the connection that comes back for it know each other in every step.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import ssl
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from enum import Enum
from types import TracebackType
from typing import Any, Final

from partyline import log
from partyline.client.engine import POLLING, WEBSOCKET, Engine, Route
from partyline.client.socket import Address
from partyline.errors import (
    CallTimeout,
    ConfigError,
    ConnectionRefused,
    Disconnected,
    InvalidPacket,
    InvalidValue,
    PartylineError,
)
from partyline.models import Position
from partyline.wire.socketio.msgpack import MSGPACK
from partyline.wire.socketio.packets import (
    JSON,
    Ack,
    Connect,
    ConnectError,
    Disconnect,
    Event,
    Messages,
    Packet,
    Parser,
)

__all__ = ["Client", "State", "connect"]

_log = log.get("client")

_PROTOCOL: Final = 5
_PARSERS: Final[dict[str, Parser]] = {"json": JSON, "msgpack": MSGPACK}
_jitter = random.random
_FAR: Final = 10.0  # seconds after which a connection counts as a good one: delays start anew

Auth = Mapping[str, Any] | Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None] | None
Function = Callable[..., Any]


class State(Enum):
    """Of one namespace. A refused or disconnected one stays so until `open`."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    REFUSED = "refused"
    CLOSED = "closed"


class Client:
    """One namespace of a connection. Made by `connect`, or by `namespace` of another one.

    `id` is the server's name for it, `recovered` whether the last connect brought what was missed.
    """

    def __init__(self, link: _Link, name: str, auth: Auth) -> None:
        self.name = name
        self.id: str | None = None
        self.recovered = False
        self.state = State.CONNECTING
        self._link = link
        self._auth = auth
        self._functions: dict[str, list[Function]] = {}
        self._any: list[Function] = []
        self._states: list[Callable[[State, str], object]] = []
        self._calls: dict[int, asyncio.Future[list[Any]]] = {}
        self._number = 0
        self._pid: str | None = None
        self._offset: str | None = None
        self._entered: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Client {self.name} {self.state.value}>"

    # What a program does

    @property
    def connected(self) -> bool:
        """Whether events go both ways."""
        return self.state is State.CONNECTED

    @property
    def transport(self) -> str | None:
        """`polling` or `websocket`; None while there is no connection."""
        return self._link.transport

    def on(self, event: str, function: Function | None = None) -> Any:
        """`function(*arguments)`, `def` or `async def`, hears an event; what it returns is the acknowledgement.

        A tuple is several values. Usable as a decorator.
        """

        def add(function: Function) -> Function:
            self._functions.setdefault(event, []).append(function)
            return function

        return add if function is None else add(function)

    def on_any(self, function: Function) -> Function:
        """`function(event, *arguments)` hears every event."""
        self._any.append(function)
        return function

    def off(self, event: str, function: Function | None = None) -> None:
        """Take a function away from an event, or all."""
        left = [one for one in self._functions.get(event, []) if function is not None and one is not function]
        self._functions[event] = left

    def on_state(self, function: Callable[[State, str], object]) -> Callable[[State, str], object]:
        """`function(state, reason)` hears of each change of `state`."""
        self._states.append(function)
        return function

    def emit(self, event: str, *arguments: Any) -> bool:
        """Send an event, now or never: False, it is not connected. Raises InvalidValue if it cannot be sent."""
        return self._send(self._link.parser.event(self.name, event, arguments))

    async def call(self, event: str, *arguments: Any, timeout: float = 10.0) -> Any:  # noqa: ASYNC109
        """Send an event and await its acknowledgement: its only value, else a tuple of all, `()` where it has none.

        Raises Disconnected if there is no connection, or it breaks before the answer: then nobody knows whether the
        server has handled it. CallTimeout after `timeout` seconds. Cancelled, a late answer is dropped.
        """
        self._number += 1
        number = self._number
        messages = self._link.parser.event(self.name, event, arguments, number)
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        try:
            if not self._send(messages):
                raise Disconnected(f"{event} was not sent: {self.name} is {self.state.value}")
            async with asyncio.timeout(timeout):
                values = await answer
        except TimeoutError:
            raise CallTimeout(f"{event}: no acknowledgement within {timeout:g} s") from None
        finally:
            self._calls.pop(number, None)
        return values[0] if len(values) == 1 else tuple(values)

    async def namespace(self, name: str, *, auth: Auth = None) -> Client:
        """Another namespace of the same connection, when it is connected. Raises ConnectionRefused, Disconnected."""
        client = self._link.add(name, auth)
        await client.open()
        return client

    async def open(self) -> None:
        """Connect it, if it is not: after a refusal, or a disconnect by the server. Raises as `connect` does."""
        if self.state is State.CONNECTED:
            return
        if self._entered is None or self._entered.done():
            self._entered = asyncio.get_running_loop().create_future()
        entered = self._entered
        if self.state in (State.REFUSED, State.CLOSED):
            self._tell(State.CONNECTING, "")
        self._link.enter(self)
        try:
            async with asyncio.timeout(self._link.patience):
                await asyncio.shield(entered)
        except TimeoutError:
            raise Disconnected(f"{self.name} is not connected within {self._link.patience:g} s") from None

    def disconnect(self) -> None:
        """Leave the namespace, for good."""
        if self.state is State.CONNECTED:
            self._send(self._link.parser.disconnect(self.name))
        self._pid = self._offset = None
        self._gone(State.CLOSED, "client namespace disconnect")

    async def close(self) -> None:
        """Leave all namespaces of the connection and end it, as `async with` does; nothing of it is left."""
        await self._link.close()

    async def drained(self) -> None:
        """Return when there is room for more, or the connection is over: for a program that sends a lot."""
        await self._link.drained()

    def _send(self, messages: Messages) -> bool:
        return self.state is State.CONNECTED and self._link.send(messages)

    # What the link does

    async def ask(self) -> Messages:
        """The CONNECT of now. What an auth function raises is raised."""
        auth = self._auth() if callable(self._auth) else self._auth
        if inspect.isawaitable(auth):
            auth = await auth
        fields = dict(auth) if auth is not None else None
        if self._pid is not None:
            fields = {**(fields or {}), "pid": self._pid}
            if self._offset is not None:
                fields["offset"] = self._offset
        return self._link.parser.ask(self.name, fields)

    def receive(self, packet: Packet) -> None:
        """A packet of its namespace. Raises InvalidPacket."""
        if isinstance(packet, Event):
            self._event(packet)
        elif isinstance(packet, Ack):
            answer = self._calls.pop(packet.id, None)
            if answer is not None and not answer.done():
                answer.set_result(packet.arguments())
        elif isinstance(packet, Connect):
            told = packet.auth or {}
            pid = told.get("pid")
            self.recovered = pid is not None and pid == self._pid
            if not self.recovered:
                self._offset = None
            self.id, self._pid = told.get("sid"), pid
            self._tell(State.CONNECTED, "")
            if self._entered is not None and not self._entered.done():
                self._entered.set_result(None)
        elif isinstance(packet, ConnectError):
            data = packet.data if isinstance(packet.data, dict) else {"message": packet.data}
            error = ConnectionRefused(str(data.get("message")), data.get("data"))
            self._fail(error)
            self._gone(State.REFUSED, error.message)
        elif isinstance(packet, Disconnect):
            self._pid = self._offset = None
            self._gone(State.CLOSED, "server namespace disconnect")

    def lost(self, state: State, reason: str) -> None:
        """The connection is gone."""
        if self.state in (State.CONNECTED, State.CONNECTING):
            self._gone(state, reason)

    def fail(self, error: PartylineError) -> None:
        """It will not be connected."""
        self._fail(error)

    def _fail(self, error: PartylineError) -> None:
        if self._entered is not None and not self._entered.done():
            self._entered.set_exception(error)
            self._entered.exception()  # whoever waits gets it; if nobody does, nobody is warned

    def _event(self, event: Event) -> None:
        arguments = event.arguments()
        if self._pid is not None and event.id is None and arguments and isinstance(arguments[-1], str):
            self._offset = arguments[-1]
            if _is_position(arguments[-1]):  # which Partyline adds; what others add cannot be told from an argument
                arguments.pop()
        answered: Any = None
        heard = False
        for function in (*self._functions.get(event.name, ()), *self._any):
            heard = True
            values = (event.name, *arguments) if function in self._any else tuple(arguments)
            try:
                result = function(*values)
            except Exception:
                _log.exception("a handler failed", event_name=event.name)
                continue
            if inspect.isawaitable(result):
                self._link.keep(self._finish(event, result))
                event = Event(event.namespace, event.name, None, event.raws)  # it answers
            elif answered is None:
                answered = result
        if heard and event.id is not None:
            self._acknowledge(event.id, answered)

    async def _finish(self, event: Event, result: Awaitable[Any]) -> None:
        try:
            answer = await result
        except Exception:
            _log.exception("a handler failed", event_name=event.name)
            return
        if event.id is not None:
            self._acknowledge(event.id, answer)

    def _acknowledge(self, number: int, answer: Any) -> None:
        values = () if answer is None else answer if type(answer) is tuple else (answer,)
        try:
            self._send(self._link.parser.ack(self.name, number, values))
        except InvalidValue as error:
            _log.error("what a handler returned cannot be sent", error=error.message)

    def _gone(self, state: State, reason: str) -> None:
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(Disconnected(f"the connection broke before an answer came: {reason}"))
        self._tell(state, reason)

    def _tell(self, state: State, reason: str) -> None:
        if state is self.state:
            return
        self.state = state
        for function in self._states:
            try:
                function(state, reason)
            except Exception:
                _log.exception("a handler of states failed")


class _Link:
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

    def keep(self, coroutine: Any) -> None:
        """Run something beside; it ends with the link."""
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
        """Leave all namespaces and end the connection. Nothing of it is left."""
        for client in self._clients.values():
            if client.state is not State.CLOSED:
                client.disconnect()
            client.fail(Disconnected("the connection was closed"))
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
                        client.fail(error)
                        client.lost(State.CLOSED, reason)
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
                client.lost(State.WAITING if self._reconnect else State.CLOSED, reason)
            if not wanted or not self._reconnect:
                return
            # Full jitter: a crowd that lost its server at one moment comes back spread over the whole delay.
            await asyncio.sleep(_jitter() * min(self._most, self._least * 2.0**tries))
            tries = min(tries + 1, 30)

    async def _ask(self, client: Client, engine: Engine) -> None:
        try:
            messages = await client.ask()
        except PartylineError as error:
            client.fail(error)
            client.lost(State.REFUSED, error.message)
        except Exception as error:
            _log.exception("what gives auth failed")
            client.fail(ConnectionRefused(f"auth could not be asked for: {error}"))
            client.lost(State.REFUSED, str(error))
        else:
            engine.send(messages)

    def _heard(self, message: str | bytes) -> None:
        try:
            packet = self._reader.receive(message)
            client = None if packet is None else self._clients.get(packet.namespace)
            if packet is not None and client is not None:
                client.receive(packet)
        except (InvalidPacket, PartylineError) as error:
            if self._engine is not None:
                self._engine.close()
            self._lost(f"parse error ({error.message})")

    def _lost(self, reason: str) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(reason)


class connect:  # noqa: N801 - it reads as the function that it is
    """Connect to a namespace: `async with connect(url, "/chat") as chat`, or `chat = await connect(url)`.

    `url` is the server's (http, https, ws or wss), `path` its Engine.IO path. `auth` goes along with CONNECT: an
    object, or a function (async too) asked at each connect. `transports` are tried in their order: polling is upgraded.
    `parser` is "json" or "msgpack", as the server's. `least_delay` and `most_delay` bound the waits between tries in
    seconds, each drawn from the whole range below a bound that doubles; without `reconnect` there is one connection.
    `open_timeout` is how long the first one may take in seconds: until then a server that is not there (yet) is tried
    again, 0 tries once. `timeout` is what each attempt may take.

    Raises InvalidValue for a bad `url`, ConnectionRefused with the server's message and data, Disconnected where there
    is no server in time. Cancelled, it leaves nothing open.
    """

    def __init__(
        self,
        url: str,
        namespace: str = "/",
        *,
        auth: Auth = None,
        path: str = "/socket.io/",
        transports: Sequence[str] = (POLLING, WEBSOCKET),
        parser: str = "json",
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        reconnect: bool = True,
        open_timeout: float = 10.0,
        least_delay: float = 0.5,
        most_delay: float = 30.0,
        timeout: float = 10.0,
        max_message: int = 16_000_000,
    ) -> None:
        if parser not in _PARSERS:
            raise ConfigError(f"parser: {parser!r} must be json or msgpack", field="parser")
        if not transports or not set(transports) <= {POLLING, WEBSOCKET}:
            raise ConfigError(f"transports: {transports!r} must be of polling and websocket", field="transports")
        address = Address.parse(url, path.rstrip("/"))
        route = Route(
            Address(address.host, address.port, address.secure, address.path + "/", address.authority),
            tuple((headers or {}).items()),
            tls,
            transports,
            timeout,
            max_message,
        )
        self._link = _Link(
            route,
            _PARSERS[parser],
            reconnect=reconnect,
            least_delay=least_delay,
            most_delay=most_delay,
            patience=open_timeout,
        )
        self._client = self._link.add(namespace, auth)

    @property
    def client(self) -> Client:
        """The client to be, for handlers that must not miss the first event."""
        return self._client

    async def _open(self) -> Client:
        try:
            await self._client.open()
        except BaseException:
            await self._link.close()
            raise
        return self._client

    def __await__(self) -> Generator[Any, None, Client]:
        return self._open().__await__()

    async def __aenter__(self) -> Client:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.close()


def _is_position(text: str) -> bool:
    try:
        Position.parse(text)
    except InvalidValue:
        return False
    return True
