"""Hostile peers, rows 28 and 29: packets of every wrong shape, attachments that never come, and JSON of every kind."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from partyline.errors import InvalidPacket, PayloadTooLarge
from partyline.wire.socketio.msgpack import MSGPACK
from partyline.wire.socketio.packets import JSON, Event
from tests.tools import one_in

from .values import read_all, seen

MEGABYTE = 1_000_000
PLACE = '{"_placeholder":true,"num":0}'


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


@pytest.mark.parametrize("count", ["11", "999", "1000000000", "99999999999999999999", "0", "-1", "1e3", "0x2", ""])
def test_28_attachments_announced_beyond_the_limit(count: str) -> None:
    """10^9 attachments are refused by their number alone."""
    with memory(at_most=65_536), pytest.raises(InvalidPacket):
        JSON.reader(5).receive(f'5{count}-["a",{PLACE}]')


def test_28_attachments_that_never_come() -> None:
    """Only one packet is held while it waits for its attachments, within the limit; no other may follow before they are
    there."""
    reader = JSON.reader(5)
    with memory(at_most=65_536):
        assert reader.receive(f'51-["a",{PLACE}]') is None
        for _ in range(100):
            with pytest.raises(InvalidPacket):
                reader.receive('2["b"]')


def test_28_attachments_that_are_too_large_together() -> None:
    """Ten attachments of nearly a message each are cut at the limit of one packet."""
    places = ",".join(f'{{"_placeholder":true,"num":{n}}}' for n in range(10))
    reader = JSON.reader(5)
    reader.receive(f'510-["a",{places}]')
    reader.receive(bytes(900_000))
    with pytest.raises(PayloadTooLarge):
        reader.receive(bytes(900_000))


@pytest.mark.parametrize("first", [chr(number) for number in range(128)])
def test_28_every_first_character(first: str) -> None:
    """Of all ASCII only the seven digits begin a packet."""
    try:
        JSON.reader(5).receive(f'{first}["a"]')
    except InvalidPacket:
        assert first != "2"
    else:
        assert first == "2"


@pytest.mark.parametrize("text", ["null", "true", "0", '""', "[]", "{}", "[null]", "[[]]", "[{}]", "[true]"])
@pytest.mark.parametrize("head", ["2", "21", "2/a,", "51-", "61-1"])
def test_28_values_that_are_no_events(head: str, text: str) -> None:
    """An event begins with a name, and an acknowledgement is an array."""
    with pytest.raises(InvalidPacket):
        read_all(JSON.reader(5), (head + text, b"x"))


def test_29_null_is_an_argument() -> None:
    """JSON's null is an argument like any other."""
    assert read_all(JSON.reader(5), ('2["a",null,[null]]',)) == ("event", "/", None, "a", [None, [None]])


@pytest.mark.parametrize("opening", one_in(4, ['[{"a":', "[", '{"a":', "[\n"]))
@pytest.mark.parametrize("head", ["0", "2", "31", '2["a",', '51-["a",', "4"])
@pytest.mark.parametrize("closed", [False, True])
def test_29_nesting_of_ten_thousand_levels(head: str, opening: str, closed: bool) -> None:
    """Deep nesting is refused, whether it is closed or not, at a linear cost."""
    closing = "".join({"[": "]", "{": "}"}.get(c, "") for c in reversed(opening)) * 10_000 if closed else ""
    text = head + opening * 10_000 + "1" + closing + ("]" if head.endswith(",") else "")
    with memory(at_most=50 * len(text) + 65_536), pytest.raises(InvalidPacket):
        JSON.reader(5).receive(text)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5_000, "1" * 100_000])
def test_29_huge_numbers(number: str) -> None:
    """A number that cannot be represented is refused at once when it is decoded, and costs nothing before."""
    packet = JSON.reader(5).receive(f'2["a",{number}]')
    assert isinstance(packet, Event)
    with pytest.raises(InvalidPacket):
        packet.arguments()
    with pytest.raises(InvalidPacket):
        read_all(JSON.reader(5), (f'51-["a",{number},{PLACE}]', b""))


def test_29_duplicate_keys() -> None:
    """The last of repeated keys counts, as in JavaScript; one placeholder cannot hide behind another."""
    assert read_all(JSON.reader(5), ('2["a",{"k":1,"k":2}]',))[-1] == [{"k": 2}]
    twice = '{"_placeholder":true,"num":7,"num":0}'
    assert read_all(JSON.reader(5), (f'51-["a",{twice}]', b"x"))[-1] == [b"x"]


@pytest.mark.parametrize("half", ["\\ud800", "\\udfff", "\\uD83C\\u0041", "\\udf89\\ud83c"])
def test_29_lone_surrogates(half: str) -> None:
    """Lone surrogates become U+FFFD at no further cost, in names, keys and texts, even a megabyte of them."""
    for text in (f'2["{half}"]', f'2["a",{{"{half}":"{half}"}}]', f'51-["a","{half}",{PLACE}]'):
        messages = (text, b"x") if text.startswith("51") else (text,)
        assert "\ufffd" in str(read_all(JSON.reader(5), messages))
    many = half * (MEGABYTE // len(half) - 10)
    with memory(at_most=30 * MEGABYTE):
        assert "\ufffd" in seen(JSON.reader(5).receive(f'2["a","{many}"]'))[-1][0]


def test_29_a_megabyte_of_quotes_and_backslashes() -> None:
    """Texts that never end are detected in one pass."""
    for text in ('2["' + "\\" * MEGABYTE, '2["a",' + '"' * MEGABYTE, '2["a","' + '\\"[' * (MEGABYTE // 3)):
        with pytest.raises(InvalidPacket):
            JSON.reader(5, max_total=2 * MEGABYTE).receive(text)


def test_29_announced_lengths_in_messagepack() -> None:
    """Arrays, maps, texts and bytes of four billion items are refused before any is allocated."""
    head = b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data"
    for first in (0xDD, 0xDF, 0xDB, 0xC6, 0xC9):
        for before in (b"", b"\x92\xa1a", b"\x92\xa1a\x91"):
            with memory(at_most=65_536), pytest.raises(InvalidPacket):
                seen(MSGPACK.reader(5).receive(head + before + bytes((first, 0xFF, 0xFF, 0xFF, 0xFF, 0))))


def test_29_a_megabyte_of_undefined() -> None:
    """Values that MessagePack does not have are read in bounded time, also in large packets."""
    message = (
        b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\xdd"
        + (300_001).to_bytes(4, "big")
        + b"\xa1a"
        + b"\xd4\x00\x00" * 300_000
    )
    packet = MSGPACK.reader(5).receive(message)
    assert isinstance(packet, Event)
    assert packet.arguments() == [None] * 300_000
