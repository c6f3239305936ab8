"""One client in one namespace, as the application holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from partyline import log
from partyline.errors import CONTAINED, CallTimeout, PeerGone
from partyline.hub.outbox import end_slow
from partyline.models import Audience, Payload
from partyline.server.writing import OWN_READ
from partyline.socketio.acks import Answered, one
from partyline.socketio.broadcast import Broadcast, names
from partyline.socketio.direct import CALL_TIMEOUT, Besides, Direct
from partyline.socketio.handling import Handling
from partyline.socketio.held import Held
from partyline.socketio.states import ANSWERED, OVER, TRANSITIONS, SocketState, Step
from partyline.wire.socketio.packets import Messages, Parser, event_values
from partyline.wire.socketio.values import frozen

if TYPE_CHECKING:
    from partyline.engineio.connection import EngineConnection
    from partyline.interfaces import Dialect
    from partyline.socketio.handshake import Handshake
    from partyline.socketio.namespace import Namespace
    from partyline.socketio.seams import Carrying

_log = log.get("socketio")


class Socket(Handling, Besides):
    """A client in a namespace, handed to every handler.

    `id` names it in public (it opens nothing); `data` is the application's; `handshake` is the request and auth that it
    came with; `recovered` says that it continues a session. `rooms`, its own `id` among them, is read-only. In rooms it
    is an `interfaces.Member`.
    """

    __slots__ = (
        "_acks",
        "_held",
        "_pid",
        "data",
        "dialect",
        "handshake",
        "recovered",
        "rooms",
        "user",
    )

    namespace: Namespace
    dialect: Dialect
    rooms: tuple[str, ...] | set[str]

    def __init__(self, namespace: Namespace, connection: Carrying, id: str, handshake: Handshake) -> None:  # noqa: A002
        super().__init__()
        self.namespace = namespace
        self.id = id
        self._state = SocketState.ENTERING
        self.handshake = handshake
        self.data: dict[str, Any] = {}
        self.recovered = False
        self._pid: str | None = None  # its client may come back with it; a credential
        self.user: str | None = None
        self.rooms = ()
        self.dialect = connection.dialect(namespace)
        self._connection = connection
        self._held: Held | None = Held(namespace.io._outbox_bytes)  # until its CONNECT is answered
        self._acks: dict[int, Answered] | None = None

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
        if self.namespace._event_log is not None:
            self.namespace._emit_to(self, event, arguments)
        else:
            self._send_event(event, arguments)

    def send(self, *arguments: Any) -> None:
        """Send the event `message`."""
        self.emit("message", *arguments)

    async def call(self, event: str, *arguments: Any, timeout: float = CALL_TIMEOUT) -> Any:  # noqa: ASYNC109
        """Send an event and await its acknowledgement: its only value, otherwise a tuple of all, `()` if it has none.

        Raises CallTimeout after `timeout` seconds, PeerGone if the socket is disconnected. If cancelled, a late answer
        is dropped.
        """
        home = self._connection.home
        if home.thread not in (0, get_ident()):
            return await home.wait(self.call(event, *arguments, timeout=timeout))
        if self._state in OVER:
            raise PeerGone("the socket is disconnected")
        if self._state not in ANSWERED:
            raise PeerGone("the client cannot answer before it is connected: call it when on_connect has returned")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(values: list[Any]) -> None:
            if not answer.done():
                answer.set_result(one(values))

        number = self.namespace._next_ack()
        acks = self._acks = {} if self._acks is None else self._acks
        acks[number] = answered
        self._asked(1)
        try:
            self._send_event(event, arguments, number)
            async with asyncio.timeout(timeout):
                values = await answer
        except TimeoutError:
            raise CallTimeout(f"{event}: no acknowledgement within {timeout:g} s") from None
        finally:
            acks.pop(number, None)
            self._asked(-1)
        if values is _GONE:
            raise PeerGone(f"{event}: the socket was disconnected before it answered")
        return values

    def _answered(self, number: int, arguments: Callable[[], list[Any]]) -> None:
        """An acknowledgement has come. It overtakes the events that wait."""
        if self._acks is not None and number in self._acks:
            values = arguments()  # first: if it raises, the call is settled when the connection ends
            self._acks.pop(number)(values)
        else:
            self.namespace._answered(self, number, arguments)

    def _asked(self, more: int) -> None:
        """We wait for `more` more of its answers: meanwhile reading goes on."""
        self._connection.calls += more
        self._connection.look()

    @property
    def volatile(self) -> Direct:
        """Events that are dropped if the client cannot take them at once."""
        return Direct(self, self.namespace, volatile=True)

    def timeout(self, seconds: float) -> Direct:
        """How long `call` waits."""
        return Direct(self, self.namespace, seconds=seconds)

    def compress(self, wanted: bool) -> Direct:
        """Socket.IO's operator. It changes nothing: the settings decide what is compressed."""
        return Direct(self, self.namespace)

    # Others

    @property
    def broadcast(self) -> Broadcast:
        """Everybody in the namespace but this socket."""
        return Broadcast(self.namespace, Audience(besides=self.id))

    # Rooms

    def join(self, *rooms: str | Iterable[str]) -> None:
        """Join rooms. Nothing happens once it is disconnected. Raises InvalidValue beyond `rooms_per_connection`."""
        home = self._connection.home
        if home.thread == get_ident() or not home.call(self.namespace._join, self, names(rooms)):
            self.namespace._join(self, names(rooms))

    def leave(self, *rooms: str | Iterable[str]) -> None:
        """Leave rooms; those it is not in are ignored."""
        home = self._connection.home
        if home.thread == get_ident() or not home.call(self.namespace._leave, self, names(rooms)):
            self.namespace._leave(self, names(rooms))

    def disconnect(self, close: bool = False) -> None:
        """Disconnect it from the namespace; `close` ends the whole connection, with all its namespaces."""
        home = self._connection.home
        if home.thread == get_ident() or not home.call(self.disconnect, close):
            self._connection.disconnect(self, close=close)

    # Its connection

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
        """Drop the events and acknowledgements that wait for the client."""
        parser, name = self._connection.parser, self.namespace.name
        self._connection.engine.discard(lambda message: parser.namespace(message) == name)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the whole connection, with a WebSocket close code."""
        self._connection.engine.close(code, reason)

    def _write(self, messages: Messages) -> None:
        """Send a packet of this namespace, in order."""
        if self._held is None:
            self._connection.engine.send_messages(messages)
        else:
            self._hold(messages)

    def _hold(self, packet: Messages | bytes) -> None:
        """Keep a packet until its CONNECT is answered. One that does not fit ends the connection, as in any outbox."""
        if self._held is not None and not self._held.add(packet):
            reason = "too much waits for the answer to CONNECT"
            # Not now: `offer` changes no membership.
            asyncio.get_running_loop().call_soon(end_slow, self, self.namespace.io.counters, reason)

    def _waits(self, size: int) -> None:
        """A packet of `size` bytes waits for its turn: that much less is read from its client."""
        self._connection.waits(size)

    def _waited(self, size: int) -> None:
        """The packet has had its turn."""
        self._connection.waited(size)

    def _send_event(self, event: str, arguments: tuple[Any, ...], ack: int | None = None) -> None:
        """Send an event to this socket alone, without an offset."""
        namespace = self.namespace
        messages = self._connection.parser.event(namespace.name, event, arguments, ack)
        if self._outgoing:
            self._tell_outgoing(event, arguments)
        if self._state in OVER:
            return
        if not namespace._lane.parcels and self._held is None and len(messages) == 1:
            self._connection.engine.send_message(messages[0])  # the common case, without an extra call
        else:
            namespace._in_turn(self, messages)

    def _tell_outgoing(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An event leaves: call the listeners of outgoing events."""
        for function in self._outgoing:
            try:
                function(event, *arguments)
            except CONTAINED:
                _log.exception("a listener of outgoing events failed", socket=self.id, event_name=event)

    # Life

    @property
    def connected(self) -> bool:
        """Whether it is in its namespace, or on its way in."""
        return self._state not in OVER

    @property
    def _welcomed(self) -> bool:
        """Whether its CONNECT is answered."""
        return self._state in ANSWERED

    @property
    def _reachable(self) -> bool:
        """Whether parcels that have waited for the log are still for it."""
        return self._state is not SocketState.GONE

    def _step(self, step: Step) -> None:
        self._state = TRANSITIONS.get((self._state, step), self._state)

    def _opened(self, messages: Messages) -> None:
        """Answer its CONNECT with these, then with what waited, in a read of its own if it would be lost otherwise."""
        engine = self._connection.engine
        engine.send_messages(messages)
        self._step(Step.WELCOME)
        if self._held and not engine.takes_bundles:
            asyncio.get_running_loop().call_later(OWN_READ, self._release)
        else:
            self._release()

    def _release(self) -> None:
        """Send what waited; from now on packets go out at once."""
        engine = self._connection.engine
        held, self._held = self._held, None
        if held is not None:
            held.send(engine)

    def _doom(self, *, close: bool) -> None:
        """Disconnect it, or with `close` the whole connection, once its CONNECT is answered."""
        if self._state not in ANSWERED:
            self._step(Step.CLOSE if close else Step.DISCONNECT)

    def _gone(self, reason: str, step: Step = Step.LOST) -> None:
        """It is disconnected: it leaves its rooms, its calls are settled, and `on_disconnect` follows its handlers."""
        if self._state in OVER:
            return
        handlers = self.namespace._handlers
        for function in handlers.disconnecting:
            self._try(function, reason)
        if self._state in ANSWERED:
            self._release()
        self._step(step)
        self._held = None
        self.namespace._remove(self, reason)
        acks, self._acks = self._acks, None
        for answered in (acks or {}).values():
            answered([_GONE])
        if self._busy is None and not self._others:
            self._end(reason)
            return
        self._spawn(self._farewell(reason))

    def _enters(self, task: asyncio.Task[None] | None) -> None:
        """A task runs `on_connect` for it; None: no longer."""
        self._busy = task

    def _refuse(self, reason: str = "refused") -> None:
        """It was not let in after all."""
        self._step(Step.LOST)
        self._held = None
        self.namespace._remove(self, reason)


class _Gone:
    __slots__ = ()


_GONE: Final = _Gone()
