"""Strategies that several property tests draw from: keys, payloads, ways of chopping and of compressing."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import strategies as st

from partyline.wire.websocket.codec import Codec, Event

keys = st.binary(min_size=4, max_size=4)
roles = st.sampled_from(("server", "client"))
chop_sizes = st.lists(st.one_of(st.integers(1, 5), st.integers(1, 400)), min_size=1, max_size=6)
texts = st.one_of(st.text(max_size=60), st.text(min_size=1, max_size=8).map(lambda text: text * 60))
payloads = st.one_of(st.binary(max_size=200), st.binary(min_size=1, max_size=8).map(lambda data: data * 90))


def chopped(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    """`stream` in pieces of these sizes, over and over."""
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        yield stream[at : at + size]
        at, turn = at + size, turn + 1


def read(connection: Codec, pieces: Iterator[bytes]) -> list[Event]:
    """All events of these pieces."""
    return [event for piece in pieces for event in connection.receive(piece)]


def masked_byte_by_byte(payload: bytes, key: bytes) -> bytes:
    """RFC 6455 5.3 as it is written there."""
    return bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


@dataclass(frozen=True, slots=True)
class Squeeze:
    """How a peer compresses a message: every one of these is legal without context takeover."""

    level: int
    window_bits: int
    strategy: int
    finish: bool  # RFC 7692 7.2.3.4: end with a final block, and a zero byte after it

    def __call__(self, payload: bytes) -> bytes:
        squeezer = zlib.compressobj(self.level, zlib.DEFLATED, -self.window_bits, 8, self.strategy)
        body = squeezer.compress(payload)
        return body + squeezer.flush() + b"\x00" if self.finish else body + squeezer.flush(zlib.Z_SYNC_FLUSH)[:-4]


squeezes = st.builds(
    Squeeze,
    level=st.integers(0, 9),
    window_bits=st.integers(9, 15),
    strategy=st.sampled_from((zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED)),
    finish=st.booleans(),
)
