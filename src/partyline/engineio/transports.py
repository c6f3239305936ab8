"""The transports of an Engine.IO session, and the effects of its state machine (wire/engineio/session.py)."""

from __future__ import annotations

import asyncio
from threading import get_ident
from typing import Any, Final, Protocol

from partyline import log
from partyline.engineio.frames import write
from partyline.engineio.receiver import Receiver
from partyline.errors import CONTAINED
from partyline.hub.timers import SLOT
from partyline.server.home import Home
from partyline.server.site import Carrier, Site
from partyline.trust.rate import Gate
from partyline.wire.engineio import packets
from partyline.wire.engineio.handshake import refusal
from partyline.wire.engineio.packets import Packet
from partyline.wire.engineio.session import CLOSED, POLL, Channel, Effect, HangUp, Over, Reason, Refuse, Send, Session

_log = log.get("engineio")

_CLOSE_CODES = {
    Reason.PING_TIMEOUT: 1011,
    Reason.PARSE_ERROR: 1002,
    Reason.FORCED_CLOSE: 1000,
    Reason.TRANSPORT_CLOSE: 1000,
    Reason.TRANSPORT_ERROR: 1011,
}
_NEVER: Final = float("inf")
ENOUGH: Final = 64 * 1024  # bytes that wait for a GET


class Owner(Protocol):
    """The owner of connections."""

    site: Site
    home: Home

    def forget(self, connection: Any) -> None: ...


class Poll(Protocol):
    """A GET that waits for packets."""

    def fetched(self, packets: tuple[Packet, ...]) -> None:
        """Answer the GET with these. Raises nothing."""


class Transports:
    """One client's session and its transports: polling, a WebSocket, and a WebSocket that is about to take over."""

    __slots__ = (
        "_base64",
        "_candidate",
        "_flushing",
        "_gate",
        "_held",
        "_owner",
        "_poll",
        "_receiver",
        "_room",
        "_session",
        "_websocket",
        "timer_slot",
    )

    def __init__(self, owner: Owner, session: Session, websocket: Carrier | None, *, base64: bool) -> None:
        self.timer_slot = 0
        self._owner = owner
        self._base64 = base64
        self._session = session
        self._websocket = websocket
        self._candidate: Carrier | None = None
        self._receiver: Receiver | None = None
        self._poll: Poll | None = None  # the GET that hangs
        self._flushing = False
        self._held = False
        self._room: asyncio.Future[None] | None = None  # for callers of `drained`, until a GET has fetched everything
        self._gate: Gate | None = None  # for messages that come by polling

    @property
    def is_open(self) -> bool:
        return self._receiver is not None

    def hold(self) -> None:
        """Pause reading from the client's WebSocket.

        Polling goes on: an unanswered POST would keep the client from moving to a WebSocket, and Python's client gives
        up on one.
        """
        if not self._held:
            self._held = True
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._websocket is not None:
            self._session.hold(self._now())
            self._arm()
            self._websocket.hold()

    def release(self) -> None:
        if self._held:
            self._held = False
            self._session.resume(self._now())
            if self._websocket is not None:
                self._websocket.release()
            if self.is_open:
                self._arm()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection after what was sent, a WebSocket with this code. May be called from any thread."""
        home = self._owner.home
        if home.thread != get_ident() and home.call(self.close, code, reason):
            return
        if self._websocket is not None and code != 1000:
            self._websocket.close(code, reason)
        self._do(self._session.close(self._now(), cut=code != 1000))

    # Polling

    def get(self, poll: Poll) -> None:
        """A GET has come: `poll` is answered now or later. If its client goes away before that, call `let_go`.

        Raises HandshakeRefused.
        """
        waiting, refused = self._poll, None
        if waiting is None:
            self._poll = poll
        effects = self._session.get(self._now())
        if not effects:
            return  # it hangs
        for effect in effects:
            if isinstance(effect, Refuse):
                refused = refusal(effect.number)
            else:
                self._apply(effect)
            if self._poll is None and waiting is not None:  # the one before has its answer
                self._poll, waiting = poll, None
        self._settle()
        if refused is not None:
            if self._poll is poll:
                self._poll = None
            raise refused

    def let_go(self, poll: Poll) -> None:
        """The client of the GET that hangs has gone."""
        if self._poll is poll:
            self._poll = None
            self._do(self._session.abort(self._now()))

    def post(self, posted: list[Packet] | None) -> None:
        """Take a POST's packets, None where its body was malformed. Raises HandshakeRefused."""
        if posted is not None and self._owner.site.limits.events_per_second:
            self._count_beats(posted)
        refused = None
        for effect in self._session.post(posted, self._now()):
            if isinstance(effect, Refuse):
                refused = refusal(effect.number)
            elif isinstance(effect, str | bytes):
                self._message(effect)
            else:
                self._apply(effect)
        self._settle()
        if refused is not None:
            raise refused
        if posted is not None and packets.PONG in posted and self._receiver is not None:
            self._receiver.alive()

    def _count_beats(self, posted: list[Packet]) -> None:
        """Count heartbeats and whatever else is not a message for the rate, too; only messages are refused singly."""
        gate = self._rate()
        for packet in posted:
            if isinstance(packet, str) and packet[0] != packets.MESSAGE and not gate.allow(self._now()):
                gate.refuse(self, None)
                if not self.is_open:
                    return

    def _rate(self) -> Gate:
        if self._gate is None:
            site = self._owner.site
            limits = site.limits
            self._gate = Gate(limits.events_per_second, limits.events_burst, self._now(), site.counters.hit)
        return self._gate

    def _message(self, data: str | bytes) -> None:
        """A message that came by polling."""
        receiver = self._receiver
        if receiver is None:
            return  # an earlier message of this body ended the connection
        site = self._owner.site
        site.counters.received += 1
        if site.limits.events_per_second:
            gate = self._rate()
            if not gate.allow(self._now()):
                gate.refuse(self, receiver, data)
                return
        try:
            receiver.message(data)
        except CONTAINED:
            self._failed("a message could not be handled")

    def _flush_soon(self) -> None:
        """Let everything sent in one turn of the loop leave in one body."""
        self._flushing = True
        self._owner.site.turn.add(self)

    def leave(self) -> None:
        """The turn is over (`server.writing.Leaving`)."""
        self._flushing = False
        self._do(self._session.flush())

    # Time

    def on_deadline(self, now: float) -> None:
        candidate = self._candidate
        self._do(self._session.on_deadline(now))
        if candidate is not None and self._candidate is None:
            self._owner.site.counters.hit("upgrade_timeout")

    def _now(self) -> float:
        return self._owner.site.timers.now()

    def _arm(self) -> None:
        """Let the wheel come for the next deadline. If it comes for an earlier one that is void, it is set again."""
        when, slot = self._session.next_deadline(), self.timer_slot
        if when < _NEVER and (not slot or when < slot * SLOT):
            self._owner.site.timers.set(self, when)

    # What the state machine wants

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._apply(effect)
        self._settle()

    def _settle(self) -> None:
        if self._room is not None and (self._session.queued <= ENOUGH or not self.is_open):
            room, self._room = self._room, None
            room.set_result(None)
        if self._session.state is CLOSED:
            self._owner.forget(self)
            return
        self._arm()
        if self._session.hanging and self._session.waiting and not self._flushing:
            self._flush_soon()

    def _apply(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(effect)
            case HangUp(Channel.CANDIDATE):
                candidate, self._candidate = self._candidate, None
                if candidate is not None:
                    candidate.close(1000)
            case HangUp(_, reason):
                if self._websocket is not None:
                    assert reason is not None
                    self._websocket.close(_CLOSE_CODES[reason], reason.value)
            case Over(reason):
                receiver, self._receiver = self._receiver, None
                self.release()
                if receiver is not None:
                    self._tell(receiver, reason)
            case Refuse():
                pass  # the caller has looked for it
            case str() | bytes():
                if self._receiver is not None:
                    self._receiver.message(effect)

    def _send(self, sent: Send) -> None:
        if sent.channel is not POLL:
            self._write(self._websocket if sent.channel is Channel.WEBSOCKET else self._candidate, sent.packets)
            return
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.fetched(sent.packets)

    def _tell(self, receiver: Receiver, reason: Reason) -> None:
        if reason is Reason.PING_TIMEOUT:
            self._owner.site.counters.hit("ping_timeout")
        try:
            receiver.disconnected(reason.value)
        except CONTAINED:
            self._failed("the end of a connection could not be handled")

    def _write(self, websocket: Carrier | None, sent: tuple[Packet, ...]) -> None:
        if websocket is not None:
            write(websocket, sent, self._session.protocol, base64=self._base64)

    def _failed(self, what: str) -> None:
        self._owner.site.counters.errors += 1
        _log.exception(what)
