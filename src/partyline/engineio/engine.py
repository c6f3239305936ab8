"""EngineIO: a server on one path, its application's handlers, and the endpoints of its requests and WebSockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from starlette.routing import BaseRoute, Route

from partyline.config import option
from partyline.engineio.arriving import Candidate, Opening
from partyline.engineio.connection import EngineConnection
from partyline.engineio.limits import SessionLimits
from partyline.engineio.polling import Polling
from partyline.engineio.receiver import Receiver, Request
from partyline.engineio.sessions import TOKEN, Headers, Hooks, Sessions
from partyline.errors import ConfigError, HandshakeRefused, PartylineError
from partyline.server.home import Home
from partyline.server.site import Endpoint, Site, Upgrade
from partyline.wire.engineio.handshake import POLLING, WEBSOCKET
from partyline.wire.engineio.session import Rules
from partyline.wire.websocket.codec import Limits
from partyline.wire.websocket.handshake import offered_subprotocols

_F = TypeVar("_F", bound=Callable[..., object])


class EngineIO:
    """An Engine.IO server on one path, for `partyline.build(settings, extras=[...])`.

    Times are in seconds, `max_payload` (a POST's body, a WebSocket message) in bytes; None follows the server's
    settings (`ping_interval`, `ping_timeout`, `upgrade_timeout`, `max_message`). An unusable value raises ConfigError
    at once. A WebSocket message of 125 bytes always passes. `version_3` admits clients of protocol 3, `jsonp` those
    among them that load scripts. `cookie` is the name of a cookie for the session's id. Polling answers of
    `compress_from` bytes or more are compressed (0: never), WebSocket messages if `permessage_deflate` is on and the
    client agrees. Functions must not block:

    - `accept(connection, handshake)` makes the receiver of a connection, in place of the `on_...` handlers
    - `allow_request(handshake)` returns None or True to let a client in; False, or a text for it, refuses with 403
    - `generate_id(handshake)` makes a session's id, which must not be guessable; 128 random bits unless given
    - `initial_headers(handshake)` adds headers to the answer to a handshake, `headers(handshake)` to each answer
    - `connection_error(error, handshake)` hears of each request that is refused
    """

    def __init__(
        self,
        path: str = "/engine.io/",
        *,
        accept: Callable[[EngineConnection, Request], Receiver] | None = None,
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
        allow_request: Callable[[Request], bool | str | None] | None = None,
        generate_id: Callable[[Request], str] | None = None,
        initial_headers: Callable[[Request], Headers] | None = None,
        headers: Callable[[Request], Headers] | None = None,
        connection_error: Callable[[HandshakeRefused, Request], object] | None = None,
    ) -> None:
        if not isinstance(path, str) or not path.startswith("/") or not path.endswith("/"):
            raise ConfigError(f"path: {path!r} must begin and end with a slash, as /engine.io/", field="path")
        if not isinstance(transports, list | tuple) or not transports or not set(transports) <= {POLLING, WEBSOCKET}:
            raise ConfigError(f"transports: {transports!r} must be of polling and websocket", field="transports")
        if cookie is not None and TOKEN.fullmatch(cookie) is None:
            raise ConfigError(f"cookie: {cookie!r} is not the name of a cookie (RFC 6265 4.1.1)", field="cookie")
        self.path = path
        self._given = (
            option("ping_interval", ping_interval),
            option("ping_timeout", ping_timeout),
            option("upgrade_timeout", upgrade_timeout),
            option("max_payload", max_payload, like="max_message", least=1),
        )
        self._deflate = permessage_deflate
        self._sessions = Sessions(
            accept or self._with_callbacks,
            frozenset(transports),
            Hooks(allow_request, generate_id, initial_headers, headers, connection_error),
            version_3=version_3,
            jsonp=jsonp,
            cookie=cookie,
            compress_from=option("compress_from", compress_from, least=0),
            strangers=accept is not None,
        )
        self._connected: list[Callable[[EngineConnection], object]] = []
        self._messages: list[Callable[[EngineConnection, str | bytes], object]] = []
        self._disconnected: list[Callable[[EngineConnection, str], object]] = []

    @property
    def connections(self) -> Mapping[str, EngineConnection]:
        """The current connections, by their ids."""
        return self._sessions.connections

    @property
    def home(self) -> Home:
        """The loop that it runs on."""
        return self._sessions.home

    @property
    def site(self) -> Site:
        """The server that it belongs to. Raises AttributeError before there is one."""
        return self._sessions.site

    @property
    def max_payload(self) -> int:
        """The largest message, in bytes, once it belongs to a server."""
        return self._sessions.max_payload

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
        """`handler(connection, reason)` is called once for each connection that `on_connect` was called for."""
        self._disconnected.append(handler)
        return handler

    def _with_callbacks(self, connection: EngineConnection, handshake: Request) -> Receiver:
        return _Callbacks(self, connection)

    # server.site.Extra

    def attach(self, site: Site) -> None:
        if self.path in site.direct:
            raise ConfigError(
                f"two Engine.IO or Socket.IO servers would answer at {self.path}: give one of them another path",
                field="path",
            )
        limits = site.limits
        interval, timeout, upgrade, payload = self._given
        rules = Rules(
            limits.ping_interval if interval is None else interval,
            limits.ping_timeout if timeout is None else timeout,
            site.settings_of(SessionLimits).upgrade_timeout if upgrade is None else upgrade,
        )
        self._sessions.attach(site, rules, limits.message.max_message if payload is None else payload)
        most = max(self._sessions.max_payload, 125)  # frames as short as that are never counted
        self._limits = Limits(most, most, limits.message.max_fragments)
        self._requests = Polling(self._sessions)
        site.direct.add(self.path, self._requests)

    def routes(self) -> Sequence[BaseRoute]:
        return [Route(self.path, self._requests)]

    def upgrade(self, upgrade: Upgrade) -> Endpoint | None:
        """The endpoint of a WebSocket on our path. Raises HandshakeRefused."""
        if upgrade.path != self.path:
            return None
        handshake = Request(WEBSOCKET, upgrade.query, upgrade.headers, upgrade.peer)
        sessions = self._sessions
        session: Opening | Candidate
        try:
            asked = sessions.read(upgrade.query, "GET", upgrade=True)
            if asked.sid is None:
                sessions.check(handshake)
                session = Opening(sessions, asked, handshake, sessions.free_id(handshake))
                headers = sessions.answer_headers(handshake, session.sid)
            else:
                session = Candidate(sessions.find(asked), asked)
                headers = sessions.answer_headers(handshake)
        except HandshakeRefused as error:
            sessions.report(error, handshake)
            raise
        offered = [value for name, value in upgrade.headers if name == b"sec-websocket-protocol"]
        return Endpoint(
            session,
            tuple(offered_subprotocols(offered)[:1])
            if offered
            else (),  # as Node: browsers fail a connection whose offer is not answered
            deflate=self._deflate,
            limits=self._limits,
            heartbeat=False,
            metered=sessions.strangers,
            headers=tuple([(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]),
        )


class _Callbacks:
    """The `on_...` handlers as the receiver of a connection."""

    __slots__ = ("_connection", "_engine")

    def __init__(self, engine: EngineIO, connection: EngineConnection) -> None:
        self._engine = engine
        self._connection = connection

    def connected(self) -> None:
        for handler in self._engine._connected:  # noqa: SLF001 - one thing in two classes
            handler(self._connection)

    def message(self, data: str | bytes) -> None:
        for handler in self._engine._messages:  # noqa: SLF001
            handler(self._connection, data)

    def refused(self, error: PartylineError, data: str | bytes) -> None:
        """Engine.IO cannot tell the client: the message is dropped, and counted."""

    def alive(self) -> None:
        pass

    def disconnected(self, reason: str) -> None:
        for handler in self._engine._disconnected:  # noqa: SLF001
            handler(self._connection, reason)
