"""The relay as a Socket.IO namespace: topics for Socket.IO clients. The one place that knows both.

Behind each socket of `/relay` stands a line of the v1 WebSocket: its commands are events with an acknowledgement, its
frames are events (relay.md). One publish reaches plain WebSocket, SSE, v1 and Socket.IO subscribers alike.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from partyline.engineio.frames import Frames
from partyline.errors import ConnectionRefused, InvalidValue, PartylineError
from partyline.interfaces import Connection, Dialect
from partyline.models import Message, Payload
from partyline.relay.line import LineServices, LineSession
from partyline.server.websocket import CUT_OFF
from partyline.socketio.acks import Acknowledge
from partyline.socketio.handlers import Handlers
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from partyline.wire import relay as wire
from partyline.wire.json import decode, to_json
from partyline.wire.socketio.packets import Parser
from partyline.wire.websocket.frames import utf8

NAMESPACE: Final = "/relay"
COMMANDS: Final[dict[str, Any]] = {
    "subscribe": wire.Subscribe,
    "unsubscribe": wire.Unsubscribe,
    "publish": wire.Publish,
    "history": wire.History,
    "presence": wire.PresenceOf,
}


def serve_relay(io: SocketIO, services: LineServices) -> None:
    """Put the relay's topics into the namespace `/relay` of a Socket.IO server."""
    relay = io.own(NAMESPACE)
    if not isinstance(relay.handlers, _Relay) and (relay.handlers.events or relay.handlers.connect):
        return  # the application has a namespace of this name
    relay.handlers = _Relay()
    relay.recovers = False  # `subscribe` with `after` does that
    lines: dict[Socket, _Line] = {}

    @relay.on_connect
    def enter(socket: Socket) -> None:
        try:
            principal = services.access.authenticate(_credential(socket), socket.handshake.address)
        except PartylineError as error:
            services.hub.counters.refused += 1
            raise ConnectionRefused(error.message, {"code": error.code}) from None
        session = _Session(services, principal, socket.handshake.address)
        lines[socket] = line = _Line(socket, session, services.store.epoch)
        session.opened(line)

    @relay.on_disconnecting
    def leave(socket: Socket, reason: str) -> None:
        line = lines.pop(socket, None)
        if line is not None:
            line.end()

    def add(command: str) -> None:
        def handle(socket: Socket, fields: msgspec.Raw, acknowledge: Acknowledge) -> None:
            line = lines.get(socket)
            if line is not None:
                line.ask(command, fields, acknowledge)

        relay.on(command, handle)

    for command in COMMANDS:
        add(command)


class _Relay(Handlers):
    """The handlers of this module, and of no application."""


def _credential(socket: Socket) -> str | None:
    """An Authorization header, made of the `token` in auth where there is one."""
    token = socket.handshake.auth.get("token")
    if token is None:
        return socket.handshake.headers.get("authorization")
    if not isinstance(token, str):
        raise InvalidValue("token: a key or a token is a text", field="token")
    return f"Bearer {token}"


class _RelayDialect:
    """Messages of topics as `message` events."""

    __slots__ = ("_epoch", "_parser", "_protocol")

    def __init__(self, epoch: str, parser: Parser, protocol: int) -> None:
        self._epoch = epoch
        self._parser = parser
        self._protocol = protocol

    def encode(self, message: Message) -> bytes:
        value = msgspec.Raw(to_json(wire.envelope(message, self._epoch)))
        return Frames.of(self._parser.event(NAMESPACE, "message", (value,)), self._protocol)


_dialects: dict[tuple[str, Parser, int], Dialect] = {}  # one for all who speak alike: they share the bytes


class _Session(LineSession):
    """A line whose messages are events."""

    def choose_dialect(self, connection: Connection) -> None:
        """It has its own."""

    def _say(self, value: dict[str, Any] | wire.PublishReply) -> None:
        if self._connection is not None:
            cast("_Line", self._connection).hear(value if isinstance(value, dict) else msgspec.structs.asdict(value))


class _Line:
    """A `relay.line.LineConnection`: what a line says, as events and acknowledgements of a socket."""

    pings = True  # Engine.IO's heartbeat

    def __init__(self, socket: Socket, session: LineSession, epoch: str) -> None:
        key = (epoch, socket.parser, socket.engine.protocol)
        self.dialect = _dialects.setdefault(key, _RelayDialect(*key))
        self.user: str | None = None
        self.rooms: tuple[str, ...] | set[str] = ()
        self._socket = socket
        self._session = session
        self._asked = 0
        self._answers: dict[int, Acknowledge] = {}

    # From the client

    def ask(self, name: str, fields: msgspec.Raw, acknowledge: Acknowledge) -> None:
        """Do a command of the client's; the line keeps them in order."""
        try:
            command = decode(bytes(fields), COMMANDS[name])
        except PartylineError as error:
            acknowledge({"error": error.code, "message": error.message})
            return
        self._asked += 1
        self._answers[self._asked] = acknowledge
        command.id = self._asked
        self._session.do(command)

    def end(self) -> None:
        """The socket goes."""
        self._session.closed()

    # interfaces.Connection, and the line's

    def offer(self, payload: Payload) -> None:
        self._socket.offer(payload)

    def send(self, data: bytes) -> None:
        self._socket.offer(Payload(data))

    def hear(self, frame: dict[str, Any]) -> None:
        """What the line says. It may hold JSON that nobody has decoded."""
        kind, number = frame.pop("type", "reply"), frame.pop("id", None)
        if kind in ("reply", "error"):
            acknowledge = self._answers.pop(number, None)
            if acknowledge is not None:
                answer = frame if kind == "reply" else {"error": frame["code"], "message": frame["message"]}
                acknowledge(msgspec.Raw(to_json(answer)))
        elif kind != "welcome":
            self._socket.send_event(kind, (msgspec.Raw(to_json(frame)),))

    def send_utf8(self, payload: bytes) -> None:
        """Nothing says JSON here."""

    def send_text(self, text: str) -> None:
        self.send_utf8(utf8(text))

    def known(self) -> None:
        """Its CONNECT said who it is."""

    async def drained(self) -> None:
        await self._socket.engine.drained()

    def close(self, code: int, reason: str = "") -> None:
        if code in CUT_OFF:
            self._socket.discard()
        self._socket.send_event("closed", ({"code": code, "reason": reason},))
        self._socket.disconnect()
