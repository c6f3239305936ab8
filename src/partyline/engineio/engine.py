"""Engine.IO on one path: handshakes, the connections by their ids, and the WebSockets that come for them."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from starlette.routing import BaseRoute, Route

from partyline import log
from partyline.engineio.connection import Connection, Handshake, Receiver
from partyline.engineio.polling import Polling
from partyline.errors import CONTAINED, ConfigError, HandshakeRefused, Overloaded, PartylineError, RateLimited
from partyline.interfaces import Connection as AnyConnection
from partyline.server.home import Home
from partyline.server.site import Carrier, Endpoint, Site, Upgrade
from partyline.server.turn import OWN_READ, takes_bundles
from partyline.wire.engineio.handshake import (
    BAD_REQUEST,
    FORBIDDEN,
    POLLING,
    UNKNOWN_SID,
    UNKNOWN_TRANSPORT,
    WEBSOCKET,
    Asked,
    open_packet,
    read_request,
    refusal,
)
from partyline.wire.engineio.session import Rules
from partyline.wire.websocket.connection import Limits
from partyline.wire.websocket.handshake import offered_subprotocols

_log = log.get("engineio")

Headers = list[tuple[str, str]]
_F = TypeVar("_F", bound=Callable[..., object])
_T = TypeVar("_T")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 5.5


class EngineIO:
    """An Engine.IO server on one path, for `partyline.build(settings, extras=[...])`.

    Times are in seconds, `max_payload` (a POST's body, a WebSocket message) in bytes; what is None follows the server's
    settings (`ping_interval`, `ping_timeout`, `upgrade_timeout`, `max_message`). `version_3` lets clients of
    protocol 3 in, `jsonp` those among them that load scripts. `cookie` is the name of a cookie for the session's id.
    Polling answers from `compress_from` bytes on are compressed, 0 never; WebSocket messages where
    `permessage_deflate` is on and the client agrees. What is given as a function must not block:

    - `accept(connection, handshake)` makes what stands behind a connection, in place of the `on_...` handlers
    - `allow_request(handshake)` returns None or True to let a client in; False, or a text for it, refuses with 403
    - `generate_id(handshake)` makes a session's id, which must not be guessable; 128 random bits unless given
    - `initial_headers(handshake)` adds headers to the answer to a handshake, `headers(handshake)` to each answer
    - `connection_error(error, handshake)` hears of each request that is refused
    """

    def __init__(
        self,
        path: str = "/engine.io/",
        *,
        accept: Callable[[Connection, Handshake], Receiver] | None = None,
        ping_interval: float | None = None,
        ping_timeout: float | None = None,
        upgrade_timeout: float | None = None,
        max_payload: int | None = None,
        transports: Sequence[str] = (POLLING, WEBSOCKET),
        version_3: bool = False,
        jsonp: bool = False,
        cookie: str | None = None,
        compress_from: int = 1_024,
        permessage_deflate: bool = False,
        allow_request: Callable[[Handshake], bool | str | None] | None = None,
        generate_id: Callable[[Handshake], str] | None = None,
        initial_headers: Callable[[Handshake], Headers] | None = None,
        headers: Callable[[Handshake], Headers] | None = None,
        connection_error: Callable[[HandshakeRefused, Handshake], object] | None = None,
    ) -> None:
        if not path.startswith("/") or not path.endswith("/"):
            raise ConfigError(f"path: {path!r} must begin and end with a slash, as /engine.io/", field="path")
        if not transports or not set(transports) <= {POLLING, WEBSOCKET}:
            raise ConfigError(f"transports: {transports!r} must be of polling and websocket", field="transports")
        if cookie is not None and _TOKEN.fullmatch(cookie) is None:
            raise ConfigError(f"cookie: {cookie!r} is not the name of a cookie (RFC 6265 4.1.1)", field="cookie")
        self.path = path
        self.connections: dict[str, Connection] = {}
        self.max_payload: int
        self._given = (ping_interval, ping_timeout, upgrade_timeout, max_payload)
        self.version_3 = version_3
        self.jsonp = jsonp
        self.compress_from = compress_from
        self.site: Site
        self.home = Home()
        self._accept = accept or self._with_callbacks
        self._rules: Rules
        self._transports = frozenset(transports)
        self._cookie = cookie
        self._deflate = permessage_deflate
        self._allow_request = allow_request
        self._generate_id = generate_id
        self._initial_headers = initial_headers
        self._headers = headers
        self._connection_error = connection_error
        self._polling: dict[str, int] = {}  # sessions that began on polling, by address
        self._connected: list[Callable[[Connection], object]] = []
        self._messages: list[Callable[[Connection, str | bytes], object]] = []
        self._disconnected: list[Callable[[Connection, str], object]] = []

    # Handlers: plain functions, called in order of arrival

    def on_connect(self, handler: _F) -> _F:
        """`handler(connection)` is called for each new connection. To be used as a decorator."""
        self._connected.append(handler)
        return handler

    def on_message(self, handler: _F) -> _F:
        """`handler(connection, data)` is called for each message, `str` or `bytes`."""
        self._messages.append(handler)
        return handler

    def on_disconnect(self, handler: _F) -> _F:
        """`handler(connection, reason)` is called once for each connection that has been connected."""
        self._disconnected.append(handler)
        return handler

    def _with_callbacks(self, connection: Connection, handshake: Handshake) -> Receiver:
        return _Callbacks(self, connection)

    # server.site.Extra

    def attach(self, site: Site) -> None:
        if self.path in site.direct:
            raise ConfigError(
                f"two Engine.IO or Socket.IO servers are to answer at {self.path}: give one of them another path",
                field="path",
            )
        self.site = site
        self.home = site.home
        limits = site.limits
        interval, timeout, upgrade, payload = self._given
        self._rules = Rules(
            limits.ping_interval if interval is None else interval,
            limits.ping_timeout if timeout is None else timeout,
            limits.upgrade_timeout if upgrade is None else upgrade,
        )
        self.max_payload = limits.message.max_message if payload is None else payload
        self._requests = Polling(self)
        self.connections.clear()  # of an earlier server, whose loop is gone (an ASGI application in tests)
        self._polling.clear()
        site.direct.add(self.path, self._requests)

    def routes(self) -> Sequence[BaseRoute]:
        return [Route(self.path, self._requests)]

    def upgrade(self, upgrade: Upgrade) -> Endpoint | None:
        """The endpoint of a WebSocket on our path. Raises HandshakeRefused."""
        if upgrade.path != self.path:
            return None
        handshake = Handshake(WEBSOCKET, upgrade.query, upgrade.headers, upgrade.peer)
        with self.watched(handshake):
            asked = self.read(upgrade.query, "GET", upgrade=True)
            session: _Opening | _Candidate
            if asked.sid is None:
                self.check(handshake)
                session = _Opening(self, asked, handshake, self.free_id(handshake))
                headers = self.answer_headers(handshake, session.sid)
            else:
                session = _Candidate(self.find(asked), asked)
                headers = self.answer_headers(handshake)
        offered = offered_subprotocols(value for name, value in upgrade.headers if name == b"sec-websocket-protocol")
        return Endpoint(
            session,
            tuple(offered[:1]),  # as Node: browsers fail a connection whose offer is not answered
            deflate=self._deflate,
            limits=Limits(self.max_payload, self.max_payload, self.site.limits.message.max_fragments),
            heartbeat=False,
            headers=tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers),
        )

    # What both transports need

    def read(self, query: bytes, method: str, *, upgrade: bool) -> Asked:
        """Raises HandshakeRefused."""
        asked = read_request(query, method, upgrade=upgrade, version_3=self.version_3, jsonp=self.jsonp)
        if asked.transport not in self._transports:
            raise refusal(UNKNOWN_TRANSPORT)
        return asked

    def find(self, asked: Asked) -> Connection:
        """The connection that a request is for. Raises HandshakeRefused."""
        assert asked.sid is not None
        connection = self.connections.get(asked.sid)
        if connection is None:
            raise refusal(UNKNOWN_SID)
        if connection.protocol != asked.protocol:
            raise refusal(BAD_REQUEST)
        return connection

    def check(self, handshake: Handshake) -> None:
        """Raises HandshakeRefused where the application does not want the client."""
        allowed = None if self._allow_request is None else _asked(self._allow_request, handshake)
        if allowed is not None and allowed is not True:
            raise refusal(FORBIDDEN, allowed if isinstance(allowed, str) else None)

    def free_id(self, handshake: Handshake) -> str:
        """Raises HandshakeRefused where the application gives out an id that is in use."""
        if self._generate_id is None:
            return base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode("ascii")
        sid = _asked(self._generate_id, handshake)
        if sid in self.connections:
            raise refusal(BAD_REQUEST, "Bad request: this id is taken")
        return sid

    def open(self, asked: Asked, handshake: Handshake, sid: str, websocket: Carrier | None) -> tuple[str, Connection]:
        """A new connection and the packet that opens it; `begin` it once that is on its way."""
        if sid in self.connections:
            raise refusal(BAD_REQUEST, "Bad request: this id is taken")
        address = handshake.peer.address
        if websocket is None:
            self._count(address)
        connection = self.connections[sid] = Connection(
            self, sid, address, asked.protocol, self._rules, websocket, base64=asked.base64
        )
        connection.takes_bundles = websocket is None or takes_bundles(handshake.headers)
        if websocket is None:
            self.site.live.add(connection)
        text = open_packet(
            sid,
            upgrades=websocket is None and WEBSOCKET in self._transports,
            ping_interval=self._rules.ping_interval,
            ping_timeout=self._rules.ping_timeout,
            max_payload=self.max_payload,
        )
        return text, connection

    def _count(self, address: str) -> None:
        """Sessions on polling hold no socket while they wait, so the limits of connections are asked here, too.

        Raises Overloaded (503) or RateLimited (429).
        """
        limits, here = self.site.limits, self._polling.get(address, 0)
        if len(self.connections) >= limits.max_connections:
            self.site.counters.hit("max_connections")
            raise Overloaded("this server has all the sessions it may have (max_connections): come back later")
        if 0 < limits.max_connections_per_address <= here:
            self.site.counters.hit("max_connections_per_address")
            raise RateLimited(
                "too many sessions from this address (max_connections_per_address)",
                retry_after=10,
                code="too_many_connections",
            )
        self._polling[address] = here + 1

    def begin(self, connection: Connection, handshake: Handshake) -> None:
        """The open packet is on its way: now the application hears of the connection."""
        connection.begin(self._accept(connection, handshake))
        if self.site.draining and connection.transport == POLLING:
            connection.shutdown()

    def forget(self, connection: Connection) -> None:
        """It is over, and everything fetched."""
        self.site.timers.cancel(connection)
        self.site.live.discard(connection)
        if self.connections.get(connection.sid) is not connection:
            return
        del self.connections[connection.sid]
        if connection.began_polling:
            left = self._polling[connection.address] - 1
            if left:
                self._polling[connection.address] = left
            else:
                del self._polling[connection.address]

    def answer_headers(self, handshake: Handshake, sid: str | None = None) -> Headers:
        """The headers of an answer besides its own; `sid` is the id that a handshake got."""
        found: Headers = []
        if sid is not None:
            if self._cookie is not None:
                found.append(("set-cookie", f"{self._cookie}={sid}; Path=/; HttpOnly; SameSite=Lax"))
            if self._initial_headers is not None:
                found += _safe(_asked(self._initial_headers, handshake))
        if self._headers is not None:
            found += _safe(_asked(self._headers, handshake))
        return found

    def watched(self, handshake: Handshake) -> _Watched:
        """A context in which refusals are reported to the application."""
        return _Watched(self._connection_error, handshake)


class _Watched:
    __slots__ = ("_handshake", "_hook")

    def __init__(self, hook: Callable[[HandshakeRefused, Handshake], object] | None, handshake: Handshake) -> None:
        self._hook = hook
        self._handshake = handshake

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._hook is not None and isinstance(error, HandshakeRefused):
            try:
                self._hook(error, self._handshake)
            except CONTAINED:
                _log.exception("connection_error failed")


class _Opening:
    """A WebSocket that opens a session of its own."""

    __slots__ = ("_asked", "_connection", "_engine", "_handshake", "_later", "_websocket", "sid")

    def __init__(self, engine: EngineIO, asked: Asked, handshake: Handshake, sid: str) -> None:
        self._engine = engine
        self._asked = asked
        self._handshake = handshake
        self._websocket: Carrier | None = None
        self._connection: Connection | None = None
        self._later: asyncio.TimerHandle | None = None
        self.sid = sid

    def opened(self, connection: AnyConnection) -> None:
        self._websocket = cast("Carrier", connection)
        if self._asked.protocol == 3 and not takes_bundles(self._handshake.headers):
            self._later = asyncio.get_running_loop().call_later(OWN_READ, self._begin)
        else:
            self._begin()

    def _begin(self) -> Connection | None:
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            if self._later is not None:
                self._later.cancel()
            text, connection = self._engine.open(self._asked, self._handshake, self.sid, websocket)
            self._connection = connection
            websocket.hand_to(connection)
            websocket.send_text(text)
            self._engine.begin(connection, self._handshake)
        return self._connection

    # Only what comes before the open packet is out, and in one read with it, comes here.

    def text(self, text: str) -> None:
        if (connection := self._begin()) is not None:
            connection.text(text)

    def binary(self, data: bytes) -> None:
        if (connection := self._begin()) is not None:
            connection.binary(data)

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        if (connection := self._begin()) is not None:
            connection.refused(error, message)

    def closed(self) -> None:
        self._websocket = None
        if self._later is not None:
            self._later.cancel()


class _Candidate:
    """A WebSocket that is to take over a session from polling."""

    __slots__ = ("_base64", "_connection", "_websocket")

    def __init__(self, connection: Connection, asked: Asked) -> None:
        self._connection: Connection | None = connection
        self._base64 = asked.base64
        self._websocket: Carrier | None = None

    def opened(self, connection: AnyConnection) -> None:
        assert self._connection is not None
        carrier = cast("Carrier", connection)
        if self._connection.attach(carrier):
            self._websocket = carrier
        else:
            self._connection = None
            # Not before the first one's answers, which an ASGI server may still have in its queues.
            asyncio.get_running_loop().call_later(OWN_READ, connection.close, 1000)

    def text(self, text: str) -> None:
        if not self._probed(text) and self._connection is not None:
            self._connection.text(text)

    def binary(self, data: bytes) -> None:
        if not self._probed(data) and self._connection is not None:
            self._connection.binary(data)

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        if not self._probed(message) and self._connection is not None:
            self._connection.refused(error, message)

    def _probed(self, message: str | bytes) -> bool:
        """Take a message as a candidate's; False where it has taken over, and this came in one read with that."""
        websocket, connection = self._websocket, self._connection
        if websocket is None or connection is None:
            return False
        if connection.probe(websocket, message, base64=self._base64):
            websocket.hand_to(connection)
            self._websocket = None
        return True

    def closed(self) -> None:
        if self._websocket is not None and self._connection is not None:
            self._connection.detach(self._websocket)


class _Callbacks:
    """The `on_...` handlers as what stands behind a connection."""

    __slots__ = ("_connection", "_engine")

    def __init__(self, engine: EngineIO, connection: Connection) -> None:
        self._engine = engine
        self._connection = connection

    def connected(self) -> None:
        for handler in self._engine._connected:  # noqa: SLF001 - one thing in two classes
            handler(self._connection)

    def message(self, data: str | bytes) -> None:
        for handler in self._engine._messages:  # noqa: SLF001
            handler(self._connection, data)

    def refused(self, error: PartylineError, data: str | bytes) -> None:
        """Engine.IO has no words for it: the message is dropped, and counted."""

    def alive(self) -> None:
        pass

    def disconnected(self, reason: str) -> None:
        for handler in self._engine._disconnected:  # noqa: SLF001
            handler(self._connection, reason)


def _asked(hook: Callable[[Handshake], _T], handshake: Handshake) -> _T:
    """What a hook of the application answers. What it raises costs the request, and never ends the server."""
    try:
        return hook(handshake)
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"a hook has raised {type(error).__name__}") from error


def _safe(headers: Headers) -> Headers:
    """Headers of the application, if each is one header. Raises ValueError: a line break would begin another one."""
    for name, value in headers:
        if _TOKEN.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise ValueError(f"{name!r}: {value!r} is not one header: neither part may hold a line break")
    return headers
