"""One Engine.IO connection: the session's state machine, and the transports that carry it now.

The state machine (wire/engineio/session.py) says what to do, and this file does it. On a WebSocket a message goes
straight through: no effect, no list, no time is asked for.

Long because one object answers for polling, for the WebSocket and for the way from one to the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Final, Protocol, cast

from partyline import log
from partyline.engineio.frames import read, write
from partyline.engineio.receiver import Receiver
from partyline.errors import CONTAINED, InvalidPacket, PartylineError
from partyline.interfaces import Dialect
from partyline.models import Payload
from partyline.server.home import Home
from partyline.server.site import Carrier, Site
from partyline.trust.rate import Gate
from partyline.wire.engineio import packets
from partyline.wire.engineio.handshake import refusal
from partyline.wire.engineio.packets import Packet
from partyline.wire.engineio.session import Channel, Effect, HangUp, Over, Reason, Refuse, Rules, Send, Session
from partyline.wire.engineio.states import SessionState
from partyline.wire.websocket.frames import Frames

_log = log.get("engineio")

_CLOSE_CODES = {
    Reason.PING_TIMEOUT: 1011,
    Reason.PARSE_ERROR: 1002,
    Reason.FORCED_CLOSE: 1000,
    Reason.TRANSPORT_CLOSE: 1000,
    Reason.TRANSPORT_ERROR: 1011,
}

_ENOUGH: Final = 64 * 1024  # bytes that wait for a GET


class Owner(Protocol):
    """Whose connection it is."""

    site: Site
    home: Home

    def forget(self, connection: EngineConnection) -> None:
        """It is over, and everything has been fetched."""
        ...


class Poll(Protocol):
    """A GET that waits for packets."""

    def fetched(self, packets: tuple[Packet, ...]) -> None:
        """They are there: answer it. Raises nothing."""
        ...


class EngineConnection:
    """One client. An `interfaces.Connection` (payloads are `Frames`), and the `interfaces.Session` of its WebSocket."""

    __slots__ = (
        "_base64",
        "_candidate",
        "_flushing",
        "_gate",
        "_held",
        "_overflows",
        "_owner",
        "_poll",
        "_receiver",
        "_room",
        "_session",
        "_websocket",
        "address",
        "began_polling",
        "dialect",
        "rooms",
        "sid",
        "stranger",
        "takes_bundles",
        "timer_slot",
        "user",
    )

    dialect: Dialect
    rooms: tuple[str, ...] | set[str]

    def __init__(
        self,
        owner: Owner,
        sid: str,
        address: str,
        protocol: int,
        rules: Rules,
        websocket: Carrier | None,
        *,
        base64: bool,
    ) -> None:
        now = owner.site.timers.now()
        self.sid = sid
        self.address = address
        self.began_polling = websocket is None
        self.stranger = False  # what it costs counts as a stranger's, until `known`
        self.takes_bundles = True  # each message of a read by itself: nothing waits for a read of its own
        self.user: str | None = None
        self.rooms = ()
        self.timer_slot = 0
        self._owner = owner
        self._base64 = base64
        self._session = Session(protocol, rules, now, websocket=websocket is not None)
        self._websocket = websocket
        self._candidate: Carrier | None = None
        self._receiver: Receiver | None = None
        self._poll: Poll | None = None  # the GET that hangs
        self._flushing = False
        self._overflows = False
        self._held = False
        self._room: asyncio.Future[None] | None = None  # of whoever waits until a GET has fetched what there is
        self._gate: Gate | None = None  # of what comes by polling

    # Life

    def begin(self, accept: Callable[[], Receiver]) -> None:
        """The open packet is out: `accept` makes the receiver."""
        self._arm()
        try:
            self._receiver = accept()
            self._receiver.connected()
        except CONTAINED:
            self._failed("a connection could not be opened")
            self.close(1011, "internal error")

    def known(self) -> None:
        """It has been let in: what it costs counts no longer as a stranger's."""
        if self.stranger:
            self.stranger = False
            if self._websocket is not None:
                self._websocket.known()

    @property
    def protocol(self) -> int:
        """The version of Engine.IO: 4 or 3."""
        return self._session.protocol

    @property
    def base64(self) -> bool:
        """Whether what carries it now takes text only, as it said (`b64=1`)."""
        return self._base64

    @property
    def transport(self) -> str:
        """`polling` or `websocket`."""
        return "polling" if self._websocket is None else "websocket"

    @property
    def is_open(self) -> bool:
        return self._receiver is not None

    @property
    def writable(self) -> bool:
        """Whether a message would go out at once."""
        websocket = self._websocket
        return self._session.writable if websocket is None else websocket.writable

    def hold(self) -> None:
        """Read no more from the client's WebSocket: its answers have time.

        What comes by polling goes on coming: a POST that is not answered would keep the client from going over to a
        WebSocket, and Python's client gives up on it.
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
        """Read again."""
        if self._held:
            self._held = False
            self._session.resume(self._now())
            if self._websocket is not None:
                self._websocket.release()
            if self.is_open:
                self._arm()

    # Out

    def send_message(self, data: str | bytes) -> None:
        """Send one message. Does nothing once the connection is over. May be called from any thread."""
        home = self._owner.home
        if home.thread != get_ident() and home.call(self.send_message, data):
            return
        websocket = self._websocket
        if websocket is None:
            self._queue(packets.message(data))
        elif isinstance(data, str):
            websocket.send_text("4" + data)
        else:
            write(websocket, (data,), self._session.protocol, base64=self._base64)

    def send_messages(self, messages: Iterable[str | bytes]) -> None:
        """Send several messages, with nothing between them."""
        for message in messages:
            self.send_message(message)

    def offer(self, payload: Payload) -> None:
        """A published message, as `Frames`."""
        if self._websocket is None or self._base64:
            self._send_packets(cast("Frames", payload.data).messages)
        else:
            self._websocket.offer(payload)

    def send(self, data: str | bytes) -> None:
        """Send one message; or, as `interfaces.Connection`, `Frames`."""
        if not isinstance(data, Frames):
            self.send_message(data)
        elif self._websocket is None or self._base64:
            self._send_packets(data.messages)
        else:
            self._websocket.send(data)

    def send_text(self, text: str) -> None:
        self.send_message(text)

    async def drained(self) -> None:
        """Return when there is room for more, or the connection is over. Cancelling it loses nothing."""
        if self._websocket is not None:
            await self._websocket.drained()
        while self._websocket is None and self.is_open and self._session.queued > _ENOUGH:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    def discard(self, unwanted: Callable[[str | bytes], bool]) -> None:
        """Drop the messages that wait for the client and are `unwanted`."""

        def matches(packet: Packet) -> bool:
            data = packets.content(packet)
            return data is not None and unwanted(data)

        self._session.discard(matches)
        if self._websocket is not None:
            protocol = self._session.protocol
            self._websocket.discard(lambda message: matches(read(message, protocol)))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection after what was sent, a WebSocket with this code. May be called from any thread."""
        home = self._owner.home
        if home.thread != get_ident() and home.call(self.close, code, reason):
            return
        if self._websocket is not None and code != 1000:
            self._websocket.close(code, reason)
        self._do(self._session.close(self._now(), cut=code != 1000))

    def shutdown(self) -> None:
        """The server stops: a hanging GET is answered, and no other one can come."""
        self._do(self._session.close(self._now()))
        self._owner.forget(self)

    def abort(self) -> None:
        """As `shutdown`: what carries it ends by itself."""
        self.shutdown()

    def _send_packets(self, sent: tuple[Packet, ...]) -> None:
        if self._websocket is None:
            self._queue(*sent)
        else:
            self._write(self._websocket, sent)

    def _queue(self, *queued: Packet) -> None:
        session = self._session
        if self._overflows:
            return
        site = self._owner.site
        if session.queued > site.limits.outbox_bytes and self._receiver is not None:
            if session.hanging:  # it takes what it can get
                self._do(session.flush())
            # One message may be larger than the limit, as on a WebSocket: its client only has no GET at the moment.
            if session.queued > site.limits.outbox_bytes:
                site.counters.hit("outbox_bytes")
                self._overflows = True
                asyncio.get_running_loop().call_soon(self.close)  # not now: `offer` changes no membership
                return
        session.send(*queued)
        if session.hanging and not self._flushing:
            self._flush_soon()

    def _flush_soon(self) -> None:
        """What one turn of the loop sends leaves in one body."""
        self._flushing = True
        self._owner.site.turn.add(self)

    def leave(self) -> None:
        """The turn is over (`server.writing.Leaving`)."""
        self._flushing = False
        self._do(self._session.flush())

    # interfaces.Session, of the WebSocket that carries it

    def opened(self, connection: object) -> None:
        """Whoever opened the WebSocket has handed it over."""

    def text(self, text: str) -> None:
        receiver = self._receiver
        if receiver is not None and text[:1] == "4":
            receiver.message(text[1:])
        else:
            self._packet(text)

    def binary(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is not None and self._session.protocol == 4:
            receiver.message(data)
        else:
            self._packet(data)

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        receiver = self._receiver
        if isinstance(message, str) and message[:1] != "4":
            self._packet(message)  # a heartbeat is not an event
        elif receiver is not None:
            receiver.refused(error, message[1:] if isinstance(message, str) else message)

    def closed(self) -> None:
        self._websocket = None
        self._do(self._session.lose(self._now()))

    def _packet(self, message: str | bytes) -> None:
        session, now = self._session, self._now()
        try:
            packet = read(message, session.protocol)
        except InvalidPacket:
            self._do(session.broken(now))
        else:
            self._do(session.receive(packet, now))
            if packet == packets.PONG and self._receiver is not None:
                self._receiver.alive()

    # The upgrade

    @property
    def is_probing(self) -> bool:
        """Whether a WebSocket has come to take over, and has not yet."""
        return self._candidate is not None

    def attach(self, websocket: Carrier) -> bool:
        """A WebSocket has come to take over; False if it must not."""
        effects = self._session.attach(self._now())
        refused = any(isinstance(effect, Refuse) for effect in effects)
        self._do(effects)
        if refused:
            return False
        self._candidate = websocket
        self._arm()
        return True

    def probe(self, websocket: Carrier, message: str | bytes, *, base64: bool) -> bool:
        """A message has come on the candidate; True once it has taken over. `base64` as for the constructor."""
        if websocket is not self._candidate:
            return False
        session = self._session
        packet: Packet | None
        try:
            packet = read(message, session.protocol)
        except InvalidPacket:
            packet = None
        effects = session.probe(packet, self._now())
        taken = session.state is SessionState.WEBSOCKET
        if taken:
            self._websocket, self._candidate = websocket, None
            if not self.stranger:
                websocket.known()
            if self._held:
                self._stop_reading()
            self._owner.site.live.discard(self)
        if taken or session.state is SessionState.CLOSED:  # what was sent before goes out on it, and then its end
            self._base64 = base64
        self._do(effects)
        return taken

    def detach(self, websocket: Carrier) -> None:
        """The candidate is gone."""
        if websocket is self._candidate:
            self._candidate = None
            self._do(self._session.detach())

    # Polling

    def get(self, poll: Poll) -> None:
        """A GET has come: `poll` is answered now or later. Where its client goes away before, `let_go` of it.

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
        """Heartbeats count for the rate, too, as whatever else is not a message; only messages are refused singly."""
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

    # Time

    def on_deadline(self, now: float) -> None:
        candidate = self._candidate
        self._do(self._session.on_deadline(now))
        if candidate is not None and self._candidate is None:
            self._owner.site.counters.hit("upgrade_timeout")

    def _now(self) -> float:
        return self._owner.site.timers.now()

    def _arm(self) -> None:
        when = self._session.next_deadline()
        if when == float("inf"):
            self._owner.site.timers.cancel(self)
        else:
            self._owner.site.timers.set(self, when)

    # What the state machine wants

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._apply(effect)
        self._settle()

    def _settle(self) -> None:
        if self._room is not None and (self._session.queued <= _ENOUGH or not self.is_open):
            room, self._room = self._room, None
            room.set_result(None)
        if self._session.state is SessionState.CLOSED:
            self._owner.forget(self)
            return
        self._arm()
        if self._session.hanging and self._session.waiting and not self._flushing:
            self._flush_soon()

    def _apply(self, effect: Effect) -> None:
        match effect:
            case Send(Channel.POLL, sent):
                poll, self._poll = self._poll, None
                if poll is not None:
                    poll.fetched(sent)
            case Send(Channel.WEBSOCKET, sent):
                self._write(self._websocket, sent)
            case Send(Channel.CANDIDATE, sent):
                self._write(self._candidate, sent)
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
                pass  # whoever asked has looked for it
            case str() | bytes():
                if self._receiver is not None:
                    self._receiver.message(effect)

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
