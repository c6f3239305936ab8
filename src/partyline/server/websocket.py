"""Our WebSocket on a transport of the loop: bytes to session, payloads to bytes.

No task, no queue and no timer of its own: an idle connection is this object, its protocol state and its place in the
timing wheel. Takes over the transport from server/http.py at the upgrade.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, cast

from partyline import log
from partyline.errors import CONTAINED, RateLimited
from partyline.hub.outbox import Outbox
from partyline.interfaces import Dialect, HearsPongs, Session
from partyline.models import Payload
from partyline.server.site import Site
from partyline.trust.rate import Bucket
from partyline.wire.websocket import frames
from partyline.wire.websocket.connection import Close, Connection, Event, Ping, Pong, State, Violation
from partyline.wire.websocket.deflate import Deflate
from partyline.wire.websocket.frames import SHORT_TEXT_HEADS, text_frame

if TYPE_CHECKING:
    from partyline.wire.websocket.connection import Limits

_log = log.get("server")

CUT_OFF = frozenset((4001, 4401))  # these have no right to what is still queued

_AT_ONCE = 64 * 1024  # bytes that do not wait for the end of the turn: the transport would push back behind them


class _Due(Enum):
    """What the one deadline of a connection is for."""

    NOTHING = 0
    PING = 1
    PONG = 2
    CLOSE = 3
    LINGER = 4


def consists_of(unwanted: Callable[[str | bytes], bool]) -> Callable[[Payload], bool]:
    """Whether a payload consists of `unwanted` messages only; one without any, such as a close frame, does not."""

    def matches(payload: Payload) -> bool:
        messages = tuple(frames.messages(payload.data, compressed=True))
        return bool(messages) and all(map(unwanted, messages))

    return matches


class WebSocket(asyncio.Protocol):
    """One WebSocket connection, from its 101 on. An `interfaces.Connection`."""

    __slots__ = (
        "_address",
        "_bucket",
        "_closing",
        "_counters",
        "_drain",
        "_due",
        "_heard",
        "_held",
        "_outbox",
        "_paused",
        "_pending",
        "_pending_size",
        "_session",
        "_site",
        "_transport",
        "_wire",
        "_write_blocked",
        "dialect",
        "rooms",
        "timer_slot",
        "user",
    )

    dialect: Dialect
    rooms: tuple[str, ...] | set[str]
    pings = True

    def __init__(
        self,
        site: Site,
        session: Session,
        address: str,
        limits: Limits,
        deflate: Deflate | None = None,
        *,
        heartbeat: bool = True,
    ) -> None:
        self._site = site
        self._counters = site.counters
        self._session: Session | None = session
        self._address = address
        self._wire = Connection(limits, deflate=deflate)
        self._transport = cast("asyncio.Transport", None)
        self._pending: list[bytes] | None = None  # written in this turn of the loop; leaves at its end
        self._pending_size = 0
        self._outbox: Outbox | None = None
        self._bucket: Bucket | None = None
        self._drain: asyncio.Future[None] | None = None
        self._write_blocked = False
        self._paused = False  # we stopped reading, because our answers do not get out
        self._held = False  # we stopped reading, because whoever handles the messages does not keep up
        self._closing = False  # our close frame is written or queued: nothing may follow it
        self._heard = True
        self._due = _Due.PING if heartbeat else _Due.NOTHING
        self.timer_slot = 0
        self.user: str | None = None
        self.rooms = ()

    def start(self, transport: asyncio.Transport, head: bytes, rest: bytes) -> None:
        """Take over `transport`: write the 101 `head`, open the session, read `rest` (what came behind the request)."""
        self._transport = transport
        transport.write(head)
        site = self._site
        self._counters.upgrades += 1
        limits = site.limits
        now = site.timers.now()
        if limits.events_per_second:
            self._bucket = Bucket(limits.events_per_second, limits.events_burst, now)
        if self._due is _Due.PING:
            site.timers.set(self, now + limits.ping_interval)
        site.live.add(self)
        session = self._session
        assert session is not None
        try:
            session.opened(self)
        except CONTAINED:
            self._counters.errors += 1
            _log.exception("a session could not be opened", session=type(session).__name__)
            self.close(1011, "internal error")
        if site.draining:
            self.shutdown()
        if rest:
            self.data_received(rest)

    @property
    def session(self) -> Session | None:
        """What stands behind it; None once it is gone."""
        return self._session

    def hand_to(self, session: Session) -> None:
        """From the next read on, what arrives is for `session`. Its `opened` is not called."""
        if self._session is not None:
            self._session = session

    @property
    def deflate(self) -> Deflate | None:
        """What the handshake agreed on: members that agreed on the same share their bytes."""
        return self._wire.deflate

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._heard = True
        session = self._session
        if session is None:
            return
        text = self._wire.short_text(data)
        if text is not None and self._bucket is None and not self._closing:
            # The common read, without a call more than it needs.
            self._counters.received += 1
            try:
                session.text(text)
            except CONTAINED:
                self._failed(session)
        elif text is not None:
            self._message(session, text)
        else:
            for event in self._wire.receive(data):
                self._event(session, event)
        if self._outbox and not self._paused and not self._transport.is_closing():
            # The client asks faster than it reads the answers: let it wait, not our memory.
            self._paused = True
            if not self._held:
                self._transport.pause_reading()

    def hold(self) -> None:
        """Read no more until `release`. What has been read already still comes. Heartbeats are the caller's."""
        if not self._held and self._transport is not None and not self._transport.is_closing():
            self._held = True
            if not self._paused:
                self._transport.pause_reading()

    def release(self) -> None:
        """Read again."""
        if self._held and self._transport is not None and not self._transport.is_closing():
            self._held = False
            if not self._paused:
                self._transport.resume_reading()

    @property
    def writable(self) -> bool:
        """Whether a message would be handed to the transport at once."""
        return self._outbox is None and not self._closing

    def pause_writing(self) -> None:
        self._write_blocked = True
        if self._outbox is None:
            self._outbox = Outbox(self._site.limits.outbox_bytes)

    def resume_writing(self) -> None:
        self.leave()  # it is older than what waits in the outbox
        self._write_blocked = False
        self._heard = True  # it reads, so it lives
        outbox = self._outbox
        if outbox is None:
            return
        write = self._transport.write
        while outbox and not self._write_blocked:  # a write may push back at once
            write(outbox.pop().data)
        if outbox or self._write_blocked:
            return
        self._drop_outbox(outbox)
        if self._paused:
            self._paused = False
            if not self._held:
                self._transport.resume_reading()
        if self._wire.state is State.CLOSED:  # the close frame was the last thing in the box
            self._hang_up()

    def eof_received(self) -> None:
        """The peer sends no more; the transport closes itself after what is queued there."""
        self.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._pending = None
        self._site.timers.cancel(self)
        self._site.live.discard(self)
        self._site.leave(self._address)
        if self._outbox is not None:
            self._drop_outbox(self._outbox)
        session, self._session = self._session, None
        self._transport = cast("asyncio.Transport", None)  # the transport holds us: no cycle may outlive the socket
        if session is not None:
            session.closed()

    # interfaces.Connection

    def offer(self, payload: Payload) -> None:
        """Write a published message, or queue it while the transport pushes back."""
        if self._outbox is None and not self._closing:
            self._write(payload.data)
        else:
            self._queue(payload)

    def send(self, data: bytes) -> None:
        """Write an answer: framed bytes, in order behind what is queued."""
        if self._outbox is None and not self._closing:
            self._write(data)
        else:
            self._queue(Payload(data))

    def send_text(self, text: str) -> None:
        """Write a text message, compressed where that was agreed and is worth it."""
        try:
            payload = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, from a handler
            payload = text.encode("utf-8", "replace")
        self.send_utf8(payload)

    def send_utf8(self, payload: bytes) -> None:
        """Write a text message that is encoded already."""
        size = len(payload)
        if size < 126 and self._outbox is None and not self._closing:
            # The common answer: short, nothing queued. `compress_from` is never as small as this.
            self._write(SHORT_TEXT_HEADS[size] + payload)
        elif self._wire.deflate is not None and size >= self._site.limits.compress_from:
            self.send(self._wire.compressed(frames.TEXT, payload))
        else:
            self.send(text_frame(payload))

    def send_binary(self, data: bytes) -> None:
        """Write a binary message, compressed where that was agreed and is worth it."""
        if self._wire.deflate is not None and len(data) >= self._site.limits.compress_from:
            self.send(self._wire.compressed(frames.BINARY, data))
        else:
            self.send(self._wire.binary(data))

    async def drained(self) -> None:
        """Return when nothing is queued any more, or the connection is gone. Cancelling it loses nothing."""
        while self._outbox is not None and not self._closing:
            if self._drain is None:
                self._drain = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drain)

    def discard(self, unwanted: Callable[[str | bytes], bool]) -> None:
        """Drop the queued messages that are `unwanted`; what the transport has already is on its way."""
        if self._outbox is not None:
            self._outbox.discard(consists_of(unwanted))

    def close(self, code: int, reason: str = "") -> None:
        """Send our close frame behind everything queued, then wait for the peer's, at most `close_timeout`.

        Who is unregistered or no longer authenticated (4001, 4401) gets nothing of what is queued.
        """
        self._close(code, reason, self._site.limits.close_timeout)

    def shutdown(self) -> None:
        """uvicorn's word for: the server stops. The client is told to come back (1012)."""
        # The shell drops who is left at the drain time; this deadline is only for a shell that does not.
        self._close(1012, "server restarting", self._site.limits.drain_time + 1.0)

    def abort(self) -> None:
        """Drop the connection as it is."""
        if self._transport is not None:
            self._transport.abort()

    # Deadlines

    def on_deadline(self, now: float) -> None:
        limits = self._site.limits
        if self._due is _Due.PING:
            self._heard = False
            self._transport.write(frames.EMPTY_PING)  # past the outbox: a heartbeat is for now
            self._due = _Due.PONG
            self._site.timers.set(self, now + limits.ping_timeout)
        elif self._due is _Due.PONG:
            if self._heard:
                self._due = _Due.PING
                self._site.timers.set(self, now + max(0.0, limits.ping_interval - limits.ping_timeout))
            else:
                self._counters.hit("ping_timeout")
                self._discard_outbox()
                self.close(1011, "ping timeout")
                if self._write_blocked:  # a dead peer's socket takes no close frame
                    self.abort()
                else:
                    self._transport.close()
        else:
            if self._due is _Due.CLOSE and not self._site.draining:
                self._counters.hit("close_timeout")
            self.abort()

    def _set(self, due: _Due, seconds: float) -> None:
        self._due = due
        timers = self._site.timers
        timers.set(self, timers.now() + seconds)

    # The rest

    def _message(self, session: Session, message: str | bytes) -> None:
        if self._closing:
            return  # an earlier message of this read ended the connection
        self._counters.received += 1
        if self._bucket is not None and not self._may(self._bucket, session, message):
            return
        try:
            if type(message) is str:
                session.text(message)
            else:
                session.binary(cast("bytes", message))
        except CONTAINED:
            self._failed(session)

    def _failed(self, session: Session) -> None:
        self._counters.errors += 1
        _log.exception("a message could not be handled", session=type(session).__name__)

    def _event(self, session: Session, event: Event) -> None:
        match event:
            case str() | bytes():
                self._message(session, event)
            case Ping():
                self.send(self._wire.pong(event.payload))
            case Pong():  # that something was heard is noted already
                if event.payload and isinstance(session, HearsPongs):
                    session.pong(event.payload)
            case Close():
                self._peer_closed(event)
            case Violation():
                self._fail(event)

    def _close(self, code: int, reason: str, within: float) -> None:
        if self._closing:
            return
        self._closing = True
        self._wake_drained()
        if code in CUT_OFF:
            self._discard_outbox()
        self._write_last(self._wire.close(code, reason))
        if self._paused or self._held:  # the peer's close frame must get in
            self._paused = self._held = False
            self._transport.resume_reading()
        self._set(_Due.CLOSE, within)

    def _write_last(self, frame: bytes) -> bool:
        """Write a close frame behind what is queued; False if it has to wait there."""
        if self._outbox:
            self._outbox.force(Payload(frame))
            return False
        self.leave()
        self._transport.write(frame)
        return True

    def _write(self, data: bytes) -> None:
        """Write at the end of this turn of the loop, in one piece with what else is written until then."""
        pending = self._pending
        if pending is None:
            self._pending = [data]
            self._pending_size = len(data)
            self._site.turn.add(self)
        else:
            pending.append(data)
            self._pending_size += len(data)
        if self._pending_size > _AT_ONCE:
            self.leave()

    def leave(self) -> None:
        """What was written in this turn leaves."""
        pending, self._pending = self._pending, None
        if pending is not None and not self._transport.is_closing():
            self._transport.write(b"".join(pending))

    def _queue(self, payload: Payload) -> None:
        outbox = self._outbox
        if self._closing or outbox is None or outbox.push(payload):
            return
        self._counters.hit("outbox_bytes")
        self._discard_outbox()
        self.close(4008, "slow consumer")

    def _discard_outbox(self) -> None:
        if self._outbox is not None:
            self._counters.dropped += len(self._outbox)
            self._outbox.clear()

    def _drop_outbox(self, outbox: Outbox) -> None:
        self._counters.dropped += outbox.dropped
        self._outbox = None
        self._wake_drained()

    def _wake_drained(self) -> None:
        drain, self._drain = self._drain, None
        if drain is not None and not drain.done():
            drain.set_result(None)

    def _may(self, bucket: Bucket, session: Session, message: str | bytes) -> bool:
        if bucket.allow(self._site.timers.now()):
            return True
        self._counters.hit("events_per_second")
        if bucket.refused > bucket.burst:
            self.close(4429, "too many events")
        else:
            session.refused(RateLimited("too many messages: slow down", retry_after=bucket.wait()), message)
        return False

    def _peer_closed(self, event: Close) -> None:
        if not self._closing:
            self._closing = True
            # RFC 6455 5.5.1: answer with the code received, behind what is still queued for the peer.
            if not self._write_last(self._wire.close(event.code)):
                self._set(_Due.CLOSE, self._site.limits.close_timeout)
                return
        self._hang_up()

    def _fail(self, violation: Violation) -> None:
        """RFC 6455 7.1.7: say why, and read nothing more. What was answered before still goes out first."""
        self._counters.violations += 1
        if violation.limit is not None:
            self._counters.hit(violation.limit)
        self._linger()
        if not self._closing:
            self._closing = True
            if not self._write_last(self._wire.close(violation.code, violation.reason)):
                return
        self._hang_up()

    def _hang_up(self) -> None:
        """Both close frames are out, or ours has to do.

        The peer may still be sending: closing with unread bytes in the socket would reset the connection, and the
        reset could overtake our close frame. So only our side ends, and the peer may run out (RFC 6455 7.1.1).
        """
        if self._transport.can_write_eof():
            self._linger()
            self._transport.write_eof()
        else:
            self._transport.close()

    def _linger(self) -> None:
        """From here on nothing that the peer sends is read, and it has not long to go."""
        if self._due is not _Due.LINGER:
            self._set(_Due.LINGER, min(2.0, self._site.limits.close_timeout))
