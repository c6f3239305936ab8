"""The MessagePack form: its meaning, what is refused, and values that only JavaScript has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.errors import InvalidPacket, InvalidValue, PayloadTooLarge
from partyline.wire.socketio.msgpack import MSGPACK
from partyline.wire.socketio.packets import RESERVED, Messages

from .values import ids, names, namespaces, read_all, seen, with_binary

UNDEFINED = msgspec.msgpack.Ext(0, b"\x00")


def pack(**packet: Any) -> bytes:
    return msgspec.msgpack.encode(packet)


def read(message: bytes) -> tuple[Any, ...]:
    return seen(MSGPACK.reader(5).receive(message))


TABLE: list[tuple[Messages, dict[str, Any], tuple[Any, ...]]] = [
    (MSGPACK.connect("/"), {"type": 0, "nsp": "/"}, ("connect", "/", None)),
    (
        MSGPACK.connect("/a", "x", "y"),
        {"type": 0, "data": {"sid": "x", "pid": "y"}, "nsp": "/a"},
        ("connect", "/a", {"sid": "x", "pid": "y"}),
    ),
    (MSGPACK.disconnect("/a"), {"type": 1, "nsp": "/a"}, ("disconnect", "/a")),
    (
        MSGPACK.connect_error("/a", "no", {"code": 1}),
        {"type": 4, "data": {"message": "no", "data": {"code": 1}}, "nsp": "/a"},
        ("connect_error", "/a", {"message": "no", "data": {"code": 1}}),
    ),
    (
        MSGPACK.connect_error("/a", "no", protocol=4),
        {"type": 4, "data": "no", "nsp": "/a"},
        ("connect_error", "/a", "no"),
    ),
    (
        MSGPACK.event("/", "say", [1, b"x", {"a": [b"y"]}], offset="p"),
        {"type": 2, "data": ["say", 1, b"x", {"a": [b"y"]}, "p"], "nsp": "/"},
        ("event", "/", None, "say", [1, b"x", {"a": [b"y"]}, "p"]),
    ),
    (
        MSGPACK.event("/", "say", [], 7),
        {"type": 2, "data": ["say"], "nsp": "/", "id": 7},
        ("event", "/", 7, "say", []),
    ),
    (MSGPACK.ack("/", 0, (1,)), {"type": 3, "data": [1], "nsp": "/", "id": 0}, ("ack", "/", 0, [1])),
]


@pytest.mark.parametrize(("messages", "packet", "means"), TABLE, ids=lambda value: None)
def test_packets(messages: Messages, packet: dict[str, Any], means: tuple[Any, ...]) -> None:
    """Each packet is one map with only the fields that it needs: clients refuse `data` in a DISCONNECT."""
    (message,) = messages
    assert isinstance(message, bytes)
    assert msgspec.msgpack.decode(message) == packet
    assert read(message) == means


@pytest.mark.parametrize(
    ("packet", "means"),
    [
        ({"type": 0, "nsp": "/", "data": UNDEFINED}, ("connect", "/", None)),
        ({"type": 1, "nsp": "/", "data": UNDEFINED, "id": UNDEFINED}, ("disconnect", "/")),
        (
            {
                "nsp": "/",
                "id": UNDEFINED,
                "options": {"compress": True},
                "type": 2,
                "data": ["a", UNDEFINED, {"b": UNDEFINED}],
            },
            ("event", "/", None, "a", [None, {"b": None}]),
        ),
        ({"type": 2, "nsp": "/", "data": [1, 2]}, ("event", "/", None, "1", [2])),
    ],
)
def test_undefined(packet: dict[str, Any], means: tuple[Any, ...]) -> None:
    """`undefined` counts as missing in an optional field, and as None in arguments."""
    assert read(msgspec.msgpack.encode(packet)) == means


def javascript(*arguments: bytes) -> bytes:
    """An event with already encoded arguments."""
    head = b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data"
    return head + bytes((0x91 + len(arguments),)) + b"\xa1a" + b"".join(arguments)


EXTENSIONS = [
    (b"\xd4\x00\x00", None),
    (b"\xc7\x01\x00\x00", b"\x00"),
    (b"\xc7\x01\x00\x07", b"\x07"),
    (b"\xd7\x00" + bytes(8), datetime(1970, 1, 1, tzinfo=UTC)),
    (b"\xd7\x00" + (1_700_000_000_123).to_bytes(8, "big"), datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)),
    (b"\xd7\x00" + b"\xff" * 8, datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
    (b"\xc7\x08\x00" + bytes(8), bytes(8)),
    (b"\xc7\x00\x00", b""),
    (b"\xc7\x03\x00abc", b"abc"),
    (b"\xc8\x00\x03\x00abc", b"abc"),
    (b"\xc9\x00\x00\x00\x08\x00abcdefgh", b"abcdefgh"),
    (b"\xd6\xff\x00\x00\x00\x01", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
    (b"\xd5\x05ab", msgspec.msgpack.Ext(5, b"ab")),
]
# One value of each kind, for our own reader to skip.
_OTHERS = """
00 7f ff c0 c2 c3 ccff cd0100 ce00010000 cf0000000000000001 d080 d18000 d280000000 d38000000000000000
ca3f800000 cb3ff0000000000000 a0 a178 bf79797979797979797979797979797979797979797979797979797979797979
d902c3a9 da00017a db000000017a c4026162 c5000161 c60000000161 80 81a16b9101 de0001a16b02 df00000001a16b02 90
920102 dc000103 dd0000000103
"""
OTHERS = [bytes.fromhex(text) for text in _OTHERS.split()]


@pytest.mark.parametrize(("encoded", "value"), EXTENSIONS, ids=lambda value: None)
def test_what_only_javascript_has(encoded: bytes, value: object) -> None:
    """`undefined`, Date and ArrayBuffer are told apart by their first byte, alone and among all other values."""
    assert read(javascript(encoded))[-1] == [value]
    assert read(javascript(b"\x92" + encoded + b"\x81\xa1k" + encoded, encoded))[-1] == [[value, {"k": value}], value]
    for other in OTHERS:
        plain = msgspec.msgpack.decode(other)
        assert read(javascript(other, encoded, other))[-1] == [plain, value, plain]


def test_large_packets_go_by_what_bytes_look_like() -> None:
    """If reading values one by one would take too long, `undefined` and Dates are still found, and other bytes kept."""
    padding = b"\xc6" + (20_000).to_bytes(4, "big") + bytes(20_000)
    for encoded, value in EXTENSIONS:
        if encoded not in (b"\xc7\x01\x00\x00", b"\xc7\x08\x00" + bytes(8)):
            found = b"abcdefgh" if value == b"abcdefgh" else value
            assert read(javascript(padding, encoded))[-1][1] == found


INVALID = [
    b"",
    b"\x00",
    b"\xc1",
    b"\x90",
    b"\x80",
    b"2[]",
    pack(type=2, nsp="/", data=["a"])[:-1],
    pack(type=2, nsp="/", data=["a"]) + b"\x00",
    pack(type=5, nsp="/", data=["a"]),
    pack(type=-1, nsp="/"),
    pack(type="2", nsp="/", data=["a"]),
    pack(type=2.5, nsp="/", data=["a"]),
    pack(nsp="/", data=["a"]),
    pack(type=2, data=["a"]),
    pack(type=2, nsp=1, data=["a"]),
    pack(type=2, nsp="", data=["a"]),
    pack(type=2, nsp="x", data=["a"]),
    pack(type=2, nsp="/" + "n" * 2000, data=["a"]),
    pack(type=2, nsp="/"),
    pack(type=2, nsp="/", data=None),
    pack(type=2, nsp="/", data={}),
    pack(type=2, nsp="/", data="a"),
    pack(type=2, nsp="/", data=[]),
    pack(type=2, nsp="/", data=[None]),
    pack(type=2, nsp="/", data=[["a"]]),
    pack(type=2, nsp="/", data=[b"a"]),
    *[pack(type=2, nsp="/", data=[name]) for name in sorted(RESERVED)],
    pack(type=2, nsp="/", data=["a"], id="1"),
    pack(type=2, nsp="/", data=["a"], id=-1),
    pack(type=2, nsp="/", data=["a"], id=1.5),
    pack(type=2, nsp="/", data=["a"], id=None),
    pack(type=2, nsp="/", data=["a"], id=True),
    pack(type=2, nsp="/", data=["a"], id=b"1"),
    pack(type=3, nsp="/", data=[]),
    pack(type=3, nsp="/", id=1),
    pack(type=3, nsp="/", id=1, data={}),
    pack(type=0, nsp="/", data=[]),
    pack(type=0, nsp="/", data=None),
    pack(type=0, nsp="/", data="x"),
    pack(type=1, nsp="/", data={}),
    pack(type=1, nsp="/", data=None),
    pack(type=4, nsp="/"),
    pack(type=4, nsp="/", data=1),
    javascript(b"\xdd\xff\xff\xff\xff"),
    javascript(b"\xdf\xff\xff\xff\xff"),
    javascript(b"\xdb\xff\xff\xff\xff"),
    javascript(b"\xc6\xff\xff\xff\xff"),
    javascript(b"\xc9\xff\xff\xff\xff\x00"),
    b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\xdd\xff\xff\xff\xff",
    javascript(b"\x91" * 100_000),
    b"\x81" * 100_000,
]


@pytest.mark.parametrize("message", INVALID, ids=lambda data: data[:30].hex())
def test_invalid_packets(message: bytes) -> None:
    """Anything but a client's packet is refused before what it announces is allocated."""
    with pytest.raises(InvalidPacket):
        read(message)


@pytest.mark.parametrize(
    "encoded", [b"\xa1\xff", b"\x81\x90\x01", b"\xd7\x00" + b"\x7f" * 8, b"\xd6\xff\x00\x00", b"\x81\xc0\xd4\x00\x00"]
)
def test_arguments_that_are_no_values(encoded: bytes) -> None:
    """Text that is not UTF-8, invalid keys and impossible dates are found when they are decoded."""
    try:
        read(javascript(encoded))
    except InvalidPacket:
        pass


def test_text_messages_are_refused() -> None:
    """This parser reads only binary messages, so text is refused."""
    with pytest.raises(InvalidPacket):
        MSGPACK.reader(5).receive('2["a"]')


def test_a_packet_has_a_limit() -> None:
    """A packet has a limit in bytes, as in JSON."""
    message = pack(type=2, nsp="/", data=["a"])
    with pytest.raises(PayloadTooLarge):
        MSGPACK.reader(5, max_total=len(message) - 1).receive(message)
    assert MSGPACK.reader(5, max_total=len(message)).receive(message) is not None


def test_what_an_application_may_send() -> None:
    """Dates become text as in JSON, keys become text, and tuples arrays."""
    (message,) = MSGPACK.event("/", "a", [datetime(2020, 1, 2, tzinfo=UTC), {1: (2,)}, bytearray(b"x")])
    assert read(message)[-1] == ["2020-01-02T00:00:00Z", {"1": [2]}, b"x"]  # type: ignore[arg-type]


@pytest.mark.parametrize("argument", [object(), {(1, 2): 3}, 2**70, lambda: 1])
def test_what_an_application_may_not_send(argument: object) -> None:
    """A value without a MessagePack form is the application's error."""
    with pytest.raises(InvalidValue):
        MSGPACK.event("/", "a", [argument])


@given(namespaces, names.filter(lambda name: name not in RESERVED), st.lists(with_binary, max_size=4), ids)
def test_event_round_trip_properties(namespace: str, name: str, arguments: list[Any], number: int | None) -> None:
    """An event is read as it was written."""
    messages = MSGPACK.event(namespace, name, arguments, number)
    assert read_all(MSGPACK.reader(5), messages) == ("event", namespace, number, name, arguments)


@given(st.binary(max_size=100))
def test_any_message_properties(message: bytes) -> None:
    """Any bytes are a packet or one documented error."""
    try:
        read(message)
    except InvalidPacket:
        pass


@given(st.sampled_from([row[0][0] for row in TABLE] + [javascript(*[e for e, _ in EXTENSIONS])]), st.data())
def test_mutated_packet_properties(message: bytes, data: st.DataObject) -> None:
    """A packet with bytes changed, removed or inserted is a packet or one documented error."""
    mutated = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated)))
        mutated[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        read(bytes(mutated))
    except InvalidPacket:
        pass


def test_whose_a_message_is() -> None:
    """Events and acknowledgements name their namespace; other messages have none."""
    for namespace in ("/", "/relay"):
        for (message,) in (MSGPACK.event(namespace, "a", (b"x",), 7), MSGPACK.ack(namespace, 7, ())):
            assert MSGPACK.namespace(message) == namespace
        for (message,) in (MSGPACK.connect(namespace, "sid"), MSGPACK.disconnect(namespace)):
            assert MSGPACK.namespace(message) is None
