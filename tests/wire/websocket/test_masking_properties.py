"""Masking: two fast implementations, and a plain one to compare them with."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.wire.websocket.masking import mask, rotate

from .strategies import keys, masked_byte_by_byte


@pytest.mark.parametrize("size", [*range(11), 125, 126, 1023, *range(4090, 4103), 8192, 65537])
@pytest.mark.parametrize("key", ["00000000", "ffffffff", "01020304", "80000000", "000000ff"])
def test_mask_is_xor_with_the_repeated_key(size: int, key: str) -> None:
    """Masking is a byte-by-byte XOR at every size at which the implementation changes."""
    payload = bytes(at * 7 & 0xFF for at in range(size))
    assert mask(payload, bytes.fromhex(key)) == masked_byte_by_byte(payload, bytes.fromhex(key))


@settings(deadline=None)
@given(
    payload=st.one_of(st.binary(max_size=20), st.integers(4088, 4104).flatmap(lambda n: st.binary(max_size=n))),
    key=keys,
)
def test_mask_twice_is_nothing(payload: bytes, key: bytes) -> None:
    """Masking twice with one key gives the payload back."""
    assert mask(mask(payload, key), key) == payload


@settings(deadline=None)
@given(payload=st.binary(max_size=40), key=keys, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_rotate_carries_the_key_over_a_cut(payload: bytes, key: bytes, cuts: list[int]) -> None:
    """A payload unmasked in pieces, with the key rotated by each, equals the payload unmasked whole."""
    borders = [0, *sorted(min(cut, len(payload)) for cut in cuts), len(payload)]
    pieces, turned = b"", key
    for start, end in pairwise(borders):
        pieces += mask(payload[start:end], turned)
        turned = rotate(turned, end - start)
    assert pieces == masked_byte_by_byte(payload, key)
