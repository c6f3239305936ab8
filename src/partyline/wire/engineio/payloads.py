"""Polling bodies: several packets in one HTTP body (Engine.IO 4 and 3, and JSONP).

Protocol 4 joins packets with U+001E. Protocol 3 writes `<length>:<packet>`, with the length in UTF-16 code units as
JavaScript counts them. Its other form is octets: a byte 0 (text) or 1 (binary), the decimal digits of the length in
bytes (each a byte from 0 to 9), a byte 255, then the packet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from partyline.errors import InvalidPacket
from partyline.wire.engineio.packets import Packet, read_binary, read_text, to_base64
from partyline.wire.websocket.frames import utf8

SEPARATOR: Final = "\x1e"
MOST_PACKETS: Final = 16  # in one body of ours: Python clients refuse more by default
MOST_POSTED: Final = (
    10_000  # in one body of a client: a megabyte of empty packets must not become half a million values
)

TEXT: Final = "text/plain; charset=UTF-8"
OCTETS: Final = "application/octet-stream"
SCRIPT: Final = "text/javascript; charset=UTF-8"

_LENGTH = re.compile(r"([0-9]{1,10}):")
_BEYOND_BASIC_PLANE = re.compile("[\U00010000-\U0010ffff]")
_ESCAPED_NEWLINE = re.compile(r"(\\)?\\n")
_DIGITS = bytes(range(10))


# In


def read(body: bytes, protocol: int, *, octets: bool = False) -> list[Packet]:
    """The packets of a POST's body. `octets` says that its type is application/octet-stream.

    Raises InvalidPacket if a packet is malformed, the body is empty, or it has more than 10,000 packets. Allocates
    little more than the body, whose size the caller has checked.
    """
    if octets:
        if protocol == 4:
            raise InvalidPacket("a polling body of Engine.IO 4 is text, not application/octet-stream")
        return _read_octets(body)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidPacket(f"a polling body is not UTF-8 at byte {error.start}") from None
    if protocol == 4:
        if SEPARATOR not in text:
            return [read_text(text, 4)]
        if text.count(SEPARATOR) >= MOST_POSTED:
            raise _too_many()
        return [read_text(piece, 4) for piece in text.split(SEPARATOR)]
    return _read_lengths(text)


def read_form(body: bytes, protocol: int) -> list[Packet]:
    """The packets of a JSONP POST: a form with the payload in `d`. Raises InvalidPacket."""
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=8)
    except ValueError:  # UnicodeDecodeError too
        raise InvalidPacket("a JSONP body is a form in ASCII with the payload in `d`") from None
    data = next((value for name, value in fields if name == "d"), "")
    # A form turns newlines into CR LF, so clients escape newlines, and anything that looks like an escaped one.
    data = _ESCAPED_NEWLINE.sub(lambda found: found[0] if found[1] else "\n", data).replace("\\\\n", "\\n")
    return read(data.encode(), protocol)


def _too_many() -> InvalidPacket:
    return InvalidPacket(f"a polling body has more than {MOST_POSTED} packets")


def _read_lengths(text: str) -> list[Packet]:
    if not text:
        raise InvalidPacket("a polling body is empty")
    if _BEYOND_BASIC_PLANE.search(text) is not None:
        return _read_code_units(text)
    packets: list[Packet] = []
    at, end = 0, len(text)
    for _ in range(MOST_POSTED + 1):
        if at >= end:
            return packets
        found = _LENGTH.match(text, at)
        if found is None:
            raise InvalidPacket("a packet of a polling body has no length before it")
        at = found.end() + int(found[1])
        if at > end:
            raise InvalidPacket("a packet of a polling body is shorter than its length says")
        if at > found.end():
            packets.append(read_text(text[found.end() : at], 3))
    raise _too_many()


def _read_code_units(text: str) -> list[Packet]:
    """The same where a character may be two code units: the body is cut in UTF-16, two bytes to a unit."""
    packets: list[Packet] = []
    units = text.encode("utf-16-le")
    at, end = 0, len(units)
    for _ in range(MOST_POSTED + 1):
        if at >= end:
            return packets
        head = units[at : at + 22].decode("utf-16-le", "replace")
        found = _LENGTH.match(head)
        if found is None:
            raise InvalidPacket("a packet of a polling body has no length before it")
        start = at + 2 * found.end()
        at = start + 2 * int(found[1])
        if at > end:
            raise InvalidPacket("a packet of a polling body is shorter than its length says")
        if at > start:
            # If a length cuts a character in two, its other half stands where the next length should be.
            packets.append(read_text(units[start:at].decode("utf-16-le", "replace"), 3))
    raise _too_many()


def _read_octets(body: bytes) -> list[Packet]:
    if not body:
        raise InvalidPacket("a polling body is empty")
    packets: list[Packet] = []
    at, end = 0, len(body)
    for _ in range(MOST_POSTED + 1):
        if at >= end:
            return packets
        kind = body[at]
        stop = body.find(b"\xff", at + 1, at + 12)
        digits = body[at + 1 : stop]
        if kind > 1 or stop < 0 or not digits or digits.strip(_DIGITS):
            raise InvalidPacket("a packet in octets begins with 0 or 1, up to ten digits and 255")
        start = stop + 1
        at = start + int(digits.translate(_TO_ASCII))
        if at > end:
            raise InvalidPacket("a packet of a polling body is shorter than its length says")
        if kind == 1:
            packets.append(read_binary(body[start:at], 3))
        else:
            try:
                packets.append(read_text(body[start:at].decode(), 3))
            except UnicodeDecodeError as error:
                raise InvalidPacket(f"a packet is not UTF-8 at byte {error.start}") from None
    raise _too_many()


# Out


def write(packets: Sequence[Packet], protocol: int, *, base64: bool = False) -> tuple[bytes, str]:
    """An answer's body and its content type. `base64` says that a client of protocol 3 asked for it (`b64=1`)."""
    if protocol == 4:
        body = SEPARATOR.join([p if type(p) is str else to_base64(p, 4) for p in packets])  # type: ignore[arg-type]
        return utf8(body), TEXT
    if base64 or all(type(packet) is str for packet in packets):
        return utf8("".join([_with_length(p if isinstance(p, str) else to_base64(p, 3)) for p in packets])), TEXT
    return b"".join([_in_octets(packet) for packet in packets]), OCTETS


def write_script(packets: Sequence[Packet], protocol: int, index: int) -> tuple[bytes, str]:
    """The same for JSONP: a call of the page's function with number `index`."""
    body, _ = write(packets, protocol, base64=True)
    text = msgspec.json.encode(body.decode()).decode()
    # JSON is JavaScript except for these two, which end a line in JavaScript.
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f"___eio[{index}]({text});".encode(), SCRIPT


def _with_length(text: str) -> str:
    size = len(text)
    if not text.isascii():
        size += len(_BEYOND_BASIC_PLANE.findall(text))
    return f"{size}:{text}"


def _in_octets(packet: Packet) -> bytes:
    kind, data = (b"\x00", utf8(packet)) if isinstance(packet, str) else (b"\x01", b"\x04" + packet)
    return b"".join((kind, str(len(data)).encode("ascii").translate(_FROM_ASCII), b"\xff", data))


_TO_ASCII = bytes.maketrans(_DIGITS, b"0123456789")
_FROM_ASCII = bytes.maketrans(b"0123456789", _DIGITS)
