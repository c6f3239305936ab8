"""The protocols between the parts of Socket.IO: each names what a file needs of those above it, and no more."""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Iterable
from typing import Any, Protocol

from partyline.engineio.connection import EngineConnection
from partyline.errors import InvalidPacket, InvalidValue
from partyline.hub.delivery import Delivery, Lane
from partyline.interfaces import Dialect
from partyline.interfaces import Member as AnyMember
from partyline.metrics import Counters
from partyline.models import Audience
from partyline.server.home import Home
from partyline.socketio.acks import Gathering
from partyline.socketio.handlers import Handlers
from partyline.socketio.handshake import Handshake
from partyline.wire.cluster.messages import Request
from partyline.wire.socketio.attachments import Body
from partyline.wire.socketio.packets import Event, Messages, Parser


class Member(AnyMember, Protocol):
    """What rooms, delivery and the log need of a socket."""

    id: str
    data: dict[str, Any]
    handshake: Handshake
    _pid: str | None

    @property
    def connected(self) -> bool:
        """Whether it is in its namespace, or on its way in."""
        ...

    @property
    def _welcomed(self) -> bool:
        """Whether its CONNECT is answered."""
        ...

    def emit(self, event: str, *arguments: Any) -> None:
        """Send it an event."""
        ...

    async def call(self, event: str, *arguments: Any, timeout: float = 10.0) -> Any:  # noqa: ASYNC109
        """Send it an event, and await the acknowledgement."""
        ...

    def join(self, *rooms: str | Iterable[str]) -> None:
        """Let it join rooms."""
        ...

    def leave(self, *rooms: str | Iterable[str]) -> None:
        """Let it leave rooms."""
        ...

    def disconnect(self, close: bool = False) -> None:
        """Disconnect it."""
        ...

    def _asked(self, more: int) -> None:
        """We wait for `more` more of its answers."""
        ...

    def _tell_outgoing(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An event has left for it."""
        ...

    @property
    def _reachable(self) -> bool:
        """Whether parcels that have waited are still for it."""
        ...

    @property
    def writable(self) -> bool:
        """Whether an event would leave at once."""
        ...

    def _write(self, messages: Messages) -> None:
        """Send a packet of its namespace, in order."""
        ...

    def _waits(self, size: int) -> None:
        """A packet of `size` bytes waits for its turn: that much less is read from its client."""
        ...

    def _waited(self, size: int) -> None:
        """The packet has had its turn."""
        ...


class Remembering(Protocol):
    """What namespaces need of recovery."""

    def changed(self, socket: Any) -> None:
        """Its rooms or its data may have changed."""
        ...

    def left(self, socket: Any, reason: str) -> None:
        """It is gone, and may come back."""
        ...

    def broken(self, namespace: Any) -> None:
        """An event goes out without a place in the log: the namespace's sessions cannot go on past it."""
        ...


class Others(Protocol):
    """What namespaces need of the other nodes."""

    def emit(
        self, namespace: Any, event: str, arguments: tuple[Any, ...], audience: Audience, *, volatile: bool
    ) -> None: ...

    def gather(
        self,
        namespace: Any,
        event: str,
        arguments: tuple[Any, ...],
        audience: Audience,
        seconds: float,
        gathering: Gathering,
    ) -> Request: ...

    def settle(self, request: Request) -> None: ...

    async def fetch(self, namespace: Any, audience: Audience, seconds: float) -> list[Any]: ...

    def move(self, namespace: Any, audience: Audience, into: frozenset[str], out_of: frozenset[str]) -> None: ...

    def expel(self, namespace: Any, audience: Audience, *, close: bool) -> None: ...

    def server_side(self, namespace: Any, event: str, arguments: tuple[Any, ...]) -> None: ...

    async def server_side_call(
        self, namespace: Any, event: str, arguments: tuple[Any, ...], seconds: float
    ) -> list[Any]: ...


class Server(Protocol):
    """What namespaces and their sockets need of a server."""

    parser: Parser
    _delivery: Delivery
    counters: Counters
    _home: Home
    _realm: str
    _outbox_bytes: int
    rooms_per_connection: int
    disconnect_grace: float
    nodes_timeout: float

    @property
    def _recovery(self) -> Remembering | None: ...

    @property
    def _nodes(self) -> Others | None: ...

    def _wake(self, namespace: Any) -> None:
        """A namespace of a pattern is needed, though nobody may be in it."""
        ...

    def _forget(self, namespace: Any) -> None:
        """A namespace of a pattern is empty."""
        ...

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that may outlive its caller."""
        ...


class Carrying(Protocol):
    """What sockets need of their connection."""

    engine: EngineConnection
    parser: Parser
    home: Home
    calls: int

    @property
    def writable(self) -> bool:
        """Whether an event would leave at once."""
        ...

    @property
    def full(self) -> bool:
        """Whether no more events may wait."""
        ...

    def dialect(self, namespace: Any) -> Dialect:
        """How events of a namespace are written for it."""
        ...

    def disconnect(self, socket: Any, *, close: bool) -> None:
        """Disconnect a socket, or with `close` the whole connection."""
        ...

    def waits(self, size: int) -> None:
        """One more event waits for its handler."""
        ...

    def waited(self, size: int) -> None:
        """An event has its turn."""
        ...

    def look(self) -> None:
        """Pause or resume reading."""
        ...

    def failed(self) -> None:
        """A handler raised."""
        ...

    def invalid(self, socket: Any, event: Event, error: InvalidValue | InvalidPacket) -> None:
        """An event's arguments fitted no handler."""
        ...


class Hearing(Protocol):
    """What the handlers of sockets need of their namespace."""

    name: str
    _handlers: Handlers
    _watched: set[Any]

    @property
    def io(self) -> Server: ...

    def _in_turn(self, socket: Any, messages: Messages) -> None:
        """Send a packet to a socket, after the events that wait."""
        ...

    def _handled(self, socket: Any) -> None:
        """A handler has run: the socket's data may have changed."""
        ...


class Space(Protocol):
    """What parcels and the journal need of a namespace."""

    name: str
    _lane: Lane
    _is_dynamic: bool

    @property
    def _key(self) -> str:
        """Its name among those of all servers in one log."""
        ...

    @property
    def io(self) -> Server: ...

    @property
    def _watched(self) -> Collection[Any]:
        """Sockets with listeners for outgoing events."""
        ...

    def _select(self, audience: Audience) -> Collection[Any]:
        """The sockets of an audience, each once. May be a live view."""
        ...

    def _tell_outgoing(self, body: Body, sockets: Collection[Any]) -> None:
        """An event has left: tell those of these sockets that listen for outgoing events."""
        ...

    def _broken(self) -> None:
        """An event goes out without a place in the log: no session can go on past it."""
        ...

    def _vanish(self) -> None:
        """Go, if nobody is in it and nothing of it waits."""
        ...
