"""Packets as WebSocket messages: what one connection writes, and what it reads."""

from __future__ import annotations

from collections.abc import Iterable

from partyline.server.site import Carrier
from partyline.wire.engineio import packets
from partyline.wire.engineio.packets import Packet


def write(websocket: Carrier, sent: Iterable[Packet], protocol: int, *, base64: bool) -> None:
    """Write packets on a WebSocket; `base64` says that it takes text only."""
    for packet in sent:
        if isinstance(packet, str):
            websocket.send_text(packet)
        elif base64:
            websocket.send_text(packets.to_base64(packet, protocol))
        else:
            websocket.send_binary(packets.BINARY_HEADS[protocol] + packet)


def read(message: str | bytes, protocol: int) -> Packet:
    """The packet in a message. Raises InvalidPacket."""
    if isinstance(message, str):
        return packets.read_text(message, protocol)
    return packets.read_binary(message, protocol)
