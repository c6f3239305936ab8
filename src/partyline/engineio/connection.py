"""One Engine.IO connection, as its owner and its WebSocket see it.

The state machine (wire/engineio/session.py) says what to do, and transports.py does it. On a WebSocket a message goes
straight through: no effect, no list, no look at the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import cast

from partyline import log
from partyline.engineio.frames import read, write
from partyline.engineio.receiver import Receiver
from partyline.engineio.transports import ENOUGH, Owner, Transports
from partyline.errors import CONTAINED, InvalidPacket, PartylineError
from partyline.hub.outbox import end_slow
from partyline.interfaces import Dialect
from partyline.models import Payload
from partyline.server.site import Carrier
from partyline.wire.engineio import packets
from partyline.wire.engineio.packets import Packet
from partyline.wire.engineio.session import Refuse, Rules, Session
from partyline.wire.engineio.states import SessionState
from partyline.wire.websocket.frames import Frames

_log = log.get("engineio")


class EngineConnection(Transports):
    """One client. An `interfaces.Connection` (payloads are `Frames`), and the `interfaces.Session` of its WebSocket."""

    __slots__ = (
        "_overflows",
        "address",
        "began_polling",
        "dialect",
        "rooms",
        "sid",
        "stranger",
        "takes_bundles",
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
        session = Session(protocol, rules, owner.site.timers.now(), websocket=websocket is not None)
        super().__init__(owner, session, websocket, base64=base64)
        self.sid = sid
        self.address = address
        self.began_polling = websocket is None
        self.stranger = False  # its costs count as a stranger's until `known`
        self.takes_bundles = True  # messages are taken one by one: none needs a read of its own
        self.user: str | None = None
        self.rooms = ()
        self._overflows = False

    # Life

    def begin(self, accept: Callable[[], Receiver]) -> None:
        """The open packet is out: let `accept` make the receiver."""
        self._arm()
        try:
            self._receiver = accept()
            self._receiver.connected()
        except CONTAINED:
            self._failed("a connection could not be opened")
            self.close(1011, "internal error")

    def known(self) -> None:
        """It has been let in: its costs no longer count as a stranger's."""
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
        """Whether its current transport takes only text, as its client said (`b64=1`)."""
        return self._base64

    @property
    def transport(self) -> str:
        """`polling` or `websocket`."""
        return "polling" if self._websocket is None else "websocket"

    @property
    def writable(self) -> bool:
        """Whether a message would go out at once."""
        websocket = self._websocket
        return self._session.writable if websocket is None else websocket.writable

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
        """Return when there is room for more, or the connection is over. Cancelling this loses nothing."""
        if self._websocket is not None:
            await self._websocket.drained()
        while self._websocket is None and self.is_open and self._session.queued > ENOUGH:
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

    def shutdown(self) -> None:
        """The server stops: answer a hanging GET; no other one can come."""
        self._do(self._session.close(self._now()))
        self._owner.forget(self)

    def abort(self) -> None:
        """As `shutdown`: its transport ends by itself."""
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
            if session.hanging:  # the GET takes what there is
                self._do(session.flush())
            # One message may be larger than the limit, as on a WebSocket: the client just has no GET at the moment.
            if session.queued > site.limits.outbox_bytes:
                self._overflows = True
                asyncio.get_running_loop().call_soon(end_slow, self, site.counters)  # `offer` changes no membership
                return
        session.send(*queued)
        if session.hanging and not self._flushing:
            self._flush_soon()

    # interfaces.Session, of the WebSocket that carries it

    def opened(self, connection: object) -> None:
        """The endpoint that opened the WebSocket has handed it over."""

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
            if packets.content(packet) is None and self._websocket is not None:
                self._websocket.said_nothing()
            self._do(session.receive(packet, now))
            if packet == packets.PONG and self._receiver is not None:
                self._receiver.alive()

    # The upgrade

    @property
    def is_probing(self) -> bool:
        """Whether a WebSocket has come to take over, but has not done so yet."""
        return self._candidate is not None

    def attach(self, websocket: Carrier) -> bool:
        """A WebSocket has come to take over; False if it may not."""
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
        if taken or session.state is SessionState.CLOSED:  # it carries what was sent before, then its end
            self._base64 = base64
        self._do(effects)
        return taken

    def detach(self, websocket: Carrier) -> None:
        """The candidate is gone."""
        if websocket is self._candidate:
            self._candidate = None
            self._do(self._session.detach())
