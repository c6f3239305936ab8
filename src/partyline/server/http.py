"""One HTTP connection on a transport of the loop: bytes to requests, answers to bytes, until it ends or becomes a
WebSocket.

The request in hand is an `Exchange` (answered without ASGI) or a `Cycle` (for an ASGI application). wire/http/ parses;
this file has the deadlines, limits, refusals and turns. A connection has no task, loop timer or future of its own: an
idle one is this object and its place in the timing wheel.

Long because every step of a request changes the same few fields: the phase, what is in hand, the deadline.
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter
from typing import Final, Protocol, cast

from partyline import log
from partyline.errors import NotFound, Overloaded, PartylineError, RequestTimeout
from partyline.hub.timers import SLOT
from partyline.server.answers import raw_answer
from partyline.server.cycle import CONTINUE, Cycle
from partyline.server.exchange import REQUEST_LINE, Exchange, Known, head_lines, status_line
from partyline.server.fair import SLICE
from partyline.server.fetching import Fetching
from partyline.server.foreign import ForeignSocket
from partyline.server.served import NOBODY, Options, Served, address_of
from partyline.server.site import Endpoint, Live, Site, Upgrade
from partyline.server.websocket import WebSocket
from partyline.trust.perimeter import Peer
from partyline.wire.http.body import Body, body_of
from partyline.wire.http.head import Head, Headers, HeadReader, complete_lines, path_text, request_head
from partyline.wire.http.phases import TRANSITIONS, Phase, Step
from partyline.wire.websocket import handshake

_log = log.get("server")

_HEAD_END: Final = b"\r\n\r\n"
_LAST_HEAD_END: Final = b"\r\nconnection: close\r\n\r\n"
_LINGER_SECONDS: Final = 2.0  # seconds a refused client may go on sending before it is cut
_NEVER: Final = float("inf")
_BACKLOG: Final = 64 * 1024  # bytes of a body that wait for an application before reading pauses
_LARGE: Final = 64 * 1024  # bytes; an answer of this size may have to wait for its reader
_UNREAD: Final = 128  # times outbox_bytes: the bound of all unread answers together
_MOST_KNOWN: Final = 8  # heads that a connection remembers
_ACCEPT: Final = 0.0004  # seconds that a connection costs besides what is measured here
_DIRECT_COST: Final = 0.0001  # likewise for a request
_ASGI_COST: Final = 0.0003  # seconds that a request to an application counts for: its steps cannot be measured


# On Python 3.11 a look-up in an Enum takes ten times as long as one in this file, and each read makes several.
_IDLE: Final = Phase.IDLE
_HEAD: Final = Phase.HEAD
_BODY: Final = Phase.BODY
_ANSWER: Final = Phase.ANSWER
_LINGER: Final = Phase.LINGER
_CLOSING: Final = Phase.CLOSING
_SWITCHED: Final = Phase.SWITCHED
_BEGIN: Final = Step.BEGIN
_HEAD_WITH_BODY: Final = Step.HEAD
_HEAD_ALONE: Final = Step.HEAD_ALONE
_BODY_WHOLE: Final = Step.BODY
_ANSWERED: Final = Step.ANSWERED
_LAST: Final = Step.LAST
_SWITCH: Final = Step.SWITCH


class InHand(Protocol):
    """What a connection needs of the request in hand."""

    @property
    def headers(self) -> Headers: ...

    @property
    def keep_alive(self) -> bool: ...

    @property
    def answered(self) -> bool:
        """An answer has begun."""

    @property
    def failed(self) -> bool:
        """The answer was a refusal (4xx) or worse."""

    @property
    def watched(self) -> bool:
        """Its handler mainly waits for the client's disconnect."""

    @property
    def backlog(self) -> int:
        """Bytes of the body that have come and have not been taken."""

    def take(self, piece: bytes) -> None: ...

    def respond(self) -> None:
        """The whole body has come."""

    def lost(self) -> None: ...


class HttpConnection(asyncio.Protocol):
    """One connection. Its phases are the table in wire/http/phases.py."""

    __slots__ = (
        "__weakref__",
        "_address",
        "_ahead",
        "_began",
        "_blocked",
        "_body",
        "_deadline",
        "_ended",
        "_in_hand",
        "_known",
        "_paused",
        "_phase",
        "_reader",
        "_refusal",
        "_resting",
        "_served",
        "_site",
        "_spent",
        "_transport",
        "_unread",
        "_useful",
        "timer_slot",
    )

    def __init__(self, served: Served) -> None:
        self._served = served
        self._site = served.site
        self._transport = cast("asyncio.Transport", None)
        self._address = ""
        self._phase = _HEAD
        self._refusal: PartylineError | None = None
        self._ahead = bytearray()  # received bytes that are not parsed yet
        self._reader: HeadReader | None = None
        self._body: Body | None = None
        self._in_hand: InHand | None = None
        self._known: dict[bytes, Known] | None = None  # heads of requests that were answered without ASGI, by target
        self._deadline = _NEVER  # of the phase; the wheel may come earlier, and is then set again
        self._paused = False  # reading is paused
        self._blocked = False  # the transport pushes back: our answers are not read
        self._unread = 0  # bytes that it held at the last check
        self._ended = False  # the client sends no more
        self._resting = False  # it has used its slice, and waits for its turn
        self._useful = False  # a request was answered without a refusal
        self._began = 0.0  # when it was last served, and
        self._spent = 0.0  # seconds since the last answer for which it was
        self.timer_slot = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        site = self._site
        name = address_of(transport.get_extra_info("peername"))
        self._address = name[0] if name else ""
        self._refusal = self._enter()
        site.live.add(self)
        if site.flooded:
            self._transport.abort()
            return
        self._resting = site.fair.owes(self, self._address)
        self._set_deadline(site.limits.head_timeout)

    def _enter(self) -> PartylineError | None:
        """Count it in."""
        return self._site.enter(self._address)

    def connection_lost(self, exc: Exception | None) -> None:
        site = self._site
        site.timers.cancel(self)
        site.live.discard(self)
        site.leave(self._address)
        if self._resting:
            site.fair.forget(self, self._address)
        if not self._useful:
            site.fair.came_for_nothing(self._spent + _ACCEPT, self._address)
        self._count_unread(0)
        self._phase = _CLOSING
        self._ahead.clear()
        in_hand, self._in_hand = self._in_hand, None
        self._reader = self._body = None
        self._transport = cast("asyncio.Transport", None)  # the transport holds us: no cycle may outlive the socket
        if in_hand is not None:
            in_hand.lost()

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase is _LINGER or phase is _CLOSING:
            return
        begins = (phase is _IDLE or phase is _HEAD) and not self._ahead
        if begins and phase is _IDLE and self._known is not None and self._repeat(self._known, data):
            return
        self._ahead += data
        self._read()
        if begins and type(self._in_hand) is Exchange and self._body is None and not self._ahead:
            self._remember(self._in_hand, data)

    def eof_received(self) -> bool:
        """The client sends no more. Its requests are still answered; the transport closes after False."""
        self._ended = True
        if self._transport.get_extra_info("sslcontext"):
            return False  # TLS has no half-closed connections
        if self._phase is _ANSWER:
            return self._in_hand is not None and not self._in_hand.watched
        return bool(self._ahead) and (self._resting or self._blocked)

    def pause_writing(self) -> None:
        self._blocked = True
        self._count_unread(self._transport.get_write_buffer_size())
        self._set_deadline(self._site.limits.body_timeout)

    def resume_writing(self) -> None:
        self._blocked = False
        self._count_unread(0)
        if self._phase is _IDLE:
            self._set_deadline(self._site.limits.keep_alive_timeout)
        elif self._phase is _ANSWER:  # other phases have their own deadline
            self._deadline = _NEVER
        if isinstance(self._in_hand, Cycle | ForeignSocket):
            self._in_hand.writable.set()
        self._read()

    # Deadlines

    def on_deadline(self, now: float) -> None:
        if now < self._deadline:
            if self._deadline < _NEVER:
                self._site.timers.set(self, self._deadline)
            return
        limits, counters = self._site.limits, self._site.counters
        if self._blocked or self._phase is _CLOSING:
            unread = self._transport.get_write_buffer_size()
            if unread < self._unread:
                self._count_unread(unread)
                self._set_deadline(limits.body_timeout)  # its reader is slow, but alive
            else:
                counters.hit("body_timeout")
                self._transport.abort()
        elif self._phase is _LINGER:
            self._transport.abort()
        elif self._resting:
            self._set_deadline(limits.head_timeout)  # the client waits for us
        elif self._phase is _HEAD:
            counters.hit("head_timeout")
            if not self._ahead:
                self._step(Step.LATE)  # it never began a request: there is nothing to answer
                return
            self._refuse(RequestTimeout(f"the request's head took longer than {limits.head_timeout:g} s"))
        elif self._phase is _BODY:
            counters.hit("body_timeout")
            self._refuse(RequestTimeout(f"the request's body took longer than {limits.body_timeout:g} s"))
        elif self._phase is _IDLE:
            counters.hit("keep_alive_timeout")
            self._step(Step.LATE)

    def _set_deadline(self, seconds: float) -> None:
        """Let the phase end in so many seconds. The wheel is touched only if it would come too late."""
        timers = self._site.timers
        self._deadline = deadline = timers.now() + seconds
        if not self.timer_slot or deadline < self.timer_slot * SLOT:
            timers.set(self, deadline)

    def _step(self, step: Step) -> bool:
        """Take a step, and enter the phase that it leads to; False if there is no such step now."""
        after = TRANSITIONS.get((self._phase, step))
        if after is None:
            return False
        self._phase = after
        if after is _LINGER:
            self._linger()
        elif after is _CLOSING:
            self._close()
        return True

    # In

    def _read(self) -> None:
        """Parse what has come, up to the end of one request."""
        ahead, self._began = self._ahead, perf_counter()
        while ahead and not (self._blocked or self._resting):
            if self._phase is _IDLE:
                blank = len(ahead) - len(ahead.lstrip(b"\r\n"))
                del ahead[:blank]  # RFC 9112 2.2
                if ahead:
                    self._step(_BEGIN)
            elif self._phase is _HEAD:
                if not self._read_head(ahead):
                    break
            elif self._phase is _BODY and self._body is not None:
                if self._in_hand is not None and self._in_hand.backlog > _BACKLOG:
                    break
                self._read_body(ahead, self._body)
                if ahead and perf_counter() - self._began > SLICE:
                    self._resting = True
                    self._site.fair.wait(self, SLICE)
            else:
                break
        self._count_time()
        self._after_reading()

    def _count_time(self) -> None:
        now = perf_counter()
        self._spent += now - self._began
        self._began = now

    def _read_head(self, ahead: bytearray) -> bool:
        """Whether a whole head was read, or refused."""
        limits = self._site.limits
        if self._reader is None:
            del ahead[: len(ahead) - len(ahead.lstrip(b"\r\n"))]
            if not ahead:
                return False
            self._reader = HeadReader(limits.max_head_bytes, limits.max_headers)
            self._deadline = _NEVER
        try:
            size = self._reader.feed(ahead)
            if not size:
                if self._deadline == _NEVER:
                    self._set_deadline(limits.head_timeout)
                return False
            self._site.counters.requests += 1
            if self._refusal is not None:
                raise self._refusal
            head = self._reader.head(self._own_host)
            path = path_text(head.path)
        except PartylineError as error:
            self._refuse(error)
            return True
        self._reader = None
        self._deadline = _NEVER
        del ahead[:size]
        self._begin(head, path)
        return True

    def _read_body(self, ahead: bytearray, body: Body) -> None:
        piece = bytes(ahead[: body.wants])
        in_hand = self._in_hand
        try:
            content = body.take(piece)
            del ahead[: len(piece) - len(body.rest)]
            if in_hand is not None and content:
                in_hand.take(content)
        except PartylineError as error:
            self._refuse(error)
            return
        if body.done:
            self._body = None
            self._deadline = _NEVER
            if self._step(_BODY_WHOLE) and in_hand is not None:
                in_hand.respond()

    def _after_reading(self) -> None:
        if self._transport is None or self._phase is _SWITCHED:
            return
        self.regulate()
        if self._ended and self._in_hand is None and not (self._resting or self._blocked):
            self._close()  # the rest is not a whole request, and nothing more will come

    def regulate(self) -> None:
        """Pause or resume reading, depending on how much waits here."""
        waits = len(self._ahead) > self._site.limits.max_head_bytes
        if not waits and self._in_hand is not None:
            waits = self._in_hand.backlog > _BACKLOG
        if waits != self._paused and not self._transport.is_closing():
            self._paused = waits
            (self._transport.pause_reading if waits else self._transport.resume_reading)()

    def read_on(self) -> None:
        """The application has taken everything received of the body."""
        if self._paused:
            self._read()

    # Requests

    def _begin(self, head: Head, path: str) -> None:
        """A head is complete."""
        self._step(_HEAD_WITH_BODY if head.length else _HEAD_ALONE)
        if head.length:
            self._body = body_of(head.length, self._site.limits.max_head_bytes)
            self._set_deadline(self._site.limits.body_timeout)
        try:
            if head.path == b"*" and head.method != "OPTIONS":
                raise NotFound("there is nothing at this address")
            if head.websocket:
                self._upgrade(head, path)
                return
            exchange = self._exchange(head)
        except PartylineError as error:
            self._refuse(error)
            return
        if exchange is None:
            cycle = Cycle(
                self, head, {**self._served.scope(self._transport, "http", head, path), "method": head.method}
            )
            self._in_hand = cycle
            self._served.run(cycle)
        else:
            self._in_hand = exchange
            self._start(exchange, head)

    def _start(self, exchange: Exchange, head: Head) -> None:
        try:
            exchange.direct.begin(exchange)
            exchange.check_head()
        except PartylineError as error:
            exchange.refuse(error)
            return
        except Exception:
            exchange.fail()
            return
        if not head.length:
            exchange.respond()
        elif head.expects:
            self._transport.write(CONTINUE)

    def _exchange(self, head: Head) -> Exchange | None:
        """The exchange to answer this request without ASGI; None if something about it is unusual."""
        site = self._site
        if head.method == "OPTIONS":
            if head.path == b"*" or (head.path == b"/" and head.hostless):
                return Exchange(self, Options(), "OPTIONS", "", b"", [], NOBODY, keep_alive=head.keep_alive)
            return None  # a preflight, perhaps: the layer that knows about CORS answers it
        found = site.direct.find(head.method.encode("ascii"), head.path)
        if found is None:
            return None
        direct, parameter = found
        answers = direct if site.instead is None else site.instead(head.path, head.query, direct)
        if answers is None:
            return None
        origin = next((value for name, value in head.headers if name == b"origin"), None)
        try:
            peer = site.perimeter.admit(self._address, self._scheme, head.headers)
        except PartylineError:
            return None  # the gate refuses it
        cors = head_lines(site.cors(origin))
        return Exchange(
            self, answers, head.method, parameter, head.query, head.headers, peer, cors, keep_alive=head.keep_alive
        )

    def _remember(self, exchange: Exchange, data: bytes) -> None:
        """`data` was the whole request of `exchange`: the next one like it need not be parsed."""
        line = REQUEST_LINE.match(data)
        known = None if line is None else Known.of(data, line.end(), exchange)
        if line is None or known is None:
            return
        if self._known is None or len(self._known) >= _MOST_KNOWN:
            self._known = {}
        self._known[line[1]] = known

    def _repeat(self, known_heads: dict[bytes, Known], data: bytes) -> bool:
        """Take `data` as a request whose head is known; if it is not, returns False and does nothing."""
        line = REQUEST_LINE.match(data)
        known = None if line is None else known_heads.get(line[1])
        if line is None or known is None or self._blocked or self._resting:
            return False
        found = known.read(data, line.end())
        if found is None:
            return False
        (headers, body), site, direct = found, self._site, known.direct
        if len(body) > direct.max_body or len(data) - len(body) > site.limits.max_head_bytes:
            return False
        target, query = line.groups(b"")
        answers = direct if site.instead is None else site.instead(target.partition(b" ")[2], query, direct)
        if answers is None:
            return False
        exchange = Exchange(self, answers, known.method, known.parameter, query, headers, known.peer, known.cors)
        try:
            answers.begin(exchange)
        except PartylineError:
            return False  # parsing it will refuse it
        if body:
            exchange.take(body)
        site.counters.requests += 1
        self._in_hand = exchange
        self._phase = _ANSWER  # as BEGIN, HEAD and BODY lead there
        self._deadline = _NEVER
        exchange.respond()
        return True

    # Out

    def send_answer(self, exchange: Exchange, status: int, headers: Headers, body: bytes) -> None:
        """Send an exchange's answer at the end of this turn."""
        site = self._site
        last = b"" if exchange.keep_alive and not site.draining else b"connection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        if exchange.method == "HEAD":
            body = b""
        exchange.whole = b"".join(
            (status_line(status), site.head, exchange.cors, head_lines(headers), last, length, body)
        )
        site.turn.add(self)

    def leave(self) -> None:
        """The turn of the loop is over (`server.writing.Leaving`)."""
        exchange = self._in_hand
        if type(exchange) is Exchange and exchange.whole:
            if self._phase is _BODY and exchange.keep_alive:  # as in a Cycle
                exchange.keep_alive = False
                exchange.whole = exchange.whole.replace(_HEAD_END, _LAST_HEAD_END, 1)
            self._transport.write(exchange.whole)
            self.answered(exchange)

    def count_refusal(self, error: PartylineError) -> None:
        self._site.counters.refuse(error)

    def count_failure(self) -> None:
        self._site.counters.errors += 1

    def write(self, data: bytes) -> None:
        """Write a piece of an answer."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    @property
    def site(self) -> Site:
        return self._site

    @property
    def ended(self) -> bool:
        """Whether the client sends no more."""
        return self._ended

    @property
    def blocked(self) -> bool:
        """Whether the client does not read what was written."""
        return self._blocked

    def overloaded(self, size: int) -> PartylineError | None:
        """The error if an answer of so many bytes cannot be held: too much is held for clients that do not read."""
        site = self._site
        if size <= _LARGE or site.unread < _UNREAD * site.limits.outbox_bytes:
            return None
        return Overloaded("too many answers wait for clients that do not read: come back later", limit="outbox_bytes")

    def answered(self, in_hand: InHand) -> None:
        """The answer to the request in hand is out."""
        if self._in_hand is not in_hand:
            return
        self._in_hand = None
        cost, self._spent = self._spent + (_ASGI_COST if type(in_hand) is Cycle else _DIRECT_COST), 0.0
        self._useful |= not in_hand.failed
        last = not in_hand.keep_alive or self._site.draining
        if not self._step(_LAST if last else _ANSWERED) or self._phase is not _IDLE:
            return
        if self._paused:
            self.regulate()  # the rest of its body no longer waits for the application
        if not self._blocked:
            self._set_deadline(self._site.limits.keep_alive_timeout)
        if self._ahead:
            # Not at once: all others have their turn first. A client that pipelines counts as a stranger.
            self._resting = True
            if not self._site.fair.stranger(self, cost, self._address):
                self._site.fair.wait(self, cost)
        elif self._ended:
            self._close()
        elif in_hand.failed:  # it counts as a stranger, too
            self._resting = self._site.fair.stranger(self, cost, self._address)

    def go_on(self) -> None:
        """Its turn has come (`server.fair.Busy`)."""
        self._resting = False
        if self._transport is not None:
            self._read()

    # Upgrades

    def _upgrade(self, head: Head, path: str) -> None:
        """The head asks for a WebSocket; the bytes ahead follow it. Raises PartylineError."""
        site = self._site
        peer = site.perimeter.admit(self._address, self._scheme, head.headers)
        if site.elsewhere is not None and (owner := site.elsewhere.owner(head.path, head.query)) is not None:
            self._pass_on(owner, head)
        elif site.fetch is not None and (fetched := site.fetch(path)) is not None:
            self._in_hand = Fetching(fetched, head.headers, partial(self._fetched, head, path, peer))
        else:
            self._switch(head, path, peer)

    def _fetched(self, head: Head, path: str, peer: Peer, error: PartylineError | None) -> None:
        """What the WebSocket is for is here now, or nowhere."""
        self._began = perf_counter()
        try:
            if error is not None:
                raise error
            self._switch(head, path, peer)
        except PartylineError as refusal:
            self._refuse(refusal)

    def _switch(self, head: Head, path: str, peer: Peer) -> None:
        site = self._site
        endpoint = site.find(Upgrade(path, head.query, head.headers, peer))
        if endpoint is not None:
            accepted = handshake.accept(
                head.method,
                head.version,
                head.headers,
                subprotocols=endpoint.subprotocols,
                deflate=endpoint.deflate,
                extra=endpoint.headers,
            )
            self._count_time()
            self.become_websocket(endpoint, accepted)
        elif self._served.foreign:
            handshake.accept(head.method, head.version, head.headers)
            scope = self._served.scope(self._transport, "websocket", head, path)
            foreign = ForeignSocket(self, head, scope)
            self._in_hand = foreign
            self._served.run(foreign)
        else:
            raise NotFound("there is no WebSocket at this address")

    def _pass_on(self, owner: int, head: Head) -> None:
        """The connection becomes another worker's, which reads it from this head on. Raises Overloaded."""
        transport, elsewhere = self._transport, self._site.elsewhere
        assert elsewhere is not None
        transport.pause_reading()
        if transport.get_extra_info("sslcontext"):
            self._tunnel(owner, request_head(head) + bytes(self._ahead))
            return
        descriptor = transport.get_extra_info("socket").fileno()
        if not elsewhere.pass_on(owner, descriptor, request_head(head) + bytes(self._ahead)):
            raise Overloaded("the worker that has this session is being replaced: try again in a moment")
        self._step(_SWITCH)
        self._useful = True
        transport.abort()  # our end of it only

    def _tunnel(self, owner: int, data: bytes) -> None:
        """Another worker reads the connection from here on, through this one."""
        site, address = self._site, self._address
        assert site.elsewhere is not None
        self._step(_SWITCH)

        def gone(tunnel: Live) -> None:
            site.live.discard(tunnel)
            site.leave(address)

        site.timers.cancel(self)
        site.live.discard(self)
        transport, self._transport = self._transport, cast("asyncio.Transport", None)
        self._ahead.clear()
        site.live.add(site.elsewhere.tunnel(owner, transport, data, gone))

    def become_websocket(self, endpoint: Endpoint, accepted: handshake.Accepted) -> WebSocket:
        """Hand the connection over to a WebSocket."""
        site, transport = self._site, self._transport
        self._step(_SWITCH)
        self._in_hand = None
        websocket = WebSocket(site, endpoint, self._address, accepted.deflate, self._spent + _ACCEPT)
        site.timers.cancel(self)
        site.live.discard(self)
        if self._paused:
            transport.resume_reading()
        self._transport = cast("asyncio.Transport", None)
        self._known = None
        transport.set_protocol(websocket)
        websocket.start(transport, accepted.head, bytes(self._ahead))
        self._ahead.clear()
        return websocket

    # The end

    def refuse(self, error: PartylineError) -> None:
        """Refuse the request in hand, and end the connection."""
        self._refuse(error)

    def _refuse(self, error: PartylineError) -> None:
        """Answer with `error` and end the connection; a handler in the middle of this request sees a disconnect."""
        site, in_hand = self._site, self._in_hand
        if 400 <= error.http_status < 500:
            site.counters.refused += 1
        _log.info("refused", code=error.code, status=error.http_status, address=self._address)
        self._in_hand = None
        if in_hand is not None:
            begun = in_hand.answered
            in_hand.lost()
            if begun:
                self._transport.abort()
                return
        if error.limit is not None:
            site.counters.hit(error.limit)
        headers = complete_lines(bytes(self._ahead)) if in_hand is None else in_hand.headers
        self.write(raw_answer(error, self._cors(headers)))
        self._step(Step.REFUSE)

    def _cors(self, headers: Headers) -> Headers:
        """The headers that let a page of an allowed origin read a refusal."""
        origin = next((value for name, value in headers if name == b"origin"), None)
        if origin is None:
            return self._site.cors(None)
        try:
            self._site.perimeter.admit(self._address, self._scheme, headers)
        except PartylineError:
            return []
        return self._site.cors(origin)

    def _linger(self) -> None:
        """End our side, and let the client finish for a moment.

        Closing with unread bytes in the socket resets the connection, and the client might never see the answer.
        """
        self._ahead.clear()
        self._reader = self._body = None
        transport = self._transport
        if not transport.can_write_eof() or transport.is_closing():
            self._close()
            return
        transport.write_eof()
        if self._paused:
            self._paused = False
            transport.resume_reading()
        self._set_deadline(_LINGER_SECONDS)

    def _close(self) -> None:
        """Close; whatever was written still leaves, if the client reads it."""
        self._phase = _CLOSING
        self._transport.close()
        self._set_deadline(self._site.limits.body_timeout)

    def abort(self) -> None:
        """Drop the connection as it is (`server.site.Live`)."""
        if self._transport is not None:
            self._transport.abort()

    def shutdown(self) -> None:
        """The server stops: finish the request in hand (`server.site.Live`)."""
        self._step(Step.DRAIN)

    # The rest

    @property
    def _scheme(self) -> str:
        return "https" if self._transport.get_extra_info("sslcontext") else "http"

    def _own_host(self) -> bytes:
        name = address_of(self._transport.get_extra_info("sockname"))
        if name is None:
            return b"localhost"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{host}:{name[1]}".encode("latin-1")

    def _count_unread(self, size: int) -> None:
        self._site.unread += size - self._unread
        self._unread = size
