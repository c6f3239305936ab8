"""The relay as a Socket.IO namespace: topics for Socket.IO clients. Only this module knows both.

A socket of `/relay` carries a v1 session: commands are events with an acknowledgement, and the session's values are
events. One publish reaches plain WebSocket, SSE, v1 and Socket.IO subscribers alike.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from partyline.errors import ConnectionRefused, InvalidValue, PartylineError
from partyline.interfaces import Dialect, Member
from partyline.models import Message, Movement, Payload
from partyline.relay.services import Services
from partyline.relay.v1.session import V1Session
from partyline.relay.values import Moved
from partyline.server.websocket import CUT_OFF
from partyline.socketio.acks import Acknowledge
from partyline.socketio.handlers import Handler, Handlers
from partyline.socketio.journal import EventDialect
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from partyline.trust.keys import Principal
from partyline.wire import relay as wire
from partyline.wire.json import decode, to_json
from partyline.wire.socketio.packets import Parser, whole
from partyline.wire.websocket.frames import Frames

NAMESPACE: Final = "/relay"
COMMANDS: Final[dict[str, Any]] = {
    "subscribe": wire.Subscribe,
    "unsubscribe": wire.Unsubscribe,
    "publish": wire.Publish,
    "history": wire.History,
    "presence": wire.PresenceOf,
}


def serve_relay(io: SocketIO, services: Services) -> None:
    """Put the relay's topics into the namespace `/relay` of a Socket.IO server."""
    relay = io._named(NAMESPACE)
    if not isinstance(relay._handlers, _Relay) and (relay._handlers.events or relay._handlers.connect):
        return  # the application has its own namespace of this name
    relay._handlers = _Relay()
    relay._recovers = False  # `subscribe` with `after` does that
    sessions: dict[Socket, _RelaySocket] = {}

    @relay.on_connect
    def enter(socket: Socket) -> None:
        try:
            principal = services.access.authenticate(_credential(socket), socket.handshake.address)
        except PartylineError as error:
            services.hub.counters.refused += 1
            raise ConnectionRefused(error.message, {"code": error.code}) from None
        session = sessions[socket] = _RelaySocket(socket, services, principal)
        session.begin()

    @relay.on_disconnecting
    def leave(socket: Socket, reason: str) -> None:
        session = sessions.pop(socket, None)
        if session is not None:
            session.end()

    def add(command: str) -> None:
        def handle(socket: Socket, fields: msgspec.Raw, acknowledge: Acknowledge) -> None:
            session = sessions.get(socket)
            if session is not None:
                session.ask(command, fields, acknowledge)

        relay._handlers.add(command, Handler(handle, reads=whole(COMMANDS[command])))

    for command in COMMANDS:
        add(command)


class _Relay(Handlers):
    """The handlers of this module, which marks them as not an application's."""


def _credential(socket: Socket) -> str | None:
    """The `token` in auth, if there is one, as an Authorization header."""
    token = socket.handshake.auth.get("token")
    if token is None:
        return socket.handshake.headers.get("authorization")
    if not isinstance(token, str):
        raise InvalidValue("token: a key or a token must be a string", field="token")
    return f"Bearer {token}"


class _RelayDialect(EventDialect):
    """Messages of topics as `message` events, and movements as `join` and `leave`."""

    __slots__ = ("_epoch",)

    def __init__(self, parser: Parser, protocol: int, epoch: str) -> None:
        super().__init__(parser, protocol)
        self._epoch = epoch

    def encode(self, message: Message) -> Frames:
        if isinstance(message, Movement):
            return self._written(message.kind, Moved.of(message))
        return self._written("message", wire.envelope(message, self._epoch))

    def _written(self, event: str, value: msgspec.Struct) -> Frames:
        return self._frames(self._parser.event(NAMESPACE, event, (msgspec.Raw(to_json(value)),)))


_dialects: dict[tuple[Parser, int, str], Dialect] = {}  # one for all clients that speak alike: they share the bytes


class _RelaySocket(V1Session):
    """The v1 session of one socket. It is its own member: messages are events, and answers acknowledgements."""

    __slots__ = ("_socket", "dialect", "rooms", "user")

    def __init__(self, socket: Socket, services: Services, principal: Principal) -> None:
        super().__init__(services, principal, socket.handshake.address)
        key = (socket.parser, socket.engine.protocol, services.store.epoch)
        self.dialect = _dialects.setdefault(key, _RelayDialect(*key))
        self.user: str | None = None
        self.rooms: tuple[str, ...] | set[str] = ()
        self._socket = socket

    def ask(self, name: str, fields: msgspec.Raw | wire.Command, acknowledge: Acknowledge) -> None:
        """Carry out a client's command; JSON that is not a valid command is refused with the reason."""
        try:
            command = decode(bytes(fields), COMMANDS[name]) if isinstance(fields, msgspec.Raw) else fields
        except PartylineError as error:
            self.refuse(acknowledge, error)
        else:
            self.do(command, acknowledge)

    # interfaces.Member

    def offer(self, payload: Payload) -> None:
        self._socket.offer(payload)

    def close(self, code: int, reason: str = "") -> None:
        if code in CUT_OFF:
            self._socket.discard()
        self._socket._send_event("closed", ({"code": code, "reason": reason},))
        self._socket.disconnect()

    # V1Session

    @property
    def member(self) -> Member:
        return self

    def reply(self, asked: Acknowledge, value: msgspec.Struct) -> None:
        asked(msgspec.Raw(to_json(value)))

    def refuse(self, asked: Acknowledge, error: PartylineError) -> None:
        asked({"error": error.code, "message": error.message})

    def tell(self, kind: str, value: msgspec.Struct) -> None:
        self._socket._send_event(kind, (msgspec.Raw(to_json(value)),))

    async def drained(self) -> None:
        await self._socket.engine.drained()
