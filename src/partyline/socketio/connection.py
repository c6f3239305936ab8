"""One Engine.IO connection as Socket.IO sees it: incoming packets, its namespaces, and how much waits."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

from partyline import log
from partyline.engineio.connection import EngineConnection
from partyline.engineio.receiver import Request
from partyline.errors import CONTAINED, ConnectionRefused, InvalidPacket, InvalidValue, PartylineError, PayloadTooLarge
from partyline.interfaces import Dialect
from partyline.socketio.handshake import Handshake
from partyline.socketio.namespace import Namespace
from partyline.socketio.seams import Server
from partyline.socketio.socket import Socket
from partyline.socketio.states import SocketState, Step
from partyline.wire.engineio.handshake import POLLING
from partyline.wire.socketio.namespaces import Namespaces
from partyline.wire.socketio.packets import Ack, Connect, Disconnect, Event, Parser, Whole

if TYPE_CHECKING:
    from partyline.engineio.engine import EngineIO
    from partyline.socketio.seams import Recovering, Returning

_log = log.get("socketio")

_PARSE_ERROR = "parse error"
_REFUSED = "connection refused"
_EVENT = 256  # bytes counted for an event besides its data, so that many small ones count
_AUTHS = 16  # times the largest size, in all namespaces of a connection
# How connections end when the server stops.
_OURS = ("transport close", "forced close")


class Admits(Server, Protocol):
    """What connections need of their server."""

    connect_timeout: float
    connections: set[Multiplexer]
    max_attachments: int
    max_auth_bytes: int
    max_pending_bytes: int
    max_pending_events: int
    namespaces_per_connection: int
    skip_middlewares: bool

    @property
    def engine(self) -> EngineIO: ...

    @property
    def _recovery(self) -> Recovering | None: ...

    def _dialect(self, protocol: int, *, recovery: bool) -> Dialect: ...

    async def _find(self, name: str, auth: dict[str, Any] | None) -> Namespace | None: ...

    def _new_id(self) -> str: ...


class Multiplexer:
    """An `engineio.Receiver`; until it is in a namespace, also a `hub.timers.Timed`."""

    __slots__ = (
        "_admitting",
        "_entering",
        "_handshake",
        "_held",
        "_io",
        "_namespaces",
        "_partial",
        "_reader",
        "_sockets",
        "_waiting",
        "_waiting_bytes",
        "calls",
        "engine",
        "home",
        "parser",
        "timer_slot",
    )

    def __init__(self, io: Admits, engine: EngineConnection, request: Request) -> None:
        self.engine = engine
        self.home = io._home
        self.parser: Parser = io.parser
        self.calls = 0  # our calls that wait for an acknowledgement
        self.timer_slot = 0
        self._io = io
        self._handshake = Handshake(request, time.time())
        self._reader = io.parser.reader(
            engine.protocol + 1, max_attachments=io.max_attachments, max_total=io.engine.max_payload
        )
        self._namespaces = Namespaces(
            io.engine.site.timers.now(), connect_timeout=io.connect_timeout, most=io.namespaces_per_connection
        )
        self._partial = 0  # bytes of a packet whose attachments are incomplete
        self._sockets: dict[str, Socket] = {}  # by namespace
        self._entering: dict[str, Socket] | None = None  # those whose CONNECT is not answered yet
        self._admitting: dict[str, asyncio.Task[None]] | None = None
        self._waiting = 0  # events that wait for a handler, and their bytes
        self._waiting_bytes = 0
        self._held = False  # reading is paused

    @property
    def protocol(self) -> int:
        """The version of Socket.IO: 5 or 4."""
        return self.engine.protocol + 1

    @property
    def writable(self) -> bool:
        """Whether an event would leave at once."""
        return self.engine.writable

    def dialect(self, namespace: Namespace) -> Dialect:
        """How events of a namespace are written for it. Protocol 4 knows no recovery."""
        return self._io._dialect(self.engine.protocol, recovery=namespace._event_log is not None and self.protocol == 5)

    # engineio.Receiver

    def connected(self) -> None:
        self._io.engine.site.timers.set(self, self._namespaces.next_deadline())
        if self.protocol == 4:  # its clients enter the main namespace without asking
            self._namespaces.ask("/")
            self._admit(Connect("/", None), 0)

    def message(self, data: str | bytes) -> None:
        try:
            packet = self._reader.receive(data, self._wanted)
        except (InvalidPacket, PayloadTooLarge) as error:
            self._broken(error)
            return
        if packet is None:
            self._partial += len(data)
            return
        if type(packet) is Event:
            socket = self._sockets.get(packet.namespace)
            if socket is not None:
                size, self._partial = len(data) + self._partial + _EVENT, 0
                socket._event(packet, size)
                return
        self._partial = 0
        if type(packet) is Ack:
            socket = self._sockets.get(packet.namespace)
            if socket is not None:
                self._acknowledged(socket, packet)
                return
        try:
            if not self._namespaces.receive(packet):
                return
        except InvalidPacket as error:
            self._broken(error)
            return
        if isinstance(packet, Connect):
            self._admit(packet, len(data))
        elif isinstance(packet, Disconnect):
            socket = self._sockets.pop(packet.namespace, None)
            if socket is not None:
                socket._gone("client namespace disconnect")

    def _wanted(self, namespace: str, name: str) -> Whole | None:
        """The reader for an event that exactly one handler hears now. One that waits stays encoded: values take many
        times as much memory as their JSON."""
        socket = self._sockets.get(namespace)
        if socket is None or socket._queue is not None or socket._listeners is not None or socket._incoming:
            return None
        handlers = socket.namespace._handlers
        found = handlers.events.get(name)
        return found[0].whole if found is not None and len(found) == 1 and not handlers.any else None

    def _acknowledged(self, socket: Socket, packet: Ack) -> None:
        try:
            socket._answered(packet.id, packet.arguments)
        except InvalidPacket as error:
            self._broken(error)

    def alive(self) -> None:
        """A heartbeat was answered."""
        recovery = self._io._recovery
        if recovery is not None:
            for socket in self._sockets.values():
                recovery.heard(socket)

    def refused(self, error: PartylineError, data: str | bytes) -> None:
        """Too many events: the acknowledgement says so. Packets that are not events must not get lost."""
        try:
            packet = self._reader.receive(data)
        except (InvalidPacket, PayloadTooLarge) as broken:
            self._broken(broken)
            return
        socket = None if packet is None else self._sockets.get(packet.namespace)
        if not isinstance(packet, Event):
            if isinstance(packet, Ack) and socket is not None and socket.connected:
                self._acknowledged(socket, packet)
            elif isinstance(packet, Connect | Disconnect):
                self.message(data)
            return
        if socket is not None and socket.connected:
            socket._refused(packet, {"error": error.code, "message": error.message})

    def disconnected(self, reason: str) -> None:
        site = self._io.engine.site
        site.timers.cancel(self)
        self._io.connections.discard(self)
        for name, task in tuple((self._admitting or {}).items()):
            if name not in (self._entering or {}):  # on_connect has time to end, like any handler
                task.cancel()
        self._all_gone("server shutting down" if site.draining and reason in _OURS else reason)

    def _all_gone(self, reason: str) -> None:
        sockets = [*self._sockets.values(), *(self._entering or {}).values()]
        self._sockets, self._entering = {}, None
        for socket in sockets:
            socket._gone(reason)

    # Time

    def on_deadline(self, now: float) -> None:
        if self._namespaces.on_deadline(now):
            self._io.counters.hit("connect_timeout")
            self.engine.close(1000, "no CONNECT in time")

    # Into a namespace

    def _admit(self, packet: Connect, size: int) -> None:
        """Let a client in, in this turn; if something on the way awaits, a task does the rest."""
        if self._is_too_much(size):
            self._io.counters.hit("max_auth_bytes")
            self._refuse(
                packet.namespace,
                f"auth is larger than {self._io.max_auth_bytes} bytes (max_auth_bytes)",
                {"code": "too_large"},
            )
            return
        entering = self._enter(packet, size)
        try:
            entering.send(None)  # up to the `sleep(0)` that precedes any await
        except StopIteration:
            return
        name = packet.namespace
        task = asyncio.get_running_loop().create_task(entering)
        admitting = self._admitting = {} if self._admitting is None else self._admitting
        admitting[name] = task
        task.add_done_callback(lambda _: admitting.pop(name) if admitting.get(name) is task else None)
        socket = (self._entering or {}).get(name)
        if socket is not None:
            socket._enters(task)

    def _is_too_much(self, size: int) -> bool:
        """Whether a CONNECT is too large, or all that are held here would be together."""
        most: int = self._io.max_auth_bytes
        held = [socket.handshake._size for socket in (*self._sockets.values(), *(self._entering or {}).values())]
        return size > most or size + sum(held) > _AUTHS * most

    async def _enter(self, packet: Connect, size: int) -> None:
        name = packet.namespace
        namespace: Namespace | None = None
        socket: Socket | None = None
        try:
            namespace = await self._io._find(name, packet.auth)
            if namespace is None:
                self._refuse(name, "Invalid namespace")
                return
            namespace._entering += 1
            handshake = self._handshake._of(packet.auth, size)
            recovery = self._io._recovery if namespace._event_log is not None and self.protocol == 5 else None
            restored = None
            if recovery is not None and "pid" in handshake.auth:
                await asyncio.sleep(0)
                restored = await recovery.restore(namespace, handshake.auth)
            socket = Socket(namespace, self, self._io._new_id() if restored is None else restored.row.sid, handshake)
            if restored is not None:
                socket.data, socket.recovered = dict(restored.row.data), True
            if restored is None or not restored.proven or not self._io.skip_middlewares:
                await self._pass_middlewares(namespace, socket, restored)
            if recovery is not None:
                await self._begin_session(recovery, socket, restored)
            else:
                namespace._add(socket)
            if not self.engine.is_open:
                socket._refuse("transport close")
                return
            entering = self._entering = {} if self._entering is None else self._entering
            entering[name] = socket
            socket._enters((self._admitting or {}).get(name))
            try:
                for handler in namespace._handlers.connect:
                    _admitted(await handler.step(socket, *handler.value(handshake.auth)))
            finally:
                socket._enters(None)
        except ConnectionRefused as refusal:
            self._turn_away(name, socket, refusal.message, refusal.data)
        except ConnectionRefusedError as refusal:
            if isinstance(refusal.errno, int):  # a network error: its text is not for clients
                self._not_let_in(name, socket)
            else:
                message, data = (*refusal.args, None, None)[:2]
                self._turn_away(name, socket, _REFUSED if message is None else str(message), data)
        except InvalidValue as error:
            self._turn_away(name, socket, error.message, {"code": error.code})
        except asyncio.CancelledError:
            self._turn_away(name, socket, "disconnected", None)
            raise
        except CONTAINED:
            self._not_let_in(name, socket)
        else:
            self._welcome(name, socket)
        finally:
            if namespace is not None:
                namespace._entering -= 1
                namespace._vanish()

    def _not_let_in(self, name: str, socket: Socket | None) -> None:
        """Middleware, handlers or the server raised while a client was let in."""
        self.failed()
        _log.exception("a client could not be let in", namespace=name, socket=None if socket is None else socket.id)
        self._turn_away(name, socket, "internal error", {"code": "internal"})

    async def _pass_middlewares(self, namespace: Namespace, socket: Socket, restored: Returning | None) -> None:
        try:
            for middleware in namespace._handlers.middlewares:
                _admitted(await middleware.step(socket))
        except BaseException:
            if restored is not None and self._io._recovery is not None:
                self._io._recovery.put_back(restored)
            raise

    async def _begin_session(self, recovery: Recovering, socket: Socket, restored: Returning | None) -> None:
        """Enter the namespace, as a restored session or a new one."""
        if restored is not None and await recovery.replay(restored, socket, self):
            socket._pid = socket.handshake.auth["pid"]
            recovery.entered(socket, restored.after)
            return
        if restored is not None:  # retention has pruned what it missed: it comes as a new one
            socket.id, socket.data, socket.recovered = self._io._new_id(), {}, False
            if restored.proven and self._io.skip_middlewares:
                await self._pass_middlewares(socket.namespace, socket, None)
        socket._pid = self._io._new_id()
        socket.namespace._add(socket)
        recovery.entered(socket, recovery.start())

    def _welcome(self, name: str, socket: Socket) -> None:
        (self._entering or {}).pop(name, None)
        if not self.engine.is_open:
            socket._gone("transport close")
            return
        if not socket.connected or not self._namespaces.accept(name):
            return
        self._sockets[name] = socket
        self.engine.known()
        timers = self._io.engine.site.timers
        timers.cancel(self)
        sid = socket.id if self.protocol == 5 else None
        state = socket._state
        socket._opened(self.parser.connect(name, sid, socket._pid))
        if state is not SocketState.ENTERING:
            self.disconnect(socket, close=state is SocketState.DOOMED_WHOLE)

    def _refuse(self, name: str, message: str, data: Any = None) -> None:
        if self._namespaces.refuse(name):
            try:
                messages = self.parser.connect_error(name, message, data, protocol=self.protocol)
            except InvalidValue:
                messages = self.parser.connect_error(name, message, protocol=self.protocol)
            self.engine.send_messages(messages)

    def _turn_away(self, name: str, socket: Socket | None, message: str, data: Any) -> None:
        self._refuse(name, message, data)
        if socket is not None and socket.connected:
            (self._entering or {}).pop(name, None)
            socket._refuse()

    def disconnect(self, socket: Socket, *, close: bool) -> None:
        """Disconnect a socket, or with `close` the whole connection, after everything that was sent to it."""
        if not socket.connected:
            return
        if self._sockets.get(socket.namespace.name) is not socket:
            socket._doom(close=close)
        elif close:
            self._close_behind(tuple(self._sockets.values()))
        else:
            self._drop(socket)

    def _drop(self, socket: Socket) -> None:
        name = socket.namespace.name
        del self._sockets[name]
        if self._namespaces.drop(name):
            socket.namespace._in_turn(socket, self.parser.disconnect(name), must=True)
        socket._gone("server namespace disconnect", Step.DISCONNECT)

    def _close_behind(self, sockets: tuple[Socket, ...]) -> None:
        """Disconnect all; the connection ends when nothing for them waits for the log."""
        for socket in sockets:
            self._drop(socket)
        waiting = len(sockets)

        def released() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting <= 0:
                self.engine.close()

        for socket in sockets:
            socket.namespace._after(released)
        if not sockets:
            released()

    def _broken(self, error: PartylineError) -> None:
        """The peer sent an invalid packet: the connection ends, and its sockets hear why."""
        _log.debug("an invalid packet", error=error.message)
        if error.limit is not None:
            self._io.counters.hit(error.limit)
        self._all_gone(_PARSE_ERROR)
        self.engine.close(error.close_code, error.message[:100])

    # How much waits

    def waits(self, size: int) -> None:
        """One more event waits for its handler, or has a concurrent one."""
        self._waiting += 1
        self._waiting_bytes += size
        self.look()

    def waited(self, size: int) -> None:
        """An event has its turn, or its concurrent handler is done."""
        self._waiting -= 1
        self._waiting_bytes -= size
        if self._held:
            self.look()

    @property
    def full(self) -> bool:
        """Whether no more events may wait."""
        return self._waiting >= self._io.max_pending_events

    def look(self) -> None:
        """Pause or resume reading. While we wait for the client's answer, or if it polls, we read on up to the limit in
        bytes (limits.md)."""
        if not self.engine.is_open:
            return
        io = self._io
        full = self._waiting >= io.max_pending_events
        over = self._waiting_bytes > io.max_pending_bytes
        if over and (self.calls or self.engine.transport == POLLING):
            io.counters.hit("max_pending_bytes")
            self.engine.close(4008, "too many events wait")
        elif self._held:
            if self.calls or (self._waiting <= io.max_pending_events // 2 and not over):
                self._held = False
                self.engine.release()
        elif (full or over) and not self.calls:
            self._held = True
            io.counters.hit("max_pending_events" if full else "max_pending_bytes")
            self.engine.hold()

    # Trouble

    def failed(self) -> None:
        """A handler raised."""
        self._io.counters.errors += 1

    def invalid(self, socket: Socket, event: Event, error: InvalidValue | InvalidPacket) -> None:
        """An event's arguments fitted no handler."""
        self._io.counters.hit("invalid_arguments")
        for function in socket.namespace._handlers.invalid:
            try:
                function(socket, event.name, error)
            except CONTAINED:
                self.failed()
                _log.exception("on_invalid failed", socket=socket.id, event_name=event.name)


def _admitted(answer: object) -> None:
    """A middleware or `on_connect` that returns False refuses, as in python-socketio. Raises ConnectionRefused."""
    if answer is False:
        raise ConnectionRefused(_REFUSED)
