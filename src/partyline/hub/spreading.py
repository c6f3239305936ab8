"""What servers say to each other on their one bus: each part of a server has subjects of its own."""

from __future__ import annotations

from typing import Final

import msgspec

from partyline.hub.hub import Hub
from partyline.interfaces import Bus, Heard
from partyline.models import Draft

_PASSING: Final = "passing"  # the subject of messages that are not kept

_decode: Final = msgspec.msgpack.Decoder(Draft).decode
_encode: Final = msgspec.msgpack.Encoder().encode


def carry(hub: Hub, bus: Bus) -> None:
    """Bring messages that are not kept to the hubs of the others, and theirs here."""
    bus.listen(_PASSING, lambda node, data: hub.hear(_decode(data)))
    hub.carry = lambda draft: bus.publish(_PASSING, _encode(draft))


class Shared:
    """The bus of a server, from before its first connection until after its last (`server.site.Background`)."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def start(self) -> None:
        """Connect; where that cannot be, it is tried again and again."""
        await self.bus.start(lambda node, data: None)

    async def stop(self) -> None:
        """Say what was said, and let go."""
        await self.bus.close()


class Part:
    """A Bus for one part of a server, on the one that `Shared` starts and ends."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.node = bus.node
        self._bus = bus
        self._name = name
        self._subjects: set[str] = set()

    @property
    def connected(self) -> bool:
        return self._bus.connected

    async def start(self, received: Heard) -> None:
        self.listen(f"@{self.node}", received)

    def publish(self, subject: str, data: bytes) -> None:
        self._bus.publish(f"{self._name} {subject}", data)

    def send(self, node: str, data: bytes) -> None:
        self.publish(f"@{node}", data)

    def listen(self, subject: str, heard: Heard) -> None:
        self._subjects.add(subject)
        self._bus.listen(f"{self._name} {subject}", heard)

    def unlisten(self, subject: str) -> None:
        self._subjects.discard(subject)
        self._bus.unlisten(f"{self._name} {subject}")

    async def ready(self) -> None:
        await self._bus.ready()

    def lost(self) -> int:
        return self._bus.lost()

    async def close(self) -> None:
        for subject in tuple(self._subjects):
            self.unlisten(subject)
