"""The protocols between the parts of Socket.IO: each names what a file needs of those above it, and no more.

What a method does is said where it is implemented.
"""

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
    def connected(self) -> bool: ...

    @property
    def _welcomed(self) -> bool: ...

    def emit(self, event: str, *arguments: Any) -> None: ...

    async def call(self, event: str, *arguments: Any, timeout: float = 10.0) -> Any: ...  # noqa: ASYNC109

    def join(self, *rooms: str | Iterable[str]) -> None: ...

    def leave(self, *rooms: str | Iterable[str]) -> None: ...

    def disconnect(self, close: bool = False) -> None: ...

    def _asked(self, more: int) -> None: ...

    def _tell_outgoing(self, event: str, arguments: tuple[Any, ...]) -> None: ...

    @property
    def _reachable(self) -> bool: ...

    @property
    def writable(self) -> bool: ...

    def _write(self, messages: Messages) -> None: ...

    def _waits(self, size: int) -> None: ...

    def _waited(self, size: int) -> None: ...


class Remembering(Protocol):
    """What namespaces need of recovery."""

    def changed(self, socket: Any) -> None: ...

    def left(self, socket: Any, reason: str) -> None: ...

    def broken(self, namespace: Any) -> None: ...

    def expelled(self, namespace: Any, audience: Audience) -> None: ...

    def moved(self, namespace: Any, audience: Audience, into: frozenset[str], out_of: frozenset[str]) -> None: ...


class Kept(Protocol):
    """What a session keeps."""

    @property
    def sid(self) -> str: ...

    @property
    def data(self) -> dict[str, Any]: ...


class Returning(Protocol):
    """A session on its way back. `after` is up to where its client has everything; `proven`: it is certainly a session
    of the namespace that its client asks for."""

    @property
    def row(self) -> Kept: ...

    @property
    def after(self) -> Any: ...

    @property
    def proven(self) -> bool: ...


class Recovering(Remembering, Protocol):
    """What connections need of recovery."""

    def start(self) -> Any: ...

    def entered(self, socket: Any, start: Any) -> None: ...

    def heard(self, socket: Any) -> None: ...

    async def restore(self, namespace: Any, auth: dict[str, Any]) -> Any: ...

    async def replay(self, restored: Any, socket: Any, connection: Any) -> bool: ...

    def put_back(self, restored: Any) -> None: ...


class EventLog(Protocol):
    """Where events that are kept take their places. `shared`: what is kept reaches the other servers, too."""

    shared: bool

    def emit(
        self,
        event: str,
        arguments: tuple[Any, ...],
        audience: Audience,
        socket: Member | None = None,
        *,
        local: bool = False,
    ) -> None:
        """Keep an event, and send it once it is kept, to an audience or to its only `socket`, on this node only if
        `local`; not asked to where it is `shared`. Raises Overloaded and InvalidValue."""
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

    def _wake(self, namespace: Any) -> None: ...

    def _forget(self, namespace: Any) -> None: ...

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None: ...


class Carrying(Protocol):
    """What sockets need of their connection."""

    engine: EngineConnection
    parser: Parser
    home: Home
    calls: int

    @property
    def writable(self) -> bool: ...

    @property
    def full(self) -> bool: ...

    def dialect(self, namespace: Any) -> Dialect: ...

    def disconnect(self, socket: Any, *, close: bool) -> None: ...

    def waits(self, size: int) -> None: ...

    def waited(self, size: int) -> None: ...

    def look(self) -> None: ...

    def failed(self) -> None: ...

    def invalid(self, socket: Any, event: Event, error: InvalidValue | InvalidPacket) -> None: ...


class Hearing(Protocol):
    """What the handlers of sockets need of their namespace."""

    name: str
    _handlers: Handlers
    _watched: set[Any]

    @property
    def io(self) -> Server: ...

    def _in_turn(self, socket: Any, messages: Messages) -> None: ...

    def _handled(self, socket: Any) -> None: ...


class Space(Protocol):
    """What parcels and the journal need of a namespace."""

    name: str
    _lane: Lane
    _is_dynamic: bool

    @property
    def _key(self) -> str: ...

    @property
    def io(self) -> Server: ...

    @property
    def _watched(self) -> Collection[Any]:
        """Sockets with listeners for outgoing events."""

    def _select(self, audience: Audience) -> Collection[Any]: ...

    def _tell_outgoing(self, body: Body, sockets: Collection[Any]) -> None: ...

    def _broken(self) -> None: ...

    def _vanish(self) -> None: ...
