"""Socket.IO packets in MessagePack, as socket.io-msgpack-parser writes them: a map in one binary message.

JavaScript has values that MessagePack does not have: `undefined` is extension 0 of one byte (d4), a Date extension 0
of eight (d7), an ArrayBuffer extension 0 of any length, with its length written out (c7, c8, c9).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from partyline.errors import InvalidPacket, PayloadTooLarge
from partyline.wire.json import read
from partyline.wire.socketio.attachments import Body
from partyline.wire.socketio.packets import (
    ACK,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    EVENT,
    MAX_NAMESPACE,
    Ack,
    Connect,
    ConnectError,
    Disconnect,
    Event,
    Messages,
    Packet,
    Wanted,
    check_name,
    connect_data,
    connect_error_data,
    event_values,
)
from partyline.wire.socketio.values import in_messagepack, places

_UNDEFINED: Final = b"\xd4\x00\x00"
_EXACT_UP_TO: Final = 16 * 1024  # bytes that are read in Python if they are ambiguous to msgspec
_LATEST: Final = 253_402_300_799_999  # milliseconds: the end of year 9999, Python's last
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.msgpack.Encoder().encode
_MOST_DIGITS: Final = 20
_LONG: Final = re.compile(rb"[0-9]{19}")  # perhaps an integer that needs more than 64 bits


class _Packed(msgspec.Struct):
    type: int
    nsp: str
    data: msgspec.Raw = msgspec.Raw(_UNDEFINED)
    id: msgspec.Raw = msgspec.Raw(_UNDEFINED)


class _Ambiguous(Exception):
    """Extension 0 of one or eight bytes: its first byte, which msgspec does not show, says what it is."""


def _extension(code: int, data: memoryview) -> Any:
    if code:
        return msgspec.msgpack.Ext(code, bytes(data))
    if len(data) in (1, 8):
        raise _Ambiguous
    return bytes(data)


def _likely_extension(code: int, data: memoryview) -> Any:
    """The same, guessed from the bytes: `undefined` is a zero, a Date is in the range of dates."""
    if code:
        return msgspec.msgpack.Ext(code, bytes(data))
    if len(data) == 1 and not data[0]:
        return None
    if len(data) == 8 and abs(milliseconds := int.from_bytes(data, "big", signed=True)) <= _LATEST:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    return bytes(data)


_read_packed = msgspec.msgpack.Decoder(_Packed).decode
_read_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_read_value = msgspec.msgpack.Decoder(ext_hook=_extension).decode
_read_likely = msgspec.msgpack.Decoder(ext_hook=_likely_extension).decode


class MsgpackReader:
    """Reads packets, each of which is one message."""

    __slots__ = ("_max_total",)

    def __init__(self, max_total: int = 1_000_000) -> None:
        self._max_total = max_total

    def receive(self, message: str | bytes, wanted: Wanted | None = None) -> Packet:
        if isinstance(message, str):
            raise InvalidPacket("with the MessagePack parser every message is binary")
        if len(message) > self._max_total:
            raise PayloadTooLarge(f"a packet is larger than {self._max_total} bytes", limit="max_message")
        try:
            packed = _read_packed(message)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise InvalidPacket(f"this is not a packet in MessagePack: {error}") from None
        if len(packed.nsp) > MAX_NAMESPACE or not packed.nsp.startswith("/"):
            raise InvalidPacket(f"a namespace begins with / and has at most {MAX_NAMESPACE} characters")
        data = bytes(packed.data)
        if packed.type == EVENT:
            return Event(packed.nsp, _name(data), _id(packed), None, lambda: _list(data))
        if packed.type == ACK:
            number = _id(packed)
            if number is None:
                raise InvalidPacket("an acknowledgement has no id")
            _raws(data)
            return Ack(packed.nsp, number, None, lambda: _list(data))
        if packed.type == DISCONNECT:
            if data != _UNDEFINED:
                raise InvalidPacket("a DISCONNECT carries nothing")
            return Disconnect(packed.nsp)
        value = _value(data)
        if packed.type == CONNECT:
            if not (value is None and data == _UNDEFINED) and not isinstance(value, dict):
                raise InvalidPacket("a CONNECT carries an object or nothing")
            return Connect(packed.nsp, value)
        if packed.type == CONNECT_ERROR and isinstance(value, str | dict):
            return ConnectError(packed.nsp, value)
        raise InvalidPacket("a packet has a type from 0 to 4, and what belongs to it")


class MsgpackParser:
    """Packets in MessagePack: the client has to be told to use socket.io-msgpack-parser."""

    __slots__ = ()

    text = False

    def reader(self, protocol: int, *, max_attachments: int = 10, max_total: int = 1_000_000) -> MsgpackReader:
        """A reader. There are no attachments, and Socket.IO 4 is the same."""
        return MsgpackReader(max_total)

    def namespace(self, message: str | bytes) -> str | None:
        packed = _read_packed(message) if isinstance(message, bytes) else None
        return packed.nsp if packed is not None and packed.type in (EVENT, ACK) else None

    def connect(self, namespace: str, sid: str | None = None, pid: str | None = None) -> Messages:
        if sid is None:
            return (_encode({"type": CONNECT, "nsp": namespace}),)
        return (_encode({"type": CONNECT, "data": connect_data(sid, pid), "nsp": namespace}),)

    def ask(self, namespace: str, auth: dict[str, Any] | None) -> Messages:
        if auth is None:
            return (_encode({"type": CONNECT, "nsp": namespace}),)
        return _write(CONNECT, namespace, None, auth)

    def connect_error(self, namespace: str, message: str, data: Any = None, *, protocol: int = 5) -> Messages:
        return _write(CONNECT_ERROR, namespace, None, connect_error_data(message, data, protocol))

    def disconnect(self, namespace: str) -> Messages:
        return (_encode({"type": DISCONNECT, "nsp": namespace}),)  # clients refuse one that has `data`

    def event(
        self,
        namespace: str,
        name: str,
        arguments: Sequence[Any],
        id: int | None = None,  # noqa: A002 - the protocol's word
        offset: str | None = None,
    ) -> Messages:
        return _write(EVENT, namespace, id, event_values(name, arguments, offset))

    def body(self, name: str, arguments: Sequence[Any]) -> Body:
        return Body(_data(event_values(name, arguments, None), event=True))

    def packet(
        self,
        namespace: str,
        body: Body,
        id: int | None = None,  # noqa: A002 - the protocol's word
        offset: str | None = None,
    ) -> Messages:
        assert isinstance(body.data, bytes)
        return _packet(EVENT, namespace, id, body.data if offset is None else _with(body.data, offset))

    def values(self, body: Body) -> list[Any]:
        assert isinstance(body.data, bytes)
        return _list(body.data)

    def ack(self, namespace: str, id: int, arguments: Sequence[Any]) -> Messages:  # noqa: A002
        return _write(ACK, namespace, id, list(arguments))


MSGPACK: Final = MsgpackParser()


def _write(kind: int, namespace: str, identifier: int | None, data: Any) -> Messages:
    return _packet(kind, namespace, identifier, _data(data, event=kind == EVENT))


def _packet(kind: int, namespace: str, identifier: int | None, data: bytes) -> Messages:
    packet: dict[str, Any] = {"type": kind, "data": msgspec.Raw(data), "nsp": namespace}
    if identifier is not None:
        packet["id"] = identifier
    return (_encode(packet),)


def _data(data: Any, *, event: bool) -> bytes:
    """What a packet carries."""
    if not isinstance(data, list):
        return in_messagepack(lambda values: _encode(values[0]), [data], lambda: ["the data"])
    values = [_from_json(value) if type(value) is msgspec.Raw else value for value in data]
    return in_messagepack(_encode, values, lambda: places(len(values), event=event))


def _with(array: bytes, last: str) -> bytes:
    """An array with one more item."""
    first = array[0]
    if first < 0xDC:
        count, head = first & 0x0F, 1
    else:
        head = 3 if first == 0xDC else 5
        count = int.from_bytes(array[1:head], "big")
    count += 1
    if count < 16:
        begin = bytes((0x90 | count,))
    else:
        begin = b"\xdc" + count.to_bytes(2, "big") if count < 65_536 else b"\xdd" + count.to_bytes(4, "big")
    return begin + array[head:] + _encode(last)


def _from_json(raw: msgspec.Raw) -> Any:
    """JSON as a value that MessagePack can hold."""
    data = bytes(raw)
    return read(data, _integer) if _LONG.search(data) else read(data)


def _integer(digits: str) -> int | float:
    """MessagePack has 64 bits: a larger integer becomes the nearest double, as JavaScript reads it from JSON."""
    if len(digits) <= _MOST_DIGITS and -(1 << 63) <= (number := int(digits)) < 1 << 64:
        return number
    return float(digits)


def _id(packed: _Packed) -> int | None:
    raw = bytes(packed.id)
    if raw == _UNDEFINED:
        return None
    number = _value(raw)
    if type(number) is not int or number < 0:
        raise InvalidPacket("an id is a whole number")
    return number


def _raws(data: bytes) -> list[msgspec.Raw]:
    try:
        return _read_raws(data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise InvalidPacket("events and acknowledgements carry an array") from None


def _name(data: bytes) -> str:
    raws = _raws(data)
    if not raws:
        raise InvalidPacket("an event has no name")
    return check_name(_value(bytes(raws[0])))


def _list(data: bytes) -> list[Any]:
    values = _value(data)
    assert isinstance(values, list)  # it was read as one before
    return values


def _value(data: bytes) -> Any:
    """A value that is known to be complete. Raises InvalidPacket if Python has no such value."""
    try:
        try:
            return _read_value(data)
        except _Ambiguous:
            return _Exact(data).value() if len(data) <= _EXACT_UP_TO else _read_likely(data)
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError, OverflowError) as error:
        raise InvalidPacket(f"a value in MessagePack is not a value here: {error}") from None


class _Exact:
    """Reads data that msgspec has found complete, value by value, to see the first byte of each extension."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def value(self) -> Any:
        start = self._at
        first = self._data[start]
        self._at = start + 1
        if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
            return self._map(first & 0x0F if first <= 0x8F else self._integer(2 if first == 0xDE else 4))
        if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
            count = first & 0x0F if first <= 0x9F else self._integer(2 if first == 0xDC else 4)
            return [self.value() for _ in range(count)]
        if 0xC7 <= first <= 0xC9:
            return self._extension(self._integer(1 << (first - 0xC7)), fixed=False)
        if 0xD4 <= first <= 0xD8:
            return self._extension(1 << (first - 0xD4), fixed=True)
        self._at += self._size(first)
        return msgspec.msgpack.decode(self._data[start : self._at])

    def _size(self, first: int) -> int:
        """The bytes after the first one of a value that holds no others."""
        if 0xA0 <= first <= 0xBF:
            return first & 0x1F
        if 0xC4 <= first <= 0xC6 or 0xD9 <= first <= 0xDB:
            width = 1 << (first - (0xC4 if first <= 0xC6 else 0xD9))
            return width + int.from_bytes(self._data[self._at : self._at + width], "big")
        if 0xCA <= first <= 0xD3:
            return (4, 8, 1, 2, 4, 8, 1, 2, 4, 8)[first - 0xCA]
        return 0

    def _integer(self, width: int) -> int:
        self._at += width
        return int.from_bytes(self._data[self._at - width : self._at], "big")

    def _map(self, count: int) -> dict[Any, Any]:
        values = {}
        for _ in range(count):
            key = self.value()
            values[key] = self.value()
        return values

    def _extension(self, size: int, *, fixed: bool) -> Any:
        code = struct.unpack_from("b", self._data, self._at)[0]
        start = self._at + 1
        self._at = start + size
        data = self._data[start : self._at]
        if code == -1:
            return msgspec.msgpack.decode(_timestamp_head(size) + data)
        if code:
            return msgspec.msgpack.Ext(code, data)
        if fixed and size == 1:
            return None
        if fixed and size == 8:
            return _EPOCH + timedelta(milliseconds=int.from_bytes(data, "big", signed=True))
        return data


def _timestamp_head(size: int) -> bytes:
    """The head of MessagePack's own timestamps, in their shortest form."""
    return {4: b"\xd6\xff", 8: b"\xd7\xff"}.get(size, bytes((0xC7, size, 0xFF)))
