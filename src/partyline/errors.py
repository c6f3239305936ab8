"""Every error Partyline raises, as one tree.

::

    PartylineError
    ├── ConfigError               a setting cannot be used; the process stops with exit code 2
    ├── RequestError              whose fault: the caller's. 4xx
    │   ├── MalformedRequest        400  not HTTP, not JSON, nested too deep
    │   ├── InvalidPacket           400  not an Engine.IO or Socket.IO packet; its connection ends
    │   ├── HandshakeRefused        400  an Engine.IO request that is not served, with Engine.IO's number
    │   ├── Unauthenticated         401  no key, or one we do not know
    │   ├── Forbidden               403  known, but not allowed; a foreign origin
    │   ├── NotFound                404  no such thing (any more)
    │   ├── MethodNotAllowed        405
    │   ├── RequestTimeout          408  the head or the body came too slowly
    │   ├── Conflict                409  the same id for something else
    │   ├── PayloadTooLarge         413
    │   ├── UnsupportedMediaType    415
    │   ├── MisdirectedRequest      421  the Host is not one of ours
    │   ├── InvalidValue            422  well-formed, but of the wrong shape
    │   ├── UpgradeRequired         426  a WebSocket handshake was expected here
    │   ├── RateLimited             429  come back after `retry_after` seconds
    │   └── HeadTooLarge            431
    ├── ConnectionRefused         raised by a Socket.IO handler: the client is told why, and not let in
    ├── CallError                 an acknowledgement that does not come
    │   ├── CallTimeout               not in time
    │   └── PeerGone                  the other side has disconnected
    ├── LineError                 what a client of ours meets on its line
    │   ├── Disconnected              no connection, and none to be had now
    │   └── NotRecovered              what was missed is not kept any more
    └── ServerError               whose fault: ours, or the machine's. 5xx
        ├── Overloaded              503  a limit of the whole server is reached
        ├── StoreUnavailable        503  the log cannot take a message now
        ├── BusUnavailable          503  nothing reaches the other servers now
        └── TooManyTopics           507  the log keeps as many rooms as it may

A class says what goes on the wire: `code` (the stable word programs compare), `http_status`, `close_code` (of a
WebSocket) and `temporary` (worth a retry as it is). `message` is for people: it names the field, the value and the
way out. `field` names the offending part of the request where there is one, `limit` the setting that was hit.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final

CONTAINED: Final = (Exception, SystemExit, KeyboardInterrupt)
"""Exceptions that a program's own function may raise: they cost that call, and never end the server."""


class PartylineError(Exception):
    """Base of every error here. Raised on its own only where no class below fits."""

    code: str = "internal"
    http_status: int = 500
    close_code: int = 1011
    temporary: bool = False
    retry_after: float = 0.0  # the least seconds to wait, if known

    def __init__(
        self, message: str, *, code: str | None = None, field: str | None = None, limit: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.limit = limit
        if code is not None:
            self.code = code

    def headers(self) -> list[tuple[str, str]]:
        """The HTTP headers of an answer with this error, besides the usual ones."""
        return []


class ConfigError(PartylineError):
    """A setting cannot be used. `field` is the setting's name."""

    code = "config"


class RequestError(PartylineError):
    """The caller can fix it."""

    code = "bad_request"
    http_status = 400
    close_code = 4403


class MalformedRequest(RequestError):
    code = "malformed"
    close_code = 1002


class InvalidPacket(RequestError):
    """A peer sent an invalid packet. It cannot be answered: the session is closed (a POST gets a 400)."""

    code = "invalid_packet"
    close_code = 1002


class HandshakeRefused(RequestError):
    """`number` is Engine.IO's: 0 transport unknown, 1 session id unknown, 2 bad handshake method, 3 bad request,
    4 forbidden, 5 unsupported protocol version."""

    code = "handshake_refused"
    close_code = 1002

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number
        if number == 4:
            self.http_status = 403


class Unauthenticated(RequestError):
    code = "unauthenticated"
    http_status = 401
    close_code = 4401

    def headers(self) -> list[tuple[str, str]]:
        return [("www-authenticate", "Bearer")]  # RFC 9110 11.6.1: a 401 names its scheme


class Forbidden(RequestError):
    code = "forbidden"
    http_status = 403


class NotFound(RequestError):
    code = "not_found"
    http_status = 404


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"
    http_status = 405

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    def headers(self) -> list[tuple[str, str]]:
        return [("allow", self.allow)]  # RFC 9110 15.5.6


class RequestTimeout(RequestError):
    code = "request_timeout"
    http_status = 408
    temporary = True


class Conflict(RequestError):
    code = "conflict"
    http_status = 409


class PayloadTooLarge(RequestError):
    code = "payload_too_large"
    http_status = 413
    close_code = 1009

    def headers(self) -> list[tuple[str, str]]:
        # RFC 9110 15.5.14: the rest of the body is not read, so the next request's beginning is unknown.
        return [("connection", "close")]


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"
    http_status = 415


class MisdirectedRequest(RequestError):
    code = "foreign_host"
    http_status = 421


class InvalidValue(RequestError):
    code = "invalid"
    http_status = 422


class UpgradeRequired(RequestError):
    code = "upgrade_required"
    http_status = 426

    def headers(self) -> list[tuple[str, str]]:
        # RFC 6455 4.4: the versions we speak; RFC 9110 15.5.22: a 426 names the protocol.
        return [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13")]


class RateLimited(RequestError):
    code = "rate_limited"
    http_status = 429
    close_code = 4429
    temporary = True

    def __init__(
        self, message: str, *, retry_after: float = 1.0, code: str | None = None, field: str | None = None
    ) -> None:
        super().__init__(message, code=code, field=field)
        self.retry_after = retry_after

    def headers(self) -> list[tuple[str, str]]:
        return [("retry-after", str(max(1, ceil(self.retry_after))))]


class HeadTooLarge(RequestError):
    code = "head_too_large"
    http_status = 431


class ConnectionRefused(PartylineError):
    """Raised by a middleware or an `on_connect` handler: the client gets `message` and `data` as its CONNECT_ERROR."""

    code = "refused"

    def __init__(self, message: str = "not authorized", data: Any = None) -> None:
        super().__init__(message)
        self.data = data


class CallError(PartylineError):
    """Raised by `call`; never on the wire."""

    code = "call"
    temporary = True


class CallTimeout(CallError, TimeoutError):
    """No acknowledgement in time. For a broadcast, `answers` are those that came, `missing` the ids of the others."""

    code = "call_timeout"

    def __init__(self, message: str, *, answers: tuple[Any, ...] = (), missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.answers = answers
        self.missing = missing


class PeerGone(CallError):
    """The socket is disconnected: no acknowledgement can come any more."""

    code = "peer_gone"


class LineError(PartylineError):
    """Raised by `partyline.client`; never on the wire."""

    code = "line"


class Disconnected(LineError):
    """There is no connection to the server. If `temporary` is False, the line has given up."""

    code = "disconnected"
    temporary = True


class NotRecovered(LineError):
    """Messages of `topic` were missed; `oldest` is the oldest position still kept, as text, None if unknown."""

    code = "not_recovered"

    def __init__(self, message: str, *, topic: str = "", oldest: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.topic = topic
        self.oldest = oldest


class ServerError(PartylineError):
    """Not the caller's fault."""

    code = "internal"
    http_status = 500


class Overloaded(ServerError):
    code = "overloaded"
    http_status = 503
    close_code = 1013
    temporary = True

    def headers(self) -> list[tuple[str, str]]:
        return [("retry-after", "1")]


class StoreUnavailable(ServerError):
    code = "store_unavailable"
    http_status = 503
    close_code = 1013
    temporary = True

    def headers(self) -> list[tuple[str, str]]:
        return [("retry-after", "1")]


class BusUnavailable(ServerError):
    code = "bus_unavailable"
    http_status = 503
    close_code = 1013
    temporary = True


class TooManyTopics(ServerError):
    code = "too_many_topics"
    http_status = 507
