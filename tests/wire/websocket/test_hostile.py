"""Hostile peers, rows 24 to 27: malformed frames, endless fragments, inflation bombs, text that is not UTF-8."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from partyline.wire.websocket.codec import CloseState, Codec, Event, Limits, Ping, Violation
from partyline.wire.websocket.deflate import Deflate
from partyline.wire.websocket.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

KEY = bytes.fromhex("a1b2c3d4")
MEGABYTE = 1_000_000


@contextmanager
def memory(at_most: int) -> Iterator[None]:
    """Fail if the block ever holds more than `at_most` new bytes."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= at_most, f"held {peak} bytes"


def _code(events: list[Event]) -> int:
    """The code of the violation that is the only event."""
    (event,) = events
    assert isinstance(event, Violation)
    return event.code


@pytest.mark.parametrize("first", [0x01, 0x81, 0x02, 0x82])
@pytest.mark.parametrize("size", [MEGABYTE + 1, (1 << 32) - 1, 1 << 32, (1 << 63) - 1])
def test_24_an_announced_length_is_refused_before_a_byte_of_it_is_held(first: int, size: int) -> None:
    """A frame beyond the limit costs only its head: it gets 1009 at once, and what follows is not kept."""
    server = Codec(Limits())
    follows = bytes(65536)
    with memory(at_most=16_384):
        assert _code(server.receive(bytes((first, 0xFF)) + size.to_bytes(8, "big") + KEY)) == 1009
        for _ in range(16):
            assert server.receive(follows) == []


@pytest.mark.parametrize("deflate", [None, Deflate()], ids=["plain", "compressed"])
@pytest.mark.parametrize("masked", [True, False])
def test_24_every_first_byte(deflate: Deflate | None, masked: bool) -> None:
    """Of all 256 first bytes exactly the legal ones open a frame; all others, and unmasked frames, get 1002."""
    legal = {0x01, 0x02, 0x81, 0x82, 0x88, 0x89, 0x8A}
    if deflate is not None:
        legal |= {0x41, 0x42, 0xC1, 0xC2}
    for first in range(256):
        server = Codec(Limits(), deflate=deflate)
        events = server.receive(bytes((first, 0x80 if masked else 0x00)) + (KEY if masked else b""))
        if masked and first in legal:
            assert not any(isinstance(event, Violation) for event in events), hex(first)
        else:
            assert _code(events) == 1002, hex(first)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("size", [126, 65536])
def test_24_an_oversize_control_frame_is_refused_from_its_head(opcode: int, size: int) -> None:
    """A control frame beyond 125 bytes is refused at its second byte, without waiting for its payload."""
    assert _code(Codec(Limits()).receive(frame(opcode, bytes(size), key=KEY)[:2])) == 1002


@pytest.mark.parametrize("payload", [b"", b"."], ids=["empty", "one byte"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_25_endless_continuation(opcode: int, payload: bytes) -> None:
    """The 1,025th frame of a message is refused, and the thousand before it are not kept one by one."""
    server = Codec(Limits())
    more = frame(CONTINUATION, payload, fin=False, key=KEY)
    with memory(at_most=32_768):
        assert server.receive(frame(opcode, payload, fin=False, key=KEY)) == []
        for _ in range(1_023):
            assert server.receive(more) == []
        assert _code(server.receive(more)) == 1009


def test_25_controls_between_fragments_do_not_reset_the_count() -> None:
    """Pings inside a message are answered and not counted; its own frames still are."""
    server = Codec(Limits(max_fragments=4))
    wire = frame(CONTINUATION, b".", fin=False, key=KEY) + frame(PING, b"", key=KEY)
    assert server.receive(frame(TEXT, b".", fin=False, key=KEY) + wire * 3) == [Ping(b"")] * 3
    assert _code(server.receive(wire)) == 1009


def test_25_each_message_has_a_count_of_its_own() -> None:
    """Any number of messages may use all the fragments that one message may have."""
    server = Codec(Limits(max_fragments=2))
    wire = frame(BINARY, b"a", fin=False, key=KEY) + frame(CONTINUATION, b"b", key=KEY)
    assert server.receive(wire * 100) == [b"ab"] * 100


@pytest.mark.check
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_25_a_message_dripped_byte_by_byte_costs_its_own_size(opcode: int) -> None:
    """A message that arrives byte by byte is held in about its own size, not in an object per byte."""
    server = Codec(Limits())
    wire = frame(opcode, b"." * 50_000, key=KEY)
    with memory(at_most=120_000):
        for at in range(len(wire) - 1):
            assert server.receive(wire[at : at + 1]) == []


def _bomb(size: int) -> bytes:
    """`size` zero bytes as one compressed message, about a thousandth as long."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(MEGABYTE)
    parts = [squeezer.compress(zeros) for _ in range(size // MEGABYTE)]
    return b"".join(parts) + squeezer.flush(zlib.Z_SYNC_FLUSH)[:-4]


@pytest.mark.parametrize("chop", [1 << 20, 1_000], ids=["whole", "in pieces"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_26_permessage_deflate_bomb(opcode: int, chop: int) -> None:
    """A message that inflates to 50 MB is stopped at 1 MB with 1009, and never much more than that is held."""
    wire = frame(opcode, _bomb(50 * MEGABYTE), rsv1=True, key=KEY)
    server = Codec(Limits(), deflate=Deflate())
    events: list[Event] = []
    with memory(at_most=5 * MEGABYTE):
        for at in range(0, len(wire), chop):
            events += server.receive(wire[at : at + chop])
    assert _code(events) == 1009


def test_26_a_bomb_in_fragments() -> None:
    """The inflated size is counted over all fragments of a message."""
    body = _bomb(3 * MEGABYTE)
    server = Codec(Limits(), deflate=Deflate())
    events = server.receive(frame(BINARY, body[:1_500], fin=False, rsv1=True, key=KEY))
    events += server.receive(frame(CONTINUATION, body[1_500:], key=KEY))
    assert _code(events) == 1009


@pytest.mark.parametrize(("size", "fits"), [(999, True), (1_000, True), (1_001, False), (100_000, False)])
def test_26_the_inflated_limit_is_exact(size: int, fits: bool) -> None:
    """A message of max_inflated bytes is accepted; one more byte gets 1009."""
    squeezer = zlib.compressobj(wbits=-15)
    body = squeezer.compress(b"." * size) + squeezer.flush(zlib.Z_SYNC_FLUSH)[:-4]
    events = Codec(Limits(max_inflated=1_000), deflate=Deflate()).receive(frame(BINARY, body, rsv1=True, key=KEY))
    if fits:
        assert events == [b"." * size]
    else:
        assert _code(events) == 1009


def test_26_endless_final_blocks() -> None:
    """A few final blocks inside a message are legal; ten thousand of them, two bytes each, are refused."""
    final = bytes.fromhex("0300")  # an empty block with BFINAL set
    few = frame(BINARY, final * 4 + bytes.fromhex("f248cdc9c90700"), rsv1=True, key=KEY)
    assert Codec(Limits(), deflate=Deflate()).receive(few) == [b"Hello"]
    many = frame(BINARY, final * 10_000, rsv1=True, key=KEY)
    assert _code(Codec(Limits(), deflate=Deflate()).receive(many)) == 1007


BAD_TEXTS = [
    pytest.param("80", id="a lone continuation"),
    pytest.param("c328", id="a missing continuation"),
    pytest.param("c0af", id="overlong in two bytes"),
    pytest.param("e080af", id="overlong in three bytes"),
    pytest.param("f08080af", id="overlong in four bytes"),
    pytest.param("eda080", id="a high surrogate"),
    pytest.param("edbfbf", id="a low surrogate"),
    pytest.param("eda080edb080", id="a pair of surrogates"),
    pytest.param("f4908080", id="beyond U+10FFFF"),
    pytest.param("f888808080", id="five bytes"),
    pytest.param("fe", id="no first byte at all"),
]


@pytest.mark.parametrize("bad", BAD_TEXTS)
def test_27_invalid_utf8_split_across_fragments(bad: str) -> None:
    """Wherever it is cut twice, text that is not UTF-8 gets 1007, and nothing of it is passed on."""
    text = b"ok" + bytes.fromhex(bad) + b"ok"
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            server = Codec(Limits())
            events = server.receive(frame(TEXT, text[:first], fin=False, key=KEY))
            events += server.receive(frame(CONTINUATION, text[first:second], fin=False, key=KEY))
            events += server.receive(frame(CONTINUATION, text[second:], key=KEY))
            assert _code(events) == 1007, (first, second)


@pytest.mark.parametrize("bad", BAD_TEXTS)
def test_27_invalid_utf8_in_a_close_reason(bad: str) -> None:
    """A close reason that is not UTF-8 is a violation with 1007, not a close."""
    server = Codec(Limits())
    assert _code(server.receive(frame(CLOSE, b"\x03\xe8ok" + bytes.fromhex(bad), key=KEY))) == 1007
    assert server.close(1007) == bytes.fromhex("880203ef")
    assert server.state is CloseState.CLOSED


@pytest.mark.parametrize("bad", BAD_TEXTS)
def test_27_what_is_not_text_need_not_be_utf8(bad: str) -> None:
    """Bytes that are not UTF-8 pass untouched in a binary message and in a ping."""
    payload = bytes.fromhex(bad)
    wire = frame(BINARY, payload, key=KEY) + frame(PING, payload, key=KEY)
    assert Codec(Limits()).receive(wire) == [payload, Ping(payload)]
