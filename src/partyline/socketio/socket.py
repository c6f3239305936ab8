"""One client in one namespace: what an application holds, and what runs its handlers in order.

Long because a socket is what programs hold: what they call on it, and what happens to it meanwhile.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from partyline import log
from partyline.errors import CONTAINED, CallTimeout, InvalidPacket, InvalidValue, PartylineError, PeerGone
from partyline.models import Audience, Payload
from partyline.server.turn import OWN_READ
from partyline.socketio.acks import Acknowledge, Answered, one
from partyline.socketio.broadcast import Broadcast, names
from partyline.socketio.handlers import Function, Handler, awaited, check_event, problem, result_of
from partyline.socketio.held import Held
from partyline.wire.socketio.packets import Event, Messages, Parser, event_values
from partyline.wire.socketio.values import frozen

if TYPE_CHECKING:
    from partyline.engineio.connection import EngineConnection
    from partyline.interfaces import Dialect
    from partyline.socketio.handshake import Handshake
    from partyline.socketio.namespace import Namespace
    from partyline.socketio.seams import Carrying

_log = log.get("socketio")

_CALL_TIMEOUT: Final = 10.0  # seconds


class Socket:
    """A client in a namespace. Made by the namespace, handed to every handler.

    `id` names it in public (it opens nothing); `data` is the application's; `handshake` is how it came; `recovered`
    says that this is a session that goes on. `rooms` are its rooms, its own `id` among them: read only. As a member of
    rooms it is an `interfaces.Member`.
    """

    __slots__ = (
        "_acks",
        "_busy",
        "_connection",
        "_held",
        "_incoming",
        "_listeners",
        "_others",
        "_outgoing",
        "_queue",
        "connected",
        "data",
        "dialect",
        "doomed",
        "handshake",
        "id",
        "leaving",
        "namespace",
        "pid",
        "recovered",
        "rooms",
        "user",
        "welcomed",
    )

    dialect: Dialect
    rooms: tuple[str, ...] | set[str]

    def __init__(self, namespace: Namespace, connection: Carrying, id: str, handshake: Handshake) -> None:  # noqa: A002
        self.namespace = namespace
        self.id = id
        self.handshake = handshake
        self.data: dict[str, Any] = {}
        self.recovered = False
        self.connected = True
        self.pid: str | None = None  # what its client may come back with; a credential
        self.leaving = False  # we have disconnected it; what was sent before is still for it
        self.doomed: bool | None = None  # disconnected before its CONNECT was answered; True: with its connection
        self.user: str | None = None
        self.rooms = ()
        self.dialect = connection.dialect(namespace)
        self._connection = connection
        self._held: Held | None = Held(namespace.io.outbox_bytes)  # until its CONNECT is answered
        self.welcomed = False  # it is answered
        self._acks: dict[int, Answered | None] | None = None
        self._queue: deque[tuple[Event, int]] | None = None  # what waits; None: no handler runs
        self._busy: asyncio.Task[None] | None = None
        self._others: set[asyncio.Task[None]] | None = None  # handlers that run beside all others
        self._listeners: dict[str, tuple[Handler, ...]] | None = None
        self._incoming: tuple[Function, ...] = ()  # middlewares
        self._outgoing: tuple[Function, ...] = ()

    def __repr__(self) -> str:
        return f"<Socket {self.id} in {self.namespace.name}>"

    # Out

    def emit(self, event: str, *arguments: Any) -> None:
        """Send an event. Never waits, and may be called from any thread; nothing happens once it is disconnected.

        Raises InvalidValue if the name is reserved or an argument cannot be sent.
        """
        home = self._connection.home
        if home.thread != get_ident() and home.call(self.emit, *event_values(event, frozen(arguments), None)):
            return
        if self.namespace.log is not None:
            self.namespace.emit_to(self, event, arguments)
        else:
            self.send_event(event, arguments)

    def send(self, *arguments: Any) -> None:
        """Send the event `message`."""
        self.emit("message", *arguments)

    async def call(self, event: str, *arguments: Any, timeout: float = _CALL_TIMEOUT) -> Any:  # noqa: ASYNC109
        """Send an event and await its acknowledgement: its only value, else a tuple of all, `()` where it has none.

        Raises CallTimeout after `timeout` seconds, PeerGone if the socket is disconnected. Cancelled, a late answer
        is dropped.
        """
        home = self._connection.home
        if home.thread not in (0, get_ident()):
            return await home.wait(self.call(event, *arguments, timeout=timeout))
        if not self.connected:
            raise PeerGone("the socket is disconnected")
        if not self.welcomed:
            raise PeerGone("the client cannot answer before it is connected: call it when on_connect has returned")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(values: list[Any]) -> None:
            if not answer.done():
                answer.set_result(one(values))

        number = self.namespace.next_ack()
        acks = self._acks = {} if self._acks is None else self._acks
        acks[number] = answered
        self.asked(1)
        try:
            self.send_event(event, arguments, number)
            async with asyncio.timeout(timeout):
                values = await answer
        except TimeoutError:
            raise CallTimeout(f"{event}: no acknowledgement within {timeout:g} s") from None
        finally:
            acks.pop(number, None)
            self.asked(-1)
        if values is _GONE:
            raise PeerGone(f"{event}: the socket was disconnected before it answered")
        return values

    def asked(self, more: int) -> None:
        """We wait for so many more of its answers: meanwhile it is read from."""
        self._connection.calls += more
        self._connection.look()

    @property
    def volatile(self) -> Direct:
        """Events that are dropped where the client cannot take them at once."""
        return Direct(self, volatile=True)

    def timeout(self, seconds: float) -> Direct:
        """How long `call` waits."""
        return Direct(self, seconds=seconds)

    def compress(self, wanted: bool) -> Direct:
        """Socket.IO's operator; what is compressed follows from the settings, and this changes nothing."""
        return Direct(self)

    # Others

    @property
    def broadcast(self) -> Broadcast:
        """Everybody in the namespace but this socket."""
        return Broadcast(self.namespace, Audience(besides=self.id))

    def to(self, *rooms: str | Iterable[str]) -> Broadcast:
        """Those in any of the rooms, without this socket."""
        return self.broadcast.to(*rooms)

    in_ = to

    def except_(self, *rooms: str | Iterable[str]) -> Broadcast:
        """Everybody but those in any of the rooms, and but this socket."""
        return self.broadcast.except_(*rooms)

    @property
    def local(self) -> Broadcast:
        """Everybody else on this node."""
        return self.broadcast.local

    # Rooms

    def join(self, *rooms: str | Iterable[str]) -> None:
        """Join rooms. Nothing happens once it is disconnected. Raises InvalidValue beyond `rooms_per_connection`."""
        home = self._connection.home
        if home.thread == get_ident() or not home.call(self.namespace.join, self, names(rooms)):
            self.namespace.join(self, names(rooms))

    def leave(self, *rooms: str | Iterable[str]) -> None:
        """Leave rooms; those it is not in do not matter."""
        home = self._connection.home
        if home.thread == get_ident() or not home.call(self.namespace.leave, self, names(rooms)):
            self.namespace.leave(self, names(rooms))

    def disconnect(self, close: bool = False) -> None:
        """Disconnect it from the namespace; with `close` the whole connection ends, with all its namespaces."""
        home = self._connection.home
        if home.thread == get_ident() or not home.call(self.disconnect, close):
            self._connection.disconnect(self, close=close)

    @property
    def reachable(self) -> bool:
        """Whether what has waited for the log is still for it."""
        return self.connected or self.leaving

    # Listeners of this socket alone

    def on(self, event: str, function: Function | None = None, *, concurrent: bool = False) -> Any:
        """Hear an event of this socket: `function(*arguments)`, without the socket. Usable as a decorator."""

        def add(function: Function) -> Function:
            listeners = self._listeners = {} if self._listeners is None else self._listeners
            handler = Handler(function, leading=0, concurrent=concurrent)
            listeners[check_event(event)] = (*listeners.get(event, ()), handler)
            return function

        return add if function is None else add(function)

    def once(self, event: str, function: Function) -> None:
        """Hear the next one of these events."""
        handler = Handler(function, leading=0)

        def only(*arguments: Any) -> Any:
            self._forget(event, lambda one: one is handler)
            return function(*arguments)

        handler.function, handler.wrapped = only, function
        listeners = self._listeners = {} if self._listeners is None else self._listeners
        listeners[check_event(event)] = (*listeners.get(event, ()), handler)

    def off(self, event: str | None = None, function: Function | None = None) -> None:
        """Take a listener of this socket away, or all of an event, or all."""
        if event is None:
            self._listeners = None
        else:
            self._forget(event, lambda one: function is None or function in (one.function, one.wrapped))

    def _forget(self, event: str, which: Callable[[Handler], bool]) -> None:
        if self._listeners is None:
            return
        left = tuple(one for one in self._listeners.get(event, ()) if not which(one))
        if left:
            self._listeners[event] = left
        else:
            self._listeners.pop(event, None)
            self._listeners = self._listeners or None

    def use(self, middleware: Function) -> Function:
        """`middleware(event, arguments)` is called before every event's handlers; what it raises keeps it from them."""
        self._incoming = (*self._incoming, middleware)
        return middleware

    def on_any_outgoing(self, function: Function) -> Function:
        """`function(event, *arguments)` is called for every event that is sent to this socket."""
        self._outgoing = (*self._outgoing, function)
        self.namespace.watched.add(self)
        return function

    def off_any_outgoing(self, function: Function | None = None) -> None:
        """Take such a function away, or all."""
        self._outgoing = tuple(one for one in self._outgoing if function is not None and one is not function)
        if not self._outgoing:
            self.namespace.watched.discard(self)

    # What carries it

    @property
    def engine(self) -> EngineConnection:
        """The Engine.IO connection that it shares with its client's other namespaces."""
        return self._connection.engine

    @property
    def parser(self) -> Parser:
        """How its packets are written."""
        return self._connection.parser

    # interfaces.Member

    @property
    def writable(self) -> bool:
        """Whether an event would leave at once."""
        return self._held is None and self._connection.writable

    def offer(self, payload: Payload) -> None:
        if self._held is None:
            self._connection.engine.offer(payload)
        else:
            self._hold(payload.data)

    def discard(self) -> None:
        """Drop its events and acknowledgements that wait for the client."""
        parser, name = self._connection.parser, self.namespace.name
        self._connection.engine.discard(lambda message: parser.namespace(message) == name)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the whole connection, with a WebSocket close code."""
        self._connection.engine.close(code, reason)

    def write(self, messages: Messages) -> None:
        """Send a packet of this namespace, in order."""
        if self._held is None:
            self._connection.engine.send_messages(messages)
        else:
            self._hold(messages)

    def _hold(self, packet: Messages | bytes) -> None:
        """Keep a packet until its CONNECT is answered. What does not fit ends the connection, as in any outbox."""
        if self._held is not None and not self._held.add(packet):
            self.namespace.io.counters.hit("outbox_bytes")
            # Not now: `offer` changes no membership.
            asyncio.get_running_loop().call_soon(self.close, 4008, "too much waits for the answer to CONNECT")

    def waits(self, size: int) -> None:
        """A packet for it waits for its turn: so much less is read from its client."""
        self._connection.waits(size)

    def waited(self, size: int) -> None:
        """The packet has had its turn."""
        self._connection.waited(size)

    def send_event(self, event: str, arguments: tuple[Any, ...], ack: int | None = None) -> None:
        """Send an event to this socket alone, without an offset."""
        namespace = self.namespace
        messages = self._connection.parser.event(namespace.name, event, arguments, ack)
        if self._outgoing:
            self.tell_outgoing(event, arguments)
        if not self.connected:
            return
        if not namespace.lane.parcels and self._held is None and len(messages) == 1:
            self._connection.engine.send_message(messages[0])  # the common way, without a call more than it needs
        else:
            namespace.in_turn(self, messages)

    def tell_outgoing(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An event leaves: tell whoever wants to know."""
        for function in self._outgoing:
            try:
                function(event, *arguments)
            except CONTAINED:
                _log.exception("a listener of outgoing events failed", socket=self.id, event_name=event)

    # Life

    def opened(self, messages: Messages) -> None:
        """Its CONNECT is answered with these, then with what waited: in a read of its own where it would be lost."""
        engine = self._connection.engine
        engine.send_messages(messages)
        self.welcomed = True
        if self._held and not engine.takes_bundles:
            asyncio.get_running_loop().call_later(OWN_READ, self._release)
        else:
            self._release()

    def _release(self) -> None:
        """Send what waited; what is sent from now on goes out at once."""
        engine = self._connection.engine
        held, self._held = self._held, None
        if held is not None:
            held.send(engine)

    def gone(self, reason: str) -> None:
        """It is disconnected: out of its rooms, its calls settled; then `on_disconnect`, after its handlers."""
        if not self.connected:
            return
        handlers = self.namespace.handlers
        for function in handlers.disconnecting:
            self._try(function, reason)
        self.connected = False
        if self.welcomed:
            self._release()
        self._held = None
        self.namespace.remove(self, reason)
        acks, self._acks = self._acks, None
        for answered in (acks or {}).values():
            if answered is not None:
                answered([_GONE])
        if self._busy is None and not self._others:
            self._end(reason)
            return
        self._spawn(self._farewell(reason))

    def enters(self, task: asyncio.Task[None] | None) -> None:
        """A task runs `on_connect` for it; None: no more."""
        self._busy = task

    def refuse(self, reason: str = "refused") -> None:
        """It was not let in after all."""
        self.connected = False
        self._held = None
        self.namespace.remove(self, reason)

    async def _farewell(self, reason: str) -> None:
        """Run `on_disconnect` after what had come before the end."""
        grace = self.namespace.io.disconnect_grace
        if not await self._quiet(grace):
            self._cancel()
            await self._quiet(grace)  # whatever does not heed that is left to itself
        self._end(reason)

    async def _quiet(self, seconds: float) -> bool:
        """Wait until no handler runs any more; False where one still does."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while running := [task for task in (self._busy, *(self._others or ())) if task is not None]:
            if loop.time() >= until:
                return False
            await asyncio.wait(running, timeout=until - loop.time())
            await asyncio.sleep(0)  # the next one has begun
        return True

    def _cancel(self) -> None:
        """Handlers of a socket that has gone have had their time."""
        if self._queue:
            self._forget_queue()
        for task in (self._busy, *(self._others or ())):
            if task is not None:
                task.cancel()

    def _forget_queue(self) -> None:
        while self._queue:
            _, size = self._queue.popleft()
            self._connection.waited(size)

    def _end(self, reason: str) -> None:
        for function in self.namespace.handlers.disconnect:
            result = self._try(function, reason)
            if inspect.isawaitable(result):
                self._spawn(self._awaited(result, "on_disconnect"))

    def _try(self, function: Function, *arguments: Any) -> Any:
        try:
            return function(self, *arguments)
        except CONTAINED:
            self._failed(getattr(function, "__qualname__", "handler"))

    async def _awaited(self, result: Any, what: str) -> None:
        try:
            await result
        except CONTAINED:
            self._failed(what)

    # In

    def answered(self, number: int, arguments: Callable[[], list[Any]]) -> None:
        """An acknowledgement has come. It overtakes the events that wait."""
        if self._acks is not None and number in self._acks:
            values = arguments()  # first: where it raises, the call is settled with the connection
            answered = self._acks.pop(number)
            if answered is not None:
                answered(values)
        else:
            self.namespace.answered(self, number, arguments)

    def event(self, event: Event, size: int) -> None:
        """An event has come; `size` is about its bytes."""
        if self._queue is None:
            self._begin(event, size)
        elif self._concurrent(event) and not self._connection.full:
            self._beside(event, size)
        else:
            self._queue.append((event, size))
            self._connection.waits(size)

    def _begin(self, event: Event, size: int) -> None:
        """Handle an event that is next: at once, or in a task that the others wait for."""
        handlers = self.namespace.handlers
        found = handlers.events.get(event.name)
        if self._listeners is None and not handlers.any and not self._incoming:
            if found is None:
                return
            handler = found[0]
            if handler.inline and len(found) == 1:
                self._call(handler, event)
                return
        if self._concurrent(event) and not self._connection.full:
            self._beside(event, size)
            return
        self._start(self._run(event))

    def _call(self, handler: Handler, event: Event) -> None:
        """The common way: one handler, without a task."""
        try:
            arguments = handler.bind(event)
        except CONTAINED as error:
            self._unfit(event, error)
            return
        try:
            if handler.acknowledges:
                arguments = (*arguments, self._acknowledge_of(event))
            result = handler.function(self, *arguments)
            if handler.coroutine:
                result = result_of(result)
        except _FAILURES:
            self._failed(event.name, event)
            self._acknowledge(event, _INTERNAL)
            return
        if result is not None and inspect.isawaitable(result):
            self._start(self._finish(event, result, answers=not handler.acknowledges))
        else:
            if event.id is not None and not handler.acknowledges:
                self._acknowledge(event, result)
            if self.namespace.io.recovery is not None:
                self.namespace.handled(self)

    def _unfit(self, event: Event, error: BaseException) -> None:
        """Its arguments do not fit, or a check of the application's own has failed."""
        if isinstance(error, InvalidValue | InvalidPacket):
            self._invalid(event, error)
        else:
            self._failed(event.name, event)
            self._acknowledge(event, _INTERNAL)

    async def _finish(self, event: Event, result: Any, *, answers: bool) -> None:
        try:
            answer = await result
        except _FAILURES:
            self._failed(event.name, event)
            self._acknowledge(event, _INTERNAL)
        else:
            if answers:
                self._acknowledge(event, answer)
        self.namespace.handled(self)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._queue is None:
            self._queue = deque()
        self._busy = asyncio.get_running_loop().create_task(coroutine)
        self._busy.add_done_callback(self._next)

    def _next(self, task: asyncio.Task[None]) -> None:
        self._busy = None
        queue = self._queue
        assert queue is not None
        while queue and self._busy is None:
            event, size = queue.popleft()
            self._connection.waited(size)
            self._begin(event, size)
        if self._busy is None:
            self._queue = None

    def _concurrent(self, event: Event) -> bool:
        found = self.namespace.handlers.events.get(event.name)
        return found is not None and all(handler.concurrent for handler in found) and self._listeners is None

    def _beside(self, event: Event, size: int) -> None:
        """A concurrent handler. While it runs its event counts as one that waits: a client cannot begin any number."""
        connection = self._connection
        connection.waits(size)
        others = self._others = set() if self._others is None else self._others
        task = asyncio.get_running_loop().create_task(self._run(event))
        others.add(task)
        task.add_done_callback(others.discard)
        task.add_done_callback(lambda _: connection.waited(size))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """A task that outlives the socket."""
        self.namespace.io.keep(coroutine)

    async def _run(self, event: Event) -> None:
        """All handlers of an event, one after the other. The first value that is not None is the acknowledgement."""
        try:
            decoded: list[Any] = []
            if self._incoming or self.namespace.handlers.any:
                decoded = event.arguments()
            for middleware in self._incoming:
                await awaited(middleware(event.name, decoded))
        except (InvalidValue, InvalidPacket) as error:
            self._invalid(event, error)
            return
        except PartylineError as error:
            self._acknowledge(event, {"error": error.code, "message": error.message})
            return
        except _FAILURES:
            self._failed(event.name, event)
            self._acknowledge(event, _INTERNAL)
            return
        answer: Any = None
        for handler in self.namespace.handlers.any:
            try:
                await awaited(handler.function(self, event.name, *decoded))
            except _FAILURES:
                self._failed(event.name, event)
                answer = _INTERNAL
        answers = False
        for handler, leading in self._hearing(event.name):
            answers = answers or not handler.acknowledges
            try:
                arguments = handler.bind(event)
            except CONTAINED as error:
                self._unfit(event, error)
                return
            if handler.acknowledges:
                arguments = (*arguments, self._acknowledge_of(event))
            try:
                result = await awaited(handler.function(*leading, *arguments))
            except _FAILURES:
                self._failed(event.name, event)
                result, answers = _INTERNAL, True
            if answer is None:
                answer = result
        if answers:
            self._acknowledge(event, answer)
        self.namespace.handled(self)

    def _hearing(self, name: str) -> list[tuple[Handler, tuple[Any, ...]]]:
        hearing: list[tuple[Handler, tuple[Any, ...]]] = [
            (handler, (self,)) for handler in self.namespace.handlers.events.get(name, ())
        ]
        if self._listeners is not None:
            hearing += [(handler, ()) for handler in self._listeners.get(name, ())]
        return hearing

    # Answers

    def _acknowledge_of(self, event: Event) -> Acknowledge:
        """For a handler that acknowledges by itself: of us the client only hears that it failed."""

        def send(values: tuple[Any, ...]) -> None:
            home = self._connection.home
            if home.thread != get_ident() and home.call(send, tuple(frozen(values))):
                return
            number, event.id = event.id, None
            if number is not None and self.connected:
                self.namespace.in_turn(self, self.parser.ack(self.namespace.name, number, values))

        return Acknowledge(send)

    def _acknowledge(self, event: Event, result: Any) -> None:
        if event.id is None or not self.connected:
            return
        values = () if result is None else result if type(result) is tuple else (result,)
        parser = self._connection.parser
        try:
            messages = parser.ack(self.namespace.name, event.id, values)
        except InvalidValue as error:
            _log.error(
                "what a handler returned cannot be sent", socket=self.id, event_name=event.name, error=error.message
            )
            messages = parser.ack(self.namespace.name, event.id, (_INTERNAL,))
        self.namespace.in_turn(self, messages)

    def refused(self, event: Event, answer: dict[str, Any]) -> None:
        """An event was not handled, because of a limit."""
        self._acknowledge(event, answer)

    def _invalid(self, event: Event, error: InvalidValue | InvalidPacket) -> None:
        """The client's arguments do not fit: it is told, and whoever wants to know; the connection stays."""
        self._connection.invalid(self, event, error)
        self._acknowledge(event, problem(error))

    def _failed(self, what: str, event: Event | None = None) -> None:
        """A handler raised. Raises CancelledError again if it is meant for us: by the application while the socket
        is there, and then its event is answered, or by us when it has gone."""
        task, error = asyncio.current_task(), sys.exception()
        cancelled = task is not None and task.cancelling() and isinstance(error, asyncio.CancelledError)
        if not cancelled or self.connected:
            self._connection.failed()
            _log.exception("a handler failed", socket=self.id, event_name=what)
        if cancelled and error is not None:
            if event is not None:
                self._acknowledge(event, _INTERNAL)
            raise error


class Direct:
    """Events to one socket with something said about how they are sent. With rooms it becomes a `Broadcast`."""

    __slots__ = ("_seconds", "_socket", "_volatile")

    def __init__(self, socket: Socket, *, volatile: bool = False, seconds: float | None = None) -> None:
        self._socket = socket
        self._volatile = volatile
        self._seconds = seconds

    @property
    def volatile(self) -> Direct:
        """Dropped where the client cannot take it at once."""
        return Direct(self._socket, volatile=True, seconds=self._seconds)

    def timeout(self, seconds: float) -> Direct:
        """How long `call` waits."""
        return Direct(self._socket, volatile=self._volatile, seconds=seconds)

    def compress(self, wanted: bool) -> Direct:
        """As `Socket.compress`."""
        return self

    @property
    def broadcast(self) -> Broadcast:
        """Everybody else, sent in the same way."""
        others = self._socket.broadcast
        if self._volatile:
            others = others.volatile
        return others if self._seconds is None else others.timeout(self._seconds)

    def to(self, *rooms: str | Iterable[str]) -> Broadcast:
        """Those in any of the rooms, without this socket."""
        return self.broadcast.to(*rooms)

    in_ = to

    def except_(self, *rooms: str | Iterable[str]) -> Broadcast:
        """Everybody but those in any of the rooms, and but this socket."""
        return self.broadcast.except_(*rooms)

    @property
    def local(self) -> Broadcast:
        """Everybody else on this node."""
        return self.broadcast.local

    def emit(self, event: str, *arguments: Any) -> None:
        """As `Socket.emit`."""
        home = self._socket._connection.home  # noqa: SLF001 - one thing in two classes
        if home.thread != get_ident() and home.call(self.emit, *event_values(event, frozen(arguments), None)):
            return
        if not self._volatile:
            self._socket.emit(event, *arguments)
        elif self._socket.writable:
            self._socket.namespace.emit_to(self._socket, event, arguments, volatile=True)

    def send(self, *arguments: Any) -> None:
        """Send the event `message`."""
        self.emit("message", *arguments)

    async def call(self, event: str, *arguments: Any) -> Any:
        """As `Socket.call`."""
        seconds = _CALL_TIMEOUT if self._seconds is None else self._seconds
        return await self._socket.call(event, *arguments, timeout=seconds)


class _Gone:
    __slots__ = ()


_GONE: Final = _Gone()
_INTERNAL: Final = {"error": "internal"}
# What a handler may raise; it may also await something that somebody else has cancelled.
_FAILURES: Final = (*CONTAINED, asyncio.CancelledError)
