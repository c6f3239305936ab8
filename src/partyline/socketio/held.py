"""Packets for a socket whose CONNECT is not answered yet: an outbox of its own, with the same bound."""

from __future__ import annotations

from partyline.engineio.connection import EngineConnection
from partyline.wire.socketio.packets import Messages


class Held:
    """Packets in order, of at most `limit` bytes."""

    __slots__ = ("_limit", "_packets", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._packets: list[Messages | bytes] = []
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._packets)

    def add(self, packet: Messages | bytes) -> bool:
        """Keep one more. False if it does not fit: the client has to go, and no further packet is kept."""
        if self.size > self._limit:
            return True
        self.size += len(packet) if isinstance(packet, bytes) else sum(map(len, packet))
        if self.size > self._limit:
            self._packets.clear()
            return False
        self._packets.append(packet)
        return True

    def send(self, engine: EngineConnection) -> None:
        """Send all."""
        for packet in self._packets:
            if isinstance(packet, bytes):
                engine.send(packet)
            else:
                engine.send_messages(packet)
