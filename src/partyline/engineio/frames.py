"""Packets as WebSocket messages: what a dialect encodes for many, what one connection writes, what it reads."""

from __future__ import annotations

from collections.abc import Iterable

from partyline.server.site import Carrier
from partyline.wire.engineio import packets
from partyline.wire.engineio.packets import Packet


class Frames(bytes):
    """WebSocket frames that remember the packets in them, for members on polling: what a dialect here encodes to."""

    packets: tuple[Packet, ...]

    @classmethod
    def of(cls, messages: Iterable[str | bytes], protocol: int) -> Frames:
        """The frames of some messages, in one piece."""
        written = tuple(map(packets.message, messages))
        frames = cls(packets.write_frames(written, protocol))
        frames.packets = written
        return frames


def write(websocket: Carrier, sent: Iterable[Packet], protocol: int, *, base64: bool) -> None:
    """Write packets on a WebSocket; `base64` says that it takes text only."""
    for packet in sent:
        if isinstance(packet, str):
            websocket.send_text(packet)
        elif base64:
            websocket.send_text(packets.to_base64(packet, protocol))
        else:
            websocket.send_binary(packet if protocol == 4 else b"\x04" + packet)


def read(message: str | bytes, protocol: int) -> Packet:
    """The packet in a message. Raises InvalidPacket."""
    if isinstance(message, str):
        return packets.read_text(message, protocol)
    return packets.read_binary(message, protocol)
