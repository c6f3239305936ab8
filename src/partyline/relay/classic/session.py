"""The WebSocket of the classic contract: a client's commands on /ws/<id>, and their answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import msgspec

from partyline.errors import InvalidValue, PartylineError
from partyline.interfaces import Connection, Dialect, Member
from partyline.models import Message
from partyline.relay.classic.registry import Registration
from partyline.relay.services import Services
from partyline.server.answers import error_body
from partyline.server.site import Carrier
from partyline.topics import check_topic
from partyline.wire.json import decode, mend_surrogates
from partyline.wire.relay import Topics, check_list
from partyline.wire.websocket.deflate import Deflate, deflate
from partyline.wire.websocket.frames import TEXT, frame, text_frame

_PONG = text_frame(b"pong")
_KNOWN = 'this connection understands {"topics": [...]} and ping'


def classic_text(message: Message) -> bytes:
    """A message as a classic client gets it: a string as its bare text, any other JSON as compact text."""
    data = message.draft.data
    if data[:1] == b'"':
        return msgspec.json.decode(mend_surrogates(data), type=str).encode()
    return data


@dataclass(frozen=True, slots=True, eq=False)
class ClassicDialect:
    """Messages as bare text frames; those of `compress_from` bytes or more are compressed if that was negotiated."""

    agreed: Deflate | None
    compress_from: int

    def encode(self, message: Message) -> bytes:
        text = classic_text(message)
        if self.agreed is not None and len(text) >= self.compress_from:
            return frame(TEXT, deflate(text, self.agreed.window_bits), rsv1=True)
        return text_frame(text)


@lru_cache(maxsize=64)
def _dialect(agreed: Deflate | None, compress_from: int) -> Dialect:
    # One object per way of writing; otherwise the hub would encode for each member.
    return ClassicDialect(agreed, compress_from)


class ClassicSession:
    """One connection at /ws/<id>."""

    __slots__ = ("_connection", "_registration", "_services")

    def __init__(self, services: Services, registration: Registration) -> None:
        self._services = services
        self._registration = registration
        self._connection: Carrier | None = None

    @property
    def public_id(self) -> str:
        """This connection's name in lists."""
        return self._registration.public_id

    @property
    def member(self) -> Member:
        """Its hub member. Only used while it is open."""
        assert self._connection is not None
        return self._connection

    def opened(self, connection: Connection) -> None:
        registration = self._registration
        if registration not in registration.registry:  # an ASGI server took its time to accept, and it ended meanwhile
            connection.close(4001, "unregistered")
            return
        connection = self._connection = cast("Carrier", connection)
        connection.user = registration.user
        connection.dialect = _dialect(connection.deflate, self._services.settings.compress_from)
        self._services.open.add(self)
        earlier = self._registration.registry.attach(registration, self)
        self._services.hub.add(self.member)
        self._begin(registration.topics)
        if earlier is not None:  # only now, or presence would report that the user has left
            earlier.close(4000, "replaced by a newer connection")

    def text(self, text: str) -> None:
        connection = self._connection
        if connection is None:
            return
        if text in ("ping", "ping\n"):
            connection.send(_PONG)
            return
        try:
            if not text.lstrip(" \t\r\n").startswith("{"):
                raise InvalidValue(f"this is not a command: {_KNOWN}", code="unknown_command")
            self._replace_topics(decode(text.encode(), Topics).topics)
        except PartylineError as error:
            self.refused(error, text)

    def binary(self, data: bytes) -> None:
        self.refused(InvalidValue(f"binary messages mean nothing here: {_KNOWN}", code="unknown_command"), data)

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        if error.limit is not None:
            self._services.hub.counters.hit(error.limit)
        if self._services.settings.classic_errors and self._connection is not None:
            self._connection.send_text(error_body(error).decode())

    def closed(self) -> None:
        if self._connection is not None:
            self._services.hub.remove(self.member)
            self._connection = None
            self._services.open.discard(self)
            self._registration.registry.detach(self._registration, self)

    # relay.classic.registry.User, relay.services.Listed

    def close(self, code: int, reason: str = "") -> None:
        """End the connection; nothing more is sent to it, however long its peer takes to answer the close."""
        connection = self._connection
        if connection is not None:
            self.closed()
            connection.close(code, reason)

    def follow(self, topics: tuple[str, ...]) -> None:
        """Join these topics, and leave all others."""
        if self._connection is None:
            return
        member, wanted = self.member, set(topics)
        for topic in tuple(member.rooms):
            if topic not in wanted:
                self._services.hub.leave(member, topic)
        self._join(topics)

    def _begin(self, topics: tuple[str, ...]) -> None:
        """Join these topics."""
        self._join(topics)

    def _join(self, topics: tuple[str, ...]) -> None:
        for topic in topics:
            self._services.hub.join(self.member, topic)

    def _replace_topics(self, names: list[str]) -> None:
        """All or nothing: every name is checked before the first changes."""
        check_list(names, self._services.settings.topics_per_connection)
        wanted = dict.fromkeys(check_topic(name, "topics") for name in names)
        self._registration.registry.check_grants(self._registration, wanted)
        self._registration.registry.set_topics(self._registration, tuple(wanted))
