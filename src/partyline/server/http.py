"""uvicorn's HTTP/1.1 protocol with what it leaves out: deadlines, limits, JSON errors, and a clean upgrade.

What uvicorn lacks, and what therefore is here (docs/decisions/0002-uvicorn-as-the-shell.md; each line has its test in
tests/server/test_uvicorn.py): deadlines for head and body, limits for heads, errors in our form, bytes behind an
upgrade's head, upgrades to protocols we do not speak, and letting go of parser and headers at the upgrade.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from partyline import log
from partyline.errors import HeadTooLarge, MalformedRequest, NotFound, PartylineError, RequestTimeout
from partyline.server.answers import raw_answer
from partyline.server.exchange import Direct, Exchange, Headers, head_lines, status_line
from partyline.server.known import Known, Request
from partyline.server.site import Endpoint, Site, Upgrade
from partyline.server.websocket import WebSocket
from partyline.wire.websocket import handshake

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

_log = log.get("server")

_LINGER = 2.0  # seconds a refused client may go on sending before it is cut
_NOTHING_YET = -1  # bytes since the last of a body, where none of it has come
_END_OF_HEAD = b"\r\n\r\n"


class _Phase(Enum):
    """Where a connection is in its current request; the deadline goes with it."""

    IDLE = "between requests"  # uvicorn's keep-alive timer runs
    HEAD = "reading a head"
    BODY = "reading a body"
    HANDLING = "the application has it all"
    LINGER = "refused; what still comes is dropped"
    GONE = "lost, or a WebSocket now"


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection until it ends or becomes a WebSocket."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], site: Site) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state)
        self.access_log = False  # it would log tokens and the ids in /ws/<id>
        self.site = site
        self._address = ""
        self._phase = _Phase.HEAD
        self._head_size = 0  # bytes of the current head, as counted by the parser's callbacks
        self._pending = 0  # bytes fed since the current head began, or since the last of a body
        self._refusal: PartylineError | None = None
        self._known: dict[bytes, Known] | None = None  # by target, heads of requests that were answered without ASGI
        self._foreign_upgrade = False  # Upgrade names a protocol we do not speak: served as if it were not there
        self._head_end = b""  # the last bytes of an unfinished head: its end may come in two pieces
        self._running: RequestResponseCycle | None = None  # the request whose answer is being made
        self._later: Callable[[], None] | None = None  # what waits for the answers to earlier requests
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
        site = self.site
        self._address = self.client[0] if self.client else ""
        self._refusal = site.enter(self._address)
        if site.flooded:
            transport.abort()
            return
        self._phase = _Phase.HEAD
        self._arm(site.limits.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self.site.timers.cancel(self)
        self.site.leave(self._address)
        # uvicorn tells the newest request only; those before it in the pipeline would wait for ever.
        for cycle in (self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        self._release()

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.LINGER or self._later is not None:
            return
        self._unset_keepalive_if_required()
        if self._phase is _Phase.IDLE:
            if self._known is not None and self._repeat(self._known, data):
                return
            self._begin_head()
        try:
            if self._phase is _Phase.HEAD:
                self._check_head_size(data)
            elif self._phase is _Phase.BODY:
                self._pending = max(0, self._pending) + len(data)
            began_with, begins = self._phase, self._phase is _Phase.HEAD and self._pending == len(data)
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            self._when_answered(lambda: self._upgraded(rest))
            return
        except httptools.HttpParserCallbackError as error:
            self._refuse_next(self._cause(error))
            return
        except httptools.HttpParserError as error:
            self._refuse_next(MalformedRequest(f"this is not an HTTP/1.1 request: {error}"))
            return
        except PartylineError as error:
            self._refuse_next(error)
            return
        if self._phase is _Phase.BODY:
            if not self.timer_slot:
                self._arm(self.site.limits.body_timeout)
            self._check_trailer_size(data if began_with is _Phase.HEAD else b"")
        elif self._phase is not _Phase.HEAD:
            self.site.timers.cancel(self)
            if begins:
                self._remember(data)

    def on_deadline(self, now: float) -> None:
        """The head or the body took too long, or a refused client goes on sending."""
        limits = self.site.limits
        if self._phase is _Phase.LINGER:
            self.transport.abort()
        elif self._phase is _Phase.HEAD and not self._pending:
            self.site.counters.hit("head_timeout")
            self.transport.close()  # it never began a request: there is nothing to answer
        elif self._phase is _Phase.HEAD:
            self.site.counters.hit("head_timeout")
            self._refuse(RequestTimeout(f"the request's head took longer than {limits.head_timeout:g} s"))
        elif self._phase is _Phase.BODY:
            self.site.counters.hit("body_timeout")
            self._refuse(RequestTimeout(f"the request's body took longer than {limits.body_timeout:g} s"))

    def abort(self) -> None:
        """Drop the connection as it is."""
        if self._phase is not _Phase.GONE:
            self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        self.site.counters.hit("keep_alive_timeout")
        super().timeout_keep_alive_handler()

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
        if len(self.headers) > self.site.limits.max_headers:
            raise HeadTooLarge(f"more than {self.site.limits.max_headers} headers", limit="max_headers")

    def on_headers_complete(self) -> None:
        if not self._foreign_upgrade:
            self.site.counters.requests += 1
        if self._refusal is not None:
            raise self._refusal
        self._phase = _Phase.BODY
        self._pending = _NOTHING_YET
        self.site.timers.cancel(self)
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            raise MalformedRequest("this server speaks HTTP/1.1")
        if self.parser.get_method() == b"CONNECT":
            raise MalformedRequest("CONNECT is for proxies, and this is none")
        if self.parser.should_upgrade():
            # Any of several Upgrade headers, as any of several Connection headers made the parser stop here.
            named = [value for name, value in self.headers if name == b"upgrade"]
            self._foreign_upgrade = not any(b"websocket" in _tokens(value) for value in named)
            self.scope["method"] = self.parser.get_method().decode("ascii")
            self.scope["http_version"] = self.parser.get_http_version()
            self._phase = _Phase.HANDLING
            return  # the parser stops behind this head and raises HttpParserUpgrade
        url = httptools.parse_url(self.url)
        if url.path is None:
            raise NotFound("there is nothing at this address")
        found = self.site.direct.find(self.parser.get_method(), url.path)
        if found is not None and self._begin_exchange(*found, url.query or b""):
            return
        super().on_headers_complete()
        # uvicorn's request closes the connection by itself where its answer says so; here that must wait for the body.
        self.cycle.transport = cast("asyncio.Transport", _Hangup(self))
        self.scope["partyline.abort"] = self.abort  # type: ignore[typeddict-unknown-key]

    def on_chunk_header(self) -> None:
        """A chunk begins: no trailer yet."""
        self._pending = 0

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        exchange = cast("object", self.cycle)
        if isinstance(exchange, Exchange):
            exchange.take(body)
        elif not self.cycle.response_complete:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._phase = _Phase.HANDLING
        self._foreign_upgrade = False
        exchange = cast("object", self.cycle)
        if isinstance(exchange, Exchange):
            exchange.respond()
        else:
            super().on_message_complete()

    def _begin_exchange(self, direct: Direct, parameter: str, query: bytes) -> bool:
        """Answer this request without ASGI, unless something about it is out of the ordinary."""
        method = self.parser.get_method()
        if method == b"OPTIONS":  # a preflight, perhaps: the layer that knows about CORS answers it
            return False
        if self.expect_100_continue or not (self.cycle is None or self.cycle.response_complete):
            return False
        origin: bytes | None = None
        for name, value in self.headers:
            if name == b"origin":
                origin = value
            elif name == b"content-encoding":
                return False
        try:
            peer = self.site.perimeter.admit(self._address, self.scheme or "http", self.headers)
        except PartylineError:
            return False  # the gate refuses it
        cors = b"" if origin is None else head_lines(self.site.cors(origin))
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        exchange = _Exchange(
            self, direct, method.decode("ascii"), parameter, query, self.headers, peer, cors, keep_alive=keep_alive
        )
        direct.begin(exchange)
        exchange.check_length()
        self.cycle = self._running = cast("RequestResponseCycle", exchange)
        return True

    def _remember(self, data: bytes) -> None:
        """`data` began with a request. If an exchange has all of it, the next one like it need not be parsed."""
        exchange = cast("object", self.cycle)
        if isinstance(exchange, Exchange) and (request := Request.of(data)) is not None:
            known = Known.of(request, exchange)
            if known is not None:
                self._known = {} if self._known is None else self._known
                self._known[request.target] = known

    def _repeat(self, known_heads: dict[bytes, Known], data: bytes) -> bool:
        """Take `data` as a request whose head is known; False where it is none, and nothing has happened."""
        request = Request.of(data)
        known = None if request is None else known_heads.get(request.target)
        if request is None or known is None:
            return False
        headers = known.headers_of(request)
        if headers is None or len(request.body) > known.direct.max_body:
            return False
        site = self.site
        if len(data) - len(request.body) > site.limits.max_head_bytes:
            return False
        site.counters.requests += 1
        exchange = _Exchange(
            self, known.direct, known.method, known.parameter, request.query, headers, known.peer, known.cors
        )
        try:
            known.direct.begin(exchange)
        except PartylineError:
            return False  # read the usual way, it is refused
        if request.body:
            exchange.take(request.body)
        self.cycle = self._running = cast("RequestResponseCycle", exchange)
        self._phase = _Phase.HANDLING
        exchange.respond()
        return True

    def send_answer(self, exchange: Exchange, status: int, headers: Headers, body: bytes) -> None:
        assert isinstance(exchange, _Exchange)
        parts = [status_line(status), self.site.head, exchange.cors, head_lines(headers)]
        if not exchange.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"content-length: %d\r\n\r\n" % len(body))
        if exchange.method != "HEAD":
            parts.append(body)
        exchange.whole = b"".join(parts)
        self.site.turn.add(exchange)

    def count_refusal(self, error: PartylineError) -> None:
        self.site.counters.refuse(error)

    def count_failure(self) -> None:
        self.site.counters.errors += 1

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._phase is _Phase.GONE:
            return  # the client left meanwhile
        if self._phase is _Phase.HANDLING and not self.pipeline:
            self._phase = _Phase.IDLE
        super().on_response_complete()
        if self._phase is _Phase.BODY and self.cycle.response_complete:
            # Answered before the body was all in: what still comes of it could not be told from a next request.
            self._linger()
        elif self._later is not None and self.cycle.response_complete:
            self._unset_keepalive_if_required()
            later, self._later = self._later, None
            later()

    # Heads

    def _begin_head(self) -> None:
        self._phase = _Phase.HEAD
        self._pending = 0
        self._head_end = b""
        self._arm(self.site.limits.head_timeout)

    def _check_head_size(self, data: bytes) -> None:
        """Bound what the parser gathers of a head that does not end."""
        limit = self.site.limits.max_head_bytes
        if self._pending + len(data) > limit:
            before = self._head_end
            end = (before + data).find(_END_OF_HEAD)
            if end < 0 or self._pending - len(before) + end > limit:
                raise self._head_too_large()
        self._pending += len(data)
        self._head_end = (self._head_end + data[-3:])[-3:]

    def _check_trailer_size(self, data: bytes) -> None:
        """Bound what the parser gathers of a chunked body's trailer: bytes since the last of the body.

        `data` is what a head came with, if one did: what stands behind it counts.
        """
        if self._pending == _NOTHING_YET:
            self._pending = len(data) - data.rfind(_END_OF_HEAD) - len(_END_OF_HEAD) if data else 0
        if self._pending > self.site.limits.max_head_bytes:
            self._refuse(self._head_too_large())

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self.site.limits.max_head_bytes:
            raise self._head_too_large()

    def _head_too_large(self) -> HeadTooLarge:
        limit = self.site.limits.max_head_bytes
        return HeadTooLarge(f"the request's head is larger than {limit} bytes", limit="max_head_bytes")

    # Upgrades

    def _upgraded(self, rest: bytes) -> None:
        """The head asked for another protocol; `rest` came behind it in the same read."""
        if self._foreign_upgrade:
            self._serve_without_upgrade(rest)
            return
        url = httptools.parse_url(self.url)
        site = self.site
        try:
            peer = site.perimeter.admit(self._address, self.scheme or "http", self.headers)
            path = unquote((url.path or b"").decode("ascii", "replace"))
            endpoint = site.find(Upgrade(path, url.query or b"", self.headers, peer))
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
                extra=endpoint.headers,
            )
        except PartylineError as error:
            self._refuse(error)
            return
        except httptools.HttpParserError:
            self._refuse(MalformedRequest("the request's target is not a URL"))
            return
        self._become_websocket(endpoint, accepted, rest)

    def _become_websocket(self, endpoint: Endpoint, accepted: handshake.Accepted, rest: bytes) -> None:
        site, transport = self.site, self.transport
        websocket = WebSocket(site, endpoint, self._address, accepted.deflate)
        self._leave_transport()
        transport.set_protocol(websocket)
        websocket.start(transport, accepted.head, rest)

    def _hand_to_application(self, rest: bytes) -> None:
        """An upgrade on a path that is not ours goes to uvicorn's own ASGI WebSocket."""
        transport = self.transport
        self.site.timers.cancel(self)
        self.handle_websocket_upgrade()  # counted on: see `counted` below
        if rest:
            cast("asyncio.Protocol", transport.get_protocol()).data_received(rest)
        self._release()

    def _leave_transport(self) -> None:
        self.site.timers.cancel(self)
        self.connections.discard(self)
        self._release()

    def _release(self) -> None:
        """Break the cycles between this object, its parser and its request: what stays is collected late or never."""
        self.parser = None  # type: ignore[assignment]
        self.scope = self.headers = self.cycle = self.flow = None  # type: ignore[assignment]
        self.transport = None  # type: ignore[assignment]
        self._running = self._later = self._known = None
        self._phase = _Phase.GONE

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

    def _when_answered(self, action: Callable[[], None]) -> None:
        """Do it once every earlier request of this connection has its answer (RFC 9112 9.3.2)."""
        if self.cycle is None or self.cycle.response_complete:
            action()
        else:
            self._later = action
            self.site.timers.cancel(self)
            self.flow.pause_reading()

    def _refuse_next(self, error: PartylineError) -> None:
        """Refuse what was being read: behind the answers to earlier requests, or in place of its own."""
        if self._phase is _Phase.BODY:
            self._refuse(error)
        else:
            self._when_answered(lambda: self._refuse(error))

    def _cause(self, error: httptools.HttpParserCallbackError) -> PartylineError:
        """Why a callback stopped the parser: one of our refusals, or a target that uvicorn cannot read."""
        cause = error.__context__
        if isinstance(cause, PartylineError):
            return cause
        if not isinstance(cause, httptools.HttpParserError | UnicodeDecodeError):
            self.site.counters.errors += 1
            _log.error("a request's head could not be handled", exc_info=cause)
        return MalformedRequest("the request's target is not a URL in ASCII")

    def _refuse(self, error: PartylineError) -> None:
        """Answer with `error` and end the connection; a handler in the middle of this request sees a disconnect."""
        site = self.site
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
        if error.limit is not None:
            site.counters.hit(error.limit)
        self.transport.write(raw_answer(error))
        self._linger()

    def _linger(self) -> None:
        """End our side, and let the client run out for a moment.

        Closing with unread bytes in the socket resets the connection, and the client might never see the answer.
        """
        if self._phase is _Phase.LINGER or self.transport.is_closing():
            return
        self._phase = _Phase.LINGER
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
            self._arm(_LINGER)
        else:
            self.transport.close()

    def hang_up(self) -> None:
        """The answer was the last one of this connection."""
        if self._phase is _Phase.BODY:
            self._linger()
        elif self.transport is not None:
            self.transport.close()

    def _arm(self, seconds: float) -> None:
        timers = self.site.timers
        timers.set(self, timers.now() + seconds)


class _Exchange(Exchange):
    """What uvicorn, and the connection, look at in a request of theirs."""

    __slots__ = ("response_complete", "whole")

    whole: bytes

    def __init__(self, protocol: HttpProtocol, *request: Any, keep_alive: bool = True) -> None:
        super().__init__(protocol, *request, keep_alive=keep_alive)
        self.response_complete = False

    @property
    def response_started(self) -> bool:
        return self.answered

    @property
    def message_event(self) -> _Exchange:
        return self

    def set(self) -> None:
        if self.disconnected:
            self.lost()

    def leave(self) -> None:
        protocol = cast("HttpProtocol", self._connection)
        if self.disconnected or protocol.transport.is_closing():
            return
        self.response_complete = True
        protocol.transport.write(self.whole)
        if not self.keep_alive:
            protocol.hang_up()
        protocol.on_response_complete()


class _Hangup:
    """The transport as one request sees it: closing it is up to the connection."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        transport = self._protocol.transport
        if transport is not None:
            transport.write(data)

    def is_closing(self) -> bool:
        transport = self._protocol.transport
        return transport is None or transport.is_closing()

    def close(self) -> None:
        self._protocol.hang_up()


def counted(base: type[asyncio.Protocol], site: Site) -> type[asyncio.Protocol]:
    """uvicorn's own WebSocket class, whose connections stay counted until they are lost."""

    class Counted(base):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: asyncio.Transport) -> None:
            self._partyline_address = (_address(transport.get_extra_info("peername")) or ("", 0))[0]
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            site.leave(self._partyline_address)
            super().connection_lost(exc)

    return Counted


def _tokens(value: bytes) -> list[bytes]:
    """The parts of a list header, in lower case."""
    return [token.strip().lower() for token in value.split(b",")]


def _address(name: object) -> tuple[str, int] | None:
    """Host and port of a socket's name; None for one that has none (a Unix socket)."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else None
