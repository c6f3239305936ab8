"""How Socket.IO clients get a message of the hub: one dialect for each way to speak, encoded once for all of them."""

from __future__ import annotations

from partyline.engineio.frames import Frames
from partyline.models import Message
from partyline.wire.socketio.attachments import Body
from partyline.wire.socketio.packets import Parser


class Emission(Message, frozen=True, kw_only=True):
    """An event on its way to many. `ack` is the id of the acknowledgement that is wanted of each."""

    namespace: str
    body: Body
    ack: int | None = None


class EventDialect:
    """Events for clients with one parser and one version of Engine.IO; with an `epoch`, they get positions, too."""

    __slots__ = ("_epoch", "_parser", "_protocol")

    def __init__(self, parser: Parser, protocol: int, epoch: str | None = None) -> None:
        self._parser = parser
        self._protocol = protocol
        self._epoch = epoch

    def encode(self, message: Message) -> Frames:
        assert isinstance(message, Emission)
        offset = None if message.offset is None or self._epoch is None else f"{self._epoch}-{message.offset}"
        return Frames.of(self._parser.packet(message.namespace, message.body, message.ack, offset), self._protocol)
