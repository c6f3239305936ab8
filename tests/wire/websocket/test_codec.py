"""Frames and messages as one table with four readings: written, read whole, byte by byte, and with a tail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from partyline.wire.websocket import frames
from partyline.wire.websocket.codec import Close, CloseState, Codec, Event, Limits, Packed, Ping, Pong, Violation
from partyline.wire.websocket.deflate import Deflate
from tests.tools import one_in

KEY = bytes.fromhex("37fa213d")  # from the masked examples in RFC 6455 5.7
LIMITS = Limits(max_message=70_000, max_inflated=70_000, max_fragments=8)
ROLES = ("server", "client")


@dataclass(frozen=True, slots=True)
class Row:
    """What is on the wire, frame by frame as a server writes it (head in hex, payload), and what it means."""

    name: str
    wire: tuple[tuple[str, bytes], ...]
    events: tuple[Event, ...]
    write: Callable[[Codec], bytes] | None = None  # the call that makes the whole row
    deflate: bool = False
    canonical: bool = True  # False: `frame` cannot be asked for it

    def read_by(self, role: str) -> bytes:
        """The wire as the reader `role` gets it: a server reads masked frames."""
        return self.written_by("client" if role == "server" else "server")

    def written_by(self, role: str, key: bytes = KEY) -> bytes:
        if role == "server":
            return b"".join(bytes.fromhex(head) + payload for head, payload in self.wire)
        return b"".join(_masked(bytes.fromhex(head), payload, key) for head, payload in self.wire)


def _masked(head: bytes, payload: bytes, key: bytes) -> bytes:
    """RFC 6455 5.3, byte by byte."""
    return (
        bytes((head[0], head[1] | 0x80)) + head[2:] + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    )


def fails(code: int) -> Violation:
    """A violation with any reason."""
    return Violation(code, "")


HELLO = bytes.fromhex("f248cdc9c90700")  # "Hello" as RFC 7692 7.2.3.1 compresses it
KANJI = "日本".encode()  # six bytes, three each

MESSAGES = [
    Row("empty text", (("81 00", b""),), ("",), lambda c: c.text(b"")),
    Row("empty binary", (("82 00", b""),), (b"",), lambda c: c.binary(b"")),
    Row("RFC 6455 5.7 text", (("81 05", b"Hello"),), ("Hello",), lambda c: c.text(b"Hello")),
    Row("RFC 6455 5.7 text in two fragments", (("01 03", b"Hel"), ("80 02", b"lo")), ("Hello",)),
    Row("RFC 6455 5.7 256 bytes", (("82 7e 01 00", bytes(256)),), (bytes(256),), lambda c: c.binary(bytes(256))),
    Row(
        "RFC 6455 5.7 64 KiB",
        (("82 7f 00 00 00 00 00 01 00 00", bytes(65536)),),
        (bytes(65536),),
        lambda c: c.binary(bytes(65536)),
    ),
    Row("text of 125 bytes", (("81 7d", b"a" * 125),), ("a" * 125,), lambda c: c.text(b"a" * 125)),
    Row("text of 126 bytes", (("81 7e 00 7e", b"a" * 126),), ("a" * 126,), lambda c: c.text(b"a" * 126)),
    Row("binary of 125 bytes", (("82 7d", b"\xfe" * 125),), (b"\xfe" * 125,), lambda c: c.binary(b"\xfe" * 125)),
    Row("binary of 126 bytes", (("82 7e 00 7e", b"\xfe" * 126),), (b"\xfe" * 126,), lambda c: c.binary(b"\xfe" * 126)),
    Row("binary of 127 bytes", (("82 7e 00 7f", b"\xfe" * 127),), (b"\xfe" * 127,), lambda c: c.binary(b"\xfe" * 127)),
    Row("text of 65535 bytes", (("81 7e ff ff", b"a" * 65535),), ("a" * 65535,), lambda c: c.text(b"a" * 65535)),
    Row(
        "text of 65536 bytes",
        (("81 7f 00 00 00 00 00 01 00 00", b"a" * 65536),),
        ("a" * 65536,),
        lambda c: c.text(b"a" * 65536),
    ),
    Row("text beyond ASCII", (("81 06", KANJI),), ("日本",), lambda c: c.text(KANJI)),
    Row("text beyond the basic plane", (("81 04", "🎉".encode()),), ("🎉",)),
    Row("text with NUL and a byte order mark", (("81 04", b"\xef\xbb\xbf\x00"),), ("\ufeff\x00",)),
    Row(
        "text cut inside a character",
        (("01 02", KANJI[:2]), ("00 02", KANJI[2:4]), ("80 02", KANJI[4:])),
        ("日本",),
    ),
    Row("text in three empty fragments", (("01 00", b""), ("00 00", b""), ("80 00", b"")), ("",)),
    Row("text between empty fragments", (("01 00", b""), ("00 05", b"Hello"), ("80 00", b"")), ("Hello",)),
    Row("binary in fragments", (("02 01", b"\xff"), ("00 01", b"\x00"), ("80 01", b"\xfe")), (b"\xff\x00\xfe",)),
    Row("as many fragments as may be", (("02 01", b"."), *[("00 01", b".")] * 6, ("80 01", b".")), (b"." * 8,)),
    Row("as large as may be", (("82 7f 00 00 00 00 00 01 11 70", b"." * 70_000),), (b"." * 70_000,)),
    Row(
        "fragments as large as may be", (("02 7e ff ff", b"." * 65535), ("80 7e 11 71", b"." * 4465)), (b"." * 70_000,)
    ),
    Row("two messages", (("81 01", b"a"), ("82 01", b"b")), ("a", b"b")),
    Row("two fragmented messages", (("01 01", b"a"), ("80 01", b"b"), ("02 00", b""), ("80 01", b"c")), ("ab", b"c")),
    Row("a message without its end", (("01 05", b"Hello"),), ()),
]

CONTROLS = [
    Row("empty ping", (("89 00", b""),), (Ping(b""),), lambda c: c.ping()),
    Row("empty pong", (("8a 00", b""),), (Pong(b""),), lambda c: c.pong()),
    Row("RFC 6455 5.7 ping", (("89 05", b"Hello"),), (Ping(b"Hello"),), lambda c: c.ping(b"Hello")),
    Row("RFC 6455 5.7 pong", (("8a 05", b"Hello"),), (Pong(b"Hello"),), lambda c: c.pong(b"Hello")),
    Row("longest ping", (("89 7d", b"\xff" * 125),), (Ping(b"\xff" * 125),), lambda c: c.ping(b"\xff" * 125)),
    Row("longest pong", (("8a 7d", b"\xff" * 125),), (Pong(b"\xff" * 125),), lambda c: c.pong(b"\xff" * 125)),
    Row(
        "controls between fragments",
        (("01 03", b"Hel"), ("89 01", b"1"), ("00 00", b""), ("8a 01", b"2"), ("80 02", b"lo"), ("89 00", b"")),
        (Ping(b"1"), Pong(b"2"), "Hello", Ping(b"")),
    ),
    Row("close without a code", (("88 00", b""),), (Close(1005, ""),), lambda c: c.close(1005)),
    Row("close with a code", (("88 02", b"\x03\xe8"),), (Close(1000, ""),), lambda c: c.close()),
    Row(
        "close with a reason",
        (("88 06", b"\x0f\xa0gone"),),
        (Close(4000, "gone"),),
        lambda c: c.close(4000, "gone"),
    ),
    Row(
        "close with the longest reason",
        (("88 7d", b"\x03\xe9" + b"r" * 123),),
        (Close(1001, "r" * 123),),
        lambda c: c.close(1001, "r" * 123),
    ),
    Row("close between fragments", (("01 03", b"Hel"), ("88 00", b"")), (Close(1005, ""),)),
    Row("close after a message", (("81 01", b"a"), ("88 02", b"\x03\xe8")), ("a", Close(1000, ""))),
    Row("close before a message", (("88 02", b"\x03\xe8"), ("81 01", b"a")), (Close(1000, ""),)),
    Row("close before a ping", (("88 02", b"\x03\xe8"), ("89 00", b"")), (Close(1000, ""),)),
    Row("close before a close", (("88 02", b"\x03\xe8"), ("88 02", b"\x03\xe9")), (Close(1000, ""),)),
    Row("close before a violation", (("88 02", b"\x03\xe8"), ("83 00", b"")), (Close(1000, ""),)),
]

COMPRESSED = [
    Row("RFC 7692 7.2.3.1 one block", (("c1 07", HELLO),), ("Hello",), deflate=True),
    Row("RFC 7692 7.2.3.1 two fragments", (("41 03", HELLO[:3]), ("80 04", HELLO[3:])), ("Hello",), deflate=True),
    Row("RFC 7692 7.2.3.2 the same again", (("c1 07", HELLO), ("c1 07", HELLO)), ("Hello", "Hello"), deflate=True),
    Row(
        "RFC 7692 7.2.3.2 a window kept, which was not agreed",
        (("c1 07", HELLO), ("c1 05", bytes.fromhex("f200110000"))),
        ("Hello", fails(1007)),
        deflate=True,
    ),
    Row(
        "RFC 7692 7.2.3.3 a stored block",
        (("c1 0b", bytes.fromhex("000500faff") + b"Hello\x00"),),
        ("Hello",),
        deflate=True,
    ),
    Row("RFC 7692 7.2.3.4 a final block", (("c1 08", bytes.fromhex("f348cdc9c9070000")),), ("Hello",), deflate=True),
    Row(
        "RFC 7692 7.2.3.5 two blocks",
        (("c1 0d", bytes.fromhex("f2480500 0000ffff cac9c90700")),),
        ("Hello",),
        deflate=True,
    ),
    Row("RFC 7692 7.2.3.6 nothing", (("c1 01", b"\x00"),), ("",), deflate=True),
    Row("compressed, and plain where agreed", (("c2 07", HELLO), ("82 07", HELLO)), (b"Hello", HELLO), deflate=True),
    Row(
        "compressed around empty fragments and a ping",
        (("42 00", b""), ("00 07", HELLO), ("89 00", b""), ("80 00", b"")),
        (Ping(b""), b"Hello"),
        deflate=True,
    ),
    Row(
        "compressed text that is not UTF-8",
        (("c1 08", bytes.fromhex("000200fdff c3 28 00")),),
        (fails(1007),),
        deflate=True,
    ),
    Row("a block of the reserved type", (("c2 01", b"\x06"),), (fails(1007),), deflate=True),
    Row("RSV1 on a continuation", (("01 03", b"Hel"), ("c0 02", b"lo")), (fails(1002),), deflate=True),
    Row("RSV1 on a ping", (("c9 00", b""),), (fails(1002),), deflate=True),
    Row("RSV1 on a close", (("c8 00", b""),), (fails(1002),), deflate=True),
    Row("RSV1 and RSV2", (("e1 07", HELLO),), (fails(1002),), deflate=True, canonical=False),
]

VIOLATIONS = [
    Row("RSV1, which was not agreed", (("c1 07", HELLO),), (fails(1002),)),
    Row("RSV2", (("a1 00", b""),), (fails(1002),), canonical=False),
    Row("RSV3", (("91 00", b""),), (fails(1002),), canonical=False),
    *[Row(f"opcode {opcode:#x}", ((f"8{opcode:x} 00", b""),), (fails(1002),)) for opcode in (3, 4, 5, 6, 7)],
    *[Row(f"opcode {opcode:#x}", ((f"8{opcode:x} 00", b""),), (fails(1002),)) for opcode in range(0xB, 0x10)],
    *[
        Row(f"{name} in fragments", ((f"0{opcode:x} 00", b""),), (fails(1002),))
        for opcode, name in ((8, "close"), (9, "ping"), (10, "pong"))
    ],
    *[
        Row(f"{name} of 126 bytes", ((f"8{opcode:x} 7e 00 7e", b"\x03\xe8" + b"r" * 124),), (fails(1002),))
        for opcode, name in ((8, "close"), (9, "ping"), (10, "pong"))
    ],
    Row("ping with a 64-bit length", (("89 7f 00 00 00 00 00 00 00 01", b"."),), (fails(1002),), canonical=False),
    Row("125 in 16 bits", (("82 7e 00 7d", b"." * 125),), (fails(1002),), canonical=False),
    Row("65535 in 64 bits", (("82 7f 00 00 00 00 00 00 ff ff", b""),), (fails(1002),), canonical=False),
    Row("a length of 2^63", (("82 7f 80 00 00 00 00 00 00 00", b""),), (fails(1002),), canonical=False),
    Row("a length of 2^63 - 1", (("82 7f 7f ff ff ff ff ff ff ff", b""),), (fails(1009),), canonical=False),
    Row("a continuation of nothing", (("80 05", b"Hello"),), (fails(1002),)),
    Row("a continuation of nothing, unfinished", (("00 05", b"Hello"),), (fails(1002),)),
    Row("a continuation after a message", (("81 01", b"a"), ("80 01", b"b")), ("a", fails(1002))),
    Row("a text inside a text", (("01 01", b"a"), ("81 01", b"b")), (fails(1002),)),
    Row("a binary inside a text", (("01 01", b"a"), ("02 01", b"b")), (fails(1002),)),
    Row("text with a surrogate", (("81 03", b"\xed\xa0\x80"),), (fails(1007),)),
    Row("text with an overlong slash", (("81 02", b"\xc0\xaf"),), (fails(1007),)),
    Row("text beyond U+10FFFF", (("81 04", b"\xf4\x90\x80\x80"),), (fails(1007),)),
    Row("text that ends inside a character", (("81 02", b"\xe2\x82"),), (fails(1007),)),
    Row("fragments that end inside a character", (("01 02", b"\xe2\x82"), ("80 00", b"")), (fails(1007),)),
    Row("a fragment that is not UTF-8", (("01 01", b"\xff"),), (fails(1007),)),
    Row("a message larger than the limit", (("82 7f 00 00 00 00 00 01 11 71", b"." * 70_001),), (fails(1009),)),
    Row(
        "fragments larger than the limit", (("02 7e ff ff", b"." * 65535), ("80 7e 11 72", b"." * 4466)), (fails(1009),)
    ),
    Row("a fragment too many", (("02 00", b""), *[("00 00", b"")] * 8), (fails(1009),)),
    Row("close of one byte", (("88 01", b"\x03"),), (fails(1002),)),
    Row("close with code 1005", (("88 02", b"\x03\xed"),), (fails(1002),)),
    Row("close with a reason that is not UTF-8", (("88 04", b"\x03\xe8\xc3\x28"),), (fails(1007),)),
    Row("a violation before a close", (("83 00", b""), ("88 02", b"\x03\xe8")), (fails(1002),)),
    Row("a message before the violation", (("82 01", b"a"), ("8b 00", b""), ("82 01", b"b")), (b"a", fails(1002))),
]

TABLE = MESSAGES + CONTROLS + COMPRESSED + VIOLATIONS
every_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
some_rows = pytest.mark.parametrize("row", one_in(6, TABLE), ids=lambda row: row.name)
every_role = pytest.mark.parametrize("role", ROLES)


def _reader(role: str, row: Row) -> Codec:
    return Codec(LIMITS, deflate=Deflate() if row.deflate else None, client=role == "client")


def _seen(events: list[Event]) -> tuple[Event, ...]:
    """Events to compare with a row's, after the reasons of violations have been checked here."""
    for event in events:
        if isinstance(event, Violation):
            assert event.reason
            assert len(event.reason.encode()) <= 123, "a close frame cannot carry this reason"
    return tuple(replace(event, reason="") if isinstance(event, Violation) else event for event in events)


def _ends(row: Row) -> bool:
    return bool(row.events) and isinstance(row.events[-1], Close | Violation)


@every_role
@pytest.mark.parametrize("row", [row for row in TABLE if row.canonical], ids=lambda row: row.name)
def test_write(row: Row, role: str) -> None:
    """Writing a row's frames, and the call that stands for the whole row, gives the row's bytes."""
    written = b""
    for head, payload in row.wire:
        first = bytes.fromhex(head)[0]
        fin, rsv1, opcode = first >= 0x80, first & 0x40 != 0, first & 0x0F
        written += frames.frame(opcode, payload, fin=fin, rsv1=rsv1, key=KEY if role == "client" else None)
    assert written == row.written_by(role)
    if row.write is not None:
        whole = row.write(_reader(role, row))
        start = len(bytes.fromhex(row.wire[0][0]))
        assert whole == row.written_by(role, key=whole[start : start + 4])


@every_role
@every_row
def test_read_whole(row: Row, role: str) -> None:
    """A row read in one piece gives its events, and leaves the state that its last event implies."""
    reader = _reader(role, row)
    assert _seen(reader.receive(row.read_by(role))) == row.events
    assert reader.state is (CloseState.CLOSE_RECEIVED if _ends(row) else CloseState.OPEN)


@every_role
@some_rows
def test_read_byte_by_byte(row: Row, role: str) -> None:
    """A row read byte by byte gives the events of the whole row."""
    reader = _reader(role, row)
    events: list[Event] = []
    for byte in row.read_by(role):
        events += reader.receive(bytes((byte,)))
    assert _seen(events) == row.events


@every_role
@every_row
def test_read_with_a_tail(row: Row, role: str) -> None:
    """What follows a row is read as if it were alone, and not at all after a close or a violation."""
    tail = Row("tail", (("89 04", b"tail"),), (Ping(b"tail"),)).read_by(role)
    expected = row.events if _ends(row) else (*row.events, Ping(b"tail"))
    reader = _reader(role, row)
    assert _seen(reader.receive(row.read_by(role) + tail + tail[:3])) == expected
    assert reader.receive(tail[3:]) == ([] if _ends(row) else [Ping(b"tail")])


@every_role
@some_rows
def test_read_a_unit_at_a_time(row: Row, role: str) -> None:
    """However little is done in one call, a row gives the same events, each as soon as possible, and nothing is
    left."""
    reader, events = _reader(role, row), list[Event]()
    for byte in row.read_by(role):
        reader.keep(bytes((byte,)))
    assert reader.unread == len(row.read_by(role))
    while reader.unread:
        before = reader.unread
        events += reader.receive(b"", 1)
        assert reader.unread < before
    assert _seen(events) == row.events


@every_role
@pytest.mark.parametrize("row", COMPRESSED, ids=lambda row: row.name)
def test_unpack(row: Row, role: str) -> None:
    """A connection whose user inflates by itself gets compressed messages unchanged, one per call, and asks for
    more."""
    reader = Codec(LIMITS, deflate=Deflate(), client=role == "client", unpacks=True)
    events, data = list[Event](), row.read_by(role)
    while data or reader.unread:
        events += [reader.unpack(event) if isinstance(event, Packed) else event for event in reader.receive(data)]
        data = b""
    assert _seen(events) == row.events


def test_small_fragments_are_counted() -> None:
    """Frames below 126 bytes that do not end a message are counted for the rate; others appear as events or are
    large."""
    server = Codec(Limits(max_message=5_000, max_fragments=100))
    first, more = frames.frame(frames.TEXT, b"a", fin=False, key=KEY), frames.frame(frames.CONTINUATION, b"", key=KEY)
    server.receive(first + frames.frame(frames.CONTINUATION, b"", fin=False, key=KEY) * 5 + more)
    assert server.fragments == 6
    server.receive(frames.frame(frames.TEXT, bytes(126), fin=False, key=KEY) + more)
    assert server.fragments == 6


@every_role
@some_rows
def test_masked_the_wrong_way_round(row: Row, role: str) -> None:
    """A server refuses unmasked frames and a client masked ones, as the first frame and as a later one."""
    assert _seen(_reader(role, row).receive(row.written_by(role))) == (fails(1002),)
    reader = _reader(role, row)
    assert reader.receive(Row("ping", (("89 00", b""),), ()).read_by(role)) == [Ping(b"")]
    assert _seen(reader.receive(row.written_by(role))) == (fails(1002),)


def test_the_masked_examples() -> None:
    """The masked examples of RFC 6455 5.7 are read and written byte for byte."""
    text, pong = bytes.fromhex("818537fa213d7f9f4d5158"), bytes.fromhex("8a8537fa213d7f9f4d5158")
    assert frames.frame(frames.TEXT, b"Hello", key=KEY) == text
    assert frames.frame(frames.PONG, b"Hello", key=KEY) == pong
    assert Codec(LIMITS).receive(text + pong) == ["Hello", Pong(b"Hello")]


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param("83", 1002, id="reserved opcode"),
        pytest.param("c1", 1002, id="reserved bit"),
        pytest.param("81 05", 1002, id="not masked"),
        pytest.param("09 80", 1002, id="fragmented ping"),
        pytest.param("89 fe", 1002, id="long ping"),
        pytest.param("81 fe 00 7d", 1002, id="length not in its shortest form"),
        pytest.param("81 ff 00 00 00 00 00 00 ff ff", 1002, id="64-bit length not in its shortest form"),
        pytest.param("82 ff 00 00 00 00 00 01 11 71 00 00 00 00", 1009, id="too large, before its payload"),
        pytest.param("81 8a 00 00 00 00 ff", 1007, id="first byte of a text"),
        pytest.param("81 8a 00 00 00 00 ed a0", 1007, id="second byte of a surrogate"),
        pytest.param("81 8a 00 00 00 00 e0 80", 1007, id="second byte of an overlong form"),
        pytest.param("81 8a 00 00 00 00 f4 90", 1007, id="second byte beyond U+10FFFF"),
        pytest.param("01 81 00 00 00 00 c3 80 81 00 00 00 00 28", 1007, id="second byte in the next fragment"),
    ],
)
def test_the_earliest_byte_fails(wire: str, code: int) -> None:
    """A violation is noticed at the first byte that makes it certain, and not before."""
    data = bytes.fromhex(wire)
    server = Codec(LIMITS)
    assert server.receive(data[:-1]) == []
    assert _seen(server.receive(data[-1:])) == (fails(code),)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_close_codes_for_the_wire(code: int) -> None:
    """A registered, library or application code is read from a close frame."""
    wire = frames.frame(frames.CLOSE, frames.close_payload(code), key=KEY)
    assert Codec(LIMITS).receive(wire) == [Close(code, "")]


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65535])
def test_close_codes_not_for_the_wire(code: int) -> None:
    """A code that is reserved, unassigned or for programs only is a violation (RFC 6455 7.4)."""
    wire = frames.frame(frames.CLOSE, code.to_bytes(2, "big"), key=KEY)
    assert _seen(Codec(LIMITS).receive(wire)) == (fails(1002),)


@pytest.mark.parametrize(
    ("reason", "cut"),
    [("r" * 124, "r" * 123), ("é" * 62, "é" * 61), ("🎉" * 31, "🎉" * 30), ("r" * 120 + "🎉", "r" * 120)],
)
def test_a_long_close_reason_is_cut_at_a_character(reason: str, cut: str) -> None:
    """A reason beyond 123 bytes loses whole characters, and stays UTF-8 that the peer can read."""
    wire = Codec(LIMITS).close(1001, reason)
    assert wire[1] <= 125
    assert Codec(LIMITS, client=True).receive(wire) == [Close(1001, cut)]


@every_role
def test_a_close_is_sent_once(role: str) -> None:
    """A second close() writes nothing, whichever side closed first."""
    first = Codec(LIMITS, client=role == "client")
    assert first.close(1001)
    assert first.close(1001) == b""
    second = Codec(LIMITS, client=role == "client")
    second.receive(Row("close", (("88 00", b""),), ()).read_by(role))
    assert second.close(1005)
    assert second.close(1000) == b""
    assert second.state is CloseState.CLOSED


def test_ping_and_pong_payloads_are_cut() -> None:
    """We send a legal control frame even if the caller gives it more than 125 bytes."""
    server, client = Codec(LIMITS), Codec(LIMITS, client=True)
    assert client.receive(server.ping(b"." * 126) + server.pong(b"." * 1000)) == [Ping(b"." * 125), Pong(b"." * 125)]


def test_after_our_close_only_the_peers_close_comes_out() -> None:
    """Messages, pings and pongs that cross our close are read and dropped; the close after them is not."""
    server, client = Codec(LIMITS), Codec(LIMITS, client=True)
    server.close(1001)
    assert server.receive(client.text(b"a") + client.ping() + client.pong()) == []
    assert server.receive(client.text(b"short")) == []
    assert server.receive(client.binary(b"b") + client.close(1001)) == [Close(1001, "")]
    assert server.state is CloseState.CLOSED


def test_after_our_close_the_peer_is_still_held_to_the_protocol() -> None:
    """A violation that crosses our close is reported, and there is no second close frame to send."""
    server = Codec(LIMITS)
    server.close(1001)
    assert _seen(server.receive(b"\x83")) == (fails(1002),)
    assert server.state is CloseState.CLOSED
    assert server.close(1002) == b""


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda client: client.text(b""), id="text"),
        pytest.param(lambda client: client.binary(b""), id="binary"),
        pytest.param(lambda client: client.compressed(frames.TEXT, b""), id="compressed"),
        pytest.param(lambda client: client.ping(), id="ping"),
        pytest.param(lambda client: client.pong(), id="pong"),
    ],
)
def test_a_client_takes_a_new_key_for_each_frame(write: Callable[[Codec], bytes]) -> None:
    """Masking keys are not repeated from frame to frame (RFC 6455 5.3)."""
    client = Codec(LIMITS, client=True)
    assert len({write(client)[2:6] for _ in range(16)}) > 8


def test_compressed_without_an_agreement_is_plain() -> None:
    """`compressed` writes a plain frame if the handshake agreed on nothing."""
    assert Codec(LIMITS).compressed(frames.TEXT, b"Hello") == b"\x81\x05Hello"
    assert Codec(LIMITS, deflate=Deflate()).compressed(frames.TEXT, b"Hello")[0] == 0xC1


def test_the_default_limits() -> None:
    """The limits are those of the settings max_message, max_inflated and max_fragments."""
    assert Limits() == Limits(max_message=1_000_000, max_inflated=1_000_000, max_fragments=1_024)


def test_a_limit_below_one_short_frame_is_refused() -> None:
    """max_message below 125 bytes is an error of the caller, because short frames are not counted."""
    assert Limits(max_message=125).max_message == 125
    with pytest.raises(ValueError, match="max_message"):
        Limits(max_message=124)
