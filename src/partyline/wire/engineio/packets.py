"""Engine.IO packets, and how a WebSocket carries them.

A packet is a `str` (the digit of its type, then its data) or `bytes` (a binary message). A WebSocket of protocol 4
carries it as it is, so nothing is built per packet. Protocol 3 puts a byte with the type before a binary message.
"""

from __future__ import annotations

import binascii
from typing import Final, TypeAlias

from partyline.errors import InvalidPacket

Packet: TypeAlias = str | bytes

OPEN: Final = "0"
CLOSE: Final = "1"
PING: Final = "2"
PONG: Final = "3"
MESSAGE: Final = "4"
UPGRADE: Final = "5"
NOOP: Final = "6"

PROBE: Final = "2probe"
PROBE_ANSWER: Final = "3probe"

_TYPES: Final = frozenset("0123456")
BINARY_HEADS: Final = {4: b"", 3: b"\x04"}  # what precedes a binary message on a WebSocket, by protocol
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")  # RFC 4648 5 to 4


def message(data: str | bytes) -> Packet:
    """A message's packet."""
    return MESSAGE + data if isinstance(data, str) else data


def content(packet: Packet) -> str | bytes | None:
    """The data of a message; None for a packet of any other type."""
    if type(packet) is str:
        return packet[1:] if packet[0] == MESSAGE else None
    return packet


def read_text(text: str, protocol: int) -> Packet:
    """The packet in a text message, or in one piece of a polling body. Raises InvalidPacket."""
    first = text[:1]
    if first in _TYPES and first:
        return text
    if first == "b":
        # In protocol 3 a packet in base64 has a type, too; only messages can be binary.
        if protocol == 4:
            return from_base64(text[1:])
        if text[1:2] == MESSAGE:
            return from_base64(text[2:])
    raise InvalidPacket(f"an Engine.IO packet begins with a digit from 0 to 6, not with {first!r}")


def read_binary(data: bytes, protocol: int) -> bytes:
    """The packet in a binary WebSocket message. Raises InvalidPacket."""
    if protocol == 4:
        return data
    if data[:1] != BINARY_HEADS[3]:
        raise InvalidPacket("in Engine.IO 3 a binary message begins with the byte 4")
    return data[1:]


def to_base64(data: bytes, protocol: int) -> str:
    """A binary message as text, for a transport that carries only text."""
    return ("b" if protocol == 4 else "b4") + binascii.b2a_base64(data, newline=False).decode("ascii")


def from_base64(text: str) -> bytes:
    """Read base64 as Node does: white space anywhere, padding optional, the URL-safe alphabet too.

    The official Java and Android clients break lines. Raises InvalidPacket for any other character.
    """
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error, or not ASCII
        pass
    try:
        digits = text.encode("ascii").translate(_TO_STANDARD, b" \t\r\n\f\v").rstrip(b"=")
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)
    except ValueError:
        raise InvalidPacket("a binary packet is not base64 (RFC 4648)") from None
