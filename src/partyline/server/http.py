"""uvicorn's HTTP/1.1 protocol with what it leaves out: deadlines, limits, JSON errors, and a clean upgrade.

What uvicorn lacks, and what therefore is here (docs/decisions/0002-uvicorn-as-the-shell.md; each line has its test in
tests/server/test_uvicorn.py): deadlines for head and body, limits for heads, errors in our form, bytes behind an
upgrade's head, upgrades to protocols we do not speak, and letting go of parser and headers at the upgrade.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from partyline import log
from partyline.errors import HeadTooLarge, MalformedRequest, NotFound, PartylineError, RequestTimeout
from partyline.server.answers import raw_answer
from partyline.server.site import Endpoint, Site, Upgrade
from partyline.server.websocket import WebSocket
from partyline.wire.websocket import handshake

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

_log = log.get("server")

_LINGER = 2.0  # seconds a refused client may go on sending before it is cut
_END_OF_HEAD = b"\r\n\r\n"


class _Phase(Enum):
    """Where a connection is in its current request; the deadline goes with it."""

    IDLE = "between requests"  # uvicorn's keep-alive timer runs
    HEAD = "reading a head"
    BODY = "reading a body"
    HANDLING = "the application has it all"
    LINGER = "refused; what still comes is dropped"


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection until it ends or becomes a WebSocket."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], site: Site) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state)
        self._site = site
        self._address = ""
        self._phase = _Phase.HEAD
        self._head_size = 0  # bytes of the current head, as counted by the parser's callbacks
        self._pending = 0  # bytes fed since the current head began
        self._refusal: PartylineError | None = None
        self._foreign_upgrade = False  # Upgrade names a protocol we do not speak: served as if it were not there
        self.timer_slot = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # In place of uvicorn's own, which asks for the socket: uvloop then keeps a Python object for it, 244 bytes for
        # every connection as long as it lives.
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.server = _address(transport.get_extra_info("sockname"))
        self.client = _address(transport.get_extra_info("peername"))
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        site = self._site
        self._address = self.client[0] if self.client else ""
        self._refusal = site.enter(self._address)
        if site.flooded:
            transport.abort()
            return
        self._phase = _Phase.HEAD
        self._arm(site.limits.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._site.timers.cancel(self)
        self._site.leave(self._address)
        super().connection_lost(exc)
        self._release()

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.LINGER:
            return
        self._unset_keepalive_if_required()
        if self._phase is _Phase.IDLE:
            self._begin_head()
        try:
            if self._phase is _Phase.HEAD:
                self._check_head_size(data)
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            self._refuse(self._cause(error))
            return
        except httptools.HttpParserError as error:
            self._refuse(MalformedRequest(f"this is not an HTTP/1.1 request: {error}"))
            return
        except PartylineError as error:
            self._refuse(error)
            return
        if self._phase is _Phase.BODY:
            if not self.timer_slot:
                self._arm(self._site.limits.body_timeout)
        elif self._phase is not _Phase.HEAD:
            self._site.timers.cancel(self)

    def on_deadline(self, now: float) -> None:
        """The head or the body took too long, or a refused client goes on sending."""
        limits = self._site.limits
        if self._phase is _Phase.LINGER:
            self.transport.abort()
        elif self._phase is _Phase.HEAD and not self._pending:
            self._site.counters.hit("head_timeout")
            self.transport.close()  # it never began a request: there is nothing to answer
        elif self._phase is _Phase.HEAD:
            self._site.counters.hit("head_timeout")
            self._refuse(RequestTimeout(f"the request's head took longer than {limits.head_timeout:g} s"))
        elif self._phase is _Phase.BODY:
            self._site.counters.hit("body_timeout")
            self._refuse(RequestTimeout(f"the request's body took longer than {limits.body_timeout:g} s"))

    def abort(self) -> None:
        """Drop the connection as it is."""
        self.transport.abort()

    # Parser callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._phase is not _Phase.HEAD:
            self._begin_head()
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count_head(len(name) + len(value) + 4)
        if len(self.headers) > self._site.limits.max_headers:
            self._site.counters.hit("max_headers")
            raise HeadTooLarge(f"more than {self._site.limits.max_headers} headers")

    def on_headers_complete(self) -> None:
        if not self._foreign_upgrade:
            self._site.counters.requests += 1
        if self._refusal is not None:
            raise self._refusal
        self._phase = _Phase.BODY
        self._pending = 0
        self._site.timers.cancel(self)
        if self.parser.get_method() == b"CONNECT":
            raise MalformedRequest("CONNECT is for proxies, and this is none")
        if self.parser.should_upgrade():
            self._foreign_upgrade = b"websocket" not in _tokens(self._get_upgrade() or b"")
            self.scope["method"] = self.parser.get_method().decode("ascii")
            self.scope["http_version"] = self.parser.get_http_version()
            return  # the parser stops behind this head and raises HttpParserUpgrade
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.cycle.response_complete:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._phase = _Phase.HANDLING
        self._foreign_upgrade = False
        super().on_message_complete()
        if self.cycle.response_complete:  # answered before the body was all in
            self._phase = _Phase.IDLE

    def on_response_complete(self) -> None:
        if self._phase is _Phase.HANDLING and not self.pipeline:
            self._phase = _Phase.IDLE
        super().on_response_complete()

    # Heads

    def _begin_head(self) -> None:
        self._phase = _Phase.HEAD
        self._pending = 0
        self._arm(self._site.limits.head_timeout)

    def _check_head_size(self, data: bytes) -> None:
        """Bound what the parser gathers of a head that does not end."""
        limit = self._site.limits.max_head_bytes
        if self._pending + len(data) > limit:
            end = data.find(_END_OF_HEAD)
            if end < 0 or self._pending + end > limit:
                self._head_too_large()
        self._pending += len(data)

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._site.limits.max_head_bytes:
            self._head_too_large()

    def _head_too_large(self) -> None:
        self._site.counters.hit("max_head_bytes")
        raise HeadTooLarge(f"the request's head is larger than {self._site.limits.max_head_bytes} bytes")

    # Upgrades

    def _upgraded(self, rest: bytes) -> None:
        """The head asked for another protocol; `rest` came behind it in the same read."""
        if self._foreign_upgrade:
            self._serve_without_upgrade(rest)
            return
        url = httptools.parse_url(self.url)
        site = self._site
        try:
            peer = site.perimeter.admit(self._address, self.scheme or "http", self.headers)
            path = unquote(url.path.decode("ascii", "replace"))
            endpoint = site.route(Upgrade(path, url.query or b"", self.headers, peer))
            if endpoint is None:
                if self.ws_protocol_class is None:
                    raise NotFound("there is no WebSocket at this address")
                self._hand_to_application(rest)
                return
            accepted = handshake.accept(
                self.scope["method"],
                self.scope["http_version"],
                self.headers,
                subprotocols=endpoint.subprotocols,
                deflate=endpoint.deflate,
            )
        except PartylineError as error:
            self._refuse(error)
            return
        except httptools.HttpParserError:
            self._refuse(MalformedRequest("the request's target is not a URL"))
            return
        self._become_websocket(endpoint, accepted, rest)

    def _become_websocket(self, endpoint: Endpoint, accepted: handshake.Accepted, rest: bytes) -> None:
        site, transport = self._site, self.transport
        websocket = WebSocket(
            site, endpoint.session, self._address, endpoint.limits or site.limits.message, accepted.deflate
        )
        self._leave_transport()
        transport.set_protocol(websocket)
        websocket.start(transport, accepted.head, rest)

    def _hand_to_application(self, rest: bytes) -> None:
        """An upgrade on a path that is not ours goes to uvicorn's own ASGI WebSocket."""
        transport = self.transport
        self._site.timers.cancel(self)
        self._site.leave(self._address)
        self.handle_websocket_upgrade()
        if rest:
            cast("asyncio.Protocol", transport.get_protocol()).data_received(rest)
        self._release()

    def _leave_transport(self) -> None:
        self._site.timers.cancel(self)
        self.connections.discard(self)
        self._release()

    def _release(self) -> None:
        """Break the cycles between this object, its parser and its request: what stays is collected late or never."""
        self.parser = None  # type: ignore[assignment]
        self.scope = self.headers = self.cycle = self.flow = None  # type: ignore[assignment]
        self.transport = None  # type: ignore[assignment]

    def _serve_without_upgrade(self, rest: bytes) -> None:
        """RFC 9110 7.8: an Upgrade we do not know is ignored. Java's HTTP client sends one (h2c) with every request.

        The parser stopped behind the head without reading the body, so a fresh one gets the head again, without it.
        """
        head = [self.scope["method"].encode() + b" " + self.url + b" HTTP/1.1"]
        for name, value in self.headers:
            if name not in (b"upgrade", b"http2-settings"):
                if name == b"connection":
                    value = b", ".join(t for t in _tokens(value) if t not in (b"upgrade", b"http2-settings"))
                head.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self._phase = _Phase.HEAD
        self._head_size = self._pending = 0
        self.data_received(b"\r\n".join(head) + _END_OF_HEAD + rest)

    # Refusals

    def _cause(self, error: httptools.HttpParserCallbackError) -> PartylineError:
        """Why a callback stopped the parser: one of our refusals, or a target that uvicorn cannot read."""
        cause = error.__context__
        if isinstance(cause, PartylineError):
            return cause
        if not isinstance(cause, httptools.HttpParserError | UnicodeDecodeError):
            self._site.counters.errors += 1
            _log.error("a request's head could not be handled", exc_info=cause)
        return MalformedRequest("the request's target is not a URL in ASCII")

    def _refuse(self, error: PartylineError) -> None:
        """Answer with `error` and end the connection; a handler in the middle of this request sees a disconnect."""
        site = self._site
        if 400 <= error.http_status < 500:
            site.counters.refused += 1
        _log.info("refused", code=error.code, status=error.http_status, address=self._address)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
                return
        self.transport.write(raw_answer(error))
        self._phase = _Phase.LINGER
        # Closing with unread bytes in the socket resets the connection, and the client might never see the answer.
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._arm(_LINGER)
        else:
            self.transport.close()

    def _arm(self, seconds: float) -> None:
        timers = self._site.timers
        timers.set(self, timers.now() + seconds)


def _tokens(value: bytes) -> list[bytes]:
    """The parts of a list header, in lower case."""
    return [token.strip().lower() for token in value.split(b",")]


def _address(name: object) -> tuple[str, int] | None:
    """Host and port of a socket's name; None for one that has none (a Unix socket)."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else None
