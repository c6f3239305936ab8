"""The ASGI transport: carries the same sessions on the WebSockets of the ASGI server that runs us.

They are slower than those of server/websocket.py: each has two tasks and an outbox, and the server frames every message
again. That server is responsible for heartbeats, compression and further limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from time import monotonic
from typing import Self

from starlette.types import Receive, Scope, Send

from partyline import log
from partyline.errors import CONTAINED, NotFound, PartylineError
from partyline.hub.outbox import Outbox, end_slow
from partyline.interfaces import Dialect, Finishes, Session
from partyline.metrics import Counters
from partyline.models import Payload
from partyline.server.answers import SAFETY_HEADERS, answer_error
from partyline.server.fair import SLICE
from partyline.server.site import Endpoint, Site, Upgrade
from partyline.server.websocket import CUT_OFF, STRANGERS, STRANGERS_BYTES
from partyline.server.writing import consists_of
from partyline.trust.rate import Gate
from partyline.wire.websocket import frames

_log = log.get("server")

_HIGH_WATER = 64 * 1024  # bytes, as in asyncio's transports
_LAST_WORDS = 1.0  # seconds
_EACH = 20e-6  # seconds that a message costs the ASGI server, which we cannot measure
_HEAD = 6  # bytes of the shortest head of a client's frame (RFC 6455 5.2)
_SCHEMES = {"ws": "http", "wss": "https"}


async def serve_websocket(site: Site, scope: Scope, receive: Receive, send: Send, *, counted: bool = False) -> None:
    """Serve a `websocket` scope to its end: find the endpoint and open it, or refuse.

    `counted` says that it came through our own server, which has counted the connection. A refusal has its status if
    the server supports that (the extension `websocket.http.response`), and is 403 otherwise. Cancelling it tells a
    connected client to come back.
    """
    await receive()  # websocket.connect
    client = scope.get("client")
    address = client[0] if client else ""
    refusal = None if counted else site.enter(address)
    try:
        try:
            if refusal is not None:
                raise refusal
            endpoint = await _find(site, scope, address)
        except PartylineError as error:
            site.counters.refused += 1
            if error.limit is not None:
                site.counters.hit(error.limit)
            _log.info("refused", code=error.code, status=error.http_status, address=address)
            await refuse_websocket(error, scope, send)
        else:
            await AsgiWebSocket(site, endpoint, address).serve(_subprotocol(endpoint, scope), receive, send)
    except OSError:
        pass  # the client left before it got its answer
    finally:
        if not counted:
            site.leave(address)


def mounted_path(scope: Scope) -> str:
    """The path of a request, relative to where the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


async def _find(site: Site, scope: Scope, address: str) -> Endpoint:
    """Raises PartylineError."""
    scheme: str = scope.get("scheme", "ws")
    headers = list(scope["headers"])
    if scope.get("subprotocols") and not any(name == b"sec-websocket-protocol" for name, _ in headers):
        # uvicorn with wsproto does not pass the header on, and it may hold a credential.
        headers.append((b"sec-websocket-protocol", ", ".join(scope["subprotocols"]).encode("latin-1")))
    peer = site.perimeter.admit(address, _SCHEMES.get(scheme, scheme), headers)
    path = mounted_path(scope)
    if site.fetch is not None and (fetched := site.fetch(path)) is not None:
        await fetched
    endpoint = site.find(Upgrade(path, scope.get("query_string", b""), headers, peer))
    if endpoint is None:
        raise NotFound("there is no WebSocket at this address")
    return endpoint


def _subprotocol(endpoint: Endpoint, scope: Scope) -> str | None:
    offered = scope.get("subprotocols") or ()
    return next((name for name in endpoint.subprotocols if name in offered), None)


async def refuse_websocket(error: PartylineError, scope: Scope, send: Send) -> None:
    """Answer a `websocket` scope with `error`, after its `websocket.connect` was received."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1000, "reason": ""})
        return
    await answer_error(error, send, "websocket.http", SAFETY_HEADERS)


@dataclass(slots=True, eq=False, repr=False)
class AsgiWebSocket:
    """One WebSocket connection over ASGI. A `server.site.Carrier`.

    The server's task waits for two tasks of ours, a reader and a writer.
    """

    _site: Site
    endpoint: InitVar[Endpoint]
    _address: str
    _session: Session | None = None
    _gate: Gate | None = None
    _credit: int | None = None  # as in server/websocket.py
    # An idle connection takes one payload of any size into `_next`; what comes after it is queued.
    _next: Payload | None = None
    _writing: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _drain: asyncio.Future[None] | None = None
    _held: asyncio.Event | None = None  # reading waits until it is set
    _reader: asyncio.Task[None] | None = None
    _closing: bool = False  # nothing more is queued
    _farewell: tuple[int, str] | None = None  # our close, after what is queued
    timer_slot: int = 0
    user: str | None = None
    rooms: tuple[str, ...] | set[str] = ()
    dialect: Dialect = field(init=False)
    _counters: Counters = field(init=False)
    _headers: tuple[tuple[bytes, bytes], ...] = field(init=False)
    _max_message: int = field(init=False)
    _outbox: Outbox = field(init=False)
    _high_water: int = field(init=False)
    pings = False
    deflate = None

    def __post_init__(self, endpoint: Endpoint) -> None:
        site, limits = self._site, self._site.limits
        self._counters = site.counters
        self._session = endpoint.session
        self._headers = endpoint.headers
        self._max_message = (endpoint.limits or limits.message).max_message
        if limits.events_per_second:
            hit = site.counters.hit
            self._gate = Gate(limits.events_per_second, limits.events_burst, site.timers.now(), hit)
        if endpoint.stranger:
            self._credit = STRANGERS_BYTES
        self._outbox = Outbox(limits.outbox_bytes)
        self._high_water = min(_HIGH_WATER, limits.outbox_bytes // 2)

    @property
    def session(self) -> Session | None:
        return self._session

    def hand_to(self, session: Session) -> None:
        if self._session is not None:
            self._session = session

    def known(self) -> None:
        self._credit = None

    def said_nothing(self) -> None:
        """Frames are counted by the ASGI server, if at all."""

    async def serve(self, subprotocol: str | None, receive: Receive, send: Send) -> None:
        """Accept, and serve until the client is gone or has answered our close. Raises OSError if it cannot begin.

        Cancelling it tells the client to come back (1012), if that can be sent within a second.
        """
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": list(self._headers)})
        site = self._site
        self._counters.upgrades += 1
        self._reader = asyncio.create_task(self._read(receive))
        writer = asyncio.create_task(self._write(send))
        site.live.add(self)
        try:
            self._open()
            await asyncio.wait((self._reader,))
        except asyncio.CancelledError:  # hypercorn cancels remaining connections when it stops
            self.shutdown()
            await asyncio.wait((writer,), timeout=_LAST_WORDS)
            raise
        finally:
            self._closing = True
            site.timers.cancel(self)
            site.live.discard(self)
            self._counters.dropped += self._outbox.dropped
            self._wake_drained()
            session, self._session = self._session, None
            self._reader.cancel()
            writer.cancel()
            if session is not None:
                session.closed()
            # Bounded, since a server's `receive` or `send` may ignore cancellation.
            await asyncio.wait((self._reader, writer), timeout=_LAST_WORDS)
            if self._reader.done() and not self._reader.cancelled() and (error := self._reader.exception()) is not None:
                _log.info("a connection cannot be read from", error=f"{type(error).__name__}: {error}")

    def _open(self) -> None:
        session = self._session
        assert session is not None
        try:
            session.opened(self)
        except CONTAINED:
            self._counters.errors += 1
            _log.exception("a session could not be opened", session=type(session).__name__)
            self.close(1011, "internal error")
        if self._site.draining:
            self.shutdown()

    # interfaces.Connection

    def offer(self, payload: Payload) -> None:
        """Queue a published message for the writer."""
        if self._closing:
            return
        if not self._writing and self._next is None:
            self._next = payload
            self._wake.set()
        elif not self._outbox.push(payload):
            self._discard()
            end_slow(self, self._counters)

    def send(self, data: bytes) -> None:
        """Queue an answer: whole, uncompressed frames, after what is queued."""
        self.offer(Payload(data))

    def send_text(self, text: str) -> None:
        """Queue a text message."""
        self.send_utf8(frames.utf8(text))

    def send_utf8(self, payload: bytes) -> None:
        self.send(frames.text_frame(payload))

    def send_binary(self, data: bytes) -> None:
        """Queue a binary message."""
        self.send(frames.frame(frames.BINARY, data))

    @property
    def writable(self) -> bool:
        return not self._closing and self._outbox.size <= self._high_water

    def hold(self) -> None:
        """Pause reading until `release`."""
        if self._held is None:
            self._held = asyncio.Event()

    def release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.set()

    async def drained(self) -> None:
        """Return when little is queued, or the connection is gone. Cancelling this loses nothing.

        Little is as much as a transport would take without pausing its protocol.
        """
        while self._outbox.size > self._high_water and not self._closing:
            if self._drain is None:
                self._drain = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drain)

    def discard(self, unwanted: Callable[[str | bytes], bool]) -> None:
        """Drop the queued messages that are `unwanted`. A message that the server has taken is not dropped."""
        matches = consists_of(unwanted)
        self._outbox.discard(matches)
        if self._next is not None and matches(self._next):
            self._next = None
            self._counters.dropped += 1

    def close(self, code: int, reason: str = "") -> None:
        """Close after everything queued, then wait for the peer, for `close_timeout` at most.

        A client that is unregistered or no longer authenticated (4001, 4401) gets nothing of what is queued.
        """
        self._close(code, reason, self._site.limits.close_timeout)

    # server.site.Live

    def shutdown(self) -> None:
        """Tell the client to come back (1012), since the server stops."""
        session: object = self._session
        if isinstance(session, Finishes):
            session.finish(self._restart)
        else:
            self._restart()

    def _restart(self) -> None:
        self.close(1012, "server restarting")

    def abort(self) -> None:
        """Return to the server at once; it drops the connection."""
        if self._reader is not None:
            self._reader.cancel()

    def on_deadline(self, now: float) -> None:
        """Give up: our close was not answered, or could not be sent."""
        if not self._site.draining:
            self._counters.hit("close_timeout")
        self.abort()

    # In

    async def _read(self, receive: Receive) -> None:
        spent = 0.0
        while (event := await receive())["type"] == "websocket.receive":
            session = self._session
            began = monotonic()
            if session is not None and not self._closing:
                text = event.get("text")
                self._message(session, text if text is not None else bytes(event["bytes"]))
            # The server hands over messages that it has already received one by one, without yielding.
            spent += monotonic() - began + _EACH
            if spent > SLICE:
                await self._site.fair.turn(spent, None if self._credit is None else self._address)
                spent = 0.0
            while self._held is not None:
                await self._held.wait()
            await self.drained()  # a client that asks faster than it reads answers has to wait, and costs no memory

    def _message(self, session: Session, message: str | bytes) -> None:
        self._counters.received += 1
        if self._too_large(message):
            return
        if self._gate is not None and not self._gate.allow(self._site.timers.now()):
            self._gate.refuse(self, session, message)
            return
        try:
            if isinstance(message, str):
                session.text(message)
            else:
                session.binary(message)
        except CONTAINED:
            self._counters.errors += 1
            _log.exception("a message could not be handled", session=type(session).__name__)

    def _too_large(self, message: str | bytes) -> bool:
        """Whether a message, or all of a stranger's messages, are too large. Closes the connection then."""
        stranger = self._credit is not None
        most = min(STRANGERS.max_message, self._max_message) if stranger else self._max_message
        size = len(message)
        if isinstance(message, str) and size * 4 > most >= size:
            size = len(message.encode("utf-8", "surrogatepass"))
        if size > most:
            self._counters.violations += 1
            self._counters.hit("stranger_bytes" if stranger else "max_message")
            self.close(1009, f"a message is larger than {most} bytes")
            return True
        if self._credit is None:
            return False
        self._credit -= size + _HEAD
        if self._credit < 0:
            self._counters.hit("stranger_bytes")
            self.close(4401, "too much before authentication")
        return self._credit < 0

    # Out

    async def _write(self, send: Send) -> None:
        try:
            while (payload := self._take()) is not None or self._farewell is None:
                if payload is None:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                for message in frames.messages(payload.data):
                    kind = "text" if isinstance(message, str) else "bytes"
                    await send({"type": "websocket.send", kind: message})
            code, reason = self._farewell
            await send({"type": "websocket.close", "code": code, "reason": reason})
        except Exception as error:  # servers differ in how they report that the client is gone
            _log.info("a connection cannot be written to", error=f"{type(error).__name__}: {error}")
            self.abort()

    def _take(self) -> Payload | None:
        """The payload to write next, or None."""
        payload, self._next = self._next, None
        if payload is None and self._outbox:
            payload = self._outbox.pop()
        self._writing = payload is not None
        if not self._writing:
            self._wake_drained()
        return payload

    def _discard(self) -> None:
        self._counters.dropped += len(self._outbox) + (self._next is not None)
        self._outbox.clear()
        self._next = None

    def _wake_drained(self) -> None:
        drain, self._drain = self._drain, None
        if drain is not None and not drain.done():
            drain.set_result(None)

    # The end

    def _close(self, code: int, reason: str, within: float) -> None:
        if self._closing:
            return
        self._closing = True
        if code in CUT_OFF and self._writing:  # otherwise everything is from this turn of the loop, as good as written
            self._discard()
        self._farewell = code, frames.close_payload(code, reason)[2:].decode()
        self._wake.set()
        self._wake_drained()
        timers = self._site.timers
        timers.set(self, timers.now() + within)


class Cut:
    """Ends a request of an ASGI server early: `with Cut() as cut:`, and `cut()` from anywhere on its loop.

    Call it while the block awaits something; after the block it does nothing.
    """

    def __init__(self) -> None:
        self._done = False
        self._over = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        return self

    def __call__(self) -> None:
        if not self._over:
            self._done = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        self._over = True
        ours = self._done and kind is not None and issubclass(kind, asyncio.CancelledError)
        return ours and not self._task.uncancel()
