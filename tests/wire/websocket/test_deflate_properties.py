"""permessage-deflate without a wire: what is inflated, what is refused, and our window (RFC 7692 7.2)."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from partyline.wire.websocket.deflate import TAIL, Deflate, InflatedTooLarge, InflateError, Inflater, deflate

from .strategies import Squeeze, chop_sizes, chopped, payloads, squeezes


@settings(deadline=None)
@given(payload=payloads, squeeze=squeezes, limit=st.integers(0, 900), sizes=chop_sizes)
def test_the_inflater_makes_no_more_than_its_limit(
    payload: bytes, squeeze: Squeeze, limit: int, sizes: list[int]
) -> None:
    """A message within the limit is inflated whole; a larger one raises, and its output until then is within the
    limit."""
    inflater = Inflater(limit)
    out = b""
    pieces = [*chopped(squeeze(payload), sizes), b""]
    try:
        for at, piece in enumerate(pieces):
            out += inflater.inflate(piece, final=at == len(pieces) - 1)
    except InflatedTooLarge:
        assert len(payload) > limit
        assert payload.startswith(out)
        assert len(out) <= limit
    else:
        assert len(payload) <= limit
        assert out == payload


@settings(deadline=None)
@given(data=st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(deflate)), limit=st.integers(0, 200))
def test_the_inflater_takes_any_bytes(data: bytes, limit: int) -> None:
    """Any bytes inflate, or raise InflateError or InflatedTooLarge; valid DEFLATE inflates as with zlib."""
    try:
        out = Inflater(limit).inflate(data, final=True)
    except (InflateError, InflatedTooLarge):
        return
    assert len(out) <= limit
    reference = zlib.decompressobj(-15)
    expected = reference.decompress(data + TAIL)
    assert out.startswith(expected)
    if not reference.eof:
        assert out == expected


@settings(deadline=None)
@given(payload=payloads, bits=st.integers(9, 15))
@example(payload=bytes(range(256)) * 200, bits=9)
@example(payload=b"", bits=15)
def test_deflate_keeps_to_the_window_that_was_agreed(payload: bytes, bits: int) -> None:
    """A peer with a window of just the agreed size can inflate what we send."""
    reader = zlib.decompressobj(-bits)
    assert reader.decompress(deflate(payload, bits) + TAIL) == payload
    assert not reader.eof
    assert not reader.unused_data


@pytest.mark.parametrize("limit", [0, 1, 1_000])
def test_the_inflater_stops_at_its_limit_inside_one_call(limit: int) -> None:
    """A piece that stands for ten million bytes produces one byte more than the limit, not ten million."""
    bomb = deflate(bytes(10_000_000))
    inflater = Inflater(limit)
    tracemalloc.start()
    try:
        with pytest.raises(InflatedTooLarge):
            inflater.inflate(bomb, final=True)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(bomb) + 50_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bits", range(9, 16))
def test_the_answer_names_a_window_smaller_than_the_largest(bits: int) -> None:
    """The answer refuses context takeover on both sides, and repeats the window if it is not the default."""
    answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert Deflate(bits).response == (answer if bits == 15 else f"{answer}; server_max_window_bits={bits}")


@settings(deadline=None)
@given(payload=payloads, bits=st.integers(9, 15))
def test_deflate_makes_each_message_alone(payload: bytes, bits: int) -> None:
    """The same message gives the same bytes each time, whatever was compressed before: there is no context takeover."""
    first = deflate(payload, bits)
    deflate(b"something else" + payload, bits)
    assert deflate(payload, bits) == first
    assert Inflater(len(payload)).inflate(first, final=True) == payload
