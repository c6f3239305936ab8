"""The v1 session over a WebSocket: JSON text in, JSON text out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast

import msgspec

from partyline import __version__
from partyline.errors import InvalidValue, PartylineError
from partyline.interfaces import Connection, Dialect, Member
from partyline.models import Message, Movement
from partyline.relay.services import Services
from partyline.relay.v1.session import V1Session
from partyline.relay.values import Moved, Welcome
from partyline.server.site import Carrier
from partyline.server.writing import OWN_READ
from partyline.trust.keys import Principal
from partyline.wire import relay as wire
from partyline.wire.json import to_json
from partyline.wire.websocket.deflate import Deflate, deflate
from partyline.wire.websocket.frames import TEXT, frame, text_frame

SUBPROTOCOL: Final = "partyline.v1"


@dataclass(frozen=True, slots=True, eq=False)
class V1Dialect:
    """Messages as v1 `message` frames, and movements as `join` and `leave`."""

    epoch: str
    agreed: Deflate | None
    compress_from: int

    def encode(self, message: Message) -> bytes:
        if isinstance(message, Movement):
            text = wire.framed(message.kind, None, Moved.of(message))
        else:
            text = to_json(wire.envelope(message, self.epoch, wire.MessageFrame))
        if self.agreed is not None and len(text) >= self.compress_from:
            return frame(TEXT, deflate(text, self.agreed.window_bits), rsv1=True)
        return text_frame(text)


@lru_cache(maxsize=64)
def _dialect(epoch: str, agreed: Deflate | None, compress_from: int) -> Dialect:
    return V1Dialect(epoch, agreed, compress_from)


class V1WebSocket(V1Session):
    """One connection at /v1/ws (`interfaces.Session`)."""

    __slots__ = ("_connection", "_greeting", "_takes_bundles")

    def __init__(
        self, services: Services, principal: Principal | None, address: str, *, takes_bundles: bool = False
    ) -> None:
        super().__init__(services, principal, address)
        self._takes_bundles = takes_bundles  # its `welcome` may come in the same read as the 101
        self._connection: Carrier | None = None
        self._greeting: asyncio.TimerHandle | None = None  # its `welcome` is still pending

    # interfaces.Session

    def opened(self, connection: Connection) -> None:
        carrier = self._connection = cast("Carrier", connection)
        services = self._services
        carrier.dialect = _dialect(services.store.epoch, carrier.deflate, services.settings.compress_from)
        if self._takes_bundles:
            self._welcome()
        else:
            self._greeting = asyncio.get_running_loop().call_later(OWN_READ, self._greet)
        self.begin()

    def _greet(self) -> None:
        """Send `welcome`: in a read of its own after the 101, or when the client's first command comes."""
        greeting, self._greeting = self._greeting, None
        if greeting is not None:
            greeting.cancel()
            self._welcome()

    def _welcome(self) -> None:
        services = self._services
        self.tell("welcome", Welcome(self.public_id, f"partyline/{__version__}", services.settings.ping_interval))

    def text(self, text: str) -> None:
        if self._greeting is not None:
            self._greet()
        try:
            command = wire.decode_command(text)
        except PartylineError as error:
            self._failed(wire.find_id(text), error)
        else:
            self.do(command, command.id)

    def binary(self, data: bytes) -> None:
        self.refused(InvalidValue("commands are JSON text, not binary messages", code="unknown_command"), data)

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        self._greet()
        self._failed(wire.find_id(message) if isinstance(message, str) else None, error)

    def closed(self) -> None:
        if self._greeting is not None:
            self._greeting.cancel()
        self.end()
        self._connection = None

    def finish(self, then: Callable[[], None]) -> None:
        self._greet()
        super().finish(then)

    # V1Session

    @property
    def member(self) -> Member:
        assert self._connection is not None
        return self._connection

    @property
    def pings(self) -> bool:
        return self._connection is not None and self._connection.pings

    def _enter(self, principal: Principal) -> None:
        super()._enter(principal)
        if self._connection is not None:
            self._connection.known()

    def reply(self, asked: wire.CommandId, value: msgspec.Struct) -> None:
        self._say(wire.framed("reply", asked, value))

    def refuse(self, asked: wire.CommandId, error: PartylineError) -> None:
        self._say(wire.framed("error", asked, wire.ErrorFrame(error.code, error.message)))

    def tell(self, kind: str, value: msgspec.Struct) -> None:
        self._say(wire.framed(kind, None, value))

    def _say(self, payload: bytes) -> None:
        if self._connection is not None:
            self._connection.send_utf8(payload)

    async def drained(self) -> None:
        if self._connection is not None:
            await self._connection.drained()
