"""One namespace of a Socket.IO client, as a program holds it, and its state across connections."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from enum import Enum
from typing import Any, Protocol

from partyline import log
from partyline.errors import CallTimeout, ConnectionRefused, Disconnected, InvalidValue, PartylineError
from partyline.models import Position
from partyline.wire.socketio.packets import Ack, Connect, ConnectError, Disconnect, Event, Messages, Packet, Parser

_log = log.get("client")

Auth = Mapping[str, Any] | Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None] | None
Function = Callable[..., Any]


class State(Enum):
    """The state of one namespace. One that is refused or disconnected stays so until `open`."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    REFUSED = "refused"
    CLOSED = "closed"


class Connects(Protocol):
    """What a namespace needs of its connection."""

    parser: Parser
    patience: float

    @property
    def transport(self) -> str | None: ...

    def add(self, name: str, auth: Auth) -> Client:
        """One more namespace."""

    def enter(self, client: Client) -> None: ...

    def keep(self, coroutine: Coroutine[Any, Any, None]) -> None: ...

    def send(self, messages: Messages) -> bool: ...

    async def drained(self) -> None: ...

    async def close(self) -> None: ...


class Client:
    """One namespace of a connection. Made by `connect`, or by `namespace` of another one.

    `id` is the server's name for it; `recovered` says whether the last connect brought what was missed.
    """

    def __init__(self, link: Connects, name: str, auth: Auth) -> None:
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
        """Remove one function of an event, or all."""
        left = [one for one in self._functions.get(event, []) if function is not None and one is not function]
        self._functions[event] = left

    def on_state(self, function: Callable[[State, str], object]) -> Callable[[State, str], object]:
        """`function(state, reason)` hears of each change of `state`."""
        self._states.append(function)
        return function

    def emit(self, event: str, *arguments: Any) -> bool:
        """Send an event now, or return False if not connected. Raises InvalidValue if it cannot be sent."""
        return self._send(self._link.parser.event(self.name, event, arguments))

    async def call(self, event: str, *arguments: Any, timeout: float = 10.0) -> Any:  # noqa: ASYNC109
        """Send an event and await its acknowledgement: its only value, otherwise a tuple of all, `()` if it has none.

        Raises Disconnected if there is no connection, or if it breaks before the answer: then it is unknown whether the
        server has handled the event. Raises CallTimeout after `timeout` seconds. If cancelled, a late answer is
        dropped.
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
            self._enter_state(State.CONNECTING, "")
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
        """Leave all namespaces of the connection and end it, as `async with` does. Returns when it is gone."""
        await self._link.close()

    async def drained(self) -> None:
        """Return when there is room for more, or the connection is over: for a program that sends a lot."""
        await self._link.drained()

    def _send(self, messages: Messages) -> bool:
        return self.state is State.CONNECTED and self._link.send(messages)

    # For the connection

    async def _connect(self) -> Messages:
        """A CONNECT with the current auth. Raises what an auth function raises."""
        auth = self._auth() if callable(self._auth) else self._auth
        if inspect.isawaitable(auth):
            auth = await auth
        fields = dict(auth) if auth is not None else None
        if self._pid is not None:
            fields = {**(fields or {}), "pid": self._pid}
            if self._offset is not None:
                fields["offset"] = self._offset
        return self._link.parser.ask(self.name, fields)

    def _receive(self, packet: Packet) -> None:
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
            self._enter_state(State.CONNECTED, "")
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

    def _lost(self, state: State, reason: str) -> None:
        """The connection is gone."""
        if self.state in (State.CONNECTED, State.CONNECTING):
            self._gone(state, reason)

    def _fail(self, error: PartylineError) -> None:
        """It will not be connected."""
        if self._entered is not None and not self._entered.done():
            self._entered.set_exception(error)
            self._entered.exception()  # marked as retrieved: no warning if nobody waits

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
            _log.error("a handler's return value cannot be sent", error=error.message)

    def _gone(self, state: State, reason: str) -> None:
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(Disconnected(f"the connection broke before an answer came: {reason}"))
        self._enter_state(state, reason)

    def _enter_state(self, state: State, reason: str) -> None:
        if state is self.state:
            return
        self.state = state
        for function in self._states:
            try:
                function(state, reason)
            except Exception:
                _log.exception("a handler of states failed")


def _is_position(text: str) -> bool:
    try:
        Position.parse(text)
    except InvalidValue:
        return False
    return True
