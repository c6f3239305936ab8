"""Our WebSocket on a transport of the loop: bytes to session, payloads to bytes.

A connection has no task, queue or timer: an idle one is this object, its protocol state and its place in the timing
wheel. It takes the transport over from server/http.py at the upgrade.

Long because reading, stopping and closing change the same few fields.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final, cast

from partyline import log
from partyline.errors import CONTAINED
from partyline.hub.outbox import Outbox
from partyline.interfaces import Dialect, Finishes, Session
from partyline.server.fair import BULK, SLICE, STEP
from partyline.server.site import Endpoint, Site
from partyline.server.states import TRANSITIONS, Step, WebSocketState
from partyline.server.writing import Writing
from partyline.trust.rate import Gate
from partyline.wire.websocket import frames
from partyline.wire.websocket.codec import Close, CloseState, Codec, Event, Limits, Packed, Ping, Pong, Violation
from partyline.wire.websocket.deflate import Deflate

_log = log.get("server")

CUT_OFF = frozenset((4001, 4401))  # a peer closed with these has no right to queued messages
UNHEARD = frozenset((4429,))  # messages of a peer closed with these are ignored

STRANGERS: Final = Limits(max_message=4_096, max_inflated=4_096, max_fragments=16)
STRANGERS_BYTES: Final = 16_384
"""What a peer that has to identify itself may send before that: in one message, and in all."""

_LINGER = 2.0  # seconds for which a peer may go on sending after the end
_LINGER_BYTES = 1024 * 1024  # bytes that it may send then
_FAREWELL = 0.75  # seconds that a drain waits for the answer to a close frame
_IDLE = 8  # consecutive reads without a message; beyond that, or after a slice of them, it is a stranger
_READ = 0.00002  # seconds that a read costs besides what is measured here
_BRIEF = 1.0  # seconds; a shorter connection in which nothing was asked came to nothing
_BYTE = 0.25e-9  # seconds that the kernel takes for a byte of a large read

# Why reading has stopped; any of them is enough.
_ANSWERS = 1  # our answers are not read
_HANDLER = 2  # the handler of its messages does not keep up
_TURN = 4  # it has used its slice, and waits for its turn


_ALIVE, _OVER = (WebSocketState.OPEN, WebSocketState.PINGED), (WebSocketState.LINGERING, WebSocketState.GONE)
# Looked up for each read: in an Enum that takes ten times as long on Python 3.11.
_LINGERING: Final = WebSocketState.LINGERING
_GONE: Final = WebSocketState.GONE


class WebSocket(Writing, asyncio.Protocol):
    """One WebSocket connection, from its 101 on. A `server.site.Carrier`."""

    __slots__ = (
        "_address",
        "_blocked",
        "_came",
        "_credit",
        "_empty",
        "_gate",
        "_heard",
        "_idle",
        "_limits",
        "_metered",
        "_plain",
        "_session",
        "_site",
        "_state",
        "_stops",
        "_useful",
        "dialect",
        "rooms",
        "timer_slot",
        "user",
    )

    dialect: Dialect
    rooms: tuple[str, ...] | set[str]
    pings = True

    def __init__(
        self, site: Site, endpoint: Endpoint, address: str, deflate: Deflate | None = None, cost: float = 0.0
    ) -> None:
        limits = site.limits
        self._limits = endpoint.limits or limits.message
        wire = Codec(STRANGERS if endpoint.stranger else self._limits, deflate=deflate, unpacks=True)
        super().__init__(site.turn, site.counters, limits.compress_from, wire)
        self._site = site
        self._session: Session | None = endpoint.session
        self._address = address
        self._useful = False  # it was let in, or asked something where everybody may
        self._came = (monotonic(), cost)  # the time of its arrival, and the seconds that its handshake took
        self._gate: Gate | None = None
        if limits.events_per_second:
            now = site.timers.now()
            self._gate = Gate(limits.events_per_second, limits.events_burst, now, self._counters.hit)
        # Bytes that the peer may still send: as a stranger, or after the end. None: no such limit.
        self._credit: int | None = STRANGERS_BYTES if endpoint.stranger else None
        self._empty = 0  # messages of this slice that said nothing
        self._metered = endpoint.metered  # its time counts as a stranger's
        self._plain = self._gate is None and self._credit is None and not self._metered  # no limits on its messages
        self._idle = 0  # reads since the last message
        self._blocked = False  # the transport pushes back
        self._stops = 0  # why we do not read
        self._state = WebSocketState.OPEN
        self._heard = True
        self.timer_slot = 0
        self.user: str | None = None
        self.rooms = ()
        if endpoint.heartbeat:
            site.timers.set(self, site.timers.now() + limits.ping_interval)

    def start(self, transport: asyncio.Transport, head: bytes, rest: bytes) -> None:
        """Take over `transport`: write the 101 `head`, with the session's first words; read `rest`, which came after
        it."""
        self._transport = transport
        self._write(head)
        self._counters.upgrades += 1
        self._site.live.add(self)
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
        if rest:
            self.data_received(rest)

    @property
    def session(self) -> Session | None:
        return self._session

    def hand_to(self, session: Session) -> None:
        """Give messages to `session` from the next read on. Its `opened` is not called."""
        if self._session is not None:
            self._session = session

    @property
    def deflate(self) -> Deflate | None:
        return self._wire.deflate

    def known(self) -> None:
        if self._metered or self._credit is not None:
            self._useful = True
        self._metered = False
        if not self._closing:
            self._credit = None
            self._plain = self._gate is None
            self._wire.limits = self._limits
        if self._site.fair.forget(self, self._address):
            self._site.fair.wait(self, 0.0)

    def said_nothing(self) -> None:
        self._empty += 1

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._heard = True
        session = self._session
        if session is None:
            return
        text = self._wire.short_text(data)
        if text is not None and self._plain and not self._closing:
            # The common read, without an extra call.
            self._useful = True
            self._counters.received += 1
            try:
                session.text(text)
            except CONTAINED:
                self._failed(session)
        else:
            self._serve(data)
        if self._outbox:
            self._wait_for_answers()

    def _wait_for_answers(self) -> None:
        if self._outbox and not self._closing:
            # The client asks faster than it reads answers: it has to wait, and costs no memory.
            self._stop(_ANSWERS)

    def go_on(self) -> None:
        """Its turn has come (`server.fair.Busy`)."""
        if self._state is _GONE or self._transport.is_closing():
            return
        self._stops &= ~_TURN
        if not self._stops and self._wire.unread:
            self._serve(b"")
            self._wait_for_answers()
        if not self._stops:
            self._transport.resume_reading()

    def hold(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._stop(_HANDLER)

    def release(self) -> None:
        self._resume(_HANDLER)

    def pause_writing(self) -> None:
        self._blocked = True
        if self._outbox is None:
            self._outbox = Outbox(self._site.limits.outbox_bytes)

    def resume_writing(self) -> None:
        self.leave()  # it is older than what waits in the outbox
        self._blocked = False
        self._heard = True  # it reads, so it is alive
        outbox = self._outbox
        if outbox is None:
            return
        write = self._transport.write
        while outbox and not self._blocked:  # a write may push back at once
            write(outbox.pop().data)
        if outbox or self._blocked:
            return
        self._drop_outbox(outbox)
        self._resume(_ANSWERS)
        if self._wire.state is CloseState.CLOSED:  # the close frame was the last thing in the box
            self._hang_up()

    def eof_received(self) -> None:
        """The peer sends no more; the transport closes itself after sending what it has."""
        self.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._step(Step.LOST)
        self._pending = None
        self._site.timers.cancel(self)
        self._site.live.discard(self)
        self._site.leave(self._address)
        self._site.fair.forget(self, self._address)
        since, cost = self._came
        if not self._useful and monotonic() - since < _BRIEF:
            self._site.fair.came_for_nothing(cost, self._address)
        if self._outbox is not None:
            self._drop_outbox(self._outbox)
        session, self._session = self._session, None
        self._transport = cast("asyncio.Transport", None)  # the transport holds us: no cycle may outlive the socket
        if session is not None:
            session.closed()

    # interfaces.Connection

    def close(self, code: int, reason: str = "") -> None:
        """Send our close frame after everything that is queued, then wait for the peer's, at most `close_timeout`.

        A peer that is unregistered or no longer authenticated (4001, 4401) gets nothing of what is queued. One that
        sends too much (4429) is ignored from now on.
        """
        if code in UNHEARD:
            self._drop(code, reason)
        else:
            self._close(code, reason)

    def shutdown(self) -> None:
        """The server stops: the client is told to come back (1012).

        Once that has left, a dead peer does not delay us: the kernel goes on delivering it without this process.
        """
        session: object = self._session
        if isinstance(session, Finishes):
            session.finish(self._restart)
        else:
            self._restart()

    def _restart(self) -> None:
        self._close(1012, "server restarting")
        if self._state is WebSocketState.CLOSING and not self._outbox:
            self._within(min(_FAREWELL, self._site.limits.close_timeout))

    def abort(self) -> None:
        """Drop the connection as it is."""
        if self._transport is not None:
            self._transport.abort()

    # Deadlines

    def on_deadline(self, now: float) -> None:
        limits = self._site.limits
        if self._state is WebSocketState.OPEN:
            self._step(Step.PING)
            self._heard = False
            self._transport.write(frames.EMPTY_PING)  # past the outbox: a heartbeat must not wait
            self._within(limits.ping_timeout)
        elif self._state is not WebSocketState.PINGED:
            if self._state is WebSocketState.CLOSING:
                self._counters.hit("close_timeout")
            self.abort()
        elif self._heard or self._stops & _TURN:  # its pong may be among the bytes that wait
            self._step(Step.HEARD)
            self._within(max(0.0, limits.ping_interval - limits.ping_timeout))
        else:
            self._counters.hit("ping_timeout")
            self._discard_outbox()
            self.close(1011, "ping timeout")
            if self._blocked:  # a dead peer's socket takes no close frame
                self.abort()
            else:
                self._transport.close()

    def _within(self, seconds: float) -> None:
        timers = self._site.timers
        timers.set(self, timers.now() + seconds)

    def _step(self, step: Step) -> bool:
        """Take a step of the table; False if it has none."""
        after = TRANSITIONS.get((self._state, step))
        if after is None:
            return False
        self._state = after
        self._closing = after not in _ALIVE
        return True

    # Reading

    def _stop(self, reason: int) -> None:
        if self._state in _OVER:
            return
        if not self._stops:
            self._transport.pause_reading()
        self._stops |= reason

    def _resume(self, reasons: int) -> None:
        """These reasons not to read are gone."""
        if not self._stops & reasons:
            return
        self._stops &= ~reasons
        if self._stops or self._transport is None or self._transport.is_closing():
            return
        if self._wire.unread:
            self._stop(_TURN)
            self._site.fair.wait(self, 0.0)
        else:
            self._transport.resume_reading()

    def _serve(self, data: bytes) -> None:
        """Handle what was read, until a slice is used up; the rest waits for its turn."""
        if self._state is _LINGERING:
            self._spend(len(data))
            if not data or self._state is not _LINGERING or self._stops & _TURN:
                return
            if self._site.fair.stranger(self, _READ, self._address):
                self._transport.pause_reading()
                self._stops |= _TURN
            return
        wire, fair = self._wire, self._site.fair
        if self._stops & _TURN:  # a transport may still hand over what it has already read
            wire.keep(data)
            return
        if data and fair.crowded:
            wire.keep(data)
            self._stop(_TURN)
            fair.wait(self, 0.0)
            return
        began, size, received = monotonic(), len(data), self._counters.received
        stranger = self._credit is not None
        fragments = self._empty = 0
        while (session := self._session) is not None:
            for event in self._read(data):
                self._event(session, event)
            fragments += self._fragments()
            data, spent = b"", monotonic() - began
            if not wire.unread or spent > SLICE or self._stops or self._outbox:
                break
        fair.took(spent)
        handled = self._counters.received - received - self._empty
        if handled and not stranger and not self._metered:
            self._useful = True
        if 8 * handled > fragments:
            self._idle = 0
        else:
            self._idle += 1 if spent < SLICE else _IDLE + 1
        stranger = stranger or self._metered or self._idle > _IDLE
        if stranger and fair.stranger(self, spent + _READ, self._address):
            self._stop(_TURN)
        elif spent > SLICE or size >= BULK or wire.unread:
            self._stop(_TURN)
            fair.wait(self, spent + size * _BYTE)

    def _read(self, data: bytes) -> list[Event]:
        """The events in the next bytes."""
        wire = self._wire
        if self._credit is None:
            return wire.receive(data, STEP)
        before = wire.unread + len(data)
        events = wire.receive(data, 1)  # one frame at a time: any of them may identify the peer
        self._spend(before - wire.unread)
        return events

    def _fragments(self) -> int:
        """The number of small fragments that have come; they count for the rate."""
        fragments, self._wire.fragments = self._wire.fragments, 0
        gate = self._gate
        if fragments and gate is not None and not gate.allow(self._site.timers.now(), fragments):
            gate.refuse(self, None)
        return fragments

    def _spend(self, size: int) -> None:
        """Count the bytes of a peer that is not known yet, or that has been closed."""
        if self._credit is None:
            return
        self._credit -= size
        if self._credit >= 0:
            return
        if self._state is _LINGERING:
            self.abort()
        else:
            self._counters.hit("stranger_bytes")
            self._drop(4401, "too much before authentication")

    def _event(self, session: Session, event: Event) -> None:
        match event:
            case str() | bytes() | Packed():
                self._message(session, event)
            case Ping():
                if self._may(None):
                    self.send(self._wire.pong(event.payload))
            case Pong():  # already noted as a sign of life
                # Looked up and not asked with isinstance, which is slow for a Protocol.
                heard = getattr(session, "pong", None)  # interfaces.HearsPongs
                if self._may(None) and event.payload and heard is not None:
                    heard(event.payload)
            case Close():
                heard = getattr(session, "peer_closed", None)  # interfaces.HearsClose
                if heard is not None:
                    heard(event.code, event.reason)
                self._peer_closed(event)
            case Violation():
                self._violated(event)

    def _message(self, session: Session, message: str | bytes | Packed) -> None:
        if self._closing:
            return  # an earlier message of this read ended the connection
        self._counters.received += 1
        if not self._may(session, message):
            return
        if isinstance(message, Packed):
            unpacked = self._wire.unpack(message)
            if isinstance(unpacked, Violation):
                self._violated(unpacked)
                return
            message = unpacked
        try:
            if type(message) is str:
                session.text(message)
            else:
                session.binary(cast("bytes", message))
        except CONTAINED:
            self._failed(session)

    def _may(self, session: Session | None, message: str | bytes | Packed = "") -> bool:
        """Whether the rate has room for one more frame."""
        gate = self._gate
        if gate is None or gate.allow(self._site.timers.now()):
            return True
        if not self._closing:
            gate.refuse(self, session, message.short_text() if isinstance(message, Packed) else message)
        return False

    def _failed(self, session: Session) -> None:
        self._counters.errors += 1
        _log.exception("a message could not be handled", session=type(session).__name__)

    # The end

    def _close(self, code: int, reason: str) -> None:
        if not self._step(Step.CLOSE):
            return
        self._wake_drained()
        if code in CUT_OFF:
            self._discard_outbox()
        self._write_last(self._wire.close(code, reason))
        self._resume(_ANSWERS | _HANDLER)  # the peer's close frame must get in
        self._within(self._site.limits.close_timeout)

    def _peer_closed(self, event: Close) -> None:
        # RFC 6455 5.5.1: answer with the code received, after what is queued for the peer.
        if self._step(Step.CLOSE) and not self._write_last(self._wire.close(event.code)):
            self._within(self._site.limits.close_timeout)
        else:
            self._hang_up()

    def _violated(self, violation: Violation) -> None:
        """RFC 6455 7.1.7: say why, and read nothing more. Earlier answers still go out first."""
        self._counters.violations += 1
        if violation.limit is not None:
            self._counters.hit(violation.limit if self._wire.limits is self._limits else "stranger_bytes")
        self._drop(violation.code, violation.reason)

    def _drop(self, code: int, reason: str) -> None:
        """Close, and ignore whatever the peer still sends."""
        said = self._closing
        if not self._linger(Step.FAIL):
            return
        self._wire.fail()
        self._wake_drained()
        if code in CUT_OFF:
            self._discard_outbox()
        if not self._outbox if said else self._write_last(self._wire.close(code, reason)):
            self._hang_up()
        self._resume(_ANSWERS | _HANDLER | _TURN)

    def _hang_up(self) -> None:
        """Both close frames are out, or ours has to suffice.

        The peer may still be sending: closing with unread bytes in the socket would reset the connection, and the
        reset could overtake our close frame. So only our side ends, and the peer may finish (RFC 6455 7.1.1).
        """
        if self._transport.can_write_eof():
            self._linger(Step.END)
            self._transport.write_eof()
        else:
            self._transport.close()

    def _linger(self, step: Step) -> bool:
        """Ignore the peer from here on, and give it little time to finish. False if this was done before."""
        if not self._step(step):
            return False
        self._credit = _LINGER_BYTES
        self._within(min(_LINGER, self._site.limits.close_timeout))
        return True
