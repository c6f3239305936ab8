"""How Socket.IO clients get a message of the hub: one dialect for each way to speak, encoded once for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from partyline.engineio.frames import Frames
from partyline.models import Draft, Message
from partyline.wire.socketio.packets import Parser


@dataclass(frozen=True, slots=True)
class Emission(Draft):
    """An event on its way to many. `ack` is the id of the acknowledgement that is wanted of each."""

    namespace: str = "/"
    event: str = ""
    arguments: tuple[Any, ...] = ()
    ack: int | None = None


class EventDialect:
    """Events for clients with one parser and one version of Engine.IO; with an `epoch`, they get positions, too."""

    __slots__ = ("_epoch", "_parser", "_protocol")

    def __init__(self, parser: Parser, protocol: int, epoch: str | None = None) -> None:
        self._parser = parser
        self._protocol = protocol
        self._epoch = epoch

    def encode(self, message: Message) -> Frames:
        """Raises InvalidValue where an argument has no form."""
        emission = message.draft
        assert isinstance(emission, Emission)
        offset = None if message.offset is None or self._epoch is None else f"{self._epoch}-{message.offset}"
        messages = self._parser.event(emission.namespace, emission.event, emission.arguments, emission.ack, offset)
        return Frames.of(messages, self._protocol)
