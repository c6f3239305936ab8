"""One Engine.IO connection as Socket.IO sees it: packets in, the namespaces it is in, and how much of it waits."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from partyline import log
from partyline.engineio.connection import Connection as Engine
from partyline.engineio.connection import Handshake as Request
from partyline.errors import ConnectionRefused, InvalidPacket, InvalidValue, PartylineError, PayloadTooLarge
from partyline.interfaces import Dialect
from partyline.socketio.handlers import awaited, result_of
from partyline.socketio.handshake import Handshake
from partyline.socketio.namespace import Namespace
from partyline.socketio.socket import Socket
from partyline.wire.socketio.namespaces import Namespaces
from partyline.wire.socketio.packets import Ack, Connect, Disconnect, Event, Parser

if TYPE_CHECKING:
    from partyline.socketio.recovery import Recovery, Restored
    from partyline.socketio.server import SocketIO

_log = log.get("socketio")

_PARSE_ERROR = "parse error"


class Connection:
    """An `engineio.Receiver`, and `hub.timers.Timed` until it is in a namespace."""

    __slots__ = (
        "_admitting",
        "_entering",
        "_handshake",
        "_held",
        "_io",
        "_namespaces",
        "_reader",
        "_sockets",
        "_waiting",
        "_waiting_bytes",
        "calls",
        "engine",
        "parser",
        "timer_slot",
    )

    def __init__(self, io: SocketIO, engine: Engine, request: Request) -> None:
        self.engine = engine
        self.parser: Parser = io.parser
        self.calls = 0  # of ours, that wait for an acknowledgement
        self.timer_slot = 0
        self._io = io
        self._handshake = Handshake(request, time.time())
        self._reader = io.parser.reader(
            engine.protocol + 1, max_attachments=io.max_attachments, max_total=io.engine.max_payload
        )
        self._namespaces = Namespaces(
            io.engine.site.timers.now(), connect_timeout=io.connect_timeout, most=io.namespaces_per_connection
        )
        self._sockets: dict[str, Socket] = {}  # by namespace
        self._entering: dict[str, Socket] | None = None  # whose CONNECT is not answered yet
        self._admitting: dict[str, asyncio.Task[None]] | None = None
        self._waiting = 0  # events that wait for a handler, and their bytes
        self._waiting_bytes = 0
        self._held = False  # we do not read from it

    @property
    def protocol(self) -> int:
        """The version of Socket.IO: 5 or 4."""
        return self.engine.protocol + 1

    @property
    def writable(self) -> bool:
        """Whether an event would leave at once."""
        return self.engine.writable

    def dialect(self, namespace: Namespace) -> Dialect:
        """How events of a namespace are written for it."""
        return self._io.dialect(self.engine.protocol, recovery=namespace.log is not None)

    # engineio.Receiver

    def connected(self) -> None:
        self._io.engine.site.timers.set(self, self._namespaces.next_deadline())
        if self.protocol == 4:  # its clients are in the main namespace without asking
            self._namespaces.ask("/")
            self._admit(Connect("/", None))

    def message(self, data: str | bytes) -> None:
        try:
            packet = self._reader.receive(data)
        except (InvalidPacket, PayloadTooLarge) as error:
            self._broken(error)
            return
        if packet is None:
            return
        if type(packet) is Event:
            socket = self._sockets.get(packet.namespace)
            if socket is not None:
                socket.event(packet, len(data))
                return
        elif type(packet) is Ack:
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
            self._admit(packet)
        elif isinstance(packet, Disconnect):
            socket = self._sockets.pop(packet.namespace, None)
            if socket is not None:
                socket.gone("client namespace disconnect")

    def _acknowledged(self, socket: Socket, packet: Ack) -> None:
        try:
            socket.answered(packet.id, packet.arguments)
        except InvalidPacket as error:
            self._broken(error)

    def alive(self) -> None:
        """A heartbeat was answered."""
        recovery = self._io.recovery
        if recovery is not None:
            for socket in self._sockets.values():
                recovery.heard(socket)

    def refused(self, error: PartylineError, data: str | bytes) -> None:
        """Too many events: the acknowledgement says so. What belongs to other packets must not get lost."""
        try:
            packet = self._reader.receive(data)
        except (InvalidPacket, PayloadTooLarge) as broken:
            self._broken(broken)
            return
        socket = None if packet is None else self._sockets.get(packet.namespace)
        if not isinstance(packet, Event):
            if isinstance(packet, Ack) and socket is not None and socket.connected:
                self._acknowledged(socket, packet)
            elif isinstance(packet, Disconnect):
                self.message(data)
            return
        if socket is not None and socket.connected:
            socket.refused(packet, {"error": error.code, "message": error.message})

    def disconnected(self, reason: str) -> None:
        self._io.engine.site.timers.cancel(self)
        self._io.connections.discard(self)
        for task in tuple((self._admitting or {}).values()):
            task.cancel()
        self._all_gone(reason)

    def _all_gone(self, reason: str) -> None:
        sockets = [*self._sockets.values(), *(self._entering or {}).values()]
        self._sockets, self._entering = {}, None
        for socket in sockets:
            socket.gone(reason)

    # Time

    def on_deadline(self, now: float) -> None:
        if self._namespaces.on_deadline(now):
            self._io.counters.hit("connect_timeout")
            self.engine.close(1000, "no CONNECT in time")

    # Into a namespace

    def _admit(self, packet: Connect) -> None:
        if self._io.admits_at_once(packet.namespace, packet.auth):
            result_of(self._enter(packet))
            return
        admitting = self._admitting = {} if self._admitting is None else self._admitting
        task = admitting[packet.namespace] = asyncio.get_running_loop().create_task(self._enter(packet))
        task.add_done_callback(lambda _: admitting.pop(packet.namespace, None))

    async def _enter(self, packet: Connect) -> None:
        name, socket = packet.namespace, None
        try:
            namespace = await self._io.find(name, packet.auth)
            if namespace is None:
                self._refuse(name, "Invalid namespace")
                return
            handshake = self._handshake.of(packet.auth)
            recovery = None if namespace.log is None else self._io.recovery
            restored = None
            if recovery is not None and "pid" in handshake.auth:
                restored = await recovery.restore(namespace, handshake.auth)
            socket = Socket(namespace, self, self._io.new_id() if restored is None else restored.row.sid, handshake)
            if restored is not None:
                socket.data, socket.recovered = dict(restored.row.data), True
            if restored is None or not self._io.skip_middlewares:
                await self._pass_middlewares(namespace, socket, restored)
            if recovery is not None:
                await self._begin_session(recovery, socket, restored)
            else:
                namespace.add(socket)
            entering = self._entering = {} if self._entering is None else self._entering
            entering[name] = socket
            if not self.engine.is_open:
                return
            for handler in namespace.handlers.connect:
                await awaited(handler.function(socket, *handler.value(handshake.auth)))
        except ConnectionRefused as refusal:
            self._turn_away(name, socket, refusal.message, refusal.data)
        except InvalidValue as error:
            self._turn_away(name, socket, error.message, {"code": error.code})
        except asyncio.CancelledError:
            self._turn_away(name, socket, "disconnected", None)
            raise
        except Exception:
            self.failed()
            _log.exception("a client could not be let in", namespace=name)
            self._turn_away(name, socket, "internal error", {"code": "internal"})
        else:
            self._welcome(name, socket)

    async def _pass_middlewares(self, namespace: Namespace, socket: Socket, restored: Restored | None) -> None:
        try:
            for middleware in namespace.handlers.middlewares:
                await awaited(middleware.function(socket))
        except BaseException:
            if restored is not None and self._io.recovery is not None:
                self._io.recovery.put_back(restored)
            raise

    async def _begin_session(self, recovery: Recovery, socket: Socket, restored: Restored | None) -> None:
        """Into the namespace: as the session it was, or as a new one."""
        if restored is not None and await recovery.replay(restored, socket, self):
            socket.pid = socket.handshake.auth["pid"]
            recovery.entered(socket, restored.after)
            return
        if restored is not None:  # retention has taken what was missed
            socket.id, socket.data, socket.recovered = self._io.new_id(), {}, False
        socket.pid = self._io.new_id()
        socket.namespace.add(socket)
        recovery.entered(socket, recovery.start())

    def _welcome(self, name: str, socket: Socket) -> None:
        (self._entering or {}).pop(name, None)
        if not self.engine.is_open:
            socket.gone("transport close")
            return
        if not socket.connected or not self._namespaces.accept(name):
            return
        self._sockets[name] = socket
        timers = self._io.engine.site.timers
        timers.cancel(self)
        sid = socket.id if self.protocol == 5 else None
        socket.opened(self.parser.connect(name, sid, socket.pid))
        if socket.doomed is not None:
            self.disconnect(socket, close=socket.doomed)

    def _refuse(self, name: str, message: str, data: Any = None) -> None:
        if self._namespaces.refuse(name):
            try:
                messages = self.parser.connect_error(name, message, data, protocol=self.protocol)
            except InvalidValue:
                messages = self.parser.connect_error(name, message, protocol=self.protocol)
            self.engine.send_messages(messages)

    def _turn_away(self, name: str, socket: Socket | None, message: str, data: Any) -> None:
        self._refuse(name, message, data)
        if socket is not None and self._entering is not None and self._entering.get(name) is socket:
            del self._entering[name]
            socket.refuse()

    def disconnect(self, socket: Socket, *, close: bool) -> None:
        """We disconnect a socket, or with `close` the whole connection."""
        name = socket.namespace.name
        if (self._entering or {}).get(name) is socket:
            socket.doomed = close or bool(socket.doomed)  # once its CONNECT is answered
        elif close:
            for other in tuple(self._sockets.values()):
                self.disconnect(other, close=False)
            self.engine.close()
        elif self._sockets.get(name) is socket:
            del self._sockets[name]
            if self._namespaces.drop(name):
                socket.namespace.in_turn(socket, self.parser.disconnect(name))
            socket.gone("server namespace disconnect")

    def _broken(self, error: PartylineError) -> None:
        """A packet that is none: the connection ends, and its sockets hear why."""
        _log.debug("an invalid packet", error=error.message)
        if error.limit is not None:
            self._io.counters.hit(error.limit)
        self._all_gone(_PARSE_ERROR)
        self.engine.close(error.close_code, error.message[:100])

    # How much waits

    def waits(self, size: int) -> None:
        """One more event waits for its handler."""
        self._waiting += 1
        self._waiting_bytes += size
        self.look()

    def waited(self, size: int) -> None:
        """It has its turn."""
        self._waiting -= 1
        self._waiting_bytes -= size
        if self._held:
            self.look()

    def look(self) -> None:
        """Stop or go on reading. While we wait for its answer we read on, as far as the bytes go (limits.md)."""
        io = self._io
        full = self._waiting >= io.max_pending_events
        over = self._waiting_bytes > io.max_pending_bytes
        if over and self.calls:
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
        """Arguments fitted no handler."""
        self._io.counters.hit("invalid_arguments")
        for function in socket.namespace.handlers.invalid:
            try:
                function(socket, event.name, error)
            except Exception:
                self.failed()
                _log.exception("on_invalid failed", socket=socket.id, event_name=event.name)
