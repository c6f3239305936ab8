"""What all connections of one server share: limits, timers, counters, the perimeter, and where upgrades go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from starlette.routing import BaseRoute

from partyline import log
from partyline.errors import Overloaded, PartylineError, RateLimited
from partyline.hub.hub import Hub
from partyline.hub.timers import Timers
from partyline.interfaces import Connection, Session, SessionTable, Store
from partyline.metrics import Counters
from partyline.server.exchange import Direct, Paths, head_lines
from partyline.server.fair import Fair
from partyline.server.home import Home
from partyline.server.writing import Turn
from partyline.trust import addresses
from partyline.trust.perimeter import Peer, Perimeter
from partyline.wire.http.head import Headers
from partyline.wire.websocket.codec import Limits as MessageLimits
from partyline.wire.websocket.deflate import Deflate

# Connections beyond max_connections that may wait for their 503: an eighth of that number, within these bounds. Further
# ones are dropped unread, so that a flood cannot use up the descriptors kept for the database and the logs.
_WAITING_ROOM = (8, 64)

_log = log.get("server")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits and deadlines of connections and requests, in seconds and bytes. docs/reference/limits.md lists each."""

    max_connections: int = 10_000
    max_connections_per_address: int = 0  # 0: off
    max_head_bytes: int = 32 * 1024
    max_headers: int = 100
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    keep_alive_timeout: float = 15.0
    tls_handshake_timeout: float = 10.0
    close_timeout: float = 5.0
    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    outbox_bytes: int = 1024 * 1024
    events_per_second: float = 0.0  # 0: off
    events_burst: float = 200.0
    compress_from: int = 1024
    drain_time: float = 30.0
    message: MessageLimits = field(default_factory=MessageLimits)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A WebSocket handshake on its way to a session. `path` is decoded, `query` is raw."""

    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    peer: Peer


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a WebSocket goes: its session, the subprotocols spoken there (most wanted first), compression."""

    session: Session
    subprotocols: tuple[str, ...] = ()
    deflate: bool = False
    limits: MessageLimits | None = None  # None: the server's
    heartbeat: bool = True  # False: the protocol inside has its own
    stranger: bool = False  # it must identify itself first; then the session calls `Carrier.known`
    metered: bool = False  # until `known`, only its time counts as a stranger's
    headers: tuple[tuple[bytes, bytes], ...] = ()  # of the 101


Route = Callable[[Upgrade], Endpoint | None]
"""Finds the endpoint of an upgrade; None if the path is not ours. Raises a PartylineError to refuse. Never blocks."""


def first_of(*routes: Route) -> Route:
    """The route that asks each of `routes` in turn."""

    def route(upgrade: Upgrade) -> Endpoint | None:
        for one in routes:
            if (endpoint := one(upgrade)) is not None:
                return endpoint
        return None

    return route


class Extra(Protocol):
    """Something served beside the relay on the same port: `build(settings, extras=[...])`."""

    def attach(self, site: Site) -> None:
        """The server is built; called once, on its loop, before anything below."""

    def routes(self) -> Sequence[BaseRoute]:
        """Its HTTP routes. Requests have passed the gate: `scope["partyline.peer"]` is the client."""

    def upgrade(self, upgrade: Upgrade) -> Endpoint | None:
        """As `Route` above."""


@runtime_checkable
class Background(Protocol):
    """An extra with work to do before the server listens, and after it has drained."""

    async def start(self) -> None:
        """Called before the first connection. An exception keeps the server from starting."""

    async def stop(self) -> None:
        """Called after the last connection."""


class Carrier(Connection, Protocol):
    """The WebSocket under a session, on any transport: what sessions use beyond `interfaces.Connection`."""

    @property
    def pings(self) -> bool:
        """Whether the heartbeat is ours: pings may be written, and a quiet client hears them."""

    @property
    def deflate(self) -> Deflate | None:
        """The negotiated compression: members with the same one share their bytes. None: no frame is compressed."""

    @property
    def session(self) -> Session | None:
        """The session that it carries; None once it is gone."""

    def hand_to(self, session: Session) -> None:
        """Give later messages to `session`. Its `opened` is not called."""

    def send_utf8(self, payload: bytes) -> None:
        """Send an answer as a text message that is already encoded."""

    def send_binary(self, data: bytes) -> None:
        """Send an answer as a binary message."""

    @property
    def writable(self) -> bool:
        """Whether a message would leave soon."""

    def discard(self, unwanted: Callable[[str | bytes], bool]) -> None:
        """Drop the queued messages that are `unwanted`; those that the transport has are on their way."""

    def known(self) -> None:
        """The peer has said who it is: the limits of strangers end."""

    def said_nothing(self) -> None:
        """The message in hand is only a heartbeat: it does not tell a client from a flood."""

    def hold(self) -> None:
        """Pause reading until `release`; messages already read still come. The caller has to keep up heartbeats."""

    def release(self) -> None:
        """Read again."""

    async def drained(self) -> None:
        """Return when nothing is queued, or the connection is gone. Cancelling this loses nothing."""


class Elsewhere(Protocol):
    """The other workers of this server, which have sessions and registrations of their own."""

    def owner(self, path: bytes, query: bytes) -> int | None:
        """Which of them a request is for; None: any may take it, or it is ours."""

    def pass_on(self, owner: int, descriptor: int, data: bytes) -> bool:
        """Give a connection to its owner, with what was read from it. The descriptor stays the caller's, who closes it.
        False where the owner is not there."""

    def tunnel(self, owner: int, transport: asyncio.Transport, data: bytes, gone: Callable[[Live], None]) -> Live:
        """The same for a connection over TLS, whose transport stays here; `gone` is called when it is over."""

    async def totals(self) -> tuple[Counters, int]:
        """What all workers have counted, and their open connections."""


class Live(Protocol):
    """What the drain needs of an open connection of any kind."""

    def shutdown(self) -> None:
        """Finish the work in hand, tell the client, close."""

    def abort(self) -> None:
        """Drop it as it is."""


@runtime_checkable
class Following(Protocol):
    """An open connection that is sent messages without a request for each."""

    def close(self, code: int, reason: str) -> None:
        """Begin to close; nothing more is sent."""


@dataclass(slots=True)
class Site:
    """One server's shared state. `connections` counts all, WebSocket or not; `live` holds them."""

    limits: ConnectionLimits
    timers: Timers
    counters: Counters
    perimeter: Perimeter
    route: Route
    hub: Hub | None = None  # with its log, where there is one
    store: Store | None = None
    sessions: SessionTable | None = None
    connections: int = 0
    draining: bool = False
    live: set[Live] = field(default_factory=set)
    pages: set[str] = field(default_factory=set)  # paths that links on other sites may lead to
    direct: Paths = field(default_factory=Paths)  # paths that are answered without ASGI
    head: bytes = b""  # headers of each answer
    headers: Headers = field(default_factory=list)  # the same as a list
    unread: int = 0  # bytes of answers over HTTP that clients have not read yet
    cors: Callable[[bytes | None], Headers] = lambda origin: []  # further ones for a page of this origin, or for none
    turn: Turn = field(default_factory=Turn)
    home: Home = field(default_factory=Home.here)
    fair: Fair = field(default_factory=Fair)
    elsewhere: Elsewhere | None = None
    # What answers a request without ASGI, by its path and query, where another node may have to; None: ASGI brings it
    # there.
    instead: Callable[[bytes, bytes, Direct], Direct | None] | None = None
    # What a WebSocket at a path needs may be on another node: done when it is here. None if there is nothing to wait
    # for; raises PartylineError, at once or later.
    fetch: Callable[[str], asyncio.Future[None] | None] | None = None
    node: str = ""  # the name of this node, where others share the log
    mark: str = ""  # ends the ids that are given out here, so that other workers know whose they are
    for_extras: dict[type, object] = field(default_factory=dict)  # the settings for extras, by class
    _by_address: dict[str, int] = field(default_factory=dict)

    def settings_of(self, kind: type[_T]) -> _T:
        """The settings for extras in a class of theirs; its defaults if there are none."""
        found = self.for_extras.get(kind)
        return found if isinstance(found, kind) else kind()

    def enter(self, address: str) -> PartylineError | None:
        """Count a new connection in. The error, if any, is for its first request; it is counted all the same."""
        address = addresses.source(address)
        self.counters.accepted += 1
        self.connections += 1
        here = self._by_address[address] = self._by_address.get(address, 0) + 1
        if self.connections > self.limits.max_connections:
            self.counters.hit("max_connections")
            return Overloaded("this server has all the connections it may have (max_connections): come back later")
        if 0 < self.limits.max_connections_per_address < here:
            self.counters.hit("max_connections_per_address")
            return RateLimited(
                "too many connections from this address (max_connections_per_address)",
                retry_after=10,
                code="too_many_connections",
            )
        return None

    def find(self, upgrade: Upgrade) -> Endpoint | None:
        """As `Route`; an application's hook that fails costs only its client, which is told."""
        try:
            return self.route(upgrade)
        except PartylineError:
            raise
        except Exception:
            self.counters.errors += 1
            _log.exception("an upgrade failed", path=upgrade.path)
            raise PartylineError("the server failed; its log says why, and the request may be tried again") from None

    def displace(self) -> None:
        """The log does not go on from where this node was: clients come back as after a restart, and resume."""
        for connection in tuple(self.live):
            if isinstance(connection, Following):
                connection.close(1012, "the log goes on from another place")

    def head_beside(self, names: set[bytes]) -> bytes:
        """The headers of all answers, for an answer that has headers of these names already."""
        if any(name in names for name, _ in self.headers):
            return head_lines(pair for pair in self.headers if pair[0] not in names)
        return self.head

    @property
    def flooded(self) -> bool:
        """No room is left even for connections that wait for a refusal."""
        limit = self.limits.max_connections
        if self.connections <= limit:
            return False
        least, most = _WAITING_ROOM
        return self.connections > limit + min(most, max(least, limit // 8))

    def leave(self, address: str) -> None:
        """Count it out."""
        address = addresses.source(address)
        self.connections -= 1
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]
