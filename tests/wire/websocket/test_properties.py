"""Properties of any messages and any bytes: round trips, chopping, hostile streams, UTF-8, headers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import State as TheirState
from websockets.uri import parse_uri

from partyline.errors import MalformedRequest, UpgradeRequired
from partyline.wire.websocket import frames
from partyline.wire.websocket.codec import Close, CloseState, Codec, Event, Limits, Ping, Pong, Violation
from partyline.wire.websocket.deflate import Deflate, deflate
from partyline.wire.websocket.handshake import accept

from .strategies import (
    Squeeze,
    chop_sizes,
    chopped,
    keys,
    masked_byte_by_byte,
    payloads,
    read,
    roles,
    squeezes,
    texts,
)

LIMITS = Limits(max_message=5_000, max_inflated=5_000, max_fragments=8)
OTHER = {"server": "client", "client": "server"}

controls = st.lists(
    st.one_of(st.builds(Ping, st.binary(max_size=125)), st.builds(Pong, st.binary(max_size=125))), max_size=2
)


# Round trips


@given(st.lists(st.one_of(texts, payloads, controls), max_size=6))
@example(["x" * 125, "x" * 126, b"x" * 65_535, b"x" * 65_536])
def test_messages_of_our_own_frames(sent: list[str | bytes | list[Event]]) -> None:
    """What a server writes, compressed or not, is read back as the same messages, whatever control frames are
    between."""
    server = Codec(LIMITS, deflate=Deflate())
    written, expected = b"", []
    for one in sent:
        if isinstance(one, list):
            for control in one:
                assert isinstance(control, Ping | Pong)
                written += server.ping(control.payload) if isinstance(control, Ping) else server.pong(control.payload)
        else:
            payload, opcode = (one.encode(), frames.TEXT) if isinstance(one, str) else (one, frames.BINARY)
            if len(payload) % 2:
                written += server.compressed(opcode, payload)
            else:
                written += server.text(payload) if isinstance(one, str) else server.binary(payload)
            expected.append(one)
    assert list(frames.messages(written, compressed=True)) == expected


@given(st.text(st.characters(exclude_categories=()), max_size=20))
@example("a\ud83db")
@example("\ud83d\ude00")
@example("\ude00\ud83d")
def test_half_a_character_has_one_spelling(text: str) -> None:
    """Any text can be sent: what is not a character becomes U+FFFD, two matching halves become one character, all else
    stays."""
    sent = frames.utf8(text).decode()
    whole = text.encode("utf-16-le", "surrogatepass")
    assert sent == whole.decode("utf-16-le", "replace")
    if sent == text:
        assert frames.utf8(text) == text.encode()
    else:
        assert len([one for one in text if "\ud800" <= one <= "\udfff"]) > 0


@dataclass(frozen=True, slots=True)
class Sent:
    """A message as a peer sends it."""

    message: str | bytes
    squeeze: Squeeze | None
    cuts: list[int]
    between: list[list[Event]]  # control frames before each of its frames
    key: bytes  # of the first frame; each frame has a different one


sent_messages = st.builds(
    Sent,
    message=st.one_of(texts, payloads),
    squeeze=st.none() | squeezes,
    cuts=st.lists(st.integers(0, 400), max_size=5),
    between=st.lists(controls, min_size=6, max_size=6),
    key=keys,
)


def on_the_wire(sent: Sent, role: str) -> tuple[bytes, list[Event]]:
    """What `role` sends, and what the other side should read."""
    body = sent.message.encode() if isinstance(sent.message, str) else sent.message
    if sent.squeeze is not None:
        body = sent.squeeze(body)
    borders = [0, *sorted(min(cut, len(body)) for cut in sent.cuts), len(body)]
    wire, events = b"", list[Event]()
    for at, (start, end) in enumerate(pairwise(borders)):
        key = bytes(byte + at & 0xFF for byte in sent.key) if role == "client" else None
        for control in sent.between[at]:
            assert isinstance(control, Ping | Pong)
            wire += frames.frame(
                frames.PING if isinstance(control, Ping) else frames.PONG, control.payload, key=key and key[::-1]
            )
            events.append(control)
        opcode = frames.TEXT if isinstance(sent.message, str) else frames.BINARY
        wire += frames.frame(
            opcode if at == 0 else frames.CONTINUATION,
            body[start:end],
            fin=at == len(borders) - 2,
            rsv1=at == 0 and sent.squeeze is not None,
            key=key,
        )
    return wire, [*events, sent.message]


@settings(deadline=None)
@given(messages=st.lists(sent_messages, max_size=4), role=roles, sizes=chop_sizes)
def test_any_messages_come_through_any_fragmentation_and_chopping(
    messages: list[Sent], role: str, sizes: list[int]
) -> None:
    """Messages and control frames are read as they were sent, in order, however they were cut, compressed and
    chopped."""
    reader = Codec(LIMITS, deflate=Deflate(), client=role == "server")
    stream, expected = b"", list[Event]()
    for sent in messages:
        wire, events = on_the_wire(sent, role)
        stream += wire
        expected += events
    assert read(reader, chopped(stream, sizes)) == expected
    assert reader.state is CloseState.OPEN


@settings(deadline=None)
@given(
    messages=st.lists(st.tuples(st.one_of(texts, payloads), st.booleans()), max_size=6),
    role=roles,
    agreed=st.none() | st.builds(Deflate, st.integers(9, 15)),
    sizes=chop_sizes,
)
def test_what_we_write_we_read(
    messages: list[tuple[str | bytes, bool]], role: str, agreed: Deflate | None, sizes: list[int]
) -> None:
    """The other role reads what text, binary and compressed write, whatever was agreed on."""
    writer = Codec(LIMITS, deflate=agreed, client=role == "client")
    reader = Codec(LIMITS, deflate=agreed, client=role == "server")
    stream = b""
    for message, squeezed in messages:
        body = message.encode() if isinstance(message, str) else message
        if squeezed:
            stream += writer.compressed(frames.TEXT if isinstance(message, str) else frames.BINARY, body)
        else:
            stream += writer.text(body) if isinstance(message, str) else writer.binary(body)
    assert read(reader, chopped(stream, sizes)) == [message for message, _ in messages]


@settings(deadline=None)
@given(
    messages=st.lists(st.one_of(texts, payloads), max_size=5),
    bits=st.none() | st.integers(9, 15),
    cut=st.integers(0, 50),
)
def test_another_implementation_reads_and_is_read(messages: list[str | bytes], bits: int | None, cut: int) -> None:
    """A client that we did not write understands what our server sends, and our server what it sends."""
    client = ClientProtocol(parse_uri("ws://a/"), state=TheirState.OPEN)
    if bits is not None:
        client.extensions = [PerMessageDeflate(True, True, bits, 15)]
    server = Codec(LIMITS, deflate=None if bits is None else Deflate(bits))
    for message in messages:
        opcode = frames.TEXT if isinstance(message, str) else frames.BINARY
        body = message.encode() if isinstance(message, str) else message
        client.receive_data(server.compressed(opcode, body))
        (frame,) = client.events_received()
        assert (frame.opcode, bytes(frame.data), frame.fin) == (opcode, body, True)
        send = client.send_text if opcode == frames.TEXT else client.send_binary
        send(body[:cut], fin=False)
        client.send_ping(b"?")
        client.send_continuation(body[cut:], fin=True)
        assert server.receive(b"".join(client.data_to_send())) == [Ping(b"?"), message]
    client.receive_data(server.ping(b"!"))
    (ping,) = client.events_received()
    assert (ping.opcode, bytes(ping.data)) == (Opcode.PING, b"!")
    assert server.receive(b"".join(client.data_to_send())) == [Pong(b"!")]
    client.receive_data(server.close(1001, "bye"))
    (close,) = client.events_received()
    assert (client.close_rcvd.code, client.close_rcvd.reason) == (1001, "bye")
    assert close.opcode is Opcode.CLOSE
    assert server.receive(b"".join(client.data_to_send())) == [Close(1001, "bye")]
    assert server.state is CloseState.CLOSED


# Hostile bytes

odd_frames = st.builds(
    lambda first, second, length, key, payload: bytes((first, second)) + length + key + payload,
    first=st.one_of(st.sampled_from((0x00, 0x01, 0x02, 0x41, 0x80, 0x81, 0x82, 0x88, 0x89, 0xC1)), st.integers(0, 255)),
    second=st.one_of(st.integers(0x80, 0x8A), st.integers(0, 255)),
    length=st.sampled_from((b"", b"\x00\x7e", b"\x00\x05", bytes(7) + b"\x05", b"\x7f" + b"\xff" * 7)),
    key=st.just(b"") | keys,
    payload=st.binary(max_size=10),
)


def _nearly_good(key: bytes | None) -> st.SearchStrategy[bytes]:
    """A frame with the right key, which is legal in itself, or nearly."""
    data = st.one_of(
        st.tuples(st.sampled_from((0, 0, 1, 2)), st.text(max_size=20).map(str.encode)),
        st.tuples(st.sampled_from((0, 1, 2)), st.binary(max_size=70)),
        st.tuples(st.sampled_from((1, 2)), st.one_of(texts.map(str.encode), payloads).map(deflate)),
    )
    control = st.one_of(
        st.tuples(
            st.just(8), st.sampled_from((b"", b"\x03\xe8", b"\x03\xe9bye", b"\x03", b"\x03\xed", b"\x03\xe8\xff"))
        ),
        st.tuples(st.sampled_from((9, 10)), st.binary(max_size=10)),
    )
    return st.builds(
        lambda kind, fin, rsv1: frames.frame(
            kind[0], kind[1], fin=fin or kind[0] >= 8, rsv1=rsv1 and kind[0] in (1, 2), key=key
        ),
        kind=st.one_of(data, data, control),
        fin=st.booleans(),
        rsv1=st.booleans(),
    )


def _stream(role: str, key: bytes) -> st.SearchStrategy[tuple[str, bytes]]:
    """Messages that are legal but for their size, something odd, and more messages."""
    legal = sent_messages.map(lambda sent: on_the_wire(sent, OTHER[role])[0])
    frame = _nearly_good(key if role == "server" else None)
    odd = st.one_of(frame, st.lists(frame, min_size=2, max_size=5).map(b"".join), odd_frames, st.binary(max_size=30))
    parts = st.tuples(st.lists(legal, max_size=3), st.lists(odd, max_size=2), st.lists(legal, max_size=2))
    return st.tuples(st.just(role), parts.map(lambda part: b"".join((*part[0], *part[1], *part[2]))))


streams = st.tuples(roles, keys).flatmap(lambda pair: _stream(*pair))  # to whom, and what
small = Limits(max_message=200, max_inflated=160, max_fragments=5)


@pytest.mark.check
@settings(deadline=None)
@given(to=streams, agreed=st.none() | st.just(Deflate()), sizes=chop_sizes, closing=st.booleans())
def test_arbitrary_bytes_give_events_and_at_most_one_end(
    to: tuple[str, bytes], agreed: Deflate | None, sizes: list[int], closing: bool
) -> None:
    """receive() never raises, whatever the bytes; a Close or a Violation is always the last event."""
    role, stream = to
    connection = Codec(small, deflate=agreed, client=role == "client")
    if closing:
        connection.close()
    events = read(connection, chopped(stream, sizes))
    ends = [event for event in events if isinstance(event, Close | Violation)]
    assert len(ends) <= 1
    if ends:
        assert events[-1] is ends[0]
        assert connection.receive(stream) == []
        assert connection.state is (CloseState.CLOSED if closing else CloseState.CLOSE_RECEIVED)
    else:
        assert connection.state is (CloseState.CLOSE_SENT if closing else CloseState.OPEN)
    if closing:
        assert events == ends, "something other than the end came out after our close"
    for event in events:
        if isinstance(event, str | bytes):
            assert len(event) <= 200
        elif isinstance(event, Ping | Pong):
            assert len(event.payload) <= 125
        elif isinstance(event, Violation):
            assert event.code in (1002, 1007, 1009)
            assert 0 < len(event.reason.encode()) <= 123
        else:
            assert event.code == 1005 or frames.valid_close_code(event.code)


def _without_reasons(events: list[Event]) -> list[Event]:
    """Violations reduced to their codes; 1007 and 1009 count as one.

    A compressed text may be both too large and not UTF-8: which is found first depends on where the pieces end.
    """
    return [
        replace(event, reason="", code=1007 if event.code == 1009 else event.code)
        if isinstance(event, Violation)
        else event
        for event in events
    ]


@pytest.mark.check
@settings(deadline=None)
@given(to=streams, agreed=st.none() | st.just(Deflate()), sizes=chop_sizes)
def test_chopping_changes_nothing(to: tuple[str, bytes], agreed: Deflate | None, sizes: list[int]) -> None:
    """Any bytes mean the same in one piece and in many; without compression even the reasons are the same."""
    role, stream = to
    whole = Codec(small, deflate=agreed, client=role == "client")
    pieces = Codec(small, deflate=agreed, client=role == "client")
    expected, seen = whole.receive(stream), read(pieces, chopped(stream, sizes))
    assert _without_reasons(seen) == _without_reasons(expected)
    assert pieces.state is whole.state
    if agreed is None:
        assert seen == expected


@settings(deadline=None)
@given(
    payload=st.one_of(st.text(max_size=130).map(str.encode), st.binary(max_size=130)),
    head=st.sampled_from((b"\x81", b"\x81", b"\x81", b"\x01", b"\xc1", b"\x82", b"\x89")),
    key=keys,
    wrong_by=st.sampled_from((0, 0, 0, -1, 1)),
    before=st.sampled_from(("", "", "close", "01 83 00000000 616263", "01 8a 00000000 616263", "81", "81 83 00")),
    cut=st.integers(1, 140),
)
@example(payload=b"a" * 125, head=b"\x81", key=b"\x00\x01\x02\x03", wrong_by=0, before="", cut=1)
@example(payload=b"a" * 126, head=b"\x81", key=b"\x00\x01\x02\x03", wrong_by=0, before="", cut=1)
@example(payload=b"a", head=b"\x81", key=b"\x00\x01\x02\x03", wrong_by=0, before="", cut=6)
@example(payload=b"", head=b"\x81", key=b"\x00\x01\x02\x03", wrong_by=0, before="", cut=3)
@example(payload=b"\xff", head=b"\x81", key=b"\xff\x00\x00\x00", wrong_by=0, before="", cut=3)
@example(payload=b"later", head=b"\x81", key=b"\x00\x01\x02\x03", wrong_by=0, before="close", cut=3)
@example(payload=b"inside", head=b"\x81", key=b"\x00\x01\x02\x03", wrong_by=0, before="01 83 00000000 616263", cut=3)
@example(payload=b"inside", head=b"\x81", key=b"\x00\x01\x02\x03", wrong_by=0, before="81 83 00", cut=3)
def test_the_fast_path_is_the_general_path(
    payload: bytes, head: bytes, key: bytes, wrong_by: int, before: str, cut: int
) -> None:
    """A frame alone in its read gives the same as its two halves, in every state of a connection.

    short_text() takes it exactly if it is a whole short text and nothing is unfinished, and otherwise changes nothing.
    """
    second = min(max(len(payload) + wrong_by, 0), 127) | 0x80
    wire = head + bytes((second,)) + key + masked_byte_by_byte(payload, key)
    fast, short, general = Codec(LIMITS), Codec(LIMITS), Codec(LIMITS)
    for connection in (fast, short, general):
        if before == "close":
            connection.close()
        else:
            assert connection.receive(bytes.fromhex(before)) == []
    cut = min(cut, len(wire) - 1)
    expected = general.receive(wire[:cut]) + general.receive(wire[cut:])
    assert fast.receive(wire) == expected
    text = short.short_text(wire)
    assert (text is not None) == (
        before == "" and head == b"\x81" and wrong_by == 0 and 0 < len(payload) < 126 and expected == [_text(payload)]
    )
    assert ([text] if text is not None else short.receive(wire)) == expected
    assert fast.state is short.state is general.state
    more = frames.frame(frames.BINARY, b"next", key=key)
    assert fast.receive(more) == short.receive(more) == general.receive(more[:1]) + general.receive(more[1:])


def _text(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


# Unicode 16.0, table 3-7: the second byte that may follow a first one, and how many continuation bytes there are.
_WELL_FORMED = [
    (range(0x80), range(0), 0),
    (range(0xC2, 0xE0), range(0x80, 0xC0), 1),
    (range(0xE0, 0xE1), range(0xA0, 0xC0), 2),
    (range(0xE1, 0xED), range(0x80, 0xC0), 2),
    (range(0xED, 0xEE), range(0x80, 0xA0), 2),
    (range(0xEE, 0xF0), range(0x80, 0xC0), 2),
    (range(0xF0, 0xF1), range(0x90, 0xC0), 3),
    (range(0xF1, 0xF4), range(0x80, 0xC0), 3),
    (range(0xF4, 0xF5), range(0x80, 0x90), 3),
]


def _first_bad_byte(text: bytes) -> int | None:
    """The place where `text` can no longer become UTF-8; its length if it only ends too soon; None if it is UTF-8."""
    at = 0
    while at < len(text):
        row = next((row for row in _WELL_FORMED if text[at] in row[0]), None)
        if row is None:
            return at
        for more in range(row[2]):
            at += 1
            if at == len(text):
                return at
            if text[at] not in (row[1] if more == 0 else range(0x80, 0xC0)):
                return at
        at += 1
    return None


nearly_texts = st.lists(
    st.one_of(
        st.characters(codec="utf-8").map(str.encode),
        st.binary(min_size=1, max_size=3),
        st.builds(
            lambda first, rest: bytes((first, *rest)), st.integers(0xC0, 0xF8), st.lists(st.integers(0x80, 0xBF))
        ),
        st.sampled_from((b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xc1\xbf")),
    ),
    max_size=6,
).map(lambda parts: b"".join(parts)[:100])


@settings(deadline=None)
@given(text=nearly_texts, key=keys, cut=st.integers(0, 100))
def test_text_is_utf8_and_fails_at_the_first_bad_byte(text: bytes, key: bytes, cut: int) -> None:
    """Byte by byte and across a fragment border, text fails exactly where it can no longer become UTF-8."""
    bad = _first_bad_byte(text)
    cut = min(cut, len(text))
    wires = [
        (frames.frame(frames.TEXT, text[:cut], fin=False, key=key), cut),
        (frames.frame(frames.CONTINUATION, text[cut:], key=key), len(text) - cut),
    ]
    server, taken, events = Codec(LIMITS), 0, list[Event]()
    for wire, size in wires:
        for at in range(len(wire)):
            if not events:
                events = server.receive(wire[at : at + 1])
                taken += at >= len(wire) - size
    if bad is None:
        assert events == [text.decode()]
        return
    (event,) = events
    assert isinstance(event, Violation)
    assert event.code == 1007
    assert taken == min(bad + 1, len(text))


# The handshake

tokens = st.sampled_from((
    "permessage-deflate", "server_max_window_bits=10", "client_max_window_bits", "websocket", "Upgrade", "13", "a", '"',
    "=", "\\", " ", "dGhlIHNhbXBsZSBub25jZQ==",
))  # fmt: skip
values = st.one_of(
    st.binary(max_size=20),
    st.lists(st.tuples(tokens, st.sampled_from(",;= "))).map(lambda p: "".join(map("".join, p)).encode()),
)
names = st.sampled_from((b"sec-websocket-extensions", b"sec-websocket-protocol", b"sec-websocket-key", b"connection"))
good_headers = [
    (b"host", b"a"),
    (b"upgrade", b"websocket"),
    (b"connection", b"upgrade"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
]


@settings(deadline=None)
@given(
    kept=st.lists(st.sampled_from(good_headers), unique=True) | st.just(good_headers),
    odd=st.lists(st.tuples(names, values), max_size=4),
    compress=st.booleans(),
)
def test_any_headers_are_accepted_or_refused(
    kept: list[tuple[bytes, bytes]], odd: list[tuple[bytes, bytes]], compress: bool
) -> None:
    """accept() raises nothing but its documented errors 400 and 426, and its answer is one whole HTTP head."""
    try:
        answer = accept("GET", "1.1", [*kept, *odd], subprotocols=("a",), deflate=compress)
    except (MalformedRequest, UpgradeRequired):
        return
    assert answer.head.startswith(b"HTTP/1.1 101 ")
    assert answer.head.endswith(b"\r\n\r\n")
    assert b"\r\n\r\n" not in answer.head[:-4]
    assert answer.subprotocol in (None, "a")
    assert answer.deflate is None or (compress and 9 <= answer.deflate.window_bits <= 15)
