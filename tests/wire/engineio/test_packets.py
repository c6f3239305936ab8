"""Packets and polling bodies as one table with four readings: written, read, in a frame, and between others."""

from __future__ import annotations

import base64
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.errors import InvalidPacket
from partyline.wire.engineio import packets, payloads
from partyline.wire.engineio.packets import Packet
from partyline.wire.websocket.codec import Codec, Limits
from partyline.wire.websocket.frames import Frames

# A packet, and its form in a polling body of protocol 4, of protocol 3 as text, and of protocol 3 in octets.
TABLE: list[tuple[Packet, bytes, bytes, bytes]] = [
    ("1", b"1", b"1:1", b"\x00\x01\xff1"),
    ("2", b"2", b"1:2", b"\x00\x01\xff2"),
    ("2probe", b"2probe", b"6:2probe", b"\x00\x06\xff2probe"),
    ("4", b"4", b"1:4", b"\x00\x01\xff4"),
    ("4hello", b"4hello", b"6:4hello", b"\x00\x06\xff4hello"),
    ("4é", "4é".encode(), "2:4é".encode(), b"\x00\x03\xff" + "4é".encode()),
    ("4日本", "4日本".encode(), "3:4日本".encode(), b"\x00\x07\xff" + "4日本".encode()),
    ("4🎉", "4🎉".encode(), "3:4🎉".encode(), b"\x00\x05\xff" + "4🎉".encode()),
    ("4a🎉b🎉", "4a🎉b🎉".encode(), "7:4a🎉b🎉".encode(), b"\x00\x01\x01\xff" + "4a🎉b🎉".encode()),
    ("412:34", b"412:34", b"6:412:34", b"\x00\x06\xff412:34"),
    ("4" + "x" * 99, b"4" + b"x" * 99, b"100:4" + b"x" * 99, b"\x00\x01\x00\x00\xff4" + b"x" * 99),
    (b"", b"b", b"2:b4", b"\x01\x01\xff\x04"),
    (b"\x01\x02\x03", b"bAQID", b"6:b4AQID", b"\x01\x04\xff\x04\x01\x02\x03"),
    (b"\xff\x00\xfe\xfb", b"b/wD++w==", b"10:b4/wD++w==", b"\x01\x05\xff\x04\xff\x00\xfe\xfb"),
]
every_row = pytest.mark.parametrize(("packet", "joined", "lengths", "octets"), TABLE, ids=lambda value: str(value)[:12])
LIMITS = Limits()


@every_row
def test_a_polling_body(packet: Packet, joined: bytes, lengths: bytes, octets: bytes) -> None:
    """Each packet is written and read alone as the row says."""
    assert payloads.write([packet], 4) == (joined, payloads.TEXT)
    assert payloads.write([packet], 3, base64=True) == (lengths, payloads.TEXT)
    assert payloads.read(joined, 4) == [packet]
    assert payloads.read(lengths, 3) == [packet]
    assert payloads.read(octets, 3, octets=True) == [packet]
    if isinstance(packet, bytes):
        assert payloads.write([packet], 3) == (octets, payloads.OCTETS)
    else:
        assert payloads.write([packet], 3) == (lengths, payloads.TEXT)
        assert payloads.write([packet, b"\x00"], 3) == (octets + b"\x01\x02\xff\x04\x00", payloads.OCTETS)


@every_row
def test_between_others(packet: Packet, joined: bytes, lengths: bytes, octets: bytes) -> None:
    """A packet is found between two others, in every form."""
    around: list[Packet] = ["4before 🎉", packet, b"after"]
    for protocol in (4, 3):
        body, kind = payloads.write(around, protocol, base64=True)
        assert payloads.read(body, protocol, octets=kind == payloads.OCTETS) == around
    assert joined in payloads.write(around, 4)[0].split(b"\x1e")
    assert lengths in payloads.write(around, 3, base64=True)[0]
    assert octets in payloads.write(around, 3)[0]


@every_row
def test_a_websocket_message(packet: Packet, joined: bytes, lengths: bytes, octets: bytes) -> None:
    """On a WebSocket a packet is a message of its own; protocol 3 puts a byte 4 before a binary one."""
    for protocol in (4, 3):
        wire = Frames.of([packet, packet], packets.BINARY_HEADS[protocol])
        events = Codec(LIMITS, client=True).receive(wire)
        assert len(events) == 2
        assert events[0] == events[1]
        message = events[0]
        if isinstance(message, str):
            assert packets.read_text(message, protocol) == packet == message
        else:
            assert isinstance(message, bytes)
            assert packets.read_binary(message, protocol) == packet
            assert message[: 4 - protocol] == b"\x04"[: 4 - protocol]


@every_row
def test_base64_on_a_websocket(packet: Packet, joined: bytes, lengths: bytes, octets: bytes) -> None:
    """A client without binary support sends base64 on a WebSocket, too."""
    for protocol in (4, 3):
        if isinstance(packet, bytes):
            assert packets.read_text(packets.to_base64(packet, protocol), protocol) == packet


@every_row
def test_content(packet: Packet, joined: bytes, lengths: bytes, octets: bytes) -> None:
    """`message` and `content` are inverses; other packets carry no message."""
    carried = packets.content(packet)
    if isinstance(packet, str) and packet[0] != "4":
        assert carried is None
    else:
        assert carried is not None
        assert packets.message(carried) == packet


BYTES = bytes(range(100))
# What other encoders write, and Node and python-engineio read.
FOREIGN_BASE64 = [
    ("a line break at its end, as Android's encoder writes", "AAECAwQ=\n", BYTES[:5]),
    ("CR LF at its end", "Aw==\r\n", b"\x03"),
    ("lines of 76, as the Java client writes", base64.encodebytes(BYTES).decode(), BYTES),
    ("lines of 64 with CR LF, as in PEM", "\r\n".join(textwrap.wrap(base64.b64encode(BYTES).decode(), 64)), BYTES),
    ("white space between any two characters", " ".join(base64.b64encode(BYTES).decode()), BYTES),
    ("white space within the padding", "Aw=\n=", b"\x03"),
    ("tabs before it", "\t\tAw==", b"\x03"),
    ("no padding", "Aw", b"\x03"),
    ("no padding of one", "AAECAwQ", BYTES[:5]),
    ("the URL-safe alphabet", "-_-_", b"\xfb\xff\xbf"),
    ("both alphabets in one", "-/+_", b"\xfb\xff\xbf"),
    ("white space alone", " \r\n", b""),
]


@pytest.mark.parametrize("protocol", [4, 3])
@pytest.mark.parametrize(("name", "text", "data"), FOREIGN_BASE64, ids=[row[0] for row in FOREIGN_BASE64])
def test_base64_of_other_encoders(name: str, text: str, data: bytes, protocol: int) -> None:
    """Base64 is read as Node reads it, in both protocols, alone and between other packets."""
    packet = ("b" if protocol == 4 else "b4") + text
    assert packets.read_text(packet, protocol) == data
    around = ["4a", packet, "4b"]
    body = "\x1e".join(around) if protocol == 4 else "".join(f"{len(one)}:{one}" for one in around)
    assert payloads.read(body.encode(), protocol) == ["4a", data, "4b"]


@given(st.binary(max_size=300), st.data())
def test_base64_in_any_form(data: bytes, draw: st.DataObject) -> None:
    """White space anywhere, either alphabet, with or without padding: the bytes are the same."""
    text = draw.draw(st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))(data).decode()
    if draw.draw(st.booleans()):
        text = text.rstrip("=")
    for _ in range(draw.draw(st.integers(0, 5))):
        at = draw.draw(st.integers(0, len(text)))
        text = text[:at] + draw.draw(st.sampled_from(["\n", "\r\n", " ", "\t"])) + text[at:]
    assert packets.from_base64(text) == data


MALFORMED = [
    ("empty", 4, False, b""),
    ("an unknown type", 4, False, b"abc"),
    ("a digit that is no type", 4, False, b"7"),
    ("an empty packet between two", 4, False, b"4a\x1e\x1e4b"),
    ("a separator at the end", 4, False, b"4a\x1e"),
    ("not UTF-8", 4, False, b"4\xff"),
    ("a surrogate", 4, False, b"4\xed\xa0\x80"),
    ("base64 with a foreign character", 4, False, b"bAQ*D"),
    ("base64 with a foreign character between", 4, False, b"bAQ*ID"),
    ("base64 with one character too many", 4, False, b"bAQIDA"),
    ("base64 of white space and one character", 4, False, b"b \nA\r\n"),
    ("base64 that goes on after its padding", 4, False, b"bAQ==AQ=="),
    ("base64 with a NUL", 4, False, b"bAQ\x00ID"),
    ("base64 beyond ASCII", 4, False, "bé===".encode()),
    ("octets", 4, True, b"\x00\x01\xff4"),
    ("empty", 3, False, b""),
    ("no length", 3, False, b"4hello"),
    ("an empty length", 3, False, b":4hello"),
    ("a length that is no number", 3, False, b"x:4hello"),
    ("a negative length", 3, False, b"-1:4"),
    ("a length with a sign", 3, False, b"+1:4"),
    ("a length too large", 3, False, b"7:4hello"),
    ("a length too small", 3, False, b"5:4hello"),
    ("a huge length", 3, False, b"9999999999:4"),
    ("a length of a thousand digits", 3, False, b"1" * 1000 + b":4"),
    ("a length without a packet", 3, False, b"1:41"),
    ("an unknown type", 3, False, b"1:x"),
    ("binary that is no message", 3, False, b"6:b2AQID"),
    ("base64 without a type", 3, False, b"1:b"),
    ("a length in bytes, not in code units", 3, False, "5:4🎉".encode()),
    ("a code unit too many", 3, False, "4:4🎉".encode()),
    ("no length after one", 3, False, "3:4🎉4".encode()),
    ("empty octets", 3, True, b""),
    ("octets of an unknown kind", 3, True, b"\x02\x01\xff4"),
    ("octets without a length", 3, True, b"\x00\xff4"),
    ("octets without an end of the length", 3, True, b"\x00\x01\x01\x01"),
    ("octets with a length in text", 3, True, b"\x001\xff4"),
    ("octets with a length too large", 3, True, b"\x00\x02\xff4"),
    ("octets with a length of twenty digits", 3, True, b"\x00" + b"\x09" * 20 + b"\xff4"),
    ("octets of an empty packet", 3, True, b"\x00\x00\xff"),
    ("binary octets without a type", 3, True, b"\x01\x00\xff"),
    ("binary octets that are no message", 3, True, b"\x01\x01\xff\x02"),
    ("octets that are not UTF-8", 3, True, b"\x00\x02\xff4\xff"),
]


@pytest.mark.parametrize(("protocol", "octets", "body"), [row[1:] for row in MALFORMED], ids=[r[0] for r in MALFORMED])
def test_malformed_bodies(protocol: int, octets: bool, body: bytes) -> None:
    """A malformed body is refused whole, alone and after correct packets."""
    with pytest.raises(InvalidPacket):
        payloads.read(body, protocol, octets=octets)
    if body:
        before = payloads.write(["4right", b"" if octets else "4"], protocol)[0] + (b"\x1e" if protocol == 4 else b"")
        with pytest.raises(InvalidPacket):
            payloads.read(before + body, protocol, octets=octets)


def test_an_empty_packet_of_protocol_3_is_passed_over() -> None:
    """`0:` is what old servers and clients write if there are no packets."""
    assert payloads.read(b"0:", 3) == []
    assert payloads.read(b"0:1:40:", 3) == ["4"]
    assert payloads.read("0:3:4🎉0:".encode(), 3) == ["4🎉"]


def test_half_a_character() -> None:
    """A length that cuts a character in two is malformed, because the other half is not a length."""
    for body in ("2:4🎉", "2:4🎉1:4", "3:4a🎉"):
        with pytest.raises(InvalidPacket):
            payloads.read(body.encode(), 3)


def test_surrogates_of_an_application() -> None:
    """Half a pair is sent as U+FFFD, two halves that make a pair as their character."""
    assert payloads.write(["4\ud800"], 4)[0].decode() == "4\ufffd"
    assert payloads.write(["4\ud83c\udf89"], 4)[0].decode() == "4🎉"
    assert Codec(LIMITS, client=True).receive(Frames.of(["4\udc00x"])) == ["4\ufffdx"]


JSONP = [
    ("4hello", b"d=6%3A4hello", '___eio[3]("6:4hello");'),
    ("4a\nb", b"d=4%3A4a%5Cnb", '___eio[3]("4:4a\\nb");'),
    ("4a\\nb", b"d=5%3A4a%5C%5Cnb", '___eio[3]("5:4a\\\\nb");'),
    ("4\u2028", b"d=2%3A4%E2%80%A8", '___eio[3]("2:4\\u2028");'),
    (b"\x01\x02\x03", b"d=6%3Ab4AQID", '___eio[3]("6:b4AQID");'),
    ("4</script>", b"d=10%3A4%3C%2Fscript%3E", '___eio[3]("10:4</script>");'),
]


@pytest.mark.parametrize(("packet", "form", "script"), JSONP, ids=lambda value: str(value)[:12])
def test_jsonp(packet: Packet, form: bytes, script: str) -> None:
    """JSONP posts a form with newlines escaped once more, and is answered with a call."""
    assert payloads.read_form(form, 3) == [packet]
    body, kind = payloads.write_script([packet], 3, 3)
    assert body.decode() == script
    assert kind == payloads.SCRIPT


@pytest.mark.parametrize("form", [b"", b"d=", b"x=1", b"d=4%FF", "d=é".encode(), b"&".join([b"d=1:4"] * 20)])
def test_malformed_forms(form: bytes) -> None:
    """A form without a payload, of other bytes than ASCII or with many fields is refused."""
    with pytest.raises(InvalidPacket):
        payloads.read_form(form, 3)


# Any packet but one with U+001E in text, which protocol 4 cannot write in a polling body.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x1e"))
some_packets = st.one_of(
    st.sampled_from(["0", "1", "2", "3", "5", "6", "2probe", "3probe"]), texts.map("4".__add__), st.binary(max_size=50)
)


@given(st.lists(some_packets, min_size=1, max_size=20), st.sampled_from([3, 4]), st.booleans())
def test_round_trip_properties(written: list[Packet], protocol: int, base64: bool) -> None:
    """Whatever packets are written in a body are read from it."""
    body, kind = payloads.write(written, protocol, base64=base64)
    assert payloads.read(body, protocol, octets=kind == payloads.OCTETS) == written


@given(st.binary(max_size=200), st.sampled_from([3, 4]), st.booleans())
def test_any_body_properties(body: bytes, protocol: int, octets: bool) -> None:
    """Any bytes are packets or one documented error, and what is read is canonical."""
    try:
        found = payloads.read(body, protocol, octets=octets)
    except InvalidPacket:
        return
    for packet in found:
        assert isinstance(packet, bytes) or packet[0] in "0123456"


@given(st.lists(some_packets, min_size=1, max_size=5), st.data())
def test_mutated_body_properties(written: list[Packet], data: st.DataObject) -> None:
    """A body with bytes changed, removed or inserted is packets or one documented error."""
    protocol = data.draw(st.sampled_from([3, 4]))
    body, kind = payloads.write(written, protocol, base64=data.draw(st.booleans()))
    mutated = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated)))
        mutated[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        payloads.read(bytes(mutated), protocol, octets=kind == payloads.OCTETS)
        payloads.read_form(bytes(mutated), protocol)
    except InvalidPacket:
        pass
