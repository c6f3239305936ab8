"""Hostile peers, row 28: Engine.IO packets of every wrong shape, and deliberately expensive bodies."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from partyline.errors import InvalidPacket
from partyline.wire.engineio import packets, payloads

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


EXPENSIVE = [
    ("empty packets", 4, False, b"\x1e" * MEGABYTE),
    ("small packets", 4, False, b"4a\x1e" * (MEGABYTE // 3)),
    ("small binary packets", 4, False, b"bAA==\x1e" * (MEGABYTE // 6)),
    ("empty packets", 3, False, b"0:" * (MEGABYTE // 2)),
    ("small packets", 3, False, b"2:4a" * (MEGABYTE // 4)),
    ("small packets and a character of two units", 3, False, "3:4🎉".encode() + b"2:4a" * (MEGABYTE // 4)),
    ("small packets in octets", 3, True, b"\x00\x01\xff4" * (MEGABYTE // 4)),
    ("empty binary packets in octets", 3, True, b"\x01\x01\xff\x04" * (MEGABYTE // 4)),
    ("lengths without an end", 3, False, b"1" * MEGABYTE),
    ("octets without an end of the length", 3, True, b"\x00" + b"\x09" * MEGABYTE),
    ("a length of nearly everything there is", 3, False, b"9999999999:4"),
]


@pytest.mark.parametrize(("protocol", "octets", "body"), [row[1:] for row in EXPENSIVE], ids=[r[0] for r in EXPENSIVE])
def test_28_a_body_is_refused_before_it_costs_more_than_itself(protocol: int, octets: bool, body: bytes) -> None:
    """A megabyte of nearly empty packets is refused, and never held as hundreds of thousands of values."""
    with memory(at_most=10 * MEGABYTE), pytest.raises(InvalidPacket):
        payloads.read(body, protocol, octets=octets)


def test_28_as_many_packets_as_may_be() -> None:
    """Ten thousand packets are read, in each form; one more is not."""
    for count, right in ((payloads.MOST_POSTED, True), (payloads.MOST_POSTED + 1, False)):
        for protocol, octets, body in (
            (4, False, b"\x1e".join([b"4"] * count)),
            (3, False, b"1:4" * count),
            (3, False, "3:4🎉".encode() * count),
            (3, True, b"\x00\x01\xff4" * count),
        ):
            if right:
                assert len(payloads.read(body, protocol, octets=octets)) == count
            else:
                with pytest.raises(InvalidPacket):
                    payloads.read(body, protocol, octets=octets)


@pytest.mark.parametrize("protocol", [3, 4])
def test_28_every_first_character(protocol: int) -> None:
    """Of all characters up to U+02FF exactly seven digits begin a packet, and `b` if base64 follows."""
    for number in range(0x300):
        text = chr(number) + "4"
        try:
            read = packets.read_text(text, protocol)
        except InvalidPacket:
            assert chr(number) not in "0123456"
        else:
            assert (chr(number) in "0123456" and read == text) or (protocol == 3 and text == "b4" and read == b"")


def test_28_every_first_byte() -> None:
    """Of all bytes only 4 begins a binary message of protocol 3."""
    for number in range(256):
        data = bytes((number, 1))
        if number == 4:
            assert packets.read_binary(data, 3) == b"\x01"
        else:
            with pytest.raises(InvalidPacket):
                packets.read_binary(data, 3)
    with pytest.raises(InvalidPacket):
        packets.read_binary(b"", 3)


@pytest.mark.alone
@pytest.mark.parametrize("piece", ["A", "=", " ", "\n", "A\n", "A=", "-_", "é"])
def test_46_base64_is_linear(piece: str) -> None:
    """Whatever a base64 packet is made of, twice as much of it takes about twice as long (hostile 46)."""

    def seconds(count: int) -> float:
        text = "b" + piece * (count // len(piece))
        times = []
        for _ in range(7):
            begin = time.perf_counter()
            with contextlib.suppress(InvalidPacket):
                packets.read_text(text, 4)
            times.append(time.perf_counter() - begin)
        return min(times)

    assert seconds(800_000) < 8 * seconds(200_000) + 0.001
