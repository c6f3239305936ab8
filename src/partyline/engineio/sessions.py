"""The sessions of one Engine.IO server: admission, ids, connections, and the application's hooks."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from partyline import log
from partyline.engineio.connection import EngineConnection
from partyline.engineio.receiver import Receiver, Request
from partyline.errors import CONTAINED, HandshakeRefused, Overloaded, RateLimited
from partyline.server.home import Home
from partyline.server.site import Carrier, Site
from partyline.server.writing import takes_bundles
from partyline.trust.addresses import source
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

_log = log.get("engineio")

Headers = list[tuple[str, str]]
_T = TypeVar("_T")

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 5.5


class Hooks(Struct, frozen=True):
    """Functions of the application, as `EngineIO` documents them."""

    allow_request: Callable[[Request], bool | str | None] | None
    generate_id: Callable[[Request], str] | None
    initial_headers: Callable[[Request], Headers] | None
    headers: Callable[[Request], Headers] | None
    connection_error: Callable[[HandshakeRefused, Request], object] | None


class Sessions:
    """What the handshakes of both transports need. `connections` are the current ones, by their ids."""

    site: Site
    max_payload: int
    _rules: Rules

    def __init__(
        self,
        accept: Callable[[EngineConnection, Request], Receiver],
        transports: frozenset[str],
        hooks: Hooks,
        *,
        version_3: bool,
        jsonp: bool,
        cookie: str | None,
        compress_from: int,
        strangers: bool,
    ) -> None:
        self.connections: dict[str, EngineConnection] = {}
        self.home = Home()
        self.version_3 = version_3
        self.jsonp = jsonp
        self.compress_from = compress_from
        self.strangers = strangers  # a client is one until the receiver calls `EngineConnection.known`
        self._accept = accept
        self._transports = transports
        self._cookie = cookie
        self._hooks = hooks
        self._polling: dict[str, int] = {}  # sessions that began on polling, by address

    def attach(self, site: Site, rules: Rules, max_payload: int) -> None:
        """The server is built."""
        self.site = site
        self.home = site.home
        self.max_payload = max_payload
        self._rules = rules
        self.connections.clear()  # those of an earlier server, whose loop is gone (an ASGI application in tests)
        self._polling.clear()

    def read(self, query: bytes, method: str, *, upgrade: bool) -> Asked:
        """Raises HandshakeRefused."""
        asked = read_request(query, method, upgrade=upgrade, version_3=self.version_3, jsonp=self.jsonp)
        if asked.transport not in self._transports:
            raise refusal(UNKNOWN_TRANSPORT)
        return asked

    def find(self, asked: Asked) -> EngineConnection:
        """The connection that a request is for. Raises HandshakeRefused."""
        assert asked.sid is not None
        connection = self.connections.get(asked.sid)
        if connection is None:
            raise refusal(UNKNOWN_SID)
        if connection.protocol != asked.protocol:
            raise refusal(BAD_REQUEST)
        return connection

    def check(self, handshake: Request) -> None:
        """Raises HandshakeRefused if the application does not want the client."""
        allowed = None if self._hooks.allow_request is None else _asked(self._hooks.allow_request, handshake)
        if allowed is not None and allowed is not True:
            raise refusal(FORBIDDEN, allowed if isinstance(allowed, str) else None)

    def free_id(self, handshake: Request) -> str:
        """Raises HandshakeRefused if the application gives out an id that is in use."""
        if self._hooks.generate_id is None:
            return base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode("ascii") + self.site.mark
        sid = _asked(self._hooks.generate_id, handshake) + self.site.mark
        if sid in self.connections:
            raise refusal(BAD_REQUEST, "Bad request: this id is taken")
        return sid

    def open(
        self, asked: Asked, handshake: Request, sid: str, websocket: Carrier | None
    ) -> tuple[str, EngineConnection]:
        """A new connection and its open packet; call `begin` once that is on its way."""
        if sid in self.connections:
            raise refusal(BAD_REQUEST, "Bad request: this id is taken")
        address = source(handshake.peer.address)
        if websocket is None:
            self._count(address)
        connection = self.connections[sid] = EngineConnection(
            self, sid, address, asked.protocol, self._rules, websocket, base64=asked.base64
        )
        connection.stranger = self.strangers
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
        """Sessions on polling hold no socket while they wait, so the limits of connections are checked here, too.

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

    def begin(self, connection: EngineConnection, handshake: Request) -> None:
        """The open packet is on its way: tell the application of the connection."""
        connection.begin(lambda: self._accept(connection, handshake))
        if self.site.draining and connection.transport == POLLING:
            connection.shutdown()

    def forget(self, connection: EngineConnection) -> None:
        """It is over, and everything has been fetched."""
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

    def answer_headers(self, handshake: Request, sid: str | None = None) -> Headers:
        """The headers of an answer besides its own; `sid` is the id that a handshake got."""
        found: Headers = []
        if sid is not None:
            if self._cookie is not None:
                found.append(("set-cookie", f"{self._cookie}={sid}; Path=/; HttpOnly; SameSite=Lax"))
            if self._hooks.initial_headers is not None:
                found += _safe(_asked(self._hooks.initial_headers, handshake))
        if self._hooks.headers is not None:
            found += _safe(_asked(self._hooks.headers, handshake))
        return found

    def report(self, error: HandshakeRefused, handshake: Request) -> None:
        """Tell the application of a request that is refused."""
        hook = self._hooks.connection_error
        if hook is not None:
            try:
                hook(error, handshake)
            except CONTAINED:
                _log.exception("connection_error failed")


def _asked(hook: Callable[[Request], _T], handshake: Request) -> _T:
    """The result of an application's hook. Whatever it raises costs the request, but never ends the server."""
    try:
        return hook(handshake)
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"a hook has raised {type(error).__name__}") from error


def _safe(headers: Headers) -> Headers:
    """Headers of the application, if each is one header. Raises ValueError: a line break would begin another one."""
    for name, value in headers:
        if TOKEN.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise ValueError(f"{name!r}: {value!r} is not one header: neither part may hold a line break")
    return headers
